"""The compiled discovery chain of a service, and how to ask for it."""

from __future__ import annotations

from collections.abc import Mapping

from pyconsul_agent.structs.base import Duration, Float32, struct, wire
from pyconsul_agent.structs.catalog import MeshGatewayConfig
from pyconsul_agent.structs.config_routing import LoadBalancer, ServiceResolverSubset, ServiceRoute
from pyconsul_agent.structs.requests import QueryMeta, QueryOptions


@struct
class DiscoveryFailover:
    """Consul's `DiscoveryFailover`."""

    targets: tuple[str, ...] | None = wire("Targets", default=None, json_omit=True)


@struct
class DiscoveryResolver:
    """Consul's `DiscoveryResolver`."""

    connect_timeout: Duration = wire("ConnectTimeout", default=Duration(0), json_omit=True, json_duration=True)
    default: bool = wire("Default", default=False, json_omit=True)
    target: str = wire("Target", default="", json_omit=True)
    failover: DiscoveryFailover | None = wire("Failover", default=None, json_omit=True)


@struct
class DiscoveryRoute:
    """Consul's `DiscoveryRoute`."""

    definition: ServiceRoute | None = wire("Definition", default=None, json_omit=True)
    next_node: str = wire("NextNode", default="", json_omit=True)


@struct
class DiscoverySplit:
    """Consul's `DiscoverySplit`."""

    weight: Float32 = wire("Weight", default=Float32(0.0), json_omit=True)
    next_node: str = wire("NextNode", default="", json_omit=True)


@struct
class DiscoveryGraphNode:
    """Consul's `DiscoveryGraphNode`."""

    type: str = wire("Type", default="")
    name: str = wire("Name", default="")
    routes: tuple[DiscoveryRoute, ...] | None = wire("Routes", default=None, json_omit=True)
    splits: tuple[DiscoverySplit, ...] | None = wire("Splits", default=None, json_omit=True)
    resolver: DiscoveryResolver | None = wire("Resolver", default=None, json_omit=True)
    load_balancer: LoadBalancer | None = wire("LoadBalancer", default=None, json_omit=True)


@struct
class DiscoveryTarget:
    """Consul's `DiscoveryTarget`."""

    connect_timeout: Duration = wire("ConnectTimeout", default=Duration(0), json_omit=True, json_duration=True)
    id: str = wire("ID", default="", json_omit=True)
    service: str = wire("Service", default="", json_omit=True)
    service_subset: str = wire("ServiceSubset", default="", json_omit=True)
    namespace: str = wire("Namespace", default="", json_omit=True)
    datacenter: str = wire("Datacenter", default="", json_omit=True)
    mesh_gateway: MeshGatewayConfig = wire("MeshGateway", default=MeshGatewayConfig())
    subset: ServiceResolverSubset = wire("Subset", default=ServiceResolverSubset())
    external: bool = wire("External", default=False, json_omit=True)
    sni: str = wire("SNI", default="", json_omit=True)
    name: str = wire("Name", default="", json_omit=True)


@struct
class CompiledDiscoveryChain:
    """Consul's `CompiledDiscoveryChain`."""

    service_name: str = wire("ServiceName", default="")
    namespace: str = wire("Namespace", default="")
    datacenter: str = wire("Datacenter", default="")
    customization_hash: str = wire("CustomizationHash", default="", json_omit=True)
    protocol: str = wire("Protocol", default="", json_omit=True)
    start_node: str = wire("StartNode", default="", json_omit=True)
    nodes: Mapping[str, DiscoveryGraphNode] | None = wire("Nodes", default=None, json_omit=True)
    targets: Mapping[str, DiscoveryTarget] | None = wire("Targets", default=None, json_omit=True)


@struct
class DiscoveryChainRequest(QueryOptions):
    """Consul's `DiscoveryChainRequest`."""

    name: str = wire("Name", default="")
    evaluate_in_datacenter: str = wire("EvaluateInDatacenter", default="")
    evaluate_in_namespace: str = wire("EvaluateInNamespace", default="")
    override_mesh_gateway: MeshGatewayConfig = wire("OverrideMeshGateway", default=MeshGatewayConfig())
    override_protocol: str = wire("OverrideProtocol", default="")
    override_connect_timeout: Duration = wire("OverrideConnectTimeout", default=Duration(0))
    datacenter: str = wire("Datacenter", default="")


@struct
class DiscoveryChainResponse(QueryMeta):
    """Consul's `DiscoveryChainResponse`."""

    chain: CompiledDiscoveryChain | None = wire("Chain", default=None)
