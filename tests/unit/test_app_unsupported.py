"""What this version cannot do is refused or said, never taken in silence; files of the process itself."""

import asyncio
import json
import os
import socket

import pytest

from pyconsul_agent.agent.definitions import service_of
from pyconsul_agent.app.compose import Agent
from pyconsul_agent.app.files import log_sinks, pid_file
from pyconsul_agent.app.unsupported import without_effect
from pyconsul_agent.config.build import build
from pyconsul_agent.config.configure import configure
from pyconsul_agent.config.merge import merge
from pyconsul_agent.config.sources import Sources, parse_file
from pyconsul_agent.env.base import InterfaceAddress, open_stream
from pyconsul_agent.env.syslog import SyslogSink
from pyconsul_agent.errors import ConfigError
from pyconsul_agent.sim.env import make_env
from pyconsul_agent.sim.world import World
from pyconsul_agent.telemetry.logging import LogStream, parse_level
from tests.raft_cluster import Recorder

IP = "10.0.0.1"
INTERFACES = [InterfaceAddress("eth0", IP, is_loopback=False, is_default_route=True)]


def options(*, dev=False, **flags):
    flags = {"data_dir": "/d", "bind_addr": IP, "client_addr": IP, **flags}
    return configure(Sources(flags=flags, dev_mode=dev), files=None, interfaces=INTERFACES, hostname="host1")


# --- options -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("flags", "line"),
    [
        ({"telemetry": {"statsd_address": "x:1"}}, "telemetry.statsd_address is set, but metrics are not sent"),
        ({"telemetry": {"dogstatsd_addr": "x:1"}}, "telemetry.dogstatsd_addr is set, but metrics are not sent"),
        ({"telemetry": {"prometheus_retention_time": "1m"}}, "telemetry.prometheus_retention_time is set"),
        ({"watches": [{"type": "key", "key": "k"}]}, "watches[0] (type 'key') is not run"),
        ({"connect": {"enabled": True}}, "connect.enabled is set, but this version has no CA"),
    ],
)
def test_option_without_effect_is_said_once(flags, line):
    (said,) = without_effect(options(**flags))
    assert line in said


def test_plain_and_dev_agents_have_nothing_to_say():
    assert without_effect(options()) == []
    assert without_effect(options(dev=True)) == []


# --- definitions ---------------------------------------------------------------------------------------------------

UNSUPPORTED = [
    ({"GRPC": "127.0.0.1:1", "Interval": "10s"}, "gRPC checks are not supported by this version"),
    ({"H2PING": "127.0.0.1:1", "Interval": "10s"}, "H2PING checks are not supported by this version"),
    (
        {"DockerContainerID": "c", "Args": ["true"], "Interval": "10s"},
        "Docker checks are not supported by this version",
    ),
    ({"AliasNode": "n2"}, "Alias checks of another node (alias_node) are not supported by this version"),
]
SNAKE = {"GRPC": "grpc", "H2PING": "h2ping", "DockerContainerID": "docker_container_id", "AliasNode": "alias_node"}


def run(scenario, **flags):
    """Run `scenario(agent, put)` with a client agent; `put(path, body)` gives status and text."""
    with World(seed=6) as world:
        env = make_env(world, world.host(IP))

        async def put(path, body):
            reader, writer = await open_stream(env.net, IP, 8500)
            data = json.dumps(body).encode()
            head = f"PUT {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {len(data)}\r\n\r\n"
            writer.write(head.encode() + data)
            answer = await reader.read(-1)
            writer.close()
            return int(answer.split()[1]), answer.partition(b"\r\n\r\n")[2].decode()

        async def main():
            logs = LogStream(write=lambda text: None, wall_ns=env.clock.wall_ns, role="client")
            agent = Agent(options(**flags), env, logs, lambda _: None)
            try:
                await agent.start()
                await scenario(agent, put)
            finally:
                await agent.stop()

        world.run(main())


def test_checks_without_a_runner_are_refused_over_http_and_nothing_is_registered():
    async def scenario(agent, put):
        for check, text in UNSUPPORTED:
            assert await put("/v1/agent/check/register", {"Name": "c", **check}) == (500, text)
            assert await put("/v1/agent/service/register", {"Name": "web", "Check": check}) == (500, text)
        assert await put("/v1/agent/check/register", {"Name": "c", "TTL": "10s"}) == (200, "")
        assert (set(agent.state.live_checks()), set(agent.state.live_services())) == ({"c"}, set())

    run(scenario, enable_script_checks=True)


@pytest.mark.parametrize(("check", "text"), UNSUPPORTED)
def test_checks_without_a_runner_in_files_keep_the_agent_from_starting(check, text):
    block = {"name": "c", **{SNAKE.get(key, key.lower()): value for key, value in check.items()}}
    with pytest.raises(ConfigError, match=text.split("(")[0]):
        run(lambda agent, put: asyncio.sleep(0), checks=[block], enable_script_checks=True)


def test_sidecars_are_refused_over_http_and_in_files():
    text = "sidecar services (connect.sidecar_service) are not supported by this version"

    async def scenario(agent, put):
        body = {"Name": "web", "Connect": {"SidecarService": {}}}
        assert await put("/v1/agent/service/register", body) == (400, f"Invalid Connect configuration: {text}")
        assert agent.state.live_services() == {}
        assert await put("/v1/agent/service/register", {"Name": "web", "Connect": {"Native": True}}) == (200, "")
        assert agent.state.service("web").connect.native

    run(scenario)
    with pytest.raises(ConfigError, match=r'service "web": sidecar services \(connect'):
        service_of({"name": "web", "connect": {"sidecar_service": {}}})


def test_blocks_of_hcl_files_are_objects_of_a_definition():
    text = """
    service {
      name = "web"
      connect { native = true }
      meta { zone = "a" }
      weights { passing = 2, warning = 1 }
      tagged_addresses { lan { address = "10.0.0.1", port = 80 } }
      check { ttl = "10s" }
    }
    """
    checked, _ = parse_file("x.hcl", text, "hcl")
    (block,) = build(merge([checked])).services
    found = service_of(block)
    service = found.service
    assert (service.connect.native, service.meta, service.weights.passing) == (True, {"zone": "a"}, 2)
    assert (service.tagged_addresses["lan"].port, len(found.checks)) == (80, 1)


# --- files of the process ------------------------------------------------------------------------------------------


def test_pid_file_is_there_while_the_agent_runs(tmp_path):
    path = tmp_path / "consul.pid"
    path.write_text("left over from a process with a long number")
    with pid_file(str(path), Recorder()):
        assert path.read_text() == str(os.getpid())
    assert not path.exists()


def test_pid_file_that_cannot_be_written_stops_the_agent_and_one_that_is_gone_does_not(tmp_path):
    path = str(tmp_path / "absent" / "consul.pid")
    with pytest.raises(ConfigError) as refused, pid_file(path, Recorder()):
        pass
    assert str(refused.value) == f"Could not open pid file: open {path}: no such file or directory"
    log, path = Recorder(), str(tmp_path / "consul.pid")
    with pid_file(path, log):
        os.remove(path)
    assert "could not delete pid file" in str(vars(log))


def test_log_file_gets_every_line_and_is_rotated(tmp_path):
    now = iter(range(10**18, 10**18 + 10**6))
    lines = []
    logs = LogStream(write=lines.append, wall_ns=lambda: next(now), level=parse_level("INFO"))
    given = options(log_file=f"{tmp_path}/", log_rotate_bytes=200, log_rotate_max_files=1)
    with log_sinks(given, logs, lambda: next(now)):
        for number in range(10):
            logs.logger().info("a line of some length, so that files fill", number=number)
    names = sorted(os.listdir(tmp_path))
    assert len(names) == 2 and names[-1] == "consul.log"
    kept = "".join((tmp_path / name).read_text() for name in names)
    assert kept == "".join(lines[-kept.count("\n") :]) and 0 < kept.count("\n") < 10


def test_log_file_that_cannot_be_opened_stops_the_agent(tmp_path):
    path = f"{tmp_path}/absent/consul.log"
    with pytest.raises(ConfigError, match=r"Failed to setup logging: open .*absent/consul.log: no such file"):
        log_sinks(options(log_file=path), LogStream(write=print, wall_ns=lambda: 0), lambda: 0).__enter__()


def test_syslog_gets_facility_severity_and_message_without_time(tmp_path):
    path = str(tmp_path / "log")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as server:
        server.bind(path)
        server.settimeout(5)
        sink = SyslogSink("local1", path=path)
        sink("2026-11-22T22:17:52.825Z [WARN]  agent: two: words=1\n")
        assert server.recv(1000) == f"<140>consul[{os.getpid()}]: agent: two: words=1".encode()
        sink('{"@level":"error","@message":"m"}\n')
        assert server.recv(1000) == f'<139>consul[{os.getpid()}]: {{"@level":"error","@message":"m"}}'.encode()
    sink("2026 [INFO]  lost\n")
    assert sink.lost == 1
    os.remove(path)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as server:
        server.bind(path)
        server.settimeout(5)
        sink("2026 [INFO]  again\n")
        assert server.recv(1000).endswith(b": again")
    sink.close()


def test_syslog_that_is_not_there_or_unknown_is_refused(tmp_path):
    with pytest.raises(OSError, match="No such file"):
        SyslogSink("LOCAL0", path=str(tmp_path / "absent"))
    given = options(enable_syslog=True, syslog_facility="HOME")
    with pytest.raises(ConfigError, match=r"Failed to setup logging: .*invalid syslog facility: HOME"):
        log_sinks(given, LogStream(write=print, wall_ns=lambda: 0), lambda: 0).__enter__()
