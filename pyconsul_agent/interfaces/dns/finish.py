"""From the records of an answer to the bytes of a reply: header, OPT record, cutting, packing. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from pyconsul_agent.interfaces.dns.config import DNSConfig
from pyconsul_agent.interfaces.dns.resolve import Asked, Built, service_answer
from pyconsul_agent.structs.health import CheckServiceNode
from pyconsul_agent.wire.dns import (
    AA,
    CD,
    NOERROR,
    NOTIMP,
    NXDOMAIN,
    OPCODE,
    QR,
    RA,
    RD,
    REFUSED,
    SERVFAIL,
    TC,
    Message,
    Query,
    Record,
    opt_record,
    pack,
)
from pyconsul_agent.wire.dns_trim import trim_tcp, trim_udp

_WITHOUT_SCOPE = frozenset({NXDOMAIN, SERVFAIL, REFUSED, NOTIMP})


class Outcome(Built):
    """The sections and the rcode of a reply, and whether the client's subnet mattered to it.

    `is_fixed` says that this catalog and configuration lead to this reply whenever it is asked for, but for the time in
    an SOA; `made_of` has the instances when only their order is drawn each time.
    """

    __slots__ = ("authority", "is_fixed", "made_of", "rcode", "uses_subnet")

    def __init__(self, rcode: int = NOERROR, built: Built | None = None) -> None:
        super().__init__(built.answers if built else [], built.additional if built else [])
        self.rcode = rcode
        self.authority: list[Record] = []
        self.uses_subnet = False
        self.is_fixed = False
        self.made_of: Instances | None = None

    @property
    def soa_numbers(self) -> bytes | None:
        """The octets of the SOA that begin with its serial, which is the time; None without one."""
        numbers = self.authority[0].data[-1] if self.authority else None
        return numbers if isinstance(numbers, bytes) else None


class Instances:
    """What a service answer is made of: healthy instances in the catalog's order, none of them with a host name."""

    __slots__ = ("asked", "rows")

    def __init__(self, rows: Sequence[CheckServiceNode], asked: Asked) -> None:
        self.rows = rows
        self.asked = asked

    def reply(self, query: Query, places: Sequence[int]) -> bytes:
        """The UDP reply with the instances at `places`. Raises CannotPack."""
        rows = [self.rows[place] for place in places]
        outcome = Outcome(NOERROR, service_answer(rows, self.asked, {}))
        return finish(query, outcome, self.asked.config, tcp=False, may_trim=True)


def finish(query: Query, outcome: Outcome, config: DNSConfig, *, tcp: bool, may_trim: bool) -> bytes:
    """Pack an outcome as it fits its transport. Raises CannotPack."""
    flags = QR | AA | _copied(query) | outcome.rcode | (RA if config.recursors else 0)
    message = Message(query.id, flags, _question(query), outcome.answers, outcome.authority, outcome.additional)
    if query.edns is not None:
        scope = 0
        if outcome.uses_subnet and query.edns.ecs is not None and outcome.rcode not in _WITHOUT_SCOPE:
            scope = query.edns.ecs[1]
        message.additional = [*message.additional, opt_record(query.edns, scope=scope)]
    compress = not config.disable_compression
    if may_trim:
        if tcp:
            cut = trim_tcp(message, compress=compress)
        else:
            cut = trim_udp(message, query.edns, answer_limit=config.udp_answer_limit, compress=compress)
        if cut and config.enable_truncate:
            message.flags |= TC
    return pack(message, compress=compress)


def refusal(query: Query) -> bytes:
    """The reply to a name outside every zone, without recursors."""
    return pack(Message(query.id, QR | _copied(query) | REFUSED, _question(query)))


def failure(query: Query) -> bytes:
    """SERVFAIL of the recursive side: not authoritative, recursion available."""
    extra = [] if query.edns is None else [opt_record(query.edns)]
    flags = QR | RA | _copied(query) | SERVFAIL
    return pack(Message(query.id, flags, _question(query), additional=extra))


def _copied(query: Query) -> int:
    """The flags of the query that its reply repeats."""
    opcode = query.flags & OPCODE
    return opcode if opcode else query.flags & (RD | CD)


def _question(query: Query) -> tuple[str, int, int] | None:
    return None if query.name is None else (query.name, query.type, query.cls)
