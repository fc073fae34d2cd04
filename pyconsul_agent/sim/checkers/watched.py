"""I13 from outside: who watches a key by blocking queries misses no change and never sees an index go back.

Three rules, for the answers of one watcher, each asked with the index of the one before (`guard`):

1. not stale: X-Consul-Index never goes back; stale: not at one server in one life of it (`starts`);
2. an answer at index H shows what the key was at H: no known write has an index above the one shown and up to H;
3. in calm (`calm` are intervals without faults), an answer that shows an old state does not come later than
   LATE_S after a newer write was acknowledged: a change that woke nobody is seen here, though the time-out hides it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise

from pyconsul_agent.sim.history import Operation, Violation

LATE_S = 4.0

Starts = Mapping[str, Sequence[float]]
"""Server to the times at which it started or installed a snapshot."""


def check(operations: Iterable[Operation], starts: Starts, calm: Sequence[tuple[float, float]]) -> None:
    """All of one key; those of its watchers are `get` with `detail` "wait N". Raises Violation."""
    done = sorted(operations, key=lambda each: each.begin)
    chains: dict[int, list[Operation]] = defaultdict(list)
    for each in done:
        if each.f == "get" and each.detail.startswith("wait") and each.outcome == "ok":
            chains[each.worker].append(each)
    writes = _writes(done)
    for chain in chains.values():
        for answer in chain:
            _check_shown(answer, writes)
            _check_late(answer, writes, calm)
        for before, after in pairwise(chain):
            _check_order(before, after, starts)


def _writes(operations: Sequence[Operation]) -> list[tuple[int, Operation]]:
    """(ModifyIndex, write) of those whose index somebody saw."""
    seen = {
        each.read: each.index
        for each in operations
        if each.f == "get" and each.outcome == "ok" and each.read is not None
    }
    found = []
    for each in operations:
        if each.f in ("put", "cas") and each.outcome == "ok":
            index = each.index or seen.get(each.value, 0)
            if index:
                found.append((index, each))
    return sorted(found, key=lambda pair: pair[0])


def _check_shown(answer: Operation, writes: Sequence[tuple[int, Operation]]) -> None:
    if answer.read is None:
        return  # a deletion has no index that anybody was told
    for index, write in writes:
        if answer.index < index <= answer.header:
            raise Violation(f"I13 missed change: {answer}, though {write} has index {index}")


def _check_late(
    answer: Operation, writes: Sequence[tuple[int, Operation]], calm: Sequence[tuple[float, float]]
) -> None:
    if answer.guard is None or not any(begin <= answer.begin and answer.end <= end for begin, end in calm):
        return
    for index, write in writes:
        if index > answer.header and write.end > answer.begin and write.end + LATE_S < answer.end:
            raise Violation(f"I13 not woken: {answer}, though {write} has index {index}")


def _check_order(before: Operation, after: Operation, starts: Starts) -> None:
    if after.header >= before.header:
        return
    if after.mode == "stale" or before.mode == "stale":
        if after.node != before.node:
            return
        if any(before.begin <= start <= after.end for start in starts.get(after.node, ())):
            return
    raise Violation(f"I13 index goes back: {after} after {before.header}")
