"""Judging options and filling in what follows from others. Error texts are Consul's (1.10.11, measured).

`validate` gives options that an agent can be started with, or raises ConfigError with one line for the operator.
Looks at this host only through the interface list and the host name that it is given.
"""

from __future__ import annotations

import base64
import binascii
import ipaddress
import re
from collections.abc import Sequence
from dataclasses import replace

from pyconsul_agent.config.addresses import expand, parse_ip, private_ipv4, public_ipv6
from pyconsul_agent.config.options import Options, Performance, Resolved
from pyconsul_agent.env.base import InterfaceAddress
from pyconsul_agent.errors import ConfigError

LOG_LEVELS = ("TRACE", "DEBUG", "INFO", "WARN", "ERR", "ERROR")
LOG_FORMATS = ("classic", "modern", "json")
META_PAIRS_MAX, META_KEY_MAX, META_VALUE_MAX = 64, 128, 512
ANY_ADDRESSES = ("0.0.0.0", "::", "[::]")  # noqa: S104

RAFT_HEARTBEAT_S, RAFT_ELECTION_S, RAFT_LEASE_S = 1.0, 1.0, 0.5
"""Raft's times before the multiplier."""

DEV_RAFT_S = (0.035, 0.052, 0.020)

BOOTSTRAP_EXPECT_1 = "BootstrapExpect is set to 1; this is the same as Bootstrap mode."
DOCUMENTATION = "See https://www.consul.io/docs/internals/consensus.html#deployment-table"


def validate(options: Options, interfaces: Sequence[InterfaceAddress], hostname: str) -> Options:
    """Checked and completed options. Raises ConfigError."""
    options = _identity(options, hostname)
    options = _addresses(options, interfaces)
    options = _bootstrap(options)
    _numbers(options)
    _security(options)
    _unique_addresses(options)
    return _defaults(options)


def start_warnings(options: Options) -> list[str]:
    """Every warning of a configuration, as `validate` prints them and 1.10 logs them, the bootstrap ones last.

    The agent logs the last kinds as events (`bootstrap_warning`, `expect_warning`), the rest are `options.warnings`.
    """
    warnings = list(options.warnings)
    if options.bootstrap:
        warnings.append("bootstrap = true: do not enable unless necessary")
    if options.bootstrap_expect > 0:
        warnings.append(f"bootstrap_expect > 0: expecting {options.bootstrap_expect} servers")
    return warnings


def _warn(options: Options, text: str) -> Options:
    return replace(options, warnings=(*options.warnings, text))


# --- identity ------------------------------------------------------------------------------------------------------


def _identity(options: Options, hostname: str) -> Options:
    if not options.data_dir and not options.dev_mode:
        raise ConfigError("data_dir cannot be empty")
    datacenter = options.datacenter.lower()
    if not re.fullmatch(r"[a-z0-9_-]+", datacenter):
        shown = f'"{datacenter}"'
        raise ConfigError(
            f"datacenter can only contain lowercase alphanumeric, - or _ characters. received: {shown}"
            if datacenter
            else "datacenter cannot be empty"
        )
    name = options.node_name.strip() or hostname.strip()
    if not name:
        raise ConfigError("node_name cannot be empty")
    domain = options.domain.strip(".").lower() + "."
    alt_domain = f"{options.alt_domain.strip('.').lower()}." if options.alt_domain.strip(".") else ""
    reserved = ("service", "connect", "node", "query", "addr", datacenter)
    if alt_domain and alt_domain.split(".")[0] in reserved:
        raise ConfigError(f"alt_domain cannot start with {{{','.join(reserved)}}}")
    options = replace(
        options,
        node_name=name,
        datacenter=datacenter,
        domain=domain,
        alt_domain=alt_domain,
        primary_datacenter=options.primary_datacenter.lower() or datacenter,
        node_id=options.node_id.lower(),
    )
    if not re.fullmatch(r"[A-Za-z0-9\-]+", name):
        options = _warn(
            options,
            f'Node name "{name}" will not be discoverable via DNS due to invalid characters. '
            "Valid characters include all alpha-numerics and dashes.",
        )
    elif len(name) > 63:
        options = _warn(
            options,
            f'Node name "{name}" will not be discoverable via DNS due to it being too long. '
            "Valid lengths are between 1 and 63 bytes.",
        )
    _node_meta(options)
    return options


def _node_meta(options: Options) -> None:
    if len(options.node_meta) > META_PAIRS_MAX:
        raise ConfigError(f"node_meta invalid: Node metadata cannot contain more than {META_PAIRS_MAX} key/value pairs")
    for key, value in options.node_meta.items():
        reason = ""
        if not key:
            reason = "Key cannot be blank"
        elif not re.fullmatch(r"[a-zA-Z0-9_-]+", key):
            reason = "Key contains invalid characters"
        elif len(key) > META_KEY_MAX:
            reason = f"Key is too long (limit: {META_KEY_MAX} characters)"
        elif key.startswith("consul-"):
            reason = "Key prefix 'consul-' is reserved for internal use"
        elif len(value) > META_VALUE_MAX:
            reason = f"Value is too long (limit: {META_VALUE_MAX} characters)"
        if reason:
            raise ConfigError(f"node_meta invalid: Couldn't load metadata pair ('{key}', '{value}'): {reason}")


# --- addresses -----------------------------------------------------------------------------------------------------


def _one_ip(name: str, text: str, interfaces: Sequence[InterfaceAddress], *, hint: str = "") -> str:
    """The single IP of an option; an unusable text counts as empty (measured)."""
    found = [part.strip("[]") for part in expand(text, interfaces).split()]
    if len(found) > 1:
        raise ConfigError(f"{name} cannot contain multiple addresses.{hint}")
    if not found or parse_ip(found[0]) is None:
        raise ConfigError(f"{name} cannot be empty")
    return found[0]


def _optional_ip(name: str, text: str, interfaces: Sequence[InterfaceAddress], fallback: str) -> str:
    return _one_ip(name, text, interfaces) if text.strip() else fallback


def _listen(
    name: str, text: str, interfaces: Sequence[InterfaceAddress], fallback: tuple[str, ...], *, unix: bool
) -> tuple[str, ...]:
    found = tuple(part if part.startswith("unix://") else part.strip("[]") for part in expand(text, interfaces).split())
    for part in found:
        if part.startswith("unix://"):
            if not unix:
                raise ConfigError(f"{name} address cannot be a unix socket")
        elif parse_ip(part) is None:
            raise ConfigError(f"{name}: invalid ip address: {part}")
    return found or fallback


def _addresses(options: Options, interfaces: Sequence[InterfaceAddress]) -> Options:
    bind = _one_ip("bind_addr", options.bind_addr, interfaces, hint=" Use 'addresses.{dns,http,https}' instead.")
    family = "ipv6" if ":" in bind else "ipv4"
    own_lan = options.advertise_addr_ipv6 if family == "ipv6" else options.advertise_addr_ipv4
    own_wan = options.advertise_addr_wan_ipv6 if family == "ipv6" else options.advertise_addr_wan_ipv4
    advertise = _optional_ip("advertise_addr", options.advertise_addr or own_lan, interfaces, bind)
    if advertise in ANY_ADDRESSES:
        if options.advertise_addr:
            raise ConfigError("Advertise address cannot be 0.0.0.0, :: or [::]")
        advertise = public_ipv6(interfaces) if family == "ipv6" else private_ipv4(interfaces)
    advertise_wan = _optional_ip("advertise_addr_wan", options.advertise_addr_wan or own_wan, interfaces, advertise)
    if advertise_wan in ANY_ADDRESSES:
        raise ConfigError("Advertise WAN address cannot be 0.0.0.0, :: or [::]")
    client = _listen("client_addr", options.client_addr, interfaces, ("127.0.0.1",), unix=True)
    given = options.addresses
    resolved = Resolved(
        bind=bind,
        advertise=advertise,
        advertise_wan=advertise_wan,
        serf_lan_bind=_optional_ip("serf_lan", options.serf_lan, interfaces, bind),
        serf_wan_bind=_optional_ip("serf_wan", options.serf_wan, interfaces, bind),
        client=client,
        dns=_listen("DNS", given.dns, interfaces, client, unix=False),
        http=_listen("HTTP", given.http, interfaces, client, unix=True),
        https=_listen("HTTPS", given.https, interfaces, client, unix=True),
        grpc=_listen("gRPC", given.grpc, interfaces, client, unix=True),
        rpc=_listen("RPC", given.rpc, interfaces, client, unix=True),
    )
    for address in options.recursors:
        if address.partition("%")[0] in ANY_ADDRESSES:
            raise ConfigError("DNS recursor address cannot be 0.0.0.0, :: or [::]")
    return replace(options, resolved=resolved, recursors=tuple(dict.fromkeys(options.recursors)))


def _unique_addresses(options: Options) -> None:
    """No two listeners on one TCP address."""
    taken: dict[str, str] = {}
    resolved, ports = options.resolved, options.ports

    def take(name: str, ips: Sequence[str], port: int) -> None:
        if port <= 0:
            return
        for ip in ips:
            address = ip if ip.startswith("unix://") else f"[{ip}]:{port}" if ":" in ip else f"{ip}:{port}"
            if address in taken:
                raise ConfigError(f"{name} address {address} already configured for {taken[address]}")
            taken[address] = name

    take("DNS", resolved.dns, ports.dns)
    take("HTTP", resolved.http, ports.http)
    take("HTTPS", resolved.https, ports.https)
    take("RPC", resolved.rpc, ports.rpc)
    take("RPC Advertise", (resolved.advertise,), ports.server)
    take("Serf Advertise LAN", (resolved.advertise,), ports.serf_lan)
    take("Serf Advertise WAN", (resolved.advertise_wan,), ports.serf_wan)


# --- the rest ------------------------------------------------------------------------------------------------------


def _bootstrap(options: Options) -> Options:
    expect = options.bootstrap_expect
    if expect > 0 and options.dev_mode:
        raise ConfigError("'bootstrap_expect > 0' not allowed in dev mode")
    if options.bootstrap and not options.server:
        raise ConfigError("'bootstrap = true' requires 'server = true'")
    if expect < 0:
        raise ConfigError(f"bootstrap_expect cannot be {expect}. Must be greater than or equal to zero")
    if expect > 0 and not options.server:
        raise ConfigError("'bootstrap_expect > 0' requires 'server = true'")
    if expect > 0 and options.bootstrap:
        raise ConfigError("'bootstrap_expect > 0' and 'bootstrap = true' are mutually exclusive")
    if expect == 1:
        return replace(_warn(options, BOOTSTRAP_EXPECT_1), bootstrap=True, bootstrap_expect=0)
    if expect == 2:
        return _warn(
            options,
            f"bootstrap_expect = 2: A cluster with 2 servers will provide no failure tolerance. {DOCUMENTATION}",
        )
    if expect > 2 and expect % 2 == 0:
        return _warn(
            options,
            "bootstrap_expect is even number: A cluster with an even number of servers does not achieve optimum "
            f"fault tolerance. {DOCUMENTATION}",
        )
    return options


def _numbers(options: Options) -> None:
    multiplier = options.performance.raft_multiplier
    if not 1 <= multiplier <= 10:
        raise ConfigError(f"performance.raft_multiplier cannot be {multiplier}. Must be between 1 and 10")
    for name in ("dns", "http", "https", "grpc", "rpc", "serf_lan", "serf_wan", "server"):
        port = getattr(options.ports, name)
        if port > 65535:
            raise ConfigError(f"ports.{name}: invalid port: {port}")
    if options.raft_protocol != 3:
        raise ConfigError(f"raft_protocol version {options.raft_protocol} is not supported by this version of Consul")
    if not 2 <= options.protocol <= 3:
        side = "low" if options.protocol < 2 else "high"
        raise ConfigError(f"Protocol version '{options.protocol}' too {side}. Must be in range: [2, 3]")
    if options.check_output_max_size < 1:
        raise ConfigError(
            "check_output_max_size must be positive, to discard check output use the discard_check_output flag"
        )
    for name in ("entry_fetch_max_burst", "entry_fetch_rate"):
        if not (given := getattr(options.cache, name)) > 0:
            raise ConfigError(f"cache.{name} must be strictly positive, was: {given:g}")
    if options.dns_config.udp_answer_limit < 0:
        raise ConfigError(
            f"dns_config.udp_answer_limit cannot be {options.dns_config.udp_answer_limit}. "
            "Must be greater than or equal to zero"
        )
    if options.dns_config.a_record_limit < 0:
        raise ConfigError(
            f"dns_config.a_record_limit cannot be {options.dns_config.a_record_limit}. "
            "Must be greater than or equal to zero"
        )
    if options.log_level.upper() not in LOG_LEVELS:
        raise ConfigError(f"Invalid log level: {options.log_level}. Valid log levels are: [{' '.join(LOG_LEVELS)}]")
    if options.log_format not in LOG_FORMATS:
        raise ConfigError(f"Invalid log format: {options.log_format}. Valid log formats are: [{' '.join(LOG_FORMATS)}]")


def _security(options: Options) -> None:
    if options.encrypt:
        decode_key(options.encrypt)
    if options.acl.default_policy not in ("allow", "deny"):
        raise ConfigError(f"Unsupported default ACL policy: {options.acl.default_policy}")
    if options.auto_encrypt.tls and options.server:
        raise ConfigError("auto_encrypt.tls can only be used on a client.")
    if options.auto_encrypt.allow_tls and not options.server:
        raise ConfigError("auto_encrypt.allow_tls can only be used on a server.")
    tls = options.tls
    if (tls.verify_incoming or tls.verify_incoming_rpc) and not (tls.ca_file or tls.ca_path):
        raise ConfigError("VerifyIncoming set but no CA certificates were provided")
    for key in ("serf_lan_allowed_cidrs", "serf_wan_allowed_cidrs", "dns_allow_recursion"):
        for network in getattr(options, key):
            _cidr(key, network)


def _cidr(key: str, text: str) -> None:
    """An entry that were ignored would let in, or keep out, the wrong members."""
    try:
        if "/" not in text:
            raise ValueError
        ipaddress.ip_network(text, strict=False)
    except ValueError:
        raise ConfigError(f"{key}: invalid CIDR address: {text}") from None


def decode_key(text: str) -> bytes:
    """The gossip key of a base64 text: 16, 24 or 32 octets. Raises ConfigError."""
    try:
        key = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        illegal = re.search(r"[^A-Za-z0-9+/]", text.rstrip("="))
        offset = illegal.start() if illegal else len(text) // 4 * 4
        raise ConfigError(f"encrypt has invalid key: illegal base64 data at input byte {offset}") from None
    if len(key) not in (16, 24, 32):
        raise ConfigError("encrypt has invalid key: key size must be 16, 24 or 32 bytes")
    return key


def _defaults(options: Options) -> Options:
    """What depends on the mode, and the raft times after the multiplier."""
    leave, skip = options.leave_on_terminate, options.skip_leave_on_interrupt
    return replace(
        options,
        leave_on_terminate=not options.server if leave is None else leave,
        skip_leave_on_interrupt=options.server if skip is None else skip,
        enable_local_script_checks=options.enable_local_script_checks or options.enable_script_checks,
        log_format="json" if options.log_json else options.log_format,
        log_json=options.log_json or options.log_format == "json",
        log_level=options.log_level.upper(),
        performance=_performance(options),
        tls=replace(options.tls, verify_outgoing=options.tls.verify_outgoing or options.tls.verify_server_hostname),
    )


def _performance(options: Options) -> Performance:
    multiplier = options.performance.raft_multiplier
    times = DEV_RAFT_S if options.dev_mode else (RAFT_HEARTBEAT_S, RAFT_ELECTION_S, RAFT_LEASE_S)
    return replace(
        options.performance,
        raft_heartbeat_timeout_s=times[0] * multiplier,
        raft_election_timeout_s=times[1] * multiplier,
        raft_leader_lease_timeout_s=times[2] * multiplier,
    )
