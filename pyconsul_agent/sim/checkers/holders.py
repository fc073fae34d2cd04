"""I12 and P10 from outside: what clients may conclude from their own answers about who holds a lock. No log is needed.

A session surely lives until its TTL after the last successful creation or renewal began, or until its destruction was
asked for. Its holder surely holds a lock from the answer to its acquisition until then, or until somebody asks for a
release or a deletion of the key. In that time nobody else acquires it and every read names the holder; where the
session ended instead of releasing, the lock delay comes on top.

A lock delay is local to each server, in Consul too: one that starts anew from a snapshot knows none. `starts` are the
times at which some server started; a delay with a start in it is not judged.

What a real Consul that leads may do is not judged; `consul` are the times at which it started, None without one. It
lets an acquisition pass that meets the end of the session, and acknowledges a renewal that meets it. Elected right
after its start its state may be behind, so that it calls sessions unknown that live, and its gossip may not know
everybody yet: it takes who is missing out of the catalog, which ends that node's sessions.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from pyconsul_agent.sim.history import Operation, Violation

FREEING = ("release", "delete")
AFTER_START_S = 10.0
"""So long after its start may a real Consul just have been elected."""


@dataclass(frozen=True, slots=True)
class Terms:
    """How a session was made, written in the `detail` of its creation: `ttl=10 delay=1 behavior=delete`."""

    ttl_s: float
    delay_s: float
    deletes: bool
    """Its end deletes the keys that it holds, so their LockIndex begins anew."""

    @classmethod
    def of(cls, detail: str) -> Terms:
        """Raises ValueError or KeyError for any other text."""
        words = dict(word.split("=", 1) for word in detail.split())
        return cls(float(words["ttl"]), float(words["delay"]), words.get("behavior") == "delete")


@dataclass(slots=True)
class _Session:
    terms: Terms
    touched: float
    """When the last successful renewal or the creation began."""
    asked_to_end: float = math.inf
    told_of_end: float = math.inf
    """When the first to ask for its end was answered."""

    @property
    def sure_until(self) -> float:
        return min(self.touched + self.terms.ttl_s, self.asked_to_end)


def check(
    operations: Iterable[Operation], starts: Sequence[float] = (), *, consul: Sequence[float] | None = None
) -> None:
    """Raises Violation."""
    done = [each for each in operations if each.f != "get" or each.mode != "stale"]
    sessions = _sessions(done)
    _check_not_early(done, consul)
    by_key: dict[str, list[Operation]] = defaultdict(list)
    for each in done:
        if each.key and each.f in ("acquire", "release", "delete", "get"):
            by_key[each.key].append(each)
    for of_key in by_key.values():
        _check_key(of_key, sessions, starts, races=consul is not None)
        _check_fencing(of_key, sessions)


def _sessions(operations: Sequence[Operation]) -> dict[str, _Session]:
    sessions: dict[str, _Session] = {}
    for each in sorted(operations, key=lambda each: each.begin):
        if each.f == "session" and each.outcome == "ok":
            sessions[each.session] = _Session(Terms.of(each.detail), each.begin)
        elif each.session in sessions and each.f == "renew" and each.outcome == "ok":
            sessions[each.session].touched = max(sessions[each.session].touched, each.begin)
        elif each.session in sessions and each.f == "destroy" and _may_have_happened(each):
            session = sessions[each.session]
            session.asked_to_end = min(session.asked_to_end, each.begin)
            if each.outcome == "ok":
                session.told_of_end = min(session.told_of_end, each.end)
    return sessions


def _may_have_happened(operation: Operation) -> bool:
    return operation.outcome in ("ok", "info", "open")


def _check_not_early(operations: Sequence[Operation], consul: Sequence[float] | None) -> None:
    """Who is told that a session is unknown while it must live has lost it before its time."""
    gone = [each for each in operations if each.f in ("renew", "acquire") and each.detail == "unknown session"]
    for each in gone:
        if any(0 <= each.end - start <= AFTER_START_S for start in consul or ()):
            continue
        before = [other for other in operations if other.session == each.session and other.end < each.begin]
        if consul is not None:
            before = _without_late_renewals(before)
        session = _sessions(before).get(each.session)
        asked = [
            other for other in operations
            if other.f == "destroy" and other.session == each.session and other.begin < each.end
        ]  # fmt: skip
        if session is not None and not asked and each.end < session.sure_until:
            raise Violation(f"P10 session ended early: {each}, alive until {session.sure_until:.3f} at least")


def _without_late_renewals(operations: Sequence[Operation]) -> list[Operation]:
    """Those of one session but for renewals that may have met its end, two TTLs after the touch before."""
    kept: list[Operation] = []
    touched, ttl_s = math.inf, 0.0
    for each in sorted(operations, key=lambda each: each.begin):
        if each.f == "renew" and each.outcome == "ok" and each.end >= touched + 2 * ttl_s:
            continue
        if each.f == "session" and each.outcome == "ok":
            ttl_s = Terms.of(each.detail).ttl_s
        if each.f in ("session", "renew") and each.outcome == "ok":
            touched = each.begin
        kept.append(each)
    return kept


def _check_key(
    operations: Sequence[Operation], sessions: dict[str, _Session], starts: Sequence[float], *, races: bool
) -> None:
    taken = [each for each in operations if each.f == "acquire" and each.outcome == "ok"]
    freed = [each for each in operations if each.f in FREEING and _may_have_happened(each)]
    for acquired in taken:
        session = sessions.get(acquired.session)
        if session is None:
            continue
        until = session.sure_until
        given_up = min((each.begin for each in freed if _may_free(each, acquired)), default=math.inf)
        # Whichever came first freed the lock; only after the session's own end does its delay count.
        held_until, blocked_until = min(until, given_up), min(until + session.terms.delay_s, given_up)
        for other in operations:
            if other.begin < acquired.end or other.session == acquired.session:
                continue
            if other.f == "get" and other.outcome == "ok" and other.end < held_until and other.detail[:4] != "wait":
                raise Violation(f"I12 holder unknown: {other}, though {acquired} holds until {held_until:.3f}")
            if other.f != "acquire" or other.outcome != "ok" or other.end >= blocked_until:
                continue
            if other.end < held_until:
                raise Violation(f"I12 two holders: {other}, though {acquired} holds until {held_until:.3f}")
            if races and other.begin < session.told_of_end:
                continue
            if not any(acquired.end <= start <= other.end for start in starts):
                raise Violation(f"I12 lock delay: {other}, blocked until {blocked_until:.3f} by {acquired}")


def _may_free(freeing: Operation, acquired: Operation) -> bool:
    """An unknown outcome may still come about later."""
    whose = freeing.f == "delete" or freeing.session == acquired.session
    return whose and (freeing.outcome != "ok" or freeing.end > acquired.begin)


def _check_fencing(operations: Sequence[Operation], sessions: Mapping[str, _Session]) -> None:
    """Where the key was never deleted LockIndex never shrinks, grows with the holder, counts only what was asked."""
    if any(each.f == "delete" for each in operations):
        return
    if any(each.session in sessions and sessions[each.session].terms.deletes for each in operations):
        return
    tried = sorted(each.begin for each in operations if each.f == "acquire" and each.outcome in ("ok", "info"))
    holders = {each.session for each in operations if each.f == "acquire" and each.outcome in ("ok", "info")}
    reads = [each for each in operations if each.f == "get" and each.outcome == "ok" and each.read is not None]
    reads.sort(key=lambda each: each.end)
    for number, read in enumerate(reads):
        if read.lock_index > sum(begin < read.end for begin in tried):
            raise Violation(f"I12 LockIndex {read.lock_index} of {len(tried)} acquisitions: {read}")
        if read.session and read.session not in holders:
            raise Violation(f"I12 holder who never asked: {read}")
        before = [each for each in reads[:number] if each.end < read.begin]
        for earlier in before:
            grown = read.lock_index > earlier.lock_index
            changed = bool(read.session and earlier.session) and read.session != earlier.session
            if read.lock_index < earlier.lock_index or (changed and not grown):
                raise Violation(f"I12 LockIndex does not grow: {read} after {earlier}")
