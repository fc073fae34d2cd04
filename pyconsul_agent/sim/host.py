"""A simulated machine: addresses, ports, clocks, power."""

from __future__ import annotations

import errno
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING

from pyconsul_agent.env.base import Address
from pyconsul_agent.env.failures import endpoint, listen_failure
from pyconsul_agent.sim.disk import SimDisk

if TYPE_CHECKING:
    from pyconsul_agent.sim.datagram import SimDatagrams
    from pyconsul_agent.sim.listener import SimListener

EPHEMERAL_PORTS = (32768, 60999)
WILDCARDS = ("0.0.0.0", "::", "")  # noqa: S104 - names of "any address", nothing is bound here
LOOPBACK = "127.0.0.1"

Command = Callable[[Sequence[str], bytes], Awaitable[tuple[int, bytes]]]
"""A stand-in for a program: (arguments, stdin) -> (exit code, output)."""


def is_loopback(ip: str) -> bool:
    """Whether packets to this address stay on their machine."""
    return ip.startswith("127.") or ip == "::1"


class SimHost:
    """What outlives processes: the network's view of a machine, its clocks and its disk."""

    def __init__(self, name: str, ips: Sequence[str], disk: SimDisk) -> None:
        self.name = name
        self.ips = list(ips)
        self.disk = disk
        self.up = True
        self.wall_offset_s = 0.0
        self.commands: dict[str, Command] = {}
        self.listeners: dict[Address, SimListener] = {}
        self.datagrams: dict[Address, SimDatagrams] = {}
        self.unix: dict[str, SimListener] = {}
        self._next_port = EPHEMERAL_PORTS[0]

    def __repr__(self) -> str:
        return f"<SimHost {self.name} {'up' if self.up else 'down'}>"

    def owns(self, ip: str) -> bool:
        return ip in self.ips or is_loopback(ip)

    def source_ip(self, to_ip: str) -> str:
        """The address from which a packet to `to_ip` leaves."""
        return LOOPBACK if is_loopback(to_ip) else self.ips[0]

    def ephemeral_port(self) -> int:
        low, high = EPHEMERAL_PORTS
        port = self._next_port
        self._next_port = low if port == high else port + 1
        return port

    def take_port(self, taken: Sequence[Address], network: str, ip: str, port: int) -> Address:
        """The address to bind, port 0 replaced by a free one. Raises NetError in the words of Go's `net`."""
        if ip not in WILDCARDS and not self.owns(ip):
            raise listen_failure(network, endpoint(ip, port), OSError(errno.EADDRNOTAVAIL, ""))
        if port == 0:
            port = self.ephemeral_port()
            while any(bound[1] == port for bound in taken):
                port = self.ephemeral_port()
        for bound_ip, bound_port in taken:
            if bound_port == port and (bound_ip == ip or bound_ip in WILDCARDS or ip in WILDCARDS):
                raise listen_failure(network, endpoint(ip, port), OSError(errno.EADDRINUSE, ""))
        return ip, port
