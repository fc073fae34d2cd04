"""What a config entry must be before it may reach the log: defaults are filled in, nonsense is refused.

Deterministic, since the state machine calls it again for intentions that were sent one by one. Texts are
the original's.
"""

from __future__ import annotations

import math
import re
import struct
from collections.abc import Callable
from dataclasses import replace
from typing import Any, TypeVar

from pyconsul_agent.errors import RPCError
from pyconsul_agent.state.intention_rules import normalized_intentions, validate_intentions
from pyconsul_agent.state.problems import meta_problems, methods_problem, several
from pyconsul_agent.structs.base import Float32
from pyconsul_agent.structs.config_entry import (
    IngressGatewayConfigEntry,
    IngressListener,
    MeshConfigEntry,
    ProxyConfigEntry,
    ServiceConfigEntry,
    TerminatingGatewayConfigEntry,
    UpstreamConfig,
)
from pyconsul_agent.structs.config_kinds import PROXY_GLOBAL, WILDCARD, ConfigEntry, kind_of
from pyconsul_agent.structs.config_routing import (
    HashPolicy,
    LoadBalancer,
    ServiceResolverConfigEntry,
    ServiceResolverFailover,
    ServiceResolverRedirect,
    ServiceRoute,
    ServiceRouteHTTPMatch,
    ServiceRouterConfigEntry,
    ServiceSplitterConfigEntry,
)
from pyconsul_agent.structs.intention import ServiceIntentionsConfigEntry
from pyconsul_agent.wire.gotypes import format_duration, quote

EntryT = TypeVar("EntryT", bound=ConfigEntry)

WEIGHT_SUM = 100 * 100
LISTENER_PROTOCOLS = frozenset(["tcp", "http", "http2", "grpc"])
BALANCING = frozenset(["", "random", "round_robin", "least_request", "ring_hash", "maglev"])
HASH_BASED = frozenset(["ring_hash", "maglev"])
HASH_FIELDS = frozenset(["header", "cookie", "query_parameter"])
SUBSET_LENGTH_MAX = 63
LABEL_MAX = 63
HOST_MAX = 255
_SUBSET = re.compile(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?")


def checked(entry: EntryT) -> EntryT:
    """The entry with its defaults filled in. Raises RPCError when it cannot be used."""
    entry = normalized(entry)
    validate(entry)
    return entry


def normalized(entry: EntryT) -> EntryT:
    """The entry with its defaults filled in and its spelling settled."""
    return _NORMALIZE[type(entry)](entry)  # type: ignore[no-any-return]


def validate(entry: ConfigEntry) -> None:
    """Raises RPCError unless a normalized entry can be used."""
    _VALIDATE[type(entry)](entry)


# --- defaults of services and proxies, the mesh -----------------------------------------------------------------


def _upstream(config: UpstreamConfig) -> UpstreamConfig:
    return replace(config, protocol=config.protocol.lower(), connect_timeout_ms=max(0, config.connect_timeout_ms))


def _normalized_service(entry: ServiceConfigEntry) -> ServiceConfigEntry:
    upstreams = entry.upstream_config
    if upstreams is not None:
        overrides = None if upstreams.overrides is None else tuple(map(_upstream, upstreams.overrides))
        defaults = None if upstreams.defaults is None else _upstream(upstreams.defaults)
        upstreams = replace(upstreams, overrides=overrides, defaults=defaults)
    return replace(entry, kind=kind_of(entry), protocol=entry.protocol.lower(), upstream_config=upstreams)


def _validate_service(entry: ServiceConfigEntry) -> None:
    if not entry.name:
        raise RPCError("Name is required")
    if entry.name == WILDCARD:
        raise RPCError("service-defaults name must be the name of a service, and not a wildcard")
    problems = meta_problems(entry.meta)
    upstreams = entry.upstream_config
    for override in (upstreams.overrides if upstreams else None) or ():
        if not override.name:
            problems.append("error in upstream override for : Name is required")
        elif override.name == WILDCARD:
            problems.append("error in upstream override for *: Wildcard name is not supported")
    if upstreams is not None and upstreams.defaults is not None and upstreams.defaults.name:
        problems.append("error in upstream defaults: Name must be empty")
    if problems:
        raise several(problems)


def _normalized_proxy(entry: ProxyConfigEntry) -> ProxyConfigEntry:
    return replace(entry, kind=kind_of(entry), name=PROXY_GLOBAL)


def _validate_meta(entry: ProxyConfigEntry | MeshConfigEntry) -> None:
    if problems := meta_problems(entry.meta):
        raise several(problems)


# --- the discovery chain ----------------------------------------------------------------------------------------


def _require_name(entry: ServiceRouterConfigEntry | ServiceSplitterConfigEntry | ServiceResolverConfigEntry) -> None:
    if not entry.name:
        raise RPCError("Name is required")
    if problems := meta_problems(entry.meta):
        raise several(problems)


def _normalized_route(route: ServiceRoute) -> ServiceRoute:
    if route.match is None or route.match.http is None or not route.match.http.methods:
        return route
    http = replace(route.match.http, methods=tuple(method.upper() for method in route.match.http.methods))
    return replace(route, match=replace(route.match, http=http))


def _normalized_router(entry: ServiceRouterConfigEntry) -> ServiceRouterConfigEntry:
    routes = None if entry.routes is None else tuple(map(_normalized_route, entry.routes))
    return replace(entry, kind=kind_of(entry), routes=routes)


def _validate_router(entry: ServiceRouterConfigEntry) -> None:
    _require_name(entry)
    for place, route in enumerate(entry.routes or ()):
        match = route.match.http if route.match else None
        if match is not None:
            _validate_match(f"Route[{place}]", match)
        by_path = match is not None and (match.path_exact or match.path_prefix)
        if route.destination is not None and route.destination.prefix_rewrite and not by_path:
            raise RPCError(
                f"Route[{place}] cannot make use of PrefixRewrite without configuring either PathExact or PathPrefix"
            )


def _validate_match(where: str, match: ServiceRouteHTTPMatch) -> None:
    for name, path in (("PathExact", match.path_exact), ("PathPrefix", match.path_prefix)):
        if path and not path.startswith("/"):
            raise RPCError(f"{where} {name} doesn't start with '/': {quote(path)}")
    if sum(map(bool, (match.path_exact, match.path_prefix, match.path_regex))) > 1:
        raise RPCError(f"{where} should only contain at most one of PathExact, PathPrefix, or PathRegex")
    for place, header in enumerate(match.header or ()):
        if not header.name:
            raise RPCError(f"{where} Header[{place}] missing required Name field")
        if sum(map(bool, (header.present, header.exact, header.regex, header.prefix, header.suffix))) != 1:
            raise RPCError(
                f"{where} Header[{place}] should only contain one of Present, Exact, Prefix, Suffix, or Regex"
            )
    for place, parameter in enumerate(match.query_param or ()):
        if not parameter.name:
            raise RPCError(f"{where} QueryParam[{place}] missing required Name field")
        if sum(map(bool, (parameter.present, parameter.exact, parameter.regex))) != 1:
            raise RPCError(f"{where} QueryParam[{place}] should only contain one of Present, Exact, or Regex")
    if (problem := methods_problem(f"{where} Methods", match.methods)) is not None:
        raise RPCError(problem)


def single(value: float) -> Float32:
    """The nearest number that fits into four bytes."""
    try:
        return Float32(struct.unpack("<f", struct.pack("<f", value))[0])
    except OverflowError:
        return Float32(math.copysign(math.inf, value))


def scaled_weight(weight: float) -> int:
    """A share of 100 in hundredths, halves rounded away from zero."""
    scaled = single(single(weight) * 100.0)
    if not math.isfinite(scaled):
        return 0
    return int(math.copysign(math.floor(abs(scaled) + 0.5), scaled))


def normalized_weight(weight: float) -> Float32:
    """A share to two places."""
    return single(single(scaled_weight(weight)) / 100.0)


def _normalized_splitter(entry: ServiceSplitterConfigEntry) -> ServiceSplitterConfigEntry:
    splits = entry.splits
    if splits is not None:
        splits = tuple(replace(split, weight=normalized_weight(split.weight)) for split in splits)
    return replace(entry, kind=kind_of(entry), splits=splits)


def _validate_splitter(entry: ServiceSplitterConfigEntry) -> None:
    _require_name(entry)
    if not entry.splits:
        raise RPCError("no splits configured")
    found = set()
    for split in entry.splits:
        key = (split.service or entry.name, split.service_subset, split.namespace)
        if key in found:
            service, subset, namespace = map(quote, key)
            raise RPCError(
                f"split destination occurs more than once: service={service}, subset={subset}, namespace={namespace}"
            )
        found.add(key)
    total = sum(scaled_weight(split.weight) for split in entry.splits)
    if total != WEIGHT_SUM:
        raise RPCError(f"the sum of all split weights must be 100, not {single(single(total) / 100):f}")


def _with_kind(entry: Any) -> Any:
    return replace(entry, kind=kind_of(entry))


def _validate_resolver(entry: ServiceResolverConfigEntry) -> None:
    _require_name(entry)
    subsets = entry.subsets or {}
    for name in sorted(subsets):
        if not name:
            raise RPCError("Subset defined with empty name")
        if (problem := _subset_problem(name)) is not None:
            raise RPCError(f"Subset {quote(name)} is invalid: {problem}")
    if entry.default_subset and entry.default_subset not in subsets:
        raise RPCError(f"DefaultSubset {quote(entry.default_subset)} is not a valid subset")
    if entry.redirect is not None:
        _validate_redirect(entry, entry.redirect)
    for subset, failover in sorted((entry.failover or {}).items()):
        _validate_failover(entry, subset, failover)
    if entry.connect_timeout < 0:
        raise RPCError(f"Bad ConnectTimeout '{format_duration(entry.connect_timeout)}', must be >= 0")
    if entry.load_balancer is not None:
        _validate_balancer(entry.load_balancer)


def _subset_problem(name: str) -> str | None:
    if len(name) > SUBSET_LENGTH_MAX:
        return "must be non-empty and 63 characters or fewer"
    if not _SUBSET.fullmatch(name):
        return (
            "must be 63 characters or fewer, begin or end with lower case alphanumeric characters, "
            "and contain lower case alphanumeric characters or '-' in between"
        )
    return None


def _validate_redirect(entry: ServiceResolverConfigEntry, redirect: ServiceResolverRedirect) -> None:
    if entry.failover:
        raise RPCError("Redirect and Failover cannot both be set")
    if not (redirect.service or redirect.service_subset or redirect.namespace or redirect.datacenter):
        raise RPCError("Redirect is empty")
    if not redirect.service:
        if redirect.service_subset:
            raise RPCError("Redirect.ServiceSubset defined without Redirect.Service")
        if redirect.namespace:
            raise RPCError("Redirect.Namespace defined without Redirect.Service")
    elif redirect.service == entry.name:
        subset = redirect.service_subset
        if subset and subset not in (entry.subsets or {}):
            raise RPCError(f"Redirect.ServiceSubset {quote(subset)} is not a valid subset of {quote(redirect.service)}")


def _validate_failover(entry: ServiceResolverConfigEntry, subset: str, failover: ServiceResolverFailover) -> None:
    where, subsets = f"Bad Failover[{quote(subset)}]", entry.subsets or {}
    if subset != WILDCARD and subset not in subsets:
        raise RPCError(f"{where}: not a valid subset")
    if not (failover.service or failover.service_subset or failover.namespace or failover.datacenters):
        raise RPCError(f"{where} one of Service, ServiceSubset, Namespace, or Datacenters is required")
    own = failover.service in ("", entry.name)
    if failover.service_subset and own and failover.service_subset not in subsets:
        raise RPCError(
            f"{where}.ServiceSubset {quote(failover.service_subset)} is not a valid subset of {quote(failover.service)}"
        )
    if "" in (failover.datacenters or ()):
        raise RPCError(f"{where}.Datacenters: found empty datacenter")


def _validate_balancer(balancer: LoadBalancer) -> None:
    policy = balancer.policy
    if policy not in BALANCING:
        raise RPCError(f"Bad LoadBalancer policy: {quote(policy)} is not supported")
    for name, given, wanted in (
        ("RingHashConfig", balancer.ring_hash_config, "ring_hash"),
        ("LeastRequestConfig", balancer.least_request_config, "least_request"),
    ):
        if given is not None and policy != wanted:
            raise RPCError(
                f"Bad LoadBalancer configuration. {name} specified for incompatible "
                f"load balancing policy {quote(policy)}"
            )
    if balancer.hash_policies and policy not in HASH_BASED:
        raise RPCError(
            f"Bad LoadBalancer configuration: HashPolicies specified for non-hash-based Policy: {quote(policy)}"
        )
    for place, hash_policy in enumerate(balancer.hash_policies or ()):
        if (problem := _hash_policy_problem(hash_policy)) is not None:
            raise RPCError(f"Bad LoadBalancer HashPolicy[{place}]: {problem}")


def _hash_policy_problem(policy: HashPolicy) -> str | None:
    field = quote(policy.field)
    if policy.field and policy.field not in HASH_FIELDS:
        return f"{field} is not a supported field"
    if policy.source_ip and policy.field:
        return f"A single hash policy cannot hash both a source address and a {field}"
    if policy.source_ip and policy.field_value:
        return "A FieldValue cannot be specified when hashing SourceIP"
    if policy.field and not policy.field_value:
        return f"Field {field} was specified without a FieldValue"
    if policy.field_value and not policy.field:
        return "FieldValue requires a Field to apply to"
    if policy.cookie_config is not None:
        if policy.field != "cookie":
            return f"cookie_config provided for {field}"
        if policy.cookie_config.session and policy.cookie_config.ttl != 0:
            return "a session cookie cannot have an associated TTL"
    return None


# --- gateways ---------------------------------------------------------------------------------------------------


def _normalized_ingress(entry: IngressGatewayConfigEntry) -> IngressGatewayConfigEntry:
    listeners = entry.listeners
    if listeners is not None:
        listeners = tuple(replace(each, protocol=(each.protocol or "tcp").lower()) for each in listeners)
    return replace(entry, kind=kind_of(entry), listeners=listeners)


def _validate_ingress(entry: IngressGatewayConfigEntry) -> None:
    if problems := meta_problems(entry.meta):
        raise several(problems)
    ports = set()
    for listener in entry.listeners or ():
        if listener.port in ports:
            raise RPCError(f"port {listener.port} declared on two listeners")
        ports.add(listener.port)
        _validate_listener(listener, tls=entry.tls.enabled)


def _validate_listener(listener: IngressListener, *, tls: bool) -> None:
    protocol, services, where = listener.protocol, listener.services or (), f"(listener on port {listener.port})"
    if protocol not in LISTENER_PROTOCOLS:
        raise RPCError(f"protocol must be 'tcp', 'http', 'http2', or 'grpc'. '{protocol}' is an unsupported protocol")
    if not services:
        raise RPCError(f"No service declared for listener with port {listener.port}")
    if protocol != "http" and len(services) > 1:
        raise RPCError(f"Multiple services per listener are only supported for protocol = 'http' {where}")
    names, hosts = set(), set()
    for service in services:
        if protocol == "tcp" and service.name == WILDCARD:
            raise RPCError(f"Wildcard service name is only valid for protocol = 'http' {where}")
        if protocol == "tcp" and service.hosts:
            raise RPCError(f"Associating hosts to a service is not supported for the {protocol} protocol {where}")
        if not service.name:
            raise RPCError(f"Service name cannot be blank {where}")
        if service.name == WILDCARD and service.hosts:
            raise RPCError(f"Associating hosts to a wildcard service is not supported {where}")
        if service.name in names:
            raise RPCError(f"Service {service.name} cannot be added multiple times {where}")
        names.add(service.name)
        for host in service.hosts or ():
            if host in hosts:
                raise RPCError(f"Hosts must be unique within a specific listener {where}")
            hosts.add(host)
            _validate_host(host, tls=tls)


def _validate_host(host: str, *, tls: bool) -> None:
    if host == WILDCARD:
        if tls:
            raise RPCError(
                "Host '*' is not allowed when TLS is enabled, all hosts must be valid DNS records to add as a DNSSAN"
            )
        return
    labels = host.removesuffix(".").split(".")
    if len(host) > HOST_MAX or not all(0 < len(label) <= LABEL_MAX for label in labels):
        raise RPCError(f"Host {quote(host)} must be a valid DNS hostname")
    if WILDCARD in host.removeprefix("*."):
        raise RPCError(f"Host {quote(host)} is not valid, a wildcard specifier is only allowed as the leftmost label")


def _validate_terminating(entry: TerminatingGatewayConfigEntry) -> None:
    if problems := meta_problems(entry.meta):
        raise several(problems)
    seen = set()
    for service in entry.services or ():
        if not service.name:
            raise RPCError("Service name cannot be blank.")
        if service.name in seen:
            raise RPCError(f"Service {quote(service.name)} was specified more than once within a namespace")
        seen.add(service.name)
        files = (service.ca_file, service.cert_file, service.key_file)
        if (service.cert_file or service.key_file) and not all(files):
            raise RPCError(
                f"Service {quote(service.name)} must have a CertFile, CAFile, and KeyFile specified for TLS origination"
            )


def _nothing(entry: Any) -> Any:
    return entry


_NORMALIZE: dict[type, Callable[[Any], Any]] = {
    ServiceConfigEntry: _normalized_service,
    ProxyConfigEntry: _normalized_proxy,
    ServiceRouterConfigEntry: _normalized_router,
    ServiceSplitterConfigEntry: _normalized_splitter,
    ServiceResolverConfigEntry: _with_kind,
    IngressGatewayConfigEntry: _normalized_ingress,
    TerminatingGatewayConfigEntry: _with_kind,
    ServiceIntentionsConfigEntry: normalized_intentions,
    MeshConfigEntry: _nothing,
}
_VALIDATE: dict[type, Callable[[Any], None]] = {
    ServiceConfigEntry: _validate_service,
    ProxyConfigEntry: _validate_meta,
    ServiceRouterConfigEntry: _validate_router,
    ServiceSplitterConfigEntry: _validate_splitter,
    ServiceResolverConfigEntry: _validate_resolver,
    IngressGatewayConfigEntry: _validate_ingress,
    TerminatingGatewayConfigEntry: _validate_terminating,
    ServiceIntentionsConfigEntry: validate_intentions,
    MeshConfigEntry: _validate_meta,
}
