"""Who is a member and in which state: the rules of serf's member list (docs/protocol/gossip.md 10).

Two sources meet here: memberlist's word that a node lives or is gone, and the intents that members spread about
themselves (join, leave). Only an intent that came first makes a departed node `left` instead of `failed`. Knows no
queues and no time-outs but its own; what changed is collected in `changes`.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache

from pyconsul_agent.errors import DecodeError
from pyconsul_agent.serf.clock import LamportClock
from pyconsul_agent.serf.config import INTENTS_MAX, SerfConfig
from pyconsul_agent.serf.duration import go_duration_s
from pyconsul_agent.structs.member import Member, MemberEvent, MemberEventKind, MemberStatus
from pyconsul_agent.swim.effects import Node
from pyconsul_agent.wire.gossip import Address
from pyconsul_agent.wire.serf import JoinIntent, LeaveIntent, decode_tags

RECONNECT_TIMEOUT_TAG = "rc_tm"


TAGS_REMEMBERED = 2048


@lru_cache(maxsize=TAGS_REMEMBERED)
def tags_of(meta: bytes) -> Mapping[str, str]:
    """The tags in a node's meta; none if they cannot be read. One meta is asked for often: do not change the result."""
    try:
        return decode_tags(meta)
    except DecodeError:
        return {}


def member_of(node: Node, status: MemberStatus) -> Member:
    """The node record as serf shows it. Tags that cannot be read are no tags."""
    versions = node.versions if len(node.versions) >= 6 else bytes(6)
    return Member(
        name=node.name,
        address=node.address,
        port=node.port,
        tags=tags_of(node.meta or b""),
        status=status,
        protocol_min=versions[0],
        protocol_max=versions[1],
        protocol_current=versions[2],
        delegate_min=versions[3],
        delegate_max=versions[4],
        delegate_current=versions[5],
    )


class IntentKind(enum.Enum):
    """What was announced."""

    JOIN = "join"
    LEAVE = "leave"


@dataclass(slots=True)
class Intent:
    """The newest announcement about a name that is no member yet."""

    kind: IntentKind
    ltime: int
    seen_at: float


@dataclass(slots=True)
class Record:
    """A member and what only we know of it. `gone_at` (s) is when it failed or left."""

    member: Member
    status_ltime: int = 0
    gone_at: float = 0.0

    @property
    def status(self) -> MemberStatus:
        return self.member.status


class LeaveOutcome(enum.Enum):
    """What to do after a leave intent."""

    IGNORE = 0
    REBROADCAST = 1
    REFUTE = 2


@dataclass(slots=True)
class MemberTable:
    """The member list. `changes` grows until its owner empties it."""

    local_name: str
    config: SerfConfig
    clock: LamportClock = field(default_factory=LamportClock)
    records: dict[str, Record] = field(default_factory=dict)
    intents: dict[str, Intent] = field(default_factory=dict)
    failed: list[str] = field(default_factory=list)
    left: list[str] = field(default_factory=list)
    changes: list[MemberEvent] = field(default_factory=list)
    pending_prunes: dict[str, float] = field(default_factory=dict)
    lost: dict[str, Address] = field(default_factory=dict)
    """Members of an earlier life of this node (its snapshot) that were not seen in this one."""

    # --- memberlist's word ------------------------------------------------------------------------------------

    def joined(self, node: Node, now: float) -> None:
        """Memberlist found `node` alive."""
        record = self.records.get(node.name)
        status = MemberStatus.ALIVE
        self.lost.pop(node.name, None)
        if record is None:
            record = self.records[node.name] = Record(member_of(node, status))
            intent = self.intents.get(node.name)
            if intent is not None:
                record.status_ltime = intent.ltime
                if intent.kind is IntentKind.LEAVE:
                    status = MemberStatus.LEAVING
        else:
            self._unlist(node.name)
        record.member = member_of(node, status)
        record.gone_at = 0.0
        self._changed(MemberEventKind.JOIN, record)

    def gone(self, node: Node, now: float) -> bool:
        """Memberlist lost `node`. False when its state made no sense for that ("Bad state when leave")."""
        record = self.records.get(node.name)
        if record is None:
            return True
        if record.status is MemberStatus.LEAVING:
            self._set_status(record, MemberStatus.LEFT)
            self.left.append(node.name)
            kind = MemberEventKind.LEAVE
        elif record.status is MemberStatus.ALIVE:
            self._set_status(record, MemberStatus.FAILED)
            self.failed.append(node.name)
            kind = MemberEventKind.FAILED
        else:
            return False
        record.gone_at = now
        self._changed(kind, record)
        return True

    def updated(self, node: Node) -> None:
        """Memberlist saw new tags or versions."""
        record = self.records.get(node.name)
        if record is None:
            return
        record.member = member_of(node, record.status)
        self._changed(MemberEventKind.UPDATE, record)

    # --- intents ----------------------------------------------------------------------------------------------

    def is_foreign_word(self, message: JoinIntent) -> bool:
        """Whether others hold a state of this very node that it never announced.

        Only this node announces its joins, so a newer time is a leave that somebody believed: one that still shows us
        as leaving passes it on in its push/pulls, where it looks like a join. (Before our first announcement it may
        also be one of an earlier life.)
        """
        record = self.records.get(self.local_name)
        return message.node == self.local_name and record is not None and 0 < record.status_ltime < message.ltime

    def join_intent(self, message: JoinIntent, now: float) -> bool:
        """A node says that it is here. True if that is news worth spreading."""
        self.clock.witness(message.ltime)
        record = self.records.get(message.node)
        if record is None:
            return self._buffer(IntentKind.JOIN, message.node, message.ltime, now)
        if message.ltime <= record.status_ltime:
            return False
        record.status_ltime = message.ltime
        if record.status is MemberStatus.LEAVING:
            self._set_status(record, MemberStatus.ALIVE)
        return True

    def leave_intent(self, message: LeaveIntent, now: float, *, local_is_staying: bool) -> LeaveOutcome:
        """A node says that it leaves, or somebody says so of a failed one."""
        self.clock.witness(message.ltime)
        record = self.records.get(message.node)
        if record is None:
            news = self._buffer(IntentKind.LEAVE, message.node, message.ltime, now)
            return LeaveOutcome.REBROADCAST if news else LeaveOutcome.IGNORE
        is_about_us = message.node == self.local_name and local_is_staying
        # A tie is no tie for those who heard of the leave first: to them our join of the same time is old.
        if message.ltime < record.status_ltime or (message.ltime == record.status_ltime and not is_about_us):
            return LeaveOutcome.IGNORE
        if is_about_us:
            return LeaveOutcome.REFUTE
        record.status_ltime = message.ltime
        if record.status is MemberStatus.ALIVE:
            self._set_status(record, MemberStatus.LEAVING)
        elif record.status is MemberStatus.FAILED:
            self._set_status(record, MemberStatus.LEFT)
            self.failed.remove(message.node)
            self.left.append(message.node)
            self._changed(MemberEventKind.LEAVE, record)
        if message.prune:
            self._prune(record, now)
        return LeaveOutcome.REBROADCAST

    def leavers(self) -> list[LeaveIntent]:
        """The leave of each other member that is leaving now, as it was believed here."""
        return [
            LeaveIntent(ltime=record.status_ltime, node=name)
            for name, record in self.records.items()
            if record.status is MemberStatus.LEAVING and name != self.local_name
        ]

    def _buffer(self, kind: IntentKind, name: str, ltime: int, now: float) -> bool:
        known = self.intents.get(name)
        if known is not None:
            if ltime <= known.ltime:
                return False
        elif len(self.intents) >= INTENTS_MAX:
            return False
        self.intents[name] = Intent(kind, ltime, now)
        return True

    def _prune(self, record: Record, now: float) -> None:
        if record.status is MemberStatus.LEAVING:
            wait_s = self.config.broadcast_timeout_s + self.config.leave_propagate_delay_s
            self.pending_prunes[record.member.name] = now + wait_s
        else:
            self._erase(record.member.name)

    # --- forgetting -------------------------------------------------------------------------------------------

    def prune_due(self, now: float) -> None:
        """Erase pruned members whose time to leave is over; one that came back to life stays."""
        for name in [name for name, due in self.pending_prunes.items() if due <= now]:
            del self.pending_prunes[name]
            record = self.records.get(name)
            if record is not None and record.status is not MemberStatus.ALIVE:
                self._erase(name)

    def reap(self, now: float) -> None:
        """Erase members that failed or left long ago, and intents that no member followed."""
        for name in self._older(self.failed, now, self.config.reconnect_timeout_s):
            self._erase(name)
        for name in self._older(self.left, now, self.config.tombstone_timeout_s):
            self._erase(name)
        limit = now - self.config.recent_intent_s
        for name in [name for name, intent in self.intents.items() if intent.seen_at < limit]:
            del self.intents[name]

    def missing(self, since: float) -> list[tuple[str, Address]]:
        """Where to look for members that failed at `since` (s) or later, or were not found again after a restart."""
        failed = [self.records[name] for name in self.failed if self.records[name].gone_at >= since]
        found = [(record.member.name, (record.member.address, record.member.port)) for record in failed]
        return [*found, *self.lost.items()]

    def _older(self, names: Iterable[str], now: float, timeout_s: float) -> list[str]:
        found = []
        for name in names:
            record = self.records[name]
            own_s = go_duration_s(record.member.tags.get(RECONNECT_TIMEOUT_TAG, "")) or timeout_s
            if now - record.gone_at > own_s:
                found.append(name)
        return found

    def _erase(self, name: str) -> None:
        self._unlist(name)
        record = self.records.pop(name)
        self._changed(MemberEventKind.REAP, record)

    # --- inner workings -----------------------------------------------------------------------------------------

    def _unlist(self, name: str) -> None:
        if name in self.failed:
            self.failed.remove(name)
        if name in self.left:
            self.left.remove(name)

    def _set_status(self, record: Record, status: MemberStatus) -> None:
        record.member = replace(record.member, status=status)

    def _changed(self, kind: MemberEventKind, record: Record) -> None:
        self.changes.append(MemberEvent(kind, record.member))
