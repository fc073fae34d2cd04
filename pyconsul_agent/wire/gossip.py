"""The messages of memberlist: what agents say to each other on ports 8301 and 8302, before serf is spoken.

One message is a type byte and a msgpack map of Go field names in bytewise order (a user message: the type byte and raw
bytes). This room knows shapes only; the wrappers of packets are in `gossip_packet`, of streams in `gossip_stream`, and
what a message means is known to `swim`. Protocol: docs/protocol/gossip.md, sections 1 to 3.

>>> encode_message(Ping(sequence_number=1, node="n1")).hex()
'0082a44e6f6465a26e31a55365714e6f01'
>>> decode_message(bytes.fromhex('0082a44e6f6465a26e31a55365714e6f01')).node
'n1'
"""

from __future__ import annotations

import dataclasses
import enum
import ipaddress
from dataclasses import dataclass
from functools import cache
from typing import Any, TypeVar, cast

import msgpack

from pyconsul_agent.errors import DecodeError
from pyconsul_agent.structs.base import wire
from pyconsul_agent.wire.msgpack import build, encode

Address = tuple[str, int]
"""Where a packet goes: the IP address as text and the port."""

IPV4_LENGTH, IPV6_LENGTH = 4, 16
IPV4_MAPPED_PREFIX = bytes(10) + b"\xff\xff"
VERSIONS_LENGTH = 6
MAP_KEYS_MAX = 64
"""No memberlist map has more than eight keys; a longer header is not believed."""


class MessageType(enum.IntEnum):
    """The first byte of a message, a packet or a stream."""

    PING = 0
    INDIRECT_PING = 1
    ACK = 2
    SUSPECT = 3
    ALIVE = 4
    DEAD = 5
    PUSH_PULL = 6
    COMPOUND = 7
    USER = 8
    COMPRESS = 9
    ENCRYPT = 10
    NACK = 11
    HAS_CRC = 12
    ERROR = 13
    HAS_LABEL = 244


class NodeState(enum.IntEnum):
    """State of a node record; the numbers travel in push/pull."""

    ALIVE = 0
    SUSPECT = 1
    DEAD = 2
    LEFT = 3


@dataclass(frozen=True, slots=True)
class Ping:
    """Are you there? `source_*` say where to answer; absent ones mean the sender of the datagram."""

    sequence_number: int = wire("SeqNo", 0, bits=32)
    node: str = wire("Node", "")
    source_address: bytes = wire("SourceAddr", b"", omit_zero=True)
    source_port: int = wire("SourcePort", 0, bits=16, omit_zero=True)
    source_node: str = wire("SourceNode", "", omit_zero=True)


@dataclass(frozen=True, slots=True)
class IndirectPing:
    """Ask it for me. With `nack` the asked one says when it got no answer either."""

    sequence_number: int = wire("SeqNo", 0, bits=32)
    target: bytes = wire("Target", b"")
    port: int = wire("Port", 0, bits=16)
    node: str = wire("Node", "")
    nack: bool = wire("Nack", False)
    source_address: bytes = wire("SourceAddr", b"", omit_zero=True)
    source_port: int = wire("SourcePort", 0, bits=16, omit_zero=True)
    source_node: str = wire("SourceNode", "", omit_zero=True)


@dataclass(frozen=True, slots=True)
class Ack:
    """I am here; the payload is serf's coordinate."""

    sequence_number: int = wire("SeqNo", 0, bits=32)
    payload: bytes | None = wire("Payload", None)


@dataclass(frozen=True, slots=True)
class Nack:
    """It did not answer me either (but I am here)."""

    sequence_number: int = wire("SeqNo", 0, bits=32)


@dataclass(frozen=True, slots=True)
class ErrorReply:
    """Answer on a stream to something that cannot be read."""

    error: str = wire("Error", "")


@dataclass(frozen=True, slots=True)
class Suspect:
    """`sender` got no answer from `node`."""

    incarnation: int = wire("Incarnation", 0, bits=32)
    node: str = wire("Node", "")
    sender: str = wire("From", "")


@dataclass(frozen=True, slots=True)
class Alive:
    """`node` is alive there. `versions` is PMin PMax PCur DMin DMax DCur, one byte each."""

    incarnation: int = wire("Incarnation", 0, bits=32)
    node: str = wire("Node", "")
    address: bytes = wire("Addr", b"")
    port: int = wire("Port", 0, bits=16)
    meta: bytes | None = wire("Meta", None)
    versions: bytes = wire("Vsn", b"")


@dataclass(frozen=True, slots=True)
class Dead:
    """`node` is dead; when `sender` is the node itself, it left."""

    incarnation: int = wire("Incarnation", 0, bits=32)
    node: str = wire("Node", "")
    sender: str = wire("From", "")


@dataclass(frozen=True, slots=True)
class UserMessage:
    """A message of the layer above, opaque here."""

    data: bytes


@dataclass(frozen=True, slots=True)
class PushNodeState:
    """One node record in a push/pull."""

    name: str = wire("Name", "")
    address: bytes = wire("Addr", b"")
    port: int = wire("Port", 0, bits=16)
    meta: bytes | None = wire("Meta", None)
    incarnation: int = wire("Incarnation", 0, bits=32)
    state: int = wire("State", 0)
    versions: bytes = wire("Vsn", b"")


@dataclass(frozen=True, slots=True)
class PushPull:
    """Everything one side knows: its node records and the state of the layer above."""

    join: bool
    states: tuple[PushNodeState, ...]
    user_state: bytes


PacketMessage = Ping | IndirectPing | Ack | Nack | Suspect | Alive | Dead | UserMessage | ErrorReply
StreamMessage = PushPull | Ping | Ack | UserMessage | ErrorReply

M = TypeVar("M")

TYPE_OF: dict[type[Any], MessageType] = {
    Ping: MessageType.PING,
    IndirectPing: MessageType.INDIRECT_PING,
    Ack: MessageType.ACK,
    Nack: MessageType.NACK,
    Suspect: MessageType.SUSPECT,
    Alive: MessageType.ALIVE,
    Dead: MessageType.DEAD,
    ErrorReply: MessageType.ERROR,
}
FORM_OF: dict[int, type[Any]] = {int(number): form for form, number in TYPE_OF.items()}
_TYPE_BYTE = {form: bytes((number,)) for form, number in TYPE_OF.items()}


def encode_message(message: PacketMessage) -> bytes:
    """Type byte and body of one message."""
    if type(message) is UserMessage:
        return b"\x08" + message.data
    return _TYPE_BYTE[type(message)] + encode(message)


def decode_message(data: bytes) -> PacketMessage:
    """One message without wrappers. Bytes after the map are ignored, as peers do. Raises DecodeError."""
    if not data:
        raise DecodeError("empty message")
    kind = data[0]
    if kind == MessageType.USER:
        return UserMessage(data[1:])
    form = FORM_OF.get(kind)
    if form is None:
        raise DecodeError(f"unknown message type {kind}")
    value, _ = unpack_first(data, 1)
    message: PacketMessage = checked(form, value)
    return message


def unpack_first(data: bytes, start: int = 0) -> tuple[Any, int]:
    """The msgpack value that begins at `start` and the offset after it. Raises DecodeError, also when cut short."""
    room = len(data) - start
    unpacker = bounded_unpacker(max(room, 1))
    unpacker.feed(memoryview(data)[start:])
    try:
        return unpacker.unpack(), start + unpacker.tell()
    except msgpack.OutOfData as error:
        raise DecodeError("msgpack value cut short", offset=start) from error
    except UNPACK_ERRORS as error:
        raise DecodeError(f"malformed msgpack: {type(error).__name__}: {error}"[:200], offset=start) from error


UNPACK_ERRORS = (ValueError, msgpack.UnpackException, RecursionError, TypeError)


def bounded_unpacker(bytes_max: int) -> Any:
    """An unpacker that believes no length: nothing longer than `bytes_max`, no list or map beyond what we send."""
    return msgpack.Unpacker(
        raw=True,
        strict_map_key=False,
        max_buffer_size=bytes_max,
        max_str_len=bytes_max,
        max_bin_len=bytes_max,
        max_ext_len=bytes_max,
        max_array_len=MAP_KEYS_MAX,
        max_map_len=MAP_KEYS_MAX,
    )


def checked(form: type[M], value: Any) -> M:
    """`value` as `form`, its integers within their width. Raises DecodeError."""
    message = build(form, value)
    for attribute, limit in _widths(cast(Any, form)):
        number = getattr(message, attribute)
        if not 0 <= number < limit:
            raise DecodeError(f"{form.__name__}.{attribute} is out of range: {number}")
    return message


@cache
def _widths(form: Any) -> tuple[tuple[str, int], ...]:
    return tuple(
        (field.name, 1 << field.metadata["bits"]) for field in dataclasses.fields(form) if "bits" in field.metadata
    )


def address_text(raw: bytes) -> str:
    """4 or 16 bytes as address text; a mapped IPv4 address is shown as IPv4. Raises DecodeError on other lengths."""
    if len(raw) == IPV6_LENGTH and raw.startswith(IPV4_MAPPED_PREFIX):
        raw = raw[12:]
    if len(raw) == IPV4_LENGTH:
        return f"{raw[0]}.{raw[1]}.{raw[2]}.{raw[3]}"
    if len(raw) == IPV6_LENGTH:
        return str(ipaddress.IPv6Address(raw))
    raise DecodeError(f"an address has 4 or 16 bytes, not {len(raw)}")


def address_bytes(text: str) -> bytes:
    """Address text as 4 or 16 bytes; ValueError if it is no address."""
    return ipaddress.ip_address(text).packed
