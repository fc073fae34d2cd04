"""Each checker is silent about a good history and speaks about a spoiled one."""

from dataclasses import replace

import pytest

from pyconsul_agent.fsm.apply import KVS, SESSION
from pyconsul_agent.sim.checkers import (
    agreement,
    blocking,
    linearizable,
    locks,
    monotone_index,
    no_lost_write,
    same_state,
)
from pyconsul_agent.sim.checkers.one_leader import OneLeader
from pyconsul_agent.sim.checkers.same_sequence import SameSequence
from pyconsul_agent.sim.history import History, Operation, Truth, Violation
from pyconsul_agent.structs.kv import DirEntry
from pyconsul_agent.structs.raft import EntryType, LogEntry
from pyconsul_agent.structs.requests import KVSRequest, SessionRequest
from pyconsul_agent.structs.session import Session
from pyconsul_agent.wire.msgpack import encode


def entry(index, kind, request, term=2):
    return LogEntry(index=index, term=term, type=int(EntryType.COMMAND), data=bytes([kind]) + encode(request))


def kv(index, op, key, value="", result=None, guard=0, session=""):
    row = DirEntry(key=key.encode(), value=value.encode(), modify_index=guard, session=session)
    return entry(index, KVS, KVSRequest(op=op, dir_ent=row)), result


def session(index, op, identity):
    return entry(index, SESSION, SessionRequest(op=op, session=Session(id=identity))), None


def truth(*applied):
    found = Truth()
    for each, result in applied:
        found.add(each, result, float(each.index))
    return found


def operation(f, begin, end, **more):
    more.setdefault("outcome", "ok")
    return Operation(number=0, worker=0, node="server1", f=f, begin=float(begin), end=float(end), **more)


def history(*operations):
    return History(list(operations))


# --- one leader, one sequence, one state --------------------------------------------------------------------------


def test_a_second_leader_of_a_term_is_seen():
    checker = OneLeader()
    checker.elected("server1", 1)
    checker.elected("server2", 2)
    checker.elected("server2", 2)
    with pytest.raises(Violation, match="server2 and server3 in term 2"):
        checker.elected("server3", 2)


@pytest.mark.parametrize(
    "other",
    [
        kv(5, "set", "a", "2"),
        kv(5, "set", "b", "1"),
        (replace(kv(5, "set", "a", "1")[0], term=3), None),
        (kv(5, "set", "a", "1")[0], True),
    ],
    ids=["value", "key", "term", "result"],
)
def test_a_different_entry_at_the_same_index_is_seen(other):
    checker = SameSequence()
    checker.applied("server1", 1, *kv(5, "set", "a", "1"))
    checker.applied("server2", 1, *kv(5, "set", "a", "1"))
    with pytest.raises(Violation, match="differ at index 5"):
        checker.applied("server3", 1, *other)


def test_an_applied_index_that_goes_back_within_a_life_is_seen():
    checker = SameSequence()
    checker.applied("server1", 1, *kv(5, "set", "a", "1"))
    checker.applied("server1", 2, *kv(4, "set", "a", "0"))
    with pytest.raises(Violation, match="goes back"):
        checker.applied("server1", 2, *kv(4, "set", "a", "0"))


def test_different_states_and_different_indexes_are_seen():
    same_state.check({"server1": (9, b"x"), "server2": (9, b"x")})
    with pytest.raises(Violation, match="differ at applied index 9"):
        same_state.check({"server1": (9, b"x"), "server2": (9, b"y")})
    with pytest.raises(Violation, match="indexes differ"):
        same_state.check({"server1": (9, b"x"), "server2": (8, b"x")})


def test_views_that_lack_somebody_or_believe_him_dead_disagree():
    all_alive = {"a": "alive", "b": "alive"}
    assert agreement.disagreements({"a": all_alive, "b": all_alive}) == []
    assert agreement.disagreements({"a": all_alive, "b": {"b": "alive"}}) == ["b believes a unknown"]
    assert agreement.disagreements({"a": {**all_alive, "b": "leaving"}, "b": all_alive}) == ["a believes b leaving"]


def test_a_catalog_that_differs_from_the_agent_is_seen():
    agreement.check_catalog("node", [("web", ("1",))], [("web", ("1",))])
    for catalog in ([], [("web", ("2",))], [("web", ("1",)), ("old", ())]):
        with pytest.raises(Violation, match="I14"):
            agreement.check_catalog("node", [("web", ("1",))], catalog)


# --- writes ------------------------------------------------------------------------------------------------------


def put(value, begin, end, before, after, **more):
    more.setdefault("key", "a")
    return operation("put", begin, end, value=value, applied_before=before, applied_after=after, **more)


def test_an_acknowledged_write_must_be_in_the_log_once_and_in_its_time():
    done = truth(kv(5, "set", "a", "1"), kv(6, "set", "a", "2"))
    no_lost_write.check(history(put("1", 0, 1, 4, 5), put("2", 2, 3, 5, 6)), done)
    with pytest.raises(Violation, match="lost"):
        no_lost_write.check(history(put("3", 0, 1, 4, 6)), done)
    with pytest.raises(Violation, match="outside"):
        no_lost_write.check(history(put("1", 0, 1, 5, 6)), done)
    with pytest.raises(Violation, match="outside"):
        no_lost_write.check(history(put("2", 0, 1, 4, 5)), done)
    with pytest.raises(Violation, match="twice"):
        no_lost_write.check(history(put("1", 0, 1, 4, 6)), truth(kv(5, "set", "a", "1"), kv(6, "set", "a", "1")))


def test_a_refused_write_must_not_have_been_done():
    refused = operation("cas", 0, 1, key="a", value="1", outcome="fail", applied_before=4, applied_after=5)
    no_lost_write.check(history(refused), truth(kv(5, "cas", "a", "1", result=False)))
    with pytest.raises(Violation, match="refused write was done"):
        no_lost_write.check(history(refused), truth(kv(5, "cas", "a", "1", result=True)))
    accepted = replace(refused, outcome="ok")
    with pytest.raises(Violation, match="lost"):
        no_lost_write.check(history(accepted), truth(kv(5, "cas", "a", "1", result=False)))


def test_a_write_of_unknown_outcome_may_be_done_or_not():
    unknown = put("1", 0, 1, 4, 4, outcome="info")
    no_lost_write.check(history(unknown), truth())
    no_lost_write.check(history(unknown), truth(kv(9, "set", "a", "1")))


def test_each_acknowledged_delete_needs_an_entry_of_its_own():
    one = operation("delete", 0, 1, key="a", applied_before=4, applied_after=6)
    no_lost_write.check(history(one, one), truth(kv(5, "delete", "a"), kv(6, "delete", "a")))
    with pytest.raises(Violation, match="delete lost"):
        no_lost_write.check(history(one, one), truth(kv(5, "delete", "a")))


# --- reads -------------------------------------------------------------------------------------------------------

WRITES = (kv(5, "set", "a", "1"), kv(7, "set", "a", "2"), kv(9, "delete", "a"))


def read(value, index, begin, end, after, mode="default", key="a"):
    return operation(
        "get", begin, end, key=key, read=value, index=index, mode=mode, applied_after=after, header=max(index, 1)
    )


def test_reads_of_what_was_there_at_some_time_between_pass():
    first = put("1", 0, 1, 4, 5)
    second = put("2", 2, 6, 5, 7)
    linearizable.check(history(first, second, read("1", 5, 3, 4, 6), read("2", 7, 3, 5, 7)), truth(*WRITES))
    linearizable.check(history(read(None, 0, 8, 9, 9)), truth(*WRITES))
    linearizable.check(history(read(None, 0, 0, 1, 3)), truth(*WRITES))


@pytest.mark.parametrize(
    ("spoiled", "why"),
    [
        (read("1", 5, 8, 9, 8), "old value after a newer write was acknowledged"),
        (read("3", 8, 8, 9, 8), "a value never written"),
        (read("2", 8, 8, 9, 8), "an index that no write had"),
        (read("2", 7, 0, 0.5, 6), "a value of the future"),
        (read(None, 0, 8, 9, 8), "absent although it was there"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_spoiled_reads_are_seen(spoiled, why):
    acknowledged = put("2", 2, 6, 5, 7)
    with pytest.raises(Violation, match="not linearizable"):
        linearizable.check(history(put("1", 0, 1, 4, 5), acknowledged, spoiled), truth(*WRITES))


def test_a_read_that_goes_back_behind_another_read_is_seen():
    newer, older = read("2", 7, 1, 2, 8), read("1", 5, 3, 4, 8)
    linearizable.check(history(newer, replace(older, begin=1.5)), truth(*WRITES))
    with pytest.raises(Violation, match="not linearizable"):
        linearizable.check(history(newer, older), truth(*WRITES))


def test_a_stale_read_may_be_old_but_not_invented():
    linearizable.check(history(put("2", 2, 6, 5, 7), read("1", 5, 8, 9, 8, mode="stale")), truth(*WRITES))
    with pytest.raises(Violation, match="not linearizable"):
        linearizable.check(history(read("3", 5, 8, 9, 8, mode="stale")), truth(*WRITES))


@pytest.mark.parametrize(("guard", "result"), [(5, False), (4, True), (0, True)])
def test_a_condition_that_was_judged_wrongly_is_seen(guard, result):
    with pytest.raises(Violation, match="wrong condition"):
        linearizable.check(history(), truth(kv(5, "set", "a", "1"), kv(6, "cas", "a", "2", result, guard=guard)))


def test_indexes_that_go_back_are_seen():
    one, two = read("2", 7, 1, 2, 8), read("1", 5, 3, 4, 8)
    monotone_index.check(history(replace(two, begin=0.0), one))
    with pytest.raises(Violation, match="ModifyIndex goes back"):
        monotone_index.check(history(one, two))
    with pytest.raises(Violation, match="X-Consul-Index goes back"):
        monotone_index.check(history(one, read(None, 0, 3, 4, 8)))
    with pytest.raises(Violation, match="below ModifyIndex"):
        monotone_index.check(history(replace(one, header=6)))


# --- locks and sessions ------------------------------------------------------------------------------------------


def lock(index, identity, result=True):
    return kv(index, "lock", "lock/0", f"v{index}", result, session=identity)


def unlock(index, identity, result=True):
    return kv(index, "unlock", "lock/0", f"v{index}", result, session=identity)


def test_a_lock_that_changes_hands_in_order_passes():
    locks.check(history(), truth(lock(5, "s1"), lock(6, "s2", False), unlock(7, "s1"), lock(8, "s2")))
    locks.check(history(), truth(lock(5, "s1"), session(6, "destroy", "s1"), lock(7, "s2")))
    locks.check(history(), truth(lock(5, "s1"), kv(6, "delete", "lock/0"), lock(7, "s2")))


def test_two_holders_of_a_lock_are_seen():
    with pytest.raises(Violation, match="two holders"):
        locks.check(history(), truth(lock(5, "s1"), lock(6, "s2")))
    with pytest.raises(Violation, match="released by another"):
        locks.check(history(), truth(lock(5, "s1"), unlock(6, "s2")))


def test_a_session_that_ends_before_its_time_is_seen():
    made = operation("session", 0, 1, session="s1")
    renewed = operation("renew", 5, 6, session="s1")
    done = truth(session(12, "destroy", "s1"))  # at virtual second 12
    locks.check_sessions(history(made), done, ttl_s=10)
    locks.check_sessions(history(made, renewed, operation("destroy", 11, 12, session="s1")), done, ttl_s=10)
    with pytest.raises(Violation, match="ended early"):
        locks.check_sessions(history(made, renewed), done, ttl_s=10)


# --- blocking queries ---------------------------------------------------------------------------------------------


def watched(begin, end, header):
    return history(operation("get", begin, end, key="a", guard=5, header=header, detail="wait 2"))


def test_a_wait_ends_with_news_or_with_its_time():
    blocking.check(watched(1, 1.5, header=6))
    blocking.check(watched(1, 3.1, header=5))


def test_a_wait_that_ends_early_without_news_is_seen_unless_a_snapshot_came_in():
    with pytest.raises(Violation, match="I13 woken without a change"):
        blocking.check(watched(1, 1.5, header=5), [0.9, 1.6])
    blocking.check(watched(1, 1.5, header=5), [1.2])


def test_a_wait_that_does_not_end_in_time_is_seen():
    with pytest.raises(Violation, match="I13 later than its deadline"):
        blocking.check(watched(1, 40, header=5))
