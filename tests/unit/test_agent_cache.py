"""The agent's cache: what is a hit, how it is kept fresh, and that it stays small. In virtual time."""

import asyncio
import random
from dataclasses import replace
from itertools import pairwise

import pytest

from pyconsul_agent.agent import cache as caches
from pyconsul_agent.agent.cache import Cache, key_of
from pyconsul_agent.agent.cache_table import BYTES_PER_ENTRY, LAST_GET_TTL_S, CacheLimits, encoded_bytes
from pyconsul_agent.errors import RPCError
from pyconsul_agent.structs.base import duration
from pyconsul_agent.structs.catalog import ServiceNode
from pyconsul_agent.structs.requests import (
    DatacentersRequest,
    IndexedServiceNodes,
    IndexedServices,
    PreparedQueryExecuteRequest,
    PreparedQueryExecuteResponse,
    QuerySource,
    ServiceSpecificRequest,
)
from pyconsul_agent.wire.msgpack import encode
from tests.unit.http_bench import SilentLog
from tests.unit.test_server_blocking import run

WEB = ServiceSpecificRequest(datacenter="dc1", service_name="web", use_cache=True)
DATACENTERS = DatacentersRequest(use_cache=True)


class Clock:
    def monotonic(self):
        return asyncio.get_running_loop().time()


class Servers:
    """Answers service nodes at `index`; a question about an index that has not passed waits."""

    def __init__(self):
        self.index = 5
        self.padding = ""
        self.error = None
        self.asked = []
        self.under_way = 0
        self.changed = asyncio.Event()

    def write(self, index):
        self.index = index
        self.wake()

    def wake(self):
        changed, self.changed = self.changed, asyncio.Event()
        changed.set()

    async def call(self, method, request):
        self.asked.append((asyncio.get_running_loop().time(), request))
        self.under_way += 1
        try:
            if 0 < request.min_query_index >= self.index and self.error is None:
                try:
                    async with asyncio.timeout(request.max_query_time / 1e9):
                        await self.changed.wait()
                except TimeoutError:
                    pass
            if self.error is not None:
                raise self.error
            if method.name == "Catalog.ListDatacenters":
                return [f"dc{self.index}"]
            if method.name == "PreparedQuery.Execute":
                return PreparedQueryExecuteResponse(service=f"s{self.index}")
            rows = (ServiceNode(node=f"n{self.index}", service_name=self.padding),)
            return IndexedServiceNodes(index=self.index, service_nodes=rows)
        finally:
            self.under_way -= 1


def scenario(**limits):
    """A test body with a cache that is closed afterwards, run in virtual time."""

    def decorate(body):
        async def whole():
            servers = Servers()
            cache = Cache(servers, Clock(), random.Random(3), SilentLog(), CacheLimits(**limits))
            try:
                await body(cache, servers)
            finally:
                await cache.close()
            assert servers.under_way == 0

        return lambda: run(whole())

    return decorate


async def nodes(cache, request=WEB, **options):
    found = await cache.get(caches.SERVICE_NODES, replace(request, **options))
    return found.value.service_nodes[0].node, found.headers


MISS = {"X-Cache": "MISS"}


def hit(age=0):
    return {"X-Cache": "HIT", "Age": str(age)}


@scenario()
async def test_what_was_asked_before_is_a_hit_and_stays_fresh(cache, servers):
    assert await nodes(cache) == ("n5", MISS)
    assert await nodes(cache) == ("n5", hit())
    servers.write(6)
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert await nodes(cache) == ("n6", hit())
    first, second = servers.asked[0][1], servers.asked[1][1]
    assert (first.min_query_index, first.allow_stale, first.max_query_time) == (0, True, 0)
    assert (second.min_query_index, second.max_query_time) == (5, duration(600.0))


@scenario()
async def test_a_refreshed_kind_does_not_heed_max_age_and_must_revalidate(cache, servers):
    await nodes(cache)
    await asyncio.sleep(100)
    assert await nodes(cache, must_revalidate=True) == ("n5", hit())
    assert await nodes(cache, max_age=duration(1.0)) == ("n5", hit())


@scenario()
async def test_a_kind_that_is_not_refreshed_is_as_old_as_its_fetch(cache, servers):
    async def ask(**options):
        found = await cache.get(caches.DATACENTERS, replace(DATACENTERS, **options))
        return found.value, found.headers

    assert await ask() == (["dc5"], MISS)
    servers.index = 6
    await asyncio.sleep(7)
    assert await ask() == (["dc5"], hit(7))
    assert await ask(max_age=duration(10.0)) == (["dc5"], hit(7))
    assert await ask(max_age=duration(5.0)) == (["dc6"], MISS)
    servers.index = 7
    assert await ask(must_revalidate=True) == (["dc7"], MISS)
    servers.error = RPCError("No cluster leader")
    await asyncio.sleep(3)
    assert await ask() == (["dc7"], hit(3))
    assert await ask(must_revalidate=True, stale_if_error=duration(4.0)) == (["dc7"], hit(3))
    with pytest.raises(RPCError, match="No cluster leader"):
        await ask(must_revalidate=True, stale_if_error=duration(2.0))


@scenario()
async def test_callers_at_the_same_time_share_one_fetch(cache, servers):
    found = await asyncio.gather(*(nodes(cache) for _ in range(10)))
    assert found == [("n5", MISS)] * 10
    assert len([request for _, request in servers.asked if not request.min_query_index]) == 1


@scenario()
async def test_a_read_of_the_next_index_waits_for_it_or_for_its_time(cache, servers):
    loop = asyncio.get_running_loop()
    await nodes(cache)
    loop.call_later(3.0, servers.write, 8)
    assert await nodes(cache, min_query_index=5) == ("n8", MISS)
    assert loop.time() == 3.0
    assert await nodes(cache, min_query_index=8, max_query_time=duration(2.0)) == ("n8", MISS)
    assert loop.time() == 5.0
    assert await nodes(cache, min_query_index=7) == ("n8", hit())


@scenario()
async def test_the_value_ages_while_its_refresh_fails_and_the_refresh_backs_off(cache, servers):
    await nodes(cache)
    servers.error = RPCError("No known Consul servers")
    servers.wake()
    await asyncio.sleep(300)
    assert await nodes(cache) == ("n5", hit(300))
    tried = [at for at, _ in servers.asked[2:]]
    assert 5 <= len(tried) <= 12, tried
    gaps = [after - before for before, after in pairwise(tried)]
    assert max(gaps) <= 120.0
    servers.error = None
    servers.index = 9
    assert await nodes(cache, min_query_index=5) == ("n9", MISS)
    assert await nodes(cache) == ("n9", hit())


@scenario()
async def test_a_blocking_read_is_told_the_error_of_the_refresh_at_once(cache, servers):
    await nodes(cache)
    servers.error = RPCError("No cluster leader")
    asyncio.get_running_loop().call_later(2.0, servers.wake)
    with pytest.raises(RPCError, match="No cluster leader"):
        await nodes(cache, min_query_index=5)
    assert asyncio.get_running_loop().time() == 2.0


@scenario()
async def test_an_error_without_a_value_is_passed_on_and_nothing_is_kept(cache, servers):
    servers.error = RPCError("rpc error making call: No path to datacenter")
    with pytest.raises(RPCError, match="No path to datacenter"):
        await nodes(cache)
    assert (len(cache), cache.bytes_kept) == (0, 0)
    asked = len(servers.asked)
    await asyncio.sleep(1000)
    assert len(servers.asked) == asked
    servers.error = None
    assert await nodes(cache) == ("n5", MISS)


@scenario()
async def test_refreshing_ends_when_nobody_asked_for_three_days(cache, servers):
    await nodes(cache)
    await asyncio.sleep(LAST_GET_TTL_S + 1200)
    assert (len(cache), cache.bytes_kept, servers.under_way) == (0, 0, 0)
    asked = len(servers.asked)
    await asyncio.sleep(3600)
    assert len(servers.asked) == asked


@scenario(entries_max=10)
async def test_of_many_questions_the_last_asked_are_kept_and_only_they_are_refreshed(cache, servers):
    for number in range(500):
        await nodes(cache, service_name=f"s{number}")
        assert await nodes(cache, service_name="s0") == ("n5", hit())
    await asyncio.sleep(0)
    assert (len(cache), servers.under_way) == (10, 10)
    assert await nodes(cache, service_name="s499") == ("n5", hit())
    assert await nodes(cache, service_name="s400") == ("n5", MISS)


@scenario(bytes_max=200_000)
async def test_bytes_are_bounded_and_what_is_too_large_is_answered_but_not_kept(cache, servers):
    servers.padding = "x" * 10_000
    for number in range(20):
        await nodes(cache, service_name=f"s{number}")
        assert cache.bytes_kept <= 200_000
    assert 3 < len(cache) < 8
    servers.padding = "x" * 100_000
    assert await nodes(cache) == ("n5", MISS)
    assert await nodes(cache) == ("n5", MISS)
    assert (len(cache), cache.bytes_kept) == (0, 0)
    servers.padding = ""
    await nodes(cache)
    assert BYTES_PER_ENTRY < cache.bytes_kept < 2 * BYTES_PER_ENTRY


@scenario(entry_fetch_rate=0.1, entry_fetch_max_burst=2)
async def test_each_entry_is_fetched_no_more_often_than_the_limit_says(cache, servers):
    for index in range(6, 40):
        servers.write(index)
        await nodes(cache)
        await asyncio.sleep(1)
    assert [at for at, _ in servers.asked] == pytest.approx([0.0, 0.0, 10.0, 20.0, 30.0], abs=1.1)
    cache.limit(float("inf"), 2)
    await asyncio.sleep(11)
    assert (await nodes(cache))[0] == "n39"


@scenario()
async def test_a_server_that_answers_at_once_without_news_is_not_asked_in_a_loop(cache, servers):
    async def at_once(method, request):
        servers.asked.append(request)
        return IndexedServiceNodes(index=5)

    servers.call = at_once
    await cache.get(caches.SERVICE_NODES, WEB)
    await asyncio.sleep(10)
    assert len(servers.asked) <= 13


@scenario()
async def test_a_deleted_token_ends_the_refresh(cache, servers):
    await nodes(cache)
    servers.error = RPCError("rpc error making call: ACL not found")
    servers.wake()
    await asyncio.sleep(1000)
    assert (len(cache), len(servers.asked)) == (0, 2)


@scenario()
async def test_who_leaves_while_waiting_leaves_the_fetch_to_the_others(cache, servers):
    await nodes(cache)
    waiting = [asyncio.ensure_future(nodes(cache, min_query_index=5)) for _ in range(2)]
    await asyncio.sleep(1)
    waiting[0].cancel()
    await asyncio.sleep(0)
    servers.write(6)
    assert await waiting[1] == ("n6", MISS)
    assert waiting[0].cancelled()


@scenario()
async def test_servers_that_begin_anew_are_not_waited_for(cache, servers):
    servers.index = 500
    assert (await nodes(cache))[0] == "n500"
    servers.error = RPCError("No cluster leader")
    servers.wake()
    await asyncio.sleep(1)
    servers.error, servers.index = None, 3
    await asyncio.sleep(10)
    assert await nodes(cache) == ("n3", hit())


@scenario()
async def test_who_waits_when_the_cache_closes_asks_a_server_instead(cache, servers):
    await nodes(cache)
    waiting = asyncio.ensure_future(nodes(cache, min_query_index=5, max_query_time=duration(50.0)))
    await asyncio.sleep(1)
    await cache.close()
    servers.write(6)
    assert await waiting == ("n6", MISS)


@scenario(entries_max=1)
async def test_a_question_asked_again_while_its_old_entry_goes_has_an_entry_of_its_own(cache, servers):
    for _ in range(5):
        first = asyncio.ensure_future(nodes(cache))
        await asyncio.sleep(0)
        other = asyncio.ensure_future(nodes(cache, service_name="other"))
        again = asyncio.ensure_future(nodes(cache))
        assert [(await each)[0] for each in (first, other, again)] == ["n5"] * 3
        await asyncio.sleep(0.1)
        assert (len(cache), servers.under_way) == (1, 1)


@scenario()
async def test_a_closed_cache_only_passes_questions_on(cache, servers):
    await nodes(cache)
    await cache.close()
    assert await nodes(cache) == ("n5", MISS)
    assert await nodes(cache) == ("n5", MISS)


def test_the_key_holds_the_question_and_who_asks_but_not_how_fresh():
    def key(**changes):
        return key_of(caches.SERVICE_NODES, replace(WEB, **changes))

    freshness = ({"min_query_index": 7}, {"allow_stale": True}, {"max_age": duration(1)}, {"must_revalidate": True})
    assert {key(**each) for each in freshness} == {key()}
    others = ({"token": "t"}, {"filter": "x"}, {"datacenter": "dc2"}, {"service_tags": ("a",)}, {"connect": True})
    assert len({key(), *(key(**each) for each in others)}) == 6
    assert key() != key_of(caches.HEALTH_NODES, WEB)
    query = PreparedQueryExecuteRequest(query_id_or_name="q")
    by_ip = {key_of(caches.QUERY_EXECUTE, replace(query, source=QuerySource(ip=ip))) for ip in ("1.2.3.4", "::1")}
    assert len(by_ip) == 1, "addresses of clients would fill the cache"


def test_the_weight_of_a_long_answer_is_told_from_some_of_its_rows():
    def reply(count):
        return IndexedServiceNodes(service_nodes=tuple(ServiceNode(node=f"node-{n}" * (n % 5)) for n in range(count)))

    for count in (0, 5, 100, 5003):
        assert encoded_bytes(reply(count)) == pytest.approx(len(encode(reply(count))), rel=0.1, abs=200)
    many = IndexedServices(services={f"service-{n}": ("a", "b") for n in range(1000)})
    assert encoded_bytes(many) == pytest.approx(len(encode(many)), rel=0.1, abs=200)
