"""gRPC on a server: the connections of callers, what they may call, and calls to other datacenters.

HTTP/2 is imported when the first such connection comes: most servers of this make start without ever needing it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import TYPE_CHECKING

from pyconsul_agent.env.base import Address, Clock, Net
from pyconsul_agent.env.log import Log
from pyconsul_agent.errors import NoPathToDatacenter, RPCError
from pyconsul_agent.server.feeds import Feeds
from pyconsul_agent.server.forward import ServerLookup
from pyconsul_agent.state.store import Store
from pyconsul_agent.structs.subscribe import SubscribeRequest
from pyconsul_agent.wire import netrpc, subscribe

if TYPE_CHECKING:
    from pyconsul_agent.runtime.grpc_client import GRPCPool
    from pyconsul_agent.runtime.grpc_server import GRPCServer


class Streaming:
    """What stands behind first byte 8. `settled` as in `dispatch.Dispatcher`."""

    def __init__(
        self,
        net: Net,
        clock: Clock,
        log: Log,
        store: Store,
        servers: ServerLookup,
        *,
        datacenter: str,
        local_host: str | None = None,
        settled: Callable[[], bool] = lambda: True,
    ) -> None:
        self._net = net
        self._clock = clock
        self._log = log
        self._servers = servers
        self._datacenter = datacenter
        self._local_host = local_host
        self._settled = settled
        self.feeds = Feeds(store)
        self._server: GRPCServer | None = None
        self._pool: GRPCPool | None = None

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, peer: Address) -> None:
        """A connection after its first byte."""
        if self._server is None:
            from pyconsul_agent.runtime.grpc_server import GRPCServer
            from pyconsul_agent.server.subscribe import Subscriptions

            subscriptions = Subscriptions(self.feeds, self._datacenter, self._elsewhere, self._settled)
            self._server = GRPCServer(self._clock, self._log, {subscribe.PATH: subscriptions.serve})
        await self._server.serve(reader, writer, peer)

    async def close(self) -> None:
        """Stop following the store and end calls to others."""
        self.feeds.close()
        if self._pool is not None:
            await self._pool.close()

    async def _elsewhere(self, request: SubscribeRequest) -> AsyncGenerator[bytes, None]:
        """The subscription at one server of the datacenter that it names. Raises RPCError."""
        from pyconsul_agent.runtime.grpc_client import GRPCPool

        server = self._servers.route(request.datacenter)
        if server is None:
            if self._servers.has_datacenter(request.datacenter):
                raise RPCError(netrpc.REMOTE_DATACENTER_UNREACHABLE)
            raise NoPathToDatacenter
        if self._pool is None:
            self._pool = GRPCPool(self._net, self._clock, self._log, local_host=self._local_host)
        try:
            async with aclosing(self._pool.call(server, subscribe.PATH, subscribe.REQUEST.encode(request))) as replies:
                async for message in replies:
                    yield message
        except RPCError:
            self._servers.failed(server)
            raise
