"""What serf asks of its driver, besides the member and user events (`structs.member`) that it tells the agent."""

from __future__ import annotations

from dataclasses import dataclass

from pyconsul_agent.structs.member import MemberEvent, UserEvent
from pyconsul_agent.swim.effects import LogLine
from pyconsul_agent.swim.keyring import Keyring
from pyconsul_agent.wire.gossip import Address


@dataclass(frozen=True, slots=True)
class SendUser:
    """Hand `data` to `Swim.send_user`: one message to one place."""

    to: Address
    data: bytes


@dataclass(frozen=True, slots=True)
class Reconnect:
    """Try to join a failed member again, quietly."""

    name: str
    to: Address


@dataclass(frozen=True, slots=True)
class AppendSnapshot:
    """Append text to the snapshot file; `sync` when it must be on the disk before anything else."""

    text: str
    sync: bool = False


@dataclass(frozen=True, slots=True)
class ReplaceSnapshot:
    """Replace the snapshot file, atomically."""

    text: str


@dataclass(frozen=True, slots=True)
class IntentSent:
    """The broadcast with this ticket has had all its transmissions, or its time was over."""

    ticket: int
    timed_out: bool


@dataclass(frozen=True, slots=True)
class QueryReceived:
    """A query for the application; answer with `Serf.respond`."""

    ltime: int
    id: int
    name: str
    payload: bytes
    source_node: str


@dataclass(frozen=True, slots=True)
class QueryAnswered:
    """A node answered a query of ours (`payload`), or only says that it got it (None)."""

    id: int
    node: str
    payload: bytes | None


@dataclass(frozen=True, slots=True)
class QueryFinished:
    """The time for answers to our query is over."""

    id: int


@dataclass(frozen=True, slots=True)
class NameLost:
    """Most who answered hold another node for the owner of our name (`agreed` of `answers` are for us): stop."""

    answers: int
    agreed: int


@dataclass(frozen=True, slots=True)
class KeyringChanged:
    """Encrypt with this ring from now on, and keep its file."""

    keyring: Keyring


SerfEffect = (
    MemberEvent
    | UserEvent
    | QueryReceived
    | QueryAnswered
    | QueryFinished
    | NameLost
    | KeyringChanged
    | SendUser
    | Reconnect
    | AppendSnapshot
    | ReplaceSnapshot
    | IntentSent
    | LogLine
)
