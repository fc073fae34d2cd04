"""The start-up screen: modern (1.10) before the log, classic (0.5) after the listeners are up.

Classic order: `opening`, then what the log's console lines say of joining, then `banner`, then the held-back log.
Modern order: `banner`, then the log. With JSON lines there is no screen at all.
"""

from __future__ import annotations

from pyconsul_agent.config.options import Options
from pyconsul_agent.version import CONSUL_VERSION

_TAIL = "\n==> Log data will now stream in as it occurs:\n\n"


def opening(options: Options) -> str:
    """The first lines of the classic screen; empty for the other formats."""
    if options.log_format != "classic":
        return ""
    return "==> Starting Consul agent...\n==> Starting Consul agent RPC...\n"


def banner(options: Options, *, node_id: str, encrypted: bool) -> str:
    """The screen of a configuration; empty when lines are JSON. `encrypted`: gossip has keys, perhaps from a file."""
    if options.log_format == "json":
        return ""
    return _classic(options, encrypted) if options.log_format == "classic" else _modern(options, node_id, encrypted)


def _go(value: object) -> str:
    return "true" if value else "false"


def _port(port: int) -> int:
    return port if port > 0 else -1


def _rows(rows: list[tuple[str, str]], width: int) -> str:
    return "".join(f"{name:>{width}}: {value}\n" for name, value in rows)


def _modern(options: Options, node_id: str, encrypted: bool) -> str:
    ports, tls = options.ports, options.tls
    segment = "<all>" if options.server else ""
    incoming = tls.verify_incoming or tls.verify_incoming_rpc
    auto_encrypt = options.auto_encrypt.tls or options.auto_encrypt.allow_tls
    rows = [
        ("Version", f"'{CONSUL_VERSION}'"),
        ("Node ID", f"'{node_id}'"),
        ("Node name", f"'{options.node_name}'"),
        ("Datacenter", f"'{options.datacenter}' (Segment: '{segment}')"),
        ("Server", f"{_go(options.server)} (Bootstrap: {_go(options.bootstrap)})"),
        (
            "Client Addr",
            f"[{' '.join(options.resolved.client)}] (HTTP: {_port(ports.http)}, HTTPS: {_port(ports.https)}, "
            f"gRPC: {_port(ports.grpc)}, DNS: {_port(ports.dns)})",
        ),
        ("Cluster Addr", f"{options.resolved.advertise} (LAN: {ports.serf_lan}, WAN: {_port(ports.serf_wan)})"),
        (
            "Encrypt",
            f"Gossip: {_go(encrypted)}, TLS-Outgoing: {_go(tls.verify_outgoing)}, "
            f"TLS-Incoming: {_go(incoming)}, Auto-Encrypt-TLS: {_go(auto_encrypt)}",
        ),
    ]
    return "==> Starting Consul agent...\n" + _rows(rows, 18) + _TAIL


def _classic(options: Options, encrypted: bool) -> str:
    ports, tls = options.ports, options.tls
    rows = [
        ("Node name", f"'{options.node_name}'"),
        ("Datacenter", f"'{options.datacenter}'"),
        ("Server", f"{_go(options.server)} (bootstrap: {_go(options.bootstrap)})"),
        (
            "Client Addr",
            f"{' '.join(options.resolved.client)} (HTTP: {_port(ports.http)}, HTTPS: {_port(ports.https)}, "
            f"DNS: {_port(ports.dns)}, RPC: {_port(ports.rpc)})",
        ),
        ("Cluster Addr", f"{options.resolved.advertise} (LAN: {ports.serf_lan}, WAN: {_port(ports.serf_wan)})"),
        (
            "Gossip encrypt",
            f"{_go(encrypted)}, RPC-TLS: {_go(tls.verify_outgoing)}, TLS-Incoming: {_go(tls.verify_incoming)}",
        ),
        ("Atlas", "<disabled>"),
    ]
    return "==> Consul agent running!\n" + _rows(rows, 18) + _TAIL
