"""Prepared queries: the stored row and its parts."""

from __future__ import annotations

from collections.abc import Mapping

from pyconsul_agent.structs.base import struct, wire


@struct
class QueryDatacenterOptions:
    """Consul's `QueryDatacenterOptions`."""

    nearest_n: int = wire("NearestN", default=0)
    datacenters: tuple[str, ...] | None = wire("Datacenters", default=None)


@struct
class QueryDNSOptions:
    """Consul's `QueryDNSOptions`."""

    ttl: str = wire("TTL", default="")


@struct
class QueryTemplateOptions:
    """Consul's `QueryTemplateOptions`."""

    type: str = wire("Type", default="")
    regexp: str = wire("Regexp", default="")
    remove_empty_tags: bool = wire("RemoveEmptyTags", default=False)


@struct
class ServiceQuery:
    """Consul's `ServiceQuery`."""

    service: str = wire("Service", default="")
    failover: QueryDatacenterOptions = wire("Failover", default=QueryDatacenterOptions())
    only_passing: bool = wire("OnlyPassing", default=False)
    ignore_check_ids: tuple[str, ...] | None = wire("IgnoreCheckIDs", default=None)
    near: str = wire("Near", default="")
    tags: tuple[str, ...] | None = wire("Tags", default=None)
    node_meta: Mapping[str, str] | None = wire("NodeMeta", default=None)
    service_meta: Mapping[str, str] | None = wire("ServiceMeta", default=None)
    connect: bool = wire("Connect", default=False)


@struct
class PreparedQuery:
    """Consul's `PreparedQuery`."""

    id: str = wire("ID", default="")
    name: str = wire("Name", default="")
    session: str = wire("Session", default="")
    token: str = wire("Token", default="")
    template: QueryTemplateOptions = wire("Template", default=QueryTemplateOptions())
    service: ServiceQuery = wire("Service", default=ServiceQuery())
    dns: QueryDNSOptions = wire("DNS", default=QueryDNSOptions())
    create_index: int = wire("CreateIndex", default=0)
    modify_index: int = wire("ModifyIndex", default=0)
