"""Incoming raft connections: requests to the core in the order they came, replies back in that order.

A peer may pipeline: requests go on to the core while earlier ones wait for the disk, so that one fsync serves many.
A snapshot's bytes are taken into storage before the core hears of the request; they are always consumed, also when it
cannot be kept, because a reply in the middle of the stream would not be understood.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from pyconsul_agent.env.log import Log
from pyconsul_agent.env.timeouts import timeout
from pyconsul_agent.errors import ConnectionLost, DecodeError, StorageError
from pyconsul_agent.raft.types import Reply
from pyconsul_agent.runtime.raft_peers import LOST, READ_BYTES, Peers, close_writer, describe, read_some
from pyconsul_agent.runtime.raft_snapshots import SnapshotSink
from pyconsul_agent.runtime.tasks import together
from pyconsul_agent.structs.raft import (
    AppendEntriesRequest,
    InstallSnapshotRequest,
    InstallSnapshotResponse,
    RaftRequest,
    RequestPreVoteRequest,
    RequestVoteRequest,
    Server,
    SnapshotMeta,
)
from pyconsul_agent.wire.raft import RequestDecoder, decode_configuration, decode_peers, encode_reply

MESSAGE_TIMEOUT_S = 30.0
"""A message must be complete this long after its first byte; a snapshot must not stall for longer."""
WRITE_TIMEOUT_S = 30.0
UNANSWERED_MAX = 256
"""Requests of one connection that wait for their replies; then no more are read."""
SNAPSHOTS_MAX = 2
"""Snapshots being received at once: a new leader's must not wait for a dead one's to time out."""

Submit = Callable[[RaftRequest, SnapshotSink | None], "asyncio.Future[Reply]"]
"""Hands a request to the core; the future ends with its Reply. The sink belongs to the core's driver from then on."""


@dataclass(slots=True)
class _Peer:
    """Who the other end is, once its first request told."""

    text: str
    server: Server | None = None


class OpenRequests:
    """Requests that the core has and has not answered yet."""

    def __init__(self) -> None:
        self._futures: dict[int, asyncio.Future[Reply]] = {}
        self._last = 0

    def open(self) -> tuple[int, asyncio.Future[Reply]]:
        """A token for a request, and what ends with its Reply."""
        self._last += 1
        token = self._last
        future: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        self._futures[token] = future
        # A connection that ends must not leave its requests behind.
        future.add_done_callback(lambda _: self._futures.pop(token, None))
        return token, future

    def answer(self, reply: Reply) -> None:
        """The core's answer; dropped when nobody waits for it any more."""
        future = self._futures.pop(reply.token, None)
        if future is not None and not future.done():
            future.set_result(reply)


class Incoming:
    """Serves the connections that peers opened."""

    def __init__(
        self,
        *,
        submit: Submit,
        identify: Callable[[bytes, bytes], Server | None],
        receive_snapshot: Callable[[SnapshotMeta], SnapshotSink],
        peers: Peers,
        log: Log,
    ) -> None:
        self._submit = submit
        self._identify = identify
        self._receive_snapshot = receive_snapshot
        self._peers = peers
        self._log = log
        self._snapshots = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, peer_text: str) -> None:
        """Until the connection ends. The mode byte has been read."""
        peer = _Peer(peer_text)
        replies: asyncio.Queue[asyncio.Future[Reply]] = asyncio.Queue(UNANSWERED_MAX)
        try:
            await together(self._read(reader, peer, replies), _write(writer, replies))
        except LOST as error:
            level = self._log.debug if isinstance(error, ConnectionLost | OSError) else self._log.warn
            level("incoming raft connection ended", peer=peer.text, error=describe(error))
        finally:
            await close_writer(writer)
            if peer.server is not None:
                self._peers.ended(peer.server)

    async def _read(
        self, reader: asyncio.StreamReader, peer: _Peer, replies: asyncio.Queue[asyncio.Future[Reply]]
    ) -> None:
        decoder = RequestDecoder()
        while True:
            request = await _next_request(reader, decoder)
            self._note(peer, request)
            if isinstance(request, InstallSnapshotRequest):
                await replies.put(await self._snapshot(reader, decoder, request))
            else:
                await replies.put(self._submit(request, None))

    def _note(self, peer: _Peer, request: RaftRequest) -> None:
        if peer.server is not None:
            return
        address = request.addr or b""
        if isinstance(request, AppendEntriesRequest | InstallSnapshotRequest):
            address = address or request.leader or b""
        elif isinstance(request, RequestVoteRequest):
            address = address or request.candidate or b""
        peer.server = self._identify(request.id or b"", address)
        if peer.server is not None:
            self._peers.opened(peer.server.id)

    # -- snapshots ------------------------------------------------------------------------------------------------

    async def _snapshot(
        self, reader: asyncio.StreamReader, decoder: RequestDecoder, request: InstallSnapshotRequest
    ) -> asyncio.Future[Reply]:
        sink: SnapshotSink | None = None
        error = ""
        taken = False
        self._snapshots += 1
        try:
            if self._snapshots > SNAPSHOTS_MAX:
                error = "too many snapshots at once"
            else:
                sink = self._receive_snapshot(_meta(request))
            left = request.size
            while left:
                chunk = decoder.take(left)
                if not chunk:
                    async with timeout(MESSAGE_TIMEOUT_S):
                        chunk = await reader.read(min(left, READ_BYTES))
                if not chunk:
                    raise ConnectionLost("short read")
                left -= len(chunk)
                if sink is not None and not error:
                    error = await self._keep(sink, chunk)
            if sink is not None and not error:
                await sink.finish()
                taken = True
                return self._submit(request, sink)
        except StorageError as failure:
            error = str(failure)
        finally:
            self._snapshots -= 1
            if sink is not None and not taken:
                await sink.abort()
        self._log.error("cannot receive a snapshot", index=request.last_log_index, size=request.size, error=error)
        refused: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        refused.set_result(Reply(0, InstallSnapshotResponse(), error))
        return refused

    async def _keep(self, sink: SnapshotSink, chunk: bytes) -> str:
        try:
            await sink.write(chunk)
        except StorageError as error:
            return str(error)
        return ""


def request_kind(request: RaftRequest) -> str:
    """What it is, by the name that metrics have for it; "" for what is not measured."""
    if isinstance(request, AppendEntriesRequest):
        return "appendEntries" if request.entries or request.prev_log_entry else "processHeartbeat"
    if isinstance(request, InstallSnapshotRequest):
        return "installSnapshot"
    return "requestVote" if isinstance(request, RequestVoteRequest | RequestPreVoteRequest) else ""


async def _write(writer: asyncio.StreamWriter, replies: asyncio.Queue[asyncio.Future[Reply]]) -> None:
    while True:
        reply = await (await replies.get())
        writer.write(encode_reply(reply.error, reply.message))
        if writer.transport.get_write_buffer_size():
            async with timeout(WRITE_TIMEOUT_S):
                await writer.drain()


async def _next_request(reader: asyncio.StreamReader, decoder: RequestDecoder) -> RaftRequest:
    """Waits without limit for the first byte, with one for the rest."""
    if (request := decoder.next()) is not None:
        return request
    if not decoder.pending:
        decoder.feed(await read_some(reader))
        if (request := decoder.next()) is not None:
            return request
    async with timeout(MESSAGE_TIMEOUT_S):
        while (request := decoder.next()) is None:
            decoder.feed(await read_some(reader))
    return request


def _meta(request: InstallSnapshotRequest) -> SnapshotMeta:
    """What the stream covers. Version 0 has a peer list instead of a configuration. Raises DecodeError."""
    if request.snapshot_version == 0 or not request.configuration:
        if request.snapshot_version > 0 and not request.peers:
            raise DecodeError("snapshot without configuration")
        configuration, index = decode_peers(request.peers or b"\x90"), request.last_log_index
    else:
        configuration, index = decode_configuration(request.configuration), request.configuration_index
    return SnapshotMeta(
        index=request.last_log_index,
        term=request.last_log_term,
        configuration=configuration,
        configuration_index=index,
        size=request.size,
    )
