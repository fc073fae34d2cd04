"""The real-process torture's checkers are silent about right histories and find every planted fault."""

import random
from pathlib import Path

import pytest

from scripts.torturing.judge import Circumstances, judge
from scripts.torturing.plant import PLANTS, planted
from scripts.torturing.record import read_lines
from tests.recorded_history import recorded

RECORDED = Path(__file__).with_name("torture_history.jsonl")
"""Of real servers under faults: one generation of keys and one of locks."""
CALM = Circumstances(calm=[(0.0, 1000.0)])
GOOD = range(200)
SPOILED_EACH = 20


@pytest.mark.parametrize("block", range(4))
def test_nothing_is_found_in_right_histories(block):
    for seed in GOOD[block::4]:
        assert judge(recorded(seed), CALM) == [], f"seed {seed}"


@pytest.mark.parametrize("name", PLANTS)
def test_a_planted_fault_is_found_in_every_history_that_has_a_place_for_it(name):
    spoiled = 0
    for seed in range(300):
        operations = planted(name, recorded(seed), random.Random(seed))
        if operations is None:
            continue
        assert judge(operations, CALM), f"seed {seed}"
        spoiled += 1
        if spoiled == SPOILED_EACH:
            break
    assert spoiled == SPOILED_EACH


def real():
    with RECORDED.open() as file:
        return read_lines(file)[0]


def test_nothing_is_found_in_a_history_of_real_servers():
    assert len(real()) > 600
    assert judge(real(), Circumstances()) == []
    assert judge(real(), Circumstances(real="s1")) == []


@pytest.mark.parametrize("name", PLANTS)
def test_a_fault_planted_into_a_history_of_real_servers_is_found(name):
    for seed in range(5):
        operations = planted(name, real(), random.Random(seed))
        assert operations is not None
        assert judge(operations, Circumstances()), f"seed {seed}"


def test_a_default_read_may_be_old_where_a_real_consul_leads():
    operations = planted("stale-read", real(), random.Random(1))
    changed = next(each for each, before in zip(operations, real(), strict=True) if each != before)
    changed.mode = "default"
    assert judge(operations, Circumstances())
    assert judge(operations, Circumstances(real="s1")) == []
