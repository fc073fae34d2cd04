"""I15 and I14: in calm, every agent believes that all are alive, and the catalog holds what the agents hold."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from pyconsul_agent.sim.history import Violation


def disagreements(views: Mapping[str, Mapping[str, str]]) -> list[str]:
    """`views`: agent to what it believes of each member. Every agent must be in every view, alive."""
    return [
        f"{viewer} believes {name} {view.get(name, 'unknown')}"
        for viewer, view in views.items()
        for name in views
        if view.get(name) != "alive"
    ]


def check_catalog(
    node: str, local: Iterable[tuple[str, tuple[str, ...]]], catalog: Iterable[tuple[str, tuple[str, ...]]]
) -> None:
    """Pairs of service ID and tags, in the agent and in the catalog. Raises Violation."""
    here, there = dict(local), dict(catalog)
    if here != there:
        raise Violation(f"I14 anti-entropy: {node} has {here}, the catalog {there}")
