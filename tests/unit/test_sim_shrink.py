"""Fewer faults, the same failure."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyconsul_agent import simulate
from pyconsul_agent.sim import raft_harness, run
from pyconsul_agent.sim.shrink import TRIES_MAX, smallest


@given(st.integers(1, 40), st.sets(st.integers(0, 39), max_size=4))
def test_what_remains_is_just_what_the_failure_needs(count, needed):
    needed = {position for position in needed if position < count}
    tried = []

    def fails(kept):
        tried.append(kept)
        return needed <= set(kept)

    assert set(smallest(count, fails)) == needed or len(tried) >= TRIES_MAX


def test_failure_that_needs_no_fault_needs_one_run():
    assert smallest(30, lambda kept: True) == ()


def test_the_search_is_bounded():
    tried = []

    def fails(kept):
        tried.append(kept)
        return len(kept) >= 299

    smallest(300, fails)
    assert len(tried) <= TRIES_MAX + 300


class Broken(run.SeedRun):
    """A cluster that cannot bear one kind of fault."""

    async def _all(self):
        if any(fault.kind == "kill" for fault in self.drawn.plan):
            raise run.Violation("killed")


@pytest.fixture
def broken(monkeypatch):
    monkeypatch.setattr(run, "SeedRun", Broken)
    profile = run.PROFILES["article"]
    return next(seed for seed in range(1, 50) if run.run_seed(seed, profile).failure)


def test_the_command_shrinks_a_failing_seed_and_says_how_to_replay_it(broken, capsys):
    assert simulate.main(["--seed", str(broken), "--shrink", "-q"]) == 1
    shown = capsys.readouterr().out
    assert "Violation: killed" in shown
    replay = next(line for line in shown.splitlines() if line.startswith("replay:"))
    position = int(replay.partition("--faults ")[2].split()[0])
    assert run.run_seed(broken, run.PROFILES["article"], only=(position,)).drawn.plan[0].kind == "kill"
    assert simulate.main(["--seed", str(broken), "--faults", "", "-q"]) == 0


def test_the_command_goes_on_for_the_hours_asked_for(monkeypatch, capsys):
    monkeypatch.setattr(run, "SeedRun", Broken)
    simulate.main(["--seed", "1", "--hours", "0", "--seeds", "2", "-q"])
    assert "simulated hours" in capsys.readouterr().out


def test_the_raft_profile_runs_seeds_of_the_cores_and_tells_the_failed_ones(monkeypatch, capsys):
    assert simulate.main(["--profile", "raft", "--seed", "1"]) == 0
    assert capsys.readouterr().out.startswith("1 passed, 0 failed: ")
    whole = raft_harness.run_seed

    def run_seed(seed):
        if seed == 2:
            raise AssertionError("lost")
        return whole(1)

    monkeypatch.setattr(raft_harness, "run_seed", run_seed)
    assert simulate.main(["--profile", "raft", "--seed", "1", "--seeds", "2"]) == 1
    failed, closing = capsys.readouterr().out.splitlines()
    assert failed.startswith("seed 2: FAILED AssertionError: lost") and closing.startswith("1 passed, 1 failed: ")


@pytest.mark.parametrize("option", [["--shrink"], ["--faults", ""], ["--history", "h"]])
def test_the_raft_profile_takes_no_option_that_it_would_ignore(option, capsys):
    with pytest.raises(SystemExit):
        simulate.main(["--profile", "raft", *option])
    assert "draws no faults" in capsys.readouterr().err
