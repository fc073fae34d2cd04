"""Federation states: a leader tells its datacenter's mesh gateways to the primary, and brings home what that one knows.

Three duties (docs/protocol/raft.md#leader-duties). `tell` compares the stored state of this datacenter with the mesh
gateways of its catalog, and has it written in the primary when they differ; so each datacenter has a state as soon as
it has a leader. `copy` runs in other datacenters than the primary and makes their table equal to its. `prune` runs in
the primary and deletes the states of datacenters that no server of the WAN is of any more.

Nothing is written while a server is known that may not understand the command (older than Consul 1.8).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from pyconsul_agent.env.base import Clock
from pyconsul_agent.env.log import Log
from pyconsul_agent.errors import ConsulError
from pyconsul_agent.fsm.apply import FEDERATION_STATE
from pyconsul_agent.serf.consul import ServerInfo
from pyconsul_agent.server.blocking import Blocking
from pyconsul_agent.server.endpoints.shared import propose
from pyconsul_agent.server.seams import Proposer, Remote
from pyconsul_agent.state import health, system
from pyconsul_agent.state.registration import kind_index, same_check, same_node, same_service
from pyconsul_agent.state.store import INDEX_TABLE, Store
from pyconsul_agent.state.watch import WatchSet
from pyconsul_agent.structs import methods_mesh as methods
from pyconsul_agent.structs.base import NANOSECONDS_PER_SECOND, GoTime
from pyconsul_agent.structs.federation import FederationState, FederationStateRequest
from pyconsul_agent.structs.health import CheckServiceNode
from pyconsul_agent.structs.requests import DCSpecificRequest, QueryMeta, QueryOptions

MESH_GATEWAY = "mesh-gateway"
FEATURE = "fs"
"""Tag `ft_fs` of servers that know federation states."""
UPSERT, DELETE = "upsert", "delete"
PAUSE_S = 5.0
"""Least time between two writes of our own state, and between two looks whether all servers know the command."""
COPY_PAUSE_S = 1.0
PRUNE_INTERVAL_S = 3600.0
BACKOFF_MAX_S = 256.0


@dataclass(frozen=True, slots=True)
class Places:
    """The datacenters as far as they matter here. `servers_in`: known servers of one, whatever their health."""

    own: str
    primary: str
    servers_in: Callable[[str], Iterable[ServerInfo]]
    is_known: Callable[[str], bool]


class Federation:
    """The duties of a leader toward federation states."""

    def __init__(
        self,
        store: Store,
        proposer: Proposer,
        blocking: Blocking,
        remote: Remote,
        places: Places,
        clock: Clock,
        log: Log,
    ) -> None:
        self._store = store
        self._proposer = proposer
        self._blocking = blocking
        self._remote = remote
        self._places = places
        self._clock = clock
        self._log = log

    def duties(self) -> tuple[tuple[str, Callable[[], Coroutine[Any, Any, None]]], ...]:
        """What a leader of this datacenter runs, with names."""
        found = ("federation state", self.tell)
        if self._places.own == self._places.primary:
            return (found, ("pruning of federation states", self.prune))
        return (found, ("copying of federation states", self.copy))

    # --- our own --------------------------------------------------------------------------------------------------

    async def tell(self) -> None:
        """Keep the state of this datacenter as its catalog is, until cancelled."""
        while not self._all_know():
            await asyncio.sleep(PAUSE_S)
        index = 0

        async def turn() -> None:
            nonlocal index
            index = await self._tell_once(index)

        await self._repeat(turn, "error performing anti-entropy sync of federation state")

    async def _tell_once(self, after: int) -> int:
        """Wait for news later than `after`, tell them if they are any; the index to go on from."""
        found: list[tuple[FederationState | None, tuple[CheckServiceNode, ...] | None]] = []

        def query(watch: WatchSet) -> QueryMeta:
            stored, state = system.federation_state(self._store, watch, self._places.own)
            name = kind_index(MESH_GATEWAY)
            # Not the catalog's tables: any registration would wake us, and the index of the kind tells of each change.
            watch.row(INDEX_TABLE, name.encode())
            catalog, rows = health.service_dump(self._store, WatchSet(), MESH_GATEWAY)
            found[:] = [(state, tuple(rows) or None)]
            return QueryMeta(index=max(stored, catalog))

        reply = await self._blocking.run(QueryOptions(min_query_index=after, allow_stale=True), query)
        ((state, gateways),) = found
        if state is None or not same_gateways(state.mesh_gateways, gateways):
            await self._write(gateways)
            await asyncio.sleep(PAUSE_S)
        return reply.index

    async def _write(self, gateways: tuple[CheckServiceNode, ...] | None) -> None:
        seconds, nanoseconds = divmod(self._clock.wall_ns(), NANOSECONDS_PER_SECOND)
        state = FederationState(
            datacenter=self._places.own, mesh_gateways=gateways, updated_at=GoTime(seconds, nanoseconds)
        )
        request = FederationStateRequest(datacenter=self._places.primary, op=UPSERT, state=state)
        await self._remote(methods.FEDERATION_STATE_APPLY, request)
        self._log.info("federation state anti-entropy synced")

    def _all_know(self) -> bool:
        """Whether every server that will apply the command knows it; a stored state shows that they do."""
        if system.federation_states(self._store, WatchSet())[1]:
            return True
        return all(
            (servers := list(self._places.servers_in(name)))
            and all(server.features.get(FEATURE) == 1 for server in servers)
            for name in {self._places.own, self._places.primary}
        )

    # --- those of others ------------------------------------------------------------------------------------------

    async def copy(self) -> None:
        """Make this datacenter's table equal to the primary's, until cancelled."""
        index = 0

        async def turn() -> None:
            nonlocal index
            index = await self._copy_once(index)
            await asyncio.sleep(COPY_PAUSE_S)

        await self._repeat(turn, "replication error of federation states (will retry if still leader)")

    async def _copy_once(self, after: int) -> int:
        """Wait until the primary's index has passed `after`, take over what differs; its index."""
        asked = DCSpecificRequest(datacenter=self._places.primary, allow_stale=True, min_query_index=after)
        reply = await self._remote(methods.FEDERATION_STATE_LIST, asked)
        there = {row.datacenter: row for row in reply.states or ()}
        here = {row.datacenter: row for row in system.federation_states(self._store, WatchSet())[1]}
        for name in sorted(here.keys() - there.keys()):
            await self._apply(DELETE, here[name])
        for name, row in sorted(there.items()):
            mine = here.get(name)
            if mine is None or mine.primary_modify_index != row.modify_index:
                await self._apply(UPSERT, replace(row, primary_modify_index=row.modify_index))
        return 0 if reply.index < after else reply.index

    async def prune(self) -> None:
        """Delete the states of datacenters that are gone, once an hour until cancelled."""
        while True:
            await asyncio.sleep(PRUNE_INTERVAL_S)
            try:
                await self._prune_once()
            except ConsulError as error:
                self._log.error("error pruning stale federation states", error=str(error))

    async def _prune_once(self) -> None:
        for row in system.federation_states(self._store, WatchSet())[1]:
            if row.datacenter != self._places.own and not self._places.is_known(row.datacenter):
                self._log.info("pruning stale federation state", datacenter=row.datacenter)
                await self._apply(DELETE, row)

    async def _apply(self, op: str, row: FederationState) -> None:
        request = FederationStateRequest(datacenter=self._places.own, op=op, state=row)
        await propose(self._proposer, FEDERATION_STATE, request)

    async def _repeat(self, turn: Callable[[], Awaitable[None]], complaint: str) -> None:
        """Again and again; after failures in a row with pauses that double."""
        pause = 1.0
        while True:
            try:
                await turn()
                pause = 1.0
            except ConsulError as error:
                self._log.error(complaint, error=str(error))
                pause = min(pause * 2, BACKOFF_MAX_S)
                await asyncio.sleep(pause)


def same_gateways(one: Sequence[CheckServiceNode] | None, other: Sequence[CheckServiceNode] | None) -> bool:
    """Whether two lists of instances differ in nothing but indexes."""
    one, other = one or (), other or ()
    return len(one) == len(other) and all(_same(mine, theirs) for mine, theirs in zip(one, other, strict=True))


def _same(one: CheckServiceNode, other: CheckServiceNode) -> bool:
    if one.node is None or other.node is None or one.service is None or other.service is None:
        return False
    mine, theirs = one.checks or (), other.checks or ()
    return (
        same_node(one.node, other.node)
        and same_service(one.service, other.service)
        and len(mine) == len(theirs)
        and all(same_check(left, right) for left, right in zip(mine, theirs, strict=True))
    )
