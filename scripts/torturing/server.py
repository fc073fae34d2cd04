"""One server as a process in its namespace: ours, or a real Consul. Its data directory outlives it."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import signal
import struct
import subprocess
import sys
import time
from pathlib import Path

from scripts.torturing.ask import Answer, NoAnswer, ask
from scripts.torturing.net import Net, run

ROOT = Path(__file__).resolve().parents[2]
BAD_WORDS = ("Traceback", "never retrieved", "was never awaited", "was destroyed but it is pending", "RuntimeWarning")
"""What no server of ours may write, however it is treated."""
SMALL_DISK = "64m"
STOP_S = 40.0
SETTINGS = (
    'performance { raft_multiplier = 1 } raft_snapshot_threshold = 1024 raft_snapshot_interval = "10s"'
    " raft_trailing_logs = 256 disable_update_check = true"
    " limits { http_max_conns_per_client = 1000 }"
    ' autopilot { server_stabilization_time = "2s" cleanup_dead_servers = false }'
)
"""Snapshots and compaction come often, so that servers that return need both ways to catch up. A dead server is not
removed: that would end its sessions before their TTL, as in Consul, and nobody outside could tell it from a fault."""


class Server:
    """`number` counts from 1; `real` is the path of a Consul, "" for ours."""

    def __init__(self, net: Net, folder: Path, number: int, *, real: str = "") -> None:
        self.net, self.number, self.real = net, number, real
        self.name = f"s{number}"
        self.ip = net.ips[number]
        self.folder = folder / self.name
        self.data = self.folder / "data"
        self.log_path = folder / f"{self.name}.log"
        self.process: subprocess.Popen[bytes] | None = None
        self.starts: list[float] = []
        """Monotonic seconds."""
        self.has_small_disk = False
        self._clock = self.folder / "clock"

    def prepare(self, *, small_disk: bool) -> None:
        """Make its places. With a small disk its data lies on a tmpfs that `fill` can fill."""
        shutil.rmtree(self.folder, ignore_errors=True)  # of an earlier run
        self.log_path.unlink(missing_ok=True)
        self.data.mkdir(parents=True)
        self.has_small_disk = small_disk
        if small_disk:
            run("mount", "-t", "tmpfs", "-o", f"size={SMALL_DISK}", "none", str(self.data))
        if not self.real:
            self._clock.write_bytes(struct.pack("d", 0.0))

    # --- its life ---------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Start the process; it serves some time later."""
        program = [self.real] if self.real else [sys.executable, "-m", "pyconsul_agent"]
        joins = [f"-retry-join={ip}" for ip in self.net.ips.values() if ip != self.ip]
        words = [
            *self.net.enter(self.number), *program, "agent", "-server", "-bootstrap-expect=3", f"-node={self.name}",
            f"-bind={self.ip}", f"-client={self.ip}", f"-data-dir={self.data}", "-retry-interval=1s", *joins,
            "-log-level=info", f"-hcl={SETTINGS}",
        ]  # fmt: skip
        environ = {**os.environ, "PYTHONPATH": str(ROOT)}
        if not self.real:
            environ |= {"LD_PRELOAD": str(self.folder.parent / "clock.so"), "TORTURE_CLOCK": str(self._clock)}
        with self.log_path.open("ab") as log:
            log.write(f"=== start at {time.monotonic():.3f}\n".encode())
            log.flush()
            self.process = subprocess.Popen(
                words, cwd=self.folder, stdout=log, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, env=environ
            )
        self.starts.append(time.monotonic())

    @property
    def lives(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def kill(self) -> None:
        """kill -9, and wait for its end. Idempotent."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()

    def pause(self) -> None:
        self._signal(signal.SIGSTOP)

    def go_on(self) -> None:
        self._signal(signal.SIGCONT)

    def _signal(self, number: int) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(number)

    async def stop(self) -> int | None:
        """Ask it to end; its exit code, None when it did not end in time (it is killed then)."""
        self._signal(signal.SIGTERM)
        return await self.ended(STOP_S)

    async def ended(self, timeout_s: float) -> int | None:
        """Its exit code once it has ended by itself, None when it has not in that time."""
        assert self.process is not None
        until = time.monotonic() + timeout_s
        while self.process.poll() is None and time.monotonic() < until:
            await asyncio.sleep(0.05)
        return self.process.poll()

    # --- its surroundings -------------------------------------------------------------------------------------------

    def set_clock(self, offset_s: float) -> None:
        """Its wall clock is that much ahead, from now on. Of ours only: Go reads the clock past every library."""
        with self._clock.open("r+b") as file:
            file.write(struct.pack("d", offset_s))

    def fill(self) -> None:
        """No byte is free on its disk any more."""
        assert self.has_small_disk, "that would fill the machine's disk"
        ballast = os.open(self.data / "ballast", os.O_WRONLY | os.O_CREAT)
        try:
            for size in (1 << 20, 4096, 1):
                try:
                    while True:
                        os.write(ballast, bytes(size))
                except OSError:
                    continue
        finally:
            os.close(ballast)

    def free(self) -> None:
        """Undo `fill`."""
        (self.data / "ballast").unlink(missing_ok=True)

    def wipe(self) -> None:
        """Everything that it knew, its name for raft included."""
        for each in self.data.iterdir():
            shutil.rmtree(each) if each.is_dir() else each.unlink()

    # --- asking it --------------------------------------------------------------------------------------------------

    async def ask(self, method: str, path: str, body: bytes = b"", *, timeout_s: float = 10.0) -> Answer:
        """Raises NoAnswer."""
        return await ask(self.ip, method, path, body, timeout_s=timeout_s)

    async def get(self, path: str, *, timeout_s: float = 10.0) -> object:
        """JSON of a 200. Raises NoAnswer for everything else."""
        answer = await self.ask("GET", path, timeout_s=timeout_s)
        if answer.status != 200:
            raise NoAnswer(f"{path}: {answer.status} {answer.body[:200]!r}", sent=True)
        return answer.json()

    def node_id(self) -> str:
        """As raft knows it."""
        return (self.data / "node-id").read_text().strip()

    def log_since_start(self) -> str:
        """What this life of it has printed."""
        return self.log_path.read_text(errors="replace").rpartition("=== start at ")[2].partition("\n")[2]

    def bad_lines(self) -> list[str]:
        """Lines that must not be there, each with what follows. Of ours only."""
        if self.real:
            return []
        text = self.log_path.read_text(errors="replace")
        found = [match.start() for word in BAD_WORDS for match in re.finditer(re.escape(word), text)]
        return [text[max(0, at - 300) : at + 2500] for at in sorted(found)[:3]]
