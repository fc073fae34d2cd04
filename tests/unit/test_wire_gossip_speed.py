"""The frequent messages have coders of their own, for speed (`scripts/pool large`): they say what general ones say."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyconsul_agent.errors import DecodeError
from pyconsul_agent.wire.gossip import (
    _DECODERS,
    FORM_OF,
    TYPE_OF,
    Ack,
    Alive,
    Dead,
    Ping,
    PushNodeState,
    Suspect,
    checked,
    decode_message,
    encode_message,
    encode_state,
)
from pyconsul_agent.wire.gossip_packet import add_crc, open_packet_body, pack_compounds
from pyconsul_agent.wire.msgpack import encode, pack
from pyconsul_agent.wire.serf import encode_tags

PACKET_BYTES = 1400
CLIENT_TAGS = {
    "role": "node", "dc": "dc1", "segment": "", "id": "9f0d3c4e-6d2e-4a6e-8c58-0123456789ab", "vsn": "2",
    "vsn_min": "2", "vsn_max": "3", "build": "1.10.11:3e0b3b0f", "acls": "0",
}  # fmt: skip

text = st.text(max_size=40) | st.binary(max_size=8).map(lambda raw: raw.decode("utf-8", "surrogateescape"))
raw = st.binary(max_size=40)
u32, u16 = st.integers(0, 2**32 - 1), st.integers(0, 2**16 - 1)
messages = (
    st.builds(Suspect, u32, text, text)
    | st.builds(Dead, u32, text, text)
    | st.builds(Alive, u32, text, raw, u16, raw | st.none(), raw)
    | st.builds(Ack, u32, raw | st.none())
    | st.builds(Ping, u32, text, raw, u16, text)
)
odd = (
    st.none() | st.booleans() | st.integers(-2, 2**33) | st.floats() | raw | st.lists(st.integers(-1, 256), max_size=7)
)
FIELDS = [b"From", b"Incarnation", b"Node", b"Addr", b"Port", b"Meta", b"Vsn", b"SeqNo", b"Payload", b"SourceAddr",
          b"SourcePort", b"SourceNode", b"Name", b"State", b"Other"]  # fmt: skip


@given(messages)
def test_frequent_messages_are_written_as_the_general_coder_writes_them(message):
    data = encode_message(message)
    assert data == bytes((TYPE_OF[type(message)],)) + encode(message)
    assert decode_message(data) == message


@given(st.builds(PushNodeState, text, raw, u16, raw | st.none(), u32, st.integers(-9, 9), raw))
def test_states_are_written_as_the_general_coder_writes_them(state):
    assert encode_state(state) == encode(state)


def outcome(form, value):
    try:
        return checked(form, value)
    except DecodeError as error:
        return error.reason


@given(st.sampled_from([*FORM_OF.values(), PushNodeState]), st.dictionaries(st.sampled_from(FIELDS), odd))
def test_whatever_the_fields_hold_both_decoders_agree(form, value):
    quick = _DECODERS.pop(form, None)
    try:
        general = outcome(form, value)
    finally:
        if quick is not None:
            _DECODERS[form] = quick
    assert outcome(form, value) == general


def test_a_struct_may_come_as_a_list_and_bytes_as_a_list_of_integers():
    assert decode_message(b"\x03" + pack([7, "n1", "n2"])) == Suspect(7, "n1", "n2")
    assert decode_message(b"\x04" + pack([7, "n1", [10, 0, 0, 1], 8301, None, [1, 5, 2, 2, 5, 4]])) == Alive(
        7, "n1", bytes((10, 0, 0, 1)), 8301, None, bytes((1, 5, 2, 2, 5, 4))
    )
    assert decode_message(b"\x02" + pack({"SeqNo": 3, "Payload": [1, 2]})) == Ack(3, b"\x01\x02")
    with pytest.raises(DecodeError, match="cannot decode array as bytes"):
        decode_message(b"\x02" + pack({"SeqNo": 3, "Payload": [256]}))


def full_packet(make):
    chosen, used = [], 7
    while True:
        message = make(len(chosen))
        used += 2 + len(encode_message(message))
        if used > PACKET_BYTES:
            return chosen
        chosen.append(message)


def alive(number):
    return Alive(
        7, f"node-{number:04}", bytes((10, 0, 3, number)), 8301, encode_tags(CLIENT_TAGS), bytes((1, 5, 2, 2, 5, 4))
    )


def suspect(number):
    return Suspect(7, f"node-{number:04}", f"node-{number + 1:04}")


@pytest.mark.parametrize(("make", "least"), [(alive, 7), (suspect, 29)])
def test_a_full_packet_holds_so_many_and_gives_them_back(make, least):
    chosen = full_packet(make)
    assert len(chosen) >= least

    data = add_crc(pack_compounds([encode_message(message) for message in chosen])[0])
    assert 1300 < len(data) <= PACKET_BYTES
    assert [decode_message(part) for part in open_packet_body(data).messages] == chosen
