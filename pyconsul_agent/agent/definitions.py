"""Services and checks as configuration files define them. Pure.

Keys are snake_case in any letter case; the blocks have been parsed and merged already.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from pyconsul_agent.errors import ConfigError
from pyconsul_agent.structs.catalog import (
    CheckType,
    ConnectProxyConfig,
    NodeService,
    ServiceConnect,
    ServiceDefinition,
)
from pyconsul_agent.structs.proxy_rules import service_problems
from pyconsul_agent.wire.gojson_reader import decode

SINGLE_BLOCKS = frozenset({
    "check", "config", "connect", "expose", "header", "mesh_gateway", "meta", "proxy", "service", "sidecar_service",
    "tagged_addresses", "lan", "wan", "lan_ipv4", "wan_ipv4", "lan_ipv6", "wan_ipv6", "transparent_proxy", "weights",
})  # fmt: skip
CHECK_SPELLINGS = {"id": "CheckID", "args": "ScriptArgs"}


@dataclass(frozen=True, slots=True)
class ServiceFromFile:
    """A service, its checks and its token."""

    service: NodeService
    checks: tuple[CheckType, ...]
    token: str


@dataclass(frozen=True, slots=True)
class CheckFromFile:
    """A check, the service that it belongs to ("" for the node) and its token."""

    check: CheckType
    service_id: str
    token: str


def service_of(block: Mapping[str, Any]) -> ServiceFromFile:
    """A `service` block. Raises ConfigError."""
    plain = _unpacked(block)
    single = plain.pop("check", None)
    several = plain.pop("checks", None) or []
    checks = [_check(each) for each in [*several, *([single] if single else [])]]
    try:
        body = decode(ServiceDefinition, _go_names(plain))
    except ValueError as error:
        raise ConfigError(f"invalid service definition: {error}") from None
    if not body.name:
        raise ConfigError("service definition without a name")
    service = NodeService(
        kind=body.kind,
        id=body.id or body.name,
        service=body.name,
        tags=body.tags,
        address=body.address,
        tagged_addresses=body.tagged_addresses,
        meta=body.meta,
        port=body.port,
        socket_path=body.socket_path,
        weights=body.weights,
        enable_tag_override=body.enable_tag_override,
        proxy=body.proxy or ConnectProxyConfig(),
        connect=body.connect or ServiceConnect(),
    )
    if problem := service_problems(service):
        raise ConfigError(f'Failed to register service "{body.name}": {problem}')
    return ServiceFromFile(service, tuple(checks), body.token)


def check_of(block: Mapping[str, Any]) -> CheckFromFile:
    """A `check` block. Raises ConfigError."""
    plain = _unpacked(block)
    service_id = str(plain.pop("service_id", "") or plain.pop("serviceid", "") or "")
    token = str(plain.pop("token", "") or "")
    check = _check(plain)
    if not check.check_id and not check.name:
        raise ConfigError("CheckID missing")
    return CheckFromFile(replace(check, name=check.name or check.check_id), service_id, token)


def _unpacked(value: Mapping[str, Any]) -> dict[str, Any]:
    """Blocks of HCL, which are lists of objects, as the one object that these keys want."""
    out: dict[str, Any] = {}
    for key, item in value.items():
        single = isinstance(item, list | tuple) and len(item) == 1 and isinstance(item[0], Mapping)
        if key.lower() in SINGLE_BLOCKS and single:
            item = item[0]
        out[key] = _unpacked(item) if isinstance(item, Mapping) else item
    return out


def _check(block: Mapping[str, Any]) -> CheckType:
    plain = {key: value for key, value in _unpacked(block).items() if key != "service_id"}
    try:
        return decode(CheckType, _go_names(plain), aliases=CHECK_SPELLINGS)
    except ValueError as error:
        raise ConfigError(f"invalid check definition: {error}") from None


def _go_names(value: Any) -> Any:
    """Struct keys without their underscores, which then match the Go names; maps of users' keys stay as they are."""
    if not isinstance(value, Mapping):
        return value
    out: dict[str, Any] = {}
    for key, item in value.items():
        name = key.replace("_", "") if key not in ("id", "args") else key
        if key in ("meta", "header", "config"):
            out[name] = dict(item) if isinstance(item, Mapping) else item
        elif key == "tagged_addresses" and isinstance(item, Mapping):
            out[name] = {tag: _go_names(address) for tag, address in item.items()}
        elif isinstance(item, list | tuple):
            out[name] = [_go_names(each) for each in item]
        else:
            out[name] = _go_names(item)
    return out
