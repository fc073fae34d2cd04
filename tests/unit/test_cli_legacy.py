"""The command line over the legacy RPC: the recorded runs of 0.5 to 0.7, and our own server at the other end."""

import asyncio
import io
import os
import socket
import threading
from contextlib import contextmanager

import pytest

from conformance.ipc_conversations import recordings
from pyconsul_agent.cli.main import main
from pyconsul_agent.env.real import real_env
from pyconsul_agent.interfaces.ipc.handlers import Handlers
from pyconsul_agent.interfaces.ipc.server import IPCServer
from pyconsul_agent.wire import ipc
from tests.unit.test_interfaces_ipc import Agent

COMMANDS = {"members", "join", "leave", "force-leave", "info", "reload", "keyring"}
OTHER_ORDER = {"consul-0.5.2/members-detailed", "consul-0.5.2/members-after-client-left"}
"""0.5 printed tags and members in the order in which they came; we sort as 0.7 does."""
ANY_ORDER = {"consul-0.6.4/keyring-list-2", "consul-0.7.5/keyring-list-2"}
"""Pools came in any order."""

ENDED = "\nRemote side ended the monitor! This usually means that the\nremote side has exited or crashed.\n"


def runs():
    for name, case in recordings():
        if case.get("argv") and case["connections"] and case["argv"][1] in COMMANDS and name not in OTHER_ORDER:
            yield pytest.param(name, case, id=name)


def sides(case):
    """(what the client sends, what the agent sends) of a recorded run."""
    messages = case["connections"][0]["messages"]
    sent = b"".join(bytes.fromhex(m["hex"]) for m in messages if m["dir"] == "c2s")
    answers = []
    for message in messages:
        if message["dir"] == "s2c":
            if message.get("answers") == "stop":
                break
            answers.append(bytes.fromhex(message["hex"]))
    return sent, b"".join(answers)


@contextmanager
def agent_that_says(answers, *, family=socket.AF_INET, where=("127.0.0.1", 0), received=None):
    """An agent for one connection: says everything at once, then listens until the client hangs up."""
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.bind(where)
    listener.listen(1)
    listener.settimeout(10)

    def serve():
        connection, _ = listener.accept()
        with connection:
            connection.sendall(answers)
            connection.shutdown(socket.SHUT_WR)
            while data := connection.recv(65536):
                if received is not None:
                    received.append(data)

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        name = listener.getsockname()
        yield name if isinstance(name, str) else f"{name[0]}:{name[1]}"
    finally:
        thread.join()
        listener.close()


def run(argv, out=None, **environ):
    out, err = out or io.StringIO(), io.StringIO()
    code = main(argv, out=out, err=err, stdin=io.BytesIO(), environ=environ)
    return code, out.getvalue(), err.getvalue()


def at(argv, address):
    return [f"-rpc-addr={address}" if word.startswith("-rpc-addr=") else word for word in argv[1:]]


@pytest.mark.parametrize(("name", "case"), list(runs()))
def test_a_recorded_run_prints_and_sends_the_same(name, case):
    sent, answers = sides(case)
    received = []
    with agent_that_says(answers, received=received) as address:
        result = run(at(case["argv"], address))
    recorded = (case["exit"], case["stdout"], case["stderr"])
    if name in ANY_ORDER:
        result, recorded = ((code, sorted(out.splitlines()), err) for code, out, err in (result, recorded))
    assert result == recorded
    other_bytes = "keyring" in name and ("0.6.4" in name or "list" in name or "client" in name)
    if "0.5.2" not in name and not other_bytes:  # 0.5 sent no Token, 0.6 no RelayFactor; 0.7 lists with a body
        assert b"".join(received) == sent


MONITORS = [case for name, case in recordings() if name.endswith("/monitor")]


@pytest.mark.parametrize("case", MONITORS, ids=["0.5.2", "0.6.4", "0.7.5"])
def test_a_monitor_prints_bare_lines_until_the_agent_ends(case):
    with agent_that_says(sides(case)[1]) as address:
        code, out, err = run(at(case["argv"], address))
    assert (code, err) == (1, "")
    assert out == case["stdout"] + ENDED


class Impatient(io.StringIO):
    """A terminal whose user presses Ctrl-C after the first line."""

    def flush(self):
        raise KeyboardInterrupt


def test_an_interrupted_monitor_is_stopped_and_is_no_error():
    case, received = MONITORS[-1], []
    sent, answers = sides(case)
    with agent_that_says(answers, received=received) as address:
        code, out, _ = run(at(case["argv"], address), Impatient())
    assert (code, out.count("\n")) == (0, 1)
    assert b"".join(received) == sent


def test_a_bad_level_is_the_agents_error():
    case = next(case for name, case in recordings() if name == "consul-0.7.5/monitor-badlevel")
    with agent_that_says(sides(case)[1]) as address:
        assert run(at(case["argv"], address)) == (1, case["stdout"], "")


def test_the_variable_wins_over_the_flag():
    case = next(case for name, case in recordings() if name == "consul-0.7.5/members")
    with agent_that_says(sides(case)[1]) as address:
        code, out, _ = run(["members", "-rpc-addr=127.0.0.1:1"], CONSUL_RPC_ADDR=address)
    assert (code, out) == (0, case["stdout"])


@pytest.mark.parametrize(
    ("address", "reason"),
    [
        ("127.0.0.1:1", "dial tcp 127.0.0.1:1: connect: connection refused"),
        ("127.0.0.1", "dial tcp: address 127.0.0.1: missing port in address"),
        ("127.0.0.1:x", "dial tcp: address 127.0.0.1:x: invalid port"),
        ("/no/such/socket", "dial unix /no/such/socket: connect: no such file or directory"),
    ],
)
@pytest.mark.parametrize("command", [["members"], ["join", "x"], ["leave"], ["info"], ["reload"], ["monitor"]])
def test_an_agent_that_cannot_be_reached_is_told_on_stdout(command, address, reason):
    code, out, err = run([command[0], f"-rpc-addr={address}", *command[1:]])
    assert (code, out, err) == (1, f"Error connecting to Consul agent: {reason}\n", "")


@pytest.mark.parametrize(
    ("answers", "reason"),
    [
        (b"", "EOF"),
        (b"HTTP/1.1 400 Bad Request\r\n", "Only encoded map or array can be decoded into a struct. (int)"),
        (ipc.encode(ipc.ResponseHeader(seq=1, error="no")), "no"),
    ],
)
def test_an_agent_that_talks_nonsense_is_told(answers, reason):
    with agent_that_says(answers) as address:
        assert run(["reload", f"-rpc-addr={address}"]) == (1, f"Error reloading: {reason}\n", "")


def test_a_path_is_a_unix_socket(tmp_path):
    case = next(case for name, case in recordings() if name == "consul-0.7.5/reload")
    path = os.fspath(tmp_path / "s")
    with agent_that_says(sides(case)[1], family=socket.AF_UNIX, where=path):
        assert run(["reload", f"-rpc-addr={path}"])[0] == 0


@contextmanager
def our_server():
    """Our server on a real socket, in a thread of its own; gives the agent behind it and the address."""
    agent, started, ended, place = Agent(), threading.Event(), [], []

    async def serve():
        ended.append(asyncio.Event())
        place.append(asyncio.get_running_loop())
        env = real_env()
        log = agent.logs.logger("agent.rpc")
        server = IPCServer(env.net, Handlers(agent, agent.actions, datacenter="dc1"), agent.actions, log)
        await server.start([("127.0.0.1", 0)])
        place.append(server.addresses[0])
        started.set()
        await ended[0].wait()
        await server.stop()
        await env.blocking.close()

    thread = threading.Thread(target=asyncio.run, args=(serve(),))
    thread.start()
    try:
        assert started.wait(10)
        yield agent, f"{place[1][0]}:{place[1][1]}"
    finally:
        place[0].call_soon_threadsafe(ended[0].set)
        thread.join()


def test_our_commands_and_our_server_understand_each_other():
    with our_server() as (agent, address):
        flag = f"-rpc-addr={address}"
        code, out, _ = run(["members", flag])
        assert code == 0
        assert out.splitlines()[1:] == [
            "a     10.0.0.1:8301   alive   client   < 0.3            ",
            "b     [fd00::2]:8301  failed  unknown                   ",
        ]
        assert run(["join", flag, "x", "y"])[1] == "Successfully joined cluster by contacting 2 nodes.\n"
        assert run(["join", flag, "10.9.9.9"])[1].startswith("Error joining the cluster: dial tcp 10.9.9.9:8301")
        assert run(["force-leave", flag, "other"])[:2] == (1, "Error force leaving: no\n")
        assert run(["info", flag])[1] == "a:\n\tb = c\n"
        assert run(["reload", flag])[1] == "Configuration reload triggered\n"
        assert agent.done == ["reload"]
        agent.logs.logger("agent.server").error("something")
        code, out, _ = run(["monitor", flag, "-log-level=err"], Impatient())
        assert code == 0
        assert out.endswith("[ERR] consul: something\n")
