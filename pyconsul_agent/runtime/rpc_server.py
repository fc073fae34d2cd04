"""The server port (8300): who speaks what is told by the first byte (docs/protocol/rpc.md#connection-types).

Serves net/rpc directly (0) and inside yamux (4), and hands raft (1), snapshots (5) and gRPC (8) to whoever was given
for them. It knows no method and no cluster: a request goes to `RPCService.serve` as name and bytes.
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import Protocol

from pyconsul_agent.env.base import STREAM_BUFFER_BYTES, Address, Clock, Listener, Net, peer_of, stream_protocol
from pyconsul_agent.env.log import Log
from pyconsul_agent.env.timeouts import timeout
from pyconsul_agent.errors import ConnectionLost, DecodeError, RaftError, RPCError
from pyconsul_agent.runtime.mux import DirectReader, MuxConnection, MuxStream, close_writer
from pyconsul_agent.runtime.tasks import TaskOwner
from pyconsul_agent.wire import netrpc
from pyconsul_agent.wire.netrpc import FirstByte, MessageReader, RequestHeader

ConnectionHandler = Callable[[asyncio.StreamReader, asyncio.StreamWriter, Address], Awaitable[None]]
"""Serves one connection after its first byte and returns when it is over; the writer is closed afterwards."""

READ_BYTES = 128 * 1024


class RPCService(Protocol):
    """What answers requests: `server.dispatch.Dispatcher`."""

    async def serve(self, method_name: str, body: bytes, peer: Address) -> bytes:
        """The encoded reply. Raises RPCError or RaftError, whose text is the answer."""


@dataclass(frozen=True, slots=True)
class RPCLimits:
    """Bounds of the port. Seconds and bytes."""

    handshake_timeout_s: float = 5.0
    connections_per_client_max: int = 100
    """0 is no limit."""
    connections_max: int = 8192
    streams_per_session_max: int = 4096
    """Requests in flight on one session; further streams wait in the backlog unacknowledged."""
    streams_max: int = 65536
    """Of all sessions together; a stream above it is reset."""
    request_timeout_s: float = 30.0
    """From the first byte of a request to its last."""
    reply_stall_s: float = 60.0
    """How long a caller may leave a reply without taking a byte of it."""
    write_timeout_s: float = 30.0
    body_bytes_max: int = netrpc.BODY_BYTES_MAX
    incomplete_bytes_max: int = 512 * 1024 * 1024
    """Of all requests together that are not complete yet."""


class RPCServer:
    """Listens, admits, and serves until closed.

    `raft`, `snapshot` and `grpc` are optional: without one its byte is answered by closing, at once, because a
    silent connection is worse for the clients than a closed one.
    """

    def __init__(
        self,
        net: Net,
        clock: Clock,
        log: Log,
        service: RPCService,
        *,
        raft_accept: ConnectionHandler | None = None,
        snapshot: ConnectionHandler | None = None,
        grpc: ConnectionHandler | None = None,
        limits: RPCLimits | None = None,
        accepted: Callable[[], None] = lambda: None,
    ) -> None:
        """`accepted` hears of each connection that is served."""
        self._accepted = accepted
        self._net = net
        self._clock = clock
        self._log = log
        self._service = service
        self._limits = limits or RPCLimits()
        self._handlers: dict[int, ConnectionHandler] = {
            FirstByte.CONSUL: self._serve_single,
            FirstByte.YAMUX: self._serve_mux,
        }
        given = ((FirstByte.RAFT, raft_accept), (FirstByte.SNAPSHOT, snapshot), (FirstByte.GRPC, grpc))
        self._handlers.update({byte: handler for byte, handler in given if handler is not None})
        self._tasks = TaskOwner(log)
        self._listener: Listener | None = None
        self._connections = 0
        self._per_client: Counter[str] = Counter()
        self._incomplete_bytes = 0
        self._streams = 0

    @property
    def connection_count(self) -> int:
        """Connections that are open, of every kind."""
        return self._connections

    @property
    def local(self) -> Address:
        """Where the port is bound."""
        if self._listener is None:
            raise ValueError("the server does not listen")
        return self._listener.local

    async def start(self, host: str, port: int) -> None:
        """Listen. Raises NetError when the port cannot be had."""
        self._listener = await self._net.listen(self._protocol, host, port)

    async def close(self) -> None:
        """Stop listening and cut every connection."""
        if self._listener is not None:
            await self._listener.close()
        await self._tasks.close()

    # --- connections ----------------------------------------------------------------------------------------------

    def set_connections_per_client(self, count: int) -> None:
        """Take so many connections of one address from now on (reload); 0 is no limit."""
        self._limits = replace(self._limits, connections_per_client_max=count)

    def _protocol(self) -> asyncio.BaseProtocol:
        return stream_protocol(self._on_connection, DirectReader(limit=STREAM_BUFFER_BYTES), _Protocol)

    def _on_connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        peer = peer_of(writer)
        limit = self._limits.connections_per_client_max
        if self._connections >= self._limits.connections_max or 0 < limit <= self._per_client[peer[0]]:
            self._log.warn("connection limit reached", peer=f"{peer[0]}:{peer[1]}")
            writer.transport.abort()
            return
        self._connections += 1
        self._per_client[peer[0]] += 1
        self._accepted()
        task = self._tasks.start_task(self._serve_connection(reader, writer, peer), f"rpc {peer[0]}:{peer[1]}")
        task.add_done_callback(lambda _: self._on_over(writer, peer))

    def _on_over(self, writer: asyncio.StreamWriter, peer: Address) -> None:
        """In a callback of the task, since a task that is cancelled before it ran never reaches its `finally`."""
        self._connections -= 1
        self._per_client[peer[0]] -= 1
        if not self._per_client[peer[0]]:
            del self._per_client[peer[0]]
        if not writer.transport.is_closing():
            writer.transport.abort()

    async def _serve_connection(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, peer: Address
    ) -> None:
        text = f"{peer[0]}:{peer[1]}"
        try:
            async with timeout(self._limits.handshake_timeout_s):
                first = (await reader.readexactly(1))[0]
            handler = self._handlers.get(first)
            if handler is not None:
                await handler(reader, writer, peer)
            elif first not in (FirstByte.RAFT, FirstByte.SNAPSHOT, FirstByte.GRPC):
                self._log.error("unrecognized RPC byte", byte=first, peer=text)
        except TimeoutError:
            self._log.debug("no complete message in time", peer=text)
        except (asyncio.IncompleteReadError, ConnectionLost, OSError) as error:
            self._log.debug("RPC connection lost", peer=text, error=str(error))
        except DecodeError as error:
            self._log.error("malformed RPC message", peer=text, error=str(error))
        except Exception as error:
            self._log.error("RPC connection failed", peer=text, error=f"{type(error).__name__}: {error}")
        await close_writer(writer)

    # --- net/rpc directly on the connection -----------------------------------------------------------------------

    async def _serve_single(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, peer: Address) -> None:
        async def read() -> bytes:
            return await reader.read(READ_BYTES)

        async def write(data: bytes) -> None:
            writer.write(data)
            async with timeout(self._limits.write_timeout_s):
                await writer.drain()

        protocol, serving = writer.transport.get_protocol(), asyncio.current_task()
        if not isinstance(protocol, _Protocol) or serving is None or protocol.is_lost:
            return
        protocol.on_lost = serving.cancel
        try:
            await self._serve_requests(read, write, peer)
        finally:
            protocol.on_lost = None

    # --- net/rpc in yamux streams ---------------------------------------------------------------------------------

    async def _serve_mux(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, peer: Address) -> None:
        session = _MuxSession(self, reader, writer, peer)
        await session.run()

    async def serve_stream(self, stream: MuxStream, peer: Address) -> None:
        """Serve the requests of one stream; whatever goes wrong ends this stream only."""
        if self._streams >= self._limits.streams_max:
            self._log.warn("stream limit reached", peer=f"{peer[0]}:{peer[1]}")
            stream.reset()
            return
        self._streams += 1
        try:
            await self._serve_stream(stream, peer)
        finally:
            self._streams -= 1

    async def _serve_stream(self, stream: MuxStream, peer: Address) -> None:
        text = f"{peer[0]}:{peer[1]}"

        async def write(data: bytes) -> None:
            stream.write(data)
            await stream.drain(self._limits.reply_stall_s)

        try:
            await self._serve_requests(stream.read, write, peer)
        except DecodeError as error:
            self._log.error("malformed RPC message", peer=text, error=str(error))
        except TimeoutError:
            self._log.warn("RPC request not complete in time", peer=text)
        except ConnectionLost as error:
            self._log.debug("RPC stream lost", peer=text, error=str(error))
            stream.reset()
            return
        except asyncio.CancelledError:
            stream.reset()
            raise
        stream.finish()

    # --- requests -------------------------------------------------------------------------------------------------

    async def _serve_requests(
        self, read: Callable[[], Awaitable[bytes]], write: Callable[[bytes], Awaitable[None]], peer: Address
    ) -> None:
        """One after another, as the original does, until the caller finishes. Raises DecodeError, TimeoutError."""
        messages = MessageReader(RequestHeader, body_bytes_max=self._limits.body_bytes_max)
        while (request := await self._next_request(messages, read)) is not None:
            header, body = request
            await write(await self._answer(header, body, peer))

    async def _next_request(
        self, messages: MessageReader[RequestHeader], read: Callable[[], Awaitable[bytes]]
    ) -> tuple[RequestHeader, bytes] | None:
        request = messages.next()
        if request is not None:
            return request
        if not messages.in_message:
            data = await read()
            if not data:
                return None
            messages.feed(data)
            request = messages.next()
            if request is not None:  # nearly always: most are small and come in one piece
                return request
        counted = 0
        try:
            async with timeout(self._limits.request_timeout_s):
                while (request := messages.next()) is None:
                    self._incomplete_bytes += messages.buffered - counted
                    counted = messages.buffered
                    if self._incomplete_bytes > self._limits.incomplete_bytes_max:
                        raise DecodeError("too many bytes in incomplete requests")
                    data = await read()
                    if not data:
                        raise DecodeError("the caller finished in the middle of a request")
                    messages.feed(data)
        finally:
            self._incomplete_bytes -= counted
        return request

    async def _answer(self, header: RequestHeader, body: bytes, peer: Address) -> bytes:
        try:
            return netrpc.encode_response(header, await self._service.serve(header.method, body, peer))
        except (RPCError, RaftError) as error:
            return netrpc.encode_error(header, str(error))
        except Exception as error:
            # The edge of a request: a fault of ours must not take the caller's other requests with it.
            self._log.error(
                "RPC handler failed",
                method=header.method,
                peer=f"{peer[0]}:{peer[1]}",
                error=f"{type(error).__name__}: {error}",
            )
            return netrpc.encode_error(header, f"rpc: internal error in {header.method}")

    # --- what a session needs -------------------------------------------------------------------------------------

    @property
    def limits(self) -> RPCLimits:
        """The bounds in force."""
        return self._limits

    @property
    def clock(self) -> Clock:
        """The clock that sessions run on."""
        return self._clock

    @property
    def log(self) -> Log:
        """Where sessions log."""
        return self._log


class _MuxSession:
    """The streams of one yamux connection, each with a task that lives no longer than its stream."""

    def __init__(
        self,
        server: RPCServer,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        peer: Address,
    ) -> None:
        self._server = server
        self._peer = peer
        self._tasks = TaskOwner(server.log)
        self._waiting: deque[MuxStream] = deque()
        self._connection = MuxConnection(reader, writer, is_client=False, clock=server.clock, on_stream=self._on_stream)

    async def run(self) -> None:
        try:
            reason = await self._connection.run()
            self._server.log.debug("RPC session over", peer=f"{self._peer[0]}:{self._peer[1]}", reason=reason)
        finally:
            await self._tasks.close()

    def _on_stream(self, stream: MuxStream) -> None:
        if len(self._tasks) >= self._server.limits.streams_per_session_max:
            self._waiting.append(stream)  # bounded by the accept backlog of the session
            stream.on_lost = lambda: self._waiting.remove(stream)
        else:
            self._start(stream)

    def _start(self, stream: MuxStream) -> None:
        self._connection.accept(stream)
        task = self._tasks.start_task(
            self._server.serve_stream(stream, self._peer),
            f"rpc {self._peer[0]}:{self._peer[1]} stream {stream.number}",
        )
        stream.on_lost = task.cancel
        task.add_done_callback(lambda _: self._on_over())

    def _on_over(self) -> None:
        while self._waiting and len(self._tasks) < self._server.limits.streams_per_session_max:
            stream = self._waiting.popleft()
            self._start(stream)


class _Protocol(asyncio.StreamReaderProtocol):
    """Tells at once when the connection is lost, which a reader would learn only by reading."""

    on_lost: Callable[[], object] | None = None
    is_lost = False

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self.is_lost = True
        if self.on_lost is not None:
            self.on_lost()
