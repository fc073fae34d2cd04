"""I11 from outside, over all keys: a write that began after another had ended has the higher ModifyIndex."""

from __future__ import annotations

from collections.abc import Iterable

from pyconsul_agent.sim.history import Operation, Violation

WRITES = ("put", "cas")
"""Not what is done to locks: a session that ends gives a key another index and leaves its value."""


def check(operations: Iterable[Operation]) -> None:
    """Raises Violation."""
    done = list(operations)
    shown: dict[tuple[str, str], int] = {}
    for each in done:
        value = each.read if each.f == "get" else each.value
        if each.outcome == "ok" and each.index and value is not None and not each.lock_index:
            shown[each.key, value] = each.index
    writes = [
        (shown[each.key, each.value], each)
        for each in done
        if each.f in WRITES and each.outcome == "ok" and (each.key, each.value) in shown
    ]
    writes.sort(key=lambda pair: pair[0])
    latest: Operation | None = None
    for _, write in writes:
        if latest is not None and write.end < latest.begin:
            raise Violation(f"I11 later write, lower index: {write} ended before {latest} began")
        if latest is None or write.begin > latest.begin:
            latest = write
