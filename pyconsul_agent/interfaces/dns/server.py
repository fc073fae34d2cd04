"""DNS over UDP and TCP: reads queries, answers each in a task of its own with a deadline, and keeps every limit.

Questions over UDP that a server has answered before are answered on the spot (`prepared`). UDP replies leave from the
address that the query came to.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Callable
from ipaddress import ip_address

from pyconsul_agent.agent.cache import Cache
from pyconsul_agent.agent.delegate import Caller
from pyconsul_agent.env.base import Address, Clock, Datagrams, Listener, Net, peer_of, serve_streams
from pyconsul_agent.env.log import Log
from pyconsul_agent.env.timeouts import timeout
from pyconsul_agent.errors import NetError
from pyconsul_agent.interfaces.dns import plan as plans
from pyconsul_agent.interfaces.dns.config import DNSConfig
from pyconsul_agent.interfaces.dns.finish import Outcome, failure, finish, refusal
from pyconsul_agent.interfaces.dns.lookup import Lookups, Unanswered
from pyconsul_agent.interfaces.dns.prepared import Fixed, LocalCatalog, PreparedReplies, Stamp
from pyconsul_agent.interfaces.dns.recursor import Recursor
from pyconsul_agent.telemetry.instruments import Instruments
from pyconsul_agent.telemetry.net_meters import DNSMeter
from pyconsul_agent.wire.dns import CannotPack, Query, parse_query

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

Send = Callable[[bytes], None]


class DNSServer:
    """Answers on any number of addresses. `token_bytes` is the operating system's randomness, for recursion; `local`
    is the catalog that stale reads are answered from without asking another process, if there is one; `cache` is used
    when the configuration wants it.
    """

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
        local: LocalCatalog | None = None,
        cache: Cache | None = None,
        meter: DNSMeter | None = None,
    ) -> None:
        self._net = net
        self._config = config
        self._now = clock.monotonic
        self._meter = meter = meter or Instruments().dns
        self._prepared = PreparedReplies(local, random, clock, meter) if local is not None else None
        self._log = log
        self._recursor = Recursor(net, config, token_bytes, log)
        self._lookups = Lookups(
            caller, config, clock, random, self._recursor, log, cache=cache, local=local, stale=meter.stale
        )
        self._sockets: list[Datagrams] = []
        self._listeners: list[Listener] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._in_work = 0
        self._connections: set[asyncio.Task[None]] = set()
        self._clients: Counter[str] = Counter()
        self.reload(config)

    @property
    def addresses(self) -> list[Address]:
        """Where it listens."""
        return [socket.local for socket in self._sockets]

    def reload(self, config: DNSConfig) -> None:
        """Use another configuration from the next query on."""
        self._config = self._lookups.config = self._recursor.config = config
        if self._prepared is not None:
            self._prepared.use(config)

    async def start(self, addresses: list[tuple[str, int]]) -> None:
        """Listen on UDP and TCP. Raises NetError when an address cannot be had; `stop` undoes what was done."""
        for host, port in addresses:
            listener = await serve_streams(self._net, self._connection, host, port, limit=TCP_BUFFER_BYTES)
            self._listeners.append(listener)
            await self._listen_udp(host, listener.local[1])

    async def _listen_udp(self, host: str, port: int) -> None:
        quick = self._prepared.get if self._prepared is not None else _never
        self._sockets.append(await self._net.questions(quick, self._datagram, host, port))

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

    def _datagram(self, data: bytes, from_: Address, send: Send) -> None:
        """One datagram; never waits."""
        query = parse_query(data)
        if isinstance(query, Query):
            if self._in_work < QUERIES_MAX:
                self._in_work += 1
                task = asyncio.get_running_loop().create_task(self._answer_datagram(query, data, from_, send))
                self._tasks.add(task)
                task.add_done_callback(self._done)
                return
            query = failure(query)
        if query is not None:
            send(query)

    async def _answer_datagram(self, query: Query, data: bytes, from_: Address, send: Send) -> None:
        reply = await self._guarded(query, data, from_, tcp=False)
        if reply is not None:
            send(reply)

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
        peer = peer_of(writer)
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
            async with timeout(patience_s):
                size = int.from_bytes(await reader.readexactly(2), "big")
                data = await reader.readexactly(size)
            patience_s = TCP_IDLE_S
            reply = await self._tcp_reply(data, peer)
            if reply is None:
                continue
            async with timeout(TCP_WRITE_S):
                writer.write(len(reply).to_bytes(2, "big") + reply)
                await writer.drain()

    async def _tcp_reply(self, data: bytes, peer: Address) -> bytes | None:
        query = parse_query(data)
        if not isinstance(query, Query):
            return query
        if self._in_work >= QUERIES_MAX:
            return failure(query)
        self._in_work += 1
        try:
            return await self._guarded(query, data, peer, tcp=True)
        finally:
            self._in_work -= 1

    # --- answering ------------------------------------------------------------------------------------------------

    async def _guarded(self, query: Query, data: bytes, peer: Address, *, tcp: bool) -> bytes | None:
        """The reply in time, else SERVFAIL; None when there is no reply at all."""
        try:
            async with timeout(QUERY_DEADLINE_S):
                return await self._reply(query, data, peer, tcp=tcp)
        except TimeoutError:
            self._log.warn("DNS query took too long", peer=peer[0], name=query.name)
            return failure(query)
        except CannotPack as error:
            self._log.warn("DNS reply cannot be packed", peer=peer[0], name=query.name, error=str(error))
            return None

    async def _reply(self, query: Query, data: bytes, peer: Address, *, tcp: bool) -> bytes | None:
        """Raises CannotPack."""
        if query.name is None:
            return refusal(query)
        plan = plans.plan(query.name.lower(), query.type, self._config)
        if isinstance(plan, plans.Refuse):
            return refusal(query)
        if isinstance(plan, plans.Recurse):
            return await self._recursed(query, data, peer, tcp=tcp)
        stamp = self._prepared.stamp() if self._prepared is not None and not tcp else None
        reverse, began = isinstance(plan, plans.Reverse), self._now()
        try:
            outcome = await self._lookups.answer(query, plan, peer[0])
        except Unanswered:
            return await self._recursed(query, data, peer, tcp=tcp)
        finally:
            self._meter.answered(self._now() - began, reverse=reverse)
        reply = finish(query, outcome, self._config, tcp=tcp, may_trim=not reverse)
        if stamp is not None:
            self._keep(data, stamp, query, outcome, reply, reverse=reverse)
        return reply

    async def _recursed(self, query: Query, data: bytes, peer: Address, *, tcp: bool) -> bytes:
        """The recursors' reply, for those who may have it; for others there are no recursors."""
        if self._config.recursors and not may_recurse(peer[0], self._config):
            self._log.debug("recursion refused", peer=peer[0], name=query.name)
            return refusal(query)
        return await self._recursor.forward(data, query, tcp=tcp) or failure(query)

    def _keep(self, data: bytes, stamp: Stamp, query: Query, outcome: Outcome, reply: bytes, *, reverse: bool) -> None:
        assert self._prepared is not None
        if outcome.is_fixed:
            self._prepared.put(data, stamp, query, Fixed(reply[2:], outcome.soa_numbers), reverse=reverse)
        elif outcome.made_of is not None:
            self._prepared.put(data, stamp, query, outcome.made_of, reverse=reverse)


def may_recurse(host: str, config: DNSConfig) -> bool:
    """Whether a client's questions may be passed on (`dns_allow_recursion`)."""
    if config.recursion_for is None:
        return True
    address = ip_address(host.partition("%")[0])
    return any(address in network for network in config.recursion_for)


def _never(data: bytes) -> bytes | None:
    """Without prepared replies."""
    return None
