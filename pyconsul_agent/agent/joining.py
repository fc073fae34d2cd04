"""Joining at start: `-join` once, `-retry-join` until it works or its attempts are used up."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from pyconsul_agent.env.log import Log
from pyconsul_agent.errors import ConsulError, NetError

NAME_ATTEMPTS = 10
NAME_INTERVAL_S = 1.0

OWN_ID_ATTEMPTS = 3
"""Refusals of our node ID before we stop. Not at once: the other may be ourselves before a change of names."""

OWN_ID_TAKEN = "with this agent's ID"

Join = Callable[[Sequence[str]], Awaitable[int]]


class JoinFailed(ConsulError):
    """No address answered, and there will be no further attempt."""


@dataclass(frozen=True, slots=True)
class RetryRules:
    """`attempts_max` 0 is for ever."""

    interval_s: float = 30.0
    attempts_max: int = 0


async def join_once(join: Join, addresses: Sequence[str], log: Log, *, pool: str) -> int:
    """Join; returns how many answered. Raises JoinFailed when none did."""
    log.event("join_start", pool=pool, addresses=list(addresses))
    try:
        count = await join(addresses)
    except NetError as error:
        log.event("join_failed", pool=pool, error=str(error))
        raise JoinFailed(str(error)) from error
    log.event("join_done", pool=pool, count=count)
    return count


async def join_with_own_name(
    join: Join, addresses: Sequence[str], taken_by: Callable[[], str | None], log: Log, *, name: str
) -> None:
    """Join the LAN, and see that no other living node goes by our name.

    The other may be this node's former life (a container that was replaced), not yet known to be dead; so its name is
    asked for again until the cluster can have found out. Raises JoinFailed when the name stays taken.
    """
    await join_once(join, addresses, log, pool="lan")
    for _ in range(NAME_ATTEMPTS):
        if taken_by() is None:
            return
        await asyncio.sleep(NAME_INTERVAL_S)
        try:
            await join(addresses)
        except NetError as error:
            raise JoinFailed(str(error)) from error
    if (other := taken_by()) is not None:
        raise JoinFailed(f"Node name {name!r} is taken by another node at {other}. Names must be unique!")


async def join_until_done(join: Join, addresses: Sequence[str], rules: RetryRules, log: Log, *, pool: str) -> None:
    """Join again and again. Raises JoinFailed after the last attempt, or when another living node has our ID."""
    attempt = twins = 0
    while True:
        try:
            await join_once(join, addresses, log, pool=pool)
            return
        except JoinFailed as error:
            attempt += 1
            twins = twins + 1 if OWN_ID_TAKEN in str(error) else 0
            if twins >= OWN_ID_ATTEMPTS:
                raise JoinFailed(f"{error}: is this data directory a copy of another's? Stopping") from error
            if rules.attempts_max and attempt > rules.attempts_max:
                raise JoinFailed(f"agent: max join {pool.upper()} retry exhausted, exiting") from error
            log.warn("Join cluster failed, will retry", cluster=pool.upper(), retry_interval=f"{rules.interval_s:g}s")
            await asyncio.sleep(rules.interval_s)
