"""net/rpc headers and bodies against the recorded pairs, in any cut, and against any bytes."""

import doctest
import json
from pathlib import Path

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pyconsul_agent.errors import DecodeError
from pyconsul_agent.wire import netrpc, yamux_frames
from pyconsul_agent.wire.msgpack import decode, encode, pack
from pyconsul_agent.wire.netrpc import MessageReader, RequestHeader, ResponseHeader

FOLDER = Path(__file__).parents[2] / "conformance/vectors/rpc"
PAIRS = {path.stem: json.loads(path.read_text()) for path in sorted(FOLDER.glob("pairs-*.json"))}
PRIMITIVES = json.loads((FOLDER / "encoding-primitives.json").read_text())


def raw(message):
    return bytes.fromhex(message["header_hex"]), bytes.fromhex(message["body_hex"])


def reencoded(body):
    value = msgpack.unpackb(body, raw=True, strict_map_key=False, object_pairs_hook=lambda pairs: dict(pairs))
    return pack(value)


@pytest.mark.parametrize("service", PAIRS)
def test_recorded_headers_decode_and_encode(service):
    for pair in PAIRS[service]:
        for kind, form in (("request", RequestHeader), ("response", ResponseHeader)):
            header_bytes, body = raw(pair[kind])
            header = decode(form, header_bytes)
            assert encode(header) == header_bytes
            recorded = pair[kind]["header"]
            assert (header.seq, header.method) == (recorded["Seq"], recorded["ServiceMethod"])
            assert reencoded(body) == body
        answered = decode(ResponseHeader, raw(pair["response"])[0])
        assert answered.error == pair["response"]["header"]["Error"]


@pytest.mark.parametrize("service", PAIRS)
def test_recorded_conversation_is_cut_into_its_messages(service):
    for kind, form in (("request", RequestHeader), ("response", ResponseHeader)):
        messages = [raw(pair[kind]) for pair in PAIRS[service]]
        stream = b"".join(header + body for header, body in messages)
        for step in (7, 4096, len(stream)):
            reader, got = MessageReader(form), []
            for start in range(0, len(stream), step):
                reader.feed(stream[start : start + step])
                while (message := reader.next()) is not None:
                    got.append((encode(message[0]), message[1]))
            assert got == messages
            assert not reader.in_message


@pytest.mark.parametrize("service", PAIRS)
def test_recorded_answers_are_what_we_write(service):
    for pair in PAIRS[service]:
        request = decode(RequestHeader, raw(pair["request"])[0])
        header, body = raw(pair["response"])
        error = decode(ResponseHeader, header).error
        ours = netrpc.encode_error(request, error) if error else netrpc.encode_response(request, body)
        assert ours == header + body
        header, body = raw(pair["request"])
        assert netrpc.encode_request(request.seq, request.method, body) == header + body


SHARED = [entry for entry in PRIMITIVES if entry["name"].startswith("rpc.")]


@pytest.mark.parametrize("entry", SHARED, ids=[entry["name"] for entry in SHARED])
def test_header_primitives(entry):
    form = ResponseHeader if "Response" in entry["name"] else RequestHeader
    header = decode(form, bytes.fromhex(entry["hex"]))
    assert header.method == entry["decoded"]["ServiceMethod"]
    assert encode(header).hex() == entry["hex"]


@pytest.mark.parametrize("entry", PRIMITIVES, ids=lambda entry: entry["name"])
def test_every_primitive_is_cut_out_as_one_body(entry):
    value = bytes.fromhex(entry.get("hex", "")) or bytes.fromhex(entry["prefix_hex"]).ljust(entry["total_bytes"], b"a")
    reader = MessageReader(RequestHeader)
    reader.feed(netrpc.encode_request(1, "A.B", value) + b"\x82")
    assert reader.next() == (RequestHeader(1, "A.B"), value)
    assert reader.next() is None
    assert reader.buffered == 1


@pytest.mark.parametrize("seq", [0, 1, 127, 128, 70000, 2**63, 2**64 - 1])
def test_any_sequence_number_is_echoed(seq):
    reader = MessageReader(RequestHeader)
    reader.feed(netrpc.encode_request(seq, "A.B", b"\x80"))
    header, _ = reader.next()
    answer = MessageReader(ResponseHeader)
    answer.feed(netrpc.encode_response(header, b"\x80"))
    assert answer.next()[0].seq == seq


@pytest.mark.parametrize(
    "start", [b"\xc1\xff\x00", b"\x06", b"\xc0\x80", b"\x90\x80", b"\xa3abc", b"GET / HTTP/1.1\r\n"]
)
def test_what_is_no_header_is_refused(start):
    reader = MessageReader(RequestHeader)
    reader.feed(start)
    with pytest.raises(DecodeError):
        reader.next()


def test_header_of_wrong_types_is_refused():
    reader = MessageReader(RequestHeader)
    reader.feed(msgpack.packb({"Seq": "one", "ServiceMethod": "A.B"}, use_bin_type=False))
    with pytest.raises(DecodeError):
        reader.next()


def test_body_above_the_limit_is_refused_before_it_is_complete():
    reader = MessageReader(RequestHeader, body_bytes_max=1000)
    reader.feed(netrpc.encode_request(1, "A.B", b"\xdb\x00\x10\x00\x00"))
    assert reader.next() is None
    reader.feed(bytes(1001))
    with pytest.raises(DecodeError, match="too large"):
        reader.next()


def test_announced_lengths_cost_nothing():
    reader = MessageReader(RequestHeader)
    reader.feed(netrpc.encode_request(1, "A.B", b"\xdd\xff\xff\xff\xff"))
    assert reader.next() is None
    assert reader.buffered < 10


def test_deep_nesting_is_refused():
    reader = MessageReader(RequestHeader)
    reader.feed(netrpc.encode_request(1, "A.B", b"\x91" * 100_000))
    with pytest.raises(DecodeError):
        reader.next()


def test_empty_error_text_is_never_sent():
    answer = decode(ResponseHeader, netrpc.encode_error(RequestHeader(1, "A.B"), "")[:-1])
    assert answer.error


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("KVS.Nope", "rpc: can't find method KVS.Nope"),
        ("Foo.Bar", "rpc: can't find service Foo.Bar"),
        ("FooBar", "rpc: service/method request ill-formed: FooBar"),
        ("", "rpc: service/method request ill-formed: "),
    ],
)
def test_unknown_method_texts(name, text):
    assert netrpc.unknown_method(name, {"KVS", "Status"}) == text


@pytest.mark.parametrize(
    ("text", "read", "write"),
    [
        ("No cluster leader", True, True),
        ("rpc error making call: No cluster leader", True, True),
        ("please resubmit call for rechunking", True, True),
        ("rpc error making call: EOF", True, False),
        ("EOF", True, False),
        ("rpc error making call: stream closed", True, False),
        ("session shutdown", True, False),
        ("unexpected EOF of file", False, False),
        ("Must provide node", False, False),
        ("leadership lost while committing log", False, False),
        ("node is not the leader", False, False),
    ],
)
def test_what_may_be_called_again(text, read, write):
    assert netrpc.is_retryable(text, is_read=True) is read
    assert netrpc.is_retryable(text, is_read=False) is write


@settings(max_examples=200, deadline=None)
@given(pieces=st.lists(st.binary(max_size=60), max_size=5), after_header=st.booleans())
def test_any_bytes_raise_only_decode_errors(pieces, after_header):
    reader = MessageReader(RequestHeader)
    if after_header:
        reader.feed(encode(RequestHeader(1, "A.B")))
    try:
        for piece in pieces:
            reader.feed(piece)
            while reader.next() is not None:
                pass
    except DecodeError:
        pass


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.binary(max_size=40) | st.floats(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.binary(max_size=5), inner, max_size=4),
    max_leaves=12,
)


@settings(max_examples=100, deadline=None)
@given(bodies=st.lists(VALUES, min_size=1, max_size=4), step=st.integers(1, 50))
def test_bodies_come_out_as_they_went_in(bodies, step):
    bodies = [pack(body) for body in bodies]
    stream = b"".join(netrpc.encode_request(i, "A.B", body) for i, body in enumerate(bodies))
    reader, got = MessageReader(RequestHeader), []
    for start in range(0, len(stream), step):
        reader.feed(stream[start : start + step])
        while (message := reader.next()) is not None:
            got.append(message[1])
    assert got == bodies


@pytest.mark.parametrize("module", [netrpc, yamux_frames], ids=["netrpc", "yamux_frames"])
def test_examples_in_the_docstrings_hold(module):
    assert doctest.testmod(module) == (0, 1)
