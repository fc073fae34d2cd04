"""Agents as processes of this machine, each on a loopback address of its own."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from conformance.article_backend import IMAGE_CONFIG, REPOSITORY, Missing, Ports, Row, Stopped

OVERTIME_S = 30.0
"""How long a stop may take before the process is killed."""

CONSOLE_LINES_MAX = 20_000
"""Lines kept per agent for the check."""


@dataclass(slots=True)
class _Agent:
    ip: str
    command: list[str]
    process: subprocess.Popen[str] | None = None
    reader: threading.Thread | None = None
    lines: list[str] = field(default_factory=list)


class Loopback:
    """See `article_backend.Backend`. Server N lives on `<net>.<N + 1>`, anything else on `<net>.1`."""

    title = "processes on loopback addresses"

    def __init__(
        self,
        *,
        python: str = sys.executable,
        net: str = "127.0.0",
        ports: Ports | None = None,
        data: Path | None = None,
        show: Callable[[str, str], None] = lambda name, line: None,
    ) -> None:
        self.ports = self.public = ports or Ports()
        # Agents run in another folder, so a relative path would not be found there.
        self._python = str(Path(python).absolute()) if "/" in python else python
        self._net, self._show = net, show
        self._own_data = data is None
        self._data = Path(tempfile.mkdtemp(prefix="pyconsul-")) if data is None else data
        self._data.mkdir(parents=True, exist_ok=True)
        self._agents: dict[str, _Agent] = {}

    @property
    def data(self) -> Path:
        """Where state and logs are."""
        return self._data

    def start(self, name: str, flags: Sequence[str], *, publish: Sequence[str] = ()) -> None:
        """`publish` turns the legacy RPC on when it names it; HTTP and DNS always listen on the agent's own address."""
        number = int(name.removeprefix("server")) + 1 if name.startswith("server") else 1
        ip = f"{self._net}.{number}"
        ports = self.ports
        config = dict(IMAGE_CONFIG)
        config["ports"] = {"server": ports.server, "serf_lan": ports.lan, "serf_wan": ports.wan,
                           "http": ports.http, "dns": ports.dns,
                           "rpc": ports.rpc if "rpc" in publish else -1}  # fmt: skip
        directory = self._data / name
        directory.mkdir(parents=True, exist_ok=True)
        file = self._data / f"{name}.json"
        file.write_text(json.dumps(config))
        command = [self._python, "-u", "-m", "pyconsul_agent", "agent", f"-config-file={file}", "-node", name,
                   "-data-dir", str(directory), "-bind", ip, "-client", ip, *flags]  # fmt: skip
        self._agents[name] = _Agent(ip, command)
        self._launch(name)

    def restart(self, name: str) -> None:
        self._launch(name)

    def _launch(self, name: str) -> None:
        agent = self._agents[name]
        environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "PYTHONUNBUFFERED": "1"}
        # A session of its own: Ctrl-C on the terminal is ours to hand on, in order.
        agent.process = subprocess.Popen(
            agent.command, cwd=self._data, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, text=True, errors="replace", start_new_session=True,
        )  # fmt: skip
        agent.lines = []
        assert agent.process.stdout is not None
        agent.reader = threading.Thread(
            target=self._read, args=(name, agent.process.stdout, agent.lines), daemon=True, name=f"console of {name}"
        )
        agent.reader.start()

    def _read(self, name: str, console: IO[str], lines: list[str]) -> None:
        with (self._data / f"{name}.log").open("a", encoding="utf-8") as file:
            for line in console:
                text = line.rstrip("\n")
                if len(lines) < CONSOLE_LINES_MAX:
                    lines.append(text)
                file.write(line)
                file.flush()
                self._show(name, text)

    def process(self, name: str) -> subprocess.Popen[str]:
        """The process of an agent that was started."""
        process = self._agents[name].process
        assert process is not None
        return process

    def running(self) -> list[str]:
        """Names of the agents that run, in the order of their first start."""
        return [name for name, agent in self._agents.items() if agent.process and agent.process.poll() is None]

    def ip(self, name: str) -> str:
        return self._agents[name].ip

    def outside(self, name: str) -> str:
        return self._agents[name].ip

    def console(self, name: str) -> list[str]:
        return list(self._agents[name].lines)

    def stop(self, name: str, signal_name: str) -> Stopped:
        process, began = self.process(name), time.monotonic()
        process.send_signal(getattr(signal, f"SIG{signal_name}"))
        try:
            code = process.wait(OVERTIME_S)
        except subprocess.TimeoutExpired:
            process.kill()
            code = process.wait()
        took = time.monotonic() - began
        reader = self._agents[name].reader
        if reader is not None:
            reader.join(2)
        return Stopped(took, code)

    def kill(self, name: str) -> None:
        self.process(name).kill()
        self.process(name).wait()

    def remove(self, name: str) -> None:
        if self.process(name).poll() is None:
            self.kill(name)
        del self._agents[name]
        shutil.rmtree(self._data / name, ignore_errors=True)

    def members(self, name: str) -> str:
        address = f"{self.ip(name)}:{self.ports.http}"
        command = [self._python, "-m", "pyconsul_agent", "members", f"-http-addr={address}"]
        done = subprocess.run(
            command, cwd=REPOSITORY, capture_output=True, text=True, timeout=30, check=False, stdin=subprocess.DEVNULL
        )
        assert done.returncode == 0, f"consul members: exit code {done.returncode}: {done.stderr.strip()}"
        return done.stdout

    def row(self, name: str) -> Row | None:
        return None

    def close(self) -> None:
        for name in self.running():
            self.kill(name)
        if self._own_data:
            shutil.rmtree(self._data, ignore_errors=True)


def require_free(net: str, ports: Ports, numbers: Sequence[int]) -> None:
    """Raise Missing when an address of the cluster is taken."""
    import socket

    for number in numbers:
        for port in (ports.server, ports.http, ports.lan):
            with socket.socket() as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                try:
                    probe.bind((f"{net}.{number}", port))
                except OSError as error:
                    raise Missing(f"{net}.{number}:{port} cannot be used: {error.strerror}") from None
