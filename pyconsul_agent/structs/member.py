"""Members of a gossip pool, as serf knows them."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field


class MemberStatus(enum.IntEnum):
    """Serf's view of a member; the numbers travel in RPC and the old CLI protocol."""

    NONE = 0
    ALIVE = 1
    LEAVING = 2
    LEFT = 3
    FAILED = 4

    @property
    def word(self) -> str:
        """As `consul members` prints it."""
        return self.name.lower()


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """One member. `protocol_*` are memberlist's versions, `delegate_*` serf's."""

    name: str
    address: str
    port: int
    tags: Mapping[str, str] = field(default_factory=dict)
    status: MemberStatus = MemberStatus.NONE
    protocol_min: int = 1
    protocol_max: int = 5
    protocol_current: int = 2
    delegate_min: int = 2
    delegate_max: int = 5
    delegate_current: int = 4


class MemberEventKind(enum.Enum):
    """What happened to members; the value is the word in log lines (`serf: EventMemberJoin: n ip`)."""

    JOIN = "Join"
    LEAVE = "Leave"
    FAILED = "Failed"
    UPDATE = "Update"
    REAP = "Reap"


@dataclass(frozen=True, slots=True)
class MemberEvent:
    """A change in a pool's membership."""

    kind: MemberEventKind
    member: Member


@dataclass(frozen=True, slots=True)
class UserEvent:
    """A user event that was delivered. `name` keeps its `consul:` prefix."""

    lamport_time: int
    name: str
    payload: bytes
    coalesce: bool
