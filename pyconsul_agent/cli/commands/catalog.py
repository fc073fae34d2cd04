"""`catalog datacenters|nodes|services`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pyconsul_agent.cli.command import Command, Context
from pyconsul_agent.cli.flags import Flag
from pyconsul_agent.cli.http_api import APIError
from pyconsul_agent.cli.tables import columnize, tab_stops

SHORT_ID = 8
NODE_META = Flag("node-meta", "pairs", "Only nodes with this metadata pair. May be given several times.")


def run_datacenters(context: Context, arguments: Sequence[str]) -> int:
    """Print their names."""
    if arguments:
        return context.complain(f"Too many arguments (expected 0, got {len(arguments)})")
    try:
        names = context.api().get("/v1/catalog/datacenters").expect_ok().json()
    except APIError as error:
        return context.complain(f"Error listing datacenters: {error}")
    for name in names:
        context.say(name)
    return 0


def run_nodes(context: Context, arguments: Sequence[str]) -> int:
    """Print a table of nodes, by name."""
    if arguments:
        return context.complain(f"Too many arguments (expected 0, got {len(arguments)})")
    query: dict[str, str | Sequence[str]] = {
        flag: context.text(flag) for flag in ("near", "filter") if context.text(flag)
    }
    if context.pairs("node-meta"):
        query["node-meta"] = [f"{key}:{value}" for key, value in sorted(context.pairs("node-meta").items())]
    service = context.text("service")
    path = f"/v1/catalog/service/{service}" if service else "/v1/catalog/nodes"
    try:
        nodes = context.api().get(path, query).expect_ok().json() or []
    except APIError as error:
        return context.complain(f"Error listing nodes: {error}")
    if not nodes:
        context.complain("No nodes match the given query - try expanding your search.")
        return 0
    unique = {node["Node"]: node for node in nodes}
    rows = [_node_row(unique[name], context.on("detailed")) for name in sorted(unique)]
    header = ["Node", "ID", "Address", "DC", *(["TaggedAddresses", "Meta"] if context.on("detailed") else [])]
    context.say(columnize([header, *rows]))
    return 0


def _node_row(node: Mapping[str, Any], detailed: bool) -> list[str]:
    identity = str(node.get("ID", ""))
    row = [node["Node"], identity if detailed else identity[:SHORT_ID], node["Address"], node.get("Datacenter", "")]
    if detailed:
        row += [_pairs(node.get("TaggedAddresses")), _pairs(node.get("Meta", node.get("NodeMeta")))]
    return row


def _pairs(values: Mapping[str, str] | None) -> str:
    return ", ".join(f"{key}={value}" for key, value in sorted((values or {}).items()))


def run_services(context: Context, arguments: Sequence[str]) -> int:
    """Print names, with tags if asked."""
    if arguments:
        return context.complain(f"Too many arguments (expected 0, got {len(arguments)})")
    try:
        services = _services(context)
    except APIError as error:
        return context.complain(f"Error listing services: {error}")
    if not services:
        context.complain("No services match the given query - try expanding your search.")
        return 0
    if context.on("tags"):
        rows = [(name, ",".join(sorted(services[name]))) for name in sorted(services)]
        context.say(tab_stops(rows))
    else:
        context.say("\n".join(sorted(services)))
    return 0


def _services(context: Context) -> dict[str, set[str]]:
    node = context.text("node")
    found: dict[str, set[str]] = {}
    if node:
        answer = context.api().get(f"/v1/catalog/node/{node}").expect_ok().json() or {}
        for service in (answer.get("Services") or {}).values():
            found.setdefault(service["Service"], set()).update(service.get("Tags") or [])
        return found
    query: dict[str, str | Sequence[str]] = {}
    if context.pairs("node-meta"):
        query["node-meta"] = [f"{key}:{value}" for key, value in sorted(context.pairs("node-meta").items())]
    services = context.api().get("/v1/catalog/services", query).expect_ok().json() or {}
    return {name: set(tags or []) for name, tags in services.items()}


DATACENTERS = Command(
    "consul catalog datacenters [options]", "Lists the known datacenters.", run_datacenters, groups="CS"
)
NODES = Command(
    "consul catalog nodes [options]",
    "Lists the nodes of a datacenter.",
    run_nodes,
    (
        Flag("detailed", "bool", "Show whole ids, tagged addresses and metadata."),
        Flag("filter", "string", "Filter expression of the request."),
        Flag("near", "string", "Order by the distance from this node; `_agent` is the agent's own."),
        NODE_META,
        Flag("service", "string", "Only nodes with an instance of this service."),
    ),
    groups="CS",
)
SERVICES = Command(
    "consul catalog services [options]",
    "Lists the services of a datacenter.",
    run_services,
    (
        Flag("node", "string", "Only services of this node, by name or id."),
        NODE_META,
        Flag("tags", "bool", "Show tags too."),
    ),
    groups="CSN",
)
