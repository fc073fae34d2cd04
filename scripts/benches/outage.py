"""What the subjects about interruptions share: three servers, writes that never stop, figures with limits.

An interruption is measured as a user has it: a write leaves every few milliseconds through each of the servers that
stay, none waits for those before it, and the first one that left after the fault and was acknowledged ends the outage.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import os
import statistics
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from scripts.benches.frame import (
    CONSUL,
    FIRST_ADDRESS,
    HTTP_PORT,
    Busy,
    Fleet,
    Make,
    Server,
    fleet,
    makes,
    parser,
    until,
)

SERVERS = 3
SETTLE_TIMEOUT_S = 120.0
SETTLED_FOR_S = 1.5
"""Between two faults, so that nothing of the first is left."""
OUTAGE_MAX_S = 60.0
GIVE_UP_S = 1.0
"""A writer does not wait longer: one that hangs at a stopped leader would keep its connection, of which a server takes
200 from one address, so that later ones could not come in.
"""
FLAGS = ("-retry-interval=1s", '-hcl=autopilot{server_stabilization_time="200ms"}')
"""The stabilization only shortens the pauses between faults: a server that was removed votes again sooner."""


@dataclass(frozen=True)
class Limit:
    """What ours is measured by, in seconds."""

    median_s: float
    most_s: float


@dataclass
class Figure:
    """Times of one thing."""

    title: str
    limit: Limit | None = None

    def __post_init__(self) -> None:
        self.times: list[float] = []

    @property
    def holds(self) -> bool:
        """Whether they are within the limit, if there is one."""
        if self.limit is None:
            return True
        return statistics.median(self.times) <= self.limit.median_s and max(self.times) <= self.limit.most_s

    def line(self) -> str:
        """For people."""
        bound = ""
        if self.limit is not None:
            bound = f"  (limits {self.limit.median_s:g}, {self.limit.most_s:g}{'' if self.holds else '; EXCEEDED'})"
        return (
            f"{self.title:64} median {statistics.median(self.times):6.3f} s  max {max(self.times):6.3f}  "
            f"min {min(self.times):6.3f}  n {len(self.times)}{bound}"
        )


Measure = Callable[[argparse.Namespace, Make, int], Sequence[Figure]]
"""(options, make, raft_multiplier) to figures with `options.rounds` times each."""


def options_of(doc: str | None) -> argparse.ArgumentParser:
    """The options that all of these subjects have."""
    options = parser(doc, rounds=10, seconds=0)
    options.add_argument("--multipliers", type=int, nargs="*", default=[5, 1], help="values of raft_multiplier (5 1)")
    options.add_argument("--consul", action="store_true", help="also measure a real Consul")
    return options


def run(chosen: argparse.Namespace, measure: Measure) -> int:
    """Measure ours, and with `--consul` a real one, at each multiplier; 1 when ours exceeds a limit."""
    chosen.no_consul = not chosen.consul
    good = True
    with makes(chosen) as found:
        for multiplier in chosen.multipliers:
            for make in found:
                busy, before, began = Busy(), os.times(), time.monotonic()
                figures = measure(chosen, make, multiplier)
                after = os.times()
                own = sum(after[:4]) - sum(before[:4])
                for figure in figures:
                    print(f"multiplier {multiplier}, {make.label:7} {figure.line()}", flush=True)
                    good = good and (figure.holds or make.label == CONSUL)
                print(
                    f"    took {time.monotonic() - began:.0f} s, others used {busy.others(own) * 100:.0f}% of the "
                    f"machine, load {os.getloadavg()[0]:.1f}",
                    flush=True,
                )
    return 0 if good else 1


@contextlib.contextmanager
def three(options: argparse.Namespace, make: Make, multiplier: int):
    """(fleet, three servers that have settled)."""
    with fleet(options, multiplier=multiplier) as agents:
        servers = start_together(agents, make, options.net)
        settle(servers)
        yield agents, servers


def start_together(agents: Fleet, make: Make, net: str, addresses: int = SERVERS) -> list[Server]:
    """Three servers, started at once; each tries to join the first `addresses` addresses of the net."""
    joins = [f"-retry-join={net}.{FIRST_ADDRESS + number}" for number in range(addresses)]
    return [agents.start(make, [f"-bootstrap-expect={SERVERS}", *FLAGS, *joins]) for _ in range(SERVERS)]


def leader_address(server: Server) -> str:
    """The leader's address as this server knows it, "" when it knows none or does not answer."""
    status, body = server.tried("GET", "/v1/status/leader")
    return body.decode().strip().strip('"').partition(":")[0] if status == 200 else ""


def leader_among(servers: Sequence[Server]) -> Server:
    """The server that leads, once all agree who that is."""
    found: list[Server] = []

    def agree() -> bool:
        known = {leader_address(server) for server in servers}
        found[:] = [server for server in servers if known == {server.address}]
        return bool(found)

    until(agree, SETTLE_TIMEOUT_S, "the servers do not agree who leads")
    return found[0]


def settle(servers: Sequence[Server]) -> Server:
    """Wait until all vote and have the same state; the leader."""
    until(lambda: all(_votes(server) == SERVERS for server in servers), SETTLE_TIMEOUT_S, "not all vote")
    leader = leader_among(servers)
    value = str(time.monotonic_ns()).encode()
    until(lambda: _put(leader, value), SETTLE_TIMEOUT_S, "no write")
    until(lambda: all(_has(server, value) for server in servers), SETTLE_TIMEOUT_S, "not all have caught up")
    time.sleep(SETTLED_FOR_S)
    return leader_among(servers)


def _votes(server: Server) -> int:
    status, body = server.tried("GET", "/v1/operator/raft/configuration?stale")
    return body.replace(b" ", b"").count(b'"Voter":true') if status == 200 else 0


def _put(server: Server, value: bytes) -> bool:
    return server.tried("PUT", "/v1/kv/settled", value) == (200, b"true")


def _has(server: Server, value: bytes) -> bool:
    return server.tried("GET", "/v1/kv/settled?raw&stale") == (200, value)


class Writers:
    """While the block runs, a write leaves every `every_s` through each server in turn."""

    def __init__(self, servers: Sequence[Server], *, every_s: float = 0.01) -> None:
        self._servers = list(servers)
        self._every_s = every_s
        self._over = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._write()))
        self.acknowledged: list[tuple[float, float]] = []
        """(when it left, when its answer came) of every write that succeeded."""

    def __enter__(self) -> Writers:
        self._thread.start()
        until(lambda: len(self.acknowledged) > 10, SETTLE_TIMEOUT_S, "no write before the fault")
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def outage(self, since: float) -> float:
        """Seconds from `since` until a write that leaves from now on is acknowledged; waits for it.

        The fault must have happened by now: a write that left before may have had its answer from the leader.
        """
        fault = time.monotonic()
        end = time.monotonic() + OUTAGE_MAX_S
        while True:
            answers = [answered for left, answered in self.acknowledged if left > fault]
            if answers:
                return min(answers) - since
            if time.monotonic() > end:
                raise TimeoutError(f"no write for {OUTAGE_MAX_S:.0f} s")
            time.sleep(0.005)

    def longest_gap(self, since: float, until_: float) -> float:
        """The longest time without an answer between the two."""
        times = [since, *sorted(answered for _, answered in self.acknowledged if since < answered < until_), until_]
        return max(later - earlier for earlier, later in itertools.pairwise(times))

    async def _write(self) -> None:
        running: set[asyncio.Task[None]] = set()
        number = 0
        while not self._over.is_set():
            task = asyncio.create_task(self._one(self._servers[number % len(self._servers)], number))
            running.add(task)
            task.add_done_callback(running.discard)
            number += 1
            await asyncio.sleep(self._every_s)
        for task in list(running):
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)

    async def _one(self, server: Server, number: int) -> None:
        left = time.monotonic()
        try:
            async with asyncio.timeout(GIVE_UP_S):
                answer = await self._ask(server, number)
        except OSError:
            return
        if answer.startswith(b"HTTP/1.1 200") and answer.rstrip().endswith(b"true"):
            self.acknowledged.append((left, time.monotonic()))

    async def _ask(self, server: Server, number: int) -> bytes:
        reader, writer = await asyncio.open_connection(server.address, HTTP_PORT)
        try:
            writer.write(
                b"PUT /v1/kv/outage/%d HTTP/1.1\r\nHost: bench\r\nContent-Length: 1\r\nConnection: close\r\n\r\nx"
                % (number % 1000)
            )
            return await reader.read()
        finally:
            writer.close()
