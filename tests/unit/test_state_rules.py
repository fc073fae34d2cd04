"""Rules of the state store that the recorded log does not reach."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pyconsul_agent.errors import RPCError
from pyconsul_agent.fsm import apply as commands
from pyconsul_agent.fsm.machine import StateMachine
from pyconsul_agent.state import catalog, kv, registration, session
from pyconsul_agent.state.store import Store
from pyconsul_agent.state.watch import WatchRegistry, WatchSet
from pyconsul_agent.structs.base import duration
from pyconsul_agent.structs.catalog import NodeService
from pyconsul_agent.structs.health import HealthCheck
from pyconsul_agent.structs.kv import DirEntry
from pyconsul_agent.structs.raft import LogEntry
from pyconsul_agent.structs.requests import KVSRequest, RegisterRequest
from pyconsul_agent.structs.session import Session
from pyconsul_agent.wire.msgpack import encode

ID = "11111111-2222-3333-4444-%012d"


class Bench:
    def __init__(self):
        self.store, self.index = Store(), 0

    def write(self, function, *arguments, now=0.0, **options):
        self.index += 1
        with self.store.begin(self.index, now) as txn:
            return function(txn, *arguments, **options)

    def register(self, node, id="", *, service=None, check=None, address="10.0.0.1"):
        request = RegisterRequest(node=node, id=id, address=address, service=service, check=check)
        self.write(registration.register, request)

    def healthy(self, node, id=""):
        self.register(node, id, check=HealthCheck(node=node, check_id="serfHealth", status="passing"))


def web(id="web"):
    return NodeService(id=id, service="web")


def test_a_name_held_by_a_healthy_node_is_refused_with_the_words_of_the_original():
    bench = Bench()
    bench.healthy("a", ID % 1)
    with pytest.raises(RPCError) as refused:
        bench.register("A", ID % 2)
    assert str(refused.value) == (
        f'failed inserting node: Error while renaming Node ID: "{ID % 2}": Node name A is reserved by node {ID % 1} '
        "with name a (10.0.0.1)"
    )


def test_a_rename_keeps_the_create_index_and_drops_the_services_of_the_old_name():
    bench = Bench()
    bench.register("old", ID % 1, service=web())
    bench.register("new", ID % 1)
    assert [row.node for row in bench.store.tables.nodes.scan()] == ["new"]
    assert bench.store.tables.nodes.scan()[0].create_index == 1
    assert len(bench.store.tables.services) == 0


def test_a_new_spelling_of_a_node_is_taken_over_by_its_services_and_checks():
    bench = Bench()
    bench.register("Foo", service=web(), check=HealthCheck(node="Foo", check_id="c", service_id="web"))
    bench.register("FOO")
    assert {row.node for row in bench.store.tables.services.scan()} == {"FOO"}
    assert {row.node for row in bench.store.tables.checks.scan()} == {"FOO"}
    bench.write(registration.deregister, "foo", "", "")
    assert len(bench.store.tables.nodes) == 0


def test_a_refused_command_changes_nothing_and_wakes_nobody():
    bench, woken, watch = Bench(), [], WatchSet()
    bench.register("a", service=web())
    watch.table("nodes")
    watch.table("services")
    bench.store.watchers.register(watch, lambda: woken.append(1))
    before = bench.store.snapshot()
    bad = RegisterRequest(node="b", address="10.0.0.2", check=HealthCheck(node="b", check_id="c", service_id="none"))
    with pytest.raises(RPCError, match='failed inserting check: Missing service registration on node "b"'):
        bench.write(registration.register, bad)
    assert bench.store.snapshot() == before
    assert woken == []


def test_the_last_instance_of_a_service_leaves_the_extinction_index():
    bench = Bench()
    bench.register("a", service=web())
    bench.write(registration.deregister, "a", "web", "")
    assert bench.store.index("service.web") == 0
    assert catalog.instances(bench.store, WatchSet(), "web") == (2, [])


def held_lock(behavior):
    bench = Bench()
    bench.healthy("a")
    row = Session(id=ID % 7, node="a", node_checks=("serfHealth",), lock_delay=duration(90.0), behavior=behavior)
    bench.write(session.create, row)
    bench.write(kv.lock, DirEntry(key=b"k", value=b"v", session=ID % 7))
    return bench


def test_a_critical_check_ends_the_session_releases_the_lock_and_delays_the_next():
    bench = held_lock("release")
    check = HealthCheck(node="a", check_id="serfHealth", status="critical")
    bench.write(registration.put_check, check, now=100.0)
    row = bench.store.tables.kvs.get(b"k")
    assert (row.session, row.lock_index, row.modify_index) == ("", 1, 4)
    assert len(bench.store.tables.sessions) == 0
    assert bench.store.lock_delays.remaining_s(b"k", 130.0) == 30.0
    assert bench.store.lock_delays.remaining_s(b"k", 160.0) == 0.0


def test_a_deleting_session_takes_its_keys_with_it():
    bench = held_lock("delete")
    bench.write(session.destroy, ID % 7)
    assert bench.store.tables.kvs.get(b"k") is None
    assert bench.store.index("tombstones") == bench.index


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("bad", "UUID must be 36 characters"),
        ("-" * 5 + "0" * 31, 'UUID should have maximum of 4 "-"; got 5'),
        ("z" * 36, "Invalid UUID: encoding/hex: invalid byte: U+007A 'z'"),
    ],
)
def test_a_session_id_that_is_no_uuid_is_refused(text, words):
    with pytest.raises(RPCError) as refused:
        kv.find_session(Store(), text)
    assert str(refused.value) == f"failed session lookup: index error: {words}"


def test_t_unknown_entry_type():
    """A command of the future stops the server, one that may be skipped does not."""
    machine = StateMachine(Store(), lambda: 0.0)
    assert machine.apply(LogEntry(index=1, type=0, data=b"\xff\x80")) is None
    with pytest.raises(commands.UnknownCommand):
        machine.apply(LogEntry(index=2, type=0, data=b"\x7f\x80"))


@pytest.mark.parametrize("defect", [KeyError("x"), TypeError("x"), ZeroDivisionError()], ids=repr)
def test_t_apply_raises(monkeypatch, defect):
    """A command whose handler has a defect is refused whole, with a text, and the next one is applied."""

    def handler(txn, body):
        kv.put(txn, DirEntry(key=b"half"))
        raise defect

    logged = []
    machine = StateMachine(Store(), lambda: 0.0, warn=logged.append)
    good = b"\x02" + encode(KVSRequest(op="set", dir_ent=DirEntry(key=b"k")))
    with monkeypatch.context() as patched:
        patched.setitem(commands.HANDLERS, 2, handler)
        result = machine.apply(LogEntry(index=1, type=0, data=good))
    assert isinstance(result, RPCError) and type(defect).__name__ in str(result)
    assert logged == [f"entry 1, type 2: {result}"], "a follower's operator reads it too"
    assert not list(machine.store.tables.kvs.keys())
    assert machine.apply(LogEntry(index=2, type=0, data=good)) is None
    assert machine.store.tables.kvs.get(b"k").modify_index == 2


def test_a_lack_of_memory_is_not_taken_for_a_refusal(monkeypatch):
    def handler(txn, body):
        raise MemoryError

    monkeypatch.setitem(commands.HANDLERS, 2, handler)
    with pytest.raises(MemoryError):
        StateMachine(Store(), lambda: 0.0).apply(LogEntry(index=1, type=0, data=b"\x02\x80"))


def test_a_machine_made_blank_again_begins_its_digest_anew():
    """Two servers whose restore was taken back must agree from there on (invariant I4)."""
    good = b"\x02" + encode(KVSRequest(op="set", dir_ent=DirEntry(key=b"k")))
    used, fresh = StateMachine(Store(), lambda: 0.0), StateMachine(Store(), lambda: 0.0)
    used.apply(LogEntry(index=1, type=0, data=good))
    used.blank()()
    for machine in (used, fresh):
        machine.apply(LogEntry(index=2, type=0, data=good))
    assert used.digest() == fresh.digest()


@settings(max_examples=150, deadline=None)
@given(kind=st.sampled_from(sorted(commands.HANDLERS)), body=st.binary(max_size=40))
def test_any_bytes_of_a_known_command_give_a_result_and_leave_no_transaction_open(kind, body):
    machine = StateMachine(Store(), lambda: 0.0)
    machine.apply(LogEntry(index=1, type=0, data=bytes([kind]) + body))
    good = KVSRequest(op="set", dir_ent=DirEntry(key=b"k"))
    assert machine.apply(LogEntry(index=2, type=0, data=b"\x02" + encode(good))) is None


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**9))
def test_an_aborted_transaction_leaves_every_table_and_index_as_it_was(seed):
    draw, store = random.Random(seed), Store()
    for index in range(1, 20):
        txn = store.begin(index)
        before = store.snapshot()
        for _ in range(draw.randrange(4)):
            key = bytes([draw.randrange(97, 100), draw.randrange(97, 100)])
            draw.choice([kv.put, lambda t, e: kv.delete(t, e.key), lambda t, e: kv.delete_tree(t, e.key[:1])])(
                txn, DirEntry(key=key, value=bytes([draw.randrange(3)]))
            )
        if draw.random() < 0.5:
            txn.abort()
            assert store.snapshot() == before
        else:
            txn.commit()
        assert store.tables.kvs.keys() == sorted(store.tables.kvs.rows)


def test_the_registry_matches_rows_prefixes_and_tables_and_forgets_what_is_unregistered():
    registry, tokens = WatchRegistry(), {}
    for name, fill in {
        "row": lambda w: w.row("kvs", b"a/b"),
        "prefix": lambda w: w.prefix("kvs", b"a/"),
        "other": lambda w: w.prefix("kvs", b"b"),
        "table": lambda w: w.table("kvs"),
        "elsewhere": lambda w: w.table("nodes"),
    }.items():
        watch = WatchSet()
        fill(watch)
        tokens[name] = registry.register(watch, lambda: None)
    assert registry.match([("kvs", b"a/b")]) == [tokens["row"], tokens["prefix"], tokens["table"]]
    assert registry.match([("kvs", b"a")]) == [tokens["table"]]
    for token in tokens.values():
        registry.unregister(token)
    assert (registry.match([("kvs", b"a/b")]), len(registry)) == ([], 0)


def test_names_that_are_not_utf8_are_kept():
    bench = Bench()
    odd = b"\xff".decode("utf-8", "surrogateescape")
    bench.register(odd, service=NodeService(id=odd, service=odd, kind=odd))
    assert catalog.instances(bench.store, WatchSet(), odd)[0] == 1


# --- versions -------------------------------------------------------------------------------------------------


def test_each_part_of_the_state_is_counted_apart():
    bench = Bench()

    def moved(change):
        before = [bench.store.version(part) for part in ("kv", "catalog")]
        change()
        after = [bench.store.version(part) for part in ("kv", "catalog")]
        return [new > old for old, new in zip(before, after, strict=True)]

    put = lambda: bench.write(kv.put, DirEntry(key=b"a", value=b"1"))  # noqa: E731
    assert moved(put) == [True, False]
    assert moved(put) == [False, False]  # the same value again changes nothing
    assert moved(lambda: bench.register("n")) == [False, True]
    assert moved(lambda: bench.write(kv.delete, b"a")) == [True, False]
    assert moved(lambda: bench.store.begin(99).abort()) == [False, False]
    assert moved(lambda: bench.store.restore(Store())) == [True, True]


def test_a_session_that_ends_with_its_node_moves_the_keys_it_held():
    bench = Bench()
    bench.register("n")
    bench.write(session.create, Session(id=ID % 1, node="n"))
    bench.write(kv.lock, DirEntry(key=b"a", session=ID % 1))
    before = bench.store.version("kv")
    bench.write(session.destroy, ID % 1)
    assert bench.store.version("kv") > before
