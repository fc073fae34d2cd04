"""The SQLite file of a raft log: connections, transactions, and entries as rows with a checksum each."""

from __future__ import annotations

import os
import sqlite3
import struct
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from pyconsul_agent.errors import StorageError
from pyconsul_agent.structs.raft import LogEntry
from pyconsul_agent.wire.gotime import decode_time, encode_time

BUSY_TIMEOUT_S = 5.0
ROWS_PER_STATEMENT = 64
"""Entries in one INSERT; more take several in one transaction. SQLite bounds a statement's parameters."""
COLUMNS = "idx, term, type, data, extensions, appended, crc"


@contextmanager
def storage_errors(what: str) -> Iterator[None]:
    """Whatever file or disk say becomes a StorageError that names what was tried."""
    try:
        yield
    except (sqlite3.Error, OSError, OverflowError) as error:
        raise StorageError(f"raft storage: {what}: {type(error).__name__}: {error}") from error


def connect(path: str) -> sqlite3.Connection:
    """Open the file as the log needs it: write-ahead logging, a commit returns after its fsync."""
    # Used by one thread at a time: the lock of the storage sees to that, not SQLite's thread check.
    connection = sqlite3.connect(
        path,
        timeout=BUSY_TIMEOUT_S,
        isolation_level=None,
        check_same_thread=False,
        cached_statements=2 * ROWS_PER_STATEMENT,
    )
    try:
        (mode,) = connection.execute("PRAGMA journal_mode = WAL").fetchone()
        if mode != "wal":
            raise StorageError(f"raft storage: {path} cannot use write-ahead logging ({mode})")
        connection.execute("PRAGMA synchronous = FULL")
        for suffix in ("-wal", "-shm"):
            if os.path.exists(path + suffix):
                os.chmod(path + suffix, 0o600)
    except BaseException:
        connection.close()
        raise
    return connection


@contextmanager
def transaction(connection: sqlite3.Connection) -> Iterator[None]:
    """Durable as a whole when the block ends, gone when it raises."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
    except BaseException:
        connection.rollback()
        raise
    connection.execute("COMMIT")


_ROW_MARKS = "(" + ", ".join("?" * len(COLUMNS.split(","))) + ")"
_INSERTS = ["INSERT INTO log VALUES " + ", ".join([_ROW_MARKS] * count) for count in range(ROWS_PER_STATEMENT + 1)]  # noqa: S608 -- constants only


def insert(connection: sqlite3.Connection, entries: Sequence[LogEntry]) -> None:
    """At most ROWS_PER_STATEMENT entries, in one statement."""
    if entries:
        connection.execute(_INSERTS[len(entries)], [value for entry in entries for value in _row(entry)])


_KEYS = struct.Struct(">QQB")


def _crc(index: int, term: int, kind: int, data: bytes | None, extensions: bytes | None, appended: bytes) -> int:
    crc = zlib.crc32(_KEYS.pack(index, term, kind))
    for part in (data, extensions, appended):
        crc = zlib.crc32(b"" if part is None else part, zlib.crc32(b"\x00" if part is None else b"\x01", crc))
    return crc


def _row(entry: LogEntry) -> tuple[Any, ...]:
    fields = (entry.index, entry.term, int(entry.type), entry.data, entry.extensions, encode_time(entry.appended_at))
    return (*fields, _crc(*fields))


def entry_of(row: tuple[Any, ...]) -> LogEntry:
    """The entry of a row of COLUMNS. Raises StorageError when its checksum is wrong."""
    index, term, kind, data, extensions, appended, crc = row
    if crc != _crc(index, term, kind, data, extensions, appended):
        raise StorageError(f"raft storage: log entry {index} is damaged")
    return LogEntry(
        index=index, term=term, type=kind, data=data, extensions=extensions, appended_at=decode_time(appended)
    )


class SqliteLogReader:
    """`LogReader` on a connection of its own."""

    def __init__(self, path: str) -> None:
        with storage_errors(f"open {path}"):
            self._connection = connect(path)
            self._connection.execute("PRAGMA query_only = ON")

    def term(self, index: int) -> int | None:
        """See LogReader."""
        with storage_errors("read"):
            row = self._connection.execute("SELECT term FROM log WHERE idx = ?", (index,)).fetchone()
        return None if row is None else int(row[0])

    def entries(self, low: int, high: int, bytes_max: int) -> list[LogEntry]:
        """See LogReader. Stops at a hole."""
        result: list[LogEntry] = []
        size = 0
        with storage_errors("read"):
            cursor = self._connection.execute(
                f"SELECT {COLUMNS} FROM log WHERE idx BETWEEN ? AND ? ORDER BY idx",  # noqa: S608 -- constants only
                (low, high),
            )
            for row in cursor:
                entry = entry_of(row)
                size += len(entry.data or b"") + len(entry.extensions or b"")
                if entry.index != low + len(result) or (result and size > bytes_max):
                    break
                result.append(entry)
            cursor.close()
        return result

    def close(self) -> None:
        """Release the connection."""
        self._connection.close()
