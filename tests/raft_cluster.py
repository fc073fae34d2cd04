"""Raft servers in the simulated world: a state machine that is easy to compare, and a cluster of RaftNodes."""

import asyncio
import gc
from dataclasses import replace

from pyconsul_agent.env.base import serve_streams
from pyconsul_agent.errors import DecodeError, RaftError, RPCError
from pyconsul_agent.raft.config import RaftConfig
from pyconsul_agent.runtime.raft import RaftNode
from pyconsul_agent.runtime.raft_saving import SnapshotPolicy
from pyconsul_agent.sim.raft_storage import RaftDisk, SimRaftStorage
from pyconsul_agent.sim.world import World
from pyconsul_agent.structs.raft import Configuration, Server, Suffrage
from pyconsul_agent.wire.raft import MODE_RAFT
from tests.builders import run_sim

PORT = 8300


class ListMachine:
    """Remembers every command, in order; its snapshot is their concatenation with lengths."""

    def __init__(self):
        self.items = []
        self.restores = 0

    def apply(self, entry):
        assert entry.data is not None
        if entry.extensions is not None:
            self.items.append((entry.data[:8], entry.extensions))
            return None
        self.items.append(entry.data)
        return len(self.items)

    def snapshot(self):
        items = tuple(item for item in self.items if isinstance(item, bytes))
        return lambda: (len(item).to_bytes(4, "big") + item for item in items)

    def restore(self, chunks):
        data = b"".join(chunks)
        if data == b"bad":
            raise DecodeError("bad state")
        items = []
        while data:
            size = int.from_bytes(data[:4], "big")
            items.append(data[4 : 4 + size])
            data = data[4 + size :]

        def switch():
            self.items = items
            self.restores += 1

        return switch

    def blank(self):
        def switch():
            self.items = []

        return switch


class Recorder:
    """A log that keeps errors and warnings."""

    def __init__(self):
        self.lines = []

    def event(self, name, /, **fields):
        self.lines.append(("event", name, fields))

    def trace(self, message, **pairs):
        pass

    debug = info = trace

    def warn(self, message, **pairs):
        self.lines.append(("warn", message, pairs))

    def error(self, message, **pairs):
        self.lines.append(("error", message, pairs))

    def named(self, name):
        return self


def server(number, suffrage=Suffrage.VOTER):
    return Server(suffrage=suffrage, id=f"id-{number}", address=f"10.0.0.{number}:{PORT}")


def configuration(*numbers):
    return Configuration(servers=tuple(server(number) for number in numbers))


def resolve(peer):
    host, port = peer.address.rsplit(":", 1)
    return host, int(port)


class Member:
    """One server: process, disk, and the node of its present life."""

    def __init__(self, world, number, *, config=None, policy=None):
        self.number = number
        self.id = server(number).id
        self.disk = RaftDisk()
        self.log = Recorder()
        self.machine = ListMachine()
        self.node = None
        self.fatal = []
        self.events = []
        self.config = config or RaftConfig()
        self.policy = policy or SnapshotPolicy()
        self.process = world.process(f"10.0.0.{number}", self.main)
        self.stopping = None
        self.net = None
        self.restore_s = 0.0

    async def main(self, env):
        self.machine = ListMachine()
        self.stopping = asyncio.Event()
        self.net = env.net
        node = RaftNode(
            config=self.config,
            me=server(self.number),
            storage=SimRaftStorage(self.disk, blocking=env.blocking),
            machine=self.machine,
            net=env.net,
            clock=env.clock,
            blocking=self.restores_late(env.blocking),
            rng=env.random,
            log=self.log,
            resolve=resolve,
            fatal=self.fatal.append,
            bind_host=f"10.0.0.{self.number}",
            policy=self.policy,
        )
        node.on_leadership(lambda leading, term: self.events.append((leading, term)))
        await node.start()

        handlers = set()

        async def handle(reader, writer):
            handlers.add(asyncio.current_task())
            try:
                if await reader.read(1) == bytes((MODE_RAFT,)):
                    await node.accept(reader, writer, str(writer.get_extra_info("peername")))
            except OSError:
                pass
            finally:
                handlers.discard(asyncio.current_task())
                writer.close()

        listener = await serve_streams(env.net, handle, "0.0.0.0", PORT)
        self.node = node
        await self.stopping.wait()
        await listener.close()
        await node.stop()
        for handler in handlers:
            handler.cancel()
        await asyncio.sleep(0.001)
        await env.blocking.close()

    def restores_late(self, worker):
        """A worker that takes `restore_s` longer."""

        async def work(job):
            await asyncio.sleep(self.restore_s)
            return await worker(job)

        return work if self.restore_s else worker

    def kill(self):
        self.node = self.stopping = None
        self.process.kill()

    def power_off(self, world):
        self.node = self.stopping = None
        world.power_off(self.process.host)

    def power_on(self, world):
        world.power_on(self.process.host)
        if not self.process.running:
            self.process.start()

    async def do(self, function):
        return await self.process.call(lambda: function(self.node))


class Cluster:
    """Members 1..n; all but `late` ones are bootstrapped together."""

    def __init__(self, world, count, *, voters=None, **options):
        self.world = world
        self.members = {number: Member(world, number, **options) for number in range(1, count + 1)}
        self.voters = tuple(range(1, (voters or count) + 1))

    def __getitem__(self, number):
        return self.members[number]

    async def boot(self):
        for number in self.voters:
            member = self.members[number]
            await until(lambda member=member: member.node is not None)
            await member.do(lambda node: node.bootstrap(configuration(*self.voters)))
        return await self.leader()

    def alive(self):
        return [m for m in self.members.values() if m.process.running and m.node is not None and not m.fatal]

    async def leader(self, *, without=(), within_s=30):
        found = []

        def look():
            found[:] = [m for m in self.alive() if m.node.is_leader and m not in without]
            return len(found) == 1

        await until(look, within_s)
        return found[0]

    async def write(self, data, *, within_s=30):
        """As a client that repeats until it is acknowledged."""
        async with asyncio.timeout(within_s):
            while True:
                leader = await self.leader()
                try:
                    return await leader.do(lambda node: node.apply(7, data))
                except (RaftError, RPCError):
                    await asyncio.sleep(0.01)

    async def level(self, within_s=30):
        """Until all live members have applied the same."""
        await until(lambda: len({m.node.applied_index for m in self.alive()}) == 1, within_s)
        machines = [m.machine.items for m in self.alive()]
        assert all(items == machines[0] for items in machines)

    async def stop(self):
        for member in self.members.values():
            if member.process.running:
                member.stopping.set()
                await member.process.wait()
                assert not member.process.leftovers, member.process.leftovers


async def until(condition, within_s=30):
    async with asyncio.timeout(within_s):
        while not condition():
            await asyncio.sleep(0.005)


def small(**changes):
    return replace(RaftConfig(), **changes)


def simulate(scenario, seed=1, *, clean=True, **options):
    """`clean` False: the world may keep tasks of machines that lost power."""

    async def whole(world):
        cluster = Cluster(world, **options)
        await scenario(cluster)
        await cluster.stop()
        # The simulated world counts tasks of killed processes until their last timer has run and they are collected.
        await asyncio.sleep(120)
        gc.collect()
        for member in cluster.members.values():
            assert not [line for line in member.log.lines if line[0] == "error"], member.log.lines

    if clean:
        run_sim(seed, whole)
        return
    with World(seed) as world:
        world.run(whole(world))
