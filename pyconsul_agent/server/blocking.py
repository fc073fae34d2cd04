"""Reads that wait: run a query, and run it again when what it looked at has changed, until its index has passed.

The rules are those of Consul 1.10 (`docs/protocol/rpc.md#blocking-queries`). Nothing here knows what is read.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from pyconsul_agent.env.deadlines import Deadlines
from pyconsul_agent.errors import RaftError, RPCError
from pyconsul_agent.server.seams import Leadership
from pyconsul_agent.state.store import Store
from pyconsul_agent.state.watch import WatchSet
from pyconsul_agent.structs.base import Duration, duration, fill, seconds
from pyconsul_agent.structs.requests import QueryMeta, QueryOptions

JITTER_FRACTION = 16
HOLD_TIMEOUT_S = 7.0
READY_POLLS = 16

ReplyT = TypeVar("ReplyT", bound=QueryMeta)


@dataclass(frozen=True, slots=True)
class Waits:
    """How long blocking queries wait that do not say (`default_query_time`), and at most (`max_query_time`)."""

    default_s: float = 300.0
    max_s: float = 600.0


def wait_s(options: QueryOptions, draw: random.Random, waits: Waits = Waits()) -> float:
    """How long a blocking query may take, jitter included."""
    asked = seconds(options.max_query_time)
    wait = waits.default_s if asked <= 0 else min(asked, waits.max_s)
    return wait + draw.random() * wait / JITTER_FRACTION


@dataclass(slots=True)
class Threshold:
    """The index that an answer must pass. Pure: the whole decision whether to go on waiting."""

    index: int
    _absent: bool = False

    def passed(self, index: int, found: bool) -> bool:
        """Whether an answer with this index ends the wait.

        Once the query has waited on an absent row, an answer that it is still not there raises the bar to its own
        index: writes to other rows move the index of an absent row, and would wake its watcher for nothing. A row that
        went away ends the wait.
        """
        if not found and self._absent and index > self.index:
            self.index = index
        self._absent = not found
        return index > self.index


class _Sleeper:
    """A blocked read. `done` is True when something it looked at has changed, False when its time is over."""

    __slots__ = ("done",)

    def __init__(self) -> None:
        self.done: asyncio.Future[bool] = asyncio.get_running_loop().create_future()

    def __call__(self) -> None:
        if not self.done.done():
            self.done.set_result(True)

    def late(self) -> None:
        """As `__call__`, when the time is over."""
        if not self.done.done():
            self.done.set_result(False)


class Blocking:
    """Runs reads against the local store, with consistency checks, and fills in what every reply tells."""

    def __init__(
        self,
        store: Store,
        leadership: Leadership,
        draw: random.Random,
        *,
        ready: Callable[[], bool] = lambda: True,
        hold_timeout_s: float = HOLD_TIMEOUT_S,
        waits: Waits = Waits(),
    ) -> None:
        self._store = store
        self._leadership = leadership
        self._draw = draw
        self._ready = ready
        self._hold_timeout_s = hold_timeout_s
        self._waits = waits
        self._deadlines = Deadlines()

    async def run(
        self,
        options: QueryOptions,
        query: Callable[[WatchSet], ReplyT],
        *,
        found: Callable[[ReplyT], bool] = lambda reply: True,
    ) -> ReplyT:
        """Answer `query`, which reads the store, notes in its WatchSet what it looked at, and sets the index.

        It makes a new reply each time: what is known of the leader is filled in.

        Returns at once unless `options.min_query_index` is set and not yet passed. `found` tells an answer about
        something that is not there (see `Threshold`). Raises RPCError when consistency cannot be had, and what `query`
        raises.
        """
        if options.require_consistent or not (options.allow_stale or self._leadership.lease_valid):
            await self.check(options)
        if options.min_query_index <= 0:
            return self.finish(query(WatchSet()))
        threshold = Threshold(options.min_query_index)
        deadline = asyncio.get_running_loop().time() + wait_s(options, self._draw, self._waits)
        changed = True
        while True:
            generation = self._store.generation
            watch = WatchSet()
            reply = query(watch)
            if threshold.passed(max(1, reply.index), found(reply)) or not changed:
                return self.finish(reply)
            sleeper = _Sleeper()
            token = self._store.watchers.register(watch, sleeper)
            if token is None:
                return self.finish(reply)
            del watch, reply  # thousands may sleep, and each would keep the rows of its time
            instant = self._deadlines.add(sleeper, deadline)
            try:
                changed = await sleeper.done
            finally:
                self._store.watchers.unregister(token)
                self._deadlines.remove(sleeper, instant)
            if self._store.generation != generation:
                return self.finish(query(WatchSet()))
            await self.check(options)

    async def check(self, options: QueryOptions) -> None:
        """Make sure that this server may answer with the consistency asked for. Raises RPCError.

        A default read costs nothing while the leader's lease holds; without it, leadership is proved first.
        """
        try:
            if options.require_consistent:
                await self._leadership.verify()
                await self._until_ready()
            elif not options.allow_stale and not self._leadership.lease_valid:
                await self._leadership.verify()
        except RaftError as error:
            raise RPCError(str(error)) from error

    async def _until_ready(self) -> None:
        pause = self._hold_timeout_s / READY_POLLS
        for _ in range(READY_POLLS):
            if self._ready():
                return
            await asyncio.sleep(pause)
        if not self._ready():
            raise RPCError("Not ready to serve consistent reads")

    def finish(self, reply: ReplyT) -> ReplyT:
        """The reply, which nobody else has yet, with its index at least 1 and what is known of the leader."""
        leads = self._leadership.is_leader
        fill(
            reply,
            index=max(1, reply.index),
            last_contact=Duration(0) if leads else duration(self._leadership.last_contact_s or 0.0),
            known_leader=leads or bool(self._leadership.leader_address),
        )
        return reply
