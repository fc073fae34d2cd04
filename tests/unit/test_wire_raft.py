import contextlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conformance.case import DEFAULT_FOLDER, load
from conformance.vectors_raft import decode_all
from pyconsul_agent.errors import DecodeError
from pyconsul_agent.structs.raft import (
    AppendEntriesRequest,
    AppendEntriesResponse,
    Configuration,
    LogEntry,
    Server,
    Suffrage,
)
from pyconsul_agent.wire import msgpack, raft

TRANSPORT = load(DEFAULT_FOLDER / "raft", "transport")


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
