"""Intentions of before 1.9: a leader with Connect moves them into config entries."""

import asyncio

import pytest

from pyconsul_agent.fsm.machine import StateMachine
from pyconsul_agent.serf.consul import ServerInfo
from pyconsul_agent.server.leader import intentions as room
from pyconsul_agent.state import intention
from pyconsul_agent.state.store import Store
from pyconsul_agent.state.watch import WatchSet
from pyconsul_agent.structs.base import GoTime
from pyconsul_agent.structs.intention import Intention
from pyconsul_agent.structs.raft import EntryType, LogEntry
from tests.memory_net import Recorder, run


def row(number, source, destination, **more):
    fields = {"action": "allow", "created_at": GoTime(number, 0), "updated_at": GoTime(number, 1), **more}
    return Intention(
        id=f"{number:08d}-1111-2222-3333-444444444444", source_ns="default", source_name=source,
        destination_ns="default", destination_name=destination, source_type="consul", **fields,
    )  # fmt: skip


class World:
    """A leader; writes take effect at once, `fail_at` is the number of the one that is lost with the leadership."""

    is_leader = True

    def __init__(self, *rows):
        self.store, self.log, self.kinds, self.fail_at = Store(), Recorder(), [], None
        self.machine = StateMachine(self.store, lambda: 0.0, warn=print)
        self.features = {"si": 1}
        with self.store.begin(5) as txn:
            for each in rows:
                intention.put_row(txn, each)

    def servers(self):
        return [ServerInfo(name="s", id="", address="", port=1, datacenter="dc1", features=self.features)]

    def migration(self, *, connect_enabled=True, is_primary=True):
        return room.IntentionMigration(
            self.store, self, self.log, connect_enabled=connect_enabled, is_primary=is_primary, servers=self.servers
        )

    async def apply(self, kind, body):
        if len(self.kinds) == self.fail_at:
            raise AssertionError("the leader ended here")
        self.kinds.append(kind)
        index = 10 + len(self.kinds)
        return self.machine.apply(LogEntry(index=index, term=1, type=EntryType.COMMAND, data=bytes([kind]) + body))

    def shown(self):
        rows = intention.list_all(self.store, WatchSet())[1]
        return [(each.id[:8], each.source_name, each.destination_name, each.created_at, each.meta) for each in rows]


ROWS = (row(1, "a", "web", meta={"k": "v"}), row(2, "*", "web"), row(3, "a", "db", action="deny"), row(4, "*", "*"))


def test_every_intention_is_there_afterwards_with_its_id_times_and_order():
    world = World(*ROWS)
    before = world.shown()
    run(world.migration().run())
    assert world.shown() == before and len(before) == 4
    assert intention.in_config_entries(world.store.tables) and not len(world.store.tables.intentions)
    assert world.kinds == [room.CONFIG_ENTRY] * 3 + [room.INTENTION]


@pytest.mark.parametrize("fail_at", [0, 1, 2, 3])
def test_a_leader_that_ends_on_the_way_changes_nothing_for_readers_and_the_next_one_ends_it(fail_at):
    world = World(*ROWS)
    before, world.fail_at = world.shown(), fail_at
    with pytest.raises(AssertionError):
        run(world.migration().run())
    assert world.shown() == before and not intention.in_config_entries(world.store.tables)
    world.fail_at = None
    run(world.migration().run())
    assert world.shown() == before and intention.in_config_entries(world.store.tables)


def test_nothing_is_moved_while_a_server_reads_only_the_table():
    world = World(*ROWS)
    world.features.clear()

    async def main():
        task = asyncio.get_running_loop().create_task(world.migration().run())
        await asyncio.sleep(100)
        assert world.kinds == []
        world.features["si"] = 1
        await task

    run(main())
    assert intention.in_config_entries(world.store.tables)


def test_rows_that_no_config_entry_can_hold_stay_and_are_named():
    world = World(*ROWS, row(5, "b", "web", created_at=GoTime()))
    before = world.shown()
    run(world.migration().run())
    assert (world.kinds, world.shown()) == ([], before)
    assert world.log.messages("error") == ["intentions cannot be moved to config entries"]


@pytest.mark.parametrize("how", [{"connect_enabled": False}, {"is_primary": False}])
def test_without_connect_and_outside_the_primary_rows_stay(how):
    world = World(*ROWS)
    run(world.migration(**how).run())
    assert world.kinds == []


def test_a_state_without_rows_is_told_at_once_and_one_with_rows_is_not():
    empty, full = World(), World(*ROWS)
    for world in (empty, full):
        run(room.establish_intentions(world.store, world, world.log))
        run(room.establish_intentions(world.store, world, world.log))
    assert (empty.kinds, full.kinds) == ([room.INTENTION], [])
