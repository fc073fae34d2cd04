"""Reading the configuration again: a whole client agent on a simulated host, with files that change."""

import asyncio
import json
from types import SimpleNamespace

import pytest

from pyconsul_agent.agent.local import LocalState, NodeInfo
from pyconsul_agent.app.compose import Agent
from pyconsul_agent.app.process import HANGUP, TERMINATED, _until_told
from pyconsul_agent.cli.commands.agent import options_of, sources_of
from pyconsul_agent.env.base import open_stream
from pyconsul_agent.errors import ConfigError
from pyconsul_agent.sim.env import make_env
from pyconsul_agent.sim.raft_storage import RaftDisk, SimRaftStorage
from pyconsul_agent.sim.world import World
from pyconsul_agent.structs.catalog import NodeService
from pyconsul_agent.telemetry.logging import LogStream, parse_level
from pyconsul_agent.wire import ipc

IP = "10.0.0.1"
BASE = {
    "data_dir": "/data",
    "bind_addr": IP,
    "client_addr": IP,
    "node_name": "n1",
    "ports": {"rpc": 8400},
    "services": [{"name": "web", "port": 80, "check": {"id": "alive", "ttl": "10m"}}, {"name": "old"}],
    "checks": [{"id": "disk", "name": "disk", "ttl": "10m", "status": "passing"}],
}


def configured(**changes):
    return {**BASE, **changes}


def run(scenario, base=BASE):
    """Run `scenario(it)` with a client agent `it.agent`, `it.write(config)`, `it.console`."""
    with World(seed=5) as world:
        env = make_env(world, world.host(IP))
        console = []

        def write(config):
            text = config if isinstance(config, str) else json.dumps(config)
            env.files.write_atomic("/etc/c.json", text.encode())

        def read():
            return options_of(sources_of({"paths": ["/etc/c.json"]}, {}), env)

        async def main():
            env.files.make_dirs("/etc")
            write(base)
            logs = LogStream(write=console.append, wall_ns=env.clock.wall_ns, level=parse_level("INFO"), role="client")
            worker = env.blocking.worker("raft")
            agent = Agent(read(), env, logs, lambda _: SimRaftStorage(RaftDisk(), blocking=worker), reread=read)
            try:
                await agent.start()
                await scenario(SimpleNamespace(agent=agent, write=write, console=console, logs=logs, env=env))
            finally:
                await agent.stop()

        world.run(main())


async def http(env, method, path):
    reader, writer = await open_stream(env.net, IP, 8500)
    writer.write(f"{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
    answer = await reader.read(-1)
    writer.close()
    head, _, body = answer.partition(b"\r\n\r\n")
    return int(head.split()[1]), head.decode(), body


def test_services_and_checks_are_exchanged_and_what_stays_keeps_its_status():
    async def scenario(it):
        state, registry = it.agent.state, it.agent._registry
        registry.update_ttl("alive", "warning", "so so")
        registry.add_service(NodeService(id="sent", service="sent"), [])
        registry.set_node_maintenance(True, "tea", "")
        it.write(configured(services=[{**BASE["services"][0], "port": 81}, {"name": "new"}]))
        await it.agent.reload()
        assert set(state.live_services()) == {"web", "new", "sent"}
        assert state.service("web").port == 81
        assert state.services["old"].deleted
        assert set(state.live_checks()) == {"alive", "disk", "_node_maintenance"}
        assert (state.check("alive").status, state.check("alive").output) == ("warning", "so so")
        assert state.check("disk").status == "passing"
        assert state.check("_node_maintenance").notes == "tea"

    run(scenario)


def test_watches_are_exchanged():
    async def scenario(it):
        event = {"type": "event", "args": ["handler"]}
        calls = []

        async def program(arguments, stdin):
            calls.append(stdin)
            return 0, b""

        it.env.process._host.commands["handler"] = program
        it.write(configured(watches=[event]))
        await it.agent.reload()
        await asyncio.sleep(1)
        assert (len(it.agent._watches), calls) == (1, [b"[]\n"])  # events need no servers
        it.write(configured())
        await it.agent.reload()
        assert len(it.agent._watches) == 0

    run(scenario)


def test_ttl_timers_start_again_and_remember_what_was_said():
    async def scenario(it):
        it.agent._registry.update_ttl("alive", "passing", "fine")
        await asyncio.sleep(590)
        await it.agent.reload()
        await asyncio.sleep(590)
        assert it.agent.state.check("alive").status == "passing"
        await asyncio.sleep(20)
        assert it.agent.state.check("alive").status == "critical"
        assert it.agent.state.check("alive").output == "TTL expired (last output before timeout follows): fine"

    run(scenario)


def test_level_meta_headers_and_limits_are_taken_over_and_the_rest_is_not():
    async def scenario(it):
        agent = it.agent
        agent.state.node_in_sync = True
        it.write(
            configured(
                log_level="DEBUG",
                node_meta={"rack": "7"},
                node_name="other",
                limits={"http_max_conns_per_client": 7},
                http_config={"response_headers": {"X-New": "yes"}},
                discard_check_output=True,
                recursors=["10.0.0.53"],
                dns_config={"only_passing": True},
            )
        )
        await agent.reload()
        assert it.logs.level == parse_level("DEBUG")
        assert agent.state.node.meta["rack"] == "7"
        assert not agent.state.node_in_sync
        assert agent.state.plan()[0].request.node_meta["rack"] == "7"
        assert agent.options.node_name == agent.state.node.name == "n1"
        assert agent._http._limit == 7
        assert agent._dns._config.only_passing
        assert "10.0.0.53" in str(agent._dns._config.recursors)
        _, head, body = await http(it.env, "GET", "/v1/agent/self")
        assert "X-New: yes" in head
        assert json.loads(body)["Meta"]["rack"] == "7"
        agent._registry.update_ttl("alive", "passing", "unkept")
        assert agent.state.check("alive").output == ""

    run(scenario)


def test_the_web_interface_comes_and_goes():
    async def scenario(it):
        assert (await http(it.env, "GET", "/ui/"))[0] == 404
        it.write(configured(ui_config={"enabled": True}))
        await it.agent.reload()
        assert (await http(it.env, "GET", "/ui/"))[0] == 200
        it.write(BASE)
        await it.agent.reload()
        assert (await http(it.env, "GET", "/ui/"))[0] == 404

    run(scenario)


SERVER = {**BASE, "server": True, "bootstrap": True, "performance": {"raft_multiplier": 1}}


def test_a_server_takes_snapshots_and_connections_by_the_new_numbers():
    async def scenario(it):
        raft = it.agent.delegate._raft._raft
        while (await http(it.env, "GET", "/v1/status/leader"))[2] == b'""':
            await asyncio.sleep(0.1)
        for number in range(40):
            assert (await http(it.env, "PUT", f"/v1/kv/{number}"))[0] == 200
        await asyncio.sleep(600)
        assert raft.snapshot is None
        changed = {"raft_snapshot_threshold": 20, "raft_snapshot_interval": "5s", "raft_trailing_logs": 3}
        it.write({**SERVER, **changed, "limits": {"rpc_max_conns_per_client": 1}})
        await it.agent.reload()
        await asyncio.sleep(70)
        assert raft.snapshot.index >= 40
        assert raft.snapshot.index - raft._s.log.first <= 3, "what lies behind it is gone"
        first, second = [await open_stream(it.env.net, IP, 8300) for _ in range(2)]
        async with asyncio.timeout(1):
            with pytest.raises(ConnectionResetError):
                await second[0].read(1)
        first[1].close()
        second[1].close()
        await asyncio.sleep(1)

    run(scenario, SERVER)


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        ("{", "reload.*|.*c.json"),
        (configured(log_level="LOUD"), "LOUD|log_level|log level"),
        (configured(recursors=["not an address"]), "recursor"),
        (configured(services=[{"port": 1}]), "service definition without a name"),
        (configured(checks=[{"id": "x", "args": ["true"], "interval": "1s"}]), "[Ss]cript"),
        (configured(checks=[{"id": "x", "ttl": "1s", "service_id": "nope"}]), 'ServiceID "nope" does not exist'),
        (configured(watches=[{"type": "key", "key": "a"}]), r"watches\[0\].*Must define a watch handler"),
        (configured(checks=[{"id": "x", "ttl": "1s", "http": "http://x", "interval": "1s"}]), "Invalid check"),
    ],
)
def test_an_error_is_logged_and_changes_nothing(config, reason):
    async def scenario(it):
        agent = it.agent
        before = (dict(agent.state.live_services()), dict(agent.state.live_checks()), agent.options)
        if isinstance(config, dict):
            config.setdefault("node_meta", {"never": "seen"})
        it.write(config)
        with pytest.raises(ConfigError, match=reason):
            await agent.reload()
        assert (agent.state.live_services(), agent.state.live_checks(), agent.options) == before
        assert "never" not in agent.state.node.meta
        assert sum("[ERROR] agent: Reload config failed: error=" in line for line in it.console) == 1
        status, _, body = await http(it.env, "PUT", "/v1/agent/reload")
        assert status == 500
        assert body

    run(scenario)


def test_http_reloads_before_it_answers():
    async def scenario(it):
        it.write(configured(services=[{"name": "new"}]))
        status, _, body = await http(it.env, "PUT", "/v1/agent/reload")
        assert (status, body) == (200, b"")
        assert set(it.agent.state.live_services()) == {"new"}
        assert (await http(it.env, "GET", "/v1/agent/reload"))[0] == 405

    run(scenario)


def test_the_legacy_rpc_reloads_after_it_has_answered():
    async def scenario(it):
        it.write(configured(services=[{"name": "new"}]))
        reader, writer = await open_stream(it.env.net, IP, 8400)
        writer.write(
            ipc.encode(
                ipc.RequestHeader(command="handshake", seq=1),
                ipc.Handshake(version=1),
                ipc.RequestHeader(command="reload", seq=2),
            )
        )
        await reader.readexactly(len(ipc.encode(ipc.ResponseHeader(seq=1))) * 2)
        await asyncio.sleep(1)
        assert set(it.agent.state.live_services()) == {"new"}
        writer.write(ipc.encode(ipc.RequestHeader(command="monitor", seq=3), ipc.Monitor(log_level="INFO")))
        await asyncio.sleep(1)
        assert b"[INFO] agent.rpc: Accepted client: 10.0.0.1:" in await reader.read(65536)
        writer.close()

    run(scenario)


def test_an_agent_can_be_left_by_the_legacy_rpc():
    async def scenario(it):
        reader, writer = await open_stream(it.env.net, IP, 8400)
        requests = (ipc.RequestHeader(command="handshake", seq=1), ipc.Handshake(version=1))
        writer.write(ipc.encode(*requests, ipc.RequestHeader(command="leave", seq=2)))
        await it.agent.finished.wait()
        await it.agent.stop()
        answers = ipc.encode(ipc.ResponseHeader(seq=1), ipc.ResponseHeader(seq=2))
        assert await reader.read(-1) == answers
        assert it.agent.exit_code == 0
        writer.close()

    run(scenario)


def test_a_hangup_reloads_and_the_agent_goes_on():
    async def scenario(it):
        signals = asyncio.Queue()
        waiting = asyncio.ensure_future(_until_told(it.agent, signals, it.logs))
        for broken in (True, False):
            it.write("{" if broken else configured(services=[]))
            signals.put_nowait(HANGUP)
            signals.put_nowait(HANGUP)
            await asyncio.sleep(1)
            assert ("web" in it.agent.state.live_services()) is broken
        assert not waiting.done()
        it.agent.options = SimpleNamespace(leave_on_terminate=False, skip_leave_on_interrupt=True)
        signals.put_nowait(TERMINATED)
        assert await waiting == 1

    run(scenario)


def test_a_confirmed_removal_does_not_take_what_was_registered_again():
    node = NodeInfo("n", "id", "10.0.0.1", "dc1", {}, {})
    state = LocalState(node, changed=lambda: None)
    state.node_in_sync = True
    state.add_service(NodeService(id="web", service="web"))
    state.remove_service("web")
    (removal,) = state.plan()
    state.add_service(NodeService(id="web", service="web", port=1))
    state.done(removal)
    assert state.service("web").port == 1
    assert state.plan()[0].services == ("web",)


def test_what_is_as_it_was_is_not_sent_again():
    async def scenario(it):
        state = it.agent.state
        for entry in (*state.services.values(), *state.checks.values()):
            entry.in_sync = True
        state.node_in_sync = True
        it.write(configured(services=[BASE["services"][0], {"name": "old", "port": 9}]))
        await it.agent.reload()
        assert [write.services for write in state.plan()] == [("old",)]

    run(scenario)
