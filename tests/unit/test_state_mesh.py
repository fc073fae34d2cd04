"""What follows from config entries and registrations: gateways, links, intentions; and the rows of CA and ACLs."""

import base64
from dataclasses import replace

import pytest

from pyconsul_agent.errors import RPCError
from pyconsul_agent.fsm.machine import StateMachine
from pyconsul_agent.interfaces.http.config import entry_of
from pyconsul_agent.state import (
    acl,
    catalog,
    config_entry,
    connect_ca,
    gateway,
    health,
    intention,
    registration,
    service_config,
)
from pyconsul_agent.state.config_rules import checked
from pyconsul_agent.state.intention_rules import intention_hash
from pyconsul_agent.state.store import Store
from pyconsul_agent.state.watch import WatchSet
from pyconsul_agent.structs.acl import ACLPolicy, ACLRole, ACLToken, ACLTokenPolicyLink
from pyconsul_agent.structs.base import GoTime
from pyconsul_agent.structs.catalog import ConnectProxyConfig, NodeService, ServiceName, Upstream
from pyconsul_agent.structs.config_requests import ServiceConfigRequest, ServiceID
from pyconsul_agent.structs.connect_ca import CAConfiguration, CARoot
from pyconsul_agent.structs.intention import Intention, IntentionMutation, SourceIntention
from pyconsul_agent.structs.requests import RegisterRequest

ID = "11111111-2222-3333-4444-555555555555"


class Bench:
    """A store that is written command by command."""

    def __init__(self):
        self.store = Store()
        self.index = 0

    def begin(self):
        self.index += 1
        return self.store.begin(self.index)

    def entry(self, **body):
        with self.begin() as txn:
            config_entry.put(
                txn, checked(entry_of({name.title().replace("_", ""): each for name, each in body.items()}))
            )

    def delete(self, kind, name):
        with self.begin() as txn:
            config_entry.delete(txn, kind, name)

    def service(self, name, *, kind="", upstreams=(), of="", node="n1"):
        proxy = ConnectProxyConfig(
            destination_service_name=of,
            upstreams=tuple(Upstream(destination_name=each) for each in upstreams) or None,
        )
        service = NodeService(id=name, service=name, kind=kind, port=80, proxy=proxy)
        with self.begin() as txn:
            registration.register(txn, RegisterRequest(node=node, address="10.0.0.1", service=service))

    def gone(self, name, node="n1"):
        with self.begin() as txn:
            registration.delete_service(txn, node, name)

    def behind(self, gateway_name):
        _, rows = catalog.gateway_services(self.store, WatchSet(), gateway_name)
        return [(row.service.name, row.port, row.from_wildcard) for row in rows]

    def links(self):
        return [(row.upstream, row.downstream) for row in self.store.tables.mesh_topology.scan()]


@pytest.fixture
def bench():
    made = Bench()
    with made.begin() as txn:
        intention.delete_all_rows(txn)
    return made


def listener(*names, port=80, protocol="http"):
    return {"Port": port, "Protocol": protocol, "Services": [{"Name": name} for name in names]}


# --- gateways ---------------------------------------------------------------------------------------------------


def test_an_ingress_gateway_offers_the_services_that_it_names(bench):
    bench.entry(kind="proxy-defaults", name="global", config={"protocol": "http"})
    bench.entry(kind="ingress-gateway", name="in", listeners=[listener("web", "api")])
    assert bench.behind("in") == [("api", 80, False), ("web", 80, False)]
    assert bench.links() == [("api", "in"), ("web", "in")]
    assert bench.store.index("gateway-services", "mesh-topology") == bench.index


def test_a_wildcard_covers_services_that_come_later_and_lets_go_of_those_that_leave(bench):
    bench.entry(kind="terminating-gateway", name="out", services=[{"Name": "*", "CAFile": "/ca"}, {"Name": "db"}])
    bench.service("web")
    bench.service("consul")
    assert bench.behind("out") == [("db", 0, False), ("web", 0, True)]
    bench.service("db")
    assert bench.behind("out") == [("db", 0, True), ("web", 0, True)]
    bench.gone("web")
    assert bench.behind("out") == [("db", 0, True)]


def test_a_wildcard_of_an_ingress_gateway_shows_only_services_of_its_protocol(bench):
    bench.service("web")
    bench.service("plain")
    bench.entry(kind="service-defaults", name="web", protocol="http")
    bench.entry(kind="ingress-gateway", name="in", listeners=[listener("*")])
    assert bench.behind("in") == [("web", 80, True)]


def test_the_services_of_a_gateway_are_replaced_with_its_entry_and_go_with_it(bench):
    bench.entry(kind="terminating-gateway", name="out", services=[{"Name": "a"}])
    bench.entry(kind="terminating-gateway", name="out", services=[{"Name": "b"}])
    assert bench.behind("out") == [("b", 0, False)]
    bench.delete("terminating-gateway", "out")
    assert bench.behind("out") == []
    assert bench.store.index("gateway-services") == bench.index


def test_an_equal_list_of_services_moves_no_index_of_gateways(bench):
    bench.entry(kind="terminating-gateway", name="out", services=[{"Name": "a"}])
    before = bench.store.index("gateway-services")
    bench.entry(kind="terminating-gateway", name="out", services=[{"Name": "a"}], meta={"k": "v"})
    assert bench.store.index("gateway-services") == before
    assert bench.store.index("config-entries") == bench.index


def test_an_ingress_look_up_finds_the_gateways_of_a_service(bench):
    bench.entry(kind="proxy-defaults", name="global", config={"protocol": "http"})
    bench.entry(kind="ingress-gateway", name="in", listeners=[listener("web")])
    assert health.ingress_nodes(bench.store, WatchSet(), "web")[1] == []
    bench.service("in", kind="ingress-gateway")
    index, rows = health.ingress_nodes(bench.store, WatchSet(), "web")
    assert [row.service.service for row in rows] == ["in"]
    assert index == bench.index


def test_a_connect_look_up_finds_terminating_gateways_beside_proxies(bench):
    bench.entry(kind="terminating-gateway", name="out", services=[{"Name": "db"}])
    bench.service("out", kind="terminating-gateway")
    bench.service("db-proxy", kind="connect-proxy", of="db")
    _, rows = health.service_nodes(bench.store, WatchSet(), "db", connect=True)
    assert [row.service.service for row in rows] == ["db-proxy", "out"]


def test_one_name_cannot_be_both_kinds_of_gateway(bench):
    bench.entry(kind="terminating-gateway", name="g", services=[])
    with pytest.raises(RPCError, match='a "terminating-gateway" config entry with that name already exists'):
        bench.entry(kind="ingress-gateway", name="g", listeners=[])


def test_an_ingress_listener_must_speak_what_its_service_speaks(bench):
    with pytest.raises(RPCError, match='service "web" has protocol "tcp", which does not match'):
        bench.entry(kind="ingress-gateway", name="in", listeners=[listener("web")])
    bench.entry(kind="service-defaults", name="web", protocol="http")
    bench.entry(kind="ingress-gateway", name="in", listeners=[listener("web")])
    with pytest.raises(RPCError, match='which does not match defined listener protocol "http"'):
        bench.delete("service-defaults", "web")


# --- links between services -------------------------------------------------------------------------------------


def test_a_proxy_links_its_service_to_its_upstreams(bench):
    bench.service("web-proxy", kind="connect-proxy", of="web", upstreams=("db", "cache"))
    assert bench.links() == [("cache", "web"), ("db", "web")]
    bench.service("web-proxy", kind="connect-proxy", of="web", upstreams=("db",))
    assert bench.links() == [("db", "web")]


def test_a_link_stays_until_its_last_proxy_goes(bench):
    for node in ("n1", "n2"):
        bench.service("web-proxy", kind="connect-proxy", of="web", upstreams=("db",), node=node)
    bench.gone("web-proxy", "n1")
    assert bench.links() == [("db", "web")]
    bench.gone("web-proxy", "n2")
    assert bench.links() == []
    assert bench.store.index(gateway.MESH_TOPOLOGY) == bench.index


def test_a_restored_state_has_the_same_gateways_and_links(bench):
    bench.entry(kind="terminating-gateway", name="out", services=[{"Name": "*"}])
    bench.service("web-proxy", kind="connect-proxy", of="web", upstreams=("db",))
    bench.service("db")
    live = StateMachine(bench.store, lambda: 0.0)
    fresh = Bench()
    machine = StateMachine(fresh.store, lambda: 0.0)
    machine.restore([b"".join(live.snapshot()())])()
    assert (fresh.behind("out"), fresh.links()) == (bench.behind("out"), bench.links())
    assert machine.state_digest() == live.state_digest()


# --- config entries -----------------------------------------------------------------------------------------------


def test_compare_and_set_wants_the_index_that_was_read(bench):
    entry = checked(entry_of({"Kind": "service-defaults", "Name": "web"}))
    with bench.begin() as txn:
        assert config_entry.compare_and_set(txn, 0, entry)
        created = txn.index
    with bench.begin() as txn:
        assert not config_entry.compare_and_set(txn, 0, entry)
        assert not config_entry.compare_and_set(txn, created + 7, entry)
        assert config_entry.compare_and_set(txn, created, entry)
    with bench.begin() as txn:
        other = checked(entry_of({"Kind": "service-defaults", "Name": "none"}))
        assert not config_entry.compare_and_set(txn, 5, other)


def test_names_of_entries_do_not_depend_on_letter_case(bench):
    bench.entry(kind="service-defaults", name="Web", protocol="http")
    _, found = config_entry.get(bench.store, WatchSet(), "service-defaults", "wEB")
    assert found.name == "Web"


def test_a_refused_change_leaves_everything_as_it_was(bench):
    bench.entry(kind="terminating-gateway", name="out", services=[{"Name": "a"}])
    before = dict(bench.store.tables.index.rows)
    with pytest.raises(RPCError), bench.begin() as txn:
        config_entry.delete(txn, "terminating-gateway", "out")
        raise RPCError("no")
    assert bench.behind("out") == [("a", 0, False)]
    assert bench.store.tables.index.rows == before


def test_the_configuration_of_a_proxy_is_merged_from_all_that_applies(bench):
    bench.entry(kind="proxy-defaults", name="global", config={"protocol": "http", "x": 1}, mode="direct")
    upstreams = {"Defaults": {"ConnectTimeoutMs": 5}, "Overrides": [{"Name": "db", "Protocol": "tcp"}]}
    bench.entry(kind="service-defaults", name="web", protocol="grpc", upstream_config=upstreams)
    request = ServiceConfigRequest(name="web", upstream_ids=(ServiceID(id="cache"),))
    reply = service_config.resolve(bench.store, WatchSet(), request)
    assert reply.proxy_config == {"protocol": "grpc", "x": 1.0}
    assert reply.mode == "direct"
    configs = {row.upstream.id: row.config for row in reply.upstream_id_configs}
    assert configs == {
        "*": {"connect_timeout_ms": 5},
        "cache": {"protocol": "http", "connect_timeout_ms": 5},
        "db": {"protocol": "tcp", "connect_timeout_ms": 5},
    }
    assert service_config.resolve(bench.store, WatchSet(), replace(request, upstream_ids=None)).upstream_configs is None


# --- intentions ---------------------------------------------------------------------------------------------------


def legacy(name, identity=ID, action="allow", at=1):
    time = GoTime(unix_seconds=at)
    return SourceIntention(
        name=name, action=action, type="consul", legacy_id=identity, legacy_create_time=time, legacy_update_time=time
    )


def mutate(bench, op, **fields):
    with bench.begin() as txn:
        intention.mutate(txn, op, IntentionMutation(**fields))


def to(name):
    return {"destination": ServiceName(name=name)}


def test_an_intention_is_found_by_its_id_and_keeps_its_time_of_creation(bench):
    mutate(bench, "create", **to("db"), value=legacy("web"))
    mutate(bench, "update", id=ID, value=legacy("web", action="deny", at=2))
    _, found = intention.get(bench.store, WatchSet(), ID)
    assert (found.action, found.created_at.unix_seconds, found.updated_at.unix_seconds) == ("deny", 1, 2)
    mutate(bench, "delete", id=ID)
    assert intention.get(bench.store, WatchSet(), ID)[1] is None
    assert config_entry.get(bench.store, WatchSet(), "service-intentions", "db")[1] is None


def test_the_old_api_may_not_touch_what_was_edited_as_an_entry(bench):
    mutate(
        bench, "upsert", **to("db"), source=ServiceName(name="web"), value=SourceIntention(name="web", action="deny")
    )
    with pytest.raises(RPCError, match='cannot use legacy intention API to edit intentions with a destination of "db"'):
        mutate(bench, "create", **to("db"), value=legacy("other"))


def test_the_more_exact_rule_comes_first(bench):
    for source, destination in (("*", "*"), ("web", "*"), ("*", "db"), ("web", "db")):
        value = SourceIntention(name=source, action="allow")
        mutate(bench, "upsert", **to(destination), source=ServiceName(name=source), value=value)
    _, rows = intention.match(bench.store, WatchSet(), "web", by_source=True)
    assert [(row.source_name, row.destination_name, row.precedence) for row in rows] == [
        ("web", "db", 9), ("*", "db", 8), ("web", "*", 6), ("*", "*", 5),
    ]  # fmt: skip


def test_rules_for_requests_need_a_service_whose_requests_can_be_seen(bench):
    permissions = [{"Action": "allow", "HTTP": {"PathExact": "/x"}}]
    body = {"kind": "service-intentions", "name": "db", "sources": [{"Name": "web", "Permissions": permissions}]}
    with pytest.raises(RPCError, match='"tcp", which is incompatible with L7 intentions permissions'):
        bench.entry(**body)
    bench.entry(kind="service-defaults", name="db", protocol="http")
    bench.entry(**body)
    with pytest.raises(RPCError, match="which is incompatible with L7 intentions permissions"):
        bench.delete("service-defaults", "db")


def test_the_hash_of_an_intention_is_the_recorded_one():
    row = Intention(
        id="0fffac80-3d19-e503-096a-ff795f238dc8", description="d", source_ns="default", source_name="web",
        destination_ns="default", destination_name="db", source_type="consul", action="allow", meta={"k": "v"},
        precedence=9,
    )  # fmt: skip
    assert base64.b64encode(intention_hash(row)) == b"gUpirvcZn8zA2vzWhbMBWwEzIHLIaTQmTG/8bVOou78="


def test_the_old_table_is_closed_once_intentions_have_moved(bench):
    with pytest.raises(RPCError, match="Legacy intention modifications are disabled"), bench.begin() as txn:
        intention.refuse_if_moved(txn)


def test_the_old_table_takes_no_two_intentions_between_the_same_names():
    bench = Bench()
    row = Intention(id=ID, source_ns="default", source_name="a", destination_ns="default", destination_name="b")
    with bench.begin() as txn:
        intention.put_row(txn, row)
    assert [each.precedence for each in intention.list_all(bench.store, WatchSet())[1]] == [9]
    with pytest.raises(RPCError, match=r"duplicate intention found: a => b \(ID: 1111"), bench.begin() as txn:
        intention.put_row(txn, replace(row, id=ID.replace("1", "2")))
    with bench.begin() as txn:
        intention.delete_row(txn, ID)
    assert intention.list_all(bench.store, WatchSet())[1] == []


# --- the CA's rows ------------------------------------------------------------------------------------------------


def test_the_cluster_id_is_kept_by_a_configuration_that_names_none(bench):
    with bench.begin() as txn:
        connect_ca.set_config(txn, CAConfiguration(cluster_id="c1", provider="consul"))
    with bench.begin() as txn:
        connect_ca.set_config(txn, CAConfiguration(provider="vault"))
    index, found = connect_ca.config(bench.store, WatchSet())
    assert (found.cluster_id, found.provider, found.create_index, index) == ("c1", "vault", index - 1, index)
    with pytest.raises(RPCError, match="ModifyIndex did not match existing"), bench.begin() as txn:
        connect_ca.set_config(txn, CAConfiguration(modify_index=1), compare=True)


def test_roots_are_replaced_only_over_the_index_that_was_read(bench):
    one = CARoot(id="a", active=True)
    with bench.begin() as txn:
        assert connect_ca.set_roots(txn, 0, [one])
    with bench.begin() as txn:
        assert not connect_ca.set_roots(txn, 0, [one])
        assert connect_ca.set_roots(txn, bench.index - 1, [replace(one, active=False), CARoot(id="b", active=True)])
    assert [row.id for row in connect_ca.roots(bench.store, WatchSet())[1]] == ["a", "b"]
    with pytest.raises(RPCError, match="exactly one active CA"), bench.begin() as txn:
        connect_ca.set_roots(txn, bench.index, [])


# --- rows of ACLs -------------------------------------------------------------------------------------------------

POLICY = ACLPolicy(id="22222222-2222-2222-2222-222222222222", name="p")


def test_the_first_token_can_be_stored_once(bench):
    token = ACLToken(accessor_id=ID, secret_id="s")
    with bench.begin() as txn:
        acl.bootstrap(txn, token, 0)
        done_at = txn.index
    for reset, words in ((0, "no longer allowed"), (done_at + 9, "Invalid ACL bootstrap reset index")):
        with pytest.raises(RPCError, match=words), bench.begin() as txn:
            acl.bootstrap(txn, replace(token, secret_id="t"), reset)
    with bench.begin() as txn:
        acl.bootstrap(txn, replace(token, secret_id="t", accessor_id=ID.replace("5", "6")), done_at)


def test_a_token_keeps_its_accessor_and_knows_the_names_of_its_policies(bench):
    link = ACLTokenPolicyLink(id=POLICY.id)
    token = ACLToken(accessor_id=ID, secret_id="s", policies=(link,))
    with pytest.raises(RPCError, match="No such policy with ID"), bench.begin() as txn:
        acl.put_token(txn, token, acl.TokenRules())
    with bench.begin() as txn:
        acl.put_policy(txn, POLICY)
        acl.put_token(txn, token, acl.TokenRules())
    stored = bench.store.tables.acl_tokens.rows[b"s"]
    assert stored.policies[0].name == "p"
    assert len(stored.hash) == 32
    with pytest.raises(RPCError, match="AccessorID field is immutable"), bench.begin() as txn:
        acl.put_token(txn, replace(token, accessor_id=POLICY.id), acl.TokenRules())


def test_names_of_policies_and_roles_are_taken_once(bench):
    with bench.begin() as txn:
        acl.put_policy(txn, POLICY)
        acl.put_role(txn, ACLRole(id=ID, name="r"))
    with pytest.raises(RPCError, match='A policy with name "P" already exists'), bench.begin() as txn:
        acl.put_policy(txn, replace(POLICY, id=ID, name="P"))
    with pytest.raises(RPCError, match='A role with name "r" already exists'), bench.begin() as txn:
        acl.put_role(txn, ACLRole(id=POLICY.id, name="r"))


def test_what_is_built_in_cannot_be_deleted(bench):
    with bench.begin() as txn:
        acl.put_token(txn, ACLToken(accessor_id=acl.ANONYMOUS_ID, secret_id="anonymous"), acl.TokenRules())
        acl.put_policy(txn, ACLPolicy(id=acl.MANAGEMENT_POLICY_ID, name="m"))
    with pytest.raises(RPCError, match="anonymous token"), bench.begin() as txn:
        acl.delete_token(txn, acl.ANONYMOUS_ID)
    with pytest.raises(RPCError, match="builtin global-management policy"), bench.begin() as txn:
        acl.delete_policy(txn, acl.MANAGEMENT_POLICY_ID)
