"""Child processes of the operating system, each the leader of a process group that is killed as a whole."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
from collections.abc import Callable, Sequence
from typing import cast

from pyconsul_agent.env.base import ProcessResult


class _Child(asyncio.SubprocessProtocol):
    """Keeps the last `output_bytes_max` bytes of what the child writes."""

    def __init__(self, output_bytes_max: int, on_output: Callable[[bytes], None] | None = None) -> None:
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.exited: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.output = bytearray()
        self.truncated = False
        self._max = output_bytes_max
        self._on_output = on_output

    def pipe_data_received(self, fd: int, data: bytes) -> None:
        if self._on_output is not None:
            self._on_output(data)
        self.output += data
        if len(self.output) > self._max:
            self.truncated = True
            del self.output[: len(self.output) - self._max]

    def process_exited(self) -> None:
        if not self.exited.done():
            self.exited.set_result(None)

    def connection_lost(self, exc: Exception | None) -> None:
        """The child has exited and all pipes are closed, also by those who inherited them."""
        if not self.ended.done():
            self.ended.set_result(None)


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
        loop = asyncio.get_running_loop()
        transport, child = await loop.subprocess_exec(
            lambda: _Child(output_bytes_max, on_output),
            *arguments,
            stdin=subprocess.DEVNULL if stdin is None else subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=environment,
            start_new_session=True,
        )
        timed_out = False
        try:
            if stdin is not None:
                pipe = cast("asyncio.WriteTransport", transport.get_pipe_transport(0))
                pipe.write(stdin)
                pipe.close()
            async with asyncio.timeout(timeout_s):
                await asyncio.shield(child.ended)
        except TimeoutError:
            timed_out = True
        finally:
            if not child.ended.done():
                kill_group(transport.get_pid())
                await asyncio.shield(child.exited)
            transport.close()
        code = transport.get_returncode()
        return ProcessResult(-1 if code is None else code, bytes(child.output), child.truncated, timed_out)


def kill_group(pid: int) -> None:
    """SIGKILL to the group that `pid` leads; it may be gone."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)
