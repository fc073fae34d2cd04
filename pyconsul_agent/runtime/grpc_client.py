"""Calls to the gRPC of servers (first byte 8): one HTTP/2 connection per server, one stream per call.

Which server to ask, and what to do when none offers it, is the caller's.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator

from h2.events import (
    ConnectionTerminated,
    DataReceived,
    Event,
    ResponseReceived,
    StreamEnded,
    StreamReset,
    TrailersReceived,
)
from h2.exceptions import ProtocolError

from pyconsul_agent.env.base import Clock, Net, open_stream
from pyconsul_agent.env.log import Log
from pyconsul_agent.env.timeouts import timeout
from pyconsul_agent.errors import ConnectionLost, DecodeError, NetError
from pyconsul_agent.runtime.http2 import HTTP2Connection, text_headers
from pyconsul_agent.runtime.rpc_pool import DIAL_TIMEOUT_S, ServerAddress
from pyconsul_agent.runtime.tasks import TaskOwner
from pyconsul_agent.wire import grpc
from pyconsul_agent.wire.grpc import GRPCError, MessageCutter, NotOffered, Status
from pyconsul_agent.wire.netrpc import FirstByte

GREETING_TIMEOUT_S = 10.0
WAITING_MESSAGES_MAX = 64
"""Replies that nobody has taken yet; with more the server is given no room."""


class GRPCPool:
    """Connections to servers, dialed at need and closed when idle."""

    def __init__(self, net: Net, clock: Clock, log: Log, *, local_host: str | None = None) -> None:
        self._net = net
        self._clock = clock
        self._log = log
        self._local_host = local_host
        self._connections: dict[ServerAddress, _Connection] = {}
        self._dials: dict[ServerAddress, asyncio.Lock] = {}
        self._tasks = TaskOwner(log)
        self._closed = False

    @property
    def connection_count(self) -> int:
        """Connections that are open."""
        return len(self._connections)

    async def call(self, server: ServerAddress, path: str, request: bytes) -> AsyncGenerator[bytes, None]:
        """The replies, message by message, until the server ends the call well.

        Raises GRPCError with its status, NotOffered, RPCError when there is no connection. Closing the iterator
        cancels the call.
        """
        connection = await self._connection(server)
        call = await connection.open(path, f"server.{server.datacenter}", request)
        try:
            while (message := await connection.next(call)) is not None:
                yield message
        finally:
            await connection.end(call)

    def forget(self, server: ServerAddress) -> None:
        """Cut the connection to a server that left; its calls fail."""
        connection = self._connections.pop(server, None)
        if connection is not None:
            connection.http.abort()

    async def close(self) -> None:
        """End all connections; calls fail."""
        self._closed = True
        await self._tasks.close()
        self._connections.clear()

    async def _connection(self, server: ServerAddress) -> _Connection:
        async with self._dials.setdefault(server, asyncio.Lock()):
            connection = self._connections.get(server)
            if connection is None or not connection.usable:
                connection = await self._dial(server)
        return connection

    async def _dial(self, server: ServerAddress) -> _Connection:
        if self._closed:
            raise GRPCError(Status.UNAVAILABLE, "connections are shut down")
        try:
            reader, writer = await open_stream(
                self._net, server.host, server.port, local_host=self._local_host, timeout_s=DIAL_TIMEOUT_S
            )
        except NetError as error:
            raise GRPCError(Status.UNAVAILABLE, str(error)) from error
        writer.write(bytes([FirstByte.GRPC]))
        connection = _Connection(reader, writer, self._clock)
        self._connections[server] = connection
        task = self._tasks.start_task(self._run(server, connection), f"grpc {server}")
        task.add_done_callback(lambda _: connection.http.abort())
        try:
            async with timeout(GREETING_TIMEOUT_S):
                await connection.http.greeted.wait()
        except TimeoutError:
            self.forget(server)
            raise NotOffered(f"{server} does not speak gRPC") from None
        if connection.http.closed:
            self._connections.pop(server, None)
            raise NotOffered(f"{server} does not offer gRPC")
        return connection

    async def _run(self, server: ServerAddress, connection: _Connection) -> None:
        try:
            await connection.run()
        except (ConnectionLost, DecodeError, OSError) as error:
            self._log.debug("gRPC connection lost", server=str(server), error=str(error))
        finally:
            if self._connections.get(server) is connection:
                del self._connections[server]


class _Call:
    """The replies of a call that have come, and how it ended."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.cutter = MessageCutter()
        self.waiting: deque[bytes] = deque()
        self.withheld = 0
        self.changed = asyncio.Event()
        self.over = False
        self.error: GRPCError | None = None

    def fail(self, error: GRPCError) -> None:
        if not self.over:
            self.over, self.error = True, error
        self.changed.set()


class _Connection:
    """The calls to one server."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, clock: Clock) -> None:
        self.http = HTTP2Connection(reader, writer, clock, self._event, is_client=True)
        self._calls: dict[int, _Call] = {}
        self._going = False

    @property
    def usable(self) -> bool:
        """Whether calls may be made on it."""
        return not self.http.closed and not self._going

    async def run(self) -> None:
        try:
            await self.http.run(lambda: bool(self._calls))
        finally:
            self._going = True
            for call in self._calls.values():
                call.fail(GRPCError(Status.UNAVAILABLE, "transport is closing"))
            await self.http.close()

    async def open(self, path: str, authority: str, request: bytes) -> _Call:
        """Begin a call. Raises GRPCError."""
        http = self.http
        headers = [
            (":method", "POST"), (":scheme", "http"), (":path", path), (":authority", authority),
            ("content-type", "application/grpc"), ("user-agent", "grpc-python-consul"), ("te", "trailers"),
        ]  # fmt: skip
        try:
            number = http.h2.get_next_available_stream_id()
            http.h2.send_headers(number, headers)
            call = self._calls[number] = _Call(number)
            await http.send(number, grpc.encode_message(request), end=True)
        except (ProtocolError, ConnectionLost) as error:
            raise GRPCError(Status.UNAVAILABLE, str(error)) from error
        return call

    async def next(self, call: _Call) -> bytes | None:
        """The next reply, None after the last. Raises GRPCError."""
        while not call.waiting:
            if call.error is not None:
                raise call.error.with_traceback(None)
            if call.over:
                return None
            call.changed.clear()
            await call.changed.wait()
        message = call.waiting.popleft()
        if call.withheld and len(call.waiting) < WAITING_MESSAGES_MAX:
            self.http.credit(call.number, call.withheld)
            call.withheld = 0
            await self._flush()
        return message

    async def end(self, call: _Call) -> None:
        """The caller wants no more."""
        self._calls.pop(call.number, None)
        if self.http.closed:
            return
        self.http.credit(call.number, call.withheld)
        if not call.over:
            self.http.reset(call.number)
        await self._flush()

    async def _flush(self) -> None:
        try:
            await self.http.flush()
        except ConnectionLost as error:
            raise GRPCError(Status.UNAVAILABLE, str(error)) from error

    def _event(self, event: Event) -> None:
        match event:
            case (
                ResponseReceived(stream_id=number, headers=headers)
                | TrailersReceived(stream_id=number, headers=headers)
            ):
                self._headers(number, text_headers(headers))
            case DataReceived(stream_id=number, data=data, flow_controlled_length=size):
                self._data(number, data, size)
            case StreamEnded(stream_id=number):
                if (call := self._calls.get(number)) is not None:
                    call.fail(GRPCError(Status.INTERNAL, "the answer ended without a status"))
            case StreamReset(stream_id=number, error_code=code):
                if (call := self._calls.get(number)) is not None:
                    call.fail(GRPCError(Status.INTERNAL, f"stream terminated by RST_STREAM with error code: {code}"))
            case ConnectionTerminated():
                self._going = True
            case _:
                pass

    def _headers(self, number: int, headers: dict[str, str]) -> None:
        call = self._calls.get(number)
        if call is None:
            return
        if headers.get(":status", "200") != "200":
            call.fail(GRPCError(Status.UNAVAILABLE, f"unexpected HTTP status code {headers[':status']}"))
        elif "grpc-status" in headers:
            try:
                status, text = grpc.decode_status(headers)
            except DecodeError as error:
                call.fail(GRPCError(Status.INTERNAL, str(error)))
                return
            if status:
                call.fail(GRPCError(status, text))
            else:
                call.over = True
                call.changed.set()

    def _data(self, number: int, data: bytes, size: int) -> None:
        call = self._calls.get(number)
        if call is None:
            self.http.credit(number, size)
            return
        try:
            call.waiting.extend(call.cutter.feed(data))
        except GRPCError as error:
            call.fail(error)
            self.http.credit(number, size)
            self.http.reset(number)
            return
        if len(call.waiting) < WAITING_MESSAGES_MAX:
            self.http.credit(number, size)
        else:
            call.withheld += size
        call.changed.set()
