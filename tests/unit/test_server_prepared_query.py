"""Prepared queries on a server: what may be stored, which instances are wanted, and where else they are sought."""

import asyncio
import random

import pytest

from pyconsul_agent.errors import RPCError
from pyconsul_agent.fsm.machine import StateMachine
from pyconsul_agent.query.near import distance_s, nearest_datacenters, sort_near
from pyconsul_agent.server.blocking import Blocking
from pyconsul_agent.server.endpoints.prepared_query import PreparedQueries, candidates, check_query, is_wanted
from pyconsul_agent.server.endpoints.shared import Near
from pyconsul_agent.state import prepared_query, registration
from pyconsul_agent.state.store import Store
from pyconsul_agent.structs.catalog import Node, NodeService
from pyconsul_agent.structs.coordinate import Coordinate, DatacenterMap, VivaldiCoordinate
from pyconsul_agent.structs.health import CheckServiceNode, HealthCheck
from pyconsul_agent.structs.prepared_query import (
    PreparedQuery,
    QueryDatacenterOptions,
    QueryDNSOptions,
    QueryTemplateOptions,
    ServiceQuery,
)
from pyconsul_agent.structs.requests import (
    PreparedQueryExecuteRemoteRequest,
    PreparedQueryExecuteRequest,
    PreparedQueryExecuteResponse,
    PreparedQueryRequest,
    PreparedQuerySpecificRequest,
    QuerySource,
    RegisterRequest,
)
from tests.unit.test_server_endpoints_recorded import DirectProposer, Leading

ID = "11111111-2222-3333-4444-555555555555"


def instance(status="passing"):
    return CheckServiceNode(
        node=Node(node="a", meta={"rack": "1"}),
        service=NodeService(id="web", service="web", tags=("V1", "blue"), meta={"k": "v"}),
        checks=(HealthCheck(check_id="c", status=status),),
    )


@pytest.mark.parametrize(
    ("status", "options", "wanted"),
    [
        ("passing", {}, True),
        ("warning", {}, True),
        ("warning", {"only_passing": True}, False),
        ("critical", {}, False),
        ("critical", {"ignore_check_ids": ("c",)}, True),
        ("passing", {"tags": ("v1", "!green")}, True),
        ("passing", {"tags": ("!BLUE",)}, False),
        ("passing", {"node_meta": {"rack": "2"}}, False),
        ("passing", {"service_meta": {"k": "v"}}, True),
    ],
)
def test_an_instance_is_wanted_by_health_tags_and_metadata(status, options, wanted):
    assert is_wanted(instance(status), ServiceQuery(service="web", **options)) is wanted


def named(*, dns="", token="", **options):
    service = ServiceQuery(service="web", **options)
    return PreparedQuery(name="q", token=token, service=service, dns=QueryDNSOptions(ttl=dns))


def template(service, *, kind="name_prefix_match", name="t-"):
    return PreparedQuery(
        name=name, template=QueryTemplateOptions(type=kind), service=ServiceQuery(service=service)
    )  # fmt: skip


@pytest.mark.parametrize(
    ("query", "words"),
    [
        (PreparedQuery(service=ServiceQuery(service="web")), "Invalid prepared query: Must be bound to a session"),
        (PreparedQuery(name="q"), "Invalid prepared query: Must provide a Service name to query"),
        (named(dns="bad"), """Invalid prepared query: Bad DNS TTL 'bad': time: invalid duration "bad\""""),
        (named(dns="-1s"), "Invalid prepared query: DNS TTL '-1000000000', must be >=0"),
        (named(token="<hidden>"), "Invalid prepared query: Bad Token '<hidden>', it looks like a query definition "
            "with a redacted token was submitted"),
        (named(failover=QueryDatacenterOptions(nearest_n=-1)),
            "Invalid prepared query: Bad NearestN '-1', must be >= 0"),
        (named(node_meta={"a b": "c"}),
            "Invalid prepared query: Couldn't load metadata pair ('a b', 'c'): Key contains invalid characters"),
        (template("x", kind="y"), "raft apply failed: failed compiling template: Bad Template.Type 'y'"),
    ],
)  # fmt: skip
def test_an_invalid_query_is_refused(query, words):
    with pytest.raises(RPCError) as refusal:
        check_query(query)
    assert str(refusal.value) == words


class Log:
    def __init__(self):
        self.warnings = []

    def warn(self, message, **pairs):
        self.warnings.append((message, pairs["datacenter"]))


class Bench:
    """The endpoint over a store of its own; other datacenters answer what `elsewhere` holds."""

    def __init__(self, **elsewhere):
        self.store, self.log, self.elsewhere, self.sent = Store(), Log(), elsewhere, []
        self.proposer = DirectProposer(StateMachine(self.store, lambda: 0.0))
        blocking = Blocking(self.store, Leading(), random.Random(1))
        self.endpoint = PreparedQueries(
            self.store, self.proposer, blocking, Near(self.store, "dc1"), datacenter="dc1", draw=random.Random(1),
            uuid=lambda: ID, others=lambda: list(elsewhere), remote=self.remote, log=self.log,
        )  # fmt: skip

    async def remote(self, method, request):
        self.sent.append(request)
        reply = self.elsewhere[request.datacenter]
        if isinstance(reply, Exception):
            raise reply
        return reply

    def register(self, node, address):
        self.proposer.index += 1
        with self.store.begin(self.proposer.index, 0.0) as txn:
            registration.register(
                txn, RegisterRequest(node=node, address=address, service=NodeService(id="web", service="web"))
            )

    def store_query(self, query):
        return asyncio.run(self.endpoint.apply(PreparedQueryRequest(op="create", query=query)))

    def execute(self, name, **options):
        return asyncio.run(self.endpoint.execute(PreparedQueryExecuteRequest(query_id_or_name=name, **options)))


def nodes(reply):
    return [row.node.node for row in reply.nodes or ()]


def test_a_template_runs_for_names_with_its_prefix_but_not_by_id():
    bench = Bench()
    bench.register("a", "10.0.0.1")
    identity = bench.store_query(template("${name.suffix}"))
    assert (nodes(bench.execute("t-web")), nodes(bench.execute("t-other"))) == (["a"], [])
    explained = asyncio.run(bench.endpoint.explain(PreparedQueryExecuteRequest(query_id_or_name="t-web")))
    assert (explained.query.id, explained.query.service.service) == (identity, "web")
    with pytest.raises(RPCError, match="resolved up by name, not by ID"):
        bench.execute(identity)
    with pytest.raises(RPCError, match=r"^Query not found$"):
        bench.execute("unknown")


def test_the_log_refuses_a_template_of_another_type():
    store = Store()
    with store.begin(1, 0.0) as txn, pytest.raises(RPCError, match=r"^failed compiling template: Bad Template"):
        prepared_query.put(txn, PreparedQuery(id=ID, name="q", template=QueryTemplateOptions(type="x")))


def test_what_is_no_uuid_is_not_looked_for():
    words = "failed prepared query lookup: index error: UUID must be 36 characters"
    bench = Bench()
    with pytest.raises(RPCError, match=f"^{words}$"):
        asyncio.run(bench.endpoint.get(PreparedQuerySpecificRequest(query_id="x")))
    with pytest.raises(RPCError, match=f"^Prepared Query lookup failed: {words}$"):
        asyncio.run(bench.endpoint.apply(PreparedQueryRequest(op="delete", query=PreparedQuery(id="x"))))


@pytest.mark.parametrize(
    ("near", "source"),
    [
        ("", QuerySource(node="c")),
        ("_agent", QuerySource()),
        ("_ip", QuerySource(ip="10.0.0.3")),
        ("a", QuerySource(node="c")),
    ],
)
def test_the_node_that_asks_comes_first(near, source):
    bench = Bench()
    for node, address in (("a", "10.0.0.1"), ("b", "10.0.0.2"), ("c", "10.0.0.3")):
        bench.register(node, address)
    bench.store_query(named(near=near))
    agent = QuerySource(datacenter="dc1", node="c")
    first = {nodes(bench.execute("q", source=source, agent=agent))[0] for _ in range(8)}
    assert first == {"c"}
    assert len(nodes(bench.execute("q", limit=2))) == 2


def remote_reply(datacenter, *rows):
    return PreparedQueryExecuteResponse(service="web", datacenter=datacenter, nodes=rows or None)


def test_without_local_instances_others_are_asked_until_one_has_some():
    found = remote_reply("dc4", instance())
    bench = Bench(dc2=remote_reply("dc2"), dc3=RPCError("down"), dc4=found, dc5=remote_reply("dc5"))
    failover = QueryDatacenterOptions(nearest_n=1, datacenters=("nowhere", "dc3", "dc2", "dc4", "dc5"))
    bench.store_query(named(failover=failover))
    reply = bench.execute("q", limit=3, token="secret", connect=True)
    assert (reply.datacenter, nodes(reply), reply.failovers) == ("dc4", ["a"], 3)
    assert [request.datacenter for request in bench.sent] == ["dc2", "dc3", "dc4"]
    asked = bench.sent[0]
    assert (asked.query.name, asked.limit, asked.token, asked.connect) == ("q", 3, "secret", True)
    assert bench.log.warnings == [("Failed querying for service in datacenter", "dc3")]


def test_with_local_instances_no_other_datacenter_is_asked():
    bench = Bench(dc2=remote_reply("dc2", instance()))
    bench.register("a", "10.0.0.1")
    bench.store_query(named(failover=QueryDatacenterOptions(nearest_n=1)))
    reply = bench.execute("q")
    assert (reply.datacenter, reply.failovers, bench.sent) == ("dc1", 0, [])


def test_a_query_from_another_datacenter_is_answered_here_or_not_at_all():
    bench = Bench(dc2=remote_reply("dc2", instance()))
    request = PreparedQueryExecuteRemoteRequest(query=named(failover=QueryDatacenterOptions(nearest_n=1)), limit=1)
    assert nodes(asyncio.run(bench.endpoint.execute_remote(request))) == []
    bench.register("a", "10.0.0.1")
    bench.register("b", "10.0.0.2")
    assert len(nodes(asyncio.run(bench.endpoint.execute_remote(request)))) == 1
    assert bench.sent == []


def test_nearest_datacenters_come_before_named_ones_and_none_twice():
    failover = QueryDatacenterOptions(nearest_n=2, datacenters=("d", "a", "d", "x"))
    assert candidates(failover, ["a", "b", "c", "d"]) == ["a", "b", "d"]
    assert candidates(QueryDatacenterOptions(), ["a"]) == []


def test_datacenters_are_sorted_by_the_median_of_their_servers():
    def servers(datacenter, *places):
        rows = tuple(Coordinate(node=str(x), coord=VivaldiCoordinate(vec=(x,))) for x in places)
        return DatacenterMap(datacenter=datacenter, coordinates=rows)

    maps = [servers("far", 0.1, 9.0, 9.0), servers("near", 1.0, 1.0, 99.0)]
    here = VivaldiCoordinate(vec=(0.0,))
    assert nearest_datacenters(["far", "lost", "near"], here, maps) == ["near", "far", "lost"]


def test_rows_are_sorted_by_distance_and_unknown_nodes_come_last():
    at = {name: {"": VivaldiCoordinate(vec=(x,), height=0.001)} for name, x in (("far", 9.0), ("near", 1.0))}
    source = {"": VivaldiCoordinate(vec=(0.0,), height=0.001)}
    assert sort_near(["lost", "far", "near"], source, str, lambda name: at.get(name, {})) == ["near", "far", "lost"]


def test_a_negative_adjustment_that_would_give_a_negative_distance_is_not_used():
    coordinate = VivaldiCoordinate(vec=(0.0,), height=0.5, adjustment=-2.0)
    assert distance_s(coordinate, coordinate) == 1.0
