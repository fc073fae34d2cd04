"""Scenario files of tests/scenarios/gossip: the whole trace is compared.

`python tests/unit/test_gossip_scenarios.py --rewrite` writes what comes now; review the diff.
"""

import sys
from pathlib import Path

import pytest

from pyconsul_agent.sim.gossip_script import GossipScript

FILES = sorted((Path(__file__).resolve().parents[1] / "scenarios" / "gossip").glob("*.txt"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_scenario_goes_as_written(path):
    text = path.read_text()
    assert GossipScript().run(text) == text


def test_there_are_scenarios():
    assert len(FILES) >= 20


if __name__ == "__main__" and "--rewrite" in sys.argv:
    for file in FILES:
        file.write_text(GossipScript().run(file.read_text()))
