"""The real-process torture's checkers are silent about right histories and find every planted fault."""

import random

import pytest

from scripts.torturing.judge import Circumstances, judge
from scripts.torturing.plant import PLANTS, planted
from tests.recorded_history import recorded

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
