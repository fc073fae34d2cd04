"""gRPC on the server port (first byte 8): calls with one request and any number of replies, over HTTP/2.

Knows no method: each is a function that gets the request's bytes and a way to send. Whatever is wrong with a call ends
that call with a status; whatever is wrong with the frames ends the connection.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping

from h2.errors import ErrorCodes
from h2.events import DataReceived, Event, RequestReceived, StreamEnded, StreamReset
from h2.exceptions import ProtocolError

from pyconsul_agent.env.base import Address, Clock
from pyconsul_agent.env.log import Log
from pyconsul_agent.errors import ConnectionLost, DecodeError
from pyconsul_agent.runtime.http2 import HTTP2Connection, text_headers
from pyconsul_agent.runtime.tasks import TaskOwner
from pyconsul_agent.wire import grpc
from pyconsul_agent.wire.grpc import GRPCError, MessageCutter, Status

Send = Callable[[bytes], Awaitable[None]]
"""Sends whole messages, prefix included. Raises ConnectionLost when the caller has gone or does not read."""
StreamMethod = Callable[[bytes, Send], Awaitable[None]]
"""Serves one call until it is over; a GRPCError is its status. It is cancelled when the caller has gone."""

CALLS_MAX = 16_384
"""Of all connections together."""
REQUEST_BYTES_MAX = 16 * 1024
REQUEST_TIMEOUT_S = 30.0
"""From the headers of a request to its end."""


class GRPCServer:
    """Serves connections with the methods by path."""

    def __init__(
        self, clock: Clock, log: Log, methods: Mapping[str, StreamMethod], *, calls_max: int = CALLS_MAX
    ) -> None:
        self.clock = clock
        self.log = log
        self.methods = methods
        self.calls_max = calls_max
        self.calls = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, peer: Address) -> None:
        """One connection, after its first byte. Raises DecodeError and ConnectionLost."""
        await _Connection(self, reader, writer, peer).run()


class _Call:
    """A request that is coming in, then one that is being served."""

    def __init__(self, path: str, timer: asyncio.TimerHandle) -> None:
        self.path = path
        self.cutter = MessageCutter(REQUEST_BYTES_MAX)
        self.messages: list[bytes] = []
        self.received = 0
        self.timer = timer
        self.task: asyncio.Task[None] | None = None
        self.began_answer = False


class _Connection:
    """The calls of one connection."""

    def __init__(
        self, server: GRPCServer, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, peer: Address
    ) -> None:
        self._server = server
        self._peer = f"{peer[0]}:{peer[1]}"
        self._tasks = TaskOwner(server.log)
        self._calls: dict[int, _Call] = {}
        self._http = HTTP2Connection(reader, writer, server.clock, self._event, is_client=False)

    async def run(self) -> None:
        try:
            await self._http.run(lambda: bool(self._calls))
        finally:
            for call in self._calls.values():
                call.timer.cancel()
            await self._tasks.close()
            self._server.calls -= len(self._calls)
            self._calls.clear()
            await self._http.close()

    def _event(self, event: Event) -> None:
        match event:
            case RequestReceived(stream_id=number, headers=headers):
                self._open(number, text_headers(headers))
            case DataReceived(stream_id=number, data=data, flow_controlled_length=size):
                self._body(number, data, size)
            case StreamEnded(stream_id=number):
                self._complete(number)
            case StreamReset(stream_id=number):
                self._gone(number)
            case _:
                pass

    def _open(self, number: int, headers: dict[str, str]) -> None:
        path = headers.get(":path", "")
        if headers.get(":method") != "POST" or not headers.get("content-type", "").startswith("application/grpc"):
            self._respond(number, [(":status", "415")])
            return
        refusal = self._refusal(path)
        if refusal is not None:
            self._refuse(number, refusal)
            return
        timer = asyncio.get_running_loop().call_later(REQUEST_TIMEOUT_S, self._late, number)
        self._calls[number] = _Call(path, timer)
        self._server.calls += 1

    def _refusal(self, path: str) -> GRPCError | None:
        if path in self._server.methods:
            if self._server.calls < self._server.calls_max:
                return None
            self._server.log.warn("gRPC call limit reached", peer=self._peer)
            return GRPCError(Status.RESOURCE_EXHAUSTED, "too many calls")
        service, _, method = path.removeprefix("/").rpartition("/")
        if any(known.startswith(f"/{service}/") for known in self._server.methods):
            return GRPCError(Status.UNIMPLEMENTED, f"unknown method {method} for service {service}")
        return GRPCError(Status.UNIMPLEMENTED, f"unknown service {service}")

    def _body(self, number: int, data: bytes, size: int) -> None:
        call = self._calls.get(number)
        if call is None or call.task is not None:
            self._http.credit(number, size)
            return
        # Given back when the request is whole: until then the connection's own window bounds what is kept of it all.
        call.received += size
        try:
            call.messages += call.cutter.feed(data)
            if len(call.messages) > 1:
                raise GRPCError(Status.INTERNAL, "cardinality violation: more than one request")
        except GRPCError as error:
            self._refuse(number, error)

    def _complete(self, number: int) -> None:
        call = self._calls.get(number)
        if call is None or call.task is not None:
            return
        call.timer.cancel()
        self._http.credit(number, call.received)
        call.received = 0
        if len(call.messages) != 1 or call.cutter.buffered:
            self._refuse(number, GRPCError(Status.INTERNAL, "the request is not one whole message"))
            return
        call.task = self._tasks.start_task(self._serve(number, call), f"grpc {self._peer} stream {number}")

    def _late(self, number: int) -> None:
        self._http.reset(number)
        self._gone(number)
        self._tasks.start(self._flush(), "flush")

    async def _flush(self) -> None:
        try:
            await self._http.flush()
        except ConnectionLost as error:
            self._server.log.debug("gRPC connection lost", peer=self._peer, error=str(error))

    def _gone(self, number: int) -> None:
        """The call is over, whoever ended it."""
        call = self._calls.pop(number, None)
        if call is None:
            return
        self._server.calls -= 1
        call.timer.cancel()
        self._http.credit(number, call.received)
        if call.task is not None:
            call.task.cancel()

    # --- answers ----------------------------------------------------------------------------------------------

    async def _serve(self, number: int, call: _Call) -> None:
        async def send(data: bytes) -> None:
            if not call.began_answer:
                call.began_answer = True
                self._http.h2.send_headers(number, [(":status", "200"), ("content-type", "application/grpc")])
            await self._http.send(number, data)

        status, text = int(Status.OK), ""
        try:
            await self._server.methods[call.path](call.messages.pop(), send)
        except GRPCError as error:
            status, text = error.status, error.text
        except DecodeError as error:
            status, text = Status.INTERNAL, f"grpc: error unmarshalling request: {error}"
        except ConnectionLost as error:
            self._server.log.debug("gRPC call lost", peer=self._peer, error=str(error))
            self._http.reset(number, ErrorCodes.CANCEL)
            await self._over(number)
            return
        except Exception as error:
            # The edge of a call: a fault of ours must not take the caller's other calls with it.
            self._server.log.error("gRPC call failed", peer=self._peer, error=f"{type(error).__name__}: {error}")
            status, text = Status.INTERNAL, "internal error"
        self._finish(number, status, text, began=call.began_answer)
        await self._over(number)

    async def _over(self, number: int) -> None:
        if self._calls.pop(number, None) is not None:
            self._server.calls -= 1
        await self._flush()

    def _refuse(self, number: int, error: GRPCError) -> None:
        """Answer a request that will not be served."""
        self._finish(number, error.status, error.text, began=False)
        self._gone(number)

    def _finish(self, number: int, status: int, text: str, *, began: bool) -> None:
        trailers = [("grpc-status", str(int(status)))]
        if text:
            trailers.append(("grpc-message", grpc.encode_status_text(text)))
        if not began:
            trailers = [(":status", "200"), ("content-type", "application/grpc"), *trailers]
        self._respond(number, trailers)

    def _respond(self, number: int, headers: list[tuple[str, str]]) -> None:
        try:
            self._http.h2.send_headers(number, headers, end_stream=True)
        except ProtocolError as error:
            self._server.log.debug("gRPC caller has gone", peer=self._peer, error=str(error))
