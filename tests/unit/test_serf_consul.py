"""Consul's tags, names and join rules, checked against what 1.10.11 agents were seen to send."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from pyconsul_agent.serf.consul import (
    AgentTags,
    LanRules,
    ServerTags,
    client_datacenter,
    client_tags,
    parse_build,
    parse_server,
    server_tags,
    wan_name,
    wan_rules,
)
from pyconsul_agent.structs.member import Member, MemberStatus

CAPTURED = Path(__file__).parents[2] / "conformance/vectors/gossip/captured_consul.json"
SEEN = {
    (m["fields"]["Node"], v["pool"]): m["tags"]
    for v in json.loads(CAPTURED.read_text())["vectors"]
    for m in v["decoded"].get("messages", [])
    if "tags" in m
}


def server(name="s1", **changes):
    tags = server_tags(ServerTags(datacenter="dc1", node_id=f"id-{name}", build="1.10.11:", port=8300, expect=2))
    tags |= {k: v for k, v in changes.items() if v is not None}
    for key in [k for k, v in changes.items() if v is None]:
        del tags[key]
    return Member(name=name, address="10.0.0.1", port=8301, tags=tags)


def client(name="c1", datacenter="dc1", **changes):
    tags = client_tags(AgentTags(datacenter=datacenter, node_id=f"id-{name}", build="1.10.11:"))
    return Member(name=name, address="10.0.0.3", port=8301, tags=tags | changes)


def options(tags, pool):
    return ServerTags(
        datacenter=tags["dc"],
        node_id=tags["id"],
        build="1.10.11:",
        port=8300,
        bootstrap="bootstrap" in tags,
        expect=int(tags.get("expect", 0)),
        wan_join_port=8302,
    )


@pytest.mark.parametrize("key", sorted(SEEN), ids="-".join)
def test_tags_equal_those_of_real_agents(key):
    tags = SEEN[key]
    if tags["role"] == "consul":
        assert server_tags(options(tags, key[1]), wan=key[1] == "wan") == tags
    else:
        assert client_tags(AgentTags(datacenter=tags["dc"], node_id=tags["id"], build="1.10.11:")) == tags


def test_both_pools_and_both_kinds_were_seen():
    assert {(pool, tags["role"]) for (_, pool), tags in SEEN.items()} == {
        ("lan", "consul"), ("lan", "node"), ("wan", "consul"),
    }  # fmt: skip


def test_expect_of_one_is_bootstrap():
    tags = server_tags(ServerTags(datacenter="dc1", node_id="i", build="1.10.11:", port=8300, expect=1))
    assert tags["bootstrap"] == "1"
    assert "expect" not in tags


def test_server_is_read_from_its_tags():
    info = parse_server(server(read_replica="1", wan_join_port="8302", use_tls="1"))
    assert (info.name, info.id, info.address, info.port, info.datacenter) == ("s1", "id-s1", "10.0.0.1", 8300, "dc1")
    assert (info.expect, info.bootstrap, info.build, info.raft_version) == (2, False, (1, 10, 11), 3)
    assert (info.is_read_replica, info.wan_join_port, info.use_tls, info.features) == (
        True,
        8302,
        True,
        {"fs": 1, "si": 1},
    )


@pytest.mark.parametrize(
    "changes",
    [
        {"role": "node"}, {"port": "http"}, {"port": None}, {"build": "soon"}, {"vsn": "x"}, {"expect": "two"},
        {"raft_vsn": ""}, {"wan_join_port": "x"}, {"ft_new": "x"}, {"sl_a": "noport"}, {"port": "8³00"},
    ],
)  # fmt: skip
def test_malformed_tags_make_no_server(changes):
    assert parse_server(server(**changes)) is None


def test_oldest_servers_are_recognized():
    tags = {
        "role": "consul",
        "dc": "dc1",
        "vsn": "2",
        "vsn_min": "1",
        "vsn_max": "2",
        "build": "0.5.2:",
        "port": "8300",
    }
    info = parse_server(Member(name="old", address="10.0.0.1", port=8301, tags=tags))
    assert (info.build, info.raft_version, info.id) == ((0, 5, 2), 0, "")


def test_client_datacenter_is_none_for_others():
    assert client_datacenter(client()) == "dc1"
    assert client_datacenter(server()) is None


def test_build_is_the_first_three_numbers():
    assert parse_build("1.10.11:abc") == (1, 10, 11)
    assert parse_build("'1.9.3+ent:1.2.3") == (1, 9, 3)
    assert parse_build("1.10") is None


def test_wan_names():
    assert wan_name("s1", "dc1") == "s1.dc1"
    assert wan_name("s1.dc1", "dc1") == "s1.dc1"
    assert parse_server(replace(server(), name="s1.dc1")).short_name == "s1"


RULES = LanRules("me", "id-me", "dc1")


@pytest.mark.parametrize(
    ("members", "reason"),
    [
        ([server(), client()], None),
        ([client("me")], None),
        ([client("x", id="id-me")], "Member 'x' has conflicting node ID 'id-me' with this agent's ID"),
        ([client("a", id="i"), client("b", id="i")], "Member 'b' has conflicting node ID 'i' with member 'a'"),
        ([client("a", id="i", build="0.8.4:"), client("b", id="i", build="0.8.4:")], None),
        ([client("a", datacenter="dc2")], "Member 'a' part of wrong datacenter 'dc2'"),
        ([server(dc="dc2")], "Member 's1' part of wrong datacenter 'dc2'"),
        ([client("a", segment="x")], "Member 'a' part of wrong segment 'x' (expected '')"),
        ([replace(client("a", datacenter="dc2"), status=MemberStatus.LEFT)], None),
        ([Member(name="plain", address="10.0.0.9", port=8301)], None),
    ],
)
def test_lan_join_rules(members, reason):
    assert RULES(members) == reason


def test_only_servers_join_the_wan():
    assert wan_rules([server()]) is None
    assert wan_rules([server(), client("c")]) == "Member 'c' is not a server"
