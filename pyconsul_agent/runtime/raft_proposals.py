"""What happens to a command before the core gets it: waiting for room, and cutting long ones into pieces."""

from __future__ import annotations

import asyncio

from pyconsul_agent.env.base import Clock
from pyconsul_agent.env.timeouts import timeout
from pyconsul_agent.errors import EnqueueTimeout
from pyconsul_agent.structs.base import NANOSECONDS_PER_SECOND, GoTime
from pyconsul_agent.wire.raft import ChunkInfo, encode_chunk_info

KIND_KVS = 2
CHUNK_BYTES = 512 * 1024
"""A KVS command longer than this travels in pieces."""
ENQUEUE_TIMEOUT_S = 30.0
PROPOSALS_MAX = 4096
PROPOSAL_BYTES_MAX = 48 * 1024 * 1024
"""Proposals under way, below the core's own bounds; more wait for ENQUEUE_TIMEOUT_S."""


class Admission:
    """Bounds the proposals under way."""

    def __init__(self) -> None:
        self._count = 0
        self._bytes = 0
        self._released = asyncio.Event()

    async def admit(self, count: int, size: int) -> None:
        """Take a place for `count` entries of `size` bytes together, to be released. Raises EnqueueTimeout."""
        if self._full(count, size):
            try:
                async with timeout(ENQUEUE_TIMEOUT_S):
                    while self._full(count, size):
                        self._released.clear()
                        await self._released.wait()
            except TimeoutError as error:
                raise EnqueueTimeout from error
        self._count += count
        self._bytes += size

    def release(self, count: int, size: int) -> None:
        """Give the place back."""
        self._count -= count
        self._bytes -= size
        self._released.set()

    def _full(self, count: int, size: int) -> bool:
        return self._count > 0 and (self._count + count > PROPOSALS_MAX or self._bytes + size > PROPOSAL_BYTES_MAX)


def appended_at(clock: Clock) -> GoTime:
    """What an entry that is proposed now says of its time."""
    seconds, nanoseconds = divmod(clock.wall_ns(), NANOSECONDS_PER_SECOND)
    # compat: a server whose zone is UTC writes offset 0, not the -1 of Go's time.UTC (1.10.11, log_c1).
    return GoTime(seconds, nanoseconds, 0)


def in_pieces(kind: int, data: bytes) -> bool:
    """Whether a command travels in more than one entry."""
    return kind == KIND_KVS and len(data) > CHUNK_BYTES


def pieces_of(kind: int, data: bytes, op_num: int) -> list[tuple[bytes, bytes | None]]:
    """(data, extensions) of the entries that carry a command; `data` begins with its kind."""
    if not in_pieces(kind, data):
        return [(data, None)]
    count = -(-len(data) // CHUNK_BYTES)
    return [
        (data[number * CHUNK_BYTES : (number + 1) * CHUNK_BYTES], encode_chunk_info(ChunkInfo(op_num, number, count)))
        for number in range(count)
    ]
