"""A server: wiring of its parts, their order of start and stop, and the leave. No other behavior."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Hashable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar

from pyconsul_agent.env.base import Address, Env
from pyconsul_agent.env.log import Log
from pyconsul_agent.errors import ConsulError, RPCError
from pyconsul_agent.fsm.machine import StateMachine
from pyconsul_agent.query.near import nearest_datacenters
from pyconsul_agent.raft.config import RaftConfig
from pyconsul_agent.runtime.listeners import NEW_LEADER, Listeners
from pyconsul_agent.runtime.raft import RaftNode
from pyconsul_agent.runtime.raft_saving import SnapshotPolicy
from pyconsul_agent.runtime.raft_storage import RaftStorage
from pyconsul_agent.runtime.rpc_pool import RPCPool, ServerAddress
from pyconsul_agent.runtime.rpc_server import RPCLimits, RPCServer
from pyconsul_agent.runtime.snapshot_rpc import SnapshotPort
from pyconsul_agent.runtime.snapshot_rpc import call as call_snapshot
from pyconsul_agent.runtime.tasks import TaskOwner
from pyconsul_agent.serf.consul import ServerInfo, wan_name
from pyconsul_agent.server.blocking import Waits
from pyconsul_agent.server.bootstrap import Bootstrapper
from pyconsul_agent.server.config import ServerConfig
from pyconsul_agent.server.departure import Departure
from pyconsul_agent.server.diagnosis import Facts, LeaderWatch
from pyconsul_agent.server.directory import ServerDirectory, servers_by_id
from pyconsul_agent.server.dispatch import Dispatcher
from pyconsul_agent.server.endpoints.status import contact_text
from pyconsul_agent.server.forward import Forwarder
from pyconsul_agent.server.gossip_pools import make_pools, wan_coordinates
from pyconsul_agent.server.leader.autopilot import Autopilot
from pyconsul_agent.server.leader.entries import establish_entries
from pyconsul_agent.server.leader.federation import Places
from pyconsul_agent.server.leader.intentions import IntentionMigration, establish_intentions
from pyconsul_agent.server.leader.loop import LeaderLoop
from pyconsul_agent.server.leader.reconcile import Reconciler
from pyconsul_agent.server.leader.session_ttl import SessionExpiry, SessionTimers
from pyconsul_agent.server.leader.standing import DEFAULTS
from pyconsul_agent.server.leader.tombstones import TombstoneReaper
from pyconsul_agent.server.measures import Gauge, ServerMeasures
from pyconsul_agent.server.metered import MeteredDispatch, metered
from pyconsul_agent.server.methods import Parts, offered
from pyconsul_agent.server.pools import PoolWatcher
from pyconsul_agent.server.snapshots import Snapshots
from pyconsul_agent.server.streaming import Streaming
from pyconsul_agent.state import system
from pyconsul_agent.state.catalog import CHECKS, NODES, SERVICES
from pyconsul_agent.state.store import Store
from pyconsul_agent.state.watch import WatchSet
from pyconsul_agent.structs.coordinate import VivaldiCoordinate
from pyconsul_agent.structs.diagnosis import Diagnosis
from pyconsul_agent.structs.member import Member, MemberStatus
from pyconsul_agent.structs.methods import Method
from pyconsul_agent.structs.operator import AutopilotConfig, RaftStats
from pyconsul_agent.structs.raft import Configuration, Server, Suffrage
from pyconsul_agent.structs.requests import AutopilotSetConfigRequest, SnapshotRequest
from pyconsul_agent.structs.snapshot import Archive, SnapshotAnswer
from pyconsul_agent.telemetry.instruments import Instruments
from pyconsul_agent.wire import msgpack

RequestT = TypeVar("RequestT")
ReplyT = TypeVar("ReplyT")

AUTOPILOT = 9
"""FSM command type."""


class ServerNode:
    """Implements `agent.delegate.Delegate` for server mode."""

    is_server = True

    def __init__(
        self,
        config: ServerConfig,
        env: Env,
        storage: RaftStorage,
        log: Log,
        listeners: Listeners,
        *,
        fatal: Callable[[BaseException], None],
        meters: Instruments | None = None,
    ) -> None:
        self._config = config
        self._meters = meters = meters or Instruments()
        self._env = env
        self._log = log
        self._leaving = False
        self._gossiping = False
        self._stopped = False
        self._tasks = TaskOwner(log)
        self._store = Store()
        self.machine = StateMachine(
            self._store, env.clock.monotonic, warn=lambda text: log.warn(text), measure=meters.fsm
        )
        self._directory = ServerDirectory(config.datacenter, config.node_name)
        self._pool = RPCPool(env.net, env.clock, log.named("pool"), local_host=_source(config.bind))
        self._lan, self._wan = make_pools(config, env, log, meters.gossip)
        self._raft = self._make_raft(storage, fatal)
        self._timers = SessionTimers()
        self._autopilot = self._make_autopilot()
        forwarder = Forwarder(self._pool, self._raft, self._directory, meters.rpc.crossed)
        self._offered = offered(self._parts(forwarder))
        self._leader = self._make_leader_loop()
        self._raft.on_leadership(self._leadership)
        self._leader_watch = LeaderWatch(self._facts, env.clock, log)
        self._dispatcher = self._make_dispatcher(forwarder)
        self._raft.on_leader_change(self._leader_changed)
        self._service = MeteredDispatch(self._dispatcher, meters.rpc, env.clock)
        self._measures = ServerMeasures(
            self._raft, lambda: self._store, self._lan.members, lambda: self._autopilot.standings,
            lambda: len(self._timers), datacenter=config.datacenter,
        )  # fmt: skip
        self._bootstrapper = Bootstrapper(
            self._raft, self._pool, log,
            expect=config.expect if config.expect > 1 else 0,
            datacenter=config.datacenter, own_name=config.node_name, members=self._lan.members,
        )  # fmt: skip
        self._watcher = PoolWatcher(
            self._directory, self._bootstrapper, self._leader, listeners, log,
            wan=self._wan, server_moved=self._server_moved,
        )  # fmt: skip
        self._snapshots = self._make_snapshots()
        self._streaming, self._rpc = self._make_ports()

    # --- parts ------------------------------------------------------------------------------------------------

    def _make_raft(self, storage: RaftStorage, fatal: Callable[[BaseException], None]) -> RaftNode:
        config = self._config
        return RaftNode(
            config=replace(RaftConfig.scaled(config.raft_multiplier), trailing_logs=config.trailing_logs),
            me=Server(id=config.node_id, address=_join(config.advertise, config.rpc_port)),
            storage=storage,
            machine=self.machine,
            net=self._env.net,
            clock=self._env.clock,
            blocking=self._env.blocking,
            rng=self._env.random,
            log=self._log.named("raft"),
            resolve=self._directory.dial_address,
            fatal=fatal,
            bind_host=_source(config.bind),
            policy=SnapshotPolicy(interval_s=config.snapshot_interval_s, threshold=config.snapshot_threshold),
            meter=self._meters.raft,
        )

    def _make_autopilot(self) -> Autopilot:
        return Autopilot(
            self._raft, self._raft, self._pool, self._env.clock, self._log.named("autopilot"),
            datacenter=self._config.datacenter, own_stats=self._raft_stats, own_id=self._config.node_id,
            members=self._lan.members, force_leave=self._lan.force_leave, config=self._autopilot_config,
        )  # fmt: skip

    def _make_leader_loop(self) -> LeaderLoop:
        config, clock, log, raft, meter = self._config, self._env.clock, self._log, self._raft, self._meters.duties
        reconciler = Reconciler(
            lambda: self._store, raft, raft, self._autopilot, log,
            datacenter=config.datacenter, own_name=config.node_name, now=clock.monotonic, measure=meter,
        )  # fmt: skip
        return LeaderLoop(
            raft,
            reconciler,
            log,
            members=self._lan.members,
            announce=lambda: self._lan.user_event(NEW_LEADER, config.node_name.encode()),
            establish=(self._establish_autopilot, self._establish_intentions, self._establish_entries),
            on_ready=lambda: self._dispatcher.news(),
            duties=(
                ("autopilot", self._autopilot.run),
                ("session timers", SessionExpiry(self._store, raft, self._timers, clock.monotonic, log, meter).run),
                ("tombstones", TombstoneReaper(self._store, raft, clock.monotonic, log, meter).run),
                ("coordinates", self._offered.coordinates.run),
            ),
            later=(*self._offered.federation.duties(), ("intentions", self._migration().run)),
            measure=meter,
        )

    def _make_dispatcher(self, forwarder: Forwarder) -> Dispatcher:
        config = self._config
        return Dispatcher(
            metered(self._offered.endpoints, self._meters.rpc, self._env.clock),
            self._raft,
            forwarder,
            datacenter=config.datacenter,
            primary_datacenter=config.primary_datacenter,
            clock=self._env.clock,
            random=self._env.random,
            hold_timeout_s=config.hold_timeout_s,
            is_leaving=lambda: self._leaving,
            consistent_ready=lambda: self._leader.ready,
            settled=lambda: self._raft.settled,
            version=self._store.version,
        )

    def _make_ports(self) -> tuple[Streaming, RPCServer]:
        """What listens on the server port: subscriptions, and everything with them."""
        config, env, log = self._config, self._env, self._log
        streaming = Streaming(
            env.net, env.clock, log.named("grpc"), self._store, self._directory,
            datacenter=config.datacenter, local_host=_source(config.bind), settled=lambda: self._raft.settled,
        )  # fmt: skip
        rpc = RPCServer(
            env.net, env.clock, log.named("rpc"), self._service,
            raft_accept=self._accept_raft,
            snapshot=SnapshotPort(self._snapshots.answer, log.named("snapshot")).serve,
            grpc=streaming.serve if config.enable_streaming else None,
            limits=self._limits(), accepted=self._meters.rpc.accepted.add,
        )  # fmt: skip
        return streaming, rpc

    def _make_snapshots(self) -> Snapshots:
        env, log, local_host = self._env, self._log.named("snapshot"), _source(self._config.bind)
        return Snapshots(
            self._raft, self._raft, self._directory,
            lambda server, request, archive: call_snapshot(
                env.net, log, server, request, archive, local_host=local_host
            ),
            datacenter=self._config.datacenter, worker=env.blocking.worker("snapshot archives"),
            wall_ns=env.clock.wall_ns, consistent=self._dispatcher.consistent, reassert=self._leader.reassert, log=log,
        )  # fmt: skip

    def _parts(self, forwarder: Forwarder) -> Parts:
        return Parts(
            store=self._store, proposer=self._raft, leadership=self._raft, membership=self._raft, members=self._lan,
            timers=self._timers, clock=self._env.clock, random=self._env.random, uuid=self._env.uuid,
            last_log=lambda: (self._raft.last_index, self._raft.last_term),
            datacenters=self._directory.datacenters, wan_coordinates=lambda: wan_coordinates(self._wan),
            other_datacenters=self._other_datacenters,
            remote=lambda method, request: self._dispatcher.call(method, request),
            session_ttl_min_s=self._config.session_ttl_min_s,
            connect_enabled=self._config.connect_enabled,
            user_event=lambda name, payload: self._lan.user_event(name, payload),
            ready=lambda: self._leader.ready, standings=lambda: self._autopilot.standings,
            datacenter=self._config.datacenter, log=self._log,
            lan_keys=self._lan, wan_keys=self._wan, elsewhere=forwarder.to_datacenter,
            waits=Waits(self._config.query_default_s, self._config.query_max_s),
            places=Places(
                own=self._config.datacenter, primary=self._config.primary_datacenter or self._config.datacenter,
                servers_in=self._servers_in, is_known=self._directory.has_datacenter,
            ),
        )  # fmt: skip

    def _servers_in(self, datacenter: str) -> list[ServerInfo]:
        """The servers of a datacenter that have not left; failed ones will come back."""
        if datacenter != self._config.datacenter:
            return self._directory.servers_in(datacenter)
        known = servers_by_id(self._lan.members(), datacenter).values()
        return [info for info in known if info.status is not MemberStatus.LEFT]

    def _other_datacenters(self) -> list[str]:
        others = self._directory.datacenters()[1:]
        if self._wan is None or not others:
            return others
        return nearest_datacenters(others, self._wan.coordinate(), wan_coordinates(self._wan))

    def _limits(self) -> RPCLimits:
        config = self._config
        return RPCLimits(
            handshake_timeout_s=config.rpc_handshake_timeout_s,
            connections_per_client_max=config.rpc_connections_per_client,
        )

    def set_limits(
        self, *, trailing_logs: int, snapshot_threshold: int, snapshot_interval_s: float, connections_per_client: int
    ) -> None:
        """What may change while a server runs (reload)."""
        policy = SnapshotPolicy(interval_s=snapshot_interval_s, threshold=snapshot_threshold)
        self._raft.set_snapshots(policy, trailing_logs)
        self._rpc.set_connections_per_client(connections_per_client)

    # --- life -------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Load what is on disk, listen, become a member of the pools. Raises NetError or StorageError.

        The newest snapshot is restored afterwards: until then reads are refused, or wait for a leader.
        """
        config = self._config
        await self._raft.start()
        await self._rpc.start(config.bind, config.rpc_port)
        if self._wan is not None:
            await self._wan.start()
        await self._lan.start()
        self._watcher.start(self._lan)
        self._tasks.start(self._leader_watch.run(), "leader watch")
        self._gossiping = True
        if self._raft.is_leader:
            # Elected before there was a pool to lead in: the duties begin now.
            self._leader.leadership(True, self._raft.term)
        # Last, so that a lone server knows itself as a member before it elects itself.
        if (config.bootstrap or config.expect == 1) and self._raft.last_index == 0 and self._raft.term == 0:
            me = Server(
                suffrage=int(Suffrage.VOTER), id=config.node_id, address=_join(config.advertise, config.rpc_port)
            )
            await self._raft.bootstrap(Configuration(servers=(me,)))

    async def restored(self) -> None:
        """Return when the state that was on disk is in place."""
        await self._raft.restored()

    async def shutdown(self) -> None:
        """Stop everything, without leaving. Idempotent."""
        if self._stopped:
            return
        self._stopped = True
        self._log.event("server_shutdown")
        await self._tasks.close()
        await self._leader.stop()
        await self._watcher.stop()
        await self._rpc.close()
        await self._streaming.close()
        await self._raft.stop()
        await self._lan.stop()
        if self._wan is not None:
            await self._wan.stop()
        await self._pool.close()

    async def leave(self) -> None:
        """Leave in Consul's order. Stopping is left to the caller."""
        self._log.event("leave_start", mode="server")
        config = self._config
        departure = Departure(
            self._raft, self._env.clock, self._log,
            node_id=config.node_id, address=_join(config.advertise, config.rpc_port), drain_s=config.leave_drain_s,
        )  # fmt: skip
        await departure.run([pool for pool in (self._wan, self._lan) if pool is not None], self._has_left)

    def _has_left(self) -> None:
        self._leaving = True

    # --- Delegate ---------------------------------------------------------------------------------------------

    def call(self, method: Method[RequestT, ReplyT], request: RequestT) -> Coroutine[Any, Any, ReplyT]:
        """Answer or forward a call of this agent."""
        return self._service.call(method, request)

    async def snapshot(self, request: SnapshotRequest, archive: Archive) -> SnapshotAnswer:
        """Save or restore the state for this agent."""
        return await self._snapshots.answer(request, archive)

    def stamp(self, part: str) -> Hashable | None:
        return self._dispatcher.stamp(part)

    def lan_members(self) -> Sequence[Member]:
        return self._lan.members()

    def wan_members(self) -> Sequence[Member]:
        return [] if self._wan is None else self._wan.members()

    def local_member(self) -> Member:
        return self._lan.local_member()

    @property
    def gossip_encrypted(self) -> bool:
        return self._lan.is_encrypted

    @property
    def name_taken_by(self) -> str | None:
        return self._lan.name_taken_by

    def lan_coordinate(self) -> VivaldiCoordinate:
        return self._lan.coordinate()

    async def join_lan(self, addresses: Sequence[str]) -> int:
        return await self._lan.join(addresses)

    async def join_wan(self, addresses: Sequence[str]) -> int:
        if self._wan is None:
            raise RPCError("WAN federation disabled")
        return await self._wan.join(addresses)

    async def force_leave(self, node: str, *, prune: bool = False) -> None:
        """On the LAN, and on the WAN under its name there."""
        wan = wan_name(node, self._config.datacenter)
        if self._lan.member(node) is None and (self._wan is None or self._wan.member(wan) is None):
            raise RPCError(f"agent: No node found with name '{node}'")
        if self._lan.member(node) is not None:
            await self._lan.force_leave(node, prune=prune)
        if self._wan is not None and self._wan.member(wan) is not None:
            await self._wan.force_leave(wan, prune=prune)

    async def user_event(self, name: str, payload: bytes, *, coalesce: bool) -> None:
        self._lan.user_event(name, payload, coalesce=coalesce)

    def stats(self) -> Mapping[str, Mapping[str, str]]:
        raft = self._raft
        sections: dict[str, Mapping[str, str]] = {
            "consul": {
                "acl": "disabled",
                "bootstrap": _bool(self._config.bootstrap),
                "known_datacenters": str(len(self._directory.datacenters())),
                "leader": _bool(raft.is_leader),
                "leader_addr": raft.leader_address,
                "server": "true",
            },
            "raft": raft.stats(),
            "serf_lan": self._lan.stats(),
        }
        if self._wan is not None:
            sections["serf_wan"] = self._wan.stats()
        return sections

    def measures(self) -> Iterable[Gauge]:
        yield from self._measures.read()
        if self._wan is not None:
            yield from self._wan.measures()
        yield from self._lan.measures()

    def diagnosis(self) -> Diagnosis:
        return self._leader_watch.diagnosis()

    def _facts(self) -> Facts:
        raft = self._raft
        return Facts(
            own_id=self._config.node_id,
            leader=raft.leader_address,
            role=raft.role.value,
            term=raft.term,
            last_index=raft.last_index,
            configuration=raft.configuration()[0],
            known=servers_by_id(self._lan.members(), self._config.datacenter),
            expect=self._bootstrapper.expect,
            refusals=raft.refusals,
            dial_errors=raft.dial_errors,
        )

    # --- the catalog, for DNS ---------------------------------------------------------------------------------

    def catalog_age_s(self) -> float | None:
        """How long ago this server's state was surely current; None when it cannot answer even stale reads."""
        if not self._raft.settled:
            return None
        return 0.0 if self._raft.is_leader else self._raft.last_contact_s

    def watch_catalog(self, changed: Callable[[], None]) -> None:
        """Call `changed` whenever nodes, services or checks have changed, or the whole state was replaced."""
        watch = WatchSet()
        for table in (NODES, SERVICES, CHECKS):
            watch.table(table)
        self._store.watchers.register(watch, changed)

    # --- callbacks --------------------------------------------------------------------------------------------

    def _leadership(self, is_leader: bool, term: int) -> None:
        if not is_leader:
            self._timers.stop()
        if self._gossiping:
            self._leader.leadership(is_leader, term)

    def _leader_changed(self, address: str, id_: str) -> None:
        self._leader_watch.leader_changed(address)
        self._dispatcher.news()

    def _server_moved(self, info: ServerInfo) -> None:
        """Gossip knows a (new) address of a server: old sessions to it are dropped."""
        self._pool.forget_other_addresses(ServerAddress(info.name, info.address, info.port, info.datacenter))

    async def _accept_raft(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, peer: Address) -> None:
        self._meters.rpc.raft_handoff.add()
        await self._raft.accept(reader, writer, f"{peer[0]}:{peer[1]}")

    def _raft_stats(self) -> RaftStats:
        contact = contact_text(self._raft.last_contact_s, self._raft.is_leader)
        return RaftStats(last_contact=contact, last_term=self._raft.last_term, last_index=self._raft.last_index)

    async def _establish_intentions(self) -> None:
        if self._config.connect_enabled:
            await establish_intentions(self._store, self._raft, self._log)

    def _migration(self) -> IntentionMigration:
        config = self._config
        return IntentionMigration(
            self._store, self._raft, self._log,
            connect_enabled=config.connect_enabled, servers=lambda: self._servers_in(config.datacenter),
            is_primary=config.primary_datacenter in ("", config.datacenter),
        )  # fmt: skip

    async def _establish_entries(self) -> None:
        config = self._config
        if config.primary_datacenter in ("", config.datacenter):
            await establish_entries(
                self._store, self._raft, self._log, config.bootstrap_entries,
                datacenter=config.datacenter, connect_enabled=config.connect_enabled,
            )  # fmt: skip

    def _autopilot_config(self) -> AutopilotConfig:
        _, config = system.autopilot_config(self._store, WatchSet())
        return config or DEFAULTS

    async def _establish_autopilot(self) -> None:
        """The first leader of a cluster writes the configured values down."""
        _, config = system.autopilot_config(self._store, WatchSet())
        if config is None:
            request = AutopilotSetConfigRequest(datacenter=self._config.datacenter, config=self._config.autopilot)
            answer = await self._raft.apply(AUTOPILOT, msgpack.encode(request))
            if isinstance(answer, Exception):
                raise ConsulError(str(answer))


def _join(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _source(bind: str) -> str | None:
    """The source address of dials: the bound one, unless that is "any"."""
    return None if bind in ("0.0.0.0", "::") else bind  # noqa: S104


def _bool(value: bool) -> str:
    return "true" if value else "false"
