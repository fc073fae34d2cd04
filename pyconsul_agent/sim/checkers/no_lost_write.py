"""I10: an acknowledged write is in the log, once, between its request and its answer; one that failed is not."""

from __future__ import annotations

from pyconsul_agent.sim.history import Applied, History, Operation, Truth, Violation

VERBS = {"put": "set", "cas": "cas", "acquire": "lock", "release": "unlock"}


def check(history: History, truth: Truth) -> None:
    """Raises Violation."""
    written: dict[str, list[Applied]] = {}
    for _, applied, request in truth.key_writes():
        if request.op in VERBS.values():
            written.setdefault((request.dir_ent.value or b"").decode("utf-8", "replace"), []).append(applied)
    for operation in history.operations:
        if operation.f in VERBS:
            _check_write(operation, written.get(operation.value, []))
    _check_deletes(history, truth)


def _check_write(operation: Operation, found: list[Applied]) -> None:
    if len(found) > 1:
        raise Violation(f"I10 applied twice: {operation} at {[each.index for each in found]}")
    done = [each for each in found if each.result not in (False, None) or operation.f == "put"]
    if operation.outcome == "ok":
        if not done:
            raise Violation(f"I10 acknowledged write lost: {operation}")
        if not operation.applied_before < done[0].index <= operation.applied_after:
            raise Violation(f"I10 write outside its interval: {operation} at index {done[0].index}")
    elif operation.outcome == "fail" and done and not isinstance(done[0].result, Exception):
        raise Violation(f"I10 refused write was done: {operation} at index {done[0].index}")


def _check_deletes(history: History, truth: Truth) -> None:
    """Deletes carry no value: each acknowledged one needs an entry of its own in its interval."""
    entries: dict[str, list[int]] = {}
    for index, _, request in truth.key_writes():
        if request.op == "delete":
            entries.setdefault(request.dir_ent.key.decode("utf-8", "replace"), []).append(index)
    wanted = [each for each in history.operations if each.f == "delete" and each.outcome == "ok"]
    for operation in sorted(wanted, key=lambda each: each.applied_after):
        candidates = entries.get(operation.key, [])
        for index in candidates:
            if operation.applied_before < index <= operation.applied_after:
                candidates.remove(index)
                break
        else:
            raise Violation(f"I10 acknowledged delete lost: {operation}")
