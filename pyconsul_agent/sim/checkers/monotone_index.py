"""P2: indexes that reads show do not go back: a key's ModifyIndex, and X-Consul-Index of reads that are not stale."""

from __future__ import annotations

from pyconsul_agent.sim.history import History, Violation


def check(history: History) -> None:
    """Compares each read with those of the same key that had ended before it began. Raises Violation."""
    reads: dict[str, list[tuple[float, int, int]]] = {}
    for operation in history.operations:
        if operation.f != "get" or operation.outcome != "ok" or operation.mode == "stale":
            continue
        before = [each for each in reads.get(operation.key, []) if each[0] < operation.begin]
        if operation.read is not None:
            newest = max((each[1] for each in before), default=0)
            if operation.index < newest:
                raise Violation(f"P2 ModifyIndex goes back: {operation} after {newest}")
            if operation.header < max(operation.index, 1):
                raise Violation(f"P2 X-Consul-Index below ModifyIndex: {operation}")
        header = max((each[2] for each in before), default=0)
        if operation.header < header:
            raise Violation(f"P2 X-Consul-Index goes back: {operation} after {header}")
        reads.setdefault(operation.key, []).append((operation.end, operation.index, operation.header))
