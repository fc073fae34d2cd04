"""Reads the recorded DNS cases, and keeps a catalog of what their set-up calls register."""

import json
from pathlib import Path

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

CASES = Path(__file__).resolve().parents[2] / "conformance/golden/dns/cases"
OWN_ADDRESS = "127.0.0.1"


def load(name):
    return json.loads((CASES / f"{name}.json").read_text())


class Catalog:
    """A catalog filled by the set-up calls of a case, answering the calls that DNS makes."""

    def __init__(self):
        self.nodes, self.services, self.checks, self.calls = {}, {}, {}, []
        self.gateways = {}
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

    def bind(self, entry):
        """Take a config entry of an ingress gateway: which services are reached through it."""
        for listener in entry["Listeners"]:
            for service in listener["Services"]:
                self.gateways.setdefault(service["Name"], set()).add(entry["Name"])

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
            wanted = self.gateways.get(request.service_name, ()) if request.ingress else {request.service_name.lower()}
            if row.service.lower() not in wanted or request.connect:
                continue
            tags = [tag.lower() for tag in row.tags or ()]
            if not all(tag.lower() in tags for tag in request.service_tags or ()):
                continue
            checks = [c for (at, _), c in self.checks.items() if at == node and c.service_id in ("", service_id)]
            yield CheckServiceNode(node=self.nodes[node], service=row, checks=tuple(checks))
