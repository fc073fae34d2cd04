"""Large commands travel in pieces, one log entry each; here they are put together again.

The entry's Extensions are a protobuf ChunkInfo:

| field | content                                     |
|-------|---------------------------------------------|
| 1     | number of the operation, random u64         |
| 2     | place of this piece, from 0                 |
| 3     | how many pieces there are                   |
| 4     | Extensions of the command when it is whole  |

Pieces of an older term are dropped when one of a newer term arrives: their leader is gone and cannot finish them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pyconsul_agent.errors import DecodeError

PIECES_MAX = 65_536
"""More pieces than this in one operation are refused (32 GiB of command)."""


@dataclass(frozen=True, slots=True)
class ChunkInfo:
    """Which piece of which operation an entry is."""

    op_num: int = 0
    sequence_num: int = 0
    num_chunks: int = 0
    next_extensions: bytes = b""


def decode_chunk_info(data: bytes) -> ChunkInfo:
    """Read Extensions. Raises DecodeError.

    >>> decode_chunk_info(bytes.fromhex("0801100118032203657874"))
    ChunkInfo(op_num=1, sequence_num=1, num_chunks=3, next_extensions=b'ext')
    """
    numbers = {1: 0, 2: 0, 3: 0}
    rest = b""
    at = 0
    while at < len(data):
        tag, at = _varint(data, at)
        number, form = tag >> 3, tag & 7
        if form == 0:
            value, at = _varint(data, at)
            if number in numbers:
                numbers[number] = value
        elif form == 2:
            length, at = _varint(data, at)
            if length > len(data) - at:
                raise DecodeError("chunk info ends early", offset=at)
            if number == 4:
                rest = data[at : at + length]
            at += length
        else:
            raise DecodeError(f"chunk info has wire type {form}", offset=at)
    return ChunkInfo(numbers[1], numbers[2], numbers[3], rest)


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while at < len(data) and shift < 64:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value & 0xFFFF_FFFF_FFFF_FFFF, at
        shift += 7
    raise DecodeError("chunk info ends early", offset=at)


@dataclass(frozen=True, slots=True)
class Chunk:
    """A piece that waits for the others."""

    info: ChunkInfo
    term: int
    data: bytes


class Assembler:
    """Unfinished operations of the current term."""

    def __init__(self) -> None:
        self._term = 0
        self._pending: dict[int, dict[int, Chunk]] = {}

    def add(self, info: ChunkInfo, term: int, data: bytes) -> bytes | None:
        """Take a piece; returns the whole command with its last one. Raises DecodeError for an impossible place."""
        if not 0 <= info.sequence_num < info.num_chunks <= PIECES_MAX:
            raise DecodeError(f"chunk {info.sequence_num} of {info.num_chunks}")
        if term != self._term:
            self._pending.clear()
            self._term = term
        pieces = self._pending.setdefault(info.op_num, {})
        if any(piece.info.num_chunks != info.num_chunks for piece in pieces.values()):
            raise DecodeError("chunks of one operation disagree about their number")
        pieces[info.sequence_num] = Chunk(info, term, data)
        if len(pieces) < info.num_chunks:
            return None
        del self._pending[info.op_num]
        return b"".join(pieces[place].data for place in range(info.num_chunks))

    def plain(self) -> dict[str, Any]:
        """The snapshot record: {"ChunkMap": {op: [piece or nil]}}."""
        chunk_map: dict[int, list[Any]] = {}
        for op_num, pieces in sorted(self._pending.items()):
            count = next(iter(pieces.values())).info.num_chunks
            chunk_map[op_num] = [_plain_chunk(pieces.get(place)) for place in range(count)]
        return {"ChunkMap": chunk_map}

    def restore(self, record: Any) -> None:
        """Take over the snapshot record. Raises DecodeError."""
        self._pending.clear()
        self._term = 0
        chunk_map = record.get(b"ChunkMap") if isinstance(record, Mapping) else None
        for op_num, pieces in (chunk_map or {}).items():
            if type(op_num) is not int or not isinstance(pieces, list):
                raise DecodeError("malformed chunk record")
            for piece in pieces:
                if piece is not None:
                    self._restore_one(op_num, piece)

    def _restore_one(self, op_num: int, piece: Any) -> None:
        if not isinstance(piece, Mapping):
            raise DecodeError("malformed chunk record")
        place, count, term = (piece.get(name, 0) for name in (b"SequenceNum", b"NumChunks", b"Term"))
        data = piece.get(b"Data") or b""
        if not all(type(number) is int for number in (place, count, term)) or type(data) is not bytes:
            raise DecodeError("malformed chunk record")
        if not 0 <= place < count <= PIECES_MAX:
            raise DecodeError(f"chunk {place} of {count}")
        self._term = term
        info = ChunkInfo(op_num, place, count)
        self._pending.setdefault(op_num, {})[place] = Chunk(info, term, data)


def _plain_chunk(chunk: Chunk | None) -> dict[str, Any] | None:
    if chunk is None:
        return None
    return {
        "Data": chunk.data,
        "NumChunks": chunk.info.num_chunks,
        "OpNum": chunk.info.op_num,
        "SequenceNum": chunk.info.sequence_num,
        "Term": chunk.term,
    }
