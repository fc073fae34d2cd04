"""The command line: enter namespaces of our own, run, print what came of it."""

from __future__ import annotations

import argparse
import asyncio
import os
import tempfile
from pathlib import Path

from scripts.torturing import inside
from scripts.torturing.faults import DECK, LASTS_S
from scripts.torturing.plant import PLANTS

DOC = "Three real servers in network namespaces, clients, seeded faults; then the history is judged."


def parsed(arguments: list[str]) -> argparse.Namespace:
    """The options."""
    parser = argparse.ArgumentParser(prog="scripts/torture", description=DOC)
    parser.add_argument("--seconds", type=float, default=120.0, help="of faults")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--rate", type=float, default=45.0, help="operations a second, about")
    parser.add_argument("--consul", default="", metavar="PATH", help="a real Consul in the place of one server")
    parser.add_argument("--kinds", default=",".join(DECK), help=f"faults, some {LASTS_S[0]} to {LASTS_S[1]} s long")
    parser.add_argument("--plant", choices=sorted(PLANTS), default="", help="spoil what the checkers see")
    parser.add_argument("--folder", default="", help="keeps history.jsonl and the servers' logs there")
    options = parser.parse_args(arguments)
    if unknown := set(options.kinds.split(",")) - set(DECK):
        parser.error(f"no such fault: {', '.join(sorted(unknown))}")
    return options


def main(words: list[str]) -> int:
    """The exit code."""
    options = parsed(words[1:])
    if not inside.is_inside():
        reason = inside.why_not()
        if reason:
            in_ci = os.environ.get("CI") == "true"
            print(f"{'FAIL' if in_ci else 'skip'} torture: {reason}")
            print("0 passed, 1 failed" if in_ci else "0 passed, 0 failed, 1 skipped")
            return int(in_ci)
        inside.enter(words)
    from scripts.torturing.run import Torture

    if options.folder:
        folder = Path(options.folder).resolve()
        folder.mkdir(parents=True, exist_ok=True)
        return asyncio.run(Torture(options, folder).run())
    with tempfile.TemporaryDirectory(prefix="torture-", ignore_cleanup_errors=True) as name:
        return asyncio.run(Torture(options, Path(name)).run())
