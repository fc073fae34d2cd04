"""The handlers with a scripted cluster behind them: what they ask, and how they answer."""

import asyncio
import json
import random
from types import SimpleNamespace
from urllib.parse import quote

import pytest

from pyconsul_agent.agent.cache import Cache
from pyconsul_agent.agent.events import Event, Events
from pyconsul_agent.agent.local import LocalState, NodeInfo
from pyconsul_agent.env.real import RealClock
from pyconsul_agent.errors import NoPathToDatacenter, RPCError
from pyconsul_agent.interfaces.http.agent_services import AgentServices
from pyconsul_agent.interfaces.http.catalog import Catalog
from pyconsul_agent.interfaces.http.coordinate import Coordinates
from pyconsul_agent.interfaces.http.event import EventEndpoints
from pyconsul_agent.interfaces.http.health import Health, only_passing
from pyconsul_agent.interfaces.http.kv import KV
from pyconsul_agent.interfaces.http.message import BadQuery, HTTPError, Query, Request
from pyconsul_agent.interfaces.http.operator import Operator
from pyconsul_agent.interfaces.http.params import Defaults
from pyconsul_agent.interfaces.http.pipeline import Pipeline, Rules, Target, clean_path
from pyconsul_agent.interfaces.http.query import PreparedQueries
from pyconsul_agent.interfaces.http.routes import RouteTable
from pyconsul_agent.interfaces.http.session import Sessions
from pyconsul_agent.interfaces.http.status import Status
from pyconsul_agent.interfaces.http.txn import Transactions
from pyconsul_agent.structs.base import Duration
from pyconsul_agent.structs.catalog import Node, NodeService, ServiceNode
from pyconsul_agent.structs.coordinate import Coordinate, VivaldiCoordinate
from pyconsul_agent.structs.diagnosis import DiagnosedServer, Diagnosis
from pyconsul_agent.structs.health import CheckServiceNode, HealthCheck
from pyconsul_agent.structs.kv import DirEntry
from pyconsul_agent.structs.member import UserEvent
from pyconsul_agent.structs.methods import Empty
from pyconsul_agent.structs.operator import AutopilotConfig, AutopilotHealthReply
from pyconsul_agent.structs.requests import (
    EventFireResponse,
    IndexedCheckServiceNodes,
    IndexedCoordinates,
    IndexedDirEntries,
    IndexedKeyList,
    IndexedNodes,
    IndexedPreparedQueries,
    IndexedServiceNodes,
    IndexedServices,
    IndexedSessions,
    PreparedQueryExecuteResponse,
    PreparedQueryExplainResponse,
    TxnReadResponse,
    TxnResponse,
)
from pyconsul_agent.structs.txn import TxnError, TxnResult
from tests.builders import run_sim
from tests.unit.http_bench import FakeCaller, SilentLog

UUID = "11234567-89ab-cdef-0123-456789abcdef"


CACHED = (Catalog, Health, PreparedQueries)
"""Families that are given the agent's cache."""


class Site:
    """Handlers of one family behind the real pipeline, without a network."""

    def __init__(self, family, *, rules=None, **replies):
        self.caller = FakeCaller(**replies)
        self.defaults = Defaults("dc1", "node-a", token="agent-token")
        self.log = SilentLog()
        self.cache = Cache(self.caller, RealClock(), random.Random(1), self.log)
        more = (self.cache,) if family in CACHED else ()
        self.family = family(self.caller, self.defaults, *more)
        self.pipeline = Pipeline(RouteTable(self.family.routes()), rules or Rules(), self.log)

    async def ask(self, line, body=b"", **headers):
        method, _, raw = line.partition(" ")
        target = self.pipeline.locate(raw, method)
        if not isinstance(target, Target):
            return target
        names = {name.replace("_", "-").lower(): value for name, value in headers.items()}
        request = Request(method, target.path, target.query or Query(""), names, body, "10.0.0.9", len(body))
        return await self.pipeline.answer(target, request)

    def do(self, line, body=b"", **headers):
        body = json.dumps(body).encode() if not isinstance(body, bytes) else body
        return asyncio.run(self.ask(line, body, **headers))

    @property
    def asked(self):
        return self.caller.asked[-1][1]


def kv(**replies):
    return Site(lambda caller, defaults: KV(caller, defaults, value_bytes_max=100), **replies)


# --- paths and rules ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "clean"),
    [
        ("/v1/kv/a", "/v1/kv/a"),
        ("//v1//kv/a", "/v1/kv/a"),
        ("/v1/kv/../x/", "/v1/x/"),
        ("/../../etc/passwd", "/etc/passwd"),
        ("/v1/./kv/.", "/v1/kv"),
        ("/", "/"),
        ("", "/"),
        ("/v1/kv/a.b..c", "/v1/kv/a.b..c"),
    ],
)
def test_path_cleaning(path, clean):
    assert clean_path(path) == clean
    assert clean_path(clean) == clean


@pytest.mark.parametrize("target", ["//evil.example/..", "/v1/kv//a", "/v1/kv/%2Fa", "/v1/kv"])
def test_redirects_stay_on_this_host(target):
    response = kv().do(f"GET {target}")
    assert response.status == 301
    assert response.headers["Location"].startswith("/")
    assert not response.headers["Location"].startswith("//")


@pytest.mark.parametrize("raw", ["a=%zz", "a=%4", "a;b"])
def test_a_bad_query_string_is_a_server_error_without_words(raw):
    with pytest.raises(BadQuery):
        Query(raw)
    response = kv().do(f"GET /v1/kv/a?{raw}")
    assert (response.status, response.body) == (500, b"")


@pytest.mark.parametrize(
    ("rules", "line", "status"),
    [
        (Rules(block_endpoints=("/v1/k",)), "GET /v1/kv/a", 403),
        (Rules(block_endpoints=("/v1/x",)), "GET /v1/kv/a", 404),
        (Rules(allow_write_from=("127.0.0.0/8",)), "PUT /v1/kv/a", 403),
        (Rules(allow_write_from=("10.0.0.0/24",)), "PUT /v1/kv/a", 200),
        (Rules(allow_write_from=("127.0.0.0/8",)), "GET /v1/kv/a", 404),
        (Rules(allow_write_from=("127.0.0.0/8",)), "OPTIONS /v1/kv/a", 200),
    ],
)
def test_rules_before_handlers(rules, line, status):
    site = Site(lambda c, d: KV(c, d), rules=rules, KVS_Get=IndexedDirEntries(index=3), KVS_Apply=True)
    assert site.do(line).status == status
    assert bool(site.caller.asked) is (status in (200, 404) and "OPTIONS" not in line)


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (RPCError("rpc error making call: Permission denied"), 403),
        (RPCError("ACL not found"), 403),
        (RPCError("RPC rate limit exceeded"), 429),
        (NoPathToDatacenter(), 500),
        (RPCError("No cluster leader"), 500),
    ],
)
def test_errors_have_the_status_that_their_text_asks_for(error, status):
    response = kv(KVS_Get=error).do("GET /v1/kv/a")
    assert (response.status, response.body) == (status, str(error).encode())


# --- parameters -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ("index=-1", "Invalid index"),
        ("index=abc", "Invalid index"),
        ("wait=abc", "Invalid wait time"),
        ("wait=10", "Invalid wait time"),
        ("stale&consistent", "Cannot specify ?stale with ?consistent, conflicting semantics."),
        ("cached&consistent", "Cannot specify ?cached with ?consistent, conflicting semantics."),
        ("max_stale=x", 'Invalid max_stale value "x"'),
        ("ns=x", 'Bad request: Invalid query parameter: "ns" - Namespaces are a Consul Enterprise feature'),
    ],
)
def test_bad_parameters(query, words):
    response = kv().do(f"GET /v1/kv/a?{query}")
    assert (response.status, response.body.decode()) == (400, words)


@pytest.mark.parametrize(
    ("line", "headers", "token"),
    [
        ("a?token=q", {"X_Consul_Token": "h"}, "q"),
        ("a", {"X_Consul_Token": "h", "Authorization": "Bearer b"}, "h"),
        ("a", {"Authorization": "bEARER  b c"}, "b"),
        ("a", {"Authorization": "Basic b"}, "agent-token"),
        ("a", {}, "agent-token"),
    ],
)
def test_whose_token_counts(line, headers, token):
    site = kv(KVS_Get=IndexedDirEntries())
    site.do(f"GET /v1/kv/{line}", **headers)
    assert site.asked.token == token


def test_read_options_are_passed_on():
    site = kv(KVS_Get=IndexedDirEntries())
    site.do("GET /v1/kv/a?index=7&wait=10s&stale=false&dc=dc2&filter=x")
    asked = site.asked
    assert (asked.min_query_index, asked.max_query_time, asked.allow_stale) == (7, Duration(10**10), True)
    assert (asked.datacenter, asked.filter) == ("dc2", "x")


# --- families -------------------------------------------------------------------------------------------------


def test_a_key_is_shown_with_its_value_in_base64_or_raw():
    reply = IndexedDirEntries(index=9, known_leader=True, entries=(DirEntry(key=b"a", value=b"<v>"),))
    response = kv(KVS_Get=reply).do("GET /v1/kv/a")
    assert json.loads(response.body)[0]["Value"] == "PHY+"
    assert response.headers["X-Consul-Index"] == "9"
    raw = kv(KVS_Get=reply).do("GET /v1/kv/a?raw")
    assert (raw.body, raw.content_type) == (b"<v>", "text/plain")
    assert raw.headers["Content-Security-Policy"] == "sandbox"


@pytest.mark.parametrize(
    ("line", "status", "words"),
    [
        ("GET /v1/kv/", 400, "Missing key name"),
        ("PUT /v1/kv/", 400, "Missing key name"),
        ("DELETE /v1/kv/", 400, "Missing key name"),
        ("PUT /v1/kv/a?flags=abc", 500, 'strconv.ParseUint: parsing "abc": invalid syntax'),
        ("PUT /v1/kv/a?cas=-1", 500, 'strconv.ParseUint: parsing "-1": invalid syntax'),
        ("PUT /v1/kv/a?release=x&acquire=y", 400, "Conflicting flags: acquire=y&release=x"),
        ("DELETE /v1/kv/a?recurse&cas=1", 400, "Conflicting flags: cas=1&recurse="),
        ("POST /v1/kv/a", 405, "method POST not allowed"),
    ],
)
def test_kv_refusals(line, status, words):
    site = kv()
    response = site.do(line)
    assert (response.status, response.body.decode()) == (status, words)
    assert site.caller.asked == []


@pytest.mark.parametrize(
    ("line", "operation", "index", "session"),
    [
        ("PUT /v1/kv/a", "set", 0, ""),
        ("PUT /v1/kv/a?cas=5", "cas", 5, ""),
        ("PUT /v1/kv/a?acquire=s", "lock", 0, "s"),
        ("PUT /v1/kv/a?release=s", "unlock", 0, "s"),
        ("DELETE /v1/kv/a", "delete", 0, ""),
        ("DELETE /v1/kv/a?cas=5", "delete-cas", 5, ""),
        ("DELETE /v1/kv/?recurse", "delete-tree", 0, ""),
    ],
)
def test_kv_writes(line, operation, index, session):
    site = kv(KVS_Apply=False)
    response = site.do(line, b"v")
    asked = site.asked
    assert (asked.op, asked.dir_ent.modify_index, asked.dir_ent.session) == (operation, index, session)
    conditional = operation in ("cas", "lock", "unlock", "delete-cas")
    assert response.body == (b"false" if conditional else b"true")


def test_an_empty_listing_is_a_list_only_without_prefix():
    assert kv(KVS_ListKeys=IndexedKeyList()).do("GET /v1/kv/?keys").body == b"[]"
    assert kv(KVS_ListKeys=IndexedKeyList()).do("GET /v1/kv/p?keys").status == 404


def test_a_session_without_body_is_of_this_node():
    site = Site(Sessions, Session_Apply=UUID)
    assert site.do("PUT /v1/session/create").body.decode() == f'{{"ID":"{UUID}"}}'
    session = site.asked.session
    assert (session.node, session.node_checks, session.behavior) == ("node-a", ("serfHealth",), "release")
    assert session.lock_delay == 15 * 10**9


@pytest.mark.parametrize(("delay", "nanoseconds"), [(20, 20 * 10**9), ("20ns", 20 * 10**9), ("61s", 61 * 10**9)])
def test_short_lock_delays_are_taken_for_seconds(delay, nanoseconds):
    site = Site(Sessions, Session_Apply=UUID)
    site.do("PUT /v1/session/create", {"LockDelay": delay, "Unknown": 1})
    assert site.asked.session.lock_delay == nanoseconds


def test_old_checks_stand_beside_node_checks():
    site = Site(Sessions, Session_Apply=UUID)
    site.do("PUT /v1/session/create", {"Checks": ["c1"]})
    assert (site.asked.session.checks, site.asked.session.node_checks) == (("c1",), ("serfHealth",))


def test_an_unknown_session_cannot_be_renewed_and_lists_empty():
    site = Site(Sessions, Session_Renew=IndexedSessions(), Session_Get=IndexedSessions())
    response = site.do(f"PUT /v1/session/renew/{UUID}")
    assert (response.status, response.body.decode()) == (404, f"Session id '{UUID}' not found")
    assert site.do(f"GET /v1/session/info/{UUID}").body == b"[]"


def test_a_failed_session_read_has_empty_meta_headers():
    response = Site(Sessions, Session_Get=RPCError("x")).do("GET /v1/session/info/x")
    assert (response.status, response.headers["X-Consul-Index"]) == (500, "1")
    assert response.headers["X-Consul-Knownleader"] == "false"


def test_an_address_in_a_deregistration_means_nothing_and_other_fields_are_unknown():
    site = Site(Catalog, Catalog_Deregister=Empty())
    assert site.do("PUT /v1/catalog/deregister", {"Node": "n", "Address": "a"}).body == b"true"
    response = site.do("PUT /v1/catalog/deregister", {"Namespace": "n"})
    assert response.status == 400
    assert response.body.decode().endswith('"Namespace" - Namespaces are a Consul Enterprise feature')


def test_instances_have_lists_and_maps_and_never_null():
    site = Site(Catalog, Catalog_ServiceNodes=IndexedServiceNodes(service_nodes=(ServiceNode(node="n"),)))
    response = site.do("GET /v1/catalog/service/web?tag=a&tag=b&near=_agent")
    (row,) = json.loads(response.body)
    assert (row["ServiceTags"], row["ServiceMeta"], row["NodeMeta"]) == ([], {}, None)
    assert response.headers["X-Consul-Effective-Consistency"] == "leader"
    assert (site.asked.service_tags, site.asked.tag_filter, site.asked.source.node) == (("a", "b"), True, "node-a")


def test_status_of_an_empty_cluster():
    site = Site(Status, Status_Leader="", Status_Peers=[])
    assert site.do("GET /v1/status/leader").body == b'""'
    assert site.do("GET /v1/status/peers").body == b"[]"


def test_dropped_instances_are_replaced_by_the_last():
    def instance(name, status):
        return CheckServiceNode(node=Node(node=name), checks=(HealthCheck(status=status),))

    nodes = [instance("a", "critical"), instance("b", "passing"), instance("c", "passing")]
    assert [node.node.node for node in only_passing(nodes)] == ["c", "b"]


# --- transactions ---------------------------------------------------------------------------------------------


def txn(**replies):
    return Site(lambda c, d: Transactions(c, d, value_bytes_max=10, body_bytes_max=1000), **replies)


def test_a_writing_transaction():
    entry = DirEntry(key=b"k", value=b"", create_index=3, modify_index=3)
    site = txn(Txn_Apply=TxnResponse(results=(TxnResult(kv=entry),)))
    response = site.do("PUT /v1/txn", [{"kv": {"Verb": "set", "KEY": "k", "Value": "dg==", "Index": 4}}, {}])
    (op,) = site.asked.ops
    assert (op.kv.verb, op.kv.dir_ent.key, op.kv.dir_ent.value, op.kv.dir_ent.modify_index) == ("set", b"k", b"v", 4)
    assert json.loads(response.body) == {
        "Results": [
            {"KV": {"LockIndex": 0, "Key": "k", "Flags": 0, "Value": None, "CreateIndex": 3, "ModifyIndex": 3}}
        ],
        "Errors": None,
    }


def test_a_reading_transaction_tells_of_the_leader_and_a_failed_one_is_a_conflict():
    reply = TxnReadResponse(index=1, known_leader=True, errors=(TxnError(op_index=0, what="no"),))
    response = txn(Txn_Read=reply).do("PUT /v1/txn", [{"KV": {"Verb": "get", "Key": "k"}}])
    assert response.status == 409
    shown = json.loads(response.body)
    assert list(shown) == [
        "Results", "Errors", "Index", "LastContact", "KnownLeader", "ConsistencyLevel", "NotModified", "Backend"
    ]  # fmt: skip
    assert (shown["Results"], shown["Errors"]) == (None, [{"OpIndex": 0, "What": "no"}])
    assert response.headers["X-Consul-Knownleader"] == "true"


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        (b"", 400, "Failed to parse body: EOF"),
        (b"{}", 400, "Failed to parse body: json: cannot unmarshal object into Go value of type api.TxnOps"),
        (b"[null]", 400, "Failed to parse body: an operation is null"),
        (b'[{"Bogus":{}}]', 400, 'Failed to parse body: json: unknown field "Bogus"'),
        ([{}] * 65, 413, "Transaction contains too many operations (65 > 64)"),
        (
            [{"KV": {"Verb": "set", "Key": "k", "Value": "eHh4eHh4eHh4eHh4"}}],
            413,
            'Value for key "k" is too large (12 > 10 bytes)',
        ),
    ],
)
def test_transactions_that_are_refused(body, status, words):
    site = txn()
    response = site.do("PUT /v1/txn", body)
    assert (response.status, response.body.decode()) == (status, words)
    assert site.caller.asked == []


# --- coordinates and operator ---------------------------------------------------------------------------------


def test_coordinates_of_a_segment_and_of_nobody():
    rows = (Coordinate(node="n", segment="", coord=VivaldiCoordinate(vec=(0.5, 0.0), height=1e-05)),)
    site = Site(Coordinates, Coordinate_ListNodes=IndexedCoordinates(index=2, coordinates=rows),
                Coordinate_Node=IndexedCoordinates())  # fmt: skip
    assert (
        b'"Coord":{"Vec":[0.5,0],"Error":0,"Adjustment":0,"Height":0.00001}' in site.do("GET /v1/coordinate/nodes").body
    )
    assert site.do("GET /v1/coordinate/nodes?segment=x").body == b"[]"
    response = site.do("GET /v1/coordinate/node/nope")
    assert (response.status, response.body, "X-Consul-Index" in response.headers) == (404, b"", False)


def test_an_update_without_coordinate_is_refused_and_disabled_coordinates_say_so():
    assert Site(Coordinates).do("PUT /v1/coordinate/update", {"Node": "n"}).status == 400
    site = Site(lambda c, d: Coordinates(c, d, enabled=False))
    response = site.do("GET /v1/coordinate/nodes")
    assert (response.status, response.body) == (401, b"Coordinate support disabled")


def test_autopilot_configuration_has_durations_as_text():
    reply = AutopilotConfig(last_contact_threshold=Duration(200_000_000), server_stabilization_time=Duration(10**10))
    shown = json.loads(Site(Operator, Operator_AutopilotGetConfiguration=reply).do(
        "GET /v1/operator/autopilot/configuration").body)  # fmt: skip
    assert (shown["LastContactThreshold"], shown["ServerStabilizationTime"]) == ("200ms", "10s")


def test_diagnosis_is_this_agents_own_and_asks_nobody():
    site = Site(Status)
    site.caller.diagnosis = lambda: Diagnosis(reason="no quorum", servers=(DiagnosedServer(name="b", dial="refused"),))
    shown = json.loads(site.do("GET /v1/status/diagnosis").body)
    assert (shown["Reason"], shown["Servers"][0]["Dial"]) == ("no quorum", "refused")
    assert site.caller.asked == []


def test_unhealthy_servers_are_shown_with_a_status_that_monitors_notice():
    for well, status in ((True, 200), (False, 429)):
        response = Site(Operator, Operator_ServerHealth=AutopilotHealthReply(healthy=well)).do(
            "GET /v1/operator/autopilot/health"
        )
        assert response.status == status
        assert json.loads(response.body) == {"Healthy": well, "FailureTolerance": 0, "Servers": []}


def test_only_a_conditional_change_tells_whether_it_was_made():
    site = Site(Operator, Operator_AutopilotSetConfiguration=False)
    assert site.do("PUT /v1/operator/autopilot/configuration", {}).body == b"true"
    assert site.do("PUT /v1/operator/autopilot/configuration?cas=4", {}).body == b"false"
    assert (site.asked.cas, site.asked.config.modify_index) == (True, 4)


@pytest.mark.parametrize("query", ["", "?id=a&address=b"])
def test_a_peer_is_removed_by_exactly_one_name(query):
    assert Site(Operator).do(f"DELETE /v1/operator/raft/peer{query}").status == 400


# --- events ---------------------------------------------------------------------------------------------------


def delivered(event, ltime=5):
    return UserEvent(lamport_time=ltime, name=f"consul:event:{event.name}", payload=event.encode(), coalesce=False)


def test_firing_sends_what_other_agents_understand():
    events = Events("node-a", dict)
    site = Site(lambda c, d: EventEndpoints(c, events, lambda: UUID, d), Internal_EventFire=EventFireResponse())
    response = site.do("PUT /v1/event/fire/deploy?node=^a", b"v1")
    assert json.loads(response.body)["LTime"] == 0
    taken = Events("abc", dict).take(UserEvent(7, "consul:event:deploy", site.asked.payload, False))
    assert (taken.name, taken.payload, taken.node_filter, taken.ltime) == ("deploy", b"v1", "^a", 7)


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ("tag=t", "Cannot provide tag filter without service filter"),
        ("node=[", "Invalid node filter: error parsing regexp: missing closing ]: `[`"),
    ],
)
def test_filters_that_cannot_be_used(query, words):
    site = Site(lambda c, d: EventEndpoints(c, Events("n", dict), lambda: UUID, d))
    response = site.do(f"PUT /v1/event/fire/x?{query}")
    assert (response.status, response.body.decode()) == (500, words)


def test_a_watcher_of_events_waits_for_another_newest_one():
    async def scenario(world):
        events = Events("node-a", dict)
        site = Site(lambda c, d: EventEndpoints(c, events, lambda: UUID, d))
        assert (await site.ask("GET /v1/event/list")).headers["X-Consul-Index"] == "1"
        first = Event(id=UUID, name="a")
        events.take(delivered(first))
        assert (await site.ask("GET /v1/event/list?index=1")).body.count(b"ID") == 1
        watcher = asyncio.create_task(site.ask(f"GET /v1/event/list?index={first.index}"))
        await asyncio.sleep(100)
        assert not watcher.done()
        events.take(delivered(Event(id=UUID[::-1], name="b")))
        assert (await watcher).body.count(b"ID") == 2
        start = world.loop.time()
        await site.ask(f"GET /v1/event/list?name=a&index={first.index}&wait=3s")
        assert world.loop.time() - start == pytest.approx(3)

    run_sim(1, scenario)


@pytest.mark.parametrize(
    ("line", "status", "allow", "body"),
    [
        ("PUT /v1/query", 405, "OPTIONS,GET,POST", "method PUT not allowed"),
        ("POST /v1/query/x", 405, "GET,PUT,DELETE", "method POST not allowed"),
        ("PUT /v1/query/x/execute", 405, "GET", "method PUT not allowed"),
        ("OPTIONS /v1/query/x", 200, "OPTIONS,GET,PUT,DELETE", "{}"),
        ("OPTIONS /v1/query/x/explain", 200, "OPTIONS,GET", "{}"),
    ],
)
def test_methods_of_prepared_queries_are_told_per_path(line, status, allow, body):
    response = Site(PreparedQueries).do(line)
    assert (response.status, response.headers["Allow"], response.body.decode()) == (status, allow, body)


def test_a_prepared_query_is_written_under_the_id_of_the_path():
    site = Site(PreparedQueries, PreparedQuery_Apply=UUID)
    assert site.do("POST /v1/query", {"name": "q", "DNS": {"TTL": "1s"}}).body == b'{"ID":"%s"}' % UUID.encode()
    assert (site.asked.op, site.asked.query.name, site.asked.query.dns.ttl) == ("create", "q", "1s")
    assert site.do(f"PUT /v1/query/{UUID}", {"ID": "other", "Name": "n"}).body == b""
    assert (site.asked.op, site.asked.query.id, site.asked.token) == ("update", UUID, "agent-token")
    assert site.do(f"DELETE /v1/query/{UUID}").status == 200
    assert (site.asked.op, site.asked.query.id) == ("delete", UUID)
    refused = site.do("POST /v1/query", {"Bogus": 1})
    assert (refused.status, refused.body) == (400, b'Request decode failed: json: unknown field "Bogus"')


@pytest.mark.parametrize("path", ["x", "x/execute", "x/explain"])
def test_an_unknown_prepared_query_is_not_found_also_behind_other_servers(path):
    error = RPCError("rpc error making call: Query not found")
    replies = {f"PreparedQuery_{name}": error for name in ("Get", "Execute", "Explain")}
    response = Site(PreparedQueries, **replies).do(f"GET /v1/query/{path}")
    assert (response.status, response.body.decode(), "X-Consul-Index" in response.headers) == (404, str(error), False)


def test_an_execution_says_who_asks_and_shows_the_meta_data_in_its_body():
    site = Site(PreparedQueries, PreparedQuery_Execute=PreparedQueryExecuteResponse(service="web", index=3))
    response = site.do(
        "GET /v1/query/a/b/execute?near=_agent&limit=2&connect=1&cached", **{"x-forwarded-for": "1.2.3.4, x"}
    )
    shown = json.loads(response.body)
    assert list(shown)[:6] == ["Service", "Nodes", "DNS", "Datacenter", "Failovers", "Index"]
    assert (shown["Nodes"], shown["ConsistencyLevel"], response.headers["X-Cache"]) == ([], "leader", "MISS")
    asked = site.asked
    assert (asked.query_id_or_name, asked.limit, asked.connect) == ("a/b", 2, True)
    assert (asked.source.datacenter, asked.source.node, asked.source.ip) == ("dc1", "node-a", "1.2.3.4")
    assert (asked.agent.datacenter, asked.agent.node) == ("dc1", "node-a")


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ("limit=1.5", 'Bad limit: strconv.Atoi: parsing "1.5": invalid syntax'),
        ("limit=9223372036854775808", 'Bad limit: strconv.Atoi: parsing "9223372036854775808": value out of range'),
        ("connect=x", """Error parsing 'connect' value: strconv.ParseBool: parsing "x": invalid syntax"""),
    ],
)
def test_parameters_that_an_execution_cannot_use(query, words):
    response = Site(PreparedQueries).do(f"GET /v1/query/q/execute?{query}")
    assert (response.status, response.body.decode()) == (500, words)


def test_an_execution_that_is_too_stale_is_repeated_at_the_leader():
    reply = PreparedQueryExecuteResponse(last_contact=Duration(2_000_000_000))
    site = Site(PreparedQueries, PreparedQuery_Execute=reply)
    site.do("GET /v1/query/q/execute?max_stale=1s")
    assert [request.allow_stale for _, request in site.caller.asked] == [True, False]
    site.do("GET /v1/query/q/execute?stale")
    assert len(site.caller.asked) == 3


def test_lists_and_explanations_of_prepared_queries():
    explained = PreparedQueryExplainResponse(index=1)
    site = Site(PreparedQueries, PreparedQuery_List=IndexedPreparedQueries(index=7), PreparedQuery_Explain=explained)
    listed = site.do("GET /v1/query")
    assert (listed.body, listed.headers["X-Consul-Index"]) == (b"[]", "7")
    assert listed.headers["X-Consul-Effective-Consistency"] == "leader"
    assert list(json.loads(site.do("GET /v1/query/q/explain").body))[:2] == ["Query", "Index"]


def cached(family, *lines, **replies):
    """What a family answers to requests one after the other, with `X-Cache` and `Age`."""

    async def ask():
        site = Site(family, **replies)
        shown = []
        for line, headers in lines:
            response = await site.ask(line, **headers)
            shown.append((response.status, response.headers.get("X-Cache"), response.headers.get("Age")))
        await site.cache.close()
        return shown, site

    return asyncio.run(ask())


@pytest.mark.parametrize(
    ("family", "line", "replies"),
    [
        (Catalog, "GET /v1/catalog/datacenters?cached", {"Catalog_ListDatacenters": ["dc1"]}),
        (Catalog, "GET /v1/catalog/services?cached", {"Catalog_ListServices": IndexedServices(index=3)}),
        (Catalog, "GET /v1/catalog/service/web?cached", {"Catalog_ServiceNodes": IndexedServiceNodes(index=3)}),
        (Catalog, "GET /v1/catalog/connect/web?cached", {"Catalog_ServiceNodes": IndexedServiceNodes(index=3)}),
        (Health, "GET /v1/health/service/web?cached", {"Health_ServiceNodes": IndexedCheckServiceNodes(index=3)}),
        (Health, "GET /v1/health/connect/web?cached", {"Health_ServiceNodes": IndexedCheckServiceNodes(index=3)}),
        (Health, "GET /v1/health/ingress/web?cached", {"Health_ServiceNodes": IndexedCheckServiceNodes(index=3)}),
        (PreparedQueries, "GET /v1/query/q/execute?cached", {"PreparedQuery_Execute": PreparedQueryExecuteResponse()}),
    ],
)
def test_a_cached_read_is_a_miss_first_and_then_a_hit(family, line, replies):
    plain = line.removesuffix("?cached")
    shown, _ = cached(family, (plain, {}), (line, {}), (line, {}), (plain, {}), **replies)
    assert shown == [(200, None, None), (200, "MISS", None), (200, "HIT", "0"), (200, None, None)]


def test_other_reads_do_not_use_the_cache():
    shown, site = cached(Catalog, ("GET /v1/catalog/nodes?cached", {}), Catalog_ListNodes=IndexedNodes(index=3))
    assert (shown, len(site.cache)) == ([(200, None, None)], 0)


@pytest.mark.parametrize("control", ["max-age=0", "must-revalidate"])
def test_a_read_that_must_be_fresh_is_fetched_again(control):
    line = "GET /v1/catalog/datacenters?cached"
    lines = ((line, {}), (line, {"Cache_Control": control}), (line, {"Cache_Control": "max-age=60"}))
    shown, _ = cached(Catalog, *lines, Catalog_ListDatacenters=["dc1"])
    assert [kind for _, kind, _ in shown] == ["MISS", "MISS", "HIT"]


@pytest.mark.parametrize(
    ("query", "backend", "leader"),
    [
        ("", "blocking-query", "true"),
        ("?cached", "streaming", "false"),
        ("?index=1", "streaming", "false"),
        ("?index=1&near=n", "blocking-query", "true"),
    ],
)
def test_health_reads_that_wait_are_shown_as_streamed(query, backend, leader):
    async def ask():
        site = Site(Health, Health_ServiceNodes=IndexedCheckServiceNodes(index=3, known_leader=True))
        response = await site.ask(f"GET /v1/health/service/web{query}")
        await site.cache.close()
        return response.headers

    headers = asyncio.run(ask())
    assert (headers["X-Consul-Query-Backend"], headers["X-Consul-Knownleader"]) == (backend, leader)


def filtered_agent(path, expression, *, services=(), checks=()):
    state = LocalState(NodeInfo("n", "id", "10.0.0.1", "dc1", {}, {}), changed=lambda: None)
    for service in services:
        state.add_service(service)
    for check in checks:
        state.add_check(check)
    request = Request("GET", path, Query("filter=" + quote(expression)), {}, b"", "10.0.0.9")
    handlers = AgentServices(SimpleNamespace(state=state), Defaults("dc1", "n"))
    handler = handlers.services if path.endswith("services") else handlers.checks
    try:
        response = asyncio.run(handler(request))
    except HTTPError as error:
        return error.status, error.text
    return response.status, sorted(json.loads(response.body))


def test_the_agent_filters_its_own_services_and_checks():
    def services(expression):
        return filtered_agent("/v1/agent/services", expression, services=[web, db])

    def checks(expression, some):
        return filtered_agent("/v1/agent/checks", expression, checks=some)

    web, db = NodeService(id="web", service="web", port=80), NodeService(id="db", service="db", tags=("m",))
    a, b = (HealthCheck(node="n", check_id=name, name=name, status="passing") for name in "ab")
    assert services("Port == 80") == (200, ["web"])
    assert services("Weights.Passing == 1 and m in Tags") == (200, ["db"])
    prefix = "Failed to create boolean expression evaluator: "
    assert services("Bogus == 1") == (500, prefix + 'Selector "Bogus" is not valid')
    assert checks("CheckID == a", [a, b]) == (200, ["a"])
    # compat: as in 1.10, the words and whether there is an error at all depend on there being a check
    assert checks("Bogus == 1", [a]) == (500, 'Selector "Bogus" is not valid')
    assert checks("Bogus == 1", []) == (200, [])
    assert checks("(", [])[1].startswith(prefix + "1:2 (1): no match found")
