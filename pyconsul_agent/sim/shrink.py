"""Finds a small set of faults that still makes a seed fail: fewer faults to read, the same seed otherwise.

Delta debugging (Zeller and Hildebrandt, 2002) over the positions of the drawn faults. The rest of the run changes when
a fault is left out, so what remains is a failure of that seed, not always the very same one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

TRIES_MAX = 200


def smallest(count: int, fails: Callable[[tuple[int, ...]], bool]) -> tuple[int, ...]:
    """Positions out of range(count) none of which can be left out alone; all of them fail to begin with.

    `fails` runs the seed with only these faults. Gives what was reached after TRIES_MAX runs if it takes more.
    """
    kept, parts, tries = tuple(range(count)), 2, 0
    if fails(()):
        return ()
    while len(kept) >= 2 and tries < TRIES_MAX:
        for rest in _without_each(kept, parts):
            tries += 1
            if fails(rest):
                kept, parts = rest, max(parts - 1, 2)
                break
        else:
            if parts >= len(kept):
                break
            parts = min(2 * parts, len(kept))
    return kept


def _without_each(positions: Sequence[int], parts: int) -> list[tuple[int, ...]]:
    """`positions` without the first, the second, ... of `parts` slices."""
    size = -(-len(positions) // parts)
    return [(*positions[:at], *positions[at + size :]) for at in range(0, len(positions), size)]
