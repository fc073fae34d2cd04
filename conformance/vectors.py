"""Replays every recorded vector of gossip, RPC, raft and the legacy RPC, in both directions.

Run as `python -m conformance.vectors [FOLDER]`; FOLDER has the layout of conformance/vectors, which is the default, or
is one of its area folders.
Closes with 'N passed, N failed, N skipped'; a skip names the message that has no code yet. Exit code 1 on a failure.
"""

from __future__ import annotations

import sys
import traceback
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from conformance import vectors_gossip, vectors_ipc, vectors_raft, vectors_rpc, vectors_serf, vectors_swim
from conformance.case import DEFAULT_FOLDER, Case, Mismatch, Skip

AREAS = {
    "gossip": (vectors_gossip.cases, vectors_serf.cases, vectors_swim.cases),
    "rpc": (vectors_rpc.cases,),
    "raft": (vectors_raft.cases,),
    "ipc": (vectors_ipc.cases,),
}


def all_cases(folder: Path = DEFAULT_FOLDER) -> Iterator[tuple[str, Case | Skip]]:
    """(area, case) of every vector in `folder`, which holds the areas or is one of them. A missing area has none."""
    areas = {area: folder / area for area in AREAS if (folder / area).is_dir()}
    if not areas and folder.resolve().name in AREAS:
        areas = {folder.resolve().name: folder}
    for area, of_area in areas.items():
        for source in AREAS[area]:
            for case in source(of_area):
                yield area, case


def main(arguments: list[str]) -> int:
    """Exit code of the program."""
    folder = Path(arguments[0]) if arguments else DEFAULT_FOLDER
    passed = failed = 0
    skipped: Counter[tuple[str, str]] = Counter()
    for area, case in all_cases(folder):
        if isinstance(case, Skip):
            skipped[area, case.message] += 1
        elif run_one(area, case):
            passed += 1
        else:
            failed += 1
    for (area, message), count in sorted(skipped.items()):
        print(f"skip  {area}: no code yet for {message}" + (f" ({count} vectors)" if count > 1 else ""))
    if not passed:
        print(f"nothing was compared in {folder}", file=sys.stderr)
    print(f"{passed} passed, {failed} failed, {skipped.total()} skipped")
    return 1 if failed or not passed else 0


def run_one(area: str, case: Case) -> bool:
    """Whether it passed; says why not."""
    try:
        case.check()
    except Mismatch as reason:
        print(f"FAIL  {area}: {case.name}: {reason}")
    except Exception:
        print(f"FAIL  {area}: {case.name}: {traceback.format_exc(limit=-3)}")
    else:
        return True
    return False


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
