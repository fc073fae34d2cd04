"""The legacy RPC's server with a client of our own, over the simulated network: rules, limits, monitors, keys."""

import asyncio
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pyconsul_agent.env.base import open_stream
from pyconsul_agent.errors import NetError, RPCError
from pyconsul_agent.interfaces.ipc import server as module
from pyconsul_agent.interfaces.ipc.handlers import EMPTY_KEYRING, NO_KEYRING, Actions, Handlers
from pyconsul_agent.interfaces.ipc.server import IPCServer
from pyconsul_agent.sim.env import make_env
from pyconsul_agent.sim.world import World
from pyconsul_agent.structs.member import Member, MemberStatus
from pyconsul_agent.telemetry.logging import MONITOR_LINES_MAX, LogStream, parse_level
from pyconsul_agent.wire import ipc
from pyconsul_agent.wire.gotypes import base64_problem
from pyconsul_agent.wire.msgpack import build

HERE, THERE = ("10.0.0.1", 8400), "10.0.0.2"


class Agent:
    """A delegate with two LAN members, and actions that remember."""

    is_server = True
    encrypted = "false"

    def __init__(self):
        self.done = []
        self.console = []
        self.logs = LogStream(write=self.console.append, wall_ns=lambda: 0, level=parse_level("INFO"))
        self.actions = Actions(
            self.leave, lambda: self.done.append("reload"), lambda: {"a": {"b": "c"}}, self.tap, self.logs.unmonitor
        )

    def tap(self, level, wake):
        return self.logs.monitor(format="classic", level=parse_level(level), wake=wake, with_backlog=True)

    async def leave(self):
        await asyncio.sleep(11)
        self.done.append("leave")

    def lan_members(self):
        return [
            Member(name="a", address="10.0.0.1", port=8301, tags={"role": "node"}, status=MemberStatus.ALIVE),
            Member(name="b", address="fd00::2", port=8301, status=MemberStatus.FAILED),
        ]

    def wan_members(self):
        return [Member(name="a.dc1", address="10.0.0.1", port=8302, status=MemberStatus.ALIVE)]

    async def join_lan(self, addresses):
        if "10.9.9.9" in addresses:
            raise NetError("dial tcp 10.9.9.9:8301: connect: connection refused")
        return len(addresses)

    async def force_leave(self, node, *, prune=False):
        if node != "b":
            raise RPCError(f"agent: No node found with name '{node}'" if node == "nope" else "no")
        self.done.append(f"force-leave {node}")

    def stats(self):
        return {"serf_lan": {"encrypted": self.encrypted}}

    async def call(self, method, request):
        self.done.append((method.name, request))
        raise RPCError("Permission denied")


class Client:
    """Speaks the protocol; `ask` gives (error, body)."""

    def __init__(self, reader, writer):
        self.reader, self.writer = reader, writer
        self.messages = ipc.Messages()
        self.seq = 0

    def send(self, command, body=None, *, seq=None):
        self.seq = self.seq + 1 if seq is None else seq
        header = ipc.RequestHeader(command=command, seq=self.seq)
        self.writer.write(ipc.encode(header) if body is None else ipc.encode(header, body))

    async def value(self):
        while (value := self.messages.next_value()) is None:
            data = await self.reader.read(4096)
            if not data:
                return None
            self.messages.feed(data)
        return value[0]

    async def header(self):
        value = await self.value()
        return None if value is None else ipc.decode_body(ipc.ResponseHeader, value)

    async def ask(self, command, body=None, form=None):
        self.send(command, body)
        header = await self.header()
        assert header.seq == self.seq
        if form is None:
            return header.error
        value = await self.value()
        return header.error, build(form, value) if form == dict[str, dict[str, str]] else ipc.decode_body(form, value)

    async def greet(self):
        assert await self.ask("handshake", ipc.Handshake(version=1)) == ""
        return self

    async def lines(self, count):
        found = []
        while len(found) < count:
            assert (await self.header()).error == ""
            found.append(ipc.decode_body(ipc.LogRecord, await self.value()).log)
        return found

    async def closed(self):
        """Whether the server ends the connection within 5 s, with nothing more to say."""
        async with asyncio.timeout(5):
            return await self.value() is None


def run(scenario, *, agent=None, local_only=False, **options):
    """Run `scenario(world)` with `world.dial()` and `world.agent`, then check that nothing is left."""
    agent = agent or Agent()
    with World(seed=3) as simulated:
        here = make_env(simulated, simulated.host(HERE[0])).net
        there = make_env(simulated, simulated.host(THERE)).net

        async def main():
            handlers = Handlers(agent, agent.actions, datacenter="dc1")
            log = agent.logs.logger("agent.rpc")
            server = IPCServer(here, handlers, agent.actions, log, local_only=local_only, **options)
            await server.start([HERE])
            clients = []

            async def dial(net=there):
                clients.append(Client(*await open_stream(net, *HERE)))
                return clients[-1]

            try:
                await scenario(SimpleNamespace(agent=agent, dial=dial, server=server, here=here))
            finally:
                await server.stop()
                await server.stop()
                for client in clients:
                    client.writer.close()
                await asyncio.sleep(3)
            assert server.connections == 0
            assert not simulated.network.sockets_of(None)

        simulated.run(main())


def test_commands_are_answered_like_the_agent_answers():
    async def scenario(world):
        client = await (await world.dial()).greet()
        members = (await client.ask("members-lan", form=ipc.Members))[1].members
        assert [(row.name, row.status, len(row.address)) for row in members] == [("a", "alive", 4), ("b", "failed", 16)]
        assert (await client.ask("members-wan", form=ipc.Members))[1].members[0].name == "a.dc1"
        assert await client.ask("join", ipc.Join(existing=("10.0.0.3",)), ipc.Joined) == ("", ipc.Joined(num=1))
        error = "dial tcp 10.9.9.9:8301: connect: connection refused"
        assert await client.ask("join", ipc.Join(existing=("10.9.9.9",)), ipc.Joined) == (error, ipc.Joined(num=0))
        assert await client.ask("stats", form=dict[str, dict[str, str]]) == ("", {"a": {"b": "c"}})
        assert await client.ask("reload") == await client.ask("force-leave", ipc.ForceLeave(node="b")) == ""
        assert world.agent.done == ["reload", "force-leave b"]

    run(scenario)


def test_force_leave_of_an_unknown_node_succeeds():
    async def scenario(world):
        client = await (await world.dial()).greet()
        assert await client.ask("force-leave", ipc.ForceLeave(node="nope")) == ""
        assert await client.ask("force-leave", ipc.ForceLeave(node="other")) == "no"

    run(scenario)


def test_leave_is_answered_when_it_is_done():
    async def scenario(world):
        client = await (await world.dial()).greet()
        before = asyncio.get_running_loop().time()
        assert await client.ask("leave") == ""
        assert asyncio.get_running_loop().time() - before >= 11
        assert world.agent.done == ["leave"]

    run(scenario)


def test_wan_join_of_a_client_agent_is_refused():
    async def scenario(world):
        client = await (await world.dial()).greet()
        answer = await client.ask("join", ipc.Join(existing=("x",), wan=True), ipc.Joined)
        assert answer == ("Must be a server to join WAN cluster", ipc.Joined())
        answer = await client.ask("list-keys", form=ipc.KeyringAnswer)
        assert answer == ("keyring operations must run against a server node", ipc.KeyringAnswer())

    agent = Agent()
    agent.is_server = False
    run(scenario, agent=agent)


# --- keyring -------------------------------------------------------------------------------------------------------


def test_keyring_without_encryption_says_so_for_each_node_that_is_alive():
    async def scenario(world):
        client = await (await world.dial()).greet()
        error, answer = await client.ask("list-keys", form=ipc.KeyringAnswer)
        assert error == "" and answer.keys is None
        assert [(i.pool, i.num_nodes, i.error) for i in answer.info] == [
            ("WAN", 1, "1/1 nodes reported failure"),
            ("LAN", 1, "1/1 nodes reported failure"),
        ]
        assert [(m.node, m.message) for m in answer.messages] == [("a.dc1", EMPTY_KEYRING), ("a", EMPTY_KEYRING)]
        good = ipc.KeyOperation(key="AAECAwQFBgcICQoLDA0ODw==")
        for command in ("install-key", "use-key", "remove-key"):
            _, answer = await client.ask(command, good, ipc.KeyringAnswer)
            assert {m.message for m in answer.messages} == {NO_KEYRING}
        _, answer = await client.ask("install-key", ipc.KeyOperation(key="abc"), ipc.KeyringAnswer)
        assert answer.messages is None
        assert {i.error for i in answer.info} == {"illegal base64 data at input byte 0"}
        assert world.agent.done == []

    run(scenario)


def test_keyring_with_encryption_is_the_servers_business():
    async def scenario(world):
        client = await (await world.dial()).greet()
        body = ipc.KeyOperation(key="k", relay_factor=3)
        header = ipc.RequestHeader(command="use-key", seq=9, token="secret")
        client.writer.write(ipc.encode(header, body))
        assert (await client.header()).error == "Permission denied"
        assert await client.value() == {b"Info": None, b"Keys": None, b"Messages": None}
        ((name, request),) = world.agent.done
        assert (name, request.operation, request.key) == ("Internal.KeyringOperation", "use", "k")
        assert (request.relay_factor, request.token, request.datacenter) == (3, "secret", "dc1")

    agent = Agent()
    agent.encrypted = "true"
    run(scenario, agent=agent)


def test_the_body_that_newer_clients_send_after_list_keys_is_dropped():
    async def scenario(world):
        client = await (await world.dial()).greet()
        for body in (None, ipc.KeyOperation()):
            error, _ = await client.ask("list-keys", body, ipc.KeyringAnswer)
            assert error == ""
            assert (await client.ask("members-lan", form=ipc.Members))[0] == ""
        client.send("list-keys", ipc.KeyOperation())
        client.writer.write(ipc.encode(ipc.KeyOperation()))  # a second one is no header
        assert (await client.header()).error == ""
        await client.value()
        # A map without a command keeps the command of the header before it.
        assert (await client.header()).error == ""

    run(scenario)


@pytest.mark.parametrize(("text", "at"), [("abc", 0), ("ab?d", 2), ("AAAAabc", 4), ("é", 0)])
def test_bad_base64_is_told_in_gos_words(text, at):
    assert base64_problem(text) == f"illegal base64 data at input byte {at}"
    assert base64_problem("AAAA") == ""


# --- rules ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["members-lan", "frobnicate", "monitor", ""])
def test_nothing_is_done_before_the_handshake(command):
    async def scenario(world):
        client = await world.dial()
        assert await client.ask(command) == "Handshake required"
        assert await client.closed()
        assert any("Handshake required" in line for line in world.agent.console)

    run(scenario)


def test_an_unknown_command_ends_the_connection():
    async def scenario(world):
        client = await (await world.dial()).greet()
        assert await client.ask("auth") == "Unsupported command"
        assert await client.closed()
        assert any("command 'auth' not recognized" in line for line in world.agent.console)

    run(scenario)


def test_a_bad_version_may_be_corrected():
    async def scenario(world):
        client = await world.dial()
        assert await client.ask("handshake", ipc.Handshake(version=2)) == "Unsupported RPC version"
        await client.greet()
        assert await client.ask("handshake", ipc.Handshake(version=1)) == "Handshake already performed"

    run(scenario)


def test_a_client_is_logged_once():
    async def scenario(world):
        await (await world.dial()).greet()
        assert sum("Accepted client" in line for line in world.agent.console) == 1

    run(scenario)


def test_an_agent_that_denies_by_default_obeys_local_clients_only():
    async def scenario(world):
        client = await (await world.dial()).greet()
        assert await client.ask("join", ipc.Join(existing=("x",)), ipc.Joined) == ("Permission denied", ipc.Joined())
        assert (await client.ask("members-lan", form=ipc.Members))[0] == "Permission denied"
        assert await client.ask("leave") == await client.ask("reload") == "Permission denied"
        assert await client.ask("monitor", ipc.Monitor(log_level="INFO")) == "Permission denied"
        assert (await client.ask("list-keys", form=ipc.KeyringAnswer))[0] == ""
        assert world.agent.done == []

    run(scenario, local_only=True)


# --- limits --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("said", [b"", b"\x82\xa7Comm", b"\x81\xa7Command\xa9handshake"])
def test_a_client_that_does_not_greet_in_time_is_cut_off(said):
    async def scenario(world):
        client = await world.dial()
        client.writer.write(said)
        await asyncio.sleep(module.HANDSHAKE_TIMEOUT_S - 1)
        assert world.server.connections == 1
        await asyncio.sleep(2)
        assert world.server.connections == 0
        assert await client.closed()

    run(scenario)


def test_a_message_must_be_complete_in_time_but_the_next_one_may_wait():
    async def scenario(world):
        client = await (await world.dial()).greet()
        await asyncio.sleep(3600)
        assert await client.ask("reload") == ""
        for byte in b"\x82\xa7Comm":  # a drop now and then buys no time
            client.writer.write(bytes([byte]))
            await asyncio.sleep(module.MESSAGE_TIMEOUT_S / 5)
        assert world.server.connections == 0

    run(scenario)


def test_a_body_that_never_comes_ends_the_connection():
    async def scenario(world):
        client = await (await world.dial()).greet()
        client.send("join")
        await asyncio.sleep(module.MESSAGE_TIMEOUT_S + 1)
        assert world.server.connections == 0

    run(scenario)


@pytest.mark.parametrize("data", [b"GET / HTTP/1.1\r\n\r\n", b"\xc1", b"\xdd\x7f\xff\xff\xff", b"\xc6\x00\x10\x00\x00"])
def test_what_is_no_request_ends_the_connection_with_a_line_in_the_log(data):
    async def scenario(world):
        client = await (await world.dial()).greet()
        client.writer.write(data)
        assert await client.closed()
        assert any("failed to decode request header" in line for line in world.agent.console)

    run(scenario)


def test_connections_are_counted():
    async def scenario(world):
        clients = [await (await world.dial()).greet() for _ in range(3)]
        assert await (await world.dial()).closed()
        clients[0].writer.close()
        await asyncio.sleep(2)
        await (await world.dial()).greet()

    run(scenario, connections_max=3)


@given(st.binary(max_size=60), st.booleans())
@settings(max_examples=40, deadline=None)
def test_any_bytes_leave_the_server_well(data, greeted):
    async def scenario(world):
        client = await world.dial()
        if greeted:
            await client.greet()
        client.writer.write(data)
        client.writer.write_eof()
        await asyncio.sleep(60)
        assert world.server.connections == 0
        await (await world.dial()).greet()
        assert not any("Connection failed" in line for line in world.agent.console)

    run(scenario)


# --- monitor -------------------------------------------------------------------------------------------------------


def test_a_monitor_gets_the_backlog_and_then_every_line_without_blanks_in_front():
    async def scenario(world):
        log = world.agent.logs.logger("agent.server")
        log.info("before")
        log.error("worse")
        client = await (await world.dial()).greet()
        assert await client.ask("monitor", ipc.Monitor(log_level="err")) == ""
        assert [line[20:] for line in await client.lines(1)] == ["[ERR] consul: worse"]
        log.info("unheard")
        log.error("after")
        assert [line[20:] for line in await client.lines(1)] == ["[ERR] consul: after"]
        assert (await client.ask("members-lan", form=ipc.Members))[0] == ""

    run(scenario)


def test_one_monitor_a_connection_until_it_is_stopped():
    async def scenario(world):
        client = await (await world.dial()).greet()
        assert await client.ask("monitor", ipc.Monitor(log_level="foo")) == "Unknown log level: FOO"
        assert await client.ask("monitor", ipc.Monitor(log_level="error")) == "Unknown log level: ERROR"
        assert await client.ask("monitor", ipc.Monitor(log_level="ERR")) == ""
        first = client.seq
        assert await client.ask("monitor", ipc.Monitor(log_level="INFO")) == "Monitor already exists"
        assert await client.ask("stop", ipc.Stop(stop=99)) == ""
        assert await client.ask("monitor", ipc.Monitor(log_level="INFO")) == "Monitor already exists"
        assert await client.ask("stop", ipc.Stop(stop=first)) == ""
        world.agent.logs.logger().error("nobody hears this now")
        assert await client.ask("monitor", ipc.Monitor(log_level="ERR")) == ""
        assert (await client.lines(1))[0].endswith("nobody hears this now")

    run(scenario)


def test_there_are_sixteen_monitors_at_most():
    async def scenario(world):
        clients = [await (await world.dial()).greet() for _ in range(module.MONITORS_MAX + 1)]
        answers = [await client.ask("monitor", ipc.Monitor(log_level="ERR")) for client in clients]
        assert answers == [""] * module.MONITORS_MAX + ["Too many monitors"]
        clients[0].writer.close()
        await asyncio.sleep(2)
        assert await clients[-1].ask("monitor", ipc.Monitor(log_level="ERR")) == ""

    run(scenario)


def test_a_slow_reader_loses_lines_not_memory():
    async def scenario(world):
        client = await (await world.dial()).greet()
        assert await client.ask("monitor", ipc.Monitor(log_level="ERR")) == ""
        client.writer.transport.pause_reading()
        log = world.agent.logs.logger()
        (monitor,) = world.agent.logs._monitors
        for _ in range(40):
            for number in range(100):
                log.error(f"line {number} {'x' * 1000}")
            await asyncio.sleep(1)
        assert len(monitor.lines) <= MONITOR_LINES_MAX
        assert monitor.dropped > 500
        warnings = [line for line in world.agent.console if "Dropping logs" in line]
        assert 1 <= len(warnings) <= 5

    run(scenario)


def test_a_monitor_ends_with_the_agent():
    async def scenario(world):
        client = await (await world.dial()).greet()
        assert await client.ask("monitor", ipc.Monitor(log_level="ERR")) == ""
        await world.server.stop()
        assert await client.closed()
        assert world.agent.logs._monitors == []

    run(scenario)


def test_clients_of_a_unix_socket_are_local():
    async def scenario(world):
        await world.server.start([("unix:///run/consul.sock", 8400)])
        loop = asyncio.get_running_loop()
        reader = asyncio.StreamReader(loop=loop)
        transport, protocol = await world.here.connect_unix(
            lambda: asyncio.StreamReaderProtocol(reader, loop=loop), "/run/consul.sock"
        )
        client = await Client(reader, asyncio.StreamWriter(transport, protocol, reader, loop)).greet()
        assert await client.ask("reload") == ""
        assert any("Accepted client" in line and "@" in line for line in world.agent.console)
        client.writer.close()

    run(scenario, local_only=True)
