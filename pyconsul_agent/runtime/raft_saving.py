"""Snapshots of the state machine: taken now and then or when asked for, and one of a user's put in its place.

How a restore survives crashes, and how it is taken back when it was never committed, is told in `raft.snapshotting`.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, replace
from typing import Protocol

from pyconsul_agent.env.base import Clock, Worker
from pyconsul_agent.env.log import Log
from pyconsul_agent.errors import LeadershipLost, RaftError, StorageError
from pyconsul_agent.raft.core import Raft
from pyconsul_agent.runtime.raft_apply import Applier, StateMachine
from pyconsul_agent.runtime.raft_disk import Keeper
from pyconsul_agent.runtime.raft_snapshots import SnapshotSink
from pyconsul_agent.structs.raft import SnapshotMeta
from pyconsul_agent.telemetry.server_meters import RaftMeter


@dataclass(frozen=True, slots=True, kw_only=True)
class SnapshotPolicy:
    """When snapshots are taken by themselves: looked at every interval..2*interval, if so many entries came."""

    interval_s: float = 30.0
    threshold: int = 16384


DEFAULT_POLICY = SnapshotPolicy()


class Driver(Protocol):
    """The one who runs the core."""

    @property
    def running(self) -> bool:
        """False once raft has stopped or failed."""

    def check_running(self) -> None:
        """Raises RaftError if it has."""

    def kick(self) -> None:
        """Ask the core for Readies."""

    async def noop(self) -> int:
        """Commit an empty entry; its index. Raises RaftError."""

    def stop_for(self, error: Exception) -> None:
        """The disk failed: acknowledge nothing any more."""


class Snapshotter:
    """Saves and replaces the state of one server."""

    def __init__(
        self,
        raft: Raft,
        disk: Keeper,
        machine: StateMachine,
        applier: Applier,
        driver: Driver,
        all_stored: Callable[[], Awaitable[None]],
        *,
        clock: Clock,
        blocking: Worker,
        rng: random.Random,
        log: Log,
        policy: SnapshotPolicy,
        meter: RaftMeter,
    ) -> None:
        """`all_stored` returns when nothing waits for the disk."""
        self._meter = meter
        self._raft = raft
        self._disk = disk
        self._machine = machine
        self._applier = applier
        self._driver = driver
        self._clock = clock
        self._blocking = blocking
        self._random = rng
        self._log = log
        self._policy = policy
        self._all_stored = all_stored
        self._one_at_a_time = asyncio.Lock()

    def follow(self, policy: SnapshotPolicy) -> None:
        """Go by another policy, from the next look on."""
        self._policy = policy

    async def now_and_then(self) -> None:
        """Take one whenever the policy says so. Until cancelled."""
        while True:
            await asyncio.sleep(self._random.uniform(self._policy.interval_s, 2 * self._policy.interval_s))
            newest = self._raft.snapshot
            if self._raft.last_index - (newest.index if newest else 0) < self._policy.threshold:
                continue
            try:
                await self.take()
            except RaftError as error:
                self._log.warn("raft snapshot not taken", error=str(error))

    async def take(self) -> SnapshotMeta:
        """Store the state machine as it is now; the newest snapshot if nothing came since. Raises RaftError."""
        async with self._one_at_a_time:
            self._driver.check_running()
            self._check_restored("take snapshot")
            index, term = self._applier.index, self._applier.term
            newest = self._raft.snapshot
            if index == 0:
                raise RaftError("nothing new to snapshot")
            if self._raft.unproven:
                raise RaftError("cannot take snapshot now, a restored one is not committed yet")
            if newest is not None and newest.index >= index:
                return newest
            configuration_index, configuration = self._raft.committed_configuration
            if configuration_index > index:
                raise RaftError(
                    f"cannot take snapshot now, wait until the configuration entry at {configuration_index} has been "
                    f"applied (have applied {index})"
                )
            meta = SnapshotMeta(
                index=index, term=term, configuration=configuration, configuration_index=configuration_index
            )
            now, meter = self._clock.monotonic, self._meter
            began = now()
            image = self._machine.snapshot()
            frozen = now()
            stored = await self._disk.storage.create_snapshot(meta, image)
            meter.rare("raft.fsm.snapshot", frozen - began)
            meter.rare("raft.snapshot.persist", now() - frozen)
            meter.rare("raft.snapshot.takeSnapshot", now() - began)
            newest = self._raft.snapshot
            if newest is None or newest.index < stored.index:
                self._raft.snapshot_taken(stored, self._clock.boottime())
                self._driver.kick()
            self._log.info("raft snapshot taken", id=stored.id, index=stored.index, bytes=stored.size)
            return stored

    async def restore(self, chunks: Iterable[bytes], saved: SnapshotMeta) -> None:
        """Replace the state machine by a user's snapshot (leader only). Raises RaftError, NotLeader, DecodeError."""
        self._meter.restored()
        began = self._clock.monotonic()
        async with self._one_at_a_time:
            await self._all_stored()
            self._driver.check_running()
            self._check_restored("restore")
            async with self._disk.lock:
                meta = self._raft.begin_restore(self._clock.boottime())
                self._driver.kick()
                # Rows keep the indexes they had when saved; what is written from now on must have higher ones.
                meta = replace(meta, index=max(meta.index, saved.index + 1))
                await self._applier.drained(self._applier.put_count)
                await self._replace_state(meta, chunks)
            # Committed, it shows that a quorum has the restored state.
            await self._driver.noop()
        self._meter.rare("raft.restoreUserSnapshot", self._clock.monotonic() - began)

    def _check_restored(self, what: str) -> None:
        """Raises RaftError until the state found at the start is there."""
        if not self._disk.restored.is_set():
            raise RaftError(f"cannot {what} now, the last snapshot is still being restored")

    async def _replace_state(self, meta: SnapshotMeta, chunks: Iterable[bytes]) -> None:
        storage = self._disk.storage
        sink = storage.receive_snapshot(meta)
        swapped = False
        try:
            pieces = iter(chunks)
            while (piece := await self._blocking(lambda: next(pieces, None))) is not None:
                await sink.write(piece)
            stored = await sink.finish()
            switch = await self._blocking(lambda: self._machine.restore(sink.chunks()))
            await self._publish(sink)
            swapped = self._driver.running and self._raft.restored(stored, self._clock.boottime())
            if not swapped:
                await storage.revert()
                raise LeadershipLost
        finally:
            if not swapped:
                if self._driver.running:
                    self._raft.restored(None, self._clock.boottime())
                await sink.abort()
            self._driver.kick()
        if switch is not None:
            switch()
        self._applier.jump(stored.index, stored.term)
        self._disk.stable_index = stored.index

    async def _publish(self, sink: SnapshotSink) -> None:
        """From here on a crash leaves a server that holds the restored state, and can still go back before it.

        The lock of the disk keeps the log as it is until the core knows.
        """
        try:
            await self._disk.storage.commit(restored=sink.meta)
            await sink.publish()
        except StorageError as error:
            self._driver.stop_for(error)
            raise
