"""A user's restore while everything goes wrong: the old state or the new one, on all servers, whenever who crashes."""

from dataclasses import replace

import pytest

from pyconsul_agent.raft import messages, snapshotting
from pyconsul_agent.sim.raft_harness import Simulation, Weather
from pyconsul_agent.sim.raft_judge import InvariantBroken

ROUGH = Weather(latency_s=0.02, crashes=1.5, partitions=1.0, changes=0.2, snapshots=1.0, suspicions=1.0, restores=3.0)


def run(seed, *, voters=5):
    simulation = Simulation(seed, size=5, voters=voters, weather=ROUGH)
    simulation.chaos(3.0)
    simulation.settle(2.5)
    return simulation


def broken_within(seeds):
    for seed in range(seeds):
        try:
            run(seed, voters=3 + 2 * (seed % 2))
        except (InvariantBroken, AssertionError):
            return True
    return False


@pytest.mark.parametrize("voters", [3, 5])
def test_restores_with_crashes_at_every_step_leave_one_state(voters):
    restores = sum(run(seed, voters=voters).restores for seed in range(12))
    assert restores > 10


def test_judge_sees_a_server_that_forgets_after_a_crash_that_its_restore_was_not_committed(monkeypatch):
    original = snapshotting.load
    monkeypatch.setattr(snapshotting, "load", lambda s, initial: original(s, replace(initial, unproven=False)))
    assert broken_within(60)


def test_judge_sees_followers_that_are_not_told_that_a_restore_may_be_taken_back(monkeypatch):
    original = messages.install_snapshot
    monkeypatch.setattr(messages, "install_snapshot", lambda s, meta: replace(original(s, meta), unproven=False))
    assert broken_within(60)
