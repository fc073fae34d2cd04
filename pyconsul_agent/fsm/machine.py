"""The replicated state machine as consensus sees it: entries in, results out; a snapshot and back.

What it must not know: raft's terms and votes (but for chunking), the network, any clock. `now` is a function handed in
that only dates lock delays, which are local to a server.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from pyconsul_agent.errors import DecodeError
from pyconsul_agent.fsm import apply as commands
from pyconsul_agent.fsm import snapshot as stream
from pyconsul_agent.fsm.chunking import Assembler, decode_chunk_info
from pyconsul_agent.state.gateway import GATEWAY_SERVICES, MESH_TOPOLOGY
from pyconsul_agent.state.store import Store
from pyconsul_agent.structs.raft import EntryType, LogEntry
from pyconsul_agent.wire.msgpack import encode, pack, unpack

DIGEST_BYTES = 16
_LOG_VERIFIER = bytes([commands.LOG_VERIFIER])
DERIVED = frozenset([GATEWAY_SERVICES, MESH_TOPOLOGY])
"""Tables that follow from others."""


@dataclass(frozen=True, slots=True)
class Digest:
    """A rolling hash of every command since `base_index` (0, or the last restore, whose stream `base` stands for).

    Two servers with the same base and `base_index` must agree at the same `index`; others compare `state_digest`.
    """

    base_index: int
    base: bytes
    index: int
    value: bytes


Measure = Callable[[int, str, str, float], None]
"""Hears of each command: type byte, operation and kind of things as far as it has them, seconds."""


def _nowhere(message: str) -> None:
    """Warnings of a machine that nobody listens to."""


class StateMachine:
    """Applies log entries to a Store."""

    def __init__(
        self,
        store: Store,
        now: Callable[[], float],
        *,
        warn: Callable[[str], None] = _nowhere,
        measure: Measure | None = None,
    ) -> None:
        self.store = store
        self._now = now
        self._warn = warn
        self._measure = measure
        self._chunks = Assembler()
        self._base = (0, b"")
        self._rolled = (0, b"")
        """Index and value of the digest."""
        self._warned: set[int] = set()

    def apply(self, entry: LogEntry) -> object:
        """Apply one committed entry and return the command's result; refusals are exception values.

        Raises UnknownCommand for a command that only a newer version knows: the server must then stop.
        """
        self._roll(entry)
        if entry.type != EntryType.COMMAND:
            return None
        data = entry.data or b""
        if data[:1] == _LOG_VERIFIER:
            return None
        try:
            if entry.extensions:
                whole = self._chunks.add(decode_chunk_info(entry.extensions), entry.term, data)
                if whole is None:
                    return None
                data = whole
            if not data:
                raise DecodeError("empty command")
        except DecodeError as error:
            return error
        return self._command(entry.index, data)

    def _command(self, index: int, data: bytes) -> object:
        kind = data[0]
        handler = commands.find(kind)
        if handler is None:
            if kind not in self._warned:
                self._warned.add(kind)
                self._warn(f"command type {kind} is not implemented and is passed over")
            return None
        began = self._now()
        txn = self.store.begin(index, began)
        result = commands.run(txn, handler, data[1:])
        if self._measure is not None:
            self._measure(kind & ~commands.IGNORE_UNKNOWN, txn.op, txn.of, self._now() - began)
        if isinstance(result, commands.Defect):  # who proposed it hears of it; whoever follows must, too
            self._warn(f"entry {index}, type {kind}: {result}")
        return result

    def snapshot(self) -> Callable[[], Iterable[bytes]]:
        """Freeze the state now; the returned function writes it, on any thread, in pieces of one record."""
        image = self.store.snapshot()
        chunks = self._chunks.plain()
        return lambda: stream.write(image, chunks)

    def restore(self, pieces: Iterable[bytes]) -> Callable[[], None]:
        """Build the state that a snapshot stream tells, without touching what readers see; may run on any thread.

        The returned function, called on the loop, puts it in place in one step and wakes all blocked reads.
        Raises DecodeError, then nothing changed.
        """
        base = hashlib.blake2b(digest_size=DIGEST_BYTES)
        fresh, chunks = stream.read(_hashed(pieces, base.update))
        new_base = (fresh.index(*_names(fresh)), base.digest())

        def switch() -> None:
            self.store.restore(fresh)
            self._chunks = chunks
            self._base, self._rolled = new_base, (0, b"")

        return switch

    def blank(self) -> Callable[[], None]:
        """As `restore`, for the state before any command."""

        def switch() -> None:
            self.store.restore(Store())
            self._chunks = Assembler()
            self._base, self._rolled = (0, b""), (0, b"")

        return switch

    def digest(self) -> Digest:
        """The rolling hash, for comparing servers cheaply (invariant I4)."""
        return Digest(*self._base, *self._rolled)

    def _roll(self, entry: LogEntry) -> None:
        data = entry.data or b""
        told = b"%s%d %d %d " % (self._rolled[1], entry.index, entry.type, len(data))
        if entry.type == EntryType.COMMAND:
            told = b"%s%s%s" % (told, data, entry.extensions or b"")
        self._rolled = (entry.index, hashlib.blake2b(told, digest_size=DIGEST_BYTES).digest())

    def state_digest(self) -> bytes:
        """A hash of every row of every table, whatever way the state came about. Slow: for tests and checkers."""
        total = hashlib.blake2b(digest_size=DIGEST_BYTES)
        for table in self.store.tables.all():
            if table.name in DERIVED:  # a restore works them out anew, with other indexes
                continue
            for key in table.keys():  # noqa: SIM118  (a table is not a dict)
                total.update(b"%s %d " % (table.name.encode(), len(key)))
                total.update(key)
                total.update(_row_bytes(table.rows[key]))
        return total.digest()


def _hashed(pieces: Iterable[bytes], update: Callable[[bytes], None]) -> Iterator[bytes]:
    for piece in pieces:
        update(piece)
        yield piece


def _names(store: Store) -> list[str]:
    return [key.decode("utf-8", "surrogateescape") for key in store.tables.index.rows]


def _row_bytes(row: Any) -> bytes:
    """A row as bytes that do not depend on the order of maps."""
    if isinstance(row, int):
        return b"%d" % row
    form = row if hasattr(type(row), "__dataclass_fields__") else None
    assert form is not None, type(row)
    fields = type(row).__dataclass_fields__.values()
    if all("wire" in field.metadata for field in fields):
        return _canonical(encode(row))
    return b"".join(_canonical(encode(getattr(row, field.name))) + b";" for field in fields)


def _canonical(data: bytes) -> bytes:
    return pack(_sorted_maps(unpack(data)))


def _sorted_maps(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _sorted_maps(value[key]) for key in sorted(value, key=repr)}
    if isinstance(value, list):
        return [_sorted_maps(item) for item in value]
    return value
