"""What a Ready wants durable, done: transactions of the log, and whole states put in place of the present one.

One thing at a time, under `lock`. A state comes from a snapshot: the newest one at the start, one that a leader sent,
or the one from before a restore that was never committed. A worker thread builds it, the loop puts it in place.
"""

from __future__ import annotations

import asyncio

from pyconsul_agent.env.base import Clock, Worker
from pyconsul_agent.env.log import Log
from pyconsul_agent.errors import ConsulError, DecodeError, StorageError
from pyconsul_agent.raft.types import Done, InitialState, InstallSnapshot, Ready
from pyconsul_agent.runtime.raft_apply import Applier, StateMachine
from pyconsul_agent.runtime.raft_snapshots import SnapshotSink
from pyconsul_agent.runtime.raft_storage import RaftStorage
from pyconsul_agent.structs.raft import SnapshotMeta
from pyconsul_agent.telemetry.server_meters import RaftMeter


class Keeper:
    """Storage and state machine, as far as they change together."""

    def __init__(
        self, storage: RaftStorage, machine: StateMachine, blocking: Worker, log: Log, clock: Clock, meter: RaftMeter
    ) -> None:
        """`blocking` runs restores, which take seconds: not the log's worker."""
        self._now = clock.monotonic
        self._meter = meter
        self.storage = storage
        self._machine = machine
        self._blocking = blocking
        self._log = log
        self.lock = asyncio.Lock()
        self.sinks: dict[int, SnapshotSink] = {}
        """Snapshots received and not installed yet, by the token of their request."""
        self.stable_index = 0
        """The highest durable index."""
        self.restored = asyncio.Event()
        """Set once the state is that of the snapshot found at the start. No other state may be put in place before."""

    async def load(self) -> InitialState:
        """What is there at the start. Raises StorageError."""
        initial = await self.storage.load()
        self.stable_index = max(initial.last_index, initial.snapshot.index if initial.snapshot else 0)
        if initial.snapshot is None:
            self.restored.set()
        return initial

    async def restore_newest(self, snapshot: SnapshotMeta, applier: Applier) -> None:
        """The state of the snapshot found at the start, before anything is applied to it. Raises StorageError."""
        await self._restore_stored(snapshot)
        applier.jump(snapshot.index, snapshot.term)
        self.restored.set()
        self._log.info("raft snapshot restored", id=snapshot.id, index=snapshot.index, bytes=snapshot.size)

    async def _restore_stored(self, snapshot: SnapshotMeta) -> None:
        source = await self.storage.open_snapshot(snapshot.id)
        began = self._now()
        try:
            switch = await self._blocking(lambda: self._machine.restore(source.chunks()))
            if switch is not None:
                switch()
            self._meter.rare("raft.fsm.restore", self._now() - began)
        except DecodeError as error:
            raise StorageError(f"failed to restore snapshot {snapshot.id}: {error}") from error
        finally:
            await source.close()

    async def store(self, ready: Ready, applier: Applier, position: int) -> Done:
        """Do what `ready` wants durable; `position` batches were put to `applier` before it. Raises StorageError."""
        async with self.lock:
            if ready.install is not None:
                return await self._install(ready, ready.install, applier, position)
            return await (self._revert(ready, applier, position) if ready.revert else self._commit(ready))

    async def _commit(self, ready: Ready) -> Done:
        began = self._now()
        await self.storage.commit(
            hard_state=ready.hard_state,
            truncate_from=ready.truncate_from,
            entries=ready.entries,
            compact_to=ready.compact_to,
            settled=ready.settle,
        )
        if ready.compact_to is not None:
            self._meter.rare("raft.compactLogs", self._now() - began)
        if ready.truncate_from is not None:
            self.stable_index = min(self.stable_index, ready.truncate_from - 1)
        if ready.entries:
            self.stable_index = ready.entries[-1].index
        return Done(stable_index=self.stable_index)

    async def _install(self, ready: Ready, install: InstallSnapshot, applier: Applier, position: int) -> Done:
        await self.restored.wait()
        await applier.drained(position)
        sink = self.sinks.pop(install.token)
        name, meta = sink.meta.id, install.meta
        began = self._now()
        try:
            switch = await self._blocking(lambda: self._machine.restore(sink.chunks()))
        except StorageError:
            raise
        except ConsulError as error:
            await sink.abort()
            if ready.hard_state is not None:
                await self.storage.commit(hard_state=ready.hard_state)
            reason = f"failed to restore snapshot {name}: {error}"
            self._log.error("raft snapshot refused", error=reason)
            return Done(stable_index=self.stable_index, installed=False, install_error=reason)
        if install.unproven:
            await self.storage.commit(hard_state=ready.hard_state, restored=sink.meta)
            await sink.publish()
        else:
            await sink.publish()
            await self.storage.commit(hard_state=ready.hard_state, clear_log=True)
        if switch is not None:
            switch()
        applier.jump(meta.index, meta.term)
        self.stable_index = meta.index
        self._meter.rare("raft.fsm.restore", self._now() - began)
        self._log.info("raft snapshot installed", id=name, index=meta.index, bytes=sink.meta.size)
        return Done(stable_index=meta.index, installed=True, snapshot_id=name)

    async def _revert(self, ready: Ready, applier: Applier, position: int) -> Done:
        """A restore that never was committed is undone; see raft.snapshotting."""
        await self.restored.wait()
        await applier.drained(position)
        if ready.hard_state is not None:
            await self.storage.commit(hard_state=ready.hard_state)
        before = await self.storage.revert()
        index, term = (before.snapshot.index, before.snapshot.term) if before.snapshot else (0, 0)
        if before.snapshot is not None:
            await self._restore_stored(before.snapshot)
        elif (switch := self._machine.blank()) is not None:
            switch()
        applier.jump(index, term)
        self.stable_index = max(before.last_index, index)
        return Done(stable_index=self.stable_index, reverted=before)

    async def close(self) -> None:
        """Forget snapshots that were not installed, release storage."""
        for sink in self.sinks.values():
            await sink.abort()
        self.sinks.clear()
        await self.storage.close()
