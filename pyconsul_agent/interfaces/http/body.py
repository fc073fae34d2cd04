"""A request's body that its handler takes as it arrives, with a bound on what waits for it."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

from pyconsul_agent.errors import ConnectionLost, ConsulError

WAITING_BYTES_MAX = 256 * 1024
"""Beyond it the client is not read until the handler has taken some."""


class BodyStream:
    """Fed by the connection, iterated by one handler. `pause` and `resume` stop and start the reading."""

    def __init__(self, pause: Callable[[], None], resume: Callable[[], None]) -> None:
        self._pause = pause
        self._resume = resume
        self._pieces: deque[bytes] = deque()
        self._size = 0
        self._paused = False
        self._wake = asyncio.Event()
        self._error: ConsulError | None = None
        self.complete = False
        """All of it has arrived."""

    def feed(self, data: bytes) -> None:
        """The next bytes."""
        self._pieces.append(data)
        self._size += len(data)
        self._wake.set()
        if self._size >= WAITING_BYTES_MAX and not self._paused:
            self._paused = True
            self._pause()

    def finish(self) -> None:
        """The body is complete."""
        self.complete = True
        self._wake.set()

    def fail(self, error: ConsulError) -> None:
        """The rest will not come."""
        if not self.complete:
            self._error = error
            self._wake.set()

    def discard(self) -> None:
        """The handler wants no more."""
        self._pieces.clear()
        self._size = 0
        self._unpause()

    def __aiter__(self) -> BodyStream:
        return self

    async def __anext__(self) -> bytes:
        while not self._pieces:
            if self._error is not None:
                raise self._error
            if self.complete:
                raise StopAsyncIteration
            self._wake.clear()
            await self._wake.wait()
        data = self._pieces.popleft()
        self._size -= len(data)
        if self._size < WAITING_BYTES_MAX // 2:
            self._unpause()
        return data

    def _unpause(self) -> None:
        if self._paused:
            self._paused = False
            self._resume()


def cut_off() -> ConsulError:
    """The client went away in the middle of its body."""
    return ConnectionLost("unexpected EOF")
