"""What an agent tells about itself while it runs: the sections of `consul info`, and its log as it comes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping

from pyconsul_agent.agent.local import LocalState
from pyconsul_agent.app.machine import runtime_stats
from pyconsul_agent.telemetry.logging import LogStream, parse_level
from pyconsul_agent.version import CONSUL_REVISION, CONSUL_VERSION


def stats(state: LocalState, of_node: Mapping[str, Mapping[str, str]]) -> Mapping[str, Mapping[str, str]]:
    """The sections of `consul info`; `of_node` are those of the cluster side."""
    monitors = sum(entry.check.type not in ("ttl", "") for entry in state.checks.values())
    ttls = sum(entry.check.type == "ttl" for entry in state.checks.values())
    return {
        "agent": {
            "check_monitors": str(monitors),
            "check_ttls": str(ttls),
            "checks": str(len(state.live_checks())),
            "services": str(len(state.live_services())),
        },
        "build": {"prerelease": "", "revision": CONSUL_REVISION, "version": CONSUL_VERSION},
        "runtime": runtime_stats(len(asyncio.all_tasks())),
        **of_node,
    }


async def log_lines(logs: LogStream, level: str, *, json_lines: bool) -> AsyncIterator[bytes]:
    """The log from `level` on, a known one, until the reader goes away."""
    wake = asyncio.Event()
    number = parse_level(level)
    assert number is not None
    subscription = logs.monitor(format="json" if json_lines else "modern", level=number, wake=wake.set)
    try:
        while True:
            lines = subscription.take()
            if lines:
                yield "".join(f"{line}\n" for line in lines).encode("utf-8", "replace")
            else:
                await wake.wait()
                wake.clear()
    finally:
        logs.unmonitor(subscription)
