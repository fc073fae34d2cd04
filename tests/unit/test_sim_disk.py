"""The simulated disk: what a power failure may and may not take."""

import errno
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pyconsul_agent.sim.disk import SECTOR_BYTES, SimDisk, SimFiles


def make(seed=1):
    disk = SimDisk(random.Random(seed))
    return disk, SimFiles(disk)


def crashed(seed, prepare):
    disk, files = make(seed)
    prepare(disk, files)
    disk.crash()
    return files


def test_files_and_directories_behave_as_on_a_real_disk():
    _, files = make()
    files.make_dirs("/data/serf")
    files.make_dirs("/data/serf/")
    files.write_atomic("/data/serf/local.keyring", b"[]")
    files.append("/data/log", b"a")
    files.append("/data/log", b"b", sync=True)
    assert files.list_dir("/data") == ["log", "serf"]
    assert files.list_dir("/data/serf") == ["local.keyring"]
    assert files.read("/data/log") == b"ab"
    assert files.size("/data/log") == 2
    assert files.is_dir("/data")
    assert not files.is_dir("/data/log")
    files.rename("/data/log", "/data/serf/log")
    assert not files.exists("/data/log")
    files.rename("/data/serf", "/data/other")
    assert files.list_dir("/data/other") == ["local.keyring", "log"]
    files.remove("/data/other/log")
    files.remove_tree("/data/other")
    assert files.list_dir("/data") == []
    for missing in (
        lambda: files.read("/data/x"),
        lambda: files.size("/data/x"),
        lambda: files.remove("/data/x"),
        lambda: files.rename("/data/x", "/data/y"),
        lambda: files.list_dir("/data/x"),
        lambda: files.remove_tree("/data/x"),
        lambda: files.sync_dir("/data/x"),
        lambda: files.append("/x/y", b""),
        lambda: files.write_atomic("/x/y", b""),
    ):
        with pytest.raises(FileNotFoundError):
            missing()
    with pytest.raises(IsADirectoryError):
        files.read("/data")
    files.append("/data/f", b"")
    with pytest.raises(NotADirectoryError):
        files.make_dirs("/data/f/g")


@pytest.mark.parametrize("seed", range(20))
def test_an_atomic_write_survives_and_replaces_whole(seed):
    def prepare(disk, files):
        files.write_atomic("/x", b"old" * 1000)
        disk.fail("rename", errno.EIO) if seed % 2 else disk.fail("fsync", errno.EIO, prefix="/x.tmp")
        with pytest.raises(OSError, match=r"\[Errno 5\]"):
            files.write_atomic("/x", b"new" * 1000)

    assert crashed(seed, prepare).read("/x") == b"old" * 1000

    def prepare_good(disk, files):
        files.write_atomic("/x", b"old" * 1000)
        files.write_atomic("/x", b"new" * 1000)

    assert crashed(seed, prepare_good).read("/x") == b"new" * 1000


def test_names_without_a_directory_sync_may_vanish():
    def prepare(disk, files):
        files.append("/x", b"1", sync=True)

    assert {crashed(seed, prepare).exists("/x") for seed in range(20)} == {True, False}

    def prepare_synced(disk, files):
        files.append("/x", b"1", sync=True)
        files.sync_dir("/")

    assert {crashed(seed, prepare_synced).exists("/x") for seed in range(20)} == {True}


def test_unsynced_sectors_are_lost_at_random_and_holes_are_zeros():
    whole = bytes(range(1, 256)) * 20

    def prepare(disk, files):
        files.append("/x", b"", sync=True)
        files.sync_dir("/")
        files.append("/x", whole)

    results = [crashed(seed, prepare).read("/x") for seed in range(50)]
    assert len(set(results)) > 10
    assert any(bytes(SECTOR_BYTES) in result for result in results)
    assert any(len(result) < len(whole) for result in results)
    for result in results:
        for start in range(0, len(result), SECTOR_BYTES):
            part = result[start : start + SECTOR_BYTES]
            assert part in (whole[start : start + len(part)], bytes(len(part)))


def test_a_failed_sync_is_not_made_good_by_the_next():
    lost = 0
    for seed in range(20):
        disk, files = make(seed)
        files.write_atomic("/x", b"a" * SECTOR_BYTES)
        disk.fail("fsync", errno.EIO)
        with pytest.raises(OSError, match=r"\[Errno 5\]"):
            files.append("/x", b"b" * SECTOR_BYTES, sync=True)
        files.append("/x", b"c" * SECTOR_BYTES, sync=True)
        assert files.read("/x")[SECTOR_BYTES : 2 * SECTOR_BYTES] == b"b" * SECTOR_BYTES
        disk.crash()
        after = files.read("/x")
        assert after[2 * SECTOR_BYTES :] == b"c" * SECTOR_BYTES
        lost += after[SECTOR_BYTES : 2 * SECTOR_BYTES] == bytes(SECTOR_BYTES)
    assert lost == 20


def test_errors_are_injected_as_often_as_asked_and_where_asked():
    disk, files = make()
    disk.fail("write", errno.EIO, prefix="/a", count=2)
    files.append("/b", b"x")
    for _ in range(2):
        with pytest.raises(OSError, match=r"\[Errno 5\]"):
            files.append("/a", b"x")
    files.append("/a", b"x")
    disk.full = True
    with pytest.raises(OSError, match=r"\[Errno 28\]"):
        files.append("/a", b"y")
    assert files.read("/a") == b"x"
    disk.clear_faults()
    files.append("/a", b"y")
    disk.fail("read", errno.EIO)
    with pytest.raises(OSError, match=r"\[Errno 5\]"):
        files.read("/a")
    assert files.read("/a") == b"xy"


def test_other_durable_things_live_on_the_disk_and_hear_of_its_crash():
    disk, _ = make()
    disk.store["raft"] = ["entry"]
    calls = []
    disk.on_crash.append(lambda rng: calls.append(rng.random()))
    disk.crash()
    assert disk.store == {"raft": ["entry"]}
    assert len(calls) == disk.crashes == 1
    disk.wipe()
    assert disk.store == {}


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 1000),
    steps=st.lists(
        st.one_of(
            st.tuples(st.just("write"), st.sampled_from("ab"), st.binary(max_size=1500)),
            st.tuples(st.just("append"), st.sampled_from("ab"), st.binary(max_size=1500)),
            st.tuples(st.just("rename"), st.sampled_from("ab"), st.sampled_from("ab")),
            st.tuples(st.just("remove"), st.sampled_from("ab"), st.just(b"")),
            st.tuples(st.just("crash"), st.just("a"), st.just(b"")),
        ),
        max_size=20,
    ),
)
def test_what_was_synced_with_its_directory_is_always_there(seed, steps):
    """A file whose last change was `write_atomic` survives a crash unchanged."""
    disk, files = make(seed)
    safe = {}
    for kind, name, extra in steps:
        path = f"/{name}"
        if kind == "write":
            files.write_atomic(path, extra)
            safe[path] = extra
        elif kind == "append":
            files.append(path, extra)
            safe.pop(path, None)
        elif kind == "crash":
            disk.crash()
            for each, content in safe.items():
                assert files.read(each) == content
        elif files.exists(path):
            if kind == "rename":
                files.rename(path, f"/{extra}")
                safe.pop(f"/{extra}", None)
            else:
                files.remove(path)
            safe.pop(path, None)


def test_a_lock_ends_with_its_holder():
    disk, dead = SimDisk(random.Random(1)), []
    first = SimFiles(disk, lambda: bool(dead))
    second = SimFiles(disk)
    first.lock("/lock")
    with pytest.raises(BlockingIOError):
        second.lock("/lock")
    dead.append(True)
    unlock = second.lock("/lock")
    unlock()
    second.lock("/lock")
