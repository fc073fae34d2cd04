"""Finding the pool again after a restart: by the members that the snapshot knows."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Mapping

from pyconsul_agent.env.log import Log
from pyconsul_agent.errors import NetError

REJOIN_CONTACTS = 3
"""Members that we talk to. One, as in serf, may itself be back only now and not know that the others take us for dead;
then nobody would tell us, and so make us deny it, before the next push/pull.
"""

Contact = Callable[[str, str], Awaitable[bool]]
"""(name, address) -> whether a push/pull with it succeeded. Raises NetError for an address that is none."""


async def rejoin(
    alive: Mapping[str, str],
    contact: Contact,
    has_company: Callable[[], bool],
    rng: random.Random,
    log: Log,
    *,
    pool: str,
    own_name: str,
    interval_s: float,
) -> None:
    """Try those who were alive, every `interval_s`, until somebody answers or comes to us."""
    known = sorted((name, address) for name, address in alive.items() if name != own_name)
    while known and not await _attempt(known, contact, rng, log, pool):
        log.warn("Failed to re-join any previously known node")
        await asyncio.sleep(interval_s)
        if has_company():
            return


async def _attempt(known: list[tuple[str, str]], contact: Contact, rng: random.Random, log: Log, pool: str) -> bool:
    """One attempt at each, in random order, until a few have answered; whether any did."""
    rng.shuffle(known)
    answered = 0
    for name, address in known:
        log.event("rejoin_attempt", pool=pool, name=name, address=address)
        try:
            if not await contact(name, address):
                continue
        except NetError as error:
            log.warn("Snapshot has an unusable address", node=name, address=address, error=str(error))
            continue
        if not answered:
            log.event("rejoined", pool=pool, name=name, address=address)
        answered += 1
        if answered == REJOIN_CONTACTS:
            break
    return answered > 0
