"""Regular expressions that strangers give, searched with a bound on the time that takes.

Consul uses RE2, whose searches are linear. Python's engine tries ways, so an expression is taken only if its ways are
few: repeats of groups are refused, and the repeats of single characters are counted. What Go and Python do not both
know, or know otherwise, is refused too. Used for filters of events and queries, which come by gossip, and for query
templates, whose names come by DNS. Pure.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from math import factorial

CHARACTERS_MAX = 512
WAYS_LOG2_MAX = 29
"""Three repeats and one choice in 128 characters: at the worst, some tenths of a second."""
SUBJECT_LOG2 = 7
"""An expression must be good for at least so long a text (128 characters)."""
COMPILED_KEPT_MAX = 128


class BadRegexp(ValueError):
    """An expression that is wrong, not supported or too slow; the text says which."""


@dataclass(frozen=True, slots=True)
class Regexp:
    """A compiled expression and what a search for it costs."""

    pattern: re.Pattern[str]
    repeats: int
    choices: int

    def steps(self, length: int) -> int:
        """What a search in so many characters may cost at the worst, in steps of some nanoseconds."""
        ways: int = (length + 1) ** (self.repeats + 1) // factorial(self.repeats + 1)
        return ways << self.choices

    def search(self, text: str) -> re.Match[str] | None:
        """Unanchored. Raises BadRegexp when `text` is so long that the search could take too long."""
        if self.repeats and _ways_log2(self.repeats, self.choices, max(len(text) - 1, 1).bit_length()) > WAYS_LOG2_MAX:
            raise BadRegexp(f"a search in {len(text)} characters could take too long; that is not supported")
        return self.pattern.search(text)


_PIECE = re.compile(r"\\.|\[\^?\]?(?:\\.|[^\]\\])*\]|[*+?]\??|\{[0-9]+(?:,[0-9]*)?\}\??|.", re.DOTALL)
_RANGE = re.compile(r"\{[0-9]+,[0-9]*\}\??")
_GROUP = re.compile(r"\((?!\?)|\(\?(?:P<[A-Za-z0-9_]+>|[ims]*(?:-[ims]+)?[:)])")
"""The openings of groups that Go and Python both have: none that look around, none that change the syntax."""


@lru_cache(maxsize=COMPILED_KEPT_MAX)
def compile_regexp(text: str) -> Regexp:
    """Raises BadRegexp."""
    if len(text) > CHARACTERS_MAX:
        raise BadRegexp(f"longer than {CHARACTERS_MAX} characters")
    pieces = [found[0] for found in _PIECE.finditer(text)]
    _refuse_foreign(text, pieces)
    repeats, choices = _cost(pieces)
    if _ways_log2(repeats, choices, SUBJECT_LOG2) > WAYS_LOG2_MAX:
        raise BadRegexp("a search for it could take too long; that is not supported")
    try:
        pattern = re.compile("".join(_in_python(pieces, multiline=_MULTILINE.search(text) is not None)), re.ASCII)
    except (re.error, OverflowError, RecursionError) as error:
        raise BadRegexp(f"error parsing regexp: {_go_words(error, text)}") from error
    return Regexp(pattern, repeats, choices)


_MULTILINE = re.compile(r"\(\?[a-zA-Z]*m")


def _in_python(pieces: list[str], *, multiline: bool) -> Iterator[str]:
    """What Python spells otherwise: Go's `$` is the end of the text, not also the place before its last newline."""
    for piece in pieces:
        yield r"\Z" if piece == r"\z" or (piece == "$" and not multiline) else piece


def _go_words(error: Exception, text: str) -> str:
    """What Go says of the same mistake, as far as Python tells which it is."""
    if not isinstance(error, re.error):
        return str(error)
    at = error.pos or 0
    rest, message = text[at:], error.msg
    if message.startswith("missing ), unterminated subpattern"):
        return f"missing closing ): `{text}`"
    if message == "unbalanced parenthesis":
        return f"unexpected ): `{text}`"
    if message == "nothing to repeat":
        return f"missing argument to repetition operator: `{_found(_PIECE, rest)}`"
    if message.startswith("min repeat greater than max"):
        return f"invalid repeat count: `{_found(_RANGE, text[text.rfind('{', 0, at + 1) :]).rstrip('?')}`"
    if message.startswith("bad escape (end of pattern)"):
        return "trailing backslash at end of expression: ``"
    if message.startswith("bad escape"):
        return f"invalid escape sequence: `{rest[:2]}`"
    if message.startswith("bad character range"):
        return f"invalid character class range: `{message.removeprefix('bad character range ')}`"
    return f"{message}: `{text}`"


def _found(expression: re.Pattern[str], text: str) -> str:
    found = expression.match(text)
    return found[0] if found else text


def _refuse_foreign(pattern: str, pieces: list[str]) -> None:
    """Raises BadRegexp for what means nothing, or something else, in one of Go and Python."""
    at, before = 0, ""
    for piece in pieces:
        if piece == "(" and _GROUP.match(pattern, at) is None:
            flags = _found(_FLAGS, pattern[at:])
            raise BadRegexp(f"error parsing regexp: invalid or unsupported Perl syntax: `{flags}`")
        if (piece[0] == "\\" and piece[1:] in _FOREIGN_ESCAPES) or (
            piece[0] == "[" and _SET_OPERATION.search(piece, 1)
        ):
            raise BadRegexp(f"`{piece}` is not supported")
        if piece == "[":
            raise BadRegexp(f"error parsing regexp: missing closing ]: `{pattern[at:]}`")
        if _repeats(piece) and _repeats(before):
            raise BadRegexp(f"error parsing regexp: invalid nested repetition operator: `{before}{piece}`")
        at += len(piece)
        before = piece


_FLAGS = re.compile(r"\(\?[imsU-]*.?", re.DOTALL)
"""How much of a group's opening Go reads until it knows that it does not know it."""
_FOREIGN_ESCAPES = frozenset("123456789Z")
_SET_OPERATION = re.compile(r"\[|--|&&|\|\||~~")


def _repeats(piece: str) -> bool:
    return piece[:1] in ("*", "+", "?") or (len(piece) > 1 and piece[0] == "{")


def _ways_log2(repeats: int, choices: int, length_log2: int) -> int:
    """A search begins at each character, and each repeat may end at each."""
    return (repeats + 1) * length_log2 + choices


def _cost(pieces: list[str]) -> tuple[int, int]:
    """How many repeats and how many choices of two there are. Raises BadRegexp for a repeated group."""
    repeats = choices = 0
    before = ""
    for piece in pieces:
        if before == ")" and _repeats(piece) and piece[0] != "?":
            raise BadRegexp("a search for it could take too long; that is not supported")
        if piece[0] in "*+" or _RANGE.fullmatch(piece):
            repeats += 1
        elif piece == "|" or (piece[0] == "?" and before != "("):
            choices += 1
        before = piece
    return repeats, choices
