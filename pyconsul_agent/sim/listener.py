"""A simulated listening socket."""

from __future__ import annotations

import asyncio
import contextvars
import ssl
from asyncio import sslproto
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from pyconsul_agent.env.base import Address
from pyconsul_agent.sim.host import SimHost
from pyconsul_agent.sim.owner import OWNER, is_dead
from pyconsul_agent.sim.stream import SimTransport

if TYPE_CHECKING:
    from pyconsul_agent.sim.net import SimNetwork

BACKLOG_MAX = 128
"""Connections that the operating system accepts for a process that does not take them (it is stopped)."""

Factory = Callable[[], asyncio.BaseProtocol]


class SimListener:
    """`env.base.Listener`."""

    def __init__(
        self, network: SimNetwork, host: SimHost, local: Address, factory: Factory, tls: ssl.SSLContext | None
    ) -> None:
        self.host = host
        self.owner = OWNER.get()
        self.backlog = 0
        self._network = network
        self._local = local
        self._factory = factory
        self._tls = tls
        self._context = contextvars.copy_context()
        self._closed = False

    @property
    def local(self) -> Address:
        return self._local

    def open_end(self, local: Address, peer: Address, kind: str) -> SimTransport:
        """The server's end of a new connection; `accept` gives it its protocol."""
        return self._context.copy().run(SimTransport, self._network, self.host, local, peer, kind=kind)

    def accept(self, transport: SimTransport) -> None:
        """Queue the connection for the process."""
        self.backlog += 1
        transport.in_process(self._accept, transport)

    def _accept(self, transport: SimTransport) -> None:
        self.backlog -= 1
        if self._closed:
            transport.abort()
            return
        if transport.gone:
            return
        protocol = self._factory()
        if self._tls is not None:
            nobody: Any = None
            protocol = sslproto.SSLProtocol(self._network.loop, protocol, self._tls, nobody, server_side=True)
        transport.attach(protocol)

    async def close(self) -> None:
        if not self._closed and not is_dead(self.owner):
            self._closed = True
            self._network.forget_listener(self)

    def kill(self) -> None:
        """The process died."""
        self._closed = True
        self._network.forget_listener(self)
