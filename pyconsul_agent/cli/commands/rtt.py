"""`rtt`: the estimated round trip between two nodes, from their network coordinates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pyconsul_agent.cli.command import Command, Context
from pyconsul_agent.cli.flags import Flag
from pyconsul_agent.cli.http_api import API, APIError
from pyconsul_agent.query.near import distance_s
from pyconsul_agent.structs.coordinate import VivaldiCoordinate
from pyconsul_agent.wire.gotypes import quote

Found = Mapping[str, Any] | None


def run(context: Context, arguments: Sequence[str]) -> int:
    """Print the estimate."""
    if len(arguments) not in (1, 2):
        context.err.write(f"One or two node names must be specified\n\n{context.usage}")
        return 1
    api, names, wan = context.api(), list(arguments), context.on("wan")
    try:
        if len(names) == 1:
            names.append(_own_name(api, wan))
    except APIError as error:
        return context.complain(f"Unable to look up agent info: {error}")
    if wan and any(name.count(".") != 1 for name in names):
        return context.complain("Node names must be specified as <node name>.<datacenter> with -wan")
    try:
        found = _in_wan(api, names) if wan else _in_lan(api, names)
    except APIError as error:
        return context.complain(f"Error getting coordinates: {error}")
    for name, coordinate in zip(names, found, strict=True):
        if coordinate is None:
            return context.complain(f"Could not find a coordinate for node {quote(name)}")
    first, second = (_coordinate(each) for each in found if each is not None)
    milliseconds = distance_s(first, second) * 1000.0
    where = "WAN" if wan else "LAN"
    context.say(f"Estimated {names[0]} <-> {names[1]} rtt: {milliseconds:.3f} ms (using {where} coordinates)")
    return 0


def _own_name(api: API, wan: bool) -> str:
    config = api.get("/v1/agent/self").expect_ok().json()["Config"]
    return f"{config['NodeName']}.{config['Datacenter']}" if wan else str(config["NodeName"])


def _in_lan(api: API, names: Sequence[str]) -> list[Found]:
    """Coordinates of a segment that both nodes are in."""
    rows = api.get("/v1/coordinate/nodes").expect_ok().json() or []
    sets = [{row["Segment"]: row["Coord"] for row in rows if row["Node"].lower() == name.lower()} for name in names]
    shared = sorted(set(sets[0]) & set(sets[1]))
    if shared:
        return [each[shared[0]] for each in sets]
    # Consul names the first node then, also when only the second is unknown; unless the first is there alone.
    return [next(iter(sets[0].values()), None), None]


def _in_wan(api: API, names: Sequence[str]) -> list[Found]:
    """Coordinates of an area that both servers are in."""
    maps = api.get("/v1/coordinate/datacenters").expect_ok().json() or []
    areas: list[dict[str, Found]] = []
    for name in names:
        node, _, datacenter = name.partition(".")
        areas.append({
            entry["AreaID"]: row["Coord"]
            for entry in maps
            if entry["Datacenter"] == datacenter
            for row in entry["Coordinates"] or []
            if row["Node"].partition(".")[0].lower() == node.lower()
        })  # fmt: skip
    shared = sorted(set(areas[0]) & set(areas[1]))
    return [each[shared[0]] for each in areas] if shared else [None, None]


def _coordinate(value: Mapping[str, Any]) -> VivaldiCoordinate:
    return VivaldiCoordinate(
        vec=tuple(value.get("Vec") or ()),
        error=value.get("Error", 0.0),
        adjustment=value.get("Adjustment", 0.0),
        height=value.get("Height", 0.0),
    )


RTT = Command(
    "consul rtt [options] node1 [node2]",
    "Estimates the round trip between two nodes, without a packet, from the coordinates that gossip keeps. "
    "Without a second name: to this agent. With -wan the names are <node>.<datacenter>.",
    run,
    (Flag("wan", "bool", "Servers of different datacenters, by their WAN coordinates."),),
    groups="C",
)
