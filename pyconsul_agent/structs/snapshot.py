"""The answer to a snapshot request: its head, and the archive that follows when one was asked for."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from dataclasses import dataclass

from pyconsul_agent.structs.requests import SnapshotResponse

SAVE, RESTORE = 0, 1
"""`SnapshotRequest.op`."""

Archive = AsyncIterator[bytes]
"""The bytes of an archive that somebody sends us."""


class ArchiveStream:
    """An archive's bytes, to be closed by whoever gets it, also when nothing was read.

    (A generator alone would not do: closed before its first step, it runs none of its own code.)
    """

    def __init__(self, pieces: AsyncGenerator[bytes, None], close: Callable[[], Awaitable[None]]) -> None:
        self._pieces = pieces
        self._close = close
        self._closed = False

    def __aiter__(self) -> ArchiveStream:
        return self

    async def __anext__(self) -> bytes:
        return await anext(self._pieces)

    async def aclose(self) -> None:
        """Let go of what it comes from. Idempotent."""
        if not self._closed:
            self._closed = True
            try:
                await self._pieces.aclose()
            finally:
                await self._close()


@dataclass(frozen=True, slots=True)
class SnapshotAnswer:
    """`archive` yields the archive's bytes, nothing after a restore.

    It raises ConsulError when the rest cannot be had; what came until then is not whole.
    """

    response: SnapshotResponse
    archive: ArchiveStream


def nothing() -> ArchiveStream:
    """An archive without bytes."""

    async def pieces() -> AsyncGenerator[bytes, None]:
        empty: tuple[bytes, ...] = ()
        for piece in empty:
            yield piece

    async def close() -> None:
        return

    return ArchiveStream(pieces(), close)
