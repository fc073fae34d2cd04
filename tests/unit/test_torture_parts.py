"""The torture's parts that need no namespaces: what is drawn, recorded, damaged, and compared at the end."""

import asyncio
import base64
import random
import sqlite3
from types import SimpleNamespace

import pytest

from pyconsul_agent.sim.checkers import holders, real_time, register, watched
from pyconsul_agent.sim.history import Operation, Violation
from scripts.torturing import inside, main
from scripts.torturing.damage import WAYS, Known, damage, known
from scripts.torturing.disks import Disks
from scripts.torturing.faults import DECK, draw
from scripts.torturing.finish import missing
from scripts.torturing.record import Generation, Recorder, line, read_lines
from tests.recorded_history import recorded


def operation(f, begin, end, **more):
    more.setdefault("outcome", "ok")
    more.setdefault("worker", 0)
    return Operation(number=0, node="s1", f=f, begin=float(begin), end=float(end), **{"key": "k", **more})


# --- the checkers, one rule at a time -------------------------------------------------------------------------------


def test_a_write_of_unknown_outcome_may_come_about_late_or_never():
    put = operation("put", 0, 1, value="a", outcome="info")
    read = {"mode": "consistent"}
    register.check([put, operation("get", 2, 3, **read), operation("get", 4, 5, read="a", index=7, **read)])
    register.check([put, operation("get", 2, 3, **read)])
    with pytest.raises(Violation, match="P2 not linearizable"):
        register.check(
            [put, operation("get", 2, 3, read="a", index=7, **read), operation("get", 4, 5, **read)],
        )


def test_a_refused_write_must_have_met_another_index():
    put = operation("put", 0, 1, value="a", index=5)
    refused = operation("cas", 2, 3, value="b", guard=4, outcome="fail", detail="refused")
    register.check([put, refused])
    refused.guard = 5
    with pytest.raises(Violation, match="P2 not linearizable"):
        register.check([put, refused])


def test_two_indexes_of_one_write_are_seen():
    with pytest.raises(Violation, match="two indexes of one write"):
        register.check(
            [
                operation("put", 0, 1, value="a", index=5),
                operation("get", 2, 3, mode="stale", read="a", index=6),
            ]
        )


def test_a_stale_read_may_be_old_but_not_invented():
    put = operation("put", 0, 1, value="a", index=5)
    later = operation("put", 2, 3, value="b", index=6)
    register.check([put, later, operation("get", 4, 5, mode="stale", read="a", index=5)])
    with pytest.raises(Violation, match="I10 read what was not written"):
        register.check([put, later, operation("get", 4, 5, mode="stale", read="c", index=5)])


def test_indexes_of_different_keys_follow_real_time():
    first = operation("put", 0, 1, key="a", value="a", index=5)
    real_time.check([first, operation("put", 2, 3, key="b", value="b", index=6)])
    with pytest.raises(Violation, match="I11 later write, lower index"):
        real_time.check([first, operation("put", 2, 3, key="b", value="b", index=4)])


def held(delay=0, until=None):
    found = [
        operation("session", 0, 1, key="", session="S", detail=f"ttl=10 delay={delay} behavior=release"),
        operation("acquire", 2, 3, session="S"),
    ]
    return found + ([operation(until, 5, 6, session="S", key="k" if until == "release" else "")] if until else [])


@pytest.mark.parametrize(
    ("history", "at", "found"),
    [
        (held(), 9, "two holders"),
        (held(), 11, ""),
        (held(until="release"), 5.5, ""),
        (held(until="destroy"), 5.5, ""),
        (held(delay=4, until="destroy"), 8.5, "lock delay"),
        (held(delay=4, until="destroy"), 9.5, ""),
        (held(delay=4, until="release"), 6, ""),
        (held(delay=15), 24.5, "lock delay"),
        (held(delay=15), 25.5, ""),
    ],
)
def test_a_lock_passes_to_another_when_it_may(history, at, found):
    other = operation("acquire", at - 0.2, at, session="T", worker=1)
    if not found:
        holders.check([*history, other])
        return
    with pytest.raises(Violation, match=f"I12 {found}"):
        holders.check([*history, other])


def test_a_delay_is_not_judged_across_a_start_nor_at_the_end_of_a_real_consuls_session():
    history = [*held(delay=4, until="destroy"), operation("acquire", 5.5, 7, session="T", worker=1)]
    with pytest.raises(Violation, match="lock delay"):
        holders.check(history)
    holders.check(history, [6.5])
    holders.check(history, consul=())
    history[-1].begin = 6.5
    with pytest.raises(Violation, match="lock delay"):
        holders.check(history, consul=())


def refused(begin, end):
    return operation("renew", begin, end, key="", session="S", outcome="fail", detail="unknown session")


def test_a_session_that_is_called_unknown_too_early_is_seen():
    history = [*held(), refused(4, 5)]
    for consul in (None, ()):
        with pytest.raises(Violation, match="P10 session ended early"):
            holders.check(history, consul=consul)


def test_a_real_consul_may_call_a_session_unknown_that_shows_up_again():
    history = [*held(), refused(4, 5), operation("renew", 6, 7, key="", session="S")]
    with pytest.raises(Violation, match="P10 session ended early"):
        holders.check(history)
    holders.check(history, consul=[3.5])


@pytest.mark.parametrize(("start", "excused"), [(4.5, True), (-4, True), (-6, False), (5.5, False)])
def test_a_real_consul_that_was_just_elected_may_end_sessions(start, excused):
    history = [*held(), refused(4, 5)]
    with pytest.raises(Violation, match="P10 session ended early"):
        holders.check(history, [start])
    if excused:
        holders.check(history, consul=[start])
    else:
        with pytest.raises(Violation, match="P10 session ended early"):
            holders.check(history, consul=[start])


@pytest.mark.parametrize(("at", "excused"), [(19.5, True), (18.0, False)])
def test_a_renewal_that_may_meet_the_end_proves_nothing_of_a_real_consul(at, excused):
    history = [*held(), operation("renew", at, at + 1, key="", session="S"), refused(at + 2, at + 3)]
    with pytest.raises(Violation, match="P10 session ended early"):
        holders.check(history)
    if excused:
        holders.check(history, consul=())
    else:
        with pytest.raises(Violation, match="P10 session ended early"):
            holders.check(history, consul=())


def test_everybody_sees_the_holder():
    seen = operation("get", 4, 5, mode="default", session="S", read="v", index=3, lock_index=1)
    holders.check([*held(), seen])
    with pytest.raises(Violation, match="I12 holder unknown"):
        holders.check([*held(), operation("get", 4, 5, mode="default", read="v", index=3, lock_index=1)])


def test_a_watcher_in_calm_is_woken():
    put = operation("put", 1, 2, value="a", index=7)
    seen = operation("get", 11, 12, mode="default", read="a", index=7, header=7)
    late = operation("get", 0, 10, mode="default", guard=5, header=5, detail="wait 10", worker=2)
    watched.check([put, seen, late], {}, [])
    with pytest.raises(Violation, match="I13 not woken"):
        watched.check([put, seen, late], {}, [(0, 20)])


def test_a_stale_watcher_may_go_back_only_with_its_server():
    first = operation("get", 0, 1, mode="stale", guard=0, header=9, detail="wait 10")
    second = operation("get", 2, 3, mode="stale", guard=9, header=8, detail="wait 10")
    watched.check([first, second], {"s1": [1.5]}, [])
    with pytest.raises(Violation, match="I13 index goes back"):
        watched.check([first, second], {"s1": [5.0]}, [])


# --- the rest -------------------------------------------------------------------------------------------------------


def test_what_is_recorded_is_read_again(tmp_path):
    recorder, generation = Recorder(tmp_path / "history.jsonl"), Generation(0, ["k"])
    wanted = recorded(1)
    for each in wanted:
        recorder._file.write(line(each))
    recorder.event("kill s1", server="s1")
    asked = operation("get", 0, 0, outcome="open")
    recorder.begin(generation, asked)
    assert generation.under_way == 1
    asked.outcome = "ok"
    recorder.end(generation, asked)
    recorder.close()
    with open(tmp_path / "history.jsonl") as file:
        operations, events = read_lines(file)
    assert operations == [*wanted, asked]
    assert [event["event"] for event in events] == ["kill s1"]
    assert (recorder.operations, recorder.outcomes, generation.under_way) == (1, {"ok": 1}, 0)


def test_faults_are_a_function_of_the_seed_and_every_kind_is_dealt():
    faults = draw(random.Random(7), DECK, 30)
    assert faults == draw(random.Random(7), DECK, 30)
    assert faults != draw(random.Random(8), DECK, 30)
    assert {fault.kind for fault in faults[: len(DECK)]} == set(DECK)


def test_a_lost_or_changed_key_is_seen_at_the_end():
    rows = [{"Key": "a", "Value": base64.b64encode(b"1").decode(), "ModifyIndex": 5}]
    assert missing(rows, {"a": ("1", 5), "b": (None, 0)}) == ""
    for last in ({"a": ("1", 6)}, {"a": (None, 0)}, {"b": ("2", 7)}):
        assert missing(rows, last).startswith("I10 acknowledged writes lost: 1")


@pytest.fixture
def raft(tmp_path):
    """The folder of a server that was killed: its write-ahead log is not folded in."""
    connection = sqlite3.connect(tmp_path / "log.sqlite", isolation_level=None)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("CREATE TABLE log (idx INTEGER PRIMARY KEY, data BLOB)")
    connection.execute("CREATE TABLE hard_state (one INTEGER, term INTEGER)")
    connection.execute("INSERT INTO hard_state VALUES (1, 4)")
    connection.execute("PRAGMA wal_checkpoint")
    connection.executemany("INSERT INTO log VALUES (?, ?)", [(index, bytes(3000)) for index in range(1, 41)])
    (tmp_path / "snapshots" / "3-30-1").mkdir(parents=True)
    (tmp_path / "snapshots" / "3-30-1" / "state.bin").write_bytes(bytes(500))
    yield tmp_path
    connection.close()


def test_looking_at_a_log_tells_how_far_it_came_and_changes_nothing(raft):
    before = {file.name: file.read_bytes() for file in raft.glob("log.*") if not file.name.endswith("-shm")}
    assert known(raft) == Known(40, 4)
    assert {name: (raft / name).read_bytes() for name in before} == before
    assert known(raft / "snapshots") is None


@pytest.mark.parametrize("way", WAYS)
def test_damage_changes_one_file_and_says_how(raft, way):
    files = [file for file in raft.rglob("*") if file.is_file() and not file.name.endswith("-shm")]
    before = {file: file.read_bytes() for file in files}
    said = damage(raft, way, random.Random(3))
    changed = [file for file in files if not file.exists() or file.read_bytes() != before[file]]
    assert len(changed) == 1
    assert changed[0].name in said
    assert changed[0].name == {"log": "log.sqlite", "wal": "log.sqlite-wal", "snapshot": "state.bin"}[way.split("_")[1]]


def test_nothing_to_damage_is_said(tmp_path):
    assert [damage(tmp_path, way, random.Random(3)) for way in WAYS] == [""] * len(WAYS)


class Ended:
    """A server that has ended with a line in its log."""

    real, name, lives, process = "", "s1", True, SimpleNamespace(returncode=1)

    def __init__(self, folder, line, *, has_small_disk=False):
        self.data, self.log_since_start, self.has_small_disk = folder, lambda: line, has_small_disk
        self.done = []

    def start(self):
        self.done.append("start")

    def wipe(self):
        self.done.append("wipe")

    def node_id(self):
        return "id"


class Other:
    """One that removes it from raft."""

    name, has_small_disk = "s2", False

    async def ask(self, *_):
        return SimpleNamespace(status=200, body=b"")


REFUSAL = "[ERROR] agent: fatal error, stopping: raft storage: it is damaged"


@pytest.mark.parametrize(
    ("line", "is_damaged", "small", "wrong", "done"),
    [
        (REFUSAL, True, False, "", ["wipe", "start"]),
        (REFUSAL, False, True, "", ["wipe", "start"]),
        (REFUSAL, False, False, "refuses a disk that nobody has damaged", ["wipe", "start"]),
        ("[ERROR] agent: something else", True, False, "ended by itself with 1", ["start"]),
    ],
)
def test_a_server_may_end_by_itself_only_when_its_disk_was_damaged_or_full(
    tmp_path, capsys, line, is_damaged, small, wrong, done
):
    server = Ended(tmp_path, line, has_small_disk=small)
    disks = Disks([server, Other()], random.Random(1), lambda *_, **__: None)
    if is_damaged:
        (tmp_path / "raft" / "snapshots" / "1-1-1").mkdir(parents=True)
        (tmp_path / "raft" / "snapshots" / "1-1-1" / "state.bin").write_bytes(bytes(500))
        server.log_since_start = lambda: "raft storage opened: last_index=1 term=1"
        assert asyncio.run(disks.damaged(server, "flip_snapshot")) == []
        server.log_since_start = lambda: line
        server.done.clear()
    found = asyncio.run(disks.ended(server))
    assert [wrong in each for each in found] == ([True] if wrong else [])
    assert server.done == done


@pytest.mark.parametrize(
    ("ci", "code", "last"), [("true", 1, "0 passed, 1 failed"), ("", 0, "0 passed, 0 failed, 1 skipped")]
)
def test_a_machine_without_what_is_needed_skips_or_fails_in_ci(monkeypatch, capsys, ci, code, last):
    monkeypatch.setenv("CI", ci)
    monkeypatch.setattr(inside, "why_not", lambda: "no nft")
    assert main.main(["torture"]) == code
    assert capsys.readouterr().out.splitlines()[-1] == last


@pytest.mark.parametrize(
    ("read", "index", "header", "is_last"),
    [
        ("b", 9, 9, True),
        ("a", 7, 7, False),  # an old state
        (None, 0, 8, False),  # gone, before the last write
        ("c", 12, 12, True),  # a write of unknown outcome came about after the last read
        (None, 0, 13, True),  # a deletion did
    ],
)
def test_a_watcher_has_seen_the_last_state_or_a_later_one(read, index, header, is_last):
    generation = Generation(1, ["k"], last={"k": ("b", 9)}, last_header={"k": 9})
    seen = operation("get", 0, 1, mode="stale", read=read, index=index, header=header)
    assert generation.is_last(seen) is is_last
    assert not Generation(1, ["k"]).is_last(seen), "the last state is not known yet"
