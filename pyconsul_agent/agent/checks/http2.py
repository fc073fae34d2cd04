"""Checks that speak HTTP/2: gRPC's health protocol and H2PING. `h2` is imported when the first such check runs.

The health protocol is one unary call, `grpc.health.v1.Health/Check`. Request and reply are a byte 0, the length in
four, and a message: field 1 is the service's name there, the serving status here.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import unquote

from pyconsul_agent.agent.checks.runners import TIMEOUT_S, Probe, Result
from pyconsul_agent.agent.checks.status import CRITICAL, PASSING
from pyconsul_agent.env.base import Net, Writer
from pyconsul_agent.env.timeouts import timeout
from pyconsul_agent.env.tls import client_context
from pyconsul_agent.errors import ConnectionLost, DecodeError, DialRefused, NetError, NetTimeout
from pyconsul_agent.structs.base import seconds
from pyconsul_agent.structs.catalog import CheckType

if TYPE_CHECKING:
    import h2.connection
    import h2.events

T = TypeVar("T")

REPLY_BYTES_MAX = 64 * 1024
READ_BYTES = 16 * 1024
HEALTH_PATH = "/grpc.health.v1.Health/Check"
SERVING = {0: "UNKNOWN", 1: "SERVING", 2: "NOT_SERVING", 3: "SERVICE_UNKNOWN"}
CODES = (
    "OK", "Canceled", "Unknown", "InvalidArgument", "DeadlineExceeded", "NotFound", "AlreadyExists",
    "PermissionDenied", "ResourceExhausted", "FailedPrecondition", "Aborted", "OutOfRange", "Unimplemented",
    "Internal", "Unavailable", "DataLoss", "Unauthenticated",
)  # fmt: skip
PING = b"consul\0\0"


class RPCFailed(Exception):
    """The call ended with this gRPC status; its text is gRPC's."""

    def __init__(self, code: str, text: str) -> None:
        super().__init__(f"rpc error: code = {code} desc = {text}")


def tls_context(check: CheckType) -> ssl.SSLContext:
    """For a check: the system's authorities, or none, and HTTP/2."""
    context = client_context(alpn=["h2"])
    if check.tls_skip_verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def split_target(target: str) -> tuple[str, str, int]:
    """`host:port[/service]` as (service, host, port). Raises ValueError."""
    address, _, service = target.partition("/")
    host, _, port = address.rpartition(":")
    if not port.isascii() or not port.isdigit() or not 0 < int(port) < 65536:
        raise ValueError(f"dial tcp: address {address}: missing port in address")
    return service, host.strip("[]") or "127.0.0.1", int(port)


def grpc_probe(check: CheckType, net: Net) -> Probe:
    """Ask a gRPC server for the health of a service, or of itself."""
    timeout_s = seconds(check.timeout) or TIMEOUT_S
    target = check.grpc

    async def probe() -> Result:
        try:
            service, host, port = split_target(target)
            context = tls_context(check) if check.grpc_use_tls else None
            async with timeout(timeout_s):
                status = await _over(net, host, port, context, check, lambda wire: _health(wire, service, target))
        except RPCFailed as error:
            return Result(CRITICAL, str(error))
        except (TimeoutError, NetTimeout):
            return Result(CRITICAL, str(RPCFailed("DeadlineExceeded", "context deadline exceeded")))
        except (NetError, OSError, ValueError) as error:
            why = _dial_text(target.partition("/")[0], error)
            text = f'connection error: desc = "transport: Error while dialing {why}"'
            return Result(CRITICAL, str(RPCFailed("Unavailable", text)))
        if status == 1:
            return Result(PASSING, f"gRPC check {target}: success")
        return Result(CRITICAL, f"gRPC {target} serving status: {SERVING.get(status, str(status))}")

    return probe


def h2ping_probe(check: CheckType, net: Net) -> Probe:
    """Send an HTTP/2 PING over TLS and wait for its answer."""
    timeout_s = seconds(check.timeout) or TIMEOUT_S
    target = check.h2ping

    async def probe() -> Result:
        connected = False

        async def ping(wire: Wire) -> None:
            nonlocal connected
            connected = True
            await _ping(wire)

        try:
            _, host, port = split_target(target)
            async with timeout(timeout_s):
                await _over(net, host, port, tls_context(check), check, ping)
        except (NetError, OSError, ValueError, TimeoutError, RPCFailed) as error:
            if not connected:
                return Result(CRITICAL, f"Failed to dial to {target}: {_dial_text(target, error)}")
            text = "context deadline exceeded" if isinstance(error, TimeoutError) else str(error)
            return Result(CRITICAL, f"HTTP2 ping failed: {text}")
        return Result(PASSING, "HTTP2 ping was successful")

    return probe


def _dial_text(address: str, error: Exception) -> str:
    if isinstance(error, DialRefused):
        return f"dial tcp {address}: connect: connection refused"
    if isinstance(error, (NetTimeout, TimeoutError)):
        return f"dial tcp {address}: i/o timeout"
    return str(error)


class Wire:
    """An HTTP/2 connection over a pair of streams; `events` waits for what the other side says."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        import h2.config
        import h2.connection

        self._reader = reader
        self._writer = writer
        config = h2.config.H2Configuration(client_side=True, header_encoding="utf-8")
        self.h2: h2.connection.H2Connection = h2.connection.H2Connection(config)
        self.h2.initiate_connection()

    async def flush(self) -> None:
        """Send what the connection has to say."""
        self._writer.write(self.h2.data_to_send())
        await self._writer.drain()

    async def events(self) -> list[h2.events.Event]:
        """The next events. Raises ConnectionLost when there will be none, DecodeError when they are no HTTP/2."""
        import h2.exceptions

        data = await self._reader.read(READ_BYTES)
        if not data:
            raise ConnectionLost("unexpected EOF")
        try:
            found = self.h2.receive_data(data)
        except h2.exceptions.ProtocolError as error:
            raise ConnectionLost(f"http2: {error}") from None
        await self.flush()
        return list(found)


async def _over(
    net: Net,
    host: str,
    port: int,
    context: ssl.SSLContext | None,
    check: CheckType,
    work: Callable[[Wire], Awaitable[T]],
) -> T:
    """Connect, work, close. Raises NetError."""
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader(loop=loop)
    transport, protocol = await net.connect(
        lambda: asyncio.StreamReaderProtocol(reader, loop=loop),
        host,
        port,
        timeout_s=seconds(check.timeout) or TIMEOUT_S,
        tls=context,
        server_name=(check.tls_server_name or host) if context is not None else None,
    )
    writer = Writer(transport, protocol, reader, loop)
    try:
        if context is not None:
            agreed = transport.get_extra_info("ssl_object")
            if agreed is not None and agreed.selected_alpn_protocol() != "h2":
                raise ConnectionLost("http2: unexpected ALPN protocol; want h2")
        return await work(Wire(reader, writer))
    finally:
        writer.close()


async def _ping(wire: Wire) -> None:
    import h2.events

    wire.h2.ping(PING)
    await wire.flush()
    while True:
        for event in await wire.events():
            if isinstance(event, h2.events.PingAckReceived) and event.ping_data == PING:
                return
            if isinstance(event, h2.events.ConnectionTerminated):
                raise ConnectionLost("http2: server sent GOAWAY and closed the connection")


async def _health(wire: Wire, service: str, target: str) -> int:
    """The serving status. Raises RPCFailed."""
    import h2.events

    name = service.encode()
    message = b"\x0a" + _varint(len(name)) + name if name else b""
    stream = wire.h2.get_next_available_stream_id()
    headers = [
        (":method", "POST"), (":scheme", "http"), (":path", HEALTH_PATH), (":authority", target.partition("/")[0]),
        ("content-type", "application/grpc"), ("user-agent", "consul-health-check"), ("te", "trailers"),
    ]  # fmt: skip
    wire.h2.send_headers(stream, headers)
    wire.h2.send_data(stream, b"\0" + len(message).to_bytes(4, "big") + message, end_stream=True)
    await wire.flush()
    body, told = bytearray(), dict[str, str]()
    while True:
        for event in await wire.events():
            if isinstance(event, h2.events.ResponseReceived | h2.events.TrailersReceived):
                told.update((str(key), str(value)) for key, value in event.headers or ())
            elif isinstance(event, h2.events.DataReceived):
                data = event.data or b""
                body += data
                if len(body) > REPLY_BYTES_MAX:
                    raise RPCFailed("ResourceExhausted", "grpc: received message larger than max")
                wire.h2.acknowledge_received_data(event.flow_controlled_length or 0, stream)
            elif isinstance(event, h2.events.StreamEnded):
                return _status(told, bytes(body))
            elif isinstance(event, h2.events.StreamReset):
                raise RPCFailed("Internal", f"stream terminated by RST_STREAM with error code: {event.error_code}")
            elif isinstance(event, h2.events.ConnectionTerminated):
                raise RPCFailed("Unavailable", "transport is closing")


def _status(told: dict[str, str], body: bytes) -> int:
    """What headers, trailers and body say. Raises RPCFailed."""
    if told.get(":status", "200") != "200":
        raise RPCFailed("Unavailable", f"unexpected HTTP status code received from server: {told[':status']}")
    code = told.get("grpc-status", "2")
    if code != "0":
        number = int(code) if code.isascii() and code.isdigit() and len(code) < 4 else 2
        name = CODES[number] if number < len(CODES) else f"Code({number})"
        raise RPCFailed(name, unquote(told.get("grpc-message", "")))
    try:
        return serving_status(body)
    except DecodeError as error:
        raise RPCFailed("Internal", f"grpc: failed to unmarshal the received message {error}") from None


def serving_status(body: bytes) -> int:
    """The status in a reply: one message, plain, field 1 a varint (0 if absent). Raises DecodeError."""
    if len(body) < 5 or body[0] != 0 or int.from_bytes(body[1:5], "big") != len(body) - 5:
        raise DecodeError("not one plain message")
    position, status = 5, 0
    while position < len(body):
        key, position = _read_varint(body, position)
        if key & 7 == 0:
            value, position = _read_varint(body, position)
            status = value if key >> 3 == 1 else status
        elif key & 7 == 2:
            length, position = _read_varint(body, position)
            position += length
            if position > len(body):
                raise DecodeError("a field ends behind the message", offset=position)
        else:
            raise DecodeError(f"wire type {key & 7}", offset=position)
    return status


def _varint(number: int) -> bytes:
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def _read_varint(data: bytes, position: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if position >= len(data):
            raise DecodeError("a number is cut off", offset=position)
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
    raise DecodeError("a number is too long", offset=position)
