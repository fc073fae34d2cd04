"""Sessions that nobody renews end. Only the leader counts; a new leader gives every session its full time again."""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Callable, Iterable

from pyconsul_agent.env.log import Log
from pyconsul_agent.errors import RPCError
from pyconsul_agent.fsm.apply import SESSION
from pyconsul_agent.server.endpoints.shared import parse_duration_ns, propose
from pyconsul_agent.server.seams import Measure, Proposer, unmeasured
from pyconsul_agent.state.store import Store, row_id
from pyconsul_agent.structs.base import seconds
from pyconsul_agent.structs.requests import SessionRequest
from pyconsul_agent.structs.session import Session

TTL_FACTOR = 2
"""A session lives this many of its TTLs without renewal."""

DESTROY_TRIES = 6
RETRY_BASE_S = 10.0


def lifetime_s(session: Session) -> float:
    """Seconds that a session lives without renewal; 0 means for ever."""
    try:
        return TTL_FACTOR * seconds(parse_duration_ns(session.ttl)) if session.ttl else 0.0
    except ValueError:
        return 0.0


class SessionTimers:
    """Pure: when which session ends. `now` is monotonic seconds."""

    def __init__(self) -> None:
        self._deadlines: dict[str, float] = {}
        self._heap: list[tuple[float, str]] = []
        self.ending: set[str] = set()
        """Sessions whose end is being written: their time was over, and nobody may be told that they have another."""

    def __len__(self) -> int:
        return len(self._deadlines)

    def touch(self, session: Session, now: float) -> None:
        """Start or restart the time of a session; one without TTL has none."""
        lifetime = lifetime_s(session)
        if lifetime > 0.0:
            self.set(session.id, now + lifetime)

    def set(self, session_id: str, deadline: float) -> None:
        """End a session at `deadline` unless it is touched before."""
        self._deadlines[session_id] = deadline
        heapq.heappush(self._heap, (deadline, session_id))
        if len(self._heap) > 2 * len(self._deadlines) + 64:
            self._heap = [(when, name) for name, when in self._deadlines.items()]
            heapq.heapify(self._heap)

    def counts(self, session_id: str) -> bool:
        """Whether a time runs for this session."""
        return session_id in self._deadlines

    def clear(self, session_id: str) -> None:
        """Forget a session that ended otherwise."""
        self._deadlines.pop(session_id, None)

    def restart(self, sessions: Iterable[Session], now: float) -> None:
        """Gaining leadership: all sessions begin anew."""
        self.stop()
        for session in sessions:
            self.touch(session, now)

    def stop(self) -> None:
        """Losing leadership: nothing ends here any more."""
        self._deadlines.clear()
        self._heap.clear()

    def expired(self, now: float) -> list[str]:
        """Sessions whose time is over, in order of their deadlines; they are forgotten."""
        ended = []
        while self._heap and self._heap[0][0] <= now:
            deadline, session_id = heapq.heappop(self._heap)
            if self._deadlines.get(session_id) == deadline:
                del self._deadlines[session_id]
                ended.append(session_id)
        return ended

    def next_deadline(self) -> float | None:
        """When `expired` should be asked next; None if never."""
        while self._heap and self._deadlines.get(self._heap[0][1]) != self._heap[0][0]:
            heapq.heappop(self._heap)
        return self._heap[0][0] if self._heap else None


class SessionExpiry:
    """The driver: destroys expired sessions through the log while this server leads."""

    POLL_S = 1.0
    """New sessions may be due before the one waited for, but none sooner than twice the least TTL."""

    def __init__(
        self,
        store: Store,
        proposer: Proposer,
        timers: SessionTimers,
        now: Callable[[], float],
        log: Log,
        measure: Measure = unmeasured,
    ) -> None:
        self._measure = measure
        self._store = store
        self._proposer = proposer
        self._timers = timers
        self._now = now
        self._log = log
        self._tries: dict[str, int] = {}

    async def run(self) -> None:
        """Restart all timers, then serve until cancelled (loss of leadership)."""
        self._timers.restart(self._store.tables.sessions.scan(), self._now())
        self._tries.clear()
        try:
            while True:
                deadline = self._timers.next_deadline()
                pause = self.POLL_S if deadline is None else min(self.POLL_S, max(0.0, deadline - self._now()))
                await asyncio.sleep(pause)
                for session_id in self._timers.expired(self._now()):
                    # Renewed (or ended) while those before it were written: it lives on.
                    if not self._timers.counts(session_id):
                        await self._destroy(session_id)
        finally:
            self._timers.stop()

    async def _destroy(self, session_id: str) -> None:
        row = self._store.tables.sessions.get(row_id(session_id))
        if row is None:
            self._tries.pop(session_id, None)
            return
        request = SessionRequest(op="destroy", session=Session(id=session_id))
        began = self._now()
        self._timers.ending.add(session_id)
        try:
            await propose(self._proposer, SESSION, request)
            self._measure("session_ttl.invalidate", self._now() - began)
        except RPCError as error:
            tries = self._tries[session_id] = self._tries.get(session_id, 0) + 1
            self._log.error("Invalidation failed", error=str(error), session=session_id, tries=tries)
            if tries < DESTROY_TRIES:
                self._timers.set(session_id, self._now() + RETRY_BASE_S * 2 ** (tries - 1))
                return
        finally:
            self._timers.ending.discard(session_id)
        self._tries.pop(session_id, None)
