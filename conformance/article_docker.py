"""Agents as containers on the default bridge, started by the very commands of the article."""

from __future__ import annotations

import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from conformance.article_backend import Missing, Ports, Row, Stopped

LABEL = "pyconsul.article"
INSIDE = {"dns": "53/udp", "rpc": "8400", "http": "8500"}


@dataclass(slots=True)
class _Container:
    ip: str
    since: int = 0
    """Lines of its log that belong to earlier starts."""


class Docker:
    """See `article_backend.Backend`. Container, host and node have one name, as in the article."""

    title = "Docker containers"

    def __init__(
        self,
        *,
        image: str = "pyconsul",
        public: Ports | None = None,
        show: Callable[[str, str], None] | None = None,
    ) -> None:
        self.ports = Ports(dns=53)
        self.public = public or Ports()
        self._image, self._show = image, show
        self._containers: dict[str, _Container] = {}
        if self._run("info", check=False).returncode != 0:
            raise Missing("no Docker engine answers")

    @staticmethod
    def _run(*arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            ["docker", *arguments], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace",
            timeout=60, check=False, stdin=subprocess.DEVNULL,
        )  # fmt: skip
        if check and done.returncode != 0:
            raise Missing(f"docker {' '.join(arguments)}: {done.stdout.strip()}")
        return done

    def _inspect(self, name: str, template: str) -> str:
        return self._run("inspect", "-f", template, name).stdout.strip()

    def start(self, name: str, flags: Sequence[str], *, publish: Sequence[str] = ()) -> None:
        """`docker run -d`. A container of that name is removed if an earlier run of this check made it."""
        if (
            self._run("inspect", "-f", f'{{{{index .Config.Labels "{LABEL}"}}}}', name, check=False).stdout.strip()
            == "1"
        ):
            self._run("rm", "-f", "-v", name)
        maps = [word for what in publish for word in ("-p", f"{getattr(self.public, what)}:{INSIDE[what]}")]
        self._containers[name] = _Container("")  # known before it exists, so that a failed start is cleaned up too
        self._run("run", "-d", "--name", name, "--label", f"{LABEL}=1", *maps, "-h", name, self._image, *flags)
        self._containers[name].ip = self._inspect(name, "{{ .NetworkSettings.IPAddress }}")
        self._follow(name)

    def restart(self, name: str) -> None:
        container = self._containers[name]
        container.since = len(self._lines(name))
        self._run("start", name)
        container.ip = self._inspect(name, "{{ .NetworkSettings.IPAddress }}")

    def _follow(self, name: str) -> None:
        if self._show is None:
            return
        show = self._show

        def read() -> None:
            command = ["docker", "logs", "-f", name]
            with subprocess.Popen(
                command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace",
                start_new_session=True, stdin=subprocess.DEVNULL,
            ) as follower:  # fmt: skip
                assert follower.stdout is not None
                for line in follower.stdout:
                    show(name, line.rstrip("\n"))

        threading.Thread(target=read, daemon=True, name=f"console of {name}").start()

    def ip(self, name: str) -> str:
        return self._containers[name].ip

    def outside(self, name: str) -> str:
        return "127.0.0.1"

    def _lines(self, name: str) -> list[str]:
        return self._run("logs", name).stdout.splitlines()

    def console(self, name: str) -> list[str]:
        return self._lines(name)[self._containers[name].since :]

    def stop(self, name: str, signal: str) -> Stopped:
        """TERM is `docker stop` with its own 10 s; INT is what Ctrl-C in an attached terminal does."""
        began = time.monotonic()
        if signal == "TERM":
            self._run("stop", name)
        else:
            self._run("kill", "-s", signal, name)
            self._run("wait", name)
        took = time.monotonic() - began
        status, code = self._inspect(name, "{{.State.Status}} {{.State.ExitCode}}").split()
        return Stopped(took, int(code) if status == "exited" else -1)

    def kill(self, name: str) -> None:
        self._run("kill", "-s", "KILL", name)
        self._run("wait", name)

    def running(self) -> list[str]:
        names = self._run("ps", "--filter", f"label={LABEL}=1", "--format", "{{.Names}}").stdout.split()
        return [name for name in self._containers if name in names]

    def remove(self, name: str) -> None:
        self._run("rm", "-f", "-v", name)
        self._containers.pop(name, None)

    def members(self, name: str) -> str:
        done = self._run("exec", name, "consul", "members", check=False)
        assert done.returncode == 0, f"consul members: exit code {done.returncode}: {done.stdout.strip()}"
        return done.stdout

    def row(self, name: str) -> Row | None:
        text = self._run(
            "ps", "--filter", f"name=^/{name}$", "--format", "{{.Command}}\t{{.Status}}\t{{.Ports}}"
        ).stdout
        command, status, ports = text.strip("\n").split("\t")
        return Row(command, status, frozenset(port.strip() for port in ports.split(",") if port.strip()))

    def close(self) -> None:
        for name in list(self._containers):
            self.remove(name)
