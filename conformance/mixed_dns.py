"""What a client of a cluster answers by DNS, in a form that two clusters can be compared in."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from dnslib import QTYPE, DNSRecord

from conformance.agents import DNS_PORT, Agent

TIMEOUT_S = 5.0
MANY = 40
"""Instances of a service that do not fit a datagram of 512 octets."""
NODES: tuple[dict[str, Any], ...] = (
    {"Node": "ext", "Address": "10.1.1.1", "NodeMeta": {"rack": "r1", "rfc1035-note": "plain"},
     "Service": {"Service": "db", "Port": 5432, "Tags": ["primary", "v1"]}},
    {"Node": "ext2", "Address": "10.1.1.2",
     "Service": {"Service": "db", "Port": 5433, "Tags": ["v1"], "Weights": {"Passing": 7, "Warning": 1}},
     "Checks": [{"CheckID": "c", "Name": "c", "ServiceID": "db", "Status": "warning"}]},
    {"Node": "ext3", "Address": "10.1.1.3", "Service": {"Service": "db", "Port": 5434},
     "Checks": [{"CheckID": "c", "Name": "c", "ServiceID": "db", "Status": "critical"}]},
    {"Node": "six", "Address": "fd00::1", "Service": {"Service": "six", "Port": 6}},
    {"Node": "named", "Address": "db.example.com", "Service": {"Service": "alias", "Port": 1}},
    {"Node": "own", "Address": "10.1.1.4", "Service": {"Service": "own", "Address": "10.2.2.2", "Port": 2}},
    {"Node": "proxy", "Address": "10.1.1.5", "Service": {
        "Service": "db-proxy", "Kind": "connect-proxy", "Port": 3, "Proxy": {"DestinationServiceName": "db"}}},
    *({"Node": f"many{number}", "Address": f"10.3.0.{number}", "Service": {"Service": "many", "Port": 7000 + number}}
      for number in range(MANY)),
)  # fmt: skip
QUERIES: tuple[dict[str, Any], ...] = (
    {"Name": "find-db", "Service": {"Service": "db", "OnlyPassing": True}, "DNS": {"TTL": "7s"}},
    {"Name": "geo-", "Template": {"Type": "name_prefix_match"}, "Service": {"Service": "${name.suffix}"}},
)
NAMES = (
    "db.service.consul", "primary.db.service.consul", "v1.db.service.dc1.consul", "nope.db.service.consul",
    "_db._tcp.service.consul", "_db._v1.service.consul", "DB.Service.Consul", "six.service.consul",
    "alias.service.consul", "own.service.consul", "db.connect.consul", "many.service.consul", "none.service.consul",
    "consul.service.consul", "ext.node.consul", "six.node.consul", "named.node.consul", "node-a.node.consul",
    "server1.node.dc1.consul", "none.node.consul", "find-db.query.consul", "geo-db.query.consul",
    "none.query.consul", "0a020202.addr.consul", "consul", "ns.consul", "db.service.dc9.consul", "x.y.z.consul",
    "1.1.1.10.in-addr.arpa",
)  # fmt: skip
DRAWN = "many.service.consul"
"""Of its instances chance draws those that a datagram has room for."""
KINDS = ("A", "AAAA", "SRV", "ANY", "TXT", "NS", "SOA")


def fill(agent: Agent) -> None:
    """Register what is asked for."""
    for node in NODES:
        agent.put("/v1/catalog/register", node)
    for query in QUERIES:
        agent.request("POST", "/v1/query", query)


def questions() -> list[tuple[str, str, bool]]:
    """(name, type, over TCP) of each."""
    asked = [(name, kind, tcp) for name in NAMES for kind in KINDS for tcp in (False, True)]
    return [*asked, ("1.1.1.10.in-addr.arpa", "PTR", False), ("9.9.9.9.in-addr.arpa", "PTR", False)]


def view(agent: Agent, question: tuple[str, str, bool], servers: Sequence[Agent]) -> Mapping[str, Any]:
    """An answer: code, flags, and the sorted records of each section; of one that is cut or drawn only their
    number.

    Raises OSError without an answer, and what dnslib raises for a bad one.
    """
    name, kind, tcp = question
    packet = DNSRecord.question(name, kind).send(agent.address, DNS_PORT, tcp=tcp, timeout=TIMEOUT_S)
    reply = DNSRecord.parse(packet)
    own = {agent.address: "CLIENT", **{server.address: f"SERVER{n}" for n, server in enumerate(servers)}}
    sections = {"answer": reply.rr, "authority": reply.auth, "additional": reply.ar}
    flags = {name: getattr(reply.header, name) for name in ("rcode", "aa", "tc", "ra", "rd")}
    if reply.header.tc or (name == DRAWN and not tcp):
        return {**flags, **{place: len(rows) for place, rows in sections.items()}}
    return {**flags, **{place: sorted(_record(row, own) for row in rows) for place, rows in sections.items()}}


def _record(row: Any, own: Mapping[str, str]) -> str:
    kind = QTYPE.get(row.rtype)
    data = re.sub(r"\d{9,10}", "SERIAL", str(row.rdata), count=1) if kind == "SOA" else str(row.rdata)
    text = f"{row.rname} {row.ttl} {kind} {data}"
    for address, name in own.items():
        digits = "".join(f"{int(part):02x}" for part in address.split("."))
        text = re.sub(rf"{re.escape(address)}\b", name, text).replace(f"{digits}.addr.", f"{name}.addr.")
    return text
