"""What the article's check needs of a place to run agents in: processes on loopback addresses, or containers.

Standard library only: `scripts/cluster` runs this with whatever Python it finds, before any dependency is installed.
"""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

REPOSITORY = Path(__file__).resolve().parents[1]
STOP_S = 10.0
"""What `docker stop` gives a container."""

IMAGE_CONFIG: dict[str, Any] = {
    "disable_update_check": True,
    "leave_on_terminate": True,
    "skip_leave_on_interrupt": False,
    "rejoin_after_leave": True,
    "log_format": "classic",
    "performance": {"raft_multiplier": 1},
}
"""What the image's configuration says and what does not depend on the place."""


class Missing(Exception):
    """Something that this place needs cannot be had; the text names it."""


@dataclass(frozen=True, slots=True)
class Ports:
    """Ports as agents see them (banner, log lines, members)."""

    server: int = 8300
    lan: int = 8301
    wan: int = 8302
    rpc: int = 8400
    http: int = 8500
    dns: int = 8600

    @classmethod
    def from_base(cls, base: int) -> Ports:
        """All ports moved by what `base` is away from 8300."""
        return cls(base, base + 1, base + 2, base + 100, base + 200, base + 300)


@dataclass(frozen=True, slots=True)
class Stopped:
    """How an agent ended."""

    seconds: float
    exit_code: int


@dataclass(frozen=True, slots=True)
class Row:
    """What `docker ps` says of a container."""

    command: str
    status: str
    ports: frozenset[str]


class Backend(Protocol):
    """A place. Nodes are known by the names they were started with."""

    ports: Ports
    """Inside."""
    public: Ports
    """Where `http`, `dns` and `rpc` of a published node are reached from here."""
    title: str

    def start(self, name: str, flags: Sequence[str], *, publish: Sequence[str] = ()) -> None:
        """Start an agent. `publish`: which of dns, rpc, http are to be reached from outside."""

    def restart(self, name: str) -> None:
        """Start a stopped agent again, with its old flags and data."""

    def ip(self, name: str) -> str:
        """Its cluster address."""

    def console(self, name: str) -> list[str]:
        """Its lines, stdout and stderr, since its last start."""

    def stop(self, name: str, signal: str) -> Stopped:
        """Ask it to end (`TERM` as docker stop does, or `INT`) and wait."""

    def kill(self, name: str) -> None:
        """End it without a word."""

    def running(self) -> list[str]:
        """Names of the agents that run."""

    def remove(self, name: str) -> None:
        """Forget it and its data."""

    def outside(self, name: str) -> str:
        """Host under which a published node's public ports are reached."""

    def members(self, name: str) -> str:
        """The output of `consul members` there."""

    def row(self, name: str) -> Row | None:
        """Its `docker ps` row, None where there is no docker."""

    def close(self) -> None:
        """End and remove everything that is left."""


def supports(interface: str) -> bool:
    """Whether this source tree has the interface (`dns`, `ipc`) at all: steps of the others are left out, by name."""
    return (REPOSITORY / "pyconsul_agent" / "interfaces" / interface / "server.py").exists()


def http(host: str, port: int, path: str, *, method: str = "GET", body: bytes | None = None) -> Any:
    """The answer's JSON (its text if it is none). Raises AssertionError with the status or the transport's error."""
    request = urllib.request.Request(f"http://{host}:{port}{path}", data=body, method=method)
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=10) as answer:
            text = answer.read().decode()
    except urllib.error.HTTPError as error:
        raise AssertionError(f"{path}: status {error.code}: {error.read(200).decode(errors='replace')}") from None
    except OSError as error:
        raise AssertionError(f"{path}: {error}") from None
    try:
        return json.loads(text)
    except ValueError:
        return text


def until(check: Callable[[], None], within_s: float, pause_s: float = 0.2) -> None:
    """Call `check` until it raises no AssertionError; the last one is raised when the time is over."""
    deadline = time.monotonic() + within_s
    while True:
        try:
            check()
            return
        except AssertionError:
            if time.monotonic() >= deadline:
                raise
        time.sleep(pause_s)
