"""Outgoing raft connections: to each peer one for heartbeats and votes, one for entries, and one per snapshot.

Requests of a lane are written as they come (pipelined); replies come back in the same order and are handed on under
the sequence number of their request. Every request ends in exactly one reply, the peer's error text, or None (lost).

What dials and broken connections say about a peer's life is passed on as evidence; what follows from it is the core's
matter. A connection that worked before and then broke is replaced once at once, as a restarted peer leaves such behind;
raft requests may be repeated without harm.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Protocol

from pyconsul_agent.env.base import Net, open_stream
from pyconsul_agent.env.log import Log
from pyconsul_agent.env.timeouts import Timeout, timeout
from pyconsul_agent.errors import ConnectionLost, DecodeError, DialRefused, NetError, NetTimeout, StorageError
from pyconsul_agent.raft.types import Request
from pyconsul_agent.runtime.raft_snapshots import SnapshotSource
from pyconsul_agent.runtime.tasks import TaskOwner, together
from pyconsul_agent.structs.raft import (
    AppendEntriesRequest,
    InstallSnapshotRequest,
    RaftResponse,
    RequestPreVoteRequest,
    RequestVoteRequest,
    Server,
)
from pyconsul_agent.wire.raft import MODE_RAFT, ReplyDecoder, RequestEncoder, encode_request

Answered = Callable[[str, str, int, float], None]
Dial = Callable[[str, int], Awaitable[tuple[asyncio.StreamReader, asyncio.StreamWriter]]]
"""Opens a raft connection (mode byte sent) to host and port. Raises NetError."""

DIAL_TIMEOUT_S = 2.0
"""Short, because a lane that waits for a lost SYN sends no heartbeats."""
ROUND_TRIP_TIMEOUT_S = 10.0
ROUND_TRIP_SLACK_S = 0.5
REMOVED_GRACE_S = 2.0
"""A removed server may still get the entry that removes it."""
QUEUE_MAX = 1024
"""Requests waiting in a lane; more are lost. The core keeps far fewer in flight."""
IN_FLIGHT_MAX = 256
BACK_OFF_MIN_S = 0.02
BACK_OFF_MAX_S = 0.5
"""A peer that came back is dialed within this, so the bound is short; a SYN is cheap."""
PROBE_PAUSE_S = 0.05
PROBE_WATCH_S = 0.5
PROBES_MAX = 8
READ_BYTES = 64 * 1024
SNAPSHOT_CHUNK_BYTES = 64 * 1024
SNAPSHOT_TIMEOUT_MIN_S = 10.0
SNAPSHOT_BYTES_PER_TIMEOUT = 256 * 1024
"""The sender's deadline is 10 s for each of these, at least one."""

LOST = (NetError, OSError, DecodeError, TimeoutError)
"""How a connection ends."""


def raft_dial(net: Net, bind_host: str | None) -> Dial:
    """Plain TCP from `bind_host`."""

    async def dial(host: str, port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, writer = await open_stream(net, host, port, local_host=bind_host, timeout_s=DIAL_TIMEOUT_S)
        writer.write(bytes((MODE_RAFT,)))
        return reader, writer

    return dial


class PeerEvents(Protocol):
    """Who is told."""

    def replied(self, sequence: int, reply: RaftResponse | str | None) -> None: ...
    def reachable(self, server_id: str) -> None: ...
    def refused(self, server_id: str) -> None: ...


@dataclass(slots=True)
class _Item:
    request: Request
    repeated: bool = False
    sent_at: float = 0.0


class Peers:
    """All outgoing connections of one server."""

    def __init__(
        self,
        *,
        dial: Dial,
        resolve: Callable[[Server], tuple[str, int]],
        open_snapshot: Callable[[str], Awaitable[SnapshotSource]],
        events: PeerEvents,
        log: Log,
        answered: Answered = lambda peer, kind, entries, seconds: None,
    ) -> None:
        """`answered` hears of each answer: peer, what was asked, entries in it, seconds."""
        self.answered = answered
        self._dial = dial
        self._resolve = resolve
        self._open_snapshot = open_snapshot
        self.events = events
        self.log = log
        self.tasks = TaskOwner(log)
        self._lanes: dict[tuple[str, bool], Lane] = {}
        self._open: dict[str, int] = {}
        self._servers: dict[str, Server] = {}
        self._probing: set[str] = set()
        self.encoder = RequestEncoder()
        self._closed = False
        self._members: frozenset[str] = frozenset()
        self.dial_errors: dict[str, str] = {}
        """By server ID; gone as soon as a dial succeeds."""

    def send(self, request: Request) -> None:
        """Send, sometime; the reply comes by `events.replied`."""
        if self._closed:
            return
        self._servers[request.to.id] = request.to
        if isinstance(request.message, InstallSnapshotRequest):
            self.tasks.start(self._send_snapshot(request, request.message), f"raft snapshot to {request.to.id}")
            return
        urgent = request.heartbeat or isinstance(request.message, RequestVoteRequest | RequestPreVoteRequest)
        key = (request.to.id, urgent)
        lane = self._lanes.get(key)
        if lane is None or (lane.task is not None and lane.task.done()):
            lane = self._lanes[key] = Lane(self, request.to.id)
            lane.start()
        lane.put(request)

    def members(self, server_ids: frozenset[str]) -> None:
        """Who belongs to the cluster now; lanes to others are closed after a while."""
        if server_ids == self._members:
            return
        if self._members - server_ids:
            self.tasks.start(self._forget_removed(), "raft lanes of removed servers")
        self._members = server_ids

    async def _forget_removed(self) -> None:
        await asyncio.sleep(REMOVED_GRACE_S)
        self.retain(set(self._members))

    def retain(self, server_ids: set[str]) -> None:
        """Close lanes to servers that are no longer members."""
        for server_id in self.dial_errors.keys() - server_ids:
            del self.dial_errors[server_id]
        for key in [key for key in self._lanes if key[0] not in server_ids]:
            lane = self._lanes.pop(key)
            lane.end()
            self._servers.pop(key[0], None)

    def hurry(self, server_id: str) -> None:
        """End the back-off of dials to this server: it was heard, or its address changed."""
        for key in ((server_id, True), (server_id, False)):
            if (lane := self._lanes.get(key)) is not None:
                lane.hurry()

    async def close(self) -> None:
        """End everything."""
        self._closed = True
        await self.tasks.close()

    # -- counting connections as signs of life -------------------------------------------------------------------

    def opened(self, server_id: str) -> None:
        """A connection with this server, in either direction, works."""
        self._open[server_id] = self._open.get(server_id, 0) + 1
        self.events.reachable(server_id)

    def ended(self, server: Server) -> None:
        """A connection with this server ended; after the last one, look whether anybody is there."""
        left = self._open.get(server.id, 0) - 1
        if left > 0:
            self._open[server.id] = left
            return
        self._open.pop(server.id, None)
        if server.id not in self._probing and not self._closed:
            self._probing.add(server.id)
            self.tasks.start(self._probe(server), f"raft probe of {server.id}")

    async def _probe(self, server: Server) -> None:
        """Look until somebody is there, or nobody.

        A dying process loses its connections before its listener, so that the kernel may accept a dial in its name:
        only a connection that stays says that the server lives.
        """
        try:
            for _ in range(PROBES_MAX):
                if self._open.get(server.id) or await self._is_there(server):
                    return
                await asyncio.sleep(PROBE_PAUSE_S)
        finally:
            self._probing.discard(server.id)

    async def _is_there(self, server: Server) -> bool:
        try:
            reader, writer = await self.connect(server)
        except DialRefused as error:
            self.log.debug("raft probe failed", peer=server.id, error=str(error))
            return True  # told as evidence; there is nothing more to learn
        except LOST as error:
            self.log.debug("raft probe failed", peer=server.id, error=str(error))
            return False
        try:
            async with timeout(PROBE_WATCH_S):
                await reader.read(1)
        except TimeoutError:
            return True
        except LOST as error:
            self.log.debug("raft probe lost", peer=server.id, error=str(error))
        finally:
            await close_writer(writer)
        return False

    async def connect(self, server: Server) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Dial. A refused dial while no connection with the server is left is evidence of its end."""
        try:
            host, port = self._resolve(server)
            dialed = await self._dial(host, port)
        except LOST as error:
            self.dial_errors[server.id] = describe(error)
            if isinstance(error, DialRefused) and not self._open.get(server.id):
                self.events.refused(server.id)
            raise
        self.dial_errors.pop(server.id, None)
        return dialed

    def server(self, server_id: str) -> Server:
        """As last told by the core."""
        return self._servers[server_id]

    # -- snapshots ------------------------------------------------------------------------------------------------

    async def _send_snapshot(self, request: Request, message: InstallSnapshotRequest) -> None:
        reply: RaftResponse | str | None = None
        began = asyncio.get_running_loop().time()
        try:
            source = await self._open_snapshot(request.snapshot_id)
            try:
                steps = source.meta.size // SNAPSHOT_BYTES_PER_TIMEOUT
                async with timeout(max(1, steps) * SNAPSHOT_TIMEOUT_MIN_S):
                    reply = await self._stream(request.to, replace(message, size=source.meta.size), source)
                self.answered(request.to.id, "installSnapshot", 0, asyncio.get_running_loop().time() - began)
            finally:
                await source.close()
        except (*LOST, StorageError) as error:
            self.log.warn("sending a snapshot failed", peer=request.to.id, error=describe(error))
        self.events.replied(request.sequence, reply)

    async def _stream(
        self, to: Server, message: InstallSnapshotRequest, source: SnapshotSource
    ) -> RaftResponse | str | None:
        reader, writer = await self.connect(to)
        try:
            writer.write(encode_request(message))
            while chunk := await source.read(SNAPSHOT_CHUNK_BYTES):
                writer.write(chunk)
                async with timeout(ROUND_TRIP_TIMEOUT_S):
                    await writer.drain()
            decoder = ReplyDecoder()
            while (answer := decoder.next(InstallSnapshotRequest)) is None:
                decoder.feed(await read_some(reader))
            return answer[0] or answer[1]
        finally:
            await close_writer(writer)


@dataclass(eq=False, slots=True)
class Lane:
    """One ordered stream of requests to a peer, over one connection after another."""

    peers: Peers
    server_id: str
    task: asyncio.Task[None] | None = None
    _queue: deque[_Item] = field(default_factory=deque)
    _in_flight: deque[_Item] = field(default_factory=deque)
    _wake: asyncio.Event = field(default_factory=asyncio.Event)
    _hurry: asyncio.Event = field(default_factory=asyncio.Event)
    _back_off_s: float = 0.0
    _answered: bool = False
    _deadline: Timeout | None = None

    def put(self, request: Request) -> None:
        """Queue."""
        if len(self._queue) >= QUEUE_MAX:
            asyncio.get_running_loop().call_soon(self.peers.events.replied, request.sequence, None)
            return
        self._queue.append(_Item(request))
        self._wake.set()

    def hurry(self) -> None:
        """Dial without waiting any longer."""
        self._hurry.set()

    def start(self) -> None:
        """Run. However it ends, what was not answered is lost then, and told so.

        Without that the core would wait for its answer for ever, and the member stay without entries.
        """
        self.task = self.peers.tasks.start_task(self.run(), f"raft lane to {self.server_id}")
        self.task.add_done_callback(lambda _: self.lose_all())

    def end(self) -> None:
        """Stop."""
        assert self.task is not None
        self.task.cancel()

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            while not self._queue:
                self._wake.clear()
                await self._wake.wait()
            await self._pause()
            server = self.peers.server(self.server_id)
            try:
                reader, writer = await self.peers.connect(server)
            except LOST as error:
                self.peers.log.debug("raft dial failed", peer=self.server_id, error=describe(error))
                self._back_off_s = min(max(self._back_off_s * 2, BACK_OFF_MIN_S), BACK_OFF_MAX_S)
                self._lose(self._queue)
                continue
            await self._serve(server, reader, writer)

    async def _pause(self) -> None:
        if self._back_off_s:
            self._hurry.clear()
            with suppress(TimeoutError):
                async with timeout(self._back_off_s):
                    await self._hurry.wait()

    async def _serve(self, server: Server, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._answered = False
        self.peers.opened(server.id)
        try:
            async with timeout(None) as self._deadline:
                await together(self._write(writer), self._read(reader))
        except LOST as error:
            self.peers.log.debug("raft connection ended", peer=server.id, error=describe(error))
        finally:
            self._deadline = None
            await close_writer(writer)
            self._after_loss()
            self.peers.ended(server)

    def _after_loss(self) -> None:
        """Give what was in flight a second chance if the connection had worked, else count it lost."""
        again: list[_Item] = []
        lost: deque[_Item] = deque()
        while self._in_flight:
            item = self._in_flight.popleft()
            if self._answered and not item.repeated:
                item.repeated = True
                again.append(item)
            else:
                lost.append(item)
        self._queue.extendleft(reversed(again))
        self._lose(lost)
        if not self._answered:
            self._back_off_s = min(max(self._back_off_s * 2, BACK_OFF_MIN_S), BACK_OFF_MAX_S)

    def lose_all(self) -> None:
        """What waits and what was not answered is lost, and told so."""
        self._lose(self._in_flight)
        self._lose(self._queue)

    def _lose(self, items: deque[_Item]) -> None:
        while items:
            self.peers.events.replied(items.popleft().request.sequence, None)

    async def _write(self, writer: asyncio.StreamWriter) -> None:
        while True:
            while not self._queue or len(self._in_flight) >= IN_FLIGHT_MAX:
                self._wake.clear()
                await self._wake.wait()
            item = self._queue.popleft()
            item.sent_at = asyncio.get_running_loop().time()
            self._in_flight.append(item)
            if len(self._in_flight) == 1:
                self._expect_reply()
            writer.write(self.peers.encoder.encode(item.request.message))
            await writer.drain()

    async def _read(self, reader: asyncio.StreamReader) -> None:
        decoder = ReplyDecoder()
        while True:
            decoder.feed(await read_some(reader))
            while decoder.pending:
                if not self._in_flight:
                    raise DecodeError("a reply to no request")
                answer = decoder.next(type(self._in_flight[0].request.message))
                if answer is None:
                    break
                item = self._in_flight.popleft()
                self._answered = True
                self._back_off_s = 0.0
                self._wake.set()
                self._measure(item)
                self.peers.events.replied(item.request.sequence, answer[0] or answer[1])
            self._expect_reply()

    def _measure(self, item: _Item) -> None:
        message = item.request.message
        if isinstance(message, AppendEntriesRequest):
            kind = "heartbeat" if item.request.heartbeat else "appendEntries.rpc"
            seconds = asyncio.get_running_loop().time() - item.sent_at
            self.peers.answered(self.server_id, kind, len(message.entries or ()), seconds)

    def _expect_reply(self) -> None:
        """The oldest request in flight must be answered in time; without one the connection may idle."""
        deadline = self._deadline
        if deadline is None or deadline.expired():
            return
        if not self._in_flight:
            deadline.reschedule(None)
            return
        due, armed = asyncio.get_running_loop().time() + ROUND_TRIP_TIMEOUT_S, deadline.when()
        # Not for each reply of a pipeline: a timer that fires a little early is as good.
        if armed is None or armed < due - ROUND_TRIP_SLACK_S:
            deadline.reschedule(due)


async def read_some(reader: asyncio.StreamReader) -> bytes:
    """Bytes, as they come. Raises ConnectionLost at the end of the stream."""
    data = await reader.read(READ_BYTES)
    if not data:
        raise ConnectionLost("closed by the peer")
    return data


async def close_writer(writer: asyncio.StreamWriter) -> None:
    """Close without lingering: whatever was not sent is of no use any more."""
    transport = writer.transport
    if not transport.is_closing() and transport.get_write_buffer_size():
        transport.abort()
    writer.close()
    with suppress(*LOST):
        await writer.wait_closed()


def describe(error: BaseException) -> str:
    """For the log."""
    if isinstance(error, TimeoutError) and not str(error):
        error = NetTimeout("no answer in time")
    return f"{type(error).__name__}: {error}"
