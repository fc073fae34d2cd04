"""Why there is no leader: one line and the data behind it."""

import asyncio

import pytest

from pyconsul_agent.raft.types import Refusal
from pyconsul_agent.serf.consul import ServerInfo
from pyconsul_agent.server.diagnosis import Facts, LeaderWatch, diagnose
from pyconsul_agent.structs.diagnosis import DiagnosedServer
from pyconsul_agent.structs.member import MemberStatus
from pyconsul_agent.structs.raft import Configuration, Server, Suffrage
from tests.memory_net import Clock, Recorder, run

ALIVE, FAILED = MemberStatus.ALIVE, MemberStatus.FAILED


def info(name, status=ALIVE, **more):
    return ServerInfo(
        name=name, id=f"id-{name}", address=f"10.0.0.{name}", port=8300, datacenter="dc1", status=status, **more
    )


def known(*infos):
    return {one.id: one for one in infos}


def raft_of(*names, nonvoters=()):
    rows = [Server(id=f"id-{name}", address=f"10.0.0.{name}:8300") for name in names]
    rows += [Server(id=f"id-{n}", address=f"10.0.0.{n}:8300", suffrage=Suffrage.NONVOTER) for n in nonvoters]
    return Configuration(servers=tuple(rows))


def facts(configuration=Configuration(), found=(), **more):  # noqa: B008 -- frozen
    values = {"own_id": "id-1", "leader": "", "role": "Candidate", "term": 5, "last_index": 9} | more
    return Facts(configuration=configuration, known=known(*found), **values)


def reason(*arguments, **more):
    return diagnose(facts(*arguments, **more), 12.0).reason


def test_with_a_leader_there_is_nothing_to_explain():
    found = diagnose(facts(raft_of("1"), [info("1")], leader="10.0.0.1:8300", role="Leader"), 99.0)
    assert (found.leader, found.reason, found.leaderless_s) == ("10.0.0.1:8300", "", 0.0)


# --- before the first configuration -----------------------------------------------------------------------------


def test_expected_servers_that_are_not_there_are_counted_and_the_known_ones_named():
    text = reason(found=[info("1", expect=3), info("2", expect=3), info("3", FAILED, expect=3)], expect=3)
    assert text == "-bootstrap-expect waits for 3 servers, 2 known: 1, 2"


def test_server_that_expects_another_number_is_named():
    text = reason(found=[info("1", expect=3), info("2", expect=5)], expect=3)
    assert text == "-bootstrap-expect is 3 here, but another number on 2"


def test_server_in_bootstrap_mode_is_named():
    assert reason(found=[info("1", expect=3), info("2", bootstrap=True)], expect=3) == (
        "-bootstrap-expect waits, but 2 runs in bootstrap mode"
    )


def test_server_that_waits_for_nothing_says_what_it_lacks():
    assert reason(found=[info("1")]).startswith("this server has no raft configuration: it was started without")


# --- afterwards -------------------------------------------------------------------------------------------------


def test_lost_quorum_names_the_missing_voters_and_why():
    found = [info("1"), info("2", FAILED)]
    text = reason(raft_of("1", "2", "3"), found, dial_errors={"id-3": "DialRefused: connection refused"})
    assert text == (
        "no quorum: 2 of 3 voters are needed, 1 can be reached; missing are 2 (failed), "
        "10.0.0.3:8300 (DialRefused: connection refused)"
    )


def test_one_absent_voter_of_three_is_no_reason():
    found = [info("1"), info("2"), info("3", FAILED)]
    assert reason(raft_of("1", "2", "3"), found) == "a quorum of voters can be reached: an election is due"


def test_refused_votes_are_told_with_their_terms():
    found = [info("1"), info("2"), info("3")]
    refusals = {"id-2": Refusal(5, 5), "id-3": Refusal(5, 8)}
    text = reason(raft_of("1", "2", "3"), found, refusals=refusals)
    assert text.startswith("votes refused: 2 (refused in term 5: it hears a leader, has voted for another")
    assert text.endswith("3 (refused: it is in term 8, we asked in term 5)")


def test_server_without_vote_says_who_has_one():
    text = reason(raft_of("2", "3", nonvoters=("1",)), [info("1"), info("2"), info("3")])
    assert text == "this server has no vote; the voters are 2, 3"


def test_every_server_that_raft_or_gossip_knows_has_a_row():
    found = diagnose(
        facts(raft_of("1", "2"), [info("1"), info("9", expect=3)], dial_errors={"id-2": "refused"}), 3.0004
    )
    assert found.servers == (
        DiagnosedServer(name="1", id="id-1", address="10.0.0.1:8300", voter=True, gossip="alive"),
        DiagnosedServer(id="id-2", address="10.0.0.2:8300", voter=True, dial="refused"),
        DiagnosedServer(name="9", id="id-9", address="10.0.0.9:8300", gossip="alive", expect=3),
    )
    assert (found.quorum, found.bootstrapped, found.leaderless_s) == (2, True, 3.0)


# --- telling it -------------------------------------------------------------------------------------------------


class World:
    leader = ""

    def facts(self):
        return facts(raft_of("1"), [info("1")], leader=self.leader)


@pytest.mark.parametrize(("seconds", "lines"), [(9.9, 0), (10.5, 1), (35.0, 3)])
def test_every_ten_seconds_without_leader_one_line_says_why(seconds, lines):
    log = Recorder()

    async def main():
        task = asyncio.create_task(LeaderWatch(World().facts, Clock(), log).run())
        await asyncio.sleep(seconds)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    run(main())
    assert log.messages("warn") == ["no cluster leader"] * lines


def test_time_without_leader_counts_from_the_loss_of_the_last_one():
    world = World()

    async def main():
        watch = LeaderWatch(world.facts, Clock(), Recorder())
        await asyncio.sleep(50.0)
        watch.leader_changed("")
        await asyncio.sleep(2.0)
        return watch.diagnosis().leaderless_s

    assert run(main()) == pytest.approx(2.0)
