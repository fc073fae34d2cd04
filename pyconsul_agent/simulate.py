"""`python -m pyconsul_agent.simulate`: whole clusters in virtual time, one run a seed; `--profile raft`: raft alone.

The same seed and the same code give the same digest in every process, on every machine with the same minor version of
Python.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from pyconsul_agent.sim import raft_harness
from pyconsul_agent.sim.run import PROFILES, Outcome, Profile, processor_s, run_seed
from pyconsul_agent.sim.shrink import smallest

RAFT = "raft"


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; 0 when every seed passed."""
    parser = argparse.ArgumentParser(prog="python -m pyconsul_agent.simulate", description=__doc__)
    parser.add_argument("--seed", type=int, default=1, help="the first seed")
    parser.add_argument("--seeds", type=int, default=1, help="how many, counted up from the first")
    parser.add_argument("--hours", type=float, default=0.0, help="go on with further seeds for so many simulated hours")
    parser.add_argument("--shrink", action="store_true", help="find the fewest faults with which a failing seed fails")
    parser.add_argument("--faults", type=_positions, help="perform only these of the drawn faults: 0,3,4")
    parser.add_argument("--profile", choices=[*sorted(PROFILES), RAFT], default="article")
    parser.add_argument("--history", metavar="FILE", help="write the last seed's operations as JSON lines")
    parser.add_argument("-v", "--verbose", action="store_true", help="print drawn options and every agent's log")
    parser.add_argument("-q", "--quiet", action="store_true", help="print failures and the closing line only")
    given = parser.parse_args(arguments)
    if given.profile == RAFT:
        if given.shrink or given.faults is not None or given.history:
            parser.error(f"--profile {RAFT} draws no faults and keeps no history")
        return _raft_alone(given.seed, given.seeds, given.hours)
    profile = PROFILES[given.profile]
    began = processor_s()
    failed = count = 0
    simulated_s = 0.0
    while count < given.seeds or simulated_s < given.hours * 3600:
        outcome = run_seed(given.seed + count, profile, say=_say if given.verbose else None, only=given.faults)
        count += 1
        simulated_s += outcome.virtual_s
        if given.seeds == 1 and not given.verbose and not given.hours:
            print(outcome.drawn.text())
        failed += bool(outcome.failure)
        if outcome.failure and given.shrink:
            outcome = _shrunk(outcome, profile)
        if outcome.failure or not given.quiet:
            print(outcome.line(), f"real={outcome.real_s:.1f}s", flush=True)
        if given.history:
            with open(given.history, "w", encoding="utf-8") as file:
                file.write(outcome.history.lines())
    return _close(count, failed, simulated_s, began)


def _close(count: int, failed: int, simulated_s: float, began: float) -> int:
    """The closing line. The speed is that of one processor, however many share it."""
    speed = simulated_s / max(processor_s() - began, 1e-9)
    print(f"{count - failed} passed, {failed} failed: {simulated_s / 3600:.1f} simulated hours, {speed:.0f}x real time")
    return 1 if failed else 0


def _raft_alone(first: int, seeds: int, hours: float) -> int:
    """Seeds of the raft cores without agents around them; only failures are told."""
    began, simulated_s, failed, count = processor_s(), 0.0, 0, 0
    while count < seeds or simulated_s < hours * 3600:
        try:
            simulated_s += raft_harness.run_seed(first + count).elapsed_s
        except AssertionError as error:  # the judge's, or one of the core's own
            failed += 1
            print(f"seed {first + count}: FAILED {type(error).__name__}: {error}", flush=True)
        count += 1
    return _close(count, failed, simulated_s, began)


def _positions(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(",") if part)


def _shrunk(outcome: Outcome, profile: Profile) -> Outcome:
    """The same seed with as few of its faults as still make it fail."""
    positions = range(len(outcome.drawn.plan)) if outcome.drawn.only is None else outcome.drawn.only
    chosen = tuple(positions)

    def fails(kept: tuple[int, ...]) -> bool:
        only = tuple(chosen[position] for position in kept)
        failing = bool(run_seed(outcome.seed, profile, only=only).failure)
        print(
            f"seed {outcome.seed}: {len(only)} of {len(chosen)} faults: {'fails' if failing else 'passes'}", flush=True
        )
        return failing

    kept = tuple(chosen[position] for position in smallest(len(chosen), fails))
    shrunk = run_seed(outcome.seed, profile, only=kept)
    print(shrunk.drawn.text())
    return shrunk


def _say(text: str) -> None:
    sys.stdout.write(text)


if __name__ == "__main__":
    sys.exit(main())
