"""The codec of the legacy RPC: its stream, its limits, its leniency. Recorded bytes: conformance/vectors_ipc.py."""

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conformance.ipc_conversations import replay
from pyconsul_agent.errors import DecodeError
from pyconsul_agent.wire import ipc

CONTENT = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.binary(max_size=300) | st.text(max_size=300),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=5), inner, max_size=5),
    max_leaves=20,
)


def values(data, *, cut=None):
    """Every value of a stream that arrives in pieces of `cut` bytes."""
    stream, found = ipc.Messages(), []
    for at in range(0, len(data), cut or len(data) or 1):
        stream.feed(data[at : at + (cut or len(data))])
        while (value := stream.next_value()) is not None:
            found.append(value[0])
    return found


def test_recorded_conversations_are_read_written_and_answered_byte_for_byte():
    result = replay()
    assert not result.failed, result.failed[:3]
    assert len(result.passed) == 1377
    assert len(result.skipped) == 9


@given(st.lists(CONTENT, max_size=4), st.integers(1, 7))
@settings(max_examples=60, deadline=None)
def test_a_stream_is_cut_at_the_ends_of_messages_however_it_arrives(contents, cut):
    data = b"".join(msgpack.packb(content) for content in contents)
    wanted = [msgpack.unpackb(msgpack.packb(content), raw=True, strict_map_key=False) for content in contents]
    assert values(data, cut=cut) == values(data) == wanted


@given(st.binary(max_size=400))
@settings(max_examples=150, deadline=None)
def test_any_bytes_give_values_or_a_decode_error(data):
    stream = ipc.Messages(bytes_max=200, values_max=50)
    stream.feed(data)
    try:
        while (value := stream.next_value()) is not None:
            for form in (ipc.Join, ipc.Stop, ipc.KeyOperation, ipc.Members, ipc.ResponseHeader):
                try:
                    ipc.decode_body(form, value[0])
                except DecodeError:
                    continue
            ipc.decode_header(value[0], ipc.RequestHeader())
    except DecodeError:
        return
    assert len(stream) <= 200


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (bytes.fromhex("c1"), "does not belong here"),
        (bytes.fromhex("d40102"), "does not belong here"),
        (bytes.fromhex("dd7fffffff"), "more than"),
        (bytes.fromhex("df7fffffff"), "more than"),
        (bytes.fromhex("c67fffffff"), "longer than"),
        (b"\x91" * 100, "deeper than"),
        (b"\xdc\x20\x00" * 3, "more than"),
        (bytes.fromhex("818001"), "malformed"),
    ],
)
def test_a_message_that_claims_too_much_is_refused_before_it_has_arrived(data, reason):
    with pytest.raises(DecodeError, match=reason):
        values(data)


def test_a_message_may_have_a_mebibyte_and_no_byte_more():
    largest = msgpack.packb(b"x" * (ipc.MESSAGE_BYTES_MAX - 5))
    assert len(largest) == ipc.MESSAGE_BYTES_MAX
    assert values(largest, cut=65536) == [b"x" * (ipc.MESSAGE_BYTES_MAX - 5)]
    with pytest.raises(DecodeError, match="longer than"):
        values(msgpack.packb(b"x" * (ipc.MESSAGE_BYTES_MAX - 4)), cut=65536)


def header(value, before=None):
    return ipc.decode_header(values(msgpack.packb(value))[0], before or ipc.RequestHeader())


def test_a_header_without_seq_keeps_the_one_before():
    before = ipc.RequestHeader(command="stats", seq=41, token="t")
    assert header({"Command": "stop"}, before) == ipc.RequestHeader(command="stop", seq=41, token="t")
    assert header({"Command": "stop", "Seq": None}, before).seq == 0
    assert header(["stop"], before) == ipc.RequestHeader(command="stop", seq=41, token="t")
    assert header(None, before) == ipc.RequestHeader()


@pytest.mark.parametrize("value", [{"Seq": -1}, {"Seq": "1"}, {"Command": 7}, 71, "handshake", {"Seq": 1.0}])
def test_a_header_of_the_wrong_kind_is_refused(value):
    with pytest.raises(DecodeError):
        header(value)


@pytest.mark.parametrize(
    ("form", "value"),
    [
        (ipc.Handshake, {"Version": 2**31}),
        (ipc.KeyOperation, {"RelayFactor": 256}),
        (ipc.Stop, {"Stop": -1}),
        (ipc.Join, {"Existing": "10.0.0.1"}),
        (ipc.Join, 5),
    ],
)
def test_a_body_of_the_wrong_kind_is_refused(form, value):
    with pytest.raises(DecodeError):
        ipc.decode_body(form, values(msgpack.packb(value))[0])


def test_bodies_may_be_arrays_and_nil_and_have_bytes_for_text():
    assert ipc.decode_body(ipc.Join, [[b"a", b"b"], True, 7]) == ipc.Join(existing=("a", "b"), wan=True)
    assert ipc.decode_body(ipc.Join, None) == ipc.Join()
    assert ipc.decode_body(ipc.ForceLeave, {b"Node": b"n\xff", b"Other": 1}) == ipc.ForceLeave(node="n\udcff")


def test_long_text_uses_str8_and_addresses_use_bin8():
    assert ipc.encode(ipc.LogRecord(log="x" * 40)).hex().startswith("81a34c6f67d928")
    assert "a441646472c4047f000001" in ipc.encode(ipc.MemberRow(address=b"\x7f\0\0\1")).hex()
    assert ipc.encode(ipc.ResponseHeader(seq=1)).hex() == "82a54572726f72a0a353657101"
