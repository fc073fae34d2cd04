"""A client agent's servers: their order, and which calls are made again."""

import asyncio
import random
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyconsul_agent.client.rate import TokenBucket
from pyconsul_agent.client.router import Router
from pyconsul_agent.client.server_list import ServerList
from pyconsul_agent.errors import NoServers, RPCError, RPCRateExceeded
from pyconsul_agent.runtime.rpc_pool import ServerAddress
from pyconsul_agent.structs.methods import KVS_APPLY, KVS_GET, STATUS_PING, Empty
from pyconsul_agent.structs.requests import IndexedDirEntries, KeyRequest, KVSRequest
from tests.memory_net import Clock, Recorder, run


def server(number):
    return ServerAddress(f"srv{number}", f"10.0.0.{number}", 8300, "dc1")


ONE, TWO, THREE = server(1), server(2), server(3)


def listing(*servers, seed=1):
    result = ServerList(random.Random(seed))
    for each in servers:
        result.add(each)
    return result


def test_new_servers_come_last_and_the_first_is_used():
    servers = listing(ONE, TWO)
    servers.add(THREE)
    assert servers.servers == (ONE, TWO, THREE)
    assert servers.first == ONE


def test_failure_rotates_the_first_server_once():
    servers = listing(ONE, TWO, THREE)
    servers.failed(ONE)
    servers.failed(ONE)  # another call that was under way at the time
    assert servers.servers == (TWO, THREE, ONE)


def test_the_only_server_is_kept():
    servers = listing(ONE)
    servers.failed(ONE)
    assert servers.first == ONE


def test_a_server_with_a_new_address_keeps_its_place():
    servers = listing(ONE, TWO)
    moved = ServerAddress("srv1", "10.9.9.9", 8300, "dc1")
    servers.add(moved)
    assert servers.servers == (moved, TWO)


def test_removed_server_is_gone():
    servers = listing(ONE, TWO)
    assert servers.remove("srv1") == ONE
    assert servers.remove("srv1") is None
    assert servers.servers == (TWO,)


def test_adopted_order_respects_what_changed_meanwhile():
    servers = listing(ONE, TWO, THREE)
    order = [THREE, ONE, TWO]
    servers.remove("srv1")
    servers.add(server(4))
    assert servers.adopt(order)
    assert servers.servers == (THREE, TWO, server(4))


def test_order_whose_first_server_is_gone_is_not_adopted():
    servers = listing(ONE, TWO)
    servers.remove("srv2")
    assert not servers.adopt([TWO, ONE])
    assert not servers.adopt([])
    assert servers.servers == (ONE,)


@given(seed=st.integers(), nodes=st.integers(0, 100_000), count=st.integers(0, 7))
def test_rebalance_is_between_two_and_three_minutes_or_slower_in_large_clusters(seed, nodes, count):
    after = listing(*(server(i) for i in range(count)), seed=seed).rebalance_after_s(nodes)
    slow = nodes * 0.015625 / count if count else 0
    assert max(120.0, slow) <= after <= max(180.0, slow)


class Pool:
    """Each server answers what `answers` says of it, in turn; the last for ever."""

    def __init__(self, **answers):
        self.answers = {name: list(given) for name, given in answers.items()}
        self.calls = []
        self.forgotten = []

    async def call(self, to, method, request):
        await asyncio.sleep(0.001)
        self.calls.append((to.name, method.name))
        given = self.answers.get(to.name, [Empty()])
        answer = given.pop(0) if len(given) > 1 else given[0]
        if isinstance(answer, Exception):
            raise answer
        return answer

    def forget(self, server):
        self.forgotten.append(server)


def make_router(pool, *servers, **options):
    router = Router(pool, Clock(), random.Random(1), Recorder(), node_count=lambda: 3, **options)
    for each in servers:
        router.server_joined(each)
    return router


GET = KeyRequest(key=b"a")
FOUND = IndexedDirEntries(index=5)
EOF = RPCError("rpc error making call: EOF")
NO_LEADER = RPCError("rpc error making call: No cluster leader")
DENIED = RPCError("rpc error making call: Must provide node")


def outcome(router, method=KVS_GET, request=GET):
    async def main():
        loop = asyncio.get_running_loop()
        started = loop.time()
        try:
            return SimpleNamespace(reply=await router.call(method, request), waited=loop.time() - started)
        except RPCError as error:
            return SimpleNamespace(error=error, waited=loop.time() - started)

    return run(main())


def test_no_servers():
    error = outcome(make_router(Pool())).error
    assert isinstance(error, NoServers)
    assert str(error) == "No known Consul servers"


def test_read_is_repeated_at_the_next_server_after_eof():
    pool = Pool(srv1=[EOF], srv2=[FOUND])
    assert outcome(make_router(pool, ONE, TWO)).reply == FOUND
    assert pool.calls == [("srv1", "KVS.Get"), ("srv2", "KVS.Get")]


def test_write_is_not_repeated_after_eof():
    pool = Pool(srv1=[EOF], srv2=[True])
    router = make_router(pool, ONE, TWO)
    assert outcome(router, KVS_APPLY, KVSRequest()).error is EOF
    assert len(pool.calls) == 1
    assert router.servers == (TWO, ONE)


def test_write_is_repeated_when_there_was_no_leader():
    pool = Pool(srv1=[NO_LEADER], srv2=[True])
    assert outcome(make_router(pool, ONE, TWO), KVS_APPLY, KVSRequest()).reply is True


def test_application_error_rotates_but_is_not_repeated():
    pool = Pool(srv1=[DENIED])
    router = make_router(pool, ONE, TWO)
    assert outcome(router).error is DENIED
    assert router.servers == (TWO, ONE)


def test_retries_end_with_the_hold_time():
    pool = Pool(srv1=[NO_LEADER])
    result = outcome(make_router(pool, ONE))
    assert result.error is NO_LEADER
    assert 7.0 <= result.waited < 7.5


def test_rate_limit_refuses_before_sending():
    pool = Pool()
    assert isinstance(outcome(make_router(pool, ONE, admit=lambda: False)).error, RPCRateExceeded)
    assert pool.calls == []


def test_server_that_leaves_is_forgotten_by_the_pool_too():
    pool = Pool()
    router = make_router(pool, ONE, TWO)
    router.server_left("srv1")
    router.server_left("srv9")
    moved = ServerAddress("srv2", "10.9.9.9", 8300, "dc1")
    router.server_joined(moved)
    assert router.servers == (moved,)
    assert pool.forgotten == [ONE, TWO]


@pytest.mark.parametrize("alive", ["srv1", "srv2", "srv3"])
def test_rebalance_puts_a_server_first_that_answers(alive):
    pool = Pool(**{name: [DENIED] for name in ("srv1", "srv2", "srv3") if name != alive})
    router = make_router(pool, ONE, TWO, THREE)
    assert run(router.rebalance())
    assert router.servers[0].name == alive
    assert {name for _, name in pool.calls} == {"Status.Ping"}


def test_rebalance_changes_nothing_when_no_server_answers():
    pool = Pool(srv1=[DENIED], srv2=[DENIED])
    router = make_router(pool, ONE, TWO)
    assert not run(router.rebalance())
    assert router.servers == (ONE, TWO)
    assert len(pool.calls) == 2


def test_rebalance_happens_after_two_minutes_and_then_every_two_to_three():
    pool = Pool()
    router = make_router(pool, ONE)
    counts = []

    async def main():
        router.start()
        for pause in (119, 2, 120, 61):
            await asyncio.sleep(pause)
            counts.append(len(pool.calls))
        await router.close()

    run(main())
    assert counts == [0, 1, 1, 2]
    assert pool.calls[0] == ("srv1", STATUS_PING.name)


# --- limit on calls ------------------------------------------------------------------------------------------------


def taken(bucket, now, tries=100):
    return sum(bucket.take(now) for _ in range(tries))


def test_bucket_gives_its_burst_at_once_and_then_its_rate():
    bucket = TokenBucket(2.0, 5, 10.0)
    assert taken(bucket, 10.0) == 5
    assert taken(bucket, 10.4) == 0
    assert taken(bucket, 10.5) == 1
    assert taken(bucket, 12.0) == 3
    assert taken(bucket, 1000.0) == 5


def test_bucket_without_limit_never_refuses_and_rate_zero_gives_the_burst_once():
    assert taken(TokenBucket(-1.0, 0, 0.0), 0.0) == 100
    bucket = TokenBucket(0.0, 3, 0.0)
    assert (taken(bucket, 0.0), taken(bucket, 1e6)) == (3, 0)


def test_bucket_takes_other_limits_and_keeps_no_more_than_they_allow():
    bucket = TokenBucket(1.0, 10, 0.0)
    bucket.limit(1.0, 4, 0.0)
    assert taken(bucket, 0.0) == 4
    bucket.limit(-1.0, 4, 0.0)
    assert taken(bucket, 0.0) == 100
    bucket.limit(1.0, 2, 0.0)
    assert taken(bucket, 0.0) == 2


def test_bucket_is_not_filled_by_a_clock_that_stands_or_goes_back():
    bucket = TokenBucket(1.0, 1, 5.0)
    assert taken(bucket, 5.0) == 1
    assert taken(bucket, 4.0) == 0
    assert taken(bucket, 5.9) == 0
    assert taken(bucket, 6.0) == 1
