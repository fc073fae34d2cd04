import contextlib

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pyconsul_agent.errors import DecodeError
from pyconsul_agent.wire import gossip_stream
from pyconsul_agent.wire.gossip import (
    Ack,
    Alive,
    ErrorReply,
    MessageType,
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
    seal_stream,
)
from pyconsul_agent.wire.gossip_packet import (
    add_crc,
    compress_message,
    label_header,
    open_crc,
    open_packet_body,
    pack_compounds,
    split_label,
    unpack_compound,
)
from pyconsul_agent.wire.gossip_stream import StreamReader, decode_stream, encode_stream, error_reply, wrap_stream
from tests.unit.gossip_vectors import Gcm, fields_of, load, normal

MESSAGES = [v for v in load("messages")["vectors"] if v["layer"] in ("packet", "stream")]
SINGLE = [v for v in MESSAGES if v["decoded"]["type"] in (0, 1, 2, 3, 4, 5, 11, 13)]
BY_NAME = {v["name"]: v for v in MESSAGES}
CAPTURED = [
    (v, [bytes.fromhex(key) for key in data.get("keys", ())])
    for data in (load("captured_consul"), load("captured_serf"), load("captured_encrypted"))
    for v in data["vectors"]
]
KEY = bytes(range(32))
NONCE = bytes(12)


def hexed(name):
    return bytes.fromhex(BY_NAME[name]["hex"])


def read_stream(data, *keys, **options):
    """The message in `data`, fed in three pieces."""
    reader = StreamReader([Gcm(key) for key in keys], **options)
    third = max(1, len(data) // 3)
    message = None
    for piece in (data[:third], data[third : 2 * third], data[2 * third :]):
        if piece and message is None:
            message = reader.feed(piece)
    return message


# --- single messages ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("vector", SINGLE, ids=lambda v: v["name"])
def test_messages_made_by_memberlist_decode_and_encode_to_the_same_bytes(vector):
    data = bytes.fromhex(vector["hex"])
    message = decode_message(data)
    assert fields_of(message) == normal(vector["decoded"])
    assert encode_message(message) == data


def test_every_vector_of_packets_and_streams_is_used():
    others = set(BY_NAME) - {v["name"] for v in SINGLE}
    assert len(SINGLE) == 16
    assert others == {
        "compound-2", "compound-3-user", "crc-ping", "crc-compound", "crc-bad-must-drop", "compressed-compound",
        "label-ping", "label-255-crc", "pushpull-join-plain", "pushpull-join-compressed",
    }  # fmt: skip


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


@pytest.mark.parametrize("name", ["compound-2", "compound-3-user"])
def test_compound_both_ways(name):
    parts = [bytes.fromhex(part) for part in BY_NAME[name]["decoded"]["parts"]]
    assert unpack_compound(hexed(name)) == (parts, 0)
    assert pack_compounds(parts) == [hexed(name)]


@pytest.mark.parametrize("name", ["crc-ping", "crc-compound"])
def test_crc_both_ways(name):
    inner = bytes.fromhex(BY_NAME[name]["decoded"]["inner"])
    assert open_crc(hexed(name)) == inner
    assert add_crc(inner) == hexed(name)


def test_a_packet_with_a_wrong_crc_is_dropped():
    with pytest.raises(DecodeError, match="crc"):
        open_packet_body(hexed("crc-bad-must-drop"))


def test_compression_both_ways():
    decoded = BY_NAME["compressed-compound"]["decoded"]
    inner = bytes.fromhex(decoded["inner"])
    assert compress_message(inner) == hexed("compressed-compound")
    assert open_packet_body(hexed("compressed-compound")).messages == unpack_compound(inner)[0]


@pytest.mark.parametrize("name", ["label-ping", "label-255-crc"])
def test_label_both_ways(name):
    decoded = BY_NAME[name]["decoded"]
    label, inner = decoded["label"].encode(), bytes.fromhex(decoded["inner"])
    assert split_label(hexed(name)) == (label, inner)
    assert label_header(label) + inner == hexed(name)
    assert open_packet(hexed(name), [], label=label) == inner
    with pytest.raises(DecodeError, match="label"):
        open_packet(hexed(name), [])


def test_a_compound_cut_short_keeps_its_whole_parts():
    data = hexed("compound-3-user")
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


@pytest.mark.parametrize("vector", load("encryption")["vectors"], ids=lambda v: v["name"])
def test_sealed_packets_and_streams_both_ways(vector):
    decoded, data, cipher = vector["decoded"], bytes.fromhex(vector["hex"]), Gcm(bytes.fromhex(vector["key"]))
    inner, nonce, label = bytes.fromhex(decoded["inner"]), bytes.fromhex(decoded["nonce"]), decoded["label"].encode()
    if vector["layer"] == "packet":
        assert open_packet(data, [Gcm(KEY[::-1]), cipher], label=label) == inner
        assert seal_packet(inner, cipher, nonce, label, decoded["version"]) == data
    else:
        assert label_header(label) + seal_stream(inner, cipher, nonce, label, decoded["version"]) == data
        reader = StreamReader([cipher], label=label)
        assert reader.feed(data) == decode_message(inner)


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


def test_captured_error_answers_are_read():
    for vector in load("captured_errors")["vectors"]:
        keys = [bytes.fromhex(vector["key"])] if vector["key"] else []
        answer = read_stream(bytes.fromhex(vector["hex"]), *keys, opened=True)
        assert answer == ErrorReply(vector["decoded"]["fields"]["Error"])
        with pytest.raises(StreamRefused, match=answer.error) as refusal:
            read_stream(bytes.fromhex(vector["request_hex"]), *keys)
        assert decode_message(error_reply(refusal.value)) == answer


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


@pytest.mark.parametrize(("vector", "keys"), CAPTURED, ids=lambda v: v["name"] if isinstance(v, dict) else "")
def test_captured_traffic_of_real_agents_is_read(vector, keys):
    data, expected = bytes.fromhex(vector["hex"]), vector["decoded"]
    if vector["layer"] == "stream":
        check_stream(read_stream(data, *keys), expected)
        return
    if keys:
        data = open_packet(data, [Gcm(key) for key in keys])
    parts = open_packet_body(data)
    assert not parts.truncated
    assert not parts.errors
    assert len(parts.messages) == len(expected["messages"])
    for body, want in zip(parts.messages, expected["messages"], strict=True):
        message = decode_message(body)
        assert body[0] == want["type"]
        if body[0] == MessageType.USER:
            assert message.data[0] == want["serf"]["serf_type"]
        else:
            assert fields_of(message) == normal(want["fields"])
        assert encode_message(message) == body


def check_stream(message, expected):
    if expected["name"] != "push-pull":
        assert fields_of(message) == normal(expected["fields"])
        return
    fields = fields_of(message)
    assert {key: fields[key] for key in ("Join", "Nodes", "UserStateLen")} == expected["header"]
    assert fields["states"] == normal(expected["states"])
    assert message.user_state[0] == expected["user"]["serf_type"]


# --- streams --------------------------------------------------------------------------------------------------


def test_push_pull_both_ways():
    decoded = BY_NAME["pushpull-join-plain"]["decoded"]
    data = hexed("pushpull-join-plain")
    message = decode_stream(data)
    assert fields_of(message) == normal(decoded)
    assert encode_stream(message) == data
    assert wrap_stream(data, None, NONCE, opens=True) == hexed("pushpull-join-compressed")
    assert read_stream(hexed("pushpull-join-compressed")) == message


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
