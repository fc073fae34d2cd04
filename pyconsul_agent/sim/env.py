"""An `Env` made of the simulated parts, for one process on one host."""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, TypeVar

from pyconsul_agent.env.base import Env, InterfaceAddress, ProcessResult
from pyconsul_agent.env.timeouts import timeout
from pyconsul_agent.errors import NetError
from pyconsul_agent.sim.disk import SimFiles
from pyconsul_agent.sim.host import LOOPBACK, SimHost, is_loopback
from pyconsul_agent.sim.loop import SimLoop, settle
from pyconsul_agent.sim.owner import OWNER, Owner, is_dead

if TYPE_CHECKING:
    from pyconsul_agent.sim.net import SimNetwork
    from pyconsul_agent.sim.world import World

T = TypeVar("T")

WALL_START_NS = 1_767_225_600 * 10**9
"""2026-01-01 UTC, the wall clock of every host at the start."""

BOOTTIME_AHEAD_S = 500.0
LOOKUP_S = 0.002


class SimClock:
    """`env.base.Clock`. The wall clock is wrong by `host.wall_offset_s`."""

    def __init__(self, loop: SimLoop, host: SimHost) -> None:
        self._loop = loop
        self._host = host

    def monotonic(self) -> float:
        return self._loop.time()

    def lag(self, due: float) -> float:
        return max(self._loop.time() - due, 0.0)

    def boottime(self) -> float:
        return self._loop.time() + BOOTTIME_AHEAD_S

    def wall_ns(self) -> int:
        return WALL_START_NS + round((self._loop.time() + self._host.wall_offset_s) * 1e9)


class SimWorker:
    """`env.base.Worker`: jobs one after the other, each done at one instant of virtual time.

    The job's effect and its answer are two events, so a process can be killed between them.
    """

    def __init__(self, loop: SimLoop, queue_max: int) -> None:
        self._loop = loop
        self._slots = asyncio.Semaphore(queue_max)
        self._jobs: deque[Callable[[], None]] = deque()
        self._idle = asyncio.Event()
        self._idle.set()
        self._closed = False

    async def __call__(self, work: Callable[[], T]) -> T:
        if self._closed:
            raise RuntimeError("the worker is closed")
        await self._slots.acquire()
        future: asyncio.Future[T] = self._loop.create_future()

        def run() -> None:
            if future.done():  # the caller was cancelled before the job began
                self._finish(future, None, None)
                return
            try:
                result = work()
            except Exception as error:  # as a thread does: whatever the job raised belongs to its caller
                self._loop.call_later(self._loop.job_delay(), self._finish, future, None, error)
            else:
                self._loop.call_later(self._loop.job_delay(), self._finish, future, result, None)

        self._jobs.append(run)
        if self._idle.is_set():
            self._idle.clear()
            self._begin()
        return await future

    def _begin(self) -> None:
        self._loop.call_later(self._loop.job_delay(), self._jobs[0])

    def _finish(self, future: asyncio.Future[T], result: T | None, error: Exception | None) -> None:
        self._jobs.popleft()
        self._slots.release()
        settle(future, result, error)
        if self._jobs:
            self._begin()
        else:
            self._idle.set()

    async def close(self) -> None:
        self._closed = True
        await self._idle.wait()


class SimBlocking:
    """`env.base.Blocking`."""

    def __init__(self, loop: SimLoop) -> None:
        self._loop = loop
        self._workers: list[SimWorker] = []
        self._shared = self.worker("blocking")

    async def __call__(self, work: Callable[[], T]) -> T:
        return await self._shared(work)

    def worker(self, name: str, *, queue_max: int = 64) -> SimWorker:
        worker = SimWorker(self._loop, queue_max)
        self._workers.append(worker)
        return worker

    async def close(self) -> None:
        for worker in self._workers:
            await worker.close()


class SimChildren:
    """`env.base.Process`: programs are functions registered in `host.commands`.

    The key is the whole command line joined by spaces, or its first word.
    """

    def __init__(self, host: SimHost) -> None:
        self._host = host

    async def run(
        self,
        arguments: Sequence[str],
        *,
        timeout_s: float,
        output_bytes_max: int,
        environment: dict[str, str] | None = None,
        stdin: bytes | None = None,
        on_output: Callable[[bytes], None] | None = None,
    ) -> ProcessResult:
        command = self._host.commands.get(" ".join(arguments)) or self._host.commands.get(arguments[0])
        if command is None:
            raise FileNotFoundError(2, "No such file or directory", arguments[0])
        try:
            async with timeout(timeout_s):
                exit_code, output = await command(arguments, stdin or b"")
        except TimeoutError:
            return ProcessResult(-9, b"", truncated=False, timed_out=True)
        if on_output is not None:
            on_output(output)
        return ProcessResult(
            exit_code, output[-output_bytes_max:], len(output) > output_bytes_max, output_total=len(output)
        )


class SimResolver:
    """`env.base.Resolver`: what `SimNetwork.names` says."""

    def __init__(self, network: SimNetwork) -> None:
        self._network = network

    async def resolve(self, host: str) -> list[str]:
        if host == "localhost":
            return [LOOPBACK]
        if ":" in host or host.replace(".", "").isdigit():
            return [host]
        await asyncio.sleep(LOOKUP_S)
        found = self._network.names.get(host.lower().rstrip("."))
        if not found:
            raise NetError(f"lookup {host}: no such host")
        return sorted(found, key=lambda ip: ":" in ip)


class SimInterfaces:
    """`env.base.Interfaces`: `lo`, and `eth0` and so on with the host's addresses."""

    def __init__(self, host: SimHost) -> None:
        self._host = host

    def addresses(self) -> list[InterfaceAddress]:
        outside = [ip for ip in self._host.ips if not is_loopback(ip)]
        return [
            InterfaceAddress("lo", LOOPBACK, is_loopback=True),
            *(
                InterfaceAddress(f"eth{n}", ip, is_loopback=False, is_default_route=n == 0)
                for n, ip in enumerate(outside)
            ),
        ]


def make_env(
    world: World, host: SimHost, *, rng: random.Random | None = None, environ: dict[str, str] | None = None
) -> Env:
    """The world as the current owner sees it on `host`. Give each process its own: `SimProcess` does."""
    owner: Owner | None = OWNER.get()
    rng = rng or world.draw(f"env/{host.name}")
    # Drawn from a generator of its own, so that one more node ID does not shift the protocol's choices.
    entropy = random.Random(rng.getrandbits(64))  # noqa: S311 - a simulation
    return Env(
        clock=SimClock(world.loop, host),
        random=rng,
        token_bytes=entropy.randbytes,
        net=world.network.host(host),
        files=SimFiles(host.disk, lambda: is_dead(owner)),
        process=SimChildren(host),
        resolver=SimResolver(world.network),
        interfaces=SimInterfaces(host),
        blocking=SimBlocking(world.loop),
        environ=dict(environ or {}),
        hostname=host.name,
    )
