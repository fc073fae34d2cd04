"""LZW as memberlist uses it: GIF flavor, least significant bit first, 8-bit literals, 9 to 12 bit codes.

Shape: a clear code (256), codes, an end code (257), the last byte filled with zero bits. Code widths grow one code
later than in TIFF. Pure Python because nothing at hand decodes this form. Protocol: docs/protocol/gossip.md, section 4.

>>> compress(b"A").hex()
'00830404'
>>> decompress(bytes.fromhex('00830404'), 100)
b'A'
"""

from __future__ import annotations

from pyconsul_agent.errors import DecodeError

CLEAR, END = 256, 257
FIRST_WIDTH, LAST_WIDTH = 9, 12
FIRST_OVERFLOW = 1 << FIRST_WIDTH
LAST_CODE = (1 << LAST_WIDTH) - 1


def compress(data: bytes) -> bytes:
    """`data` compressed; the same bytes that Go's compress/lzw writes."""
    out = bytearray()
    bits, filled = CLEAR, FIRST_WIDTH
    width, high, overflow = FIRST_WIDTH, END, FIRST_OVERFLOW
    table: dict[int, int] = {}  # (prefix code << 8 | next byte) -> code
    code = -1
    for byte in data:
        if code < 0:
            code = byte
            continue
        key = code << 8 | byte
        longer = table.get(key)
        if longer is not None:
            code = longer
            continue
        bits |= code << filled
        filled += width
        code = byte
        high += 1
        if high == overflow:
            width += 1
            overflow <<= 1
        if high == LAST_CODE:
            bits |= CLEAR << filled
            filled += width
            width, high, overflow = FIRST_WIDTH, END, FIRST_OVERFLOW
            table = {}
        else:
            table[key] = high
        while filled >= 8:
            out.append(bits & 0xFF)
            bits >>= 8
            filled -= 8
    if code >= 0:
        bits |= code << filled
        filled += width
        high += 1
        if high == overflow:
            width += 1
            overflow <<= 1
        if high == LAST_CODE:
            bits |= CLEAR << filled
            filled += width
            width = FIRST_WIDTH
    bits |= END << filled
    filled += width
    return bytes(out) + bits.to_bytes((filled + 7) // 8, "little")


def decompress(data: bytes, bytes_max: int) -> bytes:
    """The bytes behind `data`, at most `bytes_max`. Raises DecodeError: bad codes, a missing end, too much output."""
    out: list[bytes] = []
    size = 0
    table: dict[int, bytes] = {}
    width, high, overflow = FIRST_WIDTH, END, FIRST_OVERFLOW
    last: bytes | None = None
    bits, filled = 0, 0
    for byte in data:
        bits |= byte << filled
        filled += 8
        if filled < width:
            continue
        code = bits & ((1 << width) - 1)
        bits >>= width
        filled -= width
        if code == CLEAR:
            table = {}
            width, high, overflow, last = FIRST_WIDTH, END, FIRST_OVERFLOW, None
            continue
        if code == END:
            return b"".join(out)
        text = _LITERALS[code] if code < CLEAR else table.get(code) if code != high or last is None else last + last[:1]
        if text is None:
            raise DecodeError(f"lzw: invalid code {code}")
        if last is not None:
            table[high] = last + text[:1]
        size += len(text)
        if size > bytes_max:
            raise DecodeError(f"lzw: more than {bytes_max} bytes of output")
        out.append(text)
        last = text
        high += 1
        if high >= overflow:
            if width == LAST_WIDTH:
                last = None
                high -= 1
            else:
                width += 1
                overflow <<= 1
    raise DecodeError("lzw: cut short")


_LITERALS = [bytes((value,)) for value in range(CLEAR)]
