"""Lamport's clock: a counter that is always ahead of everything seen."""

from __future__ import annotations

from pyconsul_agent.wire.serf import UINT64_MAX


class LamportClock:
    """Counts events of one kind. Starts at 1; stays within 64 bits, as it travels."""

    def __init__(self) -> None:
        self.time = 1

    def increment(self) -> None:
        """Something was stamped with the current time."""
        self.time = min(self.time + 1, UINT64_MAX)

    def witness(self, seen: int) -> None:
        """A peer has stamped something with `seen`."""
        if seen >= self.time:
            self.time = min(seen + 1, UINT64_MAX)
