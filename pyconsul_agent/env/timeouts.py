"""`asyncio.timeout` as later versions of Python have it.

Up to 3.11.3 (Debian 12 has 3.11.2) a task that was ever cancelled and went on is never told TimeoutError again: the
timeout's own cancellation goes through and ends the task. `asyncio.TaskGroup` leaves such a trace of a cancellation in
its parent whenever a child fails while the group is being left (gone in 3.13), hence also `runtime.tasks.together`.
"""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Self


class Timeout(asyncio.Timeout):  # type: ignore[misc]  # final by its marking only
    """Counts the cancellations that came after it was entered, not those of before."""

    _before = 0

    async def __aenter__(self) -> Self:
        self._before = _cancellations()
        await super().__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await super().__aexit__(kind, error, trace)
        if self.expired() and kind is asyncio.CancelledError and _cancellations() <= self._before:
            raise TimeoutError from error


def _cancellations() -> int:
    task = asyncio.current_task()
    return task.cancelling() if task is not None else 0


def timeout(delay_s: float | None) -> Timeout:
    """As `asyncio.timeout`: the block ends with TimeoutError after so many seconds, None for never."""
    return Timeout(None if delay_s is None else asyncio.get_running_loop().time() + delay_s)


def timeout_at(when: float | None) -> Timeout:
    """As `asyncio.timeout_at`: the same at a time of the loop's clock."""
    return Timeout(when)
