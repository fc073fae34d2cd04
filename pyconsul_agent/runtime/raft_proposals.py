"""What happens to a command before the core gets it: waiting for room, and cutting long ones into pieces."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from pyconsul_agent.errors import EnqueueTimeout
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

    @asynccontextmanager
    async def admitted(self, count: int, size: int) -> AsyncIterator[None]:
        """Hold a place for `count` entries of `size` bytes together. Raises EnqueueTimeout."""
        try:
            async with asyncio.timeout(ENQUEUE_TIMEOUT_S):
                while self._count and (self._count + count > PROPOSALS_MAX or self._bytes + size > PROPOSAL_BYTES_MAX):
                    self._released.clear()
                    await self._released.wait()
        except TimeoutError as error:
            raise EnqueueTimeout from error
        self._count += count
        self._bytes += size
        try:
            yield
        finally:
            self._count -= count
            self._bytes -= size
            self._released.set()


def pieces_of(kind: int, data: bytes, op_num: int) -> list[tuple[bytes, bytes | None]]:
    """(data, extensions) of the entries that carry a command; `data` begins with its kind."""
    if kind != KIND_KVS or len(data) <= CHUNK_BYTES:
        return [(data, None)]
    count = -(-len(data) // CHUNK_BYTES)
    return [
        (data[number * CHUNK_BYTES : (number + 1) * CHUNK_BYTES], encode_chunk_info(ChunkInfo(op_num, number, count)))
        for number in range(count)
    ]
