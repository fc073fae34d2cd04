"""Runs scenarios by name: a scenario that dies is a failure, whether or not it had begun to count."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping

from conformance.agents import Checks
from conformance.real_consul import Missing, real_consul, report_missing

Scenario = Callable[[Checks, tuple[str, ...]], None]
"""Takes where to count and the command that starts the real Consul."""


def guarded(checks: Checks, work: Callable[[], object]) -> None:
    """Do it; an error that nobody has counted yet is counted here."""
    before = checks.failed
    try:
        work()
    except Exception as error:
        print(f"     {type(error).__name__}: {error}", flush=True)
        checks.failed += checks.failed == before


def run_scenarios(program: str, scenarios: Mapping[str, Scenario], arguments: list[str]) -> int:
    """The named scenarios, or all, beside a real Consul; the exit code."""
    unknown = [name for name in arguments if name not in scenarios]
    if unknown:
        print(f"no scenario {', '.join(unknown)}; there are {', '.join(scenarios)}", file=sys.stderr)
        return 2
    try:
        real = (real_consul(),)
    except Missing as reason:
        return report_missing(program, reason)
    for name in [key for key in os.environ if key.startswith("CONSUL_")]:
        del os.environ[name]  # addresses and tokens of whoever calls us are not for these agents
    checks = Checks()
    for name in arguments or scenarios:
        scenario = scenarios[name]
        print(f"=== {name}: {(scenario.__doc__ or '').splitlines()[0]}", flush=True)
        guarded(checks, lambda scenario=scenario: scenario(checks, real))
    return checks.close()
