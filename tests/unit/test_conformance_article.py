"""The article check's own judgment: pattern order, the DNS decoder, what counts as a failure."""

import contextlib

from hypothesis import given
from hypothesis import strategies as st

from conformance import dns_query
from conformance.article import Report
from conformance.article_backend import Ports
from conformance.article_patterns import banner, info, missing


def test_patterns_are_found_in_order_with_other_lines_between():
    assert missing(["a", "x", "b"], ["^a$", "^b$"]) == ""


def test_a_line_that_comes_too_early_is_missing():
    assert "only earlier" in missing(["b", "a"], ["^a$", "^b$"])


def test_a_line_that_never_comes_is_missing():
    assert "nowhere" in missing(["a"], ["^a$", "^b$"])


def test_a_group_comes_in_any_order_but_before_what_follows():
    assert missing(["b", "a", "c"], [("^a$", "^b$"), "^c$"]) == ""
    assert missing(["b", "c", "a"], [("^a$", "^b$"), "^c$"]) != ""


def test_one_line_does_not_count_for_two_patterns_of_a_group():
    assert missing(["peer 1"], [("peer", r"peer \d")]) != ""
    assert missing(["peer 1", "peer 2"], [("peer", r"peer \d")]) == ""


def test_a_log_line_needs_the_whole_classic_form():
    assert missing(["    2026/11/23 01:02:56 [INFO] raft: x"], [info("raft: x")]) == ""
    assert missing(["2026/11/23 01:02:56 [INFO] raft: x"], [info("raft: x")]) != ""
    assert missing(["    2026/11/23 01:02:56 [INFO] raft: x (k=v)"], [info("raft: x")]) != ""


def test_the_banner_is_the_agents_own_classic_screen():
    from dataclasses import replace

    from pyconsul_agent.config.banner import banner as screen
    from pyconsul_agent.config.options import Options

    options = Options(node_name="n1", datacenter="dc1", server=True, bootstrap=True, log_format="classic")
    resolved = replace(options.resolved, client=("127.0.0.1",), advertise="127.0.0.1")
    lines = screen(replace(options, resolved=resolved), node_id="", encrypted=False).split("\n")
    assert missing(lines, banner("n1", server=True, bootstrap=True, ports=Ports())) == ""
    assert missing(lines, banner("n1", server=True, bootstrap=False, ports=Ports())) != ""


def test_dns_answer_is_read_as_dig_prints_it():
    packet = bytes.fromhex(
        "abcd8500000100010000000001"[:24]
        + "056e6f646531046e6f646506636f6e73756c0000010001"
        + "c00c00010001000000000004ac110002"
    )
    answer = dns_query.decode(packet)
    assert (answer.status, answer.flags) == ("NOERROR", {"qr", "aa", "rd"})
    assert answer.answers == [dns_query.Record("node1.node.consul.", "A", 0, "172.17.0.2")]
    assert answer.data() == ["172.17.0.2"]


def test_dns_status_is_named():
    assert dns_query.decode(bytes.fromhex("abcd85030000000000000000")).status == "NXDOMAIN"


@given(st.binary(max_size=200))
def test_any_bytes_are_an_answer_or_a_value_error(data):
    with contextlib.suppress(ValueError):
        dns_query.decode(data)


def test_a_step_that_does_not_hold_makes_the_exit_code(capsys):
    report = Report(color=False)
    assert report.step("1 good", lambda: None)

    def bad() -> None:
        raise AssertionError("because")

    assert not report.step("2 bad", bad)
    report.leave_out("3 absent", "not built")
    assert report.summary() == 1
    text = capsys.readouterr().out
    assert "held       1 good" in text
    assert "NOT HELD   2 bad\n           because" in text
    assert "left out   3 absent (not built)" in text
    assert "1 held, 1 NOT HELD, 1 left out" in text
