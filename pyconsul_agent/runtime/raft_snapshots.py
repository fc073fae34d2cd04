"""Raft snapshots as files: `<directory>/<term>-<index>-<ms>/{meta.json,state.bin}`.

A snapshot is written in `<name>.tmp`, both files and the directory are made durable, and only then it gets its name:
what has a name is whole. Reading checks size and checksum before the first byte is handed out. The newest two are kept.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import BinaryIO, Protocol

from pyconsul_agent.env.base import Worker
from pyconsul_agent.env.log import Log
from pyconsul_agent.errors import DecodeError, StorageError
from pyconsul_agent.structs.raft import SnapshotMeta
from pyconsul_agent.wire.snapshot import META_BYTES_MAX, Checksums, crc64, decode_meta, encode_meta

RETAIN = 2
CHUNK_BYTES = 256 * 1024
FREE_SPACE_SHARE = 2
"""A received snapshot may take 1/2 of the free disk."""

NANOSECONDS_PER_MILLISECOND = 1_000_000


class SnapshotSink(Protocol):
    """A snapshot that is being received. Write, finish, then publish or abort; nothing is visible before publish."""

    @property
    def meta(self) -> SnapshotMeta:
        """What it covers and its name; the size is right after `finish`."""

    async def write(self, data: bytes) -> None:
        """Append. Raises StorageError."""

    async def finish(self) -> SnapshotMeta:
        """Make what was written durable and give its meta, with id and size; still invisible."""

    def chunks(self) -> Iterable[bytes]:
        """The state in pieces, after `finish`. Blocks: for the worker thread."""

    async def publish(self) -> None:
        """Give it its name, durable on return; older snapshots beyond those retained go."""

    async def abort(self) -> None:
        """Forget it. Does nothing after publish."""


class SnapshotSource(Protocol):
    """A stored snapshot, open. Deleting it meanwhile does not disturb the reading."""

    @property
    def meta(self) -> SnapshotMeta: ...

    async def read(self, count: int) -> bytes:
        """The next bytes of the state, empty at its end."""

    def chunks(self) -> Iterable[bytes]:
        """The whole state in pieces. Blocks: for the worker thread."""

    async def close(self) -> None: ...


@contextmanager
def _storage_errors(what: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StorageError(f"raft snapshots: {what}: {error}") from error


class SnapshotFiles:
    """The snapshots in one directory."""

    def __init__(
        self, directory: str, *, blocking: Worker, wall_ns: Callable[[], int], log: Log, retain: int = RETAIN
    ) -> None:
        self._directory = directory
        self._blocking = blocking
        self._wall_ns = wall_ns
        self._log = log
        self._retain = retain
        self._last_ms = 0
        self.damaged: dict[str, int] = {}
        """Name and index of those that `newest` could not read and that are newer than the one it gave."""

    def newest(self) -> SnapshotMeta | None:
        """The newest whole snapshot; leftovers of interrupted writes are removed. Blocks."""
        with _storage_errors(f"scan {self._directory}"):
            os.makedirs(self._directory, mode=0o700, exist_ok=True)
            for name in os.listdir(self._directory):
                if name.endswith(".tmp"):
                    shutil.rmtree(os.path.join(self._directory, name))
            self.damaged.clear()
            for name in self._names():
                try:
                    return self._check(name)
                except StorageError as error:
                    self._log.error("skipping an unreadable raft snapshot", id=name, error=str(error))
                    self.damaged[name] = int(name.split("-")[1])
        return None

    async def create(self, meta: SnapshotMeta, chunks: Callable[[], Iterable[bytes]]) -> SnapshotMeta:
        """Write one, durable and visible on return."""
        sink = self.receive(meta)

        def work() -> SnapshotMeta:
            try:
                for chunk in _joined(chunks()):
                    sink.write_now(chunk)
                stored = sink.finish_now()
                sink.publish_now()
            except BaseException:
                sink.abort_now()
                raise
            return stored

        return await self._blocking(work)

    def receive(self, meta: SnapshotMeta) -> FileSink:
        """A new one; its name is made of `meta` and the clock."""
        # Two snapshots of one index in one millisecond still need two names.
        self._last_ms = max(self._wall_ns() // NANOSECONDS_PER_MILLISECOND, self._last_ms + 1)
        name = f"{meta.term}-{meta.index}-{self._last_ms}"
        return FileSink(self._directory, replace(meta, id=name), blocking=self._blocking, published=self._prune)

    async def open(self, snapshot_id: str) -> FileSource:
        """A stored one, checked; "" is the newest."""

        def work() -> FileSource:
            with _storage_errors(f"open {snapshot_id or 'newest'}"):
                names = self._names()
                if snapshot_id and snapshot_id not in names:
                    raise StorageError(f"raft snapshots: {snapshot_id} is not there")
                for name in [snapshot_id] if snapshot_id else names[:1]:
                    meta = self._check(name)
                    return FileSource(os.path.join(self._directory, name, "state.bin"), meta, self._blocking)
                raise StorageError("raft snapshots: there is none")

        return await self._blocking(work)

    def remove(self, snapshot_id: str) -> None:
        """Remove one, durably; nothing if it is not there. Blocks."""
        path = os.path.join(self._directory, snapshot_id)
        with _storage_errors(f"remove {snapshot_id}"):
            if os.path.isdir(path):
                # Renamed first: a half removed one must not be found.
                os.rename(path, f"{path}.tmp")
                sync_directory(self._directory)
                shutil.rmtree(f"{path}.tmp")

    def _names(self) -> list[str]:
        """Newest first: by term, index, name."""
        found = []
        for name in os.listdir(self._directory):
            parts = name.split("-")
            if len(parts) == 3 and all(part.isascii() and part.isdigit() for part in parts):
                found.append((int(parts[0]), int(parts[1]), name))
        return [name for _, _, name in sorted(found, reverse=True)]

    def _check(self, name: str) -> SnapshotMeta:
        """Meta of a snapshot whose bytes are those that were written. Raises StorageError."""
        path = os.path.join(self._directory, name)
        with _storage_errors(f"read {name}"):
            with open(os.path.join(path, "meta.json"), "rb") as file:
                text = file.read(META_BYTES_MAX + 1)
            try:
                meta, sums = decode_meta(text)
            except DecodeError as error:
                raise StorageError(f"raft snapshots: {name}: {error}") from error
            size, crc, digest = 0, 0, hashlib.sha256()
            with open(os.path.join(path, "state.bin"), "rb") as file:
                while chunk := file.read(CHUNK_BYTES):
                    size += len(chunk)
                    digest.update(chunk)
                    if not sums.sha256:
                        crc = crc64(chunk, crc)
        good = sums.sha256 == digest.digest() if sums.sha256 else sums.crc64 == crc.to_bytes(8, "big")
        if size != meta.size or not good:
            raise StorageError(f"raft snapshots: {name} is damaged")
        return replace(meta, id=name)

    def _prune(self) -> None:
        for name in self._names()[self._retain :]:
            shutil.rmtree(os.path.join(self._directory, name))


class FileSink:
    """`SnapshotSink` in a directory. The `_now` methods block."""

    def __init__(self, directory: str, meta: SnapshotMeta, *, blocking: Worker, published: Callable[[], None]) -> None:
        self._directory = directory
        self._meta = meta
        self._path = os.path.join(directory, meta.id)
        self._temporary = self._path + ".tmp"
        self._blocking = blocking
        self._published = published
        self._file: BinaryIO | None = None
        self._digest = hashlib.sha256()
        self._size = 0
        self._room = 0
        self._named = False

    @property
    def meta(self) -> SnapshotMeta:
        """See SnapshotSink."""
        return self._meta

    async def write(self, data: bytes) -> None:
        """See SnapshotSink."""
        await self._blocking(lambda: self.write_now(data))

    async def finish(self) -> SnapshotMeta:
        """See SnapshotSink."""
        return await self._blocking(self.finish_now)

    async def publish(self) -> None:
        """See SnapshotSink."""
        await self._blocking(self.publish_now)

    async def abort(self) -> None:
        """See SnapshotSink."""
        await self._blocking(self.abort_now)

    def chunks(self) -> Iterable[bytes]:
        """See SnapshotSink."""
        return _file_chunks(os.path.join(self._path if self._named else self._temporary, "state.bin"))

    def write_now(self, data: bytes) -> None:
        """Append and count."""
        with _storage_errors(f"write {self._meta.id}"):
            file = self._open()
            if self._size + len(data) > self._room:
                raise StorageError(f"raft snapshots: {self._meta.id} is larger than half of the free disk")
            file.write(data)
        self._digest.update(data)
        self._size += len(data)

    def finish_now(self) -> SnapshotMeta:
        """Both files and their directory on the disk."""
        with _storage_errors(f"finish {self._meta.id}"):
            file = self._open()
            file.flush()
            os.fsync(file.fileno())
            file.close()
            self._meta = replace(self._meta, size=self._size)
            with open(os.path.join(self._temporary, "meta.json"), "wb", opener=_private) as meta_file:
                meta_file.write(encode_meta(self._meta, Checksums(sha256=self._digest.digest())))
                meta_file.flush()
                os.fsync(meta_file.fileno())
            sync_directory(self._temporary)
        return self._meta

    def publish_now(self) -> None:
        """Rename."""
        with _storage_errors(f"publish {self._meta.id}"):
            os.rename(self._temporary, self._path)
            self._named = True
            sync_directory(self._directory)
            self._published()

    def abort_now(self) -> None:
        """Remove."""
        if self._file is not None:
            self._file.close()
        if not self._named:
            shutil.rmtree(self._temporary, ignore_errors=True)

    def _open(self) -> BinaryIO:
        if self._file is None:
            os.makedirs(self._temporary, mode=0o700)
            free = os.statvfs(self._directory)
            self._room = free.f_bavail * free.f_frsize // FREE_SPACE_SHARE
            self._file = open(os.path.join(self._temporary, "state.bin"), "wb", opener=_private)  # noqa: SIM115
        return self._file


class FileSource:
    """`SnapshotSource` on an open file."""

    def __init__(self, path: str, meta: SnapshotMeta, blocking: Worker) -> None:
        self._file = open(path, "rb")  # noqa: SIM115 -- closed by close()
        self._meta = meta
        self._blocking = blocking

    @property
    def meta(self) -> SnapshotMeta:
        """See SnapshotSource."""
        return self._meta

    async def read(self, count: int) -> bytes:
        """See SnapshotSource."""

        def work() -> bytes:
            with _storage_errors(f"read {self._meta.id}"):
                return self._file.read(count)

        return await self._blocking(work)

    def chunks(self) -> Iterable[bytes]:
        """See SnapshotSource."""
        with _storage_errors(f"read {self._meta.id}"):
            self._file.seek(0)
            while chunk := self._file.read(CHUNK_BYTES):
                yield chunk

    async def close(self) -> None:
        """See SnapshotSource."""
        self._file.close()


def _joined(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """The same bytes in larger pieces: a record of a state is small, and a write costs as much as it does."""
    held: list[bytes] = []
    size = 0
    for piece in pieces:
        held.append(piece)
        size += len(piece)
        if size >= CHUNK_BYTES:
            yield b"".join(held)
            held.clear()
            size = 0
    if held:
        yield b"".join(held)


def _file_chunks(path: str) -> Iterator[bytes]:
    with _storage_errors(f"read {path}"), open(path, "rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            yield chunk


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def sync_directory(path: str) -> None:
    """Make names created or changed in it durable. Blocks."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
