"""Every recorded vector of gossip, RPC and raft that has code; and the command that replays them."""

import pytest

from conformance import vectors
from conformance.case import DEFAULT_FOLDER, Case, Mismatch, Skip, same

CASES = [(area, case) for area, case in vectors.all_cases() if isinstance(case, Case)]
GROUPS = sorted({(area, case.name.split()[0]) for area, case in CASES})


@pytest.mark.parametrize("group", GROUPS, ids=" ".join)
def test_vectors(group):
    wrong = []
    for area, case in CASES:
        if (area, case.name.split()[0]) == group:
            try:
                case.check()
            except AssertionError as error:
                wrong.append(f"{case.name}: {error}")
    assert not wrong


def test_no_area_lost_its_vectors():
    counts = {area: sum(a == area for a, _ in CASES) for area in vectors.AREAS}
    assert counts["gossip"] >= 570
    assert counts["rpc"] >= 650
    assert counts["raft"] >= 1400


def test_the_folder_of_one_area_gives_the_cases_of_that_area():
    of_all = [case.name for area, case in CASES if area == "ipc"]
    of_one = list(vectors.all_cases(DEFAULT_FOLDER / "ipc"))
    assert {area for area, _ in of_one} == {"ipc"}
    assert [case.name for _, case in of_one if isinstance(case, Case)] == of_all


def fails():
    same(1, 2, "number")


def crashes():
    raise KeyError("x")


def test_the_command_counts_and_names_skips(monkeypatch, capsys, tmp_path):
    found = [("rpc", Case("good", lambda: None)), ("rpc", Skip("a", "ACLToken")), ("raft", Skip("b", "Intention"))]
    monkeypatch.setattr(vectors, "all_cases", lambda folder: iter(found))
    assert vectors.main([str(tmp_path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines == [
        "skip  raft: no code yet for Intention", "skip  rpc: no code yet for ACLToken",
        "1 passed, 0 failed, 2 skipped",
    ]  # fmt: skip


@pytest.mark.parametrize("check", [fails, crashes])
def test_the_command_fails_when_a_vector_does(monkeypatch, capsys, check):
    found = [("rpc", Case("good", lambda: None)), ("rpc", Case("bad", check))]
    monkeypatch.setattr(vectors, "all_cases", lambda folder: iter(found))
    assert vectors.main([]) == 1
    output = capsys.readouterr().out
    assert "FAIL  rpc: bad" in output
    assert output.endswith("1 passed, 1 failed, 0 skipped\n")


def test_a_folder_without_vectors_is_a_failure(tmp_path, capsys):
    assert vectors.main([str(tmp_path)]) == 1
    assert capsys.readouterr().out == "0 passed, 0 failed, 0 skipped\n"


def test_a_mismatch_shows_both_sides_in_short():
    with pytest.raises(Mismatch, match=r"text: ours is b'|text: ours is .* recorded is 62"):
        same(b"a" * 1000, b"b", "text")
