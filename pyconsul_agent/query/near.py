"""Sorting by network distance, from Vivaldi coordinates."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

from pyconsul_agent.structs.coordinate import DatacenterMap, VivaldiCoordinate

RowT = TypeVar("RowT")
CoordinateSet = Mapping[str, VivaldiCoordinate]
"""A node's coordinates by network segment."""


def distance_s(one: VivaldiCoordinate, other: VivaldiCoordinate) -> float:
    """Estimated round trip in seconds; infinite when the dimensions differ."""
    first, second = one.vec or (), other.vec or ()
    if len(first) != len(second):
        return math.inf
    raw = math.dist(first, second) + one.height + other.height
    adjusted = raw + one.adjustment + other.adjustment
    return adjusted if adjusted > 0.0 else raw


def between_s(one: CoordinateSet, other: CoordinateSet) -> float:
    """Distance in a segment that both sets know; infinite if there is none."""
    shared = sorted(set(one) & set(other))
    return distance_s(one[shared[0]], other[shared[0]]) if shared else math.inf


def sort_near(
    rows: Sequence[RowT],
    source: CoordinateSet,
    node_of: Callable[[RowT], str],
    coordinates_of: Callable[[str], CoordinateSet],
) -> list[RowT]:
    """`rows` by distance from `source`, unknown ones last, ties in their order."""
    if not source:
        return list(rows)
    distances = {name: between_s(source, coordinates_of(name)) for name in {node_of(row) for row in rows}}
    return sorted(rows, key=lambda row: distances[node_of(row)])


def nearest_datacenters(names: Sequence[str], here: VivaldiCoordinate, maps: Sequence[DatacenterMap]) -> list[str]:
    """`names` by the median distance to the servers of each; those without coordinates last, ties in their order."""
    known = {entry.datacenter: [row.coord for row in entry.coordinates or () if row.coord] for entry in maps}
    distances = {
        name: statistics.median_high([distance_s(here, other) for other in known.get(name) or ()] or [math.inf])
        for name in names
    }
    return sorted(names, key=lambda name: distances[name])
