"""A simulated disk with a page cache.

A process's crash loses nothing that it wrote. A power failure (`SimDisk.crash`) keeps a random subset of the 512-byte
sectors that were written but not synced, and a random prefix of the changes of names since the last `sync_dir` (the
journal keeps their order). A failed sync drops the dirty pages and the next one "succeeds", as Linux does.
"""

from __future__ import annotations

import errno
import os
import posixpath
import random
from collections.abc import Callable
from dataclasses import dataclass, field

SECTOR_BYTES = 512
TEMPORARY_SUFFIX = ".tmp"


@dataclass(eq=False, slots=True)
class Inode:
    """A file: what readers see, and what the platter has."""

    data: bytearray = field(default_factory=bytearray)
    durable: bytearray = field(default_factory=bytearray)
    dirty: dict[int, None] = field(default_factory=dict)  # sector numbers

    def write(self, offset: int, data: bytes) -> None:
        self.data[offset : offset + len(data)] = data
        for sector in range(offset // SECTOR_BYTES, (offset + len(data) - 1) // SECTOR_BYTES + 1):
            self.dirty[sector] = None

    def persist(self, sectors: list[int], length: int) -> None:
        """Write these sectors through, the file being `length` bytes long afterwards; holes are zeros."""
        if len(self.durable) < length:
            self.durable.extend(bytes(length - len(self.durable)))
        del self.durable[length:]
        for sector in sectors:
            start = sector * SECTOR_BYTES
            part = self.data[start : min(start + SECTOR_BYTES, length)]
            self.durable[start : start + len(part)] = part

    def sync(self) -> None:
        self.persist(sorted(self.dirty), len(self.data))
        self.dirty.clear()

    def crash(self, rng: random.Random) -> None:
        if self.dirty:
            sectors = [sector for sector in sorted(self.dirty) if rng.random() < 0.5]
            self.persist(sectors, rng.randint(min(len(self.durable), len(self.data)), len(self.data)))
        self.dirty.clear()
        self.data = bytearray(self.durable)


@dataclass(slots=True)
class Fault:
    """An error to raise at `operation`, one of write, fsync, read, rename, remove, mkdir; on paths with this prefix."""

    operation: str
    number: int
    prefix: str
    remaining: int


Change = Callable[[dict[str, Inode], dict[str, None]], object]
"""What it does to names and directories."""

NameChange = tuple[str, Change]
"""(directory, change)."""


class SimDisk:
    """Files of one host; outlives its processes.

    `store` and `on_crash` are for other durable stand-ins (the raft log): they keep their durable state in `store`, ask
    `check` before an operation as files do, and are called back at a power failure.
    """

    def __init__(self, rng: random.Random) -> None:
        self.store: dict[str, object] = {}
        self.on_crash: list[Callable[[random.Random], None]] = []
        self.full = False
        self.crashes = 0
        self._random = rng
        self._names: dict[str, Inode] = {}
        self._dirs: dict[str, None] = {"/": None}
        self._durable_names: dict[str, Inode] = {}
        self._durable_dirs: dict[str, None] = {"/": None}
        self._journal: list[NameChange] = []
        self._faults: list[Fault] = []
        self._locks: dict[str, Callable[[], bool]] = {}

    # --- faults -------------------------------------------------------------------------------------------------------

    def fail(self, operation: str, number: int, *, prefix: str = "", count: int = 1) -> None:
        """The next `count` such operations raise OSError(`number`)."""
        self._faults.append(Fault(operation, number, prefix, count))

    def clear_faults(self) -> None:
        self._faults.clear()
        self.full = False

    def check(self, operation: str, path: str) -> None:
        """Raise the error that is due for this operation, if any."""
        if self.full and operation in ("write", "mkdir"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path)
        for fault in self._faults:
            if fault.operation == operation and path.startswith(fault.prefix):
                fault.remaining -= 1
                if not fault.remaining:
                    self._faults.remove(fault)
                raise OSError(fault.number, os.strerror(fault.number), path)

    def crash(self) -> None:
        """Power failure: forget what was not synced, or only a part of it."""
        self.crashes += 1
        for _, change in self._journal[: self._random.randint(0, len(self._journal))]:
            change(self._durable_names, self._durable_dirs)
        self._journal.clear()
        self._names = dict(self._durable_names)
        self._dirs = dict(self._durable_dirs)
        for _, inode in sorted(self._names.items(), key=lambda item: item[0]):
            inode.crash(self._random)
        for callback in self.on_crash:
            callback(self._random)

    def wipe(self) -> None:
        """A new, empty disk."""
        self._names.clear()
        self._durable_names.clear()
        self._dirs = {"/": None}
        self._durable_dirs = {"/": None}
        self._journal.clear()
        self.store.clear()
        self.on_crash.clear()

    def lock(self, path: str, is_dead: Callable[[], bool]) -> Callable[[], None]:
        """Lock `path` for a process that is over when `is_dead()`."""
        self.check("lock", path)
        holder = self._locks.get(path)
        if holder is not None and not holder():
            raise BlockingIOError(errno.EWOULDBLOCK, os.strerror(errno.EWOULDBLOCK), path)
        held = self._locks[path] = lambda: is_dead()

        def unlock() -> None:
            if self._locks.get(path) is held:
                del self._locks[path]

        return unlock

    # --- operations, by normal path ---------------------------------------------------------------------------------

    def change_names(self, directory: str, change: Change) -> None:
        """Do a change of names and remember it until its directory is synced."""
        change(self._names, self._dirs)
        self._journal.append((directory, change))

    def sync_dir(self, path: str) -> None:
        """Make all changes up to the last one of this directory durable, as a journal's commit does."""
        self.check("fsync", path)
        last = max((n for n, (directory, _) in enumerate(self._journal) if directory == path), default=-1)
        for _, change in self._journal[: last + 1]:
            change(self._durable_names, self._durable_dirs)
        del self._journal[: last + 1]

    def sync(self, path: str) -> None:
        inode = self.inode(path)
        try:
            self.check("fsync", path)
        except OSError:
            inode.dirty.clear()
            raise
        inode.sync()

    def inode(self, path: str) -> Inode:
        inode = self._names.get(path)
        if inode is None:
            number = errno.EISDIR if path in self._dirs else errno.ENOENT
            raise OSError(number, os.strerror(number), path)
        return inode

    def create(self, path: str) -> Inode:
        """An empty file in place of whatever `path` named."""
        self.check("write", path)
        parent = posixpath.dirname(path)
        if parent not in self._dirs:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
        if path in self._dirs:
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
        inode = Inode()
        self.change_names(parent, lambda names, dirs: names.__setitem__(path, inode))
        return inode

    def make_dir(self, path: str) -> None:
        """A directory in an existing one."""
        self.change_names(posixpath.dirname(path), lambda names, dirs: dirs.__setitem__(path, None))

    def has_file(self, path: str) -> bool:
        return path in self._names

    def has_dir(self, path: str) -> bool:
        return path in self._dirs

    def children(self, path: str) -> list[str]:
        """Names in a directory, sorted."""
        if path not in self._dirs:
            number = errno.ENOTDIR if path in self._names else errno.ENOENT
            raise OSError(number, os.strerror(number), path)
        everything = [*self._names, *self._dirs]
        return sorted(
            {posixpath.basename(each) for each in everything if posixpath.dirname(each) == path and each != "/"}
        )


class SimFiles:
    """`env.base.Files` on a simulated disk. When `is_dead()`, nothing has an effect and everything fails."""

    def __init__(self, disk: SimDisk, is_dead: Callable[[], bool] = lambda: False) -> None:
        self._disk = disk
        self._is_dead = is_dead

    def _normal(self, path: str) -> str:
        if self._is_dead():
            raise OSError(errno.EIO, "the process is dead", path)
        return posixpath.normpath(posixpath.join("/", path))

    def exists(self, path: str) -> bool:
        path = self._normal(path)
        return self._disk.has_file(path) or self._disk.has_dir(path)

    def is_dir(self, path: str) -> bool:
        return self._disk.has_dir(self._normal(path))

    def list_dir(self, path: str) -> list[str]:
        return self._disk.children(self._normal(path))

    def make_dirs(self, path: str, *, mode: int = 0o700) -> None:
        path = self._normal(path)
        missing = []
        while not self._disk.has_dir(path):
            if self._disk.has_file(path):
                raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), path)
            missing.append(path)
            path = posixpath.dirname(path)
        for each in reversed(missing):
            self._disk.check("mkdir", each)
            self._disk.make_dir(each)

    def is_file(self, path: str) -> bool:
        return self._disk.has_file(self._normal(path))

    def read(self, path: str, *, bytes_max: int = -1) -> bytes:
        path = self._normal(path)
        inode = self._disk.inode(path)
        self._disk.check("read", path)
        return bytes(inode.data if bytes_max < 0 else inode.data[:bytes_max])

    def write_atomic(
        self, path: str, data: bytes, *, mode: int = 0o600, sync: bool = True, sync_folder: bool = True
    ) -> None:
        path = self._normal(path)
        temporary = path + TEMPORARY_SUFFIX
        inode = self._disk.create(temporary)
        self._disk.check("write", path)
        inode.write(0, data)
        if sync:
            self._disk.sync(temporary)
        self.rename(temporary, path)
        if sync and sync_folder:
            self._disk.sync_dir(posixpath.dirname(path))

    def lock(self, path: str) -> Callable[[], None]:
        path = self._normal(path)
        return self._disk.lock(path, self._is_dead)

    def append(self, path: str, data: bytes, *, sync: bool = False) -> None:
        path = self._normal(path)
        inode = self._disk.inode(path) if self._disk.has_file(path) else self._disk.create(path)
        self._disk.check("write", path)
        inode.write(len(inode.data), data)
        if sync:
            self._disk.sync(path)

    def rename(self, old: str, new: str) -> None:
        old, new = self._normal(old), self._normal(new)
        self._disk.check("rename", old)
        if self._disk.has_dir(old):
            self._rename_dir(old, new)
            return
        inode = self._disk.inode(old)
        if not self._disk.has_dir(posixpath.dirname(new)):
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), new)

        def change(names: dict[str, Inode], dirs: dict[str, None]) -> None:
            names.pop(old, None)
            names[new] = inode

        self._disk.change_names(posixpath.dirname(new), change)

    def _rename_dir(self, old: str, new: str) -> None:
        if self._disk.has_file(new) or (self._disk.has_dir(new) and self._disk.children(new)):
            raise OSError(errno.ENOTEMPTY, os.strerror(errno.ENOTEMPTY), new)

        def change(names: dict[str, Inode], dirs: dict[str, None]) -> None:
            for mapping in (names, dirs):
                for path in [path for path in mapping if path == old or path.startswith(old + "/")]:
                    mapping[new + path[len(old) :]] = mapping.pop(path)  # type: ignore[assignment]

        self._disk.change_names(posixpath.dirname(new), change)

    def remove(self, path: str) -> None:
        path = self._normal(path)
        self._disk.inode(path)
        self._disk.check("remove", path)
        self._disk.change_names(posixpath.dirname(path), lambda names, dirs: names.pop(path, None))

    def remove_tree(self, path: str) -> None:
        path = self._normal(path)
        if not self._disk.has_dir(path):
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
        self._disk.check("remove", path)

        def change(names: dict[str, Inode], dirs: dict[str, None]) -> None:
            for mapping in (names, dirs):
                for each in [each for each in mapping if each == path or each.startswith(path + "/")]:
                    del mapping[each]

        self._disk.change_names(posixpath.dirname(path), change)

    def sync_dir(self, path: str) -> None:
        path = self._normal(path)
        self._disk.children(path)
        self._disk.sync_dir(path)

    def size(self, path: str) -> int:
        return len(self._disk.inode(self._normal(path)).data)
