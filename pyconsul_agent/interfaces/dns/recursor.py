"""Asks other DNS servers: passes questions through to them, and looks up host names that catalog addresses point to.

Every question leaves from a fresh port under a random id; a reply counts only if it comes from the server asked, with
that id and that question, so that it cannot be forged blindly.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from pyconsul_agent.env.base import Address, Net, open_stream
from pyconsul_agent.env.log import Log
from pyconsul_agent.env.timeouts import timeout
from pyconsul_agent.errors import DecodeError, NetError
from pyconsul_agent.interfaces.dns.config import DNSConfig
from pyconsul_agent.wire.dns import (
    IN,
    NOERROR,
    NXDOMAIN,
    QR,
    RD,
    TC,
    UDP_BYTES,
    A,
    CannotPack,
    Message,
    Query,
    Record,
    pack,
    parse_message,
)

DNS_PORT = 53
LENGTH_BYTES = 2


class Recursor:
    """Asks the configured servers in their order. `token_bytes` is the operating system's randomness."""

    def __init__(self, net: Net, config: DNSConfig, token_bytes: Callable[[int], bytes], log: Log) -> None:
        self.config = config
        self._net = net
        self._token_bytes = token_bytes
        self._log = log

    async def forward(self, data: bytes, query: Query, *, tcp: bool) -> bytes | None:
        """The first usable reply to a client's message, packed for that client; None when no server gives one."""
        question = (query.name or ".", query.type, query.cls)
        size = max(UDP_BYTES, query.edns.udp_size if query.edns is not None else 0)
        for server in self.config.recursors:
            reply = await self._ask(server, data[2:], question, size, tcp=tcp)
            if reply is None or (reply.rcode not in (NOERROR, NXDOMAIN) and not reply.flags & TC):
                continue
            reply.id = query.id
            try:
                return pack(reply, compress=not self.config.disable_compression)
            except CannotPack as error:
                self._log.debug("recursor's reply cannot be packed", recursor=server[0], error=str(error))
        return None

    async def addresses(self, host: str) -> Sequence[Record]:
        """Answer records to a question of type A for `host`, of the first server that answers at all."""
        try:
            body = pack(Message(0, RD, (host, A, IN)))[2:]
        except CannotPack as error:
            self._log.debug("host name cannot be asked for", host=host, error=str(error))
            return ()
        for server in self.config.recursors:
            reply = await self._ask(server, body, (host, A, IN), UDP_BYTES, tcp=False)
            if reply is not None:
                return reply.answers
        return ()

    async def _ask(
        self, server: Address, body: bytes, question: tuple[str, int, int], size: int, *, tcp: bool
    ) -> Message | None:
        """Send `body` (a message without its id) and wait for the reply to it; None when there is none in time."""
        id_ = self._token_bytes(2)
        try:
            if tcp:
                reply = parse_message(await self._over_tcp(server, id_ + body))
                return reply if _answers(reply, id_, question) else None
            return await self._over_udp(server, id_ + body, question, size)
        except (NetError, OSError, EOFError, DecodeError, TimeoutError) as error:
            self._log.debug("recursor failed", recursor=f"{server[0]}:{server[1]}", error=str(error))
            return None

    async def _over_udp(self, server: Address, message: bytes, question: tuple[str, int, int], size: int) -> Message:
        """Raises NetError, TimeoutError, or DecodeError for a reply that is broken or over `size`."""
        arrived: asyncio.Future[Message] = asyncio.get_running_loop().create_future()

        def receive(data: bytes, from_: Address) -> None:
            if arrived.done() or from_ != server or data[:2] != message[:2]:
                return
            try:
                if len(data) > size:
                    raise DecodeError("reply over the announced size")
                reply = parse_message(data)
            except DecodeError as error:
                arrived.set_exception(error)
                return
            if _answers(reply, message[:2], question):
                arrived.set_result(reply)

        def failed(error: NetError) -> None:
            if not arrived.done():
                arrived.set_exception(error)

        any_host = "::" if ":" in server[0] else "0.0.0.0"  # noqa: S104 - the connected socket hears `server` only
        socket = await self._net.datagrams(receive, any_host, 0, connected=(server, failed))
        try:
            socket.send(message, server)
            async with timeout(self.config.recursor_timeout_s):
                return await arrived
        finally:
            socket.close()
            arrived.cancel()

    async def _over_tcp(self, server: Address, message: bytes) -> bytes:
        """Raises NetError, OSError, EOFError or TimeoutError."""
        timeout_s = self.config.recursor_timeout_s
        reader, writer = await open_stream(self._net, *server, timeout_s=timeout_s)
        try:
            async with timeout(timeout_s):
                writer.write(len(message).to_bytes(LENGTH_BYTES, "big") + message)
                size = int.from_bytes(await reader.readexactly(LENGTH_BYTES), "big")
                return await reader.readexactly(size)
        finally:
            writer.close()


def _answers(reply: Message, id_: bytes, question: tuple[str, int, int]) -> bool:
    """Whether this is a reply to that question."""
    if not reply.flags & QR or reply.id != int.from_bytes(id_, "big") or reply.question is None:
        return False
    name, type_, cls = reply.question
    return (type_, cls) == question[1:] and name.lower() == question[0].lower()
