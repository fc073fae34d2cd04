"""net/rpc headers and bodies against the recorded pairs, in any cut, and against any bytes."""

import doctest
import tracemalloc

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pyconsul_agent.errors import DecodeError
from pyconsul_agent.wire import netrpc, yamux_frames
from pyconsul_agent.wire.msgpack import decode, encode, pack
from pyconsul_agent.wire.netrpc import MessageReader, RequestHeader, ResponseHeader


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


def test_a_reader_between_messages_takes_little_memory():
    message = netrpc.encode_request(1, "KVS.Get", b"\x80")
    tracemalloc.start()
    try:
        readers = []
        for _ in range(50):
            reader = MessageReader(RequestHeader)
            for _ in range(2):
                reader.feed(message)
                assert reader.next() is not None
            readers.append(reader)
        taken, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert taken < 50 * 4096


@pytest.mark.parametrize("seq", [0, 1, 127, 128, 255, 256, 65536, 2**32, 2**64 - 1, -1, -(2**63)])
@pytest.mark.parametrize("method", ["", "Status.Ping", "a" * 31, "b" * 32, "c" * 64, "d" * 65, "e" * 70_000, "\udcff"])
def test_headers_are_written_as_their_structs_are(seq, method):
    request = RequestHeader(seq, method)
    assert netrpc.encode_request(seq, method, b"\x80") == encode(request) + b"\x80"
    assert netrpc.encode_response(request, b"\x80") == encode(ResponseHeader("", seq, method)) + b"\x80"
