import contextlib

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conformance.case import DEFAULT_FOLDER, load
from conformance.vectors_gossip import Gcm, read_stream
from pyconsul_agent.errors import DecodeError
from pyconsul_agent.wire import gossip_stream
from pyconsul_agent.wire.gossip import (
    Ack,
    Alive,
    ErrorReply,
    Ping,
    PushNodeState,
    PushPull,
    Suspect,
    UserMessage,
    address_bytes,
    address_text,
    decode_message,
    encode_message,
)
from pyconsul_agent.wire.gossip_crypto import (
    NO_KEY_FITS,
    REMOTE_IS_PLAIN,
    REMOTE_IS_SEALED,
    StreamRefused,
    open_packet,
    seal_packet,
)
from pyconsul_agent.wire.gossip_packet import (
    add_crc,
    compress_message,
    open_packet_body,
    pack_compounds,
)
from pyconsul_agent.wire.gossip_stream import StreamReader, decode_stream, encode_stream, wrap_stream

BY_NAME = {v["name"]: v for v in load(DEFAULT_FOLDER / "gossip", "messages")["vectors"]}
KEY = bytes(range(32))
NONCE = bytes(12)


# --- single messages ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ({"SeqNo": -1, "Node": "x"}, "out of range"),
        ({"SeqNo": 1 << 32}, "out of range"),
        ({"SeqNo": 1.5}, "cannot decode float"),
        ({"SeqNo": 1, "SourcePort": 65536}, "out of range"),
        ({"SeqNo": 1, "Node": 7}, "cannot decode int"),
    ],
)
def test_numbers_beyond_their_width_and_wrong_types_are_refused(body, reason):
    with pytest.raises(DecodeError, match=reason):
        decode_message(b"\x00" + msgpack.packb(body, use_bin_type=False))


def test_unknown_fields_nil_and_trailing_bytes_are_taken_as_peers_take_them():
    body = msgpack.packb({"SeqNo": 3, "Node": None, "Later": [1, {"a": 2}]})
    assert decode_message(b"\x00" + body + b"junk") == Ping(3)


def test_newer_string_and_bin_types_are_understood():
    body = msgpack.packb({"Incarnation": 1, "Node": "n" * 40, "Addr": bytes(4), "Meta": b"m"}, use_bin_type=True)
    assert decode_message(b"\x04" + body) == Alive(1, "n" * 40, bytes(4), 0, b"m", b"")


@pytest.mark.parametrize(
    "data", [b"", b"\x00", b"\x00\x82", b"\x0e\x80", b"\x06\x80", b"\x00\xc1", b"\x00\x81\x80\x01"]
)
def test_malformed_messages_are_refused(data):
    with pytest.raises(DecodeError):
        decode_message(data)


def test_a_list_header_of_four_billion_is_not_believed():
    with pytest.raises(DecodeError):
        decode_message(b"\x00\x81\xa4Junk\xdd\xff\xff\xff\xff")


@pytest.mark.parametrize("text", ["10.0.0.7", "fd00::17", "255.255.255.255", "::1"])
def test_addresses_have_4_or_16_bytes(text):
    assert address_text(address_bytes(text)) == text


def test_a_mapped_address_is_shown_as_ipv4_and_other_lengths_are_refused():
    assert address_text(bytes(10) + b"\xff\xff\x0a\x00\x00\x07") == "10.0.0.7"
    with pytest.raises(DecodeError):
        address_text(b"\x01\x02\x03")


# --- packet wrappers ------------------------------------------------------------------------------------------


def test_a_compound_cut_short_keeps_its_whole_parts():
    data = bytes.fromhex(BY_NAME["compound-3-user"]["hex"])
    parts = open_packet_body(data[:-1])
    assert len(parts.messages) == 2
    assert parts.truncated == 1
    with pytest.raises(DecodeError, match="lengths"):
        open_packet_body(data[:5])


def test_more_than_255_parts_become_several_compounds():
    packets = pack_compounds([b"\x08x"] * 300)
    assert [packet[1] for packet in packets] == [255, 45]
    assert sum(len(open_packet_body(packet).messages) for packet in packets) == 300


PING = encode_message(Ping(1, "n"))


def test_compress_inside_compound_is_read():
    (packet,) = pack_compounds([PING, compress_message(PING)])
    assert open_packet_body(packet).messages == [PING, PING]


@pytest.mark.parametrize(
    ("part", "reason"),
    [
        (pack_compounds([PING, PING])[0], "compound inside"),
        (compress_message(compress_message(PING)), "compressed twice"),
        (compress_message(pack_compounds([PING])[0]), "compound inside"),
        (add_crc(PING), "type 12"),
        (compress_message(b""), "empty"),
        (b"", "empty"),
    ],
)
def test_wrappers_in_the_wrong_place_cost_their_part_only(part, reason):
    (packet,) = pack_compounds([part, PING])
    parts = open_packet_body(packet)
    assert parts.messages == [PING]
    assert len(parts.errors) == 1
    assert reason in parts.errors[0]


def test_a_packet_bomb_is_refused():
    with pytest.raises(DecodeError, match="more than 65536 bytes"):
        open_packet_body(compress_message(b"\x08" + bytes(70_000)))


def test_the_output_of_all_parts_of_a_packet_is_bounded_together():
    part = compress_message(b"\x08" + bytes(40_000))
    (packet,) = pack_compounds([part, part])
    parts = open_packet_body(packet)
    assert len(parts.messages) == 1
    assert len(parts.errors) == 1


@given(st.binary(max_size=200))
@settings(max_examples=300, deadline=None)
def test_any_datagram_decodes_or_is_refused(data):
    for opened in (data, b"\x07" + data, b"\x09" + data, b"\x04" + data):
        try:
            for body in open_packet_body(opened).messages:
                decode_message(body)
        except DecodeError:
            pass
    with contextlib.suppress(DecodeError):
        open_packet(data, [Gcm(KEY)])


# --- encryption -----------------------------------------------------------------------------------------------


def test_a_plain_packet_is_dropped_when_there_are_keys_unless_told_otherwise():
    with pytest.raises(DecodeError):
        open_packet(PING, [Gcm(KEY)])
    assert open_packet(PING, [Gcm(KEY)], verify_incoming=False) == PING


@pytest.mark.parametrize("version", [0, 1])
def test_a_block_below_the_least_length_or_of_another_version_is_refused(version):
    block = seal_packet(b"\x08", Gcm(KEY), NONCE, version=version)
    assert open_packet(block, [Gcm(KEY)]) == b"\x08"
    for bad in (block[:28], b"\x02" + block[1:], block[:-1] + bytes((block[-1] ^ 1,))):
        with pytest.raises(DecodeError):
            open_packet(bad, [Gcm(KEY)])


def test_streams_are_refused_with_the_texts_of_memberlist():
    plain = encode_stream(Ping(1, "n"))
    sealed = wrap_stream(plain, Gcm(KEY), NONCE, opens=True)
    assert read_stream(sealed, KEY) == Ping(1, "n")
    with pytest.raises(StreamRefused, match=REMOTE_IS_PLAIN):
        read_stream(plain, KEY)
    assert read_stream(plain, KEY, verify_incoming=False) == Ping(1, "n")
    with pytest.raises(StreamRefused, match=REMOTE_IS_SEALED):
        read_stream(sealed)
    with pytest.raises(StreamRefused, match=NO_KEY_FITS):
        read_stream(sealed, bytes(16))


# --- captured traffic -----------------------------------------------------------------------------------------


# --- streams --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("wrap", ["plain", "compressed", "sealed", "labelled"])
def test_a_stream_may_come_byte_by_byte(wrap):
    message = PushPull(
        True, tuple(PushNodeState(f"n{i}", bytes(4), 1, None, 1, 0, bytes(6)) for i in range(5)), b"\x02state"
    )
    ciphers = [Gcm(KEY)] if wrap == "sealed" else []
    label = b"blue" if wrap == "labelled" else b""
    plain = encode_stream(message)
    data = wrap_stream(plain, ciphers[0] if ciphers else None, NONCE, label=label, opens=True, compress=wrap != "plain")
    reader = StreamReader(ciphers, label=label)
    results = [reader.feed(data[i : i + 1]) for i in range(len(data))]
    assert results[-1] == message
    assert results[:-1] == [None] * (len(data) - 1)


def test_messages_on_streams_round_trip():
    for message in (
        Ping(1, "n"),
        Ack(7),
        ErrorReply("no"),
        UserMessage(b"\x01abc"),
        UserMessage(b""),
        PushPull(False, (), b""),
    ):
        assert decode_stream(encode_stream(message)) == message


@pytest.mark.parametrize(
    "header",
    [
        {"Nodes": 0x7FFFFFFF, "UserStateLen": 0, "Join": True},
        {"Nodes": -1, "UserStateLen": 0, "Join": True},
        {"Nodes": 1_048_577, "UserStateLen": 0},
        {"Nodes": 0, "UserStateLen": -1},
        {"Nodes": 0, "UserStateLen": 20 * 1024 * 1024 + 1},
    ],
)
def test_push_pull_counts_are_not_believed(header):
    with pytest.raises(DecodeError, match="announce"):
        StreamReader().feed(b"\x06" + msgpack.packb(header))


@pytest.mark.parametrize("length", [-1, 20 * 1024 * 1024 + 1, 0x7FFFFFFF])
def test_user_message_lengths_are_not_believed(length):
    with pytest.raises(DecodeError, match="announced"):
        StreamReader().feed(b"\x08" + msgpack.packb({"UserMsgLen": length}))


def test_a_sealed_stream_above_20_mebibytes_is_refused_at_its_header():
    with pytest.raises(DecodeError, match="larger than limit"):
        StreamReader([Gcm(KEY)]).feed(b"\x0a\x01\x40\x00\x01")


def test_an_endless_stream_is_cut_off(monkeypatch):
    monkeypatch.setattr(gossip_stream, "STREAM_BYTES_MAX", 10_000)
    reader = StreamReader()
    assert reader.feed(b"\x06" + msgpack.packb({"Nodes": 1000, "UserStateLen": 0})) is None
    state = msgpack.packb({"Name": "n", "Meta": bytes(500)}, use_bin_type=False)
    with pytest.raises(DecodeError, match="longer than"):
        for _ in range(30):
            reader.feed(state)


def test_a_stream_bomb_and_double_compression_are_refused():
    with pytest.raises(DecodeError, match="output"):
        decode_stream(compress_message(b"\x08" + bytes(3_000_000)))
    with pytest.raises(DecodeError, match="type 9"):
        decode_stream(compress_message(compress_message(PING)))
    with pytest.raises(DecodeError, match="cut short"):
        decode_stream(compress_message(encode_stream(UserMessage(b"abc"))[:-1]))


@pytest.mark.parametrize("kind", [3, 4, 5, 7, 11, 12, 200])
def test_messages_that_do_not_belong_on_streams_are_refused(kind):
    with pytest.raises(DecodeError, match="invalid stream message type"):
        decode_stream(bytes((kind,)) + msgpack.packb({}))


def test_bytes_after_the_message_are_ignored():
    assert decode_stream(encode_stream(Ping(1, "n")) + b"more") == Ping(1, "n")


@given(
    st.binary(max_size=200),
    st.sampled_from([b"", b"\x06", b"\x08", b"\x09", b"\x0a", b"\xf4", b"\x00", b"\x06\x81\xa5Nodes\x05"]),
)
@settings(max_examples=300, deadline=None)
def test_any_stream_decodes_waits_or_is_refused(data, start):
    for ciphers in ([], [Gcm(KEY)]):
        reader = StreamReader(ciphers)
        try:
            for piece in (start, data[:50], data[50:]):
                if reader.feed(piece) is not None:
                    break
        except DecodeError:
            pass


names = st.text(max_size=40)
versions = st.binary(min_size=6, max_size=6)


@given(
    st.builds(
        Alive,
        st.integers(0, 2**32 - 1),
        names,
        st.binary(max_size=16),
        st.integers(0, 65535),
        st.none() | st.binary(max_size=600),
        versions,
    )
)
@settings(max_examples=50, deadline=None)
def test_alive_round_trips(message):
    assert decode_message(encode_message(message)) == message


@given(st.builds(Suspect, st.integers(0, 2**32 - 1), names, names))
@settings(max_examples=50, deadline=None)
def test_suspect_round_trips(message):
    assert decode_message(encode_message(message)) == message
