"""Who waits for what: the keys a read looked at, the keys a commit touched, and where the two meet.

A watch names a row (present or absent), a key prefix or a whole table. The index table is a table like the others, so
"the index of service web" is a row. For prefixes the registry tries each *distinct length in use*, not each watcher.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Set
from dataclasses import dataclass, field

WATCHES_PER_READ_MAX = 2048
"""A read that looks at more keys of a table than this watches the table instead."""

WATCHERS_MAX = 65_536
"""Blocked reads per server; beyond it a read is answered at once (the caller asks again)."""

Touch = tuple[str, bytes]
"""(table name, key)"""


@dataclass(slots=True)
class WatchSet:
    """What one read looked at. Filled by the query functions of this room."""

    rows: set[Touch] = field(default_factory=set)
    prefixes: set[Touch] = field(default_factory=set)

    def row(self, table: str, key: bytes) -> None:
        """The read depends on this row, or on its absence."""
        if len(self.rows) >= WATCHES_PER_READ_MAX:
            self.prefixes.add((table, b""))
        else:
            self.rows.add((table, key))

    def prefix(self, table: str, prefix: bytes) -> None:
        """The read depends on every row with this key prefix."""
        if len(self.prefixes) >= WATCHES_PER_READ_MAX:
            self.prefixes.add((table, b""))
        else:
            self.prefixes.add((table, prefix))

    def table(self, table: str) -> None:
        """The read depends on the whole table."""
        self.prefixes.add((table, b""))


@dataclass(slots=True)
class Changes:
    """What one commit touched."""

    index: int
    touched: Set[Touch]


class WatchRegistry:
    """Sleeping reads by what they wait for."""

    def __init__(self) -> None:
        self._next = 0
        self._wakes: dict[int, tuple[tuple[Touch, ...], tuple[Touch, ...], Callable[[], None]]] = {}
        """Rows, prefixes, whom to wake. A tuple takes a fifth of a small set, and nothing is looked up in it."""
        self._rows: dict[Touch, set[int]] = {}
        self._prefixes: dict[Touch, set[int]] = {}
        self._lengths: dict[str, dict[int, int]] = {}

    def __len__(self) -> int:
        return len(self._wakes)

    def register(self, watch: WatchSet, wake: Callable[[], None]) -> int | None:
        """Call `wake` when something in `watch` is touched; returns a token, or None when there are too many.

        `watch` is not kept, only what it names.
        """
        if len(self._wakes) >= WATCHERS_MAX:
            return None
        token = self._next
        self._next += 1
        self._wakes[token] = (tuple(watch.rows), tuple(watch.prefixes), wake)
        for touch in watch.rows:
            self._rows.setdefault(touch, set()).add(token)
        for table, prefix in watch.prefixes:
            self._prefixes.setdefault((table, prefix), set()).add(token)
            lengths = self._lengths.setdefault(table, {})
            lengths[len(prefix)] = lengths.get(len(prefix), 0) + 1
        return token

    def unregister(self, token: int) -> None:
        """Forget a registration; unknown tokens are ignored."""
        found = self._wakes.pop(token, None)
        if found is None:
            return
        rows, prefixes, _ = found
        for touch in rows:
            _discard(self._rows, touch, token)
        for table, prefix in prefixes:
            _discard(self._prefixes, (table, prefix), token)
            lengths = self._lengths[table]
            lengths[len(prefix)] -= 1
            if not lengths[len(prefix)]:
                del lengths[len(prefix)]

    def match(self, touched: Iterable[Touch]) -> list[int]:
        """Tokens whose watch meets `touched`, in order of registration."""
        found: set[int] = set()
        for table, key in touched:
            found |= self._rows.get((table, key), _NONE)
            for length in self._lengths.get(table, ()):
                if length <= len(key):
                    found |= self._prefixes.get((table, key[:length]), _NONE)
        return sorted(found)

    def notify(self, changes: Changes) -> None:
        """Wake those whom a commit concerns. Called after the commit is visible."""
        if self._wakes:
            self._call(self.match(changes.touched))

    def wake_all(self) -> None:
        """The whole store was replaced."""
        self._call(sorted(self._wakes))

    def _call(self, tokens: list[int]) -> None:
        for token in tokens:
            self._wakes[token][2]()


_NONE: frozenset[int] = frozenset()


def _discard(table: dict[Touch, set[int]], touch: Touch, token: int) -> None:
    tokens = table[touch]
    tokens.discard(token)
    if not tokens:
        del table[touch]
