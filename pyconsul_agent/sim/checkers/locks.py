"""I12: a lock has one holder; its LockIndex counts acquisitions. P10: no session ends before its time."""

from __future__ import annotations

from dataclasses import dataclass

from pyconsul_agent.sim.history import History, Truth, Violation
from pyconsul_agent.structs.requests import KVSRequest

TTL_SLACK_S = 0.001


@dataclass(slots=True)
class _Lock:
    holder: str = ""


def check(history: History, truth: Truth) -> None:
    """Raises Violation."""
    _check_holders(truth)
    _check_fencing(history)


def _check_holders(truth: Truth) -> None:
    ended: dict[str, int] = {}
    for index, _, change in truth.session_writes():
        if change.op == "destroy":
            ended.setdefault(change.session.id, index)
    gone = {entry.index for entry in truth.entries.values() if entry.kind == 1}  # a node was deregistered
    failed = {entry.index for entry in truth.entries.values() if entry.kind == 0}  # a check may have become critical
    locks: dict[str, _Lock] = {}
    taken: dict[str, int] = {}
    for index, applied, request in truth.key_writes():
        key = request.dir_ent.key.decode("utf-8", "replace")
        lock = locks.setdefault(key, _Lock())
        if request.op == "lock" and applied.result is True:
            _require_free(lock, request, index, ended, gone | failed, taken.get(key, 0))
            lock.holder, taken[key] = request.dir_ent.session, index
        elif request.op == "unlock" and applied.result is True:
            if lock.holder != request.dir_ent.session:
                raise Violation(f"I12 released by another: {key} at {index}, held by {lock.holder or 'nobody'}")
            lock.holder = ""
        elif request.op == "delete":
            lock.holder = ""


def _require_free(
    lock: _Lock, request: KVSRequest, index: int, ended: dict[str, int], others: set[int], taken: int
) -> None:
    if lock.holder in ("", request.dir_ent.session):
        return
    if ended.get(lock.holder, index) < index or any(taken < other < index for other in others):
        return  # destroyed, or its node or check went
    raise Violation(
        f"I12 two holders: {request.dir_ent.key!r} is taken at {index} by {request.dir_ent.session},"
        f" held by {lock.holder}"
    )


def _check_fencing(history: History) -> None:
    """Reads of one key that follow each other: LockIndex never shrinks while the key was not made anew."""
    newest: dict[str, list[tuple[float, int, int]]] = {}
    for operation in history.operations:
        if operation.f != "get" or operation.outcome != "ok" or operation.mode == "stale" or operation.read is None:
            continue
        if not operation.key.startswith("lock/"):
            continue
        for end, index, lock_index in newest.get(operation.key, []):
            if end < operation.begin and index == operation.index and lock_index != operation.lock_index:
                raise Violation(f"I11 LockIndex changes without ModifyIndex: {operation}, was {lock_index}")
        newest.setdefault(operation.key, []).append((operation.end, operation.index, operation.lock_index))


def check_sessions(history: History, truth: Truth, *, ttl_s: float) -> None:
    """A session that nobody destroyed is not ended by its TTL before that is over. Raises Violation."""
    touched: dict[str, float] = {}
    for operation in history.operations:
        if operation.f in ("session", "renew") and operation.outcome == "ok":
            touched[operation.session] = max(touched.get(operation.session, 0.0), operation.begin)
    asked = {each.session for each in history.operations if each.f == "destroy"}
    for index, applied, request in truth.session_writes():
        identity = request.session.id
        if request.op != "destroy" or identity in asked or identity not in touched:
            continue
        renewals = [
            each.begin
            for each in history.operations
            if each.session == identity and each.f in ("session", "renew") and each.outcome == "ok"
            and each.end <= applied.at
        ]  # fmt: skip
        if renewals and applied.at < max(renewals) + ttl_s - TTL_SLACK_S:
            raise Violation(
                f"P10 session ended early: {identity} at {applied.at:.3f}, index {index}, {max(renewals):.3f}"
            )
