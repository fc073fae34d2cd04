"""Calls of a client agent: to the first server of its list, again where that does no harm, and the rebalance task.

Implements `agent.delegate.Caller`. The order of servers is `server_list`'s, the connections are the pool's.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import TypeVar

from pyconsul_agent.client.server_list import REBALANCE_MIN_S, ServerList
from pyconsul_agent.env.base import Clock
from pyconsul_agent.env.log import Log
from pyconsul_agent.env.timeouts import timeout
from pyconsul_agent.errors import ConsulError, NetError, NoServers, RPCError, RPCRateExceeded
from pyconsul_agent.runtime.rpc_pool import RPCPool, ServerAddress
from pyconsul_agent.runtime.tasks import TaskOwner
from pyconsul_agent.structs.methods import STATUS_PING, Empty, Method
from pyconsul_agent.structs.requests import QueryOptions, SnapshotRequest
from pyconsul_agent.structs.snapshot import Archive, SnapshotAnswer
from pyconsul_agent.wire import netrpc

RequestT = TypeVar("RequestT")
ReplyT = TypeVar("ReplyT")

AskSnapshot = Callable[[ServerAddress, SnapshotRequest, Archive], Awaitable[SnapshotAnswer]]

HOLD_TIMEOUT_S = 7.0
JITTER_FRACTION = 16
PING_TIMEOUT_S = 10.0


class Router:
    """Routes calls to servers. `node_count` is how many members the LAN pool has; `admit` is the agent's own limit
    on calls (`limits.rpc_rate`) and says whether one more may go out now.
    """

    def __init__(
        self,
        pool: RPCPool,
        clock: Clock,
        random: random.Random,
        log: Log,
        *,
        node_count: Callable[[], int],
        admit: Callable[[], bool] = lambda: True,
        hold_timeout_s: float = HOLD_TIMEOUT_S,
    ) -> None:
        self._pool = pool
        self._clock = clock
        self._random = random
        self._log = log
        self._node_count = node_count
        self._admit = admit
        self._hold_timeout_s = hold_timeout_s
        self._list = ServerList(random)
        self._tasks = TaskOwner(log)

    @property
    def servers(self) -> tuple[ServerAddress, ...]:
        """Known servers, the one in use first."""
        return self._list.servers

    def start(self) -> None:
        """Begin to rebalance."""
        self._tasks.start(self._rebalance_forever(), "rebalance servers")

    async def close(self) -> None:
        """Stop rebalancing. The pool is its owner's to close."""
        await self._tasks.close()

    def server_joined(self, server: ServerAddress) -> None:
        """Gossip says that a server is alive (at this address)."""
        for known in self._list.servers:
            if known.name == server.name and known != server:
                self._pool.forget(known)
        self._list.add(server)

    def server_left(self, name: str) -> None:
        """Gossip says that a server failed or left."""
        server = self._list.remove(name)
        if server is not None:
            self._pool.forget(server)

    async def call(self, method: Method[RequestT, ReplyT], request: RequestT) -> ReplyT:
        """Call a server. Raises RPCError with the text of the original; NoServers when none is known."""
        is_read = isinstance(request, QueryOptions)
        first_attempt = self._clock.monotonic()
        while True:
            server = self._list.first
            if server is None:
                raise NoServers
            if not self._admit():
                raise RPCRateExceeded
            try:
                return await self._pool.call(server, method, request)
            except RPCError as error:
                self._list.failed(server)
                self._log.debug("RPC failed", method=method.name, server=str(server), error=str(error))
                held = self._clock.monotonic() - first_attempt
                if not netrpc.is_retryable(str(error), is_read=is_read) or held >= self._hold_timeout_s:
                    raise
            await asyncio.sleep(self._random.uniform(0.0, self._hold_timeout_s / JITTER_FRACTION))

    async def snapshot(self, request: SnapshotRequest, archive: Archive, ask: AskSnapshot) -> SnapshotAnswer:
        """Ask one server, once: an archive that was sent cannot be sent again. Raises RPCError."""
        server = self._list.first
        if server is None:
            raise NoServers
        if not self._admit():
            raise RPCRateExceeded
        try:
            return await ask(server, request, archive)
        except ConsulError as error:
            self._list.failed(server)
            if isinstance(error, NetError):
                raise RPCError(str(error)) from error
            raise

    # --- rebalance ------------------------------------------------------------------------------------------------

    async def _rebalance_forever(self) -> None:
        await asyncio.sleep(REBALANCE_MIN_S)
        while True:
            await self.rebalance()
            await asyncio.sleep(self._list.rebalance_after_s(self._node_count()))

    async def rebalance(self) -> bool:
        """Shuffle the servers and put one that answers first; False when none did."""
        order = self._list.shuffled()
        for _ in range(len(order)):
            try:
                async with timeout(PING_TIMEOUT_S):
                    await self._pool.call(order[0], STATUS_PING, Empty())
            except (RPCError, TimeoutError) as error:
                self._log.debug("pinging server failed", server=str(order[0]), error=str(error))
                order.append(order.pop(0))
            else:
                return self._list.adopt(order)
        return False
