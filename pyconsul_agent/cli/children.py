"""Programs that a command starts: by the user's shell or directly, with our streams, and what became of them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from types import FrameType
from typing import Any, TextIO

from pyconsul_agent.watch.handler import shell_arguments

Signals = Callable[[int, FrameType | None], Any]


def arguments_of(words: Sequence[str], *, shell: bool, environ: Mapping[str, str]) -> list[str]:
    """The program that the words name: one text for the shell, or a program and its arguments."""
    return list(shell_arguments(" ".join(words), environ)) if shell else list(words)


def start(
    arguments: Sequence[str], environ: Mapping[str, str], *, stdin: int, out: TextIO, err: TextIO
) -> subprocess.Popen[bytes]:
    """Start it, writing where we write. Raises OSError.

    It does not lead a group of its own: what a terminal sends to us reaches it too, as from any shell.
    """
    out.flush()
    err.flush()
    return subprocess.Popen(  # noqa: S603 - the user's own command
        list(arguments), env=dict(environ), stdin=stdin, stdout=_descriptor(out, sys.stdout),
        stderr=_descriptor(err, sys.stderr),
    )  # fmt: skip


def _descriptor(stream: TextIO, ours: TextIO) -> int | None:
    """None: what we have ourselves. A stream without a descriptor (a test's) cannot be handed to a child."""
    if stream is ours:
        return None
    try:
        return stream.fileno()
    except (OSError, ValueError):
        return subprocess.DEVNULL


def could_not_start(program: str, error: OSError) -> str:
    """Why, in Go's words."""
    reason = (error.strerror or str(error)).lower()
    if "/" in program:
        return f"fork/exec {program}: {reason}"
    return f'exec: "{program}": executable file not found in $PATH' if error.errno == 2 else f"{program}: {reason}"


def outcome(code: int) -> str:
    """What Go says about an exit: empty for 0, `exit status 7`, `signal: terminated`."""
    if code == 0:
        return ""
    if code > 0:
        return f"exit status {code}"
    return f"signal: {_SIGNALS.get(-code) or f'signal {-code}'}"


_SIGNALS: dict[int, str] = {
    signal.SIGHUP: "hangup", signal.SIGINT: "interrupt", signal.SIGQUIT: "quit", signal.SIGILL: "illegal instruction",
    signal.SIGTRAP: "trace/breakpoint trap", signal.SIGABRT: "aborted", signal.SIGBUS: "bus error",
    signal.SIGFPE: "floating point exception", signal.SIGKILL: "killed", signal.SIGUSR1: "user defined signal 1",
    signal.SIGSEGV: "segmentation fault", signal.SIGUSR2: "user defined signal 2", signal.SIGPIPE: "broken pipe",
    signal.SIGALRM: "alarm clock", signal.SIGTERM: "terminated",
}  # fmt: skip


def on_signals(handler: Signals, *numbers: int) -> None:
    """Have `handler` called for these; only possible (and only done) in the main thread of a real process."""
    for number in numbers:
        signal.signal(number, handler)


FORWARDED = (signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGQUIT, signal.SIGCONT, signal.SIGWINCH)
"""Passed on to the child. SIGINT and SIGTERM are answered by the command itself."""


def forward(process: subprocess.Popen[bytes]) -> None:
    """Pass signals on to the child."""

    def passed(number: int, frame: FrameType | None) -> None:
        if process.poll() is None:
            os.kill(process.pid, number)

    on_signals(passed, *FORWARDED)
