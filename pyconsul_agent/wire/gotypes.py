"""Go's text forms: durations (`1h0m0s`), integers as strconv reads them, RFC 3339 times, quoted strings.

>>> format_duration(90_000_000_000)
'1m30s'
>>> parse_duration("1.5h")
5400000000000
"""

from __future__ import annotations

import base64
import binascii
import datetime
import re

from pyconsul_agent.structs.base import Duration, GoTime

_UNITS = {
    "ns": 1,
    "us": 1_000,
    "\u00b5s": 1_000,
    "\u03bcs": 1_000,
    "ms": 1_000_000,
    "s": 1_000_000_000,
    "m": 60_000_000_000,
    "h": 3_600_000_000_000,
}
_PART = re.compile(r"(\d+)(?:\.(\d*))?|\.(\d+)")
_UNIT = re.compile(r"[^\d.]+")
_INTEGER = re.compile(r"[+-]?[0-9]+")
INTEGER_CHARACTERS_MAX = 40
"""Longer ones are out of every range, and are not worth the arithmetic."""
DURATION_MAX = (1 << 63) - 1


def quote(text: str) -> str:
    """`text` as Go's %q prints it (the part of it that error texts use)."""
    out = []
    for character in text:
        code = ord(character)
        if character in '"\\':
            out.append("\\" + character)
        elif character in _QUOTED:
            out.append(_QUOTED[character])
        elif code < 0x20 or code == 0x7F:
            out.append(f"\\x{code:02x}")
        elif 0xDC80 <= code <= 0xDCFF:
            out.append(f"\\x{code - 0xDC00:02x}")
        elif not character.isprintable():
            out.append(f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}")
        else:
            out.append(character)
    return '"' + "".join(out) + '"'


_QUOTED = {"\n": "\\n", "\t": "\\t", "\r": "\\r", "\a": "\\a", "\b": "\\b", "\f": "\\f", "\v": "\\v"}


def parse_duration(text: str) -> Duration:
    """Nanoseconds of a Go duration. Raises ValueError with Go's own text."""
    rest = text
    negative = rest.startswith("-")
    if rest[:1] in ("+", "-"):
        rest = rest[1:]
    if rest == "0":
        return Duration(0)
    if not rest:
        raise ValueError(f"time: invalid duration {quote(text)}")
    total = 0
    while rest:
        number = _PART.match(rest)
        if number is None:
            raise ValueError(f"time: invalid duration {quote(text)}")
        rest = rest[number.end() :]
        unit = _UNIT.match(rest)
        if unit is None:
            raise ValueError(f"time: missing unit in duration {quote(text)}")
        rest = rest[unit.end() :]
        scale = _UNITS.get(unit.group())
        if scale is None:
            raise ValueError(f"time: unknown unit {quote(unit.group())} in duration {quote(text)}")
        whole, fraction = number.group(1) or "0", number.group(2) or number.group(3) or ""
        total += int(whole) * scale + (int(fraction) * scale // 10 ** len(fraction) if fraction else 0)
        if total > DURATION_MAX:
            raise ValueError(f"time: invalid duration {quote(text)}")
    return Duration(-total if negative else total)


def format_duration(value: int) -> str:
    """A duration as Go's String prints it: `1h0m0s`, `1.5s`, `20ms`, `0s`."""
    if value == 0:
        return "0s"
    sign, value = ("-", -value) if value < 0 else ("", value)
    for unit, scale in (("ns", 1), ("\u00b5s", 1_000), ("ms", 1_000_000)):
        if value < scale * 1_000:
            return f"{sign}{_fraction(value, scale)}{unit}"
    seconds, nanoseconds = divmod(value, 1_000_000_000)
    minutes, seconds = divmod(seconds, 60)
    text = _fraction(seconds * 1_000_000_000 + nanoseconds, 1_000_000_000) + "s"
    if minutes:
        hours, minutes = divmod(minutes, 60)
        text = f"{minutes}m{text}"
        if hours:
            text = f"{hours}h{text}"
    return sign + text


def _fraction(value: int, scale: int) -> str:
    whole, rest = divmod(value, scale)
    if not rest:
        return str(whole)
    return f"{whole}.{str(rest).rjust(len(str(scale)) - 1, '0').rstrip('0')}"


def parse_uint(text: str, bits: int = 64) -> int:
    """strconv.ParseUint in base 10. Raises ValueError with Go's text."""
    if not text.isascii() or not text.isdigit():
        raise ValueError(f"strconv.ParseUint: parsing {quote(text)}: invalid syntax")
    if len(text) > 40 or (value := int(text)) >= 1 << bits:
        raise ValueError(f"strconv.ParseUint: parsing {quote(text)}: value out of range")
    return value


_TRUE = {"1", "t", "T", "TRUE", "true", "True"}
_FALSE = {"0", "f", "F", "FALSE", "false", "False"}


def parse_int(text: str) -> int:
    """strconv.Atoi. Raises ValueError with Go's text."""
    if not _INTEGER.fullmatch(text):
        raise ValueError(f"strconv.Atoi: parsing {quote(text)}: invalid syntax")
    if len(text) > INTEGER_CHARACTERS_MAX or not -(1 << 63) <= (value := int(text)) < 1 << 63:
        raise ValueError(f"strconv.Atoi: parsing {quote(text)}: value out of range")
    return value


def parse_bool(text: str) -> bool:
    """strconv.ParseBool. Raises ValueError with Go's text."""
    if text in _TRUE:
        return True
    if text in _FALSE:
        return False
    raise ValueError(f"strconv.ParseBool: parsing {quote(text)}: invalid syntax")


def format_time(value: GoTime) -> str:
    """RFC 3339 with nanoseconds as Go's JSON prints it: trailing zeros cut, `Z` for UTC."""
    offset = 0 if value.offset_minutes == -1 else value.offset_minutes
    moment = _EPOCH + datetime.timedelta(seconds=value.unix_seconds, minutes=offset)
    fraction = f".{value.nanoseconds:09d}".rstrip("0") if value.nanoseconds else ""
    zone = f"{'-' if offset < 0 else '+'}{abs(offset) // 60:02d}:{abs(offset) % 60:02d}" if offset else "Z"
    return f"{moment.isoformat()}{fraction}{zone}"


_EPOCH = datetime.datetime(1970, 1, 1)


def base64_problem(text: str) -> str:
    """Go's words for text that is not base64; empty when it is."""
    try:
        base64.b64decode(text.encode("ascii", "replace"), validate=True)
    except binascii.Error:
        wrong = next((at for at, character in enumerate(text) if character not in _BASE64), len(text) // 4 * 4)
        return f"illegal base64 data at input byte {wrong}"
    return ""


_BASE64 = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
