"""The process around an agent: event loop, console, signals, exit codes."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import re
import sys
import tempfile
from collections.abc import Callable, Coroutine
from typing import Any

from pyconsul_agent.app.compose import Agent
from pyconsul_agent.app.files import log_sinks, pid_file
from pyconsul_agent.app.reload import Reread
from pyconsul_agent.app.unsupported import without_effect
from pyconsul_agent.config.banner import banner, opening
from pyconsul_agent.config.options import Options
from pyconsul_agent.config.origins import locating
from pyconsul_agent.env.base import Env
from pyconsul_agent.env.signals import on_signals
from pyconsul_agent.env.timeouts import timeout
from pyconsul_agent.errors import ConsulError
from pyconsul_agent.runtime.raft_storage import RaftStorage, SqliteRaftStorage
from pyconsul_agent.telemetry.logging import LogStream, parse_level

LEAVE_TIMEOUT_S = 15.0
GC_THRESHOLDS = (10_000, 20, 20)
"""Every request makes some hundred objects, and none in a cycle: looking at them after each few requests is waste."""

INTERRUPT, TERMINATED, HANGUP = "interrupt", "terminated", "hangup"


def run(options: Options, env: Env, *, reread: Reread | None = None) -> int:
    """Run an agent until it is told to stop; the process's exit code. `reread` gives the options anew on reload."""
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        return runner.run(_main(options, env, reread))


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop


def _write(text: str) -> None:
    """Whole lines to stdout at once. A console that is gone must not stop a server."""
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except (OSError, ValueError):
        return


def _warn(text: str) -> None:
    try:
        sys.stderr.write(text)
        sys.stderr.flush()
    except (OSError, ValueError):
        return


def log_stream(options: Options, env: Env) -> LogStream:
    """The log on the console, held back until the banner is out."""
    level = parse_level(options.log_level)
    assert level is not None, "validated with the configuration"
    return LogStream(
        write=_write,
        write_warning=_warn,
        wall_ns=env.clock.wall_ns,
        format="json" if options.log_json else options.log_format,  # type: ignore[arg-type]
        level=level,
        role="server" if options.server else "client",
        held=True,
    )


def storage(env: Env, logs: LogStream, scratch: str) -> Callable[[Options], RaftStorage]:
    """Where raft keeps its log: files in the data directory, or, for `-dev`, in the folder `scratch`.

    Log and snapshots are written by threads of their own, because a snapshot takes seconds.
    """

    def make(options: Options) -> RaftStorage:
        return SqliteRaftStorage(
            f"{options.data_dir or scratch}/raft",
            blocking=env.blocking.worker("raft log"),
            snapshot_blocking=env.blocking.worker("raft snapshots"),
            wall_ns=env.clock.wall_ns,
            log=logs.logger("agent.server.raft"),
        )

    return make


async def _main(options: Options, env: Env, reread: Reread | None) -> int:
    with tempfile.TemporaryDirectory(prefix="pyconsul-dev-") as scratch:
        return await _run(options, env, scratch, reread)


async def _run(options: Options, env: Env, scratch: str, reread: Reread | None) -> int:
    logs = log_stream(options, env)
    log = logs.logger()
    signals: asyncio.Queue[str] = asyncio.Queue(16)
    undo = on_signals(lambda word: None if signals.full() else signals.put_nowait(word))
    agent: Agent | None = None
    code = 1
    opened = contextlib.ExitStack()
    try:
        opened.enter_context(log_sinks(options, logs, env.clock.wall_ns))
        _warnings(options, log)
        with locating(options.origins):
            agent = Agent(options, env, logs, storage(env, logs, scratch), reread=reread)
        if logs.format == "classic":
            _write(opening(options))
        else:
            _write(banner(options, node_id=agent.node_id, encrypted=agent.delegate.gossip_encrypted))
            logs.release()
        if await _start(agent, signals, logs):
            gc.set_threshold(*GC_THRESHOLDS)
            gc.enable()
            freezing = asyncio.create_task(_freeze(agent))
            opened.callback(freezing.cancel)
            opened.enter_context(pid_file(options.pid_file, log))
            log.event("agent_running")
            code = await _until_told(agent, signals, logs)
            if agent.failure and logs.format == "classic":
                _warn(f"==> Error: {agent.failure}\n")
    except Exception as error:  # the edge of the process: whatever it is, one line and an orderly end
        code = _failed(logs, error, started=agent is not None)
    finally:
        if agent is not None:
            logs.release()
            await _stop(agent, logs)
        await env.blocking.close()
        undo()
        if agent is not None:  # else nobody has seen a log, and an error on stderr says it all
            log.event("exit_code", code=code)
        opened.close()
    return code


async def _freeze(agent: Agent) -> None:
    """What start-up made, and then what was restored, stays: keep the collector from walking it again and again.

    It does not collect first: to walk the whole heap while a snapshot is being restored stops the loop for too long.
    """
    gc.freeze()
    await agent.restored()
    gc.freeze()


async def _stop(agent: Agent, logs: LogStream) -> None:
    try:
        await agent.stop()
    except Exception as error:  # the edge of the process
        logs.logger().error("Error while stopping", error=f"{type(error).__name__}: {error}")


def _failed(logs: LogStream, error: Exception, *, started: bool) -> int:
    """One clear line: why the agent does not run. `started`: the screen of the start is out, so it is a log line."""
    text = str(error) if isinstance(error, ConsulError) else f"{type(error).__name__}: {error}"
    if isinstance(error, OSError) and not isinstance(error, ConsulError):
        text = f"{error.filename or ''}: {(error.strerror or text).lower()}".removeprefix(": ")
    text = _one_line(text)
    if not started:
        _warn(f"==> {text}\n")
    elif logs.format == "classic":
        logs.release()
        _warn(f"==> Error starting agent: {text}\n")
    else:
        logs.release()
        logs.logger().error("Error starting agent", error=text)
    return 1


def _one_line(text: str) -> str:
    """A list of errors ("2 errors occurred:" and a line each) as one line."""
    head, _, rest = text.partition("\n")
    if not rest:
        return text
    items = [line.strip().removeprefix("* ") for line in rest.splitlines() if line.strip()]
    return "; ".join(items if re.fullmatch(r"\d+ errors? occurred:", head) else [head, *items])


def _warnings(options: Options, log: Any) -> None:
    if options.server and options.bootstrap:
        log.event("bootstrap_warning")
    if options.server and options.bootstrap_expect > 1:
        log.event("expect_warning", count=options.bootstrap_expect)
    for text in (*options.warnings, *without_effect(options)):
        log.warn(text)


async def _start(agent: Agent, signals: asyncio.Queue[str], logs: LogStream) -> bool:
    """Start; the classic banner comes when that is done. False when a signal cut it short."""
    if (word := await _first(_ending(signals), agent.start())) is not None:
        logs.release()
        logs.logger().event("signal", name=word)
        return False
    if logs.format == "classic":
        _write(banner(agent.options, node_id=agent.node_id, encrypted=agent.delegate.gossip_encrypted))
        logs.release()
    return True


async def _ending(signals: asyncio.Queue[str]) -> str:
    """The next signal that ends a process; there is nothing to reload yet."""
    while (word := await signals.get()) == HANGUP:
        continue
    return word


async def _until_told(agent: Agent, signals: asyncio.Queue[str], logs: LogStream) -> int:
    """Wait for the agent's own end or for a signal that ends it, and leave if that is configured."""
    log = logs.logger()
    while True:
        word = await _first(signals.get(), agent.finished.wait())
        if word is None:
            return agent.exit_code
        log.event("signal", name=word)
        if word == HANGUP:
            agent.request_reload()
            continue
        options = agent.options
        graceful = (word == INTERRUPT and not options.skip_leave_on_interrupt) or (
            word == TERMINATED and bool(options.leave_on_terminate)
        )
        if not graceful:
            log.event("graceful_disabled")
            return 1
        return await _leave(agent, signals, logs)


async def _leave(agent: Agent, signals: asyncio.Queue[str], logs: LogStream) -> int:
    """A graceful leave; another signal or the time limit cuts it short."""
    log = logs.logger()
    log.event("graceful_shutdown")
    try:
        async with timeout(LEAVE_TIMEOUT_S):
            word = await _first(signals.get(), agent.leave())
    except TimeoutError:
        log.error("Timeout on graceful leave. Exiting")
        return 1
    except ConsulError as error:
        log.error("Error on leave", error=str(error))
        return 1
    if word is not None:
        log.event("signal", name=word)
        return 1
    log.event("graceful_done")
    return 0


async def _first(signal: Coroutine[Any, Any, str], other: Coroutine[Any, Any, Any]) -> str | None:
    """The signal's word if it comes first, None if `other` ends first; what `other` raises is raised."""
    a, b = asyncio.ensure_future(signal), asyncio.ensure_future(other)
    try:
        await asyncio.wait({a, b}, return_when=asyncio.FIRST_COMPLETED)
        if b.done():
            b.result()
            return None
        return a.result()
    finally:
        for task in (a, b):
            task.cancel()
        await asyncio.gather(a, b, return_exceptions=True)
