"""The configuration as `/v1/agent/self` shows it under `DebugConfig`. Pure.

The keys are those of Consul's runtime configuration, so that programs that look one up find it. Secrets are `hidden`,
also where they are empty. What this agent has no use for is shown with the value that it has in effect.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Any

from pyconsul_agent.config.options import Gossip, Options
from pyconsul_agent.structs.base import duration
from pyconsul_agent.version import CONSUL_REVISION, CONSUL_VERSION
from pyconsul_agent.wire.gotypes import format_duration

HIDDEN = "hidden"
CIRCONUS = (
    "APIApp", "APIURL", "BrokerID", "BrokerSelectTag", "CheckDisplayName", "CheckForceMetricActivation", "CheckID",
    "CheckInstanceID", "CheckSearchTag", "CheckTags", "SubmissionInterval", "SubmissionURL",
)  # fmt: skip
JWT_CONFIG = {
    "BoundAudiences": None, "BoundIssuer": "", "ClaimMappings": None, "ClockSkewLeeway": 0, "ExpirationLeeway": 0,
    "JWKSCACert": "", "JWKSURL": "", "JWTSupportedAlgs": None, "JWTValidationPubKeys": None, "ListClaimMappings": None,
    "NotBeforeLeeway": 0, "OIDCDiscoveryCACert": "", "OIDCDiscoveryURL": "",
}  # fmt: skip


def debug_config(options: Options, node_id: str) -> Mapping[str, Any]:
    """What is in effect, by Consul's names; no secrets."""
    return dict(
        sorted(
            {
                **_identity(options, node_id),
                **_network(options),
                **_joining(options),
                **_security(options),
                **_gossip("LAN", options.gossip_lan),
                **_gossip("WAN", options.gossip_wan),
                **_raft(options),
                **_dns(options),
                **_http(options),
                **_checks(options),
                **_elsewhere(options),
            }.items()
        )
    )


def _time(seconds: float) -> str:
    return format_duration(duration(seconds))


def _tcp(hosts: Sequence[str], port: int, scheme: str = "tcp") -> list[str]:
    return [f"{scheme}://{_bracketed(host)}:{port}" for host in hosts] if port > 0 else []


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _identity(options: Options, node_id: str) -> dict[str, Any]:
    return {
        "Bootstrap": options.bootstrap,
        "BootstrapExpect": options.bootstrap_expect,
        "DataDir": options.data_dir,
        "Datacenter": options.datacenter,
        "DevMode": options.dev_mode,
        "DisableHostNodeID": options.disable_host_node_id,
        "NodeID": node_id,
        "NodeMeta": dict(options.node_meta),
        "NodeName": options.node_name,
        "PidFile": options.pid_file,
        "PrimaryDatacenter": options.primary_datacenter or options.datacenter,
        "PrimaryGateways": [],
        "PrimaryGatewaysInterval": "30s",
        "Revision": CONSUL_REVISION,
        "SegmentLimit": 64,
        "SegmentName": "",
        "SegmentNameLimit": 64,
        "Segments": [],
        "ServerMode": options.server,
        "Version": CONSUL_VERSION,
        "VersionPrerelease": "",
        "ReadReplica": False,
        "EnterpriseRuntimeConfig": {},
    }


def _network(options: Options) -> dict[str, Any]:
    at, ports = options.resolved, options.ports
    lan, wan = at.advertise, at.advertise_wan or at.advertise
    lan_family, wan_family = (6 if ":" in text else 4 for text in (lan, wan))
    tagged = {"lan": lan, f"lan_ipv{lan_family}": lan, "wan": wan, f"wan_ipv{wan_family}": wan}
    has_wan = options.server and ports.serf_wan > 0
    return {
        "AdvertiseAddrLAN": lan,
        "AdvertiseAddrWAN": wan,
        "AdvertiseReconnectTimeout": _time(options.advertise_reconnect_timeout),
        "BindAddr": at.bind,
        "ClientAddrs": list(at.client),
        "GRPCAddrs": _tcp(at.grpc, ports.grpc),
        "GRPCPort": ports.grpc,
        "RPCAdvertiseAddr": f"tcp://{_bracketed(lan)}:{ports.server}",
        "RPCBindAddr": f"tcp://{_bracketed(at.bind)}:{ports.server}",
        "SerfAdvertiseAddrLAN": f"tcp://{_bracketed(lan)}:{ports.serf_lan}",
        "SerfAdvertiseAddrWAN": f"tcp://{_bracketed(wan)}:{ports.serf_wan}" if has_wan else "",
        "SerfAllowedCIDRsLAN": list(options.serf_lan_allowed_cidrs),
        "SerfAllowedCIDRsWAN": list(options.serf_wan_allowed_cidrs),
        "SerfBindAddrLAN": f"tcp://{_bracketed(at.serf_lan_bind)}:{ports.serf_lan}",
        "SerfBindAddrWAN": f"tcp://{_bracketed(at.serf_wan_bind)}:{ports.serf_wan}" if has_wan else "",
        "SerfPortLAN": ports.serf_lan,
        "SerfPortWAN": ports.serf_wan,
        "ServerPort": ports.server,
        "TaggedAddresses": {**options.tagged_addresses, **tagged},
        "TranslateWANAddrs": options.translate_wan_addrs,
        "UnixSocketGroup": options.unix_sockets.group,
        "UnixSocketMode": options.unix_sockets.mode,
        "UnixSocketUser": options.unix_sockets.user,
    }


def _joining(options: Options) -> dict[str, Any]:
    return {
        "LeaveDrainTime": _time(options.performance.leave_drain_time),
        "LeaveOnTerm": bool(options.leave_on_terminate),
        "ReconnectTimeoutLAN": _time(options.reconnect_timeout),
        "ReconnectTimeoutWAN": _time(options.reconnect_timeout_wan),
        "RejoinAfterLeave": options.rejoin_after_leave,
        "RetryJoinIntervalLAN": _time(options.retry_interval),
        "RetryJoinIntervalWAN": _time(options.retry_interval_wan),
        "RetryJoinLAN": list(options.retry_join),
        "RetryJoinMaxAttemptsLAN": options.retry_max,
        "RetryJoinMaxAttemptsWAN": options.retry_max_wan,
        "RetryJoinWAN": list(options.retry_join_wan),
        "SkipLeaveOnInt": bool(options.skip_leave_on_interrupt),
        "StartJoinAddrsLAN": list(options.start_join),
        "StartJoinAddrsWAN": list(options.start_join_wan),
    }


def _security(options: Options) -> dict[str, Any]:
    acl, tls = options.acl, options.tls
    return {
        "ACLDatacenter": options.primary_datacenter or options.datacenter,
        "ACLDefaultPolicy": acl.default_policy,
        "ACLDisabledTTL": "2m0s",
        "ACLDownPolicy": acl.down_policy,
        "ACLEnableKeyListPolicy": acl.enable_key_list_policy,
        "ACLMasterToken": HIDDEN,
        "ACLPolicyTTL": _time(acl.policy_ttl),
        "ACLRoleTTL": _time(acl.role_ttl),
        "ACLTokenReplication": acl.enable_token_replication,
        "ACLTokenTTL": _time(acl.token_ttl),
        "ACLTokens": {
            "ACLAgentMasterToken": HIDDEN,
            "ACLAgentToken": HIDDEN,
            "ACLDefaultToken": HIDDEN,
            "ACLReplicationToken": HIDDEN,
            "DataDir": options.data_dir,
            "EnablePersistence": acl.enable_token_persistence,
            "EnterpriseConfig": {},
        },
        "ACLsEnabled": acl.enabled,
        "AutoConfig": _auto_config(),
        "AutoEncryptAllowTLS": options.auto_encrypt.allow_tls,
        "AutoEncryptDNSSAN": list(options.auto_encrypt.dns_san),
        "AutoEncryptIPSAN": list(options.auto_encrypt.ip_san),
        "AutoEncryptTLS": options.auto_encrypt.tls,
        "CAFile": tls.ca_file,
        "CAPath": tls.ca_path,
        "CertFile": tls.cert_file,
        "DisableKeyringFile": options.disable_keyring_file,
        "EncryptKey": HIDDEN,
        "EncryptVerifyIncoming": options.encrypt_verify_incoming,
        "EncryptVerifyOutgoing": options.encrypt_verify_outgoing,
        "KeyFile": HIDDEN,
        "ServerName": tls.server_name,
        "TLSCipherSuites": [name for name in tls.tls_cipher_suites.split(",") if name],
        "TLSMinVersion": tls.tls_min_version,
        "TLSPreferServerCipherSuites": tls.tls_prefer_server_cipher_suites,
        "VerifyIncoming": tls.verify_incoming,
        "VerifyIncomingHTTPS": tls.verify_incoming_https,
        "VerifyIncomingRPC": tls.verify_incoming_rpc,
        "VerifyOutgoing": tls.verify_outgoing,
        "VerifyServerHostname": tls.verify_server_hostname,
    }


def _auto_config() -> dict[str, Any]:
    method = {
        "ACLAuthMethodEnterpriseFields": {}, "Config": dict(JWT_CONFIG), "Description": "", "DisplayName": "",
        "EnterpriseMeta": {}, "MaxTokenTTL": "0s", "Name": "Auto Config Authorizer",
        "RaftIndex": {"CreateIndex": 0, "ModifyIndex": 0}, "TokenLocality": "", "Type": "jwt",
    }  # fmt: skip
    return {
        "Authorizer": {"AllowReuse": False, "AuthMethod": method, "ClaimAssertions": [], "Enabled": False},
        "DNSSANs": [],
        "Enabled": False,
        "IPSANs": [],
        "IntroToken": HIDDEN,
        "IntroTokenFile": "",
        "ServerAddresses": [],
    }


def _gossip(pool: str, gossip: Gossip) -> dict[str, Any]:
    return {
        f"Gossip{pool}GossipInterval": _time(gossip.gossip_interval),
        f"Gossip{pool}GossipNodes": gossip.gossip_nodes,
        f"Gossip{pool}ProbeInterval": _time(gossip.probe_interval),
        f"Gossip{pool}ProbeTimeout": _time(gossip.probe_timeout),
        f"Gossip{pool}RetransmitMult": gossip.retransmit_mult,
        f"Gossip{pool}SuspicionMult": gossip.suspicion_mult,
    }


def _raft(options: Options) -> dict[str, Any]:
    pilot, performance, limits = options.autopilot, options.performance, options.limits
    return {
        "AutopilotCleanupDeadServers": pilot.cleanup_dead_servers,
        "AutopilotDisableUpgradeMigration": False,
        "AutopilotLastContactThreshold": _time(pilot.last_contact_threshold),
        "AutopilotMaxTrailingLogs": pilot.max_trailing_logs,
        "AutopilotMinQuorum": pilot.min_quorum,
        "AutopilotRedundancyZoneTag": "",
        "AutopilotServerStabilizationTime": _time(pilot.server_stabilization_time),
        "AutopilotUpgradeVersionTag": "",
        "ConsulRaftElectionTimeout": _time(performance.raft_election_timeout_s),
        "ConsulRaftHeartbeatTimeout": _time(performance.raft_heartbeat_timeout_s),
        "ConsulRaftLeaderLeaseTimeout": _time(performance.raft_leader_lease_timeout_s),
        "ConsulServerHealthInterval": "2s",
        "RPCConfig": {"EnableStreaming": False},
        "RPCHandshakeTimeout": _time(limits.rpc_handshake_timeout),
        "RPCHoldTimeout": _time(performance.rpc_hold_timeout),
        "RPCMaxBurst": limits.rpc_max_burst,
        "RPCMaxConnsPerClient": limits.rpc_max_conns_per_client,
        "RPCProtocol": options.protocol,
        "RPCRateLimit": limits.rpc_rate,
        "RaftProtocol": options.raft_protocol,
        "RaftSnapshotInterval": _time(options.raft_snapshot_interval),
        "RaftSnapshotThreshold": options.raft_snapshot_threshold,
        "RaftTrailingLogs": options.raft_trailing_logs,
        "SessionTTLMin": _time(options.session_ttl_min),
        "UseStreamingBackend": False,
    }


def _dns(options: Options) -> dict[str, Any]:
    dns, hosts, port = options.dns_config, options.resolved.dns, options.ports.dns
    return {
        "DNSARecordLimit": dns.a_record_limit,
        "DNSAddrs": _tcp(hosts, port) + _tcp(hosts, port, "udp"),
        "DNSAllowStale": dns.allow_stale,
        "DNSAltDomain": options.alt_domain,
        "DNSCacheMaxAge": _time(dns.cache_max_age),
        "DNSDisableCompression": dns.disable_compression,
        "DNSDomain": options.domain,
        "DNSEnableTruncate": dns.enable_truncate,
        "DNSMaxStale": _time(dns.max_stale),
        "DNSNodeMetaTXT": dns.enable_additional_node_meta_txt,
        "DNSNodeTTL": _time(dns.node_ttl),
        "DNSOnlyPassing": dns.only_passing,
        "DNSPort": port,
        "DNSRecursorTimeout": _time(dns.recursor_timeout),
        "DNSRecursors": list(options.recursors),
        "DNSSOA": {
            "Expire": dns.soa.expire,
            "Minttl": dns.soa.min_ttl,
            "Refresh": dns.soa.refresh,
            "Retry": dns.soa.retry,
        },
        "DNSServiceTTL": {name: _time(ttl) for name, ttl in dns.service_ttl.items()},
        "DNSUDPAnswerLimit": dns.udp_answer_limit,
        "DNSUseCache": dns.use_cache,
    }


def _http(options: Options) -> dict[str, Any]:
    http, ports, at, ui = options.http_config, options.ports, options.resolved, options.ui_config
    return {
        "AllowWriteHTTPFrom": list(http.allow_write_http_from),
        "DisableHTTPUnprintableCharFilter": options.disable_http_unprintable_char_filter,
        "DiscoveryMaxStale": _time(options.discovery_max_stale),
        "HTTPAddrs": _tcp(at.http, ports.http),
        "HTTPBlockEndpoints": list(http.block_endpoints),
        "HTTPMaxConnsPerClient": options.limits.http_max_conns_per_client,
        "HTTPMaxHeaderBytes": http.max_header_bytes,
        "HTTPPort": ports.http,
        "HTTPResponseHeaders": dict(http.response_headers),
        "HTTPSAddrs": _tcp(at.https, ports.https),
        "HTTPSHandshakeTimeout": _time(options.limits.https_handshake_timeout),
        "HTTPSPort": ports.https,
        "HTTPUseCache": http.use_cache,
        "KVMaxValueSize": options.limits.kv_max_value_size,
        "TxnMaxReqLen": options.limits.txn_max_req_len,
        "UIConfig": {
            "ContentPath": ui.content_path,
            "DashboardURLTemplates": dict(ui.dashboard_url_templates),
            "Dir": ui.dir,
            "Enabled": ui.enabled,
            "MetricsProvider": ui.metrics_provider,
            "MetricsProviderFiles": list(ui.metrics_provider_files),
            "MetricsProviderOptionsJSON": ui.metrics_provider_options_json,
            "MetricsProxy": {"AddHeaders": [], "BaseURL": "", "PathAllowlist": []},
        },
    }


def _checks(options: Options) -> dict[str, Any]:
    ports = options.ports
    return {
        "CheckDeregisterIntervalMin": "1m0s",
        "CheckOutputMaxSize": options.check_output_max_size,
        "CheckReapInterval": "30s",
        "CheckUpdateInterval": _time(options.check_update_interval),
        "Checks": [_without_secrets(block) for block in options.checks],
        "ConnectSidecarMaxPort": ports.sidecar_max_port,
        "ConnectSidecarMinPort": ports.sidecar_min_port,
        "DiscardCheckOutput": options.discard_check_output,
        "EnableAgentTLSForChecks": options.enable_agent_tls_for_checks,
        "EnableLocalScriptChecks": options.enable_local_script_checks,
        "EnableRemoteScriptChecks": options.enable_script_checks,
        "ExposeMaxPort": ports.expose_max_port,
        "ExposeMinPort": ports.expose_min_port,
        "Services": [_without_secrets(block) for block in options.services],
        "Watches": [_without_secrets(block) for block in options.watches],
    }


def _without_secrets(value: Any) -> Any:
    """A definition with its tokens and the headers of its checks hidden."""
    if isinstance(value, Mapping):
        return {
            key: HIDDEN if key.lower() in ("token", "header") else _without_secrets(item) for key, item in value.items()
        }
    if isinstance(value, list | tuple):
        return [_without_secrets(item) for item in value]
    return value


def _elsewhere(options: Options) -> dict[str, Any]:
    return {
        "AEInterval": "1m0s",
        "Cache": {"EntryFetchMaxBurst": 2, "EntryFetchRate": sys.float_info.max, "Logger": None},
        "ConfigEntryBootstrap": [],
        "ConnectCAConfig": {},
        "ConnectCAProvider": options.connect.ca_provider if options.connect.enabled else "",
        "ConnectEnabled": options.connect.enabled,
        "ConnectMeshGatewayWANFederationEnabled": options.connect.enable_mesh_gateway_wan_federation,
        "ConnectTestCALeafRootChangeSpread": "0s",
        "ConsulCoordinateUpdateBatchSize": 128,
        "ConsulCoordinateUpdateMaxBatches": 5,
        "ConsulCoordinateUpdatePeriod": "5s",
        "DefaultQueryTime": _time(options.default_query_time),
        "DisableAnonymousSignature": options.disable_anonymous_signature,
        "DisableCoordinates": options.disable_coordinates,
        "DisableRemoteExec": options.disable_remote_exec,
        "DisableUpdateCheck": options.disable_update_check,
        "EnableCentralServiceConfig": options.enable_central_service_config,
        "EnableDebug": options.enable_debug,
        "Logging": {
            "EnableSyslog": options.enable_syslog,
            "LogFilePath": options.log_file,
            "LogJSON": options.log_json,
            "LogLevel": options.log_level,
            "LogRotateBytes": options.log_rotate_bytes,
            "LogRotateDuration": _time(options.log_rotate_duration),
            "LogRotateMaxFiles": options.log_rotate_max_files,
            "Name": "",
            "SyslogFacility": options.syslog_facility,
        },
        "MaxQueryTime": _time(options.max_query_time),
        "SyncCoordinateIntervalMin": "15s",
        "SyncCoordinateRateTarget": 64,
        "Telemetry": _telemetry(options),
    }


def _telemetry(options: Options) -> dict[str, Any]:
    telemetry = options.telemetry
    rules = telemetry.prefix_filter
    return {
        "AllowedPrefixes": [rule[1:] for rule in rules if rule[:1] == "+"],
        "BlockedPrefixes": [rule[1:] for rule in rules if rule[:1] == "-"],
        "CirconusAPIToken": HIDDEN,
        **{f"Circonus{name}": "" for name in CIRCONUS},
        "Disable": False,
        "DisableCompatOneNine": telemetry.disable_compat_1_9,
        "DisableHostname": telemetry.disable_hostname,
        "DogstatsdAddr": telemetry.dogstatsd_addr,
        "DogstatsdTags": list(telemetry.dogstatsd_tags),
        "FilterDefault": telemetry.filter_default,
        "MetricsPrefix": telemetry.metrics_prefix,
        "PrometheusOpts": {
            "CounterDefinitions": [],
            "Expiration": _time(telemetry.prometheus_retention_time),
            "GaugeDefinitions": [],
            "Name": telemetry.metrics_prefix,
            "Registerer": None,
            "SummaryDefinitions": [],
        },
        "StatsdAddr": telemetry.statsd_address,
        "StatsiteAddr": telemetry.statsite_address,
    }
