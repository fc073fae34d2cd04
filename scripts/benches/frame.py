"""What every subject needs: agents of several makes side by side, their CPU time, load by wrk, ratios of rounds.

A *make* is a program that can be an agent: this tree, a commit of it (`--against`), a real Consul. A subject starts the
same cluster of each make, warms them up, and measures them in turn, round after round; what is printed is the median
over the rounds of (ours / theirs), with the smallest and largest. Two processors shared with others make absolute
figures worthless and even a ratio noisy, so CPU time per request is given too, and how busy others kept the machine.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from conformance.real_consul import Missing, program, real_consul

ROOT = Path(__file__).resolve().parents[2]
HTTP_PORT = 8500
FIRST_ADDRESS = 11
START_TIMEOUT_S = 30.0
STOP_TIMEOUT_S = 20.0
TICKS = os.sysconf("SC_CLK_TCK")
OURS, CONSUL = "ours", "consul"


def parser(doc: str | None, *, rounds: int, seconds: float) -> argparse.ArgumentParser:
    """The options that all subjects have."""
    made = argparse.ArgumentParser(
        prog="scripts/bench", description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument("--rounds", type=int, default=rounds, help=f"how often each is measured ({rounds})")
    made.add_argument("--seconds", type=float, default=seconds, help=f"length of one measurement ({seconds:g})")
    made.add_argument("--against", metavar="REV", help="also measure this commit of the project")
    made.add_argument("--no-consul", action="store_true", help="without a real Consul")
    made.add_argument("--net", default="127.0.60", help="agents live on NET.11 and up, on Consul's ports (127.0.60)")
    made.add_argument("--data", default="/var/tmp", help="folder on a real disk for the data directories (/var/tmp)")
    made.add_argument("--python", default=sys.executable, help="interpreter of our agents")
    return made


# --- makes and agents -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Make:
    """A program that can be an agent, and the folder to start it in."""

    label: str
    command: tuple[str, ...]
    folder: Path


@contextlib.contextmanager
def makes(options: argparse.Namespace) -> Iterator[list[Make]]:
    """Ours first, then what the options ask for; Python code is compiled before."""
    with tempfile.TemporaryDirectory(prefix="bench-", dir=options.data) as scratch:
        found = [Make(OURS, (options.python, "-m", "pyconsul_agent"), ROOT)]
        tree = Path(scratch) / "tree"
        try:
            if options.against:
                git("worktree", "add", "--detach", "--force", str(tree), options.against)
                label = git("rev-parse", "--short", options.against)
                found.append(Make(label, (options.python, "-m", "pyconsul_agent"), tree))
            if not options.no_consul:
                try:
                    found.append(Make(CONSUL, (real_consul(),), Path(scratch)))
                except Missing as error:
                    print(f"without a real Consul: {error}", flush=True)
            for make in found:
                if make.label != CONSUL:
                    compile_python(options.python, make.folder)
            yield found
        finally:
            if tree.exists():
                git("worktree", "remove", "--force", str(tree))


def git(*arguments: str) -> str:
    """What a git command in this repository prints."""
    done = subprocess.run(["git", "-C", str(ROOT), *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"bench: git {' '.join(arguments)}: {done.stderr.strip()}")
    return done.stdout.strip()


def compile_python(python: str, folder: Path) -> None:
    """Byte code beside the sources, so that no start measures the compiler."""
    subprocess.run([python, "-m", "compileall", "-q", "pyconsul_agent"], cwd=folder, check=True)


@dataclass
class Server:
    """A running agent, mostly in server mode."""

    make: Make
    address: str
    process: subprocess.Popen[bytes]
    log: Path
    name: str = ""
    flags: tuple[str, ...] = ()

    @property
    def url(self) -> str:
        """Where its HTTP API is."""
        return f"http://{self.address}:{HTTP_PORT}"

    def request(self, method: str, path: str, body: bytes | None = None) -> tuple[int, bytes]:
        """Status and body. Raises OSError when there is no answer."""
        connection = http.client.HTTPConnection(self.address, HTTP_PORT, timeout=10)
        try:
            connection.request(method, path, body=body)
            answer = connection.getresponse()
            return answer.status, answer.read()
        except http.client.HTTPException as error:
            raise OSError(str(error)) from error
        finally:
            connection.close()

    def tried(self, method: str, path: str, body: bytes | None = None) -> tuple[int, bytes]:
        """The same; (0, b"") when there is no answer."""
        try:
            return self.request(method, path, body)
        except OSError:
            return 0, b""

    def cpu_s(self) -> float:
        """Processor seconds used so far, by all threads."""
        return cpu_s(self.process.pid)

    def resident_kib(self) -> int:
        """Resident memory."""
        return status_kib(self.process.pid, "VmRSS")


def cpu_s(pid: int) -> float:
    """Processor seconds that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def status_kib(pid: int, name: str) -> int:
    """A line of /proc/PID/status that counts kB."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1])
    raise KeyError(name)


class Fleet:
    """Servers of all makes, started here and gone at the end."""

    def __init__(self, net: str, folder: Path, multiplier: int = 1) -> None:
        """`multiplier` is the servers' `raft_multiplier`."""
        self._net, self._folder, self._multiplier = net, folder, multiplier
        self._next = FIRST_ADDRESS
        self._servers: list[Server] = []

    def cluster(self, make: Make, count: int = 1, extra: Sequence[str] = ()) -> list[Server]:
        """`count` servers that know each other, the leader first. Each has a data directory on disk."""
        servers: list[Server] = []
        for number in range(count):
            expect = ["-bootstrap"] if count == 1 else [f"-bootstrap-expect={count}"]
            join = [f"-retry-join={servers[0].address}", "-retry-interval=1s"] if number else []
            servers.append(self.start(make, [*expect, *join, *extra]))
        for server in servers:
            until(lambda at=server: leader_of(at) != "", START_TIMEOUT_S, f"{make.label} has no leader")
        if count > 1:  # a leader right after its election is busy with its followers
            until(lambda: peers_of(servers[0]) == count, START_TIMEOUT_S, f"{make.label}: not all are peers")
        leader = leader_of(servers[0]).partition(":")[0]
        return sorted(servers, key=lambda server: server.address != leader)

    def start(self, make: Make, flags: Sequence[str]) -> Server:
        """Start a server on an address of its own and do not wait for it."""
        address = self._address()
        return self._launch(make, f"{make.label}-{address.rpartition('.')[2]}", address, flags)

    def again(self, server: Server, *, moved: bool = False) -> Server:
        """Start a stopped server again as it was, on its data; `moved`: on an address that nobody had before."""
        return self._launch(server.make, server.name, self._address() if moved else server.address, server.flags)

    def _address(self) -> str:
        self._next += 1
        return f"{self._net}.{self._next - 1}"

    def client(self, make: Make, servers: Sequence[Server], extra: Sequence[str] = ()) -> Server:
        """A client agent of these servers, once it knows their leader."""
        joins = [f"-retry-join={server.address}" for server in servers]
        address = self._address()
        name = f"{make.label}-{address.rpartition('.')[2]}"
        made = self._launch(make, name, address, [*joins, "-retry-interval=1s", *extra], server=False)
        until(lambda: leader_of(made) != "", START_TIMEOUT_S, f"{make.label}: no leader at the client")
        return made

    def restart(self, server: Server) -> Server:
        """Start a stopped single server again, on its data."""
        return self._launch(server.make, server.name, server.address, ["-bootstrap"])

    def _launch(self, make: Make, name: str, address: str, flags: Sequence[str], *, server: bool = True) -> Server:
        log = self._folder / f"{name}.log"
        with log.open("ab") as output:
            process = subprocess.Popen(
                [*make.command, "agent", *(["-server"] if server else []), f"-node={name}", f"-bind={address}",
                 f"-client={address}", f"-data-dir={self._folder / name}", "-disable-host-node-id",
                 f"-hcl=performance{{raft_multiplier={self._multiplier}}}", *flags],
                cwd=make.folder, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT,
            )  # fmt: skip
        made = Server(make, address, process, log, name, tuple(flags))
        self._servers.append(made)
        return made

    def stop(self, server: Server) -> None:
        """End one at once."""
        if server.process.poll() is None:
            server.process.kill()
        server.process.wait(STOP_TIMEOUT_S)

    def close(self) -> None:
        """End all."""
        for server in self._servers:
            self.stop(server)


@contextlib.contextmanager
def fleet(options: argparse.Namespace, *, multiplier: int = 1) -> Iterator[Fleet]:
    """A Fleet; when something fails the ends of its logs are shown."""
    with tempfile.TemporaryDirectory(prefix="bench-", dir=options.data) as scratch:
        made = Fleet(options.net, Path(scratch), multiplier)
        try:
            yield made
        except BaseException:
            for log in sorted(Path(scratch).glob("*.log")):
                print(f"--- {log.name}\n{log.read_text(errors='replace')[-2000:]}", file=sys.stderr)
            raise
        finally:
            made.close()


def leader_of(server: Server) -> str:
    """`ip:port` of the leader, "" while there is none."""
    if server.process.poll() is not None:
        raise RuntimeError(f"{server.log.name} has ended")
    status, body = server.tried("GET", "/v1/status/leader")
    return body.decode().strip().strip('"') if status == 200 else ""


def peers_of(server: Server) -> int:
    """How many raft peers a server knows."""
    status, body = server.request("GET", "/v1/status/peers")
    return body.count(b":") if status == 200 else 0


def until(look: Callable[[], bool], timeout_s: float, what: str) -> None:
    """Wait until `look` says so. Raises TimeoutError with `what`."""
    end = time.monotonic() + timeout_s
    while not look():
        if time.monotonic() > end:
            raise TimeoutError(what)
        time.sleep(0.05)


# --- load -----------------------------------------------------------------------------------------------------

_DONE = """
function done(summary, latency, requests)
  local e = summary.errors
  io.write(string.format("BENCH %d %d %d %d %d\\n", summary.requests, summary.duration, latency:percentile(50),
    latency:percentile(99), e.connect + e.read + e.write + e.status + e.timeout))
end
"""


@dataclass(frozen=True)
class Load:
    """One measurement. Times in seconds; `cpu_s` is of the servers measured, `others` the share of the machine's
    processors that neither they nor the load generator used.
    """

    requests: int
    duration_s: float
    p50_s: float
    p99_s: float
    errors: int
    cpu_s: float
    others: float

    @property
    def rate(self) -> float:
        """Requests per second."""
        return self.requests / self.duration_s

    @property
    def cpu_us(self) -> float:
        """Microseconds of processor per request."""
        return self.cpu_s / max(self.requests, 1) * 1e6


def wrk(servers: Sequence[Server], path: str, seconds: float, *, connections: int = 32, script: str = "") -> Load:
    """Load the first of `servers` by `wrk -t1`; the CPU time of all of them counts. `script` is Lua to add."""
    with tempfile.NamedTemporaryFile("w", suffix=".lua") as file:
        file.write(script + _DONE)
        file.flush()
        command = [
            program("wrk"), "-t1", f"-c{connections}", f"-d{max(1, round(seconds))}s", "-s", file.name,
            servers[0].url + path,
        ]  # fmt: skip
        cpu, children, busy = sum(server.cpu_s() for server in servers), os.times(), Busy()
        done = subprocess.run(command, capture_output=True, text=True, check=True, stdin=subprocess.DEVNULL)
        used = sum(server.cpu_s() for server in servers) - cpu
        after = os.times()
    line = next(line for line in done.stdout.splitlines() if line.startswith("BENCH "))
    requests, duration, p50, p99, errors = map(int, line.split()[1:])
    own = after.children_user - children.children_user + after.children_system - children.children_system
    return Load(requests, duration / 1e6, p50 / 1e6, p99 / 1e6, errors, used, busy.others(used + own))


class Busy:
    """How much of the machine's processors was used since this was made."""

    def __init__(self) -> None:
        self._used, self._total = _processors()

    def others(self, own_s: float) -> float:
        """Share (0..1) used by others than those who used `own_s`."""
        used, total = _processors()
        if total <= self._total:
            return 0.0
        return max(0.0, (used - self._used - own_s) / (total - self._total))


def _processors() -> tuple[float, float]:
    """(busy, all) processor seconds since boot."""
    ticks = [int(word) for word in Path("/proc/stat").read_text().splitlines()[0].split()[1:9]]
    return (sum(ticks) - ticks[3] - ticks[4]) / TICKS, sum(ticks) / TICKS


# --- rounds and ratios ----------------------------------------------------------------------------------------


@dataclass
class Rounds:
    """Measurements by make's label, one list entry a round."""

    title: str
    loads: dict[str, list[Load]] = field(default_factory=dict)

    def add(self, label: str, load: Load) -> None:
        """A measurement of this round."""
        self.loads.setdefault(label, []).append(load)

    def lines(self) -> Iterator[str]:
        """What is printed: a line for each make that ours is compared with."""
        ours = self.loads[OURS]
        yield f"{self.title}: ours {_line(ours)}"
        for label, theirs in self.loads.items():
            if label == OURS:
                continue
            rate = spread([a.rate / b.rate for a, b in zip(ours, theirs, strict=True)])
            p99 = spread([a.p99_s / b.p99_s for a, b in zip(ours, theirs, strict=True)])
            cpu = spread([a.cpu_us / b.cpu_us for a, b in zip(ours, theirs, strict=True) if b.cpu_us])
            yield f"    {label} {_line(theirs)}"
            yield f"    ours/{label}: requests/s {rate}, p99 {p99}, cpu/request {cpu}"


def _line(loads: list[Load]) -> str:
    middle = statistics.median
    errors = sum(load.errors for load in loads)
    return (
        f"{middle(load.rate for load in loads):,.0f}/s p50 {middle(load.p50_s for load in loads) * 1e3:.2f} ms "
        f"p99 {middle(load.p99_s for load in loads) * 1e3:.2f} ms cpu {middle(load.cpu_us for load in loads):.0f} us, "
        f"others used {middle(load.others for load in loads) * 100:.0f}% of the machine"
        + (f", {errors} ERRORS" if errors else "")
    )


def spread(values: Sequence[float]) -> str:
    """Median (least-most)."""
    if not values:
        return "-"
    return f"{statistics.median(values):.2f} ({min(values):.2f}-{max(values):.2f})"


def alternate(
    title: str,
    makes_: Sequence[Make],
    rounds: int,
    measure: Callable[[Make], Load],
) -> Rounds:
    """Measure each make in turn, `rounds` times after one that does not count; prints and returns the result."""
    result = Rounds(title)
    for number in range(rounds + 1):
        # Every other round backwards: who comes second is no longer always the same.
        for make in makes_ if number % 2 else reversed(makes_):
            load = measure(make)
            if number:
                result.add(make.label, load)
    for line in result.lines():
        print(line, flush=True)
    return result


def need_wrk() -> None:
    """End the program in one line when there is no wrk."""
    if shutil.which("wrk") is None:
        sys.exit("bench: no `wrk` on this machine (Debian package wrk)")
