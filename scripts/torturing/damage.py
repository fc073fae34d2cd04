"""What a failing disk does to the files of a server that is down: the tail of the log is gone, or bits have changed."""

from __future__ import annotations

import os
import random
import sqlite3
import tempfile
from dataclasses import dataclass
from pathlib import Path

FLIPS = 8
WAYS = ("truncate_wal", "flip_wal", "truncate_log", "flip_log", "flip_snapshot", "lose_wal")


@dataclass(frozen=True, slots=True)
class Known:
    """What a server's disk says that it has promised."""

    last_index: int
    term: int


def known(raft: Path) -> Known | None:
    """Read from a copy, so that looking changes nothing; None where there is nothing to read."""
    with tempfile.TemporaryDirectory() as name:
        for file in raft.glob("log.sqlite*"):
            if not file.name.endswith("-shm"):
                Path(name, file.name).write_bytes(file.read_bytes())
        if not Path(name, "log.sqlite").exists():
            return None
        try:
            connection = sqlite3.connect(Path(name, "log.sqlite"))
            try:
                last = connection.execute("SELECT max(idx) FROM log").fetchone()[0]
                term = connection.execute("SELECT max(term) FROM hard_state").fetchone()[0]
            finally:
                connection.close()
        except sqlite3.Error:
            return None
    snapshots = [int(each.name.split("-")[1]) for each in (raft / "snapshots").glob("*-*-*") if each.is_dir()]
    return Known(max([last or 0, *snapshots]), term or 0)


def damage(raft: Path, way: str, rng: random.Random) -> str:
    """Do it to the files in `raft`; says what was done, "" where there was nothing to damage."""
    wal, log = raft / "log.sqlite-wal", raft / "log.sqlite"
    if way == "flip_snapshot":
        files = sorted(each for each in (raft / "snapshots").rglob("*") if each.is_file() and each.stat().st_size)
        return _flip(files[-1], rng, tail=1.0) if files else ""
    file = log if way.endswith("_log") else wal
    if not file.exists() or file.stat().st_size < 4096:
        return ""
    if way == "lose_wal":
        wal.unlink()
        return f"{wal.name} removed"
    if way.startswith("flip"):
        # Half of the time in what was written last, which is what a crash of the machine would have left unfinished.
        return _flip(file, rng, tail=rng.choice((0.1, 1.0)))
    size = file.stat().st_size
    keep = size - rng.randrange(1, max(2, min(size, 64 * 1024)))
    os.truncate(file, keep)
    return f"{file.name} truncated from {size} to {keep}"


def _flip(file: Path, rng: random.Random, *, tail: float) -> str:
    data = bytearray(file.read_bytes())
    low = int(len(data) * (1 - tail))
    places = sorted(rng.randrange(low, len(data)) for _ in range(FLIPS))
    for place in places:
        data[place] ^= 1 << rng.randrange(8)
    # In place: another file of the same name would be another way to be damaged.
    with file.open("r+b") as out:
        out.write(data)
    return f"{file.name}: bits flipped at {places} of {len(data)}"
