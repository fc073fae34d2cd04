"""The agents of a recorded scenario: their configuration, ports and processes, and one HTTP exchange with them.

Every agent gets its own directory, configuration file and block of ports on loopback. Nothing here knows what the
answers should be.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import re
import shlex
import signal
import socket
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

PORTS = ("http", "server", "serf_lan", "serf_wan", "dns")
PORTS_PER_AGENT = 20
READY_TIMEOUT_S = 40.0
STOP_TIMEOUT_S = 10.0
POLL_S = 0.1

DEFAULTS: dict[str, Any] = {
    "server": True,
    "bootstrap": True,
    "datacenter": "dc1",
    "bind_addr": "127.0.0.1",
    "client_addr": "127.0.0.1",
    "log_level": "ERR",
    "disable_update_check": True,
    "disable_host_node_id": True,
    "performance": {"raft_multiplier": 1},
    "leave_on_terminate": False,
    "skip_leave_on_interrupt": True,
}

# Recorded requests hold characters that the client library would refuse to send.
http.client._contains_disallowed_url_pchar_re = re.compile("[\x00-\x20]")  # type: ignore[attr-defined]


class NotReady(Exception):
    """An agent ended, or did not become useful in time."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back. `status` is a number, or the whole status line of a raw exchange."""

    status: int | str
    headers: dict[str, str]
    body: bytes


@dataclass(frozen=True, slots=True)
class Exchange:
    """What to send. `raw` goes out as it is; `stream_s` ends an endless answer after that many seconds."""

    method: str = "GET"
    path: str = "/"
    headers: Mapping[str, str] | None = None
    body: bytes | None = None
    chunked: bool = False
    stream_s: float = 0.0
    raw: bytes | None = None
    timeout_s: float = 35.0


def combine(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """`over` laid over `base`, objects key by key; None takes a key away."""
    out = dict(base)
    for key, value in over.items():
        mine = out.get(key)
        out[key] = combine(mine, value) if isinstance(value, dict) and isinstance(mine, dict) else value
    return {key: value for key, value in out.items() if value is not None}


def fill(text: str, values: Mapping[str, Any]) -> str:
    """`${name}` and `${name+1}` replaced by what was captured; unknown names stay as they are."""

    def one(found: re.Match[str]) -> str:
        name, plus = found[1], found[2]
        if name not in values:
            return found[0]
        return str(int(values[name]) + int(plus)) if plus else str(values[name])

    return re.sub(r"\$\{([\w.]+)([+-]\d+)?\}", one, text)


class AgentProcess:
    """One agent of a scenario, started and stopped by it."""

    def __init__(self, name: str, place: int, spec: Mapping[str, Any], root: Path, port_base: int) -> None:
        self.name = name
        self.spec = spec
        self.directory = root / name
        (self.directory / "data").mkdir(parents=True)
        self.ports = {port: port_base + place * PORTS_PER_AGENT + at for at, port in enumerate(PORTS)}
        own = {
            "node_name": f"node-{name}",
            "node_id": f"{place + 1:08d}-1111-2222-3333-444444444444",
            "data_dir": str(self.directory / "data"),
            "ports": {**self.ports, "grpc": -1, "https": -1},
        }
        self._config = combine(combine(DEFAULTS, own), spec.get("config", {}))
        self._process: subprocess.Popen[bytes] | None = None
        self._log: IO[bytes] | None = None

    @property
    def address(self) -> tuple[str, int]:
        """Where its HTTP interface listens."""
        return "127.0.0.1", self.ports["http"]

    def start(self, command: str, values: Mapping[str, Any]) -> None:
        """Write its files and start it."""
        path = self.directory / "config.json"
        path.write_text(fill(json.dumps(self._config, indent=1), values))
        for name, content in self.spec.get("files", {}).items():
            (self.directory / name).write_text(fill(content, values))
        flags = [fill(flag, values) for flag in self.spec.get("flags", ())]
        self._log = (self.directory / "log").open("ab")
        self._process = subprocess.Popen(
            [*shlex.split(command), "agent", f"-config-file={path}", *flags],
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=subprocess.STDOUT,
        )

    def stop(self) -> None:
        """Terminate it, kill it if that is not enough."""
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
            try:
                self._process.wait(STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        if self._log is not None:
            self._log.close()

    def wait_ready(self, token: str) -> None:
        """Wait for a leader and for what the agent itself has to write to the catalog. Raises NotReady."""
        node = self._config["node_name"]
        wanted = self.spec.get(
            "ready", [[f"/v1/catalog/node/{node}", "consul-network-segment"], [f"/v1/health/node/{node}", "serfHealth"]]
        )
        probes = [(path, text.encode()) for path, text in wanted]
        if not self.spec.get("skip_leader"):
            probes.insert(0, ("/v1/status/leader", b":"))
        headers = {"X-Consul-Token": token} if token else {}
        deadline = time.monotonic() + READY_TIMEOUT_S
        for path, text in probes:
            while not self._shows(path, text, headers):
                if self._process is not None and self._process.poll() is not None:
                    end = (self.directory / "log").read_text(errors="replace")[-1500:]
                    raise NotReady(f"agent {self.name} ended with {self._process.returncode}: {end}")
                if time.monotonic() > deadline:
                    end = (self.directory / "log").read_text(errors="replace")[-1500:]
                    raise NotReady(f"agent {self.name}: {path} never showed {text.decode()!r}: {end}")
                time.sleep(POLL_S)

    def _shows(self, path: str, text: bytes, headers: Mapping[str, str]) -> bool:
        try:
            answer = send(self.address, Exchange(path=path, headers=headers, timeout_s=5))
        except (OSError, http.client.HTTPException):
            return False
        return answer.status == 200 and text in answer.body


def send(address: tuple[str, int], exchange: Exchange) -> Answer:
    """One exchange on a connection of its own."""
    if exchange.raw is not None:
        return _send_raw(address, exchange.raw, exchange.timeout_s)
    headers = dict(exchange.headers or {})
    body = exchange.body
    with contextlib.closing(http.client.HTTPConnection(*address, timeout=exchange.timeout_s)) as connection:
        connection.putrequest(exchange.method, exchange.path, skip_host="Host" in headers, skip_accept_encoding=True)
        for name, value in headers.items():
            connection.putheader(name, value)
        if body is not None or exchange.method in ("PUT", "POST"):
            if exchange.chunked:
                connection.putheader("Transfer-Encoding", "chunked")
            elif "Content-Length" not in headers:
                connection.putheader("Content-Length", str(len(body or b"")))
        connection.endheaders(body or None, encode_chunked=exchange.chunked and bool(body))
        response = connection.getresponse()
        data = _read_for(connection, response, exchange.stream_s) if exchange.stream_s else response.read()
        found: dict[str, str] = {}
        for name, value in response.getheaders():
            found[name] = f"{found[name]}, {value}" if name in found else value
        return Answer(response.status, found, data)


def _read_for(connection: http.client.HTTPConnection, response: http.client.HTTPResponse, span_s: float) -> bytes:
    data = b""
    end = time.monotonic() + span_s
    if connection.sock is not None:
        connection.sock.settimeout(span_s)
    with contextlib.suppress(OSError):
        while time.monotonic() < end and (piece := response.read1(65536)):
            data += piece
    return data


def _send_raw(address: tuple[str, int], data: bytes, timeout_s: float) -> Answer:
    """Bytes as they are; the answer is everything until the server closes."""
    received = b""
    with socket.create_connection(address, timeout=timeout_s) as connection:
        connection.sendall(data)
        connection.shutdown(socket.SHUT_WR)
        while piece := connection.recv(65536):
            received += piece
    head, _, body = received.partition(b"\r\n\r\n")
    first, *rest = head.decode("latin-1").split("\r\n")
    return Answer(first, dict(line.split(": ", 1) for line in rest if ": " in line), body)
