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
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Any, TypeVar, cast, dataclass_transform

import msgpack

from pyconsul_agent.errors import DecodeError
from pyconsul_agent.structs.base import wire
from pyconsul_agent.wire.msgpack import TEXT_ERRORS, build, encode

Address = tuple[str, int]
"""Where a packet goes: the IP address as text and the port."""

IPV4_LENGTH, IPV6_LENGTH = 4, 16
IPV4_MAPPED_PREFIX = bytes(10) + b"\xff\xff"
VERSIONS_LENGTH = 6
MAP_KEYS_MAX = 64
"""No memberlist map has more than eight keys; a longer header is not believed."""


ADDRESSES_REMEMBERED = 4096
"""Address texts whose bytes are kept: every packet carries a few of them, and they are always the same."""
UINT16_MAX, UINT32_MAX = (1 << 16) - 1, (1 << 32) - 1

ClassT = TypeVar("ClassT")


@dataclass_transform(frozen_default=True, field_specifiers=(wire,))
def message(cls: type[ClassT]) -> type[ClassT]:
    """A message: as `structs.base.struct`, immutable by type checking because packets bring them by the hundred, but
    its fields may be given by position.
    """
    return dataclass(slots=True, unsafe_hash=True)(cls)


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


@message
class Ping:
    """Are you there? `source_*` say where to answer; absent ones mean the sender of the datagram."""

    sequence_number: int = wire("SeqNo", default=0, bits=32)
    node: str = wire("Node", default="")
    source_address: bytes = wire("SourceAddr", default=b"", omit_zero=True)
    source_port: int = wire("SourcePort", default=0, bits=16, omit_zero=True)
    source_node: str = wire("SourceNode", default="", omit_zero=True)


@message
class IndirectPing:
    """Ask it for me. With `nack` the asked one says when it got no answer either."""

    sequence_number: int = wire("SeqNo", default=0, bits=32)
    target: bytes = wire("Target", default=b"")
    port: int = wire("Port", default=0, bits=16)
    node: str = wire("Node", default="")
    nack: bool = wire("Nack", default=False)
    source_address: bytes = wire("SourceAddr", default=b"", omit_zero=True)
    source_port: int = wire("SourcePort", default=0, bits=16, omit_zero=True)
    source_node: str = wire("SourceNode", default="", omit_zero=True)


@message
class Ack:
    """I am here; the payload is serf's coordinate."""

    sequence_number: int = wire("SeqNo", default=0, bits=32)
    payload: bytes | None = wire("Payload", default=None)


@message
class Nack:
    """It did not answer me either (but I am here)."""

    sequence_number: int = wire("SeqNo", default=0, bits=32)


@message
class ErrorReply:
    """Answer on a stream to something that cannot be read."""

    error: str = wire("Error", default="")


@message
class Suspect:
    """`sender` got no answer from `node`."""

    incarnation: int = wire("Incarnation", default=0, bits=32)
    node: str = wire("Node", default="")
    sender: str = wire("From", default="")


@message
class Alive:
    """`node` is alive there. `versions` is PMin PMax PCur DMin DMax DCur, one byte each."""

    incarnation: int = wire("Incarnation", default=0, bits=32)
    node: str = wire("Node", default="")
    address: bytes = wire("Addr", default=b"")
    port: int = wire("Port", default=0, bits=16)
    meta: bytes | None = wire("Meta", default=None)
    versions: bytes = wire("Vsn", default=b"")


@message
class Dead:
    """`node` is dead; when `sender` is the node itself, it left."""

    incarnation: int = wire("Incarnation", default=0, bits=32)
    node: str = wire("Node", default="")
    sender: str = wire("From", default="")


@message
class UserMessage:
    """A message of the layer above, opaque here."""

    data: bytes


@message
class PushNodeState:
    """One node record in a push/pull."""

    name: str = wire("Name", default="")
    address: bytes = wire("Addr", default=b"")
    port: int = wire("Port", default=0, bits=16)
    meta: bytes | None = wire("Meta", default=None)
    incarnation: int = wire("Incarnation", default=0, bits=32)
    state: int = wire("State", default=0)
    versions: bytes = wire("Vsn", default=b"")


@message
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
    encoder = _ENCODERS.get(type(message))
    if encoder is not None:
        return encoder(message)
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
    message: PacketMessage = checked(form, unpack_first(data, 1))
    return message


def unpack_first(data: bytes, start: int = 0) -> Any:
    """The msgpack value that begins at `start`. Raises DecodeError, also when cut short."""
    try:
        return msgpack.unpackb(
            data[start:], raw=True, strict_map_key=False, max_array_len=MAP_KEYS_MAX, max_map_len=MAP_KEYS_MAX
        )
    except msgpack.ExtraData as more:
        return more.unpacked
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
    """`value` as `form`, its integers within their width. Raises DecodeError.

    Also taken, as the original does: a struct as the list of its fields in Go's order, and bytes as a list of integers.
    """
    quick = _DECODERS.get(form)
    if quick is not None and type(value) is dict:
        found = quick(value.get)
        if found is not None:
            return cast(M, found)
    message = build(form, _as_map(form, value))
    for attribute, limit in _widths(cast(Any, form)):
        number = getattr(message, attribute)
        if not 0 <= number < limit:
            raise DecodeError(f"{form.__name__}.{attribute} is out of range: {number}")
    return message


def _as_map(form: Any, value: Any) -> Any:
    names = _names(form)
    if type(value) is list and value:
        value = dict(zip((name for name, _ in names), value, strict=False))
    if type(value) is not dict:
        return value
    lists = {name: _bytes_of(value[name]) for name, raw in names if raw and type(value.get(name)) is list}
    return value | lists if lists else value


def _bytes_of(items: list[Any]) -> bytes:
    if not all(type(item) is int and 0 <= item <= 255 for item in items):
        raise DecodeError("cannot decode array as bytes")
    return bytes(items)


@cache
def _names(form: Any) -> tuple[tuple[bytes, bool], ...]:
    """The fields of `form` in Go's order, by their name on the wire, and whether they are bytes."""
    return tuple(
        (field.metadata["wire"].encode(), str(field.type) in ("bytes", "bytes | None"))
        for field in dataclasses.fields(form)
    )


@cache
def _widths(form: Any) -> tuple[tuple[str, int], ...]:
    return tuple(
        (field.name, 1 << field.metadata["bits"]) for field in dataclasses.fields(form) if "bits" in field.metadata
    )


# --- the frequent ones ----------------------------------------------------------------------------------------
#
# A packet of 1,400 bytes holds up to thirty messages, so these are written out. A decoder gives None for anything that
# is not exactly what agents send; `build` then decides what it is, or why it is refused.

_pack = msgpack.Packer(use_bin_type=False, unicode_errors=TEXT_ERRORS).pack
"""Only the event loop's thread makes gossip messages."""

Get = Callable[[bytes], Any]


def _encode_accusation(message: Suspect | Dead) -> bytes:
    kind = b"\x03" if type(message) is Suspect else b"\x05"
    body: bytes = _pack({"From": message.sender, "Incarnation": message.incarnation, "Node": message.node})
    return kind + body


def _encode_alive(message: Alive) -> bytes:
    body: bytes = _pack(
        {
            "Addr": message.address,
            "Incarnation": message.incarnation,
            "Meta": message.meta,
            "Node": message.node,
            "Port": message.port,
            "Vsn": message.versions,
        }
    )
    return b"\x04" + body


def encode_state(state: PushNodeState) -> bytes:
    """One node record of a push/pull."""
    body: bytes = _pack(
        {
            "Addr": state.address,
            "Incarnation": state.incarnation,
            "Meta": state.meta,
            "Name": state.name,
            "Port": state.port,
            "State": state.state,
            "Vsn": state.versions,
        }
    )
    return body


def _encode_ack(message: Ack) -> bytes:
    body: bytes = _pack({"Payload": message.payload, "SeqNo": message.sequence_number})
    return b"\x02" + body


def _encode_ping(message: Ping) -> bytes:
    values: dict[str, Any] = {"Node": message.node, "SeqNo": message.sequence_number}
    if message.source_address:
        values["SourceAddr"] = message.source_address
    if message.source_node:
        values["SourceNode"] = message.source_node
    if message.source_port:
        values["SourcePort"] = message.source_port
    body: bytes = _pack(values)
    return b"\x00" + body


def _encode_user(message: UserMessage) -> bytes:
    return b"\x08" + message.data


_ENCODERS: dict[type[Any], Callable[[Any], bytes]] = {
    Suspect: _encode_accusation,
    Dead: _encode_accusation,
    Alive: _encode_alive,
    Ack: _encode_ack,
    Ping: _encode_ping,
    UserMessage: _encode_user,
}


def _accusation(form: type[Suspect | Dead]) -> Callable[[Get], Suspect | Dead | None]:
    def quick(get: Get) -> Suspect | Dead | None:
        incarnation, node, sender = get(b"Incarnation"), get(b"Node"), get(b"From")
        if type(incarnation) is int and 0 <= incarnation <= UINT32_MAX and type(node) is type(sender) is bytes:
            return form(incarnation, node.decode("utf-8", TEXT_ERRORS), sender.decode("utf-8", TEXT_ERRORS))
        return None

    return quick


def _alive(get: Get) -> Alive | None:
    incarnation, node, address, port = get(b"Incarnation"), get(b"Node"), get(b"Addr"), get(b"Port")
    meta, versions = get(b"Meta"), get(b"Vsn")
    if (
        type(incarnation) is type(port) is int
        and 0 <= incarnation <= UINT32_MAX
        and 0 <= port <= UINT16_MAX
        and type(node) is type(address) is type(versions) is bytes
        and (meta is None or type(meta) is bytes)
    ):
        return Alive(incarnation, node.decode("utf-8", TEXT_ERRORS), address, port, meta, versions)
    return None


def _state(get: Get) -> PushNodeState | None:
    name, state = get(b"Name"), get(b"State")
    incarnation, address, port = get(b"Incarnation"), get(b"Addr"), get(b"Port")
    meta, versions = get(b"Meta"), get(b"Vsn")
    if (
        type(incarnation) is type(port) is type(state) is int
        and 0 <= incarnation <= UINT32_MAX
        and 0 <= port <= UINT16_MAX
        and type(name) is type(address) is type(versions) is bytes
        and (meta is None or type(meta) is bytes)
    ):
        return PushNodeState(name.decode("utf-8", TEXT_ERRORS), address, port, meta, incarnation, state, versions)
    return None


def _ack(get: Get) -> Ack | None:
    number, payload = get(b"SeqNo"), get(b"Payload")
    if type(number) is int and 0 <= number <= UINT32_MAX and (payload is None or type(payload) is bytes):
        return Ack(number, payload)
    return None


def _ping(get: Get) -> Ping | None:
    number, node = get(b"SeqNo"), get(b"Node")
    address, port, source = get(b"SourceAddr"), get(b"SourcePort"), get(b"SourceNode")
    if (
        type(number) is type(port) is int
        and 0 <= number <= UINT32_MAX
        and 0 <= port <= UINT16_MAX
        and type(node) is type(address) is type(source) is bytes
    ):
        return Ping(number, node.decode("utf-8", TEXT_ERRORS), address, port, source.decode("utf-8", TEXT_ERRORS))
    return None


_DECODERS: dict[type[Any], Callable[[Get], Any]] = {
    Suspect: _accusation(Suspect),
    Dead: _accusation(Dead),
    Alive: _alive,
    PushNodeState: _state,
    Ack: _ack,
    Ping: _ping,
}


# --- addresses --------------------------------------------------------------------------------------------------


def address_text(raw: bytes) -> str:
    """4 or 16 bytes as address text; a mapped IPv4 address is shown as IPv4. Raises DecodeError on other lengths."""
    if len(raw) == IPV6_LENGTH and raw.startswith(IPV4_MAPPED_PREFIX):
        raw = raw[12:]
    if len(raw) == IPV4_LENGTH:
        return f"{raw[0]}.{raw[1]}.{raw[2]}.{raw[3]}"
    if len(raw) == IPV6_LENGTH:
        return str(ipaddress.IPv6Address(raw))
    raise DecodeError(f"an address has 4 or 16 bytes, not {len(raw)}")


@lru_cache(maxsize=ADDRESSES_REMEMBERED)
def address_bytes(text: str) -> bytes:
    """Address text as 4 or 16 bytes; ValueError if it is no address."""
    return ipaddress.ip_address(text).packed
