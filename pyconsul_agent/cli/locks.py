"""A lock and a semaphore over sessions and keys, as Consul's Go client makes them, so that both exclude each other.

Lock: the key is acquired for a session. Semaphore: each contender holds a key of its own below the prefix, and the
holders' list at `<prefix>/.lock` is changed by compare-and-set. The flags of the keys say which of both it is. While
held, one thread renews the session and another watches the key; `lost` is set when it is ours no more.
"""

from __future__ import annotations

import base64
import json
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pyconsul_agent.cli.http_api import API, APIError, Response

LOCK_FLAGS = 0x2DDCCBC058A50C18
SEMAPHORE_FLAGS = 0xE0F69A2BAA414DE0
SEMAPHORE_KEY = ".lock"
SESSION_TTL_S = 15
WAIT_S = 15.0
RETRY_S = 5.0
"""Between attempts while the lock's delay keeps everybody out."""
MONITOR_RETRY_S = 1.0


class LockError(Exception):
    """It cannot be had, held or given back."""


class InUse(LockError):
    """Others hold it or wait for it; so its key stays."""


@dataclass(frozen=True, slots=True)
class Terms:
    """How to acquire: for how long at most (0: for ever), and how many failed looks in a row lose it."""

    session_name: str
    timeout_s: float
    monitor_retries: int


class _Session:
    """A session, renewed until it is destroyed."""

    def __init__(self, api: API, name: str, behavior: str) -> None:
        self._api = api
        self._ended = threading.Event()
        body = {"Name": name, "TTL": f"{SESSION_TTL_S}s", "Behavior": behavior}
        answer = api.put("/v1/session/create", None, json.dumps(body).encode())
        self.id = str(answer.expect_ok().json()["ID"])
        threading.Thread(target=self._renew, daemon=True).start()

    def _renew(self) -> None:
        """Half-way through its time, again and again; when that fails the watch of the key will see it."""
        while not self._ended.wait(SESSION_TTL_S / 2):
            try:
                if self._api.put(f"/v1/session/renew/{self.id}").status == 404:
                    return
            except APIError:
                continue

    def destroy(self) -> None:
        """End it; a session that cannot be ended ends by its time-out."""
        self._ended.set()
        try:
            self._api.put(f"/v1/session/destroy/{self.id}")
        except APIError:
            return


class _Held:
    """What both kinds share: the waiting, the watch, the end."""

    behavior = "release"
    """What becomes of the session's keys when it ends."""

    def __init__(self, api: API, terms: Terms) -> None:
        self._api = api
        self._terms = terms
        self._session: _Session | None = None
        self._released = threading.Event()
        self.lost = threading.Event()

    def acquire(self, stopped: threading.Event) -> bool:
        """True when it is ours; False when `stopped` was set or the time was over. Raises LockError."""
        try:
            self._session = _Session(self._api, self._terms.session_name, self.behavior)
        except APIError as error:
            raise LockError(f"failed to create session: {error}") from None
        got = False
        try:
            got = self._wait(stopped, self._session.id)
        except APIError as error:
            raise LockError(str(error)) from None
        finally:
            if not got:
                self._session.destroy()
        if got:
            threading.Thread(target=self._monitor, args=(self._session.id,), daemon=True).start()
        return got

    def _wait(self, stopped: threading.Event, session: str) -> bool:
        raise NotImplementedError

    def _look(self, session: str, index: int) -> tuple[bool, int]:
        """Whether it is ours, and the index for the next look; waits for a change of `index`. Raises APIError."""
        raise NotImplementedError

    def _monitor(self, session: str) -> None:
        index, failures = 0, 0
        while not self._released.is_set():
            try:
                ours, index = self._look(session, index)
            except APIError as error:
                # A server that lost its leader answers 500 for a while: that alone loses no lock.
                if error.status != 500 or failures >= self._terms.monitor_retries:
                    break
                failures, index = failures + 1, 0
                self._released.wait(MONITOR_RETRY_S)
                continue
            failures = 0
            if not ours:
                break
        self.lost.set()

    def _time_left(self, began: float) -> float:
        """Seconds to wait for a change: all that is left of the time-out, 0 when it is over."""
        if not self._terms.timeout_s:
            return WAIT_S
        return max(0.0, self._terms.timeout_s - (time.monotonic() - began))

    def _blocking(
        self, path: str, query: Mapping[str, str], wait_s: float, stopped: threading.Event
    ) -> Response | None:
        """A read that may wait, given up when `stopped` is set. Raises APIError."""
        box: list[Response | APIError] = []
        done = threading.Event()

        def ask() -> None:
            try:
                box.append(self._api.get(path, {**query, "wait": f"{max(1, int(wait_s * 1000))}ms"}))
            except APIError as error:
                box.append(error)
            done.set()

        threading.Thread(target=ask, daemon=True).start()
        wait_for_either(done, stopped)
        if not box:
            return None
        if isinstance(box[0], APIError):
            raise box[0]
        return box[0]


def wait_for_either(one: threading.Event, other: threading.Event, slice_s: float = 0.05) -> None:
    """Return when either is set; also lets signal handlers run."""
    while not one.wait(slice_s):
        if other.is_set():
            return


def _json(answer: Response, what: str) -> Any:
    if answer.status != 200:
        text = answer.body.decode("utf-8", "replace")
        raise APIError(f"{what}: Unexpected response code: {answer.status} ({text})", answer.status)
    return answer.json()


def _pairs(answer: Response) -> list[dict[str, Any]]:
    if answer.status == 404:
        return []
    return list(answer.expect_ok().json() or [])


class Lock(_Held):
    """One holder."""

    def __init__(self, api: API, prefix: str, terms: Terms) -> None:
        super().__init__(api, terms)
        self.key = "/".join(part for part in (prefix.rstrip("/"), SEMAPHORE_KEY) if part)

    def _wait(self, stopped: threading.Event, session: str) -> bool:
        began, index = time.monotonic(), 0
        first = True
        while not stopped.is_set():
            left = self._time_left(began)
            if not left and not first:
                return False
            first = False
            answer = self._blocking(f"/v1/kv/{self.key}", {"index": str(index)} if index else {}, left, stopped)
            if answer is None:
                return False
            pair = next(iter(_pairs(answer)), None)
            if pair is not None and pair["Flags"] != LOCK_FLAGS:
                raise LockError("Existing key does not match lock use")
            if pair is not None and pair.get("Session"):
                index = answer.index
                continue
            if self._put("acquire", session):
                return True
            # Refused though nobody holds it: the lock's delay after a lost session. Else somebody was faster.
            again = next(iter(_pairs(self._api.get(f"/v1/kv/{self.key}", {"consistent": ""}))), None)
            if again is None or not again.get("Session"):
                stopped.wait(min(RETRY_S, self._time_left(began)))
            index = 0
        return False

    def _put(self, action: str, session: str) -> bool:
        query = {action: session, "flags": str(LOCK_FLAGS)}
        return bool(_json(self._api.put(f"/v1/kv/{self.key}", query, b""), "failed to acquire lock"))

    def _look(self, session: str, index: int) -> tuple[bool, int]:
        query = {"consistent": "", **({"index": str(index)} if index else {})}
        answer = self._api.get(f"/v1/kv/{self.key}", query)
        pair = next(iter(_pairs(answer)), None)
        return pair is not None and pair.get("Session") == session, answer.index

    def release(self) -> None:
        """Give it back. Raises LockError."""
        assert self._session is not None
        self._released.set()
        try:
            self._put("release", self._session.id)
        except APIError as error:
            raise LockError(f"failed to release lock: {error}") from None
        finally:
            self._session.destroy()

    def clean_up(self) -> None:
        """Delete the key if nobody holds it. Raises InUse and LockError."""
        try:
            pair = next(iter(_pairs(self._api.get(f"/v1/kv/{self.key}"))), None)
            if pair is None:
                return
            if pair["Flags"] != LOCK_FLAGS:
                raise LockError("Existing key does not match lock use")
            if pair.get("Session"):
                raise InUse("Lock in use")
            query = {"cas": str(pair["ModifyIndex"])}
            if not _json(self._api.request("DELETE", f"/v1/kv/{self.key}", query), "failed to remove lock entry"):
                raise InUse("Lock in use")
        except APIError as error:
            raise LockError(f"failed to read lock: {error}") from None


class Semaphore(_Held):
    """So many holders."""

    behavior = "delete"

    def __init__(self, api: API, prefix: str, limit: int, terms: Terms) -> None:
        super().__init__(api, terms)
        self._prefix = f"{prefix.rstrip('/')}/"
        self._limit = limit
        self.key = f"{self._prefix}{SEMAPHORE_KEY}"

    def _wait(self, stopped: threading.Event, session: str) -> bool:
        query = {"acquire": session, "flags": str(SEMAPHORE_FLAGS)}
        path = f"/v1/kv/{self._prefix}{session}"
        if not _json(self._api.put(path, query, b""), "failed to make contender entry"):
            raise LockError("failed to make contender entry: session not held")
        began, index, first = time.monotonic(), 0, True
        while not stopped.is_set():
            left = self._time_left(began)
            if not left and not first:
                return False
            first = False
            asked = {"recurse": "", **({"index": str(index)} if index else {})}
            answer = self._blocking(f"/v1/kv/{self._prefix}", asked, left, stopped)
            if answer is None:
                return False
            holders, modified = self._holders(_pairs(answer))
            if len(holders) >= self._limit:
                index = answer.index
                continue
            index = 0
            if self._write({**holders, session: True}, modified):
                return True
        return False

    def _holders(self, pairs: list[dict[str, Any]]) -> tuple[dict[str, bool], int]:
        """Those whose contender entries live, and the index of the list. Raises LockError."""
        alive = {pair["Session"] for pair in pairs if pair.get("Session")}
        for pair in pairs:
            if pair["Key"] != self.key:
                continue
            if pair["Flags"] != SEMAPHORE_FLAGS:
                raise LockError("Existing key does not match semaphore use")
            try:
                stored = json.loads(base64.b64decode(pair.get("Value") or ""))
                limit, holders = int(stored["Limit"]), dict(stored.get("Holders") or {})
            except (ValueError, TypeError, KeyError) as error:
                raise LockError(f"failed to decode lock: {error}") from None
            if limit != self._limit:
                raise LockError(f"semaphore limit conflict (lock: {limit}, local: {self._limit})")
            return {holder: True for holder in holders if holder in alive}, int(pair["ModifyIndex"])
        return {}, 0

    def _write(self, holders: Mapping[str, bool], modified: int) -> bool:
        body = json.dumps({"Limit": self._limit, "Holders": holders}).encode()
        query = {"cas": str(modified), "flags": str(SEMAPHORE_FLAGS)}
        return bool(_json(self._api.put(f"/v1/kv/{self.key}", query, body), "failed to update lock"))

    def _look(self, session: str, index: int) -> tuple[bool, int]:
        query = {"recurse": "", "consistent": "", **({"index": str(index)} if index else {})}
        answer = self._api.get(f"/v1/kv/{self._prefix}", query)
        try:
            return session in self._holders(_pairs(answer))[0], answer.index
        except LockError:
            return False, answer.index

    def release(self) -> None:
        """Give the place back. Raises LockError."""
        assert self._session is not None
        self._released.set()
        session = self._session.id
        try:
            while True:
                holders, modified = self._holders(_pairs(self._api.get(f"/v1/kv/{self._prefix}", {"recurse": ""})))
                if session not in holders:
                    break
                if self._write({holder: True for holder in holders if holder != session}, modified):
                    break
            self._api.request("DELETE", f"/v1/kv/{self._prefix}{session}").expect_ok()
        except APIError as error:
            raise LockError(str(error)) from None
        finally:
            self._session.destroy()

    def clean_up(self) -> None:
        """Delete the list if nobody is in it. Raises InUse and LockError."""
        try:
            pairs = _pairs(self._api.get(f"/v1/kv/{self._prefix}", {"recurse": ""}))
            holders, modified = self._holders(pairs)
            if not modified:
                return
            if holders:
                raise InUse("semaphore in use")
            answer = self._api.request("DELETE", f"/v1/kv/{self.key}", {"cas": str(modified)})
            if not _json(answer, "failed to remove semaphore"):
                raise InUse("semaphore in use")
        except APIError as error:
            raise LockError(f"failed to read semaphore: {error}") from None
