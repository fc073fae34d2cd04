"""`lock`: run a program while a lock, or a place of a semaphore, is ours."""

from __future__ import annotations

import queue
import signal
import subprocess
import threading
from collections.abc import Sequence

from pyconsul_agent.cli import children
from pyconsul_agent.cli.command import Command, Context
from pyconsul_agent.cli.flags import Flag
from pyconsul_agent.cli.http_api import API, APIError
from pyconsul_agent.cli.locks import InUse, Lock, LockError, Semaphore, Terms
from pyconsul_agent.wire.gotypes import parse_duration

KILL_GRACE_S = 5.0
CHILD_FAILED = 2
HELD_VARIABLE = "CONSUL_LOCK_HELD"


def run(context: Context, arguments: Sequence[str]) -> int:
    """Acquire, run, release, clean up."""
    limit = context.number("n")
    timeout_s = parse_duration(context.text("timeout")) / 1e9
    if limit <= 0:
        return context.complain("Lock holder limit must be positive")
    if len(arguments) < 2:
        return context.complain("Key prefix and child command must be specified")
    if timeout_s < 0:
        return context.complain("Timeout must be positive")
    if context.number("monitor-retry") < 0:
        return context.complain("Number for 'monitor-retry' must be >= 0")
    prefix, words = arguments[0].removeprefix("/"), arguments[1:]
    api = context.api()
    try:
        api.get("/v1/agent/self").expect_ok()
    except APIError as error:
        return context.complain(f"Error querying Consul agent: {error}")
    name = context.text("name") or f"Consul lock for '{' '.join(words)}' at '{prefix}'"
    return _Run(context, api, prefix, limit, Terms(name, timeout_s, context.number("monitor-retry"))).run(words)


class _Run:
    """One run: what happens is told by `_news`, from signals, the lock's watch and the child."""

    def __init__(self, context: Context, api: API, prefix: str, limit: int, terms: Terms) -> None:
        self._context = context
        self._stopped = threading.Event()
        self._news: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._lock: Lock | Semaphore
        if limit == 1:
            self._lock = Lock(api, prefix, terms)
            self._tell(f"Setting up lock at path: {self._lock.key}")
        else:
            self._lock = Semaphore(api, prefix, limit, terms)
            self._tell(f"Setting up semaphore (limit {limit}) at prefix: {prefix}")

    def _tell(self, text: str) -> None:
        if self._context.on("verbose"):
            self._context.say(text)
            self._context.out.flush()

    def _stop(self, number: int, frame: object) -> None:
        self._stopped.set()
        self._news.put("stop")

    def run(self, words: Sequence[str]) -> int:
        """The exit code."""
        children.on_signals(self._stop, signal.SIGINT, signal.SIGTERM)
        self._tell("Attempting lock acquisition")
        try:
            if not self._lock.acquire(self._stopped):
                return self._context.complain("Shutdown triggered or timeout during lock acquisition")
        except LockError as error:
            return self._context.complain(f"Lock acquisition failed: {error}")
        failed = False
        if self._stopped.is_set():
            self._context.complain("Shutdown triggered during lock acquisition")
        else:
            failed = self._with_child(words)
        try:
            self._lock.release()
        except LockError as error:
            return self._context.complain(f"Lock release failed: {error}")
        try:
            self._lock.clean_up()
        except InUse:
            self._tell("Cleanup aborted, lock in use")
        except LockError as error:
            return self._context.complain(f"Lock cleanup failed: {error}")
        else:
            self._tell("Cleanup succeeded")
        return CHILD_FAILED if failed and self._context.on("child-exit-code") else 0

    # --- the child -------------------------------------------------------------------------------------------------

    def _with_child(self, words: Sequence[str]) -> bool:
        """Whether the child failed."""
        context = self._context
        self._tell("Starting handler")
        if context.on("pass-stdin"):
            self._tell("Stdin passed to handler process")
        arguments = children.arguments_of(words, shell=context.on("shell"), environ=context.environ)
        environ = {**context.environ, HELD_VARIABLE: "true"}
        stdin = context.stdin.fileno() if context.on("pass-stdin") else subprocess.DEVNULL
        try:
            child = children.start(arguments, environ, stdin=stdin, out=context.out, err=context.err)
        except OSError as error:
            context.complain(f"Error starting handler: {children.could_not_start(arguments[0], error)}")
            self._tell("Child terminated, releasing lock")
            return True
        children.forward(child)
        threading.Thread(target=self._wait_for, args=(child,), daemon=True).start()
        threading.Thread(target=self._watch_lock, daemon=True).start()
        reason = self._news.get()
        if reason == "child":
            failed = self._ended_badly(child)
            self._tell("Child terminated, releasing lock")
            return failed
        self._tell("Shutdown triggered, killing child" if reason == "stop" else "Lock lost, killing child")
        self._kill(child)
        return False

    def _wait_for(self, child: subprocess.Popen[bytes]) -> None:
        child.wait()
        self._news.put("child")

    def _watch_lock(self) -> None:
        self._lock.lost.wait()
        self._news.put("lost")

    def _ended_badly(self, child: subprocess.Popen[bytes]) -> bool:
        problem = children.outcome(child.wait())
        if problem:
            self._context.complain(f"Error running handler: {problem}")
        return bool(problem)

    def _kill(self, child: subprocess.Popen[bytes]) -> None:
        """First politely; it must be gone before the lock's delay lets another holder in."""
        self._tell(f"Terminating child pid {child.pid}")
        child.terminate()
        try:
            child.wait(KILL_GRACE_S)
        except subprocess.TimeoutExpired:
            self._tell(f"Child did not exit after grace period of {KILL_GRACE_S:.0f}s")
            self._tell(f"Killing child pid {child.pid}")
            child.kill()
            child.wait()
            return
        self._ended_badly(child)
        self._tell("Child terminated")


LOCK = Command(
    "consul lock [options] prefix child...",
    "Acquires the lock below a prefix of the key-value store, or with -n a place of a semaphore, and runs a program "
    "while it holds it. A program that runs when the lock is lost is terminated, and killed if that is not enough.",
    run,
    (
        Flag("child-exit-code", "bool", "Exit with 2 when the program fails."),
        Flag("monitor-retry", "int", "Errors of servers in a row that do not lose the lock.", 3),
        Flag("n", "int", "Number of holders; more than one makes it a semaphore.", 1),
        Flag("name", "string", "Name of the session."),
        Flag("pass-stdin", "bool", "Hand our standard input to the program."),
        Flag("shell", "bool", "Run the program by the shell of $SHELL.", True),
        Flag("timeout", "duration", "Give up after this time; 0 is never.", "0"),
        Flag("try", "duration", "Old name of -timeout.", "0", store="timeout"),
        Flag("verbose", "bool", "Say what happens."),
    ),
    groups="CS",
)
