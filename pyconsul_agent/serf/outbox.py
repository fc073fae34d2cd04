"""Serf's three broadcast queues: intents, queries, user events, each message sent a few times and then forgotten.

Order (docs/protocol/gossip.md 8): fewest transmissions first, then longest, then newest. Unlike memberlist's own queue
no message ever replaces another one here.
"""

from __future__ import annotations

import math
from dataclasses import dataclass


def transmit_limit(mult: int, nodes: int) -> int:
    """How often one message is sent in a pool of `nodes`: mult * ceil(log10(nodes + 1))."""
    return mult * math.ceil(math.log10(nodes + 1))


@dataclass(slots=True)
class _Entry:
    message: bytes
    number: int
    ticket: int
    sent: int = 0

    def order(self) -> tuple[int, int, int]:
        return (self.sent, -len(self.message), -self.number)


class BroadcastQueue:
    """One queue. `finished` collects the tickets of messages that are done, whether sent out or pruned."""

    def __init__(self) -> None:
        self._entries: list[_Entry] = []
        self._count = 0
        self.finished: list[int] = []

    def __len__(self) -> int:
        return len(self._entries)

    def add(self, message: bytes, ticket: int = 0) -> None:
        """Queue `message`. A ticket other than 0 is reported in `finished`."""
        self._count += 1
        self._entries.append(_Entry(message, self._count, ticket))

    def take(self, overhead: int, space: int, limit: int) -> list[bytes]:
        """Messages for one packet, each costing `overhead` + its length of `space`; counted as one transmission."""
        if not self._entries:
            return []
        taken: list[bytes] = []
        kept: list[_Entry] = []
        for entry in sorted(self._entries, key=_Entry.order):
            cost = overhead + len(entry.message)
            if cost > space:
                kept.append(entry)
                continue
            space -= cost
            taken.append(entry.message)
            entry.sent += 1
            if entry.sent >= limit:
                self._finish(entry)
            else:
                kept.append(entry)
        self._entries = kept
        return taken

    def prune(self, retain: int) -> int:
        """Drop the most transmitted, shortest, oldest until `retain` are left; returns how many went."""
        excess = len(self._entries) - retain
        if excess <= 0:
            return 0
        ordered = sorted(self._entries, key=_Entry.order)
        for entry in ordered[retain:]:
            self._finish(entry)
        self._entries = ordered[:retain]
        return excess

    def _finish(self, entry: _Entry) -> None:
        if entry.ticket:
            self.finished.append(entry.ticket)
