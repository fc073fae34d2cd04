"""What clients asked for and what they were told; and what the replicated log made of it. The checkers' only input."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field

from pyconsul_agent.errors import DecodeError
from pyconsul_agent.fsm.apply import KVS, SESSION
from pyconsul_agent.structs.raft import EntryType, LogEntry
from pyconsul_agent.structs.requests import KVSRequest, SessionRequest
from pyconsul_agent.wire.msgpack import decode


class Violation(AssertionError):
    """A promise does not hold. The text begins with the invariant's name."""


@dataclass(slots=True, kw_only=True)
class Operation:
    """One request of one client.

    `f`: put, cas, delete, get, acquire, release, session, destroy, renew, register, deregister.
    `outcome`: ok, fail (the server said that it did not happen), info (nobody knows), open (no answer yet).
    """

    number: int
    worker: int
    node: str
    f: str
    key: str = ""
    value: str = ""
    guard: int | None = None
    mode: str = ""
    """Of a read: default, consistent or stale."""
    session: str = ""
    begin: float = 0.0
    end: float = 0.0
    outcome: str = "open"
    applied_before: int = 0
    """The highest index that any server had applied when it began."""
    applied_after: int = 0
    """The same, when it ended."""
    read: str | None = None
    """What a read found; None: no such key."""
    index: int = 0
    """ModifyIndex of what was read."""
    lock_index: int = 0
    header: int = 0
    """X-Consul-Index of a read."""
    detail: str = ""


@dataclass(slots=True)
class History:
    """All operations in the order of their beginning."""

    operations: list[Operation] = field(default_factory=list)

    def lines(self) -> str:
        """JSON lines."""
        return "".join(json.dumps(asdict(operation), sort_keys=True) + "\n" for operation in self.operations)

    def count(self, outcome: str) -> int:
        """How many ended so."""
        return sum(operation.outcome == outcome for operation in self.operations)


@dataclass(frozen=True, slots=True)
class Applied:
    """An entry as the first server that applied it saw it. `at` is virtual seconds."""

    index: int
    at: float
    kind: int
    request: KVSRequest | SessionRequest | None
    result: object


@dataclass(slots=True)
class Truth:
    """The applied log: the order that everything else is judged by."""

    entries: dict[int, Applied] = field(default_factory=dict)
    highest: int = 0

    def add(self, entry: LogEntry, result: object, at: float) -> None:
        """A server has applied `entry`; only the first one counts."""
        if entry.index in self.entries:
            return
        data = entry.data or b""
        kind = data[0] if entry.type == EntryType.COMMAND and data else -1
        request: KVSRequest | SessionRequest | None = None
        try:
            if kind == KVS:
                request = decode(KVSRequest, data[1:])
            elif kind == SESSION:
                request = decode(SessionRequest, data[1:])
        except DecodeError:
            request = None
        self.entries[entry.index] = Applied(entry.index, at, kind, request, result)
        self.highest = max(self.highest, entry.index)

    def key_writes(self) -> list[tuple[int, Applied, KVSRequest]]:
        """Key-value writes in log order."""
        ordered = (self.entries[index] for index in sorted(self.entries))
        return [(each.index, each, each.request) for each in ordered if isinstance(each.request, KVSRequest)]

    def session_writes(self) -> list[tuple[int, Applied, SessionRequest]]:
        """Session writes in log order."""
        ordered = (self.entries[index] for index in sorted(self.entries))
        return [(each.index, each, each.request) for each in ordered if isinstance(each.request, SessionRequest)]
