"""The agent's files in its data directory: node id, services, checks, TTL states. Names are SHA-256 of the ids.

Writing waits for the disk, so a thread does it: changes are queued, the last one of each file counts, and who must not
answer before they are durable awaits `kept`. All that came in while the thread was busy is its next batch.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from pyconsul_agent.env.base import Env, Files, Worker
from pyconsul_agent.env.log import Log
from pyconsul_agent.errors import ConfigError, DecodeError
from pyconsul_agent.structs.catalog import CheckType, NodeService
from pyconsul_agent.structs.health import HealthCheck
from pyconsul_agent.wire import gojson, msgpack

_UUID = re.compile(r"^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$")
FILES_MAX = 65_536
FILE_BYTES_MAX = 4 * 1024 * 1024
SET_ASIDE = ".corrupt"
"""Added to the name of a file that nobody can read; such files are never looked at again."""
LOCAL, REMOTE = "local", "remote"
"""Where a definition came from: the agent itself or its configuration, or HTTP."""
LOCK_FILE = "agent.lock"


def lock_data_dir(files: Files, data_dir: str) -> Callable[[], None]:
    """Make the data directory and take it for this process until the returned function is called.

    Two agents on one directory would both vote with one server's log. Raises ConfigError, also when it is unusable.
    """
    try:
        files.make_dirs(data_dir, mode=0o700)
        return files.lock(f"{data_dir}/{LOCK_FILE}")
    except BlockingIOError:
        raise ConfigError(f"data_dir {data_dir} is in use by another agent") from None
    except OSError as error:
        raise ConfigError(f"data_dir {data_dir} cannot be used: {(error.strerror or str(error)).lower()}") from None


HOST_IDS = ("/sys/class/dmi/id/product_uuid", "/etc/machine-id", "/proc/sys/kernel/random/boot_id")
"""Where a host says who it is, the best first."""


def host_node_id(files: Files) -> str:
    """The id that every agent on this host would derive from it, "" when it does not say who it is."""
    for path in HOST_IDS:
        try:
            text = files.read(path).decode("ascii", "replace").strip().lower()
        except OSError:
            continue  # missing, or for root only
        if re.fullmatch(r"[0-9a-f]{32}", text):
            text = f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"
        if _UUID.match(text):
            digits = hashlib.sha512(text.encode()).hexdigest()
            return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:32]}"
    return ""


def node_id(env: Env, data_dir: str, configured: str, *, of_host: bool = False) -> str:
    """The node's id: configured, else kept in `node-id`, else new (and kept). Raises ConfigError.

    A new one is random, or with `of_host` derived from the host where that is possible.
    """
    if configured:
        return checked_node_id(configured.lower())
    if not data_dir:
        return (host_node_id(env.files) if of_host else "") or env.uuid()
    path = f"{data_dir}/node-id"
    if env.files.exists(path):
        return checked_node_id(env.files.read(path).decode("utf-8", "replace").strip().lower())
    fresh = (host_node_id(env.files) if of_host else "") or env.uuid()
    env.files.make_dirs(data_dir, mode=0o700)
    env.files.write_atomic(path, fresh.encode(), mode=0o600)
    return fresh


def checked_node_id(text: str) -> str:
    """`text` if it is a UUID. Raises ConfigError with Consul's text."""
    if len(text) != 36:
        raise ConfigError("failed to setup node ID: specified NodeID is invalid: uuid string is wrong length")
    if not _UUID.match(text):
        raise ConfigError("failed to setup node ID: specified NodeID is invalid: uuid is improperly formatted")
    return text


T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class SavedService:
    """A persisted service."""

    service: NodeService
    token: str


@dataclass(frozen=True, slots=True)
class SavedCheck:
    """A persisted check; no definition means that it has no runner (maintenance)."""

    check: HealthCheck
    definition: CheckType | None
    token: str
    source: str = REMOTE


@dataclass(frozen=True, slots=True)
class TTLState:
    """What a TTL check said last, and until when (unix seconds) that counts."""

    check_id: str
    status: str
    output: str
    expires: int


@dataclass(frozen=True, slots=True)
class _Change:
    """What a file shall become: `data`, or gone. It stands for the changes `first` to `last` of the queue."""

    data: bytes | None
    sync: bool
    first: int
    last: int


class Persistence:
    """Writes and reads the definitions that came over HTTP. Without a data directory it keeps nothing.

    The queue has at most one change for each file, and so as many as there are services and checks.
    """

    def __init__(self, files: Files, data_dir: str, worker: Worker, log: Log) -> None:
        self._files = files
        self._dir = data_dir
        self._worker = worker
        self._log = log
        self._unwritten: dict[str, _Change] = {}
        self._written = 0
        self._failures: list[tuple[_Change, OSError]] = []
        self._waiting = 0
        self._turn = asyncio.Lock()
        self.queued = 0
        """How many changes were ever asked for."""

    async def kept(self, since: int) -> None:
        """Return when all changes of now are on disk. Raises the OSError of one that came after number `since`.

        With `since` the number of now no error is the caller's, also not of a change that came while it waited.
        """
        until = self.queued
        if self._written >= until and not self._failures:
            return
        self._waiting += 1
        try:
            async with self._turn:
                if self._written < until:
                    await self._write_out()
            for change, error in self._failures:
                if since < until and change.first <= until and change.last > since:
                    raise error
        finally:
            self._waiting -= 1
            if not self._waiting:
                self._failures.clear()

    async def _write_out(self) -> None:
        """One batch: everything that waits now."""
        batch, last = dict(self._unwritten), self.queued
        failed = await self._worker(lambda: _write_files(self._files, batch))
        for path, change in batch.items():
            if self._unwritten.get(path) is change:
                del self._unwritten[path]
        self._written = last
        for path, error in failed.items():
            self._log.error("Definition cannot be kept on disk", path=path, error=str(error))
            self._failures.append((batch[path], error))

    def save_service(self, service: NodeService, token: str) -> None:
        """Keep a service."""
        body = {"Token": token, "Service": gojson.render(service), "Source": REMOTE}
        if service.locally_registered_as_sidecar:
            body["LocallyRegisteredAsSidecar"] = True
        self._write("services", service.id, body)

    def remove_service(self, identity: str) -> None:
        """Forget a service."""
        self._remove("services", identity)

    def save_check(self, check: HealthCheck, definition: CheckType | None, token: str, *, source: str = REMOTE) -> None:
        """Keep a check."""
        kind = None if definition is None else gojson.render(definition)
        self._write(
            "checks",
            check.check_id,
            {"Check": gojson.render(check), "ChkType": kind, "Token": token, "Source": source},
        )

    def remove_check(self, identity: str) -> None:
        """Forget a check and its TTL state."""
        self._remove("checks", identity)
        self._remove("checks/state", identity)

    def save_state(self, state: TTLState) -> None:
        """Keep what a TTL check said."""
        body = {"CheckID": state.check_id, "Status": state.status, "Output": state.output, "Expires": state.expires}
        # Written at each word of each TTL check: what a power failure takes away is said again within the TTL.
        self._write("checks/state", state.check_id, body, sync=False)

    def load_state(self, check_id: str, now_unix: int) -> TTLState | None:
        """What a TTL check said, unless that has expired."""
        path = self._path("checks/state", check_id)
        if not self._dir or not self._exists(path):
            return None
        try:
            body = self._object(path)
            state = TTLState(str(body["CheckID"]), str(body["Status"]), str(body["Output"]), int(body["Expires"]))
        except OSError as error:
            self._log.error("Unreadable check state ignored", path=path, error=str(error))
            return None
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            self._set_aside(path, error)
            return None
        if now_unix >= state.expires:
            self._remove("checks/state", check_id)
            return None
        return state

    def services(self) -> list[SavedService]:
        """Every service that was kept; corrupt files are named in the log and set aside."""
        return list(self._load("services", _saved_service, lambda saved: saved.service.id))

    def checks(self) -> list[SavedCheck]:
        """Every check that was kept; corrupt files are named in the log and set aside."""
        return list(self._load("checks", _saved_check, lambda saved: saved.check.check_id))

    def _load(self, folder: str, make: Callable[[Any], T], identity: Callable[[T], str]) -> Iterator[T]:
        if not self._dir:
            return
        for file in self._names(f"{self._dir}/{folder}")[:FILES_MAX]:
            if file.endswith(("tmp", SET_ASIDE)) or self._files.is_dir(file):
                continue
            try:
                body = self._object(file)
                if body.get("Source", REMOTE) not in (LOCAL, REMOTE):
                    self._log.warn("definition has unknown source, purging", path=file, source=str(body["Source"]))
                    self._queue(file, None, sync=False)
                    continue
                saved = make(body)
                if not identity(saved):
                    raise ValueError("no id")
                self._rename(file, self._path(folder, identity(saved)))
            except OSError as error:
                self._log.error("Unreadable definition ignored", path=file, error=str(error))
                continue
            except (ValueError, KeyError, TypeError, AttributeError, RecursionError, DecodeError) as error:
                self._set_aside(file, error)
                continue
            yield saved

    def _names(self, folder: str) -> list[str]:
        """The paths in a folder as they will be when everything is written, sorted."""
        there = self._files.list_dir(folder) if self._files.is_dir(folder) else ()
        paths = {f"{folder}/{name}" for name in there}
        for path, change in self._unwritten.items():
            if change.data is None:
                paths.discard(path)
            elif path.rpartition("/")[0] == folder:
                paths.add(path)
        return sorted(paths)

    def _exists(self, path: str) -> bool:
        change = self._unwritten.get(path)
        return self._files.exists(path) if change is None else change.data is not None

    def _object(self, file: str) -> dict[str, Any]:
        """The JSON object of a file. Raises ValueError, RecursionError, OSError."""
        change = self._unwritten.get(file)
        if change is not None and change.data is not None:
            text = change.data
        elif self._files.size(file) > FILE_BYTES_MAX:
            raise ValueError(f"larger than {FILE_BYTES_MAX} bytes")
        else:
            text = self._files.read(file)
        body = json.loads(text)
        if not isinstance(body, dict):
            raise ValueError("no JSON object")
        return body

    def _rename(self, file: str, wanted: str) -> None:
        """Give a file of an older release, whose name is an MD5, the name under which it will be looked for."""
        if file != wanted:
            self._log.info("renaming a definition to its present name", path=file, to=wanted)
            self._files.rename(file, wanted)

    def _set_aside(self, file: str, error: Exception) -> None:
        """Keep what cannot be read for the operator, out of the way."""
        reason = f"no {error}" if isinstance(error, KeyError) else str(error)
        self._log.error("Corrupt file set aside", path=file, to=file + SET_ASIDE, error=reason)
        try:
            self._files.rename(file, file + SET_ASIDE)
        except OSError as failure:
            self._log.error("Corrupt file cannot be set aside", path=file, error=str(failure))

    def _path(self, folder: str, identity: str) -> str:
        return f"{self._dir}/{folder}/{hashlib.sha256(identity.encode('utf-8', 'surrogateescape')).hexdigest()}"

    def _write(self, folder: str, identity: str, body: dict[str, Any], *, sync: bool = True) -> None:
        if self._dir:
            self._queue(self._path(folder, identity), gojson.dump(body), sync=sync)

    def _remove(self, folder: str, identity: str) -> None:
        path = self._path(folder, identity)
        if self._dir and self._exists(path):
            self._queue(path, None, sync=False)

    def _queue(self, path: str, data: bytes | None, *, sync: bool) -> None:
        self.queued += 1
        before = self._unwritten.get(path)
        first = self.queued if before is None else before.first
        self._unwritten[path] = _Change(data, sync, first, self.queued)


def _write_files(files: Files, batch: Mapping[str, _Change]) -> dict[str, OSError]:
    """Make files what they shall be, those after one that fails too; what failed, by path. Runs on a thread."""
    failed: dict[str, OSError] = {}
    touched: dict[str, list[str]] = {}
    for path, change in batch.items():
        folder = path.rpartition("/")[0]
        try:
            if change.data is not None:
                _make_folder(files, folder)
                files.write_atomic(path, change.data, mode=0o600, sync=change.sync, sync_folder=False)
                if change.sync:
                    touched.setdefault(folder, []).append(path)
            elif files.exists(path):
                files.remove(path)
        except OSError as error:
            failed[path] = error
    for folder, paths in touched.items():
        try:
            files.sync_dir(folder)
        except OSError as error:
            failed |= dict.fromkeys(paths, error)
    return failed


def _make_folder(files: Files, folder: str) -> None:
    """A folder that outlives a power failure, with those above it."""
    if folder and not files.is_dir(folder):
        above = folder.rpartition("/")[0]
        _make_folder(files, above)
        files.make_dirs(folder, mode=0o700)
        files.sync_dir(above or "/")


def _saved_service(body: Any) -> SavedService:
    service = replace(
        _from_json(NodeService, _block(body["Service"])),
        locally_registered_as_sidecar=body.get("LocallyRegisteredAsSidecar") is True,
    )
    return SavedService(service, str(body.get("Token", "")))


def _saved_check(body: Any) -> SavedCheck:
    kind = body.get("ChkType")
    return SavedCheck(
        _from_json(HealthCheck, _block(body["Check"])),
        None if kind is None else _from_json(CheckType, _block(kind)),
        str(body.get("Token", "")),
        str(body.get("Source", REMOTE)),
    )


def _block(value: Any) -> Any:
    if not isinstance(value, dict):
        raise ValueError("a definition is no object")
    return value


def _from_json(form: type[Any], value: Any) -> Any:
    """A struct from its JSON view: the msgpack builder, fed with plain values under their Go names."""
    return msgpack.build(form, _as_wire(value))


def _as_wire(value: Any) -> Any:
    if isinstance(value, str):
        return value.encode("utf-8", "surrogateescape")
    if isinstance(value, list):
        return [_as_wire(item) for item in value]
    if isinstance(value, dict):
        return {key.encode("utf-8", "surrogateescape"): _as_wire(item) for key, item in value.items()}
    return value


__all__ = ["Persistence", "SavedCheck", "SavedService", "TTLState", "checked_node_id", "lock_data_dir", "node_id"]
