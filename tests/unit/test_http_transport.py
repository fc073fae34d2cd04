"""The HTTP server over a simulated network: what it accepts, refuses, bounds and cancels."""

import asyncio
import gzip

import pytest

from tests.unit.http_bench import connection, serve


def status_of(answer):
    return answer.split(b"\r\n", 1)[0]


def body_of(answer):
    return answer.partition(b"\r\n\r\n")[2]


def head_of(answer):
    return answer.partition(b"\r\n\r\n")[0]


def ask(target, *headers, **options):
    async def scenario(bench):
        bench.answer = await bench.get(target, *headers, **options)
        return bench

    return serve(scenario)


def send(data):
    async def scenario(bench):
        bench.answer = await bench.exchange(data)
        return bench

    return serve(scenario)


def test_a_request_reaches_its_handler_decoded():
    bench = ask("/v1/kv/a%20b?x=1&y", "X-Custom: v")
    assert status_of(bench.answer) == b"HTTP/1.1 200 OK"
    assert body_of(bench.answer) == b"/v1/kv/a b"
    (request,) = bench.requests
    assert request.query.pairs == [("x", "1"), ("y", "")]
    assert request.headers["x-custom"] == "v"
    assert request.remote == "10.0.0.2"


def test_no_server_header_and_no_invented_content_type():
    head = head_of(ask("/v1/echo", method="OPTIONS").answer).lower()
    assert b"server:" not in head
    assert b"content-type:" not in head
    assert b"allow: options,get,put" in head


@pytest.mark.parametrize("path", ["/v1/kv/%ff", "/v1/kv/%c3%28"])
def test_bytes_that_are_not_utf8_pass_in_a_path(path):
    bench = ask(path)
    assert status_of(bench.answer) == b"HTTP/1.1 200 OK"
    assert bench.requests[0].path.encode("utf-8", "surrogateescape") == bytes.fromhex(path[8:].replace("%", "")).join(
        [b"/v1/kv/", b""]
    ) or b"\xc3(" in bench.requests[0].path.encode("utf-8", "surrogateescape")


@pytest.mark.parametrize("path", ["/v1/kv/%00", "/v1/kv/%1b", "/v1/kv/%e2%80%8b"])
def test_an_unprintable_path_is_refused_without_words(path):
    answer = ask(path).answer
    assert status_of(answer) == b"HTTP/1.1 400 Bad Request"
    assert body_of(answer) == b""


def test_a_broken_escape_is_no_http():
    answer = ask("/v1/kv/%zz").answer
    assert body_of(answer) == b"400 Bad Request"
    assert b"connection: close" in head_of(answer).lower()
    assert b"date:" not in head_of(answer).lower()


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"GET /v1/echo HTTP/1.1\r\n\r\n", b"HTTP/1.1 400 Bad Request: missing required Host header"),
        (b"GET /v1/echo HTTP/1.1\r\nHost: x\r\nBad Name : v\r\n\r\n", b"HTTP/1.1 400 Bad Request: invalid header name"),
        (b"GET /v1/echo HTTP/9.9\r\nHost: x\r\n\r\n",
         b"HTTP/1.1 505 HTTP Version Not Supported: unsupported protocol version"),
        (b"GET /v1/echo HTTP/1.0\r\n\r\n", b"HTTP/1.0 200 OK"),
        (b"OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n", b"HTTP/1.1 200 OK"),
    ],
)  # fmt: skip
def test_the_status_line_says_what_gos_does(data, status):
    assert status_of(send(data).answer) == status


def test_bare_line_ends_are_read_once_and_nothing_behind_them():
    request = b"PUT /v1/echo HTTP/1.1\nHost: x\nContent-Length: 3\n\nabc"
    bench = send(request + request)
    assert status_of(bench.answer) == b"HTTP/1.1 200 OK"
    assert bench.answer.count(b"HTTP/1.") == 1
    assert b"Connection: close" in bench.answer


@pytest.mark.parametrize(
    "data",
    [
        b"PUT /v1/echo HTTP/1.1\r\nHost: x\nContent-Length: 3\r\n\r\nabc",
        b"PUT /v1/echo HTTP/1.1\nHost: x\nTransfer-Encoding: chunked\nContent-Length: 3\n\nabc",
        b"GET /v1/echo HTTP/1.1\r\nHost: x\r\n\r\nPUT /v1/echo HTTP/1.1\nHost: x\nContent-Length: 3\n\nabc",
    ],
)
def test_mixed_line_ends_and_bare_ones_behind_another_request_are_refused(data):
    assert b"400 Bad Request" in send(data).answer


@pytest.mark.parametrize(
    "data",
    [
        b"GARBAGE\r\n\r\n",
        b"GET /v1/echo HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
        b"PUT /v1/echo HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
        b"PUT /v1/echo HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    ],
)
def test_what_is_no_http_is_told_in_gos_words_and_closed(data):
    bench = send(data)
    assert status_of(bench.answer) == b"HTTP/1.1 400 Bad Request"
    assert body_of(bench.answer) == b"400 Bad Request"
    assert bench.requests == []


def test_a_request_without_host_is_refused():
    bench = send(b"GET /v1/echo HTTP/1.1\r\n\r\n")
    assert status_of(bench.answer).startswith(b"HTTP/1.1 400 Bad Request")
    assert bench.requests == []


def test_two_hosts_are_refused():
    bench = send(b"GET /v1/echo HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n")
    assert status_of(bench.answer).startswith(b"HTTP/1.1 400 Bad Request")
    assert bench.requests == []


def test_an_unknown_method_is_told_what_the_path_allows():
    answer = send(b"FOO /v1/echo HTTP/1.1\r\nHost: x\r\n\r\n").answer
    assert status_of(answer) == b"HTTP/1.1 405 Method Not Allowed"
    assert body_of(answer) == b"method FOO not allowed"
    assert b"Allow: OPTIONS,GET,PUT" in head_of(answer)


def test_too_long_header_block_is_refused():
    bench = send(b"GET /v1/echo HTTP/1.1\r\nHost: x\r\nX-Long: " + b"a" * 80_000 + b"\r\n\r\n")
    assert status_of(bench.answer).split()[1] in (b"400", b"431")
    assert bench.requests == []


def test_the_size_of_a_header_block_is_an_option():
    async def scenario(bench):
        small = await bench.get("/v1/kv/a", "X-Long: " + "x" * 3000)
        assert status_of(small) == b"HTTP/1.1 431 Request Header Fields Too Large"
        assert status_of(await bench.get("/v1/kv/a", "X-Long: " + "x" * 1000)) == b"HTTP/1.1 200 OK"

    serve(scenario, head_bytes_max=2048)


def test_too_many_headers_are_refused():
    bench = send(b"GET /v1/echo HTTP/1.1\r\nHost: x\r\n" + b"".join(b"X-%d: v\r\n" % n for n in range(300)) + b"\r\n")
    assert status_of(bench.answer).split()[1] in (b"400", b"431")
    assert bench.requests == []


# --- bodies ---------------------------------------------------------------------------------------------------


def test_a_declared_body_over_the_limit_is_refused_before_it_is_read():
    async def scenario(bench):
        async with connection(bench) as (reader, writer):
            writer.write(b"PUT /v1/kv/k HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n")
            answer = await asyncio.wait_for(reader.readuntil(b"kv_max_value_size."), 1)
        return answer, bench.requests

    answer, requests = serve(scenario)
    assert status_of(answer) == b"HTTP/1.1 413 Request Entity Too Large"
    assert b"Request body(1000000 bytes) too large, max size: 10 bytes." in answer
    assert b"X-Consul-Default-Acl-Policy: allow" in answer
    assert requests == []


def test_a_body_of_exactly_the_limit_passes():
    bench = ask("/v1/kv/k", method="PUT", body=b"0123456789")
    assert bench.requests[0].body == b"0123456789"


def chunked(size):
    return (
        b"PUT /v1/kv/k HTTP/1.1\r\nHost: x\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n"
        + b"%x\r\n" % size
        + b"a" * size
        + b"\r\n0\r\n\r\n"
    )


def test_a_chunked_body_has_its_own_limit():
    bench = send(chunked(20))
    assert bench.requests[0].body == b"a" * 20
    assert bench.requests[0].body_length is None
    bench = send(chunked(21))
    assert status_of(bench.answer) == b"HTTP/1.1 413 Request Entity Too Large"
    assert bench.requests == []


def test_a_wrong_method_is_told_before_its_body_is_looked_at():
    answer = ask("/v1/block", method="PUT", body=b"x" * 100).answer
    assert status_of(answer) == b"HTTP/1.1 405 Method Not Allowed"


def test_an_unknown_path_is_404_also_with_a_body():
    answer = ask("/v1/nothing", method="PUT", body=b"x" * 100).answer
    assert status_of(answer) == b"HTTP/1.1 404 Not Found"
    assert body_of(answer) == b""


def test_expect_continue_is_answered_before_the_body():
    async def scenario(bench):
        async with connection(bench) as (reader, writer):
            writer.write(b"PUT /v1/kv/k HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nExpect: 100-continue\r\n\r\n")
            first = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 1)
            assert bench.requests == []
            writer.write(b"abc")
            second = await asyncio.wait_for(reader.readuntil(b"/v1/kv/k"), 1)
        return first, second

    first, second = serve(scenario)
    assert first == b"HTTP/1.1 100 Continue\r\n\r\n"
    assert status_of(second) == b"HTTP/1.1 200 OK"


def test_any_other_expectation_fails():
    bench = ask("/v1/kv/k", "Expect: wonders", method="PUT", body=b"x")
    assert status_of(bench.answer) == b"HTTP/1.1 417 Expectation Failed"
    assert bench.requests == []


# --- answers --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("header", "compressed"),
    [("gzip", True), ("GZIP", True), ("deflate, gzip;q=0.5", True), ("gzip;q=0", False), ("*", False), ("", False)],
)
def test_long_answers_are_compressed_for_those_who_ask(header, compressed):
    answer = ask("/v1/long", f"Accept-Encoding: {header}").answer
    assert (b"Content-Encoding: gzip" in answer) is compressed
    body = body_of(answer)
    assert (gzip.decompress(body) if compressed else body) == b"x" * 5000


def test_short_answers_are_not_compressed():
    assert b"Content-Encoding" not in ask("/v1/echo", "Accept-Encoding: gzip").answer


def test_a_bug_is_answered_without_its_words_and_logged():
    bench = ask("/v1/fail")
    assert status_of(bench.answer) == b"HTTP/1.1 500 Internal Server Error"
    assert body_of(bench.answer) == b"internal error"
    assert [message for message, _ in bench.log.errors] == ["Request failed"]


# --- time and connections -------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["close", "abort"])
def test_a_blocking_query_ends_within_a_second_of_its_clients_end(how):
    async def scenario(bench):
        _, writer = await bench.connect()
        writer.write(b"GET /v1/block HTTP/1.1\r\nHost: x\r\n\r\n")
        await asyncio.sleep(5)
        assert bench.cancelled_at is None
        gone = bench.world.loop.time()
        if how == "close":
            writer.close()
        else:
            writer.transport.abort()
        await asyncio.sleep(1)
        assert bench.cancelled_at is not None
        return bench.cancelled_at - gone

    assert 0 <= serve(scenario) <= 1


def test_a_client_that_closes_only_its_half_gets_its_answer():
    async def scenario(bench):
        async with connection(bench) as (reader, writer):
            writer.write(b"GET /v1/echo HTTP/1.1\r\nHost: x\r\n\r\n")
            writer.write_eof()
            return await asyncio.wait_for(reader.read(), 2)

    assert body_of(serve(scenario)) == b"/v1/echo"


def test_an_unfinished_header_is_given_up():
    async def scenario(bench):
        async with connection(bench) as (reader, writer):
            start = bench.world.loop.time()
            writer.write(b"GET /v1/echo HTTP/1.1\r\nHost: x\r\nX-Slow: ")
            for _ in range(9):
                await asyncio.sleep(1)
                writer.write(b"a")
            answer = await asyncio.wait_for(reader.read(), 60)
            return bench.world.loop.time() - start, answer, bench.requests

    took, answer, requests = serve(scenario)
    assert 9 <= took <= 11
    assert status_of(answer) == b"HTTP/1.1 408 Request Timeout"
    assert requests == []


def test_a_stalled_body_is_given_up():
    async def scenario(bench):
        async with connection(bench) as (reader, writer):
            start = bench.world.loop.time()
            writer.write(b"PUT /v1/kv/k HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nab")
            answer = await asyncio.wait_for(reader.read(), 120)
            return bench.world.loop.time() - start, answer, bench.requests

    took, answer, requests = serve(scenario)
    assert 59 <= took <= 62
    assert status_of(answer) == b"HTTP/1.1 408 Request Timeout"
    assert requests == []


def test_connections_over_the_limit_are_told_and_closed_until_one_ends():
    async def scenario(bench):
        held = [await bench.connect() for _ in range(3)]
        refused = await bench.exchange(b"GET /v1/echo HTTP/1.1\r\nHost: x\r\n\r\n")
        other = await bench.exchange(b"GET /v1/echo HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", "10.0.0.3")
        held[0][1].close()
        await asyncio.sleep(1)
        again = await bench.get("/v1/echo")
        for _, writer in held:
            writer.close()
        return refused, other, again

    refused, other, again = serve(scenario, connections_per_client=3)
    assert status_of(refused) == b"HTTP/1.1 429 Too Many Requests"
    assert b"Content-Length: 81" in refused
    assert len(body_of(refused)) == 81
    assert status_of(other) == status_of(again) == b"HTTP/1.1 200 OK"


def test_connections_are_kept_for_further_requests():
    async def scenario(bench):
        async with connection(bench) as (reader, writer):
            for path in (b"/v1/kv/a", b"/v1/kv/b"):
                writer.write(b"GET " + path + b" HTTP/1.1\r\nHost: x\r\n\r\n")
                await asyncio.wait_for(reader.readuntil(b"\r\n\r\n" + path), 1)
        return [request.path for request in bench.requests]

    assert serve(scenario) == ["/v1/kv/a", "/v1/kv/b"]


def test_a_connection_has_a_reader_only_while_a_request_is_read():
    async def scenario(bench):
        async with connection(bench) as (_, writer):
            seen = []
            for piece in (b"", b"GET /v1/block", b" HTTP/1.1\r\nHost: x\r\n\r\n"):
                writer.write(piece)
                await asyncio.sleep(0.1)
                (made,) = bench.server._connections
                seen.append(made._reader is not None)
            return seen, len(bench.requests)

    assert serve(scenario) == ([False, True, False], 1)


def test_connections_that_end_leave_no_deadline_behind():
    async def scenario(bench):
        for _ in range(20):
            async with connection(bench) as (_, writer):
                writer.write(b"GET /v1/block HTTP/1.1\r\nHost: x\r\n\r\n")
                await asyncio.sleep(0.1)
        await asyncio.sleep(1)
        return len(bench.requests), len(bench.server.deadlines), len(bench.server._connections)

    assert serve(scenario) == (20, 0, 0)
