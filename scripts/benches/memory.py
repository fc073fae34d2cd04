"""Resident memory of a single server: idle, with keys, and after a restart with them.

scripts/bench memory [--keys 100000] [--bytes 100] [--against REV]
"""

from __future__ import annotations

import base64
import http.client
import json
import time

from scripts.benches.frame import HTTP_PORT, OURS, Make, Server, fleet, leader_of, makes, parser, until

PER_TXN = 64
"""Operations in a transaction, the most there may be."""


def fill(server: Server, keys: int, size: int) -> None:
    """Write `keys` keys with values of `size` bytes."""
    connection = http.client.HTTPConnection(server.address, HTTP_PORT, timeout=30)
    for begin in range(0, keys, PER_TXN):
        operations = [
            {"KV": {"Verb": "set", "Key": f"bench/{number % 100:02}/{number:08}",
                    "Value": base64.b64encode(b"%08d" % number * (size // 8 + 1))[: -(-size // 3) * 4].decode()}}
            for number in range(begin, min(begin + PER_TXN, keys))
        ]  # fmt: skip
        connection.request("PUT", "/v1/txn", json.dumps(operations))
        answer = connection.getresponse()
        body = answer.read()
        assert answer.status == 200, (answer.status, body[:300])
    connection.close()


def main(arguments: list[str]) -> int:
    """Measure each make."""
    options = parser(__doc__, rounds=1, seconds=0)
    options.add_argument("--keys", type=int, default=100_000)
    options.add_argument("--bytes", type=int, default=100)
    chosen = options.parse_args(arguments)
    figures: dict[str, list[tuple[str, float]]] = {}
    with makes(chosen) as found, fleet(chosen) as agents:

        def measure(make: Make) -> list[tuple[str, float]]:
            (server,) = agents.cluster(make)
            rows = [("idle MiB", server.resident_kib() / 1024)]
            began = time.perf_counter()
            fill(server, chosen.keys, chosen.bytes)
            rows.append(("fill s", time.perf_counter() - began))
            rows.append((f"with {chosen.keys} keys MiB", server.resident_kib() / 1024))
            agents.stop(server)
            began = time.perf_counter()
            again = agents.restart(server)
            until(lambda: leader_of(again) != "", 60, "no leader after the restart")
            until(lambda: again.request("GET", "/v1/kv/bench/00/00000000")[0] == 200, 60, "the keys are gone")
            rows.append(("restart until it has them s", time.perf_counter() - began))
            rows.append(("after the restart MiB", again.resident_kib() / 1024))
            agents.stop(again)
            return rows

        for make in found:
            figures[make.label] = measure(make)
    for number, (name, ours) in enumerate(figures[OURS]):
        others = [f"{label} {rows[number][1]:.2f}, ours/{label} {ours / rows[number][1]:.2f}"
                  for label, rows in figures.items() if label != OURS]  # fmt: skip
        print(f"memory, {name}: ours {ours:.2f}" + "".join(f"; {text}" for text in others), flush=True)
    return 0
