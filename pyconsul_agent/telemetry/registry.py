"""Metrics in the shape of Consul's in-memory sink: gauges, counters and samples over intervals of 10 seconds.

`display()` is the body of `/v1/agent/metrics`: the last complete interval. `prometheus()` is the text form, over the
whole life of the agent. Reads time only through the functions that it is given; bounded by `SERIES_MAX`.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

INTERVAL_S = 10
INTERVALS_KEPT = 6
SERIES_MAX = 4096
"""Different (name, labels) of one kind in one interval; more are dropped and counted."""

Labels = tuple[tuple[str, str], ...]
Key = tuple[str, Labels]


@dataclass(slots=True)
class Aggregate:
    """A sum with what is needed for mean and deviation."""

    count: int = 0
    total: float = 0.0
    squares: float = 0.0
    lowest: float = 0.0
    highest: float = 0.0

    def add(self, value: float) -> None:
        """Take one value in."""
        self.lowest = value if self.count == 0 else min(self.lowest, value)
        self.highest = value if self.count == 0 else max(self.highest, value)
        self.count += 1
        self.total += value
        self.squares += value * value

    @property
    def mean(self) -> float:
        """The arithmetic mean, 0 without values."""
        return self.total / self.count if self.count else 0.0

    @property
    def deviation(self) -> float:
        """The sample standard deviation, 0 with fewer than two values."""
        if self.count < 2:
            return 0.0
        variance = (self.count * self.squares - self.total**2) / (self.count * (self.count - 1))
        return math.sqrt(max(variance, 0.0))


@dataclass(slots=True)
class Interval:
    """What happened in one interval; `start` in whole seconds of the wall clock."""

    start: int
    gauges: dict[Key, float] = field(default_factory=dict)
    counters: dict[Key, Aggregate] = field(default_factory=dict)
    samples: dict[Key, Aggregate] = field(default_factory=dict)


class Registry:
    """Where components put their numbers. Names come without the prefix: `raft.apply`."""

    def __init__(
        self,
        *,
        wall_ns: Callable[[], int],
        prefix: str = "consul",
        hostname: str = "",
        prefix_filter: Sequence[str] = (),
        filter_default: bool = True,
    ) -> None:
        self.dropped = 0
        self._wall_ns = wall_ns
        self._prefix = prefix
        self._hostname = hostname
        self._intervals: deque[Interval] = deque(maxlen=INTERVALS_KEPT)
        self._whole_life = Interval(0)
        self._filter_default = filter_default
        self.set_filter(prefix_filter)

    def set_filter(self, prefix_filter: Sequence[str]) -> None:
        """Replace the `+prefix` and `-prefix` rules (reload). The longest matching prefix decides."""
        self._rules = sorted(((rule[1:], rule[:1] != "-") for rule in prefix_filter), key=lambda r: -len(r[0]))

    def gauge(self, name: str, value: float, **labels: str) -> None:
        """Set a gauge. Carries the host name after the prefix, unless the registry was made without one."""
        key = self._key(name, labels, host=True)
        if key is not None:
            for interval in (self._now(), self._whole_life):
                if self._has_room(interval.gauges, key):
                    interval.gauges[key] = value

    def count(self, name: str, value: float = 1.0, **labels: str) -> None:
        """Add to a counter."""
        key = self._key(name, labels)
        if key is not None:
            for interval in (self._now(), self._whole_life):
                self._add(interval.counters, key, value)

    def sample(self, name: str, value: float, **labels: str) -> None:
        """Take a sample; times are milliseconds."""
        key = self._key(name, labels)
        if key is not None:
            for interval in (self._now(), self._whole_life):
                self._add(interval.samples, key, value)

    def display(self) -> dict[str, Any]:
        """The last complete interval, or the running one while there is no other."""
        self._now()
        interval = self._intervals[-2] if len(self._intervals) > 1 else self._intervals[-1]
        moment = datetime.fromtimestamp(interval.start, UTC)
        return {
            "Timestamp": f"{moment:%Y-%m-%d %H:%M:%S} +0000 UTC",
            "Gauges": [
                {"Name": name, "Value": value, "Labels": dict(labels)}
                for (name, labels), value in sorted(interval.gauges.items())
            ],
            "Points": [],
            "Counters": [_displayed(key, value) for key, value in sorted(interval.counters.items(), key=_by_key)],
            "Samples": [_displayed(key, value) for key, value in sorted(interval.samples.items(), key=_by_key)],
        }

    def prometheus(self) -> str:
        """Everything since the start in Prometheus's text format; samples are summaries without quantiles."""
        life, families = self._whole_life, dict[str, tuple[str, list[str]]]()

        def add(key: Key, kind: str, suffixes: Mapping[str, float]) -> None:
            name = "".join(c if c.isascii() and (c.isalnum() or c == "_") else "_" for c in key[0])
            lines = families.setdefault(name, (kind, []))[1]
            labels = ",".join(f'{label}="{_escaped(text)}"' for label, text in key[1])
            shown = f"{{{labels}}}" if labels else ""
            lines += [f"{name}{suffix}{shown} {value:g}" for suffix, value in suffixes.items()]

        for key, value in life.gauges.items():
            add(key, "gauge", {"": value})
        for key, total in life.counters.items():
            add(key, "counter", {"": total.total})
        for key, total in life.samples.items():
            add(key, "summary", {"_sum": total.total, "_count": total.count})
        return "".join(
            f"# HELP {name} {name}\n# TYPE {name} {kind}\n" + "".join(f"{line}\n" for line in lines)
            for name, (kind, lines) in sorted(families.items())
        )

    def _now(self) -> Interval:
        start = self._wall_ns() // 1_000_000_000 // INTERVAL_S * INTERVAL_S
        if not self._intervals or self._intervals[-1].start != start:
            self._intervals.append(Interval(start))
        return self._intervals[-1]

    def _key(self, name: str, labels: Mapping[str, str], *, host: bool = False) -> Key | None:
        parts = [self._prefix, self._hostname if host else "", name]
        full = ".".join(part for part in parts if part)
        plain = f"{self._prefix}.{name}"
        allowed = next((allow for prefix, allow in self._rules if plain.startswith(prefix)), self._filter_default)
        return (full, tuple(sorted(labels.items()))) if allowed else None

    def _has_room(self, series: Mapping[Key, object], key: Key) -> bool:
        if key in series or len(series) < SERIES_MAX:
            return True
        self.dropped += 1
        return False

    def _add(self, series: dict[Key, Aggregate], key: Key, value: float) -> None:
        if self._has_room(series, key):
            series.setdefault(key, Aggregate()).add(value)


def _by_key(item: tuple[Key, Aggregate]) -> Key:
    return item[0]


def _displayed(key: Key, value: Aggregate) -> dict[str, Any]:
    return {
        "Name": key[0],
        "Count": value.count,
        "Rate": value.total / INTERVAL_S,
        "Sum": value.total,
        "Min": value.lowest,
        "Max": value.highest,
        "Mean": value.mean,
        "Stddev": value.deviation,
        "Labels": dict(key[1]),
    }


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
