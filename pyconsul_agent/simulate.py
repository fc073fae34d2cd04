"""`python -m pyconsul_agent.simulate`: whole clusters in virtual time, one run a seed.

The same seed and the same code give the same digest, on every machine and in every process.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from pyconsul_agent.sim.run import PROFILES, run_seed


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; 0 when every seed passed."""
    parser = argparse.ArgumentParser(prog="python -m pyconsul_agent.simulate", description=__doc__)
    parser.add_argument("--seed", type=int, default=1, help="the first seed")
    parser.add_argument("--seeds", type=int, default=1, help="how many, counted up from the first")
    parser.add_argument("--profile", choices=sorted(PROFILES), default="article")
    parser.add_argument("--history", metavar="FILE", help="write the last seed's operations as JSON lines")
    parser.add_argument("-v", "--verbose", action="store_true", help="print drawn options and every agent's log")
    parser.add_argument("-q", "--quiet", action="store_true", help="print failures and the closing line only")
    given = parser.parse_args(arguments)
    failed = 0
    for seed in range(given.seed, given.seed + given.seeds):
        outcome = run_seed(seed, PROFILES[given.profile], say=_say if given.verbose else None)
        if given.seeds == 1 and not given.verbose:
            print(outcome.drawn.text())
        failed += bool(outcome.failure)
        if outcome.failure or not given.quiet:
            print(outcome.line(), f"real={outcome.real_s:.1f}s", flush=True)
        if given.history:
            with open(given.history, "w", encoding="utf-8") as file:
                file.write(outcome.history.lines())
    print(f"{given.seeds - failed} passed, {failed} failed")
    return 1 if failed else 0


def _say(text: str) -> None:
    sys.stdout.write(text)


if __name__ == "__main__":
    sys.exit(main())
