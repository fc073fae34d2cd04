"""The disk side of serf's snapshot file: read once at start, then appended to in order by one task."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

from pyconsul_agent.env.base import Blocking, Files
from pyconsul_agent.env.log import Log
from pyconsul_agent.serf.effects import AppendSnapshot, ReplaceSnapshot
from pyconsul_agent.wire.serf_snapshot import SnapshotState, replay

WRITES_MAX = 1024
"""Writes that wait for the disk (one every half second); beyond it the oldest go, with a log line."""
SNAPSHOT_BYTES_MAX = 64 * 1024 * 1024
"""A longer file is not ours: it is compacted far earlier."""
SNAPSHOT_MODE = 0o644

_ENCODING, _ERRORS = "utf-8", "surrogateescape"


class SnapshotFile:
    """One file; without a path everything here is a no-op."""

    def __init__(
        self,
        files: Files,
        blocking: Blocking,
        log: Log,
        path: str | None,
        wrote: Callable[[str, float], None] = lambda name, seconds: None,
    ) -> None:
        """`wrote` hears of each write: `appendLine` or `compact`, seconds."""
        self._wrote = wrote
        self._files = files
        self._blocking = blocking
        self._log = log
        self._path = path
        self._writes: deque[AppendSnapshot | ReplaceSnapshot] = deque()
        self._wake = asyncio.Event()
        self._finishing = False
        self.bytes_at_start = 0

    async def load(self, *, rejoin_after_leave: bool) -> SnapshotState | None:
        """What the file says; empty when it is new, None when no file is kept. Raises OSError."""
        path = self._path
        if path is None:
            return None

        def read() -> bytes:
            folder = path.rpartition("/")[0]
            if folder and not self._files.is_dir(folder):
                self._files.make_dirs(folder)
                self._files.sync_dir(folder.rpartition("/")[0] or "/")
            if not self._files.exists(path):
                self._files.write_atomic(path, b"", mode=SNAPSHOT_MODE)  # so that its name survives a power failure
                return b""
            if self._files.size(path) > SNAPSHOT_BYTES_MAX:
                raise OSError(f"{path} is longer than {SNAPSHOT_BYTES_MAX} bytes")
            return self._files.read(path)

        data = await self._blocking(read)
        self.bytes_at_start = len(data)
        state = replay(data.decode(_ENCODING, _ERRORS), rejoin_after_leave=rejoin_after_leave)
        if state.odd_lines:
            self._log.warn("Unrecognized snapshot lines", path=path, count=state.odd_lines)
        return state

    def write(self, effect: AppendSnapshot | ReplaceSnapshot) -> None:
        """Queue a write."""
        if self._path is None:
            return
        if len(self._writes) >= WRITES_MAX:
            self._writes.popleft()
            self._log.error("serf snapshot: the disk is too slow, a write was dropped", path=self._path)
        self._writes.append(effect)
        self._wake.set()

    def finish(self) -> None:
        """Let `run` end after what is queued."""
        self._finishing = True
        self._wake.set()

    async def run(self) -> None:
        """Write until `finish`."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._writes:
                await self._write_one(self._writes.popleft())
            if self._finishing:
                return

    async def _write_one(self, effect: AppendSnapshot | ReplaceSnapshot) -> None:
        path = self._path
        assert path is not None
        data = effect.text.encode(_ENCODING, _ERRORS)

        def write() -> None:
            if isinstance(effect, AppendSnapshot):
                self._files.append(path, data, sync=effect.sync)
            else:
                self._files.write_atomic(path, data, mode=SNAPSHOT_MODE)

        loop = asyncio.get_running_loop()
        began = loop.time()
        try:
            await self._blocking(write)
            self._wrote("appendLine" if isinstance(effect, AppendSnapshot) else "compact", loop.time() - began)
        except OSError as error:
            self._log.error("Failed to update snapshot", path=path, error=str(error))
