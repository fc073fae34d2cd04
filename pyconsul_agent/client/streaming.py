"""Subscriptions of a client agent: at the first server that offers them.

Servers that closed the connection instead are left alone for a while; when there is no other, the caller is told so
and asks by RPC.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from typing import TYPE_CHECKING

from pyconsul_agent.env.base import Clock, Net
from pyconsul_agent.env.log import Log
from pyconsul_agent.errors import NoServers, RPCError
from pyconsul_agent.runtime.rpc_pool import ServerAddress
from pyconsul_agent.structs.subscribe import SubscribeRequest
from pyconsul_agent.wire import subscribe
from pyconsul_agent.wire.grpc import GRPCError, NotOffered, Status

if TYPE_CHECKING:
    from pyconsul_agent.runtime.grpc_client import GRPCPool

REFUSED_S = 120.0
"""How long a server is not asked again that does not offer gRPC; it may be replaced by one that does."""


class Streams:
    """`servers` are those known now, the one to ask first in front."""

    def __init__(self, net: Net, clock: Clock, log: Log, servers: Callable[[], Sequence[ServerAddress]]) -> None:
        self._net = net
        self._clock = clock
        self._log = log
        self._servers = servers
        self._refused: dict[ServerAddress, float] = {}
        self._pool: GRPCPool | None = None

    async def subscribe(self, request: SubscribeRequest) -> AsyncGenerator[bytes, None]:
        """The messages of a subscription. Raises NoServers, NotOffered, or GRPCError with the status that ended it."""
        failure: RPCError | None = None
        told = False
        if not self._servers():
            raise NoServers
        for server in self._candidates():
            try:
                async with aclosing(self._at(server, request)) as messages:
                    async for message in messages:
                        told = True
                        yield message
                return
            except NotOffered as error:
                self._refused[server] = self._clock.monotonic()
                self._log.debug("server has no gRPC, asking by RPC", server=str(server), reason=str(error))
            except GRPCError as error:
                if told or error.status != Status.UNAVAILABLE:
                    raise  # the caller comes back with the index that it has reached
                failure = error
                self._log.debug("subscription lost", server=str(server), error=str(error))
        raise failure or NotOffered("no server offers gRPC")

    def forget(self, server: ServerAddress) -> None:
        """A server has left."""
        self._refused.pop(server, None)
        if self._pool is not None:
            self._pool.forget(server)

    async def close(self) -> None:
        """End all subscriptions."""
        if self._pool is not None:
            await self._pool.close()

    def _candidates(self) -> list[ServerAddress]:
        now = self._clock.monotonic()
        self._refused = {server: at for server, at in self._refused.items() if now - at < REFUSED_S}
        return [server for server in self._servers() if server not in self._refused]

    def _at(self, server: ServerAddress, request: SubscribeRequest) -> AsyncGenerator[bytes, None]:
        if self._pool is None:
            # HTTP/2 is imported by the first subscription, not by every start.
            from pyconsul_agent.runtime.grpc_client import GRPCPool

            self._pool = GRPCPool(self._net, self._clock, self._log)
        return self._pool.call(server, subscribe.PATH, subscribe.REQUEST.encode(request))
