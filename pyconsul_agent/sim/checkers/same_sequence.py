"""I4: every server applies the same commands in the same order and gets the same results."""

from __future__ import annotations

import hashlib

from pyconsul_agent.sim.history import Violation
from pyconsul_agent.structs.raft import LogEntry


class SameSequence:
    """Compares each entry with what the first server that applied this index did."""

    def __init__(self) -> None:
        self._seen: dict[int, tuple[str, bytes, str]] = {}
        self._last: dict[tuple[str, int], int] = {}

    def applied(self, server: str, life: int, entry: LogEntry, result: object) -> None:
        """A server has applied `entry` in its `life`th process. Raises Violation."""
        before = self._last.get((server, life), 0)
        if entry.index <= before:
            raise Violation(f"I5 applied index goes back: {server} applies {entry.index} after {before}")
        self._last[server, life] = entry.index
        content = hashlib.sha256(b"%d %d " % (entry.term, entry.type))
        for part in (entry.data or b"", entry.extensions or b""):
            content.update(b"%d " % len(part) + part)
        what = (content.digest(), f"{type(result).__name__} {result}")
        other, *seen = self._seen.setdefault(entry.index, (server, *what))
        if tuple(seen) != what:
            raise Violation(
                f"I4 same sequence: {server} and {other} differ at index {entry.index}:"
                f" results {what[1]!r}, {seen[1]!r}"
            )
