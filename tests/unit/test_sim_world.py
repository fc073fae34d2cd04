"""The simulated world as a whole: same seed, same digest; processes live and die; real servers run on it."""

import asyncio
import subprocess
import sys
from pathlib import Path

import pytest
from aiohttp import web

from pyconsul_agent.env.base import open_stream, serve_streams
from pyconsul_agent.sim.net import LinkOptions
from pyconsul_agent.sim.world import UnhandledErrors, World
from tests.builders import run_sim


async def echo_main(env):
    async def handle(reader, writer):
        while data := await reader.read(1000):
            writer.write(data)
            await writer.drain()
        writer.close()
        await writer.wait_closed()

    await serve_streams(env.net, handle, "0.0.0.0", 7)
    sockets = []

    def receive(data, from_):
        sockets[0].send(data.upper(), from_)

    sockets.append(await env.net.datagrams(receive, env.interfaces.addresses()[1].ip, 7))
    await asyncio.Event().wait()


async def chatter_main(env):
    """Random talk with the echo server."""
    await asyncio.sleep(0.1)
    answers = []
    socket = await env.net.datagrams(lambda data, from_: answers.append(data), "0.0.0.0", 0)
    reader, writer = await open_stream(env.net, "10.0.0.1", 7)
    for _ in range(20):
        message = env.token_bytes(env.random.randint(1, 5000))
        socket.send(message[:1200], ("10.0.0.1", 7))
        writer.write(message)
        assert await reader.readexactly(len(message)) == message
        await asyncio.sleep(env.random.random())
    writer.close()
    await writer.wait_closed()
    socket.close()


def digest_of(seed):
    with World(seed, link=LinkOptions(loss=0.2, duplicate=0.1, reorder=0.2)) as world:
        world.process("10.0.0.1", echo_main)
        clients = [world.process(f"10.0.0.{n}", chatter_main) for n in range(2, 6)]

        async def scenario():
            for client in clients:
                await client.wait()
                assert not client.leftovers

        world.run(scenario())
        return world.digest()


def test_the_same_seed_gives_the_same_digest():
    assert digest_of(1) == digest_of(1)


def test_another_seed_gives_another_digest():
    assert digest_of(1) != digest_of(2)


def test_aiohttp_server_answers_over_the_simulated_network():
    async def main(env):
        async def handler(request):
            await asyncio.sleep(60)
            return web.Response(text=f"hello {request.rel_url.raw_path}")

        server = web.Server(handler)
        await env.net.listen(server, "0.0.0.0", 8500)
        await asyncio.Event().wait()

    async def scenario(world):
        world.process("10.0.0.1", main)
        await asyncio.sleep(1)
        start = world.loop.time()
        reader, writer = await open_stream(world.network.host("10.0.0.2"), "10.0.0.1", 8500)
        writer.write(b"GET /v1/kv/a%2Fb HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        answer = await reader.read()
        writer.close()
        assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
        assert answer.endswith(b"hello /v1/kv/a%2Fb")
        assert 60 <= world.loop.time() - start < 60.1

    run_sim(1, scenario)


def test_digests_do_not_depend_on_the_hash_seed():
    code = "from tests.unit.test_sim_world import digest_of; print(digest_of(3))"
    digests = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={"PYTHONHASHSEED": hash_seed, "PYTHONPATH": ":".join(path for path in sys.path if path) + ":."},
            cwd=Path(__file__).resolve().parents[2],
            capture_output=True,
            check=True,
        ).stdout
        for hash_seed in ("0", "1")
    }
    assert len(digests) == 1
    assert len(digests.pop().strip()) == 64


def test_errors_that_nobody_handled_fail_the_run():
    async def raising_callback(world):
        world.loop.call_soon(lambda: 1 / 0)
        await asyncio.sleep(1)

    async def raising_main(env):
        await asyncio.sleep(1)
        raise ValueError("main is broken")

    async def raising_process(world):
        with pytest.raises(ValueError, match="main is broken"):
            await world.process("10.0.0.1", raising_main).wait()

    with pytest.raises(UnhandledErrors, match="ZeroDivisionError"):
        run_sim(1, raising_callback)
    with pytest.raises(UnhandledErrors, match="main is broken"):
        run_sim(1, raising_process)


def test_a_scenario_that_leaves_something_fails():
    async def leave_task(world):
        world.keep = asyncio.ensure_future(asyncio.sleep(100))

    async def leave_socket(world):
        await world.network.host("10.0.0.1").datagrams(print, "10.0.0.1", 1)

    async def careless_main(env):
        await env.net.datagrams(print, "10.0.0.1", 1)

    async def leave_in_process(world):
        await world.process("10.0.0.1", careless_main).wait()

    for scenario in (leave_task, leave_socket, leave_in_process):
        with pytest.raises(AssertionError, match="left behind"):
            run_sim(1, scenario)


def test_each_purpose_has_a_generator_of_its_own():
    first, second = World(5), World(5)
    assert first.draw("a").random() == second.draw("a").random()
    assert first.draw("a").random() != first.draw("b").random()
    first.close()
    second.close()
    second.close()
