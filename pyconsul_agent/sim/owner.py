"""To which simulated process a callback belongs.

asyncio copies the current `contextvars` context into every task and every callback handle. The root task of a simulated
process starts in a context in which `OWNER` is set, so everything that grows out of it carries the mark, and the loop
can hold the callbacks of a stopped process and drop those of a dead one.
"""

from __future__ import annotations

import asyncio
import contextvars
import enum
from typing import Any

PRUNE_TASKS_MIN = 64


class State(enum.Enum):
    """What the loop does with an owner's callbacks."""

    RUNNING = "running"
    PAUSED = "paused"  # held until it runs again
    DEAD = "dead"  # dropped


class Owner:
    """One life of a simulated process: from its start to its end. A restarted process is a new owner."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.state = State.RUNNING
        self.held: list[asyncio.Handle] = []
        self._tasks: dict[asyncio.Task[Any], None] = {}
        self._prune_at = PRUNE_TASKS_MIN

    @property
    def dead(self) -> bool:
        return self.state is State.DEAD

    def adopt(self, task: asyncio.Task[Any]) -> None:
        """Remember a task, to be thrown away with the process."""
        self._tasks[task] = None
        if len(self._tasks) >= self._prune_at:
            self._tasks = {task: None for task in self._tasks if not task.done()}
            self._prune_at = max(PRUNE_TASKS_MIN, 2 * len(self._tasks))

    def pending_tasks(self) -> list[asyncio.Task[Any]]:
        """Tasks that have not ended, oldest first."""
        return [task for task in self._tasks if not task.done()]

    def forget_tasks(self) -> None:
        """Drop the references after the tasks were thrown away."""
        self._tasks.clear()


OWNER: contextvars.ContextVar[Owner | None] = contextvars.ContextVar("sim_owner", default=None)


def is_dead(owner: Owner | None) -> bool:
    """Whether code of this owner must no longer have effects."""
    return owner is not None and owner.dead
