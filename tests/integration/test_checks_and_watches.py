"""Checks and watches of a real agent: all kinds run, all watches call their handlers, nothing outlives the agent."""

from __future__ import annotations

import http.server
import json
import signal
import socket
import threading

import pytest

from tests.integration.agents import Agent, own, wait_for

pytestmark = pytest.mark.slow

IP = own("127.0.2.31")
CHECK_MODULE = "async def fine():\n    return 'warning', 'so so'\n"


class Receiver:
    """Takes the requests of HTTP handlers."""

    def __init__(self):
        self.requests = []
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self):
                body = self.rfile.read(int(self.headers["Content-Length"]))
                outer.requests.append((self.path, dict(self.headers), body))
                self.send_response(200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *arguments):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.05})
        self.thread.start()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server.server_address[1]}"

    def close(self):
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()


@pytest.fixture
def receiver():
    made = Receiver()
    yield made
    made.close()


def append(folder, name):
    return ["sh", "-c", f"cat >> {folder}/{name}; echo $CONSUL_INDEX >> {folder}/{name}.index"]


def lines(folder, name):
    path = folder / name
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def running(pid):
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def configuration(folder, receiver, watches, udp_port):
    return {
        "services": [{"name": "web", "port": 80, "tags": ["a"]}],
        "enable_local_script_checks": True,
        "checks": [
            {"name": name, "interval": "1s", **how}
            for name, how in {
                "script": {"args": ["sh", "-c", "echo out; exit 1"]},
                "http": {"http": f"{receiver.url}/missing", "method": "PUT"},
                "tcp": {"tcp": f"{IP}:8500"},
                "udp": {"udp": f"127.0.0.1:{udp_port}", "timeout": "200ms"},
                "closed": {"udp": "127.0.0.1:1"},
                "python": {"python": "mine:fine"},
                "unit": {"os_service": "no-such-unit"},
                "endless": {"args": ["sh", "-c", f"sleep 1000 & echo $! > {folder}/pid; wait"], "timeout": "1s"},
            }.items()
        ],
        "watches": watches,
    }


def test_checks_and_watches_of_a_real_agent(tmp_path, receiver):
    (tmp_path / "modules").mkdir()
    (tmp_path / "modules" / "mine.py").write_text(CHECK_MODULE)
    hook = {"path": f"{receiver.url}/hook", "header": {"X-A": ["b"]}}
    watches = [
        {"type": "key", "key": "k", "args": append(tmp_path, "key")},
        {"type": "keyprefix", "prefix": "k", "args": append(tmp_path, "prefix")},
        {"type": "services", "args": append(tmp_path, "services")},
        {"type": "nodes", "args": append(tmp_path, "nodes")},
        {"type": "service", "service": "web", "args": append(tmp_path, "service")},
        {"type": "checks", "state": "warning", "args": append(tmp_path, "checks")},
        {"type": "event", "name": "deploy", "args": append(tmp_path, "events")},
        {"type": "key", "key": "k", "handler_type": "http", "http_handler_config": hook},
        {"type": "key", "key": "k", "args": ["sh", "-c", f"echo $$ > {tmp_path}/hangs; sleep 1000"]},
        {"type": "key", "key": "k", "args": ["/nonexistent"]},
    ]
    config = tmp_path / "c.json"
    silent = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    silent.bind(("127.0.0.1", 0))

    def write(chosen):
        udp_port = silent.getsockname()[1]
        config.write_text(json.dumps(configuration(tmp_path, receiver, chosen, udp_port)))

    write(watches)
    agent = Agent(tmp_path, IP, "n1", "-server", "-bootstrap", "-config-file", str(config))
    agent.module_folders.append(str(tmp_path / "modules"))
    agent.start()
    try:
        agent.wait_leader()
        seen = wait_for(lambda: settled(agent), what="every check has run")
        assert seen["script"] == ("warning", "out\n")
        assert seen["http"][0] == "critical" and "501" in seen["http"][1]
        assert seen["tcp"][0] == seen["udp"][0] == "passing"
        assert seen["closed"][0] == seen["unit"][0] == "critical"
        assert seen["python"] == ("warning", "so so")
        assert seen["endless"][1].startswith("Timed out (1s) running check")

        assert agent.put("/v1/kv/k", b"one")
        assert agent.ask("PUT", "/v1/event/fire/deploy", b"go")[0] == 200
        wait_for(lambda: (lines(tmp_path, "key")[-1] or {}).get("Value") == "b25l", what="the key's handler")
        wait_for(lambda: receiver.requests[-1][2].count(b"b25l"), what="the HTTP handler")
        wait_for(lambda: lines(tmp_path, "events")[-1][0]["Name"] == "deploy", what="the event's handler")
        wait_for(lambda: "web" in lines(tmp_path, "services")[-1], what="services")
        wait_for(lambda: lines(tmp_path, "service")[-1][0]["Service"]["Tags"] == ["a"], what="service")
        wait_for(lambda: {each["Name"] for each in lines(tmp_path, "checks")[-1]} >= {"script"}, what="checks")
        assert lines(tmp_path, "nodes")[-1][0]["Node"] == "n1"
        assert lines(tmp_path, "prefix")[-1][0]["Key"] == "k"
        assert int((tmp_path / "key.index").read_text().split()[-1]) > 0
        path, headers, _ = receiver.requests[-1]
        assert (path, headers["X-A"], headers["Content-Type"]) == ("/hook", "b", "application/json")
        assert "/nonexistent" not in agent.err

        hanging = int((tmp_path / "hangs").read_text())
        assert running(hanging)
        write([{"type": "key"}])
        agent.signal(signal.SIGHUP)
        wait_for(lambda: "Reload config failed" in agent.out, what="the refusal")
        assert running(hanging), "a reload with an error changes nothing"
        write(watches[:8])
        agent.signal(signal.SIGHUP)
        wait_for(lambda: not running(hanging), what="the end of the watch that is gone")
        before = len(lines(tmp_path, "key"))
        assert agent.put("/v1/kv/k", b"two")
        wait_for(lambda: lines(tmp_path, "key")[-1]["Value"] == "dHdv", what="the watch that stayed")
        assert len(lines(tmp_path, "key")) == before + 1
    finally:
        agent.close()
        silent.close()
    assert not running(int((tmp_path / "pid").read_text()))
    agent.assert_clean()


def settled(agent):
    """(status, output) by name once every check has left its beginning."""
    checks = {check["Name"]: (check["Status"], check["Output"]) for check in agent.get("/v1/agent/checks").values()}
    return checks if all(output for _, output in checks.values()) else None
