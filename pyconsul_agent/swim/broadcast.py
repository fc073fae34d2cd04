"""Messages that ride on every packet until each has been sent often enough. Serf has three of these, memberlist one.

Order: fewest transmissions first, then longest, then newest. Protocol: docs/protocol/gossip.md, section 8.
"""

from __future__ import annotations

from dataclasses import dataclass

from sortedcontainers import SortedDict

from pyconsul_agent.swim.timing import retransmit_limit

QUEUE_MAX = 65_536
"""Messages held at most; beyond it the most transmitted go first. Owners prune far earlier."""

_Key = tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class _Entry:
    message: bytes
    name: str
    ticket: int | None


class TransmitLimitedQueue:
    """Broadcasts waiting for their transmissions. A message with a name replaces the one of the same name."""

    def __init__(self, retransmit_mult: int) -> None:
        self._mult = retransmit_mult
        self._entries: SortedDict[_Key, _Entry] = SortedDict()  # (transmits, -length, -id)
        self._by_name: dict[str, _Key] = {}
        self._finished: list[int] = []
        self._last_id = 0

    def __len__(self) -> int:
        return len(self._entries)

    def queue(self, message: bytes, *, name: str = "", ticket: int | None = None) -> None:
        """Add a message; `ticket` shows up in `take_finished` when it is sent out, replaced or pruned."""
        if name:
            old = self._by_name.get(name)
            if old is not None:
                self._finish(old)
        self._last_id += 1
        self._insert((0, -len(message), -self._last_id), _Entry(message, name, ticket))
        if len(self._entries) > QUEUE_MAX:
            self.prune(QUEUE_MAX)

    def get(self, overhead: int, limit: int, node_count: int) -> list[bytes]:
        """Messages for one packet: each costs `overhead` and its length, in all at most `limit`. Counts as sent."""
        chosen: list[bytes] = []
        if not self._entries:
            return chosen
        most = retransmit_limit(self._mult, node_count)
        again: list[tuple[_Key, _Entry]] = []
        used = 0
        transmits = 0
        while self._entries:
            space = limit - used - overhead
            if space <= 0:
                break
            at = self._entries.bisect_left((transmits, -space, -self._last_id - 1))
            if at == len(self._entries):
                break
            key: _Key = self._entries.keys()[at]
            if key[0] > transmits:  # nothing that fits in this tier
                transmits = key[0]
                continue
            entry = self._entries[key]
            chosen.append(entry.message)
            used += overhead + len(entry.message)
            if key[0] + 1 >= most:
                self._finish(key)
            else:
                self._remove(key)
                again.append(((key[0] + 1, key[1], key[2]), entry))
        for key, entry in again:
            self._insert(key, entry)
        return chosen

    def prune(self, keep: int) -> None:
        """Drop from the tail (most transmitted, shortest, oldest) until at most `keep` are left."""
        while len(self._entries) > keep:
            self._finish(self._entries.keys()[-1])

    def take_finished(self) -> list[int]:
        """Tickets of the messages that are out of the queue since the last call."""
        if not self._finished:
            return []
        finished, self._finished = self._finished, []
        return finished

    def messages(self) -> list[bytes]:
        """What is queued, in order; for statistics and tests."""
        return [entry.message for entry in self._entries.values()]

    def _insert(self, key: _Key, entry: _Entry) -> None:
        self._entries[key] = entry
        if entry.name:
            self._by_name[entry.name] = key

    def _remove(self, key: _Key) -> _Entry:
        entry: _Entry = self._entries.pop(key)
        if entry.name:
            del self._by_name[entry.name]
        return entry

    def _finish(self, key: _Key) -> None:
        entry = self._remove(key)
        if entry.ticket is not None:
            self._finished.append(entry.ticket)
