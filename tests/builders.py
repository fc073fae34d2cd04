"""Small makers that many tests share: a simulated world, or a real event loop, that must be left clean."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from pyconsul_agent.sim.world import World

T = TypeVar("T")

SETTLE_TURNS = 5
"""Loop turns that a closing transport may need."""


def run_sim(seed: int, scenario: Callable[[World], Coroutine[Any, Any, T]], **options: Any) -> T:
    """Run `scenario(world)` in a fresh simulated world, in virtual time. Options are those of `World`.

    Fails when the scenario leaves tasks or sockets of its own, or an ended process left some.
    """

    async def whole(world: World) -> T:
        result = await scenario(world)
        await asyncio.sleep(1)
        return result

    with World(seed, **options) as world:
        result = world.run(whole(world))
        left = world.leftovers()
        assert not left, "left behind:\n" + "\n".join(left)
        return result


def run_async(coroutine: Coroutine[Any, Any, T], *, uvloop: bool = False) -> T:
    """Run on a real event loop. Fails when a task, a timer or an open transport is left behind."""
    loop_factory: Callable[[], asyncio.AbstractEventLoop] = asyncio.new_event_loop
    if uvloop:
        import uvloop as uvloop_module

        loop_factory = uvloop_module.new_event_loop

    async def whole() -> T:
        loop = asyncio.get_running_loop()
        errors: list[str] = []
        loop.set_exception_handler(lambda _, context: errors.append(repr(context)))
        result = await coroutine
        for _ in range(SETTLE_TURNS):
            await asyncio.sleep(0)
        left = [repr(task) for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        left += [repr(timer) for timer in getattr(loop, "_scheduled", []) if not timer.cancelled()]
        if not uvloop:
            left += [repr(transport) for transport in dict(loop._transports).values() if not transport.is_closing()]
        assert not left, "left behind:\n" + "\n".join(left)
        assert not errors, "unhandled:\n" + "\n".join(errors)
        return result

    with asyncio.Runner(loop_factory=loop_factory) as runner:
        return runner.run(whole())
