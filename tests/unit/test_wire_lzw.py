import contextlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pyconsul_agent.errors import DecodeError
from pyconsul_agent.wire.lzw import compress, decompress

BIG = 1 << 24


@given(
    st.one_of(
        st.binary(max_size=3000), st.lists(st.sampled_from([b"ab", b"c", b"\0" * 50]), max_size=300).map(b"".join)
    )
)
@settings(max_examples=60, deadline=None)
def test_what_is_compressed_comes_back(data):
    assert decompress(compress(data), BIG) == data


def test_long_input_passes_the_table_reset():
    data = bytes((i * i * 31 + i // 7) & 0xFF for i in range(30_000))
    assert decompress(compress(data), BIG) == data


@given(st.binary(max_size=300))
@settings(max_examples=200, deadline=None)
def test_any_bytes_decode_within_the_bound_or_are_refused(data):
    with contextlib.suppress(DecodeError):
        assert len(decompress(data, 500)) <= 500


@pytest.mark.parametrize("cut", [0, 1, 5, 20])
def test_a_stream_without_its_end_is_refused(cut):
    packed = compress(b"some text, some text, some more text")
    with pytest.raises(DecodeError, match="cut short"):
        decompress(packed[:cut], BIG)


def test_a_bomb_stops_at_the_bound():
    with pytest.raises(DecodeError, match="more than 1000 bytes"):
        decompress(compress(bytes(100_000)), 1000)
