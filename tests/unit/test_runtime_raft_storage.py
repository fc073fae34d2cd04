"""The real files: what was committed is there, what is damaged is refused. Small and quick, on tmp_path."""

import asyncio
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest

from pyconsul_agent.errors import StorageError
from pyconsul_agent.raft.types import HardState, InitialState
from pyconsul_agent.runtime import raft_snapshots, raft_storage
from pyconsul_agent.runtime.raft_log_file import ROWS_PER_STATEMENT
from pyconsul_agent.runtime.raft_storage import SqliteRaftStorage
from pyconsul_agent.sim.raft_storage import RaftDisk, SimRaftStorage
from pyconsul_agent.structs.base import GoTime
from pyconsul_agent.structs.raft import Configuration, EntryType, LogEntry, Server, SnapshotMeta
from pyconsul_agent.wire.raft import encode_configuration, encode_peers
from pyconsul_agent.wire.snapshot import Checksums, crc64, encode_meta
from tests.raft_cluster import Recorder

CONFIGURATION = Configuration(servers=(Server(id="a", address="10.0.0.1:8300"),))
META = SnapshotMeta(index=5, term=2, configuration=CONFIGURATION, configuration_index=1)


async def on_this_thread(work):
    return work()


def entry(index, term=1, data=b"x", **more):
    return LogEntry(index=index, term=term, data=data, appended_at=GoTime(5, 6, 0), **more)


def entries(low, high, term=1):
    return [entry(index, term) for index in range(low, high + 1)]


def sqlite_storage(tmp_path):
    return lambda: SqliteRaftStorage(
        str(tmp_path / "raft"), blocking=on_this_thread, wall_ns=lambda: 1_795_385_029_385_000_000, log=Recorder()
    )


@pytest.fixture(params=["sqlite", "sim"])
def opened(request, tmp_path):
    """A maker of contexts in which the storage is loaded: (storage, initial state)."""
    disk = RaftDisk()
    make = (
        sqlite_storage(tmp_path) if request.param == "sqlite" else lambda: SimRaftStorage(disk, blocking=on_this_thread)
    )

    @asynccontextmanager
    async def context():
        storage = make()
        try:
            yield storage, await storage.load()
        finally:
            await storage.close()

    return context


def run(coroutine):
    return asyncio.run(coroutine)


def test_empty_storage_is_the_initial_state(opened):
    async def scenario():
        async with opened() as (storage, state):
            assert state == InitialState()
            assert storage.reader.term(1) is None
            assert storage.reader.entries(1, 9, 100) == []

    run(scenario())


def test_committed_transactions_are_found_again(opened):
    hard = HardState(7, 6, b"10.0.0.1:8300")
    first = entry(1, data=encode_configuration(CONFIGURATION), type=EntryType.CONFIGURATION)
    odd = [first, entry(2, data=None), entry(3, data=b"", extensions=b"e"), entry(4, 2)]

    async def scenario():
        async with opened() as (storage, _):
            await storage.commit(hard_state=HardState(6), entries=odd[:2])
            await storage.commit(hard_state=hard, entries=odd[2:])
        async with opened() as (storage, state):
            assert state == InitialState(
                hard_state=hard, first_index=1, last_index=4, last_term=2, configurations=((1, CONFIGURATION),)
            )
            assert storage.reader.entries(1, 4, 1 << 20) == odd
            assert [storage.reader.term(index) for index in range(6)] == [None, 1, 1, 1, 2, None]

    run(scenario())


def test_truncation_comes_before_appending_and_compaction_after(opened):
    async def scenario():
        async with opened() as (storage, _):
            await storage.create_snapshot(replace(META, term=1), lambda: [b"state"])
            await storage.commit(entries=entries(1, 9))
            await storage.commit(truncate_from=6, entries=entries(6, 8, term=2), compact_to=2)
        async with opened() as (storage, state):
            assert (state.first_index, state.last_index, state.last_term) == (3, 8, 2)
            assert [e.term for e in storage.reader.entries(3, 8, 999)] == [1, 1, 1, 2, 2, 2]

    run(scenario())


def test_reader_gives_at_least_one_entry_and_stops_at_the_limit(opened):
    async def scenario():
        async with opened() as (storage, _):
            await storage.commit(entries=[entry(n, data=bytes(100)) for n in range(1, 5)])
            assert [e.index for e in storage.reader.entries(1, 4, 50)] == [1]
            assert [e.index for e in storage.reader.entries(1, 4, 200)] == [1, 2]
            assert [e.index for e in storage.reader.entries(3, 99, 999)] == [3, 4]

    run(scenario())


def test_failed_transaction_leaves_nothing(opened):
    async def scenario():
        async with opened() as (storage, _):
            await storage.commit(entries=entries(1, 3))
            with pytest.raises(StorageError):
                await storage.commit(hard_state=HardState(9), entries=[entry(4), entry(3)])
        async with opened() as (_, state):
            assert (state.last_index, state.hard_state) == (3, HardState())

    run(scenario())


@pytest.mark.parametrize("count", [1, 2, ROWS_PER_STATEMENT, ROWS_PER_STATEMENT + 1, 3 * ROWS_PER_STATEMENT])
def test_a_batch_of_any_size_is_stored_whole(opened, count):
    batch = [entry(index, data=b"%d" % index, extensions=None if index % 2 else b"e") for index in range(1, count + 1)]

    async def scenario():
        async with opened() as (storage, _):
            await storage.commit(entries=batch)
        async with opened() as (storage, state):
            assert state.last_index == count
            assert storage.reader.entries(1, count, 1 << 20) == batch

    run(scenario())


@pytest.mark.parametrize("count", [2, ROWS_PER_STATEMENT + 5])
def test_a_batch_of_entries_alone_that_fails_leaves_none_of_them(opened, count):
    async def scenario():
        async with opened() as (storage, _):
            await storage.commit(entries=entries(1, 3))
            with pytest.raises(StorageError):
                await storage.commit(entries=[*entries(4, count + 2), entry(1)])
        async with opened() as (_, state):
            assert state.last_index == 3

    run(scenario())


def test_a_statement_by_itself_ends_its_transaction(tmp_path):
    async def scenario():
        storage = sqlite_storage(tmp_path)()
        await storage.load()
        try:
            await storage.commit(entries=entries(1, 3))
            with sqlite3.connect(tmp_path / "raft" / "log.sqlite") as other:
                seen = other.execute("SELECT count(*) FROM log").fetchone()
            other.close()
            return storage._connection().in_transaction, seen
        finally:
            await storage.close()

    assert run(scenario()) == (False, (3,))


def test_old_peer_list_entries_are_configurations(opened):
    async def scenario():
        async with opened() as (storage, _):
            data = encode_peers(CONFIGURATION)
            await storage.commit(entries=[entry(1, data=data, type=EntryType.ADD_PEER_DEPRECATED)])
        async with opened() as (_, state):
            assert state.configurations[0][1].servers[0].id == "10.0.0.1:8300"

    run(scenario())


def test_snapshot_is_found_again_and_two_are_kept(opened):
    async def scenario():
        async with opened() as (storage, _):
            metas = [
                await storage.create_snapshot(replace(META, index=index), lambda: [b"st", b"ate"])
                for index in (5, 6, 7)
            ]
            assert [meta.size for meta in metas] == [5, 5, 5]
            with pytest.raises(StorageError):
                await storage.open_snapshot(metas[0].id)
            source = await storage.open_snapshot(metas[1].id)
            assert await source.read(3) + await source.read(99) == b"state"
            assert await source.read(99) == b""
            assert b"".join(source.chunks()) == b"state"
            await source.close()
        async with opened() as (storage, state):
            assert state.snapshot == metas[2]
            assert (state.first_index, state.last_index) == (0, 0)
            newest = await storage.open_snapshot("")
            assert newest.meta == metas[2]
            await newest.close()

    run(scenario())


def test_received_snapshot_is_invisible_until_published(opened):
    async def scenario():
        async with opened() as (storage, _):
            sink = storage.receive_snapshot(META)
            await sink.write(b"state")
            meta = await sink.finish()
            assert meta.size == 5
            assert b"".join(sink.chunks()) == b"state"
        async with opened() as (storage, state):
            assert state.snapshot is None
            sink = storage.receive_snapshot(META)
            await sink.write(b"state")
            await sink.abort()
            sink = storage.receive_snapshot(META)
            await sink.write(b"state")
            meta = await sink.finish()
            await sink.publish()
            await sink.abort()
        async with opened() as (_, state):
            assert state.snapshot == meta

    run(scenario())


@pytest.mark.parametrize(("stored", "left"), [(entries(1, 4), 0), (entries(1, 9), 0), (entries(1, 9, 2), 9)])
def test_log_that_the_newest_snapshot_replaces_is_dropped_at_start(opened, stored, left):
    async def scenario():
        async with opened() as (storage, _):
            await storage.commit(entries=stored)
            await storage.create_snapshot(META, lambda: [b"state"])
        async with opened() as (_, state):
            assert state.last_index == left

    run(scenario())


def test_log_without_the_snapshot_that_covers_its_beginning_is_refused(opened):
    async def scenario():
        async with opened() as (storage, _):
            await storage.commit(entries=entries(7, 9))
        with pytest.raises(StorageError):
            async with opened():
                pass

    run(scenario())


# --- files only -------------------------------------------------------------------------------------------------


def snapshot_dirs(tmp_path):
    return sorted(os.listdir(tmp_path / "raft" / "snapshots"))


async def filled(tmp_path):
    storage = sqlite_storage(tmp_path)()
    await storage.load()
    await storage.commit(hard_state=HardState(3), entries=entries(1, 50, term=2))
    await storage.create_snapshot(META, lambda: [b"older"])
    await storage.create_snapshot(replace(META, index=6), lambda: [b"newer"])
    await storage.close()


def test_files_are_private(tmp_path):
    run(filled(tmp_path))
    for path in [tmp_path / "raft", *(tmp_path / "raft").rglob("*")]:
        assert path.stat().st_mode & 0o777 == (0o700 if path.is_dir() else 0o600), path


def test_damaged_snapshot_is_skipped_for_the_older_one(tmp_path):
    async def scenario():
        await filled(tmp_path)
        newest = snapshot_dirs(tmp_path)[-1]
        (tmp_path / "raft" / "snapshots" / newest / "state.bin").write_bytes(b"newes")
        os.mkdir(tmp_path / "raft" / "snapshots" / "9-9-9.tmp")
        storage = sqlite_storage(tmp_path)()
        state = await storage.load()
        assert state.snapshot.index == 5
        with pytest.raises(StorageError, match="damaged"):
            await storage.open_snapshot(newest)
        await storage.close()
        assert "9-9-9.tmp" not in snapshot_dirs(tmp_path)

    run(scenario())


def test_snapshot_directory_written_by_consul_is_read_by_its_crc64(tmp_path):
    async def scenario():
        path = tmp_path / "raft" / "snapshots" / "2-5-1795385029385"
        path.mkdir(parents=True)
        (path / "state.bin").write_bytes(b"state")
        sums = Checksums(crc64=crc64(b"state").to_bytes(8, "big"))
        (path / "meta.json").write_bytes(encode_meta(replace(META, id=path.name, size=5), sums))
        storage = sqlite_storage(tmp_path)()
        assert (await storage.load()).snapshot.index == 5
        await storage.close()

    run(scenario())


def test_flipped_bit_of_an_entry_is_noticed(tmp_path):
    async def scenario():
        await filled(tmp_path)
        connection = sqlite3.connect(tmp_path / "raft" / "log.sqlite")
        connection.execute("UPDATE log SET data = x'79' WHERE idx = 30")
        connection.commit()
        connection.close()
        storage = sqlite_storage(tmp_path)()
        await storage.load()
        with pytest.raises(StorageError, match="entry 30 is damaged"):
            storage.reader.entries(20, 40, 1000)
        await storage.close()

    run(scenario())


@pytest.mark.parametrize("damage", ["garbage", "cut", "hole", "newer format"])
def test_damaged_log_is_refused_with_one_clear_line(tmp_path, damage):
    async def scenario():
        await filled(tmp_path)
        path = tmp_path / "raft" / "log.sqlite"
        if damage == "garbage":
            path.write_bytes(b"hello, this is no database" * 1000)
        elif damage == "cut":
            path.write_bytes(path.read_bytes()[:5000])
        else:
            connection = sqlite3.connect(path)
            change = "DELETE FROM log WHERE idx = 30" if damage == "hole" else "PRAGMA user_version = 99"
            connection.execute(change)
            connection.commit()
            connection.close()
        storage = sqlite_storage(tmp_path)()
        with pytest.raises(StorageError, match="raft storage"):
            await storage.load()
        await storage.close()

    run(scenario())


def test_number_beyond_sqlite_is_a_storage_error_not_a_crash(tmp_path):
    async def scenario():
        storage = sqlite_storage(tmp_path)()
        await storage.load()
        with pytest.raises(StorageError):
            await storage.commit(entries=[entry(2**64 - 1)])
        await storage.close()

    run(scenario())


WRITER = """
import asyncio, sys
from pyconsul_agent.runtime.raft_storage import SqliteRaftStorage
from pyconsul_agent.raft.types import HardState
from tests.raft_cluster import Recorder
from tests.unit.test_runtime_raft_storage import entry, on_this_thread

async def main():
    storage = SqliteRaftStorage(sys.argv[1], blocking=on_this_thread, wall_ns=lambda: 1, log=Recorder())
    state = await storage.load()
    index = state.last_index
    while True:
        term = index + 1 if sys.argv[2] == "terms" else 1
        batch = [entry(index + n, term=term, data=b"d" * 3000) for n in range(1, 9)]
        await storage.commit(hard_state=HardState(term) if term > 1 else None, entries=batch)
        index += 8
        print(index, flush=True)

asyncio.run(main())
"""


@pytest.mark.slow
@pytest.mark.parametrize("what", ["terms", "entries"])
def test_acknowledged_transactions_survive_kill_9(tmp_path, what):
    root = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    last = 0
    for lines in (3, 17, 40):
        with subprocess.Popen(
            [sys.executable, "-c", WRITER, str(tmp_path / "raft"), what], stdout=subprocess.PIPE, cwd=root
        ) as child:
            for _ in range(lines):
                acknowledged = int(child.stdout.readline())
            child.send_signal(signal.SIGKILL)
            rest = [int(line) for line in child.stdout.read().decode().split("\n")[:-1]]
        acknowledged = max([acknowledged, *rest])

        async def check(acknowledged=acknowledged):
            storage = sqlite_storage(tmp_path)()
            state = await storage.load()
            assert state.last_index >= acknowledged
            assert state.last_index % 8 == 0, "half a transaction"
            assert state.hard_state.term == (state.last_term if what == "terms" else 0)
            assert len(storage.reader.entries(1, state.last_index, 1 << 30)) == state.last_index
            await storage.close()
            return state.last_index

        assert acknowledged > last
        last = run(check())


# --- a restored snapshot that may be taken back ---------------------------------------------------------------


async def restored(storage, index=8):
    """A restored snapshot at `index` on top of entries 1..5 and, behind it, one entry."""
    sink = storage.receive_snapshot(replace(META, index=index, term=3))
    await sink.write(b"new state")
    await sink.finish()
    await storage.commit(hard_state=HardState(3, 3, b"me"), entries=entries(1, 5))
    await storage.commit(restored=sink.meta)
    await sink.publish()
    await storage.commit(entries=[entry(index + 1, 3)])
    return sink.meta


def test_restored_snapshot_is_known_as_such_after_a_restart(opened):
    async def main():
        async with opened() as (storage, _):
            meta = await restored(storage)
        async with opened() as (storage, state):
            assert state.unproven and state.snapshot.index == 8 and state.snapshot.id == meta.id
            assert (state.first_index, state.last_index, state.last_term) == (9, 9, 3)
            await storage.commit(settled=True)
        async with opened() as (storage, state):
            assert not state.unproven and state.snapshot.index == 8
            assert (state.first_index, state.last_index) == (9, 9)
            assert storage.reader.term(5) is None

    run(main())


def test_reverted_restore_leaves_the_log_and_the_snapshot_from_before_it(opened):
    async def main():
        async with opened() as (storage, _):
            await storage.create_snapshot(replace(META, index=2, term=1), lambda: [b"old state"])
            await restored(storage)
            state = await storage.revert()
            expected = (False, 2, 1, 5, HardState(3, 3, b"me"))
            found = (state.unproven, state.snapshot.index, state.first_index, state.last_index, state.hard_state)
            assert found == expected
            await storage.commit(entries=[entry(6, 4)])
        async with opened() as (storage, state):
            assert (state.unproven, state.snapshot.index, state.last_index) == (False, 2, 6)
            source = await storage.open_snapshot("")
            assert b"".join(source.chunks()) == b"old state"
            await source.close()

    run(main())


def test_restore_that_was_marked_but_not_published_never_happened(opened):
    async def main():
        async with opened() as (storage, _):
            await storage.commit(entries=entries(1, 5))
            sink = storage.receive_snapshot(replace(META, index=6))
            await sink.write(b"new")
            await sink.finish()
            await storage.commit(restored=sink.meta)
        async with opened() as (storage, state):
            assert (state.unproven, state.snapshot, state.first_index, state.last_index) == (False, None, 1, 5)

    run(main())


def test_leader_s_snapshot_installed_over_a_restore_is_not_unproven(opened):
    async def main():
        async with opened() as (storage, _):
            await restored(storage)
            sink = storage.receive_snapshot(replace(META, index=20, term=4))
            await sink.write(b"the leader's")
            await sink.finish()
            await sink.publish()  # and a crash before the log is emptied
        async with opened() as (storage, state):
            assert (state.unproven, state.snapshot.index, state.last_index) == (False, 20, 0)
            await storage.commit(entries=[entry(21, 4)])
        async with opened() as (storage, state):
            assert (state.unproven, state.first_index, state.last_index) == (False, 21, 21)

    run(main())


def test_file_of_the_version_before_gets_the_table_for_restores(tmp_path):
    make = sqlite_storage(tmp_path)

    async def main():
        storage = make()
        await storage.load()
        await storage.close()
        with sqlite3.connect(tmp_path / "raft" / "log.sqlite") as connection:
            connection.execute("DROP TABLE restored")
        connection.close()
        storage = make()
        await storage.load()
        await restored(storage)
        await storage.close()

    run(main())


def damage(tmp_path, snapshot_id):
    path = tmp_path / "raft" / "snapshots" / snapshot_id / "state.bin"
    path.write_bytes(b"?" + path.read_bytes()[1:])


@pytest.mark.parametrize("older", [False, True])
def test_damaged_snapshot_that_the_log_does_not_cover_is_refused_in_one_line(tmp_path, older):
    """Going on with less would let this server vote against what it had acknowledged."""
    make = sqlite_storage(tmp_path)

    async def main():
        storage = make()
        await storage.load()
        if older:
            await storage.create_snapshot(replace(META, index=2), lambda: [b"older"])
        newest = await storage.create_snapshot(replace(META, index=9), lambda: [b"newest"])
        await storage.close()
        damage(tmp_path, newest.id)
        words = f"snapshot {newest.id} is damaged and the log does not cover it"
        with pytest.raises(StorageError, match=words) as told:
            await make().load()
        assert "\n" not in str(told.value)
        (tmp_path / "raft" / "snapshots" / newest.id).rename(tmp_path / "aside")  # the operator's choice
        storage = make()
        assert ((await storage.load()).snapshot is not None) is older
        await storage.close()

    run(main())


def test_damaged_snapshot_that_the_log_covers_is_passed_over(tmp_path):
    make = sqlite_storage(tmp_path)

    async def main():
        storage = make()
        await storage.load()
        await storage.commit(entries=entries(1, 12))
        await storage.create_snapshot(replace(META, index=2, term=1), lambda: [b"older"])
        newest = await storage.create_snapshot(replace(META, index=9, term=1), lambda: [b"newest"])
        await storage.close()
        damage(tmp_path, newest.id)
        storage = make()
        state = await storage.load()
        assert (state.snapshot.index, state.first_index, state.last_index) == (2, 1, 12)
        await storage.close()

    run(main())


def test_damaged_restored_snapshot_is_not_taken_for_one_that_never_was(tmp_path):
    make = sqlite_storage(tmp_path)

    async def main():
        storage = make()
        await storage.load()
        meta = await restored(storage)
        await storage.close()
        damage(tmp_path, meta.id)
        with pytest.raises(StorageError, match="is damaged and the log does not cover it"):
            await make().load()

    run(main())


def test_new_folder_of_raft_is_durable_in_its_parent(tmp_path, monkeypatch):
    synced = []
    original = raft_storage.sync_directory
    monkeypatch.setattr(raft_storage, "sync_directory", lambda path: (synced.append(path), original(path)))

    async def main():
        storage = sqlite_storage(tmp_path)()
        await storage.load()
        await storage.close()

    run(main())
    assert synced[0] == str(tmp_path)
    assert str(tmp_path / "raft") in synced


def test_every_commit_of_the_log_waits_for_the_medium(tmp_path):
    """SQLite returns from COMMIT after fsync only with synchronous = FULL (2); WAL alone does not do that."""

    async def scene():
        storage = sqlite_storage(tmp_path)()
        await storage.load()
        try:
            connection = storage._connection()
            return [connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("synchronous", "journal_mode")]
        finally:
            await storage.close()

    assert asyncio.run(scene()) == [2, "wal"]


def crash_image(tmp_path, name):
    """What the files are at this moment, as a server that never closed them finds them at its next start."""
    image = tmp_path / name
    shutil.copytree(tmp_path / "raft", image / "raft")
    (image / "raft" / "log.sqlite-shm").unlink(missing_ok=True)
    return image


async def written_in_batches(tmp_path):
    """A log of six transactions, the first term in each; its last indexes. The files were not closed."""
    storage = sqlite_storage(tmp_path)()
    await storage.load()
    lasts = [0]
    for term in range(1, 7):
        low = lasts[-1] + 1
        await storage.commit(hard_state=HardState(term), entries=entries(low, low + 2 * term, term))
        lasts.append(low + 2 * term)
    return storage, lasts


@pytest.mark.parametrize("kind", ["torn", "zero"])
def test_t_torn_tail_and_t_zero_tail(tmp_path, kind):
    """A write-ahead log cut or zeroed at any place gives whole transactions, the first ones, and never half of one.

    As after a power failure: of what was not durable yet the mark says nothing. (With a mark a loss is refused, below.)
    """

    async def scenario():
        storage, lasts = await written_in_batches(tmp_path)
        wal = (tmp_path / "raft" / "log.sqlite-wal").read_bytes()
        found = []
        for number, keep in enumerate(range(0, len(wal), max(1, len(wal) // 37))):
            image = crash_image(tmp_path, f"image{number}")
            rest = b"" if kind == "torn" else bytes(len(wal) - keep)
            (image / "raft" / "log.sqlite-wal").write_bytes(wal[:keep] + rest)
            (image / "raft" / raft_storage.MARK_FILE).unlink()
            other = sqlite_storage(image)()
            try:
                state = await other.load()
            except StorageError:
                assert not found  # the very file is not there yet
                continue
            assert state.last_index in lasts
            transactions = lasts.index(state.last_index)
            assert state.hard_state == HardState(transactions) and state.last_term == transactions
            have = other.reader.entries(1, state.last_index, 1 << 20) if state.last_index else []
            assert [entry.index for entry in have] == list(range(1, state.last_index + 1))
            low = state.last_index + 1
            await other.commit(hard_state=HardState(9), entries=entries(low, low + 1, 9))  # it can go on from there
            await other.close()
            found.append(transactions)
        await storage.close()
        assert found == sorted(found) and len(set(found)) > 3

    run(scenario())


def test_t_fsync_fails_then_ok(tmp_path):
    """After one failed commit the storage refuses all others, though the disk is well again."""

    async def scenario():
        storage = sqlite_storage(tmp_path)()
        await storage.load()
        await storage.commit(entries=entries(1, 3))
        connection = storage._connection()
        connection.execute("PRAGMA query_only = 1")  # as if the medium refused this one
        with pytest.raises(StorageError):
            await storage.commit(entries=entries(4, 6))
        connection.execute("PRAGMA query_only = 0")
        with pytest.raises(StorageError):
            await storage.commit(entries=entries(4, 6))
        await storage.close()
        storage = sqlite_storage(tmp_path)()
        assert (await storage.load()).last_index == 3
        await storage.close()

    run(scenario())


def test_nothing_is_stored_after_a_restore_that_could_not_be_reverted(tmp_path, monkeypatch):
    def fails(name):
        raise OSError("input/output error")

    async def scenario():
        storage = sqlite_storage(tmp_path)()
        await storage.load()
        await restored(storage)
        monkeypatch.setattr(storage._snapshots, "remove", fails)
        with pytest.raises(StorageError, match="revert: OSError: input/output error"):
            await storage.revert()
        with pytest.raises(StorageError, match=r"after a failed one: .*input/output error"):
            await storage.commit(entries=[entry(10, 4)])
        await storage.close()

    run(scenario())


def test_t_snapshot_vanishes(tmp_path, monkeypatch):
    """A snapshot is durable under its name before anybody relies on it; should it vanish, there is the one before."""
    told = []
    rename, sync = os.rename, raft_snapshots.sync_directory
    monkeypatch.setattr(os, "rename", lambda old, new: (told.append("rename"), rename(old, new)))
    synced = lambda path: (told.append(os.path.basename(path)), sync(path))  # noqa: E731
    monkeypatch.setattr(raft_snapshots, "sync_directory", synced)

    async def scenario():
        storage = sqlite_storage(tmp_path)()
        await storage.load()
        await storage.commit(entries=entries(1, 9, 2))
        await storage.create_snapshot(replace(META, index=3), lambda: [b"older"])
        told.clear()
        newest = await storage.create_snapshot(replace(META, index=6), lambda: [b"newer"])
        assert told.index("rename") < len(told) - 1 - told[::-1].index("snapshots"), told
        await storage.close()
        shutil.rmtree(tmp_path / "raft" / "snapshots" / newest.id)
        storage = sqlite_storage(tmp_path)()
        state = await storage.load()
        assert (state.snapshot.index, state.last_index) == (3, 9)
        await storage.close()

    run(scenario())
