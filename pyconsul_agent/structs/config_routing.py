"""Config entries of the discovery chain: service-router, service-splitter and service-resolver."""

from __future__ import annotations

from collections.abc import Mapping

from pyconsul_agent.structs.base import Duration, Float32, struct, wire


@struct
class ServiceRouteHTTPMatchHeader:
    """Consul's `ServiceRouteHTTPMatchHeader`."""

    name: str = wire("Name", default="")
    present: bool = wire("Present", default=False, json_omit=True)
    exact: str = wire("Exact", default="", json_omit=True)
    prefix: str = wire("Prefix", default="", json_omit=True)
    suffix: str = wire("Suffix", default="", json_omit=True)
    regex: str = wire("Regex", default="", json_omit=True)
    invert: bool = wire("Invert", default=False, json_omit=True)


@struct
class ServiceRouteHTTPMatchQueryParam:
    """Consul's `ServiceRouteHTTPMatchQueryParam`."""

    name: str = wire("Name", default="")
    present: bool = wire("Present", default=False, json_omit=True)
    exact: str = wire("Exact", default="", json_omit=True)
    regex: str = wire("Regex", default="", json_omit=True)


@struct
class ServiceRouteHTTPMatch:
    """Consul's `ServiceRouteHTTPMatch`."""

    path_exact: str = wire("PathExact", default="", json_omit=True)
    path_prefix: str = wire("PathPrefix", default="", json_omit=True)
    path_regex: str = wire("PathRegex", default="", json_omit=True)
    header: tuple[ServiceRouteHTTPMatchHeader, ...] | None = wire("Header", default=None, json_omit=True)
    query_param: tuple[ServiceRouteHTTPMatchQueryParam, ...] | None = wire("QueryParam", default=None, json_omit=True)
    methods: tuple[str, ...] | None = wire("Methods", default=None, json_omit=True)


@struct
class ServiceRouteMatch:
    """Consul's `ServiceRouteMatch`."""

    http: ServiceRouteHTTPMatch | None = wire("HTTP", default=None, json_omit=True)


@struct
class ServiceRouteDestination:
    """Consul's `ServiceRouteDestination`."""

    request_timeout: Duration = wire("RequestTimeout", default=Duration(0), json_omit=True, json_duration=True)
    service: str = wire("Service", default="", json_omit=True)
    service_subset: str = wire("ServiceSubset", default="", json_omit=True)
    namespace: str = wire("Namespace", default="", json_omit=True)
    prefix_rewrite: str = wire("PrefixRewrite", default="", json_omit=True)
    num_retries: int = wire("NumRetries", default=0, json_omit=True)
    retry_on_connect_failure: bool = wire("RetryOnConnectFailure", default=False, json_omit=True)
    retry_on_status_codes: tuple[int, ...] | None = wire("RetryOnStatusCodes", default=None, json_omit=True)


@struct
class ServiceRoute:
    """Consul's `ServiceRoute`."""

    match: ServiceRouteMatch | None = wire("Match", default=None, json_omit=True)
    destination: ServiceRouteDestination | None = wire("Destination", default=None, json_omit=True)


@struct
class ServiceRouterConfigEntry:
    """Consul's `ServiceRouterConfigEntry`."""

    kind: str = wire("Kind", default="")
    name: str = wire("Name", default="")
    routes: tuple[ServiceRoute, ...] | None = wire("Routes", default=None)
    meta: Mapping[str, str] | None = wire("Meta", default=None, json_omit=True)
    create_index: int = wire("CreateIndex", default=0)
    modify_index: int = wire("ModifyIndex", default=0)


@struct
class ServiceSplit:
    """Consul's `ServiceSplit`."""

    weight: Float32 = wire("Weight", default=Float32(0.0))
    service: str = wire("Service", default="", json_omit=True)
    service_subset: str = wire("ServiceSubset", default="", json_omit=True)
    namespace: str = wire("Namespace", default="", json_omit=True)


@struct
class ServiceSplitterConfigEntry:
    """Consul's `ServiceSplitterConfigEntry`."""

    kind: str = wire("Kind", default="")
    name: str = wire("Name", default="")
    splits: tuple[ServiceSplit, ...] | None = wire("Splits", default=None)
    meta: Mapping[str, str] | None = wire("Meta", default=None, json_omit=True)
    create_index: int = wire("CreateIndex", default=0)
    modify_index: int = wire("ModifyIndex", default=0)


@struct
class ServiceResolverSubset:
    """Consul's `ServiceResolverSubset`."""

    filter: str = wire("Filter", default="", json_omit=True)
    only_passing: bool = wire("OnlyPassing", default=False, json_omit=True)


@struct
class ServiceResolverRedirect:
    """Consul's `ServiceResolverRedirect`."""

    service: str = wire("Service", default="", json_omit=True)
    service_subset: str = wire("ServiceSubset", default="", json_omit=True)
    namespace: str = wire("Namespace", default="", json_omit=True)
    datacenter: str = wire("Datacenter", default="", json_omit=True)


@struct
class ServiceResolverFailover:
    """Consul's `ServiceResolverFailover`."""

    service: str = wire("Service", default="", json_omit=True)
    service_subset: str = wire("ServiceSubset", default="", json_omit=True)
    namespace: str = wire("Namespace", default="", json_omit=True)
    datacenters: tuple[str, ...] | None = wire("Datacenters", default=None, json_omit=True)


@struct
class RingHashConfig:
    """Consul's `RingHashConfig`."""

    minimum_ring_size: int = wire("MinimumRingSize", default=0, json_omit=True)
    maximum_ring_size: int = wire("MaximumRingSize", default=0, json_omit=True)


@struct
class LeastRequestConfig:
    """Consul's `LeastRequestConfig`."""

    choice_count: int = wire("ChoiceCount", default=0, json_omit=True)


@struct
class CookieConfig:
    """Consul's `CookieConfig`."""

    ttl: Duration = wire("TTL", default=Duration(0), json_omit=True, json_duration=True)
    session: bool = wire("Session", default=False, json_omit=True)
    path: str = wire("Path", default="", json_omit=True)


@struct
class HashPolicy:
    """Consul's `HashPolicy`."""

    field: str = wire("Field", default="", json_omit=True)
    field_value: str = wire("FieldValue", default="", json_omit=True)
    cookie_config: CookieConfig | None = wire("CookieConfig", default=None, json_omit=True)
    source_ip: bool = wire("SourceIP", default=False, json_omit=True)
    terminal: bool = wire("Terminal", default=False, json_omit=True)


@struct
class LoadBalancer:
    """Consul's `LoadBalancer`."""

    policy: str = wire("Policy", default="", json_omit=True)
    ring_hash_config: RingHashConfig | None = wire("RingHashConfig", default=None, json_omit=True)
    least_request_config: LeastRequestConfig | None = wire("LeastRequestConfig", default=None, json_omit=True)
    hash_policies: tuple[HashPolicy, ...] | None = wire("HashPolicies", default=None, json_omit=True)


@struct
class ServiceResolverConfigEntry:
    """Consul's `ServiceResolverConfigEntry`."""

    connect_timeout: Duration = wire("ConnectTimeout", default=Duration(0), json_omit=True, json_duration=True)
    kind: str = wire("Kind", default="")
    name: str = wire("Name", default="")
    default_subset: str = wire("DefaultSubset", default="", json_omit=True)
    subsets: Mapping[str, ServiceResolverSubset] | None = wire("Subsets", default=None, json_omit=True)
    redirect: ServiceResolverRedirect | None = wire("Redirect", default=None, json_omit=True)
    failover: Mapping[str, ServiceResolverFailover] | None = wire("Failover", default=None, json_omit=True)
    load_balancer: LoadBalancer | None = wire("LoadBalancer", default=None, json_omit=True)
    meta: Mapping[str, str] | None = wire("Meta", default=None, json_omit=True)
    create_index: int = wire("CreateIndex", default=0)
    modify_index: int = wire("ModifyIndex", default=0)
