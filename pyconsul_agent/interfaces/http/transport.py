"""The HTTP server: where it listens, who may connect, and what its connections share.

Everything above sees frozen requests and plain responses; what the bytes are is the business of `reader`, `connection`
and `rendering`. A client over its connection limit is told so and closed.
"""

from __future__ import annotations

import asyncio
import ssl
from collections import Counter
from email.utils import formatdate

from pyconsul_agent.env.base import Clock, Listener, Net
from pyconsul_agent.env.deadlines import Deadlines
from pyconsul_agent.env.log import Log
from pyconsul_agent.interfaces.http.connection import Connection
from pyconsul_agent.interfaces.http.familiar import Familiar
from pyconsul_agent.interfaces.http.head import Head
from pyconsul_agent.interfaces.http.known import Known
from pyconsul_agent.interfaces.http.pipeline import Pipeline, Target
from pyconsul_agent.interfaces.http.reader import HEAD_BYTES_MAX

UNIX = "unix://"
UNIX_MODE = 0o600
CONNECTIONS_PER_CLIENT = 200
CONNECTIONS_MAX = 16_384


class HTTPServer:
    """Listens on any number of addresses and feeds one pipeline. `clock` dates the answers."""

    def __init__(
        self,
        net: Net,
        clock: Clock,
        pipeline: Pipeline,
        log: Log,
        *,
        connections_per_client: int = CONNECTIONS_PER_CLIENT,
        head_bytes_max: int = 0,
    ) -> None:
        """`head_bytes_max` 0 is HEAD_BYTES_MAX."""
        self.pipeline = pipeline
        self.log = log
        self._net = net
        self._clock = clock
        self.head_bytes_max = head_bytes_max or HEAD_BYTES_MAX
        self._limit = CONNECTIONS_MAX
        self.set_connections_per_client(connections_per_client)
        self._listeners: list[Listener] = []
        self._clients: Counter[str] = Counter()
        self._total = 0
        self._connections: dict[Connection, None] = {}  # a set that keeps its order: a simulation must repeat
        self.stopped = False
        self._date = (0, b"")
        self.known: Known[Head] = Known()
        self.familiar = Familiar(self.head_bytes_max)
        self.deadlines = Deadlines()

    async def start(
        self,
        addresses: list[tuple[str, int]],
        *,
        tls: ssl.SSLContext | None = None,
        unix_mode: int = UNIX_MODE,
        unix_owner: tuple[int, int] = (-1, -1),
    ) -> None:
        """Listen on TCP, or for a host `unix:///path` on that socket. Raises NetError when one cannot be had."""
        self.stopped = False
        for host, port in addresses:
            if host.startswith(UNIX):
                path = host.removeprefix(UNIX)
                listener = await self._net.listen_unix(lambda: Connection(self), path, mode=unix_mode, owner=unix_owner)
            else:
                listener = await self._net.listen(lambda: Connection(self), host, port, tls=tls)
            self._listeners.append(listener)

    async def stop(self) -> None:
        """Stop listening and end every connection; requests in flight are cancelled."""
        self.stopped = True
        for listener in self._listeners:
            await listener.close()
        self._listeners.clear()
        ending = [connection.end() for connection in list(self._connections)]
        await asyncio.gather(*(task for task in ending if task is not None), return_exceptions=True)

    @property
    def addresses(self) -> list[tuple[str, int]]:
        """Where it listens."""
        return [listener.local for listener in self._listeners]

    def admit(self, connection: Connection, client: str) -> bool:
        """Count a new connection of `client`; False when it has too many."""
        if self._clients[client] >= self._limit or self._total >= CONNECTIONS_MAX:
            return False
        self._clients[client] += 1
        self._total += 1
        self._connections[connection] = None
        return True

    def release(self, connection: Connection, client: str) -> None:
        """A counted connection has ended."""
        self._connections.pop(connection, None)
        self._total -= 1
        self._clients[client] -= 1
        if self._clients[client] <= 0:
            del self._clients[client]

    def set_connections_per_client(self, limit: int) -> None:
        """Another limit from now on (reload); 0 is none for each, but the bound on all of them stays."""
        self._limit = limit if limit > 0 else CONNECTIONS_MAX

    def repeated(self, head: Head) -> bytes | None:
        """The answer given before, if it would be the same now, with today's date."""
        answer, target = head.answer, head.target
        if answer is None or not isinstance(target, Target) or target.route is None:
            return None
        if self.pipeline.stamp(target.route) != answer.stamp:
            return None
        return b"%s%s%s" % (answer.before, self.date(), answer.after)

    def date(self) -> bytes:
        """The Date header's value, made once a second."""
        second = self._clock.wall_ns() // 1_000_000_000
        if second != self._date[0]:
            self._date = (second, formatdate(second, usegmt=True).encode())
        return self._date[1]
