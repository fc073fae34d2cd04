"""The simulated world: one seed, one loop, one network, hosts with disks, processes.

::

    with World(seed=7) as world:
        server = world.process("10.0.0.1", main)      # async def main(env: Env)
        world.run(scenario(world))
        print(world.digest())
"""

from __future__ import annotations

import asyncio
import gc
import hashlib
import random
import traceback
from collections.abc import Coroutine
from types import TracebackType
from typing import Any, Self, TypeVar

from pyconsul_agent.sim.host import SimHost
from pyconsul_agent.sim.loop import STEPS_MAX, TIME_MAX_S, SimError, SimLoop, discard_task
from pyconsul_agent.sim.net import LinkOptions, SimNetwork
from pyconsul_agent.sim.process import Main, SimProcess

T = TypeVar("T")


class UnhandledErrors(SimError):
    """Errors that asyncio reported to nobody, or that ended a process."""


class World:
    """Everything of one simulation. Use as a context manager, or call `close`."""

    def __init__(
        self,
        seed: int,
        *,
        shuffle: bool = True,
        link: LinkOptions | None = None,
        steps_max: int = STEPS_MAX,
        time_max_s: float = TIME_MAX_S,
    ) -> None:
        self.seed = seed
        self.random = self.draw("world")
        """For the scenario's own choices."""
        self.loop = SimLoop(
            self.draw("loop"), shuffle=shuffle, steps_max=steps_max, time_max_s=time_max_s, collect_garbage=True
        )
        self.loop.set_exception_handler(self._on_loop_error)
        self.network = SimNetwork(self.loop, self.draw("network"), draw=self.draw, link=link)
        self.processes: list[SimProcess] = []
        self.errors: list[str] = []
        """Reports of unhandled errors; `run` raises when there are any. Clear it where they are expected."""
        self._first_error: BaseException | None = None

    def draw(self, name: str) -> random.Random:
        """A generator of its own for each purpose, so that one more draw here does not shift the others."""
        return random.Random(f"{self.seed}/{name}")  # noqa: S311 - a simulation

    def host(self, host: str | SimHost) -> SimHost:
        """The machine with this name or address; made when it does not exist."""
        return self.network.find(host)

    def process(
        self,
        host: str | SimHost,
        main: Main,
        *,
        name: str | None = None,
        environ: dict[str, str] | None = None,
        start: bool = True,
    ) -> SimProcess:
        """A process on a host, by default started at once. Names must differ."""
        machine = self.host(host)
        process = SimProcess(self, machine, main, name=name or machine.name, environ=environ)
        if any(other.name == process.name for other in self.processes):
            raise ValueError(f"process {process.name} exists")
        self.processes.append(process)
        if start:
            process.start()
        return process

    def pause(self, host: str | SimHost) -> None:
        """Stop all running processes of a machine."""
        for process in self.processes:
            if process.host is self.host(host) and process.running:
                process.pause()

    def resume(self, host: str | SimHost) -> None:
        """Let them run again."""
        for process in self.processes:
            if process.host is self.host(host):
                process.resume()

    def power_off(self, host: str | SimHost) -> None:
        """Kill all processes of a machine without a word to the network; its disk loses what was not synced."""
        machine = self.host(host)
        for process in self.processes:
            if process.host is machine:
                process.kill(power_loss=True)
        machine.disk.crash()
        self.network.set_up(machine, False)

    def power_on(self, host: str | SimHost) -> None:
        """Bring the machine back; its processes must be started."""
        self.network.set_up(host, True)

    # --- running ------------------------------------------------------------------------------------------------------

    def run(self, scenario: Coroutine[Any, Any, T]) -> T:
        """Run until `scenario` ends. Raises its error, or UnhandledErrors. Can be called again to go on."""
        collecting = gc.isenabled()
        gc.disable()
        try:
            result = self.loop.run_until_complete(scenario)
        finally:
            if collecting:
                gc.enable()
        if self.errors:
            raise UnhandledErrors("\n".join(self.errors)) from self._first_error
        return result

    def leftovers(self) -> list[str]:
        """Tasks and sockets of the scenario itself that are still there, and what ended processes had not closed."""
        tasks = sorted(asyncio.all_tasks(self.loop), key=lambda task: task.get_name())
        owned = {task for process in self.processes for task in process.pending_tasks()}
        found = [f"task {task!r}" for task in tasks if task not in owned]
        found += [f"socket {socket!r}" for socket in self.network.sockets_of(None)]
        for process in self.processes:
            found += process.leftovers
        return found

    def report(self, text: str, error: BaseException | None = None) -> None:
        """Note an error that nobody handled."""
        self.errors.append(text)
        self._first_error = self._first_error or error

    def _on_loop_error(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        error = context.get("exception")
        detail = "".join(traceback.format_exception(error)) if error is not None else ""
        self.report(f"{context.get('message')}\n{detail}".rstrip(), error)

    def digest(self) -> str:
        """SHA-256, in hex, over every delivery and every timer so far."""
        total = self.loop.digest.copy()
        total.update(self.network.digest())
        total.update(str(self.loop.steps).encode())
        return hashlib.sha256(total.digest()).hexdigest()

    def close(self) -> None:
        """End all processes and throw away what is left."""
        if self.loop.is_closed():
            return
        # Clean-up code of the dead asks asyncio for the loop: it must not be given, or make, a real one.
        asyncio._set_running_loop(self.loop)
        try:
            for process in self.processes:
                process.kill()
            for task in sorted(asyncio.all_tasks(self.loop), key=lambda task: task.get_name()):
                discard_task(task)
        finally:
            asyncio._set_running_loop(None)
        self.loop.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
