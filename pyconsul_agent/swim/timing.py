"""The formulas that make the failure detector scale with the pool. Integer nanoseconds in and out, exact as in Go."""

from __future__ import annotations

import math
from functools import lru_cache

from pyconsul_agent.swim.config import PUSH_PULL_SCALE_THRESHOLD

NANOSECONDS = 1_000_000_000
MILLISECOND = 1_000_000
SIZES_MAX = 256
"""Pool sizes whose number of extra pings is remembered."""
LOOKED_AT_INTERVALS, OVERLOOKED_CHANCE_MAX = 3, 1e-6
"""Within so many probe intervals somebody pings a member that died, but for this chance."""


def retransmit_limit(mult: int, node_count: int) -> int:
    """How often one broadcast is sent."""
    return mult * math.ceil(math.log10(node_count + 1))


def suspicion_timeout_ns(mult: int, node_count: int, interval_ns: int) -> int:
    """The least time a node stays suspect."""
    scale = max(1.0, math.log10(max(1, node_count)))
    return mult * int(scale * 1000) * interval_ns // 1000


def suspicion_span_ns(confirmations: int, needed: int, least_ns: int, most_ns: int) -> int:
    """How long a suspicion runs in all after `confirmations` of `needed` came in."""
    if needed < 1:
        return least_ns
    fraction = math.log(confirmations + 1.0) / math.log(needed + 1.0)
    most, least = most_ns / NANOSECONDS, least_ns / NANOSECONDS
    return max(least_ns, math.floor(1000.0 * (most - fraction * (most - least))) * MILLISECOND)


def push_pull_interval_ns(interval_ns: int, node_count: int) -> int:
    """Large pools push/pull less often."""
    if node_count <= PUSH_PULL_SCALE_THRESHOLD:
        return interval_ns
    steps = math.ceil(math.log2(node_count) - math.log2(PUSH_PULL_SCALE_THRESHOLD)) + 1
    return steps * interval_ns


def overlooked_chance(node_count: int, extra: int) -> float:
    """That nobody pings one member within `LOOKED_AT_INTERVALS`: all others probe one after the other in their own
    order, and ping `extra` random ones with each probe.
    """
    others = node_count - 1
    in_turn = max(0.0, 1.0 - LOOKED_AT_INTERVALS / others)
    by_chance = max(0.0, 1.0 - extra / others) ** LOOKED_AT_INTERVALS
    return float((in_turn * by_chance) ** (others - 1))


@lru_cache(maxsize=SIZES_MAX)
def extra_pings(node_count: int, most: int) -> int:
    """How many extra pings go with a probe: the fewest that make it unlikely enough that a dead member is overlooked.

    None where the probes alone suffice. It grows no further with the pool, since the others grow too.
    """
    if node_count < 3 or most < 1:
        return 0
    return next((extra for extra in range(most) if overlooked_chance(node_count, extra) < OVERLOOKED_CHANCE_MAX), most)
