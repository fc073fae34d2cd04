"""Go's quoted text (`strconv.Unquote`). Pure."""

from __future__ import annotations

import re

_SIMPLE = {"a": 7, "b": 8, "f": 12, "n": 10, "r": 13, "t": 9, "v": 11, "\\": 92, '"': 34}
_PIECE = re.compile(
    r"""\\(?P<simple>[abfnrtv\\"])|\\x(?P<byte>[0-9a-fA-F]{2})|\\(?P<octal>[0-7]{3})"""
    r"""|\\u(?P<short>[0-9a-fA-F]{4})|\\U(?P<long>[0-9a-fA-F]{8})|(?P<plain>[^\\\n]+)"""
)
CODE_MAX = 0x10FFFF


def unquote(quoted: str) -> str:
    """The text in quotes, escapes resolved, or in backticks, as it is. Raises ValueError with Go's words."""
    body = quoted[1:-1]
    if quoted.startswith("`"):
        return body.replace("\r", "")
    out = bytearray()
    at = 0
    while at < len(body):
        piece = _PIECE.match(body, at)
        if piece is None:
            raise ValueError("invalid syntax")
        out += _resolved(piece)
        at = piece.end()
    return out.decode("utf-8", "surrogateescape")


def _resolved(piece: re.Match[str]) -> bytes:
    kind, text = piece.lastgroup, piece[piece.lastgroup or 0]
    if kind == "plain":
        return text.encode("utf-8", "surrogateescape")
    if kind == "simple":
        return bytes([_SIMPLE[text]])
    code = int(text, 8 if kind == "octal" else 16)
    if kind in ("byte", "octal"):
        if code > 0xFF:
            raise ValueError("invalid syntax")
        return bytes([code])
    if code > CODE_MAX or 0xD800 <= code <= 0xDFFF:
        raise ValueError("invalid syntax")
    return chr(code).encode()
