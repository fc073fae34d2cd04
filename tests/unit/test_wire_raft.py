import base64
import contextlib
import gzip
import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pyconsul_agent.errors import DecodeError
from pyconsul_agent.structs.raft import (
    AppendEntriesRequest,
    AppendEntriesResponse,
    Configuration,
    EntryType,
    InstallSnapshotRequest,
    LogEntry,
    Server,
    Suffrage,
    TimeoutNowRequest,
)
from pyconsul_agent.wire import msgpack, raft

VECTORS = Path(__file__).resolve().parents[2] / "conformance" / "vectors" / "raft"


def vectors(name):
    return json.loads((VECTORS / name).read_text())


def decode_all(data, step=None):
    """Every request of `data`, fed `step` bytes at a time; (requests, bytes left)."""
    decoder = raft.RequestDecoder()
    requests = []
    for at in range(0, len(data), step or len(data)):
        decoder.feed(data[at : at + (step or len(data))])
        while (request := decoder.next()) is not None:
            requests.append(request)
    return requests, decoder


def decode_reply(data, request, step=None):
    decoder = raft.ReplyDecoder()
    reply = None
    for at in range(0, len(data), step or len(data)):
        assert reply is None, "complete before its last byte"
        decoder.feed(data[at : at + (step or len(data))])
        reply = decoder.next(request)
    assert not decoder.pending
    return reply


TRANSPORT = vectors("transport.json")
REQUEST_BY_RESPONSE = {"append": 0, "unexpected": 1, "vote": 1, "snapshot": 2}


@pytest.mark.parametrize("case", [c for c in TRANSPORT if c["direction"] == "request"], ids=lambda c: c["name"])
@pytest.mark.parametrize("step", [None, 1])
def test_request_vector_decodes_and_encodes_to_the_same_bytes(case, step):
    data = bytes.fromhex(case["hex"])
    (request,), decoder = decode_all(data, step)
    assert not decoder.pending
    assert raft.REQUEST_TYPES.index(type(request)) == case["rpc_type"]
    assert raft.encode_request(request) == data
    assert request.protocol_version == case["go_struct"]["ProtocolVersion"]
    if isinstance(request, AppendEntriesRequest):
        assert request.term == case["go_struct"]["Term"]
        assert request.leader == base64.b64decode(case["go_struct"]["Leader"])


@pytest.mark.parametrize("case", [c for c in TRANSPORT if c["direction"] == "response"], ids=lambda c: c["name"])
@pytest.mark.parametrize("step", [None, 1])
def test_reply_vector_decodes_and_encodes_to_the_same_bytes(case, step):
    data = bytes.fromhex(case["hex"])
    form = raft.REQUEST_TYPES[REQUEST_BY_RESPONSE[case["name"].split()[0]]]
    error, response = decode_reply(data, form, step)
    assert error == case["error"]
    assert raft.encode_reply(error, response) == data


def test_snapshot_vector_hands_over_the_bytes_behind_the_request():
    (case,) = [c for c in TRANSPORT if c.get("stream_after_hex")]
    stream = bytes.fromhex(case["stream_after_hex"])
    decoder = raft.RequestDecoder()
    decoder.feed(bytes.fromhex(case["hex"]) + stream[:5])
    request = decoder.next()
    assert isinstance(request, InstallSnapshotRequest)
    assert request.size == len(stream)
    assert raft.decode_peers(request.peers).servers[0].address == "10.0.0.1:8300"
    assert raft.decode_configuration(request.configuration).servers == (Server(id="id-a", address="10.0.0.1:8300"),)
    assert decoder.take(request.size) == stream[:5]
    decoder.feed(stream[5:] + b"\x03\x80")
    assert decoder.take(request.size - 5) == stream[5:]
    assert decoder.next() == TimeoutNowRequest()


CONVERSATIONS = vectors("conversations_c1.json")


@pytest.mark.parametrize("number", range(len(CONVERSATIONS)))
def test_recorded_conversation_decodes_and_encodes_to_the_same_bytes(number):
    messages = CONVERSATIONS[number]["messages"]
    stream = b""
    for message in messages:
        stream += bytes.fromhex(message["request_hex"])
        if "snapshot_gz_b64" in message:
            stream += gzip.decompress(base64.b64decode(message["snapshot_gz_b64"]))
    decoder = raft.RequestDecoder()
    decoder.feed(stream)
    for message in messages:
        request = decoder.next()
        assert raft.encode_request(request).hex() == message["request_hex"]
        assert type(request).__name__ == message["rpc"] + "Request"
        if "snapshot_gz_b64" in message:
            assert len(decoder.take(request.size)) == request.size == message["snapshot_len"]
        if message.get("reply_hex"):
            error, response = decode_reply(bytes.fromhex(message["reply_hex"]), type(request))
            assert error == message["reply_error"]
            assert raft.encode_reply(error, response).hex() == message["reply_hex"]
    assert not decoder.pending


def entry_data(row):
    data = row["data"]
    if data is None:
        return None
    if "hex" in data:
        return bytes.fromhex(data["hex"])
    fill = bytes([data["fill_byte"]])
    return bytes.fromhex(data["prefix_hex"]) + fill * data["fill_count"] + bytes.fromhex(data["suffix_hex"])


def test_log_vector_goes_both_ways():
    rows = vectors("log_c1.json")
    entries = []
    for row in rows:
        extensions = None if row["extensions_hex"] is None else bytes.fromhex(row["extensions_hex"])
        data = entry_data(row)
        plain = {
            "AppendedAt": bytes.fromhex(row["appended_at_hex"]),
            "Data": data,
            "Extensions": extensions,
            "Index": row["index"],
            "Term": row["term"],
            "Type": row["log_type"],
        }
        packed = msgpack.pack(plain)
        entry = raft.decode_entry(packed)
        assert (entry.index, entry.term, entry.type, entry.data) == (row["index"], row["term"], row["log_type"], data)
        assert raft.encode_entry(entry) == packed
        if entry.type == EntryType.CONFIGURATION:
            assert raft.encode_configuration(raft.decode_configuration(data)) == data
        entries.append(entry)
    assert len(entries) == 446
    batch = tuple(entries[:64])
    assert raft.decode_entries(raft.encode_entries(batch)) == batch


def test_chunk_info_vectors_go_both_ways():
    cases = [case for case in vectors("chunking.json") if "op_num" in case]
    assert len(cases) == 3
    for case in cases:
        data = bytes.fromhex(case["hex"])
        info = raft.ChunkInfo(
            int(case["op_num"]), case["sequence_num"], case["num_chunks"], bytes.fromhex(case["next_extensions_hex"])
        )
        assert raft.decode_chunk_info(data) == info
        assert raft.encode_chunk_info(info) == data


def test_configuration_keeps_order_suffrage_and_ids():
    servers = (Server(suffrage=Suffrage.NONVOTER, id="b", address="b:1"), Server(id="a", address="a:1"))
    configuration = Configuration(servers=servers)
    assert raft.decode_configuration(raft.encode_configuration(configuration)) == configuration
    assert raft.decode_peers(raft.encode_peers(configuration)).servers == (Server(id="a:1", address="a:1"),)


def test_entry_of_an_old_server_without_time_and_extensions_decodes():
    data = msgpack.pack({"Data": b"x", "Index": 1, "Term": 1, "Type": 0})
    assert raft.decode_entry(data) == LogEntry(index=1, term=1, data=b"x")


def test_unknown_type_byte_is_refused():
    decoder = raft.RequestDecoder()
    decoder.feed(b"\x05\x80")
    with pytest.raises(DecodeError, match="unknown raft RPC type 5"):
        decoder.next()


@pytest.mark.parametrize(
    "body",
    [
        b"\x81\xa7Entries\xdd\xff\xff\xff\xff",
        b"\x81\xa7Entries" + b"\x91" * 100,
        b"\xdf\xff\xff\xff\xff",
        b"\x81\xa6Leader\xdb\xff\xff\xff\xff",
        b"\x81\xc1",
        b"\x81\xa4Term\xcf" + b"\xff" * 8,
        b"\x81\xa4Term\xd3" + b"\xff" * 8,
        b"\x81\xa4Term\xa1x",
        b"\x81\xa7Entries\x91\x81\xa5Index\xff",
        b"\x81\xa7Entries\x91\x81\xa4Type\xcd\x01\x00",
    ],
    ids=["4G entries", "deep", "4G pairs", "4G text", "not msgpack", "2^64-1", "-1", "text", "index", "type"],
)
def test_lying_request_is_refused_at_once(body):
    decoder = raft.RequestDecoder()
    decoder.feed(b"\x00" + body)
    with pytest.raises(DecodeError):
        decoder.next()


def test_message_over_the_limit_is_refused_before_it_is_complete():
    decoder = raft.RequestDecoder(bytes_max=1000)
    decoder.feed(b"\x00\x81\xa6Leader\xda\x04\x00")
    with pytest.raises(DecodeError, match="over 1000 bytes"):
        decoder.next()


@given(st.binary(max_size=200), st.integers(1, 50))
@settings(max_examples=100, deadline=None)
def test_any_bytes_decode_or_raise_decode_error(data, step):
    with contextlib.suppress(DecodeError):
        decode_all(b"\x00" + data, step)
    with contextlib.suppress(DecodeError):
        decoder = raft.ReplyDecoder()
        decoder.feed(data)
        decoder.next(AppendEntriesRequest)
    for decode in (raft.decode_entry, raft.decode_configuration, raft.decode_peers, raft.decode_chunk_info):
        with contextlib.suppress(DecodeError):
            decode(data)


@given(st.lists(st.sampled_from([c["hex"] for c in TRANSPORT if c["direction"] == "request"]), min_size=1, max_size=5))
@settings(max_examples=30, deadline=None)
def test_requests_back_to_back_come_out_one_by_one_however_they_are_cut(texts):
    data = b"".join(bytes.fromhex(text) for text in texts)
    whole, _ = decode_all(data)
    assert len(whole) == len(texts)
    assert decode_all(data, 7)[0] == whole


def test_reply_of_a_successful_append_is_two_objects():
    reply = raft.encode_reply("", AppendEntriesResponse(success=True))
    assert reply[:1] == b"\xa0"
    assert raft.encode_reply("unexpected command", None).endswith(b"\xc0")
