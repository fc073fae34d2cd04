"""Child processes of the operating system, each the leader of a process group that is killed as a whole.

Started by `subprocess` and watched here, not by the loop's own means: uvloop forks, and stands still until the child
has begun (12 ms on a busy machine); `subprocess` uses vfork (2 ms).
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
from collections.abc import Callable, Sequence

from pyconsul_agent.env.base import ProcessResult
from pyconsul_agent.env.timeouts import timeout

READ_BYTES = 64 * 1024
BURST_BYTES_MAX = 1024 * 1024
BURST_PAUSE_S = 0.05
"""A child that writes without end is read at 20 MiB/s at most, so that reading it does not fill this process's time."""
POLL_S = 0.02
"""How often a child is looked at where the kernel has no pidfd."""


class _Child:
    """A running child: keeps the last `output_bytes_max` bytes of what it writes, feeds it `stdin`, sees its end.

    `out` is our end of the pipe that it writes to, and closed with the child.
    """

    def __init__(
        self,
        popen: subprocess.Popen[bytes],
        out: int,
        stdin: bytes,
        output_bytes_max: int,
        on_output: Callable[[bytes], None] | None,
    ) -> None:
        self.output = bytearray()
        self.total = 0
        self._popen = popen
        self._loop = asyncio.get_running_loop()
        self.exited: asyncio.Future[None] = self._loop.create_future()
        self.ended: asyncio.Future[None] = self._loop.create_future()
        """The child has exited and its output is closed, also by those who inherited it."""
        self._stdin = memoryview(stdin)
        self._max = output_bytes_max
        self._on_output = on_output
        self._burst = 0
        self._timer: asyncio.TimerHandle | None = None
        self._poll: asyncio.TimerHandle | None = None
        self._open = True
        self._out = out
        os.set_blocking(self._out, False)
        self._loop.add_reader(self._out, self._readable)
        if popen.stdin is not None:
            os.set_blocking(popen.stdin.fileno(), False)
            self._loop.add_writer(popen.stdin.fileno(), self._writable)
        try:
            self._pidfd = os.pidfd_open(popen.pid)
            self._loop.add_reader(self._pidfd, self._look)
        except OSError:
            self._pidfd = -1
            self._look()

    # --- its output -------------------------------------------------------------------------------------------

    def _readable(self) -> None:
        try:
            data = os.read(self._out, READ_BYTES)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            data = b""
        if not data:
            self._loop.remove_reader(self._out)
            self._open = False
            self._end_if_over()
            return
        if self._on_output is not None:
            self._on_output(data)
        self.total += len(data)
        self.output += data
        if len(self.output) > self._max:
            del self.output[: len(self.output) - self._max]
        self._burst += len(data)
        if self._burst >= BURST_BYTES_MAX:
            self._burst = 0
            self._loop.remove_reader(self._out)
            self._timer = self._loop.call_later(BURST_PAUSE_S, self._loop.add_reader, self._out, self._readable)

    # --- its input --------------------------------------------------------------------------------------------

    def _writable(self) -> None:
        assert self._popen.stdin is not None
        try:
            self._stdin = self._stdin[os.write(self._popen.stdin.fileno(), self._stdin) :]
        except (BlockingIOError, InterruptedError):
            return
        except OSError:  # it does not want the rest
            self._stdin = memoryview(b"")
        if not self._stdin:
            self._close_stdin()

    def _close_stdin(self) -> None:
        pipe = self._popen.stdin
        if pipe is not None and not pipe.closed:
            self._loop.remove_writer(pipe.fileno())
            pipe.close()

    # --- its end ----------------------------------------------------------------------------------------------

    def _look(self) -> None:
        """Reap it if it has exited."""
        self._poll = None
        if self._popen.poll() is None:
            if self._pidfd < 0:
                self._poll = self._loop.call_later(POLL_S, self._look)
            return
        self._close_pidfd()
        if not self.exited.done():
            self.exited.set_result(None)
        self._end_if_over()

    def _end_if_over(self) -> None:
        if not self._open and self.exited.done() and not self.ended.done():
            self.ended.set_result(None)

    def _close_pidfd(self) -> None:
        if self._pidfd >= 0:
            self._loop.remove_reader(self._pidfd)
            os.close(self._pidfd)
            self._pidfd = -1

    def close(self) -> None:
        """Nothing is watched afterwards; for a child that has exited."""
        for timer in (self._timer, self._poll):
            if timer is not None:
                timer.cancel()
        self._close_stdin()
        self._close_pidfd()
        self._loop.remove_reader(self._out)
        os.close(self._out)


class RealProcess:
    """`Process` on the running loop."""

    async def run(
        self,
        arguments: Sequence[str],
        *,
        timeout_s: float,
        output_bytes_max: int,
        environment: dict[str, str] | None = None,
        stdin: bytes | None = None,
        on_output: Callable[[bytes], None] | None = None,
    ) -> ProcessResult:
        """Run a program. Raises OSError when it cannot be started; a time-out is part of the result.

        `exit_code` is minus the signal's number when a signal ended it.
        """
        # A pipe of ours: in Python 3.11.2 `Popen` leaks what it opened when no descriptor is left for the next.
        out, theirs = os.pipe()
        try:
            popen = subprocess.Popen(  # noqa: S603 - returns when the child has begun; what is run is the caller's
                list(arguments),
                stdin=subprocess.DEVNULL if stdin is None else subprocess.PIPE,
                stdout=theirs,
                stderr=subprocess.STDOUT,
                env=environment,
                start_new_session=True,
                bufsize=0,
            )
        except BaseException:
            os.close(out)
            raise
        finally:
            os.close(theirs)
        child = _Child(popen, out, stdin or b"", output_bytes_max, on_output)
        timed_out = False
        try:
            async with timeout(timeout_s):
                await asyncio.shield(child.ended)
        except TimeoutError:
            timed_out = True
        finally:
            try:
                if not child.ended.done():
                    kill_group(popen.pid)
                    await asyncio.shield(child.exited)
            finally:
                child.close()
        code = popen.returncode
        return ProcessResult(
            -1 if code is None else code, bytes(child.output), child.total > output_bytes_max, timed_out, child.total
        )


def kill_group(pid: int) -> None:
    """SIGKILL to the group that `pid` leads; it may be gone."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)
