"""Queries: questions that gossip to all nodes; answers come back directly (docs/protocol/gossip.md 11).

Here: telling new from seen, who is meant, what is answered by serf itself and what by the application; and the
answers to what we ask.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from pyconsul_agent.errors import DecodeError
from pyconsul_agent.serf import keys
from pyconsul_agent.serf.clock import LamportClock
from pyconsul_agent.serf.config import (
    EVENT_SLOTS,
    EVENTS_PER_SLOT_MAX,
    PENDING_QUERIES_MAX,
    QUERY_BYTES_MAX,
    QUERY_RESPONSE_BYTES_MAX,
)
from pyconsul_agent.serf.effects import (
    KeyringChanged,
    QueryAnswered,
    QueryFinished,
    QueryReceived,
    SendUser,
    SerfEffect,
)
from pyconsul_agent.serf.table import MemberTable
from pyconsul_agent.structs.member import Member, MemberStatus
from pyconsul_agent.swim.effects import LogLevel, log_line
from pyconsul_agent.swim.keyring import Keyring
from pyconsul_agent.wire.gossip import address_bytes, address_text
from pyconsul_agent.wire.regexp import BadRegexp, compile_regexp
from pyconsul_agent.wire.serf import (
    QUERY_FLAG_ACK,
    QUERY_FLAG_NO_BROADCAST,
    ConflictResponse,
    Filter,
    NodeFilter,
    Query,
    QueryResponse,
    Relay,
    RelayAddress,
    TagFilter,
    decode_filter,
    encode,
    encode_conflict,
    encode_filter,
)

RELAY_PROTOCOL_MIN = 5
INTERNAL_PREFIX = "_serf_"
PING_QUERY = INTERNAL_PREFIX + "ping"
CONFLICT_QUERY = INTERNAL_PREFIX + "conflict"

OPEN_QUERIES_MAX = 256
"""Queries handed to the application that still wait for an answer. Ours."""
ANSWERS_MAX = 1 << 17
"""Acks and answers counted for one query of ours. Ours."""
RELAYS_MAX = 5
"""Copies of one answer. The original believes any number up to 255 that a stranger asks for."""


class UnusableExpression(ValueError):
    """A filter's expression that is not tried: no RE2, or one whose matching could take for ever."""


def tag_matches(expression: str, value: str) -> bool:
    """Unanchored match. Raises UnusableExpression."""
    try:
        return compile_regexp(expression).search(value) is not None
    except BadRegexp as error:
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
    """Queries seen, and those that still may be answered by the application."""

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


@dataclass(slots=True)
class _Asked:
    """A query of our own. `seen`: (node, was it an ack)."""

    ltime: int
    deadline: float
    seen: set[tuple[str, bool]] = field(default_factory=set)


class QueryDesk:
    """Receives queries, answers those it knows, hands up the others, forwards answers of others. Emits effects."""

    def __init__(self, name: str, table: MemberTable, rng: random.Random, emit: Callable[[SerfEffect], None]) -> None:
        self._name = name
        self._table = table
        self._rng = rng
        self._emit = emit
        self._book = QueryBook()
        self._asked: dict[int, _Asked] = {}
        self.keyring: Keyring | None = None
        """What the key queries work on."""

    @property
    def clock(self) -> LamportClock:
        """Lamport time of queries."""
        return self._book.clock

    def ignore_before(self, ltime: int) -> None:
        """Queries of earlier times are history."""
        self._book.min_time = ltime

    def receive(self, query: Query, tags: Mapping[str, str], now: float) -> bool:
        """Handle `query` if it is new; True when it is to be spread further."""
        if not self._book.receive(query):
            return False
        try:
            asked = is_meant(query, self._name, tags)
        except (DecodeError, UnusableExpression) as error:
            self._warn("query filter cannot be used", query=query.name, error=str(error))
            asked = False
        if asked:
            self._process(query, now)
        return not query.flags & QUERY_FLAG_NO_BROADCAST

    def _process(self, query: Query, now: float) -> None:
        if query.flags & QUERY_FLAG_ACK:
            ack = QueryResponse(ltime=query.ltime, id=query.id, from_=self._name, flags=QUERY_FLAG_ACK)
            self._send(query, encode(ack))
        if not query.name.startswith(INTERNAL_PREFIX):
            if self._book.open(query, now):
                self._emit(QueryReceived(query.ltime, query.id, query.name, query.payload or b"", query.source_node))
        elif query.name == CONFLICT_QUERY:
            self._answer_conflict(query)
        elif query.name in keys.KEY_QUERIES:
            self._answer_key_query(query)
        elif query.name != PING_QUERY:
            self._warn("unhandled internal query", query=query.name)

    def respond(self, ltime: int, id: int, payload: bytes, now: float) -> bool:
        """The application's answer; False when the query is unknown, answered or over. Raises ValueError: too long."""
        query = self._book.close(ltime, id, now)
        if query is None:
            return False
        self._answer(query, payload)
        return True

    def _answer_conflict(self, query: Query) -> None:
        """Say what we know of the name in the payload; its owner is silent."""
        name = (query.payload or b"").decode("utf-8", "surrogateescape")
        if name == self._name:
            return
        record = self._table.records.get(name)
        payload = encode_conflict(None if record is None else _conflict_response(record.member))
        try:
            self._answer(query, payload)
        except ValueError as error:
            self._warn("failed to respond to a conflict query", error=str(error))

    def _answer_key_query(self, query: Query) -> None:
        response, keyring = keys.carry_out(query.name, query.payload or b"", self.keyring)
        if keyring is not None and keyring is not self.keyring:
            self.keyring = keyring
            self._emit(KeyringChanged(keyring))
        overhead = (
            len(encode(QueryResponse(ltime=query.ltime, id=query.id, from_=self._name, payload=bytes(256)))) - 256
        )
        self._answer(query, keys.fitting(response, QUERY_RESPONSE_BYTES_MAX - overhead))

    # --- asking -------------------------------------------------------------------------------------------------

    def ask(
        self,
        name: str,
        payload: bytes,
        asker: Member,
        now: float,
        *,
        timeout_s: float,
        ack: bool,
        relay_factor: int,
        filters: Sequence[Filter] = (),
    ) -> tuple[Query, bytes]:
        """A query of our own and its bytes, to be received here too and broadcast. Raises ValueError."""
        if len(self._asked) >= PENDING_QUERIES_MAX:
            raise ValueError("too many queries are running")
        query = Query(
            ltime=self.clock.time,
            id=self._rng.getrandbits(31),
            address=address_bytes(asker.address),
            port=asker.port,
            source_node=self._name,
            filters=tuple(map(encode_filter, filters)) or None,
            flags=QUERY_FLAG_ACK if ack else 0,
            relay_factor=relay_factor,
            timeout=round(timeout_s * 1e9),
            name=name,
            payload=payload,
        )
        data = encode(query)
        if len(data) > QUERY_BYTES_MAX:
            raise ValueError(f"query exceeds limit of {QUERY_BYTES_MAX} bytes")
        self._asked[query.id] = _Asked(query.ltime, now + timeout_s)
        return query, data

    def answered(self, response: QueryResponse) -> None:
        """An answer or ack came in; each node counts once."""
        asked = self._asked.get(response.id)
        if asked is None or asked.ltime != response.ltime:
            self._emit(log_line(LogLevel.DEBUG, "response to an unknown query", id=response.id, sender=response.from_))
            return
        is_ack = bool(response.flags & QUERY_FLAG_ACK)
        key = (response.from_, is_ack)
        if key in asked.seen or len(asked.seen) >= ANSWERS_MAX:
            return
        asked.seen.add(key)
        self._emit(QueryAnswered(response.id, response.from_, None if is_ack else response.payload or b""))

    def next_deadline(self) -> float | None:
        """When the first query of ours is over."""
        if not self._asked:
            return None
        return min((asked.deadline for asked in self._asked.values()), default=None)

    def expire(self, now: float) -> None:
        """End queries whose time is over."""
        for number in [number for number, asked in self._asked.items() if asked.deadline <= now]:
            self.forget(number)
            self._emit(QueryFinished(number))

    def forget(self, id: int) -> None:
        """No more answers are wanted."""
        self._asked.pop(id, None)

    # --- sending ------------------------------------------------------------------------------------------------

    def _answer(self, query: Query, payload: bytes) -> None:
        data = encode(QueryResponse(ltime=query.ltime, id=query.id, from_=self._name, payload=payload))
        if len(data) > QUERY_RESPONSE_BYTES_MAX:
            raise ValueError(f"response exceeds limit of {QUERY_RESPONSE_BYTES_MAX} bytes")
        self._send(query, data)

    def _send(self, query: Query, data: bytes) -> None:
        try:
            to = (address_text(query.address or b""), query.port)
        except DecodeError as error:
            self._warn("query without an address to answer to", query=query.name, error=error.reason)
            return
        self._emit(SendUser(to, data))
        self._relay(query, data)

    def _relay(self, query: Query, data: bytes) -> None:
        """Send copies around corners, for pools where not everybody reaches everybody."""
        count = min(query.relay_factor, RELAYS_MAX)
        if count == 0 or len(self._table.records) < count + 1:
            return
        destination = RelayAddress(ip=query.address, port=query.port)
        wrapped = encode(Relay(destination=destination, destination_name=query.source_node, inner=data))
        if len(wrapped) > QUERY_RESPONSE_BYTES_MAX:
            self._warn("relayed response is too long", query=query.name)
            return
        able = [
            record.member
            for name, record in sorted(self._table.records.items())
            if name != self._name
            and record.status is MemberStatus.ALIVE
            and record.member.protocol_max >= RELAY_PROTOCOL_MIN
        ]
        for member in self._rng.sample(able, min(count, len(able))):
            self._emit(SendUser((member.address, member.port), wrapped))

    def forward(self, message: Relay) -> None:
        """Do what a relay asks: only answers are forwarded, a relay must not become anybody's anonymous sender."""
        inner = message.inner
        if not 0 < len(inner) <= QUERY_RESPONSE_BYTES_MAX or inner[0] != QueryResponse.TYPE:
            self._warn("relay of something that is no answer ignored")
            return
        try:
            to = (address_text(message.destination.ip or b""), message.destination.port)
        except DecodeError as error:
            self._warn("relay without a usable address", error=error.reason)
            return
        self._emit(SendUser(to, inner))

    def _warn(self, message: str, **pairs: object) -> None:
        self._emit(log_line(LogLevel.WARN, message, **pairs))


def _conflict_response(member: Member) -> ConflictResponse:
    return ConflictResponse(
        name=member.name,
        address=address_bytes(member.address),
        port=member.port,
        tags=member.tags,
        status=int(member.status),
        protocol_min=member.protocol_min,
        protocol_max=member.protocol_max,
        protocol_current=member.protocol_current,
        delegate_min=member.delegate_min,
        delegate_max=member.delegate_max,
        delegate_current=member.delegate_current,
    )
