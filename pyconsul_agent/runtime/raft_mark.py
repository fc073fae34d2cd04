"""How far a raft server's disk has come, beside the log: a log that ends before this mark has lost something.

SQLite takes the first frame of its write-ahead log that is not whole for the end. That is right after a crash, whose
last transaction nobody was told of, but a disk that lost or changed more of the tail looks the same, and the server
would vote and acknowledge as if it had never promised those entries, or that vote. So the highest index, term and
vote's term that were durable are written here after each transaction.

The mark is not synced when it rises: after a power failure it may lie behind, which hides a loss but invents none. It
is synced when it falls, before the log is cut. Layout, big-endian: index u64, term u64, term of the vote u64, CRC-32 of
whom the vote was for u32, CRC-32 of all before it u32.
"""

from __future__ import annotations

import os
import struct
import zlib
from dataclasses import dataclass, replace

_LAYOUT = struct.Struct(">QQQI")
_CRC = struct.Struct(">I")
SIZE = _LAYOUT.size + _CRC.size


@dataclass(frozen=True, slots=True)
class Reached:
    """The highest that were durable."""

    index: int = 0
    term: int = 0
    vote_term: int = 0
    vote: int = 0
    """CRC-32 of whom it was for."""

    def __str__(self) -> str:
        return f"index {self.index}, term {self.term}, vote in term {self.vote_term}"

    def covers(self, other: Reached) -> bool:
        """Whether nothing of `other` is missing here."""
        if self.vote_term == other.vote_term and self.vote != other.vote:
            return False  # one vote a term: it is never changed
        return self.index >= other.index and self.term >= other.term and self.vote_term >= other.vote_term


def reached(index: int, term: int, vote_term: int, voted_for: bytes) -> Reached:
    """What a log that ends at `index` with this term and vote has reached."""
    return Reached(index, term, vote_term, zlib.crc32(voted_for))


class Mark:
    """The file. Every method raises OSError. Blocks: for the worker thread."""

    def __init__(self, path: str) -> None:
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._reached = Reached()
        data = os.pread(self._file, SIZE, 0)
        self.damaged = bool(data) and (
            len(data) < SIZE or zlib.crc32(data[: _LAYOUT.size]) != _CRC.unpack_from(data, _LAYOUT.size)[0]
        )
        """What was there cannot be read; it is as if there were none."""
        if data and not self.damaged:
            self._reached = Reached(*_LAYOUT.unpack_from(data))

    @property
    def reached(self) -> Reached:
        """As written last."""
        return self._reached

    def rise(self, to: Reached) -> None:
        """That much is durable now; what is lower in it says nothing."""
        before = self._reached
        vote = to if to.vote_term > before.vote_term else before
        after = Reached(max(to.index, before.index), max(to.term, before.term), vote.vote_term, vote.vote)
        if after != before:
            self._write(after)

    def fall(self, index: int) -> None:
        """The log is about to be cut after `index`. Durable on return."""
        if index < self._reached.index:
            self._write(replace(self._reached, index=index))
            os.fsync(self._file)

    def close(self) -> None:
        """Release the descriptor. Idempotent."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def _write(self, reached: Reached) -> None:
        data = _LAYOUT.pack(reached.index, reached.term, reached.vote_term, reached.vote)
        data += _CRC.pack(zlib.crc32(data))
        if os.pwrite(self._file, data, 0) != SIZE:
            raise OSError("short write")
        self._reached = reached
