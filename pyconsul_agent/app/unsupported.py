"""Options that this version does not honor. None is ignored in silence: security stops the agent, the rest is said.

Pure. What is said goes into the log once, at the start.
"""

from __future__ import annotations

from operator import attrgetter

from pyconsul_agent.config.options import Options
from pyconsul_agent.errors import ConfigError

DEFAULTS = Options()

WITHOUT_EFFECT = (
    "acl.enable_token_persistence",
    "enable_agent_tls_for_checks",
    "ui_config.dashboard_url_templates",
    "ui_config.dir",
    "ui_config.metrics_provider",
    "ui_config.metrics_proxy",
)
SET_BY_DEV = ("ports.grpc",)
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
    names = WITHOUT_EFFECT if options.dev_mode else (*WITHOUT_EFFECT, *SET_BY_DEV)
    lines = [f"{name} is set, but has no effect in this version" for name in names if _is_set(options, name)]
    if options.connect.enabled and not options.dev_mode:
        lines.append("connect.enabled is set, but this version has no CA: nothing signs certificates")
    return lines


def _is_set(options: Options, name: str) -> bool:
    value, default = attrgetter(name)(options), attrgetter(name)(DEFAULTS)
    return bool(value != default)
