"""I4: servers that have applied the same index hold the same state."""

from __future__ import annotations

from collections.abc import Mapping

from pyconsul_agent.sim.history import Violation


def check(states: Mapping[str, tuple[int, bytes]]) -> None:
    """`states`: server to (applied index, digest of every row). Raises Violation."""
    by_index: dict[int, tuple[str, bytes]] = {}
    for server, (index, digest) in states.items():
        other, expected = by_index.setdefault(index, (server, digest))
        if digest != expected:
            raise Violation(f"I4 same state: {server} and {other} differ at applied index {index}")
    if len(by_index) > 1:
        raise Violation(f"I4 same state: applied indexes differ: { {name: each[0] for name, each in states.items()} }")
