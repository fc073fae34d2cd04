"""DNS of a whole cluster in virtual time: changes reach every agent, and without a leader stale answers go on."""

import asyncio
import json

import pytest

from conformance.dns_replies import packet
from pyconsul_agent.wire import dns
from tests.sim.test_cluster import article

DNS_PORT = 8600


async def ask(run, node, name, type_="A", wait_s=20.0):
    """The reply of a node's DNS, asked from another machine."""
    await run.load._ready.wait()

    async def exchange():
        net, replies = run.load._env.net, asyncio.Queue()
        socket = await net.datagrams(lambda data, _: replies.put_nowait(data), "0.0.0.0", 0)
        try:
            socket.send(packet({"name": name, "type": type_}), (run.nodes[node].ip, DNS_PORT))
            async with asyncio.timeout(wait_s):
                return dns.parse_message(await replies.get())
        finally:
            socket.close()

    return await run.load.process.call(exchange)


async def addresses(run, node, name="web.service.consul."):
    return [record.data[0][-1] for record in (await ask(run, node, name)).answers]


async def register(run, node, last):
    row = {"Node": "ext", "Address": f"10.9.0.{last}", "Service": {"Service": "web", "Port": 80}}
    answer = await run.ask(node, "PUT", "/v1/catalog/register", json.dumps(row).encode())
    assert answer.status == 200, answer


def test_a_change_is_in_the_leader_s_next_answer_and_soon_in_everybody_s():
    async def scenario(run):
        leader = run.cluster.leader.name
        for last in range(1, 6):
            await register(run, leader, last)
            assert await addresses(run, leader) == [last]
            await run.equal("server1", "server2", "server3")
            for name in run.nodes:
                for _ in range(3):  # the second reply of a server is a prepared one
                    assert await addresses(run, name) == [last], name
        replies = run.nodes[leader].agent._dns._prepared
        assert len(replies) > 0

    article(scenario, ports={"dns": DNS_PORT})


@pytest.mark.parametrize("max_stale", ["87600h", "5s"])
def test_without_a_leader_stale_answers_go_on_as_long_as_max_stale_allows(max_stale):
    async def scenario(run):
        await register(run, run.cluster.leader.name, 7)
        await run.equal("server1", "server2", "server3")
        for name in run.nodes:
            assert await addresses(run, name) == [7]
        left = run.follower()
        for node in run.cluster.servers:
            if node is not left:
                node.kill()
        await asyncio.sleep(30)
        assert run.cluster.leader is None
        for name in (left.name, "client1"):
            for _ in range(2):
                reply = await ask(run, name, "web.service.consul.")
                if max_stale == "5s":
                    assert reply.rcode == dns.SERVFAIL
                else:
                    assert [record.data[0][-1] for record in reply.answers] == [7]
        for node in run.cluster.servers:
            if not node.running:
                node.start()
        await run.cluster.ready(60)

    article(scenario, ports={"dns": DNS_PORT}, dns_config={"max_stale": max_stale})


def test_a_client_agent_with_a_cache_answers_while_no_server_is_left():
    async def scenario(run):
        await register(run, run.cluster.leader.name, 7)
        await run.equal("server1", "server2", "server3")
        assert await addresses(run, "client1") == [7]
        await register(run, run.cluster.leader.name, 8)
        await asyncio.sleep(2)
        assert await addresses(run, "client1") == [8]
        for node in run.cluster.servers:
            node.kill()
        await asyncio.sleep(5)
        assert await addresses(run, "client1") == [8]
        for node in run.cluster.servers:
            node.start()
        await run.cluster.ready(60)

    article(scenario, ports={"dns": DNS_PORT}, dns_config={"use_cache": True})
