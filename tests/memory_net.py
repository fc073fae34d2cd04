"""A network in memory and a loop whose time jumps: enough of both to run client and server in one test."""

import asyncio
import gc
import selectors
from types import SimpleNamespace

from pyconsul_agent.errors import DialRefused

HIGH_WATER = 64 * 1024


class _JumpingSelector(selectors.DefaultSelector):
    """Never waits: when nothing is ready, the time that would have been waited has passed."""

    now = 0.0

    def select(self, timeout=None):
        events = super().select(0)
        if not events and timeout is None:
            raise AssertionError("everything waits for something that will never come")
        if not events:
            self.now += max(timeout, 0.0) + (1e-6 if timeout else 0.0)
        return events


def run(main):
    """Run `main` (a coroutine) in virtual time; fails if it leaves tasks or if something was logged by asyncio."""
    selector = _JumpingSelector()
    loop = asyncio.SelectorEventLoop(selector)
    loop.time = lambda: selector.now
    problems = []
    loop.set_exception_handler(lambda _, context: problems.append(context))
    try:
        result = loop.run_until_complete(main)
        loop.run_until_complete(asyncio.sleep(0))
        left = asyncio.all_tasks(loop)
        assert not left, left
        gc.collect()
    finally:
        loop.close()
    assert not problems, problems
    return result


class Clock:
    """The running loop's time."""

    def monotonic(self):
        return asyncio.get_running_loop().time()

    boottime = monotonic

    def lag(self, due):
        return max(self.monotonic() - due, 0.0)

    def wall_ns(self):
        return int(self.monotonic() * 1e9)


class Recorder:
    """A log that remembers."""

    def __init__(self):
        self.lines = []

    def _add(self, level):
        return lambda message, **pairs: self.lines.append((level, message, pairs))

    def __getattr__(self, name):
        return self._add(name)

    def named(self, name):
        return self

    def messages(self, level):
        return [message for at, message, _ in self.lines if at == level]


class MemoryTransport(asyncio.Transport):
    """One end of a connection. Bytes arrive one turn of the loop later."""

    def __init__(self, local, remote):
        super().__init__({"sockname": local, "peername": remote})
        self.peer = None
        self.protocol = None
        self.incoming = bytearray()
        self.reading = True
        self.closing = False
        self.lost = False
        self.eof_sent = False
        self.eof_due = False
        self.writing_paused = False

    def get_protocol(self):
        return self.protocol

    def set_protocol(self, protocol):
        self.protocol = protocol

    def is_closing(self):
        return self.closing

    def is_reading(self):
        return self.reading

    def get_write_buffer_size(self):
        return 0 if self.peer is None else len(self.peer.incoming)

    def pause_reading(self):
        self.reading = False

    def resume_reading(self):
        self.reading = True
        self._soon(self._deliver)

    def _soon(self, work, *arguments):
        asyncio.get_running_loop().call_soon(work, *arguments)

    def write(self, data):
        if self.closing or self.lost:
            return
        self.peer.incoming += data
        self._soon(self.peer._deliver)
        if len(self.peer.incoming) > HIGH_WATER and not self.writing_paused:
            self.writing_paused = True
            self.protocol.pause_writing()

    def _deliver(self):
        if self.lost or not self.reading:
            return
        if self.incoming:
            data = bytes(self.incoming)
            self.incoming.clear()
            self.protocol.data_received(data)
            peer = self.peer
            if peer.writing_paused:
                peer.writing_paused = False
                peer.protocol.resume_writing()
            if peer.closing:
                peer._lose(None)
        if self.eof_due and self.reading and not self.incoming and not self.closing:
            self.eof_due = False
            if not self.protocol.eof_received():
                self.close()

    def can_write_eof(self):
        return True

    def write_eof(self):
        if not self.eof_sent:
            self.eof_sent = True
            self.peer.eof_due = True
            self._soon(self.peer._deliver)

    def close(self):
        if self.closing:
            return
        self.write_eof()
        self.closing = True
        if not self.peer.incoming or self.peer.lost:
            self._soon(self._lose, None)

    def abort(self):
        """As a reset: the other end loses the connection too."""
        self.closing = True
        self._soon(self._lose, None)
        self._soon(self.peer._lose, ConnectionResetError("reset by peer"))

    def _lose(self, error):
        if not self.lost:
            self.lost = self.closing = True
            self.protocol.connection_lost(error)


class MemoryNet:
    """The `Net` of one host of a `network` (a dict shared by all hosts: address -> protocol factory)."""

    def __init__(self, host, network):
        self.host = host
        self.network = network
        self.dials = []
        self.transports = []
        self._port = 40000

    async def listen(self, factory, host, port, *, tls=None):
        self.network[host, port] = factory

        async def close():
            self.network.pop((host, port), None)

        return SimpleNamespace(local=(host, port), close=close)

    async def connect(self, factory, host, port, *, local_host=None, timeout_s=10.0, tls=None, server_name=None):
        await asyncio.sleep(0.001)
        self.dials.append((host, port))
        if (host, port) not in self.network:
            raise DialRefused(f"dial tcp {host}:{port}: connect: connection refused")
        self._port += 1
        local, remote = (self.host, self._port), (host, port)
        ours, theirs = MemoryTransport(local, remote), MemoryTransport(remote, local)
        ours.peer, theirs.peer = theirs, ours
        theirs.protocol, ours.protocol = self.network[host, port](), factory()
        self.transports.append(ours)
        theirs.protocol.connection_made(theirs)
        ours.protocol.connection_made(ours)
        return ours, ours.protocol
