"""Answers of the HTTP API in the shape that watches hand over: Consul's Go client reads them, and writes them anew.

So the keys stand in the order of the client's structs, what it does not know is gone, and what the answer lacks has its
zero value. The values are plain dicts and lists; their order is the order of writing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

Object = dict[str, Any]


def _pick(source: Mapping[str, Any], *fields: tuple[str, Any]) -> Object:
    """The named keys in order; a key that is missing gets its zero value, `...` leaves out what is empty."""
    picked: Object = {}
    for name, zero in fields:
        value = source.get(name)
        if zero is ...:
            if value:
                picked[name] = value
        else:
            picked[name] = zero if value is None and not isinstance(zero, dict) else value
    return picked


def _sorted(value: Mapping[str, Any] | None) -> Object | None:
    return None if value is None else dict(sorted(value.items(), key=lambda item: item[0].encode()))


def pair(source: Mapping[str, Any]) -> Object:
    """A key of the store."""
    return _pick(
        source, ("Key", ""), ("CreateIndex", 0), ("ModifyIndex", 0), ("LockIndex", 0), ("Flags", 0), ("Value", None),
        ("Session", ""),
    )  # fmt: skip


def node(source: Mapping[str, Any]) -> Object:
    """A node of the catalog."""
    picked = _pick(
        source, ("ID", ""), ("Node", ""), ("Address", ""), ("Datacenter", ""), ("TaggedAddresses", None),
        ("Meta", None), ("CreateIndex", 0), ("ModifyIndex", 0),
    )  # fmt: skip
    return {**picked, "TaggedAddresses": _sorted(picked["TaggedAddresses"]), "Meta": _sorted(picked["Meta"])}


def _proxy(source: Mapping[str, Any]) -> Object:
    picked = _pick(
        source, ("DestinationServiceName", ...), ("DestinationServiceID", ...), ("LocalServiceAddress", ...),
        ("LocalServicePort", ...), ("LocalServiceSocketPath", ...), ("Mode", ...), ("TransparentProxy", ...),
        ("Config", ...), ("Upstreams", ...),
    )  # fmt: skip
    return {**picked, "MeshGateway": source.get("MeshGateway") or {}, "Expose": source.get("Expose") or {}}


def service(source: Mapping[str, Any]) -> Object:
    """An instance of a service."""
    picked = _pick(
        source, ("Kind", ...), ("ID", ""), ("Service", ""), ("Tags", None), ("Meta", None), ("Port", 0),
        ("Address", ""), ("SocketPath", ...), ("TaggedAddresses", ...), ("Weights", {}), ("EnableTagOverride", False),
        ("CreateIndex", ...), ("ModifyIndex", ...),
    )  # fmt: skip
    picked["Meta"] = _sorted(picked["Meta"])
    if "TaggedAddresses" in picked:
        picked["TaggedAddresses"] = _sorted(picked["TaggedAddresses"])
    if source.get("Proxy") is not None:
        picked["Proxy"] = _proxy(source["Proxy"])
    if source.get("Connect") is not None:
        picked["Connect"] = source["Connect"]
    return picked


def check(source: Mapping[str, Any]) -> Object:
    """A health check."""
    definition = source.get("Definition") or {}
    picked = _pick(
        source, ("Node", ""), ("CheckID", ""), ("Name", ""), ("Status", ""), ("Notes", ""), ("Output", ""),
        ("ServiceID", ""), ("ServiceName", ""), ("ServiceTags", None), ("Type", ""),
    )  # fmt: skip
    picked["Definition"] = _pick(
        definition, ("Interval", "0s"), ("Timeout", "0s"), ("DeregisterCriticalServiceAfter", "0s"), ("HTTP", ""),
        ("Header", None), ("Method", ""), ("Body", ""), ("TLSServerName", ""), ("TLSSkipVerify", False), ("TCP", ""),
        ("GRPC", ""), ("GRPCUseTLS", False),
    )  # fmt: skip
    return {**picked, **_pick(source, ("CreateIndex", 0), ("ModifyIndex", 0))}


def entry(source: Mapping[str, Any]) -> Object:
    """An instance with its node and checks."""
    return {
        "Node": node(source["Node"]),
        "Service": service(source["Service"]),
        "Checks": [check(each) for each in source.get("Checks") or []],
    }


def event(source: Mapping[str, Any]) -> Object:
    """A user event."""
    return _pick(
        source, ("ID", ""), ("Name", ""), ("Payload", None), ("NodeFilter", ""), ("ServiceFilter", ""),
        ("TagFilter", ""), ("Version", 0), ("LTime", 0),
    )  # fmt: skip


def _each(shape: Callable[[Mapping[str, Any]], Object]) -> Callable[[Any], Any]:
    def shaped(value: Any) -> Any:
        return [] if value is None else [shape(each) for each in value]

    return shaped


SHAPES: dict[str, Callable[[Any], Any]] = {
    "key": lambda value: pair(value[0]) if value else None,
    "keyprefix": _each(pair),
    "services": lambda value: _sorted(value or {}),
    "nodes": _each(node),
    "service": _each(entry),
    "checks": _each(check),
    "event": _each(event),
}
