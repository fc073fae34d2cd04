"""Metrics sent to statsd, dogstatsd (datagrams) and statsite (a TCP stream). Values are sent as they are measured.

Values wait in a bounded queue; what does not fit is dropped and counted, since metrics must never hold anything up.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable, Sequence

from pyconsul_agent.env.base import Net, Resolver, open_stream
from pyconsul_agent.env.log import Log
from pyconsul_agent.env.timeouts import timeout
from pyconsul_agent.errors import NetError
from pyconsul_agent.telemetry.registry import Key

QUEUE_MAX = 4096
DATAGRAM_BYTES_MAX = 1400
FLUSH_S = 0.1
RECONNECT_S = 30.0
CONNECT_TIMEOUT_S = 5.0
WRITE_TIMEOUT_S = 10.0

Render = Callable[[str, Key, float], bytes]


def statsd_line(kind: str, key: Key, value: float) -> bytes:
    """`name:value|kind`, label values appended to the name; for statsite as well."""
    name = ".".join([key[0], *(text for _, text in key[1])])
    return f"{_plain(name)}:{value:f}|{kind}\n".encode("utf-8", "replace")


def dogstatsd_line(tags: Sequence[str], hostname: str) -> Render:
    """`name:value|kind|#label:text,...`; the host is a tag instead of a part of the name."""

    def render(kind: str, key: Key, value: float) -> bytes:
        name, every = key[0], list(tags)
        if hostname and f".{hostname}." in name:
            name = name.replace(f".{hostname}.", ".", 1)
            every.append(f"host:{hostname}")
        every += [f"{label}:{text}" for label, text in key[1]]
        marked = "|#" + ",".join(_one_line(tag) for tag in every) if every else ""
        return f"{_plain(name)}:{value:g}|{kind}{marked}\n".encode("utf-8", "replace")

    return render


def _plain(name: str) -> str:
    return "".join("_" if c in ": \n\r|" else c for c in name)


def _one_line(text: str) -> str:
    return "".join("_" if c in ",|#\n\r" else c for c in text)


class Outlet:
    """One sink at `host:port`. `put` is called from hot paths; `run` sends until cancelled."""

    def __init__(
        self, address: str, render: Render, net: Net, resolver: Resolver, log: Log, *, stream: bool = False
    ) -> None:
        self.dropped = 0
        host, _, port = address.rpartition(":")
        self._host, self._port = host.strip("[]"), int(port)
        self._render = render
        self._net = net
        self._resolver = resolver
        self._log = log
        self._stream = stream
        self._queue: deque[tuple[str, Key, float]] = deque()

    def put(self, kind: str, key: Key, value: float) -> None:
        """Queue a value, or drop it."""
        if len(self._queue) >= QUEUE_MAX:
            self.dropped += 1
        else:
            self._queue.append((kind, key, value))

    async def run(self) -> None:
        """Send what is queued, now and then; connect again when the other side was away."""
        while True:
            try:
                await (self._over_stream() if self._stream else self._over_datagrams())
            except (NetError, OSError, TimeoutError) as error:
                self._log.warn("metrics are not sent", to=f"{self._host}:{self._port}", error=str(error))
            await asyncio.sleep(RECONNECT_S)

    async def _over_datagrams(self) -> None:
        addresses = await self._resolver.resolve(self._host)
        if not addresses:
            raise NetError(f"no address of {self._host}")
        to = addresses[0], self._port
        local = "::" if ":" in to[0] else "0.0.0.0"  # noqa: S104 - any source address; nothing is expected there
        socket = await self._net.datagrams(lambda data, from_: None, local, 0)
        try:
            while True:
                await asyncio.sleep(FLUSH_S)
                for packet in self._packets():
                    socket.send(packet, to)
        finally:
            socket.close()

    async def _over_stream(self) -> None:
        _, writer = await open_stream(self._net, self._host, self._port, timeout_s=CONNECT_TIMEOUT_S)
        try:
            while True:
                await asyncio.sleep(FLUSH_S)
                for packet in self._packets():
                    writer.write(packet)
                async with timeout(WRITE_TIMEOUT_S):
                    await writer.drain()
        finally:
            writer.close()
            with contextlib.suppress(OSError, NetError):
                await writer.wait_closed()

    def _packets(self) -> list[bytes]:
        """Everything queued, in pieces that fit a datagram, none cut within a line."""
        packets: list[bytes] = []
        lines: list[bytes] = []
        size = 0
        while self._queue:
            line = self._render(*self._queue.popleft())
            if lines and size + len(line) > DATAGRAM_BYTES_MAX:
                packets.append(b"".join(lines))
                lines, size = [], 0
            lines.append(line)
            size += len(line)
        if lines:
            packets.append(b"".join(lines))
        return packets
