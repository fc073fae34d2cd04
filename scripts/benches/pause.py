"""SIGSTOP of the leader of three servers: seconds until a write through one of the others succeeds.

    scripts/bench pause [--rounds 10] [--multipliers 5 1] [--consul]

The stopped process goes on before the next round.
"""

from __future__ import annotations

import argparse
import signal
import time
from functools import partial
from pathlib import Path

from scripts.benches.frame import STOP_TIMEOUT_S, Make, Server, until
from scripts.benches.outage import Figure, Limit, Writers, options_of, run, settle, three

LIMITS = {1: Limit(2.0, 4.0), 5: Limit(8.0, 12.0)}
"""By multiplier: nobody can tell a stopped process from a slow one before the heartbeat time-out."""


def measure(options: argparse.Namespace, make: Make, multiplier: int) -> list[Figure]:
    """The outages."""
    figure = Figure("SIGSTOP of the leader until the next write", LIMITS.get(multiplier))
    with three(options, make, multiplier) as (_, servers):
        for _ in range(options.rounds):
            leader = settle(servers)
            with Writers([server for server in servers if server is not leader]) as writers:
                since = time.monotonic()
                leader.process.send_signal(signal.SIGSTOP)
                until(partial(_stopped, leader), STOP_TIMEOUT_S, "it does not stop")
                try:
                    figure.times.append(writers.outage(since))
                finally:
                    leader.process.send_signal(signal.SIGCONT)
    return [figure]


def _stopped(server: Server) -> bool:
    return Path(f"/proc/{server.process.pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"


def main(arguments: list[str]) -> int:
    """Measure."""
    return run(options_of(__doc__).parse_args(arguments), measure)
