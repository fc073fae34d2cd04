"""I16: no task, timer or connection outlives its owner."""

from __future__ import annotations

from pyconsul_agent.sim.history import Violation
from pyconsul_agent.sim.owner import OWNER, Owner
from pyconsul_agent.sim.world import World


def check(world: World) -> None:
    """To be called when every process has ended. Raises Violation."""
    left = world.leftovers()
    for timer in world.loop.pending_timers():
        owner: Owner | None = timer._context.get(OWNER)  # type: ignore[attr-defined]
        if owner is not None and any(process.ended_well(owner) for process in world.processes):
            left.append(f"{owner.name}: timer {timer!r}")
    if left:
        raise Violation("I16 leftovers:\n" + "\n".join(left))
