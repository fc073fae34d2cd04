"""A server that restores a large snapshot when it starts: it takes part in consensus meanwhile and shows nothing."""

import asyncio

import pytest

from pyconsul_agent.errors import RaftError
from pyconsul_agent.raft.types import Role
from pyconsul_agent.runtime import raft_apply
from pyconsul_agent.runtime.raft_apply import Applier
from pyconsul_agent.structs.raft import EntryType, LogEntry, SnapshotMeta
from tests.builders import run_async
from tests.raft_cluster import ListMachine, simulate, small, until

RESTORE_S = 20.0


async def restarted(member, *, restore_s=RESTORE_S):
    """The member, killed and started again, with its restore under way."""
    member.kill()
    member.restore_s = restore_s
    member.process.start()
    await until(lambda: member.node is not None)
    return member


async def with_snapshot(cluster, member, count=5):
    """`count` writes, of which the member has a snapshot."""
    for n in range(count):
        await cluster.write(b"%d" % n)
    await cluster.level()
    await member.do(lambda node: node.take_snapshot())


async def alone(cluster):
    """The only server, started again, with its restore under way."""
    member = await cluster.boot()
    await with_snapshot(cluster, member)
    return await restarted(member)


def written(count, *more):
    return [b"\x07%d" % n for n in range(count)] + list(more)


def test_follower_acknowledges_entries_while_it_restores():
    async def scenario(cluster):
        leader = await cluster.boot()
        follower, other = (m for m in cluster.alive() if m is not leader)
        await with_snapshot(cluster, follower)
        await restarted(follower)
        other.kill()
        async with asyncio.timeout(RESTORE_S / 4):  # the quorum is the leader and the one that restores
            await cluster.write(b"meanwhile")
        assert not follower.node.settled
        assert (follower.node.applied_index, follower.machine.items) == (0, [])
        await follower.do(lambda node: node.restored())
        await until(lambda: follower.machine.items == written(5, b"\x07meanwhile"))
        assert follower.node.settled

    simulate(scenario, count=3)


def test_server_votes_while_it_restores():
    async def scenario(cluster):
        leader = await cluster.boot()
        follower, other = (m for m in cluster.alive() if m is not leader)
        await with_snapshot(cluster, follower)
        await restarted(follower)
        await asyncio.sleep(1)
        leader.kill()
        await until(lambda: Role.LEADER in (follower.node.role, other.node.role), RESTORE_S / 2)
        assert not follower.node.settled

    simulate(scenario, count=3)


def test_leader_does_not_say_that_it_leads_before_it_has_its_state():
    async def scenario(cluster):
        member = await alone(cluster)
        member.events.clear()
        changes = []
        member.node.on_leader_change(lambda address, _: changes.append(address))
        await asyncio.sleep(RESTORE_S / 2)
        assert member.node.stats()["state"] == "Leader"
        assert (member.node.is_leader, member.node.leader_address, member.node.leader_id) == (False, "", "")
        assert not member.node.lease_valid
        assert (member.events, changes) == ([], [])
        await member.do(lambda node: node.restored())
        assert member.node.is_leader and member.node.leader_id == member.id
        assert member.events == [(True, member.node.term)]
        assert changes == ["10.0.0.1:8300"]

    simulate(scenario, count=1)


def test_no_snapshot_is_taken_while_one_is_restored():
    async def scenario(cluster):
        member = await alone(cluster)
        with pytest.raises(RaftError, match="still being restored"):
            await member.do(lambda node: node.take_snapshot())

    simulate(scenario, count=1)


def test_no_other_state_is_taken_while_one_is_restored():
    async def scenario(cluster):
        member = await cluster.boot()
        await with_snapshot(cluster, member)
        await restarted(member)
        await until(lambda: member.node.role is Role.LEADER, RESTORE_S / 2)
        with pytest.raises(RaftError, match="still being restored"):
            await member.do(lambda node: node.restore([b"other"], SnapshotMeta(index=9, term=1)))
        await member.do(lambda node: node.restored())
        assert member.machine.items == written(5)

    simulate(scenario, count=1)


def test_snapshot_of_a_leader_is_installed_after_the_own_one_was_restored():
    async def scenario(cluster):
        leader = await cluster.boot()
        follower = next(m for m in cluster.alive() if m is not leader)
        await with_snapshot(cluster, follower)
        follower.kill()
        for n in range(5, 30):
            await cluster.write(b"%d" % n)
        await leader.do(lambda node: node.take_snapshot())
        await asyncio.sleep(5)  # no entries are on their way any more: the snapshot is the first that it gets
        await restarted(follower)
        await until(lambda: follower.machine.items == written(30), 3 * RESTORE_S)
        await asyncio.sleep(RESTORE_S)
        assert (follower.machine.restores, follower.machine.items) == (2, written(30))
        await cluster.write(b"after")
        await cluster.level()
        assert follower.machine.items == written(30, b"\x07after")

    simulate(scenario, count=3, config=small(trailing_logs=3, memory_entries_max=8))


def test_server_that_is_stopped_while_it_restores_ends_at_once():
    async def scenario(cluster):
        member = await alone(cluster)
        member.stopping.set()
        async with asyncio.timeout(1):
            await member.process.wait()

    simulate(scenario, count=1)


def test_state_that_cannot_be_restored_stops_the_server_and_is_not_shown():
    async def scenario(cluster):
        member = await cluster.boot()
        await with_snapshot(cluster, member)
        member.kill()
        name = next(iter(member.disk.snapshots))
        member.disk.snapshots[name] = (member.disk.snapshots[name][0], b"bad")
        await restarted(member, restore_s=0.5)
        await until(lambda: member.fatal)
        assert "failed to restore snapshot" in str(member.fatal[0])
        assert not member.node.settled and not member.node.is_leader
        member.log.lines.clear()

    simulate(scenario, count=1)


def test_heartbeats_go_on_when_too_much_waits_to_be_applied(monkeypatch):
    monkeypatch.setattr(raft_apply, "BACKLOG_MAX", 3)

    async def scenario(cluster):
        leader = await cluster.boot()
        follower = next(m for m in cluster.alive() if m is not leader)
        await with_snapshot(cluster, follower)
        await restarted(follower)
        for n in range(5, 40):
            await cluster.write(b"%d" % n)
        await asyncio.sleep(2)
        assert follower.node.last_contact_s < 0.5
        assert follower.node.last_index == leader.node.last_index
        await until(lambda: follower.machine.items == written(40), 2 * RESTORE_S)

    simulate(scenario, count=3)


class Still:
    """A clock that stands."""

    def monotonic(self):
        return 0.0


def test_applier_tells_when_there_is_room_again(monkeypatch):
    monkeypatch.setattr(raft_apply, "BACKLOG_MAX", 3)
    told = []

    async def main():
        applier = Applier(ListMachine(), Still(), lambda: told.append(applier.backlog))
        entries = tuple(LogEntry(index=n, term=1, type=EntryType.COMMAND, data=b"x") for n in range(1, 6))
        assert applier.room()
        applier.put(entries, ())
        assert not applier.room() and not told
        task = asyncio.ensure_future(applier.run())
        await applier.reached(5)
        task.cancel()
        assert told == [0] and applier.room()

    run_async(main())
