"""Gives committed entries to the state machine, in order and once, and ends the tickets of those who wait for them.

Entries are applied on the loop in slices short enough that heartbeats are answered in between. An entry that the state
machine cannot apply is fatal: skipping it would make this server differ from all others.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Protocol

from pyconsul_agent.env.base import Clock
from pyconsul_agent.raft.types import Answer
from pyconsul_agent.structs.raft import EntryType, LogEntry

SLICE_S = 0.005
SLICE_ENTRIES = 64
BACKLOG_MAX = 4096
"""Entries waiting to be applied; beyond that the core is asked for no more."""


class StateMachine(Protocol):
    """What raft replicates."""

    def apply(self, entry: LogEntry) -> object:
        """Apply one COMMAND entry, on the loop. An error for the proposer is returned, an exception is fatal."""

    def snapshot(self) -> Callable[[], Iterable[bytes]]:
        """Capture this moment, cheaply and on the loop; what is returned runs on a worker thread."""

    def restore(self, chunks: Iterable[bytes]) -> Callable[[], None] | None:
        """Build the state from a snapshot's bytes, on a worker thread; raises ConsulError if they are no good.

        It must not touch what readers on the loop see: the returned callable, run on the loop, puts the new state in
        place in one step and wakes who watches. (A machine without readers may replace its state at once, return None.)
        """

    def blank(self) -> Callable[[], None] | None:
        """The same for the state of a virgin server."""


Outcome = tuple[Answer, object]
"""How a ticket ended, and what the state machine returned if it was a proposal's."""


def index_of(outcome: Outcome) -> int:
    """The answer's index; raises its error."""
    answer, _ = outcome
    if answer.error is not None:
        raise answer.error
    return answer.index


@dataclass(slots=True)
class _Batch:
    committed: tuple[LogEntry, ...]
    answers: tuple[Answer, ...]


class Applier:
    """The queue between consensus and state machine."""

    def __init__(self, machine: StateMachine, clock: Clock, on_room: Callable[[], None]) -> None:
        """`on_room` is called when there is room again after `room` has said that there is none."""
        self._machine = machine
        self._clock = clock
        self._on_room = on_room
        self._full = False
        self.index = 0
        """The last applied index; 0 until a stored snapshot has been restored."""
        self.term = 0
        """Its term."""
        self.backlog = 0
        self.put_count = 0
        self.done_count = 0
        self._queue: deque[_Batch] = deque()
        self._wake = asyncio.Event()
        self._progress = asyncio.Event()
        self._tickets: dict[int, asyncio.Future[Outcome]] = {}
        self._proposals: set[int] = set()
        self._results: dict[int, object] = {}
        self._failure: Exception | None = None

    def expect(self, ticket: int, *, proposal: bool = False) -> asyncio.Future[Outcome]:
        """A future that ends with the ticket's Answer and, for a proposal, what the state machine said."""
        future = self._tickets[ticket] = asyncio.get_running_loop().create_future()
        if proposal:
            self._proposals.add(ticket)
        return future

    def put(self, committed: tuple[LogEntry, ...], answers: tuple[Answer, ...]) -> None:
        """Queue: apply `committed`, then end the tickets."""
        self.put_count += 1
        self.backlog += len(committed)
        self._queue.append(_Batch(committed, answers))
        self._wake.set()

    async def drained(self, count: int) -> None:
        """Return when the first `count` batches ever put have been applied."""
        while self.done_count < count:
            await self._next_progress()

    def room(self) -> bool:
        """Whether the backlog is short enough for more."""
        self._full = self.backlog > BACKLOG_MAX
        return not self._full

    async def reached(self, index: int) -> None:
        """Return when `index` has been applied."""
        while self.index < index:
            await self._next_progress()

    async def _next_progress(self) -> None:
        if self._failure is not None:
            raise self._failure
        self._progress.clear()
        await self._progress.wait()

    async def run(self) -> None:
        """Until cancelled, or until the state machine fails."""
        while True:
            while not self._queue:
                self._wake.clear()
                await self._wake.wait()
            batch = self._queue[0]
            await self._apply(batch.committed)
            self._queue.popleft()
            self.done_count += 1
            for answer in batch.answers:
                self._answer(answer)
            self._progress.set()
            self._tell_room()

    def _tell_room(self) -> None:
        if self._full and self.room():
            self._on_room()

    async def _apply(self, entries: tuple[LogEntry, ...]) -> None:
        began, count = self._clock.monotonic(), 0
        for entry in entries:
            if entry.index <= self.index:
                # The log of a leader may overlap what a snapshot just brought.
                self.backlog -= 1
                continue
            if entry.type == EntryType.COMMAND:
                result = self._machine.apply(entry)
                if self._proposals:
                    self._results[entry.index] = result
            self.index, self.term = entry.index, entry.term
            self.backlog -= 1
            count += 1
            if count >= SLICE_ENTRIES or self._clock.monotonic() - began > SLICE_S:
                self._progress.set()
                self._tell_room()
                await asyncio.sleep(0)
                began, count = self._clock.monotonic(), 0

    def _answer(self, answer: Answer) -> None:
        result = None
        if answer.ticket in self._proposals:
            self._proposals.discard(answer.ticket)
            result = self._results.pop(answer.index, None)
            if not self._proposals:
                self._results.clear()
        future = self._tickets.pop(answer.ticket, None)
        if future is not None and not future.done():
            future.set_result((answer, result))

    def jump(self, index: int, term: int) -> None:
        """A snapshot has replaced the state machine's content."""
        self.index, self.term = index, term
        self._results.clear()
        self._progress.set()

    def fail(self, error: Exception) -> None:
        """End every ticket, and whoever waits for progress, with `error`."""
        self._failure = error
        self._progress.set()
        tickets, self._tickets = self._tickets, {}
        for ticket, future in tickets.items():
            if not future.done():
                future.set_result((Answer(ticket, error=error), None))
        self._proposals.clear()
        self._results.clear()
