"""Queries: questions that gossip to all nodes; answers come back directly (docs/protocol/gossip.md 11).

Here: telling new from seen, who is meant, and the bytes of acks and answers. Sending is `serf.core`'s.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from pyconsul_agent.serf.clock import LamportClock
from pyconsul_agent.serf.config import EVENT_SLOTS, EVENTS_PER_SLOT_MAX, QUERY_RESPONSE_BYTES_MAX
from pyconsul_agent.swim.effects import Node
from pyconsul_agent.wire.gossip import address_bytes
from pyconsul_agent.wire.serf import (
    QUERY_FLAG_ACK,
    NodeFilter,
    Query,
    QueryResponse,
    Relay,
    RelayAddress,
    TagFilter,
    decode_filter,
    encode,
)

INTERNAL_PREFIX = "_serf_"
PING_QUERY = INTERNAL_PREFIX + "ping"
CONFLICT_QUERY = INTERNAL_PREFIX + "conflict"

EXPRESSION_CHARACTERS_MAX = 256
OPEN_QUERIES_MAX = 256
"""Queries handed to the application that still wait for an answer. Ours."""
RELAYS_MAX = 5
"""Copies of one answer. The original believes any number up to 255 that a stranger asks for."""

# What Python's engine knows and RE2 does not, and repeats inside a repeated group, whose matching time explodes.
_NOT_RE2 = re.compile(r"\(\?[=!<(#]|\(\?P=|\\[1-9]|[*+?}]\+")
_NESTED_REPEAT = re.compile(r"\([^()]*[*+{|][^()]*\)[*+{]|\)\)+[*+{]")


class UnusableExpression(ValueError):
    """A filter's expression that is not tried: no RE2, or one whose matching could take for ever."""


def tag_matches(expression: str, value: str) -> bool:
    """Unanchored match. Raises UnusableExpression."""
    if len(expression) > EXPRESSION_CHARACTERS_MAX or _NOT_RE2.search(expression) or _NESTED_REPEAT.search(expression):
        raise UnusableExpression(expression[:64])
    try:
        return re.search(expression, value) is not None
    except (re.error, RecursionError, OverflowError) as error:
        raise UnusableExpression(str(error)) from error


def is_meant(query: Query, name: str, tags: Mapping[str, str]) -> bool:
    """Whether every filter passes. Raises DecodeError or UnusableExpression: then the query is not for us either."""
    for data in query.filters or ():
        item = decode_filter(data)
        if isinstance(item, NodeFilter):
            if name not in item.names:
                return False
        elif isinstance(item, TagFilter) and not tag_matches(item.expression, tags.get(item.tag, "")):
            return False
    return True


@dataclass(slots=True)
class _Slot:
    ltime: int
    ids: list[int]


@dataclass(frozen=True, slots=True)
class OpenQuery:
    """A query that may be answered once, until `deadline` (monotonic s)."""

    query: Query
    deadline: float


class QueryBook:
    """Queries seen, and those that still may be answered."""

    def __init__(self) -> None:
        self.clock = LamportClock()
        self.min_time = 0
        self._ring: dict[int, _Slot] = {}
        self._open: dict[tuple[int, int], OpenQuery] = {}

    def receive(self, query: Query) -> bool:
        """True if the query is new."""
        self.clock.witness(query.ltime)
        now = self.clock.time
        if query.ltime < self.min_time or (now > EVENT_SLOTS and query.ltime < now - EVENT_SLOTS):
            return False
        index = query.ltime % EVENT_SLOTS
        slot = self._ring.get(index)
        if slot is None or slot.ltime != query.ltime:
            self._ring[index] = _Slot(query.ltime, [query.id])
            return True
        if query.id in slot.ids or len(slot.ids) >= EVENTS_PER_SLOT_MAX:
            return False
        slot.ids.append(query.id)
        return True

    def open(self, query: Query, now: float) -> bool:
        """Keep `query` for an answer by the application; False when too many wait already."""
        for key in [key for key, item in self._open.items() if item.deadline <= now]:
            del self._open[key]
        if len(self._open) >= OPEN_QUERIES_MAX:
            return False
        self._open[query.ltime, query.id] = OpenQuery(query, now + query.timeout / 1e9)
        return True

    def close(self, ltime: int, id: int, now: float) -> Query | None:
        """The query to answer, once; None when it is unknown, answered or over."""
        item = self._open.pop((ltime, id), None)
        return item.query if item is not None and now < item.deadline else None


def ack(query: Query, name: str) -> bytes:
    """The sign that `query` arrived at `name`."""
    return encode(QueryResponse(ltime=query.ltime, id=query.id, from_=name, flags=QUERY_FLAG_ACK))


def answer(query: Query, name: str, payload: bytes) -> bytes:
    """The encoded answer. Raises ValueError when it is too long to send."""
    data = encode(QueryResponse(ltime=query.ltime, id=query.id, from_=name, payload=payload))
    if len(data) > QUERY_RESPONSE_BYTES_MAX:
        raise ValueError(f"response exceeds limit of {QUERY_RESPONSE_BYTES_MAX} bytes")
    return data


def relayed(asker: Node, response: bytes) -> bytes | None:
    """`response` wrapped for a relay to `asker`; None when that is too long."""
    destination = RelayAddress(ip=address_bytes(asker.address), port=asker.port)
    data = encode(Relay(destination=destination, destination_name=asker.name, inner=response))
    return data if len(data) <= QUERY_RESPONSE_BYTES_MAX else None


def is_relayable(inner: bytes) -> bool:
    """Only answers are forwarded: a relay must not become anybody's anonymous sender."""
    return 0 < len(inner) <= QUERY_RESPONSE_BYTES_MAX and inner[0] == QueryResponse.TYPE
