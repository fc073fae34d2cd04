"""Requests whose headers came before: read without the parser, and exactly as the parser reads them."""

import pytest

from pyconsul_agent.interfaces.http import familiar
from pyconsul_agent.interfaces.http.familiar import Familiar
from pyconsul_agent.interfaces.http.head import Head
from tests.unit.http_bench import connection, serve

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
