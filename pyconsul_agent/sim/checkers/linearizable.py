"""P2: the keys are linearizable. Index-assisted: the log gives the order of writes, so only reads must be placed.

A read that is not stale must show what the key was at some index between the newest that an operation completed
before it had shown or made (its floor) and the newest that any server had applied when it ended. A stale read must show
what the key was at some time. Conditional writes must have been done exactly where their condition held.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass

from pyconsul_agent.sim.history import History, Operation, Truth, Violation

REGISTER_OPERATIONS = ("set", "cas", "delete", "delete-cas")


@dataclass(frozen=True, slots=True)
class Version:
    """What a key was from `index` on; `value` None: it was not there."""

    index: int
    value: str | None


def versions_of(truth: Truth) -> dict[str, list[Version]]:
    """Each key's history, replayed by a model of a few lines. Raises Violation where the state machine disagrees.

    Keys that were ever locked are left out: what sessions do to them is not in their own entries.
    """
    versions: dict[str, list[Version]] = {}
    locked: set[str] = set()
    for index, applied, request in truth.key_writes():
        key = request.dir_ent.key.decode("utf-8", "replace")
        history = versions.setdefault(key, [Version(0, None)])
        now, guard = history[-1], request.dir_ent.modify_index
        if request.op not in REGISTER_OPERATIONS:
            locked.add(key)
            continue
        if key in locked:
            continue
        holds = guard == (now.index if now.value is not None else 0)
        if request.op in ("cas", "delete-cas") and (applied.result is True) != (
            holds or (request.op == "delete-cas" and now.value is None)
        ):
            raise Violation(f"P2 wrong condition: {request.op} of {key} guard {guard} at {index}: {applied.result!r}")
        if request.op == "set" or (request.op == "cas" and holds):
            history.append(Version(index, (request.dir_ent.value or b"").decode("utf-8", "replace")))
        elif now.value is not None and (request.op == "delete" or (request.op == "delete-cas" and holds)):
            history.append(Version(index, None))
    return {key: history for key, history in versions.items() if key not in locked}


def check(history: History, truth: Truth) -> None:
    """Raises Violation."""
    versions = versions_of(truth)
    made = {
        (request.dir_ent.value or b"").decode("utf-8", "replace"): index for index, _, request in truth.key_writes()
    }
    ended: list[tuple[float, int]] = []
    for operation in history.operations:
        shown = _shown(operation, made)
        if shown:
            ended.append((operation.end, shown))
    ended.sort()
    times: list[float] = []
    floors: list[int] = []
    for end, shown in ended:
        times.append(end)
        floors.append(max(shown, floors[-1] if floors else 0))
    for operation in history.operations:
        if operation.f != "get" or operation.outcome != "ok" or operation.key.startswith("lock/"):
            continue
        before = bisect_right(times, operation.begin - 1e-9)
        floor = floors[before - 1] if before and operation.mode != "stale" else 0
        _check_read(operation, versions.get(operation.key, [Version(0, None)]), floor)


def _shown(operation: Operation, made: dict[str, int]) -> int:
    """The index that others must see at least, once this operation has ended."""
    if operation.outcome != "ok":
        return 0
    if operation.f == "get":
        return operation.index if operation.mode != "stale" else 0
    return made.get(operation.value, 0) if operation.f in ("put", "cas", "acquire", "release") else 0


def _check_read(operation: Operation, history: list[Version], floor: int) -> None:
    for number, version in enumerate(history):
        until = history[number + 1].index if number + 1 < len(history) else None
        if version.index > operation.applied_after or (until is not None and until <= floor):
            continue
        if version.value == operation.read and (version.value is None or version.index == operation.index):
            return
    shown = [version for version in history if version.index <= operation.applied_after][-4:]
    raise Violation(f"P2 not linearizable: {operation}, floor {floor}, the key was {shown}")
