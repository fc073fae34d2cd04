r"""One table: rows by primary key, in key order, with secondary indexes.

Keys are bytes and compare bytewise, as in the original. A composite key joins its parts by a NUL byte, so that all rows
of a node are the keys with prefix `<node>\0`. Rows are immutable values; a table only swaps them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Generic, TypeVar

from sortedcontainers import SortedList

RowT = TypeVar("RowT")

SEPARATOR = b"\0"


def fold(text: str) -> bytes:
    """A name that compares case-insensitively, as a key."""
    return text.lower().encode("utf-8", "surrogateescape")


def join(*parts: bytes) -> bytes:
    """A composite key."""
    return SEPARATOR.join(parts)


def prefix_end(prefix: bytes) -> bytes | None:
    """The smallest key above every key with `prefix`; None if there is none."""
    stem = prefix.rstrip(b"\xff")
    return stem[:-1] + bytes([stem[-1] + 1]) if stem else None


class Table(Generic[RowT]):
    """Rows of one kind. `indexes` maps a name to a function row -> the keys under which that row is found."""

    __slots__ = ("_functions", "_indexes", "_order", "name", "rows")

    def __init__(self, name: str, indexes: Mapping[str, Callable[[RowT], Iterable[bytes]]] | None = None) -> None:
        self.name = name
        self.rows: dict[bytes, RowT] = {}
        self._order = SortedList()
        self._functions = dict(indexes or {})
        self._indexes: dict[str, dict[bytes, SortedList]] = {index: {} for index in self._functions}

    def __len__(self) -> int:
        return len(self.rows)

    def get(self, key: bytes) -> RowT | None:
        """The row under `key`."""
        return self.rows.get(key)

    def keys(self, prefix: bytes = b"") -> list[bytes]:
        """Keys with `prefix`, in order."""
        if not prefix:
            return list(self._order)
        end = prefix_end(prefix)
        return list(self._order.irange(prefix, end, inclusive=(True, False)))

    def scan(self, prefix: bytes = b"") -> list[RowT]:
        """Rows whose keys have `prefix`, in key order."""
        return [self.rows[key] for key in self.keys(prefix)]

    def has_prefix(self, prefix: bytes) -> bool:
        """Whether any key has `prefix`."""
        return next(iter(self._order.irange(prefix, prefix_end(prefix), inclusive=(True, False))), None) is not None

    def lookup(self, index: str, key: bytes) -> list[RowT]:
        """Rows found under `key` in the secondary `index`, in primary key order."""
        return [self.rows[primary] for primary in self._indexes[index].get(key, ())]

    def first(self, index: str, key: bytes) -> RowT | None:
        """The first of `lookup`."""
        found = self._indexes[index].get(key)
        return self.rows[found[0]] if found else None

    def index_keys(self, index: str) -> Iterator[bytes]:
        """Every key of a secondary index, sorted."""
        return iter(sorted(self._indexes[index]))

    def put(self, key: bytes, row: RowT) -> RowT | None:
        """Insert or replace; returns the row that was there."""
        old = self.rows.get(key)
        if old is None:
            self._order.add(key)
        else:
            self._unindex(key, old)
        self.rows[key] = row
        for index, function in self._functions.items():
            for found in function(row):
                self._indexes[index].setdefault(found, SortedList()).add(key)
        return old

    def remove(self, key: bytes) -> RowT | None:
        """Delete; returns the row that was there."""
        old = self.rows.pop(key, None)
        if old is not None:
            self._order.remove(key)
            self._unindex(key, old)
        return old

    def _unindex(self, key: bytes, row: RowT) -> None:
        for index, function in self._functions.items():
            entries = self._indexes[index]
            for found in function(row):
                keys = entries[found]
                keys.remove(key)
                if not keys:
                    del entries[found]
