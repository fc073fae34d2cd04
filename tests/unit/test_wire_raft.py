import contextlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conformance.case import DEFAULT_FOLDER, load
from conformance.vectors_raft import decode_all
from pyconsul_agent.errors import DecodeError
from pyconsul_agent.structs.base import GoTime
from pyconsul_agent.structs.raft import (
    AppendEntriesRequest,
    AppendEntriesResponse,
    Configuration,
    EntryType,
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


ENTRIES = st.builds(
    LogEntry,
    index=st.integers(0, 2**62),
    term=st.integers(0, 2**62),
    type=st.integers(0, 5) | st.just(EntryType.NOOP),
    data=st.none() | st.binary(max_size=40),
    extensions=st.none() | st.binary(max_size=40),
    appended_at=st.builds(GoTime, st.integers(-(10**9), 10**10), st.integers(0, 999_999_999), st.integers(-1, 100)),
)
APPENDS = st.builds(
    AppendEntriesRequest,
    protocol_version=st.integers(0, 3),
    id=st.none() | st.binary(max_size=40),
    addr=st.none() | st.binary(max_size=40),
    term=st.integers(0, 2**62),
    leader=st.none() | st.binary(max_size=40),
    prev_log_entry=st.integers(0, 2**62),
    prev_log_term=st.integers(0, 2**62),
    entries=st.none() | st.lists(ENTRIES, max_size=20).map(tuple),
    leader_commit_index=st.integers(0, 2**62),
)


@given(st.lists(APPENDS, max_size=4))
def test_encoder_of_batches_writes_what_any_message_is_written_as(messages):
    encoder = raft.RequestEncoder()
    for message in messages * 2:
        assert encoder.encode(message) == b"\x00" + msgpack.encode(message)


def entries_of(*numbers, data=b"x"):
    return tuple(LogEntry(index=number, term=1, data=data) for number in numbers)


def test_batch_that_replaced_another_at_the_same_place_is_encoded_anew():
    encoder = raft.RequestEncoder()
    first, second = entries_of(1, 2, 3), entries_of(2, 3, data=b"y")
    longer = (*first, *entries_of(4))
    for entries in (first, (first[0], *second), first, longer, entries_of(1, 2, 3, data=b"z")):
        message = AppendEntriesRequest(entries=entries)
        assert encoder.encode(message) == raft.encode_request(message)


def test_batch_for_a_second_peer_is_not_encoded_again(monkeypatch):
    count = 0

    def counted(entries, encode=raft.encode_entries):
        nonlocal count
        count += 1
        return encode(entries)

    monkeypatch.setattr(raft, "encode_entries", counted)
    encoder, entries = raft.RequestEncoder(), entries_of(1, 2, 3)
    for previous in (0, 0, 0):
        encoder.encode(AppendEntriesRequest(entries=tuple(entries), prev_log_entry=previous))
    assert count == 1


def test_encoder_keeps_few_batches_and_none_that_is_large():
    encoder = raft.RequestEncoder()
    for number in range(100):
        encoder.encode(AppendEntriesRequest(entries=entries_of(number)))
    encoder.encode(AppendEntriesRequest(entries=entries_of(200, data=bytes(raft.BATCH_BYTES_MAX))))
    assert sorted(encoder._batches) == list(range(100 - raft.BATCHES_MAX, 100))
