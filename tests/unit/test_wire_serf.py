"""Serf's bytes in both directions, against what the original wrote and sent."""

import contextlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pyconsul_agent.errors import DecodeError
from pyconsul_agent.structs.coordinate import VivaldiCoordinate
from pyconsul_agent.wire import serf
from pyconsul_agent.wire.msgpack import plain
from pyconsul_agent.wire.serf_snapshot import SnapshotState, render, replay


def test_node_filter_both_ways():
    item = serf.NodeFilter(names=("n2", "n3"))
    assert serf.encode_filter(item).hex() == "0092a26e32a26e33"
    assert serf.decode_filter(bytes.fromhex("0092a26e32a26e33")) == item


def test_meta_of_old_agents_is_the_role():
    assert serf.decode_tags(b"web") == {"role": "web"}
    assert serf.decode_tags(b"") == {"role": ""}


def test_consul_event_in_the_old_spec_is_taken_too():
    event = serf.ConsulEvent(id="i" * 40, name="deploy", payload=b"p")
    old = serf.pack(plain(event))
    assert old != serf.encode_consul_event(event)
    assert serf.decode_consul_event(old) == event


# --- refusals -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "",
        "0a80",  # unknown type
        "01",  # no body
        "01c1",  # reserved byte
        "0181a54c54696d65ff",  # negative Lamport time
        "0181a54c54696d65cb3ff0000000000000",  # float Lamport time
        "0481a4506f7274ce00010000",  # port 65536
        "0481ab52656c6179466163746f72cd0100",  # relay factor 256
        "0182a54c54696d",  # cut short
        "02ddffffffff",  # an array of 4 G elements
        "0281a64576656e7473ddffffffff",
        "0181dc000101",  # a list as key
        "0981a84465737441646472a178",  # address that is no map
    ],
)
def test_bytes_that_do_not_fit_are_refused(text):
    with pytest.raises(DecodeError):
        serf.decode(bytes.fromhex(text))


def test_leniency_of_the_original():
    assert serf.decode(bytes.fromhex("01c0")) == serf.JoinIntent()
    assert serf.decode(bytes.fromhex("0182a54c54696d6505a44e6f6465a162ffff")) == serf.JoinIntent(ltime=5, node="b")
    assert serf.decode(bytes.fromhex("0181a3466f6f01")) == serf.JoinIntent()
    assert serf.decode(bytes.fromhex("0181a44e6f6465c0")) == serf.JoinIntent()


def test_names_that_are_no_utf8_survive():
    data = bytes.fromhex("0182a54c54696d6505a44e6f6465a1ff")
    assert serf.encode(serf.decode(data)) == data


def test_unexpected_kind_is_refused():
    with pytest.raises(DecodeError):
        serf.decode_as(serf.PushPullState, serf.encode(serf.JoinIntent()))


def test_coordinate_of_another_version_is_refused():
    data = serf.encode_coordinate(VivaldiCoordinate(vec=(0.0,) * 8))
    with pytest.raises(DecodeError):
        serf.decode_coordinate(b"\x02" + data[1:])


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=80))
def test_any_bytes_decode_or_raise_decode_error(data):
    decoders = [serf.decode, serf.decode_filter, serf.decode_tags, serf.decode_coordinate, serf.decode_consul_event]
    for kind in range(10):
        for decode in decoders:
            with contextlib.suppress(DecodeError):
                decode(bytes([kind]) + data)
            with contextlib.suppress(DecodeError):
                decode(data)


# --- snapshot -----------------------------------------------------------------------------------------------------


def test_compacted_snapshot_says_the_same():
    state = SnapshotState({"a b": "10.0.0.1:1", "c": "[::1]:2"}, 5, 6, 7)
    assert replay(render(state), rejoin_after_leave=False) == state


@given(st.text(max_size=200))
def test_any_text_replays(text):
    replay(text, rejoin_after_leave=False)
