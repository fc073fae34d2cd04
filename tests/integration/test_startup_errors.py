"""An agent that cannot run says so in one clear line, exits with 1 and shows no traceback."""

from __future__ import annotations

import os
import signal
import socket
import time
from pathlib import Path

import pytest

from tests.integration.agents import Agent, own, wait_for

pytestmark = pytest.mark.slow
SERVER = ("-server", "-bootstrap")


@pytest.fixture
def make(tmp_path):
    made = []

    def one(ip: str, name: str, *arguments: str) -> Agent:
        made.append(Agent(tmp_path, own(ip), name, *arguments))
        return made[-1]

    yield one
    for agent in made:
        agent.close()


BAD_OPTIONS = [
    (["-bootstrap-expect", "3"], "'bootstrap_expect > 0' and 'bootstrap = true' are mutually exclusive"),
    (["-node-id", "abc"], "specified NodeID is invalid: uuid string is wrong length"),
    (["-http-port", "99999"], "ports.http: invalid port: 99999"),
    (["-encrypt", "abc"], "encrypt has invalid key"),
    (["-config-file", "absent"], "config: Open failed on absent. open absent: no such file or directory"),
    (["-config-dir", "absent"], "config: Open failed on absent. open absent: no such file or directory"),
    (["-hcl", "this is not"], "failed to parse flags.hcl: At 1:12"),
    (["-hcl", "acl { enabled = true }"], "ACLs are enabled, but this version does not support them yet"),
    (["-hcl", 'ca_file = "x"'], "TLS is configured, but this version does not support it yet"),
    (["-hcl", "ports { https = 8501 }"], "TLS is configured, but this version does not support it yet"),
    (["-bind", "192.0.2.1"], "bind: cannot assign requested address"),
    (["-data-dir", ""], "data_dir cannot be empty"),
    (["-data-dir", "/proc/version"], "data_dir /proc/version cannot be used: file exists"),
    (["-data-dir", "/proc/absent"], "data_dir /proc/absent cannot be used: no such file or directory"),
    (["extra"], "==> Unexpected extra arguments: [extra]"),
]


@pytest.mark.parametrize(("words", "text"), BAD_OPTIONS, ids=[" ".join(words) for words, _ in BAD_OPTIONS])
def test_an_option_that_cannot_be_is_told_in_one_line(make, words, text):
    agent = make("127.0.2.11", "n1", *SERVER, *words).start()
    agent.assert_refused(text)


def test_a_wrong_flag_is_told_on_the_first_line_before_the_usage(make):
    agent = make("127.0.2.11", "n1", "-servr").start()
    assert agent.wait() == 1
    agent.assert_clean()
    assert agent.err.splitlines()[0] == "flag provided but not defined: -servr"
    assert agent.out == ""


def test_an_unknown_key_is_told_as_consul_does(make):
    agent = make("127.0.2.11", "n1", "-hcl", "servr = true").start()
    assert agent.wait() == 1
    agent.assert_clean()
    assert agent.err == "==> failed to parse flags.hcl: 1 error occurred:\n\t* invalid config key servr\n\n\n"


@pytest.mark.parametrize(
    ("line", "text"),
    [
        ('telemetry { statsd_address = "x" }', "telemetry: 'x' is not host:port"),
        ('unix_sockets { mode = "9x" }', "unix_sockets.mode: invalid mode specified: 9x"),
    ],
)
def test_what_is_found_only_at_the_start_names_file_and_line(make, tmp_path, line, text):
    file = tmp_path / "more.hcl"
    file.write_text(f"# more\n{line}\n")
    make("127.0.2.11", "n1", *SERVER, "-config-file", str(file)).start().assert_refused(f"{text} ({file}:2)")


@pytest.mark.parametrize(
    ("kind", "port"),
    [("tcp", 8300), ("tcp", 8301), ("udp", 8301), ("tcp", 8302), ("udp", 8302), ("tcp", 8500)],
)
def test_a_taken_port_is_told_in_one_line(make, kind, port):
    ip = own("127.0.2.12")
    with socket.socket(type=socket.SOCK_STREAM if kind == "tcp" else socket.SOCK_DGRAM) as taken:
        taken.bind((ip, port))
        if kind == "tcp":
            taken.listen()
        agent = make(ip, "n1", *SERVER).start()
        agent.assert_refused(f"listen {kind} {ip}:{port}: bind: address already in use")


def test_a_read_only_data_directory_is_told_in_one_line(make, tmp_path):
    if os.geteuid() == 0:  # no mode stops root, but a file system that makes no directories does
        make("127.0.2.11", "n1", *SERVER, "-data-dir", "/sys/kernel").start().assert_refused("cannot be used")
        return
    (tmp_path / "n1").mkdir(mode=0o500)
    make("127.0.2.11", "n1", *SERVER).start().assert_refused("permission denied")


def test_a_data_directory_has_one_agent_and_kill_frees_it(make, tmp_path):
    first = make("127.0.2.13", "n1", *SERVER).start()
    first.wait_leader()
    second = make("127.0.2.14", "n2", *SERVER, "-data-dir", str(tmp_path / "n1")).start()
    second.assert_refused(f"data_dir {tmp_path / 'n1'} is in use by another agent")
    assert first.put("/v1/kv/x", b"1")
    first.kill()
    first.start()
    wait_for(lambda: first.ask("GET", "/v1/kv/x?raw") == (200, b"1"), what="value after kill -9")


SPOILED = [
    ("raft/log.sqlite", b"garbage " * 1000, "file is not a database"),
    ("node-id", b"no uuid", "specified NodeID is invalid"),
    ("raft", b"a file where a folder should be", "/raft: file exists"),
    ("serf", b"a file where a folder should be", "serf"),
]


@pytest.mark.parametrize(("name", "content", "text"), SPOILED, ids=[name for name, _, _ in SPOILED])
def test_a_spoiled_data_directory_is_told_in_one_line(make, name, content, text):
    agent = make("127.0.2.11", "n1", *SERVER)
    path = agent.data_dir / name
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    agent.start().assert_refused(text)


def test_a_log_damaged_in_the_middle_is_told_and_not_served(make):
    agent = make("127.0.2.11", "n1", *SERVER).start()
    agent.wait_leader()
    for number in range(50):
        assert agent.put(f"/v1/kv/{number}", b"x" * 2000)
    agent.signal(signal.SIGTERM)
    agent.wait()
    path = agent.data_dir / "raft" / "log.sqlite"
    data = bytearray(path.read_bytes())
    at = data.index(b"x" * 2000) + 1000
    data[at] ^= 1
    path.write_bytes(data)
    agent.start()
    agent.assert_refused("is damaged")


def wait_until_it_has_handlers(agent: Agent) -> None:
    """Python's own start answers an interrupt with a traceback, or loses it; nothing of ours can help that."""

    def has() -> bool:
        status = (Path("/proc") / str(agent.process.pid) / "status").read_text()
        return bool(int(status.split("SigCgt:")[1].split()[0], 16) >> signal.SIGTERM - 1 & 1)

    wait_for(has, every_s=0.002, what="handlers of signals")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signals_at_any_moment_end_it_without_a_traceback(make, number):
    agent = make("127.0.2.15", "n1", *SERVER)
    codes = set()
    for delay_s in (0.0, 0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.7, 0.9, 1.2):
        agent.start()
        if number == signal.SIGINT:
            wait_until_it_has_handlers(agent)
        time.sleep(delay_s)
        agent.signal(number)
        codes.add(agent.wait())
        agent.assert_clean()
    assert codes <= {0, 1, 130, -number}


def test_two_signals_end_it_in_order(make):
    agent = make("127.0.2.15", "n1", *SERVER).start()
    agent.wait_leader()
    agent.signal(signal.SIGTERM)
    agent.signal(signal.SIGTERM)
    assert agent.wait(5) == 1
    agent.assert_clean()
    assert agent.err == ""


def test_a_moved_server_keeps_its_data(make, tmp_path):
    agent = make("127.0.2.16", "n1", *SERVER).start()
    agent.wait_leader()
    assert agent.put("/v1/kv/x", b"1")
    agent.signal(signal.SIGTERM)
    agent.wait()
    moved = make("127.0.2.17", "n1", *SERVER).start()
    assert wait_for(lambda: moved.put("/v1/kv/y", b"2"), what="write at the new address")
    assert moved.ask("GET", "/v1/kv/x?raw") == (200, b"1")
    wait_for(lambda: moved.get("/v1/status/leader") == f"{moved.ip}:8300", what="new address of the leader")
    moved.assert_clean()


def test_a_second_server_with_the_name_of_the_first_is_refused(make):
    first = make("127.0.2.18", "n1", *SERVER).start()
    first.wait_leader()
    folder, name = first.folder / "..", first.folder.name + "-other"
    second = Agent(folder, own("127.0.2.19"), name, "-node", "n1", "-join", first.ip)
    second.start()
    try:
        second.assert_refused("n1")
    finally:
        second.close()
    assert first.put("/v1/kv/x", b"1")
    first.assert_clean()


def test_a_second_agent_with_the_id_of_the_first_is_refused(make):
    first = make("127.0.2.18", "n1", *SERVER).start()
    first.wait_leader()
    identity = (first.data_dir / "node-id").read_text()
    second = make("127.0.2.19", "n2", "-node-id", identity, "-join", first.ip).start()
    second.assert_refused(identity)
    assert first.put("/v1/kv/x", b"1")
    first.assert_clean()
