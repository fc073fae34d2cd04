"""`env.base.Net` of one simulated host. Errors speak as Go's `net` does, like those of `env.real`."""

from __future__ import annotations

import asyncio
import errno
import ssl
from asyncio import sslproto
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

from pyconsul_agent.env.base import Address, Datagrams, Listener
from pyconsul_agent.env.failures import dial_failure, endpoint, listen_failure
from pyconsul_agent.env.timeouts import timeout
from pyconsul_agent.errors import DialError, NetError
from pyconsul_agent.sim.datagram import SimDatagrams
from pyconsul_agent.sim.host import SimHost, is_loopback
from pyconsul_agent.sim.listener import Factory, SimListener
from pyconsul_agent.sim.owner import OWNER, is_dead
from pyconsul_agent.sim.stream import SimTransport

if TYPE_CHECKING:
    from pyconsul_agent.sim.net import SimNetwork

ProtocolT = TypeVar("ProtocolT", bound=asyncio.BaseProtocol)

UNIX_PORT = -1
"""Stands in the port's place of a Unix socket's address."""


class SimNet:
    """The network as processes of one host see it."""

    def __init__(self, network: SimNetwork, host: SimHost) -> None:
        self._network = network
        self._host = host

    async def listen(self, factory: Factory, host: str, port: int, *, tls: ssl.SSLContext | None = None) -> Listener:
        refuse_the_dead()
        local = self._host.take_port(list(self._host.listeners), "tcp", host, port)
        listener = SimListener(self._network, self._host, local, factory, tls)
        self._host.listeners[local] = listener
        return listener

    async def connect(
        self,
        factory: Callable[[], ProtocolT],
        host: str,
        port: int,
        *,
        local_host: str | None = None,
        timeout_s: float = 10.0,
        tls: ssl.SSLContext | None = None,
        server_name: str | None = None,
    ) -> tuple[asyncio.Transport, ProtocolT]:
        refuse_the_dead()
        where = endpoint(host, port)
        if local_host:
            where = f"{endpoint(local_host, 0)}->{where}"
        local_ip = local_host or self._host.source_ip(host)
        if not self._host.owns(local_ip):
            raise dial_failure("tcp", where, OSError(errno.EADDRNOTAVAIL, ""), step="bind")
        client = SimTransport(self._network, self._host, (local_ip, self._host.ephemeral_port()), (host, port))
        outcome: asyncio.Future[None] = self._network.loop.create_future()
        try:
            async with timeout(timeout_s):
                self._network.dial(client, outcome)
                await outcome
                if tls is None:
                    return client, introduce(client, factory())
                return await start_tls(self._network, client, factory(), tls, server_name or host)
        except ssl.SSLError as error:
            raise DialError(f"dial tcp {where}: tls: {error.reason or error}") from error
        except OSError as error:  # TimeoutError is one
            raise dial_failure("tcp", where, error) from error
        finally:
            outcome.cancel()
            if client.joined and client.protocol is None:
                client.kill(reset=True)

    async def datagrams(
        self,
        receive: Callable[[bytes, Address], None],
        host: str,
        port: int,
        *,
        connected: tuple[Address, Callable[[NetError], None]] | None = None,
    ) -> Datagrams:
        refuse_the_dead()
        local = self._host.take_port(list(self._host.datagrams), "udp", host, port)
        if connected is not None:  # nothing refuses a datagram here: a peer that is not there is silent
            receive = only_from(connected[0], receive)
        socket = SimDatagrams(self._network, self._host, local, receive)
        self._host.datagrams[local] = socket
        return socket

    async def questions(
        self,
        quick: Callable[[bytes], bytes | None],
        receive: Callable[[bytes, Address, Callable[[bytes], None]], None],
        host: str,
        port: int,
    ) -> Datagrams:
        def arrived(data: bytes, from_: Address) -> None:
            answer = quick(data)
            if answer is None:
                receive(data, from_, lambda reply: socket.send(reply, from_))
            else:
                socket.send(answer, from_)

        socket = await self.datagrams(arrived, host, port)
        return socket

    async def listen_unix(
        self, factory: Factory, path: str, *, mode: int, owner: tuple[int, int] = (-1, -1)
    ) -> Listener:
        refuse_the_dead()
        if path in self._host.unix:
            raise listen_failure("unix", path, OSError(errno.EADDRINUSE, ""))
        listener = SimListener(self._network, self._host, (path, UNIX_PORT), factory, None)
        self._host.unix[path] = listener
        return listener

    async def connect_unix(self, factory: Callable[[], ProtocolT], path: str) -> tuple[asyncio.Transport, ProtocolT]:
        refuse_the_dead()
        listener = self._host.unix.get(path)
        if listener is None:
            raise dial_failure("unix", path, OSError(errno.ENOENT, ""))
        client = SimTransport(self._network, self._host, ("", UNIX_PORT), (path, UNIX_PORT), kind="unix")
        self._network.establish(client, listener)
        return client, introduce(client, factory())


def only_from(peer: Address, receive: Callable[[bytes, Address], None]) -> Callable[[bytes, Address], None]:
    """What a connected socket hears."""

    def receive_peer(data: bytes, from_: Address) -> None:
        if from_ == peer:
            receive(data, from_)

    return receive_peer


def refuse_the_dead() -> None:
    """A dead process's clean-up code opens nothing."""
    if is_dead(OWNER.get()):
        raise NetError("the process is dead")


def introduce(client: SimTransport, protocol: ProtocolT) -> ProtocolT:
    """Attach the protocol to a freshly dialled connection."""
    client.attach(protocol)
    return protocol


async def start_tls(
    network: SimNetwork, client: SimTransport, protocol: ProtocolT, context: ssl.SSLContext, server_name: str
) -> tuple[asyncio.Transport, ProtocolT]:
    """Real TLS over the simulated stream. Its bytes are OpenSSL's, not the seed's: digests differ from run to run."""
    waiter: asyncio.Future[None] = network.loop.create_future()
    name = None if is_loopback(server_name) else server_name
    layer = sslproto.SSLProtocol(network.loop, protocol, context, waiter, server_side=False, server_hostname=name)
    client.attach(layer)
    await waiter
    transport = layer._app_transport
    if transport is None:
        raise ConnectionResetError(errno.ECONNRESET, "")
    return transport, protocol
