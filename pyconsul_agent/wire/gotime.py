"""time.Time in Go's binary form, a raw string of 15 bytes.

| bytes | content                                                            |
|-------|--------------------------------------------------------------------|
| 0     | version 1 (2 has a 16th byte: seconds of the zone offset)          |
| 1-8   | signed big-endian seconds since 0001-01-01T00:00:00Z               |
| 9-12  | signed big-endian nanoseconds within the second                    |
| 13-14 | signed big-endian zone offset in minutes, -1 for UTC               |

>>> encode_time(GoTime()).hex()
'01000000000000000000000000ffff'
"""

from __future__ import annotations

import struct

from pyconsul_agent.errors import DecodeError
from pyconsul_agent.structs.base import ZERO_TIME_UNIX_SECONDS, GoTime

_LAYOUT = struct.Struct(">Bqih")


def encode_time(value: GoTime) -> bytes:
    """The 15 bytes of `value`."""
    return _LAYOUT.pack(1, value.unix_seconds - ZERO_TIME_UNIX_SECONDS, value.nanoseconds, value.offset_minutes)


def decode_time(data: bytes) -> GoTime:
    """`data` as an instant; empty means Go's zero time. Raises DecodeError."""
    if not data:
        return GoTime()
    if len(data) not in (15, 16) or data[0] != len(data) - 14:
        raise DecodeError(f"not a Go time: {len(data)} bytes")
    _, since_year_one, nanoseconds, offset = _LAYOUT.unpack_from(data)
    return GoTime(since_year_one + ZERO_TIME_UNIX_SECONDS, nanoseconds, offset)
