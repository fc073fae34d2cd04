"""An asyncio event loop in virtual time: no selector, no thread, no socket. Time jumps to the next timer.

Order is a function of the seed. Callbacks run first in, first out, as asyncio promises *within* a process; with
`shuffle` the queues of different simulated processes are interleaved at random, and timers due at the same instant fire
in random order, because nothing promises an order there.

The cyclic garbage collector may call finalizers, and these may schedule callbacks; so it runs at fixed step numbers
only (see `GC_STEPS`).
"""

from __future__ import annotations

import asyncio
import collections
import contextvars
import gc
import hashlib
import heapq
import random
import struct
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from pyconsul_agent.sim.owner import OWNER, Owner, State, is_dead

T = TypeVar("T")

START_S = 1000.0
"""Virtual time at the start. Not zero, so that `if last_contact:` mistakes show."""

STEPS_MAX = 50_000_000
TIME_MAX_S = 30 * 24 * 3600.0
GC_STEPS = 200_000
CANCELLED_TIMERS_MIN = 256
JOB_DELAY_S = (0.00002, 0.002)
"""Bounds of how long a job of a simulated thread takes to start, and its answer to come back."""


class SimError(Exception):
    """The simulation itself cannot go on."""


class Deadlock(SimError):
    """Nothing is scheduled and the awaited result is not there."""


class LimitExceeded(SimError):
    """More steps or more virtual time than allowed: a livelock, or a forgotten end."""


class SimFuture(asyncio.Future[T]):
    """A future whose place in a set does not depend on its address in memory."""

    def __init__(self, *, loop: SimLoop) -> None:
        super().__init__(loop=loop)
        self._number = loop.next_number()

    def __hash__(self) -> int:
        return self._number

    def __eq__(self, other: object) -> bool:
        return self is other


class SimTask(asyncio.Task[T]):
    """A task whose place in a set does not depend on its address: `TaskGroup` cancels its tasks in set order."""

    def __init__(
        self,
        coro: Coroutine[Any, Any, T],
        *,
        loop: SimLoop,
        name: str | None = None,
        context: contextvars.Context | None = None,
    ) -> None:
        self._number = loop.next_number()  # first: asyncio puts the task into a set while it is made
        super().__init__(coro, loop=loop, name=name, context=context)

    def __hash__(self) -> int:
        return self._number

    def __eq__(self, other: object) -> bool:
        return self is other


class SimLoop(asyncio.BaseEventLoop):
    """The loop. `random` decides orders and job delays; `digest` receives every timer that fires."""

    def __init__(
        self,
        rng: random.Random,
        *,
        shuffle: bool = False,
        steps_max: int = STEPS_MAX,
        time_max_s: float = TIME_MAX_S,
        collect_garbage: bool = False,
    ) -> None:
        super().__init__()
        self.steps = 0
        self.digest = hashlib.sha256()
        self._random = rng
        self._shuffle = shuffle
        self._steps_max = steps_max
        self._time_end = START_S + time_max_s
        self._now = START_S
        self._timers: list[tuple[float, float, int, asyncio.TimerHandle]] = []
        self._timer_count = 0
        self._object_count = 0
        self._cancelled_count = 0
        self._next_gc = GC_STEPS if collect_garbage else None
        self._ready: collections.deque[asyncio.Handle]
        self._stopping: bool

    # --- time and timers ------------------------------------------------------------------------------------------

    def time(self) -> float:
        return self._now

    def call_at(  # type: ignore[override]
        self, when: float, callback: Callable[..., object], *args: Any, context: contextvars.Context | None = None
    ) -> asyncio.TimerHandle:
        tie = self._random.random() if self._shuffle else 0.0
        return self._add_timer(when, tie, callback, args, context)

    def call_in_order(
        self, when: float, callback: Callable[..., object], *args: Any, context: contextvars.Context
    ) -> asyncio.TimerHandle:
        """As `call_at`, but calls for the same instant are never shuffled: a link without jitter keeps its order."""
        return self._add_timer(when, 0.0, callback, args, context)

    def _add_timer(
        self,
        when: float,
        tie: float,
        callback: Callable[..., object],
        args: tuple[Any, ...],
        context: contextvars.Context | None,
    ) -> asyncio.TimerHandle:
        self._check_closed()  # type: ignore[attr-defined]
        handle = asyncio.TimerHandle(when, callback, args, self, context)
        handle._scheduled = True  # type: ignore[attr-defined]
        self._timer_count += 1
        heapq.heappush(self._timers, (when, tie, self._timer_count, handle))
        return handle

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        if not handle._scheduled:  # type: ignore[attr-defined]
            return
        self._cancelled_count += 1
        if self._cancelled_count > CANCELLED_TIMERS_MIN and 2 * self._cancelled_count > len(self._timers):
            # The handle in our hands is marked as cancelled only after this call.
            self._timers = [entry for entry in self._timers if not entry[3].cancelled() and entry[3] is not handle]
            heapq.heapify(self._timers)
            handle._scheduled = False  # type: ignore[attr-defined]
            self._cancelled_count = 0

    def pending_timers(self) -> list[asyncio.TimerHandle]:
        """Timers that would still fire, in order."""
        return [entry[3] for entry in sorted(self._timers) if not entry[3].cancelled()]

    # --- one turn ---------------------------------------------------------------------------------------------------

    def _run_once(self) -> None:
        if not self._ready and not self._stopping:
            self._jump()
        self._take_due_timers()
        if self._shuffle and len(self._ready) > 1:
            self._interleave()
        for _ in range(len(self._ready)):
            handle = self._ready.popleft()
            if handle.cancelled():
                continue
            owner: Owner | None = handle._context.get(OWNER)  # type: ignore[attr-defined]
            if owner is not None and owner.state is not State.RUNNING:
                if owner.state is State.PAUSED:
                    owner.held.append(handle)
                continue
            self.steps += 1
            handle._run()
        if self.steps > self._steps_max:
            raise LimitExceeded(f"more than {self._steps_max} steps, at virtual second {self._now - START_S:.3f}")
        if self._next_gc is not None and self.steps >= self._next_gc:
            self._next_gc = self.steps + GC_STEPS
            gc.collect()

    def _jump(self) -> None:
        """Move time to the next timer that was not cancelled."""
        while self._timers and self._timers[0][3].cancelled():
            heapq.heappop(self._timers)
            self._cancelled_count -= 1
        if not self._timers:
            raise Deadlock(f"nothing is scheduled at virtual second {self._now - START_S:.3f}")
        self._now = max(self._now, self._timers[0][0])
        if self._now > self._time_end:
            raise LimitExceeded(f"virtual time limit reached after {self.steps} steps")

    def _take_due_timers(self) -> None:
        while self._timers and self._timers[0][0] <= self._now:
            when, _, number, handle = heapq.heappop(self._timers)
            handle._scheduled = False  # type: ignore[attr-defined]
            if handle.cancelled():
                self._cancelled_count -= 1
                continue
            self.digest.update(struct.pack("<dQ", when, number))
            self._ready.append(handle)

    def _interleave(self) -> None:
        """Merge the queues of the processes at random, each in its own order."""
        queues: dict[Owner | None, collections.deque[asyncio.Handle]] = {}
        for handle in self._ready:
            owner = handle._context.get(OWNER)  # type: ignore[attr-defined]
            queues.setdefault(owner, collections.deque()).append(handle)
        if len(queues) == 1:
            return
        self._ready.clear()
        waiting = list(queues.values())
        while waiting:
            position = self._random.randrange(len(waiting))
            self._ready.append(waiting[position].popleft())
            if not waiting[position]:
                del waiting[position]

    def release(self, owner: Owner) -> None:
        """Queue what was held while `owner` was paused."""
        self._ready.extend(owner.held)
        owner.held.clear()

    # --- tasks --------------------------------------------------------------------------------------------------------

    def create_task(  # type: ignore[override]
        self, coro: Coroutine[Any, Any, T], *, name: str | None = None, context: contextvars.Context | None = None
    ) -> asyncio.Task[T]:
        self._check_closed()  # type: ignore[attr-defined]
        task = SimTask(coro, loop=self, name=name, context=context)
        owner = OWNER.get() if context is None else context.get(OWNER)
        if is_dead(owner):
            discard_task(task)
        elif owner is not None:
            owner.adopt(task)
        return task

    def create_future(self) -> asyncio.Future[Any]:
        return SimFuture(loop=self)

    def next_number(self) -> int:
        """Numbers tasks and futures."""
        self._object_count += 1
        return self._object_count

    def _asyncgen_finalizer_hook(self, agen: Any) -> None:
        if is_dead(OWNER.get()):
            return
        super()._asyncgen_finalizer_hook(agen)  # type: ignore[misc]

    # --- threads and sockets that do not exist ------------------------------------------------------------------------

    def job_delay(self) -> float:
        """Seconds that a hand-over to or from a simulated thread takes."""
        return self._random.uniform(*JOB_DELAY_S)

    def run_in_executor(self, executor: Any, func: Callable[..., T], *args: Any) -> asyncio.Future[T]:  # type: ignore[override]
        """Run `func` on the loop after a drawn delay; the answer arrives after another one."""
        future: asyncio.Future[T] = self.create_future()

        def begin() -> None:
            if future.cancelled():
                return
            try:
                result = func(*args)
            except Exception as error:  # as a thread pool does: whatever the job raised belongs to its caller
                self.call_later(self.job_delay(), settle, future, None, error)
            else:
                self.call_later(self.job_delay(), settle, future, result, None)

        self.call_later(self.job_delay(), begin)
        return future

    async def shutdown_default_executor(self, timeout: float | None = None) -> None:
        """Nothing to shut down."""

    def _write_to_self(self) -> None:
        """Nothing sleeps in a selector."""

    def _process_events(self, event_list: Any) -> None:
        """No selector, no events."""

    async def getaddrinfo(self, *args: Any, **options: Any) -> Any:
        raise SimError("simulated code must resolve names by env.resolver")

    async def create_server(self, *args: Any, **options: Any) -> Any:
        raise SimError("simulated code must listen by env.net")

    async def create_connection(self, *args: Any, **options: Any) -> Any:
        raise SimError("simulated code must dial by env.net")

    async def create_datagram_endpoint(self, *args: Any, **options: Any) -> Any:
        raise SimError("simulated code must open sockets by env.net")


def settle(future: asyncio.Future[T], result: T | None, error: BaseException | None) -> None:
    """Hand a job's outcome to its caller, unless the caller stopped waiting."""
    if future.done():
        return
    if error is not None:
        future.set_exception(error)
    else:
        future.set_result(result)  # type: ignore[arg-type]


CLOSE_ATTEMPTS_MAX = 100


def discard_task(task: asyncio.Task[Any]) -> None:
    """Throw a dead process's task away: its coroutine is closed, never stepped again.

    Closing runs `finally` blocks. Their effects are void, because the doors of a dead process are shut (`is_dead`), and
    a block that awaits is simply closed again.
    """
    task._log_destroy_pending = False  # type: ignore[attr-defined]
    asyncio.tasks._unregister_task(task)
    coroutine = task.get_coro()
    for _ in range(CLOSE_ATTEMPTS_MAX):
        try:
            coroutine.close()
        except Exception:  # noqa: S112 - the dead have nobody to tell; RuntimeError says that it awaited again
            continue
        return
    raise SimError(f"coroutine {coroutine!r} cannot be closed")
