"""A lock delay holds from the moment at which the holder's session ends in the log, not from when somebody sees it."""

import asyncio
from dataclasses import replace

import pytest

from pyconsul_agent.errors import RPCError
from pyconsul_agent.fsm.apply import KVS, REGISTER, SESSION
from pyconsul_agent.fsm.machine import StateMachine
from pyconsul_agent.server.endpoints.kvs import KeyValues
from pyconsul_agent.server.endpoints.txn import Txn
from pyconsul_agent.state.store import Store
from pyconsul_agent.structs.kv import DirEntry
from pyconsul_agent.structs.raft import LogEntry
from pyconsul_agent.structs.requests import KVSRequest, RegisterRequest, SessionRequest, TxnRequest
from pyconsul_agent.structs.session import Session
from pyconsul_agent.structs.txn import TxnKVOp, TxnOp
from pyconsul_agent.wire.msgpack import encode

HOLDER, OTHER = "11111111-1111-1111-1111-111111111111", "22222222-2222-2222-2222-222222222222"
SECOND_NS = 1_000_000_000


class Leader:
    """Entries are applied when somebody waits for them: `late` are in the log already."""

    is_leader = True

    def __init__(self):
        self.store = Store()
        self.now = 100.0
        self.machine = StateMachine(self.store, lambda: self.now)
        self.late = []
        self.index = 0
        self.barriers = 0

    def put(self, kind, body):
        self.late.append((kind, encode(body)))

    async def apply(self, kind, body):
        await self.barrier()
        self.barriers -= 1
        return self._applied(kind, body)

    async def barrier(self):
        await asyncio.sleep(0)
        self.barriers += 1
        while self.late:
            result = self._applied(*self.late.pop(0))
            assert not isinstance(result, Exception), result

    def _applied(self, kind, body):
        self.index += 1
        return self.machine.apply(LogEntry(index=self.index, term=2, type=0, data=bytes([kind]) + body))


def lock(session, op="lock"):
    return KVSRequest(op=op, dir_ent=DirEntry(key=b"k", value=b"v", session=session))


def scene(test):
    async def body():
        leader = Leader()
        leader.put(REGISTER, RegisterRequest(node="n", address="10.0.0.1"))
        for identity in (HOLDER, OTHER):
            session = Session(id=identity, node="n", lock_delay=15 * SECOND_NS, node_checks=())
            leader.put(SESSION, SessionRequest(op="create", session=session))
        await leader.barrier()
        leader.barriers = 0
        endpoint = KeyValues(leader.store, leader, None, lambda: leader.now, ready=lambda: True)
        assert await endpoint.apply(lock(HOLDER))
        await test(leader, endpoint)

    asyncio.run(body())


def test_an_acquisition_behind_the_end_of_the_session_is_delayed():
    async def test(leader, endpoint):
        leader.put(SESSION, SessionRequest(op="destroy", session=Session(id=HOLDER)))
        assert await endpoint.apply(lock(OTHER)) is False
        leader.now += 14.9
        assert await endpoint.apply(lock(OTHER)) is False
        leader.now += 0.2
        assert await endpoint.apply(lock(OTHER)) is True

    scene(test)


def test_an_acquisition_behind_a_release_gets_the_lock():
    async def test(leader, endpoint):
        leader.put(KVS, lock(HOLDER, "unlock"))
        assert await endpoint.apply(lock(OTHER)) is True

    scene(test)


def test_an_acquisition_of_a_held_lock_is_refused_by_one_entry():
    async def test(leader, endpoint):
        assert await endpoint.apply(lock(OTHER)) is False
        assert leader.barriers == 1

    scene(test)


def test_a_holder_may_acquire_again_and_a_free_lock_needs_no_barrier():
    async def test(leader, endpoint):
        assert await endpoint.apply(lock(HOLDER)) is True
        assert await endpoint.apply(replace(lock(OTHER), dir_ent=DirEntry(key=b"free", session=OTHER))) is True
        assert leader.barriers == 0

    scene(test)


@pytest.mark.parametrize("session", ["33333333-3333-3333-3333-333333333333", "short"])
def test_an_unknown_session_has_its_error_though_the_lock_is_held(session):
    async def test(leader, endpoint):
        with pytest.raises(RPCError, match=r"raft apply failed: .*session"):
            await endpoint.apply(lock(session))

    scene(test)


def test_a_transaction_behind_the_end_of_the_session_is_delayed_too():
    async def test(leader, _):
        endpoint = Txn(leader.store, leader, None, lambda: leader.now, ready=lambda: True)
        ops = (TxnOp(kv=TxnKVOp(verb="lock", dir_ent=DirEntry(key=b"k", value=b"v", session=OTHER))),)
        reply = await endpoint.apply(TxnRequest(ops=ops))
        assert [error.what for error in reply.errors] == ['failed to lock key "k", lock is already held']
        leader.put(SESSION, SessionRequest(op="destroy", session=Session(id=HOLDER)))
        reply = await endpoint.apply(TxnRequest(ops=ops))
        assert [error.what for error in reply.errors] == ['failed to lock key "k" due to lock delay']
        leader.now += 15.1
        assert (await endpoint.apply(TxnRequest(ops=ops))).errors is None

    scene(test)


def kv_op(verb, session="", **entry):
    return TxnOp(kv=TxnKVOp(verb=verb, dir_ent=DirEntry(**({"key": b"k", "value": b"v", "session": session} | entry))))


@pytest.mark.parametrize("release", [kv_op("unlock", HOLDER), kv_op("delete"), kv_op("delete-tree", key=b"")])
def test_a_lock_that_the_transaction_itself_releases_is_had(release):
    async def test(leader, _):
        endpoint = Txn(leader.store, leader, None, lambda: leader.now, ready=lambda: True)
        reply = await endpoint.apply(TxnRequest(ops=(release, kv_op("lock", OTHER))))
        assert reply.errors is None
        assert leader.store.tables.kvs.get(b"k").session == OTHER

    scene(test)


def test_a_refused_lock_is_told_beside_what_else_fails_and_nothing_is_written():
    async def test(leader, _):
        endpoint = Txn(leader.store, leader, None, lambda: leader.now, ready=lambda: True)
        ops = (kv_op("set", key=b"new"), kv_op("check-index", modify_index=1), kv_op("lock", OTHER))
        before = leader.index
        reply = await endpoint.apply(TxnRequest(ops=ops))
        assert [error.op_index for error in reply.errors] == [1, 2]
        assert leader.store.tables.kvs.get(b"new") is None
        assert leader.index == before

    scene(test)
