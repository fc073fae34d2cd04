"""Gathering events that come in swarms, so that the layer above sees what came of them (docs/protocol/gossip.md 10).

Off in Consul, on in serf's own agent. Events wait until nothing new came for the quiescent period, at most the
coalescing period. Of member events the last one per member is told, and not the same twice; of user events that allow
it the newest per name. Pure: `now` comes in, events come out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from pyconsul_agent.structs.member import MemberEvent, MemberEventKind, UserEvent

EffectT = TypeVar("EffectT")
NAMES_MAX = 8192
"""User event names that wait at one time; what comes beyond it is told at once."""


@dataclass(slots=True)
class _Window:
    """When what waits is to be told."""

    period_s: float
    quiescent_s: float
    ends_at: float | None = None
    quiet_at: float = 0.0

    @property
    def is_on(self) -> bool:
        return self.period_s > 0.0

    def touched(self, now: float) -> None:
        """Something came."""
        if self.ends_at is None:
            self.ends_at = now + self.period_s
        self.quiet_at = now + self.quiescent_s

    def due(self) -> float | None:
        return None if self.ends_at is None else min(self.ends_at, self.quiet_at)

    def take(self, now: float) -> bool:
        """Whether it is over now; it then begins anew with the next event."""
        due = self.due()
        if due is None or now < due:
            return False
        self.ends_at = None
        return True


@dataclass(slots=True)
class Coalescer:
    """Both kinds of events. A period of 0 lets them pass."""

    period_s: float = 0.0
    quiescent_s: float = 0.0
    user_period_s: float = 0.0
    user_quiescent_s: float = 0.0
    _members: dict[str, MemberEvent] = field(default_factory=dict)
    _told: dict[str, MemberEventKind] = field(default_factory=dict)
    _user: dict[str, list[UserEvent]] = field(default_factory=dict)
    _member_window: _Window = field(init=False)
    _user_window: _Window = field(init=False)

    def __post_init__(self) -> None:
        self._member_window = _Window(self.period_s, self.quiescent_s)
        self._user_window = _Window(self.user_period_s, self.user_quiescent_s)

    def member(self, event: MemberEvent, now: float) -> list[MemberEvent]:
        """What to tell at once of a member event."""
        if not self._member_window.is_on:
            return [event]
        self._members[event.member.name] = event
        self._member_window.touched(now)
        return []

    def user(self, event: UserEvent, now: float) -> list[UserEvent]:
        """What to tell at once of a user event."""
        waiting = self._user.get(event.name)
        if not (self._user_window.is_on and event.coalesce) or (waiting is None and len(self._user) >= NAMES_MAX):
            return [event]
        if waiting is None or waiting[0].lamport_time < event.lamport_time:
            self._user[event.name] = [event]
        elif waiting[0].lamport_time == event.lamport_time:
            waiting.append(event)
        self._user_window.touched(now)
        return []

    @property
    def is_on(self) -> bool:
        """Whether anything is held back at all."""
        return self._member_window.is_on or self._user_window.is_on

    def apply(self, effects: Sequence[EffectT], now: float) -> list[EffectT | MemberEvent | UserEvent]:
        """These effects without the events that wait now, and the events that are due."""
        told: list[EffectT | MemberEvent | UserEvent] = []
        for effect in effects:
            if isinstance(effect, MemberEvent):
                told += self.member(effect, now)
            elif isinstance(effect, UserEvent):
                told += self.user(effect, now)
            else:
                told.append(effect)
        return told + self.flush(now)

    def next_deadline(self) -> float | None:
        """When `flush` has something to tell."""
        first, second = self._member_window.due(), self._user_window.due()
        if first is None or second is None:
            return first if second is None else second
        return min(first, second)

    def flush(self, now: float) -> list[MemberEvent | UserEvent]:
        """What is to be told now: member events by kind, then user events."""
        told: list[MemberEvent | UserEvent] = []
        if self._member_window.take(now):
            for event in sorted(self._members.values(), key=lambda event: event.kind.value):
                name = event.member.name
                if event.kind is MemberEventKind.UPDATE or self._told.get(name) is not event.kind:
                    told.append(event)
                if event.kind is MemberEventKind.REAP:
                    self._told.pop(name, None)
                else:
                    self._told[name] = event.kind
            self._members.clear()
        if self._user_window.take(now):
            told += [event for waiting in self._user.values() for event in waiting]
            self._user.clear()
        return told
