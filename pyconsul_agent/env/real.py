"""The operating system itself: `real_env()` is the only place where an agent's `Env` meets real clocks and disks.

Works under asyncio's loop and uvloop. Sockets are in `real_net`, children in `real_process`, addresses in `interfaces`.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import random
import secrets
import shutil
import socket
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from pyconsul_agent.env.base import Env
from pyconsul_agent.env.host import RealHost
from pyconsul_agent.env.interfaces import RealInterfaces
from pyconsul_agent.env.real_net import RealNet
from pyconsul_agent.env.real_process import RealProcess
from pyconsul_agent.errors import NetError

T = TypeVar("T")

RESOLVER_THREADS = 4
"""A look-up can take many seconds; a few may do so without holding up the others."""

QUEUE_MAX = 64


class RealClock:
    """`Clock` of the operating system."""

    def monotonic(self) -> float:
        return time.monotonic()

    def lag(self, due: float) -> float:
        return max(time.monotonic() - due, 0.0)

    def boottime(self) -> float:
        return time.clock_gettime(time.CLOCK_BOOTTIME)

    def wall_ns(self) -> int:
        return time.time_ns()


class RealFiles:
    """`Files` of the operating system."""

    def exists(self, path: str) -> bool:
        return os.path.exists(path)

    def is_dir(self, path: str) -> bool:
        return os.path.isdir(path)

    def is_file(self, path: str) -> bool:
        return os.path.isfile(path)

    def list_dir(self, path: str) -> list[str]:
        return sorted(os.listdir(path))

    def make_dirs(self, path: str, *, mode: int = 0o700) -> None:
        os.makedirs(path, mode=mode, exist_ok=True)

    def read(self, path: str, *, bytes_max: int = -1) -> bytes:
        with open(path, "rb") as file:
            return file.read(bytes_max)

    def write_atomic(
        self, path: str, data: bytes, *, mode: int = 0o600, sync: bool = True, sync_folder: bool = True
    ) -> None:
        directory, name = os.path.split(path)
        descriptor, temporary = tempfile.mkstemp(prefix=f".{name}.", suffix=".tmp", dir=directory or ".")
        try:
            with open(descriptor, "wb") as file:
                os.fchmod(file.fileno(), mode)
                file.write(data)
                file.flush()
                if sync:
                    os.fsync(file.fileno())
            os.replace(temporary, path)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
            raise
        if sync and sync_folder:
            self.sync_dir(directory or ".")

    def lock(self, path: str) -> Callable[[], None]:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BaseException:
            os.close(descriptor)
            raise
        return lambda: os.close(descriptor)

    def append(self, path: str, data: bytes, *, sync: bool = False) -> None:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        with open(descriptor, "ab") as file:
            file.write(data)
            file.flush()
            if sync:
                os.fsync(file.fileno())

    def rename(self, old: str, new: str) -> None:
        os.replace(old, new)

    def remove(self, path: str) -> None:
        os.unlink(path)

    def remove_tree(self, path: str) -> None:
        shutil.rmtree(path)

    def sync_dir(self, path: str) -> None:
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def size(self, path: str) -> int:
        return os.stat(path).st_size


class RealWorker:
    """`Worker`: an executor with one thread (the resolver's has more) and a bounded queue."""

    def __init__(self, name: str, *, queue_max: int, threads: int = 1) -> None:
        self._executor = ThreadPoolExecutor(threads, thread_name_prefix=name)
        self._slots = asyncio.Semaphore(queue_max)
        self._closed = False

    async def __call__(self, work: Callable[[], T]) -> T:
        async with self._slots:
            if self._closed:
                raise RuntimeError("the worker is closed")
            return await asyncio.get_running_loop().run_in_executor(self._executor, work)

    async def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        # The join may take as long as the longest job, so it must not stop the loop; a thread of its own waits.
        await asyncio.to_thread(self._executor.shutdown, wait=True)


class RealBlocking:
    """`Blocking` on threads."""

    def __init__(self) -> None:
        self._workers: list[RealWorker] = []
        self._shared = self.worker("blocking")

    async def __call__(self, work: Callable[[], T]) -> T:
        return await self._shared(work)

    def worker(self, name: str, *, queue_max: int = QUEUE_MAX, threads: int = 1) -> RealWorker:
        worker = RealWorker(name, queue_max=queue_max, threads=threads)
        self._workers.append(worker)
        return worker

    async def close(self) -> None:
        for worker in self._workers:
            await worker.close()
        self._workers.clear()


class RealResolver:
    """`Resolver` by getaddrinfo."""

    def __init__(self, worker: RealWorker) -> None:
        self._worker = worker

    async def resolve(self, host: str) -> list[str]:
        try:
            found = await self._worker(lambda: socket.getaddrinfo(host, None, type=socket.SOCK_STREAM))
        except (OSError, UnicodeError) as error:
            absent = isinstance(error, socket.gaierror) and error.errno in (socket.EAI_NONAME, socket.EAI_NODATA)
            text = "no such host" if absent else str(getattr(error, "strerror", None) or error)
            raise NetError(f"lookup {host}: {text}") from error
        addresses = list(dict.fromkeys(str(entry[4][0]) for entry in found))
        return sorted(addresses, key=lambda ip: ":" in ip)


def real_env() -> Env:
    """This machine. Threads start when first used; end them by `await env.blocking.close()`."""
    blocking = RealBlocking()
    return Env(
        clock=RealClock(),
        random=random.Random(secrets.randbits(256)),  # noqa: S311 - jitter; secrets come from `token_bytes`
        token_bytes=secrets.token_bytes,
        net=RealNet(),
        files=RealFiles(),
        process=RealProcess(),
        resolver=RealResolver(blocking.worker("resolver", threads=RESOLVER_THREADS)),
        interfaces=RealInterfaces(),
        blocking=blocking,
        environ=dict(os.environ),
        hostname=socket.gethostname(),
        host=RealHost(),
    )
