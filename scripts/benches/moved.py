"""One, two or three of three servers are killed and come back with their data at addresses that nobody had before.

    scripts/bench moved [--rounds 10] [--multipliers 5 1] [--count 1 2 3] [--consul]

Until every server knows a leader and a write through each succeeds; from the start of the new processes, and from the
first HTTP answer of the last of them. A real Consul takes up to 90 s for two.
"""

from __future__ import annotations

import argparse
import time

from scripts.benches.frame import Make, Server, fleet, until
from scripts.benches.outage import (
    SERVERS,
    SETTLE_TIMEOUT_S,
    Figure,
    Limit,
    leader_address,
    options_of,
    run,
    settle,
    start_together,
)

LIMIT = Limit(10.0, 10.0)
POLL_S = 0.02


def measure(options: argparse.Namespace, make: Make, multiplier: int) -> list[Figure]:
    """The times for each count."""
    return [figure for count in options.count for figure in _moved(options, make, multiplier, count)]


def _moved(options: argparse.Namespace, make: Make, multiplier: int, count: int) -> list[Figure]:
    text = f"{count} of {SERVERS} servers moved, leader and writes"
    whole, after = Figure(f"{text}, from their start", LIMIT), Figure(f"{text}, from their answers", LIMIT)
    with fleet(options, multiplier=multiplier) as agents:
        addresses = SERVERS + count * options.rounds
        servers = start_together(agents, make, options.net, addresses)
        for number in range(options.rounds):
            settle(servers)
            moving = [(number + each) % SERVERS for each in range(count)]
            for index in moving:
                agents.stop(servers[index])
            began = time.monotonic()
            for index in moving:
                servers[index] = agents.again(servers[index], moved=True)
            until(lambda: all(_listens(server) for server in servers), SETTLE_TIMEOUT_S, "no answer")
            up = time.monotonic()
            _until_healed(servers, number)
            whole.times.append(time.monotonic() - began)
            after.times.append(time.monotonic() - up)
            print(f"    {count} moved, round {number + 1}: {whole.times[-1]:.2f} s", flush=True)
    return [whole, after]


def _until_healed(servers: list[Server], number: int) -> None:
    end = time.monotonic() + SETTLE_TIMEOUT_S
    while not (all(leader_address(server) for server in servers) and all(_writes(each, number) for each in servers)):
        if time.monotonic() > end:
            raise TimeoutError("no leader after the move")
        time.sleep(POLL_S)


def _listens(server: Server) -> bool:
    return server.tried("GET", "/v1/agent/self")[0] == 200


def _writes(server: Server, number: int) -> bool:
    return server.tried("PUT", f"/v1/kv/moved/{number}/{server.name}", b"x") == (200, b"true")


def main(arguments: list[str]) -> int:
    """Measure."""
    options = options_of(__doc__)
    options.add_argument("--count", type=int, nargs="*", default=[1, 2, 3], help="how many move at once (1 2 3)")
    return run(options.parse_args(arguments), measure)
