"""Autopilot: who is healthy, who gets a vote, who is removed, and what operators see of it."""

import asyncio
import json
import random

from hypothesis import given
from hypothesis import strategies as st

from pyconsul_agent.errors import RPCError
from pyconsul_agent.interfaces.http.operator import health_json, state_json
from pyconsul_agent.serf.consul import ServerInfo
from pyconsul_agent.server.leader import autopilot
from pyconsul_agent.server.leader.autopilot import Autopilot
from pyconsul_agent.server.leader.standing import (
    DEFAULTS,
    LeaderPosition,
    Moment,
    Removals,
    contact,
    health_reply,
    judge,
    promotable,
    removable,
    state_reply,
)
from pyconsul_agent.structs.base import duration
from pyconsul_agent.structs.member import Member, MemberStatus
from pyconsul_agent.structs.operator import AutopilotConfig, RaftStats
from pyconsul_agent.structs.raft import Configuration, Server, Suffrage
from pyconsul_agent.wire import gojson
from tests.memory_net import Clock, Recorder, run

ALIVE, FAILED, LEFT, LEAVING = MemberStatus.ALIVE, MemberStatus.FAILED, MemberStatus.LEFT, MemberStatus.LEAVING
LEADER = LeaderPosition("a", term=3, index=1000)
GOOD = RaftStats(last_contact="20ms", last_term=3, last_index=1000)
START = Moment(100.0, 1_600_000_000_123_456_789)


def configuration(*names, nonvoters=()):
    voters = tuple(Server(id=name, address=f"{name}:8300") for name in names)
    return Configuration(
        servers=voters
        + tuple(Server(id=name, address=f"{name}:8300", suffrage=Suffrage.NONVOTER) for name in nonvoters)
    )


def info(name, status=ALIVE):
    return ServerInfo(
        name=f"node-{name}", id=name, address=name, port=8300, datacenter="dc1", build=(1, 10, 11), status=status
    )


def standings(names="abc", nonvoters="", *, stats=None, known=None, before=None, now=START, config=DEFAULTS):
    everyone = [*names, *nonvoters]
    known = {name: info(name) for name in everyone} if known is None else known
    fetched = dict.fromkeys(everyone, GOOD) if stats is None else stats
    return judge(configuration(*names, nonvoters=nonvoters), known, fetched, LEADER, config, now, before or {})


def healthy(found):
    return "".join(name for name, one in found.items() if one.healthy)


def with_b(stats):
    return {"a": GOOD, "b": stats, "c": GOOD}


# --- health -----------------------------------------------------------------------------------------------------


def test_server_that_keeps_up_is_healthy():
    assert healthy(standings()) == "abc"


def test_server_that_does_not_keep_up_is_not_healthy():
    for bad in (
        RaftStats(last_contact="201ms", last_term=3, last_index=1000),
        RaftStats(last_contact="never", last_term=3, last_index=1000),
        RaftStats(last_contact="soon", last_term=3, last_index=1000),
        RaftStats(last_contact="0", last_term=2, last_index=1000),
        RaftStats(last_contact="0", last_term=3, last_index=749),
    ):
        assert healthy(standings(stats=with_b(bad))) == "ac", bad
    edge = RaftStats(last_contact="200ms", last_term=3, last_index=750)
    assert healthy(standings(stats=with_b(edge))) == "abc"


def test_only_what_gossip_takes_for_alive_is_healthy():
    for status, well in ((ALIVE, True), (LEAVING, True), (FAILED, False), (LEFT, False)):
        known = {"a": info("a"), "b": info("b", status), "c": info("c")}
        assert ("b" in healthy(standings(known=known))) is well
    unknown = standings(known={"a": info("a"), "c": info("c")})["b"]
    assert (unknown.healthy, unknown.node_status, unknown.name) == (False, "left", "")


def test_server_that_misses_one_question_is_judged_by_its_last_answer():
    before = standings()
    after = standings(stats={"a": GOOD, "c": GOOD}, before=before, now=Moment(102.0, START.wall_ns + 2 * 10**9))
    assert healthy(after) == "abc"
    assert after["b"].last_index == 1000
    assert after["b"].stable_since == START


def test_stable_since_moves_with_each_change_of_health():
    later, latest = Moment(110.0, START.wall_ns + 10**10), Moment(120.0, START.wall_ns + 2 * 10**10)
    first = standings()
    ill = standings(
        stats=with_b(RaftStats(last_contact="1m2.5s", last_term=3, last_index=1000)), before=first, now=later
    )
    well = standings(before=ill, now=latest)
    assert [one["b"].stable_since for one in (first, ill, well)] == [START, later, latest]
    assert well["c"].stable_since == START


@given(st.text())
def test_any_contact_text_gives_a_number(text):
    assert contact(text) == -1 or contact(text) >= 0 or text.lstrip().startswith("-")


def test_failure_tolerance_counts_healthy_voters_beyond_the_quorum():
    assert health_reply(standings("abc")).failure_tolerance == 1
    assert health_reply(standings("abcde")).failure_tolerance == 2
    assert health_reply(standings("abc", "de")).failure_tolerance == 1
    assert health_reply(standings(stats={"a": GOOD, "b": GOOD})).failure_tolerance == 0
    assert health_reply({}).failure_tolerance == 0


# --- votes ------------------------------------------------------------------------------------------------------


def test_newcomer_gets_its_vote_when_it_was_stable_for_long_enough():
    found = standings("a", "de", stats={"a": GOOD, "d": GOOD})
    assert promotable(found.values(), DEFAULTS, now=109.9, running_since=0.0) == []
    assert promotable(found.values(), DEFAULTS, now=110.0, running_since=0.0) == ["d"]


def test_young_autopilot_waits_for_nobody():
    found = standings("a", "d")
    assert promotable(found.values(), DEFAULTS, now=100.0, running_since=95.0) == ["d"]


# --- the dead ---------------------------------------------------------------------------------------------------


def known(**statuses):
    return {name: info(name, status) for name, status in statuses.items()}


def test_failed_voter_leaves_while_a_majority_remains():
    assert removable(configuration(*"abc"), known(a=ALIVE, b=FAILED, c=ALIVE), DEFAULTS) == Removals((), ("node-b",))


def test_less_than_half_of_the_voters_go_at_once():
    dead = known(a=ALIVE, b=FAILED, c=FAILED)
    assert removable(configuration(*"abc"), dead, DEFAULTS).failed_names == ("node-b",)
    assert removable(configuration(*"ab"), known(a=ALIVE, b=FAILED), DEFAULTS) == Removals()
    five = known(a=ALIVE, b=ALIVE, c=FAILED, d=FAILED, e=FAILED)
    assert removable(configuration(*"abcde"), five, DEFAULTS).failed_names == ("node-c", "node-d")


def test_no_voter_goes_below_the_minimum():
    config = AutopilotConfig(cleanup_dead_servers=True, min_quorum=3)
    assert removable(configuration(*"abc"), known(a=ALIVE, b=FAILED, c=ALIVE), config) == Removals()
    assert removable(configuration(*"abcd"), known(a=ALIVE, b=FAILED, c=ALIVE, d=ALIVE), config).failed_names


def test_servers_that_gossip_does_not_know_go_before_failed_ones():
    dead = known(a=ALIVE, b=FAILED)
    assert removable(configuration(*"abc"), dead, DEFAULTS) == Removals(("c",), ())


def test_servers_without_a_vote_always_go():
    dead = known(a=ALIVE, d=FAILED)
    assert removable(configuration("a", nonvoters="de"), dead, DEFAULTS) == Removals(("e",), ("node-d",))


def test_failed_member_that_is_not_in_raft_is_left_to_gossip():
    assert removable(configuration("a"), known(a=ALIVE, x=FAILED), DEFAULTS) == Removals()


def test_nothing_is_removed_when_cleanup_is_off():
    config = AutopilotConfig(cleanup_dead_servers=False)
    assert removable(configuration(*"abc"), known(a=ALIVE, b=FAILED), config) == Removals()


# --- what is shown ----------------------------------------------------------------------------------------------


def test_before_the_first_judgment_nothing_is_healthy():
    assert health_reply({}).healthy is False
    assert (state_reply({}).healthy, state_reply({}).servers, state_reply({}).voters) == (False, None, None)


def test_voters_are_listed_from_the_most_to_the_least_reliable():
    ages = {"b": 50.0, "c": 20.0, "d": 70.0, "e": 60.0}
    before = {}
    for name, age in ages.items():
        part = {"a": GOOD} if name in "de" else None
        before[name] = standings("abcde", now=Moment(age, START.wall_ns), stats=part)[name]
    found = standings("abcde", before=before, stats=dict.fromkeys("abc", GOOD))
    assert state_reply(found).voters == ("a", "c", "b", "d", "e")


def shown(value):
    return json.loads(gojson.encode(value))


def test_health_shows_whole_seconds_and_words():
    stats = {"a": RaftStats(last_contact="0", last_term=3, last_index=1000)}
    body = shown(health_json(health_reply(standings("a", stats=stats))))
    assert body == {
        "Healthy": True, "FailureTolerance": 0,
        "Servers": [{
            "ID": "a", "Name": "node-a", "Address": "a:8300", "SerfStatus": "alive", "Version": "1.10.11",
            "Leader": True, "LastContact": "0s", "LastTerm": 3, "LastIndex": 1000, "Healthy": True, "Voter": True,
            "StableSince": "2020-09-13T12:26:40Z",
        }],
    }  # fmt: skip


def test_state_shows_every_server_by_its_id():
    body = shown(state_json(state_reply(standings("ab", "d", stats={"a": GOOD, "b": GOOD}))))
    assert (body["Healthy"], body["Leader"], body["Voters"]) == (False, "a", ["a", "b"])
    assert body["FailureTolerance"] == body["OptimisticFailureTolerance"] == 0
    assert {name: (one["Status"], one["NodeType"]) for name, one in body["Servers"].items()} == {
        "a": ("leader", "voter"), "b": ("voter", "voter"), "d": ("non-voter", "voter"),
    }  # fmt: skip
    assert body["Servers"]["a"]["StableSince"] == "2020-09-13T12:26:40.123456789Z"


# --- the driver -------------------------------------------------------------------------------------------------


class Raft:
    last_term = 3
    last_index = 1000


class Membership:
    def __init__(self, found):
        self.found = found
        self.promoted = []
        self.removed = []

    def configuration(self):
        return self.found, 1

    async def add_voter(self, id, address):
        self.promoted.append((id, address))

    async def remove_server(self, id):
        self.removed.append(id)


class Pool:
    async def call(self, server, method, request):
        if server.name == "node-m":
            raise RPCError("rpc error: refused")
        if server.name == "node-s":
            await asyncio.sleep(100)
        return GOOD


def member(name, status=ALIVE):
    tags = {
        "role": "consul",
        "dc": "dc1",
        "port": "8300",
        "id": name,
        "build": "1.10.11:x",
        "vsn": "2",
        "raft_vsn": "3",
    }
    return Member(name=f"node-{name}", address="127.0.0.1", port=8301, tags=tags, status=status)


def driven(membership, members, seconds, log=None):
    left = []

    async def force_leave(name):
        left.append(name)

    pilot = Autopilot(
        Raft(), membership, Pool(), Clock(), log or Recorder(),
        datacenter="dc1", own_stats=lambda: GOOD, own_id="a", members=lambda: members,
        force_leave=force_leave, config=lambda: DEFAULTS,
    )  # fmt: skip
    seen = {}

    async def main():
        task = asyncio.create_task(pilot.run())
        await asyncio.sleep(seconds)
        seen.update(pilot.standings)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    run(main())
    return left, seen, pilot


def test_driver_promotes_and_removes_every_ten_seconds():
    membership = Membership(configuration(*"abc", nonvoters="dmx"))
    members = [member("a"), member("b"), member("c", FAILED), member("d"), member("m")]
    left, seen, pilot = driven(membership, members, autopilot.RECONCILE_INTERVAL_S - 0.5)
    assert (membership.promoted, left) == ([], [])
    left, seen, pilot = driven(membership, members, autopilot.RECONCILE_INTERVAL_S + 2.5)
    assert membership.promoted == [("d", "d:8300")]
    assert left == ["node-c"]
    assert membership.removed == ["x"]
    assert healthy(seen) == "abd"
    assert pilot.standings == {}  # not leading any more


def test_a_server_that_does_not_tell_its_health_is_named_with_the_reason():
    log = Recorder()
    driven(Membership(configuration(*"ams")), [member("a"), member("m"), member("s")], 5, log)
    told = {(pairs["server"], pairs["error"]) for level, _, pairs in log.lines if level == "warn"}
    assert told == {("node-m", "rpc error: refused"), ("node-s", "context deadline exceeded")}


def test_no_configuration_loses_half_of_its_voters_or_a_living_one():
    draw = random.Random(7)
    for _ in range(500):
        size = draw.randint(1, 9)
        names = "abcdefghi"[:size]
        statuses = {name: draw.choice((ALIVE, FAILED, LEFT)) for name in names if draw.random() < 0.8}
        gone = removable(configuration(*names), known(**statuses), DEFAULTS)
        assert len(gone.stale_ids) + len(gone.failed_names) <= (size - 1) // 2
        assert not {name for name, status in statuses.items() if status is ALIVE} & set(gone.stale_ids)


def test_durations_of_the_defaults():
    assert (DEFAULTS.last_contact_threshold, DEFAULTS.server_stabilization_time) == (duration(0.2), duration(10))
