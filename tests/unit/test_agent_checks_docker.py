"""Docker checks against an Engine of a few lines on a unix socket."""

import asyncio

import pytest
from aiohttp import web

from pyconsul_agent.agent.checks.docker import Docker
from pyconsul_agent.structs.base import duration
from pyconsul_agent.structs.catalog import CheckType

pytestmark = pytest.mark.slow


class Engine:
    """Knows one container; what its command prints and how it ends is given."""

    def __init__(self, output=b"fine\n", code=0, start_status=200):
        self.output, self.code, self.start_status = output, code, start_status
        self.created = None

    async def create(self, request):
        if request.match_info["id"] != "c/1":
            return web.json_response({"message": "No such container"}, status=404)
        self.created = await request.json()
        return web.json_response({"Id": "e1"}, status=201)

    async def start(self, request):
        if self.start_status != 200:
            return web.Response(status=self.start_status, text="paused")
        return web.Response(body=self.output)

    async def inspect(self, request):
        return web.json_response({"ExitCode": self.code})

    async def serve(self, path):
        app = web.Application()
        app.router.add_post("/containers/{id}/exec", self.create)
        app.router.add_post("/exec/e1/start", self.start)
        app.router.add_get("/exec/e1/json", self.inspect)
        runner = web.AppRunner(app)
        await runner.setup()
        await web.UnixSite(runner, path).start()
        return runner


def run(tmp_path, engine, container="c/1", limit=4096, host=None):
    async def main():
        path = str(tmp_path / "d.sock")
        runner = await engine.serve(path)
        check = CheckType(docker_container_id=container, script_args=("sh", "-c", "x"), timeout=duration(5.0))
        try:
            return await Docker(host or f"unix://{path}").probe(check, output_bytes_max=limit)()
        finally:
            await runner.cleanup()
            await asyncio.sleep(0)

    return asyncio.run(main())


@pytest.mark.parametrize(("code", "status"), [(0, "passing"), (1, "warning"), (2, "critical"), (None, "critical")])
def test_the_exit_code_is_the_status(tmp_path, code, status):
    engine = Engine(code=code)
    result = run(tmp_path, engine)
    assert (result.status, result.output) == (status, "fine\n")
    assert engine.created == {
        "AttachStdin": False, "AttachStdout": True, "AttachStderr": True, "Tty": False, "Cmd": ["sh", "-c", "x"],
    }  # fmt: skip


def test_an_unknown_container_is_critical(tmp_path):
    result = run(tmp_path, Engine(), container="nope")
    assert (result.status, result.output) == ("critical", "create exec failed for unknown container nope")


def test_the_end_of_a_long_output_is_kept(tmp_path):
    result = run(tmp_path, Engine(output=b"a" * 100_000 + b"end"), limit=10)
    assert result.output == "Captured 10 of 100003 bytes\n...\naaaaaaaend"


def test_what_the_engine_refuses_is_told(tmp_path):
    result = run(tmp_path, Engine(start_status=409))
    assert result.output == "start exec failed for container c/1 with status 409: paused"


@pytest.mark.parametrize("host", ["unix:///nowhere/d.sock", "ssh://x", "tcp://"])
def test_an_engine_that_is_not_there_is_critical(tmp_path, host):
    assert run(tmp_path, Engine(), host=host).status == "critical"
