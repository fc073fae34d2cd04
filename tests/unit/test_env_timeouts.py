"""Time-outs in a task that was cancelled before and went on."""

import asyncio

import pytest

from pyconsul_agent.env.timeouts import timeout, timeout_at
from pyconsul_agent.runtime.tasks import together
from tests.builders import run_sim


async def cancelled_and_goes_on():
    asyncio.current_task().cancel()
    with pytest.raises(asyncio.CancelledError):
        await asyncio.sleep(0)
    assert asyncio.current_task().cancelling() == 1


@pytest.mark.parametrize("limit", [lambda: timeout(1), lambda: timeout_at(asyncio.get_running_loop().time() + 1)])
def test_a_cancellation_of_before_does_not_turn_a_timeout_into_a_cancellation(limit):
    async def scene(world):
        await cancelled_and_goes_on()
        with pytest.raises(TimeoutError):
            async with limit():
                await asyncio.sleep(2)

    run_sim(1, scene)


def test_a_cancellation_within_a_timeout_stays_one():
    async def scene(world):
        await cancelled_and_goes_on()
        task = asyncio.current_task()
        asyncio.get_running_loop().call_later(0.5, task.cancel)
        with pytest.raises(asyncio.CancelledError):
            async with timeout(1):
                await asyncio.sleep(2)

    run_sim(1, scene)


def test_a_timeout_that_does_not_come_changes_nothing():
    async def scene(world):
        async with timeout(1) as limit:
            await asyncio.sleep(0.5)
        async with timeout(None):
            await asyncio.sleep(100)
        assert not limit.expired()

    run_sim(1, scene)


async def forever(ended):
    try:
        await asyncio.Event().wait()
    finally:
        ended.append(True)


def test_the_first_failure_ends_all_and_leaves_no_cancellation_behind():
    async def failing():
        await asyncio.sleep(1)
        raise ConnectionResetError("gone")

    async def scene(world):
        ended = []
        with pytest.raises(ConnectionResetError, match="gone"):
            await together(forever(ended), failing())
        assert ended == [True]
        assert asyncio.current_task().cancelling() == 0

    run_sim(1, scene)


def test_the_first_end_ends_all():
    async def scene(world):
        ended = []
        await together(asyncio.sleep(1), forever(ended))
        assert ended == [True]

    run_sim(1, scene)


def test_whoever_is_cancelled_takes_all_along():
    async def scene(world):
        ended = []
        task = asyncio.ensure_future(together(forever(ended), forever(ended)))
        await asyncio.sleep(1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert ended == [True, True]

    run_sim(1, scene)
