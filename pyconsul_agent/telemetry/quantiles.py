"""Quantiles of the samples of the last seconds, for Prometheus: a few hundred values a series, however many come.

Time goes by in slices. A slice keeps up to SLICE_VALUES values; when they are too many, every other one goes and from
then on only each 2nd, 4th, ... is kept, so that what is kept stays evenly spread over the slice. Pure.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

QUANTILES = (0.5, 0.9, 0.99)
SLICE_S = 2
SLICES = 5
"""Together the ten seconds that Consul's Prometheus sink looks back."""
SLICE_VALUES = 128


class Ticks:
    """The number of the slice that runs; whoever knows the time moves it on."""

    __slots__ = ("now",)

    def __init__(self) -> None:
        self.now = 0


class _Slice:
    __slots__ = ("number", "skip", "stride", "values", "zeros")

    def __init__(self, number: int) -> None:
        self.number = number
        self.stride = 1
        self.skip = 0
        self.values: list[float] = []
        self.zeros = 0


class Recent:
    """The samples of one series."""

    __slots__ = ("_slices", "_ticks")

    def __init__(self, ticks: Ticks) -> None:
        self._ticks = ticks
        self._slices: deque[_Slice] = deque(maxlen=SLICES)

    def add(self, value: float) -> None:
        """Take one sample."""
        running = self._running()
        if running.skip:
            running.skip -= 1
            return
        running.values.append(value)
        if len(running.values) >= SLICE_VALUES:
            running.values = running.values[::2]
            running.stride *= 2
        running.skip = running.stride - 1

    def add_zeros(self, count: int) -> None:
        """Take so many samples of 0."""
        self._running().zeros += count

    def _running(self) -> _Slice:
        now = self._ticks.now
        if not self._slices or self._slices[-1].number != now:
            self._slices.append(_Slice(now))
        return self._slices[-1]

    def quantiles(self, wanted: Sequence[float] = QUANTILES) -> list[float]:
        """The value at each quantile; NaN when nothing came of late."""
        oldest = self._ticks.now - SLICES
        weighed: list[tuple[float, int]] = []
        for each in self._slices:
            if each.number > oldest:
                weighed += [(value, each.stride) for value in each.values]
                if each.zeros:
                    weighed.append((0.0, each.zeros))
        weighed.sort()
        return [_at(weighed, quantile) for quantile in wanted]


def _at(weighed: Sequence[tuple[float, int]], quantile: float) -> float:
    rank = quantile * sum(weight for _, weight in weighed)
    passed = 0
    for value, weight in weighed:
        passed += weight
        if passed >= rank:
            return value
    return float("nan")
