"""Where a raft server keeps its promises: log, term and vote in one SQLite file, snapshots as files beside it.

One transaction per Ready: hard state, truncation, entries and compaction become durable together or not at all (WAL,
synchronous=FULL: the commit returns after fsync). Writes run on a worker thread, one after another; reads of old
entries use a second connection on the loop's thread and take some ten microseconds.

Any error of the file or the disk is a StorageError and final: after a failed fsync nobody knows what is durable, so
nothing is ever tried again. This room knows no rule of consensus.
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
from collections.abc import Callable, Iterable, Sequence
from typing import Protocol, TypeVar

from pyconsul_agent.env.base import Worker
from pyconsul_agent.env.log import Log
from pyconsul_agent.errors import DecodeError, StorageError
from pyconsul_agent.raft.types import HardState, InitialState, LogReader
from pyconsul_agent.runtime.raft_log_file import (
    COLUMNS,
    ROWS_PER_STATEMENT,
    SqliteLogReader,
    connect,
    entry_of,
    insert,
    storage_errors,
    transaction,
)
from pyconsul_agent.runtime.raft_mark import Mark, Reached, reached
from pyconsul_agent.runtime.raft_snapshots import SnapshotFiles, SnapshotSink, SnapshotSource, sync_directory
from pyconsul_agent.structs.raft import Configuration, EntryType, LogEntry, SnapshotMeta
from pyconsul_agent.wire.raft import decode_configuration, decode_peers

T = TypeVar("T")

SCHEMA_VERSION = 1
LOG_FILE = "log.sqlite"
MARK_FILE = "reached"


class RaftStorage(Protocol):
    """What the raft driver needs of durable storage. Every method raises StorageError when the medium fails."""

    @property
    def reader(self) -> LogReader:
        """Reads of what `commit` has stored."""

    async def load(self) -> InitialState:
        """Open, check and tell what is there. Called once, first."""

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
        """One transaction, durable on return: delete (all, or >= truncate_from), append, delete <= compact_to.

        `restored`: the snapshot of that name, published next, may yet be taken back; entries before its index are kept
        until `settled` (or `clear_log`), which lets them go, or `revert`.
        """

    async def revert(self) -> InitialState:
        """Throw the restored snapshot and what came after it away; what was before it, durable on return."""

    async def create_snapshot(self, meta: SnapshotMeta, chunks: Callable[[], Iterable[bytes]]) -> SnapshotMeta:
        """Store a snapshot, durable on return; `chunks` runs on the worker. Gives `meta` with its id and size."""

    def receive_snapshot(self, meta: SnapshotMeta) -> SnapshotSink:
        """A place for a snapshot that comes in pieces; invisible until published."""

    async def open_snapshot(self, snapshot_id: str) -> SnapshotSource:
        """A stored snapshot for reading; "" is the newest. Raises StorageError when it is not there or broken."""

    async def close(self) -> None:
        """Release everything. Idempotent."""


_SCHEMA = """
CREATE TABLE log (
    idx INTEGER PRIMARY KEY, term INTEGER NOT NULL, type INTEGER NOT NULL, data BLOB, extensions BLOB,
    appended BLOB NOT NULL, crc INTEGER NOT NULL
);
CREATE TABLE hard_state (
    one INTEGER PRIMARY KEY CHECK (one = 1), term INTEGER NOT NULL, vote_term INTEGER NOT NULL, voted_for BLOB NOT NULL
);
"""
_RESTORED = """
CREATE TABLE IF NOT EXISTS restored (
    one INTEGER PRIMARY KEY CHECK (one = 1), idx INTEGER NOT NULL, snapshot TEXT NOT NULL
)
"""
"""A snapshot that may yet be taken back; log entries before `idx` are kept for that (raft.snapshotting)."""
_CONFIGURATION_TYPES = (EntryType.CONFIGURATION, EntryType.ADD_PEER_DEPRECATED, EntryType.REMOVE_PEER_DEPRECATED)


class SqliteRaftStorage:
    """`RaftStorage` in `directory` (`<data>/raft`)."""

    def __init__(
        self,
        directory: str,
        *,
        blocking: Worker,
        wall_ns: Callable[[], int],
        log: Log,
        snapshot_blocking: Worker | None = None,
    ) -> None:
        """Give snapshots a worker of their own: writing one takes seconds, for which no commit must wait."""
        self._directory = directory
        self._path = os.path.join(directory, LOG_FILE)
        self._blocking = blocking
        self._log = log
        self._snapshots = SnapshotFiles(
            os.path.join(directory, "snapshots"), blocking=snapshot_blocking or blocking, wall_ns=wall_ns, log=log
        )
        self._writer: sqlite3.Connection | None = None
        self._reader: SqliteLogReader | None = None
        self._mark: Mark | None = None
        self._order = asyncio.Lock()
        self._failure = ""
        """Of the first commit or revert that failed: there is none after it."""

    @property
    def reader(self) -> LogReader:
        """See RaftStorage."""
        assert self._reader is not None, "load() comes first"
        return self._reader

    async def load(self) -> InitialState:
        """See RaftStorage."""
        async with self._order:
            state = await self._blocking(self._open)
        self._reader = await self._blocking(lambda: SqliteLogReader(self._path))
        snapshot = state.snapshot
        self._log.info(
            "raft storage opened",
            term=state.hard_state.term,
            first_index=state.first_index,
            last_index=state.last_index,
            snapshot_index=snapshot.index if snapshot else 0,
            snapshot_id=snapshot.id if snapshot else "",
        )
        return state

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
        writer, mark = self._connection(), self._mark
        assert mark is not None
        other_work = (hard_state, truncate_from, compact_to, restored) != (None,) * 4 or clear_log or settled

        def work() -> None:
            if not other_work and len(entries) <= ROWS_PER_STATEMENT:
                # A statement alone is a transaction. The interpreter's lock is given up and fought for once, not once
                # for every row: that is what a busy loop made expensive.
                with storage_errors("commit"):
                    insert(writer, entries)
                    if entries:
                        mark.rise(Reached(entries[-1].index))
                return
            with storage_errors("commit"):
                if clear_log or truncate_from is not None:
                    mark.fall(0 if clear_log or truncate_from is None else truncate_from - 1)
                if restored is not None:
                    mark.fall(restored.index - 1)
            with storage_errors("commit"), transaction(writer):
                if hard_state is not None:
                    row = (hard_state.term, hard_state.vote_term, hard_state.voted_for)
                    writer.execute("INSERT OR REPLACE INTO hard_state VALUES (1, ?, ?, ?)", row)
                if restored is not None:
                    writer.execute("INSERT OR REPLACE INTO restored VALUES (1, ?, ?)", (restored.index, restored.id))
                    writer.execute("DELETE FROM log WHERE idx >= ?", (restored.index,))
                if settled:
                    writer.execute("DELETE FROM log WHERE idx <= (SELECT idx FROM restored)")
                if settled or clear_log:
                    writer.execute("DELETE FROM restored")
                if clear_log:
                    writer.execute("DELETE FROM log")
                elif truncate_from is not None:
                    writer.execute("DELETE FROM log WHERE idx >= ?", (truncate_from,))
                for at in range(0, len(entries), ROWS_PER_STATEMENT):
                    insert(writer, entries[at : at + ROWS_PER_STATEMENT])
                if compact_to is not None:
                    writer.execute("DELETE FROM log WHERE idx <= ?", (compact_to,))
            with storage_errors("commit"):
                last = entries[-1].index if entries else 0
                mark.rise(Reached(last) if hard_state is None else _reached(last, hard_state))

        await self._exclusively(work)

    async def revert(self) -> InitialState:
        """See RaftStorage."""
        writer = self._connection()

        def work() -> InitialState:
            with storage_errors("revert"):
                row = writer.execute("SELECT snapshot FROM restored").fetchone()
                if row is not None:
                    if self._mark is not None:
                        self._mark.fall(0)
                    # First the snapshot: without it the mark says at the next start that the rest has to go too.
                    self._snapshots.remove(row[0])
                return self._state(writer, self._snapshots.newest())

        return await self._exclusively(work)

    async def create_snapshot(self, meta: SnapshotMeta, chunks: Callable[[], Iterable[bytes]]) -> SnapshotMeta:
        """See RaftStorage."""
        return await self._snapshots.create(meta, chunks)

    def receive_snapshot(self, meta: SnapshotMeta) -> SnapshotSink:
        """See RaftStorage."""
        return self._snapshots.receive(meta)

    async def open_snapshot(self, snapshot_id: str) -> SnapshotSource:
        """See RaftStorage."""
        return await self._snapshots.open(snapshot_id)

    async def close(self) -> None:
        """See RaftStorage."""
        async with self._order:
            writer, self._writer = self._writer, None
            if self._reader is not None:
                self._reader.close()
            if writer is not None:
                await self._blocking(writer.close)
            if self._mark is not None:
                self._mark.close()

    def _connection(self) -> sqlite3.Connection:
        if self._writer is None:
            raise StorageError("raft storage: closed")
        return self._writer

    async def _exclusively(self, work: Callable[[], T]) -> T:
        def first_failure_is_final() -> T:
            if self._failure:
                raise StorageError(f"raft storage: commit after a failed one: {self._failure}")
            try:
                return work()
            except StorageError as error:
                self._failure = str(error)
                raise

        async with self._order:
            job = asyncio.ensure_future(self._blocking(first_failure_is_final))
            try:
                return await asyncio.shield(job)
            except asyncio.CancelledError:
                # The worker cannot be stopped; nobody may touch the connection before it is through.
                await asyncio.wait({job})
                raise

    # -- on the worker ------------------------------------------------------------------------------------------

    def _open(self) -> InitialState:
        with storage_errors(f"open {self._path}"):
            if not os.path.isdir(self._directory):
                os.makedirs(self._directory, mode=0o700, exist_ok=True)
                sync_directory(os.path.dirname(os.path.abspath(self._directory)))
            fresh = not os.path.exists(self._path)
            if fresh:
                os.close(os.open(self._path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
            mark = self._mark = Mark(os.path.join(self._directory, MARK_FILE))
            try:
                writer = connect(self._path)
            except BaseException:
                mark.close()
                raise
            try:
                self._prepare(writer)
                snapshot = self._snapshots.newest()
                state = self._state(writer, snapshot)
                mark.rise(_reached(max(state.last_index, snapshot.index if snapshot else 0), state.hard_state))
            except BaseException:
                writer.close()
                mark.close()
                raise
            if fresh:
                sync_directory(self._directory)
            self._writer = writer
            return state

    def _prepare(self, writer: sqlite3.Connection) -> None:
        (version,) = writer.execute("PRAGMA user_version").fetchone()
        if version not in (0, SCHEMA_VERSION):
            raise StorageError(f"raft storage: {self._path} has format {version}, this program knows {SCHEMA_VERSION}")
        problems = [row[0] for row in writer.execute("PRAGMA quick_check(3)")]
        if problems != ["ok"]:
            raise StorageError(f"raft storage: {self._path} is damaged: {'; '.join(map(str, problems))}")
        if version == 0:
            with transaction(writer):
                for statement in _SCHEMA.split(";"):
                    writer.execute(statement)
                writer.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
        writer.execute(_RESTORED)

    def _state(self, writer: sqlite3.Connection, snapshot: SnapshotMeta | None) -> InitialState:
        row = writer.execute("SELECT term, vote_term, voted_for FROM hard_state").fetchone()
        hard_state = HardState(*row) if row else HardState()
        self._refuse_amnesia(writer)
        if self._mark is not None:
            (end,) = writer.execute("SELECT max(idx) FROM log").fetchone()
            self._refuse_loss(self._mark, end or 0, hard_state, snapshot)
        unproven = self._is_unproven(writer, snapshot)
        if not unproven:
            self._drop_superseded(writer, snapshot)
        low = snapshot.index if unproven and snapshot else 0
        count, first, last = writer.execute(
            "SELECT count(*), min(idx), max(idx) FROM log WHERE idx > ?", (low,)
        ).fetchone()
        if not count:
            return InitialState(hard_state=hard_state, snapshot=snapshot, unproven=unproven)
        if last - first + 1 != count:
            raise StorageError(f"raft storage: {self._path} lacks entries between {first} and {last}")
        if first > (snapshot.index if snapshot else 0) + 1:
            raise StorageError(f"raft storage: no readable snapshot covers the entries before {first}")
        # Its term is what votes go by, so it is not believed without its sum.
        last_entry = entry_of(writer.execute(f"SELECT {COLUMNS} FROM log WHERE idx = ?", (last,)).fetchone())  # noqa: S608
        marks = ",".join("?" * len(_CONFIGURATION_TYPES))
        rows = writer.execute(
            f"SELECT {COLUMNS} FROM log WHERE type IN ({marks}) AND idx >= ? ORDER BY idx",  # noqa: S608 -- constants
            (*_CONFIGURATION_TYPES, first),
        )
        return InitialState(
            hard_state=hard_state,
            snapshot=snapshot,
            first_index=first,
            last_index=last,
            last_term=last_entry.term,
            configurations=tuple((entry.index, _configuration(entry)) for entry in map(entry_of, rows)),
            unproven=unproven,
        )

    def _is_unproven(self, writer: sqlite3.Connection, snapshot: SnapshotMeta | None) -> bool:
        """Whether the newest snapshot is the one that the mark is about; a mark without its snapshot is resolved."""
        row = writer.execute("SELECT idx, snapshot FROM restored").fetchone()
        if row is None:
            return False
        index, name = row
        if snapshot is not None and snapshot.id == name:
            return True
        if self._mark is not None:
            self._mark.fall(0)
        with transaction(writer):
            if snapshot is not None and snapshot.index > index:
                writer.execute("DELETE FROM log")  # a leader's snapshot was installed over it
            else:
                self._log.warn("raft snapshot of a restore is not there, going back before it", id=name, index=index)
                writer.execute("DELETE FROM log WHERE idx >= ?", (index,))
            writer.execute("DELETE FROM restored")
        return False

    def _refuse_amnesia(self, writer: sqlite3.Connection) -> None:
        """A newer snapshot is damaged: without it we may start only if the log has all that it stood for.

        compat: 1.10 starts with the older one, and may then vote for a leader without entries that it had
        acknowledged. No crash leaves a damaged snapshot; who wants to go on without it removes its directory.
        """
        if not self._snapshots.damaged:
            return
        (last,) = writer.execute("SELECT max(idx) FROM log").fetchone()
        row = writer.execute("SELECT snapshot FROM restored").fetchone()
        for name, index in self._snapshots.damaged.items():
            if (last or 0) < index or (row is not None and row[0] == name):
                raise StorageError(
                    f"raft storage: snapshot {name} is damaged and the log does not cover it: this server has lost "
                    f"what it had acknowledged. Remove it from raft by another server, then {self._directory} to let "
                    "it join as a new one; or, if it is the only one, the snapshot to go on with what is left"
                )

    def _refuse_loss(self, mark: Mark, last: int, hard_state: HardState, snapshot: SnapshotMeta | None) -> None:
        """A log that ends before the mark: its tail is gone, though it was durable. See raft_mark.

        Asked before anything is dropped on purpose, which brings the mark down.
        compat: 1.10 keeps no such mark and starts with what BoltDB still shows.
        """
        if mark.damaged:
            self._log.warn("raft mark cannot be read, a loss would not be noticed", file=MARK_FILE)
        here = _reached(max(last, snapshot.index if snapshot else 0), hard_state)
        if not here.covers(mark.reached):
            raise StorageError(
                f"raft storage: {self._path} has come to {here}, but had been at {mark.reached}: this server has lost "
                f"what it had acknowledged. Remove it from raft by another server, then {self._directory} to let it "
                f"join as a new one; or, if it is the only one, {MARK_FILE} in it to go on with what is left"
            )

    def _drop_superseded(self, writer: sqlite3.Connection, snapshot: SnapshotMeta | None) -> None:
        """A crash between publishing a received snapshot and emptying the log leaves entries the snapshot replaces."""
        if snapshot is None:
            return
        (last,) = writer.execute("SELECT max(idx) FROM log").fetchone()
        here = writer.execute("SELECT term FROM log WHERE idx = ?", (snapshot.index,)).fetchone()
        if last is not None and (last < snapshot.index or (here is not None and here[0] != snapshot.term)):
            self._log.warn("raft log ends before the newest snapshot, dropping it", last_index=last, id=snapshot.id)
            if self._mark is not None:
                self._mark.fall(0)
            with transaction(writer):
                writer.execute("DELETE FROM log")


def _reached(index: int, state: HardState) -> Reached:
    return reached(index, state.term, state.vote_term, state.voted_for)


def _configuration(entry: LogEntry) -> Configuration:
    try:
        if entry.type == EntryType.CONFIGURATION:
            return decode_configuration(entry.data or b"")
        return decode_peers(entry.data or b"")
    except DecodeError as error:
        raise StorageError(f"raft storage: configuration entry {entry.index}: {error}") from error
