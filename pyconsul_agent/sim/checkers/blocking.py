"""I13: a blocking query returns only with a newer index or when its time is over, and never later than that.

A read that went through a change of leader or of server may be answered anew, so it may be late by a hold time-out.
A server that replaces its state by a snapshot ends its waiting reads at once, as Consul does.
"""

from __future__ import annotations

from collections.abc import Sequence

from pyconsul_agent.sim.history import History, Violation

JITTER_FRACTION = 16
LATE_S = 20.0


def check(history: History, restored: Sequence[float] = ()) -> None:
    """`restored`: when some server installed a snapshot. Raises Violation."""
    for operation in history.operations:
        if operation.f != "get" or operation.outcome != "ok" or not operation.detail.startswith("wait "):
            continue
        wait = float(operation.detail.removeprefix("wait "))
        took = operation.end - operation.begin
        ended_by_restore = any(operation.begin <= at <= operation.end for at in restored)
        if operation.header == operation.guard and took < wait - 1e-6 and not ended_by_restore:
            raise Violation(f"I13 woken without a change: {operation}")
        if took > wait * (1 + 1 / JITTER_FRACTION) + LATE_S:
            raise Violation(f"I13 later than its deadline: {operation}")
