"""The virtual-time event loop."""

import asyncio
import random

import pytest

from pyconsul_agent.sim.loop import START_S, Deadlock, LimitExceeded, SimError, SimLoop


def run(coroutine, **options):
    loop = SimLoop(random.Random(1), **options)
    try:
        return loop.run_until_complete(coroutine)
    finally:
        loop.close()


def test_sleeping_costs_no_real_time_and_exact_virtual_time():
    async def test():
        loop = asyncio.get_running_loop()
        await asyncio.sleep(3600)
        return loop.time()

    assert run(test()) == START_S + 3600


def test_asyncio_building_blocks_work():
    async def test():
        queue = asyncio.Queue(1)

        async def produce():
            for number in range(5):
                await asyncio.sleep(1)
                await queue.put(number)

        async def consume():
            return [await queue.get() for _ in range(5)]

        async with asyncio.TaskGroup() as group:
            group.create_task(produce())
            consumer = group.create_task(consume())
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(10):
                await asyncio.Event().wait()
        assert await asyncio.get_running_loop().run_in_executor(None, lambda: 7) == 7
        with pytest.raises(ZeroDivisionError):
            await asyncio.to_thread(lambda: 1 / 0)
        return consumer.result()

    assert run(test()) == [0, 1, 2, 3, 4]


def test_timers_fire_in_order_and_cancelled_ones_do_not():
    async def test():
        loop = asyncio.get_running_loop()
        fired = []
        handles = [loop.call_later(delay % 7, fired.append, delay % 7) for delay in range(2000)]
        for handle in handles[::3]:
            handle.cancel()
            handle.cancel()
        assert len(loop.pending_timers()) == len(handles) - len(handles[::3])
        await asyncio.sleep(7)
        assert loop.pending_timers() == []
        return fired

    fired = run(test())
    assert fired == sorted(fired)
    assert len(fired) == 2000 - 667


def test_timers_of_one_instant_fire_in_order_of_creation_unless_shuffled():
    async def test():
        fired = []
        for number in range(20):
            asyncio.get_running_loop().call_later(1, fired.append, number)
        await asyncio.sleep(2)
        return fired

    assert run(test()) == list(range(20))
    shuffled = run(test(), shuffle=True)
    assert shuffled != list(range(20))
    assert sorted(shuffled) == list(range(20))
    assert run(test(), shuffle=True) == shuffled


def test_call_soon_keeps_its_order_even_when_shuffled():
    async def test():
        seen = []
        for number in range(50):
            asyncio.get_running_loop().call_soon(seen.append, number)
            asyncio.get_running_loop().call_soon_threadsafe(seen.append, number)
        await asyncio.sleep(0)
        return seen

    assert run(test(), shuffle=True) == [number for number in range(50) for _ in range(2)]


def test_waiting_for_nothing_is_a_deadlock():
    async def test():
        await asyncio.get_running_loop().create_future()

    with pytest.raises(Deadlock):
        run(test())


def test_steps_and_virtual_time_are_bounded():
    async def spin():
        while True:
            await asyncio.sleep(0)

    async def sleep_on():
        while True:
            await asyncio.sleep(60)

    with pytest.raises(LimitExceeded, match="steps"):
        run(spin(), steps_max=1000)
    with pytest.raises(LimitExceeded, match="virtual time"):
        run(sleep_on(), time_max_s=1000)


def test_real_sockets_and_look_ups_are_refused():
    async def test():
        loop = asyncio.get_running_loop()
        for attempt in (
            loop.create_connection(asyncio.Protocol, "127.0.0.1", 1),
            loop.create_server(asyncio.Protocol, "127.0.0.1", 0),
            loop.create_datagram_endpoint(asyncio.DatagramProtocol, local_addr=("127.0.0.1", 0)),
            loop.getaddrinfo("localhost", 1),
        ):
            with pytest.raises(SimError):
                await attempt

    run(test())


def test_sets_of_tasks_and_futures_have_an_order_of_their_own():
    """`TaskGroup` keeps its tasks in a set and cancels them in its order."""
    clutter = []

    async def test():
        order = []

        async def child(number):
            try:
                await asyncio.sleep(100)
            finally:
                order.append(number)

        with pytest.raises(ExceptionGroup):
            async with asyncio.TaskGroup() as group:
                for number in range(50):
                    clutter.append(bytearray(random.randrange(1000)))
                    group.create_task(child(number))
                await asyncio.sleep(1)
                raise ValueError
        futures = {asyncio.get_running_loop().create_future(): number for number in range(50)}
        return order, [futures[future] for future in set(futures)]

    first = run(test())
    assert all(run(test()) == first for _ in range(5))
    assert sorted(first[0]) == list(range(50))
