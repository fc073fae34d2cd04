"""I13: a blocking query returns only with a newer index or when its time is over, and never later than that.

A read that went through a change of leader or of server may be answered anew, so it may be late by a hold time-out.
"""

from __future__ import annotations

from pyconsul_agent.sim.history import History, Violation

JITTER_FRACTION = 16
LATE_S = 20.0


def check(history: History) -> None:
    """Raises Violation."""
    for operation in history.operations:
        if operation.f != "get" or operation.outcome != "ok" or not operation.detail.startswith("wait "):
            continue
        wait = float(operation.detail.removeprefix("wait "))
        took = operation.end - operation.begin
        if operation.header == operation.guard and took < wait - 1e-6:
            raise Violation(f"I13 woken without a change: {operation}")
        if took > wait * (1 + 1 / JITTER_FRACTION) + LATE_S:
            raise Violation(f"I13 later than its deadline: {operation}")
