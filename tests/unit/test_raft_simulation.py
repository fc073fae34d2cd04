"""Many short random runs of the raft core under crashes, partitions and slow disks, judged after every step."""

import pytest

from pyconsul_agent.raft import election, follower, replication
from pyconsul_agent.raft.config import RaftConfig
from pyconsul_agent.raft.state import State
from pyconsul_agent.raft.types import Reply
from pyconsul_agent.sim.raft_harness import Simulation, Weather, run_seed
from pyconsul_agent.sim.raft_judge import InvariantBroken


@pytest.mark.parametrize("block", range(8))
def test_invariants_hold_over_many_seeds(block):
    writes = sum(run_seed(seed).acknowledged_writes for seed in range(block * 25, block * 25 + 25))
    assert writes > 100


def test_same_seed_gives_the_same_run():
    first, second = run_seed(5), run_seed(5)
    assert (first.steps, first.judge.digests) == (second.steps, second.judge.digests)


CUT_AND_SUSPECT = Weather(
    loss=0.0, latency_s=0.002, sync_s=0.001, partitions=3.0, suspicions=20.0, writes=100.0, crashes=0.0, changes=0.0
)


def broken_within(seeds, **options):
    try:
        for seed in range(seeds):
            run_seed(seed, **options)
    except InvariantBroken:
        return True
    except AssertionError:
        return True  # the core's own invariant was faster
    return False


def test_judge_sees_an_acknowledgement_before_the_disk(monkeypatch):
    def hasty(self, token, message, error="", *, wait=False):
        self._emit(Reply(token, message, error), False)

    monkeypatch.setattr(State, "reply", hasty)
    assert broken_within(5)


def test_judge_sees_commitment_of_an_older_term(monkeypatch):
    original = replication.start

    def careless(s, now):
        original(s, now)
        s.term_start = 0

    monkeypatch.setattr(replication, "start", careless)
    assert broken_within(40)


def test_judge_sees_a_log_check_left_out(monkeypatch):
    monkeypatch.setattr(follower, "_has", lambda s, index, term: index <= s.log.last)
    assert broken_within(40)


def test_judge_sees_a_follower_that_breaks_its_lease_promise(monkeypatch):
    monkeypatch.setattr(election, "protected", lambda s, candidate, now: False)
    monkeypatch.setattr(election, "bound", lambda s, candidate, now: False)
    original = election.refused

    def credulous(s, server_id, now):
        s.bound_until = float("-inf")
        original(s, server_id, now)

    monkeypatch.setattr(election, "refused", credulous)
    assert broken_within(40, weather=CUT_AND_SUSPECT)


def test_lease_holds_against_wrong_evidence_in_a_partition():
    assert not broken_within(10, weather=CUT_AND_SUSPECT)


@pytest.mark.parametrize("seed", range(5))
def test_crashed_leader_is_replaced_within_a_second_at_default_timing(seed):
    calm = Weather(loss=0.0, latency_s=0.002, sync_s=0.004, crashes=0.0)
    simulation = Simulation(seed, size=3, weather=calm, config=RaftConfig.scaled(5))
    simulation.run(1.0)  # P17: the first leader within 1.5 s
    leader = simulation.leader()
    assert leader is not None
    simulation.crash(leader)
    simulation.run(1.0)  # P5
    successor = simulation.leader()
    assert successor is not None and successor is not leader
    simulation.write(successor)
    simulation.pump(successor)
    simulation.run(0.1)
    assert simulation.acknowledged_writes == 1
