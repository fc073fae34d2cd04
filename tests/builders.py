"""Small makers that many tests share."""

from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from pyconsul_agent.sim.world import World

T = TypeVar("T")


def run_sim(seed: int, scenario: Callable[[World], Coroutine[Any, Any, T]], **options: Any) -> T:
    """Run `scenario(world)` in a fresh simulated world, in virtual time. Options are those of `World`."""
    with World(seed, **options) as world:
        return world.run(scenario(world))
