import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyconsul_agent.errors import DecodeError
from pyconsul_agent.wire import msgpack
from pyconsul_agent.wire.stream import ValueScanner

SCALARS = st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.binary(max_size=300)
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=20) | st.dictionaries(st.text(max_size=40), inner, max_size=20)
)


def scanned(buffer, start=0, **limits):
    scanner = ValueScanner(**({"bytes_max": 1 << 20} | limits))
    scanner.begin(start)
    return scanner.end(buffer)


@given(VALUES, st.binary(max_size=40), st.integers(0, 3))
def test_a_value_ends_where_its_bytes_end(value, rest, start):
    data = bytes(start) + msgpack.pack(value)
    assert scanned(data + rest, start) == len(data)


@given(VALUES)
def test_a_value_that_comes_byte_by_byte_ends_with_its_last_byte(value):
    data = msgpack.pack(value)
    scanner = ValueScanner(1 << 20)
    scanner.begin(0)
    assert [scanner.end(data[:size]) for size in range(len(data) + 1)] == [None] * len(data) + [len(data)]


@given(st.lists(st.binary(max_size=40), max_size=20))
def test_limits_hold_to_the_byte_and_to_the_value(items):
    data = msgpack.pack(items)
    assert scanned(data, bytes_max=len(data), items_max=1 + len(items)) == len(data)
    with pytest.raises(DecodeError, match="over"):
        scanned(data, bytes_max=len(data) - 1)
    with pytest.raises(DecodeError, match="values"):
        scanned(data, items_max=len(items))


def test_depth_is_limited():
    assert scanned(b"\x91" * 4 + b"\x01", depth_max=4) == 5
    with pytest.raises(DecodeError, match="nested deeper than 4"):
        scanned(b"\x91" * 5 + b"\x01", depth_max=4)
