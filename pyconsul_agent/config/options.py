"""Every option of the agent, by section, with its default. What a process is configured with is one `Options` value.

A field is one configuration key: its name is the key (`key=` when it differs), its kind says what files may hold
(docs/protocol/configuration.md). Durations are float seconds. Files, flags and the environment become nested mappings
of keys (`config.sources`), are merged (`config.merge`), built into `Options` (`config.build`) and judged
(`config.validate`). Fields marked `derived` have no key: `validate` fills them in from the others.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal

from pyconsul_agent.config.origins import Origins

LogFormat = Literal["modern", "classic", "json"]

Raw = Mapping[str, Any]
"""A decoded block of a file: lower-case keys to text, numbers, booleans, lists and further blocks."""

EMPTY: Mapping[str, Any] = MappingProxyType({})
DAY_S = 86400.0
HOUR_S = 3600.0


def _option(kind: str, default: Any, key: str) -> Any:
    metadata = {"kind": kind, "key": key}
    if default is EMPTY:
        return field(default_factory=lambda: EMPTY, metadata=metadata)
    return field(default=default, metadata=metadata)


def text(default: str = "", key: str = "") -> str:
    """A string."""
    return _option("text", default, key)  # type: ignore[no-any-return]


def flag(default: bool = False, key: str = "") -> bool:
    """A boolean."""
    return _option("flag", default, key)  # type: ignore[no-any-return]


def tristate(key: str = "") -> bool | None:
    """A boolean whose default depends on the others; `validate` decides it."""
    return _option("flag", None, key)  # type: ignore[no-any-return]


def integer(default: int = 0, key: str = "") -> int:
    """A whole number."""
    return _option("integer", default, key)  # type: ignore[no-any-return]


def number(default: float = 0.0, key: str = "") -> float:
    """A number."""
    return _option("number", default, key)  # type: ignore[no-any-return]


def duration(default: float = 0.0, key: str = "") -> float:
    """Seconds; a Go duration text in files."""
    return _option("duration", default, key)  # type: ignore[no-any-return]


def texts(default: tuple[str, ...] = (), key: str = "") -> tuple[str, ...]:
    """A list of strings."""
    return _option("texts", default, key)  # type: ignore[no-any-return]


def text_map(key: str = "") -> Mapping[str, str]:
    """A map of strings."""
    return _option("text_map", EMPTY, key)  # type: ignore[no-any-return]


def duration_map(key: str = "") -> Mapping[str, float]:
    """A map of durations, seconds."""
    return _option("duration_map", EMPTY, key)  # type: ignore[no-any-return]


def blocks(key: str = "") -> tuple[Raw, ...]:
    """A list of blocks that another room interprets (service and check definitions, watches)."""
    return _option("blocks", (), key)  # type: ignore[no-any-return]


def block(key: str = "") -> Raw:
    """A block that another room interprets."""
    return _option("block", EMPTY, key)  # type: ignore[no-any-return]


def derived(default: Any) -> Any:
    """Not a key of files."""
    return _option("derived", default, "")


def section(default: Any) -> Any:
    """A block with keys of its own."""
    return _option("section", default, "")


@dataclass(frozen=True, slots=True, kw_only=True)
class Ports:
    """Listening ports; -1 is off. `rpc` is the legacy RPC of 0.5-0.7, off unless asked for."""

    dns: int = integer(8600)
    http: int = integer(8500)
    https: int = integer(-1)
    grpc: int = integer(-1)
    rpc: int = integer(-1)
    serf_lan: int = integer(8301)
    serf_wan: int = integer(8302)
    server: int = integer(8300)
    proxy_min_port: int = integer(20000)
    proxy_max_port: int = integer(20255)
    sidecar_min_port: int = integer(21000)
    sidecar_max_port: int = integer(21255)
    expose_min_port: int = integer(21500)
    expose_max_port: int = integer(21755)


@dataclass(frozen=True, slots=True, kw_only=True)
class Addresses:
    """Listening addresses as written: blank-separated, templates, `unix://` paths; empty means `client_addr`."""

    dns: str = text()
    http: str = text()
    https: str = text()
    grpc: str = text()
    rpc: str = text()


@dataclass(frozen=True, slots=True, kw_only=True)
class Resolved:
    """Addresses after templates and defaults; IP texts without ports, `unix:///path` where that is allowed."""

    bind: str = "0.0.0.0"  # noqa: S104
    advertise: str = ""
    advertise_wan: str = ""
    serf_lan_bind: str = ""
    serf_wan_bind: str = ""
    client: tuple[str, ...] = ("127.0.0.1",)
    dns: tuple[str, ...] = ("127.0.0.1",)
    http: tuple[str, ...] = ("127.0.0.1",)
    https: tuple[str, ...] = ("127.0.0.1",)
    grpc: tuple[str, ...] = ("127.0.0.1",)
    rpc: tuple[str, ...] = ("127.0.0.1",)


@dataclass(frozen=True, slots=True, kw_only=True)
class Performance:
    """How eager the agent is. The three raft times are multiplied by `raft_multiplier`."""

    raft_multiplier: int = integer(5)
    leave_drain_time: float = duration(5.0)
    rpc_hold_timeout: float = duration(7.0)
    raft_heartbeat_timeout_s: float = derived(5.0)
    raft_election_timeout_s: float = derived(5.0)
    raft_leader_lease_timeout_s: float = derived(2.5)


@dataclass(frozen=True, slots=True, kw_only=True)
class Gossip:
    """A pool's memberlist timing. Defaults are the LAN's. `extra_pings` is ours: 0 for memberlist's probes alone."""

    extra_pings: int = integer(4)
    gossip_interval: float = duration(0.2)
    gossip_nodes: int = integer(3)
    probe_interval: float = duration(1.0)
    probe_timeout: float = duration(0.5)
    retransmit_mult: int = integer(4)
    suspicion_mult: int = integer(4)


GOSSIP_WAN = Gossip(extra_pings=0, gossip_interval=0.5, probe_interval=5.0, probe_timeout=3.0, suspicion_mult=6)


@dataclass(frozen=True, slots=True, kw_only=True)
class Autopilot:
    """Initial values only; afterwards they live in raft."""

    cleanup_dead_servers: bool = flag(True)
    last_contact_threshold: float = duration(0.2)
    max_trailing_logs: int = integer(250)
    min_quorum: int = integer(0)
    server_stabilization_time: float = duration(10.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class SOA:
    """Numbers of the zone's SOA record, seconds."""

    refresh: int = integer(3600)
    retry: int = integer(600)
    expire: int = integer(86400)
    min_ttl: int = integer(0)


NEARBY = (
    "127.0.0.0/8", "10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10", "169.254.0.0/16",
    "::1/128", "fc00::/7", "fe80::/10",
)  # fmt: skip
"""Loopback, private and link-local networks."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DNS:
    """`dns_config`."""

    allow_stale: bool = flag(True)
    max_stale: float = duration(87600 * HOUR_S)
    node_ttl: float = duration(0.0)
    service_ttl: Mapping[str, float] = duration_map()
    enable_truncate: bool = flag()
    only_passing: bool = flag()
    recursor_timeout: float = duration(2.0)
    udp_answer_limit: int = integer(3)
    a_record_limit: int = integer(0)
    disable_compression: bool = flag()
    enable_additional_node_meta_txt: bool = flag(True)
    soa: SOA = section(SOA())
    use_cache: bool = flag()
    cache_max_age: float = duration(0.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class HTTP:
    """`http_config`."""

    block_endpoints: tuple[str, ...] = texts()
    allow_write_http_from: tuple[str, ...] = texts()
    response_headers: Mapping[str, str] = text_map()
    use_cache: bool = flag(True)
    max_header_bytes: int = integer(0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Bounds on what peers and clients may do."""

    http_max_conns_per_client: int = integer(200)
    https_handshake_timeout: float = duration(5.0)
    rpc_handshake_timeout: float = duration(5.0)
    rpc_rate: float = number(-1.0)
    rpc_max_burst: int = integer(1000)
    rpc_max_conns_per_client: int = integer(100)
    kv_max_value_size: int = integer(524288)
    txn_max_req_len: int = integer(524288)


@dataclass(frozen=True, slots=True, kw_only=True)
class ACLTokens:
    """Tokens that the agent itself uses."""

    master: str = text()
    default: str = text()
    agent: str = text()
    agent_master: str = text()
    replication: str = text()


@dataclass(frozen=True, slots=True, kw_only=True)
class ACL:
    """Access control."""

    enabled: bool = flag()
    default_policy: str = text("allow")
    down_policy: str = text("extend-cache")
    policy_ttl: float = duration(30.0)
    role_ttl: float = duration(30.0)
    token_ttl: float = duration(30.0)
    enable_key_list_policy: bool = flag()
    enable_token_replication: bool = flag()
    enable_token_persistence: bool = flag()
    tokens: ACLTokens = section(ACLTokens())


@dataclass(frozen=True, slots=True, kw_only=True)
class TLS:
    """TLS material and switches; top-level keys in files."""

    ca_file: str = text()
    ca_path: str = text()
    cert_file: str = text()
    key_file: str = text()
    verify_incoming: bool = flag()
    verify_incoming_rpc: bool = flag()
    verify_incoming_https: bool = flag()
    verify_outgoing: bool = flag()
    verify_server_hostname: bool = flag()
    server_name: str = text()
    tls_min_version: str = text("tls12")
    tls_cipher_suites: str = text()
    tls_prefer_server_cipher_suites: bool = flag()


@dataclass(frozen=True, slots=True, kw_only=True)
class Telemetry:
    """Metrics and where they go."""

    disable_hostname: bool = flag()
    metrics_prefix: str = text("consul")
    filter_default: bool = flag(True)
    disable_compat_1_9: bool = flag(key="disable_compat_1.9")
    prometheus_retention_time: float = duration(0.0)
    prefix_filter: tuple[str, ...] = texts()
    statsd_address: str = text()
    statsite_address: str = text()
    dogstatsd_addr: str = text()
    dogstatsd_tags: tuple[str, ...] = texts()


@dataclass(frozen=True, slots=True, kw_only=True)
class UI:
    """`ui_config`."""

    enabled: bool = flag()
    dir: str = text()
    content_path: str = text("/ui/")
    metrics_provider: str = text()
    metrics_provider_files: tuple[str, ...] = texts()
    metrics_provider_options_json: str = text()
    metrics_proxy: Raw = block()
    dashboard_url_templates: Mapping[str, str] = text_map()


@dataclass(frozen=True, slots=True, kw_only=True)
class Connect:
    """Service mesh. Only the keys that the certificate authority needs."""

    enabled: bool = flag()
    ca_provider: str = text("consul")
    ca_config: Raw = block()
    enable_mesh_gateway_wan_federation: bool = flag()


@dataclass(frozen=True, slots=True, kw_only=True)
class AutoEncrypt:
    """Certificates handed out by servers."""

    allow_tls: bool = flag()
    tls: bool = flag()
    dns_san: tuple[str, ...] = texts()
    ip_san: tuple[str, ...] = texts()


@dataclass(frozen=True, slots=True)
class RPC:
    """The `rpc` block."""

    enable_streaming: bool = flag(True)


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheOptions:
    """`cache`: how often an entry of the agent's cache may be fetched, per second and at once."""

    entry_fetch_rate: float = number(float("inf"))
    entry_fetch_max_burst: int = integer(2)


@dataclass(frozen=True, slots=True, kw_only=True)
class UnixSockets:
    """Ownership and mode (octal text) of unix sockets."""

    group: str = text()
    mode: str = text()
    user: str = text()


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """A whole configuration."""

    # who and where
    node_name: str = text()
    node_id: str = text()
    node_meta: Mapping[str, str] = text_map()
    datacenter: str = text("dc1")
    primary_datacenter: str = text()
    data_dir: str = text()
    dev_mode: bool = derived(False)
    disable_host_node_id: bool = flag(True)
    tagged_addresses: Mapping[str, str] = text_map()
    pid_file: str = text()

    # server
    server: bool = flag()
    bootstrap: bool = flag()
    bootstrap_expect: int = integer(0)
    protocol: int = integer(2)
    raft_protocol: int = integer(3)
    raft_snapshot_threshold: int = integer(16384)
    raft_snapshot_interval: float = duration(30.0)
    raft_trailing_logs: int = integer(10240)
    reconnect_timeout: float = duration(0.0)
    reconnect_timeout_wan: float = duration(0.0)
    advertise_reconnect_timeout: float = duration(0.0)
    session_ttl_min: float = duration(0.0)
    autopilot: Autopilot = section(Autopilot())

    # network
    bind_addr: str = text("0.0.0.0")  # noqa: S104
    advertise_addr: str = text()
    advertise_addr_ipv4: str = text()
    advertise_addr_ipv6: str = text()
    advertise_addr_wan: str = text()
    advertise_addr_wan_ipv4: str = text()
    advertise_addr_wan_ipv6: str = text()
    client_addr: str = text("127.0.0.1")
    serf_lan: str = text()
    serf_wan: str = text()
    serf_lan_allowed_cidrs: tuple[str, ...] = texts()
    serf_wan_allowed_cidrs: tuple[str, ...] = texts()
    addresses: Addresses = section(Addresses())
    ports: Ports = section(Ports())
    resolved: Resolved = derived(Resolved())
    translate_wan_addrs: bool = flag()
    unix_sockets: UnixSockets = section(UnixSockets())

    # joining and leaving
    start_join: tuple[str, ...] = texts()
    start_join_wan: tuple[str, ...] = texts()
    retry_join: tuple[str, ...] = texts()
    retry_interval: float = duration(30.0)
    retry_max: int = integer(0)
    retry_join_wan: tuple[str, ...] = texts()
    retry_interval_wan: float = duration(30.0)
    retry_max_wan: int = integer(0)
    rejoin_after_leave: bool = flag()
    leave_on_terminate: bool | None = tristate()
    skip_leave_on_interrupt: bool | None = tristate()

    # gossip
    encrypt: str = text()
    encrypt_verify_incoming: bool = flag(True)
    encrypt_verify_outgoing: bool = flag(True)
    disable_keyring_file: bool = flag()
    gossip_lan: Gossip = section(Gossip())
    gossip_wan: Gossip = section(GOSSIP_WAN)

    # behavior
    performance: Performance = section(Performance())
    limits: Limits = section(Limits())
    cache: CacheOptions = section(CacheOptions())
    use_streaming_backend: bool = flag(True)
    rpc: RPC = section(RPC())
    acl: ACL = section(ACL())
    tls: TLS = derived(TLS())
    auto_encrypt: AutoEncrypt = section(AutoEncrypt())
    connect: Connect = section(Connect())
    default_query_time: float = duration(300.0)
    max_query_time: float = duration(600.0)
    discovery_max_stale: float = duration(0.0)
    check_output_max_size: int = integer(4096)
    check_update_interval: float = duration(300.0)
    discard_check_output: bool = flag()
    enable_script_checks: bool = flag()
    enable_local_script_checks: bool = flag()
    enable_agent_tls_for_checks: bool = flag()
    enable_central_service_config: bool = flag(True)
    enable_debug: bool = flag()
    disable_anonymous_signature: bool = flag()
    disable_update_check: bool = flag()
    disable_coordinates: bool = flag()
    disable_remote_exec: bool = flag(True)
    disable_http_unprintable_char_filter: bool = flag()

    # interfaces
    domain: str = text("consul.")
    alt_domain: str = text()
    recursors: tuple[str, ...] = texts()
    dns_allow_recursion: tuple[str, ...] = texts(NEARBY)
    """Ours: for whom `recursors` are asked. Anybody would make the agent an open resolver."""
    dns_config: DNS = section(DNS())
    http_config: HTTP = section(HTTP())
    ui_config: UI = section(UI())

    # definitions
    services: tuple[Raw, ...] = blocks()
    checks: tuple[Raw, ...] = blocks()
    watches: tuple[Raw, ...] = blocks()
    config_entries: Raw = block()

    # log and metrics
    log_level: str = text("INFO")
    log_format: str = text("modern")
    log_json: bool = flag()
    log_file: str = text()
    log_rotate_bytes: int = integer(0)
    log_rotate_duration: float = duration(DAY_S)
    log_rotate_max_files: int = integer(0)
    enable_syslog: bool = flag()
    syslog_facility: str = text("LOCAL0")
    telemetry: Telemetry = section(Telemetry())

    # what the reader of the files wants the operator to know; logged once the log exists
    warnings: tuple[str, ...] = derived(())
    origins: Origins = derived(Origins())
