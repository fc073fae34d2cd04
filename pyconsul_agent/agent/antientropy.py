"""When the local state is brought in line with the catalog, and the driver that does it.

A full sync compares everything and then writes the differences; a partial one writes what is known to differ.
Full: at start, every minute (stretched with the size of the cluster), soon after a server appears, and 15 s after a
failure. Partial: at once after a change.
"""

from __future__ import annotations

import asyncio
import math
import random
from collections.abc import Callable

from pyconsul_agent.agent.delegate import Caller
from pyconsul_agent.agent.local import LocalState, Write
from pyconsul_agent.env.log import Log
from pyconsul_agent.errors import ConsulError
from pyconsul_agent.structs.base import duration
from pyconsul_agent.structs.catalog import Node, NodeService
from pyconsul_agent.structs.methods import (
    CATALOG_DEREGISTER,
    CATALOG_NODE_SERVICE_LIST,
    CATALOG_NODE_SERVICES,
    CATALOG_REGISTER,
    HEALTH_NODE_CHECKS,
)
from pyconsul_agent.structs.requests import DeregisterRequest, NodeSpecificRequest

INTERVAL_S = 60.0
SERVER_UP_STAGGER_S = 3.0
RETRY_S = 15.0
STALE_S = 2.0
SCALE_FROM = 128


def scale(members: int) -> int:
    """How much slower a cluster of `members` syncs: 1 up to 128, then one more at each doubling."""
    if members <= SCALE_FROM:
        return 1
    return math.ceil(math.log2(members) - math.log2(SCALE_FROM)) + 1


class AntiEntropy:
    """One task that keeps the catalog in line. `pause` and `resume` bracket changes that belong together."""

    def __init__(
        self,
        state: LocalState,
        caller: Caller,
        log: Log,
        random: random.Random,
        *,
        cluster_size: Callable[[], int],
        agent_token: str = "",
    ) -> None:
        self._state = state
        self._caller = caller
        self._log = log
        self._random = random
        self._cluster_size = cluster_size
        self._agent_token = agent_token
        self._full = asyncio.Event()
        self._partial = asyncio.Event()
        self._paused = 0

    def changed(self) -> None:
        """Something local has changed."""
        self._partial.set()

    def server_appeared(self) -> None:
        """A server joined: it may know nothing of us."""
        self._full.set()

    def pause(self) -> None:
        """Hold back writes; counted."""
        self._paused += 1

    def resume(self) -> None:
        """End one `pause`; the last one starts a partial sync."""
        assert self._paused > 0
        self._paused -= 1
        if not self._paused:
            self._partial.set()

    async def run(self) -> None:
        """Sync until cancelled."""
        delay = 0.0
        while True:
            if delay:
                await self._partial_until(delay)
            if self._paused:
                delay = RETRY_S + self._stagger(RETRY_S)
                continue
            try:
                await self._sync_full()
            except ConsulError as error:
                self._log.event("sync_failed", error=str(error))
                delay = RETRY_S + self._stagger(RETRY_S)
            else:
                delay = INTERVAL_S + self._stagger(INTERVAL_S)

    def _stagger(self, seconds: float) -> float:
        return self._random.uniform(0, seconds * scale(self._cluster_size()))

    async def _partial_until(self, delay: float) -> None:
        """Do partial syncs as they are asked for, until `delay` is over or a full one is due."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + delay
        while (left := deadline - loop.time()) > 0:
            full = asyncio.ensure_future(self._full.wait())
            partial = asyncio.ensure_future(self._partial.wait())
            try:
                await asyncio.wait({full, partial}, timeout=left, return_when=asyncio.FIRST_COMPLETED)
            finally:
                full.cancel()
                partial.cancel()
                await asyncio.gather(full, partial, return_exceptions=True)
            if self._full.is_set():
                self._full.clear()
                await asyncio.sleep(self._stagger(SERVER_UP_STAGGER_S))
                return
            if self._partial.is_set():
                self._partial.clear()
                if not self._paused:
                    await self._sync_changes()

    async def _sync_changes(self) -> None:
        try:
            await self._write()
        except ConsulError as error:
            self._log.error("failed to sync changes", error=str(error))

    async def sync_now(self) -> None:
        """A full sync on request. Raises ConsulError."""
        await self._sync_full()

    async def _sync_full(self) -> None:
        self._partial.clear()
        asked = NodeSpecificRequest(
            datacenter=self._state.node.datacenter,
            node=self._state.node.name,
            token=self._agent_token,
            allow_stale=True,
            max_stale_duration=duration(STALE_S),
        )
        node, services = await self._remote_services(asked)
        checks = (await self._caller.call(HEALTH_NODE_CHECKS, asked)).health_checks or ()
        self._state.compare(node, services, checks)
        await self._write()

    async def _remote_services(self, asked: NodeSpecificRequest) -> tuple[Node | None, list[NodeService]]:
        try:
            listed = (await self._caller.call(CATALOG_NODE_SERVICE_LIST, asked)).node_services
        except ConsulError as error:
            if "rpc: can't find method" not in str(error):
                raise
            # compat: servers before 1.7 know only the map form
            found = (await self._caller.call(CATALOG_NODE_SERVICES, asked)).node_services
            return (None, []) if found is None else (found.node, list((found.services or {}).values()))
        return listed.node, list(listed.services or ())

    async def _write(self) -> None:
        for write in self._state.plan():
            try:
                await self._perform(write)
            except ConsulError as error:
                text = str(error)
                if "Permission denied" in text or "ACL not found" in text:
                    self._state.accept_denial(write)
                    self._log.warn("Registration blocked by ACLs", write=_name(write))
                    continue
                if not (write.removes and ("Unknown service" in text or "Unknown check" in text)):
                    raise
            self._state.done(write)
            self._tell(write)

    async def _perform(self, write: Write) -> None:
        if isinstance(write.request, DeregisterRequest):
            await self._caller.call(CATALOG_DEREGISTER, write.request)
        else:
            await self._caller.call(CATALOG_REGISTER, write.request)

    def _tell(self, write: Write) -> None:
        if write.node:
            self._log.event("synced_node")
        kind = "deregistered" if write.removes else "synced"
        for identity in write.services:
            self._log.event(f"{kind}_service", id=identity)
        for identity in write.checks:
            self._log.event(f"{kind}_check", id=identity)


def _name(write: Write) -> str:
    return ",".join((*write.services, *write.checks)) or "node"
