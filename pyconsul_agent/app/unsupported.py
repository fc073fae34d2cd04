"""Options that this version does not honor. None is ignored in silence: security stops the agent, the rest is said.

Pure. What is said goes into the log once, at the start.
"""

from __future__ import annotations

from operator import attrgetter

from pyconsul_agent.config.options import Options
from pyconsul_agent.errors import ConfigError

DEFAULTS = Options()

METRICS = (
    "telemetry.statsd_address",
    "telemetry.statsite_address",
    "telemetry.dogstatsd_addr",
    "telemetry.prometheus_retention_time",
)
WITHOUT_EFFECT = (
    "acl.enable_token_persistence",
    "config_entries",
    "disable_host_node_id",
    "enable_agent_tls_for_checks",
    "http_config.max_header_bytes",
    "unix_sockets",
)
SET_BY_DEV = ("ports.grpc", "ui_config.enabled")
"""`-dev` sets these itself; nobody asked for them then."""


def refuse_unsupported(options: Options) -> None:
    """Security options that this version cannot honor must not be ignored. Raises ConfigError."""
    tls = options.tls
    if any((tls.ca_file, tls.ca_path, tls.cert_file, tls.key_file, tls.verify_incoming, tls.verify_incoming_rpc,
            tls.verify_incoming_https, tls.verify_outgoing, tls.verify_server_hostname)):  # fmt: skip
        raise ConfigError("TLS is configured, but this version does not support it yet")
    if options.auto_encrypt.tls or options.auto_encrypt.allow_tls or options.ports.https > 0:
        raise ConfigError("TLS is configured, but this version does not support it yet")
    if options.acl.enabled:
        raise ConfigError("ACLs are enabled, but this version does not support them yet")


def without_effect(options: Options) -> list[str]:
    """A line for each option that is set and does nothing here."""
    lines = [f"{name} is set, but metrics are not sent anywhere yet" for name in METRICS if _is_set(options, name)]
    names = WITHOUT_EFFECT if options.dev_mode else (*WITHOUT_EFFECT, *SET_BY_DEV)
    lines += [f"{name} is set, but has no effect in this version" for name in names if _is_set(options, name)]
    if options.connect.enabled and not options.dev_mode:
        lines.append("connect.enabled is set, but this version has no CA: nothing signs certificates")
    for number, watch in enumerate(options.watches):
        lines.append(f"watches[{number}] (type {watch.get('type', '')!r}) is not run: watches are not supported yet")
    return lines


def _is_set(options: Options, name: str) -> bool:
    value, default = attrgetter(name)(options), attrgetter(name)(DEFAULTS)
    return bool(value != default)
