"""`agent`: from flags to a running agent. Everything but the flags is `config`'s and `app`'s business."""

from __future__ import annotations

import gc
import importlib
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from pyconsul_agent.cli.command import Command, Context
from pyconsul_agent.cli.flags import Flag, Kind, Value
from pyconsul_agent.config.configure import configure
from pyconsul_agent.config.options import Options
from pyconsul_agent.config.sources import Sources
from pyconsul_agent.env.base import Env
from pyconsul_agent.errors import ConfigError

# flag, kind, configuration key, help
_KEYED: tuple[tuple[str, Kind | Literal["duration-text"], str, str], ...] = (
    ("advertise", "string", "advertise_addr", "Address that is told to the other members."),
    ("advertise-wan", "string", "advertise_addr_wan", "Address that is told to members of other datacenters."),
    ("allow-write-http-from", "strings", "http_config.allow_write_http_from",
     "Network (CIDR) that may use the writing HTTP endpoints. May be given several times."),
    ("alt-domain", "string", "alt_domain", "Second domain of the DNS interface."),
    ("bind", "string", "bind_addr", "Address to listen on for the cluster."),
    ("bootstrap", "bool", "bootstrap", "Make this server the first one, without waiting for others."),
    ("bootstrap-expect", "int", "bootstrap_expect", "Number of servers to wait for before the first election."),
    ("check_output_max_size", "int", "check_output_max_size", "Most bytes of a check's output that are kept."),
    ("client", "string", "client_addr", "Address of the HTTP and DNS interfaces."),
    ("data-dir", "string", "data_dir", "Folder for the agent's state."),
    ("datacenter", "string", "datacenter", "Datacenter of the agent."),
    ("default-query-time", "duration-text", "default_query_time", "Wait of a blocking query without `wait`."),
    ("disable-host-node-id", "bool", "disable_host_node_id", "Make a random node id, not one from the host."),
    ("disable-keyring-file", "bool", "disable_keyring_file", "Keep gossip keys in memory only."),
    ("dns-port", "int", "ports.dns", "Port of the DNS interface."),
    ("domain", "string", "domain", "Domain of the DNS interface."),
    ("enable-local-script-checks", "bool", "enable_local_script_checks", "Allow script checks from files."),
    ("enable-script-checks", "bool", "enable_script_checks", "Allow script checks, also over HTTP."),
    ("encrypt", "string", "encrypt", "Gossip key, base64."),
    ("grpc-port", "int", "ports.grpc", "Port of the gRPC interface."),
    ("http-port", "int", "ports.http", "Port of the HTTP interface."),
    ("https-port", "int", "ports.https", "Port of the HTTPS interface."),
    ("join", "strings", "start_join", "Member to join at the start. May be given several times."),
    ("join-wan", "strings", "start_join_wan", "Member of the WAN pool to join at the start."),
    ("log-file", "string", "log_file", "File, or folder ending in /, that gets the log too."),
    ("log-format", "string", "log_format", "How log lines look: modern, classic or json."),
    ("log-json", "bool", "log_json", "Log lines are JSON."),
    ("log-level", "string", "log_level", "Level of the log."),
    ("log-rotate-bytes", "int", "log_rotate_bytes", "Size at which the log file is rotated."),
    ("log-rotate-duration", "duration-text", "log_rotate_duration", "Age at which the log file is rotated."),
    ("log-rotate-max-files", "int", "log_rotate_max_files", "Rotated log files that are kept."),
    ("max-query-time", "duration-text", "max_query_time", "Longest wait of a blocking query."),
    ("node", "string", "node_name", "Name of this node."),
    ("node-id", "string", "node_id", "Id of this node."),
    ("node-meta", "pairs", "node_meta", "Metadata pair key:value. May be given several times."),
    ("non-voting-server", "bool", "read_replica", "Consul Enterprise; no effect."),
    ("pid-file", "string", "pid_file", "File that gets the process id."),
    ("primary-gateway", "strings", "primary_gateways", "Mesh gateway of the primary datacenter; no effect."),
    ("protocol", "int", "protocol", "Protocol version to speak."),
    ("raft-protocol", "int", "raft_protocol", "Raft protocol version."),
    ("read-replica", "bool", "read_replica", "Consul Enterprise; no effect."),
    ("recursor", "strings", "recursors", "DNS server for other domains. May be given several times."),
    ("rejoin", "bool", "rejoin_after_leave", "Rejoin the cluster even after a leave."),
    ("retry-interval", "duration-text", "retry_interval", "Time between attempts of -retry-join."),
    ("retry-interval-wan", "duration-text", "retry_interval_wan", "Time between attempts of -retry-join-wan."),
    ("retry-join", "strings", "retry_join", "Member to join, tried until it works."),
    ("retry-join-wan", "strings", "retry_join_wan", "Member of the WAN pool to join, tried until it works."),
    ("retry-max", "int", "retry_max", "Most attempts of -retry-join; 0 is for ever."),
    ("retry-max-wan", "int", "retry_max_wan", "Most attempts of -retry-join-wan; 0 is for ever."),
    ("segment", "string", "segment", "Consul Enterprise; no effect."),
    ("serf-lan-allowed-cidrs", "strings", "serf_lan_allowed_cidrs", "Network that may be a LAN member."),
    ("serf-lan-bind", "string", "serf_lan", "Address of the LAN pool's listener."),
    ("serf-lan-port", "int", "ports.serf_lan", "Port of the LAN pool."),
    ("serf-wan-allowed-cidrs", "strings", "serf_wan_allowed_cidrs", "Network that may be a WAN member."),
    ("serf-wan-bind", "string", "serf_wan", "Address of the WAN pool's listener."),
    ("serf-wan-port", "int", "ports.serf_wan", "Port of the WAN pool."),
    ("server", "bool", "server", "Run as a server."),
    ("server-port", "int", "ports.server", "Port of the servers' RPC."),
    ("syslog", "bool", "enable_syslog", "Log to syslog too."),
    ("ui", "bool", "ui_config.enabled", "Serve the web UI."),
    ("ui-content-path", "string", "ui_config.content_path", "Path of the web UI."),
    ("ui-dir", "string", "ui_config.dir", "Folder of a web UI."),
)  # fmt: skip

GONE = (
    "atlas", "atlas-token", "atlas-endpoint", "retry-join-ec2-tag-key", "retry-join-ec2-tag-value",
    "retry-join-ec2-region", "retry-join-gce-project-name", "retry-join-gce-zone-pattern", "retry-join-gce-tag-value",
    "retry-join-gce-credentials-file",
)  # fmt: skip
"""Flags of 0.5 - 0.7 that take a value; accepted with a warning, without effect. `-atlas-join` takes none."""

FLAGS = (
    *(Flag(name, "string" if kind == "duration-text" else kind, text, colon_pairs=True)
      for name, kind, _, text in _KEYED),
    Flag("config-dir", "strings", "Folder of configuration files. May be given several times.", store="paths"),
    Flag("config-file", "strings", "Configuration file. May be given several times.", store="paths"),
    Flag("config-format", "string", "Format of all files: hcl or json. Unset, by their names."),
    Flag("dev", "bool", "Run a server of its own in memory, for development."),
    Flag("hcl", "strings", "Fragment of configuration. May be given several times."),
    Flag("dc", "string", "", hidden=True, store="datacenter"),
    Flag("atlas-join", "bool", "", hidden=True),
    *(Flag(name, "string", "", hidden=True) for name in GONE),
)  # fmt: skip

_WITHOUT_EFFECT = ("read_replica", "primary_gateways", "segment")


def sources_of(given: Mapping[str, Value], environ: Mapping[str, str]) -> Sources:
    """What the flags say, in configuration keys."""
    flags: dict[str, Any] = {}
    list_flags: dict[str, Any] = {}
    warnings = [
        f"-{name} has no effect: the service behind it is gone" for name in (*GONE, "atlas-join") if name in given
    ]
    for name, kind, key, _ in _KEYED:
        if name not in given:
            continue
        if key in _WITHOUT_EFFECT:
            warnings.append(f"-{name} has no effect in this agent")
            continue
        target = list_flags if kind == "strings" else flags
        *sections, last = key.split(".")
        for section in sections:
            target = target.setdefault(section, {})
        target[last] = given[name]
    paths, fragments = given.get("paths", []), given.get("hcl", [])
    return Sources(
        flags=flags,
        list_flags=list_flags,
        paths=paths if isinstance(paths, list) else (),
        fragments=fragments if isinstance(fragments, list) else (),
        config_format=str(given.get("config-format", "")),
        dev_mode=given.get("dev") is True,
        environ=environ,
        warnings=warnings,
    )


def options_of(sources: Sources, env: Env) -> Options:
    """The options of these sources on this host. Called again on reload. Raises ConfigError."""
    return configure(sources, files=env.files, interfaces=env.interfaces.addresses(), hostname=env.hostname)


def run(context: Context, arguments: Sequence[str]) -> int:
    """Run an agent; gives its exit code."""
    if arguments:
        return context.complain(f"==> Unexpected extra arguments: [{' '.join(arguments)}]")
    env = context.make_env()

    def read() -> Options:
        return options_of(sources_of(context.given, context.environ), env)

    try:
        options = read()
    except ConfigError as error:
        return context.complain(f"==> {error}")
    # What a start makes stays: walking it again and again would cost a tenth of the start. The agent turns it on again.
    gc.disable()
    try:
        code = importlib.import_module("pyconsul_agent.app").run(options, env, reread=read)
    finally:
        gc.enable()
    assert isinstance(code, int)
    return code


AGENT = Command(
    "consul agent [options]",
    "Runs an agent until it is stopped. It is a client, or a server with -server.",
    run,
    FLAGS,
)
