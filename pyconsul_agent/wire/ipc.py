"""The legacy RPC of 0.1 - 0.7 (port 8400): msgpack objects one after the other, a header and sometimes a body.

::

    request   {Command, Seq, Token} [body]         response   {Error, Seq} [body]

    82 a5 Error a0 a3 Seq 01                       success for the request with Seq 1

There is no framing, so the end of an object is found by walking its heads; `Messages` does that without decoding, and
so bounds the size and the number of values of a message before anything is allocated. Encoding is the newer msgpack
(str8, bin8); a struct is a map with sorted Go names, all present. Readers take text and bytes for each other, nil for
anything, unknown keys, and an array of the fields in the order in which they are declared here.

Knows no connection and no meaning of a command.
"""

from __future__ import annotations

import dataclasses
import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeVar, cast

import msgpack

from pyconsul_agent.errors import DecodeError
from pyconsul_agent.structs.base import wire
from pyconsul_agent.structs.member import Member
from pyconsul_agent.wire.msgpack import TEXT_ERRORS, build, plain, unpack

T = TypeVar("T")

VERSION = 1
MESSAGE_BYTES_MAX = 1024 * 1024
VALUES_MAX = 16_384
"""Values in one message, all levels together."""
DEPTH_MAX = 16

UINT64_MAX = 2**64 - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestHeader:
    """What every request begins with. `token` since 0.6."""

    command: str = wire("Command", "")
    seq: int = wire("Seq", 0)
    token: str = wire("Token", "")


@dataclass(frozen=True, slots=True, kw_only=True)
class OldRequestHeader:
    """The header of a 0.5 client."""

    command: str = wire("Command", "")
    seq: int = wire("Seq", 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class ResponseHeader:
    """What every answer begins with; no error is success."""

    seq: int = wire("Seq", 0)
    error: str = wire("Error", "")


@dataclass(frozen=True, slots=True, kw_only=True)
class Handshake:
    """Body of `handshake`."""

    version: int = wire("Version", 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class ForceLeave:
    """Body of `force-leave`."""

    node: str = wire("Node", "")


@dataclass(frozen=True, slots=True, kw_only=True)
class Join:
    """Body of `join`."""

    existing: tuple[str, ...] | None = wire("Existing", None)
    wan: bool = wire("WAN", False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Joined:
    """Answer to `join`: how many addresses answered."""

    num: int = wire("Num", 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Monitor:
    """Body of `monitor`."""

    log_level: str = wire("LogLevel", "")


@dataclass(frozen=True, slots=True, kw_only=True)
class LogRecord:
    """One line of a monitor's stream, without line end."""

    log: str = wire("Log", "")


@dataclass(frozen=True, slots=True, kw_only=True)
class Stop:
    """Body of `stop`: the Seq of the monitor to end."""

    stop: int = wire("Stop", 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyOperation:
    """Body of the keyring commands; `relay_factor` since 0.7."""

    key: str = wire("Key", "")
    relay_factor: int = wire("RelayFactor", 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class MemberRow:
    """A member; `address` is 4 or 16 bytes, `status` a word."""

    name: str = wire("Name", "")
    address: bytes | None = wire("Addr", None)
    port: int = wire("Port", 0)
    tags: Mapping[str, str] | None = wire("Tags", None)
    status: str = wire("Status", "")
    protocol_min: int = wire("ProtocolMin", 0)
    protocol_max: int = wire("ProtocolMax", 0)
    protocol_current: int = wire("ProtocolCur", 0)
    delegate_min: int = wire("DelegateMin", 0)
    delegate_max: int = wire("DelegateMax", 0)
    delegate_current: int = wire("DelegateCur", 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Members:
    """Answer to `members-lan` and `members-wan`."""

    members: tuple[MemberRow, ...] | None = wire("Members", None)


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyringInfo:
    """How a keyring operation went in one pool; `pool` is LAN or WAN."""

    datacenter: str = wire("Datacenter", "")
    pool: str = wire("Pool", "")
    num_nodes: int = wire("NumNodes", 0)
    error: str = wire("Error", "")


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyringEntry:
    """A key, and how many nodes of the pool have it."""

    datacenter: str = wire("Datacenter", "")
    pool: str = wire("Pool", "")
    key: str = wire("Key", "")
    count: int = wire("Count", 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyringMessage:
    """What one node said."""

    datacenter: str = wire("Datacenter", "")
    pool: str = wire("Pool", "")
    node: str = wire("Node", "")
    message: str = wire("Message", "")


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyringAnswer:
    """Answer to the keyring commands; what is empty travels as nil."""

    keys: tuple[KeyringEntry, ...] | None = wire("Keys", None)
    messages: tuple[KeyringMessage, ...] | None = wire("Messages", None)
    info: tuple[KeyringInfo, ...] | None = wire("Info", None)


def member_row(member: Member) -> MemberRow:
    """A member as this protocol shows it."""
    try:
        address = ipaddress.ip_address(member.address).packed
    except ValueError:
        address = b""
    return MemberRow(
        name=member.name,
        address=address,
        port=member.port,
        tags=dict(member.tags),
        status=member.status.word,
        protocol_min=member.protocol_min,
        protocol_max=member.protocol_max,
        protocol_current=member.protocol_current,
        delegate_min=member.delegate_min,
        delegate_max=member.delegate_max,
        delegate_current=member.delegate_current,
    )


# --- encoding and decoding -----------------------------------------------------------------------------------------


def encode(*objects: object) -> bytes:
    """Objects one after the other, as they go on the wire."""
    return b"".join(
        cast(bytes, msgpack.packb(plain(each), use_bin_type=True, unicode_errors=TEXT_ERRORS)) for each in objects
    )


def decode_body(form: type[T], value: object) -> T:
    """A body from `Messages`. Raises DecodeError."""
    body = build(form, _as_map(form, value))
    _check_ranges(body)
    return body


def decode_header(value: object, before: RequestHeader) -> RequestHeader:
    """A request's header from `Messages`; keys that it lacks keep the value of the header before. Raises DecodeError.

    # compat: the reference decodes every header of a connection into one struct (test_a_header_without_seq_...)
    """
    if value is None:
        return RequestHeader()
    fields = _as_map(RequestHeader, value)
    if not isinstance(fields, dict):
        raise DecodeError(f"a request's header is a map, not {type(value).__name__}")
    fresh = build(RequestHeader, fields)
    given = {name: getattr(fresh, name) for key, name in _HEADER_NAMES if key in fields}
    header = replace(before, **given)
    _check_ranges(header)
    return header


_HEADER_NAMES = tuple((field.metadata["wire"].encode(), field.name) for field in dataclasses.fields(RequestHeader))


def is_header(value: object) -> bool:
    """Whether a map names a command. The body that only newer clients send after `list-keys` does not."""
    return not isinstance(value, dict) or b"Command" in value


def _as_map(form: type, value: object) -> object:
    """An array of the fields in declared order as the map that it stands for; surplus items are skipped."""
    if not isinstance(value, list):
        return value
    names = [field.metadata["wire"].encode() for field in dataclasses.fields(form)]
    return dict(zip(names, value, strict=False))


_RANGES: Mapping[str, tuple[int, int]] = {
    "seq": (0, UINT64_MAX),
    "stop": (0, UINT64_MAX),
    "version": (-(2**31), 2**31 - 1),
    "relay_factor": (0, 255),
    "num": (-(2**31), 2**31 - 1),
}


def _check_ranges(body: Any) -> None:
    for field in dataclasses.fields(body):
        low, high = _RANGES.get(field.name, (0, 0))
        if high and not low <= getattr(body, field.name) <= high:
            raise DecodeError(f"{field.metadata['wire']} is out of range")


# --- the stream ----------------------------------------------------------------------------------------------------

# head byte -> (bytes of length field, fixed size after the head)
_LENGTHS = {0xC4: 1, 0xC5: 2, 0xC6: 4, 0xD9: 1, 0xDA: 2, 0xDB: 4}
_CONTAINERS = {0xDC: (2, 1), 0xDD: (4, 1), 0xDE: (2, 2), 0xDF: (4, 2)}
_SIZES = {
    0xC0: 0, 0xC2: 0, 0xC3: 0, 0xCA: 4, 0xCB: 8, 0xCC: 1, 0xCD: 2, 0xCE: 4, 0xCF: 8, 0xD0: 1, 0xD1: 2, 0xD2: 4, 0xD3: 8,
}  # fmt: skip


class Messages:
    """Cuts a stream of bytes into msgpack values. `feed` bytes, then call `next_value` until it gives None.

    After a DecodeError the stream is lost: there is no way to find the next message.
    """

    def __init__(self, *, bytes_max: int = MESSAGE_BYTES_MAX, values_max: int = VALUES_MAX) -> None:
        self._buffer = bytearray()
        self._bytes_max = bytes_max
        self._values_max = values_max
        self._position = 0
        self._values = 0
        self._open: list[int] = []

    def __len__(self) -> int:
        """Bytes that wait for the rest of their message."""
        return len(self._buffer)

    def feed(self, data: bytes) -> None:
        """Bytes from the peer. The caller takes every value before it feeds more, which bounds the buffer."""
        self._buffer += data

    def next_value(self) -> tuple[object] | None:
        """The next whole value, in a tuple as it may be nil; None when more bytes are needed. Raises DecodeError."""
        if not self._walk():
            if len(self._buffer) > self._bytes_max:
                raise DecodeError(f"a message is longer than {self._bytes_max} bytes")
            return None
        data = bytes(self._buffer[: self._position])
        del self._buffer[: self._position]
        self._position = self._values = 0
        return (unpack(data),)

    def _walk(self) -> bool:
        """Go on to the end of the message; True when it has been found."""
        buffer, size = self._buffer, len(self._buffer)
        while self._position < size:
            head = buffer[self._position]
            step = self._step(head, size)
            if step is None:
                return False
            length, children = step
            end = self._position + length
            if end > self._bytes_max:
                raise DecodeError(f"a message is longer than {self._bytes_max} bytes")
            if end > size:
                return False
            self._position = end
            self._count(children)
            if not self._open:
                return True
        return False

    def _count(self, children: int) -> None:
        self._values += 1
        if self._open:
            self._open[-1] -= 1
        if self._values + sum(self._open) + children > self._values_max:
            raise DecodeError(f"a message has more than {self._values_max} values")
        if children:
            self._open.append(children)
        if len(self._open) > DEPTH_MAX:
            raise DecodeError(f"a message is nested deeper than {DEPTH_MAX}")
        while self._open and not self._open[-1]:
            self._open.pop()

    def _step(self, head: int, size: int) -> tuple[int, int] | None:
        """(bytes, children) of the value that begins here; None when its length has not arrived yet."""
        if head < 0x80 or head >= 0xE0:
            return 1, 0
        if head < 0x90:
            return 1, 2 * (head & 15)
        if head < 0xA0:
            return 1, head & 15
        if head < 0xC0:
            return 1 + (head & 31), 0
        if head in _SIZES:
            return 1 + _SIZES[head], 0
        width = _LENGTHS.get(head) or _CONTAINERS.get(head, (0, 0))[0]
        if not width:
            raise DecodeError(f"msgpack type {head:#04x} does not belong here")
        if self._position + 1 + width > size:
            return None
        length = int.from_bytes(self._buffer[self._position + 1 : self._position + 1 + width], "big")
        if head in _LENGTHS:
            return 1 + width + length, 0
        return 1 + width, length * _CONTAINERS[head][1]
