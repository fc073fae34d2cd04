"""Leader duties: what keeps them going, and what they must not do."""

import asyncio
from dataclasses import replace

import pytest

from pyconsul_agent.errors import DialError
from pyconsul_agent.fsm.apply import SESSION
from pyconsul_agent.server.directory import ServerDirectory, servers_by_id
from pyconsul_agent.server.endpoints.kvs import KeyValues
from pyconsul_agent.server.endpoints.session import Sessions
from pyconsul_agent.server.endpoints.txn import Txn
from pyconsul_agent.server.leader import reconcile as leader_reconcile
from pyconsul_agent.server.leader.loop import LeaderLoop
from pyconsul_agent.server.leader.session_ttl import SessionExpiry, SessionTimers
from pyconsul_agent.state import registration
from pyconsul_agent.state import session as sessions
from pyconsul_agent.state.store import Store
from pyconsul_agent.structs.catalog import Node
from pyconsul_agent.structs.kv import DirEntry
from pyconsul_agent.structs.member import Member, MemberEventKind, MemberStatus
from pyconsul_agent.structs.raft import Configuration, Server
from pyconsul_agent.structs.requests import (
    KVSRequest,
    RegisterRequest,
    SessionRequest,
    SessionSpecificRequest,
    TxnReadRequest,
    TxnRequest,
)
from pyconsul_agent.structs.session import Session
from pyconsul_agent.structs.txn import TxnKVOp, TxnNodeOp, TxnOp
from pyconsul_agent.wire import msgpack
from tests.memory_net import Recorder, run


class Proposer:
    """Each barrier does the next of `barriers`, then nothing; each write takes a second."""

    is_leader = True

    def __init__(self, *barriers):
        self.barriers = list(barriers)
        self.written = []

    async def barrier(self):
        if self.barriers:
            raise self.barriers.pop(0)

    async def apply(self, kind, body):
        self.written.append((kind, body))
        await asyncio.sleep(1.0)


class Reconciler:
    def __init__(self, *errors):
        self.errors = list(errors)

    async def everyone(self, members):
        if self.errors:
            raise self.errors.pop(0)


@pytest.mark.parametrize(
    ("barriers", "errors"), [((TimeoutError(),), ()), ((), (KeyError("tag"),))], ids=["barrier", "reconcile"]
)
def test_leader_duties_go_on_after_a_failure_of_any_kind(barriers, errors):
    async def main():
        loop = LeaderLoop(
            Proposer(*barriers),
            Reconciler(*errors),
            Recorder(),
            members=list,
            announce=lambda: None,
            establish=(),
            duties=(),
        )
        loop.leadership(True, 2)
        await asyncio.sleep(10.0)
        ready = loop.ready
        await loop.stop()
        return ready, loop.ready

    assert run(main()) == (True, False)


def test_a_duty_that_fails_is_begun_again():
    began = []

    async def duty():
        began.append(asyncio.get_running_loop().time())
        if len(began) == 1:
            raise KeyError("row")
        await asyncio.sleep(3600)

    async def main():
        loop = LeaderLoop(
            Proposer(), Reconciler(), Recorder(), members=list, announce=lambda: None, establish=(),
            duties=(("sessions", duty),),
        )  # fmt: skip
        loop.leadership(True, 2)
        await asyncio.sleep(100.0)
        await loop.stop()

    run(main())
    assert len(began) == 2


def test_later_duties_begin_after_the_members_were_reconciled_and_anew_after_a_restore():
    order = []

    class Reconciling:
        async def everyone(self, members):
            await asyncio.sleep(1.0)
            order.append("reconciled")

    def duty(name):
        async def work():
            order.append(name)
            try:
                await asyncio.sleep(3600)
            finally:
                order.append(f"{name} ended")

        return name, work

    async def main():
        loop = LeaderLoop(
            Proposer(), Reconciling(), Recorder(), members=list, announce=lambda: None, establish=(),
            duties=(duty("early"),), later=(duty("late"),),
        )  # fmt: skip
        loop.leadership(True, 2)
        await asyncio.sleep(100.0)
        await loop.reassert()
        await asyncio.sleep(1.0)
        began = list(order)
        await loop.stop()
        return began

    began = run(main())
    assert began[:4] == ["early", "reconciled", "late", "reconciled"]
    assert sorted(began[4:6]) == ["early ended", "late ended"]
    assert began[6:] == ["early", "late"]


class Membership:
    def __init__(self, *servers):
        self.servers, self.changes = servers, []

    def configuration(self):
        return Configuration(servers=self.servers), 1

    async def add_nonvoter(self, id, address):
        self.changes.append(("add", id))

    async def add_voter(self, id, address):
        self.changes.append(("voter", id))

    async def remove_server(self, id):
        self.changes.append(("remove", id))


def member(name, status, server_id="id-2"):
    tags = {"role": "consul", "dc": "dc1", "id": server_id, "port": "8300", "vsn": "2", "build": "1.10.11:"}
    return Member(name=name, address="10.0.0.2", port=8301, tags=tags, status=status)


class Autopilot:
    def server_added(self):
        pass


def reconciler(membership, autopilot=None):
    return leader_reconcile.Reconciler(
        Store, Proposer(), membership, autopilot, Recorder(), datacenter="dc1", own_name="me"
    )


OLD_NAME, NEW_NAME = member("old", MemberStatus.LEFT), member("new", MemberStatus.ALIVE)


@pytest.mark.parametrize("members", [(OLD_NAME, NEW_NAME), (NEW_NAME, OLD_NAME)])
def test_renamed_server_is_not_removed_because_its_old_name_left(members):
    membership = Membership(Server(id="id-2", address="10.0.0.2:8300"))
    run(reconciler(membership).everyone(members))
    assert membership.changes == []


def test_peer_without_port_cannot_be_dialed_but_harms_no_other():
    with pytest.raises(DialError):
        ServerDirectory("dc1", "me").dial_address(Server(id="id-2", address="10.0.0.2"))


@pytest.mark.parametrize("members", [(OLD_NAME, NEW_NAME), (NEW_NAME, OLD_NAME)])
def test_autopilot_judges_a_renamed_server_by_its_new_name(members):
    assert servers_by_id(members, "dc1")["id-2"].name == "new"


def test_renamed_server_is_removed_when_its_new_name_left():
    membership = Membership(Server(id="id-2", address="10.0.0.2:8300"))

    async def main():
        duty = reconciler(membership)
        await duty.everyone([OLD_NAME, NEW_NAME])
        await duty.event(MemberEventKind.LEAVE, member("new", MemberStatus.LEFT))

    run(main())
    assert membership.changes == [("remove", "id-2")]


TWIN = replace(member("copy", MemberStatus.ALIVE), address="10.0.0.9")
KNOWN = member("server2", MemberStatus.ALIVE)


@pytest.mark.parametrize("members", [(KNOWN, TWIN), (TWIN, KNOWN)])
def test_a_second_living_server_of_one_id_gets_no_place_and_no_entries(members):
    """A copied data directory: what one of the two stores the other has not promised."""
    membership = Membership(Server(id="id-2", address="10.0.0.2:8300"))
    run(reconciler(membership).everyone(members))
    assert membership.changes == []
    directory = ServerDirectory("dc1", "me")
    for each in members:
        directory.lan_event(MemberEventKind.JOIN, each)
    assert directory.dial_address(membership.servers[0]) == ("10.0.0.2", 8300)


@pytest.mark.parametrize(
    ("kind", "status", "changes"),
    [
        (MemberEventKind.FAILED, MemberStatus.FAILED, [("voter", "id-2")]),
        (MemberEventKind.LEAVE, MemberStatus.LEFT, [("remove", "id-2"), ("voter", "id-2")]),
    ],
)
def test_a_server_that_comes_back_under_another_name_and_address_is_taken_when_the_old_one_is_gone(
    kind, status, changes
):
    membership = Membership(Server(id="id-2", address="10.0.0.2:8300"))
    duty = reconciler(membership, Autopilot())

    async def main():
        await duty.everyone([KNOWN, TWIN])
        await duty.event(kind, replace(KNOWN, status=status))
        await duty.event(MemberEventKind.UPDATE, TWIN)

    run(main())
    assert membership.changes == changes


@pytest.mark.parametrize("kind", ["kvs", "txn"])
def test_new_leader_knows_the_lock_delays_of_before_when_it_decides_on_a_lock(kind):
    session = "1" * 8 + "-1111-1111-1111-" + "1" * 12
    entry = DirEntry(key=b"k", session=session)

    async def main():
        store, proposer = Store(), Proposer()

        async def barrier():  # the destruction of the last holder's session is applied
            store.lock_delays.note(b"k", 15.0, 0.0)

        proposer.barrier = barrier
        options = {"ready": lambda: False}
        if kind == "kvs":
            values = KeyValues(store, proposer, None, lambda: 0.0, **options)
            assert await values.apply(KVSRequest(op="lock", dir_ent=entry)) is False
        else:
            ops = (TxnOp(kv=TxnKVOp(verb="lock", dir_ent=entry)),)
            reply = await Txn(store, proposer, None, lambda: 0.0, **options).apply(TxnRequest(ops=ops))
            assert reply.errors[0].what == 'failed to lock key "k" due to lock delay'
        return proposer.written

    assert run(main()) == []


def test_read_only_transaction_does_not_pretend_to_write():
    class Blocking:
        async def check(self, options):
            pass

        def finish(self, reply):
            return reply

    store = Store()
    ops = (TxnOp(node=TxnNodeOp(verb="set", node=Node(node="n", address="10.0.0.1"))),)
    reply = run(Txn(store, Proposer(), Blocking(), lambda: 0.0, ready=lambda: True).read(TxnReadRequest(ops=ops)))
    assert [error.what for error in reply.errors] == ["cannot write in a read-only transaction"]
    assert reply.results is None


def test_session_renewed_while_others_are_destroyed_lives_on():
    ids = [f"{number}" * 8 + "-1111-1111-1111-" + "1" * 12 for number in (1, 2)]

    async def main():
        loop, store, timers = asyncio.get_running_loop(), Store(), SessionTimers()
        with store.begin(1) as txn:
            registration.register(txn, RegisterRequest(node="n", address="10.0.0.1"))
        rows = []
        for number, session_id in enumerate(ids):
            with store.begin(2 + number) as txn:
                rows.append(sessions.create(txn, Session(id=session_id, node="n", ttl="10s")))
        proposer = Proposer()
        task = asyncio.create_task(SessionExpiry(store, proposer, timers, loop.time, Recorder()).run())
        await asyncio.sleep(20.5)  # both are over, the first one is being written
        timers.touch(rows[1], loop.time())
        await asyncio.sleep(10.0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        return [msgpack.decode(SessionRequest, body).session.id for kind, body in proposer.written if kind == SESSION]

    assert run(main()) == ids[:1]


def test_session_whose_end_is_being_written_is_not_renewed():
    session_id = "1" * 8 + "-1111-1111-1111-" + "1" * 12

    async def main():
        loop, store, timers, proposer = asyncio.get_running_loop(), Store(), SessionTimers(), Proposer()
        with store.begin(1) as txn:
            registration.register(txn, RegisterRequest(node="n", address="10.0.0.1"))
        with store.begin(2) as txn:
            sessions.create(txn, Session(id=session_id, node="n", ttl="10s"))
        asked = Sessions(store, proposer, None, timers, now=loop.time, uuid=str)
        task = asyncio.create_task(SessionExpiry(store, proposer, timers, loop.time, Recorder()).run())
        answers = []
        for pause in (19.5, 20.5, 5.0):  # in time; while the end of 39.5 is written; after that had no effect
            await asyncio.sleep(pause)
            reply = await asked.renew(SessionSpecificRequest(session_id=session_id))
            answers.append(reply.sessions is not None)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        return answers, timers.ending

    assert run(main()) == ([True, False, True], set())
