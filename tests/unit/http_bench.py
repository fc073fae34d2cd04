"""The HTTP server on a simulated network, with routes that tell what reached them. No agent."""

import asyncio
from contextlib import asynccontextmanager

from pyconsul_agent.env.base import open_stream
from pyconsul_agent.interfaces.http.message import Response, text_response
from pyconsul_agent.interfaces.http.pipeline import Pipeline, Rules
from pyconsul_agent.interfaces.http.routes import Route, RouteTable
from pyconsul_agent.interfaces.http.transport import HTTPServer
from tests.builders import run_sim

SERVER = "10.0.0.1"


class SilentLog:
    """Keeps what was logged as error."""

    def __init__(self):
        self.errors = []

    def event(self, name, /, **fields):
        pass

    trace = debug = info = warn = event

    def error(self, message, /, **pairs):
        self.errors.append((message, pairs))

    def named(self, name):
        return self


class FakeCaller:
    """Answers by method name; keeps what was asked. An exception is raised."""

    def __init__(self, **replies):
        self.replies = {name.replace("_", ".", 1): reply for name, reply in replies.items()}
        self.asked = []

    async def call(self, method, request):
        self.asked.append((method.name, request))
        reply = self.replies[method.name]
        if isinstance(reply, Exception):
            raise reply
        return reply


class Bench:
    """`requests` are those that reached a handler."""

    def __init__(self, world):
        self.world = world
        self.requests = []
        self.cancelled_at = None
        self.log = SilentLog()
        self.server = None

    async def echo(self, request):
        self.requests.append(request)
        return text_response(request.path)

    async def block(self, request):
        self.requests.append(request)
        try:
            await asyncio.sleep(600)
        except asyncio.CancelledError:
            self.cancelled_at = self.world.loop.time()
            raise
        return Response()

    async def fail(self, request):
        raise RuntimeError("a bug")

    async def long(self, request):
        return text_response("x" * 5000)

    def routes(self):
        return [
            Route("/v1/echo", (("GET", self.echo), ("PUT", self.echo)), "none"),
            Route("/v1/block", (("GET", self.block),), "none", blocking=True),
            Route("/v1/fail", (("GET", self.fail),), "none"),
            Route("/v1/long", (("GET", self.long),), "none"),
            Route(
                "/v1/kv/",
                (("GET", self.echo), ("PUT", self.echo)),
                "key",
                body_bytes_max=10,
                chunked_bytes_max=20,
            ),
        ]

    async def connect(self, client="10.0.0.2"):
        return await open_stream(self.world.network.host(client), SERVER, 8500)

    async def exchange(self, data, client="10.0.0.2"):
        """Send, read until the server closes."""
        reader, writer = await self.connect(client)
        writer.write(data)
        answer = await reader.read()
        writer.close()
        return answer

    async def get(self, target, *headers, method="GET", body=b""):
        lines = [f"{method} {target} HTTP/1.1", "Host: x", "Connection: close", *headers]
        if body:
            lines.append(f"Content-Length: {len(body)}")
        return await self.exchange("\r\n".join([*lines, "", ""]).encode("utf-8", "surrogateescape") + body)


def serve(scenario, *, rules=None, routes=None, seed=1, stamp=lambda part: None, **options):
    """Run `scenario(bench)` against a server."""

    async def whole(world):
        bench = Bench(world)
        table = RouteTable(routes if routes is not None else bench.routes())
        pipeline = bench.pipeline = Pipeline(table, rules or Rules(), bench.log, stamp=stamp)

        async def main(env):
            server = bench.server = HTTPServer(env.net, env.clock, pipeline, bench.log, **options)
            await server.start([("0.0.0.0", 8500)])
            try:
                await asyncio.Event().wait()
            finally:
                await server.stop()

        process = world.process(SERVER, main)
        await asyncio.sleep(0.1)
        result = await scenario(bench)
        process.kill()
        await process.wait()
        return result

    return run_sim(seed, whole)


@asynccontextmanager
async def connection(bench):
    """A connection that is closed afterwards."""
    reader, writer = await bench.connect()
    try:
        yield reader, writer
    finally:
        writer.close()
