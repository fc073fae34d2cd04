"""The table of classic bugs in docs/reliability.md names every scenario, and each is where the table says."""

import re
from pathlib import Path

import pytest

from tests.mutants import MUTANTS

TESTS = Path(__file__).resolve().parents[1]
TABLE = (TESTS.parent / "docs" / "reliability.md").read_text().partition("## Classic bugs")[2].partition("\n## ")[0]
ROWS = [tuple(cell.strip() for cell in line.strip("|").split("|")) for line in TABLE.splitlines() if line[:4] == "| t_"]
ROOMS = ("raft", "gossip")


def functions(path):
    return re.findall(r"^(?:async )?def test_(t_\w+)\(", path.read_text(), flags=re.MULTILINE)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0])
def test_scenario_is_where_the_table_says(row):
    name, _, places, mutants = row
    assert places
    for place in places.split(", "):
        if place in ROOMS:
            assert (TESTS / "scenarios" / place / f"{name}.txt").is_file()
        else:
            assert any(name in found.split("_and_") for found in functions(TESTS / place)), place
    known = {mutant.name for mutant in MUTANTS}
    assert all(mutant in known for mutant in mutants.split(", ") if mutant)


def test_table_names_every_scenario_that_there_is_once():
    names = [row[0] for row in ROWS]
    assert len(set(names)) == len(names) >= 53
    there = {path.stem for room in ROOMS for path in (TESTS / "scenarios" / room).glob("t_*.txt")}
    for path in [*TESTS.glob("unit/*.py"), *TESTS.glob("sim/*.py")]:
        there |= {name for found in functions(path) for name in found.split("_and_")}
    assert there - set(names) <= OF_OUR_OWN, there - set(names)


OF_OUR_OWN = {"t_append_conflict", "t_leader_removes_itself", "t_slow_disk_election", "t_undecided_demotion"}
"""Rules of raft in the same form that are nobody's famous bug."""
