"""Options of the configuration as the constructors of the rooms below want them. Pure."""

from __future__ import annotations

import ipaddress
from dataclasses import replace

from pyconsul_agent.agent.local import NodeInfo
from pyconsul_agent.app.bootstrap_entries import bootstrap_entries
from pyconsul_agent.client.node import ClientConfig
from pyconsul_agent.config.options import Gossip, Options
from pyconsul_agent.config.validate import decode_key
from pyconsul_agent.errors import ConfigError
from pyconsul_agent.interfaces.dns.config import DNSConfig
from pyconsul_agent.interfaces.dns.recursor import DNS_PORT
from pyconsul_agent.interfaces.http.params import Defaults
from pyconsul_agent.interfaces.http.pipeline import Rules
from pyconsul_agent.serf.config import SerfConfig
from pyconsul_agent.server.config import ServerConfig
from pyconsul_agent.structs.base import duration
from pyconsul_agent.structs.operator import AutopilotConfig
from pyconsul_agent.swim.config import LAN, WAN, SwimConfig
from pyconsul_agent.swim.keyring import Keyring
from pyconsul_agent.version import CONSUL_REVISION, CONSUL_VERSION

BUILD = f"{CONSUL_VERSION}:{CONSUL_REVISION}"
SESSION_TTL_MIN_S = 10.0


def swim(base: SwimConfig, gossip: Gossip) -> SwimConfig:
    """A pool's profile with the numbers that users may set."""
    return replace(
        base,
        extra_pings_max=gossip.extra_pings,
        gossip_interval_s=gossip.gossip_interval,
        gossip_nodes=gossip.gossip_nodes,
        probe_interval_s=gossip.probe_interval,
        probe_timeout_s=gossip.probe_timeout,
        retransmit_mult=gossip.retransmit_mult,
        suspicion_mult=gossip.suspicion_mult,
    )


def _serf(options: Options, pool: str) -> SerfConfig:
    gossip = options.gossip_lan if pool == "lan" else options.gossip_wan
    reconnect = options.reconnect_timeout if pool == "lan" else options.reconnect_timeout_wan
    networks = options.serf_lan_allowed_cidrs if pool == "lan" else options.serf_wan_allowed_cidrs
    base = SerfConfig()
    return SerfConfig(
        pool=pool,
        gossip_interval_s=gossip.gossip_interval,
        retransmit_mult=gossip.retransmit_mult,
        reconnect_timeout_s=reconnect or base.reconnect_timeout_s,
        rejoin_after_leave=options.rejoin_after_leave,
        allowed_networks=networks or None,
    )


def keyring(options: Options) -> Keyring | None:
    """The gossip keys that the configuration names."""
    return Keyring(keys=(decode_key(options.encrypt),)) if options.encrypt else None


def _keyring_dir(options: Options) -> str:
    return f"{options.data_dir}/serf" if options.data_dir and not options.disable_keyring_file else ""


def server_config(options: Options, node_id: str) -> ServerConfig:
    """For server mode."""
    at = options.resolved
    pilot = options.autopilot
    return ServerConfig(
        node_name=options.node_name,
        node_id=node_id,
        datacenter=options.datacenter,
        data_dir=options.data_dir,
        build=BUILD,
        bind=at.bind,
        serf_lan_bind=at.serf_lan_bind,
        serf_wan_bind=at.serf_wan_bind,
        advertise=at.advertise,
        advertise_wan=at.advertise_wan,
        rpc_port=options.ports.server,
        lan_port=options.ports.serf_lan,
        wan_port=max(options.ports.serf_wan, 0),
        bootstrap=options.bootstrap or options.dev_mode,
        expect=options.bootstrap_expect,
        raft_multiplier=options.performance.raft_multiplier,
        trailing_logs=options.raft_trailing_logs,
        snapshot_threshold=options.raft_snapshot_threshold,
        snapshot_interval_s=options.raft_snapshot_interval,
        autopilot=AutopilotConfig(
            cleanup_dead_servers=pilot.cleanup_dead_servers,
            last_contact_threshold=duration(pilot.last_contact_threshold),
            max_trailing_logs=pilot.max_trailing_logs,
            min_quorum=pilot.min_quorum,
            server_stabilization_time=duration(pilot.server_stabilization_time),
        ),
        keyring=keyring(options),
        keyring_dir=_keyring_dir(options),
        verify_incoming=options.encrypt_verify_incoming,
        verify_outgoing=options.encrypt_verify_outgoing,
        lan=swim(LAN, options.gossip_lan),
        wan=swim(WAN, options.gossip_wan),
        lan_serf=_serf(options, "lan"),
        wan_serf=_serf(options, "wan"),
        leave_drain_s=options.performance.leave_drain_time,
        hold_timeout_s=options.performance.rpc_hold_timeout,
        rpc_handshake_timeout_s=options.limits.rpc_handshake_timeout,
        rpc_connections_per_client=options.limits.rpc_max_conns_per_client,
        enable_streaming=options.rpc.enable_streaming,
        session_ttl_min_s=options.session_ttl_min or SESSION_TTL_MIN_S,
        primary_datacenter=options.primary_datacenter,
        connect_enabled=options.connect.enabled,
        bootstrap_entries=bootstrap_entries(options.config_entries),
        query_default_s=options.default_query_time,
        query_max_s=options.max_query_time,
    )


def client_config(options: Options, node_id: str) -> ClientConfig:
    """For client mode."""
    return ClientConfig(
        node_name=options.node_name,
        node_id=node_id,
        datacenter=options.datacenter,
        data_dir=options.data_dir,
        build=BUILD,
        serf_lan_bind=options.resolved.serf_lan_bind,
        advertise=options.resolved.advertise,
        lan_port=options.ports.serf_lan,
        keyring=keyring(options),
        keyring_dir=_keyring_dir(options),
        verify_incoming=options.encrypt_verify_incoming,
        verify_outgoing=options.encrypt_verify_outgoing,
        lan=swim(LAN, options.gossip_lan),
        lan_serf=_serf(options, "lan"),
        reconnect_timeout_s=options.advertise_reconnect_timeout,
        hold_timeout_s=options.performance.rpc_hold_timeout,
        rpc_rate=options.limits.rpc_rate,
        rpc_burst=options.limits.rpc_max_burst,
    )


def node_info(options: Options, node_id: str) -> NodeInfo:
    """This node as it registers itself."""
    lan, wan = options.resolved.advertise, options.resolved.advertise_wan or options.resolved.advertise
    tagged = dict(options.tagged_addresses)
    tagged.update({"lan": lan, f"lan_ipv{_family(lan)}": lan, "wan": wan, f"wan_ipv{_family(wan)}": wan})
    return NodeInfo(
        name=options.node_name,
        id=node_id,
        address=lan,
        datacenter=options.datacenter,
        tagged_addresses=tagged,
        meta={**options.node_meta, "consul-network-segment": ""},
    )


def reloaded(old: Options, fresh: Options) -> Options:
    """`old` with what may change while the agent runs; the rest of `fresh` waits for the next start."""
    return replace(
        old,
        log_level=fresh.log_level,
        services=fresh.services,
        checks=fresh.checks,
        watches=fresh.watches,
        node_meta=fresh.node_meta,
        discard_check_output=fresh.discard_check_output,
        telemetry=replace(old.telemetry, prefix_filter=fresh.telemetry.prefix_filter),
        dns_config=fresh.dns_config,
        recursors=fresh.recursors,
        dns_allow_recursion=fresh.dns_allow_recursion,
        limits=replace(
            old.limits,
            http_max_conns_per_client=fresh.limits.http_max_conns_per_client,
            rpc_rate=fresh.limits.rpc_rate,
            rpc_max_burst=fresh.limits.rpc_max_burst,
            rpc_max_conns_per_client=fresh.limits.rpc_max_conns_per_client,
        ),
        raft_snapshot_interval=fresh.raft_snapshot_interval,
        raft_snapshot_threshold=fresh.raft_snapshot_threshold,
        raft_trailing_logs=fresh.raft_trailing_logs,
        ui_config=replace(old.ui_config, enabled=fresh.ui_config.enabled),
        cache=fresh.cache,
        http_config=replace(old.http_config, response_headers=fresh.http_config.response_headers),
    )


def _family(ip: str) -> int:
    return 6 if ":" in ip else 4


def http_defaults(options: Options) -> Defaults:
    """What HTTP handlers fill in."""
    return Defaults(
        datacenter=options.datacenter,
        node_name=options.node_name,
        token=options.acl.tokens.default,
        pretty=options.dev_mode,
        discovery_max_stale=duration(options.discovery_max_stale),
        use_cache=options.http_config.use_cache,
        use_streaming=options.use_streaming_backend,
    )


def http_rules(options: Options) -> Rules:
    """The rules around HTTP handlers."""
    return Rules(
        response_headers=options.http_config.response_headers,
        block_endpoints=options.http_config.block_endpoints,
        allow_write_from=options.http_config.allow_write_http_from,
        filter_unprintable=not options.disable_http_unprintable_char_filter,
        default_policy=options.acl.default_policy,
        translate_addresses=options.translate_wan_addrs,
    )


def dns_config(options: Options) -> DNSConfig:
    """For the DNS interface. Raises ConfigError for a recursor that is no address."""
    dns = options.dns_config
    return DNSConfig(
        node_name=options.node_name,
        datacenter=options.datacenter,
        domain=options.domain,
        alt_domain=options.alt_domain,
        token=options.acl.tokens.default,
        recursors=tuple(dict.fromkeys(_recursor(text) for text in options.recursors)),
        recursion_for=tuple(ipaddress.ip_network(text, strict=False) for text in options.dns_allow_recursion),
        recursor_timeout_s=dns.recursor_timeout,
        allow_stale=dns.allow_stale,
        max_stale_s=dns.max_stale,
        node_ttl_s=int(dns.node_ttl),
        service_ttl_s={name: int(ttl) for name, ttl in dns.service_ttl.items()},
        enable_truncate=dns.enable_truncate,
        only_passing=dns.only_passing,
        udp_answer_limit=dns.udp_answer_limit,
        a_record_limit=dns.a_record_limit,
        disable_compression=dns.disable_compression,
        node_meta_txt=dns.enable_additional_node_meta_txt,
        soa_refresh_s=dns.soa.refresh,
        soa_retry_s=dns.soa.retry,
        soa_expire_s=dns.soa.expire,
        soa_min_ttl_s=dns.soa.min_ttl,
        use_cache=dns.use_cache,
        cache_max_age_s=dns.cache_max_age,
        translate_wan_addresses=options.translate_wan_addrs,
    )


def _recursor(text: str) -> tuple[str, int]:
    """`ip`, `ip:port` or `[ip]:port`."""
    host, port = text, str(DNS_PORT)
    if text.startswith("["):
        host, _, rest = text[1:].partition("]")
        port = rest.removeprefix(":") or port
    elif text.count(":") == 1:
        host, _, port = text.partition(":")
    try:
        return str(ipaddress.ip_address(host)), int(port)
    except ValueError:
        raise ConfigError(f"Invalid recursor address: {text}") from None
