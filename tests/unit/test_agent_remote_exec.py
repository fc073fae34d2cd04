"""Remote execution: the job is read, acknowledged, run, its output and exit code written, all for its session."""

import asyncio
import base64
import contextlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyconsul_agent.agent import remote_exec
from pyconsul_agent.agent.events import Event
from pyconsul_agent.agent.remote_exec import RemoteExec, read_job, read_target
from pyconsul_agent.env.base import ProcessResult
from pyconsul_agent.errors import DecodeError, RPCError
from pyconsul_agent.structs.kv import DirEntry
from pyconsul_agent.structs.requests import IndexedDirEntries
from tests.builders import run_sim

FOLDER = "_rexec/s1/node1/"
EVENT = Event(id="e1", name="_rexec", payload=b'{"Prefix":"_rexec","Session":"s1"}')


class Store:
    """The servers: one job, and what is written. `open_writes` writes are taken, then the session is over."""

    def __init__(self, job, *, stale_has_it=True, open_writes=10_000):
        self.job = job
        self.stale_has_it = stale_has_it
        self.open_writes = open_writes
        self.reads = []
        self.written = {}

    async def call(self, method, request):
        if method.name == "KVS.Get":
            self.reads.append(request.allow_stale)
            assert request.key == b"_rexec/s1/job"
            there = self.job is not None and (self.stale_has_it or not request.allow_stale)
            return IndexedDirEntries(entries=(DirEntry(value=self.job),) if there else ())
        assert (method.name, request.op, request.dir_ent.session) == ("KVS.Apply", "lock", "s1")
        if self.open_writes == 0:
            return False
        self.open_writes -= 1
        self.written[request.dir_ent.key.decode().removeprefix(FOLDER)] = request.dir_ent.value
        return True


class Program:
    """`Process`: says its pieces with pauses between them, then exits."""

    def __init__(self, *pieces, code=0, missing=False):
        self.pieces, self.code, self.missing = pieces, code, missing
        self.arguments = None
        self.killed = False

    async def run(self, arguments, *, timeout_s, output_bytes_max, environment=None, stdin=None, on_output=None):
        if self.missing:
            raise FileNotFoundError(2, "No such file or directory")
        self.arguments = list(arguments)
        try:
            for piece in self.pieces:
                if isinstance(piece, bytes):
                    on_output(piece)
                else:
                    await asyncio.sleep(piece)
        except asyncio.CancelledError:
            self.killed = True
            raise
        return ProcessResult(self.code, b"", truncated=False)


class Files:
    def __init__(self):
        self.kept, self.seen = {}, {}

    def write_atomic(self, path, data, *, mode=0o600):
        self.kept[path] = self.seen[path] = (data, mode)

    def remove(self, path):
        del self.kept[path]


class Log:
    def __init__(self):
        self.lines = []

    def __getattr__(self, level):
        return lambda text, **fields: self.lines.append((level, text, fields))


def spec(command="", args=None, script=None, wait=2_000_000_000):
    encoded = None if script is None else base64.b64encode(script).decode()
    return json.dumps({"Command": command, "Args": args, "Script": encoded, "Wait": wait}).encode()


def execute(store, program, files=None, event=EVENT):
    log = Log()

    async def main(world):
        execution = RemoteExec(
            store, program, files or Files(), log, node="node1", datacenter="dc1", token=lambda: "t",
            temporary=lambda: "/tmp/script",
        )  # fmt: skip
        await execution.run(event)

    run_sim(1, main)
    return log


def test_a_command_runs_in_the_shell_and_its_words_and_exit_code_are_written():
    store, program = Store(spec("echo hello")), Program(b"hello\n", code=3)
    execute(store, program)
    assert program.arguments == ["/bin/sh", "-c", "echo hello"]
    assert store.written == {"ack": None, "out/00000": b"hello\n", "exit": b"3"}
    assert list(store.written) == ["ack", "out/00000", "exit"]


def test_arguments_run_without_a_shell():
    store, program = Store(spec(args=["echo", "$HOME"])), Program()
    execute(store, program)
    assert program.arguments == ["echo", "$HOME"]
    assert store.written == {"ack": None, "exit": b"0"}


def test_a_script_lies_in_a_file_of_its_own_that_goes_again():
    store, program, files = Store(spec(script=b"#!/bin/sh\ntrue\n")), Program(), Files()
    execute(store, program, files)
    assert program.arguments == ["/bin/sh", "-c", "/tmp/script"]
    assert files.seen == {"/tmp/script": (b"#!/bin/sh\ntrue\n", 0o700)}
    assert files.kept == {}


def test_much_output_goes_in_chunks_and_little_after_half_a_second():
    store, program = Store(spec("x")), Program(b"a" * 10_000, 1.0, b"tail", 1.0)
    execute(store, program)
    sizes = [len(value) for name, value in store.written.items() if name.startswith("out/")]
    assert sizes == [4096, 4096, 10_000 - 2 * 4096, 4]


def test_silence_is_told_by_empty_outputs():
    store, program = Store(spec("x", wait=1_000_000_000)), Program(3.5, b"late")
    execute(store, program)
    assert [value for name, value in store.written.items() if name.startswith("out/")] == [None, None, None, b"late"]


def test_a_flood_is_cut_and_the_output_says_so():
    flood = b"x" * (remote_exec.BACKLOG_BYTES_MAX + 100_000)
    store = Store(spec("x"))
    execute(store, Program(flood, flood))
    written = b"".join(value or b"" for name, value in store.written.items() if name.startswith("out/"))
    assert written == b"x" * remote_exec.BACKLOG_BYTES_MAX + remote_exec.DROPPED


def test_the_program_is_killed_when_the_session_is_over():
    store, program = Store(spec("x"), open_writes=2), Program(b"one", 1.0, b"two", 100.0)
    log = execute(store, program)
    assert program.killed
    assert set(store.written) == {"ack", "out/00000"}
    assert log.lines[-1][:2] == ("error", "remote exec ended early")


def test_a_job_that_nobody_waits_for_is_not_run():
    store, program = Store(spec("x"), open_writes=0), Program()
    execute(store, program)
    assert program.arguments is None


def test_a_job_is_asked_of_the_leader_when_the_near_server_has_not_heard_of_it():
    store, program = Store(spec("x"), stale_has_it=False), Program()
    execute(store, program)
    assert store.reads == [True, False]
    assert store.written["exit"] == b"0"
    nothing = Store(None)
    execute(nothing, Program())
    assert nothing.written == {}


def test_a_program_that_cannot_be_started_has_exit_code_255():
    store = Store(spec(args=["/nowhere"]))
    execute(store, Program(missing=True))
    assert store.written == {"ack": None, "exit": b"255"}


def test_errors_of_the_servers_end_the_job_only():
    class Down(Store):
        async def call(self, method, request):
            raise RPCError("No cluster leader")

    log = execute(Down(None), Program())
    assert log.lines[-1] == ("error", "remote exec ended early", {"id": "e1", "error": "No cluster leader"})


def test_no_more_jobs_than_allowed_run_at_a_time(monkeypatch):
    monkeypatch.setattr(remote_exec, "JOBS_MAX", 1)
    log, store, program = Log(), Store(spec("x")), Program(5.0)

    async def main(world):
        execution = RemoteExec(
            store, program, Files(), log, node="node1", datacenter="dc1", token=str, temporary=str
        )  # fmt: skip
        await asyncio.gather(execution.run(EVENT), execution.run(EVENT))

    run_sim(1, main)
    assert [text for level, text, _ in log.lines if level == "warn"] == [
        "remote exec refused: too many jobs are running"
    ]


@pytest.mark.parametrize("payload", [None, b"", b"[]", b"{}", b'{"Prefix":"a","Session":1}', b"\xff", b"[" * 5000])
def test_an_event_that_names_no_job_is_refused(payload):
    with pytest.raises(DecodeError):
        read_target(payload)
    assert execute(Store(spec("x")), Program(), event=Event(id="e", name="_rexec", payload=payload)).lines


@given(st.binary(max_size=300))
def test_any_bytes_are_a_job_or_a_decode_error(data):
    with contextlib.suppress(DecodeError):
        read_job(data)


def test_waits_of_jobs_are_bounded():
    assert read_job(spec("x", wait=0)).wait_s == remote_exec.WAIT_S_MIN
    assert read_job(spec("x", wait=10**30)).wait_s == remote_exec.WAIT_S_MAX
