"""Snapshots in whole clusters: any agent saves and restores, everybody sees it, and the leader's duties begin anew."""

import asyncio
import json

from pyconsul_agent.sim.world import World
from tests.sim.test_cluster import Article


async def exchange(article, node, method, path, body=b""):
    answer = await article.ask(node, method, path, body, timeout_s=60.0)
    return answer.status, answer.body


def test_archive_taken_through_a_client_is_restored_through_a_follower():
    async def scenario(world):
        article = await Article(world).up()
        for key in ("a", "b"):
            await article.put("server1", key, "old")
        created = await article.ask("server1", "PUT", "/v1/session/create", b'{"TTL": "10s", "Behavior": "delete"}')
        session = json.loads(created.body)["ID"]
        await article.ask("server1", "PUT", f"/v1/kv/lock?acquire={session}", b"held")
        client = next(name for name, node in article.nodes.items() if not node.is_server)
        status, archive = await exchange(article, client, "GET", "/v1/snapshot")
        assert status == 200
        await article.put("server1", "a", "new")
        await article.ask("server1", "DELETE", "/v1/kv/b")
        await article.ask("server1", "PUT", f"/v1/session/destroy/{session}")
        index = (await article.ask("server1", "GET", "/v1/kv/a")).headers["x-consul-index"]
        blocked = asyncio.ensure_future(article.ask("server1", "GET", f"/v1/kv/a?index={index}&wait=300s", b"", 400.0))
        await asyncio.sleep(1)
        assert not blocked.done()
        follower = article.follower().name
        assert await exchange(article, follower, "PUT", "/v1/snapshot", archive) == (200, b"")
        woken = await blocked
        assert int(woken.headers["x-consul-index"]) < int(index)  # goes back, as the rows do
        assert [await article.get(name, "a") for name in article.nodes] == ["old"] * len(article.nodes)
        assert await article.get("server1", "b") == "old"
        await article.equal()
        # The restored session has its whole time again, and then ends.
        await asyncio.sleep(12)
        assert await article.get("server1", "lock") == "held"
        await article.cluster.until("session over", lambda: True, 1)
        await asyncio.sleep(15)
        assert (await article.ask("server1", "GET", "/v1/kv/lock")).status == 404
        bad = await exchange(article, client, "PUT", "/v1/snapshot", archive[:-20])
        assert bad[0] == 500
        assert await exchange(article, client, "PUT", "/v1/snapshot?stale", archive) == (
            500,
            b"stale not allowed for restore",
        )
        assert await article.get(client, "a") == "old"
        await article.cluster.stop()

    with World(3) as world:
        world.run(scenario(world))


def test_leader_killed_while_it_restores_leaves_one_state():
    async def scenario(world):
        article = await Article(world).up()
        await article.put("server1", "a", "old")
        status, archive = await exchange(article, "server1", "GET", "/v1/snapshot")
        assert status == 200
        await article.put("server1", "a", "new")
        leader = article.cluster.leader
        restoring = asyncio.ensure_future(exchange(article, leader.name, "PUT", "/v1/snapshot", archive))
        await asyncio.sleep(0.01)
        leader.kill()
        await asyncio.gather(restoring, return_exceptions=True)
        await article.cluster.ready()
        leader.start()
        await article.cluster.until("back", lambda: leader.running, 20)
        await article.alive(*(node.name for node in article.cluster.servers))
        await article.put("server1", "b", "after")
        await article.equal()
        await article.cluster.stop()

    with World(5) as world:
        world.run(scenario(world))
