"""`maint`: maintenance mode of the node or of a service; without a switch, what is in it."""

from __future__ import annotations

from collections.abc import Sequence

from pyconsul_agent.cli.command import Command, Context
from pyconsul_agent.cli.flags import Flag
from pyconsul_agent.cli.http_api import API, APIError
from pyconsul_agent.wire.gotypes import quote

NODE_CHECK = "_node_maintenance"
SERVICE_CHECK_PREFIX = "_service_maintenance:"


def run(context: Context, arguments: Sequence[str]) -> int:
    """Switch it, or show it."""
    enable, disable, service = context.on("enable"), context.on("disable"), context.text("service")
    if enable and disable:
        return context.complain("Only one of -enable or -disable may be provided")
    if not enable and context.text("reason"):
        return context.complain("Reason may only be provided with -enable")
    if not enable and not disable and service:
        return context.complain("Service requires either -enable or -disable")
    api = context.api()
    if not enable and not disable:
        return _show(context, api)
    what = "service" if service else "node"
    query = {"enable": "true" if enable else "false"}
    if enable:
        query["reason"] = context.text("reason")
    try:
        api.put(f"/v1/agent/service/maintenance/{service}" if service else "/v1/agent/maintenance", query).expect_ok()
    except APIError as error:
        return context.complain(f"Error {'enabling' if enable else 'disabling'} {what} maintenance: {error}")
    named = f" for {quote(service)}" if service else ""
    context.say(f"{what.capitalize()} maintenance is now {'enabled' if enable else 'disabled'}{named}")
    return 0


def _show(context: Context, api: API) -> int:
    try:
        node = api.get("/v1/agent/self").expect_ok().json()["Config"]["NodeName"]
    except APIError as error:
        return context.complain(f"Error querying Consul agent: {error}")
    try:
        checks = api.get("/v1/agent/checks").expect_ok().json() or {}
    except APIError as error:
        return context.complain(f"Error getting checks: {error}")
    for check_id, check in sorted(checks.items()):
        if check_id == NODE_CHECK:
            context.say(f"Node:\n  Name:   {node}\n  Reason: {check['Notes']}\n")
        elif check_id.startswith(SERVICE_CHECK_PREFIX):
            context.say(f"Service:\n  ID:     {check['ServiceID']}\n  Reason: {check['Notes']}\n")
    return 0


MAINT = Command(
    "consul maint [options]",
    "Takes the node, or with -service one of its services, out of the answers of DNS and health queries, until it is "
    "put back. Survives a restart of the agent. Without -enable or -disable: shows what is in maintenance.",
    run,
    (
        Flag("disable", "bool", "Put it back."),
        Flag("enable", "bool", "Take it out."),
        Flag("reason", "string", "Why; shown as the notes of the check that does it."),
        Flag("service", "string", "ID of a service of this agent; unset, the whole node."),
    ),
    groups="C",
)
