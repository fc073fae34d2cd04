import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyconsul_agent.errors import DecodeError
from pyconsul_agent.structs.base import GoTime
from pyconsul_agent.structs.catalog import NodeService, Weights
from pyconsul_agent.structs.kv import DirEntry
from pyconsul_agent.structs.raft import LogEntry
from pyconsul_agent.structs.requests import KVSRequest, QueryMeta, RegisterRequest
from pyconsul_agent.wire import msgpack, written_out
from pyconsul_agent.wire.gotime import decode_time, encode_time


def test_keys_are_sorted_and_all_present():
    assert list(msgpack.unpack(msgpack.encode(DirEntry(key=b"a")))) == [
        b"CreateIndex", b"Flags", b"Key", b"LockIndex", b"ModifyIndex", b"Session", b"Value",
    ]  # fmt: skip


def test_long_text_and_bytes_are_raw16_never_str8_or_bin():
    encoded = msgpack.encode(DirEntry(key=b"k" * 40, value=b"v" * 300))
    assert b"\xda\x00\x28" + b"k" * 40 in encoded
    assert b"\xda\x01\x2c" + b"v" * 300 in encoded


def test_nil_and_empty_are_kept_apart():
    for value in (None, b""):
        assert msgpack.decode(DirEntry, msgpack.encode(DirEntry(value=value))).value == value
    for tags in (None, (), ("a",)):
        assert msgpack.decode(NodeService, msgpack.encode(NodeService(tags=tags))).tags == tags


def test_unknown_keys_are_skipped_and_missing_ones_zero():
    assert msgpack.decode(DirEntry, msgpack.pack({"Key": b"a", "Later": [1, {"x": 2}]})) == DirEntry(key=b"a")


def test_nil_and_empty_array_are_the_zero_struct():
    assert msgpack.build(QueryMeta, None) == QueryMeta()
    assert msgpack.build(QueryMeta, []) == QueryMeta()


def test_nested_structs_round_trip():
    request = RegisterRequest(
        node="n", service=NodeService(id="a", tags=("x",), weights=Weights(passing=1, warning=1), meta={"k": "v"})
    )
    assert msgpack.decode(RegisterRequest, msgpack.encode(request)) == request


def test_text_that_is_not_utf8_keeps_its_bytes():
    encoded = msgpack.pack({"Session": b"\xff\xfe"})
    assert msgpack.unpack(msgpack.encode(msgpack.decode(DirEntry, encoded)))[b"Session"] == b"\xff\xfe"


@pytest.mark.parametrize("plain", [{"Flags": 1.5}, {"Session": 5}, {"Value": 5}, {"LockIndex": b"1"}, 7, "text"])
def test_wrong_types_are_refused(plain):
    with pytest.raises(DecodeError):
        msgpack.decode(DirEntry, msgpack.pack(plain))


@pytest.mark.parametrize("data", ["dd7fffffff", "df7fffffff", "db7fffffff", "c67fffffff", "91" * 2000, "", "8201"])
def test_declared_lengths_are_not_believed(data):
    with pytest.raises(DecodeError):
        msgpack.unpack(bytes.fromhex(data))


@given(st.binary(max_size=200))
def test_any_bytes_decode_or_raise_decode_error(data):
    with contextlib.suppress(DecodeError):
        msgpack.decode(KVSRequest, data)


def test_go_time_forms():
    assert encode_time(GoTime()).hex() == "01" + "00" * 12 + "ffff"
    moment = GoTime(1614834367, 89, -1)
    assert decode_time(encode_time(moment)) == moment
    assert decode_time(b"") == GoTime()
    with pytest.raises(DecodeError):
        decode_time(b"\x03" + bytes(14))


# --- structs that are built by functions of their own ---------------------------------------------------------

SCALARS = st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False) | st.binary()
USUAL = st.integers(0, 2**63) | st.binary(max_size=20)


def outcome(build, value):
    try:
        return build(value)
    except DecodeError as error:
        return str(error)


def test_what_is_written_out_is_found():
    assert {form.__name__ for form in written_out.QUICK} == msgpack.WRITTEN_OUT


@pytest.mark.parametrize("form", written_out.QUICK)
def test_what_is_written_out_takes_the_map_that_is_sent(form):
    assert written_out.QUICK[form](msgpack.unpack(msgpack.encode(form()))) == form()


@given(st.data(), st.sampled_from(list(written_out.QUICK)))
def test_what_is_written_out_equals_the_loop_over_fields(data, form):
    value = msgpack.unpack(msgpack.encode(form()))
    for part in (value, value.get(b"DirEnt", {})):
        for key in data.draw(st.lists(st.sampled_from(list(part)), max_size=4) if part else st.just([])):
            part[key] = data.draw(st.sampled_from((type(part[key])(), b"\xff")) | USUAL | SCALARS)
    if data.draw(st.booleans()):
        value.pop(data.draw(st.sampled_from(list(value))))
    if data.draw(st.booleans()):
        value[b"Later"] = 1
    assert outcome(msgpack.fields_builder(form), value) == outcome(msgpack.general_builder(form), value)


def test_each_field_that_is_written_out_goes_where_it_belongs():
    entry = DirEntry(lock_index=1, key=b"k", flags=2, value=b"v", session="s", create_index=3, modify_index=4)
    moment = GoTime(1614834367, 89, -1)
    for value in (
        entry,
        KVSRequest(datacenter="d", op="o", dir_ent=entry, token="t"),
        LogEntry(index=1, term=2, type=3, data=b"d", extensions=b"e", appended_at=moment),
    ):
        assert written_out.QUICK[type(value)](msgpack.unpack(msgpack.encode(value))) == value
