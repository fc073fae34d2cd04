"""Subscription messages and gRPC framing: the recorded bytes both ways, and any bytes at all."""

import contextlib
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyconsul_agent.errors import DecodeError
from pyconsul_agent.structs.catalog import (
    ConnectProxyConfig,
    ExposeConfig,
    ExposePath,
    MeshGatewayConfig,
    Node,
    NodeService,
    ServiceAddress,
    ServiceConnect,
    TransparentProxyConfig,
    Upstream,
    Weights,
)
from pyconsul_agent.structs.health import CheckServiceNode, HealthCheck, HealthCheckDefinition
from pyconsul_agent.structs.subscribe import ServiceHealthUpdate, SubscribeEvent, SubscribeRequest
from pyconsul_agent.wire import grpc
from pyconsul_agent.wire.grpc import GRPCError, MessageCutter, Status
from pyconsul_agent.wire.protobuf import FreeForm, Message, bytes_field, number_field, varint
from pyconsul_agent.wire.subscribe import (
    EVENT,
    REQUEST,
    encode_deregistered,
    encode_end_of_snapshot,
    encode_events,
    encode_new_snapshot,
    encode_registered,
)

VECTORS = Path(__file__).resolve().parents[2] / "conformance" / "vectors" / "rpc" / "grpc-subscribe.json"
FRAMES = json.loads(VECTORS.read_text())["frames"]
MESSAGES = [frame for frame in FRAMES if "grpc_message_hex" in frame]


@pytest.mark.parametrize("frame", MESSAGES, ids=lambda frame: f"{frame['dir'][:6]}-{frame['grpc_message_hex'][:12]}")
def test_recorded_messages_come_back_as_the_same_bytes(frame):
    data = bytes.fromhex(frame["grpc_message_hex"])
    codec = REQUEST if frame["dir"] == "client_to_server" else EVENT
    assert codec.encode(codec.decode(data)) == data


def test_recorded_events_are_built_from_their_instances():
    events = [frame for frame in MESSAGES if frame["dir"] == "server_to_client"]
    assert len(events) == 9
    for frame in events:
        data = bytes.fromhex(frame["grpc_message_hex"])
        event = EVENT.decode(data)
        assert event.index == frame["message"]["Index"]
        if event.end_of_snapshot:
            assert encode_end_of_snapshot(event.index) == data
            continue
        updates = [event] if event.event_batch is None else list(event.event_batch.events)
        parts = []
        for each in updates:
            health = each.service_health
            build = encode_deregistered if health.op else encode_registered
            parts.append(build(health.check_service_node))
        assert encode_events(event.index, parts) == data


def test_recorded_instance_has_the_recorded_fields():
    event = EVENT.decode(bytes.fromhex(MESSAGES[3]["grpc_message_hex"]))
    instance = event.service_health.check_service_node
    assert (instance.node.node, instance.node.address, instance.node.modify_index) == ("ext1", "10.1.0.1", 19)
    assert (instance.service.id, instance.service.port, instance.service.tags) == ("redis1", 8000, ("primary", "v1"))
    assert instance.service.weights == Weights(passing=10, warning=1)
    assert [check.check_id for check in instance.checks] == ["c1", "c2", "service:redis1"]


FULL = CheckServiceNode(
    node=Node(id="i", node="n", address="a", datacenter="d", tagged_addresses={"lan": "1", "": ""}, meta={"k": "v"}),
    service=NodeService(
        kind="connect-proxy", id="web-proxy", service="web-proxy", tags=("é", ""), port=-1,
        tagged_addresses={"wan": ServiceAddress(address="x", port=7), "zero": ServiceAddress()},
        meta={"a": ""}, weights=Weights(), enable_tag_override=True, socket_path="/s",
        connect=ServiceConnect(native=True), locally_registered_as_sidecar=True,
        proxy=ConnectProxyConfig(
            destination_service_name="web", config={"a": [1.0, None, {"b": "c"}], "t": True, "f": False},
            upstreams=(Upstream(destination_name="db", local_bind_port=9, config={}),),
            mesh_gateway=MeshGatewayConfig(mode="local"),
            expose=ExposeConfig(checks=True, paths=(ExposePath(path="/m", listener_port=1),)),
            transparent_proxy=TransparentProxyConfig(outbound_listener_port=3, dialed_directly=True),
        ),
    ),
    checks=(
        HealthCheck(
            check_id="c", output="\udcff", exposed_port=5,
            definition=HealthCheckDefinition(header={"H": ("1", "2"), "none": ()}, interval=1_500_000_000, ttl=-1),
        ),
    ),
)  # fmt: skip


def test_every_field_comes_back():
    event = SubscribeEvent(index=2**64 - 1, service_health=ServiceHealthUpdate(check_service_node=FULL))
    assert EVENT.decode(EVENT.encode(event)) == event


def test_unknown_fields_are_skipped():
    more = number_field(99, 7) + bytes_field(98, b"x") + varint(97 << 3 | 1) + bytes(8) + varint(96 << 3 | 5) + bytes(4)
    assert REQUEST.decode(more + REQUEST.encode(SubscribeRequest(key="web"))) == SubscribeRequest(key="web")


@pytest.mark.parametrize(
    "data",
    [
        b"\x08",  # cut off
        b"\x08" + b"\xff" * 10 + b"\x01",  # too long a number
        b"\x08" + b"\xff" * 9 + b"\x7f",  # above 64 bits
        b"\x12\x05ab",  # a length beyond the end
        b"\x12\xff\xff\xff\xff\x0f",
        b"\x0b\x0c",  # a group
        b"\x00\x00",  # field 0
        b"\x0a\x00",  # a text where a number belongs
        b"\x0d\x00",
    ],
)
def test_malformed_requests_are_refused(data):
    with pytest.raises(DecodeError):
        REQUEST.decode(data)


def test_fields_without_end_are_refused():
    with pytest.raises(DecodeError, match="too many"):
        EVENT.decode(bytes_field(4, b"\x0a\x00" * 300_000))


def test_values_without_end_in_depth_are_refused():
    value = b""
    for _ in range(200):
        value = bytes_field(6, bytes_field(1, value))
    form = Message(dict, FreeForm(5, "config"))
    with pytest.raises(DecodeError, match="deep"):
        form.decode(bytes_field(5, bytes_field(1, bytes_field(2, value))))


@given(st.binary(max_size=400))
def test_any_bytes_decode_or_are_refused(data):
    for codec in (REQUEST, EVENT):
        try:
            value = codec.decode(data)
        except DecodeError:
            continue
        assert codec.decode(codec.encode(value)) == value or b"\x29" in data  # a NaN is not itself


@given(st.binary(max_size=300), st.integers(0, 300), st.integers(0, 255))
def test_damaged_recordings_decode_or_are_refused(_, at, value):
    data = bytearray.fromhex(MESSAGES[3]["grpc_message_hex"])
    data[at % len(data)] = value
    with contextlib.suppress(DecodeError):
        EVENT.decode(bytes(data))


def test_new_snapshot_is_told_without_an_index():
    assert EVENT.decode(encode_new_snapshot()) == SubscribeEvent(new_snapshot_to_follow=True)


# --- framing ----------------------------------------------------------------------------------------------------


@given(st.lists(st.binary(max_size=40), max_size=8), st.integers(1, 30))
def test_messages_are_cut_from_a_body_in_any_pieces(messages, step):
    body = b"".join(grpc.encode_message(message) for message in messages)
    cutter, found = MessageCutter(), []
    for at in range(0, len(body), step):
        found += cutter.feed(body[at : at + step])
    assert found == messages
    assert cutter.buffered == 0


@pytest.mark.parametrize(
    ("data", "status"),
    [(b"\x01\0\0\0\0", Status.UNIMPLEMENTED), (b"\0\xff\xff\xff\xff", Status.RESOURCE_EXHAUSTED)],
)
def test_compressed_and_giant_messages_are_refused(data, status):
    with pytest.raises(GRPCError) as refusal:
        MessageCutter().feed(data)
    assert refusal.value.status == status


@given(st.text(max_size=50))
def test_status_texts_come_back(text):
    sent = grpc.encode_status_text(text)
    assert sent.isascii() and sent.isprintable()
    assert grpc.decode_status({"grpc-status": "10", "grpc-message": sent}) == (
        10,
        text.encode("utf-8", "replace").decode(),
    )


@pytest.mark.parametrize("value", ["", "x", "-1", "1234567", "²"])
def test_trailers_without_a_status_are_refused(value):
    with pytest.raises(DecodeError):
        grpc.decode_status({"grpc-status": value})
