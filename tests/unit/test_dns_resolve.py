"""What names ask for, and the pure rules of answers that the recorded cases show only in passing."""

import pytest

from pyconsul_agent.interfaces.dns import plan as plans
from pyconsul_agent.interfaces.dns import resolve
from pyconsul_agent.interfaces.dns.config import DNSConfig
from pyconsul_agent.structs.catalog import Node, NodeService, ServiceAddress, Weights
from pyconsul_agent.structs.health import CheckServiceNode, HealthCheck
from pyconsul_agent.wire.dns import AAAA, ANY, AXFR, DS, NS, SOA, SRV, A

CONFIG = DNSConfig(alt_domain="alt.consul.", translate_wan_addresses=True)
RECURSING = DNSConfig(recursors=(("10.0.0.9", 53),))
Service, NodeLookup, Query = plans.ServiceLookup, plans.NodeLookup, plans.QueryLookup
ABSENT = plans.Absent()


@pytest.mark.parametrize(
    ("name", "type_", "expected"),
    [
        ("web.service.consul.", A, Service("web", "", "dc1")),
        ("web.service.alt.consul.", A, Service("web", "", "dc1")),
        ("web.service.dc2.consul.", A, Service("web", "", "dc2")),
        ("v1.2.web.service.consul.", A, Service("web", "v1.2", "dc1")),
        ("_web._tcp.service.consul.", A, Service("web", "", "dc1")),
        ("_web._blue.service.dc9.consul.", A, Service("web", "blue", "dc9")),
        ("_web._tcp.consul.", SRV, Service("web", "", "dc1")),
        ("_web._tcp.consul.", A, ABSENT),
        ("web.connect.consul.", A, Service("web", "", "dc1", connect=True)),
        ("x.web.ingress.consul.", A, Service("web", "", "dc1", ingress=True)),
        ("a.b.node.consul.", A, NodeLookup("a.b", "dc1")),
        ("web.service.node.consul.", A, NodeLookup("web.service", "dc1")),
        ("find.me.query.dc2.consul.", A, Query("find.me", "dc2")),
        ("service.consul.", A, ABSENT),
        ("web.service.a.b.consul.", A, ABSENT),
        ("web.consul.", A, ABSENT),
        ("consul.", A, ABSENT),
        ("consul.", SOA, plans.Apex(SOA)),
        ("anything.consul.", NS, plans.Apex(NS)),
        ("consul.", AXFR, plans.Unsupported()),
        ("notconsul.", A, plans.Refuse()),
        (".", NS, plans.Refuse()),
        ("web\\.service.consul.", A, ABSENT),
        ("x\\.addr.consul.", A, ABSENT),
        ("a\\.b.node.consul.", A, NodeLookup("a\\.b", "dc1")),
        ("web.service\\.consul.", A, plans.Refuse()),
        ("back\\\\.consul.", A, ABSENT),
        ("web.service.x\\.arpa.", A, plans.Refuse()),
        ("arpa.", A, plans.Reverse(None)),
        ("1.2.3.10.in-addr.arpa.", A, plans.Reverse("10.3.2.1")),
    ],
)
def test_a_name_leads_to_its_plan(name, type_, expected):
    assert plans.plan(name, type_, CONFIG) == expected


def test_with_recursors_foreign_names_and_ds_of_the_zone_are_passed_on():
    assert plans.plan("example.com.", A, RECURSING) == plans.Recurse()
    assert plans.plan("consul.", DS, RECURSING) == plans.Recurse()
    assert plans.plan("1.0.0.10.in-addr.arpa.", DS, RECURSING) == plans.Recurse()
    assert plans.plan("consul.", DS, CONFIG) == ABSENT


def test_ipv6_reverse_names_spell_an_address():
    nibbles = ".".join(reversed("20010db8000000000000000000000008"))
    assert plans.reverse_address(f"{nibbles}.ip6.arpa.") == "2001:db8::8"
    assert plans.reverse_address(f"x{nibbles[1:]}.ip6.arpa.") is None


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("key", "value", "key=value"),
        ("k=`", "v`=", "k`=``=v``="),
        ("  k ", "v", "` ` k` =v"),
        ("RFC1035-any", "bare text=`", "bare text=`"),
    ],
)
def test_metadata_is_written_as_rfc_1464_has_it(key, value, expected):
    assert resolve.meta_text(key, value) == expected


@pytest.mark.parametrize(
    ("name", "expected"),
    [("web", 5), ("web-api", 3), ("we", 2), ("db", 1)],
)
def test_the_exact_name_then_the_longest_pattern_gives_the_ttl(name, expected):
    config = DNSConfig(service_ttl_s={"web": 5, "web*": 3, "we*": 2, "*": 1})
    assert resolve.service_ttl(name, config) == expected


@pytest.mark.parametrize(
    ("text", "expected"), [("0", 0), ("1m5s", 65), ("1500ms", 1), ("10", None), ("x", None), ("1s x", None)]
)
def test_durations_are_cut_to_whole_seconds(text, expected):
    assert resolve.whole_seconds(text) == expected


def instance(*checks, weights=None, **service):
    return CheckServiceNode(
        node=Node(
            node="n1",
            address="10.0.0.1",
            datacenter="dc2",
            tagged_addresses={"lan_ipv6": "2001:db8::1", "wan": "198.51.100.1", "wan_ipv4": "198.51.100.4"},
        ),
        service=NodeService(service="web", weights=weights, **service),
        checks=tuple(HealthCheck(check_id=id_, status=status, service_name=name) for id_, status, name in checks),
    )


@pytest.mark.parametrize(
    ("checks", "expected"),
    [
        ([], 10),
        ([("a", "passing", "")], 10),
        ([("a", "passing", ""), ("b", "warning", "web")], 2),
        ([("a", "warning", "other")], 10),
        ([("a", "strange", "web")], 1),
        ([("a", "critical", "web")], 0),
        ([("_node_maintenance", "passing", "")], 0),
    ],
)
def test_the_weight_follows_the_worst_check(checks, expected):
    assert resolve.weight(instance(*checks, weights=Weights(passing=10, warning=2))) == expected


def test_only_passing_leaves_out_what_warns():
    rows = [instance(("a", status, "")) for status in ("passing", "warning", "critical")]
    assert resolve.healthy(rows, only_passing=False) == rows[:2]
    assert resolve.healthy(rows, only_passing=True) == rows[:1]


@pytest.mark.parametrize(
    ("datacenter", "type_", "expected"),
    [
        ("dc1", A, "10.0.0.1"),
        ("dc1", AAAA, "2001:db8::1"),
        ("dc1", ANY, "2001:db8::1"),
        ("dc2", A, "198.51.100.4"),
        ("dc2", AAAA, "2001:db8::1"),
    ],
)
def test_addresses_are_translated_by_type_and_for_other_datacenters(datacenter, type_, expected):
    node = instance().node
    assert resolve.node_address(node, type_, datacenter, CONFIG) == expected


def test_the_wan_port_is_used_only_for_other_datacenters():
    row = instance(address="10.9.9.9", port=80, tagged_addresses={"wan": ServiceAddress(address="192.0.2.1", port=81)})
    assert resolve.service_address(row, SRV, "dc1", CONFIG) == ("10.9.9.9", 80)
    assert resolve.service_address(row, SRV, "dc2", CONFIG) == ("192.0.2.1", 81)


@pytest.mark.parametrize("address", ["fe80::1%eth0", "10.0.0", "", "localhost", "1.2.3.4.5"])
def test_what_is_no_numeric_address_is_a_host_name(address):
    node = Node(node="n", address=address)
    assert resolve.node_host(node, A, "dc1", CONFIG) == f"{address}."
