"""How a server leaves its cluster, in Consul's order. Nothing here fails: what cannot be done in order is logged."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Protocol

from pyconsul_agent.env.base import Clock
from pyconsul_agent.env.log import Log
from pyconsul_agent.errors import RaftError, RPCError
from pyconsul_agent.server.seams import Membership
from pyconsul_agent.structs.raft import Suffrage

REMOVAL_GRACE_S = 5.0
"""How long those who stay may take to remove us from the raft configuration."""
REMOVAL_POLL_S = 0.05


class Pool(Protocol):
    """A gossip pool, for one who leaves it."""

    async def begin_leave(self) -> bool:
        """Say that we leave. False if there was nothing to leave."""

    async def finish_leave(self) -> None:
        """Wait until the word has had its time to spread."""


class Consensus(Membership, Protocol):
    """This server's place in raft."""

    @property
    def is_leader(self) -> bool: ...


class Departure:
    """The leave of one server. `node_id` and `address` (`ip:port`) are its own."""

    def __init__(
        self, consensus: Consensus, clock: Clock, log: Log, *, node_id: str, address: str, drain_s: float
    ) -> None:
        self._consensus = consensus
        self._clock = clock
        self._log = log
        self._node_id = node_id
        self._address = address
        self._drain_s = drain_s

    async def run(self, pools: Sequence[Pool], on_left: Callable[[], None]) -> None:
        """Hand leadership over, leave `pools`, drain, and wait to be removed. `on_left` comes once all know.

        The word in all pools spreads while we drain, which halves the time that the original takes; so does the wait
        for the removal, which can be in vain when those who stay have no quorum: `docker stop` gives 10 s in all.
        """
        if self._consensus.is_leader and self._voters() > 1:
            await self._hand_over()
        begun = [pool for pool in pools if await pool.begin_leave()]
        on_left()
        waits = [pool.finish_leave() for pool in begun]
        if not self._consensus.is_leader:
            waits.append(self._removed())
        await asyncio.gather(asyncio.sleep(self._drain_s), *waits)

    async def _hand_over(self) -> None:
        try:
            await self._consensus.transfer_leadership()
        except (RaftError, RPCError) as error:
            self._log.error("failed to transfer leadership, removing the server", error=str(error))
            try:
                await self._consensus.remove_server(self._node_id)
            except (RaftError, RPCError) as failure:  # NotLeader when the reign ended meanwhile, among others
                self._log.error("failed to remove ourself as raft peer", error=str(failure))

    async def _removed(self) -> None:
        """Wait until the configuration no longer holds us, or the time for it is over."""
        deadline = self._clock.monotonic() + REMOVAL_GRACE_S
        while self._clock.monotonic() < deadline:
            configuration, _ = self._consensus.configuration()
            if all(server.address != self._address for server in configuration.servers or ()):
                return
            await asyncio.sleep(REMOVAL_POLL_S)
        self._log.warn("failed to leave raft configuration gracefully, timeout")

    def _voters(self) -> int:
        configuration, _ = self._consensus.configuration()
        return sum(server.suffrage == Suffrage.VOTER for server in configuration.servers or ())
