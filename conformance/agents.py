"""Agents of either make as processes on loopback addresses, and how their answers are looked at.

An agent has an address of its own (127.0.1.N) and Consul's usual ports there, so that clusters of ours and of real
agents are written alike. Only loopback is used. Nothing here knows what is checked.
"""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
HTTP_PORT, DNS_PORT, LAN_PORT, SERVER_PORT = 8500, 8600, 8301, 8300
HTTP_TIMEOUT_S = 20.0
STOP_TIMEOUT_S = 20.0
POLL_S = 0.2
OURS = (sys.executable, "-m", "pyconsul_agent")
LINES_SHOWN = 25
NETS_APART = 60
"""So far is the next net to try, beyond those that other programs have by default."""


@dataclass
class Answer:
    """What came over HTTP. `body` is parsed JSON where it is JSON, else text."""

    status: int
    body: Any
    headers: dict[str, str]

    @property
    def index(self) -> int:
        """The index for the next blocking query."""
        return int(self.headers.get("x-consul-index", 0))


class Agent:
    """A running agent."""

    def __init__(self, program: tuple[str, ...], name: str, address: str, folder: Path, *arguments: str) -> None:
        self.program, self.name, self.address = program, name, address
        self.log_path = folder / f"{name}.log"
        data = folder / f"data-{name}"
        self._log = self.log_path.open("ab")
        self.process = subprocess.Popen(
            [*program, "agent", f"-node={name}", f"-bind={address}", f"-client={address}", f"-data-dir={data}",
             "-log-level=debug", "-disable-host-node-id", *arguments],
            stdout=self._log, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, cwd=ROOT,
        )  # fmt: skip

    def request(self, method: str, path: str, body: bytes | object = b"", **headers: str) -> Answer:
        """Any HTTP call. A body that is no bytes is sent as JSON. Raises OSError when there is no answer."""
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        connection = http.client.HTTPConnection(self.address, HTTP_PORT, timeout=HTTP_TIMEOUT_S)
        try:
            connection.request(method, path, body=data or None, headers=headers)
            response = connection.getresponse()
            text = response.read()
        except http.client.HTTPException as error:
            raise OSError(str(error)) from error
        finally:
            connection.close()
        try:
            parsed = json.loads(text)
        except ValueError:
            parsed = text.decode(errors="replace")
        return Answer(response.status, parsed, {k.lower(): v for k, v in response.getheaders()})

    def get(self, path: str) -> Any:
        """The body of a GET; None when there is no answer or no success."""
        try:
            answer = self.request("GET", path)
        except OSError:
            return None
        return answer.body if answer.status == 200 else None

    def put(self, path: str, body: bytes | object = b"") -> Any:
        """The body of a PUT; the whole answer's text when it is no success."""
        answer = self.request("PUT", path, body)
        return answer.body if answer.status == 200 else f"HTTP {answer.status}: {answer.body}"

    def command(self, program: tuple[str, ...], *arguments: str, timeout_s: float = 30.0) -> tuple[int, str]:
        """(exit code, output) of a command line of `program` against this agent's HTTP API."""
        done = subprocess.run(
            [*program, *arguments],
            capture_output=True, text=True, timeout=timeout_s, stdin=subprocess.DEVNULL, cwd=ROOT,
            env=os.environ | {"CONSUL_HTTP_ADDR": f"{self.address}:{HTTP_PORT}"},
        )  # fmt: skip
        return done.returncode, done.stdout + done.stderr

    def log_lines(self) -> list[str]:
        """What it printed."""
        return self.log_path.read_text(errors="replace").splitlines()

    def interrupt(self) -> int | None:
        """Ask it to end as Ctrl-C does; the exit code, None if it did not end in time."""
        self.process.send_signal(signal.SIGINT)
        return self.wait()

    def wait(self) -> int | None:
        """Its exit code, None if it does not end in time."""
        try:
            return self.process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            return None

    def kill(self) -> None:
        """End it at once. Idempotent."""
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self._log.close()


@dataclass
class Checks:
    """Results so far; each is printed as it comes."""

    passed: int = 0
    failed: int = 0
    skipped: int = 0

    def note(self, step: str, good: object, detail: object = "") -> bool:
        """Count a step. `detail` is shown when it failed."""
        if good:
            self.passed += 1
        else:
            self.failed += 1
        line = f"{'ok  ' if good else 'FAIL'} {step}" + (f": {detail}"[:1500] if not good else "")
        print(f"{line}\n", end="", flush=True)  # in one piece: others may print at the same time
        return bool(good)

    def until(self, step: str, look: Callable[[], Any], timeout_s: float = 15.0, detail: Any = None) -> Any:
        """Count whether `look` becomes true in time; what it returned last."""
        result = until(look, timeout_s)
        self.note(step, result, detail() if callable(detail) else f"last: {result!r}, after {timeout_s:.0f} s")
        return result

    def equal(self, step: str, ours: object, wanted: object) -> None:
        """Count whether both are equal."""
        self.note(step, ours == wanted, f"{ours!r} is not {wanted!r}")

    def serves(self, agent: Agent, path: str) -> bool:
        """Whether an agent has this endpoint; what needs one that it lacks is a skip, named here."""
        if agent.request("GET", path).status != 404:
            return True
        self.skipped += 1
        print(f"skip {agent.name} does not serve {path} yet", flush=True)
        return False

    def close(self) -> int:
        """Print the closing line; the exit code."""
        skipped = f", {self.skipped} skipped" if self.skipped else ""
        print(f"{self.passed} passed, {self.failed} failed{skipped}", flush=True)
        return 1 if self.failed or not self.passed else 0


def until(look: Callable[[], Any], timeout_s: float) -> Any:
    """What `look` returned last: the first true value, or what it was when time was up."""
    end = time.monotonic() + timeout_s
    while True:
        result = look()
        if result or time.monotonic() >= end:
            return result
        time.sleep(POLL_S)


@contextmanager
def claimed_net(first: str) -> Iterator[str]:
    """The first three parts of loopback addresses that no other program of these uses: `first`, or the next such net.

    A bound port at the net's end says to others that it is taken; the system releases it with the process.
    """
    begin, _, third = first.rpartition(".")
    for number in range(int(third), 255, NETS_APART):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as claim:
            try:
                claim.bind((f"{begin}.{number}.254", LAN_PORT))
            except OSError:
                continue
            yield f"{begin}.{number}"
            return
    raise OSError(f"every net from {first} on is in use")


@contextmanager
def cluster(checks: Checks) -> Iterator[Callable[..., Agent]]:
    """A function that starts agents; they and their files are gone at the end, logs are shown after a failure."""
    failed_before = checks.failed
    agents: list[Agent] = []
    with tempfile.TemporaryDirectory(prefix="conformance-") as folder:

        def start(program: tuple[str, ...], name: str, address: str, *arguments: str) -> Agent:
            agent = Agent(program, name, address, Path(folder), *arguments)
            agents.append(agent)
            return agent

        try:
            yield start
        except Exception as error:
            checks.note("the steps reached their end", False, f"{type(error).__name__}: {error}")
            raise
        finally:
            for agent in agents:
                agent.kill()
            if checks.failed > failed_before:
                for agent in {agent.log_path: agent for agent in agents}.values():
                    show_log(agent)


def show_log(agent: Agent) -> None:
    """The last lines, and all warnings and errors before them."""
    print(f"--- {agent.name}", file=sys.stderr)
    lines = agent.log_lines()
    loud = [line for line in lines[:-LINES_SHOWN] if "[WARN]" in line or "[ERROR]" in line]
    print(*loud[-LINES_SHOWN:], *lines[-LINES_SHOWN:], sep="\n", file=sys.stderr)


def leader_known(agent: Agent) -> Any:
    """Its answer to who leads, None or "" without one."""
    return agent.get("/v1/status/leader")


def member_status(agent: Agent, name: str) -> str:
    """How an agent sees a member: alive, leaving, left, failed or unknown."""
    words = {1: "alive", 2: "leaving", 3: "left", 4: "failed"}
    for member in agent.get("/v1/agent/members") or ():
        if member["Name"] == name:
            return words.get(member["Status"], "unknown")
    return "unknown"


def serf_health(agent: Agent, node: str) -> str:
    """The status of a node's serfHealth check in the catalog, "" when it is not there."""
    for check in agent.get(f"/v1/health/node/{node}") or ():
        if check["CheckID"] == "serfHealth":
            return str(check["Status"])
    return ""
