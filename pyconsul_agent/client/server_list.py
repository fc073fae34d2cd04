"""The order in which a client agent asks the servers it knows (docs/protocol/rpc.md#client-side). Pure.

The first server is used until a call to it fails for whatever reason; then it goes to the end. From time to time the
list is shuffled, so that clients spread over the servers again after failures.
"""

from __future__ import annotations

import random

from pyconsul_agent.runtime.rpc_pool import ServerAddress

REBALANCE_MIN_S = 120.0
REBALANCE_JITTER_S = 60.0
REBALANCES_PER_S = 64.0
"""What all servers together should see of new connections, in a cluster of any size, is this times their number."""


class ServerList:
    """Known servers, the one to use first."""

    def __init__(self, random: random.Random) -> None:
        self._random = random
        self._servers: tuple[ServerAddress, ...] = ()

    def __len__(self) -> int:
        return len(self._servers)

    @property
    def servers(self) -> tuple[ServerAddress, ...]:
        """All, in order."""
        return self._servers

    @property
    def first(self) -> ServerAddress | None:
        """The server to use now."""
        return self._servers[0] if self._servers else None

    def add(self, server: ServerAddress) -> None:
        """A server appeared, or one of the same name has a new address and keeps its place."""
        for place, known in enumerate(self._servers):
            if known.name == server.name:
                self._servers = (*self._servers[:place], server, *self._servers[place + 1 :])
                return
        self._servers = (*self._servers, server)

    def remove(self, name: str) -> ServerAddress | None:
        """A server is gone; returns what was known of it."""
        for server in self._servers:
            if server.name == name:
                self._servers = tuple(other for other in self._servers if other is not server)
                return server
        return None

    def failed(self, server: ServerAddress) -> None:
        """A call to `server` failed: rotate it to the end, unless another call has done so already."""
        if len(self._servers) > 1 and self._servers[0] == server:
            self._servers = (*self._servers[1:], server)

    def shuffled(self) -> list[ServerAddress]:
        """A new order to try out; see `adopt`."""
        order = list(self._servers)
        self._random.shuffle(order)
        return order

    def adopt(self, order: list[ServerAddress]) -> bool:
        """Take over an order whose first server answered; what came or went meanwhile is respected.

        False, and nothing changes, when the server chosen is gone.
        """
        known = set(self._servers)
        if not order or order[0] not in known:
            return False
        kept = [server for server in order if server in known]
        self._servers = (*kept, *(server for server in self._servers if server not in set(kept)))
        return True

    def rebalance_after_s(self, nodes: int) -> float:
        """Seconds until the next rebalance in a cluster of `nodes` members."""
        at_least = REBALANCE_MIN_S + self._random.uniform(0.0, REBALANCE_JITTER_S)
        if not self._servers:
            return at_least
        return max(at_least, nodes / REBALANCES_PER_S / len(self._servers))
