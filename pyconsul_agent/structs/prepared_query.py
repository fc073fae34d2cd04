"""Prepared queries: the stored row and its parts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from pyconsul_agent.structs.base import wire


@dataclass(frozen=True, slots=True, kw_only=True)
class QueryDatacenterOptions:
    """Consul's `QueryDatacenterOptions`."""

    nearest_n: int = wire("NearestN", 0)
    datacenters: tuple[str, ...] | None = wire("Datacenters", None)


@dataclass(frozen=True, slots=True, kw_only=True)
class QueryDNSOptions:
    """Consul's `QueryDNSOptions`."""

    ttl: str = wire("TTL", "")


@dataclass(frozen=True, slots=True, kw_only=True)
class QueryTemplateOptions:
    """Consul's `QueryTemplateOptions`."""

    type: str = wire("Type", "")
    regexp: str = wire("Regexp", "")
    remove_empty_tags: bool = wire("RemoveEmptyTags", False)


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceQuery:
    """Consul's `ServiceQuery`."""

    service: str = wire("Service", "")
    failover: QueryDatacenterOptions = wire("Failover", QueryDatacenterOptions())
    only_passing: bool = wire("OnlyPassing", False)
    ignore_check_ids: tuple[str, ...] | None = wire("IgnoreCheckIDs", None)
    near: str = wire("Near", "")
    tags: tuple[str, ...] | None = wire("Tags", None)
    node_meta: Mapping[str, str] | None = wire("NodeMeta", None)
    service_meta: Mapping[str, str] | None = wire("ServiceMeta", None)
    connect: bool = wire("Connect", False)


@dataclass(frozen=True, slots=True, kw_only=True)
class PreparedQuery:
    """Consul's `PreparedQuery`."""

    id: str = wire("ID", "")
    name: str = wire("Name", "")
    session: str = wire("Session", "")
    token: str = wire("Token", "")
    template: QueryTemplateOptions = wire("Template", QueryTemplateOptions())
    service: ServiceQuery = wire("Service", ServiceQuery())
    dns: QueryDNSOptions = wire("DNS", QueryDNSOptions())
    create_index: int = wire("CreateIndex", 0)
    modify_index: int = wire("ModifyIndex", 0)
