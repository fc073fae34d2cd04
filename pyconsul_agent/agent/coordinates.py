"""Sends this node's network coordinate to the servers now and then."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Sequence

from pyconsul_agent.agent.delegate import Delegate
from pyconsul_agent.env.log import Log
from pyconsul_agent.errors import ConsulError
from pyconsul_agent.structs.member import Member, MemberStatus
from pyconsul_agent.structs.methods import COORDINATE_UPDATE
from pyconsul_agent.structs.requests import CoordinateUpdateRequest

INTERVAL_S_MIN = 15.0
RATE_PER_S = 64.0
PROTOCOL_MIN = 3


def interval_s(members: int) -> float:
    """How long between two updates, so that a whole cluster sends at most `RATE_PER_S`."""
    return max(INTERVAL_S_MIN, members / RATE_PER_S)


def servers_understand(members: Sequence[Member]) -> bool:
    """Whether every live server speaks a protocol that has coordinates."""
    servers = [m for m in members if m.tags.get("role") == "consul" and m.status is MemberStatus.ALIVE]
    return bool(servers) and all(
        m.tags.get("vsn_max", "0").isdigit() and int(m.tags["vsn_max"]) >= PROTOCOL_MIN for m in servers
    )


async def send_coordinates(
    delegate: Delegate,
    log: Log,
    rng: random.Random,
    *,
    datacenter: str,
    node: str,
    token: Callable[[], str],
) -> None:
    """Send until cancelled; failures are logged and made up for by the next update."""
    while True:
        members = delegate.lan_members()
        pause = interval_s(len(members))
        await asyncio.sleep(pause + rng.uniform(0, pause))
        if not servers_understand(delegate.lan_members()):
            continue
        request = CoordinateUpdateRequest(
            datacenter=datacenter, node=node, coord=delegate.lan_coordinate(), token=token()
        )
        try:
            await delegate.call(COORDINATE_UPDATE, request)
        except ConsulError as error:
            log.error("Coordinate update error", error=str(error))
