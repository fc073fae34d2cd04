"""10,000 services on 100 nodes: how long their registration takes, and what the server's memory is afterwards.

    scripts/bench catalog [--services 10000] [--nodes 100] [--connections 8] [--rounds 1] [--against REV]

Each service has a name of its own, a check and two tags, and is one PUT to /v1/catalog/register of a single server
with its data on disk; so many connections send them, each one after the other. Registration must take no longer than a
real Consul's in the same run, or than 30 s, and resident memory be 190 MiB at most.
"""

from __future__ import annotations

import http.client
import json
import statistics
import threading
import time

from scripts.benches.frame import CONSUL, HTTP_PORT, OURS, Make, Server, fleet, makes, parser

SECONDS_MAX = 30.0
RESIDENT_MIB_MAX = 190.0
SETTLE_S = 3.0


def row(number: int, nodes: int) -> bytes:
    """The registration of one service."""
    node = f"node-{number % nodes:03}"
    service = f"service-{number:05}"
    return json.dumps(
        {
            "Node": node,
            "Address": f"10.0.{number % nodes // 250}.{number % nodes % 250 + 1}",
            "Service": {"ID": service, "Service": service, "Tags": ["v1", "eu"], "Port": 1024 + number % 50_000},
            "Check": {"Node": node, "CheckID": f"check-{number}", "Name": "up", "Status": "passing",
                      "ServiceID": service},
        }
    ).encode()  # fmt: skip


def register(server: Server, services: int, nodes: int, connections: int) -> float:
    """Register all; seconds. Raises RuntimeError when one was refused."""
    failures: list[str] = []

    def send(first: int) -> None:
        connection = http.client.HTTPConnection(server.address, HTTP_PORT, timeout=60)
        try:
            for number in range(first, services, connections):
                connection.request("PUT", "/v1/catalog/register", bodies[number])
                answer = connection.getresponse()
                text = answer.read()
                if answer.status != 200:
                    raise RuntimeError(f"{answer.status} {text!r}")
        except (OSError, RuntimeError, http.client.HTTPException) as error:
            failures.append(repr(error))
        finally:
            connection.close()

    bodies = [row(number, nodes) for number in range(services)]
    threads = [threading.Thread(target=send, args=(first,)) for first in range(connections)]
    began = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    taken = time.perf_counter() - began
    if failures:
        raise RuntimeError(f"{server.make.label}: {failures[0]}")
    return taken


def main(arguments: list[str]) -> int:
    """Measure each make; the exit code is 1 when a limit is missed."""
    options = parser(__doc__, rounds=1, seconds=0)
    options.add_argument("--services", type=int, default=10_000)
    options.add_argument("--nodes", type=int, default=100)
    options.add_argument("--connections", type=int, default=8)
    chosen = options.parse_args(arguments)
    taken: dict[str, list[float]] = {}
    resident: dict[str, list[float]] = {}
    with makes(chosen) as found, fleet(chosen) as agents:

        def measure(make: Make) -> None:
            (server,) = agents.cluster(make)
            cpu = server.cpu_s()
            seconds = register(server, chosen.services, chosen.nodes, chosen.connections)
            cpu = server.cpu_s() - cpu
            time.sleep(SETTLE_S)
            mib = server.resident_kib() / 1024
            status, body = server.request("GET", "/v1/catalog/services")
            assert status == 200 and len(json.loads(body)) == chosen.services + 1, (status, len(body))
            taken.setdefault(make.label, []).append(seconds)
            resident.setdefault(make.label, []).append(mib)
            print(f"catalog {make.label:<8} registered in {seconds:6.1f} s, {cpu / chosen.services * 1e6:5.0f} us of "
                  f"processor each, resident {mib:6.1f} MiB", flush=True)  # fmt: skip
            agents.stop(server)

        for number in range(chosen.rounds):
            for make in found if number % 2 else reversed(found):
                measure(make)
    limit = max([SECONDS_MAX, *(statistics.median(taken[CONSUL]),) * (CONSUL in taken)])
    ours, memory = statistics.median(taken[OURS]), statistics.median(resident[OURS])
    kept = ours <= limit and memory <= RESIDENT_MIB_MAX
    for label in taken:
        if label != OURS:
            print(f"catalog ours/{label}: time {ours / statistics.median(taken[label]):.2f}, memory "
                  f"{memory / statistics.median(resident[label]):.2f}")  # fmt: skip
    print(f"catalog: {ours:.1f} s (limit {limit:.1f}), {memory:.1f} MiB (limit {RESIDENT_MIB_MAX:.0f}): "
          f"{'kept' if kept else 'missed'}")  # fmt: skip
    return int(not kept)
