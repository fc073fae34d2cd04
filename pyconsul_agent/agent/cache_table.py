"""What the agent's cache keeps: how fresh it is, how long it stays, how much there may be. Pure.

The rules are those of Consul 1.10. Entries of kinds that are refreshed in the background are fresh while they are
there; others as long as the caller's `max-age` says. An entry that nobody asks for goes after three days. Unlike
Consul's, the whole is bounded, by entries and by an estimate of bytes: the entry that was asked for longest ago goes
first, since anybody may make new ones by asking for something else.
"""

from __future__ import annotations

import random
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, fields, is_dataclass

from pyconsul_agent.errors import ConsulError
from pyconsul_agent.structs.base import seconds
from pyconsul_agent.structs.requests import QueryOptions
from pyconsul_agent.wire.msgpack import encode

LAST_GET_TTL_S = 72 * 3600.0
ENTRIES_MAX = 2048
"""Each refreshed entry also is a blocking query at a server."""
BYTES_MAX = 48 * 1024 * 1024
BYTES_PER_ENTRY = 14 * 1024
"""What an entry costs besides its value: its key, its task, its call under way (measured)."""
BYTES_PER_ENCODED_BYTE = 3
"""What a value costs in memory, by what it costs on the wire (2 measured)."""
ROWS_WEIGHED = 8
"""Of a longer list so many rows are weighed, and the others taken to be like them."""
BACKOFF_FAILURES_MIN = 3
BACKOFF_MAX_S = 60.0


@dataclass(frozen=True, slots=True)
class CacheLimits:
    """The `cache` block: fetches per second and at once, of each entry; and the bounds of the whole."""

    entry_fetch_rate: float = float("inf")
    entry_fetch_max_burst: int = 2
    entries_max: int = ENTRIES_MAX
    bytes_max: int = BYTES_MAX


DEFAULT_LIMITS = CacheLimits()


@dataclass(slots=True, eq=False)
class Entry:
    """One cached answer. `value` is meaningless until `valid`; `error` is newer than the value."""

    key: bytes
    refreshed: bool
    tokens: float
    tokens_at: float
    used_at: float
    value: object = None
    valid: bool = False
    index: int = 0
    weight: int = BYTES_PER_ENTRY
    error: ConsulError | None = None
    fetched_at: float = 0.0
    lost_contact_at: float | None = None
    failures: int = 0
    gone: bool = False

    def age_s(self, now: float) -> float:
        """How old the value is; one that is refreshed ages only while its refresh fails."""
        since = self.lost_contact_at if self.refreshed else self.fetched_at
        return 0.0 if since is None else max(0.0, now - since)

    def answers(self, asked: QueryOptions, now: float, *, first: bool) -> bool:
        """Whether the value may be given to who asks so; `first` is false once they have waited for a fetch."""
        if not self.valid:
            return False
        if self.refreshed:
            return not 0 < asked.min_query_index >= self.index
        if asked.must_revalidate if first else self.error is not None:
            # compat: when a revalidation fails, 1.10 gives the old value without saying so.
            return False
        return not 0 < asked.max_age < (now - self.fetched_at) * 1e9

    def excuses(self, asked: QueryOptions, now: float) -> bool:
        """Whether the old value may stand in for a fetch that failed (`stale-if-error`)."""
        return self.valid and self.age_s(now) < seconds(asked.stale_if_error)

    def backoff_s(self, draw: random.Random) -> float:
        """How long a refresh waits after failures in a row."""
        if self.failures <= BACKOFF_FAILURES_MIN:
            return 0.0
        wait = min(BACKOFF_MAX_S, 2.0 ** min(self.failures - BACKOFF_FAILURES_MIN, 16))
        return wait * (1.0 + draw.random())


class Table:
    """The entries by key, the one that was asked for longest ago first."""

    def __init__(self, limits: CacheLimits) -> None:
        self._limits = limits
        self._entries: OrderedDict[bytes, Entry] = OrderedDict()
        self.bytes_kept = 0

    def __len__(self) -> int:
        return len(self._entries)

    def limit(self, rate: float, burst: int) -> None:
        """Other limits of fetches from now on (reload)."""
        old = self._limits
        self._limits = CacheLimits(rate, burst, old.entries_max, old.bytes_max)

    def find(self, key: bytes, now: float) -> Entry | None:
        """The entry, which thereby counts as asked for."""
        entry = self._entries.get(key)
        if entry is not None:
            entry.used_at = now
            self._entries.move_to_end(key)
        return entry

    def add(self, key: bytes, now: float, *, refreshed: bool) -> tuple[Entry, list[Entry]]:
        """A new entry without a value, and those that had to go for it."""
        entry = Entry(key, refreshed, float(self._limits.entry_fetch_max_burst), now, now)
        self._entries[key] = entry
        self.bytes_kept += entry.weight
        return entry, self._shrink(now)

    def arrived(self, entry: Entry, value: object, index: int, now: float) -> list[Entry]:
        """A fetch gave `value`; returns what had to go, maybe the entry itself."""
        entry.value, entry.valid, entry.index = value, True, max(index, 1)
        entry.error, entry.lost_contact_at, entry.fetched_at = None, None, now
        # An index of 0 means that nothing was ever written; asking again at once would not block.
        entry.failures = 0 if index > 0 or not entry.refreshed else entry.failures + 1
        weight = BYTES_PER_ENTRY + BYTES_PER_ENCODED_BYTE * encoded_bytes(value)
        if not entry.gone:
            self.bytes_kept += weight - entry.weight
            entry.weight = weight
        return self._shrink(now)

    def failed(self, entry: Entry, error: ConsulError, now: float) -> None:
        """A fetch failed; the value stays and begins to age."""
        entry.error = error
        entry.failures += 1
        if entry.lost_contact_at is None:
            entry.lost_contact_at = now

    def drop(self, entry: Entry) -> None:
        """Forget an entry."""
        if not entry.gone:
            entry.gone = True
            self.bytes_kept -= entry.weight
            del self._entries[entry.key]

    def expire(self, now: float) -> list[Entry]:
        """Forget what nobody asked for in `LAST_GET_TTL_S`."""
        out: list[Entry] = []
        for entry in self._entries.values():
            if now - entry.used_at < LAST_GET_TTL_S:
                break
            out.append(entry)
        for entry in out:
            self.drop(entry)
        return out

    def _shrink(self, now: float) -> list[Entry]:
        out = self.expire(now)
        while len(self._entries) > self._limits.entries_max or self.bytes_kept > self._limits.bytes_max:
            oldest = next(iter(self._entries.values()))
            self.drop(oldest)
            out.append(oldest)
        return out

    def pause_s(self, entry: Entry, now: float) -> float:
        """How long a fetch must wait for `entry_fetch_rate`; 0.0: it may go, and has been counted."""
        rate, burst = self._limits.entry_fetch_rate, float(self._limits.entry_fetch_max_burst)
        if rate == float("inf"):
            return 0.0
        entry.tokens = min(burst, entry.tokens + max(0.0, now - entry.tokens_at) * rate)
        entry.tokens_at = now
        if entry.tokens >= 1.0 - 1e-9:
            entry.tokens -= 1.0
            return 0.0
        return (1.0 - entry.tokens) / rate if rate > 0 else BACKOFF_MAX_S


def encoded_bytes(value: object) -> int:
    """About how long `value` is on the wire."""
    if is_dataclass(value):
        return sum(encoded_bytes(getattr(value, each.name)) for each in fields(value))
    if isinstance(value, Mapping):
        value = tuple(value.items())
    if not isinstance(value, (tuple, list)) or len(value) <= ROWS_WEIGHED:
        return len(encode(value))
    sample = value[:: len(value) // ROWS_WEIGHED][:ROWS_WEIGHED]
    return len(encode(sample)) * len(value) // ROWS_WEIGHED
