"""Serf's messages: what travels inside memberlist's user messages (type 8), and what hides in payloads and node Meta.

Knows bytes only; what a message does to a member is `serf.core`. Layout of a message (docs/protocol/gossip.md 9)::

    | type u8 | msgpack map, Go field names in byte order |            all but
    | 9       | msgpack map {DestAddr, DestName} | serf message |      relay

>>> encode(JoinIntent(ltime=5, node="b")).hex()
'0182a54c54696d6505a44e6f6465a162'
>>> decode(bytes.fromhex("0182a54c54696d6505a44e6f6465a162"))
JoinIntent(ltime=5, node='b')

Readers are as lenient as the original: bytes after the map are ignored, missing fields are zero, unknown ones skipped.
Numbers that do not fit their Go type are refused. Every decoder raises DecodeError and nothing else.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, TypeVar, cast

import msgpack

from pyconsul_agent.errors import DecodeError
from pyconsul_agent.structs.base import wire
from pyconsul_agent.structs.coordinate import VivaldiCoordinate
from pyconsul_agent.wire.msgpack import TEXT_ERRORS, build, pack, plain

T = TypeVar("T")

UINT8_MAX, UINT16_MAX, UINT32_MAX, UINT64_MAX = (1 << 8) - 1, (1 << 16) - 1, (1 << 32) - 1, (1 << 64) - 1
CONTAINER_ITEMS_MAX = 1 << 17
"""Items of one list or map. Far more members or events than one push/pull of 20 MiB describes in practice."""

TAGS_MAGIC = 0xFF
SHARED_TEXT_MAX = 20
"""Node IDs are longer, and differ; other tags of two members are mostly alike."""
META_BYTES_MAX = 512

QUERY_FLAG_ACK = 1
QUERY_FLAG_NO_BROADCAST = 2

FILTER_NODES, FILTER_TAG = 0, 1

PING_VERSION = 1
"""First byte of the coordinate payload in acks."""
_PING_VERSION_BYTE = bytes([PING_VERSION])


# --- messages -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaveIntent:
    """`node` is about to leave, or shall be taken as left; `prune` erases it at once."""

    TYPE: ClassVar[int] = 0
    ltime: int = wire("LTime", 0)
    node: str = wire("Node", "")
    prune: bool = wire("Prune", False)


@dataclass(frozen=True, slots=True, kw_only=True)
class JoinIntent:
    """`node` has joined, or denies having left."""

    TYPE: ClassVar[int] = 1
    ltime: int = wire("LTime", 0)
    node: str = wire("Node", "")


@dataclass(frozen=True, slots=True, kw_only=True)
class EventBody:
    """Name and payload of a user event in a push/pull."""

    name: str = wire("Name", "")
    payload: bytes | None = wire("Payload", None)


@dataclass(frozen=True, slots=True, kw_only=True)
class EventSlot:
    """The user events of one Lamport time."""

    ltime: int = wire("LTime", 0)
    events: tuple[EventBody, ...] | None = wire("Events", None)


@dataclass(frozen=True, slots=True, kw_only=True)
class PushPullState:
    """Serf's part of a push/pull: clocks, the status time of every member, recent user events (ring, gaps are None)."""

    TYPE: ClassVar[int] = 2
    ltime: int = wire("LTime", 0)
    status_ltimes: Mapping[str, int] | None = wire("StatusLTimes", None)
    left_members: tuple[str, ...] | None = wire("LeftMembers", None)
    event_ltime: int = wire("EventLTime", 0)
    events: tuple[EventSlot | None, ...] | None = wire("Events", None)
    query_ltime: int = wire("QueryLTime", 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class UserEventMessage:
    """A user event; `coalesce` allows receivers to deliver only the newest of a name."""

    TYPE: ClassVar[int] = 3
    ltime: int = wire("LTime", 0)
    name: str = wire("Name", "")
    payload: bytes | None = wire("Payload", None)
    coalesce: bool = wire("CC", False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """A question to all nodes that pass every filter; answers go to `address`:`port`. `timeout` in nanoseconds."""

    TYPE: ClassVar[int] = 4
    ltime: int = wire("LTime", 0)
    id: int = wire("ID", 0)
    address: bytes | None = wire("Addr", None)
    port: int = wire("Port", 0)
    source_node: str = wire("SourceNode", "")
    filters: tuple[bytes, ...] | None = wire("Filters", None)
    flags: int = wire("Flags", 0)
    relay_factor: int = wire("RelayFactor", 0)
    timeout: int = wire("Timeout", 0)
    name: str = wire("Name", "")
    payload: bytes | None = wire("Payload", None)


@dataclass(frozen=True, slots=True, kw_only=True)
class QueryResponse:
    """An answer to a query, or (flag 1) the mere sign that it arrived."""

    TYPE: ClassVar[int] = 5
    ltime: int = wire("LTime", 0)
    id: int = wire("ID", 0)
    from_: str = wire("From", "")
    flags: int = wire("Flags", 0)
    payload: bytes | None = wire("Payload", None)


@dataclass(frozen=True, slots=True, kw_only=True)
class ConflictResponse:
    """Payload that answers `_serf_conflict`: what the answering node knows of that name. See `encode_conflict`."""

    TYPE: ClassVar[int] = 6
    name: str = wire("Name", "")
    address: bytes | None = wire("Addr", None)
    port: int = wire("Port", 0)
    tags: Mapping[str, str] | None = wire("Tags", None)
    status: int = wire("Status", 0)
    protocol_min: int = wire("ProtocolMin", 0)
    protocol_max: int = wire("ProtocolMax", 0)
    protocol_current: int = wire("ProtocolCur", 0)
    delegate_min: int = wire("DelegateMin", 0)
    delegate_max: int = wire("DelegateMax", 0)
    delegate_current: int = wire("DelegateCur", 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyRequest:
    """Payload of a key-management query; the key is empty for list-keys."""

    TYPE: ClassVar[int] = 7
    key: bytes | None = wire("Key", None)


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyResponse:
    """Payload that answers a key-management query; keys are base64 text."""

    TYPE: ClassVar[int] = 8
    result: bool = wire("Result", False)
    message: str = wire("Message", "")
    keys: tuple[str, ...] | None = wire("Keys", None)
    primary_key: str = wire("PrimaryKey", "")


@dataclass(frozen=True, slots=True, kw_only=True)
class RelayAddress:
    """Go's net.UDPAddr."""

    ip: bytes | None = wire("IP", None)
    port: int = wire("Port", 0)
    zone: str = wire("Zone", "")


@dataclass(frozen=True, slots=True, kw_only=True)
class Relay:
    """`inner`, a serf message with its type byte, is to be forwarded to `destination` as it is."""

    TYPE: ClassVar[int] = 9
    destination: RelayAddress = wire("DestAddr", RelayAddress())
    destination_name: str = wire("DestName", "")
    inner: bytes = field(default=b"", metadata={"wire": ""})


Message = (
    LeaveIntent
    | JoinIntent
    | PushPullState
    | UserEventMessage
    | Query
    | QueryResponse
    | ConflictResponse
    | KeyRequest
    | KeyResponse
    | Relay
)


def encode(message: Message) -> bytes:
    """Type byte and body."""
    body = plain(message)
    tail = b""
    if isinstance(message, PushPullState) and message.status_ltimes is not None:
        body["StatusLTimes"] = dict(sorted(message.status_ltimes.items()))
    elif isinstance(message, ConflictResponse) and message.tags is not None:
        body["Tags"] = dict(sorted(message.tags.items()))
    elif isinstance(message, Relay):
        del body[""]
        tail = message.inner
    return bytes([message.TYPE]) + pack(body) + tail


def decode(data: bytes) -> Message:
    """The serf message `data`, type byte first. Raises DecodeError."""
    if not data:
        raise DecodeError("empty serf message")
    form = _FORMS.get(data[0])
    if form is None:
        raise DecodeError(f"serf message of unknown type {data[0]}", offset=0)
    value, end = _unpack_first(data, 1)
    message = cast(Message, build(form, value))
    _check_ranges(message)
    if isinstance(message, Relay):
        return Relay(destination=message.destination, destination_name=message.destination_name, inner=data[end:])
    return message


def decode_as(form: type[T], data: bytes) -> T:
    """As `decode`, for one expected kind. Raises DecodeError."""
    message = decode(data)
    if not isinstance(message, form):
        raise DecodeError(f"serf message of type {data[0]} instead of {form.__name__}", offset=0)
    return message


_FORMS: dict[int, Any] = {
    kind.TYPE: kind
    for kind in (
        LeaveIntent,
        JoinIntent,
        PushPullState,
        UserEventMessage,
        Query,
        QueryResponse,
        ConflictResponse,
        KeyRequest,
        KeyResponse,
        Relay,
    )
}


def encode_conflict(response: ConflictResponse | None) -> bytes:
    """The payload that answers `_serf_conflict`; None says that the name is unknown here."""
    return bytes([ConflictResponse.TYPE]) + b"\xc0" if response is None else encode(response)


def decode_conflict(data: bytes) -> ConflictResponse | None:
    """Inverse of `encode_conflict`. Raises DecodeError."""
    if data[:2] == bytes([ConflictResponse.TYPE]) + b"\xc0":
        return None
    return decode_as(ConflictResponse, data)


# --- filters --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeFilter:
    """Only these nodes are asked."""

    names: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class TagFilter:
    """Only nodes whose tag matches are asked: RE2, unanchored, on the value ("" when the tag is missing)."""

    tag: str = wire("Tag", "")
    expression: str = wire("Expr", "")


Filter = NodeFilter | TagFilter


def encode_filter(item: Filter) -> bytes:
    """One entry of `Query.filters`."""
    if isinstance(item, NodeFilter):
        return bytes([FILTER_NODES]) + pack(list(item.names))
    return bytes([FILTER_TAG]) + pack(plain(item))


def decode_filter(data: bytes) -> Filter:
    """One entry of `Query.filters`. Raises DecodeError, also on an unknown kind."""
    if not data:
        raise DecodeError("empty query filter")
    if data[0] not in (FILTER_NODES, FILTER_TAG):
        raise DecodeError(f"query filter of unknown type {data[0]}", offset=0)
    value, _ = _unpack_first(data, 1)
    if data[0] == FILTER_NODES:
        return NodeFilter(names=tuple(build(list[str], value)))
    return build(TagFilter, value)


# --- tags -----------------------------------------------------------------------------------------------------


def encode_tags(tags: Mapping[str, str]) -> bytes:
    """Node Meta: ff and a map of text. Keys sorted, so that equal tags are equal bytes (refutation compares them).

    >>> encode_tags({"role": "consul"}).hex()
    'ff81a4726f6c65a6636f6e73756c'
    """
    return bytes([TAGS_MAGIC]) + pack(dict(sorted(tags.items())))


def decode_tags(meta: bytes) -> dict[str, str]:
    """Tags of node Meta. Without the magic byte the whole text is the tag `role`. Raises DecodeError."""
    if not meta or meta[0] != TAGS_MAGIC:
        return {"role": meta.decode("utf-8", TEXT_ERRORS)}
    value, _ = _unpack_first(meta, 1)
    tags = build(cast(type[dict[str, str]], dict[str, str]), value)
    return {sys.intern(key): _shared(text) for key, text in tags.items()}


def _shared(text: str) -> str:
    """Members of a pool have nearly the same tags: short texts are kept once."""
    return sys.intern(text) if len(text) <= SHARED_TEXT_MAX else text


# --- coordinate in an ack ---------------------------------------------------------------------------------------


def encode_coordinate(coordinate: VivaldiCoordinate) -> bytes:
    """Payload of an ack: `01 | map {Adjustment, Error, Height, Vec}`."""
    body = pack(
        {
            "Adjustment": coordinate.adjustment,
            "Error": coordinate.error,
            "Height": coordinate.height,
            "Vec": coordinate.vec,
        }
    )
    return _PING_VERSION_BYTE + body


def decode_coordinate(payload: bytes) -> VivaldiCoordinate:
    """Payload of an ack. Raises DecodeError, also on another version."""
    if not payload or payload[0] != PING_VERSION:
        raise DecodeError("unsupported ping version")
    value, _ = _unpack_first(payload, 1)
    return build(VivaldiCoordinate, value)


# --- Consul's user event ----------------------------------------------------------------------------------------

CONSUL_EVENT_PREFIX = "consul:event:"
CONSUL_NEW_LEADER = "consul:new-leader"
CONSUL_EVENT_VERSION = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class ConsulEvent:
    """Payload of a `consul:event:<name>` user event. Filters are regular expressions, empty when absent."""

    id: str = wire("ID", "")
    name: str = wire("n", "")
    payload: bytes = wire("p", b"", omit_zero=True)
    node_filter: str = wire("nf", "", omit_zero=True)
    service_filter: str = wire("sf", "", omit_zero=True)
    tag_filter: str = wire("tf", "", omit_zero=True)
    version: int = wire("v", CONSUL_EVENT_VERSION)


def encode_consul_event(event: ConsulEvent) -> bytes:
    """The payload, in the new msgpack spec (str8, bin): the one place of gossip where real agents use it."""
    return cast(bytes, msgpack.packb(plain(event), use_bin_type=True, unicode_errors=TEXT_ERRORS))


def decode_consul_event(data: bytes) -> ConsulEvent:
    """The payload, old or new msgpack spec. Raises DecodeError."""
    value, _ = _unpack_first(data, 0)
    return build(ConsulEvent, value)


# --- inner workings -----------------------------------------------------------------------------------------------


def _unpack_first(data: bytes, offset: int) -> tuple[Any, int]:
    """The first msgpack value from `offset` on, and where it ends. Raises DecodeError."""
    size = max(len(data) - offset, 1)
    items = min(size, CONTAINER_ITEMS_MAX)
    try:
        unpacker = msgpack.Unpacker(
            raw=True, strict_map_key=False, max_buffer_size=size, max_array_len=items, max_map_len=items
        )
        unpacker.feed(memoryview(data)[offset:])
        value = unpacker.unpack()
        return value, offset + unpacker.tell()
    except (ValueError, TypeError, OverflowError, RecursionError, msgpack.UnpackException) as error:
        raise DecodeError(f"malformed msgpack: {type(error).__name__}: {error}"[:200], offset=offset) from error


_FIELD_MAXIMA = {
    "ltime": UINT64_MAX,
    "event_ltime": UINT64_MAX,
    "query_ltime": UINT64_MAX,
    "id": UINT32_MAX,
    "flags": UINT32_MAX,
    "port": UINT16_MAX,
    "relay_factor": UINT8_MAX,
}


def _check_ranges(message: Message) -> None:
    for name, maximum in _FIELD_MAXIMA.items():
        value = getattr(message, name, 0)
        if not 0 <= value <= maximum:
            raise DecodeError(f"{name} out of range: {value}")
    if isinstance(message, PushPullState):
        times = [*(message.status_ltimes or {}).values(), *(slot.ltime for slot in message.events or () if slot)]
        if any(not 0 <= time <= UINT64_MAX for time in times):
            raise DecodeError("Lamport time out of range")
    elif isinstance(message, Relay) and not 0 <= message.destination.port <= UINT16_MAX:
        raise DecodeError(f"port out of range: {message.destination.port}")
