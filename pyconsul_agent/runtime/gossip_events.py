"""Events of a gossip pool on their way to those who want them, one bounded queue each."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable

from pyconsul_agent.serf.effects import QueryReceived
from pyconsul_agent.structs.member import MemberEvent, UserEvent

EVENTS_MAX = 8192
"""Events that wait for one subscriber; beyond it the oldest go, with a log line."""

PoolEvent = MemberEvent | UserEvent | QueryReceived


class Subscription:
    """Events of a pool from the moment of subscribing, oldest first; iterate over it. Ends when the pool stops."""

    def __init__(self, on_close: Callable[[Subscription], None]) -> None:
        self._events: deque[PoolEvent] = deque()
        self._wake = asyncio.Event()
        self._closed = False
        self._on_close = on_close
        self.dropped = 0

    def put(self, event: PoolEvent) -> bool:
        """For the pool. False when an older event had to go for it."""
        room = len(self._events) < EVENTS_MAX
        if not room:
            self._events.popleft()
            self.dropped += 1
        self._events.append(event)
        self._wake.set()
        return room

    def close(self) -> None:
        """No more events; what is queued can still be read."""
        if self._closed:
            return
        self._closed = True
        self._wake.set()
        self._on_close(self)

    def __aiter__(self) -> AsyncIterator[PoolEvent]:
        return self

    async def __anext__(self) -> PoolEvent:
        while not self._events:
            if self._closed:
                raise StopAsyncIteration
            self._wake.clear()
            await self._wake.wait()
        return self._events.popleft()
