"""Joining at start, in virtual time."""

import asyncio

import pytest

from pyconsul_agent.agent.joining import (
    NAME_ATTEMPTS,
    JoinFailed,
    RetryRules,
    join_once,
    join_until_done,
    join_with_own_name,
)
from pyconsul_agent.errors import NetError
from tests.builders import run_sim
from tests.raft_cluster import Recorder


class Pool:
    """Somebody answers from the `answers_from`-th join on; the name is taken by another until the `free_from`-th."""

    def __init__(self, *, answers_from=1, free_from=1):
        self.answers_from, self.free_from = answers_from, free_from
        self.times = []

    async def join(self, addresses):
        self.times.append(asyncio.get_running_loop().time())
        if len(self.times) < self.answers_from:
            raise NetError("nobody there")
        return len(addresses)

    def taken_by(self):
        return None if len(self.times) >= self.free_from else "10.0.0.9:8301"

    @property
    def pauses(self):
        return [round(b - a, 3) for a, b in zip(self.times, self.times[1:], strict=False)]


def scene(work):
    return run_sim(1, lambda world: work())


def test_a_join_tells_how_many_answered_and_why_none_did():
    async def work():
        assert await join_once(Pool().join, ["a", "b"], Recorder(), pool="lan") == 2
        with pytest.raises(JoinFailed, match="nobody there"):
            await join_once(Pool(answers_from=2).join, ["a"], Recorder(), pool="lan")

    scene(work)


def test_a_join_is_retried_at_its_interval_for_ever_or_so_often():
    async def work():
        patient = Pool(answers_from=6)
        await join_until_done(patient.join, ["a"], RetryRules(5.0), Recorder(), pool="lan")
        assert patient.pauses == [5.0] * 5
        limited = Pool(answers_from=6)
        with pytest.raises(JoinFailed, match="agent: max join LAN retry exhausted, exiting"):
            await join_until_done(limited.join, ["a"], RetryRules(5.0, 3), Recorder(), pool="lan")
        assert limited.pauses == [5.0] * 3

    scene(work)


def test_a_node_id_that_another_living_node_has_ends_the_joining_at_the_third_refusal():
    async def work():
        times = []

        async def join(addresses):
            times.append(asyncio.get_running_loop().time())
            raise NetError("Member 'a' has conflicting node ID 'i' with this agent's ID")

        with pytest.raises(JoinFailed, match="a copy of another's"):
            await join_until_done(join, ["a"], RetryRules(5.0), Recorder(), pool="lan")
        assert len(times) == 3

    scene(work)


def test_a_name_that_stays_taken_ends_the_start():
    async def work():
        pool = Pool(free_from=100)
        with pytest.raises(JoinFailed, match=r"Node name 'n1' is taken by another node at 10\.0\.0\.9:8301"):
            await join_with_own_name(pool.join, ["a"], pool.taken_by, Recorder(), name="n1")
        assert len(pool.times) == 1 + NAME_ATTEMPTS

    scene(work)


def test_a_name_that_becomes_free_does_not():
    async def work():
        pool = Pool(free_from=4)
        await join_with_own_name(pool.join, ["a"], pool.taken_by, Recorder(), name="n1")
        assert len(pool.times) == 4

    scene(work)
