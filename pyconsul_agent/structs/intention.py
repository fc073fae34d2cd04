"""Intentions: who may connect to whom. As rows of their own (before 1.9) and as service-intentions entries."""

from __future__ import annotations

from collections.abc import Mapping

from pyconsul_agent.structs.base import GoTime, struct, wire
from pyconsul_agent.structs.catalog import ServiceName


@struct
class IntentionHTTPHeaderPermission:
    """Consul's `IntentionHTTPHeaderPermission`."""

    name: str = wire("Name", default="")
    present: bool = wire("Present", default=False, json_omit=True)
    exact: str = wire("Exact", default="", json_omit=True)
    prefix: str = wire("Prefix", default="", json_omit=True)
    suffix: str = wire("Suffix", default="", json_omit=True)
    regex: str = wire("Regex", default="", json_omit=True)
    invert: bool = wire("Invert", default=False, json_omit=True)


@struct
class IntentionHTTPPermission:
    """Consul's `IntentionHTTPPermission`."""

    path_exact: str = wire("PathExact", default="", json_omit=True)
    path_prefix: str = wire("PathPrefix", default="", json_omit=True)
    path_regex: str = wire("PathRegex", default="", json_omit=True)
    header: tuple[IntentionHTTPHeaderPermission, ...] | None = wire("Header", default=None, json_omit=True)
    methods: tuple[str, ...] | None = wire("Methods", default=None, json_omit=True)


@struct
class IntentionPermission:
    """Consul's `IntentionPermission`."""

    action: str = wire("Action", default="")
    http: IntentionHTTPPermission | None = wire("HTTP", default=None, json_omit=True)


@struct
class Intention:
    """Consul's `Intention`."""

    created_at: GoTime = wire("CreatedAt", default=GoTime(), json_omit=True)
    updated_at: GoTime = wire("UpdatedAt", default=GoTime(), json_omit=True)
    id: str = wire("ID", default="", json_omit=True)
    description: str = wire("Description", default="", json_omit=True)
    source_ns: str = wire("SourceNS", default="")
    source_name: str = wire("SourceName", default="")
    destination_ns: str = wire("DestinationNS", default="")
    destination_name: str = wire("DestinationName", default="")
    source_type: str = wire("SourceType", default="")
    action: str = wire("Action", default="", json_omit=True)
    permissions: tuple[IntentionPermission, ...] | None = wire("Permissions", default=None, json_omit=True)
    default_addr: str = wire("DefaultAddr", default="", json_omit=True, omit_zero=True)
    default_port: int = wire("DefaultPort", default=0, json_omit=True, omit_zero=True)
    meta: Mapping[str, str] | None = wire("Meta", default=None, json_omit=True)
    precedence: int = wire("Precedence", default=0)
    hash: bytes | None = wire("Hash", default=None, json_omit=True)
    create_index: int = wire("CreateIndex", default=0)
    modify_index: int = wire("ModifyIndex", default=0)


@struct
class SourceIntention:
    """Consul's `SourceIntention`."""

    name: str = wire("Name", default="")
    action: str = wire("Action", default="", json_omit=True)
    permissions: tuple[IntentionPermission, ...] | None = wire("Permissions", default=None, json_omit=True)
    precedence: int = wire("Precedence", default=0)
    legacy_id: str = wire("LegacyID", default="", json_omit=True)
    type: str = wire("Type", default="")
    description: str = wire("Description", default="", json_omit=True)
    legacy_meta: Mapping[str, str] | None = wire("LegacyMeta", default=None, json_omit=True)
    legacy_create_time: GoTime | None = wire("LegacyCreateTime", default=None, json_omit=True)
    legacy_update_time: GoTime | None = wire("LegacyUpdateTime", default=None, json_omit=True)


@struct
class ServiceIntentionsConfigEntry:
    """Consul's `ServiceIntentionsConfigEntry`."""

    kind: str = wire("Kind", default="")
    name: str = wire("Name", default="")
    sources: tuple[SourceIntention, ...] | None = wire("Sources", default=None)
    meta: Mapping[str, str] | None = wire("Meta", default=None, json_omit=True)
    create_index: int = wire("CreateIndex", default=0)
    modify_index: int = wire("ModifyIndex", default=0)


@struct
class IntentionMutation:
    """Consul's `IntentionMutation`."""

    id: str = wire("ID", default="")
    destination: ServiceName = wire("Destination", default=ServiceName())
    source: ServiceName = wire("Source", default=ServiceName())
    value: SourceIntention | None = wire("Value", default=None)


@struct
class IntentionDecisionSummary:
    """Consul's `IntentionDecisionSummary`."""

    default_allow: bool = wire("DefaultAllow", default=False)
    allowed: bool = wire("Allowed", default=False)
    has_permissions: bool = wire("HasPermissions", default=False)
    external_source: str = wire("ExternalSource", default="")
    has_exact: bool = wire("HasExact", default=False)
