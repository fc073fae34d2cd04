"""Watches of the configuration: what is refused, when handlers run, and that no handler harms anybody."""

import asyncio
import json
import os
from types import SimpleNamespace

import pytest

from pyconsul_agent.agent.watch_post import AiohttpPoster
from pyconsul_agent.agent.watches import Answer, Watches, understood
from pyconsul_agent.app.watch_api import own_api
from pyconsul_agent.env.base import ProcessResult
from pyconsul_agent.env.real_process import RealProcess
from pyconsul_agent.errors import ConfigError, NetError, NoLeader
from pyconsul_agent.interfaces.http.message import JSON, Response
from pyconsul_agent.interfaces.http.pipeline import Pipeline, Rules
from pyconsul_agent.interfaces.http.routes import Route, RouteTable
from pyconsul_agent.watch.plan import Request
from tests.builders import run_async, run_sim
from tests.raft_cluster import Recorder

KEY = {"type": "key", "key": "a", "args": ["handler", "x"]}
OTHER = {"type": "nodes", "args": ["other"]}


@pytest.mark.parametrize(
    ("block", "reason"),
    [
        ({"type": "key", "key": "a"}, "Must define a watch handler"),
        ({"type": "key", "args": ["x"]}, "Must specify a single key to watch"),
        ({"type": "x", "args": ["x"]}, "Unsupported watch type: x"),
        ({"type": "connect_roots", "args": ["x"]}, "Watch type connect_roots is not allowed in agent config"),
        ({"type": "agent_service", "args": ["x"]}, "Watch type agent_service is not allowed in agent config"),
        ({**KEY, "handler_type": "smoke"}, "Handler type 'smoke' not recognized"),
        ({**KEY, "bogus": 1}, "Invalid parameters: [bogus]"),
    ],
)
def test_a_watch_that_is_none_is_refused_by_its_place(block, reason):
    with pytest.raises(ConfigError, match=r"watches\[1\]") as refused:
        understood([KEY, block], {})
    assert reason in str(refused.value)


def test_watches_need_an_http_endpoint():
    with pytest.raises(ConfigError, match="watch plans require an HTTP or HTTPS endpoint"):
        understood([KEY], {}, http=False)
    assert understood([], {}, http=False) == ()


def test_the_old_spelling_of_a_handler_is_warned_about():
    log = Recorder()
    understood([{"type": "nodes", "handler": "echo hi"}], {"SHELL": "/bin/dash"}, log=log)
    assert "'handler' field in watches has been deprecated" in str(log.lines)


class Programs:
    """`Process` that notes its calls; `wait` holds them up, `fail` is raised."""

    def __init__(self):
        self.calls, self.fail, self.gate, self.running, self.most = [], None, asyncio.Event(), 0, 0
        self.gate.set()
        self.exit_code = 0

    async def run(self, arguments, *, environment, stdin, **_):
        self.calls.append((arguments, environment["CONSUL_INDEX"], json.loads(stdin)))
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            if self.fail is not None:
                raise self.fail
            await self.gate.wait()
        finally:
            self.running -= 1
        return ProcessResult(self.exit_code, b"said", truncated=False)


class API:
    """`Fetch` whose answers are put in by tests."""

    def __init__(self):
        self.answers, self.asked = asyncio.Queue(), []

    async def __call__(self, request):
        self.asked.append(request)
        answer = await self.answers.get()
        if isinstance(answer, Exception):
            raise answer
        return answer

    def say(self, index, value):
        self.answers.put_nowait(Answer(200, index, json.dumps([{"Key": "a", "Value": value}]).encode()))


class Posts:
    def __init__(self):
        self.posts, self.status = [], 200

    async def post(self, to, headers, body):
        self.posts.append((to, dict(headers), body))
        if isinstance(self.status, Exception):
            raise self.status
        return self.status, b"answer"


def run(scenario):
    async def whole(world):
        it = SimpleNamespace(api=API(), programs=Programs(), posts=Posts(), log=Recorder())
        it.watches = Watches(it.api, it.programs, it.posts, {"HOME": "/"}, it.log)
        it.exchange = lambda *blocks: it.watches.exchange(understood(blocks, {}))
        await scenario(it)
        await it.watches.stop()

    run_sim(1, whole)


async def turns():
    await asyncio.sleep(0.01)


def test_the_handler_runs_at_the_first_answer_and_at_changes_only():
    async def scenario(it):
        it.exchange(KEY)
        for index, value in ((5, "Ag=="), (6, "Ag=="), (7, "Aw==")):
            it.api.say(index, value)
            await turns()
        assert [(index, value["Value"]) for _, index, value in it.programs.calls] == [("5", "Ag=="), ("7", "Aw==")]
        assert it.programs.calls[0][0] == ("handler", "x")
        assert it.api.asked[-1].query == {"index": "7"}

    run(scenario)


def test_a_handler_that_does_not_end_is_alone_and_ends_with_its_watch():
    async def scenario(it):
        it.programs.gate.clear()
        it.exchange(KEY)
        for index in (5, 6, 7):
            it.api.say(index, str(index))
        await asyncio.sleep(3600)
        assert (len(it.programs.calls), it.programs.most) == (1, 1)
        it.exchange()
        await turns()
        assert it.programs.running == 0

    run(scenario)


@pytest.mark.parametrize(
    "trouble", [FileNotFoundError(2, "No such file or directory"), ValueError("embedded null byte")]
)
def test_a_handler_that_cannot_run_is_logged_and_tried_again_at_the_next_news(trouble):
    async def scenario(it):
        it.programs.fail = trouble
        it.exchange(KEY)
        it.api.say(5, "a")
        await turns()
        it.api.say(6, "b")
        await turns()
        assert len(it.programs.calls) == 2
        assert str(it.log.lines).count("Failed to run watch handler") == 2

    run(scenario)


def test_a_handler_that_fails_is_logged():
    async def scenario(it):
        it.programs.exit_code = 3
        it.exchange(KEY)
        it.api.say(5, "a")
        await turns()
        assert "exit status 3" in str(it.log.lines)

    run(scenario)


def test_http_handlers_get_the_json_and_the_index():
    async def scenario(it):
        config = {
            "path": "http://h/x",
            "method": "PUT",
            "header": {"X-A": ["b"]},
            "timeout": "3s",
            "tls_skip_verify": True,
        }
        it.exchange({"type": "key", "key": "a", "handler_type": "http", "http_handler_config": config})
        it.api.say(5, "Ag==")
        await turns()
        ((to, headers, body),) = it.posts.posts
        assert (to.url, to.method, to.timeout_s, to.skip_verify) == ("http://h/x", "PUT", 3.0, True)
        assert headers == {"Content-Type": "application/json", "X-Consul-Index": "5", "X-A": "b"}
        assert json.loads(body)["Value"] == "Ag=="
        for it.posts.status in (500, NetError("refused")):
            it.api.say(it.api.asked[-1].query["index"] and len(it.posts.posts) + 5, str(it.posts.status))
            await turns()
        said = str(it.log.lines)
        assert "http watch handler failed with output" in said and "refused" in said

    run(scenario)


def test_errors_of_the_api_are_waited_for_ever_longer():
    async def scenario(it):
        it.exchange(KEY)
        for _ in range(3):
            it.api.answers.put_nowait(NoLeader("No cluster leader"))
        it.api.say(5, "a")
        await asyncio.sleep(5 + 20 + 0.1)
        assert len(it.api.asked) == 3
        await asyncio.sleep(46)
        assert len(it.programs.calls) == 1
        assert "No cluster leader" in str(it.log.lines)

    run(scenario)


def test_a_reload_ends_what_is_gone_and_leaves_the_rest_alone():
    async def scenario(it):
        it.exchange(KEY, OTHER, KEY)
        await turns()
        assert (len(it.watches), len(it.api.asked)) == (3, 3)
        it.exchange(KEY, {**OTHER, "stale": True})
        await turns()
        assert len(it.watches) == 2
        assert [request.path for request in it.api.asked] == [
            "/v1/kv/a",
            "/v1/catalog/nodes",
            "/v1/kv/a",
            "/v1/catalog/nodes",
        ]
        assert it.api.asked[-1].query == {"stale": ""}

    run(scenario)


# --- the real thing ------------------------------------------------------------------------------------------------


def alive(pid):
    """Whether a process runs (a zombie does not)."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.parametrize("uvloop", [False, True])
def test_a_program_is_killed_with_its_children_when_the_watch_ends(tmp_path, uvloop):
    script = f"sleep 1000 & echo $! $$ > {tmp_path}/new; mv {tmp_path}/new {tmp_path}/pids; cat >/dev/null; wait"

    async def scenario():
        api, poster = API(), AiohttpPoster()
        watches = Watches(api, RealProcess(), poster, dict(os.environ), Recorder())
        watches.exchange(understood([{"type": "key", "key": "a", "args": ["sh", "-c", script]}], {}))
        api.say(5, "x" * 300_000)
        async with asyncio.timeout(10):
            while not (tmp_path / "pids").exists():
                await asyncio.sleep(0.01)
        pids = (tmp_path / "pids").read_text().split()
        assert all(map(alive, pids))
        await watches.stop()
        await poster.close()
        async with asyncio.timeout(10):
            while any(map(alive, pids)):  # the orphan is reaped by init
                await asyncio.sleep(0.01)

    run_async(scenario(), uvloop=uvloop)


# --- the own API ---------------------------------------------------------------------------------------------------


def test_the_api_is_asked_as_a_client_would():
    seen = []

    async def handler(request):
        seen.append(request)
        return Response(200, b"[]", JSON, {"X-Consul-Index": "9"})

    pipeline = Pipeline(RouteTable([Route("/v1/kv/", (("GET", handler),), "key read")]), Rules(), Recorder())

    async def ask(world):
        return await own_api(pipeline)(Request("/v1/kv/a b?%", {"index": "3", "tag": ["x", "y&z"]}, "secret"))

    assert run_sim(1, ask) == Answer(200, 9, b"[]")
    (request,) = seen
    assert request.path == "/v1/kv/a b?%"
    assert request.query.pairs == [("index", "3"), ("tag", "x"), ("tag", "y&z")]
    assert request.headers == {"x-consul-token": "secret"}
