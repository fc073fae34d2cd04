"""The TCP side of a gossip pool: one message each way per connection, bounded in number, size and time.

Connections are tasks of the pool's group. What an exchange means is `swim`'s; here bytes are moved and
errors of a connection are logged with the peer's address.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Coroutine
from typing import Any

from pyconsul_agent.env.base import Net, open_stream, peer_of, stream_protocol
from pyconsul_agent.env.log import Log
from pyconsul_agent.env.timeouts import timeout, timeout_at
from pyconsul_agent.errors import ConnectionLost, DecodeError, DialRefused, NetError, NetTimeout
from pyconsul_agent.runtime.gossip_address import endpoint
from pyconsul_agent.runtime.gossip_cipher import GossipSeal
from pyconsul_agent.swim.config import PUSH_PULL_STREAMS_MAX
from pyconsul_agent.swim.effects import OpenStream
from pyconsul_agent.telemetry.net_meters import GossipMeter
from pyconsul_agent.wire.gossip import Address, StreamMessage
from pyconsul_agent.wire.gossip_crypto import StreamRefused
from pyconsul_agent.wire.gossip_stream import error_reply

READ_BYTES = 64 * 1024
OPENED_MAX = 128
"""Streams that we have open at one time; further ones fail at once."""

Spawn = Callable[[Coroutine[Any, Any, None]], None]
"""Start a task that the pool owns."""
Answer = Callable[[StreamMessage, Address], bytes | None]
"""What a peer's stream message is answered with; None: nothing."""


class GossipStreams:
    """Accepts and opens streams for one pool."""

    def __init__(
        self,
        net: Net,
        log: Log,
        seal: GossipSeal,
        *,
        timeout_s: float,
        spawn: Spawn,
        answer: Answer,
        meter: GossipMeter,
    ) -> None:
        self._meter = meter
        self._net = net
        self._log = log
        self._seal = seal
        self._timeout_s = timeout_s
        self._spawn = spawn
        self._answer = answer
        self._accepted = 0
        self._opened = 0

    # --- streams that peers open --------------------------------------------------------------------------------

    def protocol(self) -> asyncio.BaseProtocol:
        """For `Net.listen`."""
        return stream_protocol(self._accept, asyncio.StreamReader(limit=READ_BYTES))

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        peer = peer_of(writer)
        if self._accepted >= PUSH_PULL_STREAMS_MAX:
            self._log.error("Too many pending push/pull requests", from_=endpoint(*peer))
            writer.transport.abort()
            return
        self._accepted += 1
        self._meter.tcp_accepted.add()
        self._spawn(self._serve(reader, writer, peer))

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, peer: Address) -> None:
        try:
            async with timeout(self._timeout_s):
                await self._serve_one(reader, writer, peer)
        except TimeoutError:
            self._log.warn("gossip stream timed out", from_=endpoint(*peer))
        except (DecodeError, NetError, OSError) as error:
            self._log.warn("gossip stream failed", from_=endpoint(*peer), error=str(error))
        except Exception as error:  # the edge: whatever a peer sends must not end the pool
            self._log.error("gossip stream caused an error", from_=endpoint(*peer), error=repr(error))
        finally:
            self._accepted -= 1
            await _close(writer)

    async def _serve_one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, peer: Address) -> None:
        try:
            message = await self._read(reader, opened=False)
        except StreamRefused as refused:
            self._write(writer, error_reply(refused), opens=False)
            await writer.drain()
            raise
        answer = self._answer(message, peer)
        if answer is not None:
            self._write(writer, answer, opens=False)
            await writer.drain()

    # --- streams that we open -----------------------------------------------------------------------------------

    async def exchange(self, order: OpenStream) -> StreamMessage:
        """Dial, write, read the answer. Raises NetError (texts as Go has them) or DecodeError."""
        where = endpoint(*order.to)
        if self._opened >= OPENED_MAX:
            raise NetError("too many streams are open")
        self._opened += 1
        try:
            async with timeout_at(order.deadline):
                return await self._exchange(order, where)
        except TimeoutError as error:
            raise NetTimeout(f"read tcp {where}: i/o timeout") from error
        except OSError as error:
            raise ConnectionLost(f"read tcp {where}: {error.strerror or error}") from error
        finally:
            self._opened -= 1

    async def _exchange(self, order: OpenStream, where: str) -> StreamMessage:
        host, port = order.to
        remaining_s = max(order.deadline - asyncio.get_running_loop().time(), 0.001)
        try:
            reader, writer = await open_stream(self._net, host, port, timeout_s=remaining_s, limit=READ_BYTES)
        except DialRefused as error:
            raise DialRefused(f"dial tcp {where}: connect: connection refused") from error
        except NetTimeout as error:
            raise NetTimeout(f"dial tcp {where}: i/o timeout") from error
        self._meter.tcp_connected.add()
        try:
            self._write(writer, order.request, opens=True)
            await writer.drain()
            return await self._read(reader, opened=True)
        finally:
            await _close(writer)

    def _write(self, writer: asyncio.StreamWriter, message: bytes, *, opens: bool) -> None:
        data = self._seal.stream(message, opens=opens)
        self._meter.tcp_sent.add(len(data))
        writer.write(data)

    async def _read(self, reader: asyncio.StreamReader, *, opened: bool) -> StreamMessage:
        parser = self._seal.reader(opened=opened)
        while True:
            data = await reader.read(READ_BYTES)
            if not data:
                raise ConnectionLost("EOF")
            message = parser.feed(data)
            if message is not None:
                return message


async def _close(writer: asyncio.StreamWriter) -> None:
    writer.close()
    with contextlib.suppress(OSError, NetError):  # the peer may have gone first; nothing is left to say to it
        await writer.wait_closed()
