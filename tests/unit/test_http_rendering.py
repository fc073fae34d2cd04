"""Heads of answers that are kept: the bytes are those of heads made anew, and few are kept."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyconsul_agent.interfaces.http import rendering
from pyconsul_agent.interfaces.http.message import Response
from pyconsul_agent.interfaces.http.rendering import rendered


@pytest.fixture(autouse=True)
def _none_kept(monkeypatch):
    monkeypatch.setattr(rendering, "_heads", {})


def whole(response, *, keep_alive=True, accepts="", method="GET"):
    return b"<date>".join(rendered(response, keep_alive=keep_alive, accepts=accepts, method=method))


def test_a_head_made_again_is_the_same_and_its_body_is_not():
    first, second = (Response(200, body, "text/plain", {"Vary": "x"}) for body in (b"one", b"three"))
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nVary: x\r\nDate: <date>\r\nContent-Length: "
    assert whole(first) == head + b"3\r\n\r\none"
    assert whole(second, keep_alive=False) == head + b"5\r\nConnection: close\r\n\r\nthree"
    assert whole(second, method="HEAD") == head + b"5\r\n\r\n"
    assert len(rendering._heads) == 1


TEXTS = st.sampled_from(["", "a", "b", "x\r\ny", "\udcff", "é"])
RESPONSES = st.builds(
    Response,
    status=st.sampled_from([200, 404, 413, 999]),
    body=st.sampled_from([b"", b"true", b"999 odd", b"x" * 2000]),
    content_type=TEXTS,
    headers=st.dictionaries(st.sampled_from(["A", "B", "a: A", "X-Consul-Index", "Content-Encoding"]), TEXTS),
    bare=st.booleans(),
    http10=st.booleans(),
)


@given(RESPONSES, RESPONSES, st.sampled_from(["", "gzip", "gzip;q=0", "br"]))
def test_whatever_was_answered_before_the_bytes_are_those_of_the_first_time(first, second, accepts):
    fields = ("status", "body", "content_type", "headers", "bare", "http10")
    responses = [first, *(replace(first, **{name: getattr(second, name)}) for name in fields)]
    responses.append(replace(first, headers={name: text + "2" for name, text in first.headers.items()}))
    responses.append(replace(first, headers=dict(reversed(first.headers.items()))))
    rendering._heads.clear()
    after_others = [whole(response, accepts=accepts) for response in responses]
    for response, bytes_ in zip(responses, after_others, strict=True):
        rendering._heads.clear()
        assert whole(response, accepts=accepts) == bytes_


def test_heads_are_bounded_and_neither_long_nor_changing_ones_are_kept():
    whole(Response(200, headers={"X-Consul-Index": "5"}))
    whole(Response(301, headers={"Location": "/" + "a" * rendering.HEAD_BYTES_MAX}))
    whole(Response(400, bare=True))
    assert not rendering._heads
    for number in range(3 * rendering.HEADS_MAX):
        whole(Response(200, headers={"Allow": str(number)}))
        assert 1 <= len(rendering._heads) <= rendering.HEADS_MAX


@pytest.mark.parametrize(("size", "packed"), [(1399, False), (1400, True)])
def test_only_bodies_of_some_length_are_compressed(size, packed):
    assert (b"Content-Encoding: gzip" in whole(Response(200, b"x" * size), accepts="gzip")) is packed
    assert b"gzip" not in whole(Response(200, b"x" * size), accepts="gzip;q=0")
