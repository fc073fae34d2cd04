"""RaftNodes over the simulated network and disk: the driver keeps the core's promises to the outside."""

import asyncio
import contextlib

import pytest

from pyconsul_agent.env.base import open_stream
from pyconsul_agent.errors import ConsulError, DecodeError, LeadershipLost, NotLeader, RaftError, RPCError
from pyconsul_agent.runtime.raft_apply import Applier
from pyconsul_agent.runtime.raft_recovery import recover
from pyconsul_agent.sim.process import ProcessKilled
from pyconsul_agent.sim.raft_storage import SimRaftStorage
from pyconsul_agent.structs.raft import InstallSnapshotRequest, SnapshotMeta, Suffrage, TimeoutNowRequest
from pyconsul_agent.wire.raft import ReplyDecoder, encode_configuration, encode_request
from tests.builders import run_async, run_sim
from tests.raft_cluster import ListMachine, Member, Recorder, configuration, simulate, small, until


def test_three_servers_elect_one_and_replicate():
    async def scenario(cluster):
        leader = await cluster.boot()
        results = [await leader.do(lambda node, n=n: node.apply(7, b"%d" % n)) for n in range(5)]
        assert results == [1, 2, 3, 4, 5]
        await cluster.level()
        assert leader.machine.items == [b"\x07%d" % n for n in range(5)]
        for member in cluster.alive():
            assert member.node.leader_address == f"10.0.0.{leader.number}:8300"
            assert member.node.leader_id == leader.id
        assert leader.events == [(True, leader.node.term)]

    simulate(scenario, count=3)


def test_proposals_of_one_turn_share_transactions():
    async def scenario(cluster):
        leader = await cluster.boot()
        await cluster.level()
        before = leader.disk.commits

        async def many(node):
            return await asyncio.gather(*(node.apply(7, b"%d" % n) for n in range(100)))

        assert await leader.do(many) == list(range(1, 101))
        assert leader.disk.commits - before <= 3

    simulate(scenario, count=1)


def test_leader_killed_is_replaced_and_comes_back_with_everything():
    async def scenario(cluster):
        old = await cluster.boot()
        for n in range(20):
            await cluster.write(b"%d" % n)
        old.kill()
        began = asyncio.get_running_loop().time()
        new = await cluster.leader(without=[old])
        await cluster.write(b"after")
        took = asyncio.get_running_loop().time() - began
        assert took < 2.0, took
        old.process.start()
        await cluster.level()
        assert new.machine.items[-1] == b"\x07after"
        assert len(new.machine.items) == 21

    for seed in range(3):
        simulate(scenario, seed=seed, count=3)


def test_all_servers_lose_power_and_no_acknowledged_write_is_lost():
    async def scenario(cluster):
        await cluster.boot()
        for n in range(10):
            await cluster.write(b"%d" % n)
        for member in cluster.members.values():
            member.power_off(cluster.world)
        for member in cluster.members.values():
            member.power_on(cluster.world)
        await cluster.write(b"after")
        await cluster.level()
        assert cluster[1].machine.items == [b"\x07%d" % n for n in range(10)] + [b"\x07after"]

    simulate(scenario, count=3, clean=False)


def test_far_behind_server_gets_a_snapshot():
    async def scenario(cluster):
        leader = await cluster.boot()
        late = next(m for m in cluster.alive() if m is not leader)
        late.kill()
        for n in range(60):
            await cluster.write(b"%d" % n)
        leader = await cluster.leader()
        meta = await leader.do(lambda node: node.take_snapshot())
        assert meta.size > 0
        await until(lambda: min(leader.disk.log, default=10**6) > 20)
        for n in range(5):
            await cluster.write(b"more%d" % n)
        late.process.start()
        await until(lambda: late.node is not None and late.machine.restores > 0)
        await cluster.level()
        assert len(late.machine.items) == 65
        late.kill()
        late.process.start()
        await cluster.write(b"last")
        await cluster.level()
        assert len(late.machine.items) == 66

    simulate(scenario, count=3, config=small(trailing_logs=5))


def test_server_is_added_promoted_demoted_and_removed():
    async def scenario(cluster):
        leader = await cluster.boot()
        await cluster.write(b"a")
        await leader.do(lambda node: node.add_nonvoter("id-4", "10.0.0.4:8300"))
        await cluster.level()
        assert cluster[4].node.configuration()[0].servers[-1].suffrage == Suffrage.NONVOTER
        await leader.do(lambda node: node.add_voter("id-4", "10.0.0.4:8300"))
        await leader.do(lambda node: node.demote_voter("id-4"))
        await leader.do(lambda node: node.remove_server("id-4"))
        assert [s.id for s in leader.node.configuration()[0].servers] == ["id-1", "id-2", "id-3"]
        await asyncio.sleep(5)
        assert leader.node.is_leader

    simulate(scenario, count=4, voters=3)


def test_leadership_is_transferred():
    async def scenario(cluster):
        old = await cluster.boot()
        await cluster.write(b"a")
        await old.do(lambda node: node.transfer_leadership())
        await until(lambda: any(m.node.is_leader for m in cluster.alive() if m is not old))
        assert old.events[-1][0] is False
        await cluster.write(b"b")
        await cluster.level()

    simulate(scenario, count=3)


def test_verify_and_barrier_pass_on_the_leader_and_fail_elsewhere():
    async def scenario(cluster):
        leader = await cluster.boot()
        await leader.do(lambda node: node.apply(7, b"x"))
        await leader.do(lambda node: node.barrier())
        await leader.do(lambda node: node.verify())
        assert leader.node.applied_index == leader.node.last_index
        other = next(m for m in cluster.alive() if m is not leader)
        for call in (lambda node: node.barrier(), lambda node: node.verify(), lambda node: node.apply(7, b"x")):
            with pytest.raises((NotLeader, RaftError)):
                await other.do(call)

    simulate(scenario, count=3)


def test_read_that_waits_for_the_state_machine_ends_when_raft_stops():
    async def main():
        applier = Applier(ListMachine(), Slept(None, 0), lambda: None)
        waiting = asyncio.ensure_future(applier.reached(5))
        await asyncio.sleep(0)
        applier.fail(RaftError("stopped"))
        with pytest.raises(RaftError):
            await asyncio.wait_for(waiting, 1)

    run_async(main())


class Slept:
    """A clock of a machine that was suspended: only the time since the boot knows of it."""

    def __init__(self, clock, seconds):
        self._clock = clock
        self._seconds = seconds
        self.monotonic = clock and clock.monotonic

    def boottime(self):
        return self._clock.boottime() + self._seconds


def test_t_stale_leader_suspend():
    """A leader that wakes from suspension, in which only the boot time goes on, has no lease before a new round."""

    async def scenario(cluster):
        leader = await cluster.boot()
        await leader.do(lambda node: node.apply(7, b"x"))
        await until(lambda: leader.node.lease_valid)
        leader.node._clock = Slept(leader.node._clock, 0.2)
        assert not leader.node.lease_valid
        await until(lambda: leader.node.is_leader and leader.node.lease_valid)

    simulate(scenario, count=3)


def test_leader_without_quorum_acknowledges_nothing():
    async def scenario(cluster):
        leader = await cluster.boot()
        cluster.world.network.partition(
            [[f"10.0.0.{leader.number}"], [f"10.0.0.{m.number}" for m in cluster.alive() if m is not leader]]
        )
        with pytest.raises(LeadershipLost):
            await leader.do(lambda node: node.apply(7, b"lost"))
        assert not leader.node.is_leader
        cluster.world.network.heal()
        await cluster.write(b"after")
        await cluster.level()

    simulate(scenario, count=3)


def test_long_kvs_command_travels_in_pieces_of_one_operation():
    async def scenario(cluster):
        leader = await cluster.boot()
        await leader.do(lambda node: node.apply(2, b"v" * (512 * 1024)))
        await leader.do(lambda node: node.apply(2, b"v" * (512 * 1024 - 1)))
        await cluster.level()
        first, second, whole = leader.machine.items
        assert isinstance(whole, bytes)
        assert first[0] == b"\x02" + b"v" * 7
        assert second[0] == b"v"

    simulate(scenario, count=3)


def test_failed_disk_is_fatal_and_nothing_is_acknowledged():
    async def scenario(cluster):
        leader = await cluster.boot()
        leader.disk.fail_in = 0
        with pytest.raises((RaftError, RPCError)):
            await leader.do(lambda node: node.apply(7, b"x"))
        assert len(leader.fatal) == 1
        with pytest.raises(RaftError, match="already shutdown"):
            await leader.do(lambda node: node.apply(7, b"y"))
        leader.disk.repair()
        leader.log.lines.clear()

    simulate(scenario, count=1)


def test_follower_whose_disk_fails_acknowledges_nothing():
    async def scenario(cluster):
        leader = await cluster.boot()
        await cluster.write(b"before")
        (follower,) = (member for member in cluster.alive() if member is not leader)
        await asyncio.sleep(0.1)  # nothing is being stored any more
        follower.disk.fail_in = 0
        with pytest.raises((RaftError, RPCError)):
            await leader.do(lambda node: node.apply(7, b"x"))
        assert len(follower.fatal) == 1
        follower.disk.repair()
        follower.log.lines.clear()

    simulate(scenario, count=2)


def test_user_restore_replaces_the_state_on_all_servers():
    async def scenario(cluster):
        leader = await cluster.boot()
        for n in range(5):
            await cluster.write(b"%d" % n)
        source = await leader.do(lambda node: node.open_snapshot())
        saved, state = source.meta, b"".join(source.chunks())
        for n in range(5):
            await cluster.write(b"more%d" % n)
        saved = SnapshotMeta(index=500, term=saved.term, size=saved.size)
        await leader.do(lambda node: node.restore([state[:7], state[7:]], saved))
        assert leader.node.last_index >= 501
        assert len(leader.machine.items) == 5
        await cluster.write(b"after")
        await cluster.level()
        for member in cluster.alive():
            assert member.machine.items == [b"\x07%d" % n for n in range(5)] + [b"\x07after"]
        leader.kill()
        leader.process.start()
        await cluster.write(b"again")
        await cluster.level()

    simulate(scenario, count=3)


OLD = [b"\x07a%d" % n for n in range(6)]
NEW = OLD[:3]


async def about_to_restore(cluster):
    """(leader, what `restore` is called with): six writes, of which the saved state has three."""
    leader = await cluster.boot()
    for n in range(6):
        if n == 3:
            source = await leader.do(lambda node: node.open_snapshot())
        await cluster.write(b"a%d" % n)
    return leader, ([b"".join(source.chunks())], source.meta)


async def one_state(cluster, *, new):
    """All servers have the old state or all the new one, and go on; which it was."""
    await cluster.write(b"after")
    await cluster.level()
    items = cluster.alive()[0].machine.items
    assert items in ([*OLD, b"\x07after"], [*NEW, b"\x07after"]), items
    assert len(cluster.alive()) == 3
    assert not any(member.disk.restored for member in cluster.alive())
    if new is not None:
        assert (items[: len(OLD)] != OLD) is new
    return items


@pytest.mark.parametrize("operation", range(6))
@pytest.mark.parametrize("power", [False, True])
def test_leader_whose_disk_fails_in_a_restore_leaves_the_old_state_or_the_new_one(operation, power):
    async def scenario(cluster):
        leader, saved = await about_to_restore(cluster)
        leader.disk.fail_in = operation
        with contextlib.suppress(ConsulError, TimeoutError):
            async with asyncio.timeout(3):
                await leader.do(lambda node: node.restore(*saved))
        leader.power_off(cluster.world) if power else leader.kill()
        leader.disk.repair()
        await asyncio.sleep(0.5)
        leader.power_on(cluster.world) if power else leader.process.start()
        await until(lambda: leader.node is not None)
        leader.fatal.clear()
        leader.log.lines.clear()
        await one_state(cluster, new=None)

    simulate(scenario, count=3, clean=False)


@pytest.mark.parametrize("delay_ms", [0, 1, 2, 3, 5, 8, 13, 21, 34])
def test_leader_killed_in_a_restore_comes_back_to_what_the_others_have(delay_ms):
    async def scenario(cluster):
        leader, saved = await about_to_restore(cluster)
        restoring = asyncio.ensure_future(leader.do(lambda node: node.restore(*saved)))
        await asyncio.sleep(delay_ms / 1000)
        acknowledged = restoring.done()
        leader.kill()
        await asyncio.gather(restoring, return_exceptions=True)
        await cluster.leader(without=(leader,))
        leader.process.start()
        await until(lambda: leader.node is not None)
        await one_state(cluster, new=True if acknowledged else None)

    simulate(scenario, count=3, clean=False)


def test_restore_that_only_the_leader_has_is_undone_when_others_go_on():
    async def scenario(cluster):
        leader, saved = await about_to_restore(cluster)
        others = [member for member in cluster.alive() if member is not leader]
        for member in others:
            member.kill()
        restoring = asyncio.ensure_future(leader.do(lambda node: node.restore(*saved)))
        await until(lambda: leader.disk.restored is not None and leader.machine.items == NEW)
        assert not leader.node.settled
        assert not leader.node.lease_valid
        leader.kill()
        await asyncio.gather(restoring, return_exceptions=True)
        for member in others:
            member.process.start()
        await cluster.leader()
        leader.process.start()
        await until(lambda: leader.node is not None)
        assert leader.machine.items == NEW
        assert not leader.node.settled
        await one_state(cluster, new=False)
        assert ("event", "raft_restore_undone") in [line[:2] for line in leader.log.lines]

    simulate(scenario, count=3, clean=False)


def test_restore_that_one_follower_got_survives_the_leader():
    async def scenario(cluster):
        leader, saved = await about_to_restore(cluster)
        slow, quick = [member for member in cluster.alive() if member is not leader]
        slow.kill()
        await leader.do(lambda node: node.restore(*saved))
        assert leader.disk.restored is None
        leader.kill()
        slow.process.start()
        await until(lambda: slow.node is not None)
        assert (await cluster.leader()) is quick
        leader.process.start()
        await until(lambda: leader.node is not None)
        await one_state(cluster, new=True)

    simulate(scenario, count=3, clean=False)


def test_bad_user_snapshot_changes_nothing():
    async def scenario(cluster):
        leader = await cluster.boot()
        await cluster.write(b"a")
        with pytest.raises(DecodeError):
            await leader.do(lambda node: node.restore([b"bad"], SnapshotMeta()))
        await cluster.write(b"b")
        await cluster.level()
        assert leader.machine.items == [b"\x07a", b"\x07b"]
        assert not leader.disk.snapshots

    simulate(scenario, count=3)


def test_stats_have_the_keys_of_consul_info():
    async def scenario(cluster):
        leader = await cluster.boot()
        await cluster.level()
        stats = leader.node.stats()
        assert list(stats) == sorted(stats)
        assert len(stats) == 18
        assert stats["state"] == "Leader"
        assert stats["num_peers"] == "2"
        assert stats["last_contact"] == "0"
        assert stats["latest_configuration"].startswith("[{Suffrage:Voter ID:id-1 Address:10.0.0.1:8300} {")
        follower = next(m for m in cluster.alive() if m is not leader)
        assert follower.node.stats()["last_contact"].endswith("ms")

    simulate(scenario, count=3)


def test_garbage_on_a_raft_connection_ends_only_that_connection():
    async def scenario(cluster):
        leader = await cluster.boot()
        other = next(m for m in cluster.alive() if m is not leader)

        async def poke(node):
            reader, writer = await open_stream(other.net, f"10.0.0.{leader.number}", 8300)
            writer.write(b"\x01\x00\x81\xa7Entries\xdd\xff\xff\xff\xff")
            assert await reader.read() == b""
            writer.close()
            await writer.wait_closed()

        await other.do(poke)
        await cluster.write(b"a")
        assert [line[0] for line in leader.log.lines if line[0] != "event"] == ["warn"]

    simulate(scenario, count=3)


def test_single_member_starts_and_stops_without_bootstrap():
    async def scenario(world):
        member = Member(world, 1)
        await until(lambda: member.node is not None)
        await asyncio.sleep(20)
        assert not member.node.is_leader
        member.stopping.set()
        await member.process.wait()

    run_sim(1, scenario)


def test_killed_leader_is_noticed_by_its_refused_dials():
    async def scenario(cluster):
        old = await cluster.boot()
        await cluster.level()
        await asyncio.sleep(1)
        old.kill()
        began = asyncio.get_running_loop().time()
        await cluster.leader(without=[old])
        assert asyncio.get_running_loop().time() - began < 1.5
        old.process.start()
        await cluster.write(b"a")
        await cluster.level()

    slow = small(heartbeat_timeout_s=5.0, election_timeout_s=5.0, leader_lease_timeout_s=2.5)
    simulate(scenario, count=3, config=slow)


async def disturb(cluster, rng, rounds):
    world = cluster.world
    for _ in range(rounds):
        member = cluster[rng.randint(1, 3)]
        kind = rng.choice(["kill", "pause", "cut", "snapshot", "transfer"])
        if kind == "kill":
            member.kill()
            await asyncio.sleep(rng.uniform(0.1, 3))
            member.process.start()
        elif kind == "pause":
            member.process.pause()
            await asyncio.sleep(rng.uniform(0.1, 3))
            member.process.resume()
        elif kind == "cut":
            others = [f"10.0.0.{n}" for n in (1, 2, 3) if n != member.number]
            world.network.partition([[f"10.0.0.{member.number}"], others])
            await asyncio.sleep(rng.uniform(0.1, 3))
            world.network.heal()
        else:
            call = (lambda node: node.take_snapshot()) if kind == "snapshot" else (lambda n: n.transfer_leadership())
            with contextlib.suppress(RaftError, RPCError):
                if member.node is not None:
                    await member.do(call)
        await asyncio.sleep(rng.uniform(0.1, 2))


async def keep_writing(cluster, acknowledged, stop):
    number = 0
    while not stop.is_set():
        number += 1
        data = b"w%d" % number
        for member in cluster.alive():
            if member.node.is_leader and not member.process.paused:
                with contextlib.suppress(RaftError, RPCError, ProcessKilled, TimeoutError):
                    async with asyncio.timeout(2):
                        await member.do(lambda node, data=data: node.apply(7, data))
                        acknowledged.append(b"\x07" + data)
                break
        await asyncio.sleep(0.01)


@pytest.mark.parametrize("seed", range(4))
def test_acknowledged_writes_survive_kills_pauses_and_cuts(seed):
    async def scenario(cluster):
        await cluster.boot()
        acknowledged, stop = [], asyncio.Event()
        writer = asyncio.get_running_loop().create_task(keep_writing(cluster, acknowledged, stop))
        await disturb(cluster, cluster.world.draw("faults"), 12)
        stop.set()
        await writer
        await cluster.write(b"end")
        await cluster.level()
        items = cluster[1].machine.items
        assert len(acknowledged) > 50
        assert [item for item in items if item in set(acknowledged)] == acknowledged
        assert len(set(items)) == len(items)

    simulate(scenario, seed=seed, clean=False, count=3, config=small(trailing_logs=20))


def test_snapshot_that_the_state_machine_refuses_is_answered_with_its_reason():
    async def scenario(cluster):
        leader = await cluster.boot()
        follower = next(m for m in cluster.alive() if m is not leader)
        message = InstallSnapshotRequest(
            protocol_version=3,
            term=leader.node.term,
            leader=f"10.0.0.{leader.number}:8300".encode(),
            last_log_index=1000,
            last_log_term=leader.node.term,
            configuration=encode_configuration(configuration(1, 2, 3)),
            configuration_index=1,
            size=3,
        )

        async def send(node):
            reader, writer = await open_stream(leader.net, f"10.0.0.{follower.number}", 8300)
            writer.write(b"\x01" + encode_request(message) + b"bad" + encode_request(TimeoutNowRequest()))
            decoder, answers = ReplyDecoder(), []
            for request in (InstallSnapshotRequest, TimeoutNowRequest):
                while (answer := decoder.next(request)) is None:
                    decoder.feed(await reader.read(1000))
                answers.append(answer)
            writer.close()
            await writer.wait_closed()
            return answers

        (error, response), (next_error, _) = await leader.do(send)
        assert error.startswith("failed to restore snapshot ")
        assert error.endswith(": bad state")
        assert response.success is False
        assert next_error != ""
        assert not follower.disk.snapshots
        await cluster.write(b"a")
        await cluster.level()
        follower.log.lines.clear()

    simulate(scenario, count=3)


def test_last_survivor_goes_on_after_recovery():
    async def at_once(work):
        return work()

    async def scenario(cluster):
        await cluster.boot()
        for n in range(5):
            await cluster.write(b"%d" % n)
        await cluster.level()
        for member in cluster.members.values():
            member.kill()
        survivor = cluster[1]
        storage = SimRaftStorage(survivor.disk, blocking=at_once)
        await recover(storage, ListMachine(), configuration(1), blocking=at_once, log=Recorder())
        survivor.process.start()
        await cluster.write(b"after")
        assert survivor.machine.items == [b"\x07%d" % n for n in range(5)] + [b"\x07after"]

    simulate(scenario, count=3, clean=False)


def test_entry_that_the_state_machine_cannot_apply_is_fatal():
    async def scenario(cluster):
        leader = await cluster.boot()

        def apply(entry):
            raise ValueError("unknown command")

        leader.machine.apply = apply
        with pytest.raises(RaftError, match="already shutdown"):
            await leader.do(lambda node: node.apply(7, b"x"))
        assert [str(error) for error in leader.fatal] == ["unknown command"]
        assert leader.events[-1][0] is False
        leader.log.lines.clear()

    simulate(scenario, count=1)
