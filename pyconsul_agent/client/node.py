"""A client agent's side of the cluster: the LAN pool and the router to servers. Wiring and order of start and stop."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from pyconsul_agent.client.rate import TokenBucket
from pyconsul_agent.client.router import Router
from pyconsul_agent.client.streaming import Streams
from pyconsul_agent.env.base import Env
from pyconsul_agent.env.log import Log
from pyconsul_agent.errors import RPCError, RPCRateExceeded
from pyconsul_agent.runtime.gossip import GossipOptions, GossipPool, PoolEvent
from pyconsul_agent.runtime.keyring_file import KeyringFile
from pyconsul_agent.runtime.listeners import NEW_LEADER, USER_EVENT_PREFIX, Listeners
from pyconsul_agent.runtime.rpc_pool import IDLE_ON_CLIENT_S, IDLE_STREAMS_ON_CLIENT, RPCPool, ServerAddress
from pyconsul_agent.runtime.snapshot_rpc import call as call_snapshot
from pyconsul_agent.runtime.tasks import TaskOwner
from pyconsul_agent.serf.config import SerfConfig
from pyconsul_agent.serf.consul import AgentTags, LanRules, client_tags, parse_server
from pyconsul_agent.structs.base import duration
from pyconsul_agent.structs.coordinate import VivaldiCoordinate
from pyconsul_agent.structs.diagnosis import DiagnosedServer, Diagnosis
from pyconsul_agent.structs.member import Member, MemberEvent, MemberEventKind, UserEvent
from pyconsul_agent.structs.methods import Method
from pyconsul_agent.structs.requests import SnapshotRequest
from pyconsul_agent.structs.snapshot import Archive, SnapshotAnswer
from pyconsul_agent.structs.subscribe import SubscribeRequest
from pyconsul_agent.swim.config import LAN, SwimConfig
from pyconsul_agent.swim.keyring import Keyring
from pyconsul_agent.telemetry.instruments import Instruments
from pyconsul_agent.wire.gotypes import format_duration

RequestT = TypeVar("RequestT")
ReplyT = TypeVar("ReplyT")


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientConfig:
    """One client agent. Addresses are IPs, durations seconds."""

    node_name: str
    node_id: str
    datacenter: str
    data_dir: str
    build: str
    serf_lan_bind: str
    advertise: str
    lan_port: int = 8301
    keyring: Keyring | None = None
    """Gossip keys; None: gossip in the clear."""
    keyring_dir: str = ""
    """Where the keys are kept across starts; empty: nowhere."""
    verify_incoming: bool = True
    verify_outgoing: bool = True
    lan: SwimConfig = LAN
    lan_serf: SerfConfig = field(default_factory=SerfConfig)
    reconnect_timeout_s: float = 0.0
    """After how long of failure the others shall forget us; 0: as their own configuration says."""
    hold_timeout_s: float = 7.0
    rpc_rate: float = -1.0
    """Calls per second that this agent may make; negative: any number."""
    rpc_burst: int = 1000


class ClientNode:
    """Implements `agent.delegate.Delegate` for client mode."""

    is_server = False

    def __init__(
        self, config: ClientConfig, env: Env, log: Log, listeners: Listeners, meters: Instruments | None = None
    ) -> None:
        self._config = config
        self._clock = env.clock
        self._net = env.net
        self._log = log
        self._listeners = listeners
        meters = meters or Instruments()
        self._meter = meters.rpc
        self._tasks = TaskOwner(log)
        self._stopped = False
        self._pool = RPCPool(
            env.net,
            env.clock,
            log.named("pool"),
            idle_s=IDLE_ON_CLIENT_S,
            idle_streams_max=IDLE_STREAMS_ON_CLIENT,
        )
        tags = AgentTags(datacenter=config.datacenter, node_id=config.node_id, build=config.build)
        keyring_file = KeyringFile(env.files, config.keyring_dir and f"{config.keyring_dir}/local.keyring", log)
        self._lan = GossipPool(
            env,
            log.named("serf.lan"),
            GossipOptions(
                name=config.node_name,
                tags=client_tags(tags, reconnect_timeout=_reconnect_text(config.reconnect_timeout_s)),
                bind_host=config.serf_lan_bind,
                bind_port=config.lan_port,
                advertise=(config.advertise, config.lan_port),
                swim=config.lan,
                serf=config.lan_serf,
                veto=LanRules(config.node_name, config.node_id, config.datacenter),
                keyring=keyring_file.load(config.keyring),
                on_keyring=keyring_file.save,
                verify_incoming=config.verify_incoming,
                verify_outgoing=config.verify_outgoing,
                snapshot_path=f"{config.data_dir}/serf/local.snapshot" if config.data_dir else None,
            ),
            meters.gossip,
        )
        self._bucket = TokenBucket(config.rpc_rate, config.rpc_burst, env.clock.monotonic())
        self._router = Router(
            self._pool,
            env.clock,
            env.random,
            log,
            node_count=lambda: len(self._lan.members()),
            admit=lambda: self._bucket.take(env.clock.monotonic()),
            hold_timeout_s=config.hold_timeout_s,
        )

        self._streams = Streams(env.net, env.clock, log.named("grpc"), lambda: self._router.servers)

    # --- life -------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Become a member of the pool. Raises NetError."""
        await self._lan.start()
        self._router.start()
        self._tasks.start(self._follow(), "lan events")

    async def shutdown(self) -> None:
        """Stop everything, without leaving. Idempotent."""
        if self._stopped:
            return
        self._stopped = True
        await self._tasks.close()
        await self._lan.stop()
        await self._router.close()
        await self._streams.close()
        await self._pool.close()

    async def leave(self) -> None:
        """Leave the pool in order."""
        self._log.event("leave_start", mode="client")
        await self._lan.leave()

    async def _follow(self) -> None:
        subscription = self._lan.subscribe()
        for member in self._lan.members():
            self._event(MemberEvent(MemberEventKind.JOIN, member))
        async for event in subscription:
            self._event(event)

    def _event(self, event: PoolEvent) -> None:
        if isinstance(event, UserEvent):
            if event.name == NEW_LEADER:
                self._log.event("leader_elected", node=event.payload.decode("utf-8", "replace"))
            elif event.name.startswith(USER_EVENT_PREFIX):
                self._listeners.user_event(event)
        elif isinstance(event, MemberEvent):
            self._member(event)

    def _member(self, event: MemberEvent) -> None:
        info = parse_server(event.member)
        if info is None or info.datacenter != self._config.datacenter:
            return
        address = f"{info.address}:{info.port}"
        fields = {"pool": "lan", "name": info.name, "address": address, "datacenter": info.datacenter}
        if event.kind in (MemberEventKind.JOIN, MemberEventKind.UPDATE):
            if event.kind is MemberEventKind.JOIN:
                self._log.event("server_added", **fields)
            self._router.server_joined(ServerAddress(info.name, info.address, info.port, info.datacenter))
            self._listeners.server_appeared()
        else:
            self._log.event("server_removed", **fields)
            self._router.server_left(info.name)
            self._streams.forget(ServerAddress(info.name, info.address, info.port, info.datacenter))

    def set_call_limit(self, rate: float, burst: int) -> None:
        """Other limits on this agent's calls, from now on (reload)."""
        self._bucket.limit(rate, burst, self._clock.monotonic())

    # --- Delegate ---------------------------------------------------------------------------------------------

    async def call(self, method: Method[RequestT, ReplyT], request: RequestT) -> ReplyT:
        """Call a server."""
        failed, exceeded = True, False
        try:
            reply = await self._router.call(method, request)
            failed = False
            return reply
        except RPCRateExceeded:
            exceeded = True
            raise
        finally:
            self._meter.own_call(failed=failed, exceeded=exceeded)

    def subscribe(self, request: SubscribeRequest) -> AsyncGenerator[bytes, None]:
        """A subscription at a server, for `agent.cache`."""
        return self._streams.subscribe(request)

    async def snapshot(self, request: SnapshotRequest, archive: Archive) -> SnapshotAnswer:
        """Ask a server to save or restore the state."""
        return await self._router.snapshot(
            request,
            archive,
            lambda server, request, archive: call_snapshot(
                self._net, self._log, server, request, archive, local_host=None
            ),
        )

    def stamp(self, part: str) -> Hashable | None:
        return None

    def lan_members(self) -> Sequence[Member]:
        return self._lan.members()

    def wan_members(self) -> Sequence[Member]:
        return []

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
        raise RPCError("WAN joins can only be performed by servers")

    async def force_leave(self, node: str, *, prune: bool = False) -> None:
        if self._lan.member(node) is None:
            raise RPCError(f"agent: No node found with name '{node}'")
        await self._lan.force_leave(node, prune=prune)

    async def user_event(self, name: str, payload: bytes, *, coalesce: bool) -> None:
        self._lan.user_event(name, payload, coalesce=coalesce)

    def measures(self) -> Iterable[tuple[str, float, Mapping[str, str]]]:
        return self._lan.measures()

    def diagnosis(self) -> Diagnosis:
        """A client only sees which servers there are; they know why they have no leader."""
        found = [info for member in self._lan.members() if (info := parse_server(member)) is not None]
        servers = tuple(
            DiagnosedServer(
                name=info.name,
                id=info.id,
                address=f"{info.address}:{info.port}",
                gossip=info.status.word,
                expect=info.expect,
            )
            for info in found
            if info.datacenter == self._config.datacenter
        )
        reason = "" if self._router.servers else "No known Consul servers"
        return Diagnosis(role="Client", reason=reason, servers=servers)

    def stats(self) -> Mapping[str, Mapping[str, str]]:
        return {
            "consul": {
                "acl": "disabled",
                "known_servers": str(len(self._router.servers)),
                "server": "false",
            },
            "serf_lan": self._lan.stats(),
        }


def _reconnect_text(seconds: float) -> str:
    """The text of tag `rc_tm`, empty when there is nothing to say."""
    return format_duration(duration(seconds)) if seconds else ""
