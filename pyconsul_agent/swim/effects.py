"""What the failure detector asks of its driver and tells the layer above: plain values, to be done in order."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field

from pyconsul_agent.wire.gossip import Address, NodeState


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """One node record. `versions` is PMin PMax PCur DMin DMax DCur; `changed_at` is when `state` last changed (s)."""

    name: str
    address: str
    port: int
    meta: bytes | None = None
    versions: bytes = b""
    incarnation: int = 0
    state: NodeState = NodeState.DEAD
    changed_at: float = field(default=0.0, compare=False)

    @property
    def endpoint(self) -> Address:
        """Where its packets go."""
        return (self.address, self.port)

    @property
    def is_gone(self) -> bool:
        """Dead or left."""
        return self.state >= NodeState.DEAD

    @property
    def protocol_max(self) -> int:
        """The highest memberlist protocol it understands: 3 answers TCP pings, 4 sends nacks, 5 checks CRCs."""
        return self.versions[1] if len(self.versions) > 1 else 0


class StreamPurpose(enum.Enum):
    """Why a TCP connection is opened."""

    PUSH_PULL = "push/pull"
    PING = "ping"


@dataclass(frozen=True, slots=True)
class SendPacket:
    """Send one datagram: label and encryption are the driver's, everything inside is done."""

    to: Address
    data: bytes


@dataclass(frozen=True, slots=True)
class OpenStream:
    """Dial `to`, write `request` (compressed and encrypted by the driver), read one message, all by `deadline` (s).

    The outcome comes back as `Swim.stream_answered(id, ...)` or `Swim.stream_failed(id, ...)`, exactly once.
    """

    id: int
    purpose: StreamPurpose
    to: Address
    node: str
    request: bytes
    deadline: float


@dataclass(frozen=True, slots=True)
class NotifyJoin:
    """A node came (back) to life."""

    node: Node


@dataclass(frozen=True, slots=True)
class NotifyLeave:
    """A node is gone; `node.state` says dead or left."""

    node: Node


@dataclass(frozen=True, slots=True)
class NotifyUpdate:
    """A living node changed its meta."""

    node: Node


@dataclass(frozen=True, slots=True)
class NotifyConflict:
    """Two nodes claim one name; nothing was changed."""

    existing: Node
    other: Node


@dataclass(frozen=True, slots=True)
class Deliver:
    """A message of the layer above (without the type byte)."""

    data: bytes
    source: Address


@dataclass(frozen=True, slots=True)
class MergeRemoteState:
    """The other side's state of the layer above, from a push/pull whose node states are merged already."""

    data: bytes
    join: bool


@dataclass(frozen=True, slots=True)
class PingComplete:
    """A direct UDP probe was answered in time."""

    node: Node
    rtt_s: float
    payload: bytes


@dataclass(frozen=True, slots=True)
class JoinFinished:
    """One target of `join` was merged (`error` None) or not."""

    id: int
    to: Address
    error: str | None


@dataclass(frozen=True, slots=True)
class BroadcastFinished:
    """What `leave` or `update_meta` announced has had all its transmissions, or the time-out came first."""

    ticket: int
    timed_out: bool


class LogLevel(enum.Enum):
    """As the log's method is called."""

    DEBUG = "debug"
    INFO = "info"
    WARN = "warn"
    ERROR = "error"


@dataclass(frozen=True, slots=True)
class LogLine:
    """Something for the operator. `event` is a name of the event table, or "" for a plain message."""

    level: LogLevel
    message: str
    pairs: tuple[tuple[str, object], ...] = ()
    event: str = ""


Effect = (
    SendPacket
    | OpenStream
    | NotifyJoin
    | NotifyLeave
    | NotifyUpdate
    | NotifyConflict
    | Deliver
    | MergeRemoteState
    | PingComplete
    | JoinFinished
    | BroadcastFinished
    | LogLine
)


def log_line(level: LogLevel, message: str, **pairs: object) -> LogLine:
    """A plain message."""
    return LogLine(level, message, tuple(pairs.items()))


def log_event(name: str, /, **fields: object) -> LogLine:
    """An event of the table in `env.log`."""
    return LogLine(LogLevel.INFO, "", tuple(fields.items()), event=name)
