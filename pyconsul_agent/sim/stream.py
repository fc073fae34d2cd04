"""A simulated TCP connection: two transports and, between them, two pipes.

What belongs to the operating system (bytes in flight, the receive buffer, acknowledgements, resets) runs without an
owner and goes on when a process is stopped or dead. What belongs to the process (calling its protocol, filling and
emptying its write buffer) runs in the context in which the socket was made, so the loop can hold or drop it.

::

    transport.write -> out (process) -> flight (kernel, ordered, <= WINDOW) -> inbox (kernel) -> protocol.data_received

Across a cut, bytes in flight stall; they go on after the cut is healed. A connection that stays cut for
`LinkOptions.dead_after_s` ends on both sides with `TimeoutError`, as keep-alive would do.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from pyconsul_agent.env.base import Address
from pyconsul_agent.sim.owner import OWNER, is_dead

if TYPE_CHECKING:
    from pyconsul_agent.sim.host import SimHost
    from pyconsul_agent.sim.net import SimNetwork

WINDOW_BYTES = 256 * 1024
"""Sent and not yet read by the peer's application."""

SEGMENT_BYTES_MAX = 64 * 1024
WRITE_HIGH_BYTES = 64 * 1024
RETRANSMIT_S_MAX = 1.0
"""How long after a heal stalled bytes may still wait for their retransmission."""

FIN = object()
RST = object()


class Pipe:
    """One direction. `transit` puts an item on the way; it arrives after the link's latency, in order."""

    def __init__(self, network: SimNetwork, sender: SimTransport, receiver: SimTransport) -> None:
        self._network = network
        self.sender = sender
        self.receiver = receiver
        self.unacknowledged = 0
        self._owed = 0
        self._flight: deque[bytes | object] = deque()
        self._last_arrival = 0.0
        self._stalled = 0
        self.abandoned = False
        """The sender's machine lost power: what was on the way is gone, and nobody knows the connection any more."""

    def abandon(self) -> None:
        self.abandoned = True
        self._flight.clear()
        self._stalled = 0

    def _passable(self) -> bool:
        return self._network.reaches(self.sender.host, self.receiver.host)

    def transit(self, item: bytes | object) -> None:
        network = self._network
        if isinstance(item, bytes):
            self.unacknowledged += len(item)
        self._flight.append(item)
        delay = network.latency(self.sender.host, self.receiver.host)
        self._last_arrival = max(self._last_arrival, network.loop.time() + delay)
        network.later(self._last_arrival - network.loop.time(), self._arrive)

    def _arrive(self) -> None:
        if not self._flight:  # abandoned
            return
        if self._stalled or not self._passable():
            self._stalled += 1
            return
        self._deliver()

    def _deliver(self) -> None:
        item = self._flight.popleft()
        self._network.record("tcp", self.sender.local, self.receiver.local, item if isinstance(item, bytes) else b"")
        self.receiver.receive(item)

    def retry(self) -> None:
        """The path may be open again."""
        if self._owed and self._network.reaches(self.receiver.host, self.sender.host):
            self._network.later(self._network.latency(self.receiver.host, self.sender.host), self.acknowledge, 0)
        if self._stalled and self._passable():
            self._network.later(self._network.random.uniform(0, RETRANSMIT_S_MAX), self._resume)

    def _resume(self) -> None:
        if not self._passable():
            return
        count, self._stalled = self._stalled, 0
        for _ in range(min(count, len(self._flight))):
            self._deliver()

    def acknowledge(self, count: int) -> None:
        """The receiver's application has read `count` bytes; the sender may send more, if the answer reaches it."""
        self._owed += count
        if self._owed and self._network.reaches(self.receiver.host, self.sender.host):
            self.unacknowledged -= self._owed
            self._owed = 0
            self.sender.wake_writer()


class SimTransport(asyncio.Transport):
    """One end of a connection, as the process that owns it sees it."""

    _start_tls_compatible = True

    def __init__(self, network: SimNetwork, host: SimHost, local: Address, peer: Address, *, kind: str = "tcp") -> None:
        super().__init__({"sockname": local, "peername": peer})
        self.host = host
        self.local = local
        self.peer = peer
        self.kind = kind
        self.owner = OWNER.get()
        self.joined = False
        self.pipe: Pipe  # what we send; set by `join`, as `incoming`
        self.incoming: Pipe
        self.gone = False  # the socket no longer exists for the operating system
        self._network = network
        self._context = contextvars.copy_context()
        self._protocol: asyncio.BaseProtocol | None = None
        self._out: deque[bytes] = deque()
        self._out_bytes = 0
        self._high, self._low = WRITE_HIGH_BYTES, WRITE_HIGH_BYTES // 4
        self._writing_paused = False
        self._wake_scheduled = False
        self._inbox: deque[bytes | object] = deque()
        self._drain_scheduled = False
        self._reading_paused = False
        self._eof = False
        self._fin_sent = False
        self._closing = False
        self._lost = False

    # --- the operating system's side --------------------------------------------------------------------------------

    def in_process(self, callback: Callable[..., object], *args: Any) -> None:
        """Run in the owner's context: held while it is paused, dropped when it is dead."""
        self._network.loop.call_soon(callback, *args, context=self._context)

    def receive(self, item: bytes | object) -> None:
        """An item has arrived at this host."""
        if item is RST:
            self.fail(ConnectionResetError(104, "connection reset by peer"))
        elif self.gone:
            if isinstance(item, bytes):
                self.pipe.transit(RST)
        else:
            self._inbox.append(item)
            self._schedule_drain()

    def fail(self, error: OSError) -> None:
        """The connection is dead for the operating system: what was not read is thrown away."""
        if self.gone:
            return
        self._vanish()
        self._inbox.clear()
        self._out.clear()
        self._out_bytes = 0
        self.in_process(self._connection_lost, error)

    def kill(self, *, reset: bool | None) -> None:
        """The process died: answer with RST (`True`), FIN (`False`) or, power being lost, nothing (`None`)."""
        if self.gone or not self.joined:
            return
        self._vanish()
        self._inbox.clear()
        self._out.clear()
        if reset is None:
            self.pipe.abandon()
        else:
            self.pipe.transit(RST if reset else FIN)

    def _vanish(self) -> None:
        self.gone = True
        self._network.forget(self)

    # --- reading ------------------------------------------------------------------------------------------------------

    def _schedule_drain(self) -> None:
        if self._inbox and not self._drain_scheduled and not self._reading_paused and self._protocol is not None:
            self._drain_scheduled = True
            self.in_process(self._drain)

    def _drain(self) -> None:
        """Hand one item to the protocol, as one turn of a real loop would."""
        self._drain_scheduled = False
        if not self._inbox or self._reading_paused or self._closing or self._lost:
            return
        item = self._inbox.popleft()
        try:
            if isinstance(item, bytes):
                self._feed(item)
                self.incoming.acknowledge(len(item))
            elif not self._protocol.eof_received():  # type: ignore[union-attr]
                self.close()
        except Exception as error:  # a protocol's bug ends its connection and is reported, as in asyncio
            self._network.loop.call_exception_handler(
                {"message": "Fatal error: protocol callback failed.", "exception": error, "transport": self}
            )
            self.abort()
            return
        self._schedule_drain()

    def _feed(self, data: bytes) -> None:
        protocol = self._protocol
        if isinstance(protocol, asyncio.BufferedProtocol):
            while data:
                buffer = memoryview(protocol.get_buffer(len(data)))
                count = min(len(buffer), len(data))
                buffer[:count] = data[:count]
                protocol.buffer_updated(count)
                data = data[count:]
        else:
            protocol.data_received(data)  # type: ignore[union-attr]

    def is_reading(self) -> bool:
        return not self._reading_paused and not self._closing

    def pause_reading(self) -> None:
        self._reading_paused = True

    def resume_reading(self) -> None:
        self._reading_paused = False
        self._schedule_drain()

    # --- writing ------------------------------------------------------------------------------------------------------

    def write(self, data: bytes | bytearray | memoryview) -> None:
        if self._eof:
            raise RuntimeError("Cannot call write() after write_eof()")
        if self._closing or self.gone or is_dead(self.owner) or not data:
            return
        self._out.append(bytes(data))
        self._out_bytes += len(data)
        self._pump()
        if self._out_bytes > self._high and not self._writing_paused:
            self._writing_paused = True
            self._protocol.pause_writing()  # type: ignore[union-attr]

    def wake_writer(self) -> None:
        """The operating system has room again."""
        if (self._out or self._writing_paused) and not self.gone and not self._wake_scheduled:
            self._wake_scheduled = True
            self.in_process(self._on_writable)

    def _on_writable(self) -> None:
        self._wake_scheduled = False
        if self.gone:
            return
        self._pump()
        if self._writing_paused and self._out_bytes <= self._low:
            self._writing_paused = False
            self._protocol.resume_writing()  # type: ignore[union-attr]

    def _pump(self) -> None:
        while self._out and self.pipe.unacknowledged < WINDOW_BYTES:
            room = min(
                WINDOW_BYTES - self.pipe.unacknowledged, self._network.segment_bytes(self.host, self.pipe.receiver.host)
            )
            data = self._out.popleft()
            if len(data) > room:
                self._out.appendleft(data[room:])
                data = data[:room]
            self._out_bytes -= len(data)
            self.pipe.transit(data)
        if self._out or not (self._eof or self._closing):
            return
        if not self._fin_sent:
            self._fin_sent = True
            self.pipe.transit(FIN)
        if self._closing and not self.gone:
            self._vanish()
            self.in_process(self._connection_lost, None)

    def write_eof(self) -> None:
        if self._closing or self._eof or self.gone or is_dead(self.owner):
            return
        self._eof = True
        self._pump()

    def can_write_eof(self) -> bool:
        return True

    def get_write_buffer_size(self) -> int:
        return self._out_bytes

    def get_write_buffer_limits(self) -> tuple[int, int]:
        return self._low, self._high

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        if high is None:
            high = WRITE_HIGH_BYTES if low is None else 4 * low
        self._high, self._low = high, high // 4 if low is None else low

    # --- life and death -----------------------------------------------------------------------------------------------

    def attach(self, protocol: asyncio.BaseProtocol) -> None:
        """Introduce the protocol to this new connection; bytes that came early follow."""
        self._protocol = protocol
        protocol.connection_made(self)
        if self.gone and not self._closing:
            self.in_process(self._connection_lost, ConnectionResetError(104, "connection reset by peer"))
        self._schedule_drain()

    @property
    def protocol(self) -> asyncio.BaseProtocol | None:
        """None until the connection was handed to its process."""
        return self._protocol

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self._protocol = protocol
        self._schedule_drain()

    def get_protocol(self) -> asyncio.BaseProtocol:
        assert self._protocol is not None
        return self._protocol

    def is_closing(self) -> bool:
        return self._closing or self.gone

    def close(self) -> None:
        if self._closing or self.gone or is_dead(self.owner):
            return
        self._closing = True
        self._pump()

    def abort(self) -> None:
        self._force_close(None)

    def _force_close(self, error: Exception | None) -> None:
        """Reset the connection and tell the protocol `error`. asyncio's TLS layer calls this by name."""
        if self.gone or is_dead(self.owner):
            return
        self._closing = True
        self._out.clear()
        self._out_bytes = 0
        self._vanish()
        self.pipe.transit(RST)
        self.in_process(self._connection_lost, error)

    def _connection_lost(self, error: Exception | None) -> None:
        if self._lost or self._protocol is None:
            return
        self._lost = True
        self._closing = True
        self._protocol.connection_lost(error)


def join(network: SimNetwork, a: SimTransport, b: SimTransport) -> None:
    """Connect two transports by a pipe in each direction."""
    a.pipe = b.incoming = Pipe(network, a, b)
    b.pipe = a.incoming = Pipe(network, b, a)
    a.joined = b.joined = True
