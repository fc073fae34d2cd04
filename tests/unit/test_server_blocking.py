"""Reads that wait, in virtual time."""

import asyncio
import heapq
import random
import weakref

import pytest

from pyconsul_agent.errors import LeadershipLost, RPCError
from pyconsul_agent.fsm.machine import StateMachine
from pyconsul_agent.server.blocking import Blocking, Threshold, Waits, wait_s
from pyconsul_agent.server.leader.session_ttl import SessionExpiry, SessionTimers
from pyconsul_agent.server.leader.tombstones import TombstoneReaper, TombstoneTimer
from pyconsul_agent.state import kv, registration
from pyconsul_agent.state import session as sessions
from pyconsul_agent.state.store import Store
from pyconsul_agent.structs.base import duration
from pyconsul_agent.structs.kv import DirEntry
from pyconsul_agent.structs.raft import LogEntry
from pyconsul_agent.structs.requests import IndexedDirEntries, KeyRequest, QueryOptions, RegisterRequest
from pyconsul_agent.structs.session import Session


class VirtualLoop(asyncio.SelectorEventLoop):
    """Time jumps to the next timer whenever nothing is ready."""

    def __init__(self):
        super().__init__()
        self.at = 0.0

    def time(self):
        return getattr(self, "at", 0.0)

    def _run_once(self):
        while self._scheduled and self._scheduled[0]._cancelled:
            self._timer_cancelled_count -= 1
            heapq.heappop(self._scheduled)._scheduled = False
        if not self._ready and self._scheduled:
            self.at = max(self.at, self._scheduled[0]._when)
        super()._run_once()


def run(coroutine):
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(coroutine)


class Leadership:
    is_leader = True
    leader_address = "10.0.0.1:8300"
    last_contact_s = 0.0
    lease_valid = True
    error = None

    def __init__(self):
        self.verified = 0

    async def verify(self):
        self.verified += 1
        if self.error is not None:
            raise self.error


class Bench:
    def __init__(self, **options):
        self.store = Store()
        self.leadership = Leadership()
        self.blocking = Blocking(self.store, self.leadership, random.Random(7), **options)
        self.runs = 0

    def put(self, index, key=b"k", value=b"v"):
        with self.store.begin(index) as txn:
            kv.put(txn, DirEntry(key=key, value=value))

    async def get(self, key=b"k", **options):
        def query(watch):
            self.runs += 1
            index, row = kv.get(self.store, watch, key)
            return IndexedDirEntries(index=index, entries=(row,) if row else None)

        request = KeyRequest(key=key, **options)
        return await self.blocking.run(request, query, found=lambda reply: reply.entries is not None)


def later(delay, call, *arguments):
    asyncio.get_running_loop().call_later(delay, call, *arguments)


def test_a_plain_read_answers_at_once_with_an_index_of_at_least_one():
    reply = run(Bench().get())
    assert (reply.index, reply.known_leader, reply.entries) == (1, True, None)


def test_a_write_to_the_key_wakes_the_read():
    async def scenario():
        bench = Bench()
        bench.put(5)
        later(3.0, bench.put, 6, b"k", b"new")
        reply = await bench.get(min_query_index=5)
        return reply.index, asyncio.get_running_loop().time(), len(bench.store.watchers)

    assert run(scenario()) == (6, 3.0, 0)


def test_a_write_to_another_key_does_not_run_the_query_again():
    async def scenario():
        bench = Bench()
        bench.put(5)
        runs = []
        later(1.0, bench.put, 6, b"other")
        later(9.0, lambda: runs.append(bench.runs))
        reply = await bench.get(min_query_index=5, max_query_time=duration(10.0))
        return reply.index, runs, bench.runs

    assert run(scenario()) == (5, [1], 2), "once at first, once more when the time is over"


def test_a_wait_ends_with_its_time_and_at_most_a_sixteenth_more():
    async def scenario():
        await Bench().get(min_query_index=9, max_query_time=duration(16.0))
        return asyncio.get_running_loop().time()

    assert 16.0 <= run(scenario()) <= 17.0


@pytest.mark.parametrize(("asked", "least", "most"), [(0.0, 300.0, 318.75), (900.0, 600.0, 637.5), (1.0, 1.0, 1.0625)])
def test_the_wait_is_bounded(asked, least, most):
    draw = random.Random(3)
    waits = [wait_s(QueryOptions(max_query_time=duration(asked)), draw) for _ in range(50)]
    assert least <= min(waits) < max(waits) <= most


def test_a_restore_wakes_every_read():
    async def scenario():
        bench = Bench()
        bench.put(5)
        later(2.0, bench.store.restore, Store())
        reply = await bench.get(min_query_index=5)
        return reply.index, asyncio.get_running_loop().time()

    assert run(scenario()) == (1, 2.0)


def test_a_cancelled_read_leaves_no_watch_behind():
    async def scenario():
        bench = Bench()
        task = asyncio.create_task(bench.get(min_query_index=5))
        await asyncio.sleep(1.0)
        waiting = len(bench.store.watchers)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        return waiting, len(bench.store.watchers)

    assert run(scenario()) == (1, 0)


def test_an_absent_row_raises_the_bar_once_the_read_has_waited():
    threshold = Threshold(5)
    assert not threshold.passed(5, found=False)
    assert not threshold.passed(9, found=False)
    assert not threshold.passed(9, found=True)
    assert threshold.passed(10, found=True)


def test_the_first_answer_about_an_absent_row_returns_if_its_index_has_passed():
    assert Threshold(5).passed(6, found=False)


def test_a_consistent_read_proves_leadership_and_tells_when_it_cannot():
    bench = Bench()
    run(bench.get(require_consistent=True))
    assert bench.leadership.verified == 1
    bench.leadership.error = LeadershipLost()
    with pytest.raises(RPCError, match="leadership lost while committing log"):
        run(bench.get(require_consistent=True))


def test_a_default_read_without_a_lease_proves_leadership_and_a_stale_one_does_not():
    bench = Bench()
    bench.leadership.lease_valid = False
    run(bench.get(allow_stale=True))
    assert bench.leadership.verified == 0
    run(bench.get())
    assert bench.leadership.verified == 1


def test_a_consistent_read_is_refused_while_the_leader_is_not_ready():
    with pytest.raises(RPCError, match="Not ready to serve consistent reads"):
        run(Bench(ready=lambda: False).get(require_consistent=True))


# --- the leader's timers --------------------------------------------------------------------------------------


def test_a_session_ends_after_twice_its_ttl_unless_touched():
    timers, session = SessionTimers(), Session(id="s", ttl="10s")
    timers.touch(session, 0.0)
    timers.touch(session, 15.0)
    assert (timers.expired(34.9), timers.next_deadline(), timers.expired(35.0)) == ([], 35.0, ["s"])
    assert timers.next_deadline() is None


def test_a_session_without_ttl_or_that_was_cleared_never_ends():
    timers = SessionTimers()
    timers.touch(Session(id="eternal"), 0.0)
    timers.touch(Session(id="gone", ttl="10s"), 0.0)
    timers.clear("gone")
    assert timers.expired(1e9) == []


def test_tombstones_go_in_bins_after_their_time():
    timer = TombstoneTimer(ttl_s=900.0, granularity_s=30.0)
    timer.hint(7, 1.0)
    timer.hint(9, 29.0)
    timer.hint(9, 500.0)
    assert (timer.next_deadline(), timer.expired(929.0), timer.expired(930.0)) == (930.0, None, 9)
    assert timer.next_deadline() is None


# --- the drivers ----------------------------------------------------------------------------------------------


class Log:
    def error(self, message, **pairs):
        raise AssertionError(message)


class Proposer:
    is_leader = True

    def __init__(self, store):
        self.machine, self.index, self.kinds = StateMachine(store, lambda: 0.0), 100, []

    async def apply(self, kind, body):
        self.index += 1
        self.kinds.append(kind)
        return self.machine.apply(LogEntry(index=self.index, type=0, data=bytes([kind]) + body))


async def cancelled(task):
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


def test_the_reaper_removes_tombstones_once_and_then_rests():
    async def scenario():
        loop, store = asyncio.get_running_loop(), Store()
        proposer = Proposer(store)
        task = asyncio.create_task(TombstoneReaper(store, proposer, loop.time, Log()).run())
        with store.begin(1) as txn:
            kv.put(txn, DirEntry(key=b"k"))
        with store.begin(2) as txn:
            kv.delete(txn, b"k")
        await asyncio.sleep(5000.0)
        await cancelled(task)
        return len(store.tables.tombstones), proposer.kinds, len(store.watchers)

    assert run(scenario()) == (0, [5], 0)


def test_an_expired_session_is_destroyed_through_the_log():
    async def scenario():
        loop, store = asyncio.get_running_loop(), Store()
        with store.begin(1) as txn:
            registration.register(txn, RegisterRequest(node="n", address="10.0.0.1"))
        with store.begin(2) as txn:
            sessions.create(txn, Session(id="1" * 8 + "-1111-1111-1111-" + "1" * 12, node="n", ttl="10s"))
        proposer = Proposer(store)
        task = asyncio.create_task(SessionExpiry(store, proposer, SessionTimers(), loop.time, Log()).run())
        await asyncio.sleep(19.5)
        before = len(store.tables.sessions)
        await asyncio.sleep(1.0)
        await cancelled(task)
        return before, len(store.tables.sessions), proposer.kinds

    assert run(scenario()) == (1, 0, [3])


def test_waits_of_the_configuration_take_the_place_of_consuls():
    waits, draw = Waits(default_s=20.0, max_s=40.0), random.Random(1)
    for asked, least in ((0, 20), (10, 10), (39, 39), (600, 40)):
        got = wait_s(QueryOptions(max_query_time=duration(asked)), draw, waits)
        assert least <= got <= least * 17 / 16


def test_blocking_read_without_a_wait_ends_after_the_configured_default():
    async def scenario():
        bench = Bench(waits=Waits(default_s=5.0))
        bench.put(3)
        began = asyncio.get_running_loop().time()
        await bench.get(min_query_index=9)
        assert 5.0 <= asyncio.get_running_loop().time() - began <= 5.4

    run(scenario())


class Reply(IndexedDirEntries):
    """Without slots, so that a test can see it go."""


def test_a_sleeping_read_keeps_nothing_of_what_it_read():
    async def scenario():
        bench, seen = Bench(), []
        bench.put(5)

        def query(watch):
            index, row = kv.get(bench.store, watch, b"k")
            reply = Reply(index=index, entries=(row,))
            seen.append(weakref.ref(reply))
            return reply

        asked = KeyRequest(key=b"k", min_query_index=5, max_query_time=duration(10.0))
        task = asyncio.create_task(bench.blocking.run(asked, query))
        await asyncio.sleep(1.0)
        kept = [each() for each in seen]
        return kept, (await task).entries

    kept, entries = run(scenario())
    assert kept == [None] and entries[0].value == b"v", "read again when its time is over"
