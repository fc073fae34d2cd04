"""Shell completion: the words that may follow, and the lines in the shells' start files."""

import io

import pytest

from pyconsul_agent.cli import completion
from pyconsul_agent.cli.main import main

PROGRAM = "/opt/with blank/bin/consul"


def complete(line, **environ):
    out = io.StringIO()
    assert main([], out=out, err=io.StringIO(), stdin=io.BytesIO(), environ={"COMP_LINE": line, **environ}) == 0
    return out.getvalue().split()


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("consul lo", ["lock"]),
        ("consul kv ", ["delete", "export", "get", "import", "put"]),
        ("consul kv g", ["get"]),
        ("consul operator raft ", ["list-peers", "remove-peer"]),
        ("consul kv get -rec", ["-recurse"]),
        ("consul kv get --rec", ["--recurse"]),
        ("consul kv get a ", []),
        ("consul members -wan ", []),
        ("consul -ver", ["-version"]),
        ("consul nonsense ", []),
        ("consul 'open quote", []),
    ],
)
def test_words_that_may_follow(line, words):
    assert complete(line) == words


def test_only_what_stands_before_the_cursor_counts():
    assert complete("consul kv get", COMP_POINT="9") == ["kv"]


def test_an_empty_line_offers_every_command():
    found = complete("consul ")
    assert {"members", "kv", "operator"} <= set(found)
    assert not [word for word in found if " " in word]


def test_install_writes_once_and_uninstall_takes_back(tmp_path):
    for name in (".bashrc", ".zshrc"):
        (tmp_path / name).write_text("alias x=y")
    (tmp_path / ".config" / "fish").mkdir(parents=True)
    environ, err = {"HOME": str(tmp_path)}, io.StringIO()

    assert completion.change(["-autocomplete-install"], environ, PROGRAM, err) == 0
    bash = (tmp_path / ".bashrc").read_text()
    assert bash.startswith("alias x=y\n")
    assert f"complete -C '{PROGRAM}' consul\n" in bash
    assert "bashcompinit" in (tmp_path / ".zshrc").read_text()
    fish = tmp_path / ".config" / "fish" / "completions" / "consul.fish"
    assert PROGRAM in fish.read_text()

    assert completion.change(["--autocomplete-install"], environ, PROGRAM, err) == 1
    assert "already installed" in err.getvalue()
    assert (tmp_path / ".bashrc").read_text() == bash

    assert completion.change(["-autocomplete-uninstall"], environ, PROGRAM, err) == 0
    assert (tmp_path / ".bashrc").read_text() == "alias x=y\n"
    assert not fish.exists()
    assert completion.change(["-autocomplete-uninstall"], environ, PROGRAM, err) == 1


def test_install_needs_a_program_and_a_shell(tmp_path):
    for environ, program, text in (
        ({}, PROGRAM, "HOME is not set"),
        ({"HOME": str(tmp_path)}, "/x/pyconsul_agent/__main__.py", "installed program"),
        ({"HOME": str(tmp_path)}, PROGRAM, "did not find any shells"),
    ):
        err = io.StringIO()
        assert completion.change(["-autocomplete-install"], environ, program, err) == 1
        assert text in err.getvalue()
