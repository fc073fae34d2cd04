"""A simulated process: tasks that can be stopped, continued, killed and started again on the same disk."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Awaitable, Callable, Coroutine
from typing import TYPE_CHECKING, Any, TypeVar

from pyconsul_agent.env.base import Env
from pyconsul_agent.sim.env import make_env
from pyconsul_agent.sim.host import SimHost
from pyconsul_agent.sim.loop import discard_task
from pyconsul_agent.sim.owner import OWNER, Owner, State

if TYPE_CHECKING:
    from pyconsul_agent.sim.world import World

T = TypeVar("T")

Main = Callable[[Env], Coroutine[Any, Any, object]]


class ProcessKilled(Exception):
    """The process ended before the answer."""


class SimProcess:
    """Runs `main(env)` on a host. Each start is a new life (`Owner`) with a new `Env`."""

    def __init__(
        self, world: World, host: SimHost, main: Main, *, name: str, environ: dict[str, str] | None = None
    ) -> None:
        self.name = name
        self.host = host
        self.lives = 0
        self.leftovers: list[str] = []
        """Tasks and sockets that `main` had not closed when it returned (of all lives)."""
        self.env: Env
        self._world = world
        self._main = main
        self._environ = environ
        self._owner: Owner | None = None
        self._context: contextvars.Context
        self._task: asyncio.Task[object] | None = None
        self._ended: asyncio.Future[None]
        self._error: BaseException | None = None
        self._calls: dict[asyncio.Future[Any], None] = {}
        self._well: list[Owner] = []

    def ended_well(self, life: Owner) -> bool:
        """Whether this life of the process ended by itself, so that it had time to clean up."""
        return life in self._well

    @property
    def running(self) -> bool:
        """Started and not ended; a stopped process still runs."""
        return self._owner is not None and not self._owner.dead

    @property
    def paused(self) -> bool:
        return self._owner is not None and self._owner.state is State.PAUSED

    def pending_tasks(self) -> list[asyncio.Task[Any]]:
        """Tasks of the present life that have not ended."""
        return self._owner.pending_tasks() if self._owner is not None else []

    def start(self) -> None:
        """Begin a new life. The previous one must have ended, and the host must have power."""
        assert not self.running, f"{self.name} runs already"
        self.lives += 1
        self._error = None
        self._owner = Owner(f"{self.name}#{self.lives}")
        self._ended = self._world.loop.create_future()
        self._context = contextvars.Context()
        self._context.run(OWNER.set, self._owner)
        rng = self._world.draw(f"env/{self._owner.name}")
        self.env = self._context.run(make_env, self._world, self.host, rng=rng, environ=self._environ)
        self._task = self._world.loop.create_task(self._main(self.env), name=self._owner.name, context=self._context)
        self._task.add_done_callback(self._on_main_done, context=contextvars.Context())

    def _on_main_done(self, task: asyncio.Task[object]) -> None:
        owner = self._owner
        assert owner is not None
        if task.cancelled():
            self._error = asyncio.CancelledError()
        else:
            self._error = task.exception()
            if self._error is not None:
                self._world.report(f"process {owner.name} ended by {self._error!r}", self._error)
        self.leftovers += [f"{owner.name}: task {left!r}" for left in owner.pending_tasks()]
        self.leftovers += [f"{owner.name}: {left!r}" for left in self._world.network.sockets_of(owner)]
        self._well.append(owner)
        self._end(power_loss=False)

    def kill(self, *, power_loss: bool = False) -> None:
        """As kill -9: no clean-up code has an effect, the operating system closes the sockets.

        With `power_loss` it closes nothing either; see `World.power_off`.
        """
        if self.running:
            assert OWNER.get() is not self._owner, "a process cannot kill itself"
            self._end(power_loss=power_loss)

    def _end(self, *, power_loss: bool) -> None:
        owner = self._owner
        assert owner is not None
        owner.state = State.DEAD
        owner.held.clear()
        self._world.network.kill_owner(owner, power_loss=power_loss)
        for task in owner.pending_tasks():
            self._context.run(discard_task, task)
        owner.forget_tasks()
        for call in list(self._calls):
            if not call.done():
                call.set_exception(ProcessKilled(owner.name))
        self._calls.clear()
        if not self._ended.done():
            self._ended.set_result(None)

    def pause(self) -> None:
        """As SIGSTOP: nothing of it runs; its operating system goes on receiving, until buffers are full."""
        assert self._owner is not None and not self._owner.dead
        self._owner.state = State.PAUSED

    def resume(self) -> None:
        """As SIGCONT. Timers that were due meanwhile fire now."""
        if self._owner is not None and self._owner.state is State.PAUSED:
            self._owner.state = State.RUNNING
            self._world.loop.release(self._owner)

    def stall(self, seconds: float) -> None:
        """The event loop stands still for so long, as under long computation: a pause that ends by itself."""
        life = self._owner
        self.pause()

        def wake() -> None:
            if self._owner is life:
                self.resume()

        self._world.loop.call_later(seconds, wake)

    def restart(self) -> None:
        """Kill if needed, and start again on the same disk."""
        self.kill()
        self.start()

    async def wait(self) -> None:
        """Until this life ends. Raises what `main` raised; returns after a kill."""
        await asyncio.shield(self._ended)
        if self._error is not None:
            raise self._error

    async def call(self, function: Callable[[], Awaitable[T]]) -> T:
        """Run `function()` inside the process and hand its result out. Raises ProcessKilled when the process dies."""
        if not self.running:
            raise ProcessKilled(self.name)
        outcome: asyncio.Future[T] = self._world.loop.create_future()
        self._calls[outcome] = None

        async def inside() -> None:
            try:
                result = await function()
            except Exception as error:  # belongs to the caller outside
                if not outcome.done():
                    outcome.set_exception(error)
            else:
                if not outcome.done():
                    outcome.set_result(result)

        task = self._world.loop.create_task(inside(), context=self._context.copy())
        try:
            return await outcome
        finally:
            self._calls.pop(outcome, None)
            if not task.done() and self.running:
                task.cancel()
