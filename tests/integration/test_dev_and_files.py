"""`-dev` as a real process, and the files that a process writes."""

from __future__ import annotations

import json
import re
import signal
import socket

import pytest

from tests.integration.agents import Agent, own, wait_for

pytestmark = pytest.mark.slow
IP = own("127.0.2.41")


@pytest.fixture
def make(tmp_path):
    made = []

    def one(*arguments: str) -> Agent:
        made.append(Agent(tmp_path, IP, "dev1", *arguments))
        return made[-1]

    yield one
    for agent in made:
        agent.close()


def stamps(out: str, text: str) -> float:
    """The second of the minute at which a line was logged."""
    found = re.search(r"T\d\d:(\d\d):(\d\d\.\d{3})Z .*" + re.escape(text), out)
    assert found, out
    return int(found[1]) * 60 + float(found[2])


def test_dev_agent_answers_leads_within_a_second_and_leaves_nothing(make, tmp_path):
    agent = make("-dev", "-data-dir", "").start()
    assert agent.wait_leader() == f"{IP}:8300"
    for _ in range(2):
        status, body = agent.ask("GET", "/v1/agent/self")
    assert status == 200
    shown = json.loads(body)
    assert body.decode().startswith('{\n    "Config": {\n')
    assert (shown["DebugConfig"]["DevMode"], shown["DebugConfig"]["EnableDebug"]) == (True, True)
    assert shown["Member"]["Tags"]["bootstrap"] == "1"
    nodes = wait_for(lambda: agent.get("/v1/catalog/nodes"), what="own node in the catalog")
    assert [node["Node"] for node in nodes] == ["dev1"]
    assert agent.ask("PUT", "/v1/kv/a", b"1")[0] == 200
    out = agent.out
    assert stamps(out, "cluster leadership acquired") - stamps(out, "entering follower state") < 1.0
    agent.signal(signal.SIGINT)
    assert agent.wait() in (0, 1)
    agent.assert_clean()
    assert not agent.data_dir.exists()


def test_pid_and_log_file_are_written_and_what_has_no_effect_is_said(make, tmp_path):
    pid, log = tmp_path / "agent.pid", tmp_path / "logs" / ""
    log.mkdir()
    more = (
        'ui_config { metrics_provider = "prometheus" } telemetry { statsd_address = "127.0.0.1:9" } '
        f'log_file = "{log}/"'
    )
    agent = make("-server", "-bootstrap", "-pid-file", str(pid), "-hcl", more).start()
    wait_for(pid.exists, what="pid file")
    assert pid.read_text() == str(agent.process.pid)
    agent.wait_leader()
    agent.signal(signal.SIGTERM)
    agent.wait()
    assert not pid.exists()
    written = (log / "consul.log").read_text()
    for text in (
        "ui_config.metrics_provider is set, but has no effect in this version",
        "cluster leadership acquired",
    ):
        assert text in written
        assert text in agent.out
    agent.assert_clean()


@pytest.mark.parametrize(
    ("fragment", "text"),
    [
        ('pid_file = "/proc/absent/pid"', "Could not open pid file: open /proc/absent/pid: no such file or directory"),
        ('log_file = "/proc/absent/x.log"', "Failed to setup logging: open /proc/absent/x.log: no such file"),
        ('service { name = "w" connect { sidecar_service { id = "x" } } }', "A SidecarService cannot specify an ID"),
        ('serf_lan_allowed_cidrs = ["10.0.0.0"]', "serf_lan_allowed_cidrs: invalid CIDR address: 10.0.0.0"),
    ],
)
def test_what_cannot_be_honored_is_told_in_one_line(make, fragment, text):
    agent = make("-server", "-bootstrap", "-hcl", fragment).start()
    agent.assert_refused(text)
    with socket.socket() as probe:
        probe.bind((IP, 8300))
