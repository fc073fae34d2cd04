"""Tasks that belong to a component and end with it."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

from pyconsul_agent.env.log import Log


class TaskOwner:
    """Starts tasks, keeps them until they end, and cancels what is left. A task that fails is logged, never lost."""

    def __init__(self, log: Log) -> None:
        self._log = log
        self._tasks: set[asyncio.Task[None]] = set()

    def __len__(self) -> int:
        return len(self._tasks)

    def start(self, work: Coroutine[Any, Any, None], name: str) -> None:
        """Run `work` in a task of its own."""
        self.start_task(work, name).set_name(name)

    def start_task(self, work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        """As `start`, for callers that cancel it or ask to be told of its end."""
        task = asyncio.get_running_loop().create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._log.error("task failed", task=task.get_name(), error=f"{type(error).__name__}: {error}")

    async def close(self) -> None:
        """Cancel every task (but the caller's own) and wait until they have ended."""
        tasks = [task for task in self._tasks if task is not asyncio.current_task()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def together(*works: Coroutine[Any, Any, object]) -> None:
    """Run until the first of them ends; the others are cancelled, and its error, if any, is raised when all have ended.

    In place of a TaskGroup where the caller goes on afterwards: see `env.timeouts`.
    """
    tasks = [asyncio.get_running_loop().create_task(work) for work in works]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        ends = await asyncio.gather(*tasks, return_exceptions=True)
    for task, end in zip(tasks, ends, strict=True):
        if task in done and isinstance(end, BaseException):
            raise end
