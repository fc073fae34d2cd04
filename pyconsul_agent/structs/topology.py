"""Which services a service talks to, as the web UI draws it."""

from __future__ import annotations

from collections.abc import Mapping

from pyconsul_agent.structs.base import struct, wire
from pyconsul_agent.structs.health import CheckServiceNode
from pyconsul_agent.structs.intention import IntentionDecisionSummary
from pyconsul_agent.structs.requests import QueryMeta


@struct
class ServiceTopology:
    """Consul's `ServiceTopology`."""

    upstreams: tuple[CheckServiceNode, ...] | None = wire("Upstreams", default=None)
    downstreams: tuple[CheckServiceNode, ...] | None = wire("Downstreams", default=None)
    upstream_decisions: Mapping[str, IntentionDecisionSummary] | None = wire("UpstreamDecisions", default=None)
    downstream_decisions: Mapping[str, IntentionDecisionSummary] | None = wire("DownstreamDecisions", default=None)
    metrics_protocol: str = wire("MetricsProtocol", default="")
    transparent_proxy: bool = wire("TransparentProxy", default=False)
    upstream_sources: Mapping[str, str] | None = wire("UpstreamSources", default=None)
    downstream_sources: Mapping[str, str] | None = wire("DownstreamSources", default=None)


@struct
class IndexedServiceTopology(QueryMeta):
    """Consul's `IndexedServiceTopology`."""

    service_topology: ServiceTopology | None = wire("ServiceTopology", default=None)
    filtered_by_acls: bool = wire("FilteredByACLs", default=False)
