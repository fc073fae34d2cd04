"""The listener of the legacy RPC (port 8400) and its connections.

A connection must begin with `handshake`. Requests are answered one at a time in order; the lines of a monitor come in
between. A reader who is too slow loses lines: its queue is bounded where the log keeps it, and here one line at a time
goes to the socket. Limits are named below; none of them can be met by a command line of 0.5 - 0.7.
"""

from __future__ import annotations

import asyncio
import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pyconsul_agent.env.base import Listener, Net, peer_of, stream_protocol
from pyconsul_agent.env.log import Log
from pyconsul_agent.env.timeouts import timeout
from pyconsul_agent.errors import DecodeError, NetError
from pyconsul_agent.interfaces.ipc.handlers import LEVELS, LIST_KEYS, Actions, Answer, Handlers, Tap
from pyconsul_agent.wire.ipc import (
    VERSION,
    Handshake,
    LogRecord,
    Messages,
    Monitor,
    RequestHeader,
    ResponseHeader,
    Stop,
    decode_body,
    decode_header,
    encode,
    is_header,
)

CONNECTIONS_MAX = 256
MONITORS_MAX = 16
HANDSHAKE_TIMEOUT_S = 10.0
MESSAGE_TIMEOUT_S = 30.0
"""From the first byte of a message to its last, and from a header to its body."""
WRITE_TIMEOUT_S = 30.0
CLOSE_TIMEOUT_S = 1.0
STALL_REPORT_S = 10.0
"""How often a monitor that does not read is looked at for lines that it has lost."""
READ_BYTES = 64 * 1024
UNIX = "unix://"
UNIX_MODE = 0o600
"""The protocol has no credentials, so the socket is its owner's alone."""

HANDSHAKE_REQUIRED = "Handshake required"
UNSUPPORTED_COMMAND = "Unsupported command"
TOO_MANY_MONITORS = "Too many monitors"
PERMISSION_DENIED = "Permission denied"


class IPCServer:
    """Listens on any number of addresses. `local_only`: agents that deny by default obey no remote peer here."""

    def __init__(
        self,
        net: Net,
        handlers: Handlers,
        actions: Actions,
        log: Log,
        *,
        local_only: bool = False,
        connections_max: int = CONNECTIONS_MAX,
    ) -> None:
        self._net = net
        self._log = log
        self._connections_max = connections_max
        self._shared = Shared(handlers, actions, log, local_only)
        self._listeners: list[Listener] = []
        self._connections: set[asyncio.Task[Any]] = set()
        self._stopping = False

    async def start(self, addresses: Sequence[tuple[str, int]]) -> None:
        """Listen on TCP, or for a host `unix:///path` on that socket. Raises NetError when one cannot be had."""
        for host, port in addresses:
            if host.startswith(UNIX):
                listener = await self._net.listen_unix(self._unix_connection, host.removeprefix(UNIX), mode=UNIX_MODE)
            else:
                listener = await self._net.listen(self._connection, host, port)
            self._listeners.append(listener)

    async def stop(self) -> None:
        """Stop listening and end every connection. Idempotent."""
        self._stopping = True
        for listener in self._listeners:
            await listener.close()
        self._listeners.clear()
        tasks = [task for task in self._connections if task is not asyncio.current_task()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    @property
    def addresses(self) -> list[tuple[str, int]]:
        """Where it listens."""
        return [listener.local for listener in self._listeners]

    @property
    def connections(self) -> int:
        """How many clients are connected."""
        return len(self._connections)

    def _connection(self) -> asyncio.BaseProtocol:
        return stream_protocol(self._serve_tcp, asyncio.StreamReader(limit=READ_BYTES))

    def _unix_connection(self) -> asyncio.BaseProtocol:
        return stream_protocol(self._serve_unix, asyncio.StreamReader(limit=READ_BYTES))

    async def _serve_tcp(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        host, port = peer_of(writer)
        await self._serve(reader, writer, f"{host}:{port}", is_local=_is_loopback(host))

    async def _serve_unix(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Clients of a unix socket have no address; the file's mode says who may be one."""
        await self._serve(reader, writer, "@", is_local=True)

    async def _serve(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, name: str, *, is_local: bool
    ) -> None:
        if self._stopping or len(self._connections) >= self._connections_max:
            self._log.debug("Connection refused", from_=name, connections=len(self._connections))
            await _close(writer)
            return
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        self._log.event("ipc_client", address=name)
        session = Session(self._shared, reader, writer, name, is_local=is_local)
        try:
            await session.run()
        except asyncio.CancelledError:
            if not self._stopping:  # ours is a normal end; asyncio of 3.11 stumbles over cancelled handlers
                raise
        except (OSError, NetError, TimeoutError) as error:
            self._log.debug("Connection lost", from_=session.peer, error=str(error) or type(error).__name__)
        except Exception as error:
            self._log.error("Connection failed", from_=session.peer, error=repr(error))
        finally:
            await session.end_monitor()
            await _close(writer)
            self._connections.discard(task)


async def _close(writer: asyncio.StreamWriter) -> None:
    """Close after what was written has gone; a peer that does not take it is cut off."""
    writer.close()
    try:
        async with timeout(CLOSE_TIMEOUT_S):
            await writer.wait_closed()
    except (OSError, NetError, TimeoutError):
        writer.transport.abort()


@dataclass(slots=True)
class Shared:
    """What all connections have in common; `monitors` counts their streams."""

    handlers: Handlers
    actions: Actions
    log: Log
    local_only: bool
    monitors: int = 0


@dataclass(slots=True)
class _Stream:
    """A monitor that runs."""

    seq: int
    tap: Tap
    task: asyncio.Task[None]


class _Ended(Exception):
    """The conversation is over."""


class Session:
    """One connection."""

    def __init__(
        self, shared: Shared, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, peer: str, *, is_local: bool
    ) -> None:
        self.peer = peer
        self._shared = shared
        self._reader = reader
        self._writer = writer
        self._messages = Messages()
        self._header = RequestHeader()
        self._greeted = False
        self._body_may_follow = False
        self._stream: _Stream | None = None
        self._may_command = not shared.local_only or is_local

    async def run(self) -> None:
        """Serve until the client goes away or breaks the rules. Raises OSError and TimeoutError of the connection."""
        try:
            async with timeout(HANDSHAKE_TIMEOUT_S) as limit:
                while not self._greeted:
                    await self._request()
                limit.reschedule(None)
                while True:
                    await self._request()
        except _Ended:
            return

    async def _request(self) -> None:
        try:
            value = await self._value()
            if self._body_may_follow and not is_header(value):
                # compat: a 0.7 client sends a body with `list-keys`, older ones do not, and nothing tells them apart.
                self._body_may_follow = False
                return
            self._header = decode_header(value, self._header)
        except DecodeError as error:
            self._shared.log.error("failed to decode request header", error=str(error), from_=self.peer)
            raise _Ended from None
        self._body_may_follow = False
        command = self._header.command
        if not self._greeted and command != "handshake":
            await self._refuse(HANDSHAKE_REQUIRED, HANDSHAKE_REQUIRED)
        try:
            await self._obey(command)
        except DecodeError as error:
            self._shared.log.error("failed to decode request body", command=command, error=str(error), from_=self.peer)
            raise _Ended from None

    async def _obey(self, name: str) -> None:
        if name == "handshake":
            await self._answer(self._handshake(decode_body(Handshake, await self._body())))
        elif name == "monitor":
            await self._monitor(decode_body(Monitor, await self._body()))
        elif name == "stop":
            await self._stop(decode_body(Stop, await self._body()))
        else:
            await self._command(name)

    async def _command(self, name: str) -> None:
        command = self._shared.handlers.table.get(name)
        if command is None:
            await self._refuse(UNSUPPORTED_COMMAND, f"command '{name}' not recognized")
            return
        body = None if command.form is None else decode_body(command.form, await self._body())
        if command.needs_local_peer and not self._may_command:
            await self._answer(Answer(command.empty, PERMISSION_DENIED))
            return
        # After the answer to `leave` the process ends at once: nothing may come between the two.
        answer = await command.answer(body, self._header.token)
        self._body_may_follow = name == LIST_KEYS
        await self._answer(answer)

    def _handshake(self, body: Handshake) -> Answer:
        if body.version != VERSION:
            return Answer(error="Unsupported RPC version")
        if self._greeted:
            return Answer(error="Handshake already performed")
        self._greeted = True
        return Answer()

    # --- monitor ----------------------------------------------------------------------------------------------

    async def _monitor(self, body: Monitor) -> None:
        shared, level = self._shared, body.log_level.upper()
        problem = ""
        if not self._may_command:
            problem = PERMISSION_DENIED
        elif level not in LEVELS:
            problem = f"Unknown log level: {level}"
        elif self._stream is not None:
            problem = "Monitor already exists"
        elif shared.monitors >= MONITORS_MAX:
            problem = TOO_MANY_MONITORS
        await self._answer(Answer(error=problem))
        if problem:
            return
        wake = asyncio.Event()
        tap = shared.actions.open_tap(level, wake.set)
        shared.monitors += 1
        task = asyncio.get_running_loop().create_task(self._pump(self._header.seq, tap, wake))
        self._stream = _Stream(self._header.seq, tap, task)

    async def _pump(self, seq: int, tap: Tap, wake: asyncio.Event) -> None:
        """Write the log's lines as fast as the client takes them; tell the log of those that it loses.

        That warning is a line too, which this client may lose in turn: hence once for many lines, not for each.
        """
        header = encode(ResponseHeader(seq=seq))
        told = 0
        try:
            while True:
                await wake.wait()
                wake.clear()
                for line in tap.take():
                    self._writer.write(header + encode(LogRecord(log=line)))
                    while not await self._drained():
                        told = self._tell_losses(tap, told)
                told = self._tell_losses(tap, told)
        except (OSError, NetError) as error:
            self._shared.log.debug("Monitor ended", from_=self.peer, error=str(error))

    async def _drained(self) -> bool:
        try:
            async with timeout(STALL_REPORT_S):
                await self._writer.drain()
        except TimeoutError:
            return False
        return True

    def _tell_losses(self, tap: Tap, told: int) -> int:
        lost = tap.dropped
        if lost > told:
            self._shared.log.warn("Dropping logs", client=self.peer, lines=lost - told)
        return tap.dropped

    async def _stop(self, body: Stop) -> None:
        if self._stream is not None and self._stream.seq == body.stop:
            await self.end_monitor()
        await self._answer(Answer())

    async def end_monitor(self) -> None:
        """End this connection's monitor, if there is one."""
        stream, self._stream = self._stream, None
        if stream is None:
            return
        self._shared.actions.close_tap(stream.tap)
        self._shared.monitors -= 1
        stream.task.cancel()
        await asyncio.gather(stream.task, return_exceptions=True)

    # --- bytes ------------------------------------------------------------------------------------------------

    async def _value(self) -> object:
        """The next object. Its first byte may take for ever, the others may not."""
        if (value := self._messages.next_value()) is not None:
            return value[0]
        if not len(self._messages):
            await self._read()
        return await self._body()

    async def _body(self) -> object:
        """The next object, which is due."""
        async with timeout(MESSAGE_TIMEOUT_S):
            while (value := self._messages.next_value()) is None:
                await self._read()
            return value[0]

    async def _read(self) -> None:
        data = await self._reader.read(READ_BYTES)
        if not data:
            raise _Ended
        self._messages.feed(data)

    async def _answer(self, answer: Answer) -> None:
        header = ResponseHeader(seq=self._header.seq, error=answer.error)
        self._writer.write(encode(header) if answer.body is None else encode(header, answer.body))
        async with timeout(WRITE_TIMEOUT_S):
            await self._writer.drain()

    async def _refuse(self, error: str, reason: str) -> None:
        """Answer with a header alone and end the conversation."""
        await self._answer(Answer(error=error))
        self._shared.log.error("Failed to evaluate request", error=reason, from_=self.peer)
        raise _Ended


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
