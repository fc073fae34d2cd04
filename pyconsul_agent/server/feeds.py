"""What subscribers are told: per topic and service a view of the store, and the events that led to it.

A feed recomputes its view when the store says that something it looked at has changed, and tells the differences as
one event. What it has told lately is kept, for those who come back with an index and for slow readers; each reader
has only a position in it, so that a reader who does not read costs nothing but its turn to begin again.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from pyconsul_agent.errors import RPCError
from pyconsul_agent.state import health
from pyconsul_agent.state.store import Store, service_key
from pyconsul_agent.state.watch import WatchSet
from pyconsul_agent.structs.health import CheckServiceNode
from pyconsul_agent.structs.subscribe import Topic
from pyconsul_agent.wire.subscribe import encode_deregistered, encode_event, encode_events, encode_registered

FEEDS_MAX = 16_384
EVENTS_MAX = 256
"""Kept per feed, at most."""
FEED_BYTES_MAX = 1024 * 1024
ALL_BYTES_MAX = 64 * 1024 * 1024
"""Kept of all feeds together; each has its share. The last event of a feed is kept whatever its size."""
IDLE_S = 60.0
"""How long a feed goes on that nobody reads, for readers who come back."""


class Interrupted(RPCError):
    """The reader must begin again: the state was replaced, or it has fallen too far behind."""


class TooManyFeeds(RPCError):
    """No more services can be followed."""


@dataclass(frozen=True, slots=True)
class Told:
    """One event that was told. `data` is encoded."""

    index: int
    data: bytes


@dataclass(slots=True)
class _Row:
    """An instance and its part of an event, encoded once for all readers."""

    instance: CheckServiceNode
    part: bytes


class Reader:
    """A position in a feed. `changed` is set when there is something to take."""

    def __init__(self, feed: Feed) -> None:
        self._feed = feed
        self._position = feed.end
        self.changed = asyncio.Event()

    def resume(self, index: int) -> bool:
        """Go to where `index` was the newest; False when that is not known any more."""
        position = self._feed.position_of(index)
        if position is None:
            return False
        self._position = position
        return True

    def take(self) -> list[bytes]:
        """The events since the last time. Raises Interrupted."""
        self.changed.clear()
        told = self._feed.since(self._position)
        self._position = self._feed.end
        return told


class Feed:
    """The instances of one service as one topic has them."""

    def __init__(self, store: Store, topic: Topic, name: str, share: Callable[[], int]) -> None:
        self._store = store
        self._name = name
        self._connect = topic is Topic.SERVICE_HEALTH_CONNECT
        self._share = share
        self._rows: dict[bytes, _Row] = {}
        self._told: deque[Told] = deque()
        self._bytes = 0
        self._base = 0
        """The index of the view before the first of `_told`."""
        self.end = 0
        """How many events were told in all."""
        self.index = 0
        self.readers: dict[Reader, None] = {}
        self.broken = False
        self._generation = store.generation
        self._token: int | None = None
        self._due: asyncio.Handle | None = None
        self._look()
        self._base = self.index

    def close(self) -> None:
        """Look no more. Idempotent."""
        self.broken = True
        if self._due is not None:
            self._due.cancel()
            self._due = None
        if self._token is not None:
            self._store.watchers.unregister(self._token)
            self._token = None
        for reader in self.readers:
            reader.changed.set()

    # --- for readers ------------------------------------------------------------------------------------------

    def snapshot(self) -> tuple[int, list[bytes]]:
        """The index and one encoded event per instance, by node and service ID."""
        if not self._rows:
            # The index of what is not there goes on with that of the catalog, which nobody watches for it.
            index, _ = health.service_nodes(self._store, WatchSet(), self._name, connect=self._connect)
            self.index = max(1, index)
        return self.index, [encode_event(self.index, row.part) for _, row in sorted(self._rows.items())]

    def since(self, position: int) -> list[bytes]:
        """What was told from a position on. Raises Interrupted."""
        missing = self.end - position
        if self.broken or missing > len(self._told):
            raise Interrupted("the events are gone")
        return [self._told[at].data for at in range(len(self._told) - missing, len(self._told))]

    def position_of(self, index: int) -> int | None:
        """The position after the event with `index`."""
        for at in range(len(self._told) - 1, -1, -1):
            if self._told[at].index == index:
                return self.end - (len(self._told) - 1 - at)
        return self.end - len(self._told) if index == self._base and index > 0 else None

    def refresh(self) -> None:
        """Take what has changed in the store but not been looked at yet."""
        if self._due is not None:
            self._due.cancel()
            self._update()

    # --- following the store ----------------------------------------------------------------------------------

    def _changed(self) -> None:
        """In the middle of a commit: looked at afterwards, once for all that one turn of the loop commits."""
        if self._due is None and not self.broken:
            self._due = asyncio.get_running_loop().call_soon(self._update)

    def _update(self) -> None:
        self._due = None
        if self.broken:
            return
        if self._store.generation != self._generation:
            self.close()
            return
        assert self._token is not None
        self._store.watchers.unregister(self._token)
        self._token = None
        try:
            parts = self._look()
        except TooManyFeeds:
            self.close()
            return
        if parts:
            self._tell(encode_events(self.index, parts))

    def _look(self) -> list[bytes]:
        """Bring the view up to date; the differences as parts of an event."""
        watch = WatchSet()
        index, found = health.service_nodes(self._store, watch, self._name, connect=self._connect)
        self._token = self._store.watchers.register(watch, self._changed)
        if self._token is None:
            raise TooManyFeeds("too many watchers")
        rows: dict[bytes, _Row] = {}
        parts = []
        for instance in found:
            assert instance.node is not None and instance.service is not None
            key = service_key(instance.node.node, instance.service.id)
            old = self._rows.get(key)
            if old is not None and old.instance == instance:
                rows[key] = old
            else:
                rows[key] = _Row(instance, encode_registered(instance))
                parts.append(rows[key].part)
        parts += [encode_deregistered(row.instance) for key, row in self._rows.items() if key not in rows]
        self._rows = rows
        self.index = max(1, index)
        return parts

    def _tell(self, data: bytes) -> None:
        self._told.append(Told(self.index, data))
        self._bytes += len(data)
        self.end += 1
        while len(self._told) > 1 and (len(self._told) > EVENTS_MAX or self._bytes > self._share()):
            oldest = self._told.popleft()
            self._bytes -= len(oldest.data)
            self._base = oldest.index
        for reader in self.readers:
            reader.changed.set()


class Feeds:
    """The feeds that are read, or were lately."""

    def __init__(self, store: Store) -> None:
        self._store = store
        # By the exact name: the watches and indexes of a service that is not there know letter case.
        self._feeds: dict[tuple[Topic, str], Feed] = {}
        self._idle: dict[tuple[Topic, str], asyncio.TimerHandle] = {}

    def __len__(self) -> int:
        return len(self._feeds)

    @contextmanager
    def read(self, topic: Topic, name: str) -> Iterator[tuple[Feed, Reader]]:
        """A feed, as it is now, and a position at its end. Raises TooManyFeeds."""
        key = (topic, name)
        feed = self._open(key)
        reader = Reader(feed)
        feed.readers[reader] = None
        try:
            yield feed, reader
        finally:
            feed.readers.pop(reader, None)
            if not feed.readers:
                self._unread(key, feed)

    def close(self) -> None:
        """End them all."""
        for timer in self._idle.values():
            timer.cancel()
        self._idle.clear()
        for feed in self._feeds.values():
            feed.close()
        self._feeds.clear()

    def _open(self, key: tuple[Topic, str]) -> Feed:
        timer = self._idle.pop(key, None)
        if timer is not None:
            timer.cancel()
        feed = self._feeds.get(key)
        if feed is not None:
            feed.refresh()
            if not feed.broken:
                return feed
        elif len(self._feeds) >= FEEDS_MAX:
            self._make_room()
        self._feeds[key] = Feed(self._store, *key, self._share)
        return self._feeds[key]

    def _make_room(self) -> None:
        if not self._idle:
            raise TooManyFeeds("too many services are subscribed to")
        key = next(iter(self._idle))
        self._idle.pop(key).cancel()
        self._feeds.pop(key).close()

    def _unread(self, key: tuple[Topic, str], feed: Feed) -> None:
        if self._feeds.get(key) is not feed:
            feed.close()
        elif feed.broken:
            del self._feeds[key]
        else:
            self._idle[key] = asyncio.get_running_loop().call_later(IDLE_S, self._expire, key)

    def _expire(self, key: tuple[Topic, str]) -> None:
        del self._idle[key]
        self._feeds.pop(key).close()

    def _share(self) -> int:
        return min(FEED_BYTES_MAX, ALL_BYTES_MAX // max(1, len(self._feeds)))
