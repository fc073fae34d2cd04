"""Requests that came before, by their bytes, and the answers that may be given again.

A client that asks for the same thing over a connection sends the same bytes. Those need not be parsed again, and while
the part of the state that the answer shows has not changed, and this server may still vouch for it, neither need the
answer be made again. Nothing here decides that: an answer carries the stamp that it was made under, and whoever gives
it again compares that with the present one.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Generic, TypeVar

REQUESTS_MAX = 512
SEEN_MAX = 2048
REQUEST_BYTES_MAX = 1024
ANSWER_BYTES_MAX = 256 * 1024
ANSWERS_BYTES_MAX = 8 * 1024 * 1024
"""Longer requests and answers are not kept; when there are too many of them, all are forgotten."""

HeadT = TypeVar("HeadT")


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer's bytes before and after its date, and the stamp of the state that it shows."""

    stamp: Hashable
    before: bytes
    after: bytes


class Known(Generic[HeadT]):
    """Parsed requests by their bytes, and the number of bytes that their answers take."""

    def __init__(self) -> None:
        self._heads: dict[bytes, HeadT] = {}
        self._bytes = 0
        self._seen: set[int] = set()
        self.get = self._heads.get
        """The parsed request, or None."""

    def __len__(self) -> int:
        return len(self._heads)

    def again(self, data: bytes) -> bool:
        """Whether a request has come before (or its like, as hashes go): only then is it worth keeping."""
        if len(data) > REQUEST_BYTES_MAX:
            return False
        mark = hash(data)
        if mark in self._seen:
            return True
        if len(self._seen) >= SEEN_MAX:
            self._seen.clear()
        self._seen.add(mark)
        return False

    def learn(self, data: bytes, head: HeadT) -> None:
        """Keep a whole request."""
        if len(self._heads) >= REQUESTS_MAX:
            self.forget()
        self._heads[data] = head

    def admits(self, answer: Answer, replaced: Answer | None) -> bool:
        """Whether an answer may be kept in place of another; counts it if so."""
        size = len(answer.after)
        if size > ANSWER_BYTES_MAX:
            return False
        self._bytes += size - (0 if replaced is None else len(replaced.after))
        if self._bytes > ANSWERS_BYTES_MAX:
            self.forget()
            return False
        return True

    def forget(self) -> None:
        """Start anew."""
        self._heads.clear()
        self._bytes = 0
