"""Tombstones of deleted keys are reaped by the leader some time after they were made."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable

from pyconsul_agent.env.log import Log
from pyconsul_agent.env.timeouts import timeout
from pyconsul_agent.errors import RPCError
from pyconsul_agent.fsm.apply import TOMBSTONE
from pyconsul_agent.server.endpoints.shared import propose
from pyconsul_agent.server.seams import Measure, Proposer, unmeasured
from pyconsul_agent.state.store import Store
from pyconsul_agent.state.watch import WatchSet
from pyconsul_agent.structs.system import TombstoneRequest

TTL_S = 15 * 60.0
GRANULARITY_S = 30.0
TOMBSTONES = "tombstones"


class TombstoneTimer:
    """Pure: bins of tombstone indexes by when they may go. At most TTL / granularity + 1 bins."""

    def __init__(self, ttl_s: float = TTL_S, granularity_s: float = GRANULARITY_S) -> None:
        self._ttl_s = ttl_s
        self._granularity_s = granularity_s
        self._bins: dict[int, int] = {}
        self._hinted = 0

    def hint(self, index: int, now: float) -> None:
        """A tombstone was made at `index`; repeating an index does nothing."""
        if index <= self._hinted:
            return
        self._hinted = index
        place = math.ceil((now + self._ttl_s) / self._granularity_s)
        self._bins[place] = max(index, self._bins.get(place, 0))

    def expired(self, now: float) -> int | None:
        """The highest index that may be reaped now; its bins are forgotten. None if there is none."""
        due = [place for place in self._bins if place * self._granularity_s <= now]
        return max((self._bins.pop(place) for place in due), default=None)

    def next_deadline(self) -> float | None:
        """When `expired` should be asked next; None if never."""
        return min(self._bins) * self._granularity_s if self._bins else None


class TombstoneReaper:
    """The driver: notes new tombstones and proposes the reaping while this server leads."""

    def __init__(
        self, store: Store, proposer: Proposer, now: Callable[[], float], log: Log, measure: Measure = unmeasured
    ) -> None:
        self._measure = measure
        self._store = store
        self._proposer = proposer
        self._now = now
        self._log = log

    async def run(self) -> None:
        """Count every tombstone there is as new, then serve until cancelled (loss of leadership)."""
        timer = TombstoneTimer()
        while True:
            timer.hint(self._store.index(TOMBSTONES), self._now())
            await self._pause(timer.next_deadline())
            index = timer.expired(self._now())
            if index is not None:
                await self._reap(index)

    async def _pause(self, deadline: float | None) -> None:
        """Until a tombstone is made, or until `deadline`."""
        changed: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def wake() -> None:
            if not changed.done():
                changed.set_result(None)

        watch = WatchSet()
        watch.table(TOMBSTONES)
        token = self._store.watchers.register(watch, wake)
        limit = GRANULARITY_S if token is None else None
        wait = limit if deadline is None else max(0.0, deadline - self._now())
        try:
            async with timeout(wait):
                await changed
        except TimeoutError:
            return
        finally:
            if token is not None:
                self._store.watchers.unregister(token)

    async def _reap(self, index: int) -> None:
        began = self._now()
        try:
            await propose(self._proposer, TOMBSTONE, TombstoneRequest(op="reap", reap_index=index))
        except RPCError as error:
            self._log.error("failed to reap tombstones up to index", index=index, error=str(error))
        self._measure("leader.reapTombstones", self._now() - began)
