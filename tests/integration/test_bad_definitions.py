"""Bad configuration, checks, handlers and files of a running agent: named, and it goes on as before."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import signal
import socket
import threading

import pytest

from tests.integration.agents import Agent, own, wait_for

pytestmark = pytest.mark.slow

IP = own("127.0.2.51")
OUTPUT_MAX = 4096 + len("Captured 4096 of 99999999999 bytes\n...\n")
RSS_GROWTH_MAX = 64 * 1024 * 1024
SERVICES = {"services": [{"name": "web", "port": 80}], "watches": []}


@pytest.fixture
def agent(tmp_path):
    (tmp_path / "conf").mkdir()
    made = Agent(tmp_path, IP, "n1", "-server", "-bootstrap", "-config-dir", str(tmp_path / "conf"))
    yield made
    made.close()
    made.assert_clean()


def configure(agent, name="a.json", **content):
    (agent.folder / "conf" / name).write_text(json.dumps(content))


def reload(agent):
    return agent.ask("PUT", "/v1/agent/reload")


def cycle(path):
    path.symlink_to("y.json")
    (path.parent / "y.json").symlink_to(path.name)


UNREADABLE = {
    "broken": (b'{"services": [', "failed to parse {path}: unexpected end of JSON input"),
    "unknown key": (b'{"servr": true}', "invalid config key servr"),
    "huge": (b'{"log_level":"' + b"x" * (5 << 20) + b'"}', "{path} is larger than"),
    "not UTF-8": (b'{"datacenter": "\xff\xfe"}', "failed to parse {path}: not UTF-8 text"),
    "deep": (b'{"services":' + b"[" * 200_000, "failed to parse {path}: "),
    "cyclic": (cycle, "Open failed on {path}. open {path}: too many levels of symbolic links"),
    "a value": (b'{\n"retry_interval": "5x"}', 'time: unknown unit "x" in duration "5x" ({path}:2)'),
    "a service": (b'{"services": [{"port": 1}]}', "({path}:1)"),
    "a check": (b'{"checks": [{"name": "c", "http": "http://x"}]}', "Interval must be > 0"),
    "a forbidden script": (b'{"checks": [{"name": "c", "args": ["x"], "interval": "1s"}]}', "Scripts are disabled"),
    "a watch": (b'{"watches": [{"type": "nope", "args": ["x"]}]}', "Unsupported watch type: nope"),
}  # fmt: skip


def test_a_reload_with_an_error_says_it_and_changes_nothing(agent):
    configure(agent, **SERVICES)
    agent.start()
    agent.wait_leader()
    before = agent.get("/v1/agent/services")
    for name, (content, text) in UNREADABLE.items():
        path = agent.folder / "conf" / "x.json"
        configure(agent, **SERVICES, node_meta={"a": "b"}, checks=[{"name": "new", "ttl": "10s"}])
        if callable(content):
            content(path)
        else:
            path.write_bytes(content)
        status, body = reload(agent)
        assert (status, text.format(path=path) in body.decode()) == (500, True), (name, body)
        assert agent.get("/v1/agent/services") == before, name
        assert agent.get("/v1/agent/checks") == {}, name
        assert "a" not in agent.get("/v1/agent/self")["Meta"], name
        path.unlink()
        (agent.folder / "conf" / "y.json").unlink(missing_ok=True)
    assert agent.out.count("Reload config failed") == len(UNREADABLE)
    assert reload(agent) == (200, b"")
    assert set(agent.get("/v1/agent/checks")) == {"new"}


class Endless:
    """An HTTP server whose answer has no end, and one that answers nothing."""

    def __init__(self):
        self._socket = socket.create_server(("127.0.0.1", 0))
        self._over = threading.Event()
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    @property
    def port(self):
        return self._socket.getsockname()[1]

    def _accept(self):
        while not self._over.is_set():
            connection, _ = self._socket.accept()
            self._threads.append(threading.Thread(target=self._answer, args=(connection,)))
            self._threads[-1].start()

    def _answer(self, connection):
        with connection, contextlib.suppress(OSError):
            connection.settimeout(5)
            silent = b"/silent" in connection.recv(1000)
            while silent and not self._over.wait(0.1):
                continue
            connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
            while not self._over.is_set():
                connection.sendall(b"y" * 65536)

    def close(self):
        self._over.set()
        socket.create_connection(("127.0.0.1", self.port)).close()
        for thread in self._threads:
            thread.join()
        self._socket.close()


def alive(folder):
    """The process ids that scripts wrote down and that still run."""
    found = [int(word) for path in folder.glob("*.pid") for word in path.read_text().split()]
    return [pid for pid in found if os.path.exists(f"/proc/{pid}") and b"sleep" in cmdline(pid)]


def cmdline(pid):
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            return file.read()
    except OSError:
        return b""


def test_checks_that_flood_or_never_end_are_cut_and_hold_nobody_up(agent):
    endless = Endless()
    timing = {"interval": "1s", "timeout": "1s"}
    checks = {
        "flood": {"args": ["yes"]},
        "flood on both": {"args": ["sh", "-c", "yes & yes >&2"]},
        "a line without end": {"args": ["sh", "-c", "tr '\\\\0' x < /dev/zero"]},
        "not text": {"args": ["head", "-c", "100000", "/dev/urandom"]},
        "never ends": {"args": ["sh", "-c", f"sleep 1000 & echo $! >> {agent.folder}/a.pid; wait"]},
        "deaf": {"args": ["sh", "-c", f"trap '' TERM INT; sleep 1000 & echo $! >> {agent.folder}/b.pid; wait; wait"]},
        "endless body": {"http": f"http://127.0.0.1:{endless.port}/"},
        "silent": {"http": f"http://127.0.0.1:{endless.port}/silent"},
    }
    configure(
        agent,
        enable_local_script_checks=True,
        checks=[{"id": name, "name": name, **timing, **how} for name, how in checks.items()],
    )
    try:
        agent.start()
        agent.wait_leader()
        rss = agent.rss()

        def settled():
            shown = agent.get("/v1/agent/checks")
            return shown if all(each["Output"] for each in shown.values()) else None

        shown = wait_for(settled, timeout_s=40, what="all have run")
        assert all(each["Status"] == "critical" for name, each in shown.items() if name != "not text"), shown
        for name in ("flood", "flood on both", "a line without end", "never ends", "deaf"):
            assert shown[name]["Output"].startswith("Timed out (1s) running check"), name
        wait_for(lambda: settled()["not text"]["Output"].startswith("Captured 4096 of 100000 bytes\n...\n"))
        for each in settled().values():
            assert len(each["Output"].encode()) <= OUTPUT_MAX * 3, each["Name"]  # what is no text is shown as U+FFFD
        assert agent.put("/v1/kv/x", b"1")
        assert agent.rss() - rss < RSS_GROWTH_MAX
        configure(agent, enable_local_script_checks=True)
        assert reload(agent) == (200, b"")
        wait_for(lambda: not alive(agent.folder), what="the scripts' children have ended")
    finally:
        endless.close()


def test_handlers_that_die_are_logged_and_called_again(agent):
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        closed = f"http://127.0.0.1:{nobody.getsockname()[1]}/"
        handlers = {
            "killed": {"args": ["sh", "-c", f"echo x >> {agent.folder}/killed; kill -9 $$"]},
            "failed": {"args": ["sh", "-c", f"echo x >> {agent.folder}/failed; exit 3"]},
            "deaf": {"args": ["sh", "-c", f"exec 0<&-; echo x >> {agent.folder}/deaf"]},
            "flooding": {"args": ["sh", "-c", f"head -c 5000000 /dev/zero; echo x >> {agent.folder}/flooding"]},
            "absent": {"args": ["/nonexistent"]},
            "refused": {"handler_type": "http", "http_handler_config": {"path": closed}},
        }
        configure(agent, watches=[{"type": "key", "key": "k", **how} for how in handlers.values()])
        agent.start()
        agent.wait_leader()

        def called(name):
            path = agent.folder / name
            return len(path.read_text().splitlines()) if path.exists() else 0

        for number in (1, 2):
            assert agent.put("/v1/kv/k", b"v" * 400_000 + str(number).encode())
            for name in ("killed", "failed", "deaf", "flooding"):
                wait_for(lambda name=name, number=number: called(name) >= number, what=f"{name} {number}")
        wait_for(lambda: "no such file or directory" in agent.out, what="the absent program")
        wait_for(lambda: closed.rpartition(":")[0] in agent.out, what="the refused request")
        assert agent.put("/v1/kv/x", b"1")
        assert max(map(len, agent.out.splitlines())) < 20_000, "its output is cut in the log"


def test_spoiled_files_of_definitions_are_named_set_aside_and_stop_nobody(agent):
    agent.start()
    agent.wait_leader()
    for name in ("good", "bad", "worse"):
        assert agent.ask("PUT", "/v1/agent/service/register", json.dumps({"Name": name}).encode()) == (200, b"")
    body = {"Name": "c", "TTL": "1h"}
    assert agent.ask("PUT", "/v1/agent/check/register", json.dumps(body).encode()) == (200, b"")
    assert agent.ask("PUT", "/v1/agent/check/pass/c") == (200, b"")
    agent.signal(signal.SIGKILL)  # what was answered is on disk
    agent.wait()

    def path(folder, name):
        return agent.data_dir / folder / hashlib.sha256(name.encode()).hexdigest()

    path("services", "bad").write_bytes(b"\xff{")
    path("services", "worse").write_bytes(b'{"Service": 5}')
    path("checks/state", "c").write_bytes(b"[" * 100_000)
    agent.start()
    agent.wait_leader()
    assert set(agent.get("/v1/agent/services")) == {"good"}
    assert agent.get("/v1/agent/checks")["c"]["Status"] == "critical"
    for spoiled in (path("services", "bad"), path("services", "worse"), path("checks/state", "c")):
        assert f"Corrupt file set aside: path={spoiled}" in agent.out
        assert not spoiled.exists() and spoiled.with_name(spoiled.name + ".corrupt").exists()
