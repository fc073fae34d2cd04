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
REJOIN_STAGGER_S = 1.0
"""How long a member of the snapshot has for its answer before the next one is tried besides."""

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
    """Contact them in random order until a few have answered; whether any did.

    The next one is tried when one has answered or failed, or when a second has passed: an address that nobody has any
    more does not say so.
    """
    rng.shuffle(known)
    waiting = list(known)
    contacts: set[asyncio.Task[bool]] = set()
    where: dict[asyncio.Task[bool], tuple[str, str]] = {}
    answered = 0
    try:
        while (waiting or contacts) and answered < REJOIN_CONTACTS:
            if waiting:
                whom = waiting.pop(0)
                task = asyncio.create_task(_contact(*whom, contact, log, pool))
                contacts.add(task)
                where[task] = whom
            timeout_s = REJOIN_STAGGER_S if waiting else None
            done, contacts = await asyncio.wait(contacts, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                if task.result():
                    answered += 1
                    if answered == 1:
                        name, address = where[task]
                        log.event("rejoined", pool=pool, name=name, address=address)
    finally:
        for task in contacts:
            task.cancel()
        await asyncio.gather(*contacts, return_exceptions=True)
    return answered > 0


async def _contact(name: str, address: str, contact: Contact, log: Log, pool: str) -> bool:
    """Whether a member of the snapshot answered where it was."""
    log.event("rejoin_attempt", pool=pool, name=name, address=address)
    try:
        return await contact(name, address)
    except NetError as error:
        log.warn("Snapshot has an unusable address", node=name, address=address, error=str(error))
        return False
