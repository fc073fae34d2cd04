"""A server leaves whatever becomes of its leadership meanwhile."""

import asyncio
from types import SimpleNamespace

import pytest

from pyconsul_agent.errors import LeadershipLost, NotLeader, RaftError
from pyconsul_agent.server.departure import REMOVAL_GRACE_S, Departure
from pyconsul_agent.structs.raft import Configuration, Server, Suffrage
from tests.builders import run_sim
from tests.raft_cluster import Recorder

DRAIN_S = 2.0


class Consensus:
    """Leader of `voters`; `transfer` and `removal` are raised by those calls."""

    def __init__(self, voters, *, is_leader=True, transfer=None, removal=None, reigns_on=False):
        self.servers = [Server(suffrage=int(Suffrage.VOTER), id=f"id-{n}", address=f"10.0.0.{n}:8300") for n in voters]
        self.is_leader = is_leader
        self.transfer = transfer
        self.removal = removal
        self.reigns_on = reigns_on
        self.asked = []

    def configuration(self):
        return Configuration(servers=tuple(self.servers)), 1

    async def transfer_leadership(self):
        self.asked.append("transfer")
        self.is_leader = self.reigns_on
        if self.transfer is not None:
            raise self.transfer

    async def remove_server(self, id):
        self.asked.append(f"remove {id}")
        if self.removal is not None:
            raise self.removal
        self.servers = [server for server in self.servers if server.id != id]


class Pool:
    def __init__(self, steps, name, *, alone=False):
        self.steps, self.name, self.alone = steps, name, alone

    async def begin_leave(self):
        self.steps.append(f"begin {self.name}")
        return not self.alone

    async def finish_leave(self):
        self.steps.append(f"finish {self.name}")


def leave(consensus, log=None, pools=lambda steps: (Pool(steps, "wan"), Pool(steps, "lan"))):
    """(steps, seconds) of a whole leave."""
    steps = []

    async def main(world):
        loop = asyncio.get_running_loop()
        me = {"node_id": "id-1", "address": "10.0.0.1:8300"}
        departure = Departure(consensus, SimpleNamespace(monotonic=loop.time), log or Recorder(), **me, drain_s=DRAIN_S)
        began = loop.time()
        await departure.run(pools(steps), lambda: steps.append("left"))
        return round(loop.time() - began, 1)

    return steps, run_sim(1, main)


def test_pools_are_left_after_the_handing_over_and_before_the_wait_for_the_removal():
    consensus = Consensus([1, 2, 3])
    steps, seconds = leave(consensus)
    assert consensus.asked == ["transfer"]
    assert steps == ["begin wan", "begin lan", "left", "finish wan", "finish lan"]
    assert seconds >= REMOVAL_GRACE_S, "nobody removed it"


@pytest.mark.parametrize("failure", [RaftError("leadership transfer timeout"), LeadershipLost(), NotLeader()])
def test_a_leader_that_cannot_hand_over_removes_itself(failure):
    consensus = Consensus([1, 2], transfer=failure, reigns_on=True)
    _, seconds = leave(consensus)
    assert consensus.asked == ["transfer", "remove id-1"]
    assert seconds == DRAIN_S


@pytest.mark.parametrize("failure", [RaftError("no"), NotLeader()])
def test_a_leader_deposed_while_it_leaves_goes_all_the_same(failure):
    consensus = Consensus([1, 2], transfer=LeadershipLost(), removal=failure)
    log = Recorder()
    steps, _ = leave(consensus, log)
    assert steps[:3] == ["begin wan", "begin lan", "left"]
    assert any(str(failure) in str(line) for line in log.lines), "the operator reads why"


def test_a_lone_server_has_nobody_to_hand_over_to():
    consensus = Consensus([1])
    _, seconds = leave(consensus)
    assert consensus.asked == []
    assert seconds == DRAIN_S


def test_a_pool_that_was_left_before_is_not_waited_for():
    steps, _ = leave(Consensus([1]), pools=lambda steps: (Pool(steps, "lan", alone=True),))
    assert steps == ["begin lan", "left"]
