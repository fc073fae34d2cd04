"""Kill -9 of the leader of three servers: seconds until a write through one of the others succeeds.

    scripts/bench failover [--rounds 10] [--multipliers 5 1] [--consul]

The killed server is started again and has caught up before the next round.
"""

from __future__ import annotations

import argparse
import time

from scripts.benches.frame import Make
from scripts.benches.outage import Figure, Limit, Writers, options_of, run, settle, three

LIMIT = Limit(1.0, 2.0)


def measure(options: argparse.Namespace, make: Make, multiplier: int) -> list[Figure]:
    """The outages."""
    figure = Figure("kill -9 of the leader until the next write", LIMIT)
    with three(options, make, multiplier) as (agents, servers):
        for _ in range(options.rounds):
            leader = settle(servers)
            with Writers([server for server in servers if server is not leader]) as writers:
                since = time.monotonic()
                agents.stop(leader)
                figure.times.append(writers.outage(since))
            servers[servers.index(leader)] = agents.again(leader)
    return [figure]


def main(arguments: list[str]) -> int:
    """Measure."""
    return run(options_of(__doc__).parse_args(arguments), measure)
