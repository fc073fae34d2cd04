"""Snapshots of a large state: save, restore, restart, memory, and how long the loop stood still meanwhile.

    scripts/bench snapshot [--keys 100000] [--value-bytes 100] [--rounds 3] [--check]
    python -m scripts.benches.snapshot ...

One server of ours on loopback, its data directory on disk. The state comes in as an archive made here, so loading is
the restore. While something runs, a client asks `/v1/status/leader` all the time: its longest wait is the stall. With
`--check` the bounds of docs/reliability.md decide the exit code.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pyconsul_agent.structs.kv import DirEntry
from pyconsul_agent.structs.raft import Configuration, Server, SnapshotMeta
from pyconsul_agent.wire.msgpack import encode, pack
from pyconsul_agent.wire.snapshot import write_archive

ROOT = Path(__file__).resolve().parents[2]
HTTP_PORT = 8500
START_TIMEOUT_S = 60.0
PAUSE_S = 0.002
BOUNDS = {
    "save s": 2.0, "save stall ms": 50.0, "restore s": 5.0, "restore stall ms": 50.0, "restart http s": 0.5,
    "restart data s": 3.0, "RSS MiB": 200.0,
}  # fmt: skip


def archive_of(keys: int, value_bytes: int) -> bytes:
    """An archive with so many keys."""
    value = b"v" * value_bytes
    parts = [pack({"LastIndex": keys + 10})]
    for number in range(keys):
        row = DirEntry(key=b"bench/%07d" % number, value=value, create_index=number + 10, modify_index=number + 10)
        parts.append(b"\x02" + encode(row))
    parts.append(b"\x10" + pack({"Key": "kvs", "Value": keys + 10}))
    parts.append(b"\x1d" + pack({"ChunkMap": {}}))
    state = b"".join(parts)
    meta = SnapshotMeta(
        id=f"2-{keys + 10}-1", index=keys + 10, term=2, size=len(state), configuration_index=1,
        configuration=Configuration(servers=(Server(id="a", address="127.0.0.1:8300"),)),
    )  # fmt: skip
    return b"".join(write_archive(meta, [state], 1))


class Agent:
    """One server."""

    def __init__(self, address: str, folder: str, python: str) -> None:
        self.address = address
        self._folder = folder
        self._python = python
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it; does not wait."""
        log = open(os.path.join(self._folder, "log"), "ab")  # noqa: SIM115 -- the child's
        self.process = subprocess.Popen(
            [self._python, "-m", "pyconsul_agent", "agent", "-server", "-bootstrap-expect=1", "-node=bench",
             f"-bind={self.address}", f"-client={self.address}", f"-data-dir={self._folder}/data",
             "-hcl=performance { raft_multiplier = 1 }"],
            cwd=ROOT, stdout=log, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
        )  # fmt: skip
        log.close()

    def stop(self) -> None:
        """Kill it."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()

    def request(self, method: str, path: str, body: bytes = b"", timeout_s: float = 60.0) -> tuple[int, bytes]:
        """Status and body. Raises OSError when there is no answer."""
        connection = http.client.HTTPConnection(self.address, HTTP_PORT, timeout=timeout_s)
        try:
            connection.request(method, path, body=body)
            answer = connection.getresponse()
            return answer.status, answer.read()
        except http.client.HTTPException as error:
            raise OSError(str(error)) from error
        finally:
            connection.close()

    def until(self, method: str, path: str, body: bytes = b"") -> None:
        """Ask until it is 200."""
        end = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < end:
            try:
                if self.request(method, path, body)[0] == 200:
                    return
            except OSError:
                pass
            time.sleep(0.005)
        raise TimeoutError(path)

    def until_listening(self) -> None:
        """Ask until HTTP answers anything."""
        end = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < end:
            try:
                self.request("GET", "/v1/status/leader")
            except OSError:
                time.sleep(0.005)
            else:
                return
        raise TimeoutError("HTTP")

    def cpu_s(self) -> float:
        """Processor time so far: what does not depend on who else runs here."""
        assert self.process is not None
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def memory_mib(self, name: str = "VmRSS") -> float:
        """Resident memory."""
        assert self.process is not None
        text = Path(f"/proc/{self.process.pid}/status").read_text()
        return next(int(line.split()[1]) for line in text.splitlines() if line.startswith(f"{name}:")) / 1024


@contextmanager
def stalls(agent: Agent) -> Iterator[list[float]]:
    """Milliseconds of the requests made while the block runs, by a process of its own."""
    waits: list[float] = []
    code = (
        "import http.client,sys,time,select\n"
        f"c=http.client.HTTPConnection({agent.address!r},{HTTP_PORT})\n"
        "w=[]\n"
        "print('go',flush=True)\n"
        "while not select.select([sys.stdin],[],[],0)[0]:\n"
        "    t=time.perf_counter();c.request('GET','/v1/status/leader');c.getresponse().read()\n"
        f"    w.append((time.perf_counter()-t)*1000);time.sleep({PAUSE_S})\n"
        "print(*w)\n"
    )
    prober = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert prober.stdout is not None
    prober.stdout.readline()
    try:
        yield waits
    finally:
        out, _ = prober.communicate("stop")
        waits += [float(word) for word in out.split()]


def measured(agent: Agent, archive: bytes) -> dict[str, float]:
    """One round on a running server."""
    found: dict[str, float] = {}
    with stalls(agent) as waits:
        began, cpu = time.monotonic(), agent.cpu_s()
        status, text = agent.request("PUT", "/v1/snapshot", archive)
        found["restore s"], found["restore cpu s"] = time.monotonic() - began, agent.cpu_s() - cpu
    if status != 200:
        raise RuntimeError(f"restore: {status} {text!r}")
    found["restore stall ms"] = max(waits)
    agent.until("PUT", "/v1/kv/bench/one-more", b"x")
    with stalls(agent) as waits:
        began, cpu = time.monotonic(), agent.cpu_s()
        status, saved = agent.request("GET", "/v1/snapshot")
        found["save s"], found["save cpu s"] = time.monotonic() - began, agent.cpu_s() - cpu
    if status != 200:
        raise RuntimeError(f"save: {status}")
    found["save stall ms"], found["archive MiB"] = max(waits), len(saved) / 2**20
    found["RSS MiB"] = agent.memory_mib()
    found["peak MiB"] = agent.memory_mib("VmHWM")
    agent.stop()
    began = time.monotonic()
    agent.start()
    agent.until_listening()
    found["restart http s"], found["restart http cpu s"] = time.monotonic() - began, agent.cpu_s()
    agent.until("GET", "/v1/kv/bench/0000001")
    found["restart data s"] = time.monotonic() - began
    found["RSS restarted MiB"] = agent.memory_mib()
    return found


def main(arguments: list[str]) -> int:
    """Run the rounds and print medians."""
    parser = argparse.ArgumentParser(prog="scripts/bench snapshot", description=__doc__.split("\n")[0])
    parser.add_argument("--keys", type=int, default=100_000)
    parser.add_argument("--value-bytes", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--address", default="127.0.78.11")
    parser.add_argument("--data", default="/var/tmp", help="folder on a real disk for the data directory")
    parser.add_argument("--python", default=sys.executable)
    parser.add_argument("--check", action="store_true", help="fail when a bound is exceeded")
    chosen = parser.parse_args(arguments)
    archive = archive_of(chosen.keys, chosen.value_bytes)
    rounds: list[dict[str, float]] = []
    for number in range(chosen.rounds):
        with tempfile.TemporaryDirectory(prefix="bench-", dir=chosen.data) as folder:
            agent = Agent(chosen.address, folder, chosen.python)
            try:
                agent.start()
                agent.until("PUT", "/v1/kv/first", b"x")
                rounds.append(measured(agent, archive))
            finally:
                agent.stop()
        print(
            f"round {number + 1}: {json.dumps({key: round(value, 3) for key, value in rounds[-1].items()})}", flush=True
        )
    over = 0
    for name in rounds[0]:
        median = statistics.median(row[name] for row in rounds)
        bound = BOUNDS.get(name)
        over += bound is not None and median > bound
        note = "" if bound is None else f"  (at most {bound:g}{'' if median <= bound else ', EXCEEDED'})"
        print(f"{name:20} median {median:8.3f}  max {max(row[name] for row in rounds):8.3f}{note}", flush=True)
    return 1 if chosen.check and over else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
