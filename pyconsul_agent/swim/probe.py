"""Asking one member after the other whether it is there: directly, through others, and over TCP.

One regular probe runs at a time. It ends with an acknowledgement (also a late one), or at the end of the interval,
scaled by our own health, with a suspicion. Beside it run the probes of those who did not answer an extra ping
(`glances`). Also here: answering for others (indirect pings) and the book of awaited answers.
Protocol: docs/protocol/gossip.md, sections 3.2 and 7.4.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from pyconsul_agent.swim.awareness import Awareness
from pyconsul_agent.swim.config import PENDING_ACKS_MAX, SwimConfig
from pyconsul_agent.swim.effects import Effect, LogLevel, Node, PingComplete, StreamPurpose, log_event, log_line
from pyconsul_agent.swim.glances import Glances
from pyconsul_agent.swim.members import Membership
from pyconsul_agent.swim.send import Sender
from pyconsul_agent.swim.streams import Streams
from pyconsul_agent.wire.gossip import (
    Ack,
    Address,
    IndirectPing,
    Nack,
    NodeState,
    Ping,
    Suspect,
    address_bytes,
    address_text,
    encode_message,
)
from pyconsul_agent.wire.gossip_stream import encode_stream

SEQUENCE_NUMBERS = 1 << 32
PROTOCOL_TCP_PING, PROTOCOL_NACK = 3, 4
FOLLOW_UPS_MAX = 32
"""Probes beside the regular one at a time; what does not answer beyond that is left to others."""


@dataclass(slots=True)
class _Probe:
    """The probe that runs."""

    node: Node
    sequence_number: int
    sent_at: float
    ack_by: float
    """Until here an ack gives a round trip time; after it the others are asked."""
    ends_at: float
    silent_since: float
    """When the first ping without an answer was sent: this one's, or an extra one before it."""
    asked_others: bool = False
    nacks_expected: int = 0
    nacks: set[Address] = field(default_factory=set)
    tcp_answered: bool = False
    was_deaf: bool = False
    """We stood still meanwhile: silence proves nothing."""


@dataclass(frozen=True, slots=True)
class _Relay:
    """A ping sent on behalf of `asker`."""

    asker: Address
    sequence_number: int
    wants_nack: bool
    ends_at: float


class Prober:
    """Runs the probes of one member."""

    def __init__(
        self,
        config: SwimConfig,
        *,
        members: Membership,
        awareness: Awareness,
        sender: Sender,
        streams: Streams,
        emit: Callable[[Effect], None],
    ) -> None:
        self._config = config
        self._members = members
        self._awareness = awareness
        self._sender = sender
        self._streams = streams
        self._emit = emit
        self._sequence_number = 0
        self._place = 0
        self._regular: int | None = None
        self._probes: dict[int, _Probe] = {}
        """Those that run by sequence number; `_regular` is the one that the interval began."""
        self._glances = Glances(config, members=members, awareness=awareness, ping=self._send_ping)
        self._relays: dict[int, _Relay] = {}
        self._next_at: float | None = None
        self._was_contested = False  # claims to others' names get at most every second probe

    def start(self, at: float) -> None:
        """Probe first at `at`, then every interval."""
        self._next_at = at

    def next_deadline(self) -> float | None:
        """When `tick` has something to do."""
        due = self._next_at if self._regular is None else None
        for probe in self._probes.values():
            ends_at = probe.ends_at if probe.asked_others else probe.ack_by
            due = ends_at if due is None else min(due, ends_at)
        glances_end_at = self._glances.next_deadline()
        if glances_end_at is not None:
            due = glances_end_at if due is None else min(due, glances_end_at)
        if self._relays:
            relayed = min(relay.ends_at for relay in self._relays.values())
            due = relayed if due is None else min(due, relayed)
        return due

    def tick(self, now: float) -> None:
        """Do what is due."""
        self._end_relays(now)
        for probe in list(self._probes.values()):
            if not probe.asked_others and probe.ack_by <= now:
                self._ask_others(probe, now)
            if probe.ends_at <= now:
                self._end(probe, now)
        for node, pinged_at in self._glances.unanswered(now):
            self._follow_up(node, pinged_at, now)
        if self._regular is None and self._next_at is not None and self._next_at <= now:
            self._next_at = max(self._next_at + self._config.probe_interval_s, now)
            self._probe_next(now)

    def postpone(self, seconds: float) -> None:
        """We were deaf for `seconds`: what came in meanwhile is still to be read."""
        self._glances.forget()
        for probe in self._probes.values():
            probe.ack_by += seconds
            probe.ends_at += seconds
            probe.was_deaf = True

    # --- a probe ------------------------------------------------------------------------------------------------

    def _probe_next(self, now: float) -> None:
        node = None if self._was_contested else self._contested_node()
        self._was_contested = node is not None
        node = node or self._next_in_ring(now)
        if node is None:
            return
        self._regular = self._begin(node, now, silent_since=now)
        self._glances.start(now, but=node.name)

    def _follow_up(self, node: Node, pinged_at: float, now: float) -> None:
        """An extra ping was not answered. It may have been lost, so that alone is no ground for a suspicion."""
        for probe in self._probes.values():
            if probe.node.name == node.name:
                probe.silent_since = min(probe.silent_since, pinged_at)
                return
        if len(self._probes) <= FOLLOW_UPS_MAX:
            self._begin(node, now, silent_since=pinged_at)

    def _begin(self, node: Node, now: float, *, silent_since: float) -> int:
        config = self._config
        ends_at = now + self._awareness.scaled(config.probe_interval_s)
        ack_by = min(now + config.probe_timeout_s, ends_at)
        number = self._send_ping(node)
        self._probes[number] = _Probe(node, number, now, ack_by, ends_at, silent_since)
        return number

    def _send_ping(self, node: Node) -> int:
        number = self._next_sequence_number()
        ping = self._ping(number, node.name)
        if node.state == NodeState.ALIVE:
            self._sender.send(ping, node.endpoint)
        else:
            # The suspected one hears of it at once and can refute.
            self._sender.send_to_node([ping, self._suspicion(node)], node)
        return number

    def _contested_node(self) -> Node | None:
        contested = self._members.contested
        while contested:
            name = min(contested)
            contested.discard(name)
            node = self._members.nodes.get(name)
            if node is not None and not node.is_gone:
                return node
        return None

    def _next_in_ring(self, now: float) -> Node | None:
        members = self._members
        for _ in range(len(members.ring) + 1):
            if self._place >= len(members.ring):
                self._place = 0
                members.forget_the_dead(now)
                continue
            node = members.nodes[members.ring[self._place]]
            self._place += 1
            if node.name != members.name and not node.is_gone:
                return node
        return None

    def _ask_others(self, probe: _Probe, now: float) -> None:
        probe.asked_others = True
        node, config = probe.node, self._config
        peers = self._members.choose(
            config.indirect_checks, lambda peer: peer.name != node.name and peer.state == NodeState.ALIVE
        )
        for peer in peers:
            nack = peer.protocol_max >= PROTOCOL_NACK
            probe.nacks_expected += nack
            address, port = self._members.advertise
            request = IndirectPing(
                probe.sequence_number,
                address_bytes(node.address),
                node.port,
                node.name,
                nack,
                address_bytes(address),
                port,
                self._members.name,
            )
            if node.state == NodeState.ALIVE:
                self._sender.send(encode_message(request), peer.endpoint)
            else:  # who knows better than our suspicion says so
                self._sender.send_to_node([encode_message(request), self._suspicion(node)], peer)
        if config.tcp_pings and node.protocol_max >= PROTOCOL_TCP_PING:
            request_bytes = encode_stream(self._ping_message(probe.sequence_number, node.name))
            self._streams.open(
                StreamPurpose.PING,
                node.endpoint,
                node.name,
                request_bytes,
                probe.ends_at,
                sequence=probe.sequence_number,
            )

    def _end(self, probe: _Probe, now: float) -> None:
        node = probe.node
        if probe.tcp_answered:
            self._emit(
                log_line(
                    LogLevel.WARN,
                    "Was able to connect to node but other probes failed, network may be misconfigured",
                    node=node.name,
                )
            )
            self._succeed(probe, now)
            return
        self._finish(probe)
        if probe.was_deaf:
            self._emit(log_line(LogLevel.DEBUG, "Probe repeated, we were deaf meanwhile", node=node.name))
            self._members.contested.add(node.name)
            return
        missing = probe.nacks_expected - len(probe.nacks)
        self._awareness.change(max(0, missing) if probe.nacks_expected else 1)
        self._emit(log_event("suspect", name=node.name))
        self._members.suspect(Suspect(node.incarnation, node.name, self._members.name), now)
        self._members.note_silence(node.name, probe.silent_since, now)

    def _succeed(self, probe: _Probe, now: float) -> None:
        self._finish(probe)
        self._awareness.change(-1)
        self._members.note_answer(probe.node, now)

    def _finish(self, probe: _Probe) -> None:
        del self._probes[probe.sequence_number]
        if self._regular == probe.sequence_number:
            self._regular = None

    # --- answers ------------------------------------------------------------------------------------------------

    def acknowledged(self, ack: Ack, now: float) -> None:
        """An ack came, for us or for one we asked for."""
        if self._glances.acknowledged(ack.sequence_number, now):
            return
        probe = self._probes.get(ack.sequence_number)
        if probe is not None:
            if not probe.asked_others and now <= probe.ack_by:
                self._emit(PingComplete(probe.node, now - probe.sent_at, ack.payload or b""))
            self._succeed(probe, now)
            return
        relay = self._relays.pop(ack.sequence_number, None)
        if relay is not None:
            self._sender.send(encode_message(Ack(relay.sequence_number)), relay.asker)

    def refused(self, sequence_number: int, source: Address) -> None:
        """A nack came from `source`: the target did not answer it, but it heard us."""
        probe = self._probes.get(sequence_number)
        if probe is not None and len(probe.nacks) < probe.nacks_expected:
            probe.nacks.add(source)

    def tcp_answered(self, sequence_number: int, ack_number: int) -> None:
        """The TCP ping of a probe was answered."""
        probe = self._probes.get(sequence_number)
        if probe is not None and sequence_number == ack_number:
            probe.tcp_answered = True

    def host_refused(self, sequence_number: int, now: float) -> None:
        """The host of the probed member says that nobody listens: the others get their time, but no more for our own
        bad health.
        """
        probe = self._probes.get(sequence_number)
        if probe is not None and probe.asked_others:
            probe.ends_at = min(probe.ends_at, now + self._config.probe_timeout_s)

    def unreachable(self, address: Address, now: float) -> None:
        """Our ping bounced: no use in waiting for the direct answer."""
        for probe in self._probes.values():
            if probe.node.endpoint == address and not probe.asked_others:
                self._ask_others(probe, now)

    # --- for others ---------------------------------------------------------------------------------------------

    def ping_for(self, request: IndirectPing, source: Address, now: float) -> None:
        """Ping the target for someone who cannot reach it. Raises DecodeError on addresses that are none."""
        asker = answer_address(request.source_address, request.source_port, source)
        target = (address_text(request.target), request.port or self._members.advertise[1])
        if len(self._relays) >= PENDING_ACKS_MAX:
            self._emit(log_line(LogLevel.WARN, "Too many indirect pings are waiting, dropping one", source=source[0]))
            return
        number = self._next_sequence_number()
        ends_at = now + self._config.probe_timeout_s
        self._relays[number] = _Relay(asker, request.sequence_number, request.nack, ends_at)
        self._sender.send(self._ping(number, request.node), target)

    def _end_relays(self, now: float) -> None:
        if not self._relays:
            return
        for number in [number for number, relay in self._relays.items() if relay.ends_at <= now]:
            relay = self._relays.pop(number)
            if relay.wants_nack:
                self._sender.send(encode_message(Nack(relay.sequence_number)), relay.asker)

    def _suspicion(self, node: Node) -> bytes:
        return encode_message(Suspect(node.incarnation, node.name, self._members.name))

    # --- bits ---------------------------------------------------------------------------------------------------

    def _ping(self, number: int, node: str) -> bytes:
        return encode_message(self._ping_message(number, node))

    def _ping_message(self, number: int, node: str) -> Ping:
        address, port = self._members.advertise
        return Ping(number, node, address_bytes(address), port, self._members.name)

    def _next_sequence_number(self) -> int:
        self._sequence_number = (self._sequence_number + 1) % SEQUENCE_NUMBERS
        return self._sequence_number


def answer_address(address: bytes, port: int, source: Address) -> Address:
    """Where a ping is answered: the address it names, or its sender's. Raises DecodeError."""
    return (address_text(address), port) if address and port else source
