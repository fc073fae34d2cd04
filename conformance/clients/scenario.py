"""What the scenarios of all clients share: an agent of their own, and steps that carry the client's name."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from conformance.agents import Agent, Checks, cluster, leader_known

LEADER_S = 30.0


@dataclass
class Scenario:
    """One client's run. `program` is the command that starts an agent."""

    name: str
    checks: Checks
    long: bool
    program: tuple[str, ...]

    def note(self, step: str, good: object, detail: object = "") -> bool:
        """Count a step."""
        return self.checks.note(f"{self.name}: {step}", good, detail)

    def until(self, step: str, look: Callable[[], Any], timeout_s: float = 15.0, detail: Any = None) -> Any:
        """Count whether `look` becomes true in time; what it returned last."""
        return self.checks.until(f"{self.name}: {step}", look, timeout_s, detail)

    @contextmanager
    def agent(self, address: str, *arguments: str) -> Iterator[Agent]:
        """A server that leads itself, until the end of the block."""
        with cluster(self.checks) as start:
            agent = start(self.program, self.name, address, "-server", "-bootstrap-expect=1", *arguments)
            self.until("the agent leads", lambda: leader_known(agent), LEADER_S)
            yield agent
