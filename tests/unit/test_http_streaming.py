"""Bodies that a handler takes as they arrive, and answers that break off: order, bounds, clients that go away."""

import asyncio

from pyconsul_agent.errors import ConnectionLost, RPCError
from pyconsul_agent.interfaces.http.body import WAITING_BYTES_MAX, BodyStream
from pyconsul_agent.interfaces.http.connection import BODY_TIMEOUT_S
from pyconsul_agent.interfaces.http.message import Response, text_response
from pyconsul_agent.interfaces.http.routes import Route
from tests.unit.http_bench import connection, serve

HEAD = b"PUT /v1/snapshot HTTP/1.1\r\nHost: x\r\n"


class Streaming:
    """Handlers of one route; `go` lets them read on."""

    def __init__(self):
        self.go = asyncio.Event()
        self.go.set()
        self.taken, self.error, self.began = b"", None, 0

    async def put(self, request):
        self.began += 1
        assert request.body == b""
        try:
            async for piece in request.body_stream:
                await self.go.wait()
                self.taken += piece
        except Exception as error:
            self.error = error
            raise
        return text_response(str(len(self.taken)))

    async def refuse(self, request):
        raise RPCError("no leader")

    async def get(self, request):
        async def pieces():
            yield b"one"
            raise RPCError("the disk is gone")

        return Response(200, stream=pieces())

    def routes(self):
        methods = (("GET", self.get), ("PUT", self.put), ("POST", self.refuse))
        return [Route("/v1/snapshot", methods, "acl:write", body_bytes_max=None)]


def on(scenario):
    async def whole(bench):
        return await scenario(bench, STREAMS[-1])

    STREAMS.append(Streaming())
    return serve(whole, routes=STREAMS[-1].routes())


STREAMS = []


def test_handler_begins_before_the_body_is_there_and_gets_all_of_it():
    async def scenario(bench, streaming):
        async with connection(bench) as (reader, writer):
            writer.write(HEAD + b"Content-Length: 300000\r\n\r\nabc")
            await asyncio.sleep(1)
            assert (streaming.began, streaming.taken) == (1, b"abc")
            writer.write(b"x" * 299_997)
            assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200 OK")
            assert await reader.readexactly(6) == b"300000"
            writer.write(HEAD + b"Transfer-Encoding: chunked\r\n\r\n3\r\nxyz\r\n0\r\n\r\n")  # the connection goes on
            await reader.readuntil(b"\r\n\r\n")
            assert await reader.readexactly(6) == b"300003"

    on(scenario)


def test_client_is_not_read_while_the_handler_takes_nothing():
    async def scenario(bench, streaming):
        streaming.go.clear()
        async with connection(bench) as (reader, writer):
            writer.write(HEAD + b"Content-Length: 20000000\r\n\r\n" + b"x" * 20_000_000)
            await asyncio.sleep(BODY_TIMEOUT_S * 3)  # nor is it called slow meanwhile
            assert streaming.taken == b""
            assert bench.requests == []
            streaming.go.set()
            assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200 OK")
            assert await reader.readexactly(8) == b"20000000"

    on(scenario)


def test_refusal_is_found_by_a_client_that_is_still_sending():
    async def scenario(bench, streaming):
        async with connection(bench) as (reader, writer):
            writer.write(HEAD.replace(b"PUT", b"POST") + b"Content-Length: 2000000\r\n\r\n" + b"x" * 1_000_000)
            answer = await reader.read()
            assert answer.startswith(b"HTTP/1.1 500 Internal Server Error")
            assert b"Connection: close" in answer and answer.endswith(b"no leader")

    on(scenario)


def test_client_that_stops_in_the_middle_is_given_up():
    async def scenario(bench, streaming):
        async with connection(bench) as (reader, writer):
            writer.write(HEAD + b"Content-Length: 100\r\n\r\nabc")
            began = bench.world.loop.time()
            answer = await reader.read()
            assert BODY_TIMEOUT_S - 1 < bench.world.loop.time() - began < BODY_TIMEOUT_S + 2
            assert answer.endswith(b"failed to read the request body: i/o timeout")

    on(scenario)


def test_client_that_goes_away_ends_its_handler():
    async def scenario(bench, streaming):
        async with connection(bench) as (_, writer):
            writer.write(HEAD + b"Content-Length: 100\r\n\r\nabc")
            await asyncio.sleep(1)
        await asyncio.sleep(2)
        assert isinstance(streaming.error, ConnectionLost | asyncio.CancelledError) or streaming.error is None
        assert streaming.taken == b"abc"

    on(scenario)


def test_body_of_a_get_on_such_a_route_is_bounded():
    async def scenario(bench, streaming):
        async with connection(bench) as (reader, writer):
            writer.write(HEAD.replace(b"PUT", b"GET") + b"Content-Length: 1000000\r\n\r\n")
            assert (await reader.readuntil(b"\r\n")).startswith(b"HTTP/1.1 413")

    on(scenario)


def test_answer_that_breaks_off_is_not_taken_for_whole():
    async def scenario(bench, streaming):
        async with connection(bench) as (reader, writer):
            writer.write(HEAD.replace(b"PUT", b"GET") + b"\r\n")
            data = b""
            try:
                while piece := await reader.read(1000):
                    data += piece
            except OSError:
                pass
            assert not data.endswith(b"0\r\n\r\n")
            assert bench.log.errors[0][0] == "Answer not completed"

    on(scenario)


def test_what_waits_for_a_handler_is_bounded():
    async def scenario():
        calls = []
        stream = BodyStream(lambda: calls.append("pause"), lambda: calls.append("resume"))
        stream.feed(b"x" * WAITING_BYTES_MAX)
        stream.feed(b"y")
        assert calls == ["pause"]
        assert len(await anext(stream)) == WAITING_BYTES_MAX
        assert calls == ["pause", "resume"]
        stream.finish()
        assert [piece async for piece in stream] == [b"y"]
        stream.fail(RPCError("too late"))
        assert [piece async for piece in stream] == []

    asyncio.run(scenario())
