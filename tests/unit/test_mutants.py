"""The table of mutants fits the code; that the tests notice them is proved by scripts/mutants."""

from pathlib import Path

import pytest

from tests.mutants import MUTANTS, SUITES

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_mutant_changes_one_place_of_a_program_that_still_compiles(mutant):
    text = (ROOT / "pyconsul_agent" / mutant.file).read_text(encoding="utf-8")
    assert text.count(mutant.old) == 1
    compile(text.replace(mutant.old, mutant.new), mutant.file, "exec")


def test_every_mutant_has_a_name_and_a_suite_of_tests():
    assert len({mutant.name for mutant in MUTANTS}) == len(MUTANTS) >= 30
    for mutant in MUTANTS:
        assert all((ROOT / "tests" / "unit" / f"{file}.py").exists() for file in SUITES[mutant.suite])
