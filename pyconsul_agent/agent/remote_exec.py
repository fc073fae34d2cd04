"""Runs what `consul exec` asks of this node. Only with `disable_remote_exec = false`: whoever may fire the event and
write below the prefix runs programs as the agent's user.

The event names a prefix and a session; the job lies at `<prefix>/<session>/job`. We write below `<prefix>/<session>/
<node>/`: `ack` first, then `out/00000`, `out/00001`, ... (an empty one is a sign of life), at last `exit`. Every write
acquires its key for the session: when the session has ended, because its owner went away, the write is refused and the
program is killed.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from pyconsul_agent.agent.delegate import Caller
from pyconsul_agent.agent.events import Event
from pyconsul_agent.env.base import Files, Process
from pyconsul_agent.env.log import Log
from pyconsul_agent.env.timeouts import timeout
from pyconsul_agent.errors import ConsulError, DecodeError
from pyconsul_agent.structs.kv import DirEntry
from pyconsul_agent.structs.methods import KVS_APPLY, KVS_GET
from pyconsul_agent.structs.requests import KeyRequest, KVSRequest

JOBS_MAX = 16
"""Programs at a time; further jobs are not acknowledged."""
JOB_S_MAX = 24 * 3600.0
CHUNK_BYTES = 4096
CHUNK_DEADLINE_S = 0.5
"""Less than a chunk is written after this time."""
BACKLOG_BYTES_MAX = 4 * 1024 * 1024
"""Output that waits to be written; what comes beyond it is dropped, and the output says so."""
DROPPED = b"\n[output dropped: the cluster takes it too slowly]\n"
NAME_CHARACTERS_MAX = 512
WAIT_S_MIN, WAIT_S_MAX = 0.1, 3600.0
COULD_NOT_RUN = 255
SHELL = "/bin/sh"
TEMPORARY_FOLDER = "/tmp"  # noqa: S108 - files in it have names that nobody can guess
Write = Callable[[str, bytes], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Job:
    """What to run: a command for the shell, a program with arguments, or a script."""

    command: str
    arguments: tuple[str, ...]
    script: bytes
    wait_s: float


class _Refused(Exception):
    """The session has ended: nobody waits for us any more."""


def read_target(payload: bytes | None) -> tuple[str, str]:
    """(prefix, session) of an event. Raises DecodeError."""
    value = _object(payload or b"")
    prefix, session = value.get("Prefix"), value.get("Session")
    for each in (prefix, session):
        if not isinstance(each, str) or not each or len(each) > NAME_CHARACTERS_MAX:
            raise DecodeError("no prefix or session in a remote exec event")
    assert isinstance(prefix, str) and isinstance(session, str)
    return prefix.strip("/"), session


def read_job(value: bytes | None) -> Job:
    """The job that a key holds. Raises DecodeError."""
    spec = _object(value or b"")
    command, arguments, script, wait = (spec.get(key) for key in ("Command", "Args", "Script", "Wait"))
    words = arguments if isinstance(arguments, list) else []
    if not all(isinstance(word, str) and "\0" not in word for word in words):
        raise DecodeError("arguments of a remote exec job are no texts")
    try:
        decoded = base64.b64decode(script, validate=True) if isinstance(script, str) else b""
    except (binascii.Error, ValueError):
        raise DecodeError("the script of a remote exec job is no base64") from None
    if isinstance(command, str) and "\0" in command:
        raise DecodeError("the command of a remote exec job holds a NUL")
    wait_s = wait / 1e9 if isinstance(wait, int | float) and not isinstance(wait, bool) else 0.0
    text = command if isinstance(command, str) else ""
    return Job(text, tuple(words), decoded, min(max(wait_s, WAIT_S_MIN), WAIT_S_MAX))


def _object(data: bytes) -> dict[str, object]:
    try:
        value = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise DecodeError(f"a remote exec message is no JSON: {error}") from None
    if not isinstance(value, dict):
        raise DecodeError("a remote exec message is no object")
    return value


class _Output:
    """What the program wrote and the store has not yet. Bounded."""

    def __init__(self) -> None:
        self._waiting = bytearray()
        self._dropping = False
        self._wake = asyncio.Event()
        self.ended = False

    def feed(self, data: bytes) -> None:
        """More of it, as it comes."""
        room = BACKLOG_BYTES_MAX - len(self._waiting)
        self._waiting += data[: max(room, 0)]
        if len(data) <= room:
            self._dropping = self._dropping and room < BACKLOG_BYTES_MAX // 2
        elif not self._dropping:
            self._waiting += DROPPED
            self._dropping = True
        self._wake.set()

    def end(self) -> None:
        """No more will come."""
        self.ended = True
        self._wake.set()

    async def chunk(self, quiet_s: float) -> bytes | None:
        """The next chunk; empty when nothing came for `quiet_s`, None after the last one."""
        if not self._waiting and not self.ended:
            await self._woken(quiet_s)
        if self._waiting and len(self._waiting) < CHUNK_BYTES and not self.ended:
            try:
                async with timeout(CHUNK_DEADLINE_S):
                    while len(self._waiting) < CHUNK_BYTES and not self.ended:
                        self._wake.clear()
                        await self._wake.wait()
            except TimeoutError:
                pass  # what there is goes out
        taken = bytes(self._waiting[:CHUNK_BYTES])
        del self._waiting[:CHUNK_BYTES]
        return None if self.ended and not taken else taken

    async def _woken(self, limit_s: float) -> None:
        self._wake.clear()
        try:
            async with timeout(limit_s):
                await self._wake.wait()
        except TimeoutError:
            return


class RemoteExec:
    """Takes the events of jobs, one task each (the caller starts it)."""

    def __init__(
        self,
        caller: Caller,
        process: Process,
        files: Files,
        log: Log,
        *,
        node: str,
        datacenter: str,
        token: Callable[[], str],
        temporary: Callable[[], str],
    ) -> None:
        """`temporary` names a new file for a script."""
        self._caller = caller
        self._process = process
        self._files = files
        self._log = log
        self._node = node
        self._datacenter = datacenter
        self._token = token
        self._temporary = temporary
        self._running = 0

    async def run(self, event: Event) -> None:
        """Do what an event asks. Never raises for what others did."""
        self._log.debug("received remote exec event", id=event.id)
        if self._running >= JOBS_MAX:
            self._log.warn("remote exec refused: too many jobs are running", id=event.id)
            return
        self._running += 1
        try:
            await self._run(event)
        except (ConsulError, _Refused) as error:
            self._log.error("remote exec ended early", id=event.id, error=str(error))
        finally:
            self._running -= 1

    async def _run(self, event: Event) -> None:
        prefix, session = read_target(event.payload)
        job = await self._job(prefix, session)
        if job is None:
            self._log.debug("remote exec aborted, job spec missing", id=event.id)
            return
        folder = f"{prefix}/{session}/{self._node}"

        async def write(name: str, value: bytes) -> None:
            await self._write(f"{folder}/{name}", value, session)

        await write("ack", b"")
        code = await self._execute(job, write)
        await write("exit", str(code).encode())

    async def _job(self, prefix: str, session: str) -> Job | None:
        """From any server; one that has not heard of it yet makes us ask the leader."""
        key = f"{prefix}/{session}/job".encode("utf-8", "surrogateescape")
        for stale in (True, False):
            asked = KeyRequest(datacenter=self._datacenter, key=key, allow_stale=stale, token=self._token())
            reply = await self._caller.call(KVS_GET, asked)
            if reply.entries:
                return read_job(reply.entries[0].value)
        return None

    async def _write(self, key: str, value: bytes, session: str) -> None:
        """Raises RPCError, and _Refused when the session is over."""
        row = DirEntry(key=key.encode("utf-8", "surrogateescape"), value=value or None, session=session)
        asked = KVSRequest(datacenter=self._datacenter, op="lock", dir_ent=row, token=self._token())
        if not await self._caller.call(KVS_APPLY, asked):
            raise _Refused(f"write of {key} failed")

    async def _execute(self, job: Job, write: Write) -> int:
        """The exit code. Whatever ends us ends the program, and removes the script's file."""
        script = ""
        arguments = list(job.arguments)
        if job.script:
            script = self._temporary()
            self._files.write_atomic(script, job.script, mode=0o700)
        if not arguments:
            arguments = [SHELL, "-c", script or job.command]
        self._log.info("remote exec", command=" ".join(arguments))
        output = _Output()
        program = asyncio.create_task(self._program(arguments, output), name="remote exec program")
        try:
            await _upload(output, write, job.wait_s)
            return await program
        finally:
            program.cancel()
            await asyncio.wait([program])
            if script:
                self._files.remove(script)

    async def _program(self, arguments: list[str], output: _Output) -> int:
        try:
            ended = await self._process.run(
                arguments, timeout_s=JOB_S_MAX, output_bytes_max=CHUNK_BYTES, on_output=output.feed
            )
        except OSError as error:
            self._log.debug("failed to start remote exec", error=str(error))
            return COULD_NOT_RUN
        finally:
            output.end()
        return max(ended.exit_code, -1)


async def _upload(output: _Output, write: Write, wait_s: float) -> None:
    number = 0
    while (chunk := await output.chunk(wait_s)) is not None:
        await write(f"out/{number:05x}", chunk)
        number += 1
