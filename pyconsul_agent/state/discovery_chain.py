"""Compiles the discovery chain of a service: from config entries to a graph of routers, splitters and resolvers.

Pure. Entries come as `ChainEntries` by folded service name; the result names targets `[subset.]service.default.dc`.
Raises RPCError in the original's words where the entries contradict each other.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from pyconsul_agent.errors import RPCError
from pyconsul_agent.state.config_rules import HASH_BASED, normalized_weight, single
from pyconsul_agent.structs.base import Duration
from pyconsul_agent.structs.catalog import MeshGatewayConfig
from pyconsul_agent.structs.config_entry import ProxyConfigEntry, ServiceConfigEntry
from pyconsul_agent.structs.config_routing import (
    ServiceResolverConfigEntry,
    ServiceResolverFailover,
    ServiceResolverSubset,
    ServiceRoute,
    ServiceRouteDestination,
    ServiceRouteHTTPMatch,
    ServiceRouteMatch,
    ServiceRouterConfigEntry,
    ServiceSplitterConfigEntry,
)
from pyconsul_agent.structs.discovery_chain import (
    CompiledDiscoveryChain,
    DiscoveryFailover,
    DiscoveryGraphNode,
    DiscoveryResolver,
    DiscoveryRoute,
    DiscoverySplit,
    DiscoveryTarget,
)
from pyconsul_agent.wire.gotypes import quote

NAMESPACE = "default"
DEFAULT_PROTOCOL = "tcp"
CONNECT_TIMEOUT = Duration(5_000_000_000)
WILDCARD = "*"
HTTP_LIKE = frozenset(["http", "http2", "grpc"])
DEPTH_MAX = 100
"""Splitters one behind another; more are refused."""

FLATTENING_MAX = 10_000
"""Splits of one splitter after splitters behind it have been folded in; more are refused."""


@dataclass(slots=True)
class ChainEntries:
    """What a chain is made of, by service name as `key` makes it."""

    routers: dict[str, ServiceRouterConfigEntry] = field(default_factory=dict)
    splitters: dict[str, ServiceSplitterConfigEntry] = field(default_factory=dict)
    resolvers: dict[str, ServiceResolverConfigEntry] = field(default_factory=dict)
    services: dict[str, ServiceConfigEntry] = field(default_factory=dict)
    proxy: ProxyConfigEntry | None = None


def key(service: str) -> str:
    """A service name as entries are found by."""
    return service.lower()


@dataclass(frozen=True, slots=True)
class Evaluation:
    """For where a chain is compiled, and what of it is overridden."""

    service: str
    datacenter: str
    trust_domain: str
    mesh_gateway: str = ""
    protocol: str = ""
    connect_timeout: Duration = Duration(0)


def is_http_like(protocol: str) -> bool:
    """Whether requests can be routed one by one."""
    return protocol.lower() in HTTP_LIKE


def compile_chain(asked: Evaluation, entries: ChainEntries) -> CompiledDiscoveryChain:
    """The chain. Raises RPCError when entries cannot go together."""
    return _Compiler(asked, entries).compile()


@dataclass(slots=True)
class _Node:
    """A node under construction."""

    type: str
    name: str
    routes: list[tuple[ServiceRoute, str]] = field(default_factory=list)
    splits: list[tuple[float, str]] = field(default_factory=list)
    resolver: DiscoveryResolver | None = None
    balancer: ServiceResolverConfigEntry | None = None

    @property
    def place(self) -> str:
        return f"{self.type}:{self.name}"


class _Compiler:
    """The state of one compilation."""

    def __init__(self, asked: Evaluation, entries: ChainEntries) -> None:
        self._asked = asked
        self._entries = entries
        self._plain = asked.protocol != "" and not is_http_like(asked.protocol)
        self._protocol = ""
        self._nodes: dict[str, _Node] = {}
        self._splitters: dict[str, _Node] = {}
        self._resolved: dict[str, _Node] = {}
        self._targets: dict[str, DiscoveryTarget] = {}
        self._retained: set[str] = set()
        self._routed = False
        self._customized: set[str] = set()
        self._depth = 0

    def compile(self) -> CompiledDiscoveryChain:
        start = self._assemble()
        self._refuse_circles(start)
        self._flatten_splitters()
        self._drop_unused(start)
        asked = self._asked
        if self._routed and not is_http_like(self._protocol):
            raise RPCError(
                f"discovery chain {quote(asked.service)} uses a protocol {quote(self._protocol)} "
                "that does not permit advanced routing or splitting behavior"
            )
        if asked.protocol and asked.protocol != self._protocol:
            self._protocol = asked.protocol
            self._customized.add("protocol")
        return CompiledDiscoveryChain(
            service_name=asked.service,
            namespace=NAMESPACE,
            datacenter=asked.datacenter,
            customization_hash=_customization_hash(asked, self._customized),
            protocol=self._protocol,
            start_node=start,
            nodes={place: _finished(node) for place, node in sorted(self._nodes.items())},
            targets={name: self._targets[name] for name in sorted(self._retained)},
        )

    # --- nodes ----------------------------------------------------------------------------------------------------

    def _assemble(self) -> str:
        service = self._asked.service
        router = self._entries.routers.get(key(service))
        if router is not None and self._plain:
            router = None
            self._customized.add("protocol")
        if router is None:
            return self._splitter_or_resolver(service).place
        node = _Node("router", f"{router.name}.{NAMESPACE}")
        self._routed = True
        self._note_protocol(router.name)
        for route in router.routes or ():
            destination = route.destination or ServiceRouteDestination(service=service)
            to = destination.service or service
            if destination.service_subset:
                next_node = self._resolver(self._target(to, destination.service_subset))
            else:
                next_node = self._splitter_or_resolver(to)
            node.routes.append((route, next_node.place))
        rest = ServiceRoute(
            match=ServiceRouteMatch(http=ServiceRouteHTTPMatch(path_prefix="/")),
            destination=ServiceRouteDestination(service=router.name, namespace=NAMESPACE),
        )
        node.routes.append((rest, self._splitter_or_resolver(router.name).place))
        self._nodes[node.place] = node
        return node.place

    def _splitter_or_resolver(self, service: str) -> _Node:
        return self._splitter(service) or self._resolver(self._target(service))

    def _splitter(self, service: str) -> _Node | None:
        name = f"{service}.{NAMESPACE}"
        if name in self._splitters:
            return self._splitters[name]
        entry = self._entries.splitters.get(key(service))
        if entry is not None and self._plain:
            entry = None
            self._customized.add("protocol")
        if entry is None:
            return None
        node = _Node("splitter", name)
        # Known before what is behind it, so that a circle is met here and not followed for ever.
        self._splitters[name] = self._nodes[node.place] = node
        self._depth += 1
        if self._depth > DEPTH_MAX:
            raise RPCError(f"discovery chain {quote(self._asked.service)} has too many splitters in a row")
        for split in entry.splits or ():
            to = split.service or service
            next_node = None
            if key(to) != key(service) and not split.service_subset:
                next_node = self._splitter(to)
            if next_node is None:
                next_node = self._resolver(self._target(to, split.service_subset))
                if node.balancer is None and _is_hash_based(next_node.balancer):
                    node.balancer = next_node.balancer
            node.splits.append((split.weight, next_node.place))
        self._routed = True
        self._depth -= 1
        return node

    def _resolver(self, target: DiscoveryTarget, *, for_failover: bool = False) -> _Node:
        history: list[str] = []
        while True:
            if target.id in self._resolved:
                return self._resolved[target.id]
            self._note_protocol(target.service)
            found = self._entries.resolvers.get(key(target.service))
            entry = found or ServiceResolverConfigEntry(name=target.service)
            if target.id in history:
                circle = " -> ".join([*history, target.id])
                raise RPCError(f"detected circular resolver redirect: [{circle}]")
            history.append(target.id)
            if entry.redirect is not None:
                redirect = entry.redirect
                other = self._rewritten(target, redirect.service, redirect.service_subset, redirect.datacenter)
                if other.id != target.id:
                    target = other
                    continue
            if not target.service_subset and entry.default_subset:
                target = self._rewritten(target, "", entry.default_subset, "")
                continue
            break
        if target.service_subset and target.service_subset not in (entry.subsets or {}):
            raise RPCError(
                f"service {quote(target.service)} does not have a subset named {quote(target.service_subset)}"
            )
        return self._resolver_node(target, entry, for_failover)

    def _resolver_node(self, target: DiscoveryTarget, entry: ServiceResolverConfigEntry, for_failover: bool) -> _Node:
        timeout = entry.connect_timeout if entry.connect_timeout >= 1 else CONNECT_TIMEOUT
        if self._asked.connect_timeout > 0 and timeout != self._asked.connect_timeout:
            timeout = self._asked.connect_timeout
            self._customized.add("timeout")
        target = self._configured(target, entry, timeout)
        self._targets[target.id] = target
        self._retained.add(target.id)
        resolver = DiscoveryResolver(connect_timeout=timeout, default=_is_default(entry), target=target.id)
        node = _Node("resolver", target.id, resolver=resolver, balancer=entry)
        if for_failover:
            return node
        self._resolved[target.id] = self._nodes[node.place] = node
        others = self._failover_targets(target, entry)
        if others:
            names = [self._resolver(other, for_failover=True).name for other in others]
            node.resolver = replace(resolver, failover=DiscoveryFailover(targets=tuple(names)))
        return node

    def _failover_targets(self, target: DiscoveryTarget, entry: ServiceResolverConfigEntry) -> list[DiscoveryTarget]:
        rules: Mapping[str, ServiceResolverFailover] = entry.failover or {}
        rule = rules.get(target.service_subset) or rules.get(WILDCARD)
        if rule is None:
            return []
        others = [
            self._rewritten(target, rule.service, rule.service_subset, datacenter)
            for datacenter in rule.datacenters or ("",)
        ]
        return [other for other in others if other.id != target.id]

    # --- targets --------------------------------------------------------------------------------------------------

    def _target(self, service: str, subset: str = "", datacenter: str = "") -> DiscoveryTarget:
        datacenter = datacenter or self._asked.datacenter
        name = f"{subset + '.' if subset else ''}{service}.{NAMESPACE}.{datacenter}"
        if name not in self._targets:
            address = f"{name}.internal.{self._asked.trust_domain}"
            self._targets[name] = DiscoveryTarget(
                id=name,
                service=service,
                service_subset=subset,
                namespace=NAMESPACE,
                datacenter=datacenter,
                sni=address,
                name=address,
            )
        return self._targets[name]

    def _rewritten(self, target: DiscoveryTarget, service: str, subset: str, datacenter: str) -> DiscoveryTarget:
        kept = target.service_subset if service in ("", target.service) else ""
        return self._target(service or target.service, subset or kept, datacenter or target.datacenter)

    def _configured(
        self, target: DiscoveryTarget, entry: ServiceResolverConfigEntry, timeout: Duration
    ) -> DiscoveryTarget:
        """The target with what its resolver and its service's defaults say."""
        defaults = self._entries.services.get(key(target.service))
        subset = (entry.subsets or {}).get(target.service_subset, ServiceResolverSubset())
        target = replace(target, connect_timeout=timeout, subset=subset)
        if defaults is not None and defaults.external_sni:
            target = replace(target, sni=defaults.external_sni, external=True)
            for given, words in (
                (entry.redirect, "redirects"), (entry.subsets, "subsets"), (entry.failover, "failover")
            ):  # fmt: skip
                if given:
                    raise RPCError(
                        f"service {quote(target.service)} has an external SNI set; "
                        f"cannot define {words} for external services"
                    )
        if target.external or target.datacenter == self._asked.datacenter:
            return replace(target, mesh_gateway=MeshGatewayConfig())
        mode = defaults.mesh_gateway.mode if defaults is not None else ""
        if not mode and self._entries.proxy is not None:
            mode = self._entries.proxy.mesh_gateway.mode
        if self._asked.mesh_gateway and mode != self._asked.mesh_gateway:
            mode = self._asked.mesh_gateway
            self._customized.add("gateway")
        return replace(target, mesh_gateway=MeshGatewayConfig(mode=mode))

    def _note_protocol(self, service: str) -> None:
        """All services of a chain must speak the same protocol."""
        defaults = self._entries.services.get(key(service))
        protocol = defaults.protocol if defaults is not None else proxy_protocol(self._entries.proxy)
        protocol = (protocol or DEFAULT_PROTOCOL).lower()
        if not self._protocol:
            self._protocol = protocol
        elif self._protocol != protocol:
            raise RPCError(
                f"discovery chain {quote(self._asked.service)} uses inconsistent protocols; "
                f"service {quote(service)} has {quote(protocol)} which is not {quote(self._protocol)}"
            )

    # --- the whole graph ------------------------------------------------------------------------------------------

    def _next_places(self, node: _Node) -> list[str]:
        return [place for _, place in node.routes] + [place for _, place in node.splits]

    def _refuse_circles(self, start: str) -> None:
        way: list[str] = []
        todo: list[tuple[str, bool]] = [(start, False)]
        clean: set[str] = set()
        while todo:
            place, leaving = todo.pop()
            if leaving:
                clean.add(way.pop())
                continue
            if place in way:
                raise RPCError(f"detected circular reference: [{' -> '.join([*way, place])}]")
            if place in clean:
                continue
            way.append(place)
            todo.append((place, True))
            todo += [(following, False) for following in self._next_places(self._nodes[place])]

    def _flatten_splitters(self) -> None:
        changed = True
        while changed:
            changed = False
            for node in self._nodes.values():
                fixed: list[tuple[float, str]] = []
                for weight, place in node.splits:
                    inner = self._nodes[place]
                    if inner.type != "splitter":
                        fixed.append((weight, place))
                        continue
                    changed = True
                    fixed += [
                        (normalized_weight(single(single(weight * share) / 100)), behind)
                        for share, behind in inner.splits
                    ]
                if len(fixed) > FLATTENING_MAX:
                    raise RPCError(f"discovery chain {quote(self._asked.service)} has too many splits")
                node.splits = fixed

    def _drop_unused(self, start: str) -> None:
        seen: set[str] = set()
        todo = [start]
        while todo:
            place = todo.pop()
            if place not in seen:
                seen.add(place)
                todo += self._next_places(self._nodes[place])
        self._nodes = {place: node for place, node in self._nodes.items() if place in seen}


def proxy_protocol(proxy: ProxyConfigEntry | None) -> str:
    """The protocol that proxy-defaults name, "" if none."""
    for name, value in ((proxy.config if proxy is not None else None) or {}).items():
        if name.lower() == "protocol" and isinstance(value, str | int | float):
            return "1" if value is True else "0" if value is False else str(value)
    return ""


def _is_default(entry: ServiceResolverConfigEntry) -> bool:
    return not (
        entry.default_subset
        or entry.subsets
        or entry.redirect is not None
        or entry.failover
        or entry.connect_timeout
        or entry.load_balancer is not None
    )


def _is_hash_based(entry: ServiceResolverConfigEntry | None) -> bool:
    return entry is not None and entry.load_balancer is not None and entry.load_balancer.policy in HASH_BASED


def _finished(node: _Node) -> DiscoveryGraphNode:
    routes = tuple(DiscoveryRoute(definition=rule, next_node=place) for rule, place in node.routes)
    splits = tuple(DiscoverySplit(weight=single(weight), next_node=place) for weight, place in node.splits)
    return DiscoveryGraphNode(
        type=node.type,
        name=node.name,
        routes=routes or None,
        splits=splits or None,
        resolver=node.resolver,
        load_balancer=node.balancer.load_balancer if node.balancer is not None else None,
    )


# --- the hash of what was overridden ------------------------------------------------------------------------------

_FNV_OFFSET = 0xCBF29CE484222325
_FNV_PRIME = 0x100000001B3
_MASK = 0xFFFF_FFFF_FFFF_FFFF


def _fnv(data: bytes) -> int:
    """FNV-1, 64 bits."""
    value = _FNV_OFFSET
    for byte in data:
        value = value * _FNV_PRIME & _MASK ^ byte
    return value


def _field_hash(name: str, value: int) -> int:
    return _fnv(struct.pack("<QQ", _fnv(name.encode()), value))


def _customization_hash(asked: Evaluation, customized: set[str]) -> str:
    """Eight digits that name the overrides which made a difference; "" when none did.

    The original hashes a struct of them: the struct's name and each pair of a field's name and value, joined by xor.
    """
    if not customized:
        return ""
    mode = asked.mesh_gateway if "gateway" in customized else ""
    protocol = asked.protocol if "protocol" in customized else ""
    timeout = asked.connect_timeout if "timeout" in customized else 0
    gateway = _fnv(b"MeshGatewayConfig") ^ _field_hash("Mode", _fnv(mode.encode("utf-8", "surrogateescape")))
    value = (
        _fnv(b"")
        ^ _field_hash("OverrideMeshGateway", gateway)
        ^ _field_hash("OverrideProtocol", _fnv(protocol.encode("utf-8", "surrogateescape")))
        ^ _field_hash("OverrideConnectTimeout", _fnv(struct.pack("<q", timeout)))
    )
    return f"{value:x}"[:8]
