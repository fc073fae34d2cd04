"""Serf as one value: what the members of a pool tell each other, above the bare knowledge of who is alive.

Sits between `swim.Swim` and the driver: answers Swim's questions (it is its Delegate) and takes its notifications
(`handle`). Everything it wants done comes out of `take()`. Calls nobody, knows no socket, clock, file or key.
Protocol: docs/protocol/gossip.md, sections 9 to 13.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence

from pyconsul_agent.errors import DecodeError
from pyconsul_agent.serf.admission import Admission, Veto, same_identity
from pyconsul_agent.serf.broadcasts import Broadcasts
from pyconsul_agent.serf.coalesce import Coalescer
from pyconsul_agent.serf.config import SerfConfig
from pyconsul_agent.serf.conflict import NameConflicts
from pyconsul_agent.serf.coordinate import CoordinateClient, CoordinateError
from pyconsul_agent.serf.effects import SerfEffect
from pyconsul_agent.serf.events import UserEvents
from pyconsul_agent.serf.intents import IntentDesk, SerfState
from pyconsul_agent.serf.queries import CONFLICT_QUERY, QueryDesk
from pyconsul_agent.serf.reconnect import Reconnector
from pyconsul_agent.serf.rounds import Rounds
from pyconsul_agent.serf.snapshot import SnapshotRecorder, known_addresses
from pyconsul_agent.serf.table import MemberTable
from pyconsul_agent.structs.coordinate import VivaldiCoordinate
from pyconsul_agent.structs.member import Member, MemberEventKind, MemberStatus
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
from pyconsul_agent.wire.gossip import Address
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

LEAVERS_INTERVAL_S = 30.0
"""How often a leave is repeated of a member that does not go. Longer than any leave takes."""
MESSAGE_BYTES_MAX = 16 * 1024
"""Of one serf message; what is queued for broadcast is bounded by it. No peer sends more than 9 KiB."""


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
        self._tags: dict[str, str] = {}
        self._meta = b""
        self.set_tags(tags)
        self._admission = Admission(config.allowed_networks, veto)
        self._table = MemberTable(name, config)
        self._coordinates = CoordinateClient(rng)
        self._broadcasts = Broadcasts(config)
        self._effects: list[SerfEffect] = []
        emit = self._effects.append
        self._events = UserEvents(emit)
        self._intents = IntentDesk(name, self._table, self._broadcasts, emit)
        ask_owner = self._ask_owner if config.resolve_name_conflicts else None
        self._names = NameConflicts(name, ask_owner, emit)
        self._queries = QueryDesk(name, self._table, rng, self._names.told)
        self._coalescer = Coalescer(
            config.coalesce_period_s,
            config.quiescent_period_s,
            config.user_coalesce_period_s,
            config.user_quiescent_period_s,
        )
        self._now = 0.0
        self._joins_ignoring_old = 0
        self._recorder: SnapshotRecorder | None = None
        self._reconnector = Reconnector(config, self._table, rng)
        self._rounds = Rounds()
        self._started_at = 0.0
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
        config = self.config
        intervals_s = {
            "reap": config.reap_interval_s,
            "reconnect": config.reconnect_interval_s,
            "reconnect soon": config.reconnect_soon_interval_s,
            "leavers": LEAVERS_INTERVAL_S,
            "queues": config.queue_check_interval_s,
        }
        if self._recorder is not None:
            intervals_s["snapshot"] = config.snapshot_interval_s
        self._rounds.start(intervals_s, now)

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
        due = self._rounds.next_due
        waiting = self._coalescer.next_deadline() if self._coalescer.is_on else None
        if waiting is not None:
            due = waiting if due is None else min(due, waiting)
        asked = self._queries.next_deadline()
        prunes = self._table.pending_prunes
        for time in (self._broadcasts.next_deadline(), min(prunes.values()) if prunes else None, asked):
            if time is not None and (due is None or time < due):
                due = time
        return due

    def tick(self, now: float) -> None:
        """Do what is due: reap, reconnect, prune, time out, flush the snapshot."""
        self._now = now
        due = self.next_deadline()
        if due is None or now < due:
            return
        self._table.prune_due(now)
        self._queries.expire(now)
        is_due = self._rounds.take_due
        if is_due("reap", now):
            self._table.reap(now)
            if now - self._started_at > self.config.reconnect_timeout_s:
                self._table.lost.clear()
        if is_due("reconnect", now) and self.state is SerfState.ALIVE:
            self._effects += self._reconnector.any()
        if is_due("reconnect soon", now) and self.state is SerfState.ALIVE:
            self._effects += self._reconnector.recent(now)
        if is_due("leavers", now):
            self._intents.ask_leavers()
        if is_due("queues", now):
            self._effects += self._broadcasts.check_depth(len(self._table.records))
        self._effects += self._broadcasts.expired(now)
        if is_due("snapshot", now):
            self.flush_snapshot()

    def handle(self, effect: Effect, now: float) -> None:
        """Take one notification of Swim; other effects are the driver's and pass unnoticed."""
        self._now = now
        match effect:
            case NotifyJoin(node):
                self._table.joined(node, now)
            case NotifyLeave(node):
                if not self._table.gone(node, now):
                    self._log(LogLevel.WARN, "Bad state when leave", node=node.name)
                self._intents.stop_waiting_for_nobody()
            case NotifyUpdate(node):
                self._table.updated(node)
            case NotifyConflict(existing, other):
                self._names.seen(existing, other, now)
            case Deliver(data):
                self.receive(data, now)
            case MergeRemoteState(data, join):
                self._merge(data, join, now)
            case PingComplete(node, rtt_s, payload):
                self._ping_complete(node, rtt_s, payload)
            case _:
                return
        self._collect()

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
        self._effects += self._broadcasts.sent()

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
                self._intents.receive_join(message, data, now)
            case LeaveIntent():
                self._intents.receive_leave(message, data, now)
            case UserEventMessage():
                if self._events.hear(message):
                    self._broadcasts.events.queue(data)
            case Query():
                if self._queries.receive(message, self._tags, now):
                    self._broadcasts.queries.queue(data)
            case Relay():
                self._queries.forward(message)
            case QueryResponse():
                self._queries.answered(message)
            case _:
                self._log(LogLevel.WARN, "serf message of a payload's type ignored", type=data[0])

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
        self._intents.merge(state.status_ltimes or {}, state.left_members or (), now)
        if join and self._joins_ignoring_old:
            self._events.min_time = max(self._events.min_time, state.event_ltime)
        self._events.merge(state.events or ())

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
            name, payload, asker, now, timeout_s=timeout_s, ack=ack, relay_factor=relay_factor, filters=filters
        )
        if self._queries.receive(query, self._tags, now):
            self._broadcasts.queries.queue(data)
        return query.id

    def _ask_owner(self, me: Node, now: float) -> int:
        """Ask all who owns our name."""
        timeout_s = self.query_timeout_s(len(self._table.records))
        return self.ask(CONFLICT_QUERY, me.name.encode("utf-8", TEXT_ERRORS), now, timeout_s=timeout_s)

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
        self._names.taken_by = None

    def finish_join(self, count: int, now: float) -> None:
        """The join ended with `count` contacts."""
        self._joins_ignoring_old -= 1
        if count:
            self._intents.announce_join(now)

    def begin_leave(self, now: float) -> int:
        """Announce the leave; `IntentSent` with the ticket returned follows. Then let Swim leave."""
        self._intents.state = SerfState.LEAVING
        if self._recorder is not None:
            self._recorder.leave()
        return self._intents.announce_leave(self.name, now, prune=False)

    def finish_leave(self) -> None:
        """Swim has left too."""
        self._intents.state = SerfState.LEFT
        self.flush_snapshot()

    def force_leave(self, name: str, now: float, *, prune: bool = False) -> int:
        """Take a failed member for left (`prune`: erase it); returns the ticket of the announcement."""
        return self._intents.announce_leave(name, now, prune=prune)

    def user_event(self, name: str, payload: bytes, *, coalesce: bool = False) -> None:
        """Broadcast a user event, delivered here too. Raises UserEventTooLong."""
        limit = self.config.user_event_bytes_max
        message, data = self._events.stamp(name, payload, coalesce=coalesce, bytes_max=limit)
        self._events.hear(message)
        self._broadcasts.events.queue(data)

    def set_tags(self, tags: Mapping[str, str]) -> None:
        """New tags; the driver then lets Swim announce them. Raises ValueError when they do not fit."""
        meta = encode_tags(tags)
        if len(meta) > META_BYTES_MAX:
            raise ValueError(f"Encoded length of tags exceeds limit of {META_BYTES_MAX} bytes")
        self._tags, self._meta = dict(tags), meta

    def forget_broadcasts(self) -> None:
        """Nothing need be told to anybody; for simulations that begin in the middle of a pool's life."""
        self._broadcasts.forget()
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
        return len(self._broadcasts) > 0

    def get_broadcasts(self, overhead: int, limit: int) -> Sequence[bytes]:
        """Messages to piggyback: intents before queries before user events."""
        return self._broadcasts.get(overhead, limit, len(self._table.records))

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
        return self._admission.alive_veto(node)

    def merge_veto(self, nodes: Sequence[Node]) -> str | None:
        """Why a whole remote list is refused."""
        return self._admission.merge_veto(nodes)

    def address_allowed(self, address: str) -> bool:
        """Whether the configuration lets members have this address."""
        return self._admission.address_allowed(address)

    def same_identity(self, old_meta: bytes | None, new_meta: bytes | None) -> bool:
        """Whether both carry the same node id."""
        return same_identity(old_meta, new_meta)

    # --- views --------------------------------------------------------------------------------------------------

    @property
    def state(self) -> SerfState:
        """Where this node is in its life."""
        return self._intents.state

    @property
    def name_taken_by(self) -> str | None:
        """`address:port` of another node that goes by our name, as the last join heard; None if it heard of none."""
        return self._names.taken_by

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
            "event_queue": len(self._broadcasts.events),
            "event_time": self._events.clock.time,
            "failed": len(self._table.failed),
            "intent_queue": len(self._broadcasts.intents),
            "left": len(self._table.left),
            "member_time": self._table.clock.time,
            "members": len(self._table.records),
            "query_queue": len(self._broadcasts.queries),
            "query_time": self._queries.clock.time,
        }
