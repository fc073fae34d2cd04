"""What a server makes of gossip: who the servers are, when to bootstrap, whom to reconcile, which events to hand on."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from pyconsul_agent.env.log import Log
from pyconsul_agent.errors import NetError
from pyconsul_agent.runtime.gossip import GossipPool, PoolEvent
from pyconsul_agent.runtime.listeners import NEW_LEADER, USER_EVENT_PREFIX, Listeners
from pyconsul_agent.runtime.tasks import TaskOwner
from pyconsul_agent.serf.consul import ServerInfo, wan_name
from pyconsul_agent.server.bootstrap import Bootstrapper
from pyconsul_agent.server.directory import ServerDirectory, address_of
from pyconsul_agent.server.leader.loop import LeaderLoop
from pyconsul_agent.structs.member import MemberEvent, MemberEventKind, UserEvent

FLOOD_INTERVAL_S = 60.0
FLOOD_JOINS_MAX = 64
"""Servers that are tried in one round; a datacenter has a handful."""


class PoolWatcher:
    """Consumes the events of both pools, in order."""

    def __init__(
        self,
        directory: ServerDirectory,
        bootstrapper: Bootstrapper,
        leader: LeaderLoop,
        listeners: Listeners,
        log: Log,
        *,
        wan: GossipPool | None,
        server_moved: Callable[[ServerInfo], None],
    ) -> None:
        self._directory = directory
        self._bootstrapper = bootstrapper
        self._leader = leader
        self._listeners = listeners
        self._log = log
        self._wan = wan
        self._server_moved = server_moved
        self._tasks = TaskOwner(log)

    def start(self, lan: GossipPool) -> None:
        """Follow the pools from now on."""
        self._tasks.start(self._follow_lan(lan), "lan events")
        if self._wan is not None:
            self._tasks.start(self._follow_wan(self._wan), "wan events")
            self._tasks.start(self._flood_forever(self._wan), "flood joins")

    async def stop(self) -> None:
        """Stop following."""
        await self._tasks.close()

    async def _follow_lan(self, pool: GossipPool) -> None:
        subscription = pool.subscribe()
        for member in pool.members():
            self._lan(MemberEvent(MemberEventKind.JOIN, member))
        async for event in subscription:
            self._lan(event)

    def _lan(self, event: PoolEvent) -> None:
        if isinstance(event, UserEvent):
            self._user_event(event)
        elif isinstance(event, MemberEvent):
            self._member(event)

    def _user_event(self, event: UserEvent) -> None:
        if event.name == NEW_LEADER:
            self._log.event("leader_elected", node=event.payload.decode("utf-8", "replace"))
        elif event.name.startswith(USER_EVENT_PREFIX):
            self._listeners.user_event(event)

    def _member(self, event: MemberEvent) -> None:
        info = self._directory.lan_event(event.kind, event.member)
        if info is not None:
            self._server(event.kind, info)
        self._leader.member_event(event)

    def _server(self, kind: MemberEventKind, info: ServerInfo) -> None:
        fields = {"pool": "lan", "name": info.name, "address": address_of(info), "datacenter": info.datacenter}
        if kind in (MemberEventKind.JOIN, MemberEventKind.UPDATE):
            if kind is MemberEventKind.JOIN:
                self._log.event("server_added", **fields)
            self._server_moved(info)
            self._listeners.server_appeared()
            if self._bootstrapper.expect:
                self._tasks.start(self._bootstrapper.consider(), "bootstrap")
            self._flood(info)
        else:
            self._log.event("server_removed", **fields)

    async def _flood_forever(self, wan: GossipPool) -> None:
        """Try again, one after the other, what did not come about when the servers arrived."""
        while True:
            await asyncio.sleep(FLOOD_INTERVAL_S)
            missing = [info for info in self._directory.lan_servers if self._lacks(wan, info)]
            for info in missing[:FLOOD_JOINS_MAX]:
                await self._join_wan(wan, info)

    def _flood(self, info: ServerInfo) -> None:
        """Bring a server of our LAN into the WAN pool."""
        if self._wan is not None and self._lacks(self._wan, info):
            self._tasks.start(self._join_wan(self._wan, info), "flood join")

    @staticmethod
    def _lacks(wan: GossipPool, info: ServerInfo) -> bool:
        return info.wan_join_port > 0 and wan.member(wan_name(info.name, info.datacenter)) is None

    async def _join_wan(self, wan: GossipPool, info: ServerInfo) -> None:
        host = f"[{info.address}]" if ":" in info.address else info.address
        address = f"{host}:{info.wan_join_port}"
        try:
            await wan.join([address])
        except NetError as error:
            self._log.debug("Failed to flood-join server at address", address=address, error=str(error))

    async def _follow_wan(self, pool: GossipPool) -> None:
        subscription = pool.subscribe()
        for member in pool.members():
            self._wan_member(MemberEvent(MemberEventKind.JOIN, member))
        async for event in subscription:
            if isinstance(event, MemberEvent):
                self._wan_member(event)

    def _wan_member(self, event: MemberEvent) -> None:
        info = self._directory.wan_event(event.kind, event.member)
        if info is None:
            return
        fields = {"pool": "wan", "name": info.name, "address": address_of(info), "datacenter": info.datacenter}
        if event.kind is MemberEventKind.JOIN:
            self._log.event("server_added", **fields)
        elif event.kind is not MemberEventKind.UPDATE:
            self._log.event("server_removed", **fields)
