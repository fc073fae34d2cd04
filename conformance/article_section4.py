"""Section 4 of the article: the leader is stopped, the others go on, it comes back."""

from __future__ import annotations

import re
import time
from typing import TYPE_CHECKING

from conformance import article_patterns as p
from conformance.article_backend import http

if TYPE_CHECKING:
    from conformance.article import Article

AFTER_STOP_S = 15.0
REJOIN_S = 15.0
STABLE_S = 45.0
"""server_stabilization_time (10 s) and autopilot's rounds."""

VOTER_S = 25.0
"""The same, waited out where nothing tells voters from others."""

CLIENT = "client1"
SERVERS = ("server1", "server2", "server3")


def stop_the_leader(walk: Article, signal: str) -> None:
    """`docker stop` (TERM) or Ctrl-C (INT): both must give the same."""
    at, report = walk.at, walk.report
    old = walk.leader()
    ip, step = at.ip(old), f"4 {signal} to the leader {old}: "
    others = [name for name in SERVERS if name != old]
    marks = {name: len(at.console(name)) for name in (*SERVERS, CLIENT)}
    stopped = at.stop(old, signal)
    report.step(f"{step}ends in {stopped.seconds:.1f} s", lambda: walk.ended_well(stopped))
    leaving = p.leaving_leader(old, ip, at.ports, [at.ip(name) for name in others])
    walk.console(f"{step}its console, in order", old, leaving, 1, marks[old])

    def another() -> None:
        assert walk.leader() in others, f"leader is {walk.leader()}"

    if not report.step(f"{step}another server leads", another, AFTER_STOP_S):
        return
    new = walk.leader()
    rest = next(name for name in others if name != new)
    lead: list[p.Pattern] = [
        *p.election(new, at.ip(new), at.ports, tally=2),
        (
            p.info(rf"raft: pipelining replication to peer {re.escape(at.ip(rest))}:{at.ports.server}"),
            *p.removed(old, ip, at.ports),
        ),
        p.info(rf"consul: member '{old}' left, deregistering"),
    ]
    walk.console(f"{step}console of the new leader {new}, in order", new, lead, AFTER_STOP_S, marks[new])
    for name in (rest, CLIENT):
        lines: list[p.Pattern] = [(*p.removed(old, ip, at.ports), p.info(rf"consul: New leader elected: {new}"))]
        walk.console(f"{step}console of {name}", name, lines, AFTER_STOP_S, marks[name])

    def gone() -> None:
        peers = walk.peers()
        assert peers == {walk.address(name) for name in others}, f"peers are {sorted(peers)}"
        assert walk.nodes() == sorted([*others, CLIENT]), f"catalog has {walk.nodes()}"
        status = walk.members(CLIENT).get(old, ("missing", ""))[0]
        assert status == "left", f"consul members shows {old} {status}"

    report.step(f"{step}two peers, not in the catalog, member left", gone, AFTER_STOP_S)

    def no_name() -> None:
        answer = walk.dig(CLIENT, f"{old}.node.consul")
        assert answer.status == "NXDOMAIN" and not answer.answers, f"{answer}"
        found = sorted(walk.dig(CLIENT, "consul.service.consul").data())
        assert found == sorted(at.ip(name) for name in others), f"consul.service.consul is {found}"

    walk.dns_step(f"{step}dig says NXDOMAIN, two addresses are left", no_name)
    report.step(f"{step}the key is still there", walk.kept, 5)
    _come_back(walk, old)


def _come_back(walk: Article, name: str) -> None:
    """Started again with its old flags it finds the others and becomes a voter when it is stable."""
    at, report = walk.at, walk.report
    at.restart(name)
    attempt: list[p.Pattern] = [
        p.info(rf"serf: Attempting re-join to previously known node: (server\d|client1): {p.IP}:{at.ports.lan}")
    ]
    walk.console(f"4 {name} started again tries known nodes", name, attempt, REJOIN_S)

    def alive() -> None:
        status = walk.members(CLIENT).get(name, ("missing", ""))[0]
        assert status == "alive", f"member is {status}"

    report.step(f"4 {name} is alive again", alive, REJOIN_S)
    if not _has_operator(walk):
        report.leave_out(f"4 {name} is a non-voter first, then a voter", "this tree has no operator endpoints yet")
        report.step(f"4 {name} is a peer again", lambda: _all_are_peers(walk), STABLE_S)
        time.sleep(VOTER_S)
        return
    suffrages: set[bool] = set()

    def listed() -> dict[str, bool]:
        reply = http(at.outside(CLIENT), at.public.http, "/v1/operator/raft/configuration")
        found = {server["Node"]: bool(server["Voter"]) for server in reply["Servers"]}
        suffrages.update({found[name]} if name in found else set())
        return found

    def non_voter() -> None:
        found = listed()
        assert name in found, f"raft's servers are {sorted(found)}"
        assert False in suffrages, "it was a voter at once"

    report.step(f"4 {name} is a non-voter at first", non_voter, REJOIN_S)

    def voter() -> None:
        found = listed()
        assert found.get(name) is True and len(found) == 3, f"voters: {found}"

    report.step(f"4 {name} is a voter once it is stable", voter, STABLE_S)


def _has_operator(walk: Article) -> bool:
    try:
        http(walk.at.outside(CLIENT), walk.at.public.http, "/v1/operator/raft/configuration")
    except AssertionError as error:
        return "status 404" not in str(error)
    return True


def _all_are_peers(walk: Article) -> None:
    peers = walk.peers()
    assert len(peers) == len(SERVERS), f"peers are {sorted(peers)}"
