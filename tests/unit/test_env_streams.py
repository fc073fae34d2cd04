"""Every room that listens for streams is told of a lost connection by `drain`, as `env.base.Writer` promises."""

import asyncio
import socket
import struct

import pytest

from pyconsul_agent.env.base import open_stream, serve_streams
from pyconsul_agent.env.real import real_env
from pyconsul_agent.interfaces.ipc.server import IPCServer
from pyconsul_agent.runtime.gossip_streams import GossipStreams
from pyconsul_agent.runtime.rpc_server import RPCServer
from tests.builders import run_async


async def listen_streams(env, accepted):
    async def handler(reader, writer):
        accepted(writer)

    return await serve_streams(env.net, handler, "127.0.0.1", 0)


async def listen_rpc(env, accepted):
    server = RPCServer(env.net, env.clock, None, None)
    server._on_connection = lambda reader, writer: accepted(writer)
    return await env.net.listen(server._protocol, "127.0.0.1", 0)


async def listen_gossip(env, accepted):
    streams = GossipStreams(env.net, None, None, timeout_s=5, spawn=None, answer=None, meter=None)
    streams._accept = lambda reader, writer: accepted(writer)
    return await env.net.listen(streams.protocol, "127.0.0.1", 0)


async def listen_ipc(env, accepted):
    async def serve(reader, writer):
        accepted(writer)

    server = IPCServer(env.net, None, None, None)
    server._serve_tcp = serve
    return await env.net.listen(server._connection, "127.0.0.1", 0)


@pytest.mark.parametrize("uvloop", [False, True], ids=["asyncio", "uvloop"])
@pytest.mark.parametrize("listen", [listen_streams, listen_rpc, listen_gossip, listen_ipc])
def test_writing_after_the_peers_reset_raises_nowhere_but_in_drain(listen, uvloop):
    async def test():
        env, accepted = real_env(), asyncio.get_running_loop().create_future()
        listener = await listen(env, accepted.set_result)
        try:
            _, dialed = await open_stream(env.net, *listener.local)
            writer = await accepted
            sock = dialed.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            dialed.transport.abort()
            while not writer.transport.is_closing():
                await asyncio.sleep(0.001)
            await asyncio.sleep(0)
            writer.write(b"late")
            with pytest.raises(OSError):
                await writer.drain()
            writer.close()
        finally:
            await listener.close()
            await env.blocking.close()

    run_async(asyncio.wait_for(test(), 20), uvloop=uvloop)
