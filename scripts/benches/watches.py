"""Blocking queries: many wait at one server over HTTP; what each costs, how soon a write wakes its watchers.

scripts/bench watches [--watches 10000] [--keys 100] [--writes 50] [--against REV]

Watches are spread over the keys, so one write wakes WATCHES / KEYS of them and nobody else. Bytes each are the growth
of the server's resident memory; the wake-up is counted from before the write is sent to when its watcher has the
answer, in this one process on the same processors. At the end all connections are cut at once.
"""

from __future__ import annotations

import asyncio
import json
import resource
import time
from pathlib import Path

from scripts.benches.frame import HTTP_PORT, Make, Server, fleet, makes, parser

SETTLE_S = 3.0
GONE_TIMEOUT_S = 30.0
DIALS_AT_ONCE = 100
SPARE_FILES = 2
"""A server may open files of its own meanwhile."""


class Watch(asyncio.Protocol):
    """One blocking query; it asks again with the new index when it was answered."""

    def __init__(self, host: str, key: str, index: int) -> None:
        self._ask = f"GET /v1/kv/{key}?index=%d&wait=600s HTTP/1.1\r\nHost: {host}\r\n\r\n"
        self.key, self.index = key, index
        self.woken_at = 0.0
        self.transport: asyncio.Transport | None = None
        self._seen = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self.ask()

    def ask(self) -> None:
        """Wait for what is newer than what was seen last."""
        assert self.transport is not None
        self._seen = b""
        self.transport.write((self._ask % self.index).encode())

    def data_received(self, data: bytes) -> None:
        self._seen += data
        head, end, body = self._seen.partition(b"\r\n\r\n")
        if not end or not body.endswith(b"]"):
            return
        self.woken_at = time.perf_counter()
        line = next(line for line in head.split(b"\r\n") if line.lower().startswith(b"x-consul-index:"))
        self.index = int(line.partition(b":")[2])
        self.ask()


def descriptors(server: Server) -> int:
    """Open files of a server."""
    return len(list(Path(f"/proc/{server.process.pid}/fd").iterdir()))


async def watch(server: Server, watches: int, keys: int, writes: int) -> list[tuple[str, float]]:
    """The figures of one server."""
    names = [f"watch/{number}" for number in range(keys)]
    indexes = {}
    for name in names:
        server.request("PUT", f"/v1/kv/{name}", b"x")
        _, body = server.request("GET", f"/v1/kv/{name}")
        indexes[name] = int(json.loads(body)[0]["ModifyIndex"])
    await asyncio.sleep(SETTLE_S)
    files, before = descriptors(server), server.resident_kib()
    made = await dial(server, [(names[number % keys], indexes[names[number % keys]]) for number in range(watches)])
    await asyncio.sleep(SETTLE_S)
    each = (server.resident_kib() - before) / watches
    delays, others = await wakes(server, names, made, writes)
    for waiting in made:
        assert waiting.transport is not None
        waiting.transport.abort()
    began = time.perf_counter()
    while descriptors(server) > files + SPARE_FILES and time.perf_counter() - began < GONE_TIMEOUT_S:
        await asyncio.sleep(0.02)
    return [
        ("KiB each", each),
        ("wake-up p50 ms", delays[len(delays) // 2] * 1000),
        ("wake-up p99 ms", delays[len(delays) * 99 // 100] * 1000),
        ("missed in 0.5 s", float(writes * watches // keys - len(delays))),
        ("others woken", float(others)),
        (f"gone s (of {GONE_TIMEOUT_S:.0f})", time.perf_counter() - began),
    ]


async def dial(server: Server, wanted: list[tuple[str, int]]) -> list[Watch]:
    """A connection for each (key, index), which waits."""
    loop = asyncio.get_running_loop()
    made: list[Watch] = []
    for begin in range(0, len(wanted), DIALS_AT_ONCE):
        part = [Watch(server.address, *each) for each in wanted[begin : begin + DIALS_AT_ONCE]]
        await asyncio.gather(
            *(loop.create_connection(lambda each=each: each, server.address, HTTP_PORT) for each in part)
        )
        made += part
    return made


async def wakes(server: Server, names: list[str], made: list[Watch], writes: int) -> tuple[list[float], int]:
    """Sorted delays of those concerned by each write, and how many others were answered."""
    delays: list[float] = []
    others = 0
    for number in range(writes):
        name, began = names[number % len(names)], time.perf_counter()
        await asyncio.to_thread(server.request, "PUT", f"/v1/kv/{name}", b"y%d" % number)
        await asyncio.sleep(0.5)
        woken = [each for each in made if each.woken_at > began]
        delays += [each.woken_at - began for each in woken if each.key == name]
        others += sum(each.key != name for each in woken)
    return sorted(delays) or [float("inf")], others


def main(arguments: list[str]) -> int:
    """Measure each make."""
    options = parser(__doc__, rounds=1, seconds=0)
    options.add_argument("--watches", type=int, default=10_000)
    options.add_argument("--keys", type=int, default=100)
    options.add_argument("--writes", type=int, default=50)
    chosen = options.parse_args(arguments)
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = chosen.watches + 2000
    if hard != resource.RLIM_INFINITY and hard < needed:
        print(f"needs {needed} open files, the limit is {hard}")
        return 1
    resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))
    with makes(chosen) as found, fleet(chosen) as agents:

        def measure(make: Make) -> list[tuple[str, float]]:
            (server,) = agents.cluster(
                make, extra=[f"-hcl=limits {{ http_max_conns_per_client = {chosen.watches + 200} }}"]
            )
            rows = asyncio.run(watch(server, chosen.watches, chosen.keys, chosen.writes))
            agents.stop(server)
            return rows

        for make in found:
            for name, value in measure(make):
                print(f"watches {make.label:<8} {name:<18} {value:10.2f}", flush=True)
    return 0
