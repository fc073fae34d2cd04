"""I1: at most one server leads in a term."""

from __future__ import annotations

from pyconsul_agent.sim.history import Violation


class OneLeader:
    """Remembers who was elected in each term."""

    def __init__(self) -> None:
        self.leaders: dict[int, str] = {}

    def elected(self, server: str, term: int) -> None:
        """A server believes that it leads. Raises Violation."""
        other = self.leaders.setdefault(term, server)
        if other != server:
            raise Violation(f"I1 one leader a term: {other} and {server} in term {term}")
