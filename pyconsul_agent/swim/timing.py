"""The formulas that make the failure detector scale with the pool. Integer nanoseconds in and out, exact as in Go."""

from __future__ import annotations

import math

from pyconsul_agent.swim.config import PUSH_PULL_SCALE_THRESHOLD

NANOSECONDS = 1_000_000_000
MILLISECOND = 1_000_000


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
