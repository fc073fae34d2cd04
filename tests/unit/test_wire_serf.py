"""Serf's bytes in both directions, against what the original wrote and sent."""

import contextlib
import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pyconsul_agent.errors import DecodeError
from pyconsul_agent.structs.coordinate import VivaldiCoordinate
from pyconsul_agent.wire import serf
from pyconsul_agent.wire.gossip import PushPull, UserMessage, decode_message
from pyconsul_agent.wire.gossip_packet import open_packet_body
from pyconsul_agent.wire.gossip_stream import decode_stream
from pyconsul_agent.wire.msgpack import plain
from pyconsul_agent.wire.serf_snapshot import SnapshotState, render, replay

VECTORS = Path(__file__).parents[2] / "conformance/vectors/gossip"


def load(name):
    return json.loads((VECTORS / name).read_text())["vectors"]


def of_layer(layer):
    return [v for v in load("messages.json") if v["layer"] == layer]


def shown(value):
    """Plain wire values the way the vectors show them."""
    if isinstance(value, bytes):
        return {"hex": value.hex()}
    if isinstance(value, dict):
        return {k: shown(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [shown(v) for v in value]
    return value


def fields_of(message):
    return {k: v for k, v in shown(plain(message)).items() if k}


def by_name(vector):
    return vector["name"]


@pytest.mark.parametrize("vector", of_layer("serf"), ids=by_name)
def test_serf_message_both_ways(vector):
    data, wanted = bytes.fromhex(vector["hex"]), dict(vector["decoded"])
    assert data[0] == wanted.pop("type")
    if wanted.get("nil"):
        assert serf.decode_conflict(data) is None
        assert serf.encode_conflict(None) == data
        return
    message = serf.decode(data)
    inner = wanted.pop("inner", None)
    assert fields_of(message) == wanted
    if inner is not None:
        assert message.inner.hex() == inner
    assert serf.encode(message) == data


@pytest.mark.parametrize("vector", of_layer("filter"), ids=by_name)
def test_filter_both_ways(vector):
    data = bytes.fromhex(vector["hex"])
    item = serf.decode_filter(data)
    assert fields_of(item) == {k: v for k, v in vector["decoded"].items() if k != "filter"}
    assert serf.encode_filter(item) == data


def test_node_filter_both_ways():
    item = serf.NodeFilter(names=("n2", "n3"))
    assert serf.encode_filter(item).hex() == "0092a26e32a26e33"
    assert serf.decode_filter(bytes.fromhex("0092a26e32a26e33")) == item


@pytest.mark.parametrize("vector", of_layer("meta"), ids=by_name)
def test_tags_both_ways(vector):
    data = bytes.fromhex(vector["hex"])
    assert serf.decode_tags(data) == vector["decoded"]["tags"]
    assert serf.encode_tags(vector["decoded"]["tags"]) == data


def test_meta_of_old_agents_is_the_role():
    assert serf.decode_tags(b"web") == {"role": "web"}
    assert serf.decode_tags(b"") == {"role": ""}


@pytest.mark.parametrize("vector", of_layer("consul-event"), ids=by_name)
def test_consul_event_both_ways(vector):
    data = bytes.fromhex(vector["hex"])
    event = serf.decode_consul_event(data)
    assert fields_of(event) == vector["decoded"]
    assert serf.encode_consul_event(event) == data


def test_consul_event_in_the_old_spec_is_taken_too():
    event = serf.ConsulEvent(id="i" * 40, name="deploy", payload=b"p")
    old = serf.pack(plain(event))
    assert old != serf.encode_consul_event(event)
    assert serf.decode_consul_event(old) == event


CAPTURED = load("captured_serf.json") + load("captured_consul.json")
SERF_PARTS = [v for v in CAPTURED if any("serf" in m for m in v["decoded"].get("messages", []))]
USER_STATES = [v for v in CAPTURED if v["decoded"].get("user")]
TAGGED = [v for v in CAPTURED if any("tags" in m for m in v["decoded"].get("messages", []))]
COORDINATES = [v for v in CAPTURED if any("coordinate" in m for m in v["decoded"].get("messages", []))]


def parts_of(vector):
    data = bytes.fromhex(vector["hex"])
    wanted = vector["decoded"]["messages"]
    parts = [decode_message(part) for part in open_packet_body(data).messages]
    assert len(parts) == len(wanted)
    return zip(parts, wanted, strict=True)


@pytest.mark.parametrize("vector", [v for v in SERF_PARTS if v["layer"] == "packet"], ids=by_name)
def test_captured_serf_message_both_ways(vector):
    for part, wanted in parts_of(vector):
        if "serf" not in wanted:
            continue
        assert isinstance(part, UserMessage)
        message = serf.decode(part.data)
        assert wanted["serf"]["serf_type"] == message.TYPE
        if isinstance(message, serf.Relay):
            assert fields_of(message) == wanted["serf"]["header"]
            assert fields_of(serf.decode(message.inner)) == wanted["serf"]["inner"]["fields"]
        elif isinstance(message, serf.QueryResponse) and message.payload and "payload" in wanted["serf"]:
            assert {"hex": message.payload.hex()} == wanted["serf"]["fields"]["Payload"]
        else:
            assert fields_of(message) == wanted["serf"]["fields"]
        assert serf.encode(message) == part.data


@pytest.mark.parametrize("vector", USER_STATES, ids=by_name)
def test_captured_user_state(vector):
    stream = decode_stream(bytes.fromhex(vector["hex"]))
    assert isinstance(stream, PushPull)
    state = serf.decode_as(serf.PushPullState, stream.user_state)
    got = fields_of(state)
    slots = got.pop("Events")
    wanted = dict(vector["decoded"]["user"]["fields"])
    events = wanted.pop("Events")
    assert got == wanted
    assert len(slots) == events["len"]
    assert {str(i): slot for i, slot in enumerate(slots) if slot} == events["set"]
    assert serf.decode(serf.encode(state)) == state


@pytest.mark.parametrize("vector", TAGGED, ids=by_name)
def test_captured_tags(vector):
    for part, wanted in parts_of(vector):
        if "tags" in wanted:
            assert serf.decode_tags(part.meta) == wanted["tags"]
            assert serf.decode_tags(serf.encode_tags(wanted["tags"])) == wanted["tags"]


@pytest.mark.parametrize("vector", COORDINATES, ids=by_name)
def test_captured_coordinate_both_ways(vector):
    for part, wanted in parts_of(vector):
        if "coordinate" in wanted:
            coordinate = serf.decode_coordinate(part.payload)
            assert {"version": 1, **fields_of(coordinate)} == wanted["coordinate"]
            assert serf.encode_coordinate(coordinate) == part.payload


def test_there_are_captured_messages_to_test():
    assert (len(SERF_PARTS) > 30, len(USER_STATES) > 15, len(TAGGED) > 10, len(COORDINATES) > 10) == (True,) * 4


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


@pytest.mark.parametrize("vector", load("snapshot.json"), ids=by_name)
def test_snapshot_replay(vector):
    state = replay(vector["file"], rejoin_after_leave=vector["rejoin_after_leave"])
    assert {
        "alive": state.alive,
        "clock": state.clock,
        "event_clock": state.event_clock,
        "query_clock": state.query_clock,
    } == vector["decoded"]


def test_compacted_snapshot_says_the_same():
    state = SnapshotState({"a b": "10.0.0.1:1", "c": "[::1]:2"}, 5, 6, 7)
    assert replay(render(state), rejoin_after_leave=False) == state


@given(st.text(max_size=200))
def test_any_text_replays(text):
    replay(text, rejoin_after_leave=False)
