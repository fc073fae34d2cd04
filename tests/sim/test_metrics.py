"""Every metric that the reference page lists is fed by what it counts: a cluster does it, and the number rises."""

import asyncio
import json

from pyconsul_agent.fsm.apply import TOMBSTONE
from pyconsul_agent.serf.effects import ReplaceSnapshot
from pyconsul_agent.server.leader.tombstones import TombstoneReaper
from pyconsul_agent.sim.world import World
from pyconsul_agent.structs.methods import CATALOG_SERVICE_NODES, HEALTH_SERVICE_NODES
from pyconsul_agent.structs.requests import ServiceSpecificRequest
from pyconsul_agent.structs.system import TombstoneRequest
from pyconsul_agent.telemetry.names import DECLARED, VARYING
from pyconsul_agent.wire.msgpack import encode
from tests.memory_net import Recorder
from tests.sim.test_cluster import Article
from tests.sim.test_dns import DNS_PORT, ask

ADDRESS_PTR = "1.0.9.10.in-addr.arpa."
INTERVAL_S = 10.5
OURS = ("server1", "server2", "server3", "client1")
SERVICE = b'{"Node":"ext","Address":"10.9.0.1","Service":{"Service":"web","Tags":["a"]}}'
EVERYWHERE = {
    "members.clients", "members.servers", "raft.applied_index", "raft.commitNumLogs", "raft.last_index", "raft.peers",
    "rpc.queries_blocking", "runtime.alloc_bytes", "runtime.event_loop_lag_ms", "runtime.free_count",
    "runtime.heap_objects", "runtime.malloc_count", "runtime.num_goroutines", "runtime.sys_bytes",
    "runtime.total_gc_pause_ns", "runtime.total_gc_runs", "runtime.watchers", "session_ttl.active",
    "state.config_entries", "state.kv_entries", "state.nodes", "state.service_instances", "state.services", "version",
    "autopilot.failure_tolerance", "autopilot.healthy", "memberlist.health.score", "raft.leader.dispatchNumLogs",
}  # fmt: skip
"""Gauges of a leader, read in each interval."""
ELSEWHERE = {"runtime.gc_pause_ns", "http.<method>.<path>", "fsm.<command>", "fsm.federation_state.<datacenter>"}
"""Proven by tests of their own: the first one below, the others in test_telemetry_outlets."""


class Measured:
    """A cluster, and which names rose through what was done."""

    def __init__(self, run):
        self.run = run
        self.fed = set()

    def counts(self, node):
        """How often each series of an agent was added to, by name without prefix."""
        metrics = self.run.nodes[node].agent._metrics
        metrics.http.settle()
        metrics.parts.dns.settle()
        counts = {}
        for rows in metrics.registry._series.values():
            for (name, _), series in rows.items():
                short = name.removeprefix("consul.")
                counts[short] = counts.get(short, 0) + series.life_count + series.current.count
        return counts

    def feeding(self, node, *names):
        """A context in which each of these must rise at that agent."""
        return _Feeding(self, node, names)

    async def ok(self, node, method, path, body=b"", timeout_s=20.0):
        answer = await self.run.ask(node, method, path, body, timeout_s)
        assert answer.status == 200, (path, answer)
        return json.loads(answer.body) if answer.body[:1] in (b"{", b"[") else answer.body


class _Feeding:
    def __init__(self, measured, node, names):
        self.measured, self.node, self.names = measured, node, names

    async def __aenter__(self):
        self.before = self.measured.counts(self.node)

    async def __aexit__(self, kind, *_):
        if kind is not None:
            return
        after = self.measured.counts(self.node)
        silent = [name for name in self.names if after.get(name, 0) <= self.before.get(name, 0)]
        assert not silent, (self.node, silent)
        self.measured.fed.update(self.names)


async def time_passes(m, leader, follower):
    async with (
        m.feeding(leader, "memberlist.gossip", "memberlist.probeNode", "memberlist.udp.sent", "memberlist.udp.received",
                  "serf.queue.Event", "serf.queue.Intent", "serf.queue.Query", "raft.replication.heartbeat",
                  "raft.leader.lastContact"),
        m.feeding(follower, "raft.rpc.processHeartbeat"),
    ):  # fmt: skip
        await asyncio.sleep(INTERVAL_S)


async def writes(m, leader, follower):
    async with (
        m.feeding(leader, "kvs.apply", "fsm.kvs", "raft.apply", "raft.commitTime", "raft.fsm.apply", "api.http",
                  "raft.leader.dispatchLog", "raft.replication.appendEntries.rpc", "http.PUT.v1.kv._",
                  "raft.replication.appendEntries.logs"),
        m.feeding(follower, "raft.rpc.appendEntries", "raft.rpc.appendEntries.storeLogs", "fsm.kvs"),
    ):  # fmt: skip
        await m.ok(leader, "PUT", "/v1/kv/a", b"x")
        await asyncio.sleep(1)
    assert not m.counts(follower)["kvs.apply"], "measured where it is carried out"
    async with m.feeding(leader, "rpc.request", "kvs.apply"), m.feeding("client1", "client.rpc"):
        for _ in range(3):  # the client asks any server, and that one the leader
            await m.ok("client1", "PUT", "/v1/kv/a", b"y")
    async with m.feeding(leader, "fsm.register", "catalog.register", "client.api.catalog_register"):
        await m.ok(leader, "PUT", "/v1/catalog/register", SERVICE)
    async with m.feeding(leader, "fsm.txn", "txn.apply"):
        await m.ok(leader, "PUT", "/v1/txn", b'[{"KV":{"Verb":"set","Key":"t","Value":"eA=="}}]')
    async with m.feeding(leader, "txn.read", "rpc.query"):
        await m.ok(leader, "PUT", "/v1/txn", b'[{"KV":{"Verb":"get","Key":"t"}}]')
    async with m.feeding(leader, "fsm.autopilot"):
        await m.ok(leader, "PUT", "/v1/operator/autopilot/configuration", b"{}")
    async with m.feeding(leader, "fsm.config_entry.service-defaults"):
        await m.ok(leader, "PUT", "/v1/config", b'{"Kind":"service-defaults","Name":"web","Protocol":"http"}')
    m.fed.add("fsm.config_entry.<kind>")
    async with m.feeding(leader, "fsm.prepared-query", "prepared-query.apply"):
        await m.ok(leader, "POST", "/v1/query", b'{"Name":"q","Service":{"Service":"web"}}')
    async with m.feeding(leader, "prepared-query.execute"):
        await m.ok(leader, "GET", "/v1/query/q/execute")
    async with m.feeding(leader, "fsm.coordinate.batch-update"):
        update = {"Node": "ext", "Coord": {"Vec": [0.0] * 8, "Error": 1.5, "Adjustment": 0.0, "Height": 1e-5}}
        await m.ok(leader, "PUT", "/v1/coordinate/update", json.dumps(update).encode())
        await asyncio.sleep(6)
    async with m.feeding(leader, "fsm.tombstone"):
        await m.run.nodes[leader].raft.apply(TOMBSTONE, encode(TombstoneRequest(op="reap", reap_index=1)))


async def reads(m, leader):
    async with m.feeding(leader, "rpc.query", "rpc.consistentRead", "raft.verify_leader"):
        await m.ok(leader, "GET", "/v1/kv/a?consistent")
    async with m.feeding(leader, "client.rpc.failed", "rpc.request_error"):
        assert (await m.run.ask(leader, "PUT", "/v1/kv/a?acquire=nobody")).status == 500
    old = ServiceSpecificRequest(datacenter="dc1", service_name="web", service_tag="a", tag_filter=True)
    for area, path, method in (
        ("catalog", "/v1/catalog/service", CATALOG_SERVICE_NODES),
        ("health", "/v1/health/service", HEALTH_SERVICE_NODES),
    ):
        async with m.feeding(leader, f"{area}.service.query", f"{area}.service.query-tags"):
            await m.ok(leader, "GET", f"{path}/web?tag=a")
        async with m.feeding(leader, f"{area}.service.query-tag"):  # as agents of before 1.3 ask
            await m.run.nodes[leader].agent.delegate.call(method, old)
        async with m.feeding(leader, f"{area}.service.not-found"):
            await m.ok(leader, "GET", f"{path}/nobody")
        async with m.feeding(leader, f"{area}.connect.query"):
            await m.ok(leader, "GET", f"/v1/{area}/connect/web")
        m.fed.update(f"{area}.<what>.{what}" for what in ("query", "query-tags", "query-tag", "not-found"))
    async with m.feeding(leader, "client.api.catalog_nodes", "client.api.success.catalog_nodes"):
        await m.ok(leader, "GET", "/v1/catalog/nodes")
    m.fed.update(("client.api.<call>", "client.api.success.<call>"))


async def sessions(m, leader):
    async with m.feeding(leader, "session.apply", "fsm.session"):
        made = await m.ok(leader, "PUT", "/v1/session/create", b'{"TTL":"10s"}')
    async with m.feeding(leader, "session.renew"):
        await m.ok(leader, "PUT", f"/v1/session/renew/{made['ID']}")
    async with m.feeding(leader, "session_ttl.invalidate", "fsm.session"):
        await asyncio.sleep(22)


async def gossip(m, leader, follower):
    async with m.feeding(leader, "serf.events", "serf.events.consul:event:deploy", "serf.msgs.received"):
        await m.ok(follower, "PUT", "/v1/event/fire/deploy")
        await asyncio.sleep(2)
    async with m.feeding(leader, "serf.queries", "serf.queries.anybody"):
        asked = [answer async for answer in m.run.nodes[follower].server._lan.ask("anybody", b"")]
        assert asked == []
    m.fed.update(("serf.events.<name>", "serf.queries.<name>"))
    client = m.run.nodes["client1"]
    async with m.feeding(leader, "serf.member.update"):
        lan = client.agent.delegate._lan
        await lan.set_tags({**lan.local_member().tags, "more": "1"})
        await asyncio.sleep(2)
    async with m.feeding(leader, "serf.member.left", "serf.snapshot.appendLine"):
        await client.leave()
        await asyncio.sleep(3)
    async with (
        m.feeding(leader, "serf.member.join", "memberlist.msg.alive", "leader.reconcileMember"),
        m.feeding("server1", "memberlist.tcp.accept", "memberlist.tcp.sent"),
    ):
        client.left = False
        client.start()
        await m.run.cluster.until("the client is back", lambda: client.started, 20)
        await m.run.alive(*OURS)
    joined = m.counts("client1")
    assert joined["memberlist.tcp.connect"] and joined["memberlist.pushPullNode"]
    m.fed.update(("memberlist.tcp.connect", "memberlist.pushPullNode"))
    async with m.feeding(leader, "serf.snapshot.compact"):
        m.run.nodes[leader].server._lan._snapshot_file.write(ReplaceSnapshot("clock: 1\n"))
        await asyncio.sleep(1)


async def names(m, leader):
    for _ in range(2):  # the second answer is a kept one
        async with m.feeding(leader, "dns.domain_query"):
            await ask(m.run, leader, "web.service.consul.")
        async with m.feeding(leader, "dns.ptr_query"):
            await ask(m.run, leader, ADDRESS_PTR, "PTR")


async def limits(m):
    bucket = m.run.nodes["client1"].agent.delegate._bucket
    async with m.feeding("client1", "client.rpc.exceeded", "client.rpc.failed"):
        bucket.take = lambda now: False
        assert (await m.run.ask("client1", "GET", "/v1/kv/a")).status == 429
        del bucket.take


async def snapshots(m, leader, follower):
    async with m.feeding(leader, "raft.fsm.snapshot", "raft.snapshot.persist", "raft.snapshot.takeSnapshot",
                         "raft.compactLogs"):  # fmt: skip
        archive = (await m.run.ask(leader, "GET", "/v1/snapshot", b"", 60.0)).body
        await asyncio.sleep(1)
    async with (
        m.feeding(leader, "raft.restore", "raft.restoreUserSnapshot", "raft.replication.installSnapshot"),
        m.feeding(follower, "raft.rpc.installSnapshot", "raft.fsm.restore"),
    ):
        await m.ok(leader, "PUT", "/v1/snapshot", archive, 60.0)
        await asyncio.sleep(5)


async def another_datacenter(m, leader):
    wan = {"retry_join_wan": ["10.0.0.11"], "datacenter": "dc2", "bootstrap_expect": 1, "server": True}
    other = m.run.cluster.add("other", "10.0.0.31", **wan)
    other.start()
    await m.run.cluster.until("the WAN", lambda: len(m.run.nodes["server1"].server.wan_members()) >= 4, 60)
    await asyncio.sleep(5)
    async with m.feeding("server1", "rpc.cross-dc"):
        await m.ok("server1", "GET", "/v1/catalog/nodes?dc=dc2")
    await other.leave()


async def a_leader_dies(m, leader):
    victim, others = m.run.nodes[leader], [name for name in OURS if name != leader]
    before = {name: m.counts(name) for name in others}
    victim.kill()
    await asyncio.sleep(20)
    heir = (await m.run.cluster.ready()).name
    risen = {name: {each for each, n in m.counts(name).items() if n > before[name].get(each, 0)} for name in others}
    of_heir = {"raft.state.candidate", "raft.state.leader", "raft.transition.heartbeat_timeout", "raft.barrier",
               "leader.barrier", "leader.reconcile", "serf.member.failed"}  # fmt: skip
    of_some = {"memberlist.msg.suspect", "memberlist.msg.dead", "raft.rpc.requestVote"}
    assert risen[heir] >= of_heir, of_heir - risen[heir]
    assert set().union(*risen.values()) >= of_some, risen
    victim.start()
    await m.run.cluster.until("it is back", lambda: victim.started, 20)
    await m.run.alive(*OURS)
    of_victim = {"raft.fsm.restore", "raft.state.follower", "rpc.raft_handoff", "rpc.accept_conn"}
    await m.run.cluster.until("it follows", lambda: all(m.counts(leader).get(name) for name in of_victim), 20)
    m.fed |= of_heir | of_some | of_victim


async def cut_off(m, follower):
    """A follower that hears no leader answers DNS from an old catalog; a leader that hears nobody steps down."""
    m.run.cluster.isolate(m.run.nodes[follower])
    await asyncio.sleep(8)
    async with m.feeding(follower, "dns.stale_queries"):
        await ask(m.run, follower, "web.service.consul.")
    m.run.cluster.heal()
    await m.run.alive(*OURS, within_s=120)
    leader = (await m.run.cluster.ready()).name  # who comes back may have unseated the one before
    async with m.feeding(leader, "raft.transition.leader_lease_timeout"):
        m.run.cluster.isolate(m.run.nodes[leader])
        await asyncio.sleep(8)
    m.run.cluster.heal()
    await m.run.cluster.ready()


async def whole(world):
    flags = {"ports": {"dns": DNS_PORT}, "dns_config": {"soa": {}}, "raft_trailing_logs": 1,
             "telemetry": {"prometheus_retention_time": "600s", "disable_hostname": True}}  # fmt: skip
    run = await Article(world, **flags).up()
    m = Measured(run)
    leader, follower = run.cluster.leader.name, run.follower().name
    await time_passes(m, leader, follower)
    await writes(m, leader, follower)
    await reads(m, leader)
    await sessions(m, leader)
    await gossip(m, leader, follower)
    await names(m, leader)
    await limits(m)
    async with m.feeding(leader, "fsm.deregister", "catalog.deregister"):
        await m.ok(leader, "PUT", "/v1/catalog/deregister", b'{"Node":"nobody"}')
    reaper = run.nodes[leader].server
    async with m.feeding(leader, "leader.reapTombstones"):
        meter = run.nodes[leader].agent._metrics.parts.duties
        await TombstoneReaper(reaper._store, reaper._raft, lambda: 0.0, Recorder(), meter)._reap(1)
    gauges = {name.removeprefix("consul.") for name, _ in run.nodes[leader].agent._metrics.registry._gauges}
    assert gauges >= EVERYWHERE, EVERYWHERE - gauges
    await snapshots(m, leader, follower)
    await another_datacenter(m, leader)
    await a_leader_dies(m, leader)
    await cut_off(m, run.follower().name)
    await run.load.close()
    await run.cluster.stop()
    return m.fed


def test_every_metric_is_fed_by_what_it_counts():
    with World(7) as world:
        fed = world.run(whole(world))
    listed = {row.name for row in (*DECLARED, *VARYING)}
    assert listed - fed - EVERYWHERE - ELSEWHERE == set()
