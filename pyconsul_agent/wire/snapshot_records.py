"""The records of a state stream, counted: what `consul snapshot inspect` tells. Nothing is built from them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import msgpack

from pyconsul_agent.errors import DecodeError

RECORD_BYTES_MAX = 256 * 1024 * 1024
NAMES = {
    0: "Register", 1: "Deregister", 2: "KVS", 3: "Session", 4: "ACL (DEPRECATED)", 5: "Tombstone",
    6: "CoordinateBatchUpdate", 7: "PreparedQuery", 8: "Txn", 9: "Autopilot", 10: "Area", 11: "ACLBootstrap",
    12: "Intention", 13: "ConnectCA", 14: "ConnectCAProviderState", 15: "ConnectCAConfig", 16: "Index",
    17: "ACLToken", 18: "ACLTokenDelete", 19: "ACLPolicy", 20: "ACLPolicyDelete", 21: "ConnectCALeaf",
    22: "ConfigEntry", 23: "ACLRole", 24: "ACLRoleDelete", 25: "ACLBindingRule", 26: "ACLBindingRuleDelete",
    27: "ACLAuthMethod", 28: "ACLAuthMethodDelete", 29: "ChunkingState", 30: "FederationState",
    31: "SystemMetadata",
}  # fmt: skip
KVS = 2


@dataclass(slots=True)
class Count:
    """How many records of a name there are, and their bytes."""

    count: int = 0
    size: int = 0

    def add(self, size: int) -> None:
        """One more."""
        self.count += 1
        self.size += size


@dataclass(slots=True)
class Census:
    """What a stream holds, by record type and, if asked for, by the first parts of keys."""

    types: dict[str, Count] = field(default_factory=dict)
    keys: dict[str, Count] = field(default_factory=dict)
    size: int = 0
    keys_size: int = 0


def census(stream: Iterable[bytes], *, key_depth: int | None = None, key_prefix: str = "") -> Census:
    """Count the records; the header counts with the first one. With `key_depth` keys too. Raises DecodeError."""
    found = Census()
    for kind, value, end in _records(stream):
        size = end - found.size
        found.size = end
        found.types.setdefault(NAMES.get(kind, f"Unknown({kind})"), Count()).add(size)
        if kind == KVS and key_depth is not None and isinstance(value, dict):
            key = value.get(b"Key", b"")
            text = key.decode("utf-8", "surrogateescape") if isinstance(key, bytes) else ""
            if text.startswith(key_prefix):
                parts = text.split("/")
                found.keys.setdefault("/".join(parts[: min(max(key_depth, 0), len(parts))]), Count()).add(size)
                found.keys_size += size
    return found


def _records(stream: Iterable[bytes]) -> Iterator[tuple[int, Any, int]]:
    """(type, value, offset of its end) of each record, the header left out."""
    unpacker = msgpack.Unpacker(raw=True, strict_map_key=False, max_buffer_size=RECORD_BYTES_MAX)
    kind: int | None = -1
    for piece in stream:
        try:
            unpacker.feed(piece)
            while True:
                if kind is None:
                    byte = unpacker.read_bytes(1)
                    if not byte:
                        break
                    kind = byte[0]
                value = unpacker.unpack()
                if kind >= 0:
                    yield kind, value, unpacker.tell()
                kind = None
        except msgpack.OutOfData:
            continue
        except (ValueError, msgpack.UnpackException, RecursionError, TypeError) as error:
            raise DecodeError(f"malformed snapshot: {type(error).__name__}: {error}"[:200]) from error
    if kind is not None:
        raise DecodeError("EOF" if kind < 0 else "unexpected EOF")
