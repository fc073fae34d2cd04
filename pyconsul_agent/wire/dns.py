r"""DNS messages: a parser that believes nothing, and a writer that compresses names as Go's DNS library does.

Names are text in presentation form with a final dot: octets outside printable ASCII are `\DDD` and special characters
have a backslash before them, so that a name compares with catalog names as Consul compares it. The writer also takes
raw text (catalog names) and sends it as UTF-8. What the records mean is not known here.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from struct import Struct
from struct import error as StructError
from typing import NamedTuple

from pyconsul_agent.errors import ConsulError, DecodeError

A, NS, CNAME, SOA, PTR, MX, TXT, AAAA, SRV, OPT, DS, AXFR, ANY = 1, 2, 5, 6, 12, 15, 16, 28, 33, 41, 43, 252, 255
IN = 1

NOERROR, FORMERR, SERVFAIL, NXDOMAIN, NOTIMP, REFUSED = 0, 1, 2, 3, 4, 5

QR, AA, TC, RD, RA, Z, AD, CD = 0x8000, 0x0400, 0x0200, 0x0100, 0x0080, 0x0040, 0x0020, 0x0010
OPCODE = 0x7800
OPCODE_NOTIFY = 0x2000

HEADER_BYTES = 12
UDP_BYTES = 512
LABEL_BYTES_MAX = 63
NAME_BYTES_MAX = 255
STRING_BYTES_MAX = 255
POINTERS_MAX = 126
POINTER_LIMIT = 1 << 14
"""Pointers have 14 bits: only names that begin below this offset can be pointed to."""

ECS_OPTION = 8

_HEADER = Struct("!6H")
_QUESTION = Struct("!2H")
_FIXED = Struct("!HHIH")
_SHORT = Struct("!H")
_OPTION = Struct("!HH")

# Types whose names may be compressed when written: those of RFC 1035.
_COMPRESSIBLE = frozenset({NS, 3, 4, CNAME, SOA, 7, 8, 9, PTR, 14, MX})

# type -> parts: a number of octets, "name" or "string". Types not named here are opaque.
_LAYOUTS: dict[int, tuple[int | str, ...]] = {
    A: (4,), AAAA: (16,), NS: ("name",), CNAME: ("name",), PTR: ("name",), SOA: ("name", "name", 20),
    MX: (2, "name"), SRV: (6, "name"), 3: ("name",), 4: ("name",), 7: ("name",), 8: ("name",), 9: ("name",),
    14: ("name", "name"), 17: ("name", "name"), 18: (2, "name"), 21: (2, "name"), 26: (2, "name", "name"),
    35: (4, "string", "string", "string", "name"), 36: (2, "name"), 39: ("name",),
}  # fmt: skip
_STRINGS = frozenset({TXT, 99})

_PLAIN_LABEL = re.compile(rb"[A-Za-z0-9_\-]+")
_TEXT = tuple(
    f"\\{chr(octet)}" if chr(octet) in ".\\\"'@;() " else chr(octet) if 33 <= octet < 127 else f"\\{octet:03d}"
    for octet in range(256)
)


class CannotPack(ConsulError):
    """A reply that has no form on the wire (label over 63 octets, empty label, text over 255): no reply is sent."""


class Record(NamedTuple):
    """A resource record. `data` is its content in parts: octets as they are, and names as text."""

    name: str
    type: int
    ttl: int
    data: tuple[bytes | str, ...]
    cls: int = IN


@dataclass(frozen=True, slots=True)
class Edns:
    """What a query's OPT record says that matters here. `ecs` is (family, source length, address octets)."""

    udp_size: int
    ecs: tuple[int, int, bytes] | None = None


@dataclass(frozen=True, slots=True)
class Query:
    """An acceptable query. `name` is None for a message that ended after its header."""

    id: int
    flags: int
    name: str | None
    type: int
    cls: int
    edns: Edns | None = None


@dataclass(slots=True)
class Message:
    """A whole message. `question` is (name, type, class)."""

    id: int
    flags: int
    question: tuple[str, int, int] | None = None
    answers: list[Record] = field(default_factory=list)
    authority: list[Record] = field(default_factory=list)
    additional: list[Record] = field(default_factory=list)

    @property
    def rcode(self) -> int:
        return self.flags & 15


# --- reading ----------------------------------------------------------------------------------------------------


def parse_query(data: bytes) -> Query | bytes | None:
    """A query; or the rejection to send as it is; or None for what must be dropped in silence."""
    if len(data) < HEADER_BYTES:
        return None
    id_, flags, questions, answers, authority, additional = _HEADER.unpack_from(data)
    if flags & QR:
        return None
    if flags & OPCODE not in (0, OPCODE_NOTIFY):
        return _HEADER.pack(id_, _rejected(flags, NOTIMP), 0, 0, 0, 0)
    formerr = _rejected(flags & ~OPCODE, FORMERR)
    if questions != 1 or answers > 1 or authority > 1 or additional > 2:
        return _HEADER.pack(id_, formerr, 0, 0, 0, 0)
    if len(data) == HEADER_BYTES:
        return Query(id_, flags, None, 0, 0)
    try:
        name, type_, cls, at = _read_question(data, HEADER_BYTES)
    except DecodeError:
        return _HEADER.pack(id_, formerr, 0, 0, 0, 0)
    if not (answers or authority or additional):
        return Query(id_, flags, name, type_, cls)
    try:
        _, at = _read_records(data, at, answers + authority)
        records, _ = _read_records(data, at, additional)
        edns = _edns(records)
    except DecodeError:
        return pack(Message(id_, formerr, (name, type_, cls)))
    return Query(id_, flags, name, type_, cls, edns)


def _rejected(flags: int, rcode: int) -> int:
    """The request's flags made those of a rejection."""
    return (flags | QR) & ~(AA | Z | 15) | rcode


def parse_message(data: bytes) -> Message:
    """A whole message with at most one question, such as a recursor's reply. Raises DecodeError."""
    if len(data) < HEADER_BYTES:
        raise DecodeError("short DNS header")
    id_, flags, questions, answers, authority, additional = _HEADER.unpack_from(data)
    if questions > 1:
        raise DecodeError("several questions")
    message, at = Message(id_, flags), HEADER_BYTES
    if questions and at < len(data):
        name, type_, cls, at = _read_question(data, at)
        message.question = (name, type_, cls)
    message.answers, at = _read_records(data, at, answers)
    message.authority, at = _read_records(data, at, authority)
    message.additional, at = _read_records(data, at, additional)
    return message


def _read_question(data: bytes, at: int) -> tuple[str, int, int, int]:
    """(name, type, class, next offset); a type or class that the message ends before reads as 0."""
    name, at = read_name(data, at)
    left = len(data) - at
    if left >= 4:
        type_, cls = _QUESTION.unpack_from(data, at)
        return name, type_, cls, at + 4
    if left == 0:
        return name, 0, 0, at
    if left == 1:
        raise DecodeError("question cut short", offset=at)
    return name, _SHORT.unpack_from(data, at)[0], 0, len(data)


def read_name(data: bytes, at: int) -> tuple[str, int]:
    """(name, offset after it). Pointers must go back, before the name that they continue. Raises DecodeError."""
    labels: list[str] = []
    end: int | None = None
    octets, pointers, floor = 1, 0, at
    size = len(data)
    while True:
        if at >= size:
            raise DecodeError("name cut short", offset=at)
        length = data[at]
        if length == 0:
            break
        if length <= LABEL_BYTES_MAX:
            label = data[at + 1 : at + 1 + length]
            octets += length + 1
            if len(label) < length or octets > NAME_BYTES_MAX:
                raise DecodeError("name cut short or too long", offset=at)
            labels.append(
                label.decode("ascii")
                if label.isalnum() or _PLAIN_LABEL.fullmatch(label)
                else "".join([_TEXT[octet] for octet in label])
            )
            at += length + 1
            continue
        if length < 0xC0 or at + 1 >= size:
            raise DecodeError("bad label", offset=at)
        target = (length & 0x3F) << 8 | data[at + 1]
        pointers += 1
        if target >= floor or pointers > POINTERS_MAX:
            raise DecodeError("name pointer does not go back", offset=at)
        if end is None:
            end = at + 2
        at = floor = target
    return ".".join(labels) + ".", at + 1 if end is None else end


def _read_records(data: bytes, at: int, count: int) -> tuple[list[Record], int]:
    """Up to `count` records: a message may end early, but not within a record."""
    records: list[Record] = []
    while len(records) < count and at < len(data):
        name, at = read_name(data, at)
        try:
            type_, cls, ttl, size = _FIXED.unpack_from(data, at)
        except StructError:
            raise DecodeError("record cut short", offset=at) from None
        at += _FIXED.size
        if at + size > len(data):
            raise DecodeError("record cut short", offset=at)
        records.append(Record(name, type_, ttl, _read_data(data, at, size, type_), cls))
        at += size
    return records, at


def _read_data(data: bytes, at: int, size: int, type_: int) -> tuple[bytes | str, ...]:
    """The content in parts; empty content is allowed for every type."""
    end = at + size
    layout = _LAYOUTS.get(type_)
    if size == 0:
        return ()
    if layout is None:
        if type_ in _STRINGS:
            _check_strings(data, at, end)
        return (data[at:end],)
    parts: list[bytes | str] = []
    for part in layout:
        if part == "name":
            name, at = read_name(data, at)
            parts.append(name)
            continue
        length = part if isinstance(part, int) else 1 + (data[at] if at < end else 0)
        parts.append(data[at : at + length])
        at += length
    if at != end:
        raise DecodeError("record content of the wrong size", offset=at)
    return tuple(parts)


def _check_strings(data: bytes, at: int, end: int) -> None:
    while at < end:
        at += 1 + data[at]
    if at != end:
        raise DecodeError("character-string cut short", offset=end)


def _edns(records: list[Record]) -> Edns | None:
    """The last OPT record's content. Raises DecodeError when its options do not fit."""
    found: Edns | None = None
    for record in records:
        if record.type != OPT:
            continue
        raw = record.data[0] if record.data else b""
        assert isinstance(raw, bytes), "OPT is opaque"
        found = Edns(record.cls, _ecs(raw))
    return found


def _ecs(raw: bytes) -> tuple[int, int, bytes] | None:
    """The client subnet option among the options, if any, with host bits cleared."""
    found: tuple[int, int, bytes] | None = None
    at = 0
    while at < len(raw):
        if at + 4 > len(raw):
            raise DecodeError("option cut short", offset=at)
        code, size = _OPTION.unpack_from(raw, at)
        body = raw[at + 4 : at + 4 + size]
        if len(body) < size:
            raise DecodeError("option cut short", offset=at)
        at += 4 + size
        if code == ECS_OPTION:
            found = _subnet(body)
    return found


def _subnet(body: bytes) -> tuple[int, int, bytes]:
    if len(body) < 4:
        raise DecodeError("client subnet cut short")
    family, source, scope = _SHORT.unpack_from(body)[0], body[2], body[3]
    bits = {0: 0, 1: 32, 2: 128}.get(family)
    if bits is None or source > bits or scope > bits:
        raise DecodeError("bad client subnet")
    octets = (source + 7) // 8
    address = bytearray(body[4 : 4 + octets].ljust(octets, b"\0"))
    if source % 8:
        address[-1] &= 0xFF << (8 - source % 8) & 0xFF
    return family, source, bytes(address)


# --- writing ----------------------------------------------------------------------------------------------------


def opt_record(edns: Edns, *, scope: int = 0) -> Record:
    """The OPT record of a reply: the size and the subnet of the query, nothing else."""
    data = b""
    if edns.ecs is not None:
        family, source, address = edns.ecs
        data = _OPTION.pack(ECS_OPTION, 4 + len(address)) + _SHORT.pack(family) + bytes((source, scope)) + address
    return Record(".", OPT, 0, (data,) if data else (), edns.udp_size)


def text_data(text: str) -> tuple[bytes]:
    """A TXT record's content of one character-string. Raises CannotPack when it is over 255 octets."""
    raw = text.encode("utf-8", "surrogateescape")
    if len(raw) > STRING_BYTES_MAX:
        raise CannotPack("character-string over 255 octets")
    return (bytes((len(raw),)) + raw,)


def pack(message: Message, *, compress: bool = True) -> bytes:
    """The message on the wire. Raises CannotPack."""
    out = bytearray(
        _HEADER.pack(
            message.id,
            message.flags,
            0 if message.question is None else 1,
            len(message.answers),
            len(message.authority),
            len(message.additional),
        )
    )
    known: dict[str, int] | None = {} if compress else None
    if message.question is not None:
        name, type_, cls = message.question
        _write_name(out, name, known, point=True)
        out += _QUESTION.pack(type_, cls)
    for section in (message.answers, message.authority, message.additional):
        for record in section:
            _write_record(out, record, known)
    return bytes(out)


def _write_record(out: bytearray, record: Record, known: dict[str, int] | None) -> None:
    name, type_, ttl, data, cls = record
    _write_name(out, name, known, point=True)
    start = len(out) + _FIXED.size
    out += _FIXED.pack(type_, cls, ttl & 0xFFFFFFFF, 0)
    for part in data:
        if isinstance(part, bytes):
            out += part
        else:
            _write_name(out, part, known, point=type_ in _COMPRESSIBLE)
    size = len(out) - start
    if size > 0xFFFF:
        raise CannotPack("record over 65535 octets")
    out[start - 2 : start] = _SHORT.pack(size)


def _write_name(out: bytearray, name: str, known: dict[str, int] | None, *, point: bool) -> None:
    """Write a name. With `known` every suffix is remembered; with `point` the longest known one is pointed to."""
    if name == ".":
        out.append(0)
        return
    begin = len(out)
    rest = name if name.endswith(".") else f"{name}."
    while rest:
        if known is not None:
            at = known.get(rest)
            if at is None:
                if len(out) < POINTER_LIMIT:
                    known[rest] = len(out)
            elif point:
                out += _SHORT.pack(0xC000 | at)
                return
        label, rest = _next_label(rest)
        if not 0 < len(label) <= LABEL_BYTES_MAX:
            raise CannotPack(f"label of {len(label)} octets")
        out.append(len(label))
        out += label
    out.append(0)
    if len(out) - begin > NAME_BYTES_MAX:
        raise CannotPack("name over 255 octets")


def _next_label(rest: str) -> tuple[bytes, str]:
    """(octets of the first label, what follows its dot)."""
    label, _, after = rest.partition(".")
    if "\\" not in label:
        return label.encode("utf-8", "surrogateescape"), after
    out, at = bytearray(), 0
    while at < len(rest) and rest[at] != ".":
        if rest[at] != "\\":
            out += rest[at].encode("utf-8", "surrogateescape")
            at += 1
        elif rest[at + 1 : at + 4].isascii() and rest[at + 1 : at + 4].isdigit() and at + 4 <= len(rest):
            out.append(int(rest[at + 1 : at + 4]) & 0xFF)
            at += 4
        else:
            out += rest[at + 1 : at + 2].encode("utf-8", "surrogateescape")
            at += 2
    return bytes(out), rest[at + 1 :]
