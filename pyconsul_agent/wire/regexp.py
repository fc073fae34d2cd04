"""Regular expressions that strangers give, searched with a bound on the time that takes.

Consul uses RE2, whose searches are linear. Python's engine tries ways, so an expression is taken only if its ways are
few: repeats of groups are refused, and the repeats of single characters are counted. What Go and Python do not both
know, or know otherwise, is refused too. Used for filters of events and queries, which come by gossip, and for query
templates, whose names come by DNS. Pure.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache

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
        pattern = re.compile("".join(r"\Z" if piece == r"\z" else piece for piece in pieces), re.ASCII)
    except (re.error, OverflowError, RecursionError) as error:
        raise BadRegexp(f"error parsing regexp: {_go_words(error, text)}") from error
    return Regexp(pattern, repeats, choices)


def _go_words(error: Exception, text: str) -> str:
    if isinstance(error, re.error) and error.msg.startswith("missing ), unterminated subpattern"):
        return f"missing closing ): `{text}`"
    if isinstance(error, re.error) and error.pos is not None and error.msg.startswith("min repeat greater than max"):
        repeat = _RANGE.match(text, text.rfind("{", 0, error.pos + 1))
        return f"invalid repeat count: `{repeat[0] if repeat else text}`"
    return f"{error.msg}: `{text}`" if isinstance(error, re.error) else str(error)


def _refuse_foreign(pattern: str, pieces: list[str]) -> None:
    """Raises BadRegexp for what means nothing, or something else, in one of Go and Python."""
    at, before = 0, ""
    for piece in pieces:
        if piece == "(" and _GROUP.match(pattern, at) is None:
            raise BadRegexp("error parsing regexp: invalid or unsupported Perl syntax")
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
