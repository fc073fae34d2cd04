"""Official clients against our agent: `python -m conformance.clients [--long] [NAME...]`, all without a name.

Names are the keys of CLIENTS. They run at the same time, each with an agent of its own. Each step prints its result;
closes with 'N passed, N failed, N skipped'. A client that cannot be had is skipped with the reason, in CI it fails.
`--long` runs the long form of what has one; `--real` has a real Consul in our agent's place, to judge the steps.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from conformance.agents import OURS, Checks
from conformance.clients import libraries, patroni, prometheus
from conformance.clients.scenario import Scenario
from conformance.real_consul import Missing, real_consul

CLIENTS: dict[str, Callable[[Scenario], None]] = {
    "py-consul": libraries.py_consul,
    "python-consul": libraries.python_consul,
    "npm-consul": libraries.npm_consul,
    "prometheus": prometheus.run,
    "patroni": patroni.run,
}


def drive(name: str, long: bool, program: tuple[str, ...]) -> Checks:
    """What came of one client."""
    checks, started = Checks(), time.monotonic()
    try:
        CLIENTS[name](Scenario(name, checks, long, program))
    except Missing as reason:
        if os.environ.get("CI") == "true":
            checks.note(f"{name}: can be had", False, reason)
        else:
            checks.skipped += 1
            print(f"skip {name}: {reason}", flush=True)
    except Exception as error:
        checks.note(f"{name}: the steps reached their end", False, f"{type(error).__name__}: {error}")
    print(f"==> {name}: {time.monotonic() - started:.0f} s", flush=True)
    return checks


def main() -> int:
    """Exit code of the program."""
    parser = argparse.ArgumentParser(prog="python -m conformance.clients", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(CLIENTS))
    parser.add_argument("--long", action="store_true", help="the long form")
    parser.add_argument("--real", action="store_true", help="with a real Consul as the agent")
    options = parser.parse_args()
    if unknown := [name for name in options.names if name not in CLIENTS]:
        parser.error(f"no client {', '.join(unknown)}; there are {', '.join(CLIENTS)}")
    names = options.names or list(CLIENTS)
    agent = (real_consul(),) if options.real else OURS
    with ThreadPoolExecutor(len(names)) as pool:
        results = list(pool.map(lambda name: drive(name, options.long, agent), names))
    passed, failed, skipped = (sum(getattr(r, word) for r in results) for word in ("passed", "failed", "skipped"))
    print(f"{passed} passed, {failed} failed, {skipped} skipped", flush=True)
    return 1 if failed or not passed + skipped else 0


if __name__ == "__main__":
    sys.exit(main())
