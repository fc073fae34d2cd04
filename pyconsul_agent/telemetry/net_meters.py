"""What gossip and DNS measure. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from pyconsul_agent.telemetry.registry import Registry, Series

NAMES_MAX = 64
"""Names of user events and queries, which anybody may choose; the rest is `other`."""
STALE_S = 5.0
"""DNS answers from a catalog older than this are stale queries."""
QUEUES = {"event_queue": "serf.queue.Event", "intent_queue": "serf.queue.Intent", "query_queue": "serf.queue.Query"}


class GossipMeter:
    """Measures the pools of an agent, all together. The bytes are those of the wire."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self.udp_sent = registry.counter("memberlist.udp.sent")
        self.udp_received = registry.counter("memberlist.udp.received")
        self.tcp_accepted = registry.counter("memberlist.tcp.accept")
        self.tcp_connected = registry.counter("memberlist.tcp.connect")
        self.tcp_sent = registry.counter("memberlist.tcp.sent")
        self._gossip = registry.samples("memberlist.gossip")
        self._probe = registry.samples("memberlist.probeNode")
        self._push_pull = registry.samples("memberlist.pushPullNode")
        self.messages = registry.samples("serf.msgs.received")
        self._names: dict[tuple[str, str], tuple[Series, Series]] = {}

    def round(self, seconds: float) -> None:
        """The timer has run and what it asked for was sent."""
        self._gossip.add(seconds * 1000)

    def probed(self, seconds: float) -> None:
        """A probe was answered."""
        self._probe.add(seconds * 1000)

    def push_pull(self, seconds: float) -> None:
        """States were exchanged with a member that we asked."""
        self._push_pull.add(seconds * 1000)

    def heard(self, kind: str, name: str) -> None:
        """One of `events` or `queries` of serf."""
        found = self._names.get((kind, name))
        if found is None:
            known = len(self._names) < NAMES_MAX
            shown = name if known else "other"
            found = self._registry.counter(f"serf.{kind}"), self._registry.counter(f"serf.{kind}.{shown}")
            if known:
                self._names[kind, name] = found
        for series in found:
            series.add()

    def wrote(self, name: str, seconds: float) -> None:
        """The snapshot file was appended to (`appendLine`) or replaced (`compact`)."""
        self._registry.sample(f"serf.snapshot.{name}", seconds * 1000)

    def look(self, stats: Mapping[str, str]) -> Iterator[tuple[str, float, Mapping[str, str]]]:
        """Take what a pool tells of itself (`consul info`), once in an interval; gives the gauges in it."""
        for field, name in QUEUES.items():
            self._registry.sample(name, float(stats[field]))
        yield "memberlist.health.score", float(stats["health_score"]), {}


class Repeated:
    """How often a kept reply was given again; the hot path only counts up."""

    __slots__ = ("count",)

    def __init__(self) -> None:
        self.count = 0

    def take(self) -> int:
        """What came since the last `take`."""
        taken, self.count = self.count, 0
        return taken


class DNSMeter:
    """Measures queries: those for names of our domain, and reverse ones. Recursion is not measured, as there."""

    def __init__(self, registry: Registry, *, node: str) -> None:
        self._domain = registry.samples("dns.domain_query", node=node)
        self._reverse = registry.samples("dns.ptr_query", node=node)
        self._stale = registry.counter("dns.stale_queries", node=node)
        self.domain_again = Repeated()
        self.reverse_again = Repeated()
        self.stale_again = Repeated()

    def answered(self, seconds: float, *, reverse: bool) -> None:
        """A query was answered by looking things up."""
        (self._reverse if reverse else self._domain).add(seconds * 1000)

    def stale(self) -> None:
        """An answer came from an old catalog."""
        self._stale.add()

    def settle(self) -> None:
        """Take in what was answered again, as having taken no time."""
        self._domain.add_zeros(self.domain_again.take())
        self._reverse.add_zeros(self.reverse_again.take())
        if count := self.stale_again.take():
            self._stale.add(count)
