"""Several members on a virtual network: what a pool does as a whole, in virtual time."""

from dataclasses import replace

import pytest

from pyconsul_agent.swim.config import LAN, WAN
from pyconsul_agent.swim.effects import (
    BroadcastFinished,
    Deliver,
    JoinFinished,
    MergeRemoteState,
    NotifyConflict,
    NotifyJoin,
    NotifyLeave,
    NotifyUpdate,
    PingComplete,
)
from pyconsul_agent.wire.gossip import NodeState, Suspect, encode_message
from tests.unit.swim_world import World


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("loss", [0.0, 0.15])
def test_all_members_see_each_other_soon_after_they_joined_one(seed, loss):
    world = World(seed, loss=loss)
    hosts = [world.add(f"n{number}") for number in range(8)]
    for host in hosts[1:]:
        world.join(host, hosts[0])
    world.run(2)
    pairs = sum(len(host.states()) for host in hosts)
    assert pairs >= 60  # gossip alone may miss one or two, which the next push/pull brings
    world.run_until(lambda: world.all_see(hosts, NodeState.ALIVE), 75)
    assert [finished.error for finished in hosts[3].of(JoinFinished)] == [None]
    assert {effect.node.name for effect in hosts[7].of(NotifyJoin)} == {host.name for host in hosts}
    assert all(host.swim.alive_count() == 8 for host in hosts)


@pytest.mark.parametrize("seed", range(5))
def test_three_members_declare_a_dead_one_within_ring_probe_and_suspicion(seed):
    world = World(seed)
    hosts = world.cluster(3)
    world.run(5)
    world.stop(hosts[2])
    alive = hosts[:2]
    took = world.run_until(lambda: world.all_see(alive, NodeState.DEAD, ["n2"]), 12)
    # at most twice around a ring of two, one probe, a suspicion of exactly 4 s, one gossip
    assert 4.0 <= took <= 2 * 2 + 1 + 4 + 1
    assert [leave.node.name for leave in hosts[0].of(NotifyLeave)] == ["n2"]
    assert "suspect" in hosts[0].lines() + hosts[1].lines()
    assert "marked_failed" in hosts[0].lines() + hosts[1].lines()


@pytest.mark.parametrize("seed", range(3))
def test_confirmations_make_detection_in_a_larger_pool_fast(seed):
    world = World(seed)
    hosts = world.cluster(8)
    world.run(5)
    world.stop(hosts[7])
    took = world.run_until(lambda: world.all_see(hosts[:7], NodeState.DEAD, ["n7"]), 40)
    assert 4.0 <= took < 20.0


@pytest.mark.parametrize("seed", range(3))
def test_nobody_is_declared_dead_while_a_fifth_of_all_packets_is_lost(seed):
    world = World(seed)
    hosts = world.cluster(6)
    world.loss = 0.2
    world.run(120)
    assert all(not host.of(NotifyLeave) for host in hosts)


def test_a_false_suspicion_is_refuted_everywhere():
    world = World()
    hosts = world.cluster(4)
    before = hosts[3].swim.local.incarnation
    hosts[0].swim.receive([(encode_message(Suspect(before, "n3", "liar")), ("10.9.9.9", 1))], world.now)
    world.settle(hosts[0])
    assert hosts[0].states()["n3"] == NodeState.SUSPECT
    world.run_until(lambda: hosts[3].swim.local.incarnation > before, 3)
    world.run_until(lambda: world.all_see(hosts, NodeState.ALIVE), 3)
    world.run(30)
    assert not any(host.of(NotifyLeave) for host in hosts)


@pytest.mark.parametrize("lag_known", [False, True])
def test_a_paused_member_is_suspected_and_refutes_when_it_wakes(lag_known):
    world = World(3)
    hosts = world.cluster(4)
    world.run(3)
    world.pause(hosts[1])
    world.run(4.0)
    assert any(host.states()["n1"] == NodeState.SUSPECT for host in hosts)
    world.resume(hosts[1], lag=4.0 if lag_known else None)
    world.run(20)
    assert world.all_see(hosts, NodeState.ALIVE)
    assert not any(host.of(NotifyLeave) for host in hosts)
    assert hosts[1].swim.local.incarnation > 1


def test_running_late_counts_against_our_own_health_and_forgives_those_we_probe():
    world = World()
    (host, other) = world.cluster(2)
    world.stop(other)
    world.run_until(lambda: host.states()["n1"] == NodeState.SUSPECT, 5)
    health = host.swim.health_score
    host.swim.note_lag(0.1, world.now)
    assert host.swim.health_score == health
    host.swim.note_lag(6.0, world.now)
    host.swim.note_lag(6.0, world.now)
    assert host.swim.health_score == health + 1
    world.settle(host)
    world.run(10)
    assert host.states()["n1"] == NodeState.SUSPECT
    world.run(8)
    assert host.states()["n1"] == NodeState.DEAD


@pytest.mark.parametrize("seed", range(3))
def test_a_member_that_leaves_is_left_everywhere_and_never_failed(seed):
    world = World(seed)
    hosts = world.cluster(5)
    ticket = hosts[4].swim.leave(world.now, 5.0)
    world.settle(hosts[4])
    world.run_until(lambda: hosts[4].of(BroadcastFinished), 5)
    assert hosts[4].of(BroadcastFinished) == [BroadcastFinished(ticket, timed_out=False)]
    world.run(1)
    world.stop(hosts[4])
    world.run(25)
    assert world.all_see(hosts[:4], NodeState.LEFT, ["n4"])
    assert all([effect.node.state for effect in host.of(NotifyLeave)] == [NodeState.LEFT] for host in hosts[:4])
    world.run(60)
    assert all("n4" not in host.states() for host in hosts[:4])  # forgotten


def test_leaving_alone_ends_at_once_and_waiting_for_the_deaf_ends_in_time():
    world = World()
    alone = world.add("alone")
    alone.swim.leave(world.now, 5.0)
    world.settle(alone)
    assert alone.of(BroadcastFinished) == [BroadcastFinished(1, timed_out=False)]

    slow = replace(LAN, gossip_interval_s=60.0, probe_interval_s=60.0)
    world = World(config=slow)
    first, second = world.add("a"), world.add("b")
    world.join(first, second)
    world.run(0.5)
    first.swim.leave(world.now, 2.0)
    world.settle(first)
    world.run(1.9)
    assert not first.of(BroadcastFinished)
    world.run(0.2)
    assert first.of(BroadcastFinished) == [BroadcastFinished(1, timed_out=True)]


@pytest.mark.parametrize("seed", range(3))
def test_two_halves_declare_each_other_dead_and_one_contact_heals_the_pool(seed):
    world = World(seed)
    hosts = world.cluster(6)
    left = {"n0", "n1", "n2"}
    world.cut = lambda a, b, tcp: (a in left) != (b in left)
    world.run_until(lambda: world.all_see(hosts[:3], NodeState.DEAD, ["n3", "n4", "n5"]), 60)
    world.run_until(lambda: world.all_see(hosts[3:], NodeState.DEAD, ["n0", "n1", "n2"]), 60)
    world.cut = lambda a, b, tcp: False
    world.join(hosts[0], hosts[5])
    took = world.run_until(lambda: world.all_see(hosts, NodeState.ALIVE), 40)
    assert took < 40
    world.run(60)
    assert world.all_see(hosts, NodeState.ALIVE)


def test_a_broken_path_between_two_is_bridged_by_the_others():
    world = World(2)
    hosts = world.cluster(4)
    pair = {"n0", "n1"}
    world.cut = lambda a, b, tcp: {a, b} == pair
    world.run(60)
    assert not any(host.of(NotifyLeave) for host in hosts)
    assert hosts[0].states()["n1"] == NodeState.ALIVE
    assert "suspect" not in hosts[0].lines()


def test_a_member_reachable_by_tcp_only_stays_alive_and_is_complained_about():
    world = World(2)
    hosts = world.cluster(2)
    world.cut = lambda a, b, tcp: not tcp
    world.run(30)
    assert not hosts[0].of(NotifyLeave)
    assert any("other probes failed" in line for line in hosts[0].lines())


def test_new_meta_reaches_everybody():
    world = World()
    hosts = world.cluster(5)
    hosts[2].upper.meta = b"id2:new"
    ticket = hosts[2].swim.update_meta(world.now, 5.0)
    world.settle(hosts[2])
    world.run(4)
    assert hosts[2].of(BroadcastFinished) == [BroadcastFinished(ticket, timed_out=False)]
    for host in hosts:
        assert host.swim.node("n2").meta == b"id2:new"
        assert [effect.node.name for effect in host.of(NotifyUpdate)] == ["n2"]
    hosts[2].upper.meta = bytes(513)
    with pytest.raises(ValueError, match="longer than the limit of 512"):
        hosts[2].swim.update_meta(world.now, 5.0)


def test_messages_and_states_of_the_layer_above_are_carried():
    world = World()
    hosts = world.cluster(3)
    hosts[0].upper.messages = [b"\x03hello"]
    world.run(1)
    assert sum(len(host.of(Deliver)) for host in hosts) == 1
    hosts[1].swim.send_user(hosts[2].address, b"\x05answer")
    world.settle(hosts[1])
    world.run(0.1)
    assert hosts[2].of(Deliver)[-1] == Deliver(b"\x05answer", hosts[1].address)
    hosts[0].upper.state = b"\x02state"
    late = world.add("late")
    world.join(late, hosts[0])
    world.run(1)
    assert late.of(MergeRemoteState) == [MergeRemoteState(b"\x02state", join=True)]
    world.run(100)
    assert MergeRemoteState(b"\x02state", join=False) in hosts[2].of(MergeRemoteState)


def test_probes_measure_the_round_trip():
    world = World()
    hosts = world.cluster(2)
    world.run(5)
    times = [effect.rtt_s for effect in hosts[0].of(PingComplete)]
    assert len(times) >= 3
    assert all(0.004 <= rtt <= 0.009 for rtt in times)


@pytest.mark.parametrize("seed", range(3))
def test_a_member_restarted_elsewhere_with_its_id_is_known_again_in_seconds(seed):
    world = World(seed)
    hosts = world.cluster(4)
    world.run(5)
    world.stop(hosts[3])
    moved = world.add("n3", address="10.0.1.1", meta=b"id3:")
    for host in hosts[:3]:
        world.join(moved, host)
    world.run_until(lambda: all(host.swim.node("n3").endpoint == moved.address for host in hosts[:3]), 10)
    world.run(30)
    everybody = [*hosts[:3], moved]
    assert world.all_see(everybody, NodeState.ALIVE)
    assert all(host.swim.node("n3").endpoint == moved.address for host in everybody)


@pytest.mark.parametrize("meta", [b"other:", b""])
def test_a_stranger_takes_a_name_only_when_the_old_one_is_dead_for_the_reclaim_time(meta):
    world = World(4)
    hosts = world.cluster(3)
    world.run(5)
    world.stop(hosts[2])
    world.run_until(lambda: world.all_see(hosts[:2], NodeState.DEAD, ["n2"]), 15)
    stranger = world.add("n2", address="10.0.1.1", meta=meta)
    world.join(stranger, hosts[0])
    world.run(20)
    assert hosts[0].swim.node("n2").endpoint != stranger.address
    assert hosts[0].of(NotifyConflict)
    world.run(12)
    world.join(stranger, hosts[0])
    world.run(5)
    assert hosts[0].swim.node("n2").endpoint == stranger.address


@pytest.mark.parametrize("meta", [b"id2:", b"other:"])
def test_the_name_of_a_living_member_is_never_taken_over(meta):
    world = World(5)
    hosts = world.cluster(3)
    world.run(5)
    twin = world.add("n2", address="10.0.1.1", meta=meta)
    world.join(twin, hosts[0])
    for _ in range(300):
        world.run(0.1)
        assert all(host.swim.node("n2").endpoint == hosts[2].address for host in hosts)
    assert not any(host.of(NotifyLeave) for host in hosts)


def test_the_same_seed_gives_the_same_run():
    def run(seed):
        world = World(seed, loss=0.1)
        hosts = world.cluster(5)
        world.stop(hosts[4])
        world.run(40)
        return [(host.name, host.seen) for host in hosts], world.sizes

    assert run(7) == run(7)
    assert run(7) != run(8)


@pytest.mark.parametrize("overhead", [0, 29])
def test_packets_stay_within_their_budget(overhead):
    world = World(config=replace(LAN, compression=False, packet_overhead=overhead))
    hosts = world.cluster(12)
    for host in hosts:
        host.upper.messages = [bytes(171)] * 70
    world.run(5)
    crc = 5  # memberlist does not count it either
    assert 1000 < max(world.sizes) <= LAN.packet_bytes_max - overhead + crc
    assert max(len(host.of(Deliver)) for host in hosts)


def test_a_wan_pool_works_with_its_slower_numbers():
    world = World(config=WAN)
    hosts = world.cluster(3)
    world.stop(hosts[0])
    took = world.run_until(lambda: world.all_see(hosts[1:], NodeState.DEAD, ["n0"]), 80)
    assert took > 30.0
