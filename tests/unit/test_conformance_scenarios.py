"""A scenario that dies is counted as a failure, once."""

import pytest

from conformance import scenarios
from conformance.agents import Checks


def dies(checks, real):
    """Before it has counted anything."""
    raise OSError("no address")


def counts_and_dies(checks, real):
    """As `cluster` does."""
    checks.note("step", False)
    raise OSError("later")


def holds(checks, real):
    """Well."""
    checks.note("step", True)


@pytest.mark.parametrize(
    ("scenario", "line", "code"),
    [(dies, "1 passed, 1 failed", 1), (counts_and_dies, "1 passed, 1 failed", 1), (holds, "2 passed, 0 failed", 0)],
)
def test_exit_code_tells_of_a_scenario_that_died(monkeypatch, capsys, scenario, line, code):
    monkeypatch.setattr(scenarios, "real_consul", lambda: "consul")
    assert scenarios.run_scenarios("x", {"good": holds, "other": scenario}, []) == code
    assert capsys.readouterr().out.splitlines()[-1] == line


def test_unknown_scenario_is_refused(capsys):
    assert scenarios.run_scenarios("x", {"good": holds}, ["bad"]) == 2
    assert "there are good" in capsys.readouterr().err


def test_failure_is_not_counted_twice():
    checks = Checks()
    scenarios.guarded(checks, lambda: counts_and_dies(checks, ()))
    assert checks.failed == 1
