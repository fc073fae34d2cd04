"""How the agent's own services, checks and members look in JSON. Pure."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace

from pyconsul_agent.structs.catalog import ConnectProxyConfig, NodeService, Weights
from pyconsul_agent.structs.health import HealthCheck
from pyconsul_agent.structs.member import Member
from pyconsul_agent.wire import gojson
from pyconsul_agent.wire.gojson import Ordered
from pyconsul_agent.wire.gotypes import format_duration

NODE_MAINTENANCE = "_node_maintenance"
SERVICE_MAINTENANCE = "_service_maintenance:"


def member_json(member: Member) -> Ordered:
    """A member as `/v1/agent/members` lists it."""
    return Ordered(
        Name=member.name,
        Addr=member.address,
        Port=member.port,
        Tags=member.tags,
        Status=int(member.status),
        ProtocolMin=member.protocol_min,
        ProtocolMax=member.protocol_max,
        ProtocolCur=member.protocol_current,
        DelegateMin=member.delegate_min,
        DelegateMax=member.delegate_max,
        DelegateCur=member.delegate_current,
    )


def service_json(service: NodeService, datacenter: str, *, with_hash: bool = False) -> Ordered:
    """A local service as the agent's endpoints show it."""
    weights = service.weights or Weights(passing=1, warning=1)
    out = Ordered()
    if service.kind:
        out["Kind"] = service.kind
    out.update(ID=service.id, Service=service.service, Tags=service.tags or (), Meta=service.meta or {})
    out.update(Port=service.port, Address=service.address)
    if service.socket_path:
        out["SocketPath"] = service.socket_path
    if service.tagged_addresses:
        out["TaggedAddresses"] = service.tagged_addresses
    out["Weights"] = weights
    out["EnableTagOverride"] = service.enable_tag_override
    if with_hash:
        out["ContentHash"] = content_hash(service)
    if service.proxy != ConnectProxyConfig():
        out["Proxy"] = proxy_json(service.proxy)
    if service.connect.native or service.connect.sidecar_service is not None:
        out["Connect"] = service.connect
    out["Datacenter"] = datacenter
    return out


def proxy_json(proxy: ConnectProxyConfig) -> Ordered:
    """A proxy's configuration; unlike the catalog, the agent leaves an empty mode and empty datacenters out."""
    shown = gojson.render(proxy)
    if not shown.get("Mode"):
        shown.pop("Mode", None)
    if upstreams := shown.get("Upstreams"):
        shown["Upstreams"] = [
            Ordered((key, value) for key, value in each.items() if key != "Datacenter" or value) for each in upstreams
        ]
    return Ordered(shown)


def content_hash(service: NodeService) -> str:
    """An opaque mark that changes when the service does."""
    plain = replace(service, create_index=0, modify_index=0)
    return hashlib.blake2b(gojson.encode(plain), digest_size=8).hexdigest().lstrip("0") or "0"


def check_json(check: HealthCheck) -> HealthCheck:
    """A local check; its lists are never null."""
    return check if check.service_tags is not None else replace(check, service_tags=())


def health_check_json(check: HealthCheck) -> Ordered:
    """A check inside local health, which has a form of its own: no type, no timing, the definition in full."""
    definition = check.definition
    return Ordered(
        Node=check.node,
        CheckID=check.check_id,
        Name=check.name,
        Status=check.status,
        Notes=check.notes,
        Output=check.output,
        ServiceID=check.service_id,
        ServiceName=check.service_name,
        ServiceTags=check.service_tags or None,
        Type="",
        Definition=Ordered(
            Interval=format_duration(definition.interval),
            Timeout=format_duration(definition.timeout),
            DeregisterCriticalServiceAfter=format_duration(definition.deregister_critical_service_after),
            HTTP=definition.http,
            Header=definition.header,
            Method=definition.method,
            Body=definition.body,
            TLSServerName=definition.tls_server_name,
            TLSSkipVerify=definition.tls_skip_verify,
            TCP=definition.tcp,
            GRPC=definition.grpc,
            GRPCUseTLS=definition.grpc_use_tls,
        ),
        CreateIndex=check.create_index,
        ModifyIndex=check.modify_index,
    )


def aggregate(checks: Sequence[HealthCheck]) -> str:
    """The worst of some checks, maintenance before all."""
    worst = "passing"
    for check in checks:
        if check.check_id == NODE_MAINTENANCE or check.check_id.startswith(SERVICE_MAINTENANCE):
            return "maintenance"
        if check.status == "critical" or (check.status == "warning" and worst == "passing"):
            worst = check.status
    return worst


HEALTH_STATUS = {"passing": 200, "warning": 429, "critical": 503, "maintenance": 503}
