"""Three empty servers, started at once: seconds until one of them says who leads, and until a write succeeds.

    scripts/bench bootstrap [--rounds 10] [--multipliers 5 1] [--consul]

Counted from the start of the first process, Python's own start included, and from the first HTTP answer of the last of
the three: by then each has listened, but perhaps not met the others.
"""

from __future__ import annotations

import argparse
import threading
import time
from collections.abc import Callable

from scripts.benches.frame import Make, Server, fleet
from scripts.benches.outage import SETTLE_TIMEOUT_S, Figure, Limit, leader_address, options_of, run, start_together

LIMIT = Limit(1.5, 1.5)
POLL_S = 0.005


def measure(options: argparse.Namespace, make: Make, multiplier: int) -> list[Figure]:
    """The times."""
    figures = [
        Figure("first leader of three, from the start of the processes", LIMIT),
        Figure("first leader of three, from the last one's first answer", LIMIT),
        Figure("first write of three, from the start of the processes"),
    ]
    for _ in range(options.rounds):
        with fleet(options, multiplier=multiplier) as agents:
            began = time.monotonic()
            servers = start_together(agents, make, options.net)
            listening = at_once([lambda server=server: _answers(server) for server in servers])
            leading = at_once([lambda server=server: leader_address(server) != "" for server in servers])
            written = at_once([lambda first=servers[0]: _writes(first)])
            answers = max(listening())
            leads = min(leading())
            for figure, value in zip(
                figures, (leads - began, max(leads - answers, 0.0), written()[0] - began), strict=True
            ):
                figure.times.append(value)
    return figures


def at_once(looks: list[Callable[[], bool]]) -> Callable[[], list[float]]:
    """Look at several things from now on, each in a thread of its own; when each came true, once all have."""
    times: list[float] = [0.0] * len(looks)

    def watch(number: int) -> None:
        end = time.monotonic() + SETTLE_TIMEOUT_S
        while time.monotonic() < end:
            if looks[number]():
                times[number] = time.monotonic()
                return
            time.sleep(POLL_S)

    threads = [threading.Thread(target=watch, args=(number,)) for number in range(len(looks))]
    for thread in threads:
        thread.start()

    def wait() -> list[float]:
        for thread in threads:
            thread.join()
        if not all(times):
            raise TimeoutError("three servers did not come up")
        return times

    return wait


def _answers(server: Server) -> bool:
    return server.tried("GET", "/v1/status/peers")[0] == 200


def _writes(server: Server) -> bool:
    return server.tried("PUT", "/v1/kv/first", b"x") == (200, b"true")


def main(arguments: list[str]) -> int:
    """Measure."""
    return run(options_of(__doc__).parse_args(arguments), measure)
