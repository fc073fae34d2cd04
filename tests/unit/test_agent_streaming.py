"""Health that a client agent follows by subscriptions, against our own server port, in memory and virtual time."""

import asyncio
import random
from dataclasses import replace

import pytest

from conformance.vectors_rpc_subscribe import copy_of
from pyconsul_agent.agent import cache as caches
from pyconsul_agent.agent.cache import STREAM_IDLE_S, STREAM_RETRY_S, Cache
from pyconsul_agent.agent.cache_table import DEFAULT_LIMITS
from pyconsul_agent.agent.health_view import HealthView
from pyconsul_agent.client.streaming import REFUSED_S, Streams
from pyconsul_agent.errors import DecodeError, NoServers, RPCError
from pyconsul_agent.runtime.rpc_pool import ServerAddress
from pyconsul_agent.runtime.rpc_server import RPCServer
from pyconsul_agent.state import health
from pyconsul_agent.state.watch import WatchSet
from pyconsul_agent.structs.base import duration, seconds
from pyconsul_agent.structs.catalog import Node, NodeService
from pyconsul_agent.structs.health import CheckServiceNode
from pyconsul_agent.structs.requests import IndexedCheckServiceNodes, QuerySource, ServiceSpecificRequest
from pyconsul_agent.structs.subscribe import EventBatch, ServiceHealthUpdate, SubscribeEvent, Topic
from tests.memory_net import Clock, MemoryNet, run
from tests.unit.test_server_subscribe import SERVER, World, deregister, register

WEB = ServiceSpecificRequest(datacenter="dc1", service_name="web", use_cache=True)


class Agent(World):
    """A cache in front of one server: by RPC from its store, by subscription through its port."""

    def __init__(self):
        super().__init__()
        self.servers = [SERVER]
        self.asked = []
        self.error = None
        self.streams = Streams(self.net, Clock(), self.log, lambda: self.servers)
        self.cache = Cache(self, Clock(), random.Random(3), self.log, DEFAULT_LIMITS, subscriber=self.streams)

    async def call(self, method, request):
        self.asked.append(request)
        if self.error is not None:
            raise self.error
        if request.min_query_index:
            await asyncio.sleep(seconds(request.max_query_time))
        index, rows = health.service_nodes(self.store, WatchSet(), request.service_name)
        return IndexedCheckServiceNodes(index=index, nodes=tuple(rows) or None)

    async def learn_subscriptions(self):
        """Its server comes back as one that offers them."""
        await self.server.close()
        self.server = RPCServer(
            MemoryNet("127.0.0.1", self.network), Clock(), self.log, None, grpc=self.streaming.serve
        )
        await self.server.start("127.0.0.1", 8300)

    async def get(self, request=WEB, **options):
        found = await self.cache.get(caches.HEALTH_NODES, replace(request, **options))
        ids = [row.service.id for row in found.value.nodes or ()]
        return ids, found.value.index, found.value.backend, found.hit


def with_agent(test, grpc=True):
    def run_test():
        async def main():
            agent = Agent()
            server = RPCServer(
                MemoryNet("127.0.0.1", agent.network), Clock(), agent.log, None,
                grpc=agent.streaming.serve if grpc else None,
            )  # fmt: skip
            await server.start("127.0.0.1", 8300)
            agent.server = server
            try:
                await test(agent)
            finally:
                await agent.cache.close()
                await agent.streams.close()
                await agent.server.close()
                await agent.streaming.close()
                await asyncio.sleep(0.1)

        run(main())

    run_test.__name__, run_test.__doc__ = test.__name__, test.__doc__
    return run_test


def without_grpc(test):
    return with_agent(test, grpc=False)


@with_agent
async def test_first_answer_is_the_snapshot_and_later_ones_follow_the_servers(agent):
    agent.write(register("web"), register("db"))
    assert await agent.get() == (["web1"], 11, 1, False)
    assert await agent.get() == (["web1"], 11, 1, True)
    agent.write(register("web", 2))
    await asyncio.sleep(0.1)
    assert await agent.get() == (["web1", "web2"], 13, 1, True)
    agent.write(deregister("web"))
    await asyncio.sleep(0.1)
    assert await agent.get() == (["web2"], 14, 1, True)
    assert agent.asked == []


@with_agent
async def test_blocking_question_is_answered_by_the_change(agent):
    agent.write(register("web"))
    began = asyncio.get_running_loop().time()
    waiting = asyncio.create_task(agent.get(min_query_index=11, max_query_time=duration(30)))
    await asyncio.sleep(5)
    assert not waiting.done()
    agent.write(register("web", 2))
    assert (await waiting)[:2] == (["web1", "web2"], 12)
    assert asyncio.get_running_loop().time() - began < 5.1
    assert (await agent.get(min_query_index=12, max_query_time=duration(3)))[:2] == (["web1", "web2"], 12)
    assert 8 <= asyncio.get_running_loop().time() - began < 8.2
    assert agent.asked == []


@with_agent
async def test_absent_service_is_an_answer_at_once(agent):
    assert (await agent.get(min_query_index=0))[:3] == ([], 1, 1)


@with_agent
async def test_tags_metadata_and_filters_count(agent):
    agent.write(register("web", tags=("Red",)), register("web", 2, tags=("blue",)), register("web", 3, port=81))
    assert (await agent.get(service_tags=("rED",), tag_filter=True))[0] == ["web1"]
    assert (await agent.get(filter="Service.Port == 81"))[0] == ["web3"]
    assert (await agent.get(node_meta_filters={"a": "b"}))[0] == []
    agent.write(register("web", 3, port=82))
    await asyncio.sleep(0.1)
    assert (await agent.get(filter="Service.Port == 81"))[0] == []
    assert agent.asked == []


@with_agent
async def test_restored_servers_are_followed_without_an_error(agent):
    agent.write(register("web"))
    await agent.get()
    old = copy_of(agent.store)
    agent.write(register("web", 2))
    await asyncio.sleep(0.1)
    agent.store.restore(old)
    await asyncio.sleep(2)
    assert await agent.get() == (["web1"], 11, 1, True)
    assert agent.asked == []


@with_agent
async def test_lost_server_is_followed_at_another_from_the_same_index(agent):
    agent.write(register("web"))
    await agent.get()
    second = RPCServer(MemoryNet("127.0.0.3", agent.network), Clock(), agent.log, None, grpc=agent.streaming.serve)
    await second.start("127.0.0.3", 8300)
    agent.servers[:] = [ServerAddress("s2", "127.0.0.3", 8300, "dc1")]
    await agent.server.close()
    agent.streams.forget(SERVER)
    await asyncio.sleep(2)
    agent.write(register("web", 2))
    await asyncio.sleep(0.1)
    assert await agent.get() == (["web1", "web2"], 12, 1, True)
    assert agent.asked == []
    agent.server = second


@without_grpc
async def test_servers_without_subscriptions_are_asked_by_calls(agent):
    agent.write(register("web"))
    assert await agent.get() == (["web1"], 11, 0, False)
    await asyncio.sleep(0.1)
    assert [request.min_query_index for request in agent.asked] == [0, 11]
    dials = len(agent.net.dials)
    assert (await agent.get(service_name="db"))[2] == 0
    assert len(agent.net.dials) == dials


@without_grpc
async def test_subscriptions_are_tried_again_after_a_while(agent):
    agent.write(register("web"))
    await agent.get()
    await agent.learn_subscriptions()
    await asyncio.sleep(max(STREAM_RETRY_S, REFUSED_S) + 1)
    assert (await agent.get(service_name="db"))[2] == 1


@without_grpc
async def test_a_followed_service_is_subscribed_to_as_soon_as_that_may_be_tried_again(agent):
    agent.write(register("web"))
    await agent.get()
    await agent.learn_subscriptions()
    await asyncio.sleep(STREAM_RETRY_S + 3)
    agent.write(register("web", 2))
    await asyncio.sleep(0.1)
    assert await agent.get() == (["web1", "web2"], 12, 1, True)


@with_agent
async def test_calls_that_no_subscription_could_replace_block_as_long_as_ever(agent):
    agent.write(register("web"))
    await agent.get(ingress=True)
    await asyncio.sleep(1)
    assert seconds(agent.asked[-1].max_query_time) == caches.REFRESH_WAIT_S


@with_agent
async def test_without_any_server_the_call_says_so(agent):
    agent.servers.clear()
    agent.error = NoServers()
    with pytest.raises(RPCError, match="No known Consul servers"):
        await agent.get()
    agent.error, agent.servers[:] = None, [SERVER]
    assert (await agent.get())[2] == 1


@with_agent
async def test_ingress_and_near_are_no_subscriptions(agent):
    agent.write(register("web"))
    assert (await agent.get(ingress=True))[2] == 0
    assert (await agent.get(source=QuerySource(node="n1")))[2] == 0


@with_agent
async def test_wrong_filter_is_the_servers_to_refuse(agent):
    agent.error = RPCError("Failed to create boolean expression evaluator")
    with pytest.raises(RPCError, match="boolean"):
        await agent.get(filter="===")


def test_server_that_never_tells_a_snapshot_is_asked_by_a_call():
    async def silent(reader, writer, peer):
        writer.write(b"\0\0\0\x04\0\0\0\0\0")
        await reader.read()
        await asyncio.sleep(1000)

    async def main():
        agent = Agent()
        agent.write(register("web"))
        agent.server = RPCServer(MemoryNet("127.0.0.1", agent.network), Clock(), agent.log, None, grpc=silent)
        await agent.server.start("127.0.0.1", 8300)
        assert (await agent.get())[:3] == (["web1"], 11, 0)
        await agent.cache.close()
        await agent.streams.close()
        await agent.server.close()
        await asyncio.sleep(0.1)

    run(main())


@with_agent
async def test_subscription_that_nobody_asks_for_ends(agent):
    agent.write(register("web"))
    await agent.get()
    await asyncio.sleep(STREAM_IDLE_S - 10)
    assert agent.streaming._server.calls == 1
    await asyncio.sleep(STREAM_IDLE_S)
    assert agent.streaming._server.calls == 0
    assert len(agent.cache) == 0


# --- the view ---------------------------------------------------------------------------------------------------


def event(index, name="web1", op=0):
    instance = CheckServiceNode(node=Node(node="n"), service=NodeService(id=name, service="web"))
    return SubscribeEvent(index=index, service_health=ServiceHealthUpdate(op=op, check_service_node=instance))


def test_nothing_is_shown_before_the_snapshot_ends():
    view = HealthView(WEB)
    assert not view.apply(event(5))
    assert (view.question.index, view.question.topic) == (0, Topic.SERVICE_HEALTH)
    assert view.apply(SubscribeEvent(index=5, end_of_snapshot=True))
    assert (view.question.index, len(view.reply().nodes)) == (5, 1)
    assert not view.apply(SubscribeEvent(new_snapshot_to_follow=True))
    assert view.question.index == 0
    assert view.apply(SubscribeEvent(index=0, end_of_snapshot=True))
    assert (view.index, view.reply().nodes) == (1, None)


def test_batches_change_several_instances():
    view = HealthView(replace(WEB, connect=True))
    assert view.question.topic == Topic.SERVICE_HEALTH_CONNECT
    view.apply(SubscribeEvent(index=5, end_of_snapshot=True))
    view.apply(event(6, "a"))
    view.apply(SubscribeEvent(index=7, event_batch=EventBatch(events=(event(7, "a", 1), event(7, "b"), event(7, "C")))))
    assert [row.service.id for row in view.reply().nodes] == ["b", "C"]


@pytest.mark.parametrize(
    "bad",
    [
        SubscribeEvent(index=3),
        SubscribeEvent(index=3, service_health=ServiceHealthUpdate()),
        SubscribeEvent(index=3, service_health=ServiceHealthUpdate(check_service_node=CheckServiceNode())),
        event(3, op=2),
        SubscribeEvent(event_batch=EventBatch(events=(SubscribeEvent(index=1),))),
    ],
)
def test_events_about_nothing_are_refused(bad):
    with pytest.raises(DecodeError):
        HealthView(WEB).apply(bad)
