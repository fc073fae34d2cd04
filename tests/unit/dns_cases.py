"""Reads the recorded DNS cases: their queries as packets, replies as comparable data, and set-up calls as a catalog."""

import ipaddress
import json
import struct
from collections import Counter
from pathlib import Path

import dnslib

from pyconsul_agent.errors import RPCError
from pyconsul_agent.structs import methods
from pyconsul_agent.structs.catalog import Node, NodeService, NodeServices, ServiceAddress, ServiceNode, Weights
from pyconsul_agent.structs.health import CheckServiceNode, HealthCheck
from pyconsul_agent.structs.requests import (
    IndexedCheckServiceNodes,
    IndexedNodes,
    IndexedNodeServices,
    IndexedServiceNodes,
)
from pyconsul_agent.wire import dns

CASES = Path(__file__).resolve().parents[2] / "conformance/golden/dns/cases"
TYPES = {
    "A": 1, "NS": 2, "CNAME": 5, "SOA": 6, "PTR": 12, "HINFO": 13, "MX": 15, "TXT": 16, "AAAA": 28, "SRV": 33,
    "NAPTR": 35, "OPT": 41, "DS": 43, "DNSKEY": 48, "IXFR": 251, "AXFR": 252, "ANY": 255, "CAA": 257, "NULL": 10,
}  # fmt: skip
CLASSES = {"IN": 1, "CH": 3, "HS": 4, "NONE": 254, "ANY": 255}
RCODES = ["NOERROR", "FORMERR", "SERVFAIL", "NXDOMAIN", "NOTIMP", "REFUSED"]
FLAGS = {"qr": 15, "aa": 10, "tc": 9, "rd": 8, "ra": 7, "z": 6, "ad": 5, "cd": 4}
OWN_ADDRESS = "127.0.0.1"


def load(name):
    return json.loads((CASES / f"{name}.json").read_text())


def packet(spec, id_=7):
    """The bytes that a query step sends."""
    if "raw" in spec:
        return struct.pack("!H", id_) + bytes.fromhex(spec["raw"])[2:]
    bits = spec.get("opcode", 0) << 11
    for flag in spec.get("flags", ["rd"]):
        bits |= 1 << FLAGS[flag]
    if "questions" in spec:
        questions = [dns.pack(dns.Message(0, 0, _question(one)))[12:] for one in spec["questions"]]
        return struct.pack("!6H", id_, bits, len(questions), 0, 0, 0) + b"".join(questions)
    question = _question(spec)
    extra = []
    if "edns" in spec:
        extra = [_opt(spec["edns"])]
    return dns.pack(dns.Message(id_, bits, question, additional=extra), compress=False)


def _question(spec):
    return spec["name"], _number(TYPES, spec.get("type", "A")), _number(CLASSES, spec.get("class", "IN"))


def _number(table, key):
    return key if isinstance(key, int) else table[key]


def _opt(edns):
    data = b""
    if "ecs" in edns:
        ecs = edns["ecs"]
        v6 = ":" in ecs["address"]
        raw = _ip(ecs["address"])[: (ecs["source"] + 7) // 8]
        body = struct.pack("!HBB", ecs.get("family", 2 if v6 else 1), ecs["source"], ecs.get("scope", 0)) + raw
        data += struct.pack("!HH", 8, len(body)) + body
    for option in edns.get("options", []):
        body = bytes.fromhex(option["data"])
        data += struct.pack("!HH", option["code"], len(body)) + body
    ttl = edns.get("version", 0) << 16 | (0x8000 if edns.get("do") else 0)
    return dns.Record(".", 41, ttl, (data,), edns.get("udp_size", 4096))


def _ip(text):
    return ipaddress.ip_address(text).packed


def differences(want, reply):
    """Lines on how a reply differs from what was recorded. Records are read by another library than the one tested."""
    if reply is None:
        return [] if want.get("outcome") == "timeout" else ["no reply"]
    if "outcome" in want:
        return ["a reply where there must be none"]
    bits = struct.unpack_from("!H", reply, 2)[0]
    got_flags = [name for name, bit in FLAGS.items() if bits >> bit & 1]
    lines = []
    if len(reply) != want["size"]:
        lines.append(f"size {len(reply)}, not {want['size']}")
    if RCODES[bits & 15] != want["rcode"] or sorted(got_flags) != sorted(want["flags"]):
        lines.append(f"{RCODES[bits & 15]} {got_flags}")
    message = dns.parse_message(reply)
    if len(reply) > 12 and message.question is not None and message.question[2] in CLASSES.values():
        dnslib.DNSRecord.parse(reply)  # the other library can read it
    for section, records in (
        ("answer", message.answers),
        ("authority", message.authority),
        ("additional", [record for record in message.additional if record.type != 41]),
    ):
        expected = Counter(_wanted(record) for record in want.get(section, []))
        found = Counter(_found(record) for record in records)
        lines += [f"{section} + {record}" for record in (found - expected).elements()]
        lines += [f"{section} - {record}" for record in (expected - found).elements()]
    return lines + _opt_differences(want, message)


def _opt_differences(want, message):
    opt = next((record for record in message.additional if record.type == 41), None)
    edns = want.get("edns")
    if (opt is None) != (edns is None):
        return ["OPT missing" if opt is None else "OPT too many"]
    if opt is None:
        return []
    data = b""
    if "ecs" in edns:
        ecs = edns["ecs"]
        raw = _ip(ecs["address"])[: ecs["octets"]]
        data = struct.pack("!HHHBB", 8, 4 + len(raw), ecs["family"], ecs["source"], ecs["scope"]) + raw
    same = opt.cls == edns["udp_size"] and opt.ttl == 0 and b"".join(opt.data) == data
    at_end = message.additional[-1] is opt
    return [] if same and at_end else [f"OPT is {opt}"]


def _wanted(record):
    data, type_ = record["data"], TYPES[record["type"]]
    if type_ in (1, 28):
        data = _ip(data).hex()
    elif type_ == 16:
        data = "".join(data)
    elif type_ == 33:
        data = f"{data['priority']} {data['weight']} {data['port']} {data['target']}"
    elif type_ == 6:
        data = f"{data['mname']} {data['rname']} {data['refresh']} {data['minimum']}"
    return record["name"], type_, record["ttl"], data


def _found(record):
    data = record.data
    if record.type in (1, 28):
        data = data[0].hex()
    elif record.type == 16:
        data = data[0][1:].decode()
    elif record.type == 33:
        data = "{} {} {} {}".format(*struct.unpack("!3H", data[0]), data[1])
    elif record.type == 6:
        _, refresh, _, _, minimum = struct.unpack("!5I", data[2])
        data = f"{data[0]} {data[1]} {refresh} {minimum}"
    else:
        data = data[0]
    return record.name, record.type, record.ttl, data


class Catalog:
    """A catalog filled by the set-up calls of a case, answering the calls that DNS makes."""

    def __init__(self):
        self.nodes, self.services, self.checks, self.calls = {}, {}, {}, []
        self.register(
            {
                "Node": "golden",
                "Address": OWN_ADDRESS,
                "TaggedAddresses": dict.fromkeys(("lan", "lan_ipv4", "wan", "wan_ipv4"), OWN_ADDRESS),
                "NodeMeta": {"consul-network-segment": ""},
                "Service": {"Service": "consul", "Port": 8300},
                "Check": {"CheckID": "serfHealth", "Status": "passing"},
            }
        )

    def register(self, body):
        name = body["Node"]
        self.nodes[name.lower()] = Node(
            node=name,
            address=body["Address"],
            datacenter="dc1",
            tagged_addresses=body.get("TaggedAddresses"),
            meta=body.get("NodeMeta"),
        )
        if "Service" in body:
            self._service(name, body["Service"])
        for check in body.get("Checks", []) + ([body["Check"]] if "Check" in body else []):
            self._check(name, check)

    def _service(self, node, body):
        weights = body.get("Weights")
        if weights and max(weights.values()) > 65535:
            weights = None
        row = NodeService(
            id=body.get("ID") or body["Service"],
            service=body["Service"],
            tags=tuple(body.get("Tags") or ()),
            address=body.get("Address", ""),
            port=body.get("Port", 0),
            tagged_addresses={
                tag: ServiceAddress(address=entry["Address"], port=entry.get("Port", 0))
                for tag, entry in (body.get("TaggedAddresses") or {}).items()
            },
            weights=Weights(passing=weights["Passing"], warning=weights["Warning"])
            if weights
            else Weights(passing=1, warning=1),
        )
        self.services[node.lower(), row.id] = row

    def _check(self, node, body):
        service = body.get("ServiceID", "")
        known = self.services.get((node.lower(), service))
        row = HealthCheck(
            node=node,
            check_id=body.get("CheckID") or body.get("Name", ""),
            status=body.get("Status", "critical"),
            service_id=service,
            service_name=known.service if known else "",
        )
        self.checks[node.lower(), row.check_id] = row

    async def call(self, method, request):
        self.calls.append((method, request))
        if request.datacenter not in ("", "dc1"):
            raise RPCError("No path to datacenter")
        if method is methods.HEALTH_SERVICE_NODES:
            return IndexedCheckServiceNodes(nodes=tuple(self._instances(request)))
        if method is methods.CATALOG_NODE_SERVICES:
            node = self.nodes.get(request.node.lower())
            return IndexedNodeServices(node_services=NodeServices(node=node) if node else None)
        if method is methods.CATALOG_LIST_NODES:
            return IndexedNodes(nodes=tuple(self.nodes.values()))
        if method is methods.CATALOG_SERVICE_NODES:
            rows = [
                ServiceNode(node=node, service_name=row.service, service_address=row.address)
                for (node, _), row in self.services.items()
                if row.address == request.service_address
            ]
            return IndexedServiceNodes(service_nodes=tuple(rows))
        raise RPCError(f"rpc: can't find service {method.name}")

    def _instances(self, request):
        for (node, service_id), row in self.services.items():
            if row.service.lower() != request.service_name.lower() or request.connect or request.ingress:
                continue
            tags = [tag.lower() for tag in row.tags or ()]
            if not all(tag.lower() in tags for tag in request.service_tags or ()):
                continue
            checks = [c for (at, _), c in self.checks.items() if at == node and c.service_id in ("", service_id)]
            yield CheckServiceNode(node=self.nodes[node], service=row, checks=tuple(checks))
