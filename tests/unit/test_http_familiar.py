"""Requests whose headers came before: read without the parser, and exactly as the parser reads them."""

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyconsul_agent.interfaces.http import familiar
from pyconsul_agent.interfaces.http.body import BodyStream
from pyconsul_agent.interfaces.http.familiar import Familiar
from pyconsul_agent.interfaces.http.head import Head, taken_whole
from pyconsul_agent.interfaces.http.message import Response, text_response
from pyconsul_agent.interfaces.http.pipeline import Pipeline, Rules
from pyconsul_agent.interfaces.http.reader import RequestReader
from pyconsul_agent.interfaces.http.routes import Route, RouteTable
from tests.unit.http_bench import SilentLog, connection, serve

HEADERS = b"Host: x\r\nUser-Agent: me\r\nAccept: */*\r\n\r\n"


def asked(*requests):
    """What reached the handler of each request, sent over one connection, and which of them the parser was spared."""

    async def scenario(bench):
        parsed = []
        locate = bench.pipeline.locate
        async with connection(bench) as (reader, writer):
            read = bench.server.familiar.read
            bench.server.familiar.read = lambda data: parsed.append(read(data)) or parsed[-1]
            for data in requests:
                writer.write(data)
                head = await reader.readuntil(b"\r\n\r\n")
                await reader.readexactly(int(head.partition(b"Content-Length: ")[2].split(b"\r\n")[0]))
        assert bench.pipeline.locate == locate
        seen = [
            (each.method, each.path, each.query.pairs, dict(each.headers), each.body, each.remote, each.body_length)
            for each in bench.requests
        ]
        return seen, [each is not None for each in parsed]

    return serve(scenario)


def get(target, headers=HEADERS):
    return b"GET %s HTTP/1.1\r\n%s" % (target, headers)


TARGETS = [b"/v1/echo?b=%20c&d", b"/v1/kv/a/b%2Fc", b"/v1/kv/", b"/v1/echo?near=_agent&filter=a+b"]


def test_the_third_with_the_same_headers_is_read_as_the_parser_would():
    by_parser = [asked(get(target))[0][0] for target in TARGETS]
    for target, expected in zip(TARGETS, by_parser, strict=True):
        seen, known = asked(get(b"/v1/echo?1"), get(b"/v1/echo?2"), get(target))
        assert known == [False, False, True]
        assert seen[2] == expected


@pytest.mark.parametrize(
    "data",
    [
        get(b"/v1/echo?3", b"Host: y\r\n\r\n"),
        get(b"/v1/echo#3"),
        get(b"http://x/v1/echo"),
        get(b"/v1/echo?\xc3\xbc"),
        b"PUT /v1/echo HTTP/1.1\r\n" + HEADERS,
        get(b"/v1/echo?" + b"a" * 1100),
    ],
    ids=["other headers", "fragment", "absolute", "not ASCII", "PUT", "long"],
)
def test_anything_else_is_the_parsers(data):
    _, known = asked(get(b"/v1/echo?1"), get(b"/v1/echo?2"), data)
    assert known == [False, False, False]


@pytest.mark.parametrize("header", [b"X-Consul-Token: s", b"Authorization: Bearer s", b"Cookie: s"])
def test_headers_with_secrets_are_not_kept(header):
    headers = b"Host: x\r\n" + header + b"\r\n\r\n"
    _, known = asked(*(get(b"/v1/echo?%d" % number, headers) for number in range(4)))
    assert known == [False] * 4


HIDDEN = get(b"/v1/echo?hidden")


@pytest.mark.parametrize(
    ("header", "body"),
    [
        (b"Content-Length: %d" % len(HIDDEN), HIDDEN),
        (b"Content-Length: 0", b""),
        (b"Transfer-Encoding: chunked", b"%x\r\n%s\r\n0\r\n\r\n" % (len(HIDDEN), HIDDEN)),
        (b"Transfer-Encoding: chunked", b"0\r\n\r\n"),
    ],
    ids=["body", "empty body", "chunk", "no chunk"],
)
def test_a_request_with_a_body_is_the_parsers_each_time_and_the_body_no_request(header, body):
    headers = b"Host: x\r\n" + header + b"\r\n\r\n" + body
    seen, known = asked(*(get(b"/v1/echo?%d" % number, headers) for number in range(4)))
    assert known == [False] * 4
    assert [pairs for _, _, pairs, *_ in seen] == [[(str(number), "")] for number in range(4)]


def test_of_two_requests_in_one_piece_both_are_answered_and_their_block_is_not_kept():
    async def scenario(bench):
        async with connection(bench) as (reader, writer):
            for turn in range(4):
                writer.write(get(b"/v1/echo?%d" % turn) + get(b"/v1/echo?b"))
                for _ in range(2):
                    await reader.readuntil(b"/v1/echo")
            kept = len(bench.server.familiar)
            for turn in (20, 21, 22):
                writer.write(get(b"/v1/echo?%d" % turn))
                await reader.readuntil(b"/v1/echo")
            writer.write(get(b"/v1/echo?30") + get(b"/v1/echo?31"))
            for _ in range(2):
                await reader.readuntil(b"/v1/echo")
        return kept, len(bench.server.familiar), [each.query.pairs[0][0] for each in bench.requests]

    kept, later, seen = serve(scenario)
    assert (kept, later) == (0, 1)
    assert seen == ["0", "b", "1", "b", "2", "b", "3", "b", "20", "21", "22", "30", "31"]


def test_a_refused_path_is_refused_all_the_same():
    async def scenario(bench):
        answers = []
        async with connection(bench) as (reader, writer):
            for target in (b"/v1/echo?1", b"/v1/echo?2", b"/v1/%zz"):
                writer.write(get(target))
                answers.append((await reader.readuntil(b"\r\n\r\n")).split(b"\r\n")[0])
                if b"200" in answers[-1]:
                    await reader.readexactly(len(b"/v1/echo"))
            return answers, await reader.read()

    answers, rest = serve(scenario)
    assert b" 400 " in answers[2] and rest == b"400 Bad Request"


def test_blocks_are_bounded():
    kept = Familiar(65536)
    head = Head()
    head.method, head.hosts = "GET", 1
    for number in range(3 * familiar.SEEN_MAX):
        for _ in range(2):
            kept.learn(get(b"/", b"Host: x%d\r\n\r\n" % number), head)
        assert len(kept) <= familiar.BLOCKS_MAX and len(kept._seen) <= familiar.SEEN_MAX


# --- with a body ------------------------------------------------------------------------------------------------------


def put(target, body=b"", headers=b"", method=b"PUT"):
    return b"%s %s HTTP/1.1\r\nHost: x\r\n%sContent-Length: %d\r\n\r\n%s" % (method, target, headers, len(body), body)


@pytest.mark.parametrize("body", [b"", b"v", b"\r\n\r\n", b"\0\xff\r\n\r\n\xfe"])
@pytest.mark.parametrize("target", [b"/v1/kv/a%2Fb?cas=1", b"/v1/echo"])
def test_the_third_with_a_body_of_one_length_is_read_as_the_parser_would(target, body):
    (expected,), _ = asked(put(target, body))
    seen, known = asked(put(b"/v1/echo?1", b"x" * len(body)), put(b"/v1/kv/2", b"y" * len(body)), put(target, body))
    assert known == [False, False, True]
    assert seen[2] == expected
    assert seen[2][4] == body and seen[2][6] == len(body)


def test_another_length_is_another_block():
    _, known = asked(*(put(b"/v1/echo", b"v" * size) for size in (1, 1, 1, 2, 2, 2, 1)))
    assert known == [False, False, True, False, False, True, True]


@pytest.mark.parametrize(
    "lines",
    [
        b"X-Consul-Token: s\r\n",
        b"Authorization: Bearer s\r\n",
        b"Cookie: s\r\n",
        b"X-Content-Length: 5\r\n",
        b"Expect: 100-continue\r\n",
        b"Upgrade: h2c\r\n",
    ],
)
def test_with_a_body_too_some_headers_are_the_parsers(lines):
    reader = Parsing()
    for _ in range(4):
        data = put(b"/v1/kv/a", b"value", lines)
        assert reader.familiar.read(data) is None
        reader.read(data)
    assert len(reader.familiar) == 0


@pytest.mark.parametrize(
    "block",
    [
        b"Host: x\r\nContent-Length: 05\r\n\r\n",
        b"Host: x\r\nContent-Length: 5\r\nConnection: close\r\n\r\n",
        b"Host: x\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\n",
        b"Host: x\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"Host: x\r\nContent-Length: +5\r\n\r\n",
        b"Host: x\r\nHost: x\r\nContent-Length: 5\r\n\r\n",
        b"Content-Length: 5\r\n\r\n",
        b"Host: x\r\nPadding: %s\r\nContent-Length: 5\r\n\r\n" % (b"x" * familiar.REQUEST_BYTES_MAX),
    ],
)
def test_a_block_that_is_not_plain_is_not_kept(block):
    reader = Parsing()
    for _ in range(3):
        reader.read(b"PUT /v1/kv/a HTTP/1.1\r\n" + block + b"value")
    assert len(reader.familiar) == 0


def test_a_block_is_not_learned_from_a_body_that_streamed():
    reader = Parsing()
    for _ in range(2):
        assert reader.read(put(b"/v1/stream", b"value"))[0].stream is not None
    assert len(reader.familiar) == 0


def test_long_bodies_are_the_parsers():
    reader = Parsing()
    for size, kept in ((familiar.BODY_BYTES_MAX + 1, 0), (familiar.BODY_BYTES_MAX, 1)):
        for _ in range(2):
            reader.read(put(b"/v1/unlimited", b"v" * size))
        assert len(reader.familiar) == kept


HIDDEN_PUT = put(b"/v1/kv/hidden", b"x")


@pytest.mark.parametrize("pieces", [1, 2, 5])
def test_a_body_that_looks_like_a_request_is_none_however_it_comes(pieces):
    async def scenario(bench):
        async with connection(bench) as (reader, writer):
            for turn in range(4):
                data = put(b"/v1/echo?%d" % turn, HIDDEN_PUT)
                step = -(-len(data) // pieces)
                for begin in range(0, len(data), step):
                    writer.write(data[begin : begin + step])
                    await asyncio.sleep(0.01)
                await reader.readuntil(b"/v1/echo")
        return [(each.path, each.query.pairs[0][0], each.body) for each in bench.requests]

    assert serve(scenario) == [("/v1/echo", str(turn), HIDDEN_PUT) for turn in range(4)]


def test_what_follows_a_body_is_the_next_request_and_what_lacks_is_waited_for():
    async def scenario(bench):
        async with connection(bench) as (reader, writer):
            for turn in (0, 1):
                writer.write(put(b"/v1/echo?%d" % turn, b"12345"))
                await reader.readuntil(b"/v1/echo")
            assert len(bench.server.familiar) == 1
            writer.write(put(b"/v1/echo?2", b"12345") + put(b"/v1/echo?3", b"abcde"))
            for _ in range(2):
                await reader.readuntil(b"/v1/echo")
            writer.write(put(b"/v1/echo?4", b"12345")[:-1])
            await asyncio.sleep(1)
            before = len(bench.requests)
            writer.write(b"6" + get(b"/v1/echo?5"))
            for _ in range(2):
                await reader.readuntil(b"/v1/echo")
        return before, [(each.method, each.query.pairs[0][0], each.body) for each in bench.requests]

    before, seen = serve(scenario)
    assert before == 4
    assert seen == [
        ("PUT", "0", b"12345"),
        ("PUT", "1", b"12345"),
        ("PUT", "2", b"12345"),
        ("PUT", "3", b"abcde"),
        ("PUT", "4", b"12346"),
        ("GET", "5", b""),
    ]


@pytest.mark.parametrize(
    ("target", "method", "body"),
    [
        (b"/v1/kv/long", b"PUT", b"12345678901"),
        (b"/v1/long", b"PUT", b"12345"),
        (b"/v1/long", b"POST", b"12345"),
        (b"/v1/kv/a", b"POST", b"12345678901"),
        (b"/v1/nobody", b"PUT", b"12345"),
        (b"/nobody", b"POST", b"12345"),
        (b"/v1/kv", b"PUT", b"12345"),
        (b"/v1//kv/../a", b"PUT", b"12345"),
        (b"/v1/%zz", b"PUT", b"12345"),
        (b"/v1/echo?a=%zz", b"PUT", b"12345"),
        (b"/v1/stream", b"PUT", b"12345"),
        (b"/v1/stream", b"POST", b"12345"),
        (b"/v1/kv/blocked", b"PUT", b"12345"),
    ],
)
def test_refusals_and_streams_are_answered_as_ever(target, method, body):
    taught, plain = (answers(target, method, body, teaching) for teaching in (True, False))
    assert taught == plain


def answers(target, method, body, teaching):
    """Everything that a client reads, and what reached the handlers, of a request whose block is familiar or is not."""
    streamed = []

    async def take(request):
        streamed.append([piece async for piece in request.body_stream])
        return text_response("taken")

    async def echo(request):
        return text_response(request.path)

    routes = [
        Route("/v1/echo", (("PUT", echo),), "none"),
        Route("/v1/long", (("GET", echo),), "none"),
        Route("/v1/stream", (("PUT", take),), "none", body_bytes_max=None),
        Route("/v1/kv/", (("GET", echo), ("PUT", echo)), "key", body_bytes_max=10),
    ]

    async def scenario(bench):
        async with connection(bench) as (reader, writer):
            for _ in range(2 * teaching):
                writer.write(put(b"/v1/echo", b"x" * len(body)))
                await reader.readuntil(b"/v1/echo")
            assert len(bench.server.familiar) == teaching
            writer.write(put(target, body, method=method))
            await asyncio.sleep(0.01)
            writer.write(b"GET /v1/long HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            answer = await reader.read()
        return [line for line in answer.split(b"\r\n") if not line.startswith(b"Date: ")]

    return serve(scenario, routes=routes, rules=Rules(block_endpoints=["/v1/kv/blocked"])), streamed


# --- without a connection ---------------------------------------------------------------------------------------------


class Parsing:
    """The parser, a sink for what it finds, and a Familiar that learns as a connection lets it."""

    def __init__(self):
        async def handler(request):
            raise AssertionError("not asked")

        methods = (("GET", handler), ("PUT", handler))
        routes = [
            Route("/v1/kv/", methods, "key", body_bytes_max=10),
            Route("/v1/unlimited", methods, "none"),
            Route("/v1/stream", methods, "none", body_bytes_max=None),
        ]
        self.pipeline = Pipeline(RouteTable(routes), Rules(), SilentLog())
        self.familiar = Familiar(65536)
        self.heads = []

    def read(self, data):
        """The heads in `data`; None unless the parser took all of it and would take more."""
        self.heads = []
        reader = RequestReader(self, self.pipeline, SilentLog(), "10.0.0.2", 65536)
        refusal = reader.feed(data, first=True)
        if refusal is not None or not reader.at_rest:
            return None
        if reader.complete == 1:
            self.familiar.learn(data, reader.head)
        return self.heads

    def continues(self):
        pass

    body_begins = stream_ends = body_overflows = continues

    def body_stream(self):
        return BodyStream(lambda: None, lambda: None)

    def received(self, head):
        self.heads.append(head)

    def spared(self, data):
        """The head that is read without the parser, as a connection would take it; None if the parser is asked."""
        found = self.familiar.read(data)
        if found is None:
            return None
        head, raw_target = found
        head.target = self.pipeline.locate(raw_target, head.method)
        return head if head.length is None or taken_whole(head.target, head.length) else None


def shown(head):
    """All of a head that anybody looks at once it has been read."""
    target = head.target
    if not isinstance(target, Response):
        target = target.path, None if target.query is None else target.query.pairs, target.route
    return (
        *(head.method, dict(head.headers), head.hosts, head.http10, head.keep_alive, head.length, head.body),
        *(head.stream, target),
    )


TOKENS = st.text("abcXYZ-", min_size=1, max_size=5).map(str.encode)
LINES = st.one_of(
    st.tuples(TOKENS, st.binary(max_size=6)).map(b": ".join),
    st.sampled_from([b"Content-Length: 5", b"content-length:5", b"Content-Length: 0", b"Content-Length: 3"]),
    st.sampled_from([b"Transfer-Encoding: chunked", b"Connection: close", b"Connection: keep-alive", b"Host: y"]),
    st.sampled_from([b"Cookie: a", b"Expect: 100-continue", b"Upgrade: x", b" folded", b"", b"Accept: */*"]),
)
BODIES = st.one_of(st.binary(max_size=12), st.sampled_from([b"", b"12345", b"\r\n\r\nx", b"5\r\nabcde\r\n0\r\n\r\n"]))
METHODS = st.sampled_from([b"PUT", b"POST", b"GET", b"DELETE"])
PATHS = st.sampled_from(
    [b"/v1/kv/a", b"/v1/kv/%2F?cas=1", b"/v1/unlimited", b"/v1/stream", b"/v1/kv", b"/x", b"/v1/%z"]
)


@st.composite
def requests(draw):
    body = draw(BODIES)
    lines = [b"Host: x", *draw(st.lists(LINES, max_size=2))]
    if draw(st.booleans()):
        lines.append(b"Content-Length: %d" % len(body))
    block = b"\r\n".join(draw(st.permutations(lines))) + b"\r\n\r\n"
    return b"%s %s HTTP/1.1\r\n" % (draw(METHODS), draw(PATHS)), block, body


EDITS = st.lists(
    st.tuples(st.integers(0, 120), st.integers(0, 3), st.sampled_from([b"", b"\r\n", b"5", b"\0"])), max_size=2
)


@given(requests(), requests(), EDITS)
def test_what_is_read_without_the_parser_is_what_the_parser_reads(first, second, edits):
    reader = Parsing()
    for _ in range(2):
        reader.read(b"".join(first))
    for line, block, body in (first, (second[0], *first[1:]), (*first[:2], second[2]), second):
        data = line + block + body
        for at, cut, new in [(0, 0, b""), *edits]:
            data = data[:at] + new + data[at + cut :]
            head = reader.spared(data)
            if head is not None:
                found = parsing_of(reader, data)
                assert found is not None and [shown(each) for each in found] == [shown(head)]


def parsing_of(reader, data):
    """What the parser finds, with the same routes, and without anything being learned."""
    kept, reader.familiar = reader.familiar, Familiar(65536)
    try:
        return reader.read(data)
    finally:
        reader.familiar = kept


@given(st.binary(max_size=10), st.binary(max_size=10), TOKENS, st.sampled_from([b"PUT", b"POST"]))
def test_a_plain_block_is_read_without_the_parser_from_the_third_time_on(one, other, value, method):
    reader = Parsing()
    other = other[: len(one)].ljust(len(one))
    for turn in range(2):
        assert reader.spared(put(b"/v1/kv/a%d" % turn, one, b"User-Agent: %s\r\n" % value)) is None
        assert reader.read(put(b"/v1/kv/a%d" % turn, one, b"User-Agent: %s\r\n" % value)) is not None
    data = put(b"/v1/kv/b?flags=1", other, b"User-Agent: %s\r\n" % value, method)
    head = reader.spared(data)
    assert head is not None and b"".join(head.body) == other
    assert [shown(each) for each in parsing_of(reader, data)] == [shown(head)]


def test_blocks_with_bodies_are_bounded_apart_from_the_others():
    reader = Parsing()
    for _ in range(2):
        reader.read(get(b"/v1/unlimited"))
    for number in range(familiar.BLOCKS_MAX * 2):
        for _ in range(2):
            reader.read(put(b"/v1/unlimited", b"v" * (number % familiar.BODY_BYTES_MAX)))
        assert len(reader.familiar._bodied) <= familiar.BLOCKS_MAX
    assert reader.familiar.read(get(b"/v1/unlimited")) is not None
