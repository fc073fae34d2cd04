"""Faults put into a history: what a wrong server would have answered. The checkers must find each of them.

Every plant changes what one or a few operations were told, as little as such a fault would show.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import replace

from pyconsul_agent.sim.checkers.holders import Terms
from pyconsul_agent.sim.history import Operation

Plant = Callable[[list[Operation], random.Random], bool]


def _strong_reads(operations: Sequence[Operation]) -> list[Operation]:
    return [
        each for each in operations
        if each.f == "get" and each.mode == "consistent" and each.outcome == "ok" and "lock" not in each.key
    ]  # fmt: skip


def stale_read(operations: list[Operation], rng: random.Random) -> bool:
    """A consistent read shows what another consistent read had shown before a third one saw something newer."""
    reads = sorted(_strong_reads(operations), key=lambda each: each.begin)
    for last in rng.sample(reads, len(reads)):
        before = [each for each in reads if each.key == last.key and each.end < last.begin and each.read is not None]
        for old in before:
            if any(old.end < each.begin and each.end < last.begin and each.index > old.index for each in before):
                last.read, last.index, last.header = old.read, old.index, max(last.header, old.header)
                return True
    return False


def lost_write(operations: list[Operation], rng: random.Random) -> bool:
    """An acknowledged write is nowhere to be seen: who read it sees what was before."""
    reads = sorted(_strong_reads(operations), key=lambda each: each.begin)
    for read in rng.sample(reads, len(reads)):
        if read.read is None:
            continue
        write = next((each for each in operations if each.f in ("put", "cas") and each.value == read.read), None)
        before = [
            each for each in reads
            if each.key == read.key and each.read is not None and write is not None and each.end < write.begin
        ]  # fmt: skip
        if write is None or write.outcome != "ok" or not before or write.end > read.begin:
            continue
        for each in operations:
            if each.f == "get" and each.key == read.key and each.read == read.read:
                each.read, each.index = before[-1].read, before[-1].index
        return True
    return False


def phantom_read(operations: list[Operation], rng: random.Random) -> bool:
    """A read shows what was refused."""
    for write in rng.sample(operations, len(operations)):
        if write.f == "cas" and write.detail == "refused":
            for read in operations:
                if read.f == "get" and read.key == write.key and read.outcome == "ok" and read.begin > write.end:
                    read.read, read.index = write.value, max(read.header, 1)
                    return True
    return False


def double_cas(operations: list[Operation], rng: random.Random) -> bool:
    """Two writes pass the same guard: a refused one is told that it was done."""
    shown = {each.index for each in operations if each.outcome == "ok" and each.index}
    passed = {(each.key, each.guard) for each in operations if each.f == "cas" and each.outcome == "ok"}
    passed = {each for each in passed if each[1] in shown}
    for each in rng.sample(operations, len(operations)):
        if each.f == "cas" and each.detail == "refused" and (each.key, each.guard) in passed:
            each.outcome, each.detail = "ok", ""
            return True
    return False


def index_back(operations: list[Operation], rng: random.Random) -> bool:
    """A transaction is told an index below that of a write that had ended before it began."""
    done = [each for each in operations if each.f in ("put", "cas") and each.outcome == "ok" and each.index]
    for each in rng.sample(done, len(done)):
        before = [other for other in done if other.end < each.begin]
        if before and not any(other.f == "get" and other.read == each.value for other in operations):
            each.index = min(other.index for other in before) - 1
            return True
    return False


def _acquired(operations: Sequence[Operation]) -> list[Operation]:
    return [each for each in operations if each.f == "acquire" and each.outcome == "ok"]


def double_lock(operations: list[Operation], rng: random.Random) -> bool:
    """Somebody is given a lock that another holds and gives back only later."""
    for holding in rng.sample(_acquired(operations), len(_acquired(operations))):
        until = min((each.begin for each in operations if _gives_back(each, holding)), default=holding.end)
        for each in operations:
            if _was_refused(each, holding) and holding.end < each.begin and each.end < min(until, holding.begin + 10):
                each.outcome, each.detail = "ok", ""
                return True
    return False


def _was_refused(each: Operation, holding: Operation) -> bool:
    return each.f == "acquire" and each.key == holding.key and each.detail == "refused"


def _gives_back(each: Operation, holding: Operation) -> bool:
    return each.f in ("release", "destroy") and each.session == holding.session and each.begin > holding.end


def lock_delay(operations: list[Operation], rng: random.Random) -> bool:
    """A lock whose holder's session was destroyed is given to another before its delay is over."""
    delays = {each.session: Terms.of(each.detail).delay_s for each in operations if each.f == "session" and each.detail}
    ends = {each.session: each.begin for each in operations if each.f == "destroy" and each.outcome == "ok"}
    for holding in rng.sample(_acquired(operations), len(_acquired(operations))):
        end, delay = ends.get(holding.session), delays.get(holding.session, 0)
        if end is None or not delay or any(_gives_back(each, holding) and each.f == "release" for each in operations):
            continue
        for each in operations:
            if _was_refused(each, holding) and end < each.begin and each.end < end + delay:
                each.outcome, each.detail = "ok", ""
                return True
    return False


def early_expiry(operations: list[Operation], rng: random.Random) -> bool:
    """A session is said to be unknown right after it was renewed."""
    renewals = [each for each in operations if each.f == "renew" and each.outcome == "ok"]
    for each in rng.sample(renewals, len(renewals)):
        created = [
            other for other in operations
            if other.f == "session" and other.session == each.session and other.end < each.begin
            and each.end < other.begin + Terms.of(other.detail).ttl_s
        ]  # fmt: skip
        if created:
            each.outcome, each.detail = "fail", "unknown session"
            return True
    return False


def fencing(operations: list[Operation], rng: random.Random) -> bool:
    """A read of a lock shows a LockIndex that is lower than before."""
    reads = [each for each in operations if each.f == "get" and each.outcome == "ok" and each.lock_index]
    for each in rng.sample(reads, len(reads)):
        if "/del" not in each.key and any(r.key == each.key and r.end < each.begin for r in reads):
            each.lock_index -= 1
            if any(r.key == each.key and r.end < each.begin and r.lock_index > each.lock_index for r in reads):
                return True
            each.lock_index += 1
    return False


def missed_watch(operations: list[Operation], rng: random.Random) -> bool:
    """A watcher is told a new index with the old state."""
    watches = [
        each for each in operations
        if each.f == "get" and each.detail.startswith("wait") and each.outcome == "ok" and each.read is not None
    ]  # fmt: skip
    for each in rng.sample(watches, len(watches)):
        earlier = [
            other for other in watches
            if other.worker == each.worker and other.end <= each.begin and other.index < each.index
        ]  # fmt: skip
        write = next((other for other in operations if other.f in ("put", "cas") and other.value == each.read), None)
        shown = [other for other in operations if other is not each and other.read == each.read]
        if earlier and shown and write is not None and write.outcome == "ok":
            each.read, each.index = earlier[-1].read, earlier[-1].index
            return True
    return False


def watch_back(operations: list[Operation], rng: random.Random) -> bool:
    """A watcher's index goes back."""
    watches = [each for each in operations if each.f == "get" and each.detail.startswith("wait")]
    for each in rng.sample(watches, len(watches)):
        chain = [other for other in watches if other.worker == each.worker and other.end <= each.begin]
        if each.outcome == "ok" and each.mode == "default" and chain and chain[-1].header > 1:
            each.header = chain[-1].header - 1
            each.index = min(each.index, each.header)
            return True
    return False


PLANTS: dict[str, Plant] = {
    "stale-read": stale_read,
    "lost-write": lost_write,
    "phantom-read": phantom_read,
    "double-cas": double_cas,
    "index-back": index_back,
    "double-lock": double_lock,
    "lock-delay": lock_delay,
    "early-expiry": early_expiry,
    "fencing": fencing,
    "missed-watch": missed_watch,
    "watch-back": watch_back,
}


def planted(name: str, operations: Sequence[Operation], rng: random.Random) -> list[Operation] | None:
    """A copy with the fault in it; None where this history has no place for it."""
    copied = [replace(each) for each in operations]
    return copied if PLANTS[name](copied, rng) else None
