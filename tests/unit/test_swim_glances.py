"""Pings beside the probes: how many, to whom, and what silence and answers mean."""

from dataclasses import replace

import pytest

from pyconsul_agent.app.settings import swim
from pyconsul_agent.config.options import GOSSIP_WAN, Gossip
from pyconsul_agent.sim.pool import PoolWorld, lan_without_compression
from pyconsul_agent.sim.pool_day import DETECTION_S_MAX, PoolDay
from pyconsul_agent.structs.member import MemberEventKind
from pyconsul_agent.swim.config import LAN, LOCAL, WAN
from pyconsul_agent.swim.effects import OpenStream, PingComplete
from pyconsul_agent.swim.timing import OVERLOOKED_CHANCE_MAX, extra_pings, overlooked_chance
from pyconsul_agent.wire.gossip import Ack, IndirectPing, NodeState, Ping, Suspect
from tests.unit.test_swim_core import Rig


def rig_after_first_probe(others=8, **changes):
    """A member that has just probed for the first time, and its pings by target: the probe's comes first."""
    rig = Rig(others=others, config=replace(LAN, **changes))
    pings, _ = rig.until(Ping)
    return rig, {ping.node: ping for _, ping in pings}


def test_an_interval_brings_a_probe_and_extra_pings_to_different_members():
    _, pings = rig_after_first_probe()
    assert len(pings) == 1 + LAN.extra_pings_max
    assert all((ping.source_node, ping.source_port) == ("me", 8301) for ping in pings.values())


@pytest.mark.parametrize(("members", "extra"), [(1, 0), (2, 0), (4, 0), (5, 3), (8, 4), (30, 4), (1000, 4), (10**6, 4)])
def test_as_many_as_leave_a_dead_member_overlooked_once_in_a_million_and_no_more(members, extra):
    assert extra_pings(members, 10) == extra
    if members > 2:
        assert overlooked_chance(members, extra) < OVERLOOKED_CHANCE_MAX
        assert extra == 0 or overlooked_chance(members, extra - 1) >= OVERLOOKED_CHANCE_MAX


def test_a_configured_limit_holds_whatever_it_is():
    assert [extra_pings(30, most) for most in (-3, 0, 2, 99)] == [0, 0, 2, 4]


def test_the_wan_has_none_and_the_lan_what_is_configured():
    assert (WAN.extra_pings_max, LOCAL.extra_pings_max) == (0, 0)
    assert swim(WAN, GOSSIP_WAN) == WAN
    assert swim(LAN, Gossip()) == LAN
    assert swim(LAN, Gossip(extra_pings=0)).extra_pings_max == 0
    _, pings = rig_after_first_probe(extra_pings_max=0)
    assert len(pings) == 1


def test_an_answer_measures_nothing_and_makes_nobody_healthier():
    rig, pings = rig_after_first_probe()
    rig.swim.note_lag(0.3, rig.now)  # forgets the pings that wait, and costs a point
    pings = {ping.node: ping for _, ping in rig.until(Ping)[0]}
    score = rig.swim.health_score
    rig.swim.take()
    for ping in list(pings.values())[1:]:
        rig.tell(Ack(ping.sequence_number))
    assert not [effect for effect in rig.swim.take() if isinstance(effect, PingComplete)]
    assert rig.swim.health_score == score


def answer_all_but(rig, pings, silent):
    for ping in pings.values():
        if ping.node != silent:
            rig.tell(Ack(ping.sequence_number))
    rig.swim.take()


def test_silence_makes_a_probe_at_once_and_only_its_failure_a_suspicion():
    rig, pings = rig_after_first_probe()
    silent = list(pings)[1]
    started = rig.now
    answer_all_but(rig, pings, silent)
    [(_, probe)], _ = rig.until(Ping)
    assert (probe.node, rig.now - started) == (silent, pytest.approx(LAN.probe_timeout_s))
    assert rig.swim.node(silent).state == NodeState.ALIVE
    asked, effects = rig.until(IndirectPing)
    assert {request.node for _, request in asked} == {silent}
    assert [effect.node for effect in effects if isinstance(effect, OpenStream)] == [silent]
    assert rig.swim.node(silent).state == NodeState.ALIVE
    rig.until(Suspect)
    assert rig.now - started >= LAN.probe_timeout_s + LAN.probe_interval_s - 1e-9
    assert rig.swim.node(silent).state == NodeState.SUSPECT


def test_one_lost_ping_costs_one_more():
    rig, pings = rig_after_first_probe()
    silent = list(pings)[1]
    answer_all_but(rig, pings, silent)
    [(_, probe)], _ = rig.until(Ping)
    rig.tell(Ack(probe.sequence_number))
    assert not [message for _, message in rig.sent() if isinstance(message, IndirectPing)]
    assert rig.swim.node(silent).state == NodeState.ALIVE


def test_who_was_deaf_makes_nothing_of_silence():
    rig, _ = rig_after_first_probe(probe_interval_s=5.0)
    rig.now += 0.6
    rig.swim.note_lag(0.6, rig.now)
    rig.swim.tick(rig.now)
    assert not [message for _, message in rig.sent() if isinstance(message, Ping)]


def test_a_sick_member_waits_longer_for_answers():
    rig = Rig(others=8, config=replace(LAN, probe_interval_s=5.0))
    rig.swim._awareness.change(3)
    pings = [ping for _, ping in rig.until(Ping)[0]]
    started = rig.now
    rig.tell(Ack(pings[0].sequence_number))  # the probe's; health is 2 from here, the pings were sent before
    again, _ = rig.until(Ping)
    assert {ping.node for _, ping in again} == {ping.node for ping in pings[1:]}
    assert rig.now - started == pytest.approx(4 * LAN.probe_timeout_s)


def test_a_suspect_hears_of_it_with_an_extra_ping():
    rig = Rig(others=4, config=LAN)
    rig.tell(*(Suspect(1, f"n{number}", "x") for number in range(4)))
    rig.sent()
    rig.now = rig.swim._prober.next_deadline()
    rig.swim.tick(rig.now)
    sent = rig.sent()
    for pinged in [message.node for _, message in sent if isinstance(message, Ping)]:
        assert Suspect(1, pinged, "me") in [message for _, message in sent]


def test_a_refused_suspicion_counts_from_the_extra_ping():
    rig, pings = rig_after_first_probe(others=12)
    silent = list(pings)[1]
    started = rig.now
    answer_all_but(rig, pings, silent)
    _, effects = rig.until(IndirectPing)
    (dial,) = [effect for effect in effects if isinstance(effect, OpenStream)]
    rig.swim.stream_failed(dial.id, "connection refused", rig.now, refused=True)
    rig.until(Suspect)
    assert rig.swim.suspicion_ends_at(silent) == pytest.approx(started + 4.0)


def test_a_refused_suspicion_leaves_time_to_be_refuted_however_long_the_silence():
    rig = Rig(others=12, config=LAN)
    rig.swim.note_refused(rig.swim.node("n3").endpoint, rig.now)
    rig.tell(Suspect(1, "n3", "x"))
    rig.swim._members.note_silence("n3", rig.now - 60.0, rig.now)
    assert rig.swim.suspicion_ends_at("n3") == pytest.approx(rig.now + 2.0)


@pytest.mark.parametrize("seed", range(2))
def test_in_a_pool_of_thirty_with_lost_packets_every_death_is_seen_within_eight_seconds(seed):
    world = PoolWorld(seed, swim=lan_without_compression(), loss=0.05, snapshots=False)
    agents = world.form([f"n{number}" for number in range(30)])
    seen = []
    world.on_event = lambda _, event: seen.append(event) if event.kind is MemberEventKind.FAILED else None
    world.run(3.0 + seed / 4)
    world.stall(agents[0], 20.0)
    world.kill(agents[7])
    took = world.run_until(lambda: any(event.member.name == "n7" for event in seen), DETECTION_S_MAX)
    assert took is not None
    assert {event.member.name for event in seen} <= {"n0", "n7"}


def test_the_judge_of_a_day_asks_it_of_every_death():
    run = PoolDay(1, agents=3)
    run.report.detection_s = [4.0] * 99 + [8.01]
    assert run.report.broken() == ["a death seen after 8.01 s"]
