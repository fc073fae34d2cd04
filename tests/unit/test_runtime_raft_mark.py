"""A log that lost what was durable is refused; every cut on purpose is not taken for a loss."""

import asyncio
import os
import shutil
import sqlite3
from dataclasses import replace

import pytest

from pyconsul_agent.errors import StorageError
from pyconsul_agent.raft.types import HardState
from pyconsul_agent.runtime.raft_mark import SIZE, Mark, Reached
from pyconsul_agent.runtime.raft_storage import MARK_FILE, SqliteRaftStorage
from pyconsul_agent.structs.base import GoTime
from pyconsul_agent.structs.raft import Configuration, LogEntry, Server, SnapshotMeta
from tests.raft_cluster import Recorder

CONFIGURATION = Configuration(servers=(Server(id="a", address="10.0.0.1:8300"),))
META = SnapshotMeta(index=5, term=2, configuration=CONFIGURATION, configuration_index=1)


async def on_this_thread(work):
    return work()


def entries(low, high, term=1):
    return [
        LogEntry(index=index, term=term, data=b"x" * 500, appended_at=GoTime(5, 6, 0)) for index in range(low, high + 1)
    ]


def storage_in(folder, log=None):
    return SqliteRaftStorage(str(folder), blocking=on_this_thread, wall_ns=lambda: 1, log=log or Recorder())


def killed(tmp_path, *commits):
    """What is on disk when a server is killed after these transactions: the write-ahead log is not folded in."""

    async def work():
        storage = storage_in(tmp_path / "raft")
        await storage.load()
        for each in commits:
            await storage.commit(**each)
        shutil.copytree(tmp_path / "raft", tmp_path / "killed")
        await storage.close()

    asyncio.run(work())
    return tmp_path / "killed"


def opened(folder, log=None):
    async def work():
        storage = storage_in(folder, log)
        try:
            return await storage.load()
        finally:
            await storage.close()

    return asyncio.run(work())


def truncated(wal):
    os.truncate(wal, wal.stat().st_size - 600)


def flipped(wal):
    data = bytearray(wal.read_bytes())
    data[-600] ^= 4
    wal.write_bytes(data)


@pytest.mark.parametrize("damage", [truncated, flipped, os.unlink])
def test_a_damaged_tail_of_the_write_ahead_log_is_refused_in_one_line(tmp_path, damage):
    folder = killed(tmp_path, {"entries": entries(1, 5)}, {"entries": entries(6, 6)}, {"entries": entries(7, 7)})
    damage(folder / "log.sqlite-wal")
    with pytest.raises(
        StorageError, match=r"had been at index 7, term 0, .*: this server has lost .* Remove "
    ) as refused:
        opened(folder)
    assert "\n" not in str(refused.value)


def test_a_lost_vote_is_refused(tmp_path):
    folder = killed(tmp_path, {"entries": entries(1, 2)}, {"hard_state": HardState(3, 3, b"10.0.0.1:8300")})
    truncated(folder / "log.sqlite-wal")
    with pytest.raises(StorageError, match="had been at index 2, term 3, vote in term 3"):
        opened(folder)


def changed(folder, statement, *values):
    connection = sqlite3.connect(folder / "log.sqlite")
    connection.execute(statement, values)
    connection.commit()
    connection.close()


def test_another_vote_in_the_same_term_is_refused(tmp_path):
    folder = killed(tmp_path, {"hard_state": HardState(3, 3, b"10.0.0.1:8300")})
    changed(folder, "UPDATE hard_state SET voted_for = ?", b"10.0.0.3:8300")
    with pytest.raises(StorageError, match="this server has lost"):
        opened(folder)


def test_a_changed_term_of_the_last_entry_is_noticed_at_the_start(tmp_path):
    folder = killed(tmp_path, {"entries": entries(1, 5)})
    changed(folder, "UPDATE log SET term = 4 WHERE idx = 5")
    with pytest.raises(StorageError, match="log entry 5 is damaged"):
        opened(folder)


def test_without_the_mark_what_is_left_is_taken(tmp_path):
    folder = killed(tmp_path, {"entries": entries(1, 5)}, {"entries": entries(6, 7)})
    truncated(folder / "log.sqlite-wal")
    (folder / MARK_FILE).unlink()
    assert opened(folder).last_index == 5
    assert opened(folder).last_index == 5


def test_a_mark_that_cannot_be_read_is_said_and_made_anew(tmp_path):
    folder = killed(tmp_path, {"entries": entries(1, 5)})
    (folder / MARK_FILE).write_bytes(b"x" * SIZE)
    log = Recorder()
    assert opened(folder, log).last_index == 5
    assert "raft mark cannot be read" in str(log.lines)
    log = Recorder()
    opened(folder, log)
    assert "raft mark cannot be read" not in str(log.lines)


def test_a_log_that_was_cut_for_another_leaders_entries_is_whole(tmp_path):
    folder = killed(tmp_path, {"entries": entries(1, 9)}, {"truncate_from": 4, "entries": entries(4, 5, term=2)})
    assert opened(folder).last_index == 5


def test_the_mark_falls_before_the_log_is_cut(tmp_path):
    folder = killed(tmp_path, {"entries": entries(1, 9)})
    mark = Mark(str(folder / MARK_FILE))
    mark.fall(3)  # and then the machine died before the transaction
    mark.close()
    assert opened(folder).last_index == 9


def test_an_installed_snapshot_stands_for_the_log_that_it_replaced(tmp_path):
    async def work():
        storage = storage_in(tmp_path / "raft")
        await storage.load()
        await storage.commit(entries=entries(1, 9))
        await storage.create_snapshot(META, lambda: [b"state"])
        await storage.commit(clear_log=True, hard_state=HardState(2))
        shutil.copytree(tmp_path / "raft", tmp_path / "killed")
        await storage.close()

    asyncio.run(work())
    state = opened(tmp_path / "killed")
    assert (state.last_index, state.snapshot.index) == (0, 5)


def test_a_log_that_the_newest_snapshot_replaces_may_be_dropped_at_the_start(tmp_path):
    async def work():
        storage = storage_in(tmp_path / "raft")
        await storage.load()
        await storage.commit(entries=entries(1, 9))
        # A leader's snapshot whose term differs, published, and then the machine died before the log was emptied.
        await storage.create_snapshot(replace(META, term=7), lambda: [b"state"])
        await storage.close()

    asyncio.run(work())
    assert opened(tmp_path / "raft").last_index == 0


def test_a_lost_tail_behind_a_snapshot_is_not_taken_for_a_log_that_the_snapshot_replaced(tmp_path):
    async def work():
        storage = storage_in(tmp_path / "raft")
        await storage.load()
        await storage.commit(entries=entries(1, 2))
        await storage.close()  # folds the write-ahead log in
        storage = storage_in(tmp_path / "raft")
        await storage.load()
        await storage.commit(entries=entries(3, 7, term=2))
        await storage.create_snapshot(META, lambda: [b"state"])
        await storage.commit(entries=entries(8, 8, term=2), compact_to=4)
        shutil.copytree(tmp_path / "raft", tmp_path / "killed")
        await storage.close()

    asyncio.run(work())
    (tmp_path / "killed" / "log.sqlite-wal").unlink()
    for _ in range(2):
        with pytest.raises(StorageError, match=r"has come to index 5, .* had been at index 8"):
            opened(tmp_path / "killed")


def test_a_reverted_restore_is_no_loss(tmp_path):
    async def work():
        storage = storage_in(tmp_path / "raft")
        await storage.load()
        await storage.commit(entries=entries(1, 9))
        sink = storage.receive_snapshot(replace(META, index=12, term=1))
        await sink.write(b"state")
        await sink.finish()
        await storage.commit(restored=sink.meta)
        await sink.publish()
        await storage.commit(entries=entries(13, 14))
        await storage.revert()
        await storage.close()

    asyncio.run(work())
    assert opened(tmp_path / "raft").last_index == 9


def test_the_mark_only_rises_and_falls_as_told(tmp_path):
    path = str(tmp_path / "mark")
    mark = Mark(path)
    mark.rise(Reached(7, 3))
    mark.rise(Reached(5, 0, 2, 99))
    mark.rise(Reached(1, 1, 1, 98))
    mark.close()
    mark.close()
    mark = Mark(path)
    assert mark.reached == Reached(7, 3, 2, 99)
    mark.fall(9)
    assert mark.reached == Reached(7, 3, 2, 99)
    mark.fall(4)
    assert mark.reached == Reached(4, 3, 2, 99)
    mark.close()
    mark = Mark(path)
    assert mark.reached == Reached(4, 3, 2, 99)
    mark.close()
