"""The simulated world as a whole: same seed, same digest; processes live and die; real servers run on it."""

import asyncio

from aiohttp import web

from pyconsul_agent.env.base import open_stream, serve_streams
from pyconsul_agent.sim.net import LinkOptions
from pyconsul_agent.sim.world import World
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
