"""A raft server's storage in the simulation: what a commit returned for survives a crash, anything else is lost whole.

`RaftDisk` is the medium and outlives the process; `SimRaftStorage` is one process's view of it. Delays come from the
`blocking` of the environment; a fault makes the nth operation from now fail, as a failed fsync does: without a trace.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace

from pyconsul_agent.env.base import Worker
from pyconsul_agent.errors import StorageError
from pyconsul_agent.raft.types import HardState, InitialState, LogReader
from pyconsul_agent.structs.raft import Configuration, EntryType, LogEntry, SnapshotMeta
from pyconsul_agent.wire.raft import decode_configuration, decode_peers

CHUNK_BYTES = 64 * 1024
RETAIN = 2


@dataclass(slots=True)
class RaftDisk:
    """What is durable."""

    hard_state: HardState = HardState()
    log: dict[int, LogEntry] = field(default_factory=dict)
    snapshots: dict[str, tuple[SnapshotMeta, bytes]] = field(default_factory=dict)
    """By name, oldest first."""
    restored: tuple[int, str] | None = None
    """(index, name) of a snapshot that may yet be taken back."""
    commits: int = 0
    fail_in: int | None = None
    """How many operations from now the medium fails; from then on every operation does, until `repair`."""

    def repair(self) -> None:
        """A new disk with the old content."""
        self.fail_in = None

    def touch(self) -> None:
        """Count an operation; raises StorageError when it is to fail."""
        if self.fail_in is not None:
            if self.fail_in <= 0:
                raise StorageError("raft storage: commit: simulated input/output error")
            self.fail_in -= 1


class SimRaftStorage:
    """`runtime.raft_storage.RaftStorage` on a RaftDisk."""

    def __init__(self, disk: RaftDisk, *, blocking: Worker) -> None:
        self._disk = disk
        self._blocking = blocking
        self._closed = False

    @property
    def reader(self) -> LogReader:
        """See RaftStorage."""
        return _Reader(self._disk)

    async def load(self) -> InitialState:
        """See RaftStorage."""
        return await self._blocking(self._load)

    async def commit(
        self,
        *,
        hard_state: HardState | None = None,
        truncate_from: int | None = None,
        entries: Sequence[LogEntry] = (),
        compact_to: int | None = None,
        clear_log: bool = False,
        restored: SnapshotMeta | None = None,
        settled: bool = False,
    ) -> None:
        """See RaftStorage."""

        def work() -> None:
            if self._closed:
                raise StorageError("raft storage: closed")
            disk = self._disk
            disk.touch()
            log = {} if clear_log else dict(disk.log)
            mark = disk.restored
            if restored is not None:
                mark = (restored.index, restored.id)
                log = {index: entry for index, entry in log.items() if index < restored.index}
            if settled and mark is not None:
                low = mark[0]
                log = {index: entry for index, entry in log.items() if index > low}
            if settled or clear_log:
                mark = None
            if truncate_from is not None:
                log = {index: entry for index, entry in log.items() if index < truncate_from}
            for entry in entries:
                if entry.index in log:
                    raise StorageError(f"raft storage: commit: entry {entry.index} is there already")
                log[entry.index] = entry
            if compact_to is not None:
                log = {index: entry for index, entry in log.items() if index > compact_to}
            disk.log, disk.restored = log, mark
            disk.hard_state = hard_state or disk.hard_state
            disk.commits += 1

        await self._blocking(work)

    async def revert(self) -> InitialState:
        """See RaftStorage."""

        def work() -> InitialState:
            disk = self._disk
            if disk.restored is not None:
                disk.touch()
                disk.snapshots = {name: kept for name, kept in disk.snapshots.items() if name != disk.restored[1]}
            return self._load()

        return await self._blocking(work)

    async def create_snapshot(self, meta: SnapshotMeta, chunks: Callable[[], Iterable[bytes]]) -> SnapshotMeta:
        """See RaftStorage."""
        sink = self.receive_snapshot(meta)

        def work() -> SnapshotMeta:
            for chunk in chunks():
                sink.data += chunk
            return sink.publish_now()

        return await self._blocking(work)

    def receive_snapshot(self, meta: SnapshotMeta) -> SimSink:
        """See RaftStorage."""
        number = len(self._disk.snapshots)
        while (name := f"{meta.term}-{meta.index}-{number}") in self._disk.snapshots:
            number += 1
        return SimSink(self._disk, replace(meta, id=name), self._blocking)

    async def open_snapshot(self, snapshot_id: str) -> SimSource:
        """See RaftStorage."""
        name = snapshot_id or next(reversed(self._disk.snapshots), "")
        if name not in self._disk.snapshots:
            raise StorageError(f"raft snapshots: {name or 'any'} is not there")
        return SimSource(*self._disk.snapshots[name])

    async def close(self) -> None:
        """See RaftStorage."""
        self._closed = True

    def _load(self) -> InitialState:
        disk = self._disk
        disk.touch()
        snapshot = max((meta for meta, _ in disk.snapshots.values()), key=lambda m: (m.term, m.index), default=None)
        unproven = self._is_unproven(snapshot)
        log = {i: entry for i, entry in disk.log.items() if not unproven or (snapshot and i > snapshot.index)}
        last = max(log, default=0)
        if snapshot is not None and disk.log and not unproven:
            here = disk.log.get(snapshot.index)
            if last < snapshot.index or (here is not None and here.term != snapshot.term):
                disk.log = log = {}
                last = 0
        if not log:
            return InitialState(hard_state=disk.hard_state, snapshot=snapshot, unproven=unproven)
        first = min(log)
        if len(log) != last - first + 1 or first > (snapshot.index if snapshot else 0) + 1:
            raise StorageError("raft storage: the log has a hole")
        return InitialState(
            hard_state=disk.hard_state,
            snapshot=snapshot,
            first_index=first,
            last_index=last,
            last_term=disk.log[last].term,
            configurations=tuple(
                (index, _configuration(disk.log[index]))
                for index in sorted(log)
                if disk.log[index].type
                in (EntryType.CONFIGURATION, EntryType.ADD_PEER_DEPRECATED, EntryType.REMOVE_PEER_DEPRECATED)
            ),
            unproven=unproven,
        )

    def _is_unproven(self, snapshot: SnapshotMeta | None) -> bool:
        disk = self._disk
        if disk.restored is None:
            return False
        index, name = disk.restored
        if snapshot is not None and snapshot.id == name:
            return True
        if snapshot is not None and snapshot.index > index:
            disk.log = {}
        else:
            disk.log = {i: entry for i, entry in disk.log.items() if i < index}
        disk.restored = None
        return False


@dataclass(frozen=True, slots=True)
class _Reader:
    disk: RaftDisk

    def term(self, index: int) -> int | None:
        entry = self.disk.log.get(index)
        return None if entry is None else entry.term

    def entries(self, low: int, high: int, bytes_max: int) -> list[LogEntry]:
        result: list[LogEntry] = []
        size = 0
        for index in range(low, high + 1):
            entry = self.disk.log.get(index)
            if entry is None:
                break
            size += len(entry.data or b"") + len(entry.extensions or b"")
            if result and size > bytes_max:
                break
            result.append(entry)
        return result


class SimSink:
    """`SnapshotSink` in memory: a crash before publish leaves nothing."""

    def __init__(self, disk: RaftDisk, meta: SnapshotMeta, blocking: Worker) -> None:
        self._disk = disk
        self._meta = meta
        self._blocking = blocking
        self.data = bytearray()

    @property
    def meta(self) -> SnapshotMeta:
        """See SnapshotSink."""
        return self._meta

    async def write(self, data: bytes) -> None:
        """See SnapshotSink."""
        self.data += data

    async def finish(self) -> SnapshotMeta:
        """See SnapshotSink."""

        def work() -> SnapshotMeta:
            self._disk.touch()
            self._meta = replace(self._meta, size=len(self.data))
            return self._meta

        return await self._blocking(work)

    def chunks(self) -> Iterable[bytes]:
        """See SnapshotSink."""
        return _chunks(bytes(self.data))

    async def publish(self) -> None:
        """See SnapshotSink."""
        await self._blocking(self.publish_now)

    def publish_now(self) -> SnapshotMeta:
        """Name it and drop the old ones."""
        self._disk.touch()
        self._meta = replace(self._meta, size=len(self.data))
        snapshots = {**self._disk.snapshots, self._meta.id: (self._meta, bytes(self.data))}
        kept = sorted(snapshots, key=lambda name: (snapshots[name][0].term, snapshots[name][0].index, name))[-RETAIN:]
        self._disk.snapshots = {name: snapshots[name] for name in kept}
        return self._meta

    async def abort(self) -> None:
        """See SnapshotSink."""


class SimSource:
    """`SnapshotSource` in memory."""

    def __init__(self, meta: SnapshotMeta, data: bytes) -> None:
        self._meta = meta
        self._data = data
        self._position = 0

    @property
    def meta(self) -> SnapshotMeta:
        """See SnapshotSource."""
        return self._meta

    async def read(self, count: int) -> bytes:
        """See SnapshotSource."""
        piece = self._data[self._position : self._position + count]
        self._position += len(piece)
        return piece

    def chunks(self) -> Iterable[bytes]:
        """See SnapshotSource."""
        return _chunks(self._data)

    async def close(self) -> None:
        """See SnapshotSource."""


def _chunks(data: bytes) -> Iterable[bytes]:
    return (data[at : at + CHUNK_BYTES] for at in range(0, len(data), CHUNK_BYTES))


def _configuration(entry: LogEntry) -> Configuration:
    decode = decode_configuration if entry.type == EntryType.CONFIGURATION else decode_peers
    return decode(entry.data or b"")
