"""What a server does while it leads, from gaining to losing leadership (docs/protocol/raft.md#leader-duties).

Barrier, then once: establish (autopilot's configuration, timers); then reconcile; then wait for a member event, a
minute, or the end. Consistent reads are allowed only once the duties are established.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any, Protocol

from pyconsul_agent.env.log import Log
from pyconsul_agent.env.timeouts import timeout
from pyconsul_agent.errors import LeadershipLost, RPCError
from pyconsul_agent.runtime.tasks import TaskOwner
from pyconsul_agent.server.leader.reconcile import Reconciler
from pyconsul_agent.server.seams import Measure, Proposer, unmeasured
from pyconsul_agent.structs.member import Member, MemberEvent

RECONCILE_INTERVAL_S = 60.0
BARRIER_TIMEOUT_S = 120.0
RETRY_S = 5.0
REASSERT_TIMEOUT_S = 60.0
EVENTS_MAX = 4096
"""Member events waiting for the leader; beyond it a full reconcile makes up for those dropped."""


class Duty(Protocol):
    """Something that runs as long as this server leads."""

    def __call__(self) -> Coroutine[Any, Any, None]: ...


class LeaderLoop:
    """Starts and stops the duties. `establish` is done once per leadership, before consistent reads are allowed.

    `later` are duties that begin when the members have been reconciled, so that what they write follows the servers'
    own registrations, as Consul's does.
    """

    def __init__(
        self,
        proposer: Proposer,
        reconciler: Reconciler,
        log: Log,
        *,
        members: Callable[[], Sequence[Member]],
        announce: Callable[[], None],
        establish: Sequence[Callable[[], Awaitable[None]]],
        duties: Sequence[tuple[str, Duty]],
        measure: Measure = unmeasured,
        later: Sequence[tuple[str, Duty]] = (),
        on_ready: Callable[[], None] = lambda: None,
    ) -> None:
        self._proposer = proposer
        self._reconciler = reconciler
        self._log = log
        self._members = members
        self._announce = announce
        self._establish = establish
        self._duties = duties
        self._measure = measure
        self._later = later
        self._later_due = False
        self._on_ready = on_ready
        self._owner = TaskOwner(log)
        self._events: asyncio.Queue[MemberEvent | None] = asyncio.Queue(EVENTS_MAX)
        self._reasserts: list[asyncio.Future[None]] = []
        self._running = TaskOwner(log)
        self._overflow = False
        self._task: asyncio.Task[None] | None = None
        self._ready = False

    @property
    def ready(self) -> bool:
        """Whether this server leads and has finished what must precede consistent reads."""
        return self._ready

    def leadership(self, is_leader: bool, term: int) -> None:
        """Raft says that this server leads now, or no longer."""
        self._end()
        if is_leader:
            self._log.event("leadership_acquired")
            self._events = asyncio.Queue(EVENTS_MAX)
            self._task = self._owner.start_task(self._lead(), f"leader of term {term}")
        else:
            self._log.event("leadership_lost")

    def member_event(self, event: MemberEvent) -> None:
        """A member came, went or changed. Ignored while this server does not lead."""
        if self._task is None:
            return
        if self._events.full():
            self._overflow = True
        else:
            self._events.put_nowait(event)

    async def reassert(self) -> None:
        """Begin the duties anew, since the state has been replaced; returns when that is done. Raises RPCError."""
        if self._task is None:
            raise LeadershipLost
        done = asyncio.get_running_loop().create_future()
        self._reasserts.append(done)
        if not self._events.full():
            self._events.put_nowait(None)
        try:
            async with timeout(REASSERT_TIMEOUT_S):
                await done
        except TimeoutError:
            raise RPCError("timed out waiting to re-run leader actions") from None

    def _end(self) -> None:
        self._ready = False
        for done in self._reasserts:
            if not done.done():
                done.set_exception(LeadershipLost())
        self._reasserts.clear()
        if self._task is not None:
            self._task.cancel()
            self._task = None

    async def stop(self) -> None:
        """End the duties and wait until they have ended."""
        self._end()
        await self._owner.close()

    async def _lead(self) -> None:
        try:
            self._announce()
        except ValueError as error:
            self._log.error("failed to broadcast new leader event", error=str(error))
        self._running = running = TaskOwner(self._log)
        try:
            while True:
                try:
                    await self._round()
                except Exception as error:
                    # The edge of the task: without it this server would lead on and never be ready for reads.
                    self._log.error("leader duties failed, trying again", error=f"{type(error).__name__}: {error}")
                    await asyncio.sleep(RETRY_S)
        finally:
            self._ready = False
            await running.close()

    async def _establish_all(self) -> None:
        for step in self._establish:
            await step()
        self._ready = True
        self._later_due = True
        self._on_ready()
        self._begin(self._duties)

    def _begin(self, duties: Sequence[tuple[str, Duty]]) -> None:
        for name, duty in duties:
            self._running.start(self._kept(duty, name), name)

    def _begin_later(self) -> None:
        if self._later_due:
            self._later_due = False
            self._begin(self._later)

    async def _reassert(self) -> None:
        """End the duties and establish them again; the state below them is another one."""
        if not self._reasserts:
            return
        self._ready = False
        await self._running.close()
        await self._establish_all()
        for done in self._reasserts:
            if not done.done():
                done.set_result(None)
        self._reasserts.clear()

    async def _kept(self, duty: Duty, name: str) -> None:
        """The edge of a duty: one that fails is begun again, since nobody else does its work."""
        while True:
            try:
                return await duty()
            except Exception as error:
                self._log.error("leader duty failed, trying again", duty=name, error=f"{type(error).__name__}: {error}")
                await asyncio.sleep(RETRY_S)

    async def _round(self) -> None:
        """Barrier, establish if need be, reconcile all; then events until the minute is over."""
        loop = asyncio.get_running_loop()
        began = loop.time()
        async with timeout(BARRIER_TIMEOUT_S):
            await self._proposer.barrier()
        self._measure("leader.barrier", loop.time() - began)
        if not self._ready:
            await self._establish_all()
        await self._reassert()
        self._overflow = False
        began = loop.time()
        await self._reconciler.everyone(self._members())
        self._measure("leader.reconcile", loop.time() - began)
        self._begin_later()
        deadline = loop.time() + RECONCILE_INTERVAL_S
        while not self._overflow and (left := deadline - loop.time()) > 0:
            try:
                async with timeout(left):
                    event = await self._events.get()
            except TimeoutError:
                return
            await self._reassert()
            self._begin_later()
            if event is not None:
                await self._reconciler.event(event.kind, event.member)
