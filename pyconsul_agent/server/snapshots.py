"""Saving and restoring the whole state: what a server answers to snapshot requests (docs/protocol/rpc.md, byte 5).

The order of decisions is Consul's: other datacenter, leader, then the operation here. There is no waiting for a leader.
An archive is judged to its last byte, and its state kept in a scratch file, before anything is touched.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Iterator
from dataclasses import replace
from typing import Protocol

from pyconsul_agent.env.base import Worker
from pyconsul_agent.env.log import Log
from pyconsul_agent.errors import ConsulError, DecodeError, NetError, NoLeader, NoPathToDatacenter, RaftError, RPCError
from pyconsul_agent.runtime.raft_snapshots import SnapshotSink, SnapshotSource
from pyconsul_agent.runtime.rpc_pool import ServerAddress
from pyconsul_agent.server.forward import ServerLookup
from pyconsul_agent.server.seams import Leadership
from pyconsul_agent.structs.base import Duration, duration
from pyconsul_agent.structs.raft import SnapshotMeta
from pyconsul_agent.structs.requests import SnapshotRequest, SnapshotResponse
from pyconsul_agent.structs.snapshot import RESTORE, SAVE, Archive, ArchiveStream, SnapshotAnswer, nothing
from pyconsul_agent.wire import netrpc
from pyconsul_agent.wire.snapshot import ArchiveReader, write_archive

PIECE_BYTES = 64 * 1024
FEED_BYTES = 16 * 1024
"""Judged at once: what it may inflate to (some 1000 times) is held in memory."""

NANOSECONDS_PER_SECOND = 1_000_000_000

Remote = Callable[[ServerAddress, SnapshotRequest, Archive], Awaitable[SnapshotAnswer]]


class RestorableRaft(Protocol):
    """What is asked of `runtime.raft.RaftNode`."""

    async def open_snapshot(self) -> SnapshotSource:
        """Take a fresh snapshot and open it. Raises RaftError."""

    def scratch(self) -> SnapshotSink:
        """A place for a state that is not believed yet."""

    async def restore(self, chunks: Iterable[bytes], saved: SnapshotMeta) -> None:
        """Replace the state machine everywhere. Raises RaftError, NotLeader, DecodeError."""

    async def barrier(self) -> None:
        """Return when everything committed before has been applied here. Raises RaftError."""


class Snapshots:
    """Answers snapshot requests of this server's own agent, of other servers and of clients.

    `consistent` proves what a consistent read needs, `reassert` makes the leader begin its duties anew.
    """

    def __init__(
        self,
        raft: RestorableRaft,
        leadership: Leadership,
        servers: ServerLookup,
        remote: Remote,
        *,
        datacenter: str,
        worker: Worker,
        wall_ns: Callable[[], int],
        consistent: Callable[[], Awaitable[None]],
        reassert: Callable[[], Awaitable[None]],
        log: Log,
    ) -> None:
        self._raft = raft
        self._leadership = leadership
        self._servers = servers
        self._remote = remote
        self._datacenter = datacenter
        self._worker = worker
        self._wall_ns = wall_ns
        self._consistent = consistent
        self._reassert = reassert
        self._log = log
        self._restoring = False

    async def answer(self, request: SnapshotRequest, archive: Archive) -> SnapshotAnswer:
        """Save or restore, here or where it must be done. Raises ConsulError, whose text is the answer."""
        if request.datacenter != self._datacenter:
            return await self._elsewhere(request, archive)
        if not request.allow_stale and not self._leadership.is_leader:
            address = self._leadership.leader_address
            server = self._servers.server_at(address) if address else None
            if server is None:
                raise NoLeader
            return await self._ask(server, request, archive)
        if request.op == SAVE:
            return await self._save(request)
        if request.op == RESTORE:
            if request.allow_stale:
                raise RPCError("stale not allowed for restore")
            return await self._restore(archive)
        raise RPCError(f"unrecognized snapshot op {go_character(request.op)}")

    async def _elsewhere(self, request: SnapshotRequest, archive: Archive) -> SnapshotAnswer:
        server = self._servers.route(request.datacenter)
        if server is None:
            if self._servers.has_datacenter(request.datacenter):
                raise RPCError(netrpc.REMOTE_DATACENTER_UNREACHABLE)
            raise NoPathToDatacenter
        try:
            return await self._ask(server, request, archive)
        except ConsulError:
            self._servers.failed(server)
            raise

    async def _ask(self, server: ServerAddress, request: SnapshotRequest, archive: Archive) -> SnapshotAnswer:
        try:
            return await self._remote(server, request, archive)
        except NetError as error:
            raise RPCError(str(error)) from error

    # --- save -------------------------------------------------------------------------------------------------

    async def _save(self, request: SnapshotRequest) -> SnapshotAnswer:
        if not request.allow_stale:
            await self._consistent()
        response = self._meta()
        try:
            source = await self._raft.open_snapshot()
        except ConsulError as error:
            raise RPCError(f"Raft error when taking snapshot: {error}") from error
        return SnapshotAnswer(
            replace(response, index=source.meta.index), ArchiveStream(self._archive(source), source.close)
        )

    def _meta(self) -> SnapshotResponse:
        """Told before the snapshot is taken: it may be newer than this says, never older."""
        if self._leadership.is_leader:
            return SnapshotResponse(known_leader=True, last_contact=Duration(0))
        since = self._leadership.last_contact_s
        return SnapshotResponse(known_leader=bool(self._leadership.leader_address), last_contact=duration(since or 0.0))

    async def _archive(self, source: SnapshotSource) -> AsyncGenerator[bytes, None]:
        """Packed on the worker, a piece whenever the receiver takes one."""
        packed = write_archive(source.meta, source.chunks(), self._wall_ns() // NANOSECONDS_PER_SECOND)
        while piece := await self._worker(lambda: _piece(packed)):
            yield piece

    # --- restore ----------------------------------------------------------------------------------------------

    async def _restore(self, archive: Archive) -> SnapshotAnswer:
        if self._restoring:
            raise RPCError("a snapshot is being restored already")
        self._restoring = True
        try:
            scratch = self._raft.scratch()
            try:
                meta = await self._judged(archive, scratch)
                await self._put_in_place(scratch, meta)
            finally:
                await scratch.abort()
        finally:
            self._restoring = False
        return SnapshotAnswer(SnapshotResponse(), nothing())

    async def _judged(self, archive: Archive, scratch: SnapshotSink) -> SnapshotMeta:
        """Read the archive to its end; its state is then in `scratch`. Raises DecodeError."""
        state: list[bytes] = []
        reader = ArchiveReader(state.append)

        def feed(piece: bytes) -> bytes:
            reader.feed(piece)
            plain = b"".join(state)
            state.clear()
            return plain

        async for data in archive:
            for at in range(0, len(data), FEED_BYTES):
                piece = data[at : at + FEED_BYTES]
                if plain := await self._worker(lambda piece=piece: feed(piece)):  # type: ignore[misc]
                    await scratch.write(plain)
        meta = reader.finish()
        await scratch.finish()
        return meta

    async def _put_in_place(self, scratch: SnapshotSink, meta: SnapshotMeta) -> None:
        self._log.warn("restoring a snapshot", id=meta.id, index=meta.index, bytes=meta.size)
        try:
            await self._raft.restore(scratch.chunks(), meta)
        except DecodeError as error:
            raise RPCError(f"Raft error when restoring snapshot: failed to restore snapshot: {error}") from error
        except ConsulError as error:
            raise RPCError(f"Raft error when restoring snapshot: {error}") from error
        await self._raft.barrier()
        if not self._leadership.is_leader:
            raise RaftError("leadership lost while committing log")
        await self._reassert()
        self._log.info("snapshot restored", id=meta.id, index=meta.index)


def _piece(packed: Iterator[bytes]) -> bytes:
    """The next bytes of an archive, about `PIECE_BYTES` of them; none at its end. On the worker."""
    parts, size = [], 0
    for part in packed:
        parts.append(part)
        size += len(part)
        if size >= PIECE_BYTES:
            break
    return b"".join(parts)


_ESCAPES = {7: "a", 8: "b", 9: "t", 10: "n", 11: "v", 12: "f", 13: "r", 39: "'", 92: "\\"}


def go_character(number: int) -> str:
    """A number as Go's `%q` prints it: the character of that code in single quotes."""
    if number in _ESCAPES:
        return f"'\\{_ESCAPES[number]}'"
    if not 0 <= number <= 0x10FFFF or 0xD800 <= number <= 0xDFFF:
        return "'\ufffd'"
    if chr(number).isprintable():
        return f"'{chr(number)}'"
    width = "x%02x" if number < 0x80 else "u%04x" if number < 0x10000 else "U%08x"
    return f"'\\{width % number}'"
