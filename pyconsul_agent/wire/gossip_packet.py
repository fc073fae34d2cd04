"""The wrappers of a datagram, from outside: label, encryption (see `gossip_crypto`), CRC, compression, compound.

| wrapper  | layout |
|----------|--------|
| label    | `f4`, length u8 (1..255), label, rest |
| CRC      | `0c`, CRC-32 IEEE u32 big endian of the rest, rest; only outermost |
| compress | `09`, msgpack map {Algo 0, Buf}; inside is one message or a compound |
| compound | `07`, count u8, count x length u16 big endian, parts; never inside a compound |

Every bound is ours: at most one compression and one compound on the way to a message, and 64 KiB of decompressed bytes
per datagram. Protocol: docs/protocol/gossip.md, sections 1.2 to 1.4.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field

from pyconsul_agent.errors import DecodeError
from pyconsul_agent.structs.base import wire
from pyconsul_agent.wire.gossip import MessageType, checked, message, unpack_first
from pyconsul_agent.wire.lzw import compress, decompress
from pyconsul_agent.wire.msgpack import encode

COMPOUND_PARTS_MAX = 255
COMPOUND_PART_OVERHEAD = 2
COMPOUND_HEADER_OVERHEAD = 2
CRC_OVERHEAD = 5
LABEL_BYTES_MAX = 255
PACKET_BYTES_MAX = 65_536
PACKET_OUTPUT_MAX = 64 * 1024
STREAM_OUTPUT_MAX = 40 * 1024 * 1024
COMPRESSION_RATIO_MAX = 256
"""Node lists and tags compress by 2 to 30; what grows by more, and beyond one datagram's bound, is a bomb."""


@message
class Compressed:
    """The map of a compress message. Algorithm 0, LZW, is the only one."""

    algorithm: int = wire("Algo", 0, bits=8)
    buffer: bytes = wire("Buf", b"")


@dataclass(slots=True)
class PacketParts:
    """What was inside a datagram: whole messages in order, and what had to be given up."""

    messages: list[bytes] = field(default_factory=list)
    truncated: int = 0
    errors: list[str] = field(default_factory=list)


# --- building -------------------------------------------------------------------------------------------------


def pack_compounds(parts: Sequence[bytes]) -> list[bytes]:
    """The parts as compound messages of at most 255 parts each."""
    return [_compound(parts[start : start + COMPOUND_PARTS_MAX]) for start in range(0, len(parts), COMPOUND_PARTS_MAX)]


def _compound(parts: Sequence[bytes]) -> bytes:
    lengths = struct.pack(f">{len(parts)}H", *map(len, parts))
    return b"".join((b"\x07", bytes((len(parts),)), lengths, *parts))


def compress_message(message: bytes) -> bytes:
    """A compress message around `message`, shorter or not."""
    return b"\x09" + encode(Compressed(0, compress(message)))


def add_crc(message: bytes) -> bytes:
    """`message` behind its CRC."""
    return b"\x0c" + zlib.crc32(message).to_bytes(4, "big") + message


def label_header(label: bytes) -> bytes:
    """What goes before a packet, or once before a stream by the side that opened it; nothing without a label."""
    if not label:
        return b""
    if len(label) > LABEL_BYTES_MAX:
        raise ValueError(f"a label has at most {LABEL_BYTES_MAX} bytes")
    return bytes((MessageType.HAS_LABEL, len(label))) + label


# --- opening --------------------------------------------------------------------------------------------------


def split_label(data: bytes) -> tuple[bytes, bytes]:
    """(label or empty, rest) of a packet. Raises DecodeError on a label that is empty or cut short."""
    if not data or data[0] != MessageType.HAS_LABEL:
        return b"", data
    if len(data) < 2 or data[1] == 0 or len(data) < 2 + data[1]:
        raise DecodeError("label header cut short")
    end = 2 + data[1]
    return data[2:end], data[end:]


def open_crc(data: bytes) -> bytes:
    """`data` without its CRC if it has one. Raises DecodeError when it does not match."""
    if not data or data[0] != MessageType.HAS_CRC:
        return data
    if len(data) < CRC_OVERHEAD:
        raise DecodeError("crc header cut short")
    rest = data[CRC_OVERHEAD:]
    if zlib.crc32(rest) != int.from_bytes(data[1:CRC_OVERHEAD], "big"):
        raise DecodeError("crc of the packet does not match")
    return rest


def open_compressed(data: bytes, output_max: int) -> bytes:
    """What is inside a compress message (`data` has the type byte). Raises DecodeError; empty output is an error."""
    return decompress_buffer(unpack_first(data, 1), output_max)


def decompress_buffer(value: object, output_max: int) -> bytes:
    """What is inside an unpacked compress map, bounded by `output_max` and by the ratio guard. Raises DecodeError."""
    outer = checked(Compressed, value)
    if outer.algorithm != 0:
        raise DecodeError(f"unknown compression algorithm {outer.algorithm}")
    believable = max(PACKET_OUTPUT_MAX, COMPRESSION_RATIO_MAX * len(outer.buffer))
    plain = decompress(outer.buffer, min(output_max, believable))
    if not plain:
        raise DecodeError("compressed message is empty")
    return plain


def unpack_compound(data: bytes) -> tuple[list[bytes], int]:
    """(whole parts, number of parts lost to truncation). Raises DecodeError if the lengths themselves are cut short."""
    if len(data) < 2:
        raise DecodeError("compound without a count")
    count = data[1]
    start = 2 + 2 * count
    if len(data) < start:
        raise DecodeError("compound lengths cut short")
    parts = []
    for length in struct.unpack_from(f">{count}H", data, 2):
        end = start + length
        if end > len(data):
            break
        parts.append(data[start:end])
        start = end
    return parts, count - len(parts)


def open_packet_body(data: bytes) -> PacketParts:
    """The single messages of a datagram without label and encryption. Raises DecodeError if nothing can be read.

    An error inside one part of a compound costs that part only.
    """
    parts = PacketParts()
    _walk(open_crc(data), parts, PACKET_OUTPUT_MAX, may_compress=True, may_compound=True)
    return parts


_WRAPPERS = frozenset({MessageType.COMPRESS, MessageType.COMPOUND, MessageType.HAS_CRC, MessageType.HAS_LABEL})


def _walk(data: bytes, into: PacketParts, output_left: int, *, may_compress: bool, may_compound: bool) -> int:
    """Append the messages in `data`; returns how many decompressed bytes may still come out of this datagram."""
    if not data:
        raise DecodeError("empty message")
    kind = data[0]
    if kind == MessageType.COMPRESS:
        if not may_compress:
            raise DecodeError("compressed twice")
        inner = open_compressed(data, output_left)
        return _walk(inner, into, output_left - len(inner), may_compress=False, may_compound=may_compound)
    if kind == MessageType.COMPOUND:
        if not may_compound:
            raise DecodeError("compound inside a compound")
        whole, lost = unpack_compound(data)
        into.truncated += lost
        for part in whole:
            if part and part[0] not in _WRAPPERS:
                into.messages.append(part)
                continue
            try:
                output_left = _walk(part, into, output_left, may_compress=may_compress, may_compound=False)
            except DecodeError as error:
                into.errors.append(str(error))
        return output_left
    if kind == MessageType.HAS_CRC or kind == MessageType.HAS_LABEL:
        raise DecodeError(f"message type {kind} is only for the outside")
    into.messages.append(data)
    return output_left
