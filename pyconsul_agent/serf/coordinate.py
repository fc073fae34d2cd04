"""Vivaldi network coordinates: a point per node such that distances predict round-trip times.

Own position moves a little with every measured ping (Dabek et al. 2004, with height; adjustment term after Lee et al.
2010; a pull towards the origin against drift). Pure arithmetic: measuring is swim's, carrying is `wire.serf`'s. Seconds
everywhere. The order of the floating-point operations is part of the contract, vectors compare results.
"""

from __future__ import annotations

import math
import random
from array import array
from collections.abc import Sequence

from pyconsul_agent.structs.coordinate import VivaldiCoordinate

DIMENSIONS = 8
ERROR_MAX = 1.5
CE = 0.25
CC = 0.25
ADJUSTMENT_WINDOW = 20
HEIGHT_MIN = 10.0e-6
LATENCY_FILTER_SIZE = 3
GRAVITY_RHO = 150.0
RTT_MAX_S = 10.0
DISTANCE_NS_MAX = (1 << 63) - 1
"""A peer may claim to be so far away that squares overflow."""
ZERO = 1.0e-6
"""Below this a distance, round-trip time or error counts as nothing to divide by."""

NODES_MAX = 1 << 16
"""Nodes whose samples and coordinates are kept; a bound against name churn, far above any real pool."""


class CoordinateError(ValueError):
    """A measurement that is not used; the text says why."""


def new_coordinate() -> VivaldiCoordinate:
    """Where everybody starts: the origin, knowing nothing."""
    return VivaldiCoordinate(vec=(0.0,) * DIMENSIONS, error=ERROR_MAX, adjustment=0.0, height=HEIGHT_MIN)


def distance_s(a: VivaldiCoordinate, b: VivaldiCoordinate) -> float:
    """Estimated round-trip time in seconds, cut to whole nanoseconds. Raises CoordinateError on unlike dimensions."""
    return distance_ns(a, b) / 1e9


def distance_ns(a: VivaldiCoordinate, b: VivaldiCoordinate) -> int:
    """As `distance_s`, in nanoseconds."""
    if len(a.vec or ()) != len(b.vec or ()):
        raise CoordinateError("dimensions aren't compatible")
    raw = _raw_distance(a, b)
    adjusted = raw + a.adjustment + b.adjustment
    nanoseconds = (adjusted if adjusted > 0.0 else raw) * 1e9
    return int(nanoseconds) if abs(nanoseconds) < DISTANCE_NS_MAX else DISTANCE_NS_MAX  # also when it is no number


def is_valid(coordinate: VivaldiCoordinate) -> bool:
    """Whether every number in it is finite."""
    numbers = (*(coordinate.vec or ()), coordinate.error, coordinate.adjustment, coordinate.height)
    return all(math.isfinite(number) for number in numbers)


def _raw_distance(a: VivaldiCoordinate, b: VivaldiCoordinate) -> float:
    return _magnitude(_difference(a.vec or (), b.vec or ())) + a.height + b.height


def _difference(a: Sequence[float], b: Sequence[float]) -> list[float]:
    return [x - y for x, y in zip(a, b, strict=True)]


def _magnitude(vec: Sequence[float]) -> float:
    total = 0.0
    for x in vec:
        total += x * x
    return math.sqrt(total)


class CoordinateClient:
    """The local node's coordinate, its filters and what it last heard of others."""

    def __init__(self, rng: random.Random, start: VivaldiCoordinate | None = None) -> None:
        self._rng = rng
        self._me = start or new_coordinate()
        self._origin = new_coordinate()
        self._samples = [0.0] * ADJUSTMENT_WINDOW
        self._sample_index = 0
        self._latencies: dict[str, tuple[float, ...]] = {}
        self._cache: dict[str, array[float]] = {}  # as bare doubles: a third of the size
        self.resets = 0

    @property
    def coordinate(self) -> VivaldiCoordinate:
        """Where this node believes to be."""
        return self._me

    def cached(self, node: str) -> VivaldiCoordinate | None:
        """What `node` said last of itself."""
        numbers = self._cache.get(node)
        if numbers is None:
            return None
        error, adjustment, height, *vec = numbers
        return VivaldiCoordinate(vec=tuple(vec), error=error, adjustment=adjustment, height=height)

    def observe(self, node: str, other: VivaldiCoordinate, rtt_s: float) -> VivaldiCoordinate:
        """Update from a ping of `node`, and remember its coordinate. Raises CoordinateError, changing nothing."""
        if len(other.vec or ()) != len(self._me.vec or ()):
            raise CoordinateError("dimensions aren't compatible")
        if not is_valid(other) or not math.isfinite(_raw_distance(self._me, other)):
            raise CoordinateError("coordinate is invalid")
        if not 0.0 <= rtt_s <= RTT_MAX_S:
            raise CoordinateError(f"round trip time not in valid range, duration {rtt_s}s is not a positive value "
                                  f"less than {RTT_MAX_S}s")  # fmt: skip
        if node not in self._latencies and len(self._latencies) >= NODES_MAX:
            raise CoordinateError("too many nodes")
        rtt_s = self._filtered(node, rtt_s)
        self._vivaldi(other, rtt_s)
        self._adjust(other, rtt_s)
        self._gravity()
        if not is_valid(self._me):
            self.resets += 1
            self._me = new_coordinate()
        self._cache[node] = array("d", (other.error, other.adjustment, other.height, *(other.vec or ())))
        return self._me

    def forget(self, node: str) -> None:
        """`node` is gone from the pool."""
        self._latencies.pop(node, None)
        self._cache.pop(node, None)

    def _filtered(self, node: str, rtt_s: float) -> float:
        samples = self._latencies[node] = (*self._latencies.get(node, ()), rtt_s)[-LATENCY_FILTER_SIZE:]
        return sorted(samples)[len(samples) // 2]

    def _vivaldi(self, other: VivaldiCoordinate, rtt_s: float) -> None:
        distance = distance_s(self._me, other)
        rtt_s = max(rtt_s, ZERO)
        wrongness = abs(distance - rtt_s) / rtt_s
        total_error = max(self._me.error + other.error, ZERO)
        weight = self._me.error / total_error
        error = min(CE * weight * wrongness + self._me.error * (1.0 - CE * weight), ERROR_MAX)
        force = CC * weight * (rtt_s - distance)
        vec, height = self._pushed(force, other)
        self._me = VivaldiCoordinate(vec=vec, error=error, adjustment=self._me.adjustment, height=height)

    def _adjust(self, other: VivaldiCoordinate, rtt_s: float) -> None:
        self._samples[self._sample_index] = rtt_s - _raw_distance(self._me, other)
        self._sample_index = (self._sample_index + 1) % ADJUSTMENT_WINDOW
        total = 0.0
        for sample in self._samples:
            total += sample
        adjustment = total / (2.0 * ADJUSTMENT_WINDOW)
        me = self._me
        self._me = VivaldiCoordinate(vec=me.vec, error=me.error, adjustment=adjustment, height=me.height)

    def _gravity(self) -> None:
        distance = distance_s(self._origin, self._me)
        vec, height = self._pushed(-1.0 * (distance / GRAVITY_RHO) ** 2.0, self._origin)
        me = self._me
        self._me = VivaldiCoordinate(vec=vec, error=me.error, adjustment=me.adjustment, height=height)

    def _pushed(self, force: float, other: VivaldiCoordinate) -> tuple[tuple[float, ...], float]:
        unit, magnitude = self._direction(self._me.vec or (), other.vec or ())
        vec = tuple(x + u * force for x, u in zip(self._me.vec or (), unit, strict=True))
        height = self._me.height
        if magnitude > ZERO:
            height = max((height + other.height) * force / magnitude + height, HEIGHT_MIN)
        return vec, height

    def _direction(self, a: Sequence[float], b: Sequence[float]) -> tuple[list[float], float]:
        """Unit vector from `b` to `a`, and their distance; a random direction and 0 when they are at one place."""
        difference = _difference(a, b)
        magnitude = _magnitude(difference)
        if magnitude > ZERO:
            scale = 1.0 / magnitude
            return [x * scale for x in difference], magnitude
        somewhere = [self._rng.random() - 0.5 for _ in a]
        length = _magnitude(somewhere)
        if length > ZERO:
            scale = 1.0 / length
            return [x * scale for x in somewhere], 0.0
        return [1.0] + [0.0] * (len(a) - 1), 0.0
