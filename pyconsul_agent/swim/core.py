"""The failure detector as one value: inputs with `now`, effects out. No socket, no clock, no serf, no keys.

The driver reads datagrams and streams, takes label and encryption off, feeds them here, performs what `take()` gives in
that order, and calls `tick` at `next_deadline()`, after the datagrams that wait have been read. After every input the
layer above must see the effects before the next one. Protocol: docs/protocol/gossip.md, section 7.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

from pyconsul_agent.errors import DecodeError
from pyconsul_agent.swim.awareness import Awareness
from pyconsul_agent.swim.broadcast import TransmitLimitedQueue
from pyconsul_agent.swim.config import META_BYTES_MAX, SwimConfig
from pyconsul_agent.swim.delegate import Delegate
from pyconsul_agent.swim.effects import (
    BroadcastFinished,
    Deliver,
    Effect,
    JoinFinished,
    LogLevel,
    LogLine,
    Node,
    StreamPurpose,
    log_line,
)
from pyconsul_agent.swim.inbox import Inbox
from pyconsul_agent.swim.introduction import Introductions
from pyconsul_agent.swim.members import Membership, alive_of
from pyconsul_agent.swim.probe import Prober, answer_address
from pyconsul_agent.swim.send import USER_TYPE, Sender
from pyconsul_agent.swim.streams import OpenedStream, Streams
from pyconsul_agent.swim.timing import NANOSECONDS, push_pull_interval_ns
from pyconsul_agent.wire.gossip import (
    Ack,
    Address,
    Alive,
    Dead,
    IndirectPing,
    Nack,
    NodeState,
    PacketMessage,
    Ping,
    PushPull,
    StreamMessage,
    Suspect,
    UserMessage,
    decode_message,
    encode_message,
)
from pyconsul_agent.wire.gossip_packet import open_packet_body
from pyconsul_agent.wire.gossip_stream import encode_stream

LAG_TOLERATED = 0.5
"""Running late by more than this part of the probe time-out counts against our own health."""
LAG_FORGIVEN_MAX_S = 30.0
LOOK_AFTER_INTERVAL_S = 1.0
"""Push/pulls with members that were declared dead and speak: one in so long, longer in a large pool."""
ASK_FOR_NEWS_INTERVAL_S = 5.0
"""Push/pulls because a node pings us that we do not know: one in so long, longer in a large pool."""
REMIND_INTERVAL_S = 0.05
"""Answers to accusations that are old: one in so long, whoever sends them."""
COMPLAINTS_MAX = 20
"""Log lines about bad input per second; the rest is counted."""


class Swim:
    """One member of one pool."""

    def __init__(
        self, config: SwimConfig, *, name: str, advertise: Address, delegate: Delegate, rng: random.Random
    ) -> None:
        self._config = config
        self._delegate = delegate
        self._rng = rng
        self._effects: list[Effect] = []
        self._queue = TransmitLimitedQueue(config.retransmit_mult)
        self._awareness = Awareness(config.awareness_max_multiplier)
        emit = self._effects.append
        self._members = Membership(
            config,
            name=name,
            advertise=advertise,
            delegate=delegate,
            rng=rng,
            queue=self._queue,
            awareness=self._awareness,
            emit=emit,
        )
        self._sender = Sender(config, queue=self._queue, delegate=delegate, node_count=self._members.__len__, emit=emit)
        self._introductions = Introductions(config, members=self._members, sender=self._sender)
        self._streams = Streams(config, members=self._members, delegate=delegate, emit=emit)
        self._prober = Prober(
            config,
            members=self._members,
            awareness=self._awareness,
            sender=self._sender,
            streams=self._streams,
            emit=emit,
        )
        self._inbox = Inbox()
        self._gossip_at: float | None = None
        self._push_pull_at: float | None = None
        self._waiting: dict[int, float] = {}  # ticket -> when waiting for its transmissions ends
        self._last_ticket = 0
        self._lag_counted_at: float | None = None
        self._complaints = _Complaints()
        self._look_after_from = 0.0
        self._remind_from = 0.0
        self._ask_for_news_from = 0.0

    # --- driving ------------------------------------------------------------------------------------------------

    def start(self, now: float) -> None:
        """Become alive with incarnation 1 and begin to probe, gossip and push/pull. ValueError if meta is too long."""
        self._members.announce(self._meta(), now)
        config, spread = self._config, self._rng.random
        self._prober.start(now + spread() * config.probe_interval_s)
        self._gossip_at = now + spread() * config.gossip_interval_s
        self._push_pull_at = now + spread() * config.push_pull_interval_s + self._push_pull_interval()

    def take(self) -> list[Effect]:
        """The effects since the last call, in the order to be performed."""
        if not self._effects:
            return []
        effects = self._effects.copy()
        self._effects.clear()
        return effects

    def next_deadline(self) -> float | None:
        """When `tick` wants to be called at the latest; None before `start`."""
        due = self._gossip_at
        for time in (
            self._push_pull_at,
            self._prober.next_deadline(),
            self._members.next_deadline(),
            self._streams.next_deadline(),
            min(self._waiting.values()) if self._waiting else None,
        ):
            if time is not None and (due is None or time < due):
                due = time
        return due

    def tick(self, now: float) -> None:
        """Do what is due: probes, suspicions, gossip, push/pull."""
        for number in self._streams.overdue(now):
            self.stream_failed(number, "no answer", now)
        self._prober.tick(now)
        self._members.expire_suspicions(now)
        if self._gossip_at is not None and self._gossip_at <= now:
            self._gossip_at = now + self._config.gossip_interval_s
            self._gossip(now)
            self._introductions.step()
        if self._push_pull_at is not None and self._push_pull_at <= now:
            self._push_pull_at = now + self._push_pull_interval()
            self._push_pull(now)
        self._finish_waiting(now)

    def note_lag(self, seconds: float, now: float) -> bool:
        """The driver ran `seconds` late: blame ourselves; False if that is too little to matter.

        It counts against our own health, at most once per probe interval. The probe that runs condemns nobody, since
        answers may have been lost or lie unread, and suspicions last that much longer. Call it before the input that
        comes after a stall.
        """
        config = self._config
        if seconds <= LAG_TOLERATED * config.probe_timeout_s:
            return False
        forgiven = min(seconds, LAG_FORGIVEN_MAX_S)
        self._prober.postpone(forgiven)
        self._members.postpone(forgiven)
        if self._lag_counted_at is None or now - self._lag_counted_at >= config.probe_interval_s:
            self._lag_counted_at = now
            self._awareness.change(1)
        return True

    # --- packets ------------------------------------------------------------------------------------------------

    def receive(self, packets: Sequence[tuple[bytes, Address]], now: float) -> None:
        """Datagrams (label and encryption removed) with their senders, oldest first."""
        for data, source in packets:
            if self._members.gone:
                self._look_after(source, now)
            try:
                self._receive_one(data, source, now)
            except DecodeError as error:
                self._complain(now, "Failed to decode a packet", error=str(error), source=source[0])
        for message, source in self._inbox.drain():
            self._handle(message, source, now)
        self._finish_waiting(now)

    def _look_after(self, source: Address, now: float) -> None:
        """Who speaks is not dead, and we may have missed its refutation: exchange all we know, but not too often."""
        name = self._members.gone.get(source)
        if name is None or now < self._look_after_from:
            return
        self._look_after_from = now + self._scaled(LOOK_AFTER_INTERVAL_S)
        self._streams.push_pull_with(source, name, join=False, now=now)

    def _ask_for_news(self, now: float) -> None:
        """Somebody knows us whom we do not know: we have missed something, and ask one whom we do know."""
        if now >= self._ask_for_news_from:
            self._ask_for_news_from = now + self._scaled(ASK_FOR_NEWS_INTERVAL_S)
            self._push_pull(now)

    def _remind(self, accusation: Suspect | Dead, source: Address, now: float) -> None:
        """Whoever sends an accusation that was refuted, of us or of another, has not heard of that: tell it.

        Memberlist ignores these, and one that missed the refutation (or that moved meanwhile, so that no gossip reaches
        it) declares a member dead that lives. Not more often than `REMIND_INTERVAL_S`.
        """
        accused = self._members.nodes.get(accusation.node)
        if accused is None or accused.state != NodeState.ALIVE or now < self._remind_from:
            return
        if accusation.incarnation < accused.incarnation:
            self._remind_from = now + REMIND_INTERVAL_S
            self._sender.send_bare(encode_message(alive_of(accused)), source)

    def send_user(self, to: Address, data: bytes) -> None:
        """Send one message of the layer above to one place, best effort (serf's query answers and relays)."""
        self._sender.send_bare(USER_TYPE + data, to)

    def note_refused(self, address: Address, now: float) -> None:
        """The host at `address` answered that nobody listens (ICMP or TCP): evidence of death, nothing more."""
        self._members.note_refused(address, now)
        self._prober.unreachable(address, now)

    def _receive_one(self, data: bytes, source: Address, now: float) -> None:
        parts = open_packet_body(data)
        if parts.truncated:
            self._complain(now, "Compound request had truncated messages", count=parts.truncated, source=source[0])
        for error in parts.errors:
            self._complain(now, "Failed to decode a part of a packet", error=error, source=source[0])
        for body in parts.messages:
            try:
                self._dispatch(decode_message(body), source, now)
            except DecodeError as error:
                self._complain(now, "Failed to decode a message", error=str(error), source=source[0])

    def _dispatch(self, message: PacketMessage, source: Address, now: float) -> None:
        """Probing is answered at once, news waits until the burst is read."""
        match message:
            case Ping():
                self._answer_ping(message, source, now)
            case IndirectPing():
                self._prober.ping_for(message, source, now)
            case Ack():
                self._prober.acknowledged(message, now)
            case Nack():
                self._prober.refused(message.sequence_number, source)
            case Alive() | Suspect() | Dead() | UserMessage():
                if not self._inbox.put(message, source):
                    self._complain(now, "handler queue full, dropping message", source=source[0])
            case _:
                raise DecodeError(f"a {type(message).__name__} message does not come in a packet")

    def _handle(self, message: PacketMessage, source: Address, now: float) -> None:
        match message:
            case Alive():
                self._members.alive(message, now)
            case Suspect():
                self._remind(message, source, now)
                self._members.suspect(message, now)
            case Dead():
                self._remind(message, source, now)
                self._members.dead(message, now)
            case UserMessage():
                self._effects.append(Deliver(message.data, source))

    def _answer_ping(self, ping: Ping, source: Address, now: float) -> None:
        if ping.node and ping.node != self._members.name:
            self._complain(now, "Got ping for unexpected node", node=ping.node, source=source[0])
            return
        to = answer_address(ping.source_address, ping.source_port, source)
        if ping.node and ping.source_node and ping.source_node not in self._members.nodes:
            self._ask_for_news(now)
        self._sender.send(encode_message(Ack(ping.sequence_number, self._delegate.ack_payload())), to)

    # --- streams ------------------------------------------------------------------------------------------------

    def stream_requested(self, message: StreamMessage, source: Address, now: float) -> bytes | None:
        """A peer opened a stream and sent `message`; returns the answer to write (then close), or None: close."""
        match message:
            case PushPull():
                # compat: the answer goes out before the peer's state is judged, so a refused join looks successful.
                answer = encode_stream(self._streams.local_state(message.join))
                error = self._streams.merge(message, message.join, now)
                if error is not None:
                    self._complain(now, "Failed push/pull merge", error=error, source=source[0])
                self._finish_waiting(now)
                return answer
            case Ping():
                if message.node and message.node != self._members.name:
                    self._complain(now, "Got ping for unexpected node", node=message.node, source=source[0])
                    return None
                return encode_stream(Ack(message.sequence_number))
            case UserMessage():
                self._effects.append(Deliver(message.data, source))
            case _:
                self._complain(now, "Received invalid stream message", source=source[0], type=type(message).__name__)
        return None

    def stream_answered(self, id: int, message: StreamMessage, now: float) -> None:
        """The answer to an `OpenStream`."""
        stream = self._streams.close(id)
        if stream is None:
            return
        if stream.purpose is StreamPurpose.PUSH_PULL and isinstance(message, PushPull):
            self._streams.finish_push_pull(id, stream, message, now)
            self._finish_waiting(now)
        elif stream.purpose is StreamPurpose.PING and isinstance(message, Ack):
            self._prober.tcp_answered(stream.sequence, message.sequence_number)
        else:
            reason = getattr(message, "error", f"unexpected {type(message).__name__}")
            self._stream_lost(id, stream, f"remote error: {reason}")

    def stream_failed(self, id: int, error: str, now: float, *, refused: bool = False) -> None:
        """An `OpenStream` came to nothing; `refused` when nobody listens there."""
        stream = self._streams.close(id)
        if stream is None:
            return
        self._stream_lost(id, stream, error)
        if refused:
            self._members.note_refused(stream.to, now)
            self._prober.host_refused(stream.sequence, now)

    def _stream_lost(self, id: int, stream: OpenedStream, error: str) -> None:
        if stream.purpose is StreamPurpose.PING:
            self._log(LogLevel.DEBUG, "Failed fallback TCP ping", node=stream.node, error=error)
        elif stream.join:
            self._effects.append(JoinFinished(id, stream.to, error))
        else:
            self._log(LogLevel.ERROR, "Push/pull failed", node=stream.node, error=error)

    # --- membership ---------------------------------------------------------------------------------------------

    def join(self, targets: Sequence[tuple[str, Address]], now: float) -> tuple[int, ...]:
        """Push/pull (join) with every (name or "", address); each ends in a `JoinFinished` with its id from here."""
        return tuple(self._streams.push_pull_with(to, name, join=True, now=now) for name, to in targets)

    def leave(self, now: float, timeout_s: float) -> int:
        """Announce that we leave; `BroadcastFinished` with this ticket follows. Pings are answered on."""
        ticket = self._new_ticket()
        if not self._members.leaving:
            self._members.leaving = True
            me = self._members.local
            self._members.dead(Dead(me.incarnation, me.name, me.name), now, ticket=ticket)
            self._wait_for(ticket, now + timeout_s)
        else:
            self._effects.append(BroadcastFinished(ticket, timed_out=False))
        return ticket

    def update_meta(self, now: float, timeout_s: float) -> int:
        """Announce the delegate's new meta; `BroadcastFinished` with this ticket follows. ValueError: meta too long."""
        ticket = self._new_ticket()
        if self._members.leaving:
            self._effects.append(BroadcastFinished(ticket, timed_out=False))
            return ticket
        self._members.announce(self._meta(), now, ticket)
        self._wait_for(ticket, now + timeout_s)
        return ticket

    # --- views --------------------------------------------------------------------------------------------------

    @property
    def local(self) -> Node:
        """Our own record (after `start`)."""
        return self._members.local

    @property
    def health_score(self) -> int:
        """0 is well; each step makes probing slower (Lifeguard)."""
        return self._awareness.score

    def nodes(self) -> list[Node]:
        """Every record held, by name, dead and left ones too."""
        return sorted(self._members.nodes.values(), key=lambda node: node.name)

    def node(self, name: str) -> Node | None:
        """The record of `name`."""
        return self._members.nodes.get(name)

    def alive_count(self) -> int:
        """Records alive or suspect, ourselves included."""
        return sum(not node.is_gone for node in self._members.nodes.values())

    def queued_broadcasts(self) -> int:
        """Messages in the broadcast queue."""
        return len(self._queue)

    def suspicion_ends_at(self, name: str) -> float | None:
        """When `name` will be declared dead unless it refutes; None if it is not suspect here."""
        suspicion = self._members.suspicions.get(name)
        return None if suspicion is None else suspicion.deadline

    def local_state(self) -> PushPull:
        """What a push/pull would tell of now."""
        return self._streams.local_state(False)

    def forget_broadcasts(self) -> None:
        """Nothing need be told to anybody; for simulations that begin in the middle of a pool's life."""
        self._queue.prune(0)
        self._queue.take_finished()
        self._introductions.forget()

    # --- periodic work ------------------------------------------------------------------------------------------

    def _gossip(self, now: float) -> None:
        if not self._sender.may_have_broadcasts():
            return
        recently = now - self._config.gossip_to_the_dead_s

        def listens(node: Node) -> bool:
            return node.state <= NodeState.SUSPECT or (node.state == NodeState.DEAD and node.changed_at >= recently)

        for node in self._members.choose(self._config.gossip_nodes, listens):
            if not self._sender.gossip(node):
                return

    def _push_pull(self, now: float) -> None:
        for node in self._members.choose(1, lambda node: node.state == NodeState.ALIVE):
            self._streams.push_pull_with(node.endpoint, node.name, join=False, now=now)

    def _push_pull_interval(self) -> float:
        interval_ns = round(self._config.push_pull_interval_s * NANOSECONDS)
        return push_pull_interval_ns(interval_ns, len(self._members)) / NANOSECONDS

    def _scaled(self, span_s: float) -> float:
        """`span_s` longer in large pools, as between two push/pulls: they exchange more each time."""
        return span_s * self._push_pull_interval() / self._config.push_pull_interval_s

    # --- waiting for a broadcast to be out ----------------------------------------------------------------------

    def _new_ticket(self) -> int:
        self._last_ticket += 1
        return self._last_ticket

    def _wait_for(self, ticket: int, until: float) -> None:
        if self._members.others_alive():
            self._waiting[ticket] = until
        else:
            self._effects.append(BroadcastFinished(ticket, timed_out=False))

    def _finish_waiting(self, now: float) -> None:
        finished = self._queue.take_finished()
        if not self._waiting:
            return
        for ticket in finished:
            if self._waiting.pop(ticket, None) is not None:
                self._effects.append(BroadcastFinished(ticket, timed_out=False))
        if self._waiting and not self._members.others_alive():  # nobody is left to hear it
            self._effects += [BroadcastFinished(ticket, timed_out=False) for ticket in self._waiting]
            self._waiting.clear()
        for ticket in [ticket for ticket, until in self._waiting.items() if until <= now]:
            del self._waiting[ticket]
            self._effects.append(BroadcastFinished(ticket, timed_out=True))

    # --- bits ---------------------------------------------------------------------------------------------------

    def _meta(self) -> bytes:
        meta = self._delegate.node_meta(META_BYTES_MAX)
        if len(meta) > META_BYTES_MAX:
            raise ValueError(f"Node meta data provided is longer than the limit of {META_BYTES_MAX} bytes")
        return meta

    def _log(self, level: LogLevel, message: str, **pairs: object) -> None:
        self._effects.append(log_line(level, message, **pairs))

    def _complain(self, now: float, message: str, **pairs: object) -> None:
        line = self._complaints.limit(log_line(LogLevel.WARN, message, **pairs), now)
        if line is not None:
            self._effects.append(line)


class _Complaints:
    """A stranger's garbage must not fill the log: so many lines a second, then a count."""

    def __init__(self) -> None:
        self._second = -1
        self._said = 0
        self._withheld = 0

    def limit(self, line: LogLine, now: float) -> LogLine | None:
        """The line to log, or None if it is withheld."""
        if int(now) != self._second:
            self._second, self._said = int(now), 0
        if self._said >= COMPLAINTS_MAX:
            self._withheld += 1
            return None
        self._said += 1
        if self._withheld:
            line = LogLine(line.level, line.message, (*line.pairs, ("withheld_before", self._withheld)))
            self._withheld = 0
        return line
