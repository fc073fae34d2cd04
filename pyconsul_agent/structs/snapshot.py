"""The answer to a snapshot request: its head, and the archive that follows when one was asked for."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import dataclass

from pyconsul_agent.structs.requests import SnapshotResponse

SAVE, RESTORE = 0, 1
"""`SnapshotRequest.op`."""


@dataclass(frozen=True, slots=True)
class SnapshotAnswer:
    """`archive` yields the archive's bytes (nothing after a restore); whoever gets it must close it (`aclose`).

    It raises ConsulError when the rest cannot be had; what came until then is not whole.
    """

    response: SnapshotResponse
    archive: AsyncGenerator[bytes, None]


async def nothing() -> AsyncGenerator[bytes, None]:
    """An archive without bytes."""
    empty: tuple[bytes, ...] = ()
    for piece in empty:
        yield piece


Archive = AsyncIterator[bytes]
"""The bytes of an archive that somebody sends us."""
