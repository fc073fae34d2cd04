"""net/rpc over msgpack as Consul speaks it on port 8300 (docs/protocol/rpc.md#net-rpc).

A call is two msgpack values, header and body; so is its answer. Nothing frames them but msgpack itself, so
`MessageReader` finds their ends without building them: a body is handed on as the exact bytes that came, and a
forwarder passes them unchanged.

    >>> encode_request(1, "Status.Ping", EMPTY_BODY).hex()
    '82a353657101ad536572766963654d6574686f64ab5374617475732e50696e6780'

The texts of errors are protocol: clients of every version match on them.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from functools import lru_cache
from typing import Generic, TypeVar

import msgpack

from pyconsul_agent.errors import DecodeError
from pyconsul_agent.structs.base import wire
from pyconsul_agent.wire.msgpack import decode, encode

HeaderT = TypeVar("HeaderT")

BODY_BYTES_MAX = 64 * 1024 * 1024
NAMES_MAX, NAME_MAX = 512, 64
"""Names of methods that are kept encoded, and the length of one; both headers are written with every call."""
HEADER_BYTES_MAX = 256 * 1024
"""A response header carries an error text, which may quote a lot."""

EMPTY_BODY = b"\x80"
"""An empty map: the request of `Status.Ping`, the reply of methods without one, and the body of every error."""


class FirstByte(enum.IntEnum):
    """What a client says first on a new connection."""

    CONSUL = 0
    RAFT = 1
    MUXADO = 2
    TLS = 3
    YAMUX = 4
    SNAPSHOT = 5
    GOSSIP = 6
    TLS_INSECURE = 7
    GRPC = 8
    RAFT_FORWARDING = 9


@dataclass(frozen=True, slots=True)
class RequestHeader:
    """`seq` is the caller's and echoed unchanged."""

    seq: int = wire("Seq", 0)
    method: str = wire("ServiceMethod", "")


@dataclass(frozen=True, slots=True)
class ResponseHeader:
    """`error` is empty on success."""

    error: str = wire("Error", "")
    seq: int = wire("Seq", 0)
    method: str = wire("ServiceMethod", "")


def encode_request(seq: int, method: str, body: bytes) -> bytes:
    """A whole request; `body` is one msgpack value."""
    return b"\x82\xa3Seq%b%b%b" % (_number(seq), _named(method), body)


def encode_response(header: RequestHeader, body: bytes) -> bytes:
    """A successful answer to `header`."""
    return b"\x83\xa5Error\xa0\xa3Seq%b%b%b" % (_number(header.seq), _named(header.method), body)


def encode_error(header: RequestHeader, text: str) -> bytes:
    """A failed answer. An empty text would read as success, so it is replaced."""
    return encode(ResponseHeader(text or "unknown error", header.seq, header.method)) + EMPTY_BODY


def _number(seq: int) -> bytes:
    return bytes((seq,)) if 0 <= seq < 128 else encode(seq)


def _named(method: str) -> bytes:
    return _known_name(method) if len(method) <= NAME_MAX else _name(method)


def _name(method: str) -> bytes:
    """The last field of either header."""
    return b"\xadServiceMethod" + encode(method)


_known_name = lru_cache(maxsize=NAMES_MAX)(_name)


class MessageReader(Generic[HeaderT]):
    """Cuts a byte stream into (header, body bytes). After a DecodeError the stream cannot be used any more.

    Between messages there is no unpacker: one takes 44 KiB, and most streams of a busy agent wait, in blocking queries.
    """

    def __init__(self, header: type[HeaderT], *, body_bytes_max: int = BODY_BYTES_MAX) -> None:
        self._form = header
        self._body_bytes_max = body_bytes_max
        self._unpacker: msgpack.Unpacker | None = None
        self._raw = bytearray()
        self._consumed = 0
        self._header: HeaderT | None = None

    @property
    def buffered(self) -> int:
        """Bytes that were fed and not returned yet."""
        return len(self._raw)

    @property
    def in_message(self) -> bool:
        """Whether part of a message is there and the rest must come."""
        return bool(self._raw) or self._header is not None

    def feed(self, data: bytes) -> None:
        """Take bytes, cut anywhere. Raises DecodeError when far more than one message waits."""
        if self._unpacker is None:
            self._unpacker = msgpack.Unpacker(
                raw=True, strict_map_key=False, max_buffer_size=self._body_bytes_max + HEADER_BYTES_MAX + 2**20
            )
            self._consumed = 0
        try:
            self._unpacker.feed(data)
        except msgpack.BufferFull as error:
            raise DecodeError("message too large") from error
        self._raw += data

    def next(self) -> tuple[HeaderT, bytes] | None:
        """The next complete message, or None. Raises DecodeError."""
        if self._header is None:
            raw = self._value(HEADER_BYTES_MAX)
            if raw is None:
                return None
            self._header = self._decode_header(raw)
        body = self._value(self._body_bytes_max)
        if body is None:
            return None
        header, self._header = self._header, None
        if not self._raw:
            self._unpacker = None
        return header, body

    def _decode_header(self, raw: bytes) -> HeaderT:
        if raw[0] & 0xF0 != 0x80 and raw[0] not in (0xDE, 0xDF):
            raise DecodeError("an RPC header must be a map")
        return decode(self._form, raw)

    def _value(self, bytes_max: int) -> bytes | None:
        """The bytes of the next value. `skip` keeps its place, so a value that trickles in is scanned once."""
        if self._unpacker is None:
            return None
        try:
            self._unpacker.skip()
        except msgpack.OutOfData:
            if len(self._raw) > bytes_max:
                raise DecodeError("message too large") from None
            return None
        except (ValueError, msgpack.UnpackException, RecursionError) as error:
            raise DecodeError(f"malformed msgpack: {type(error).__name__}") from error
        end = self._unpacker.tell() - self._consumed
        if end > bytes_max:
            raise DecodeError("message too large")
        raw = bytes(memoryview(self._raw)[:end])
        del self._raw[:end]
        self._consumed += end
        return raw


# --- error texts ----------------------------------------------------------------------------------------------

CALL_PREFIX = "rpc error making call: "
CLIENT_PREFIX = "rpc error getting client: "
EOF = "EOF"
NO_LEADER = "No cluster leader"
LEADER_NOT_TRACKED = "Raft leader not found in server lookup mapping"
REMOTE_DATACENTER_UNREACHABLE = "Remote DC has no server currently reachable"
NOT_READY_FOR_CONSISTENT_READS = "Not ready to serve consistent reads"
RECHUNK = "please resubmit call for rechunking"


def call_failed(text: str) -> str:
    """As a hop through the pool words an error of the far end."""
    return CALL_PREFIX + text


def dial_failed(text: str) -> str:
    """As the pool words a connection that could not be made."""
    return f"{CLIENT_PREFIX}failed to get conn: {text}"


def stream_failed(text: str) -> str:
    """As the pool words a stream that could not be opened."""
    return f"{CLIENT_PREFIX}failed to start stream: {text}"


def decoder_failed(text: str) -> str:
    """A body that does not fit its struct."""
    return f"codec.decoder: {text}"


def unknown_method(name: str, services: set[str] | frozenset[str]) -> str:
    """Why `name` cannot be called, given the services that exist."""
    service, dot, _ = name.rpartition(".")
    if not dot:
        return f"rpc: service/method request ill-formed: {name}"
    if service not in services:
        return f"rpc: can't find service {name}"
    return f"rpc: can't find method {name}"


def is_eof(text: str) -> bool:
    """Whether an error says that the connection, not the call, failed."""
    return text == EOF or text.endswith(": EOF") or "stream closed" in text or "session shutdown" in text


def is_retryable(text: str, *, is_read: bool) -> bool:
    """Whether the same call may be made again: nothing can have been done, or doing it twice does no harm."""
    return NO_LEADER in text or RECHUNK in text or (is_read and is_eof(text))
