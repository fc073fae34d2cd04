"""Any request to any route of a leader, a follower, a client: no 5xx without Consul's reason, no traceback logged."""

import asyncio
import json
import string
from urllib.parse import quote

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from pyconsul_agent.app.compose import Agent
from pyconsul_agent.config.configure import configure
from pyconsul_agent.config.sources import Sources
from pyconsul_agent.env.base import InterfaceAddress, open_stream
from pyconsul_agent.sim.env import make_env
from pyconsul_agent.sim.raft_storage import RaftDisk, SimRaftStorage
from pyconsul_agent.sim.world import World
from pyconsul_agent.telemetry.logging import LogStream

LEADER, FOLLOWER, CLIENT = "10.0.0.1", "10.0.0.2", "10.0.0.3"
NEVER = ("/v1/agent/leave", "/v1/agent/monitor", "/v1/agent/metrics/stream", "/v1/snapshot", "/v1/agent/join/")
"""They end the agent, never end, or replace its state; they have tests of their own."""
ANSWER_S = 30.0
PARAMETERS = (
    "dc", "index", "wait", "stale", "consistent", "cached", "filter", "near", "node-meta", "tag", "pretty", "raw",
    "keys", "recurse", "separator", "cas", "flags", "acquire", "release", "passing", "enable", "reason", "note",
    "name", "kind", "hash", "format", "token", "ns", "max_stale", "limit", "segment", "wan", "relay-factor",
    "local-only", "by", "source", "destination", "id", "address", "service", "node", "compile-dc", "connect",
    "replace-existing-checks", "prune"
)  # fmt: skip
FIELDS = (
    "Node", "Address", "Service", "Check", "Checks", "ID", "Name", "Port", "Tags", "Meta", "Kind", "Proxy",
    "Connect", "TTL", "KV", "Verb", "Key", "Value", "Flags", "Session", "Behavior", "LockDelay", "NodeChecks",
    "Status", "Output", "CheckID", "Interval", "HTTP", "TCP", "GRPC", "Definition", "Coord", "Vec", "Segment",
    "Template", "Type", "Regexp", "Failover", "NearestN", "Datacenters", "DNS", "SourceName", "DestinationName",
    "Action", "Sources", "Config", "Provider", "Routes", "Splits", "Listeners", "Protocol", "Services",
    "CleanupDeadServers", "MinQuorum", "Token", "Weights", "Passing"
)  # fmt: skip
TEXTS = st.one_of(
    st.sampled_from(["", "web", "n1", "_agent", "..", "a/b", "1", "-1", "1h", "99999999999999999999", "passing", "any",
                     "service-defaults", "proxy-defaults", "true", "Name==x", "((((", "\0", "\udcff", "é" * 3]),
    st.text(string.printable, max_size=12),
)  # fmt: skip
VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-(2**70), 2**70), st.floats(allow_nan=False), TEXTS),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.sampled_from(FIELDS), inner, max_size=4)),
    max_leaves=10,
)


HEADERS = ("X-Consul-Token", "Authorization", "Cache-Control", "X-Consul-Namespace", "Accept", "Accept-Encoding",
           "Content-Type", "If-None-Match", "Range", "Origin")  # fmt: skip
HEADER_VALUES = st.one_of(
    st.sampled_from(["", "Bearer x", "bearer", "Basic \xff\xfe", "max-age=1, must-revalidate", "max-age=x", "gzip;q=x",
                     "text/plain;version=0.4.0", "application/openmetrics-text", "bytes=0-", "a" * 5000]),
    st.text([chr(code) for code in range(32, 256) if code != 127], max_size=12),
)  # fmt: skip


def encoded(text):
    return quote(text.encode("utf-8", "surrogateescape"), safe="/")


@st.composite
def requests(draw):
    """(method or None for each route's own, rest of the path, query, body, header lines)."""
    pairs = draw(st.lists(st.tuples(st.sampled_from(PARAMETERS), TEXTS), max_size=3))
    query = "&".join(f"{name}={encoded(value)}" for name, value in pairs if name != "wait") + "&wait=1ms"
    body = draw(st.one_of(VALUES.map(to_json), st.binary(max_size=40), st.just(b""), st.just(b"[" * 3000)))
    method = draw(st.sampled_from([*[None] * 20, "PATCH", "HEAD", "OPTIONS", "get"]))
    headers = draw(st.lists(st.tuples(st.sampled_from(HEADERS), HEADER_VALUES), max_size=2))
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers)
    return method, encoded(draw(TEXTS)), query, body, lines


def to_json(value):
    return json.dumps(value).encode("utf-8", "surrogateescape")


class Cluster:
    """As many agents as the one that is asked needs, in a simulated world, kept for all examples."""

    def __init__(self, asked):
        self.world = World(seed=11, time_max_s=10_000_000.0, steps_max=100_000_000)
        self.errors = []
        self.asked = asked
        self.agents = []
        self.world.run(self._start())

    async def _start(self):
        await self._add(LEADER, "n1", server=True, bootstrap=True)
        if self.asked == FOLLOWER:
            await self._add(FOLLOWER, "n2", server=True, start_join=[LEADER])
        if self.asked == CLIENT:
            await self._add(CLIENT, "n3", server=False, start_join=[LEADER])
        routes = self.agents[-1]._pipeline._table.routes
        self.routes = [route for route in routes if not route.pattern.startswith(NEVER)]
        for _ in range(100):
            if b'"' + LEADER.encode() in await self.exchange("GET", "/v1/status/leader", b""):
                return
            await asyncio.sleep(0.1)
        raise AssertionError("no leader")

    async def _add(self, ip, name, **flags):
        interfaces = [InterfaceAddress("eth0", ip, is_loopback=False, is_default_route=True)]
        flags = {"bind_addr": ip, "client_addr": ip, "data_dir": "/d", "ports": {"http": 8500, "grpc": -1},
                 "telemetry": {"prometheus_retention_time": "60s"}, "ui_config": {"enabled": True},
                 "enable_debug": True, "performance": {"raft_multiplier": 1}, **flags}  # fmt: skip
        options = configure(Sources(flags=flags), files=None, interfaces=interfaces, hostname=name)
        self.env = env = make_env(self.world, self.world.host(ip))
        logs = LogStream(write=self._line, wall_ns=env.clock.wall_ns)
        worker = env.blocking.worker("raft")
        env.files.make_dirs("/d")
        agent = Agent(options, env, logs, lambda _: SimRaftStorage(RaftDisk(), blocking=worker))
        self.agents.append(agent)
        await agent.start()

    def _line(self, text):
        if "Traceback" in text or "Request failed" in text or ("[ERROR]" in text and "internal" in text):
            self.errors.append(text)

    async def exchange(self, method, target, body, headers=""):
        reader, writer = await open_stream(self.env.net, self.asked, 8500)
        try:
            fields = f"Host: x\r\nConnection: close\r\nContent-Length: {len(body)}\r\n\r\n"
            writer.write(f"{method} {target} HTTP/1.1\r\n{headers}{fields}".encode("latin-1") + body)
            async with asyncio.timeout(ANSWER_S):
                return await reader.read(-1)
        finally:
            writer.close()

    async def ask(self, route, method, rest, query, body, headers=""):
        target = route.pattern + (rest if route.pattern.endswith("/") else "") + "?" + query
        answer = await self.exchange(method, target, body, headers)
        head, _, text = answer.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 "), (target, answer[:200])
        status = int(head[9:12])
        assert not text or b"\r\nContent-Type: " in head, (target, head)
        assert b"\r\nContent-Type: text/html" not in head or status == 301, (target, head)
        if status >= 500 and method != "HEAD":
            assert text or (status == 500 and b"%" in target.encode()), (target, body, "5xx without a reason")
            assert text != b"internal error", (target, body)
        assert not self.errors, self.errors

    def close(self):
        for agent in reversed(self.agents):
            self.world.run(agent.stop())
        self.world.close()


@pytest.mark.parametrize(("asked", "examples"), [(LEADER, 50), (FOLLOWER, 12), (CLIENT, 12)])
def test_no_route_answers_a_stranger_with_an_internal_error(asked, examples):
    server = Cluster(asked)
    try:

        @settings(
            max_examples=examples,
            deadline=None,
            derandomize=True,
            database=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @given(requests())
        def fuzz(request):
            async def scenario():
                method, *rest = request
                for route in server.routes:
                    for name in [method] if method else [name for name, _ in route.methods]:
                        await server.ask(route, name, *rest)

            server.world.run(scenario())

        fuzz()
    finally:
        server.close()


@pytest.mark.parametrize("asked", [LEADER, FOLLOWER, CLIENT])
def test_every_route_survives_hostile_bodies_with_each_of_its_methods(asked):
    hostile = [b"", b"null", b"[null]", b"{}", b"[]", b"1e999", b'"\xff"', b"[" * 100_000, b'{"a":1,"a":2}',
               b'{"ID":{"ID":[]}}', b"9" * 5000, b'[{"KV":null},{"KV":{"Verb":"set"}}]', b'{"Coord":null}']  # fmt: skip
    server = Cluster(asked)
    try:

        async def scenario():
            for route in server.routes:
                for method, _ in route.methods:
                    for body in hostile:
                        await server.ask(route, method, "x", "wait=1ms", body)

        server.world.run(scenario())
    finally:
        server.close()
