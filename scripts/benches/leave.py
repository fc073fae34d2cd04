"""The leader of three servers leaves: the longest time without an acknowledged write, and how long the call takes.

    scripts/bench leave [--rounds 10] [--multipliers 5 1] [--consul]

The leave is `PUT /v1/agent/leave`; writes go through the other two. The leaver is started again and votes before the
next round.
"""

from __future__ import annotations

import argparse
import http.client
import time

from scripts.benches.frame import HTTP_PORT, STOP_TIMEOUT_S, Make, Server
from scripts.benches.outage import Figure, Limit, Writers, options_of, run, settle, three

GAP, CALL = Limit(0.2, 0.2), Limit(8.0, 8.0)
AFTERWARDS_S = 0.5


def leave(server: Server) -> None:
    """Tell it to leave; returns with the answer."""
    connection = http.client.HTTPConnection(server.address, HTTP_PORT, timeout=60)
    try:
        connection.request("PUT", "/v1/agent/leave")
        answer = connection.getresponse()
        body = answer.read()
    finally:
        connection.close()
    if answer.status != 200:
        raise RuntimeError(f"leave: {answer.status} {body!r}")


def measure(options: argparse.Namespace, make: Make, multiplier: int) -> list[Figure]:
    """The gaps and the calls."""
    gaps, calls = Figure("leave of the leader, longest time without a write", GAP), Figure("leave of the leader", CALL)
    with three(options, make, multiplier) as (agents, servers):
        for _ in range(options.rounds):
            leader = settle(servers)
            with Writers([server for server in servers if server is not leader]) as writers:
                since = time.monotonic()
                leave(leader)
                calls.times.append(time.monotonic() - since)
                time.sleep(AFTERWARDS_S)
                gaps.times.append(writers.longest_gap(since, time.monotonic()))
            leader.process.wait(STOP_TIMEOUT_S)
            servers[servers.index(leader)] = agents.again(leader)
    return [gaps, calls]


def main(arguments: list[str]) -> int:
    """Measure."""
    return run(options_of(__doc__).parse_args(arguments), measure)
