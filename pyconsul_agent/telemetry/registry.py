"""Metrics in the shape of Consul's in-memory sink: gauges, counters and samples over intervals of 10 seconds.

Hot paths hold a `Series` (`registry.counter(...)`, `registry.samples(...)`) and call its `add`: some additions, no
look-up, nothing allocated. The rest may go by name (`count`, `sample`, `gauge`).

`display()` is the body of `/v1/agent/metrics`: the last complete interval. `prometheus()` is the text form, over the
whole life of the agent, with quantiles of the last ten seconds; what has not changed for the retention time is left
out, but for `declare`d names. Samples are kept for quantiles only when there is a retention time. Reads time only
through the functions that it is given; bounded by `SERIES_MAX`.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Protocol

from pyconsul_agent.telemetry import prometheus as text_format
from pyconsul_agent.telemetry.quantiles import QUANTILES, SLICE_S, Recent, Ticks

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
        if self.count == 0:
            self.lowest = self.highest = value
        elif value < self.lowest:
            self.lowest = value
        elif value > self.highest:
            self.highest = value
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


class Emit(Protocol):
    """Takes every single value as it is measured, for sinks outside; must be quick and never raise."""

    def __call__(self, kind: str, key: Key, value: float) -> None: ...


class Series:
    """One counter or one row of samples: the running interval and the whole life. `add` is for hot paths."""

    __slots__ = ("_emit", "current", "key", "kind", "life_count", "life_total", "recent", "touched")

    def __init__(self, kind: str, key: Key, emit: Emit | None, recent: Recent | None = None) -> None:
        self.kind = kind
        self.key = key
        self.current = Aggregate()
        self.life_count = 0
        self.life_total = 0.0
        self.touched = 0
        self.recent = recent
        self._emit = emit

    def add(self, value: float = 1.0) -> None:
        """Add to the counter, or take a sample (times are milliseconds)."""
        self.current.add(value)
        if self.recent is not None:
            self.recent.add(value)
        if self._emit is not None:
            self._emit(self.kind, self.key, value)

    def add_zeros(self, count: int) -> None:
        """Take so many samples of 0. Not emitted: they are counted because one by one would be too dear."""
        if count > 0:
            self.current.add(0.0)
            self.current.count += count - 1
            if self.recent is not None:
                self.recent.add_zeros(count)

    def take(self, start: int) -> Aggregate | None:
        """What came since the last `take`, if anything; it now counts for the whole life too."""
        taken = self.current
        if not taken.count:
            return None
        self.current = Aggregate()
        self.life_count += taken.count
        self.life_total += taken.total
        self.touched = start
        return taken


@dataclass(frozen=True, slots=True)
class Declared:
    """A name that Prometheus is shown from the start; `kind` is gauge, counter or summary."""

    name: str
    kind: str
    help: str


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
        retention_s: float = 0.0,
        declared: Sequence[Declared] = (),
        emit: Emit | None = None,
    ) -> None:
        self.dropped = 0
        self.retention_s = retention_s
        self._wall_ns = wall_ns
        self._prefix = prefix
        self._hostname = hostname
        self._declared = declared
        self._emit = emit
        self._intervals: deque[Interval] = deque(maxlen=INTERVALS_KEPT)
        self._series: dict[str, dict[Key, Series]] = {"c": {}, "ms": {}}
        self._gauges: dict[Key, tuple[float, int]] = {}
        self._ticks = Ticks()
        self._void = Series("c", ("", ()), None)
        """Takes what is filtered or too much."""
        self._filter_default = filter_default
        self.set_filter(prefix_filter)
        self._now()

    def set_filter(self, prefix_filter: Sequence[str]) -> None:
        """Replace the `+prefix` and `-prefix` rules (reload). The longest matching prefix decides.

        A `Series` that somebody holds goes on as it was judged when it was asked for; what is shown follows at once.
        """
        self._rules = sorted(((rule[1:], rule[:1] != "-") for rule in prefix_filter), key=lambda r: -len(r[0]))

    def counter(self, name: str, **labels: str) -> Series:
        """The counter of that name and labels, to be kept by whoever counts often."""
        return self._of("c", name, labels)

    def samples(self, name: str, **labels: str) -> Series:
        """The samples of that name and labels, to be kept by whoever measures often."""
        return self._of("ms", name, labels)

    def gauge(self, name: str, value: float, **labels: str) -> None:
        """Set a gauge. Carries the host name after the prefix, unless the registry was made without one."""
        if not self._allowed(name):
            return
        key = self._key(name, labels, host=True)
        interval = self._now()
        if key not in self._gauges and len(self._gauges) >= SERIES_MAX:
            self._forget_gauges(interval.start)
        if key not in self._gauges and len(self._gauges) >= SERIES_MAX:
            self.dropped += 1
            return
        self._gauges[key] = (value, interval.start)
        interval.gauges[key] = value
        if self._emit is not None:
            self._emit("g", key, value)

    def count(self, name: str, value: float = 1.0, **labels: str) -> None:
        """Add to a counter."""
        self._now()
        self._of("c", name, labels).add(value)

    def sample(self, name: str, value: float, **labels: str) -> None:
        """Take a sample; times are milliseconds."""
        self._now()
        self._of("ms", name, labels).add(value)

    def roll(self) -> None:
        """Begin a new interval if it is time. Somebody calls this each second: quantiles need it as often."""
        self._now()

    def display(self) -> dict[str, Any]:
        """The last complete interval, or the running one while there is no other."""
        running = self._now()
        return shown(self._intervals[-2]) if len(self._intervals) > 1 else shown(self._so_far(running))

    def completed(self, after: int) -> list[Interval]:
        """The complete intervals that are kept and began after second `after`, oldest first."""
        self._now()
        return [interval for interval in list(self._intervals)[:-1] if interval.start > after]

    def prometheus(self) -> str:
        """Everything since the start in Prometheus's text format."""
        oldest = self._now().start - (self.retention_s or math.inf)
        families = {
            text_format.plain_name(f"{self._prefix}.{each.name}"): text_format.Family(each.kind, each.help)
            for each in self._declared
        }

        def family(key: Key, kind: str) -> tuple[str, list[str]]:
            name = text_format.plain_name(key[0])
            return name, families.setdefault(name, text_format.Family(kind, name)).lines

        for key, (value, touched) in self._gauges.items():
            if touched >= oldest:
                name, lines = family(key, "gauge")
                lines.append(text_format.value_line(name, key[1], value))
        for kind, rows in self._series.items():
            for series in rows.values():
                running = series.current
                if not running.count and (series.touched < oldest or not series.life_count):
                    continue
                total, count = series.life_total + running.total, series.life_count + running.count
                name, lines = family(series.key, "counter" if kind == "c" else "summary")
                if kind == "c":
                    lines.append(text_format.value_line(name, series.key[1], total))
                else:
                    quantiles = series.recent.quantiles() if series.recent is not None else [math.nan] * len(QUANTILES)
                    lines += text_format.summary_lines(name, series.key[1], quantiles, total, count)
        return text_format.text(sorted(families.items()))

    def _now(self) -> Interval:
        second = self._wall_ns() // 1_000_000_000
        start = second // INTERVAL_S * INTERVAL_S
        self._ticks.now = second // SLICE_S
        if not self._intervals:
            self._intervals.append(Interval(start))
        elif self._intervals[-1].start != start:
            self._complete(self._intervals[-1])
            self._intervals.append(Interval(start))
        return self._intervals[-1]

    def _complete(self, interval: Interval) -> None:
        for kind, into in (("c", interval.counters), ("ms", interval.samples)):
            for key, series in self._series[kind].items():
                taken = series.take(interval.start)
                if taken is not None:
                    into[key] = taken

    def _so_far(self, running: Interval) -> Interval:
        counters, samples = (
            {key: series.current for key, series in self._series[kind].items() if series.current.count}
            for kind in ("c", "ms")
        )
        return Interval(running.start, running.gauges, counters, samples)

    def _of(self, kind: str, name: str, labels: Mapping[str, str]) -> Series:
        if not self._allowed(name):
            return self._void
        key = self._key(name, labels)
        rows = self._series[kind]
        series = rows.get(key)
        if series is None:
            if len(rows) >= SERIES_MAX:
                self.dropped += 1
                return self._void
            recent = Recent(self._ticks) if kind == "ms" and self.retention_s > 0 else None
            series = rows[key] = Series(kind, key, self._emit, recent)
        return series

    def _forget_gauges(self, now: int) -> None:
        """Room for new gauges: those that nobody has set for as long as intervals are kept go."""
        oldest = now - max(self.retention_s, INTERVAL_S * INTERVALS_KEPT)
        self._gauges = {key: entry for key, entry in self._gauges.items() if entry[1] >= oldest}

    def _allowed(self, name: str) -> bool:
        if not self._rules:
            return self._filter_default
        plain = f"{self._prefix}.{name}"
        return next((allow for prefix, allow in self._rules if plain.startswith(prefix)), self._filter_default)

    def _key(self, name: str, labels: Mapping[str, str], *, host: bool = False) -> Key:
        parts = [self._prefix, self._hostname if host else "", name]
        return ".".join(part for part in parts if part), tuple(sorted(labels.items()))


def shown(interval: Interval) -> dict[str, Any]:
    """An interval as `/v1/agent/metrics` shows it."""
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
