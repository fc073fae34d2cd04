"""Keeps the catalog in line with gossip, while this server leads (docs/protocol/raft.md#leader-duties).

Alive members get their node and a passing `serfHealth`; failed ones a critical one; those that left or were reaped are
deregistered. Servers are also taken into, or out of, the raft configuration.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from pyconsul_agent.env.log import Log
from pyconsul_agent.errors import ConsulError
from pyconsul_agent.serf.consul import ServerInfo, parse_server
from pyconsul_agent.server.directory import address_of
from pyconsul_agent.server.seams import Measure, Membership, Proposer, unmeasured
from pyconsul_agent.state.store import Store, check_key, service_key
from pyconsul_agent.state.table import fold
from pyconsul_agent.structs.catalog import NodeService, Weights
from pyconsul_agent.structs.health import HealthCheck
from pyconsul_agent.structs.member import Member, MemberEventKind, MemberStatus
from pyconsul_agent.structs.raft import Configuration, Suffrage
from pyconsul_agent.structs.requests import DeregisterRequest, RegisterRequest
from pyconsul_agent.wire import msgpack

REGISTER, DEREGISTER = 0, 1
"""FSM command types."""

SERF_CHECK = "serfHealth"
SERF_CHECK_NAME = "Serf Health Status"
ALIVE_OUTPUT = "Agent alive and reachable"
FAILED_OUTPUT = "Agent not live or unreachable"


class AutopilotTrigger(Protocol):
    """Dead-server clean-up, asked for after a server was added."""

    def server_added(self) -> None: ...


class Reconciler:
    """The duties toward members. Every write goes through the log and is skipped when it would change nothing."""

    def __init__(
        self,
        store: Callable[[], Store],
        proposer: Proposer,
        membership: Membership,
        autopilot: AutopilotTrigger,
        log: Log,
        *,
        datacenter: str,
        own_name: str,
        now: Callable[[], float] = lambda: 0.0,
        measure: Measure = unmeasured,
    ) -> None:
        self._now = now
        self._measure = measure
        self._store = store
        self._proposer = proposer
        self._membership = membership
        self._autopilot = autopilot
        self._log = log
        self._datacenter = datacenter
        self._own_name = own_name
        self._holders: dict[str, str] = {}
        """Raft ID -> name of the member that has it. A renamed server keeps its ID; its old name lingers as left."""

    async def everyone(self, members: Sequence[Member]) -> None:
        """Reconcile each member, then treat catalog nodes that gossip does not know as reaped."""
        living = [member for member in members if member.status in (MemberStatus.ALIVE, MemberStatus.LEAVING)]
        self._holders = {member.tags["id"]: member.name for member in living if member.tags.get("id")}
        peers = {(server.id, server.address) for server in self._membership.configuration()[0].servers or ()}
        for member in living:  # of two living ones with one ID it is the one that raft knows
            server = parse_server(member)
            if server is not None and (server.id, address_of(server)) in peers:
                self._holders[server.id] = member.name
        known = set()
        for member in members:
            known.add(fold(member.name))
            await self.member(member)
        for node in self._store().tables.nodes.scan():
            if fold(node.node) not in known and self._serf_check(node.node) is not None:
                await self._gone(node.node, MemberEventKind.REAP)

    async def event(self, kind: MemberEventKind, member: Member) -> None:
        """Reconcile what a member event tells."""
        if kind is MemberEventKind.REAP:
            if self._is_ours(member):
                await self._left(member, MemberEventKind.REAP)
        else:
            await self.member(member)

    async def member(self, member: Member) -> None:
        """Bring one member's node, check and raft membership in line with its status. Errors are logged."""
        if not self._is_ours(member):
            return
        began = self._now()
        try:
            if member.status in (MemberStatus.ALIVE, MemberStatus.LEAVING):
                await self._alive(member)
            elif member.status is MemberStatus.FAILED:
                await self._failed(member)
            elif member.status is MemberStatus.LEFT:
                await self._left(member, MemberEventKind.LEAVE)
        except ConsulError as error:
            self._log.error("failed to reconcile member", member=member.name, error=str(error))
        self._measure("leader.reconcileMember", self._now() - began)

    def _is_ours(self, member: Member) -> bool:
        return member.tags.get("dc", "") == self._datacenter and member.tags.get("role") in ("node", "consul")

    # --- alive ------------------------------------------------------------------------------------------------

    async def _alive(self, member: Member) -> None:
        server = parse_server(member)
        service = None
        if server is not None:
            self._hold(member, server)
            await self._join(member, server)
            service = server_service(member, server)
        if self._is_registered(member, service):
            return
        self._log.event("member_alive", name=member.name)
        node = self._store().tables.nodes.get(fold(member.name))
        identity = member.tags.get("id", "")
        await self._write(
            REGISTER,
            RegisterRequest(
                datacenter=self._datacenter,
                node=member.name,
                id=identity,
                address=member.address,
                tagged_addresses=None if node is None else node.tagged_addresses,
                node_meta=None if node is None else node.meta,
                service=service,
                check=serf_check(member.name, "passing", ALIVE_OUTPUT),
                # A node that is not there is inserted all the same. One that its own agent registers at this very
                # moment must not lose the metadata that this request does not know of.
                skip_node_update=node is None or (node.address == member.address and node.id == identity),
            ),
        )

    def _hold(self, member: Member, server: ServerInfo) -> None:
        """Raises ConsulError when the server's ID is that of another one that lives: a copied data directory."""
        holder = self._holders.setdefault(server.id, member.name)
        if holder != member.name:
            raise ConsulError(f"Member '{member.name}' has conflicting node ID '{server.id}' with member '{holder}'")

    def _release(self, member: Member) -> None:
        """It is gone, and may come back under another name."""
        if self._holders.get(member.tags.get("id", "")) == member.name:
            del self._holders[member.tags["id"]]

    def _is_registered(self, member: Member, service: NodeService | None) -> bool:
        store = self._store()
        node = store.tables.nodes.get(fold(member.name))
        if node is None or node.address != member.address:
            return False
        if service is not None:
            row = store.tables.services.get(service_key(member.name, service.id))
            if row is None or dict(row.service.meta or {}) != dict(service.meta or {}):
                return False
        check = self._serf_check(member.name)
        return check is not None and check.status == "passing"

    def _serf_check(self, node: str) -> HealthCheck | None:
        return self._store().tables.checks.get(check_key(node, SERF_CHECK))

    async def _join(self, member: Member, server: ServerInfo) -> None:
        """Take a server into the raft configuration, first as one without a vote."""
        if server.name == self._own_name:
            return
        configuration, _ = self._membership.configuration()
        servers = configuration.servers or ()
        address = address_of(server)
        for present in servers:
            if present.id == server.id and present.address == address:
                return
        for present in servers:
            if present.address == address and present.id != server.id:
                if not may_remove(configuration, [present.id]):
                    raise ConsulError(
                        "Preventing server addition that would require removal of too many servers "
                        "and cause cluster instability"
                    )
                await self._membership.remove_server(present.id)
        same_id = next((present for present in servers if present.id == server.id), None)
        if same_id is not None and same_id.suffrage == Suffrage.VOTER:
            await self._membership.add_voter(server.id, address)
        else:
            await self._membership.add_nonvoter(server.id, address)
        self._autopilot.server_added()

    # --- failed -----------------------------------------------------------------------------------------------

    async def _failed(self, member: Member) -> None:
        self._release(member)
        node = self._store().tables.nodes.get(fold(member.name))
        if node is None:
            self._log.info(
                "ignoring failed event for member because it does not exist in the catalog", member=member.name
            )
            return
        check = self._serf_check(member.name)
        if node.address == member.address and check is not None and check.status == "critical":
            return
        self._log.event("member_failed", name=member.name)
        await self._write(
            REGISTER,
            RegisterRequest(
                datacenter=self._datacenter,
                node=member.name,
                id=member.tags.get("id", ""),
                address=member.address,
                check=serf_check(member.name, "critical", FAILED_OUTPUT),
                skip_node_update=True,
            ),
        )

    # --- left -------------------------------------------------------------------------------------------------

    async def _left(self, member: Member, kind: MemberEventKind) -> None:
        if member.name == self._own_name:
            self._log.warn("deregistering self should be done by follower", name=member.name)
            return
        server = parse_server(member)
        self._release(member)
        if server is not None:
            await self._remove_server(server)
        if self._store().tables.nodes.get(fold(member.name)) is not None:
            await self._gone(member.name, kind)

    async def _remove_server(self, server: ServerInfo) -> None:
        if self._holders.get(server.id, server.name) != server.name:
            return  # its ID lives on under another name
        configuration, _ = self._membership.configuration()
        for present in configuration.servers or ():
            if present.id == server.id:
                await self._membership.remove_server(present.id)
                return

    async def _gone(self, node: str, kind: MemberEventKind) -> None:
        self._log.event("member_reaped" if kind is MemberEventKind.REAP else "member_left", name=node)
        await self._write(DEREGISTER, DeregisterRequest(datacenter=self._datacenter, node=node))

    async def _write(self, kind: int, request: RegisterRequest | DeregisterRequest) -> None:
        answer = await self._proposer.apply(kind, msgpack.encode(request))
        if isinstance(answer, Exception):
            raise ConsulError(str(answer))


def serf_check(node: str, status: str, output: str) -> HealthCheck:
    """The check that says what gossip thinks of a node."""
    return HealthCheck(node=node, check_id=SERF_CHECK, name=SERF_CHECK_NAME, status=status, output=output)


def server_service(member: Member, server: ServerInfo) -> NodeService:
    """The `consul` service of a server."""
    meta = {
        "non_voter": "false",
        "read_replica": "true" if server.is_read_replica else "false",
        "raft_version": str(server.raft_version),
        "serf_protocol_current": str(member.protocol_current),
        "serf_protocol_min": str(member.protocol_min),
        "serf_protocol_max": str(member.protocol_max),
        "version": ".".join(str(part) for part in server.build),
    }
    return NodeService(
        id="consul", service="consul", port=server.port, weights=Weights(passing=1, warning=1), meta=meta
    )


def may_remove(configuration: Configuration, ids: Sequence[str]) -> bool:
    """Whether removing these servers leaves a quorum of the present voters."""
    voters = [server for server in configuration.servers or () if server.suffrage == Suffrage.VOTER]
    removed = sum(server.id in ids for server in voters)
    quorum = len(voters) // 2 + 1
    return removed <= len(voters) - quorum
