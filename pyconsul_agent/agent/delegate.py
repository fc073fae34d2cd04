"""How the agent and its interfaces see the cluster: one protocol, implemented by server mode and by client mode."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Hashable, Iterable, Mapping, Sequence
from typing import Protocol, TypeVar

from pyconsul_agent.structs.coordinate import VivaldiCoordinate
from pyconsul_agent.structs.diagnosis import Diagnosis
from pyconsul_agent.structs.member import Member
from pyconsul_agent.structs.methods import Method
from pyconsul_agent.structs.requests import SnapshotRequest
from pyconsul_agent.structs.snapshot import Archive, SnapshotAnswer
from pyconsul_agent.structs.subscribe import SubscribeRequest

RequestT = TypeVar("RequestT")
ReplyT = TypeVar("ReplyT")


class Caller(Protocol):
    """Makes RPC calls: on a server straight into its own dispatch, on a client through the router."""

    async def call(self, method: Method[RequestT, ReplyT], request: RequestT) -> ReplyT:
        """Call `method`. Raises RPCError with the text that Consul would answer, wrapped as Consul wraps it."""


class Subscriber(Protocol):
    """Follows what servers tell: a client agent."""

    def subscribe(self, request: SubscribeRequest) -> AsyncGenerator[bytes, None]:
        """Encoded events, for as long as a server tells them.

        Raises NotOffered when no server has subscriptions, else GRPCError with the status that ended this one.
        """


class Snapshotter(Protocol):
    """Saves and restores the state of the cluster."""

    async def snapshot(self, request: SnapshotRequest, archive: Archive) -> SnapshotAnswer:
        """`archive` is read for a restore only. Raises ConsulError with the text that Consul would answer."""


class Delegate(Caller, Snapshotter, Protocol):
    """A server node or a client node."""

    @property
    def is_server(self) -> bool: ...

    def stamp(self, part: str) -> Hashable | None:
        """A value that stays equal as long as no default read of `part` (kv, catalog, leader) could answer otherwise.

        None: this agent cannot promise that now; a server that does not lead, or no longer provably (promise P3), and
        a client never can. The promise holds for the turn of the loop in which it was asked.
        """

    def lan_members(self) -> Sequence[Member]:
        """Every member of the LAN pool that is known, self included, also left and failed ones."""

    def wan_members(self) -> Sequence[Member]:
        """The WAN pool; empty on a client."""

    def local_member(self) -> Member: ...

    @property
    def gossip_encrypted(self) -> bool:
        """Whether the LAN pool has keys, be it only from its keyring file."""

    @property
    def name_taken_by(self) -> str | None:
        """`address:port` of another LAN member with our name, if the last join met one; None if not."""

    def lan_coordinate(self) -> VivaldiCoordinate: ...

    async def join_lan(self, addresses: Sequence[str]) -> int:
        """Join; returns how many addresses answered. Raises NetError when none did, with serf's text."""

    async def join_wan(self, addresses: Sequence[str]) -> int: ...

    async def force_leave(self, node: str, *, prune: bool = False) -> None:
        """Turn a failed member into a left one. Raises RPCError when no member has that name."""

    async def leave(self) -> None:
        """Leave in order; returns when the cluster has let go of this agent or the time for it is over."""

    async def user_event(self, name: str, payload: bytes, *, coalesce: bool) -> None:
        """Broadcast a serf user event on the LAN pool."""

    def stats(self) -> Mapping[str, Mapping[str, str]]:
        """What `consul info` prints of the cluster side: section -> key -> text."""

    def measures(self) -> Iterable[tuple[str, float, Mapping[str, str]]]:
        """Gauges as (name, value, labels), read once in an interval of the metrics."""

    def diagnosis(self) -> Diagnosis:
        """Why there is no leader, as far as this agent can tell; never asks anybody."""

    async def shutdown(self) -> None:
        """Stop without leaving."""
