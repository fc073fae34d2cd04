"""`services register|deregister`: services of this agent, from files in the agent's own form or from flags."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pyconsul_agent.cli.command import Command, Context
from pyconsul_agent.cli.flags import Flag
from pyconsul_agent.cli.http_api import APIError
from pyconsul_agent.errors import ConfigError
from pyconsul_agent.wire.gotypes import parse_int, quote

Body = dict[str, Any]

OPAQUE = {"config", "meta", "header", "tagged_addresses", "envoy_config"}
"""Maps whose keys are the user's."""
SINGLE = {
    "check", "config", "connect", "expose", "header", "mesh_gateway", "meta", "proxy", "service", "sidecar_service",
    "tagged_addresses", "transparent_proxy", "weights",
}  # fmt: skip
"""Blocks that HCL gives as lists of one, and that are single objects."""
SPECIAL_NAMES = {
    "id": "ID", "args": "Args", "scriptargs": "Args", "script_args": "Args", "http": "HTTP", "tcp": "TCP",
    "ttl": "TTL", "grpc": "GRPC", "grpc_use_tls": "GRPCUseTLS", "h2ping": "H2PING",
    "tls_server_name": "TLSServerName", "tls_skip_verify": "TLSSkipVerify", "tlsskipverify": "TLSSkipVerify",
    "docker_container_id": "DockerContainerID", "dockercontainerid": "DockerContainerID", "service_id": "ServiceID",
    "destination_service_id": "DestinationServiceID", "check_id": "CheckID",
    "deregistercriticalserviceafter": "DeregisterCriticalServiceAfter",
}  # fmt: skip


# --- register ------------------------------------------------------------------------------------------------------


def run_register(context: Context, files: Sequence[str]) -> int:
    """Register one after the other; stops at the first error."""
    if not files and not context.text("name"):
        return context.complain("Service registration requires at least one argument or flags.")
    if files and context.text("name"):
        return context.complain("Service registration requires arguments or -id, not both.")
    try:
        services = list(_from_files(context, files)) if files else [_from_flags(context)]
    except ValueError as error:
        return context.complain(f"Invalid Tagged Address: {error}")
    except ConfigError as error:
        return context.complain(f"Error: {error}")
    api = context.api()
    for service in services:
        name = str(service.get("Name", ""))
        try:
            api.put("/v1/agent/service/register", None, json.dumps(service).encode()).expect_ok()
        except APIError as error:
            return context.complain(f"Error registering service {quote(name)}: {error}")
        context.say(f"Registered service: {name}")
    return 0


def _from_flags(context: Context) -> Body:
    """What the flags say. Raises ValueError for an address that is none."""
    tags = context.values["tag"]
    body: Body = {
        "Kind": context.text("kind"),
        "ID": context.text("id"),
        "Name": context.text("name"),
        "Tags": tags if isinstance(tags, list) else [],
        "Port": context.number("port"),
        "Address": context.text("address"),
        "SocketPath": context.text("socket"),
        "Meta": context.pairs("meta"),
        "TaggedAddresses": {key: _address(text) for key, text in context.pairs("tagged-address").items()},
    }
    return {key: value for key, value in body.items() if value}


def _address(text: str) -> Body:
    """`host`, `host:port`, `[v6]:port`. Raises ValueError."""
    if text.startswith("["):
        host, bracket, rest = text[1:].partition("]")
        if not bracket or (rest and not rest.startswith(":")):
            raise ValueError(f"address {text}: missing ']' in address")
        return {"Address": host, "Port": parse_int(rest[1:]) if rest else 0}
    host, colon, port = text.rpartition(":")
    if not colon or ":" in host:
        return {"Address": text}
    return {"Address": host, "Port": parse_int(port)}


def _from_files(context: Context, files: Sequence[str]) -> Iterator[Body]:
    """The services that configuration files define, as the HTTP API takes them. Raises ConfigError."""
    from pyconsul_agent.config.sources import Sources, load

    options = load(Sources(paths=tuple(files), environ=context.environ), context.make_env().files)
    for block in options.services:
        yield body_of(block)


def body_of(block: Mapping[str, Any]) -> Body:
    """A definition of a file as a body of the HTTP API: CamelCase names, lists of one unpacked."""
    return {_go_name(key): _converted(key.lower(), value) for key, value in block.items()}


def _converted(key: str, value: Any) -> Any:
    if key in SINGLE and isinstance(value, list):
        value = value[0] if len(value) == 1 else value
    if isinstance(value, Mapping):
        if key == "tagged_addresses":
            return {name: body_of(_only(each)) for name, each in value.items()}
        return dict(value) if key in OPAQUE else body_of(value)
    if isinstance(value, list):
        return [body_of(each) if isinstance(each, Mapping) else each for each in value]
    return value


def _only(value: Any) -> Any:
    return value[0] if isinstance(value, list) and len(value) == 1 else value


def _go_name(key: str) -> str:
    lower = key.lower()
    return SPECIAL_NAMES.get(lower) or "".join(part[:1].upper() + part[1:] for part in lower.split("_"))


# --- deregister ----------------------------------------------------------------------------------------------------


def run_deregister(context: Context, files: Sequence[str]) -> int:
    """Deregister by id; services of files by their id or name."""
    identity = context.text("id")
    if not files and not identity:
        return context.complain("Service deregistration requires at least one argument or -id.")
    if files and identity:
        return context.complain("Service deregistration requires arguments or -id, not both.")
    try:
        services = list(_from_files(context, files)) if files else [{"ID": identity}]
    except ConfigError as error:
        return context.complain(f"Error: {error}")
    api = context.api()
    for service in services:
        each = str(service.get("ID") or service.get("Name", ""))
        try:
            api.put(f"/v1/agent/service/deregister/{each}").expect_ok()
        except APIError as error:
            # compat: 1.10.11 says `registering`, and names the name, also where only the id was given.
            return context.complain(f"Error registering service {quote(str(service.get('Name', '')))}: {error}")
        context.say(f"Deregistered service: {each}")
    return 0


REGISTER = Command(
    "consul services register [options] [FILE...]",
    "Registers services with the agent, from configuration files or from flags. They stay until they are deregistered.",
    run_register,
    (
        Flag("address", "string", "Address of the service."),
        Flag("id", "string", "ID of the service; unset, its name."),
        Flag("kind", "string", "Kind of the service."),
        Flag("meta", "pairs", "Metadata pair key=value. May be given several times."),
        Flag("name", "string", "Name of the service."),
        Flag("port", "int", "Port of the service.", 0),
        Flag("socket", "string", "Path of the service's Unix socket, instead of address and port."),
        Flag("tag", "strings", "Tag of the service. May be given several times."),
        Flag("tagged-address", "pairs", "Further address, name=address:port. May be given several times."),
    ),
    groups="CSN",
)
DEREGISTER = Command(
    "consul services deregister [options] [FILE...]",
    "Deregisters services from the agent, by -id or those of configuration files.",
    run_deregister,
    (Flag("id", "string", "ID of the service."),),
    groups="CSN",
)
