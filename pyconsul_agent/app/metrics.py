"""The agent's metrics: the registry that the options ask for, what is read now and then, and the sinks outside."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Mapping

from pyconsul_agent.config.options import Telemetry as TelemetryOptions
from pyconsul_agent.env.base import Env
from pyconsul_agent.env.log import Log
from pyconsul_agent.errors import ConfigError
from pyconsul_agent.telemetry.instruments import Instruments
from pyconsul_agent.telemetry.meters import HTTPMeter, count_event
from pyconsul_agent.telemetry.names import DECLARED
from pyconsul_agent.telemetry.outlets import Outlet, Render, dogstatsd_line, statsd_line
from pyconsul_agent.telemetry.registry import INTERVAL_S, Interval, Key, Registry
from pyconsul_agent.version import CONSUL_VERSION

LAG_PROBE_S = 1.0

Gauges = Callable[[], Iterable[tuple[str, float, Mapping[str, str]]]]


class Metrics:
    """Owns the registry. `run` reads the gauges in each interval, until cancelled."""

    def __init__(self, options: TelemetryOptions, env: Env, log: Log, *, node: str) -> None:
        self._env = env
        self._outlets = outlets(options, env, log)
        with_host = not options.disable_hostname and (bool(self._outlets) or options.prometheus_retention_time > 0)
        self.registry = Registry(
            wall_ns=env.clock.wall_ns,
            prefix=options.metrics_prefix,
            # compat: Consul names the host only if metrics go somewhere
            hostname=env.hostname if with_host else "",
            prefix_filter=options.prefix_filter,
            filter_default=options.filter_default,
            retention_s=options.prometheus_retention_time,
            declared=DECLARED,
            emit=self._emit if self._outlets else None,
        )
        self.http = HTTPMeter(self.registry, node=node, names_of_1_9=not options.disable_compat_1_9)
        self.parts = Instruments(self.registry, node=node)
        self._lag_s = 0.0

    def count_event(self, name: str, fields: Mapping[str, object]) -> None:
        """A user-visible event was logged."""
        count_event(self.registry, name, fields)

    def _emit(self, kind: str, key: Key, value: float) -> None:
        for outlet in self._outlets:
            outlet.put(kind, key, value)

    async def run(self, gauges: Gauges) -> None:
        """Measure the loop each second, read the gauges once in an interval, feed the sinks."""
        async with asyncio.TaskGroup() as group:
            for outlet in self._outlets:
                group.create_task(outlet.run())
            group.create_task(self._watch(gauges))

    async def _watch(self, gauges: Gauges) -> None:
        now = self._env.clock.monotonic
        while True:
            self._read(gauges)
            due = now() + INTERVAL_S - self._env.clock.wall_ns() / 1e9 % INTERVAL_S
            while (left := due - now()) > 0:
                wanted = now() + min(LAG_PROBE_S, left)
                await asyncio.sleep(min(LAG_PROBE_S, left))
                self._lag_s = max(self._lag_s, now() - wanted)
                self.http.settle()
                self.parts.dns.settle()
                self.registry.roll()

    def _read(self, gauges: Gauges) -> None:
        registry, facts = self.registry, self._env.host.process()
        for name, value, labels in gauges():
            registry.gauge(name, value, **labels)
        registry.gauge("runtime.alloc_bytes", facts.resident_bytes)
        registry.gauge("runtime.sys_bytes", facts.virtual_bytes)
        registry.gauge("runtime.num_goroutines", facts.tasks)
        registry.gauge("runtime.heap_objects", facts.heap_objects)
        registry.gauge("runtime.malloc_count", facts.heap_objects + facts.freed_objects)
        registry.gauge("runtime.free_count", facts.freed_objects)
        registry.gauge("runtime.total_gc_pause_ns", facts.gc_pause_ns)
        registry.gauge("runtime.total_gc_runs", facts.gc_runs)
        registry.gauge("runtime.event_loop_lag_ms", round(self._lag_s * 1000, 3))
        for pause_ns in facts.gc_pauses_ns:
            registry.sample("runtime.gc_pause_ns", pause_ns)
        registry.gauge("version", 1, version=CONSUL_VERSION, pre_release="")
        self._lag_s = 0.0

    async def stream(self) -> AsyncIterator[Interval]:
        """Each interval when it is complete, the last one at once; until the reader goes away."""
        done = self.registry.completed(0)
        last = 0
        for interval in done[-1:]:
            last = interval.start
            yield interval
        while True:
            for interval in self.registry.completed(last):
                last = interval.start
                yield interval
            await asyncio.sleep(INTERVAL_S - self._env.clock.wall_ns() / 1e9 % INTERVAL_S)

    def close(self) -> None:
        """Let go of the process."""
        self._env.host.close()


def outlets(options: TelemetryOptions, env: Env, log: Log) -> tuple[Outlet, ...]:
    """The sinks outside that the options name. Raises ConfigError."""
    named = log.named("telemetry")
    made: list[Outlet] = []

    def add(address: str, render: Render, *, stream: bool = False) -> None:
        try:
            made.append(Outlet(address, render, env.net, env.resolver, named, stream=stream))
        except ValueError:
            raise ConfigError(f"telemetry: {address!r} is not host:port") from None

    if options.statsd_address:
        add(options.statsd_address, statsd_line)
    if options.statsite_address:
        add(options.statsite_address, statsd_line, stream=True)
    if options.dogstatsd_addr:
        hostname = "" if options.disable_hostname else env.hostname
        add(options.dogstatsd_addr, dogstatsd_line(options.dogstatsd_tags, hostname))
    return tuple(made)
