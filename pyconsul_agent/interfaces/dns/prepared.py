"""Replies to UDP questions that have been asked before: whole ones, or ones put together from prepared pieces.

A reply may be given again while nothing that it was made of has changed: the question's bytes are the key, and a
*stamp*, taken before the catalog was read, says whether the catalog is still that. Only replies out of the catalog of
this very process are kept, as others do not tell of changes. An SOA's serial, the time, is filled in each time.

Instances come in a fresh random order each time. `order` draws it, here and on the way without preparation, and so the
reply to a question is the same on both ways for the same random numbers:

* of up to PERMUTED_MAX instances every order's reply is kept, made when it is drawn first;
* of more, when each gives one address record of the same size, the reply is a head, as many of the records as the
  transport takes, and a tail;
* of more, when only the first few of an order can survive, the reply is made of those few;
* else of all of them.

Each way is proved by its kind of instances when the question comes the second time (`_strategy`); a doubt leads to the
next slower one.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Sequence
from struct import Struct
from typing import Protocol

from pyconsul_agent.env.base import Clock
from pyconsul_agent.interfaces.dns import resolve
from pyconsul_agent.interfaces.dns.config import DNSConfig
from pyconsul_agent.interfaces.dns.finish import Instances
from pyconsul_agent.structs.base import NANOSECONDS_PER_SECOND
from pyconsul_agent.telemetry.net_meters import STALE_S, DNSMeter, Repeated
from pyconsul_agent.wire.dns import AAAA, SRV, UDP_BYTES, A, CannotPack, Message, Query, pack
from pyconsul_agent.wire.dns_trim import UDP_ANSWERS_MAX

QUESTIONS_MAX = 4096
"""Questions whose replies are kept. What the client may vary (letter case, EDNS) makes another question."""

QUESTION_BYTES_MAX = 320
"""Longer messages (padding, garbage at the end) are never keys."""

BYTES_MAX = 32 * 1024 * 1024
"""Octets of kept replies and of keys, together."""

PERMUTED_MAX = 4
_SERIAL = Struct("!I")
_ORDERS = {count: tuple(itertools.permutations(range(count))) for count in range(PERMUTED_MAX + 1)}

ENTRY_BYTES, ROW_BYTES, PIECE_BYTES = 1024, 160, 48
"""About what an entry takes beside its content, an instance in it, and a piece of a reply beside its octets."""


def order(draw: random.Random, count: int, wanted: int) -> Sequence[int]:
    """The first `wanted` of `count` places in a random order; more wanted only adds places at the end."""
    if count <= 1:
        return range(min(count, wanted))
    if count <= PERMUTED_MAX:
        orders = _ORDERS[count]
        return orders[int(draw.random() * len(orders))][:wanted]
    uniform = draw.random
    places = list(range(count))
    for at in range(min(count, wanted)):
        other = at + int(uniform() * (count - at))
        places[at], places[other] = places[other], places[at]
    return places[:wanted]


class Stamp:
    """Something read from the catalog is current as long as the stamp taken before is valid."""

    __slots__ = ("valid",)

    def __init__(self) -> None:
        self.valid = True


class LocalCatalog(Protocol):
    """The catalog of this process, as a server has one."""

    def catalog_age_s(self) -> float | None:
        """How long ago it was surely current (0 on the leader); None when this server cannot answer even stale."""

    def watch_catalog(self, changed: Callable[[], None]) -> None:
        """Call `changed` after each commit that touches nodes, services or checks, before anybody can read it."""


# --- ways to reply ------------------------------------------------------------------------------------------------


class Reply(Protocol):
    """Gives the reply's octets after its id. Raises CannotPack where the reply cannot be packed."""

    def __call__(self) -> bytes: ...


def _permuted(instances: Instances, query: Query, draw: random.Random, grown: Callable[[int], None]) -> Reply:
    orders = _ORDERS[len(instances.rows)]
    kept: list[bytes | None] = [None] * len(orders)
    uniform, count = draw.random, len(orders)

    def reply() -> bytes:
        at = int(uniform() * count) if count > 1 else 0
        found = kept[at]
        if found is None:
            found = kept[at] = instances.reply(query, orders[at])[2:]
            grown(len(found) + PIECE_BYTES)
        return found

    return reply


def _sampled(instances: Instances, query: Query, draw: random.Random, grown: Callable[[int], None]) -> Reply | None:
    """None unless every instance gives one address record of the same size."""
    count, asked = len(instances.rows), instances.asked
    each = [resolve.service_answer([row], asked, {}) for row in instances.rows]
    if any(len(built.answers) != 1 for built in each):
        return None
    records = [built.answers[0] for built in each]
    types = {record.type for record in records}
    if len(set(records)) != count or len(types) != 1 or not types <= {A, AAAA}:
        return None
    question = (query.name or ".", query.type, query.cls)
    compress = not asked.config.disable_compression
    bare = len(pack(Message(0, 0, question)))
    pieces = [pack(Message(0, 0, question, [record]), compress=compress)[bare:] for record in records]
    whole = instances.reply(query, range(count))
    kept = int.from_bytes(whole[6:8], "big")
    head, tail = whole[2:bare], whole[bare + kept * len(pieces[0]) :]
    if whole[bare:] != b"".join(pieces[:kept]) + tail:
        return None
    grown(sum(map(len, pieces)) + PIECE_BYTES * count)
    join = b"".join

    def reply() -> bytes:
        return head + join([pieces[place] for place in order(draw, count, kept)]) + tail

    return reply


def _shortened(instances: Instances, query: Query, draw: random.Random) -> Reply | None:
    """None unless the reply keeps but a few SRV records, and each instance gives one."""
    config, count = instances.asked.config, len(instances.rows)
    limit = min(UDP_ANSWERS_MAX, config.udp_answer_limit)
    if (query.edns is not None and query.edns.udp_size > UDP_BYTES) or count <= limit + 1 or query.type != SRV:
        return None
    # Glue needs no look at the others: the first record that a target owns comes from an instance of that target.
    if len(resolve.service_answer(instances.rows, instances.asked, {}).answers) != count:
        return None  # some are given once for several

    def reply() -> bytes:
        # One more than survives: that there were more than the limit is what decides how sizes are taken.
        return instances.reply(query, order(draw, count, limit + 1))[2:]

    return reply


def _strategy(instances: Instances, query: Query, draw: random.Random, grown: Callable[[int], None]) -> Reply:
    count = len(instances.rows)
    if count <= PERMUTED_MAX:
        return _permuted(instances, query, draw, grown)
    if query.name is not None:
        found = _shortened(instances, query, draw) or _sampled(instances, query, draw, grown)
        if found is not None:
            return found
    return lambda: instances.reply(query, order(draw, count, count))[2:]


class Fixed:
    """A reply that is always the same, after its id, but for the serial in `soa_numbers` if it holds these."""

    __slots__ = ("body", "soa_numbers")

    def __init__(self, body: bytes, soa_numbers: bytes | None) -> None:
        self.body = body
        self.soa_numbers = soa_numbers

    def reply(self, clock: Clock) -> Reply | None:
        """None when the serial cannot be found for certain."""
        whole, numbers = self.body, self.soa_numbers
        if numbers is None:
            return lambda: whole
        if whole.count(numbers) != 1:
            return None
        at = whole.index(numbers)
        head, tail, pack_serial, wall_ns = whole[:at], whole[at + 4 :], _SERIAL.pack, clock.wall_ns
        return lambda: head + pack_serial(wall_ns() // NANOSECONDS_PER_SECOND & 0xFFFFFFFF) + tail


# --- the cache ----------------------------------------------------------------------------------------------------


class _Entry:
    __slots__ = ("again", "bytes", "query", "reply", "source", "stamp", "used")

    def __init__(self, stamp: Stamp, query: Query, source: Instances | Fixed, again: Repeated) -> None:
        self.again = again
        self.stamp = stamp
        self.query = query
        self.source = source
        self.reply: Reply | None = None
        self.used = False
        self.bytes = 0


class PreparedReplies:
    """Questions with their replies, bounded; the ones not asked for a while make room."""

    def __init__(self, local: LocalCatalog, draw: random.Random, clock: Clock, meter: DNSMeter) -> None:
        self._meter = meter
        self._local = local
        self._age_s = local.catalog_age_s
        self._draw = draw
        self._clock = clock
        self._stamp = Stamp()
        self._entries: dict[bytes, _Entry] = {}
        self._bytes = 0
        self._max_stale_s = -1.0
        local.watch_catalog(self.clear)

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def kept_bytes(self) -> int:
        """About how much memory is in use."""
        return self._bytes

    def stamp(self) -> Stamp | None:
        """To be taken before the catalog is read for an entry; None when its replies may not be kept."""
        return self._stamp if self._is_fresh() else None

    def use(self, config: DNSConfig) -> None:
        """Answer by another configuration; never, when it wants every answer from the leader."""
        self._max_stale_s = config.max_stale_s if config.allow_stale else -1.0
        self.clear()

    def clear(self) -> None:
        """Forget everything: the catalog or the configuration has changed."""
        self._stamp.valid = False
        self._stamp = Stamp()
        if self._entries:
            self._entries.clear()
            self._bytes = 0

    def _is_fresh(self) -> bool:
        age = self._age_s()
        return age is not None and age <= self._max_stale_s

    def get(self, data: bytes) -> bytes | None:
        """The reply to a datagram; None when it must be made."""
        entry = self._entries.get(data[2:])
        if entry is None:
            return None
        age = self._age_s()
        if age is None or age > self._max_stale_s:
            return None
        entry.used = True
        reply = entry.reply
        try:
            if reply is None:
                reply = self._prepare(entry)
            whole = data[:2] + reply()
        except CannotPack:
            return None  # made again, and reported, on the usual way
        entry.again.count += 1
        if age > STALE_S:
            self._meter.stale_again.count += 1
        return whole

    def _prepare(self, entry: _Entry) -> Reply:
        def grown(size: int) -> None:
            if entry.stamp.valid:
                entry.bytes += size
                self._bytes += size
                self._make_room()

        source = entry.source
        if isinstance(source, Fixed):
            found = source.reply(self._clock)
            if found is None:
                raise CannotPack("no place for the serial")
        else:
            found = _strategy(source, entry.query, self._draw, grown)
        entry.reply = found
        return found

    def put(self, data: bytes, stamp: Stamp, query: Query, source: Instances | Fixed, *, reverse: bool = False) -> None:
        """Keep what a datagram's reply is made of."""
        key = data[2:]
        if not stamp.valid or len(data) > QUESTION_BYTES_MAX or key in self._entries:
            return
        entry = _Entry(stamp, query, source, self._meter.reverse_again if reverse else self._meter.domain_again)
        content = len(source.body) if isinstance(source, Fixed) else ROW_BYTES * len(source.rows)
        entry.bytes = ENTRY_BYTES + len(key) + content
        self._bytes += entry.bytes
        self._entries[key] = entry
        self._make_room()

    def _make_room(self) -> None:
        """Drop the oldest that were not used since they came or were passed over last."""
        while self._entries and (len(self._entries) > QUESTIONS_MAX or self._bytes > BYTES_MAX):
            key, entry = next(iter(self._entries.items()))
            del self._entries[key]
            if entry.used and self._bytes <= BYTES_MAX:
                entry.used = False
                self._entries[key] = entry
            else:
                self._bytes -= entry.bytes
