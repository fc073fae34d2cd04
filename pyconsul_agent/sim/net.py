"""The simulated network between hosts: links with latency, loss and cuts; and each host's `Net`.

Cuts are directed: `cut("10.0.0.1", "10.0.0.2", one_way=True)` loses what the first sends to the second. Datagrams
across a cut are lost, dials hang until their time-out, connections stall and go on after `heal()`.
"""

from __future__ import annotations

import asyncio
import contextvars
import hashlib
import random
import struct
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

from pyconsul_agent.env.base import Address
from pyconsul_agent.sim.datagram import SimDatagrams
from pyconsul_agent.sim.disk import SimDisk
from pyconsul_agent.sim.host import WILDCARDS, SimHost, is_loopback
from pyconsul_agent.sim.host_net import SimNet
from pyconsul_agent.sim.listener import BACKLOG_MAX, SimListener
from pyconsul_agent.sim.loop import SimLoop
from pyconsul_agent.sim.owner import Owner, is_dead
from pyconsul_agent.sim.stream import RST, SEGMENT_BYTES_MAX, SimTransport, join

SYN_RETRY_S = (0.0, 1.0, 3.0, 7.0, 15.0, 31.0)
LOOPBACK_LATENCY_S = 0.00003
DATAGRAM_BYTES_MAX = 65507


@dataclass(frozen=True, slots=True)
class LinkOptions:
    """One direction between two hosts. Latencies in seconds; the others are probabilities unless their name says so."""

    latency_s: float = 0.0005  # median of a log-normal distribution
    latency_sigma: float = 0.3
    latency_s_max: float = 0.05
    spike: float = 0.0
    spike_s_max: float = 5.0
    loss: float = 0.0  # datagrams only, like the next three
    duplicate: float = 0.0
    reorder: float = 0.0
    mtu_bytes: int = DATAGRAM_BYTES_MAX  # larger datagrams are dropped
    segment_bytes_max: int = SEGMENT_BYTES_MAX  # streams: largest piece delivered at once; 1 is byte by byte
    dead_after_s: float = 150.0  # streams: a cut that lasts as long ends the connection (keep-alive)


class SimNetwork:
    """All hosts and the links between them."""

    def __init__(
        self,
        loop: SimLoop,
        rng: random.Random,
        *,
        draw: Callable[[str], random.Random] | None = None,
        link: LinkOptions | None = None,
    ) -> None:
        self.loop = loop
        self.random = rng
        self.link = link or LinkOptions()
        self._draw = draw or random.Random
        self.crash_reset_probability = 0.5
        """How often a killed process's connections end by RST rather than FIN."""
        self.names: dict[str, list[str]] = {}
        """What `Resolver.resolve` answers."""
        self.hosts: dict[str, SimHost] = {}
        self._by_ip: dict[str, SimHost] = {}
        self._links: dict[tuple[str, str], LinkOptions] = {}
        self._cuts: dict[tuple[str, str], None] = {}
        self._group: dict[str, int] = {}
        self._transports: dict[SimTransport, float | None] = {}  # value: since when its path is broken
        self._context = contextvars.Context()
        self._digest = hashlib.sha256()
        self.deliveries = 0

    # --- hosts and faults -------------------------------------------------------------------------------------------

    def add_host(self, ip: str, *more_ips: str, name: str | None = None, disk: SimDisk | None = None) -> SimHost:
        """A new machine, reachable by each of its addresses."""
        name = name or ip
        ips = (ip, *more_ips)
        if name in self.hosts or any(each in self._by_ip for each in ips):
            raise ValueError(f"host {name} exists")
        host = SimHost(name, ips, disk or SimDisk(self._draw(f"disk/{name}")))
        self.hosts[name] = host
        for each in ips:
            self._by_ip[each] = host
        return host

    def find(self, host: str | SimHost) -> SimHost:
        """By name or address; made when it does not exist."""
        if isinstance(host, SimHost):
            return host
        found = self.hosts.get(host) or self._by_ip.get(host)
        return found if found is not None else self.add_host(host)

    def host(self, ip: str | SimHost) -> SimNet:
        """The `Net` of the host with this address."""
        return SimNet(self, self.find(ip))

    def move_host(self, host: str | SimHost, *ips: str) -> None:
        """Give a machine other addresses. Its connections stay bound to the old ones; kill its processes first."""
        machine = self.find(host)
        for ip in ips:
            if self._by_ip.get(ip, machine) is not machine:
                raise ValueError(f"address {ip} is taken by {self._by_ip[ip].name}")
        for ip in machine.ips:
            del self._by_ip[ip]
        machine.ips = list(ips)
        for ip in ips:
            self._by_ip[ip] = machine

    def set_link(self, a: str | SimHost, b: str | SimHost, *, one_way: bool = False, **changes: Any) -> None:
        """Change fields of the `LinkOptions` between two hosts."""
        a, b = self.find(a).name, self.find(b).name
        for pair in ((a, b),) if one_way else ((a, b), (b, a)):
            self._links[pair] = replace(self._links.get(pair, self.link), **changes)

    def cut(self, a: str | SimHost, b: str | SimHost, *, one_way: bool = False) -> None:
        """Lose what `a` sends to `b`, and unless `one_way` the other direction too."""
        a, b = self.find(a).name, self.find(b).name
        self._cuts[a, b] = None
        if not one_way:
            self._cuts[b, a] = None
        self.changed()

    def uncut(self, a: str | SimHost, b: str | SimHost) -> None:
        """Undo `cut`, both directions."""
        a, b = self.find(a).name, self.find(b).name
        self._cuts.pop((a, b), None)
        self._cuts.pop((b, a), None)
        self.changed()

    def partition(self, groups: Iterable[Iterable[str | SimHost]]) -> None:
        """Only hosts of the same group reach each other; hosts of no group form one of their own."""
        self._group = {self.find(host).name: n for n, group in enumerate(groups) for host in group}
        self.changed()

    def heal(self) -> None:
        """Undo all cuts and partitions."""
        self._cuts.clear()
        self._group.clear()
        self.changed()

    def set_up(self, host: str | SimHost, up: bool) -> None:
        """Plug a machine into the network or pull its cable."""
        self.find(host).up = up
        self.changed()

    def reaches(self, a: SimHost, b: SimHost) -> bool:
        """Whether a packet from `a` arrives at `b` now."""
        if a is b:
            return a.up
        if not (a.up and b.up) or (a.name, b.name) in self._cuts:
            return False
        return not self._group or self._group.get(a.name, -1) == self._group.get(b.name, -1)

    def changed(self) -> None:
        """The topology has changed: stalled bytes may move, connections may begin to die."""
        now = self.loop.time()
        for transport, broken_since in list(self._transports.items()):
            other = transport.pipe.receiver
            path_ok = self.reaches(transport.host, other.host) and self.reaches(other.host, transport.host)
            if path_ok:
                self._transports[transport] = None
                if other.pipe.abandoned:  # keep-alive finds nobody there
                    self.later(self.latency(transport.host, other.host), self._answer_for_dead, transport)
            elif broken_since is None:
                self._transports[transport] = now
                wait = self.options(transport.host, other.host).dead_after_s
                self.later(wait, self._give_up, transport, now)
            transport.pipe.retry()
            transport.incoming.retry()

    def _answer_for_dead(self, transport: SimTransport) -> None:
        other = transport.pipe.receiver
        if not transport.gone and self.reaches(other.host, transport.host):
            transport.receive(RST)

    def _give_up(self, transport: SimTransport, since: float) -> None:
        if self._transports.get(transport) == since:
            transport.fail(TimeoutError(110, "connection timed out"))

    # --- links --------------------------------------------------------------------------------------------------------

    def options(self, a: SimHost, b: SimHost) -> LinkOptions:
        return self._links.get((a.name, b.name), self.link)

    def latency(self, a: SimHost, b: SimHost) -> float:
        """Seconds that the next packet from `a` to `b` takes."""
        if a is b:
            return LOOPBACK_LATENCY_S * (1 + self.random.random())
        link = self.options(a, b)
        if link.spike and self.random.random() < link.spike:
            return self.random.uniform(link.latency_s, link.spike_s_max)
        return min(link.latency_s * self.random.lognormvariate(0, link.latency_sigma), link.latency_s_max)

    def segment_bytes(self, a: SimHost, b: SimHost) -> int:
        """Length of the next piece of a stream."""
        largest = SEGMENT_BYTES_MAX if a is b else self.options(a, b).segment_bytes_max
        return largest if largest >= SEGMENT_BYTES_MAX else self.random.randint(1, largest)

    def later(self, delay: float, callback: Callable[..., object], *args: Any) -> None:
        """Schedule work of the network itself: it belongs to no process."""
        self.loop.call_in_order(self.loop.time() + delay, callback, *args, context=self._context)

    def record(self, kind: str, source: Address, target: Address, data: bytes) -> None:
        """Feed a delivery to the digest."""
        self.deliveries += 1
        line = f"{kind} {source[0]}:{source[1]} {target[0]}:{target[1]} {len(data)} "
        self._digest.update(line.encode() + struct.pack("<d", self.loop.time()) + data)

    def digest(self) -> bytes:
        """SHA-256 over all deliveries so far."""
        return self._digest.digest()

    # --- datagrams ----------------------------------------------------------------------------------------------------

    def send_datagram(self, socket: SimDatagrams, data: bytes, to: Address) -> None:
        source, target = socket.host, self._target(socket.host, to[0])
        ip = socket.local[0] if socket.local[0] not in WILDCARDS else source.source_ip(to[0])
        if target is None or not self.reaches(source, target) or len(data) > DATAGRAM_BYTES_MAX:
            return
        link = self.options(source, target)
        copies = 1
        if source is not target:
            if len(data) > link.mtu_bytes or (link.loss and self.random.random() < link.loss):
                return
            copies += bool(link.duplicate and self.random.random() < link.duplicate)
        for _ in range(copies):
            delay = self.latency(source, target)
            if link.reorder and source is not target and self.random.random() < link.reorder:
                delay += self.random.uniform(0, 10 * link.latency_s)
            self.later(delay, self._deliver_datagram, source, target, data, (ip, socket.local[1]), to)

    def _deliver_datagram(self, source: SimHost, target: SimHost, data: bytes, from_: Address, to: Address) -> None:
        if not self.reaches(source, target):
            return
        for ip in (to[0], *WILDCARDS):
            socket = target.datagrams.get((ip, to[1]))
            if socket is not None:
                self.record("udp", from_, to, data)
                socket.arrive(data, from_)
                return

    def _target(self, source: SimHost, ip: str) -> SimHost | None:
        return source if is_loopback(ip) else self._by_ip.get(ip)

    # --- streams ------------------------------------------------------------------------------------------------------

    def dial(self, client: SimTransport, outcome: asyncio.Future[None], attempt: int = 0) -> None:
        """Send a SYN for `client`, now and again until `outcome` is done."""
        if outcome.done() or client.joined or attempt >= len(SYN_RETRY_S) or is_dead(client.owner):
            return
        target = self._target(client.host, client.peer[0])
        if target is not None and self.reaches(client.host, target):
            self.later(self.latency(client.host, target), self._on_syn, client, target, outcome)
        if attempt + 1 < len(SYN_RETRY_S):
            wait = SYN_RETRY_S[attempt + 1] - SYN_RETRY_S[attempt]
            self.later(wait, self.dial, client, outcome, attempt + 1)

    def _on_syn(self, client: SimTransport, target: SimHost, outcome: asyncio.Future[None]) -> None:
        source, (ip, port) = client.host, client.peer
        if outcome.done() or client.joined or is_dead(client.owner):
            return
        if not (self.reaches(source, target) and self.reaches(target, source)):
            return
        bound = [target.listeners[each, port] for each in (ip, *WILDCARDS) if (each, port) in target.listeners]
        if bound:
            if bound[0].backlog >= BACKLOG_MAX:
                return
            self.establish(client, bound[0])
        self.record("syn", client.local, client.peer, b"")
        self.later(self.latency(target, source), self._on_syn_answer, client, outcome)

    def establish(self, client: SimTransport, listener: SimListener) -> None:
        """Make the server's end and queue it for the listening process."""
        server = listener.open_end(client.peer, client.local, client.kind)
        join(self, client, server)
        self._transports[client] = None
        self._transports[server] = None
        listener.accept(server)

    def _on_syn_answer(self, client: SimTransport, outcome: asyncio.Future[None]) -> None:
        if outcome.done():  # whoever gave up has reset the connection
            return
        if client.joined:
            outcome.set_result(None)
        else:
            outcome.set_exception(ConnectionRefusedError(111, "connection refused"))

    # --- bookkeeping --------------------------------------------------------------------------------------------------

    def forget(self, transport: SimTransport) -> None:
        self._transports.pop(transport, None)

    def sockets_of(self, owner: Owner | None) -> list[SimTransport | SimListener | SimDatagrams]:
        """What a process has open; of None, what the scenario itself has open."""
        found: list[SimTransport | SimListener | SimDatagrams] = []
        for host in self.hosts.values():
            found += [*host.listeners.values(), *host.unix.values(), *host.datagrams.values()]
        found += self._transports
        return [socket for socket in found if socket.owner is owner]

    def forget_listener(self, listener: SimListener) -> None:
        bound = listener.host.unix if listener.local[1] < 0 else listener.host.listeners
        for key in [key for key, each in bound.items() if each is listener]:
            del bound[key]  # type: ignore[arg-type]

    def forget_datagrams(self, socket: SimDatagrams) -> None:
        socket.host.datagrams.pop(socket.local, None)

    def kill_owner(self, owner: Owner, *, power_loss: bool = False) -> None:
        """Close what a dead process had open, as its operating system does; nothing is sent when power is lost."""
        for socket in self.sockets_of(owner):
            if isinstance(socket, SimTransport):
                reset = None if power_loss else self.random.random() < self.crash_reset_probability
                socket.kill(reset=reset)
            else:
                socket.kill()
