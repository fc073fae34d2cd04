"""Checks as they run: their outcomes and texts, floods, hangs, and that a broken one never looks healthy."""

import asyncio
import random
import sys

import pytest

from pyconsul_agent.agent.checks import python_worker
from pyconsul_agent.agent.checks.definition import is_script, type_of, validate
from pyconsul_agent.agent.checks.http import AiohttpChecks
from pyconsul_agent.agent.checks.own import os_service_probe, python_probe, udp_probe
from pyconsul_agent.agent.checks.runners import Result, run_probe, script_probe, tcp_probe
from pyconsul_agent.env.base import ProcessResult
from pyconsul_agent.env.real_net import RealNet
from pyconsul_agent.env.real_process import RealProcess
from pyconsul_agent.errors import NetError
from pyconsul_agent.structs.base import duration
from pyconsul_agent.structs.catalog import CheckType
from tests.builders import run_async, run_sim

TEN = duration(10)


class Names:
    async def resolve(self, host):
        if host == "nowhere":
            raise NetError("lookup nowhere: no such host")
        return ["127.0.0.1"]


# --- definitions ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("check", "kind", "problem"),
    [
        (CheckType(udp="h:1", interval=TEN), "udp", ""),
        (CheckType(udp="h:1"), "udp", "Interval must be > 0 for Script, HTTP, H2PING, or TCP checks"),
        (CheckType(os_service="ssh.service", interval=TEN), "os_service", ""),
        (CheckType(os_service="--help", interval=TEN), "os_service", "os_service must be the name of a unit"),
        (CheckType(python="a.b:c", interval=TEN), "python", ""),
        (CheckType(python="a.b", interval=TEN), "python", "python must be 'module:function'"),
        (CheckType(python="-c:x", interval=TEN), "python", "python must be 'module:function'"),
        (CheckType(python="a:b\n", interval=TEN), "python", "python must be 'module:function'"),
    ],
)
def test_types_of_our_own(check, kind, problem):
    assert (type_of(check), validate(check)) == (kind, problem)


def test_python_checks_need_what_scripts_need():
    assert is_script(CheckType(python="a:b"))
    assert not is_script(CheckType(os_service="x"))


# --- scripts -------------------------------------------------------------------------------------------------------


def script(text, *, timeout=0.0, limit=4096):
    check = CheckType(script_args=("sh", "-c", text), interval=TEN, timeout=duration(timeout))
    return run_async(script_probe(check, RealProcess(), output_bytes_max=limit)())


def test_outputs_are_kept_at_their_end_with_a_note():
    assert script("printf abcdef; printf g >&2; exit 1", limit=4) == Result(
        "warning", "Captured 4 of 7 bytes\n...\ndefg"
    )
    assert script("printf abcd; exit 7", limit=4) == Result("critical", "abcd")


@pytest.mark.parametrize("uvloop", [False, True])
def test_a_flood_is_neither_kept_nor_lets_anybody_wait(uvloop):
    """The loop goes on turning while a check writes without end, and the check ends at its time limit."""
    check = CheckType(script_args=("sh", "-c", "yes & wait"), interval=TEN, timeout=duration(0.4))

    async def scenario():
        turns = 0

        async def turn():
            nonlocal turns
            while True:
                await asyncio.sleep(0.001)
                turns += 1

        other = asyncio.create_task(turn())
        result = await script_probe(check, RealProcess(), output_bytes_max=64)()
        other.cancel()
        await asyncio.gather(other, return_exceptions=True)
        return result, turns

    result, turns = run_async(scenario(), uvloop=uvloop)
    assert (result.status, result.at_once) == ("critical", True)
    assert result.output.startswith("Timed out (400ms) running check\n\n")
    assert len(result.output) < 200
    assert turns > 20


def test_a_flood_is_read_at_a_bounded_rate():
    check = CheckType(script_args=("sh", "-c", "head -c 9000000 /dev/zero"), interval=TEN)

    async def scenario():
        began = asyncio.get_running_loop().time()
        result = await script_probe(check, RealProcess(), output_bytes_max=10)()
        return result, asyncio.get_running_loop().time() - began

    result, took_s = run_async(scenario())
    assert result.output.startswith("Captured 10 of 9000000 bytes\n")
    assert took_s > 0.3  # 8 pauses of 50 ms


def test_what_cannot_be_started_is_critical_at_once():
    result = run_async(script_probe(CheckType(script_args=("/nonexistent",)), RealProcess())())
    assert result == Result("critical", "fork/exec /nonexistent: no such file or directory", at_once=True)
    assert run_async(script_probe(CheckType(script_args=("a\0b",)), RealProcess())()).status == "critical"


# --- TCP and UDP ---------------------------------------------------------------------------------------------------


async def closed_port():
    listener = await RealNet().listen(asyncio.Protocol, "127.0.0.1", 0)
    port = listener.local[1]
    await listener.close()
    return port


def test_tcp_connects_by_name_and_says_what_is_wrong():
    async def scenario():
        listener = await RealNet().listen(asyncio.Protocol, "127.0.0.1", 0)
        open_, closed = listener.local[1], await closed_port()

        async def outcome(target):
            return await tcp_probe(CheckType(tcp=target, timeout=TEN), RealNet(), Names())()

        assert await outcome(f"localhost:{open_}") == Result("passing", f"TCP connect localhost:{open_}: Success")
        refused = f"dial tcp 127.0.0.1:{closed}: connect: connection refused"
        assert await outcome(f"127.0.0.1:{closed}") == Result("critical", refused)
        assert (await outcome("nowhere:1")).output == "dial tcp: lookup nowhere: no such host"
        assert (await outcome("h")).output == "dial tcp: address h: missing port in address"
        assert (await outcome("h:x")).output == "dial tcp: address x: invalid port"
        await listener.close()

    run_async(scenario())


def test_udp_is_critical_only_where_nobody_listens():
    async def scenario():
        heard = []
        listener = await RealNet().datagrams(lambda data, from_: heard.append(data), "127.0.0.1", 0)
        silent, port = listener.local[1], await closed_port()

        async def outcome(target, seconds=10.0):
            return await udp_probe(CheckType(udp=target, timeout=duration(seconds)), RealNet(), Names())()

        assert await outcome(f"h:{silent}", 0.05) == Result("passing", f"UDP connect h:{silent}: Success")
        assert heard == [b""]
        refused = await outcome(f"127.0.0.1:{port}")
        assert refused.status == "critical" and "connection refused" in refused.output
        assert (await outcome("nowhere:1")).output == "dial udp: lookup nowhere: no such host"
        listener.close()

    run_async(scenario())


# --- HTTP ----------------------------------------------------------------------------------------------------------


async def serve(answer):
    """(port, requests, close) of a server that answers every request by these bytes."""
    requests = []

    class Server(asyncio.Protocol):
        def connection_made(self, transport):
            self.transport = transport

        def data_received(self, data):
            requests.append(data.decode())
            self.transport.write(answer)
            self.transport.close()

    listener = await RealNet().listen(Server, "127.0.0.1", 0)
    return listener.local[1], requests, listener.close


def http(answer, **fields):
    async def scenario():
        port, requests, close = await serve(answer)
        client = AiohttpChecks()
        check = CheckType(http=f"http://127.0.0.1:{port}/x", interval=TEN, **fields)
        try:
            result = await client.request(check, timeout_s=5, output_bytes_max=8)
        finally:
            await client.close()
            await close()
        return result, requests, port

    return run_async(scenario())


def test_http_keeps_the_end_of_the_body_and_speaks_as_consul():
    result, (request,), port = http(b"HTTP/1.1 429 Too Many Requests\r\nContent-Length: 10\r\n\r\n0123456789")
    url = f"http://127.0.0.1:{port}/x"
    assert result == Result("warning", f"HTTP GET {url}: 429 Too Many Requests Output: 23456789")
    assert "User-Agent: Consul Health Check\r\n" in request
    assert "Accept: text/plain, text/*, */*\r\n" in request


def test_http_sends_what_is_asked():
    answer = b"HTTP/1.1 302 Found\r\nLocation: /y\r\nContent-Length: 0\r\n\r\n"
    header = {"Host": ("other",), "X-A": ("1", "2"), "User-Agent": ("me",)}
    result, (request,), _ = http(answer, header=header, method="POST", body="b=1", disable_redirects=True)
    assert result.status == "critical"
    assert request.startswith("POST /x HTTP/1.1\r\n") and request.endswith("\r\n\r\nb=1")
    for line in ("Host: other\r\n", "X-A: 1\r\n", "X-A: 2\r\n", "User-Agent: me\r\n"):
        assert line in request
    assert "Consul Health Check" not in request


def test_http_names_a_refused_connection_as_go_does():
    async def scenario():
        port = await closed_port()
        client = AiohttpChecks()
        url = f"http://127.0.0.1:{port}/"
        result = await client.request(CheckType(http=url), timeout_s=5, output_bytes_max=100)
        await client.close()
        assert result == Result("critical", f'Get "{url}": dial tcp 127.0.0.1:{port}: connect: connection refused')

    run_async(scenario())


# --- services of the system ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ended", "status", "output"),
    [
        (ProcessResult(0, b"active\n", False), "passing", 'OS Service "ssh" is healthy'),
        (ProcessResult(3, b"failed\n", False), "critical", 'OS Service "ssh" is unhealthy: failed'),
        (ProcessResult(-9, b"", False, timed_out=True), "critical", 'OS Service "ssh": systemctl does not answer'),
        (FileNotFoundError(2, "No such file or directory"), "critical", "systemctl: no such file or directory"),
    ],
)
def test_a_unit_of_systemd(ended, status, output):
    class Process:
        async def run(self, arguments, **_):
            assert tuple(arguments) == ("systemctl", "is-active", "--", "ssh")
            if isinstance(ended, Exception):
                raise ended
            return ended

    assert run_async(os_service_probe(CheckType(os_service="ssh"), Process())()) == Result(status, output)


# --- Python --------------------------------------------------------------------------------------------------------

MODULE = """
import asyncio, os, sys, time
def nothing(): pass
def no(): return False
def said(): print("printed"); return "warning", "told"
async def later(): await asyncio.sleep(0); return "fine"
def broken(): raise RuntimeError("dead")
def odd(): return 7
def endless(): time.sleep(1000)
def surrogate(): return "a\\udc80"
class Deep:
    @staticmethod
    def one(): return True
"""


@pytest.fixture
def module(tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text(MODULE)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))


def python(name, **fields):
    return run_async(python_probe(CheckType(python=f"mine:{name}", **fields), RealProcess())())


@pytest.mark.parametrize(
    ("name", "status", "output"),
    [
        ("said", "warning", "printed\ntold"),
        ("later", "passing", "fine"),
        ("broken", "critical", "RuntimeError: dead"),
    ],
)
def test_a_function_is_called_in_a_process_of_its_own(module, name, status, output):
    assert python(name) == Result(status, output)
    assert "mine" not in sys.modules


def test_a_function_that_does_not_end_is_killed(module):
    result = python("endless", timeout=duration(0.5))
    assert result == Result("critical", "Timed out (500ms) running check", at_once=True)


def test_modules_of_the_working_directory_are_not_found(tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    assert "ModuleNotFoundError" in python("nothing").output


@pytest.mark.parametrize(
    ("name", "code", "output"),
    [
        ("nothing", 0, ""),
        ("no", 2, ""),
        ("Deep.one", 0, ""),
        ("odd", 2, "TypeError: a check returns nothing"),
        ("missing", 2, "AttributeError"),
        ("os", 2, "TypeError: mine:os is no function"),
        ("surrogate", 0, "a?"),
    ],
)
def test_what_functions_may_return(tmp_path, monkeypatch, capfd, name, code, output):
    (tmp_path / "mine.py").write_text(MODULE)
    monkeypatch.syspath_prepend(str(tmp_path))
    assert python_worker.main([f"mine:{name}"]) == code
    sys.modules.pop("mine", None)
    assert capfd.readouterr().out.startswith(output)


# --- whatever it is ------------------------------------------------------------------------------------------------


def test_a_probe_that_breaks_turns_critical_and_goes_on():
    async def scenario(world):
        reports, runs = [], 0

        async def probe():
            nonlocal runs
            runs += 1
            if runs == 2:
                raise RuntimeError("bug")
            return Result("passing", "fine")

        check = CheckType(check_id="c", interval=TEN, failures_before_critical=3)
        task = asyncio.create_task(run_probe(check, probe, lambda *report: reports.append(report), random.Random(1)))
        await asyncio.sleep(39)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert reports[:3] == [
            ("c", "passing", "fine"),
            ("c", "critical", "check failed to run: RuntimeError: bug"),
            ("c", "passing", "fine"),
        ]

    run_sim(1, scenario)


def test_first_runs_are_spread_over_the_interval_and_short_intervals_are_a_second():
    async def scenario(world):
        begin, first, again = world.loop.time(), [], []

        def run_one(seed):
            times = []

            async def probe():
                times.append(world.loop.time() - begin)
                (first if len(times) == 1 else again).append(times[-1] - (times[-2] if len(times) > 1 else 0))
                return Result("passing", "")

            check = CheckType(check_id=str(seed), interval=duration(0.001))
            return asyncio.create_task(run_probe(check, probe, lambda *_: None, random.Random(seed)))

        tasks = [run_one(seed) for seed in range(50)]
        await asyncio.sleep(2.5)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert len(first) == 50
        assert max(first) < 1.001 and max(first) - min(first) > 0.8
        assert min(again) == pytest.approx(1.0, abs=0.01)

    run_sim(1, scenario)
