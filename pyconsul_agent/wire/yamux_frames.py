"""The frames of yamux and the events of its session: the words that `wire.yamux` and its users share.

Every frame starts with 12 bytes, big-endian:

| version u8 = 0 | type u8 | flags u16 | stream u32 | length u32 |

    >>> encode_header(FrameType.WINDOW_UPDATE, SYN, 1, 0).hex()
    '000100010000000100000000'

For data, `length` bytes follow; for a window update it is the number of bytes granted, for a ping any value, which is
echoed, for go-away a code.
"""

from __future__ import annotations

import enum
import struct
from dataclasses import dataclass

HEADER = struct.Struct(">BBHII")
VERSION = 0

SYN, ACK, FIN, RST = 1, 2, 4, 8


class FrameType(enum.IntEnum):
    """The second byte of a frame."""

    DATA = 0
    WINDOW_UPDATE = 1
    PING = 2
    GO_AWAY = 3


class GoAwayCode(enum.IntEnum):
    """Why a peer wants no new streams (its frame's length field)."""

    NORMAL = 0
    PROTOCOL_ERROR = 1
    INTERNAL_ERROR = 2


def encode_header(kind: int, flags: int, stream: int, length: int) -> bytes:
    """One frame header; for data, `length` bytes follow it."""
    return HEADER.pack(VERSION, kind, flags, stream, length)


@dataclass(frozen=True, slots=True)
class StreamOpened:
    """The peer opened a stream. `accept` or `reset` it; its data may come before that."""

    stream: int


@dataclass(frozen=True, slots=True)
class StreamAcked:
    """The peer accepted a stream opened here."""

    stream: int


@dataclass(frozen=True, slots=True)
class StreamData:
    """Bytes of a stream. Each must be given back to `consume` once it has been used up."""

    stream: int
    data: bytes


@dataclass(frozen=True, slots=True)
class StreamFinished:
    """The peer sends no more on this stream."""

    stream: int


@dataclass(frozen=True, slots=True)
class StreamReset:
    """The peer dropped the stream; nothing more comes or goes on it."""

    stream: int


@dataclass(frozen=True, slots=True)
class StreamDrained:
    """Everything given to `send` has been framed."""

    stream: int


@dataclass(frozen=True, slots=True)
class GoneAway:
    """The peer takes no new streams; those that exist go on."""


@dataclass(frozen=True, slots=True)
class SessionEnded:
    """The session is over and all its streams with it. The last event."""

    reason: str


Event = StreamOpened | StreamAcked | StreamData | StreamFinished | StreamReset | StreamDrained | GoneAway | SessionEnded
