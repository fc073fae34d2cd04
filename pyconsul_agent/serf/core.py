"""Serf as one value: what the members of a pool tell each other, above the bare knowledge of who is alive.

Sits between `swim.Swim` and the driver: answers Swim's questions (it is its Delegate) and takes its notifications
(`handle`). Everything it wants done comes out of `take()`. Calls nobody, knows no socket, clock, file or key.
Protocol: docs/protocol/gossip.md, sections 9 to 13.
"""

from __future__ import annotations

import enum
import ipaddress
import math
import random
from collections.abc import Callable, Mapping, Sequence

from pyconsul_agent.errors import DecodeError
from pyconsul_agent.serf.coalesce import Coalescer
from pyconsul_agent.serf.config import SerfConfig
from pyconsul_agent.serf.conflict import NameVote
from pyconsul_agent.serf.coordinate import CoordinateClient, CoordinateError
from pyconsul_agent.serf.effects import (
    IntentSent,
    NameLost,
    QueryAnswered,
    QueryFinished,
    Reconnect,
    SendUser,
    SerfEffect,
)
from pyconsul_agent.serf.events import UserEvents
from pyconsul_agent.serf.queries import CONFLICT_QUERY, QueryDesk
from pyconsul_agent.serf.snapshot import SnapshotRecorder, known_addresses
from pyconsul_agent.serf.table import LeaveOutcome, MemberTable, member_of, tags_of
from pyconsul_agent.structs.coordinate import VivaldiCoordinate
from pyconsul_agent.structs.member import Member, MemberEventKind, MemberStatus, UserEvent
from pyconsul_agent.swim.broadcast import TransmitLimitedQueue
from pyconsul_agent.swim.effects import (
    Deliver,
    Effect,
    LogLevel,
    MergeRemoteState,
    Node,
    NotifyConflict,
    NotifyJoin,
    NotifyLeave,
    NotifyUpdate,
    PingComplete,
    log_line,
)
from pyconsul_agent.swim.keyring import Keyring
from pyconsul_agent.swim.timing import retransmit_limit
from pyconsul_agent.wire.gossip import Address, NodeState
from pyconsul_agent.wire.msgpack import TEXT_ERRORS
from pyconsul_agent.wire.serf import (
    META_BYTES_MAX,
    Filter,
    JoinIntent,
    LeaveIntent,
    PushPullState,
    Query,
    QueryResponse,
    Relay,
    UserEventMessage,
    decode,
    decode_as,
    decode_coordinate,
    encode,
    encode_coordinate,
    encode_tags,
)
from pyconsul_agent.wire.serf_snapshot import SnapshotState

Veto = Callable[[Sequence[Member]], str | None]
"""Why these members may not be in the pool; None if they may. Must be pure."""

LEAVERS_INTERVAL_S = 30.0
"""How often a leave is repeated of a member that does not go. Longer than any leave takes."""
RECONNECTS_SOON_MAX = 32
"""Attempts that a whole pool makes per round, on average, to reach members that failed lately, however many did."""
MESSAGE_BYTES_MAX = 16 * 1024
"""Of one serf message; what is queued for broadcast is bounded by it. No peer sends more than 9 KiB."""


class SerfState(enum.Enum):
    """Where this node is in its life."""

    ALIVE = "alive"
    LEAVING = "leaving"
    LEFT = "left"


class Serf:
    """One node in one pool."""

    def __init__(
        self,
        config: SerfConfig,
        *,
        name: str,
        tags: Mapping[str, str],
        rng: random.Random,
        veto: Veto | None = None,
        snapshot: SnapshotState | None = None,
        snapshot_bytes: int = 0,
    ) -> None:
        """`snapshot` is what the file said at start (empty for a new one); None: no file is kept."""
        self.config = config
        self.name = name
        self.state = SerfState.ALIVE
        self._rng = rng
        self._veto = veto
        self._tags: dict[str, str] = {}
        self._meta = b""
        self.set_tags(tags)
        self._networks = (
            None
            if config.allowed_networks is None
            else [ipaddress.ip_network(network, strict=False) for network in config.allowed_networks]
        )
        self._table = MemberTable(name, config)
        self._events = UserEvents()
        self._coordinates = CoordinateClient(rng)
        mult = config.retransmit_mult
        self._intents, self._query_queue, self._event_queue = (TransmitLimitedQueue(mult) for _ in range(3))
        self._effects: list[SerfEffect] = []
        self._queries = QueryDesk(name, self._table, rng, self._told)
        self._coalescer = Coalescer(
            config.coalesce_period_s,
            config.quiescent_period_s,
            config.user_coalesce_period_s,
            config.user_quiescent_period_s,
        )
        self._vote: NameVote | None = None
        self._now = 0.0
        self._tickets: dict[int, float] = {}
        self._ticket_count = 0
        self._joins_ignoring_old = 0
        self.name_taken_by: str | None = None
        """`address:port` of another node that goes by our name, as the last join heard; None if it heard of none."""
        self._recorder: SnapshotRecorder | None = None
        self._next: dict[str, float] = {}
        self._started_at = 0.0
        self._next_due: float | None = None
        """The first of `_next`."""
        if snapshot is not None:
            self._recorder = SnapshotRecorder(config, snapshot, snapshot_bytes)
            self._table.lost = {node: to for node, to in known_addresses(snapshot).items() if node != name}
            self._table.clock.witness(snapshot.clock)
            self._events.clock.witness(snapshot.event_clock)
            self._queries.clock.witness(snapshot.query_clock)
            self._events.min_time = snapshot.event_clock + 1
            self._queries.ignore_before(snapshot.query_clock + 1)

    # --- driving ------------------------------------------------------------------------------------------------

    def start(self, now: float) -> None:
        """Begin to count time. The local member appears with Swim's first notification."""
        self._started_at = now
        self._next = {
            "reap": now + self.config.reap_interval_s,
            "reconnect": now + self.config.reconnect_interval_s,
            "reconnect soon": now + self.config.reconnect_soon_interval_s,
            "leavers": now + LEAVERS_INTERVAL_S,
            "queues": now + self.config.queue_check_interval_s,
        }
        if self._recorder is not None:
            self._next["snapshot"] = now + self.config.snapshot_interval_s
        self._next_due = min(self._next.values())

    def take(self) -> list[SerfEffect]:
        """Effects since the last call, in order."""
        self._collect()
        if self._coalescer.is_on:
            self._effects[:] = self._coalescer.apply(self._effects, self._now)
        if not self._effects:
            return []
        effects = self._effects.copy()
        self._effects.clear()
        return effects

    def next_deadline(self) -> float | None:
        """When `tick` wants to be called; None before `start`."""
        due = self._next_due
        waiting = self._coalescer.next_deadline() if self._coalescer.is_on else None
        if waiting is not None:
            due = waiting if due is None else min(due, waiting)
        asked = self._queries.next_deadline()
        for times in (self._tickets, self._table.pending_prunes):
            if times:
                first = min(times.values())
                due = first if due is None else min(due, first)
        return due if asked is None or (due is not None and due <= asked) else asked

    def tick(self, now: float) -> None:
        """Do what is due: reap, reconnect, prune, time out, flush the snapshot."""
        self._now = now
        due = self.next_deadline()
        if due is None or now < due:
            return
        self._table.prune_due(now)
        self._queries.expire(now)
        if self._is_due("reap", now, self.config.reap_interval_s):
            self._table.reap(now)
            if now - self._started_at > self.config.reconnect_timeout_s:
                self._table.lost.clear()
        if self._is_due("reconnect", now, self.config.reconnect_interval_s):
            missing = self._table.missing(-math.inf)
            self._reconnect(missing, len(missing))
        if self._is_due("reconnect soon", now, self.config.reconnect_soon_interval_s):
            missing = self._table.missing(now - self.config.reconnect_soon_s)
            self._reconnect(missing, min(len(missing), RECONNECTS_SOON_MAX))
        if self._is_due("leavers", now, LEAVERS_INTERVAL_S):
            self._ask_leavers()
        if self._is_due("queues", now, self.config.queue_check_interval_s):
            self._check_queues()
        for ticket in [ticket for ticket, deadline in self._tickets.items() if deadline <= now]:
            del self._tickets[ticket]
            self._effects.append(IntentSent(ticket, timed_out=True))
        if self._is_due("snapshot", now, self.config.snapshot_interval_s):
            self.flush_snapshot()
        self._next_due = min(self._next.values(), default=None)

    def handle(self, effect: Effect, now: float) -> None:
        """Take one notification of Swim; other effects are the driver's and pass unnoticed."""
        self._now = now
        match effect:
            case NotifyJoin(node):
                self._table.joined(node, now)
            case NotifyLeave(node):
                if not self._table.gone(node, now):
                    self._log(LogLevel.WARN, "Bad state when leave", node=node.name)
                self._stop_waiting_for_nobody()
            case NotifyUpdate(node):
                self._table.updated(node)
            case NotifyConflict(existing, other):
                self._conflict(existing, other, now)
            case Deliver(data):
                self.receive(data, now)
            case MergeRemoteState(data, join):
                self._merge(data, join, now)
            case PingComplete(node, rtt_s, payload):
                self._ping_complete(node, rtt_s, payload)
            case _:
                return
        self._collect()

    def _is_due(self, what: str, now: float, interval_s: float) -> bool:
        due = self._next.get(what)
        if due is None or now < due:
            return False
        self._next[what] = now + interval_s
        return True

    def _collect(self) -> None:
        """Move what the parts produced into the effects."""
        if self._table.changes:
            for change in self._table.changes:
                self._effects.append(change)
                if self._recorder is not None:
                    self._recorder.member_event(change)
                if change.kind is MemberEventKind.REAP:
                    self._coordinates.forget(change.member.name)
            self._table.changes.clear()
        for queue in (self._intents, self._event_queue, self._query_queue):
            for ticket in queue.take_finished():
                if self._tickets.pop(ticket, None) is not None:
                    self._effects.append(IntentSent(ticket, timed_out=False))

    def _log(self, level: LogLevel, message: str, **pairs: object) -> None:
        self._effects.append(log_line(level, message, **pairs))

    # --- messages -----------------------------------------------------------------------------------------------

    def receive(self, data: bytes, now: float) -> None:
        """One serf message, type byte first, from anybody."""
        if len(data) > MESSAGE_BYTES_MAX:
            self._log(LogLevel.WARN, "serf message is too long", bytes=len(data))
            return
        try:
            message = decode(data)
        except DecodeError as error:
            self._log(LogLevel.WARN, "serf message ignored", error=error.reason)
            return
        match message:
            case JoinIntent():
                if self._table.join_intent(message, now):
                    self._intents.queue(data)
            case LeaveIntent():
                self._receive_leave(message, data, now)
            case UserEventMessage():
                if self._receive_event(message):
                    self._event_queue.queue(data)
            case Query():
                if self._queries.receive(message, self._tags, now):
                    self._query_queue.queue(data)
            case Relay():
                self._queries.forward(message)
            case QueryResponse():
                self._queries.answered(message)
            case _:
                self._log(LogLevel.WARN, "serf message of a payload's type ignored", type=data[0])

    def _receive_leave(self, message: LeaveIntent, data: bytes, now: float) -> None:
        outcome = self._leave_intent(message, now)
        if outcome is LeaveOutcome.REBROADCAST:
            self._intents.queue(data)
        elif outcome is LeaveOutcome.REFUTE:
            self._deny_leave(now)

    def _leave_intent(self, message: LeaveIntent, now: float) -> LeaveOutcome:
        return self._table.leave_intent(message, now, local_is_staying=self.state is SerfState.ALIVE)

    def _receive_event(self, message: UserEventMessage) -> bool:
        if self._events.is_too_old(message.ltime):
            self._log(LogLevel.WARN, "received old event from the past", event=message.name, ltime=message.ltime)
        if not self._events.receive(message):
            return False
        self._effects.append(UserEvent(message.ltime, message.name, message.payload or b"", message.coalesce))
        return True

    def _merge(self, data: bytes, join: bool, now: float) -> None:
        try:
            state = decode_as(PushPullState, data)
        except DecodeError as error:
            self._log(LogLevel.ERROR, "failed to decode remote state", error=error.reason)
            return
        clocks = (self._table.clock, self._events.clock, self._queries.clock)
        for clock, seen in zip(clocks, (state.ltime, state.event_ltime, state.query_ltime), strict=True):
            if seen > 0:
                clock.witness(seen - 1)
        times = state.status_ltimes or {}
        left = dict.fromkeys(state.left_members or ())
        for name in left:
            message = LeaveIntent(ltime=times.get(name, 0) + 1, node=name)
            if self._leave_intent(message, now) is LeaveOutcome.REFUTE:
                self._deny_leave(now)
        for name in sorted(times.keys() - left.keys()):
            known = JoinIntent(ltime=times[name], node=name)
            deny = self.state is SerfState.ALIVE and self._table.is_foreign_word(known)
            self._table.join_intent(known, now)
            if deny:
                self._deny_leave(now)
        if join and self._joins_ignoring_old:
            self._events.min_time = max(self._events.min_time, state.event_ltime)
        for slot in state.events or ():
            if slot is None:
                continue
            for body in slot.events or ():
                self._receive_event(UserEventMessage(ltime=slot.ltime, name=body.name, payload=body.payload))

    # --- queries ------------------------------------------------------------------------------------------------

    def respond(self, ltime: int, id: int, payload: bytes, now: float) -> bool:
        """Answer a query that was received; False when it is over or answered. Raises ValueError: payload too long."""
        return self._queries.respond(ltime, id, payload, now)

    def ask(
        self,
        name: str,
        payload: bytes,
        now: float,
        *,
        timeout_s: float,
        ack: bool = False,
        relay_factor: int = 0,
        filters: Sequence[Filter] = (),
    ) -> int:
        """Ask all members that pass every filter, this one too.

        `QueryAnswered` with the id returned follow until `QueryFinished`.

        Raises ValueError when the query is too long or too many are running.
        """
        asker = self._table.records[self.name].member
        query, data = self._queries.ask(
            name,
            payload,
            asker,
            now,
            timeout_s=timeout_s,
            ack=ack,
            relay_factor=relay_factor,
            filters=filters,
        )
        if self._queries.receive(query, self._tags, now):
            self._query_queue.queue(data)
        return query.id

    def end_query(self, id: int) -> None:
        """Everybody answered; the rest of the time is not needed."""
        self._queries.forget(id)

    def set_keyring(self, keyring: Keyring | None) -> None:
        """The ring that key queries work on."""
        self._queries.keyring = keyring

    # --- what this node says ------------------------------------------------------------------------------------

    def begin_join(self) -> None:
        """A join of ours starts: until `finish_join`, user events older than the other side's clock are history."""
        self._joins_ignoring_old += 1
        self.name_taken_by = None

    def finish_join(self, count: int, now: float) -> None:
        """The join ended with `count` contacts."""
        self._joins_ignoring_old -= 1
        if count:
            self.announce_join(now)

    def announce_join(self, now: float) -> None:
        """Tell all that this node is here."""
        message = JoinIntent(ltime=self._table.clock.time, node=self.name)
        self._table.join_intent(message, now)
        self._intents.queue(encode(message))

    def _deny_leave(self, now: float) -> None:
        """Somebody believes that this node has left. Push/pulls pass that on with a time one higher: top that too."""
        self._table.clock.increment()
        self.announce_join(now)

    def begin_leave(self, now: float) -> int:
        """Announce the leave; `IntentSent` with the ticket returned follows. Then let Swim leave."""
        self.state = SerfState.LEAVING
        if self._recorder is not None:
            self._recorder.leave()
        return self._announce_leave(self.name, now, prune=False)

    def finish_leave(self) -> None:
        """Swim has left too."""
        self.state = SerfState.LEFT
        self.flush_snapshot()

    def _ask_leavers(self) -> None:
        """Repeat the leave of members that were said to leave and are still here.

        Who never heard of it ignores it, but the member itself denies it; or else one that missed that denial would
        take it for leaving for ever, since in push/pulls a leaving member looks like one that stays. It goes to the
        member itself: as nobody passes on what is no news to it, gossip alone may miss that one time and again.
        """
        for message in self._table.leavers():
            data = encode(message)
            self._intents.queue(data)
            member = self._table.records[message.node].member
            self._effects.append(SendUser((member.address, member.port), data))

    def force_leave(self, name: str, now: float, *, prune: bool = False) -> int:
        """Take a failed member for left (`prune`: erase it); returns the ticket of the announcement."""
        return self._announce_leave(name, now, prune=prune)

    def _announce_leave(self, name: str, now: float, *, prune: bool) -> int:
        message = LeaveIntent(ltime=self._table.clock.time, node=name, prune=prune)
        self._table.clock.increment()
        self._leave_intent(message, now)
        self._ticket_count += 1
        ticket = self._ticket_count
        if self._has_alive_others():
            self._tickets[ticket] = now + self.config.broadcast_timeout_s
            self._intents.queue(encode(message), ticket=ticket)
        else:
            self._effects.append(IntentSent(ticket, timed_out=False))
        return ticket

    def user_event(self, name: str, payload: bytes, *, coalesce: bool = False) -> None:
        """Broadcast a user event, delivered here too. Raises UserEventTooLong."""
        limit = self.config.user_event_bytes_max
        message, data = self._events.stamp(name, payload, coalesce=coalesce, bytes_max=limit)
        self._receive_event(message)
        self._event_queue.queue(data)

    def set_tags(self, tags: Mapping[str, str]) -> None:
        """New tags; the driver then lets Swim announce them. Raises ValueError when they do not fit."""
        meta = encode_tags(tags)
        if len(meta) > META_BYTES_MAX:
            raise ValueError(f"Encoded length of tags exceeds limit of {META_BYTES_MAX} bytes")
        self._tags, self._meta = dict(tags), meta

    def forget_broadcasts(self) -> None:
        """Nothing need be told to anybody; for simulations that begin in the middle of a pool's life."""
        for queue in (self._intents, self._query_queue, self._event_queue):
            queue.prune(0)
        self._collect()

    def flush_snapshot(self) -> None:
        """Hand out what the snapshot file lacks."""
        if self._recorder is None:
            return
        self._collect()
        clocks = (self._table.clock, self._events.clock, self._queries.clock)
        self._recorder.clocks(*(clock.time - 1 for clock in clocks))
        write = self._recorder.flush()
        if write is not None:
            self._effects.append(write)

    # --- timers -------------------------------------------------------------------------------------------------

    def _reconnect(self, missing: Sequence[tuple[str, Address]], attempts: int) -> None:
        """Now and then try one of these: on average all who hold these for missing make so many attempts together."""
        if not missing or self.state is not SerfState.ALIVE:
            return
        living = len(self._table.records) - len(self._table.failed) - len(self._table.left)
        if self._rng.random() <= attempts / max(living, 1):
            self._effects.append(Reconnect(*self._rng.choice(missing)))

    def _check_queues(self) -> None:
        retain = max(self.config.queue_depth_min, 2 * len(self._table.records))
        queues = (("Intent", self._intents), ("Event", self._event_queue), ("Query", self._query_queue))
        for name, queue in queues:
            if len(queue) >= self.config.queue_depth_warning:
                self._log(LogLevel.WARN, "broadcast queue is deep", queue=name, depth=len(queue))
            dropped = max(len(queue) - retain, 0)
            if dropped:
                queue.prune(retain)
                self._log(LogLevel.WARN, "broadcast queue was pruned", queue=name, dropped=dropped)

    def _told(self, effect: SerfEffect) -> None:
        """What the query desk says, but for the answers that only we want."""
        vote = self._vote
        if vote is None or not isinstance(effect, QueryAnswered | QueryFinished) or effect.id != vote.id:
            self._effects.append(effect)
        elif isinstance(effect, QueryAnswered):
            vote.count(effect.payload or b"")
        else:
            self._vote = None
            if vote.is_lost:
                self._effects.append(NameLost(vote.answers, vote.agreed))
            else:
                text = "majority in name conflict resolution"
                self._log(LogLevel.INFO, text, answers=vote.answers, agreed=vote.agreed)

    def _ask_for_our_name(self, me: Node, now: float) -> None:
        if not self.config.resolve_name_conflicts or self._vote is not None:
            return
        timeout_s = self.query_timeout_s(len(self._table.records))
        try:
            number = self.ask(CONFLICT_QUERY, me.name.encode("utf-8", TEXT_ERRORS), now, timeout_s=timeout_s)
        except ValueError as error:
            self._log(LogLevel.ERROR, "failed to ask who owns our name", error=str(error))
            return
        self._vote = NameVote(number, me.endpoint)

    def _conflict(self, existing: Node, other: Node, now: float) -> None:
        if existing.name == self.name:
            text = "Node name conflicts with another node. Names must be unique!"
            self._log(LogLevel.ERROR, text, node=other.name, address=f"{other.address}:{other.port}")
            if not self.same_identity(existing.meta, other.meta):  # else it is us, at an address we have left
                self.name_taken_by = f"{other.address}:{other.port}"
            self._ask_for_our_name(existing, now)
        else:
            pairs = {"existing": f"{existing.address}:{existing.port}", "other": f"{other.address}:{other.port}"}
            self._log(LogLevel.WARN, "Name conflict, both claim it", node=other.name, **pairs)

    def _ping_complete(self, node: Node, rtt_s: float, payload: bytes) -> None:
        if not payload:
            return
        try:
            self._coordinates.observe(node.name, decode_coordinate(payload), rtt_s)
        except (DecodeError, CoordinateError) as error:
            self._log(LogLevel.DEBUG, "coordinate of a peer not used", node=node.name, error=str(error))

    # --- Swim's questions (its Delegate) --------------------------------------------------------------------------

    def node_meta(self, limit: int) -> bytes:
        """Our tags."""
        assert len(self._meta) <= limit
        return self._meta

    def may_have_broadcasts(self) -> bool:
        """Whether anything is queued."""
        return len(self._intents) + len(self._query_queue) + len(self._event_queue) > 0

    def get_broadcasts(self, overhead: int, limit: int) -> Sequence[bytes]:
        """Messages to piggyback: intents before queries before user events."""
        taken: list[bytes] = []
        for queue in (self._intents, self._query_queue, self._event_queue):
            if not len(queue):
                continue
            messages = queue.get(overhead, limit, len(self._table.records))
            limit -= sum(overhead + len(message) for message in messages)
            taken += messages
        return taken

    def local_state(self, join: bool) -> bytes:
        """Our part of a push/pull."""
        state = PushPullState(
            ltime=self._table.clock.time,
            status_ltimes={name: record.status_ltime for name, record in self._table.records.items()},
            left_members=tuple(self._table.left),
            event_ltime=self._events.clock.time,
            events=self._events.slots(),
            query_ltime=self._queries.clock.time,
        )
        return encode(state)

    def ack_payload(self) -> bytes:
        """Our coordinate."""
        return encode_coordinate(self._coordinates.coordinate)

    def alive_veto(self, node: Node) -> str | None:
        """Why this one node may not be known here."""
        if len(node.versions) < 6:
            return "Vsn is not present"
        return self.merge_veto([node])

    def merge_veto(self, nodes: Sequence[Node]) -> str | None:
        """Why a whole remote list is refused."""
        members = []
        for node in nodes:
            if len(node.meta or b"") > META_BYTES_MAX:
                return f"Encoded length of tags exceeds limit of {META_BYTES_MAX} bytes"
            status = MemberStatus.LEFT if node.state is NodeState.LEFT else MemberStatus.NONE
            members.append(member_of(node, status))
        return None if self._veto is None else self._veto(members)

    def address_allowed(self, address: str) -> bool:
        """Whether the configuration lets members have this address."""
        if self._networks is None:
            return True
        ip = ipaddress.ip_address(address)
        return any(ip in network for network in self._networks if network.version == ip.version)

    def same_identity(self, old_meta: bytes | None, new_meta: bytes | None) -> bool:
        """Whether both carry the same node id."""
        old = tags_of(old_meta or b"").get("id", "")
        return bool(old) and old == tags_of(new_meta or b"").get("id", "")

    # --- views --------------------------------------------------------------------------------------------------

    def _stop_waiting_for_nobody(self) -> None:
        """What is still to be sent has nobody to go to: two that leave at once need not wait out their time."""
        here = (MemberStatus.ALIVE, MemberStatus.LEAVING)
        others = (record.status for name, record in self._table.records.items() if name != self.name)
        if self._tickets and not any(status in here for status in others):
            self._effects += [IntentSent(ticket, timed_out=False) for ticket in self._tickets]
            self._tickets.clear()

    def _has_alive_others(self) -> bool:
        return any(
            record.status is MemberStatus.ALIVE for name, record in self._table.records.items() if name != self.name
        )

    def members(self) -> list[Member]:
        """All members known, failed and left ones too, by name."""
        return [record.member for _, record in sorted(self._table.records.items())]

    def buffered_intents(self) -> int:
        """Intents of names that are no members yet."""
        return len(self._table.intents)

    def known_addresses(self) -> set[Address]:
        """Where members are that have not left, or were when they were last seen."""
        there = {
            (record.member.address, record.member.port)
            for record in self._table.records.values()
            if record.status is not MemberStatus.LEFT
        }
        return there | set(self._table.lost.values())

    def member(self, name: str) -> Member | None:
        """One member."""
        record = self._table.records.get(name)
        return None if record is None else record.member

    @property
    def tags(self) -> Mapping[str, str]:
        """Our tags."""
        return self._tags

    @property
    def coordinate(self) -> VivaldiCoordinate:
        """Our coordinate."""
        return self._coordinates.coordinate

    def cached_coordinate(self, name: str) -> VivaldiCoordinate | None:
        """What a member (or we) said last of its position."""
        return self._coordinates.coordinate if name == self.name else self._coordinates.cached(name)

    def query_timeout_s(self, alive: int) -> float:
        """Default time-out of a query in a pool with `alive` living nodes."""
        return self.config.gossip_interval_s * retransmit_limit(self.config.query_timeout_mult, alive)

    def stats(self) -> dict[str, int]:
        """The numbers that `consul info` shows of a pool; health and encryption are added by the driver."""
        return {
            "coordinate_resets": self._coordinates.resets,
            "event_queue": len(self._event_queue),
            "event_time": self._events.clock.time,
            "failed": len(self._table.failed),
            "intent_queue": len(self._intents),
            "left": len(self._table.left),
            "member_time": self._table.clock.time,
            "members": len(self._table.records),
            "query_queue": len(self._query_queue),
            "query_time": self._queries.clock.time,
        }
