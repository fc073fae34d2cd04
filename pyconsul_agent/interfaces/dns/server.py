"""DNS over UDP and TCP: reads queries, answers each in a task of its own with a deadline, and keeps every limit.

UDP replies leave from the socket that the query came to. On a wildcard address of a host with several addresses, the
operating system chooses the source by the route to the client; listen on each address to be sure of it.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Callable

from pyconsul_agent.agent.delegate import Caller
from pyconsul_agent.env.base import Address, Clock, Datagrams, Listener, Net, serve_streams
from pyconsul_agent.env.log import Log
from pyconsul_agent.errors import NetError
from pyconsul_agent.interfaces.dns import resolve
from pyconsul_agent.interfaces.dns.config import DNSConfig
from pyconsul_agent.interfaces.dns.lookup import Lookups, Outcome, Unanswered
from pyconsul_agent.interfaces.dns.recursor import Recursor
from pyconsul_agent.wire.dns import (
    AA,
    CD,
    NOTIMP,
    NXDOMAIN,
    OPCODE,
    QR,
    RA,
    RD,
    REFUSED,
    SERVFAIL,
    TC,
    CannotPack,
    Message,
    Query,
    opt_record,
    pack,
    parse_query,
)
from pyconsul_agent.wire.dns_trim import trim_tcp, trim_udp

QUERIES_MAX = 2048
"""Queries in work at once; beyond, UDP clients are told SERVFAIL at once and TCP ones as well."""

QUERY_DEADLINE_S = 30.0
"""Longer than two look-ups that wait for a leader, and than a few recursors that do not answer."""

TCP_FIRST_S = 2.0
TCP_IDLE_S = 8.0
TCP_WRITE_S = 2.0
TCP_QUERIES_MAX = 128
TCP_CLIENTS_MAX = 2048
TCP_CLIENTS_PER_ADDRESS_MAX = 100
TCP_BUFFER_BYTES = 64 * 1024 + 2

_WITHOUT_SCOPE = frozenset({NXDOMAIN, SERVFAIL, REFUSED, NOTIMP})


class DNSServer:
    """Answers on any number of addresses. `token_bytes` is the operating system's randomness, for recursion."""

    def __init__(
        self,
        net: Net,
        caller: Caller,
        config: DNSConfig,
        clock: Clock,
        random: random.Random,
        log: Log,
        *,
        token_bytes: Callable[[int], bytes],
    ) -> None:
        self._net = net
        self._config = config
        self._log = log
        self._recursor = Recursor(net, config, token_bytes, log)
        self._lookups = Lookups(caller, config, clock, random, self._recursor, log)
        self._sockets: list[Datagrams] = []
        self._listeners: list[Listener] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._in_work = 0
        self._connections: set[asyncio.Task[None]] = set()
        self._clients: Counter[str] = Counter()

    @property
    def addresses(self) -> list[Address]:
        """Where it listens."""
        return [socket.local for socket in self._sockets]

    def reload(self, config: DNSConfig) -> None:
        """Use another configuration from the next query on."""
        self._config = self._lookups.config = self._recursor.config = config

    async def start(self, addresses: list[tuple[str, int]]) -> None:
        """Listen on UDP and TCP. Raises NetError when an address cannot be had; `stop` undoes what was done."""
        for host, port in addresses:
            listener = await serve_streams(self._net, self._connection, host, port, limit=TCP_BUFFER_BYTES)
            self._listeners.append(listener)
            await self._listen_udp(host, listener.local[1])

    async def _listen_udp(self, host: str, port: int) -> None:
        def receive(data: bytes, from_: Address) -> None:
            self._datagram(data, from_, socket)

        socket = await self._net.datagrams(receive, host, port)
        self._sockets.append(socket)

    async def stop(self) -> None:
        """Stop listening; queries in work are dropped and connections closed. Idempotent."""
        for listener in self._listeners:
            await listener.close()
        self._listeners.clear()
        for socket in self._sockets:
            socket.close()
        self._sockets.clear()
        tasks = [*self._tasks, *self._connections]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    # --- UDP ------------------------------------------------------------------------------------------------------

    def _datagram(self, data: bytes, from_: Address, socket: Datagrams) -> None:
        """One datagram; never waits."""
        query = parse_query(data)
        if isinstance(query, Query):
            if self._in_work < QUERIES_MAX:
                self._in_work += 1
                task = asyncio.get_running_loop().create_task(self._answer_datagram(query, data, from_, socket))
                self._tasks.add(task)
                task.add_done_callback(self._done)
                return
            query = self._failure(query)
        if query is not None:
            socket.send(query, from_)

    async def _answer_datagram(self, query: Query, data: bytes, from_: Address, socket: Datagrams) -> None:
        reply = await self._guarded(query, data, from_, tcp=False)
        if reply is not None:
            socket.send(reply, from_)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self._in_work -= 1
        if not task.cancelled() and (error := task.exception()) is not None:
            self._log.error("DNS query failed", error=f"{type(error).__name__}: {error}")

    # --- TCP ------------------------------------------------------------------------------------------------------

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """A client's connection, from its first query to its end."""
        task = asyncio.current_task()
        assert task is not None
        peer: Address = (writer.get_extra_info("peername") or ("", 0))[:2]
        if self._clients[peer[0]] >= TCP_CLIENTS_PER_ADDRESS_MAX or self._clients.total() >= TCP_CLIENTS_MAX:
            self._log.debug("too many DNS connections", peer=peer[0])
            writer.close()
            return
        self._clients[peer[0]] += 1
        self._connections.add(task)
        try:
            await self._serve(reader, writer, peer)
        except (NetError, OSError, EOFError, TimeoutError) as error:
            self._log.debug("DNS connection ended", peer=peer[0], error=type(error).__name__)
        except asyncio.CancelledError:
            # Only `stop` cancels; the stream machinery would report the cancellation as an error.
            self._log.debug("DNS connection closed", peer=peer[0])
        finally:
            self._connections.discard(task)
            self._clients[peer[0]] -= 1
            if not self._clients[peer[0]]:
                del self._clients[peer[0]]
            writer.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, peer: Address) -> None:
        """Queries one after another. Raises OSError, EOFError or TimeoutError when the connection is over."""
        patience_s = TCP_FIRST_S
        for _ in range(TCP_QUERIES_MAX):
            async with asyncio.timeout(patience_s):
                size = int.from_bytes(await reader.readexactly(2), "big")
                data = await reader.readexactly(size)
            patience_s = TCP_IDLE_S
            reply = await self._tcp_reply(data, peer)
            if reply is None:
                continue
            async with asyncio.timeout(TCP_WRITE_S):
                writer.write(len(reply).to_bytes(2, "big") + reply)
                await writer.drain()

    async def _tcp_reply(self, data: bytes, peer: Address) -> bytes | None:
        query = parse_query(data)
        if not isinstance(query, Query):
            return query
        if self._in_work >= QUERIES_MAX:
            return self._failure(query)
        self._in_work += 1
        try:
            return await self._guarded(query, data, peer, tcp=True)
        finally:
            self._in_work -= 1

    # --- answering ------------------------------------------------------------------------------------------------

    async def _guarded(self, query: Query, data: bytes, peer: Address, *, tcp: bool) -> bytes | None:
        """The reply in time, else SERVFAIL; None when there is no reply at all."""
        try:
            async with asyncio.timeout(QUERY_DEADLINE_S):
                return await self._reply(query, data, peer, tcp=tcp)
        except TimeoutError:
            self._log.warn("DNS query took too long", peer=peer[0], name=query.name)
            return self._failure(query)
        except CannotPack as error:
            self._log.warn("DNS reply cannot be packed", peer=peer[0], name=query.name, error=str(error))
            return None

    async def _reply(self, query: Query, data: bytes, peer: Address, *, tcp: bool) -> bytes | None:
        """Raises CannotPack."""
        if query.name is None:
            return self._refusal(query)
        plan = resolve.plan(query.name.lower(), query.type, self._config)
        if isinstance(plan, resolve.Refuse):
            return self._refusal(query)
        if isinstance(plan, resolve.Recurse):
            return await self._recursor.forward(data, query, tcp=tcp) or self._failure(query)
        try:
            outcome = await self._lookups.answer(query, plan, peer[0])
        except Unanswered:
            return await self._recursor.forward(data, query, tcp=tcp) or self._failure(query)
        return self._finish(query, outcome, tcp=tcp, may_trim=not isinstance(plan, resolve.Reverse))

    def _finish(self, query: Query, outcome: Outcome, *, tcp: bool, may_trim: bool) -> bytes:
        """Pack an outcome as it fits its transport. Raises CannotPack."""
        config = self._config
        flags = QR | AA | _copied(query) | outcome.rcode | (RA if config.recursors else 0)
        message = Message(query.id, flags, _question(query), outcome.answers, outcome.authority, outcome.additional)
        if query.edns is not None:
            scope = 0
            if outcome.uses_subnet and query.edns.ecs is not None and outcome.rcode not in _WITHOUT_SCOPE:
                scope = query.edns.ecs[1]
            message.additional = [*message.additional, opt_record(query.edns, scope=scope)]
        compress = not config.disable_compression
        if may_trim:
            if tcp:
                cut = trim_tcp(message, compress=compress)
            else:
                cut = trim_udp(message, query.edns, answer_limit=config.udp_answer_limit, compress=compress)
            if cut and config.enable_truncate:
                message.flags |= TC
        return pack(message, compress=compress)

    def _refusal(self, query: Query) -> bytes:
        return pack(Message(query.id, QR | _copied(query) | REFUSED, _question(query)))

    def _failure(self, query: Query) -> bytes:
        """SERVFAIL of the recursive side: not authoritative, recursion available."""
        extra = [] if query.edns is None else [opt_record(query.edns)]
        flags = QR | RA | _copied(query) | SERVFAIL
        return pack(Message(query.id, flags, _question(query), additional=extra))


def _copied(query: Query) -> int:
    """The flags of the query that its reply repeats."""
    opcode = query.flags & OPCODE
    return opcode if opcode else query.flags & (RD | CD)


def _question(query: Query) -> tuple[str, int, int] | None:
    return None if query.name is None else (query.name, query.type, query.cls)
