"""Locks and semaphores of the command line, over a store that knows sessions and keys."""

import base64
import json
import threading
from urllib.parse import unquote

import pytest

from pyconsul_agent.cli.http_api import APIError, Response
from pyconsul_agent.cli.locks import LOCK_FLAGS, SEMAPHORE_FLAGS, InUse, Lock, LockError, Semaphore, Terms

AT_ONCE = Terms("test", 0.001, 0)
BOUND_S = 10.0


class Store:
    """Keys, sessions and blocking reads; `API` as far as locks use it. `fails`: status of every read of a key."""

    def __init__(self):
        self.rows, self.sessions, self.index, self.deleting = {}, 0, 1, set()
        self.changed = threading.Condition()
        self.fails = 0

    def put(self, path, query=None, body=None):
        return self.request("PUT", path, query, body)

    def get(self, path, query=None):
        query = query or {}
        with self.changed:
            wait_s = float(query.get("wait", "10000ms").removesuffix("ms")) / 1000
            if "index" in query:
                self.changed.wait_for(lambda: self.index > int(query["index"]) or self.fails, min(wait_s, BOUND_S))
            if self.fails:
                raise APIError("down", self.fails)
            key = unquote(path.removeprefix("/v1/kv/"))
            rows = [row for name, row in sorted(self.rows.items()) if name == key or "recurse" in query]
            rows = [row for row in rows if row["Key"].startswith(key)]
            return Response(200 if rows else 404, json.dumps(rows).encode() if rows else b"", self.index)

    def request(self, method, path, query=None, body=None):
        query = query or {}
        with self.changed:
            self.index += 1
            self.changed.notify_all()
            if path == "/v1/session/create":
                self.sessions += 1
                if json.loads(body)["Behavior"] == "delete":
                    self.deleting.add(f"s{self.sessions}")
                return Response(200, json.dumps({"ID": f"s{self.sessions}"}).encode())
            if path.startswith("/v1/session/"):
                self._end(path.rpartition("/")[2])
                return Response(200, b"true")
            done = self._change(method, path.removeprefix("/v1/kv/"), query, body)
            return Response(200, b"true" if done else b"false")

    def _end(self, session):
        for key, row in list(self.rows.items()):
            if row["Session"] == session and session in self.deleting:
                del self.rows[key]
            elif row["Session"] == session:
                row["Session"] = ""

    def _change(self, method, key, query, body):
        row = self.rows.get(key)
        if "cas" in query and int(query["cas"]) != (row["ModifyIndex"] if row else 0):
            return False
        if method == "DELETE":
            self.rows.pop(key, None)
            return True
        holder = row["Session"] if row else ""
        if "acquire" in query and holder not in ("", query["acquire"]):
            return False
        session = query.get("acquire", "" if "release" in query else holder)
        self.rows[key] = {
            "Key": key, "Flags": int(query.get("flags", 0)), "Session": session, "ModifyIndex": self.index,
            "Value": base64.b64encode(body or b"").decode(),
        }  # fmt: skip
        return True


@pytest.fixture
def store():
    return Store()


def acquired(lock):
    return lock.acquire(threading.Event())


def test_one_holds_the_lock_and_the_next_gets_it_when_it_is_released(store):
    first, second = Lock(store, "a/", AT_ONCE), Lock(store, "a", Terms("test", 0, 0))
    assert acquired(first)
    assert (store.rows["a/.lock"]["Session"], store.rows["a/.lock"]["Flags"]) == ("s1", LOCK_FLAGS)
    assert not acquired(Lock(store, "a", AT_ONCE))
    got = []
    waiting = threading.Thread(target=lambda: got.append(acquired(second)))
    waiting.start()
    first.release()
    waiting.join(BOUND_S)
    assert got == [True]
    with pytest.raises(InUse):
        first.clean_up()
    second.release()
    second.clean_up()
    assert store.rows == {}


def test_a_lock_at_no_prefix_lies_at_the_root(store):
    assert Lock(store, "", AT_ONCE).key == ".lock"


def test_a_stop_ends_the_waiting(store):
    assert acquired(Lock(store, "a", AT_ONCE))
    stopped, got = threading.Event(), []
    waiting = threading.Thread(target=lambda: got.append(Lock(store, "a", Terms("x", 0, 0)).acquire(stopped)))
    waiting.start()
    stopped.set()
    waiting.join(BOUND_S)
    assert got == [False]


def test_a_key_of_another_use_is_a_conflict(store):
    store.put("/v1/kv/a/.lock", {"flags": str(SEMAPHORE_FLAGS)}, b"")
    with pytest.raises(LockError, match="Existing key does not match lock use"):
        acquired(Lock(store, "a", AT_ONCE))
    store.put("/v1/kv/b/.lock", {"flags": str(LOCK_FLAGS)}, b"")
    with pytest.raises(LockError, match="Existing key does not match semaphore use"):
        acquired(Semaphore(store, "b", 2, AT_ONCE))


def test_a_holder_whose_session_ended_has_lost_the_lock(store):
    lock = Lock(store, "a", AT_ONCE)
    assert acquired(lock)
    store.put("/v1/session/destroy/s1")
    assert lock.lost.wait(BOUND_S)


def test_an_error_of_the_servers_loses_it_only_when_no_retry_is_left(store):
    lock = Lock(store, "a", AT_ONCE)
    assert acquired(lock)
    store.fails = 403
    store.put("/v1/kv/other")
    assert lock.lost.wait(BOUND_S)


def test_a_semaphore_has_so_many_places(store):
    one, two = (Semaphore(store, "sem", 2, AT_ONCE) for _ in "ab")
    assert acquired(one) and acquired(two)
    assert json.loads(base64.b64decode(store.rows["sem/.lock"]["Value"])) == {
        "Limit": 2, "Holders": {"s1": True, "s2": True},
    }  # fmt: skip
    assert not acquired(Semaphore(store, "sem", 2, AT_ONCE))
    assert set(store.rows) == {"sem/.lock", "sem/s1", "sem/s2"}  # who gave up leaves nothing
    with pytest.raises(LockError, match=r"semaphore limit conflict \(lock: 2, local: 3\)"):
        acquired(Semaphore(store, "sem", 3, AT_ONCE))
    one.release()
    assert acquired(Semaphore(store, "sem", 2, AT_ONCE))
    with pytest.raises(InUse):
        one.clean_up()


def test_a_place_of_a_dead_holder_is_free(store):
    assert acquired(Semaphore(store, "sem", 2, AT_ONCE)) and acquired(Semaphore(store, "sem", 2, AT_ONCE))
    store.put("/v1/session/destroy/s1")
    assert acquired(Semaphore(store, "sem", 2, AT_ONCE))


def test_an_empty_semaphore_leaves_nothing(store):
    semaphore = Semaphore(store, "sem", 2, AT_ONCE)
    assert acquired(semaphore)
    semaphore.release()
    semaphore.clean_up()
    assert store.rows == {}
