"""The judge of recorded command lines: it lets pass what may vary, and nothing else."""

import os
import socket
from pathlib import Path

import pytest

from conformance import cli
from conformance.cli_compare import Result, problems

TABLE = {"name": "x", "argv": ["consul", "members"], "exit": 0, "stdout": "Node  DC\na     dc1\n", "stderr": ""}


def judged(run, code=0, out="", err="", folder="."):
    return problems(
        {"name": "x", "exit": 0, "stdout": "", "stderr": "", **run}, Result(code, out, err, Path(folder)), "h"
    )


def test_equal_output_passes_and_each_difference_is_named():
    assert judged(TABLE, out=TABLE["stdout"]) == []
    assert judged(TABLE, 1, TABLE["stdout"])[0].startswith("exit code 1")
    assert judged(TABLE, out=TABLE["stdout"].rstrip())
    assert judged(TABLE, out=TABLE["stdout"], err="warning\n")


def test_marked_parts_vary_and_their_surroundings_do_not():
    run = {
        "argv": ["consul", "kv"],
        "stdout": "index 5 of a\n",
        "varies": [{"in": "stdout", "kind": "index", "regex": r"index \d+", "example": ""}],
    }
    assert judged(run, out="index 77 of a\n") == []
    assert judged(run, out="index 77 of b\n")
    assert judged(run, out="index x of a\n")


def test_our_own_usage_text_follows_the_recorded_head():
    run = {"argv": ["consul", "members"], "stderr": "flag provided\nUsage:\n{{USAGE}}\n"}
    assert judged(run, err="flag provided\nUsage:\n\n  -x\n") == []
    assert judged(run, err="flag provided\nUsage:\n")  # none at all
    assert judged(run, err="flag given\nUsage:\n\n  -x\n")


def test_lines_of_several_nodes_come_in_any_order_elsewhere_not():
    for command, good in (("exec", True), ("kv", False)):
        run = {"argv": ["consul", command], "stdout": "a\nb\n"}
        assert (judged(run, out="b\na\n") == []) is good


LOG = "==> Starting\n\n==> Log data will now stream in as it occurs:\n\n"
LINE = "2026-11-22T22:12:49.181Z [INFO]  agent: Consul agent running!\n"


def test_a_log_has_the_banner_the_form_and_the_lines_that_users_wait_for():
    run = {"argv": ["consul", "agent"], "stdout": LOG + LINE + "{{MORE LOG LINES}}"}
    other = "2026-11-22T22:12:49.181Z [DEBUG] agent.server: our own words\n"
    assert judged(run, out=LOG + other + LINE) == []
    assert judged(run, out=LOG + other)
    assert judged(run, out=LOG + LINE + "print\n")
    assert judged(run, out=LOG.replace("Starting", "starting") + LINE)


def test_counters_of_info_vary_and_their_names_do_not():
    run = {"argv": ["consul", "info"], "stdout": "agent:\n\tchecks = 0\nraft:\n\tterm = 2\n\tstate = Leader\n"}
    assert judged(run, out="agent:\n\tchecks = 0\nraft:\n\tterm = 9\n\tstate = Leader\n") == []
    assert judged(run, out="agent:\n\tchecks = 1\nraft:\n\tterm = 2\n\tstate = Leader\n")
    assert judged(run, out="agent:\n\tchecks = 0\nraft:\n\tera = 2\n\tstate = Leader\n")


def test_files_must_be_there_with_their_mode(tmp_path):
    run = {"argv": ["consul", "tls"], "files": {"k.pem": {"mode": "0o600", "text": "-----BEGIN X-----\nabc"}}}
    assert judged(run, folder=tmp_path) == ["file k.pem was not written"]
    path = tmp_path / "k.pem"
    path.write_text("-----BEGIN X-----\nother")
    path.chmod(0o644)
    assert len(judged(run, folder=tmp_path)) == 1
    path.chmod(0o600)
    assert judged(run, folder=tmp_path) == []


def test_every_run_that_must_pass_is_recorded_and_can_be_made():
    runs = {run["name"]: run for run in cli.load(cli.GOLDEN)}
    assert cli.listed() <= set(runs)
    assert not [name for name in cli.listed() if cli.why_not(runs[name])]


@pytest.mark.parametrize("setup", ["cluster", "acl"])
def test_runs_that_end_agents_come_last(setup):
    names = [run["name"] for run in cli.load(cli.GOLDEN) if run["setup"] == setup]
    last = [name for name in names if name in cli.LAST[setup]]
    assert names[-len(last) :] == last
    assert last == [name for name in cli.LAST[setup] if name in names]


def test_a_monitor_is_ended_only_when_it_is_connected(tmp_path):
    run = {"argv": ["consul", "monitor"], "stdout": "", "stderr": ""}
    with open(tmp_path / "out", "w+b") as out:
        assert not cli._under_way(run, out, out, 2**22 + 1)  # no such process
        with socket.socket():
            assert cli._under_way(run, out, out, os.getpid())
        watch = {**run, "argv": ["consul", "watch"]}
        assert cli._under_way(watch, out, out, 0)
        assert not cli._under_way({**watch, "stderr": "Error"}, out, out, 0)
