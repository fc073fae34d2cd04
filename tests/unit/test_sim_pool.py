"""Short forms of what `scripts/pool` and `scripts/fuzz` prove at length, and seeds that found faults."""

import pytest

from pyconsul_agent.serf.config import INTENTS_MAX
from pyconsul_agent.sim import pool_measure
from pyconsul_agent.sim.fuzz_gossip import FuzzReport, GossipFuzzer
from pyconsul_agent.sim.pool import PoolWorld, lan_without_compression
from pyconsul_agent.sim.pool_day import PoolDay
from pyconsul_agent.sim.pool_faults import run_faults
from pyconsul_agent.structs.member import MemberStatus


def test_a_join_and_a_death_are_known_by_a_pool_of_a_hundred_in_time():
    seen = pool_measure.convergence(1, 100)
    assert seen.join_rounds <= pool_measure.JOIN_ROUNDS_MAX
    assert seen.failure_least_s <= seen.first_failed_s <= seen.last_failed_s <= seen.failure_bound_s
    assert seen.false_failures == 0


def test_a_member_of_a_large_pool_needs_little_processor_time():
    assert pool_measure.cpu_percent_at_rest(1, 60, 5.0) <= pool_measure.CPU_PERCENT_MAX


def test_a_member_costs_little_memory():
    assert pool_measure.bytes_per_member(200) <= pool_measure.MEMBER_BYTES_MAX


@pytest.mark.parametrize("seed", [1])
def test_with_loss_and_a_sick_member_nobody_healthy_fails_and_the_dead_are_seen(seed):
    day = PoolDay(seed, agents=8)
    report = day.run(0.5)
    assert report.stalls > 25
    assert report.stalled_failed > 0
    assert len(report.detection_s) >= 2
    assert report.heal_s
    assert not report.broken(), report.text()


@pytest.mark.parametrize("seed", range(1, 21))
def test_after_mixed_faults_all_that_live_agree(seed):
    outcome = run_faults(seed)
    assert not outcome.failure, "\n".join(outcome.done)


@pytest.mark.parametrize(
    "seed",
    [
        pytest.param(23, id="23: one missed a refutation and its accusation was ignored as old"),
        pytest.param(8, id="8: restarted after a leave, the only contact died, the snapshot was not looked at again"),
        pytest.param(180, id="180: its leave was repeated by chance to everybody but the one who could deny it"),
        pytest.param(29, id="29: restarted during a cut, knew nobody beyond it any more"),
    ],
)
def test_seeds_that_found_faults(seed):
    outcome = run_faults(seed)
    assert not outcome.failure, "\n".join(outcome.done)
    assert not outcome.is_split


def test_the_same_seed_gives_the_same_run():
    first, second = run_faults(5), run_faults(5)
    assert first.done == second.done
    assert first.calm_s == second.calm_s


def pool(count, seed=1, **options):
    world = PoolWorld(seed, swim=lan_without_compression(), **options)
    return world, world.form([f"n{number}" for number in range(count)])


def status(observer, about):
    member = observer.serf.member(about.name)
    return None if member is None else member.status


def test_a_member_that_stands_still_declares_nobody_dead_when_it_wakes():
    world, agents = pool(8, loss=0.05)
    sick = agents[0]
    failed = []
    world.on_event = lambda observer, event: failed.append(event) if observer is sick else None
    for _ in range(20):
        world.run(10)
        world.stall(sick, 20)
        world.run(20)
    world.run(20)
    assert [event.member.name for event in failed if event.kind.value == "Failed"] == []
    assert not world.disagreements()


def test_a_stalled_member_is_failed_for_the_others_and_alive_again_soon_after():
    world, agents = pool(8)
    world.run(5)
    world.stall(agents[3], 30)
    world.run(29)
    assert status(agents[0], agents[3]) is MemberStatus.FAILED
    world.run(1)
    assert world.run_until(lambda: not world.disagreements(), 5.0) is not None


def test_after_a_cut_of_minutes_all_agree_within_seconds():
    world, agents = pool(10)
    world.island = {agent.name: 1 for agent in agents[:3]}
    world.run(240)
    assert status(agents[0], agents[5]) is status(agents[5], agents[0]) is MemberStatus.FAILED
    world.island = {}
    assert world.run_until(lambda: not world.disagreements(), 10.0) is not None


@pytest.mark.parametrize("seed", range(3))
def test_a_moved_member_is_alive_everywhere_within_three_seconds(seed):
    world, agents = pool(4, seed)
    world.run(5)
    world.kill(agents[2])
    world.restart(agents[2], move=True)
    assert world.run_until(lambda: not world.disagreements(), 3.0) is not None


@pytest.mark.parametrize("seed", range(3))
def test_one_two_and_all_others_that_moved_heal_by_themselves(seed):
    for moved in (1, 2, 3):
        world, agents = pool(4, seed)
        world.run(5)
        for agent in agents[:moved]:
            world.kill(agent)
        world.run(2)
        for agent in agents[:moved]:
            world.restart(agent, move=True)
        assert world.run_until(lambda world=world: not world.disagreements(), 10.0) is not None, moved


@pytest.mark.parametrize("seed", range(5))
def test_a_killed_member_is_failed_for_its_three_peers_within_four_to_eight_seconds(seed):
    world, agents = pool(4, seed)
    world.run(7 + seed / 3)
    world.kill(agents[1])
    others = [agent for agent in agents if agent is not agents[1]]
    took = world.run_until(lambda: all(status(agent, agents[1]) is MemberStatus.FAILED for agent in others), 10.0)
    assert took is not None
    assert 4.0 <= took <= 8.0


def test_odd_bytes_get_nothing_but_decode_errors_out_of_a_member():
    report = FuzzReport()
    GossipFuzzer(7).run(15_000, report)
    assert report.inputs == 15_000
    assert 0 < report.refused < report.inputs
    assert report.escapes == []
    assert report.queued_most <= INTENTS_MAX


def test_the_fuzzer_notices_an_escape():
    fuzzer, report = GossipFuzzer(1), FuzzReport()
    fuzzer.packet = lambda: 1 // 0
    fuzzer.run(50, report)
    assert report.escapes
    assert "ZeroDivisionError" in report.escapes[0]
