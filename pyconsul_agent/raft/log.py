"""The log as the core sees it: a bounded tail in memory over durable entries behind a LogReader.

Positions, all inclusive: `first`..`last` exist, `stable` is the highest durable one, `offset` the first one in memory.
A snapshot stands for everything up to `snapshot_index`. Docs: Ongaro's thesis 3.5 and 5.1.
"""

from __future__ import annotations

from collections.abc import Sequence

from pyconsul_agent.raft.config import RaftConfig
from pyconsul_agent.raft.types import InitialState, LogReader
from pyconsul_agent.structs.raft import LogEntry


def size_of(entry: LogEntry) -> int:
    """Bytes an entry is counted with."""
    return len(entry.data or b"") + len(entry.extensions or b"") + 64


class Log:
    """Entries by index. Raises AssertionError for anything that would leave a hole."""

    def __init__(self, config: RaftConfig, initial: InitialState, reader: LogReader) -> None:
        self._config = config
        self.reader = reader
        snapshot = initial.snapshot
        self.snapshot_index = snapshot.index if snapshot else 0
        self.snapshot_term = snapshot.term if snapshot else 0
        self.compact_to: int | None = None
        """Stored entries up to here are to be deleted by the next Ready."""
        self.truncate_from: int | None = None
        """Stored entries from here on are to be deleted by the next Ready."""
        self._entries: list[LogEntry] = []
        self._sizes: list[int] = []
        """Of each of `_entries`."""
        self._bytes = 0
        if initial.last_index and initial.last_index >= self.snapshot_index:
            if initial.first_index > self.snapshot_index + 1:
                raise ValueError(f"log starts at {initial.first_index}, snapshot ends at {self.snapshot_index}")
            self.first, self.last, self.last_term = initial.first_index, initial.last_index, initial.last_term
        else:
            if initial.last_index:
                self.compact_to = initial.last_index
            self.first, self.last, self.last_term = self.snapshot_index + 1, self.snapshot_index, self.snapshot_term
        self.stable = self.last
        self.offset = self.last + 1
        self._storing = self.stable
        """What becomes stable when the Ready under way is stored."""

    # -- reading ------------------------------------------------------------------------------------------------
    def term(self, index: int) -> int | None:
        """The term at `index` (0 at 0), None where neither an entry nor the snapshot's end is."""
        if index >= self.offset:
            return self._entries[index - self.offset].term if index <= self.last else None
        if index == self.last:
            return self.last_term
        if index == self.snapshot_index:
            return self.snapshot_term
        if index < self.first:
            return None
        return self.reader.term(index)

    def entries(self, low: int, high: int, bytes_max: int) -> list[LogEntry]:
        """Entries low..high (both must exist), at least one, cut after `bytes_max` bytes."""
        assert self.first <= low <= high <= self.last, (self.first, low, high, self.last)
        if low < self.offset:
            return self.reader.entries(low, min(high, self.offset - 1), bytes_max)
        sizes = self._sizes[low - self.offset : high + 1 - self.offset]
        chunk = self._entries[low - self.offset : high + 1 - self.offset]
        if sum(sizes) <= bytes_max:
            return chunk
        total = 0
        for count, size in enumerate(sizes):
            total += size
            if total > bytes_max and count:
                return chunk[:count]
        return chunk

    def bytes_of(self, entries: Sequence[LogEntry]) -> int:
        """What entries that `entries` gave are counted with."""
        if not entries or entries[0].index < self.offset:
            return sum(map(size_of, entries))
        return sum(self._sizes[entries[0].index - self.offset : entries[-1].index + 1 - self.offset])

    def unstable(self) -> tuple[LogEntry, ...]:
        """Entries that are not durable yet."""
        return tuple(self._entries[self.stable + 1 - self.offset :]) if self.last > self.stable else ()

    # -- writing ------------------------------------------------------------------------------------------------
    def append(self, entry: LogEntry) -> None:
        """Add one entry right after the last one."""
        assert entry.index == self.last + 1, (entry.index, self.last)
        assert entry.term >= self.last_term, (entry.term, self.last_term)
        size = size_of(entry)
        self._entries.append(entry)
        self._sizes.append(size)
        self._bytes += size
        self.last, self.last_term = entry.index, entry.term

    def truncate(self, index: int) -> None:
        """Drop `index` and everything after it."""
        assert self.first <= index <= self.last, (self.first, index, self.last)
        assert index > self.snapshot_index, (index, self.snapshot_index)
        previous = self.term(index - 1)
        assert previous is not None
        if index <= max(self.stable, self._storing):
            self.truncate_from = index if self.truncate_from is None else min(index, self.truncate_from)
        if index >= self.offset:
            self._bytes -= sum(self._sizes[index - self.offset :])
            del self._entries[index - self.offset :]
            del self._sizes[index - self.offset :]
        else:
            self._entries.clear()
            self._sizes.clear()
            self._bytes = 0
            self.offset = index
        self.last, self.last_term = index - 1, previous
        self.stable = min(self.stable, self.last)
        self._storing = min(self._storing, self.last)

    def storing(self) -> None:
        """The present tail was handed to the driver."""
        self._storing = self.last

    def stored(self, index: int) -> None:
        """The driver says that everything up to `index` is durable (what was truncated since is not counted)."""
        self.stable = max(self.stable, min(index, self._storing))

    def compact(self, index: int) -> None:
        """Forget stable entries up to `index`, which a snapshot covers."""
        assert index <= min(self.stable, self.snapshot_index), (index, self.stable, self.snapshot_index)
        if index < self.first:
            return
        if index >= self.offset:
            self._forget(index + 1)
        self.first = index + 1
        self.compact_to = index

    def reset(self, index: int, term: int) -> None:
        """Become empty after a snapshot that ends at (index, term)."""
        self._entries.clear()
        self._sizes.clear()
        self._bytes = 0
        self.snapshot_index, self.snapshot_term = index, term
        self.first = self.offset = index + 1
        self.last = self.stable = self._storing = index
        self.last_term = term
        self.truncate_from = self.compact_to = None

    def trim(self, index: int) -> None:
        """Let go of memory for durable entries up to `index` (applied ones) when over the bounds."""
        keep = self._config
        if len(self._entries) <= keep.memory_entries_max and self._bytes <= keep.memory_bytes_max:
            return
        low, goal = self.offset, min(self.stable, index) + 1
        count, total = len(self._entries), self._bytes
        # Down to three quarters of the bounds, so that the list is not shifted for each entry.
        while low < goal and (count * 4 > keep.memory_entries_max * 3 or total * 4 > keep.memory_bytes_max * 3):
            total -= self._sizes[low - self.offset]
            count -= 1
            low += 1
        self._forget(low)

    def _forget(self, low: int) -> None:
        self._bytes -= sum(self._sizes[: low - self.offset])
        del self._entries[: low - self.offset]
        del self._sizes[: low - self.offset]
        self.offset = low
