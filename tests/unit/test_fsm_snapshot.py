"""Snapshots of real servers load, come out as they went in, and bring the state that the log brings."""

import contextlib
import tarfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pyconsul_agent.errors import DecodeError
from pyconsul_agent.fsm.chunking import Assembler, ChunkInfo, decode_chunk_info
from pyconsul_agent.fsm.machine import StateMachine
from pyconsul_agent.fsm.snapshot import _parse
from pyconsul_agent.state.store import Store
from pyconsul_agent.structs.raft import LogEntry

VECTORS = Path(__file__).resolve().parents[2] / "conformance" / "vectors" / "raft"
SNAPSHOTS = ("snapA", "snapB", "snap_case_rename")


def stream_of(name):
    with tarfile.open(VECTORS / f"{name}.snap") as archive:
        return archive.extractfile("state.bin").read()


def machine(stream=None):
    fsm = StateMachine(Store(), lambda: 0.0)
    if stream is not None:
        fsm.restore([stream])()
    return fsm


def written(fsm):
    return b"".join(fsm.snapshot()())


def unordered(value):
    if isinstance(value, dict):
        return tuple(sorted((repr(key), unordered(item)) for key, item in value.items()))
    return tuple(map(unordered, value)) if isinstance(value, list) else value


def records(stream):
    return sorted(repr((kind, unordered(value))) for kind, value in _parse([stream]))


@pytest.mark.parametrize("name", SNAPSHOTS[:2])
def test_a_real_snapshot_is_written_again_record_for_record(name):
    stream = stream_of(name)
    assert records(written(machine(stream))) == records(stream)


def test_records_come_in_the_order_of_a_real_server():
    kinds = lambda stream: list(dict.fromkeys(kind for kind, _ in _parse([stream])))  # noqa: E731
    assert kinds(written(machine(stream_of("snapA")))) == kinds(stream_of("snapA"))


@pytest.mark.parametrize("name", SNAPSHOTS)
def test_a_round_trip_keeps_the_whole_state(name):
    fsm = machine(stream_of(name))
    assert machine(written(fsm)).state_digest() == fsm.state_digest()


def test_the_stream_may_arrive_in_any_pieces():
    stream = stream_of("snapB")
    fsm = machine()
    fsm.restore(stream[at : at + 7] for at in range(0, len(stream), 7))()
    assert fsm.state_digest() == machine(stream).state_digest()


def test_a_snapshot_with_two_spellings_of_a_node_loads_with_one():
    fsm = machine(stream_of("snap_case_rename"))
    spellings = {row.node for row in fsm.store.tables.nodes.scan()}
    assert {row.node for row in fsm.store.tables.services.scan()} <= spellings
    assert {row.node for row in fsm.store.tables.checks.scan()} <= spellings


def test_restored_index_rows_are_those_of_the_snapshot():
    rows = {value[b"Key"]: value[b"Value"] for kind, value in _parse([stream_of("snapA")]) if kind == 16}
    assert machine(stream_of("snapA")).store.tables.index.rows == rows


@pytest.mark.parametrize(
    "stream",
    [b"", b"\x80" + b"\x63\x80", stream_of("snapB")[:-3], b"\x81\xa9LastIndex\xa1x", b"\x80\x02\xa1a", b"\xc1"],
    ids=["empty", "unknown type", "cut", "header text", "wrong form", "not msgpack"],
)
def test_a_bad_snapshot_is_refused_and_changes_nothing(stream):
    fsm = machine(stream_of("snapA"))
    before = fsm.state_digest()
    with pytest.raises(DecodeError):
        fsm.restore([stream])()
    assert fsm.state_digest() == before


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=60), st.integers(0, 255))
def test_any_bytes_after_a_header_load_or_are_refused(junk, kind):
    with contextlib.suppress(DecodeError):
        machine().restore([b"\x80" + bytes([kind]) + junk])


def test_a_restore_wakes_every_watcher():
    from pyconsul_agent.state.watch import WatchSet

    fsm, woken, watch = machine(), [], WatchSet()
    watch.row("kvs", b"never written")
    fsm.store.watchers.register(watch, lambda: woken.append(1))
    fsm.restore([stream_of("snapB")])()
    assert woken == [1]


# --- chunks ---------------------------------------------------------------------------------------------------


def test_pieces_of_an_older_term_are_dropped():
    assembler = Assembler()
    assert assembler.add(ChunkInfo(1, 0, 2), 3, b"a") is None
    assert assembler.add(ChunkInfo(1, 1, 2), 4, b"b") is None
    assert assembler.add(ChunkInfo(1, 0, 2), 4, b"a") == b"ab"


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=40))
def test_any_bytes_are_chunk_info_or_refused(data):
    with contextlib.suppress(DecodeError):
        decode_chunk_info(data)


def test_the_rolling_digest_tells_apart_servers_that_applied_different_commands():
    from pyconsul_agent.structs.raft import LogEntry

    def applied(*bodies, base=None):
        fsm = machine(base)
        for index, body in enumerate(bodies, 100):
            fsm.apply(LogEntry(index=index, term=1, type=0, data=body))
        return fsm.digest()

    assert applied(b"\x01\x80", b"\x02\x80") == applied(b"\x01\x80", b"\x02\x80")
    assert applied(b"\x01\x80", b"\x02\x80") != applied(b"\x02\x80", b"\x01\x80")
    assert applied(base=stream_of("snapA")).base != applied(base=stream_of("snapB")).base


def test_blank_machine_has_the_digest_of_a_new_one():
    fsm = machine()
    fsm.apply(LogEntry(index=1, term=1, data=b"\x02x"))
    fsm.blank()()
    assert fsm.digest() == machine().digest()
