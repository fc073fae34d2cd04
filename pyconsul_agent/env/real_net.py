"""Sockets of the operating system, by asyncio or uvloop. Hosts are numeric addresses; names are `Resolver`'s work."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import ssl
import stat
from collections.abc import Callable
from typing import TypeVar

from pyconsul_agent.env.base import V4_IN_V6, Address, Datagrams, Listener, as_ipv4
from pyconsul_agent.env.failures import dial_failure, endpoint, listen_failure
from pyconsul_agent.env.real_questions import RealQuestions
from pyconsul_agent.env.timeouts import timeout
from pyconsul_agent.errors import DialError, NetError

ProtocolT = TypeVar("ProtocolT", bound=asyncio.BaseProtocol)

Factory = Callable[[], asyncio.BaseProtocol]

BACKLOG = 1024
KEEPALIVE_S = 15
"""Idle time before the first probe and between probes, as Go does it; with 9 probes a dead peer is noticed in 150 s."""

KEEPALIVE_PROBES = 9
DRAIN_MAX = 64
"""Datagrams read in one wake-up: asyncio's own transport reads one per turn and is four times slower."""

DATAGRAM_BYTES_MAX = 65536
UDP_BUFFER_BYTES = 2 * 1024 * 1024


def family_of(host: str) -> socket.AddressFamily:
    """By the look of a numeric address."""
    return socket.AF_INET6 if ":" in host else socket.AF_INET


def set_stream_options(sock: socket.socket) -> None:
    """No-delay and keep-alive; connections accepted from a listening socket inherit both."""
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in (
        ("TCP_KEEPIDLE", KEEPALIVE_S),
        ("TCP_KEEPINTVL", KEEPALIVE_S),
        ("TCP_KEEPCNT", KEEPALIVE_PROBES),
    ):
        option = getattr(socket, name, None)
        if option is not None:
            sock.setsockopt(socket.IPPROTO_TCP, option, value)


class RealListener:
    """`Listener` on an asyncio server."""

    def __init__(self, server: asyncio.Server, local: Address, unix_path: str | None = None) -> None:
        self._server = server
        self._local = local
        self._unix_path = unix_path

    @property
    def local(self) -> Address:
        return self._local

    async def close(self) -> None:
        # Not `wait_closed`: from Python 3.12 on it waits for the accepted connections, which live on.
        self._server.close()
        if self._unix_path is not None:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self._unix_path)
            self._unix_path = None
        await asyncio.sleep(0)


class RealDatagrams:
    """`Datagrams`: a bound UDP socket, read in a loop until it is empty."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        sock: socket.socket,
        receive: Callable[[bytes, Address], None],
        failed: Callable[[NetError], None] | None = None,
    ) -> None:
        self.dropped = 0
        """Datagrams that the operating system did not take."""
        self._loop = loop
        self._socket = sock
        self._receive = receive
        self._failed = failed
        self._v6 = sock.family == socket.AF_INET6
        self._local: Address = sock.getsockname()[:2]
        self._closed = False
        loop.add_reader(sock.fileno(), self._drain)

    @property
    def local(self) -> Address:
        return self._local

    def send(self, data: bytes, to: Address) -> None:
        host, port = to
        if self._v6 and ":" not in host:
            host = V4_IN_V6 + host
        try:
            self._socket.sendto(data, (host, port))
        except (OSError, ValueError, OverflowError):
            # Full buffers, no route, an address or a port that is none: lost, as a datagram may be.
            self.dropped += 1

    def _drain(self) -> None:
        for _ in range(DRAIN_MAX):
            if self._closed:
                return
            try:
                data, from_ = self._socket.recvfrom(DATAGRAM_BYTES_MAX)
            except (BlockingIOError, InterruptedError):
                return
            except OSError as error:  # an ICMP answer to something sent earlier; the next read goes on
                if self._failed is not None:
                    self._failed(dial_failure("udp", "", error, step="read"))
                continue
            self._receive(data, (as_ipv4(from_[0]), from_[1]))

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            self._loop.remove_reader(self._socket.fileno())
            self._socket.close()


class RealNet:
    """`Net` on the running loop."""

    async def listen(self, factory: Factory, host: str, port: int, *, tls: ssl.SSLContext | None = None) -> Listener:
        loop = asyncio.get_running_loop()
        sock = bind_socket(socket.SOCK_STREAM, "tcp", host, port)
        try:
            server = await loop.create_server(factory, sock=sock, ssl=tls, backlog=BACKLOG)
        except OSError as error:
            sock.close()
            raise listen_failure("tcp", endpoint(host, port), error, step="listen") from error
        return RealListener(server, sock.getsockname()[:2])

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
        loop = asyncio.get_running_loop()
        where = endpoint(host, port)
        if local_host:
            where = f"{endpoint(local_host, 0)}->{where}"
        step = "socket"
        sock: socket.socket | None = None
        try:
            async with timeout(timeout_s):
                sock = socket.socket(family_of(host), socket.SOCK_STREAM)
                sock.setblocking(False)
                set_stream_options(sock)
                if local_host:
                    step = "bind"
                    sock.bind((local_host, 0))
                step = "connect"
                await loop.sock_connect(sock, (host, port))
                step = "tls handshake"
                name = (server_name or host) if tls is not None else None
                transport, protocol = await loop.create_connection(factory, sock=sock, ssl=tls, server_hostname=name)
                sock = None  # the transport's now
                return transport, protocol
        except ssl.SSLError as error:
            raise DialError(f"dial tcp {where}: tls: {error.reason or error}") from error
        except OSError as error:  # TimeoutError is one
            raise dial_failure("tcp", where, error, step=step) from error
        except OverflowError as error:
            raise DialError(f"dial tcp {where}: invalid port") from error
        finally:
            if sock is not None:
                sock.close()

    async def datagrams(
        self,
        receive: Callable[[bytes, Address], None],
        host: str,
        port: int,
        *,
        connected: tuple[Address, Callable[[NetError], None]] | None = None,
    ) -> Datagrams:
        sock = bind_socket(socket.SOCK_DGRAM, "udp", host, port)
        if connected is None:
            return RealDatagrams(asyncio.get_running_loop(), sock, receive)
        peer, failed = connected
        try:
            sock.connect(peer)
        except (OSError, OverflowError) as error:
            sock.close()
            if isinstance(error, OverflowError):
                raise DialError(f"dial udp {endpoint(*peer)}: invalid port") from error
            raise dial_failure("udp", endpoint(*peer), error, step="connect") from error
        return RealDatagrams(asyncio.get_running_loop(), sock, receive, failed)

    async def questions(
        self,
        quick: Callable[[bytes], bytes | None],
        receive: Callable[[bytes, Address, Callable[[bytes], None]], None],
        host: str,
        port: int,
    ) -> Datagrams:
        sock = bind_socket(socket.SOCK_DGRAM, "udp", host, port)
        return RealQuestions(asyncio.get_running_loop(), sock, quick, receive)

    async def listen_unix(
        self, factory: Factory, path: str, *, mode: int, owner: tuple[int, int] = (-1, -1)
    ) -> Listener:
        """Listen at `path`; a socket file that a crash left there is replaced, any other file is an error."""
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        sock.setblocking(False)
        try:
            with contextlib.suppress(FileNotFoundError):
                if stat.S_ISSOCK(os.stat(path).st_mode):
                    os.unlink(path)
            sock.bind(path)
            os.chown(path, *owner)
            os.chmod(path, mode)
            server = await asyncio.get_running_loop().create_unix_server(factory, sock=sock, backlog=BACKLOG)
        except OSError as error:
            sock.close()
            raise listen_failure("unix", path, error) from error
        return RealListener(server, (path, 0), path)

    async def connect_unix(self, factory: Callable[[], ProtocolT], path: str) -> tuple[asyncio.Transport, ProtocolT]:
        try:
            return await asyncio.get_running_loop().create_unix_connection(factory, path)
        except OSError as error:
            raise dial_failure("unix", path, error) from error


def bind_socket(kind: socket.SocketKind, network: str, host: str, port: int) -> socket.socket:
    """A bound, non-blocking socket; the empty host is every IPv4 address. Raises NetError."""
    sock: socket.socket | None = None
    try:
        sock = socket.socket(family_of(host), kind)
        sock.setblocking(False)
        if kind == socket.SOCK_STREAM:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            set_stream_options(sock)
        else:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, UDP_BUFFER_BYTES)
        sock.bind((host, port))
        return sock
    except (OSError, OverflowError) as error:
        if sock is not None:
            sock.close()
        if isinstance(error, OverflowError):
            raise NetError(f"listen {network} {endpoint(host, port)}: bind: invalid port") from error
        raise listen_failure(network, endpoint(host, port), error) from error
