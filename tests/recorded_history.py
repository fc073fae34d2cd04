"""Histories as clients of a right store would have recorded them: a store of a few lines, operations with chance times.

Each operation takes effect at one moment between its beginning and its end; one whose outcome its client never learned
takes effect later, or never.
"""

from __future__ import annotations

import heapq
import random
from dataclasses import dataclass, field

from pyconsul_agent.sim.history import Operation

TTL_S = 10.0
WAIT_S = 5.0


@dataclass
class Row:
    value: str | None = None
    index: int = 0
    holder: str = ""
    lock_index: int = 0
    header: int = 1


@dataclass
class Store:
    """Keys and sessions; `index` is the last that was given."""

    index: int = 10
    rows: dict[str, Row] = field(default_factory=dict)
    sessions: dict[str, tuple[float, float]] = field(default_factory=dict)
    """Session to (when it ends, its lock delay)."""
    blocked: dict[str, float] = field(default_factory=dict)

    def row(self, key: str) -> Row:
        return self.rows.setdefault(key, Row())

    def write(self, key: str, value: str | None) -> None:
        self.index += 1
        row = self.row(key)
        row.value, row.index, row.header = value, self.index if value is not None else 0, self.index

    def end(self, session: str, now: float) -> None:
        _, delay = self.sessions.pop(session)
        for key, row in self.rows.items():
            if row.holder == session:
                row.holder = ""
                self.write(key, row.value)
                self.blocked[key] = now + delay

    def apply(self, operation: Operation, now: float) -> None:
        """Do it; a client that hears of it hears what is written into `operation`."""
        for session in [name for name, (until, _) in self.sessions.items() if until <= now]:
            self.end(session, now)
        getattr(self, "_" + operation.f.replace("-", "_"))(operation, now)

    def _put(self, operation: Operation, now: float) -> None:
        self.write(operation.key, operation.value)
        operation.outcome, operation.index = "ok", self.index if operation.number % 2 else 0

    def _cas(self, operation: Operation, now: float) -> None:
        if self.row(operation.key).index == operation.guard:
            self._put(operation, now)
        else:
            operation.outcome, operation.detail = "fail", "refused"

    def _delete(self, operation: Operation, now: float) -> None:
        operation.outcome = "ok"
        if self.row(operation.key).value is not None:
            self.write(operation.key, None)

    def _get(self, operation: Operation, now: float) -> None:
        row = self.row(operation.key)
        operation.outcome, operation.read, operation.index, operation.header = "ok", row.value, row.index, row.header
        operation.session, operation.lock_index = row.holder, row.lock_index

    def _session(self, operation: Operation, now: float) -> None:
        delay = float(operation.number % 3)
        operation.outcome, operation.session = "ok", f"session-{operation.number}"
        operation.detail = f"ttl={TTL_S} delay={delay} behavior=release"
        self.sessions[operation.session] = (now + 1.5 * TTL_S, delay)

    def _renew(self, operation: Operation, now: float) -> None:
        if operation.session in self.sessions:
            operation.outcome = "ok"
            self.sessions[operation.session] = (now + 1.5 * TTL_S, self.sessions[operation.session][1])
        else:
            operation.outcome, operation.detail = "fail", "unknown session"

    def _destroy(self, operation: Operation, now: float) -> None:
        operation.outcome = "ok"
        if operation.session in self.sessions:
            self.end(operation.session, now)

    def _acquire(self, operation: Operation, now: float) -> None:
        row = self.row(operation.key)
        if operation.session not in self.sessions:
            operation.outcome, operation.detail = "fail", "unknown session"
        elif row.holder not in ("", operation.session) or self.blocked.get(operation.key, 0.0) > now:
            operation.outcome, operation.detail = "fail", "refused"
        else:
            row.lock_index += row.holder != operation.session
            row.holder, operation.outcome = operation.session, "ok"
            self.write(operation.key, operation.value)

    def _release(self, operation: Operation, now: float) -> None:
        row = self.row(operation.key)
        if row.holder and row.holder == operation.session:
            row.holder, operation.outcome = "", "ok"
            self.write(operation.key, operation.value)
        else:
            operation.outcome, operation.detail = "fail", "refused"


class Recording:
    """Six clients of three keys, three of two locks and two watchers, for `seconds` of their time."""

    def __init__(self, seed: int, seconds: float = 25.0) -> None:
        self.operations: list[Operation] = []
        self._random = random.Random(seed)
        self._store = Store()
        self._heap: list[tuple[float, int, Operation]] = []
        self._waiting: list[tuple[float, Operation]] = []
        self._sessions: dict[int, str] = {}
        self._held: dict[int, str] = {}
        self._headers: dict[int, int] = {}
        for worker in range(11):
            self._next(worker, self._random.random())
        while self._heap and self._heap[0][0] < seconds:
            self._step()
        self.operations = [each for each in self.operations if each.outcome != "open"]

    def _step(self) -> None:
        now, _, operation = heapq.heappop(self._heap)
        if operation.outcome == "info":
            late = Operation(number=0, worker=0, node="", f=operation.f, key=operation.key, value=operation.value)
            late.guard, late.session = operation.guard, operation.session
            self._store.apply(late, now)
        elif operation.detail.startswith("wait"):
            self._watch(operation, now)
        else:
            self._store.apply(operation, now)
            operation.end = now + self._random.expovariate(8)
            self._next(operation.worker, operation.end + self._random.expovariate(3))
        self._wake(now)

    def _watch(self, operation: Operation, now: float) -> None:
        if self._store.row(operation.key).header > (operation.guard or 0) or now >= operation.begin + WAIT_S:
            self._store.apply(operation, now)
            operation.end = now + 0.01
            self._headers[operation.worker] = operation.header
            self._next(operation.worker, operation.end)
        elif all(other is not operation for _, other in self._waiting):
            self._waiting.append((now, operation))
            heapq.heappush(self._heap, (operation.begin + WAIT_S, len(self.operations), operation))

    def _wake(self, now: float) -> None:
        for each in list(self._waiting):
            operation = each[1]
            if operation.outcome != "open":
                self._waiting.remove(each)
            elif self._store.row(operation.key).header > (operation.guard or 0):
                self._waiting.remove(each)
                self._heap = [other for other in self._heap if other[2] is not operation]
                heapq.heapify(self._heap)
                self._watch(operation, now)

    def _next(self, worker: int, begin: float) -> None:
        number = len(self.operations)
        operation = Operation(
            number=number, worker=worker, node=f"s{1 + number % 3}", f="get", begin=begin, value=f"{worker}.{number}"
        )
        if worker < 6:
            self._register(operation)
        elif worker < 9:
            self._lock(operation)
        else:
            operation.key, operation.mode, operation.value = f"key/{worker % 3}", "default", ""
            operation.guard, operation.detail = self._headers.get(worker, 0), f"wait {WAIT_S:.0f}"
        self.operations.append(operation)
        effect = begin + self._random.expovariate(6)
        if operation.f in ("put", "cas", "delete", "release") and self._random.random() < 0.05:
            operation.outcome, operation.end = "info", begin + 1
            self._next(worker, begin + 1.5)
            effect += self._random.expovariate(0.5)
            if self._random.random() < 0.5:
                return
        heapq.heappush(self._heap, (effect, number, operation))

    def _register(self, operation: Operation) -> None:
        operation.key = f"key/{self._random.randrange(3)}"
        operation.f = self._random.choice(("put", "put", "cas", "cas", "get", "get", "get", "get", "delete"))
        if operation.f == "get":
            operation.mode, operation.value = self._random.choice(("default", "consistent")), ""
        elif operation.f == "cas":
            operation.guard = self._store.row(operation.key).index
        elif operation.f == "delete":
            operation.value = ""

    def _lock(self, operation: Operation) -> None:
        worker = operation.worker
        before = next((each for each in reversed(self.operations) if each.worker == worker), None)
        if before is None or before.f == "destroy" or before.detail == "unknown session":
            operation.f = "session"
            return
        session = operation.session = self._sessions[worker] = before.session or self._sessions[worker]
        if before.f == "session" or before.detail == "refused" or before.f == "release":
            operation.f, operation.key = "acquire", f"lock/{self._random.randrange(2)}"
            self._held[worker] = operation.key
        elif self._random.random() < 0.3:
            operation.f, operation.key = "get", self._held[worker]
            operation.mode, operation.session = "consistent", ""
        elif self._random.random() < 0.4:
            operation.f = "renew"
        elif self._random.random() < 0.5:
            operation.f, operation.key = "release", self._held[worker]
        else:
            operation.f = "destroy"
        self._sessions[worker] = session


def recorded(seed: int) -> list[Operation]:
    """All operations that ended, in the order of their beginning."""
    return sorted(Recording(seed).operations, key=lambda each: each.begin)
