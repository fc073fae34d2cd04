"""What a server does while it leads, from gaining to losing leadership (docs/protocol/raft.md#leader-duties).

Barrier, then once: establish (autopilot's configuration, timers); then reconcile; then wait for a member event, a
minute, or the end. Consistent reads are allowed only once the duties are established.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any, Protocol

from pyconsul_agent.env.log import Log
from pyconsul_agent.runtime.tasks import TaskOwner
from pyconsul_agent.server.leader.reconcile import Reconciler
from pyconsul_agent.server.seams import Proposer
from pyconsul_agent.structs.member import Member, MemberEvent

RECONCILE_INTERVAL_S = 60.0
BARRIER_TIMEOUT_S = 120.0
RETRY_S = 5.0
EVENTS_MAX = 4096
"""Member events waiting for the leader; beyond it a full reconcile makes up for those dropped."""


class Duty(Protocol):
    """Something that runs as long as this server leads."""

    def __call__(self) -> Coroutine[Any, Any, None]: ...


class LeaderLoop:
    """Starts and stops the duties. `establish` is done once per leadership, before consistent reads are allowed."""

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
    ) -> None:
        self._proposer = proposer
        self._reconciler = reconciler
        self._log = log
        self._members = members
        self._announce = announce
        self._establish = establish
        self._duties = duties
        self._owner = TaskOwner(log)
        self._events: asyncio.Queue[MemberEvent] = asyncio.Queue(EVENTS_MAX)
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

    def _end(self) -> None:
        self._ready = False
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
        duties = TaskOwner(self._log)
        try:
            while True:
                try:
                    await self._round(duties)
                except Exception as error:
                    # The edge of the task: without it this server would lead on and never be ready for reads.
                    self._log.error("leader duties failed, trying again", error=f"{type(error).__name__}: {error}")
                    await asyncio.sleep(RETRY_S)
        finally:
            self._ready = False
            await duties.close()

    async def _kept(self, duty: Duty, name: str) -> None:
        """The edge of a duty: one that fails is begun again, since nobody else does its work."""
        while True:
            try:
                return await duty()
            except Exception as error:
                self._log.error("leader duty failed, trying again", duty=name, error=f"{type(error).__name__}: {error}")
                await asyncio.sleep(RETRY_S)

    async def _round(self, duties: TaskOwner) -> None:
        """Barrier, establish if need be, reconcile all; then events until the minute is over."""
        async with asyncio.timeout(BARRIER_TIMEOUT_S):
            await self._proposer.barrier()
        if not self._ready:
            for step in self._establish:
                await step()
            self._ready = True
            for name, duty in self._duties:
                duties.start(self._kept(duty, name), name)
        self._overflow = False
        await self._reconciler.everyone(self._members())
        loop = asyncio.get_running_loop()
        deadline = loop.time() + RECONCILE_INTERVAL_S
        while not self._overflow and (left := deadline - loop.time()) > 0:
            try:
                async with asyncio.timeout(left):
                    event = await self._events.get()
            except TimeoutError:
                return
            await self._reconciler.event(event.kind, event.member)
