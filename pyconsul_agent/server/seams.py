"""The narrow things that endpoints and leader duties need of the rest of a server."""

from __future__ import annotations

import enum
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from pyconsul_agent.structs.member import Member
from pyconsul_agent.structs.methods import Method
from pyconsul_agent.structs.raft import Configuration

RequestT = TypeVar("RequestT")
ReplyT = TypeVar("ReplyT")
Read = Coroutine[Any, Any, ReplyT]
"""What a method gives that only hands on a coroutine: without a frame of its own, of which a blocked read has many."""


class Where(enum.Enum):
    """Which server answers a method."""

    FORWARD = "F"
    """This one if it leads or the caller allows stale reads, else the leader; other datacenters by WAN."""
    PRIMARY = "P"
    """As FORWARD, but in the primary datacenter whatever the request names."""
    LOCAL = "L"
    """Whichever server gets the call."""
    DATACENTER = "D"
    """Any server of the named datacenter; never forwarded to the leader."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A method as this server offers it. `run` is called after routing; `write` marks what is never retried."""

    method: Method[Any, Any]
    where: Where
    run: Callable[[Any], Awaitable[Any]]
    write: bool = False


class Proposer(Protocol):
    """The replicated log, for those who write."""

    @property
    def is_leader(self) -> bool: ...

    async def apply(self, kind: int, body: bytes) -> Any:
        """Commit one FSM command (`kind` is its type byte) and return what the state machine answered.

        Raises RaftError when it was not, or may not have been, committed. An error that the state machine itself
        returned is returned as an exception *value*, because each endpoint words it in its own way.
        """

    async def barrier(self) -> None:
        """Return when everything committed before has been applied here. Raises RaftError."""


class Leadership(Protocol):
    """What this server knows of who leads."""

    @property
    def is_leader(self) -> bool: ...

    @property
    def leader_address(self) -> str:
        """`ip:port` of the raft leader, empty when there is none."""

    @property
    def last_contact_s(self) -> float | None:
        """Seconds since the leader was last heard; 0 on the leader, None if never."""

    async def verify(self) -> None:
        """Prove leadership by a quorum round. Raises NotLeader or another RaftError."""

    @property
    def lease_valid(self) -> bool:
        """Whether a default read may be answered now (promise P3)."""


class Membership(Protocol):
    """Changes of the raft configuration; only the leader's succeed."""

    def configuration(self) -> tuple[Configuration, int]:
        """The latest configuration and its index."""

    async def add_voter(self, id: str, address: str) -> None: ...
    async def add_nonvoter(self, id: str, address: str) -> None: ...
    async def remove_server(self, id: str) -> None: ...
    async def transfer_leadership(self) -> None: ...


Measure = Callable[[str, float], None]
"""Hears how many seconds something named took."""


def unmeasured(name: str, seconds: float) -> None:
    """For those whom nobody measures."""


class MemberView(Protocol):
    """The LAN pool, for reconciling."""

    def members(self) -> Sequence[Member]: ...


class Remote(Protocol):
    """Calls of our own, which are answered wherever the request and its method say."""

    async def __call__(self, method: Method[RequestT, ReplyT], request: RequestT) -> ReplyT:
        """Raises RPCError."""
