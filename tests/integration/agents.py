"""Agents as real processes on loopback addresses, and a small HTTP client for them."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
START_S = 20.0
STOP_S = 20.0
BAD_WORDS = ("Traceback", "never retrieved", "was never awaited", "was destroyed but it is pending", "RuntimeWarning")
"""What must not be written anywhere by any agent, however it is treated."""
WORKER = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0")[2:])
"""Of this process among those that share the tests."""


def own(ip: str) -> str:
    """127.0.x.y as no other process has it that shares the tests: any two of them may come to one file of tests."""
    return ip.replace("127.0.", f"127.{WORKER}.", 1)


def wait_for(ask, *, timeout_s: float = START_S, every_s: float = 0.03, what: str = "condition"):
    """What `ask` gives as soon as it is true; connection errors count as not yet, and so does what is not there yet."""
    deadline = time.monotonic() + timeout_s
    last: object = None
    while time.monotonic() < deadline:
        try:
            last = ask()
            if last:
                return last
        except (OSError, http.client.HTTPException, ValueError, LookupError) as error:
            last = error
        time.sleep(every_s)
    raise AssertionError(f"{what}: not within {timeout_s} s, last: {last!r}")


REFUSAL = re.compile(r"agent: (?:Error starting agent|fatal error, stopping): ")


class Agent:
    """One agent process; its data directory outlives it."""

    def __init__(self, folder: Path, ip: str, name: str, *arguments: str) -> None:
        self.folder, self.ip, self.name = folder, ip, name
        self.arguments = arguments
        self.data_dir = folder / name
        self.process: subprocess.Popen[bytes] | None = None
        self.module_folders: list[str] = []
        """Where else its Python finds modules."""

    @property
    def out(self) -> str:
        return (self.folder / f"{self.name}.out").read_text(errors="replace")

    @property
    def err(self) -> str:
        return (self.folder / f"{self.name}.err").read_text(errors="replace")

    def start(self, *more: str) -> Agent:
        words = [
            sys.executable, "-m", "pyconsul_agent", "agent", "-data-dir", str(self.data_dir), "-bind", self.ip,
            "-client", self.ip, "-node", self.name, "-log-level", "debug", *self.arguments, *more,
        ]  # fmt: skip
        environ = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *self.module_folders])}
        with open(self.folder / f"{self.name}.out", "ab") as out, open(self.folder / f"{self.name}.err", "ab") as err:
            self.process = subprocess.Popen(
                words, cwd=self.folder, stdout=out, stderr=err, stdin=subprocess.DEVNULL, env=environ
            )
        return self

    def wait(self, timeout_s: float = STOP_S) -> int:
        assert self.process is not None
        return self.process.wait(timeout_s)

    def signal(self, number: int) -> None:
        assert self.process is not None
        self.process.send_signal(number)

    def kill(self) -> None:
        self.signal(signal.SIGKILL)
        self.wait()

    def close(self) -> None:
        """End it whatever it does, for the end of a test."""
        if self.process is not None and self.process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                self.process.send_signal(signal.SIGCONT)
            self.process.terminate()
            try:
                self.process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
                raise AssertionError(f"{self.name} did not end at SIGTERM") from None

    def ask(self, method: str, path: str, body: bytes | None = None, *, timeout_s: float = 10.0) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection(self.ip, 8500, timeout=timeout_s)
        try:
            connection.request(method, path, body=body)
            response = connection.getresponse()
            return response.status, response.read()
        finally:
            connection.close()

    def get(self, path: str, *, timeout_s: float = 10.0) -> Any:
        """The JSON answer of a successful request. Raises OSError otherwise."""
        status, body = self.ask("GET", path, timeout_s=timeout_s)
        if status != 200:
            raise OSError(f"{status} {body[:200]!r}")
        return json.loads(body)

    def put(self, path: str, body: bytes = b"", *, timeout_s: float = 10.0) -> bool:
        """Whether the answer is 200 and `true`; every other answer is False."""
        return self.ask("PUT", path, body, timeout_s=timeout_s) == (200, b"true")

    def wait_leader(self, timeout_s: float = START_S) -> str:
        return wait_for(lambda: self.get("/v1/status/leader"), timeout_s=timeout_s, what=f"leader at {self.name}")

    def descriptors(self) -> int:
        assert self.process is not None
        return len(os.listdir(f"/proc/{self.process.pid}/fd"))

    def rss(self) -> int:
        """Resident bytes."""
        assert self.process is not None
        with open(f"/proc/{self.process.pid}/statm") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    def assert_refused(self, text: str) -> None:
        """It ends with 1 and says why in one line: on stderr, or in its log when that streams already."""
        assert self.wait() == 1
        self.assert_clean()
        logged = [line for line in self.out.splitlines() if REFUSAL.search(line)]
        told = [*self.err.strip().splitlines(), *logged]
        assert len(told) == 1, told
        assert text in told[0].replace('\\"', '"'), told

    def assert_clean(self) -> None:
        """No traceback or asyncio complaint on either stream."""
        for text in (self.out, self.err):
            for word in BAD_WORDS:
                assert word not in text, f"{self.name}: {text[max(0, text.index(word) - 500) :][:3000]}"


def dial(ip: str, port: int, timeout_s: float = 5.0) -> socket.socket:
    return socket.create_connection((ip, port), timeout=timeout_s)
