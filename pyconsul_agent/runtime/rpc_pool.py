"""Calls to servers: one yamux session per server, one request in flight per stream (docs/protocol/rpc.md#pooling).

The pool does what it is told with the server it is given; which server to ask, and whether to ask again, is decided
by `client.router` and `server.dispatch`.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TypeVar

from pyconsul_agent.env.base import Clock, Net, open_stream
from pyconsul_agent.env.log import Log
from pyconsul_agent.env.timeouts import timeout
from pyconsul_agent.errors import ConnectionLost, DecodeError, NetError, RPCError
from pyconsul_agent.runtime.mux import DirectReader, MuxConnection, MuxStream
from pyconsul_agent.runtime.tasks import TaskOwner
from pyconsul_agent.structs.methods import Method
from pyconsul_agent.wire import msgpack, netrpc
from pyconsul_agent.wire.netrpc import FirstByte, MessageReader, ResponseHeader

RequestT = TypeVar("RequestT")
ReplyT = TypeVar("ReplyT")

DIAL_TIMEOUT_S = 10.0
IDLE_ON_CLIENT_S = 127.0
IDLE_ON_SERVER_S = 120.0
IDLE_STREAMS_ON_CLIENT = 32
IDLE_STREAMS_ON_SERVER = 64
REAP_INTERVAL_S = 10.0
CALL_TIMEOUT_S = 700.0
"""Longer than the longest blocking query with its jitter and hold time; only a broken server exceeds it."""
IN_FLIGHT_PER_SERVER_MAX = 8192


@dataclass(frozen=True, slots=True)
class ServerAddress:
    """A server as gossip knows it. `name` is its node name, `host` and `port` where its RPC port is."""

    name: str
    host: str
    port: int
    datacenter: str = ""

    def __str__(self) -> str:
        return f"{self.name} ({self.host}:{self.port})"


class RPCPool:
    """Sessions to servers, dialed at need and closed when idle.

    Errors are RPCErrors with the texts of the original: `rpc error making call: <error of the server>`,
    `rpc error getting client: failed to get conn: <why not>`. Cancelling a call resets its stream.
    """

    def __init__(
        self,
        net: Net,
        clock: Clock,
        log: Log,
        *,
        local_host: str | None = None,
        idle_s: float = IDLE_ON_SERVER_S,
        idle_streams_max: int = IDLE_STREAMS_ON_SERVER,
        dial_timeout_s: float = DIAL_TIMEOUT_S,
        call_timeout_s: float = CALL_TIMEOUT_S,
    ) -> None:
        self._net = net
        self._clock = clock
        self._log = log
        self._local_host = local_host
        self._idle_s = idle_s
        self._idle_streams_max = idle_streams_max
        self._dial_timeout_s = dial_timeout_s
        self._call_timeout_s = call_timeout_s
        self._sessions: dict[ServerAddress, _Session] = {}
        self._dials: dict[ServerAddress, asyncio.Future[_Session]] = {}
        self._tasks = TaskOwner(log)
        self._reaping = False
        self._sequence = 0
        self._closed = False

    @property
    def session_count(self) -> int:
        """Sessions that are open."""
        return len(self._sessions)

    async def call(self, server: ServerAddress, method: Method[RequestT, ReplyT], request: RequestT) -> ReplyT:
        """Call one method of one server. Raises RPCError."""
        reply = await self.call_raw(server, method.name, msgpack.encode(request))
        try:
            return msgpack.decode(method.reply, reply)
        except DecodeError as error:
            raise RPCError(netrpc.call_failed(netrpc.decoder_failed(error.reason))) from error

    async def call_raw(self, server: ServerAddress, method_name: str, body: bytes) -> bytes:
        """Call with a body already encoded; the reply's bytes come back as they were received. Raises RPCError."""
        session = await self._session(server)
        self._sequence += 1
        request = netrpc.encode_request(self._sequence, method_name, body)
        header, reply = await session.exchange(request, self._call_timeout_s)
        if header.error:
            raise RPCError(netrpc.call_failed(header.error))
        return reply

    def forget(self, server: ServerAddress) -> None:
        """Drop the session to a server that left."""
        session = self._sessions.pop(server, None)
        if session is not None:
            session.connection.end()

    def forget_other_addresses(self, server: ServerAddress) -> None:
        """Drop sessions to where `server` was before it moved."""
        for known in list(self._sessions):
            if (known.name, known.datacenter) == (server.name, server.datacenter) and known != server:
                self.forget(known)

    async def close(self) -> None:
        """End all sessions; calls in flight fail."""
        self._closed = True
        for session in list(self._sessions.values()):
            session.connection.end()
        await self._tasks.close()
        self._sessions.clear()

    # --- sessions -------------------------------------------------------------------------------------------------

    async def _session(self, server: ServerAddress) -> _Session:
        """The session to `server`; callers that come while it is dialed share the dial."""
        if self._closed:
            raise RPCError(netrpc.dial_failed("rpc error: conn pool is shut down"))
        session = self._sessions.get(server)
        if session is not None and session.usable:
            return session
        dial = self._dials.get(server)
        if dial is None:
            dial = self._dials[server] = asyncio.get_running_loop().create_future()
            dial.add_done_callback(lambda done: done.cancelled() or done.exception())
            task = self._tasks.start_task(self._dial(server, dial), f"dial {server}")
            task.add_done_callback(lambda _: self._dialed(server, dial))
        try:
            return await asyncio.shield(dial)
        except NetError as error:
            raise RPCError(netrpc.dial_failed(str(error))) from error

    async def _dial(self, server: ServerAddress, dial: asyncio.Future[_Session]) -> None:
        try:
            reader, writer = await open_stream(
                self._net,
                server.host,
                server.port,
                local_host=self._local_host,
                timeout_s=self._dial_timeout_s,
                kind=DirectReader,
            )
            writer.write(bytes([FirstByte.YAMUX]))
            connection = MuxConnection(reader, writer, is_client=True, clock=self._clock)
            session = _Session(connection, self._clock, self._idle_streams_max)
            self._sessions[server] = session
            task = self._tasks.start_task(self._run(server, session), f"session {server}")
            task.add_done_callback(lambda _: connection.abort())
            if not self._reaping:
                self._reaping = True
                self._tasks.start(self._reap(), "reap sessions")
            dial.set_result(session)
        except NetError as error:
            dial.set_exception(error)

    def _dialed(self, server: ServerAddress, dial: asyncio.Future[_Session]) -> None:
        """In a callback, since a task that is cancelled before it ran never reaches its `finally`."""
        del self._dials[server]
        if not dial.done():
            dial.set_exception(ConnectionLost("conn pool is shut down"))

    async def _run(self, server: ServerAddress, session: _Session) -> None:
        try:
            reason = await session.connection.run()
            self._log.debug("RPC session over", server=str(server), reason=reason)
        finally:
            if self._sessions.get(server) is session:
                del self._sessions[server]

    async def _reap(self) -> None:
        while True:
            await asyncio.sleep(REAP_INTERVAL_S)
            now = self._clock.monotonic()
            for server, session in list(self._sessions.items()):
                if not session.in_flight and now - session.last_used >= self._idle_s:
                    self.forget(server)


class _Session:
    """A connection to one server and its idle streams, the last used on top."""

    def __init__(self, connection: MuxConnection, clock: Clock, idle_streams_max: int) -> None:
        self.connection = connection
        self.in_flight = 0
        self._retired = False
        self._clock = clock
        self.last_used = clock.monotonic()
        self._idle_streams_max = idle_streams_max
        self._idle: list[MuxStream] = []

    @property
    def usable(self) -> bool:
        """Whether calls may be made on it."""
        return not self._retired and self.connection.session.accepts_new_streams

    async def exchange(self, request: bytes, timeout_s: float) -> tuple[ResponseHeader, bytes]:
        """Send a request and wait for its answer. Raises RPCError."""
        if self.in_flight >= IN_FLIGHT_PER_SERVER_MAX:
            raise RPCError(netrpc.stream_failed("too many calls in flight"))
        self.in_flight += 1
        try:
            stream = await self._begin(request)
            return await self._finish(stream, timeout_s)
        finally:
            self.in_flight -= 1
            if self._retired and not self.in_flight:
                self.connection.end()
            self.last_used = self._clock.monotonic()

    async def _begin(self, request: bytes) -> MuxStream:
        while self._idle:
            stream = self._idle.pop()
            if stream.idle:
                stream.write(request)
                return stream
            stream.finish()
        try:
            return await self.connection.open(request)
        except ConnectionLost as error:
            raise RPCError(netrpc.stream_failed(str(error))) from error

    async def _finish(self, stream: MuxStream, timeout_s: float) -> tuple[ResponseHeader, bytes]:
        answered = False
        try:
            async with timeout(timeout_s):
                header, body = await self._read(stream)
            answered = True
        except TimeoutError:
            raise RPCError(netrpc.call_failed("i/o timeout")) from None
        except ConnectionLost:
            # compat: however the connection broke, the original says EOF and dials again for the next call. Calls
            # that are under way on other streams go on.
            self._retired = True
            raise RPCError(netrpc.call_failed(netrpc.EOF)) from None
        except DecodeError as error:
            self._retired = True
            raise RPCError(netrpc.call_failed(f"malformed answer: {error.reason}")) from error
        finally:
            if not answered:
                stream.reset()
        # compat: a stream that carried an error is closed although it is sound; so the original does.
        if header.error or len(self._idle) >= self._idle_streams_max or not stream.idle:
            stream.finish()
        else:
            self._idle.append(stream)
        return header, body

    async def _read(self, stream: MuxStream) -> tuple[ResponseHeader, bytes]:
        messages = MessageReader(ResponseHeader)
        while (answer := messages.next()) is None:
            data = await stream.read()
            if not data:
                raise ConnectionLost("EOF")
            messages.feed(data)
        if messages.in_message:
            raise DecodeError("bytes left after the answer")
        return answer
