"""Check definitions and results: what may run, under which id, and when a result shows."""

import asyncio

import pytest

from pyconsul_agent.agent.checks.definition import type_of, validate, with_ids
from pyconsul_agent.agent.checks.runners import TTLTimer, alias_result
from pyconsul_agent.agent.checks.status import Thresholds
from pyconsul_agent.structs.base import duration
from pyconsul_agent.structs.catalog import CheckType
from pyconsul_agent.structs.health import HealthCheck
from tests.builders import run_sim

TEN = duration(10)


@pytest.mark.parametrize(
    ("check", "problem"),
    [
        (CheckType(ttl=TEN), ""),
        (CheckType(http="http://x", interval=TEN), ""),
        (CheckType(alias_service="x"), ""),
        (CheckType(alias_service="x", interval=TEN), ""),
        (CheckType(ttl=TEN, interval=TEN), "Interval and TTL cannot both be specified"),
        (CheckType(http="http://x"), "Interval must be > 0 for Script, HTTP, H2PING, or TCP checks"),
        (CheckType(alias_service="x", tcp="y:1", interval=TEN), "Interval cannot be set for Alias checks"),
        (CheckType(alias_service="x", ttl=TEN), "TTL must be not be set for Alias checks"),
        (CheckType(), "TTL must be > 0 for TTL checks"),
        (CheckType(ttl=TEN, output_max_size=-1), "MaxOutputMaxSize must be positive"),
    ],
)
def test_what_may_run(check, problem):
    assert validate(check) == problem


def test_types_have_their_order():
    assert type_of(CheckType(grpc="x", http="y")) == "grpc"
    assert type_of(CheckType(http="y", ttl=TEN)) == "http"
    assert type_of(CheckType(docker_container_id="d", script_args=("a",))) == "docker"


def test_ids_of_a_services_checks():
    one = with_ids([CheckType(ttl=TEN)], "web1", "web")
    assert [(c.check_id, c.name) for c in one] == [("service:web1", "Service 'web' check")]
    several = with_ids([CheckType(ttl=TEN), CheckType(check_id="own"), CheckType(ttl=TEN)], "web1", "web")
    assert [c.check_id for c in several] == ["service:web1:1", "own", "service:web1:3"]


def shown(thresholds, results):
    return "".join("x" if thresholds.shows(result) else "." for result in results)


def test_without_thresholds_every_result_shows():
    assert shown(Thresholds(), ["passing", "critical", "warning"]) == "xxx"


def test_the_first_result_always_shows_and_then_counts_must_be_reached():
    critical, passing = "critical", "passing"
    assert shown(Thresholds(2, 2), [critical, passing, passing, passing, critical, critical, critical]) == "x..x..x"


def test_an_alias_has_the_worst_of_its_checks():
    rows = [HealthCheck(name="w", status="warning", output="o"), HealthCheck(name="c", status="critical", output="p")]
    assert alias_result("s", True, rows).output == 'Aliased check "c" failing: p'
    assert alias_result("s", True, rows[:1]).status == "warning"
    assert alias_result("s", True, []).output == "No checks found."
    assert alias_result("s", False, []).output == "Service s could not be found on node "
    assert alias_result("s", False, [], node="n").output == "Service s could not be found on node n"


def test_a_silent_ttl_check_turns_critical_once_and_speaking_restarts_it():
    async def scenario(world):
        reports = []
        timer = TTLTimer(CheckType(check_id="c", ttl=TEN), lambda *report: reports.append((world.loop.time(), report)))
        begin = world.loop.time()
        task = asyncio.create_task(timer.run())
        await asyncio.sleep(9)
        timer.update("passing", "x" * 5000)
        await asyncio.sleep(100)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        (_, first), (at, second) = reports
        assert first[2].endswith(" ... (captured 4096 of 5000 bytes)")
        assert at - begin == pytest.approx(19)
        assert second[1] == "critical"
        assert second[2].startswith("TTL expired (last output before timeout follows): xxx")

    run_sim(1, scenario)
