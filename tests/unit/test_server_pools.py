"""Servers of the LAN are brought into the WAN pool, at their arrival and again until they are there."""

import asyncio

from pyconsul_agent.errors import NetError
from pyconsul_agent.serf.consul import ServerTags, server_tags
from pyconsul_agent.server.directory import ServerDirectory
from pyconsul_agent.server.pools import FLOOD_INTERVAL_S, FLOOD_JOINS_MAX, PoolWatcher
from pyconsul_agent.structs.member import Member, MemberEventKind, MemberStatus
from tests.builders import run_sim
from tests.raft_cluster import Recorder


def server(number, port=8302):
    tags = ServerTags(datacenter="dc1", node_id=f"id-{number}", build="1.10.11:", port=8300, wan_join_port=port)
    return Member(
        name=f"s{number}", address=f"10.0.0.{number}", port=8301, tags=server_tags(tags), status=MemberStatus.ALIVE
    )


class Wan:
    """Knows nobody until a join succeeds; the first `failures` ones do not."""

    def __init__(self, failures):
        self.failures = failures
        self.known = {"s1.dc1"}
        self.joins = []

    def member(self, name):
        return name if name in self.known else None

    def members(self):
        return []

    async def join(self, addresses):
        self.joins.append((round(asyncio.get_running_loop().time() - self.began), *addresses))
        if len(self.joins) <= self.failures:
            raise NetError("i/o timeout")
        number = addresses[0].split(":")[0].rpartition(".")[2]
        self.known.add(f"s{number}.dc1")
        return 1


def watch(wan, members, scenario):
    async def main(world):
        wan.began = asyncio.get_running_loop().time()
        directory = ServerDirectory("dc1", "s1")
        for member in members:
            directory.lan_event(MemberEventKind.JOIN, member)
        watcher = PoolWatcher(directory, None, None, None, Recorder(), wan=wan, server_moved=lambda info: None)
        watcher._tasks.start(watcher._flood_forever(wan), "flood joins")
        await scenario(watcher)
        await watcher.stop()

    run_sim(1, main)


def test_server_that_is_not_in_the_wan_pool_is_joined_every_minute_until_it_is():
    wan = Wan(failures=2)

    async def scenario(watcher):
        await asyncio.sleep(FLOOD_INTERVAL_S * 6 + 1)

    watch(wan, [server(1), server(2), server(3, port=0)], scenario)
    assert wan.joins == [(60, "10.0.0.2:8302"), (120, "10.0.0.2:8302"), (180, "10.0.0.2:8302")]


def test_one_round_tries_a_bounded_number_of_servers():
    wan = Wan(failures=1000)

    async def scenario(watcher):
        await asyncio.sleep(FLOOD_INTERVAL_S + 1)

    watch(wan, [server(number) for number in range(1, 100)], scenario)
    assert len(wan.joins) == FLOOD_JOINS_MAX
