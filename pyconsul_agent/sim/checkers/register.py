"""P2 from outside: the operations on one key have an order that a single copy could have shown. No log is needed.

Wing and Gong's search with Lowe's memory of what was tried, over the state (value, ModifyIndex, highest index so far).
Values are unique, so a read that shows an index tells the index of the write it saw; writes of known index can only be
placed in the order of their indexes, which keeps the search short. What nobody knows the outcome of (`info`) may have
happened at any time after it began, or never. A stale read needs only to show something that was there at some time.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from pyconsul_agent.sim.history import Operation, Violation

STEPS_MAX = 500_000
"""More than any key of ours needed by a factor of a hundred; a search that is longer is a failure, not a pass."""
WRITES = ("put", "cas", "delete", "delete-cas")


@dataclass(frozen=True, slots=True)
class _Key:
    value: str | None = None
    index: int | None = 0
    """None: of a write whose index nobody saw."""
    floor: int = 0


@dataclass(slots=True)
class _Step:
    operation: Operation
    bit: int
    end: float
    needed: bool
    index: int | None
    """Of a write: its ModifyIndex where it is known."""
    refused: bool


def check(operations: Iterable[Operation]) -> None:
    """All of one key, in any order. Raises Violation."""
    done = [each for each in operations if each.f in WRITES or each.f == "get"]
    indexes = _indexes(done)
    _check_stale(done, indexes)
    steps = _steps(done, indexes)
    if not _search(steps):
        shown = "\n".join(f"  {step.operation}" for step in steps[:40])
        raise Violation(f"P2 not linearizable: {done[0].key}\n{shown}")


def _indexes(operations: Sequence[Operation]) -> dict[str, int]:
    """Value to ModifyIndex, as transactions and reads showed it. Raises Violation where they contradict."""
    found: dict[str, int] = {}
    for operation in operations:
        value = operation.read if operation.f == "get" else operation.value
        if operation.outcome != "ok" or not operation.index or value is None:
            continue
        if found.setdefault(value, operation.index) != operation.index:
            raise Violation(f"P2 two indexes of one write: {operation} and {found[value]}")
    return found


def _check_stale(operations: Sequence[Operation], indexes: dict[str, int]) -> None:
    """Every value that was read had been asked for before, and not been refused."""
    written = {each.value: each for each in operations if each.f in ("put", "cas")}
    for operation in operations:
        if operation.f != "get" or operation.outcome != "ok" or operation.read is None:
            continue
        write = written.get(operation.read)
        if write is None or write.outcome == "fail" or write.begin > operation.end:
            raise Violation(f"I10 read what was not written: {operation}")


def _steps(operations: Sequence[Operation], indexes: dict[str, int]) -> list[_Step]:
    steps: list[_Step] = []
    for operation in sorted(operations, key=lambda each: each.begin):
        refused = operation.outcome == "fail" and operation.detail == "refused"
        if operation.f == "get":
            if operation.outcome != "ok" or operation.mode == "stale":
                continue
        elif operation.outcome == "fail" and not refused:
            continue
        known = indexes.get(operation.value) if operation.f in ("put", "cas") else None
        sure = operation.outcome == "ok" or refused
        steps.append(
            _Step(
                operation,
                1 << len(steps),
                operation.end if sure else math.inf,
                sure or known is not None,
                known,
                refused,
            )
        )
    return steps


def _search(steps: Sequence[_Step]) -> bool:
    """Whether some order explains everything. Depth first; what was tried from a state is never tried again."""
    needed = sum(step.bit for step in steps if step.needed)
    by_index = sorted((step for step in steps if step.index is not None), key=lambda step: step.index or 0)
    known = {step.index for step in steps if step.index is not None}
    stack: list[tuple[int, _Key]] = [(0, _Key())]
    tried: set[tuple[int, _Key]] = set()
    while stack:
        at = stack.pop()
        if at in tried:
            continue
        tried.add(at)
        if len(tried) > STEPS_MAX:
            raise Violation(f"P2 not decided: {steps[0].operation.key} after {STEPS_MAX} steps")
        placed, key = at
        if placed & needed == needed:
            return True
        following = next((step for step in by_index if not placed & step.bit), None)
        earliest = min(step.end for step in steps if step.needed and not placed & step.bit)
        ready: list[tuple[bool, float, int, _Key]] = []
        for step in steps:
            if step.operation.begin > earliest:
                break
            if placed & step.bit or (step.index is not None and step is not following):
                continue
            after = _apply(key, step, known)
            if after is not None:
                ready.append((step.needed, -step.end, placed | step.bit, after))
        ready.sort(key=lambda each: each[:2])  # the last is tried first: what must happen, and soon
        stack.extend((bits, after) for _, _, bits, after in ready)
    return False


def _apply(key: _Key, step: _Step, known: set[int]) -> _Key | None:
    """The key after it; None where it cannot have happened now with this answer."""
    operation = step.operation
    if operation.f == "get":
        same = operation.read == key.value and (key.value is None or operation.index == key.index)
        return key if same else None
    if operation.f in ("cas", "delete-cas"):
        holds = _guard_holds(key, operation, known)
        if step.refused:
            return key if holds is not True else None
        if holds is False:
            return None  # of one with unknown outcome too: not to place it is the same
    if operation.f.startswith("delete"):
        return _Key(None, 0, key.floor)
    if step.index is not None and step.index <= key.floor:
        return None
    return _Key(operation.value, step.index, step.index or key.floor)


def _guard_holds(key: _Key, operation: Operation, known: set[int]) -> bool | None:
    """None: nobody saw the index of what is there, and the guard may be it."""
    if key.value is None:
        return operation.f == "delete-cas" or operation.guard == 0
    if key.index is not None:
        return operation.guard == key.index
    possible = bool(operation.guard) and operation.guard not in known and (operation.guard or 0) > key.floor
    return None if possible else False
