"""From decoded blocks to `Options`: unknown keys, types, old spellings. Opens no file.

`check(raw)` judges one source alone and returns it in today's spelling; `build(raw)` makes the options of the merged
sources. The dataclasses of `config.options` are the schema. Texts of errors are Consul's (1.10.11, measured).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import Field, fields, replace
from typing import Any

from pyconsul_agent.config.options import TLS, Options, Raw
from pyconsul_agent.errors import ConfigError
from pyconsul_agent.structs.base import Duration, seconds
from pyconsul_agent.wire.gotypes import parse_duration

# --- keys that are not options of ours -----------------------------------------------------------------------------

MOVED = {
    "ui": "ui_config.enabled",
    "ui_dir": "ui_config.dir",
    "ui_content_path": "ui_config.content_path",
    "http_api_response_headers": "http_config.response_headers",
    "statsd_addr": "telemetry.statsd_address",
    "statsite_addr": "telemetry.statsite_address",
    "statsite_prefix": "telemetry.metrics_prefix",
    "dogstatsd_addr": "telemetry.dogstatsd_addr",
    "dogstatsd_tags": "telemetry.dogstatsd_tags",
    "acl_default_policy": "acl.default_policy",
    "acl_down_policy": "acl.down_policy",
    "acl_ttl": "acl.token_ttl",
    "acl_token": "acl.tokens.default",
    "acl_agent_token": "acl.tokens.agent",
    "acl_agent_master_token": "acl.tokens.agent_master",
    "acl_master_token": "acl.tokens.master",
    "acl_replication_token": "acl.tokens.replication",
    "acl_enable_key_list_policy": "acl.enable_key_list_policy",
    "enable_acl_replication": "acl.enable_token_replication",
}
"""Old spellings; the new key wins when both are given."""

ENTERPRISE = {
    "license_path", "audit", "segment", "segments", "read_replica", "non_voting_server",
    "autopilot.redundancy_zone_tag", "autopilot.disable_upgrade_migration", "autopilot.upgrade_version_tag",
    "acl.tokens.managed_service_provider", "acl.msp_disable_bootstrap", "dns_config.prefer_namespace",
}  # fmt: skip

GONE = {
    "atlas_infrastructure", "atlas_token", "atlas_acl_token", "atlas_join", "atlas_endpoint", "advertise_addrs",
    "acl_enforce_version_8",
}  # fmt: skip
"""Keys of old files; accepted with a warning, without effect."""

WITHOUT_EFFECT = {
    "auto_config", "primary_gateways", "primary_gateways_interval",
}  # fmt: skip
"""Keys of today's Consul for things that this agent does not have; accepted with a warning."""

SILENT = {
    "snapshot_agent", "acl_disabled_ttl", "ae_interval", "check_deregister_interval_min", "check_reap_interval",
    "consul", "revision", "segment_limit", "segment_name_limit", "sync_coordinate_interval_min",
    "sync_coordinate_rate_target", "version", "version_prerelease", "license_poll_base_time", "license_poll_max_time",
    "license_update_base_time", "license_update_max_time",
}  # fmt: skip
"""Decoded by Consul and always overridden."""


def is_silent(path: str) -> bool:
    """Whether `path` is decoded and then not used, without a word."""
    return path in SILENT or path.startswith("telemetry.circonus_")


# --- one source ----------------------------------------------------------------------------------------------------


def check(raw: Raw) -> tuple[dict[str, Any], list[str]]:
    """A source in today's spelling with lower-case keys, and the warnings about it. Raises ConfigError."""
    source = _lower(raw)
    warnings: list[str] = []
    _modernize(source, warnings)
    unknown: list[str] = []
    wrong: list[str] = []
    kept = _check_section(source, _schema(Options), "", unknown, wrong, warnings)
    if unknown:
        raise ConfigError(many(f"invalid config key {path}" for path in unknown))
    if wrong:
        lines = "".join(f"* {line}\n" for line in wrong)
        raise ConfigError(f"{len(wrong)} error(s) decoding:\n\n{lines}".rstrip("\n"))
    return kept, warnings


def many(reasons: Any) -> str:
    """Several errors as Go's multierror prints them."""
    listed = list(reasons)
    count = "1 error" if len(listed) == 1 else f"{len(listed)} errors"
    return f"{count} occurred:\n" + "".join(f"\t* {reason}\n" for reason in listed) + "\n"


def _lower(raw: Raw) -> dict[str, Any]:
    """Keys in lower case. A key that comes twice in different case keeps its second spelling, so it is unknown."""
    result: dict[str, Any] = {}
    for key, value in raw.items():
        lower = key.lower()
        result[key if lower in result else lower] = value
    return result


def _modernize(source: dict[str, Any], warnings: list[str]) -> None:
    """Move old spellings to their present places."""
    if "recursor" in source:
        warnings.append('"recursor" is deprecated, use "recursors"')
        recursors = source.get("recursors", [])
        source["recursors"] = [source.pop("recursor"), *(recursors if isinstance(recursors, list) else [])]
    if "acl_datacenter" in source:
        _set_default(source, "acl.enabled", True)
        _set_default(source, "primary_datacenter", source.pop("acl_datacenter"))
    if "acl_replication_token" in source:
        _set_default(source, "acl.enable_token_replication", True)
    for old, new in MOVED.items():
        if old in source:
            warnings.append(f'"{old}" is deprecated, use "{new}"')
            _set_default(source, new, source.pop(old))


def _set_default(source: dict[str, Any], path: str, value: Any) -> None:
    *sections, key = path.split(".")
    target = source
    for name in sections:
        inner = _single(target.get(name, {}))
        target[name] = target = dict(inner) if isinstance(inner, Mapping) else {}
    target.setdefault(key, value)


def _single(value: Any) -> Any:
    """A one-element list of blocks stands for the block (HCL makes such lists)."""
    if isinstance(value, list) and len(value) == 1 and isinstance(value[0], Mapping):
        return value[0]
    return value


def _schema(section: type[Any]) -> dict[str, Field[Any]]:
    schema = {f.metadata["key"] or f.name: f for f in fields(section) if f.metadata["kind"] != "derived"}
    if section is Options:
        schema |= _schema(TLS)
    return schema


def _check_section(
    source: Mapping[str, Any],
    schema: Mapping[str, Field[Any]],
    prefix: str,
    unknown: list[str],
    wrong: list[str],
    warnings: list[str],
) -> dict[str, Any]:
    kept: dict[str, Any] = {}
    for key, value in source.items():
        path = prefix + key
        option = schema.get(key)
        if option is None and not prefix and key in ("service", "check"):
            kept[key] = _blocks(path, value, wrong)
        elif option is None:
            _note_unknown(path, unknown, warnings)
        elif value is None:
            continue
        elif option.metadata["kind"] == "section":
            block = _single(value)
            if not isinstance(block, Mapping):
                wrong.append(f"'{path}' expected a map, got '{_go_kind(value)}'")
                continue
            inner = _schema(type(option.default))
            kept[key] = _check_section(_lower(block), inner, f"{path}.", unknown, wrong, warnings)
        else:
            kept[key] = _CHECKERS[option.metadata["kind"]](path, value, wrong)
    return kept


def _note_unknown(path: str, unknown: list[str], warnings: list[str]) -> None:
    if path in ENTERPRISE:
        warnings.append(f'"{path}" is a Consul Enterprise configuration and will have no effect')
    elif path in GONE or path in WITHOUT_EFFECT:
        warnings.append(f'"{path}" has no effect in this agent')
    elif not is_silent(path):
        unknown.append(path)


# --- types ---------------------------------------------------------------------------------------------------------


def _go_kind(value: object) -> str:
    if isinstance(value, bool):
        return "bool"
    if isinstance(value, Mapping):
        return "map"
    return {int: "int", float: "float64", str: "string", list: "slice"}.get(type(value), type(value).__name__)


def _expect(go_type: str, accepts: Callable[[Any], bool]) -> Callable[[str, Any, list[str]], Any]:
    def checked(path: str, value: Any, wrong: list[str]) -> Any:
        if not accepts(value):
            shown = f"'{path}' expected type '{go_type}', got unconvertible type '{_go_kind(value)}'"
            scalar = isinstance(value, str | int | float)
            wrong.append(f"{shown}, value: '{_go_text(value)}'" if scalar else shown)
        return value

    return checked


def _go_text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _is_integer(value: Any) -> bool:
    if isinstance(value, bool):
        return False
    return isinstance(value, int) or (isinstance(value, float) and value.is_integer())


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _texts(path: str, value: Any, wrong: list[str]) -> Any:
    if not isinstance(value, list):
        wrong.append(f"'{path}': source data must be an array or slice, got {_go_kind(value)}")
        return []
    for index, element in enumerate(value):
        if not isinstance(element, str):
            wrong.append(f"'{path}[{index}]' expected type 'string', got unconvertible type '{_go_kind(element)}'")
    return value


def _text_map(path: str, value: Any, wrong: list[str]) -> Any:
    block = _single(value)
    if not isinstance(block, Mapping):
        wrong.append(f"'{path}' expected a map, got '{_go_kind(value)}'")
        return {}
    for key, element in block.items():
        if not isinstance(element, str):
            wrong.append(f"'{path}[{key}]' expected type 'string', got unconvertible type '{_go_kind(element)}'")
    return dict(block)


def _blocks(path: str, value: Any, wrong: list[str]) -> Any:
    if isinstance(value, Mapping):
        return [value]
    if not isinstance(value, list) or not all(isinstance(element, Mapping) for element in value):
        wrong.append(f"'{path}' expected a map, got '{_go_kind(value)}'")
        return []
    if path in ("service", "check") and len(value) != 1:
        wrong.append(f"'{path}' expected a map, got 'slice'")
    return value


def _block(path: str, value: Any, wrong: list[str]) -> Any:
    block = _single(value)
    if not isinstance(block, Mapping):
        wrong.append(f"'{path}' expected a map, got '{_go_kind(value)}'")
        return {}
    return dict(block)


_TEXT = _expect("string", lambda value: isinstance(value, str))

_CHECKERS: dict[str, Callable[[str, Any, list[str]], Any]] = {
    "text": _TEXT,
    "duration": _TEXT,
    "flag": _expect("bool", lambda value: isinstance(value, bool)),
    "integer": _expect("int", _is_integer),
    "number": _expect("float64", _is_number),
    "texts": _texts,
    "text_map": _text_map,
    "duration_map": _text_map,
    "blocks": _blocks,
    "block": _block,
}


# --- the whole -----------------------------------------------------------------------------------------------------


def build(raw: Raw, *, warnings: tuple[str, ...] = (), dev_mode: bool = False) -> Options:
    """Options of a merged, checked block. Raises ConfigError for durations that do not parse."""
    wrong: list[str] = []
    values = _section_values(raw, Options, "", wrong)
    values["tls"] = TLS(**_section_values(raw, TLS, "", wrong))
    if wrong:
        raise ConfigError(many(wrong))
    return Options(**values, warnings=warnings, dev_mode=dev_mode)


def _section_values(raw: Raw, section: type[Any], prefix: str, wrong: list[str]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for option in fields(section):
        kind = option.metadata.get("kind", "derived")
        key = option.metadata.get("key") or option.name
        if kind == "derived" or key not in raw:
            continue
        values[option.name] = _convert(kind, raw[key], option, f"{prefix}{key}", wrong)
    return values


def _convert(kind: str, value: Any, option: Field[Any], path: str, wrong: list[str]) -> Any:
    if kind == "section":
        default: Any = option.default
        return replace(default, **_section_values(value, type(default), f"{path}.", wrong))
    if kind == "duration":
        return _seconds(value, path, wrong)
    if kind == "duration_map":
        return {key: _seconds(element, f"{path}[{key}]", wrong) for key, element in value.items()}
    if kind in ("texts", "blocks"):
        return tuple(value)
    if kind == "integer":
        return int(value)
    return float(value) if kind == "number" else value


def _seconds(text: str, path: str, wrong: list[str]) -> float:
    try:
        return seconds(parse_duration(text) if text else Duration(0))
    except ValueError as error:
        wrong.append(f'{path}: invalid duration: "{text}": {error}')
        return 0.0
