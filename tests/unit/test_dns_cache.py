"""`dns_config.use_cache`: what is taken from the agent's cache, how old it may be, and what never is."""

import asyncio
import random
from dataclasses import replace

import pytest

from conformance.dns_replies import packet
from pyconsul_agent.agent.cache import Cache
from pyconsul_agent.errors import NoServers
from pyconsul_agent.interfaces.dns.config import DNSConfig
from pyconsul_agent.structs import methods
from pyconsul_agent.structs.base import duration
from pyconsul_agent.structs.health import CheckServiceNode
from pyconsul_agent.structs.requests import PreparedQueryExecuteResponse
from pyconsul_agent.wire import dns
from tests.builders import run_sim
from tests.memory_net import Clock, Recorder
from tests.unit.dns_cases import Catalog
from tests.unit.test_dns_prepared import Asker, Local, StoppedClock, web
from tests.unit.test_dns_server import Setup

CACHING = DNSConfig(node_name="golden", use_cache=True)


class Servers(Catalog):
    """A catalog behind RPC: blocking queries wait for `change`, and `reachable` says whether calls arrive at all."""

    def __init__(self):
        super().__init__()
        self.index, self.reachable, self.asked = 1, True, []
        self._changed = asyncio.Event()
        for number in range(3):
            self.add(number)

    def add(self, number):
        service = {"Service": "web", "Port": 80}
        self.register({"Node": f"n{number}", "Address": f"10.1.0.{number}", "Service": service})

    def change(self):
        self.index += 1
        self._changed.set()
        self._changed = asyncio.Event()

    async def call(self, method, request):
        if not self.reachable:
            raise NoServers
        self.asked.append((method, request))
        if method is methods.PREPARED_QUERY_EXECUTE:
            row = CheckServiceNode(node=self.nodes["n0"], service=self.services["n0", "web"])
            return PreparedQueryExecuteResponse(service="web", nodes=(row,), datacenter="dc1")
        while request.min_query_index >= self.index:
            await self._changed.wait()
            if not self.reachable:
                raise NoServers
        return replace(await super().call(method, request), index=self.index)

    def times(self, method):
        return sum(asked is method for asked, _ in self.asked)


class Cached(Setup):
    def __init__(self, world, servers, config):
        self.cache = Cache(servers, Clock(), random.Random(3), Recorder())
        super().__init__(world, servers, config, cache=self.cache)

    async def __aexit__(self, *more):
        await self.cache.close()
        await super().__aexit__(*more)

    async def addresses(self, name="web.service.consul."):
        reply = await self.ask(name)
        return sorted(record.data[0][3] for record in reply.answers)


def scenario(config=CACHING):
    def wrap(work):
        async def main(world):
            servers = Servers()
            async with Cached(world, servers, config) as setup:
                await work(setup, servers)

        run_sim(1, main)
        return work

    return wrap


def test_services_and_nodes_are_asked_for_once_and_kept_fresh_by_blocking_queries():
    @scenario()
    async def _(setup, servers):
        for _ in range(5):
            assert await setup.addresses() == [0, 1, 2]
            assert await setup.addresses("n1.node.consul.") == [1]
        answered = [request for _, request in servers.asked if not request.min_query_index]
        assert [type(request).__name__ for request in answered] == ["ServiceSpecificRequest", "NodeSpecificRequest"]
        servers.register({"Node": "n1", "Address": "10.1.0.77", "Service": {"Service": "web", "Port": 80}})
        servers.change()
        await asyncio.sleep(1)
        assert await setup.addresses() == [0, 2, 77]
        assert await setup.addresses("n1.node.consul.") == [77]


def test_what_is_cached_is_answered_without_servers():
    @scenario()
    async def _(setup, servers):
        await setup.addresses()
        servers.reachable = False
        servers.change()
        await asyncio.sleep(30)
        assert await setup.addresses() == [0, 1, 2]
        assert (await setup.ask("other.service.consul.")).rcode == dns.SERVFAIL


@pytest.mark.parametrize(("max_age_s", "calls"), [(0.0, 1), (5.0, 2)])
def test_prepared_queries_are_executed_again_when_the_answer_is_older_than_cache_max_age(max_age_s, calls):
    @scenario(replace(CACHING, cache_max_age_s=max_age_s))
    async def _(setup, servers):
        for _ in range(3):
            assert await setup.addresses("any.query.consul.") == [0]
        assert servers.times(methods.PREPARED_QUERY_EXECUTE) == 1
        await asyncio.sleep(6)
        assert await setup.addresses("any.query.consul.") == [0]
        assert servers.times(methods.PREPARED_QUERY_EXECUTE) == calls


def test_reverse_names_and_other_configurations_do_not_use_the_cache():
    @scenario()
    async def _(setup, servers):
        for _ in range(2):
            assert (await setup.ask("1.0.1.10.in-addr.arpa.", "PTR")).answers
        assert servers.times(methods.CATALOG_LIST_NODES) == 2
        setup.server.reload(replace(CACHING, use_cache=False))
        for _ in range(2):
            await setup.addresses()
        assert servers.times(methods.HEALTH_SERVICE_NODES) == 2


def test_a_cached_answer_that_is_too_stale_is_asked_for_again_at_the_leader():
    class Old(Servers):
        async def call(self, method, request):
            reply = await super().call(method, request)
            return replace(reply, last_contact=duration(10.0 if request.allow_stale else 0.0))

    async def main(world):
        servers = Old()
        async with Cached(world, servers, replace(CACHING, max_stale_s=5.0)) as setup:
            assert await setup.addresses() == [0, 1, 2]
            answered = [request for _, request in servers.asked if not request.min_query_index]
            assert [request.allow_stale for request in answered] == [True, False]

    run_sim(1, main)


@pytest.mark.parametrize(("local", "config", "cached"), [
    (Local(), CACHING, False),
    (Local(), replace(CACHING, allow_stale=False), True),
    (None, CACHING, True),
])  # fmt: skip
def test_a_server_asks_its_own_state_before_the_cache(local, config, cached):
    async def main():
        catalog = web(3)
        cache = Cache(catalog, StoppedClock(), random.Random(3), Recorder())
        asker = await Asker(catalog, config, local, cache).open()
        for number in range(2):
            assert dns.parse_message(await asker.ask(packet({"name": "web.service.consul."}), number)).answers
        assert bool(len(cache)) == cached
        await cache.close()

    asyncio.run(main())
