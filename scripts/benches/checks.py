"""A thousand checks on one client agent: HTTP, TCP and scripts in equal parts, every 10 s.

    scripts/bench checks [--checks 1000] [--seconds 60]

A server and a client agent of this tree; the checks' targets are here and note when they are asked. Printed is how late
the client's event loop was (measured inside it), what it used of one processor (its own, and its scripts'), how many
runs of checks were missed or late, and whether anti-entropy wrote to the catalog although nothing had changed. Absolute
figures of a machine that others use too are upper bounds. The exit code is 1 when a promise is broken.
"""

from __future__ import annotations

import argparse
import asyncio
import http.client
import itertools
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TICKS = os.sysconf("SC_CLK_TCK")
LAG_P99_S_MAX = 0.05
CPU_SHARE_MAX = 0.6
LATE_S = 1.0
"""A run that begins this much after its interval is late; a whole interval after, it is missed."""

SAMPLER = """
import asyncio, json, sys, time
from pyconsul_agent.app import process
from pyconsul_agent.cli.main import main
inner = process._run
async def sampled(*arguments):
    samples = []
    def queued():
        with open("/proc/thread-self/schedstat") as file:
            return int(file.read().split()[1]) / 1e9
    async def sample():
        while True:
            began, waited = time.monotonic(), queued()
            await asyncio.sleep(0.01)
            samples.append((began, time.monotonic() - began - 0.01, queued() - waited))
    task = asyncio.create_task(sample())
    try:
        return await inner(*arguments)
    finally:
        task.cancel()
        with open(sys.argv.pop(), "w") as file:
            json.dump(samples, file)
process._run = sampled
path = sys.argv.pop(1)
arguments = sys.argv[1:]
sys.argv.append(path)
sys.exit(main(arguments))
"""
"""Runs an agent and notes how late its loop wakes from sleeps of 10 ms, and for how much of that it was ready to run
but others had the processors.
"""


class Targets:
    """What HTTP and TCP checks ask: notes when each is asked. Lives on a thread of its own."""

    def __init__(self, ports: int) -> None:
        self.asked: dict[str, list[float]] = defaultdict(list)
        self.http_port = 0
        self.tcp_ports: list[int] = []
        ready = threading.Event()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, args=(ports, ready), daemon=True)
        self._thread.start()
        ready.wait()

    def _run(self, ports: int, ready: threading.Event) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_until_complete(self._listen(ports))
        ready.set()
        self._loop.run_forever()

    async def _listen(self, ports: int) -> None:
        asked = self.asked

        class HTTP(asyncio.Protocol):
            def connection_made(self, transport: asyncio.BaseTransport) -> None:
                self.transport = transport

            def data_received(self, data: bytes) -> None:
                asked[data.split(b" ", 2)[1].decode()].append(time.monotonic())
                assert isinstance(self.transport, asyncio.Transport)
                self.transport.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok")
                self.transport.close()

        def tcp(port: int) -> type[asyncio.Protocol]:
            class TCP(asyncio.Protocol):
                def connection_made(self, transport: asyncio.BaseTransport) -> None:
                    asked[f"tcp {port}"].append(time.monotonic())

            return TCP

        server = await self._loop.create_server(HTTP, "127.0.0.1", 0)
        self.http_port = server.sockets[0].getsockname()[1]
        for _ in range(ports):
            made: list[type[asyncio.Protocol]] = []
            server = await self._loop.create_server(lambda made=made: made[0](), "127.0.0.1", 0)  # type: ignore[misc]
            port = server.sockets[0].getsockname()[1]
            made.append(tcp(port))
            self.tcp_ports.append(port)

    def close(self) -> None:
        """End the thread."""
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()


def configuration(count: int, targets: Targets, folder: Path, interval_s: int) -> dict[str, object]:
    """The checks, one third of each kind; a script leaves a line with the time."""
    checks: list[dict[str, object]] = []
    for number in range(count):
        check: dict[str, object] = {"id": f"c{number}", "name": f"c{number}", "interval": f"{interval_s}s"}
        if number % 3 == 0:
            check["http"] = f"http://127.0.0.1:{targets.http_port}/{number}"
        elif number % 3 == 1:
            check["tcp"] = f"127.0.0.1:{targets.tcp_ports[number // 3]}"
        else:
            check["args"] = ["/bin/sh", "-c", f"read up rest < /proc/uptime; echo $up >> {folder}/runs.{number}"]
        checks.append(check)
    return {"checks": checks, "enable_local_script_checks": True}


def agent(folder: Path, address: str, flags: list[str], *, lag: Path | None = None) -> subprocess.Popen[bytes]:
    """Start an agent of this tree."""
    program = ["-c", SAMPLER, str(lag)] if lag else ["-m", "pyconsul_agent"]
    name = address.rpartition(".")[2]
    with (folder / f"log.{name}").open("wb") as log:
        return subprocess.Popen(
            [sys.executable, *program, "agent", f"-node=n{name}", f"-bind={address}", f"-client={address}",
             f"-data-dir={folder}/data.{name}", *flags],
            cwd=ROOT, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT,
        )  # fmt: skip


def ask(address: str, path: str) -> tuple[int, str, bytes]:
    """(status, X-Consul-Index, body) of a GET; status 0 while nobody answers."""
    connection = http.client.HTTPConnection(address, 8500, timeout=5)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, answer.headers.get("X-Consul-Index", ""), answer.read()
    except OSError:
        return 0, "", b""
    finally:
        connection.close()


def until(look: Callable[[], bool], timeout_s: float, what: str) -> None:
    """Wait until `look` says so."""
    end = time.monotonic() + timeout_s
    while not look():
        if time.monotonic() > end:
            raise TimeoutError(what)
        time.sleep(0.2)


def processor_s(pid: int) -> tuple[float, float]:
    """Processor seconds of a process, and of its ended children."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS, (int(fields[13]) + int(fields[14])) / TICKS


def passing(address: str, node: str) -> int:
    """How many checks of the node pass in the catalog."""
    status, _, body = ask(address, f"/v1/health/node/{node}")
    return sum(check["Status"] == "passing" for check in json.loads(body)) if status == 200 else 0


def gaps(runs: dict[str, list[float]], begin: float, end: float, interval_s: float) -> tuple[list[float], list[str]]:
    """How late each run began beyond its interval, and the checks that missed one."""
    late, missed = [], []
    for name, times in runs.items():
        inside = [moment for moment in times if begin <= moment <= end]
        if not inside or inside[0] - begin > interval_s + LATE_S or end - inside[-1] > interval_s + LATE_S:
            missed.append(name)
        for before, after in itertools.pairwise(inside):
            late.append(after - before - interval_s)
            if late[-1] > interval_s:
                missed.append(name)
    return late, missed


def measure(chosen: argparse.Namespace, folder: Path) -> bool:
    """Run it all; whether every promise was kept."""
    server_at, client_at = f"{chosen.net}.11", f"{chosen.net}.12"
    targets = Targets(chosen.checks // 3 + 1)
    (folder / "checks.json").write_text(json.dumps(configuration(chosen.checks, targets, folder, chosen.interval)))
    processes = [agent(folder, server_at, ["-server", "-bootstrap"])]
    try:
        until(lambda: b":" in ask(server_at, "/v1/status/leader")[2], 30, "no leader")
        flags = [f"-retry-join={server_at}", "-retry-interval=1s", f"-config-file={folder}/checks.json"]
        client = agent(folder, client_at, flags, lag=folder / "lag.json")
        processes.append(client)
        wanted = chosen.checks + 1  # serfHealth
        until(lambda: passing(server_at, "n12") == wanted, 60 + 3 * chosen.interval, "not all checks pass")
        time.sleep(2)
        index = ask(server_at, "/v1/health/node/n12")[1]
        used, began = processor_s(client.pid), time.monotonic()
        time.sleep(chosen.seconds)
        after, ended = processor_s(client.pid), time.monotonic()
        index_after = ask(server_at, "/v1/health/node/n12")[1]
        client.send_signal(signal.SIGTERM)
        client.wait(30)
    except BaseException:
        for log in sorted(folder.glob("log.*")):
            print(log.name, log.read_text(errors="replace")[-2000:], sep="\n", file=sys.stderr)
        raise
    finally:
        for process in processes:
            process.kill()
            process.wait()
        targets.close()
    runs = dict(targets.asked)
    offset = time.monotonic() - time.clock_gettime(time.CLOCK_BOOTTIME)
    for file in folder.glob("runs.*"):
        runs[file.name] = [float(line) + offset for line in file.read_text().split()]
    samples = json.loads((folder / "lag.json").read_text())
    samples = [(lag, max(0.0, lag - queued)) for moment, lag, queued in samples if began <= moment <= ended]
    lags, own_lags = [lag for lag, _ in samples], [lag for _, lag in samples]
    seconds = ended - began
    own, children = ((b - a) / seconds for a, b in zip(used, after, strict=True))
    late, missed = gaps(runs, began, ended, chosen.interval)
    p99 = statistics.quantiles(own_lags, n=100)[98]
    print(f"checks: {chosen.checks} every {chosen.interval} s, {seconds:.0f} s, {len(runs)} targets asked")
    for name, these in (("loop lag", lags), ("without waiting for a processor", own_lags)):
        high, most = statistics.quantiles(these, n=100)[98] * 1e3, max(these) * 1e3
        print(f"  {name}: median {statistics.median(these) * 1e3:.1f} ms, p99 {high:.1f} ms, max {most:.1f} ms")
    print(f"  processor: {own:.0%} of one, scripts {children:.0%}")
    behind = statistics.quantiles(late, n=100)[98] * 1e3
    print(f"  runs: {len(late)}, p99 of beginning after the interval {behind:.0f} ms, missed {len(missed)}")
    print(f"  catalog index: {index} before, {index_after} after")
    kept = {
        f"own loop lag p99 below {LAG_P99_S_MAX * 1e3:.0f} ms": p99 < LAG_P99_S_MAX,
        f"at most {CPU_SHARE_MAX:.0%} of one processor": own <= CPU_SHARE_MAX,
        "no missed interval": not missed and len(runs) == chosen.checks,
        "anti-entropy wrote nothing": index == index_after,
    }
    for promise, true in kept.items():
        print(f"  {'ok' if true else 'BROKEN'}: {promise}")
    return all(kept.values())


def main(arguments: list[str]) -> int:
    """Measure once."""
    parser = argparse.ArgumentParser(
        prog="scripts/bench checks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--checks", type=int, default=1000, help="how many (1000)")
    parser.add_argument("--interval", type=int, default=10, help="seconds between runs of each (10)")
    parser.add_argument("--seconds", type=float, default=60, help="length of the measurement (60)")
    parser.add_argument("--net", default="127.0.61", help="agents live on NET.11 and NET.12 (127.0.61)")
    chosen = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="bench-", dir="/var/tmp") as scratch:
        return 0 if measure(chosen, Path(scratch)) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
