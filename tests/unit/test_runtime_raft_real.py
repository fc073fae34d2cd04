"""Three RaftNodes on real loopback sockets and real files."""

import asyncio
import random
import shutil
from contextlib import suppress

import pytest

from pyconsul_agent.env.base import serve_streams
from pyconsul_agent.env.real import real_env
from pyconsul_agent.raft.config import RaftConfig
from pyconsul_agent.runtime.raft import RaftNode
from pyconsul_agent.runtime.raft_storage import SqliteRaftStorage
from pyconsul_agent.structs.raft import Configuration, Server
from tests.builders import run_async
from tests.raft_cluster import ListMachine, Recorder, resolve, until


class Local:
    """A node with its listener, in this process."""

    def __init__(self, env, directory, number):
        self.env = env
        self.directory = directory
        self.number = number
        self.port = 0
        self.me = Server()
        self.handlers = set()

    async def listen(self, port=0):
        self.listener = await serve_streams(self.env.net, self.handle, "127.0.0.1", port)
        self.me = Server(id=f"id-{self.number}", address=f"127.0.0.1:{self.listener.local[1]}")

    async def handle(self, reader, writer):
        self.handlers.add(asyncio.current_task())
        with suppress(OSError):
            if await reader.read(1) == b"\x01":
                await self.node.accept(reader, writer, str(writer.get_extra_info("peername")))
        writer.close()
        self.handlers.discard(asyncio.current_task())

    async def start(self):
        self.machine = ListMachine()
        self.worker = self.env.blocking.worker(f"raft-{self.number}")
        self.log = Recorder()
        self.node = RaftNode(
            config=RaftConfig(trailing_logs=5),
            me=self.me,
            storage=SqliteRaftStorage(
                str(self.directory), blocking=self.worker, wall_ns=self.env.clock.wall_ns, log=self.log
            ),
            machine=self.machine,
            net=self.env.net,
            clock=self.env.clock,
            blocking=self.worker,
            rng=random.Random(self.number),
            log=self.log,
            resolve=resolve,
            fatal=lambda error: pytest.fail(f"fatal: {error}"),
        )
        await self.node.start()

    async def stop(self):
        await self.listener.close()
        await self.node.stop()
        for handler in self.handlers:
            handler.cancel()
        await asyncio.gather(*self.handlers, return_exceptions=True)
        await self.worker.close()


@pytest.mark.slow
def test_three_real_servers_elect_replicate_fail_over_and_install_a_snapshot(tmp_path):
    async def scenario():
        env = real_env()
        nodes = [Local(env, tmp_path / str(n), n) for n in (1, 2, 3)]
        for local in nodes:
            await local.listen()
            await local.start()
        configuration = Configuration(servers=tuple(local.me for local in nodes))
        for local in nodes:
            await local.node.bootstrap(configuration)
        await until(lambda: any(local.node.is_leader for local in nodes))
        leader = next(local for local in nodes if local.node.is_leader)
        results = await asyncio.gather(*(leader.node.apply(7, b"%d" % n) for n in range(300)))
        assert results == list(range(1, 301))
        await until(lambda: all(len(local.machine.items) == 300 for local in nodes))

        await leader.stop()
        rest = [local for local in nodes if local is not leader]
        await until(lambda: any(local.node.is_leader for local in rest), 5)
        second = next(local for local in rest if local.node.is_leader)
        for n in range(20):
            await second.node.apply(7, b"more%d" % n)
        await second.node.take_snapshot()
        await second.node.apply(7, b"tail")

        # Its log alone would not force a snapshot: entries may still wait in the leader's lane to it.
        shutil.rmtree(leader.directory)
        await leader.listen(int(leader.me.address.rsplit(":", 1)[1]))
        await leader.start()
        await until(lambda: len(leader.machine.items) == 321)
        assert leader.machine.restores == 1
        assert leader.machine.items == second.machine.items
        for local in nodes:
            await local.stop()
        await env.blocking.close()

    run_async(scenario())
