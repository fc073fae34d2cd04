from datetime import UTC, timedelta, timezone

import pytest

from pyconsul_agent.telemetry import events
from pyconsul_agent.telemetry.logging import INFO, MONITOR_LINES_MAX, TRACE, LogStream

WALL_NS = 1795385651_882_345_999  # 2026-11-22T22:14:11.882345999Z
PEER = {"peer_id": "11", "address": "10.0.0.1:8300"}

# event, fields, classic text after the stamp (None: not in the log), modern text after the stamp; role server
TABLE = [
    ("expect_warning", {"count": 3}, None, "[WARN]  agent: bootstrap_expect > 0: expecting 3 servers"),
    ("bootstrap_warning", {}, None, "[WARN]  agent: bootstrap = true: do not enable unless necessary"),
    ("agent_running", {}, None, "[INFO]  agent: Consul agent running!"),
    (
        "member_event",
        {"pool": "lan", "kind": "join", "name": "n", "address": "1.2.3.4"},
        "[INFO] serf: EventMemberJoin: n 1.2.3.4",
        "[INFO]  agent.server.serf.lan: serf: EventMemberJoin: n 1.2.3.4",
    ),
    (
        "rejoin_attempt",
        {"pool": "lan", "name": "n", "address": "1.2.3.4:8301"},
        "[INFO] serf: Attempting re-join to previously known node: n: 1.2.3.4:8301",
        "[INFO]  agent.server.serf.lan: serf: Attempting re-join to previously known node: n: 1.2.3.4:8301",
    ),
    (
        "server_added",
        {"pool": "lan", "name": "n", "address": "1.2.3.4:8300", "datacenter": "dc1"},
        "[INFO] consul: adding server n (Addr: 1.2.3.4:8300) (DC: dc1)",
        '[INFO]  agent.server: Adding LAN server: server="n (Addr: tcp/1.2.3.4:8300) (DC: dc1)"',
    ),
    (
        "server_removed",
        {"pool": "wan", "name": "n.dc1", "address": "1.2.3.4:8300", "datacenter": "dc1"},
        "[INFO] consul: removing server n.dc1 (Addr: 1.2.3.4:8300) (DC: dc1)",
        "[INFO]  agent.server: Handled event for server in area: event=member-leave server=n.dc1 area=wan",
    ),
    (
        "raft_follower",
        {"address": "a:1", "leader": ""},
        "[INFO] raft: Node at a:1 [Follower] entering Follower state",
        '[INFO]  agent.server.raft: entering follower state: follower="Node at a:1 [Follower]" leader=',
    ),
    (
        "raft_candidate",
        {"address": "a:1", "term": 2},
        "[INFO] raft: Node at a:1 [Candidate] entering Candidate state",
        '[INFO]  agent.server.raft: entering candidate state: node="Node at a:1 [Candidate]" term=2',
    ),
    (
        "raft_leader",
        {"address": "a:1"},
        "[INFO] raft: Node at a:1 [Leader] entering Leader state",
        '[INFO]  agent.server.raft: entering leader state: leader="Node at a:1 [Leader]"',
    ),
    (
        "raft_no_peers",
        {},
        "[WARN] raft: EnableSingleNode disabled, and no known peers. Aborting election.",
        "[WARN]  agent.server.raft: no known peers, aborting election",
    ),
    (
        "raft_bootstrap",
        {"peers": ["a", "b"]},
        "[INFO] consul: Attempting bootstrap with nodes: [a b]",
        "[INFO]  agent.server: Found expected number of peers, attempting bootstrap: peers=a,b",
    ),
    (
        "raft_election_start",
        {"last_leader": "a:1"},
        "[WARN] raft: Heartbeat timeout reached, starting election",
        "[WARN]  agent.server.raft: heartbeat timeout reached, starting election: last-leader=a:1",
    ),
    (
        "raft_election_again",
        {},
        "[WARN] raft: Election timeout reached, restarting election",
        "[WARN]  agent.server.raft: Election timeout reached, restarting election",
    ),
    (
        "raft_election_won",
        {"tally": 2},
        "[INFO] raft: Election won. Tally: 2",
        "[INFO]  agent.server.raft: election won: tally=2",
    ),
    (
        "raft_vote_refused",
        {"candidate": "a", "leader": "b"},
        "[WARN] raft: Rejecting vote from a since we have a leader: b",
        "[WARN]  agent.server.raft: rejecting vote request since we have a leader: from=a leader=b",
    ),
    (
        "raft_duplicate_vote",
        {"term": 4},
        "[INFO] raft: Duplicate RequestVote for same term: 4",
        "[INFO]  agent.server.raft: duplicate requestVote for same term: term=4",
    ),
    (
        "leadership_lost",
        {},
        "[INFO] consul: cluster leadership lost",
        "[INFO]  agent.server: cluster leadership lost",
    ),
    (
        "leader_elected",
        {"node": "server3"},
        "[INFO] consul: New leader elected: server3",
        "[INFO]  agent.server: New leader elected: payload=server3",
    ),
    (
        "raft_pipelining",
        PEER,
        "[INFO] raft: pipelining replication to peer 10.0.0.1:8300",
        '[INFO]  agent.server.raft: pipelining replication: peer="{Voter 11 10.0.0.1:8300}"',
    ),
    (
        "raft_pipeline_aborted",
        PEER,
        "[INFO] raft: aborting pipeline replication to peer 10.0.0.1:8300",
        '[INFO]  agent.server.raft: aborting pipeline replication: peer="{Voter 11 10.0.0.1:8300}"',
    ),
    (
        "raft_peer_removed",
        {**PEER, "last_index": 9},
        "[INFO] raft: Removed peer 10.0.0.1:8300, stopping replication (Index: 9)",
        "[INFO]  agent.server.raft: removed peer, stopping replication: peer=11 last-index=9",
    ),
    (
        "member_alive",
        {"name": "n"},
        "[INFO] consul: member 'n' joined, marking health alive",
        "[INFO]  agent.server: member joined, marking health alive: member=n",
    ),
    (
        "member_left",
        {"name": "n"},
        "[INFO] consul: member 'n' left, deregistering",
        "[INFO]  agent.server: deregistering member: member=n reason=left",
    ),
    (
        "member_reaped",
        {"name": "n"},
        "[INFO] consul: member 'n' reaped, deregistering",
        "[INFO]  agent.server: deregistering member: member=n reason=reaped",
    ),
    ("synced_service", {"id": "x"}, "[INFO] agent: Synced service 'x'", "[INFO]  agent: Synced service: service=x"),
    (
        "sync_failed",
        {"error": "No cluster leader"},
        "[ERR] agent: failed to sync remote state: No cluster leader",
        '[ERROR] agent.anti_entropy: failed to sync remote state: error="No cluster leader"',
    ),
    ("signal", {"name": "terminated"}, None, "[INFO]  agent: Caught: signal=terminated"),
    ("exit_code", {"code": 0}, None, "[INFO]  agent: Exit code: code=0"),
    (
        "leave_start",
        {"mode": "client"},
        "[INFO] consul: client starting leave",
        "[INFO]  agent.client: client starting leave",
    ),
    (
        "shutdown_without_leave",
        {},
        "[WARN] serf: Shutdown without a Leave",
        "[WARN]  agent.server.serf.lan: serf: Shutdown without a Leave",
    ),
    (
        "suspect",
        {"name": "n"},
        "[INFO] memberlist: Suspect n has failed, no acks received",
        "[INFO]  agent.server.memberlist.lan: memberlist: Suspect n has failed, no acks received",
    ),
    (
        "marked_failed",
        {"name": "n", "confirmations": 1},
        "[INFO] memberlist: Marking n as failed, suspect timeout reached",
        "[INFO]  agent.server.memberlist.lan: memberlist: Marking n as failed, suspect timeout reached "
        "(1 peer confirmations)",
    ),
    (
        "ipc_client",
        {"address": "127.0.0.1:1"},
        "[INFO] agent.rpc: Accepted client: 127.0.0.1:1",
        "[INFO]  agent.rpc: Accepted client: client=127.0.0.1:1",
    ),
]


def stream(**options):
    out = []
    options.setdefault("zone", UTC)
    return LogStream(write=out.append, wall_ns=lambda: WALL_NS, **options), out


@pytest.mark.parametrize(("event", "fields", "classic", "modern"), TABLE, ids=[row[0] for row in TABLE])
def test_event_has_both_texts(event, fields, classic, modern):
    old, old_out = stream(format="classic")
    new, new_out = stream()
    old.logger().event(event, **fields)
    new.logger().event(event, **fields)
    lines = [line for line in "".join(old_out).splitlines() if not line.startswith("==> ")]
    assert lines == ([] if classic is None else [f"    2026/11/22 22:14:11 {classic}"])
    assert new_out == [f"2026-11-22T22:14:11.882Z {modern}\n"]


def test_every_event_that_components_may_name_is_in_the_table():
    import re

    from pyconsul_agent.env import log

    listed = re.findall(r"\b([a-z]+(?:_[a-z]+)*)(?:\([^)]*\))?", log.__doc__.split("Names::")[1])
    assert sorted(set(listed)) == events.names()


def test_json_has_sorted_keys_and_microseconds():
    log, out = stream(format="json")
    log.logger("agent.server.raft").info("initial configuration", servers="[{a <b>}]", index=1, ok=True)
    assert out == [
        '{"@level":"info","@message":"initial configuration","@module":"agent.server.raft",'
        '"@timestamp":"2026-11-22T22:14:11.882345Z","index":1,"ok":true,"servers":"[{a \\u003cb\\u003e}]"}\n'
    ]


def test_zone_offset_is_printed():
    log, out = stream(zone=timezone(timedelta(hours=-3, minutes=-30)))
    log.logger().info("x")
    assert out == ["2026-11-22T18:44:11.882-03:30 [INFO]  agent: x\n"]


def test_values_with_blanks_are_quoted_and_inner_quotes_stay():
    log, out = stream()
    log.logger().info("m", a='say "x" now', b="p=1", c="", d=["x", "y"], event="e")
    assert out[0].endswith(': m: a="say "x" now" b="p=1" c= d="[x y]" event=e\n')


def test_multi_line_value_cannot_start_a_line_of_its_own():
    log, out = stream()
    log.logger().info("m", error="one\n2026-11-22T22:14:11.882Z [INFO]  agent: forged")
    assert out[0].splitlines()[1:3] == ["  error=", "  | one"]
    assert all(line.startswith("  ") for line in out[0].splitlines()[1:])


@pytest.mark.parametrize("format", ["modern", "classic", "json"])
def test_control_characters_never_reach_the_console(format):
    log, out = stream(format=format)
    log.logger().event("member_event", pool="lan", kind="join", name="a\n\x1b[2J\u2028b\u202e", address="\r1")
    text = "".join(out)
    assert text.count("\n") == 1
    assert not any(character in text for character in "\x1b\r\u2028")


def test_lines_are_held_until_release_and_console_lines_are_not():
    log, out = stream(format="classic", held=True)
    log.logger().event("join_start", pool="lan", addresses=["10.0.0.1"])
    log.logger().event("join_done", pool="lan", count=1)
    assert out == ["==> Joining cluster...\n", "    Join completed. Synced with 1 initial agents\n"]
    log.release()
    assert out[2:] == [
        "    2026/11/22 22:14:11 [INFO] agent: (LAN) joining: [10.0.0.1]\n",
        "    2026/11/22 22:14:11 [INFO] agent: (LAN) joined: 1 Err: <nil>\n",
    ]
    log.logger().event("join_start", pool="lan", addresses=["10.0.0.1"])
    assert len(out) == 5, "after the start-up screen a join is only logged"


def test_warning_lines_of_the_classic_console_have_their_own_writer():
    warnings = []
    log, out = stream(format="classic", held=True, write_warning=warnings.append)
    log.logger().event("expect_warning", count=3)
    assert (out, warnings) == ([], ["==> WARNING: Expect Mode enabled, expecting 3 servers\n"])


def test_level_filters_the_console_but_not_a_finer_monitor():
    log, out = stream()
    woken = []
    monitor = log.monitor(format="classic", level=TRACE, wake=lambda: woken.append(1))
    log.logger("agent.server").trace("fine", a=1)
    assert out == []
    assert monitor.take() == ["2026/11/22 22:14:11 [TRACE] consul: fine (a=1)"]
    assert woken == [1]
    log.unmonitor(monitor)
    log.logger().error("later")
    assert monitor.take() == []


def test_slow_monitor_loses_lines_and_counts_them():
    log, _ = stream()
    monitor = log.monitor(format="modern", level=INFO, wake=lambda: None)
    for _ in range(MONITOR_LINES_MAX + 3):
        log.logger().info("x")
    assert (len(monitor.lines), monitor.dropped) == (MONITOR_LINES_MAX, 3)


def test_late_monitor_gets_the_backlog():
    log, _ = stream()
    log.logger().event("leader_elected", node="a")
    monitor = log.monitor(format="classic", level=INFO, wake=lambda: None, with_backlog=True)
    assert monitor.take() == ["2026/11/22 22:14:11 [INFO] consul: New leader elected: a"]


def test_named_loggers_and_roles():
    log, out = stream(role="client")
    log.logger().named("dns").info("x")
    log.logger().event("leader_elected", node="a")
    assert out == [
        "2026-11-22T22:14:11.882Z [INFO]  agent.dns: x\n",
        "2026-11-22T22:14:11.882Z [INFO]  agent.client: New leader elected: payload=a\n",
    ]


def test_unknown_event_is_a_bug():
    log, _ = stream()
    with pytest.raises(KeyError):
        log.logger().event("no_such_event")


def test_what_libraries_log_reaches_the_stream():
    import logging

    from pyconsul_agent.telemetry.logging import StdlibBridge

    log, out = stream()
    library = logging.Logger("aiohttp.server")
    library.addHandler(StdlibBridge(log.logger()))
    library.info("quiet")
    library.warning("bad %s", "peer")
    try:
        raise ValueError("x\ny")
    except ValueError:
        library.exception("failed")
    assert out[0].endswith("[WARN]  agent: bad peer: library=aiohttp.server\n")
    assert "[ERROR] agent: failed: library=aiohttp.server" in out[1]
    assert out[1].endswith("\n  error=\n  | ValueError: x\n  | y\n  \n")
