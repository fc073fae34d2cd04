"""A simulated UDP socket. Its receive buffer is the kernel's: it fills while the process is stopped, then drops."""

from __future__ import annotations

import contextvars
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING

from pyconsul_agent.env.base import Address
from pyconsul_agent.sim.host import SimHost
from pyconsul_agent.sim.owner import OWNER, is_dead

if TYPE_CHECKING:
    from pyconsul_agent.sim.net import SimNetwork

RECEIVE_BUFFER_DATAGRAMS = 256
DRAIN_MAX = 64


class SimDatagrams:
    """`env.base.Datagrams`."""

    def __init__(
        self, network: SimNetwork, host: SimHost, local: Address, receive: Callable[[bytes, Address], None]
    ) -> None:
        self.host = host
        self.owner = OWNER.get()
        self.dropped = 0
        self._network = network
        self._local = local
        self._receive = receive
        self._context = contextvars.copy_context()
        self._inbox: deque[tuple[bytes, Address]] = deque()
        self._drain_scheduled = False
        self._closed = False

    @property
    def local(self) -> Address:
        return self._local

    def send(self, data: bytes, to: Address) -> None:
        if self._closed or is_dead(self.owner):
            return
        self._network.send_datagram(self, bytes(data), to)

    def arrive(self, data: bytes, from_: Address) -> None:
        """Called by the network."""
        if len(self._inbox) >= RECEIVE_BUFFER_DATAGRAMS:
            self.dropped += 1
            return
        self._inbox.append((data, from_))
        self._schedule()

    def _schedule(self) -> None:
        if not self._drain_scheduled:
            self._drain_scheduled = True
            self._network.loop.call_soon(self._drain, context=self._context)

    def _drain(self) -> None:
        self._drain_scheduled = False
        for _ in range(min(len(self._inbox), DRAIN_MAX)):
            if self._closed:
                return
            data, from_ = self._inbox.popleft()
            try:
                self._receive(data, from_)
            finally:
                if self._inbox:
                    self._schedule()

    def close(self) -> None:
        if not is_dead(self.owner):
            self.kill()

    def kill(self) -> None:
        """Close, whoever asks: the process, or its operating system after its death."""
        if self._closed:
            return
        self._closed = True
        self._inbox.clear()
        self._network.forget_datagrams(self)
