"""One timer of the loop for many things that wait, of which few wait to the end.

A timer of the loop costs half a kilobyte and a microsecond to make and to cancel; ten thousand blocked reads and their
connections would have twenty thousand. Here a deadline is an entry in the table of its instant. Instants are `GRAIN_S`
apart, for deadlines more than `FAR_S` away a second: what is due is told up to that much late, never early.
"""

from __future__ import annotations

import asyncio
from heapq import heappop, heappush
from typing import Protocol

GRAIN_S = 1 / 32
FAR_S = 32.0
FAR_GRAINS = 32
"""So that there are at most some thousand instants: an empty one is kept until it has come."""


class Waits(Protocol):
    """Something with a deadline."""

    def late(self) -> None:
        """The time is over."""


class Deadlines:
    """Of one event loop; used within it. While nothing waits there is no timer."""

    def __init__(self) -> None:
        self._instants: dict[int, dict[Waits, None]] = {}
        self._order: list[int] = []
        self._count = 0
        self._timer: asyncio.TimerHandle | None = None
        self._armed = 0
        self._told = 0
        """The latest instant that came. Nothing is entered there again: who is told and waits on would be told at once,
        and on a loop whose clock stands still meanwhile without end."""

    def __len__(self) -> int:
        return self._count

    def add(self, item: Waits, when_s: float) -> int:
        """Tell `item` when the loop's clock has reached `when_s`; what `remove` wants to know."""
        instant = int(when_s / GRAIN_S) + 1
        if when_s - asyncio.get_running_loop().time() > FAR_S:
            instant += -instant % FAR_GRAINS
        instant = max(instant, self._told + 1)
        waiting = self._instants.get(instant)
        if waiting is None:
            waiting = self._instants[instant] = {}
            heappush(self._order, instant)
        self._count += item not in waiting
        waiting[item] = None
        if self._timer is None or instant < self._armed:
            self._arm()
        return instant

    def remove(self, item: Waits, instant: int) -> None:
        """Forget it; one that was told already is ignored."""
        waiting = self._instants.get(instant)
        if waiting is not None and item in waiting:
            del waiting[item]
            self._count -= 1
            if not self._count:
                self._instants.clear()
                self._order.clear()
                self._arm()

    def _arm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._count:
            self._armed = self._order[0]
            self._timer = asyncio.get_running_loop().call_at(self._armed * GRAIN_S, self._ring)

    def _ring(self) -> None:
        """Tell those of the first instant and of later ones that have come. Who is told may add and remove."""
        self._timer = None
        now = max(asyncio.get_running_loop().time(), self._armed * GRAIN_S)  # loops round, some downwards
        try:
            while self._order and self._order[0] * GRAIN_S <= now:
                self._told = self._order[0]
                waiting = self._instants[self._told]
                for item in list(waiting):
                    if item in waiting:
                        del waiting[item]
                        self._count -= 1
                        item.late()
                if self._order and self._order[0] == self._told:  # else all had gone
                    del self._instants[heappop(self._order)]
        finally:
            self._arm()  # an error of one must not leave the others without a timer
