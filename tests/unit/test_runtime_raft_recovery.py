"""peers.json: what is asked for, what is refused, and what is there afterwards."""

import asyncio
import json
from dataclasses import replace

import pytest

from pyconsul_agent.env.real import RealFiles
from pyconsul_agent.errors import ConfigError, RaftError
from pyconsul_agent.raft.types import HardState
from pyconsul_agent.runtime import raft_recovery
from pyconsul_agent.sim.raft_storage import RaftDisk, SimRaftStorage
from pyconsul_agent.structs.raft import Configuration, EntryType, LogEntry, Server, SnapshotMeta, Suffrage
from tests.raft_cluster import ListMachine, Recorder

ONE = Configuration(servers=(Server(id="a", address="10.0.0.1:8300"),))


async def at_once(work):
    return work()


def peers_json(*rows):
    return json.dumps(rows).encode()


def test_file_found_before_the_first_start_is_removed(tmp_path):
    files, directory = RealFiles(), str(tmp_path)
    (tmp_path / "peers.json").write_bytes(peers_json("10.0.0.1:8300"))
    assert raft_recovery.requested_configuration(files, directory) is None
    assert not (tmp_path / "peers.json").exists()
    assert (tmp_path / "peers.info").exists()


def test_file_found_later_is_the_request_until_finished(tmp_path):
    files, directory = RealFiles(), str(tmp_path)
    assert raft_recovery.requested_configuration(files, directory) is None
    (tmp_path / "peers.json").write_bytes(peers_json({"id": "a", "address": "10.0.0.1:8300", "non_voter": False}))
    for _ in range(2):
        assert raft_recovery.requested_configuration(files, directory) == ONE
    raft_recovery.finished(files, directory)
    assert raft_recovery.requested_configuration(files, directory) is None


def test_both_forms_are_read():
    rows = peers_json({"id": "a", "address": "x:1"}, {"id": "b", "address": "y:1", "non_voter": True})
    assert [s.suffrage for s in raft_recovery.parse_peers(rows).servers] == [Suffrage.VOTER, Suffrage.NONVOTER]
    assert raft_recovery.parse_peers(peers_json("x:1")).servers == (Server(id="x:1", address="x:1"),)


@pytest.mark.parametrize(
    "data",
    [
        b"{",
        b"{}",
        b"[]",
        b"[1]",
        peers_json({"id": "a"}),
        peers_json({"id": "a", "address": 1}),
        peers_json("x:1", "x:1"),
        peers_json({"id": "a", "address": "x:1", "non_voter": True}),
        peers_json({"id": "a", "address": "x:1", "non_voter": "no"}),
    ],
)
def test_unusable_file_is_refused(data):
    with pytest.raises(ConfigError, match=r"peers\.json"):
        raft_recovery.parse_peers(data)


def test_snapshot_and_whole_log_become_one_snapshot_with_the_new_configuration():
    disk = RaftDisk(hard_state=HardState(4))
    old = replace(ONE, servers=(Server(id="z", address="10.0.0.9:8300"),))

    def storage():
        return SimRaftStorage(disk, blocking=at_once)

    async def scenario():
        machine = ListMachine()
        machine.items = [b"\x07a"]
        meta = SnapshotMeta(index=5, term=2, configuration=old, configuration_index=1)
        await storage().create_snapshot(meta, machine.snapshot())
        log = [
            LogEntry(index=5, term=2, data=b"\x07a"),
            LogEntry(index=6, term=3, type=EntryType.NOOP),
            LogEntry(index=7, term=3, data=b"\x07b"),
        ]
        await storage().commit(entries=log)
        for _ in range(2):  # as after a crash before the request was removed
            machine = ListMachine()
            await raft_recovery.recover(storage(), machine, ONE, blocking=at_once, log=Recorder())
            assert machine.items == [b"\x07a", b"\x07b"]
        state = await storage().load()
        assert (state.snapshot.index, state.snapshot.term, state.snapshot.configuration) == (7, 3, ONE)
        assert (state.snapshot.configuration_index, state.last_index, state.hard_state) == (1, 0, HardState(4))

    asyncio.run(scenario())


def test_server_without_state_is_refused():
    async def scenario():
        storage = SimRaftStorage(RaftDisk(), blocking=at_once)
        with pytest.raises(RaftError, match="refused to recover cluster with no initial state"):
            await raft_recovery.recover(storage, ListMachine(), ONE, blocking=at_once, log=Recorder())

    asyncio.run(scenario())
