"""peers.json: what is asked for, what is refused, and what is there afterwards."""

import asyncio
import json
from dataclasses import replace

import pytest

from pyconsul_agent.env.real import RealFiles, real_env
from pyconsul_agent.errors import ConfigError, RaftError
from pyconsul_agent.fsm.machine import StateMachine
from pyconsul_agent.raft.types import HardState
from pyconsul_agent.runtime import raft_recovery
from pyconsul_agent.runtime.raft_storage import SqliteRaftStorage
from pyconsul_agent.server.recovery import recover_if_asked
from pyconsul_agent.sim.cluster import DATA_DIR, Cluster
from pyconsul_agent.sim.disk import SimFiles
from pyconsul_agent.sim.raft_storage import RaftDisk, SimRaftStorage
from pyconsul_agent.state import kv
from pyconsul_agent.state.store import Store
from pyconsul_agent.state.watch import WatchSet
from pyconsul_agent.structs.kv import DirEntry
from pyconsul_agent.structs.raft import Configuration, EntryType, LogEntry, Server, SnapshotMeta, Suffrage
from pyconsul_agent.structs.requests import KVSRequest
from pyconsul_agent.wire.msgpack import encode
from tests.builders import run_async, run_sim
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


# --- at a server's start -------------------------------------------------------------------------------------------


def kv_entry(index, key):
    data = b"\x02" + encode(KVSRequest(op="set", dir_ent=DirEntry(key=key, value=b"v")))
    return LogEntry(index=index, term=3, data=data)


def test_server_start_recovers_a_real_data_directory_and_removes_the_request(tmp_path):
    directory = str(tmp_path / "raft")

    async def scenario():
        env, log = real_env(), Recorder()

        def storage():
            worker = env.blocking.worker("raft log")
            return SqliteRaftStorage(directory, blocking=worker, wall_ns=env.clock.wall_ns, log=log)

        assert not await recover_if_asked(env, directory, storage, log)
        before = storage()
        await before.load()
        await before.commit(hard_state=HardState(3), entries=[kv_entry(1, b"a"), kv_entry(2, b"b")])
        await before.close()
        assert not await recover_if_asked(env, directory, storage, log)

        env.files.write_atomic(f"{directory}/peers.json", b"[{]")
        with pytest.raises(ConfigError, match=r"^recovery failed to parse peers\.json: not JSON"):
            await recover_if_asked(env, directory, storage, log)
        env.files.write_atomic(f"{directory}/peers.json", peers_json({"id": "a", "address": "10.0.0.1:8300"}))
        assert await recover_if_asked(env, directory, storage, log)
        assert not env.files.exists(f"{directory}/peers.json")
        assert not await recover_if_asked(env, directory, storage, log)

        after = storage()
        state = await after.load()
        assert (state.snapshot.index, state.snapshot.term, state.snapshot.configuration) == (2, 3, ONE)
        assert (state.last_index, state.hard_state.term) == (0, 3)
        machine, source = StateMachine(Store(), env.clock.monotonic, warn=log.warn), await after.open_snapshot("")
        machine.restore(source.chunks())()
        assert [kv.get(machine.store, WatchSet(), key)[1].value for key in (b"a", b"b")] == [b"v", b"v"]
        await source.close()
        await after.close()
        await env.blocking.close()

    run_async(scenario())


def test_server_start_says_that_there_is_nothing_to_recover(tmp_path):
    directory = str(tmp_path)

    async def scenario():
        env = real_env()
        env.files.write_atomic(f"{directory}/peers.info", b"")
        env.files.write_atomic(f"{directory}/peers.json", peers_json("10.0.0.1:8300"))
        with pytest.raises(RaftError, match=r"^recovery failed: refused to recover cluster with no initial state"):
            await recover_if_asked(env, directory, lambda: SimRaftStorage(RaftDisk(), blocking=at_once), Recorder())
        assert env.files.exists(f"{directory}/peers.json")
        await env.blocking.close()

    run_async(scenario())


def test_last_server_of_three_leads_again_with_every_write_after_peers_json():
    async def scenario(world):
        cluster = Cluster(world)
        cluster.article(performance={"raft_multiplier": 1})
        cluster.start()
        leader = await cluster.ready()
        await cluster.until("three voters", lambda: len(leader.raft.configuration()[0].servers) == 3, 30)
        answer = await leader.process.call(lambda: leader.raft.apply(2, kv_entry(0, b"kept").data[1:]))
        assert not isinstance(answer, Exception)
        survivor = next(node for node in cluster.servers if node is not leader)
        await cluster.until("caught up", lambda: survivor.raft.last_index == leader.raft.last_index, 30)
        for node in cluster.nodes.values():
            await node.stop()

        files = SimFiles(survivor.host.disk)
        assert files.exists(f"{DATA_DIR}/raft/peers.info")
        row = {"id": survivor.agent.node_id, "address": f"{survivor.ip}:8300"}
        files.write_atomic(f"{DATA_DIR}/raft/peers.json", peers_json(row))
        survivor.start()
        assert await cluster.ready() is survivor
        assert [server.address for server in survivor.raft.configuration()[0].servers] == [f"{survivor.ip}:8300"]
        assert kv.get(survivor.server.machine.store, WatchSet(), b"kept")[1].value == b"v"
        assert not files.exists(f"{DATA_DIR}/raft/peers.json")
        await cluster.stop()

    run_sim(11, scenario)
