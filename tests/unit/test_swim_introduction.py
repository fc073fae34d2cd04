"""A new incarnation is told to the members in turn: to whom, how often, how fast, and when it ends."""

from collections import Counter
from dataclasses import replace

from pyconsul_agent.sim.pool import PoolWorld, lan_without_compression
from pyconsul_agent.structs.member import MemberStatus
from pyconsul_agent.swim.config import LAN, LOCAL, WAN
from pyconsul_agent.swim.effects import SendPacket
from pyconsul_agent.wire.gossip import Alive, Dead, Suspect, decode_message, encode_message
from pyconsul_agent.wire.gossip_packet import open_packet_body
from tests.unit.test_swim_core import PLAIN, Rig


def introducing(others):
    """A member that has long been silent, probes nobody, and drops what it is to gossip."""
    rig = Rig(others=others, config=replace(PLAIN, introduction_steps=LAN.introduction_steps, probe_interval_s=1e6))
    told_in(rig, 30.0)
    return rig


def told_in(rig, seconds):
    """Who got our record in the time that passes, as [(when, to, incarnation)]; nothing is gossiped."""
    end, found = rig.now + seconds, []
    while (due := rig.swim.next_deadline()) <= end:
        rig.swim._queue.prune(0)
        rig.now = due
        rig.swim.tick(due)
        for effect in rig.swim.take():
            if isinstance(effect, SendPacket):
                for body in open_packet_body(effect.data).messages:
                    message = decode_message(body)
                    if isinstance(message, Alive) and message.node == "me":
                        found.append((due, effect.to, message.incarnation))
    rig.now = end
    return found


def accuse(rig, incarnation):
    rig.tell(Suspect(incarnation, "me", "n0"))


def test_who_refutes_tells_every_member_of_a_pool_of_thirty_twice_and_is_silent_after_six_seconds():
    rig = introducing(29)
    began = rig.now
    accuse(rig, 1)
    told = told_in(rig, 30.0)
    assert {incarnation for _, _, incarnation in told} == {2}
    assert sorted(Counter(to for _, to, _ in told).values()) == [2] * 29
    assert told[-1][0] - began <= 6.2
    assert told_in(rig, 300.0) == []


def test_a_member_that_starts_waits_for_somebody_to_tell():
    rig = Rig(config=replace(PLAIN, introduction_steps=LAN.introduction_steps))
    assert told_in(rig, 60.0) == []
    rig.tell(Alive(1, "n0", bytes((10, 0, 1, 0)), 8301, None, LAN.versions))
    assert [to for _, to, _ in told_in(rig, 30.0)] == [("10.0.1.0", 8301)] * 2


def test_a_simulated_pool_at_rest_has_nobody_to_introduce():
    world = PoolWorld(1, swim=replace(lan_without_compression(), extra_pings_max=0))
    world.form([f"n{number}" for number in range(40)])
    world.run(10.0)
    assert world.packets <= 40 * 2 * 11  # a ping and an ack per second and member


def test_each_refutation_begins_anew_but_no_faster_than_gossip():
    rig = introducing(200)
    per_step = Counter()
    for accused in range(1, 200):
        accuse(rig, accused)
        for when, _, incarnation in told_in(rig, 0.1):
            assert incarnation == accused + 1
            per_step[when] += 1
    assert 95 <= len(per_step) <= 105
    assert max(per_step.values()) == LAN.gossip_nodes
    last = told_in(rig, 300.0)
    assert len(last) <= LAN.introduction_steps * LAN.gossip_nodes


def test_in_a_large_pool_no_more_are_told_than_in_a_small_one():
    rig = introducing(255)
    accuse(rig, 1)
    assert len(told_in(rig, 300.0)) == LAN.introduction_steps * LAN.gossip_nodes


def test_the_dead_are_told_and_those_who_left_are_not():
    rig = introducing(6)
    rig.tell(Dead(1, "n0", "n0"), Dead(1, "n1", "n2"))
    accuse(rig, 1)
    told = Counter(to[0] for _, to, _ in told_in(rig, 30.0))
    assert told == {f"10.0.1.{number}": 2 for number in range(1, 6)}


def test_who_leaves_tells_nobody_any_more_that_it_is_here():
    rig = introducing(6)
    accuse(rig, 1)
    rig.swim.leave(rig.now, 5.0)
    assert told_in(rig, 30.0) == []


def test_every_profile_introduces_and_none_can_be_made_to():
    assert {LAN.introduction_steps, WAN.introduction_steps, LOCAL.introduction_steps} == {30}
    rig = Rig(others=6)
    accuse(rig, 1)
    assert told_in(rig, 30.0) == []


def time_until_one_that_missed_a_refutation_agrees(seed, steps):
    """Chance has left out n0 when the refutation of n1 went round; nobody gossips about it any more."""
    world = PoolWorld(seed, swim=replace(lan_without_compression(), introduction_steps=steps))
    doubter, accused = world.form([f"n{number}" for number in range(30)])[:2]
    world.run(1.0)
    for agent, message in ((doubter, Dead(1, "n1", "n2")), (accused, Suspect(1, "n1", "n2"))):
        agent.swim.receive([(encode_message(message), ("10.9.9.9", 8301))], world.now)
        agent.swim._queue.prune(0)
        world.settle(agent)
    assert doubter.serf.member("n1").status is MemberStatus.FAILED
    return world.run_until(lambda: doubter.serf.member("n1").status is MemberStatus.ALIVE, 60.0)


def test_one_that_missed_a_refutation_hears_it_from_the_accused_and_not_when_chance_will_have_it():
    seeds = range(3)
    told = [time_until_one_that_missed_a_refutation_agrees(seed, LAN.introduction_steps) for seed in seeds]
    by_chance = [time_until_one_that_missed_a_refutation_agrees(seed, 0) for seed in seeds]
    assert max(told) <= 2.3
    assert max(by_chance) > 3.0
