"""`operator autopilot get-config|set-config|state`."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pyconsul_agent.cli.command import Command, Context
from pyconsul_agent.cli.flags import Flag
from pyconsul_agent.cli.http_api import APIError
from pyconsul_agent.wire.gotypes import parse_bool, parse_duration, parse_uint

PATH = "/v1/operator/autopilot/configuration"


def run_get(context: Context, arguments: Sequence[str]) -> int:
    """Print the settings."""
    try:
        config = context.api().get(PATH).expect_ok().json()
    except APIError as error:
        return context.complain(f"Error querying Autopilot configuration: {error}")
    for key in ("CleanupDeadServers", "LastContactThreshold", "MaxTrailingLogs", "MinQuorum",
                "ServerStabilizationTime"):  # fmt: skip
        value = config.get(key, 0)
        context.say(f"{key} = {str(value).lower() if isinstance(value, bool) else value}")
    context.say(f'RedundancyZoneTag = "{config.get("RedundancyZoneTag", "")}"')
    context.say(f"DisableUpgradeMigration = {str(config.get('DisableUpgradeMigration', False)).lower()}")
    context.say(f'UpgradeVersionTag = "{config.get("UpgradeVersionTag", "")}"')
    return 0


# --- set-config ----------------------------------------------------------------------------------------------------


def _duration(text: str) -> str:
    parse_duration(text)
    return text


SETTINGS: dict[str, tuple[str, Callable[[str], Any], str]] = {
    "cleanup-dead-servers": ("CleanupDeadServers", parse_bool, "Remove dead servers when a new one joins."),
    "disable-upgrade-migration": ("DisableUpgradeMigration", parse_bool, "Consul Enterprise."),
    "last-contact-threshold": ("LastContactThreshold", _duration,
                               "How long a healthy server may be without contact to the leader."),
    "max-trailing-logs": ("MaxTrailingLogs", parse_uint, "How many entries a healthy server may be behind."),
    "min-quorum": ("MinQuorum", parse_uint, "Servers that are never removed below."),
    "redundancy-zone-tag": ("RedundancyZoneTag", str, "Consul Enterprise."),
    "server-stabilization-time": ("ServerStabilizationTime", _duration,
                                  "How long a new server must be healthy before it votes."),
    "upgrade-version-tag": ("UpgradeVersionTag", str, "Consul Enterprise."),
}  # fmt: skip
"""Flag -> (key, how its text is read, help). The kinds are Go's, so that a bad value is refused with its words."""


def run_set(context: Context, arguments: Sequence[str]) -> int:
    """Change what the flags name, if nobody else changed the settings meanwhile."""
    changes = {}
    for flag, (key, read, _) in SETTINGS.items():
        if flag in context.given:
            try:
                changes[key] = read(context.text(flag))
            except ValueError as error:
                context.err.write(f'invalid value "{context.text(flag)}" for flag -{flag}: {error}\n')
                context.err.write(context.bad_usage)
                return 1
    api = context.api()
    try:
        current = api.get(PATH).expect_ok().json()
    except APIError as error:
        return context.complain(f"Error querying Autopilot configuration: {error}")
    query = {"cas": str(current.get("ModifyIndex", 0))}
    try:
        written = api.put(PATH, query, json.dumps({**current, **changes}).encode()).expect_ok().body
    except APIError as error:
        return context.complain(f"Error setting Autopilot configuration: {error}")
    if written.strip() != b"true":
        return context.complain("Configuration could not be atomically updated, please try again")
    context.say("Configuration updated!")
    return 0


# --- state ---------------------------------------------------------------------------------------------------------


def run_state(context: Context, arguments: Sequence[str]) -> int:
    """Print how autopilot sees the servers."""
    form = context.text("format")
    if form not in ("pretty", "json"):
        return context.complain(f"Invalid format: {form}")
    try:
        state = context.api().get("/v1/operator/autopilot/state").expect_ok().json()
    except APIError as error:
        return context.complain(f"Error querying Autopilot state: {error}")
    if form == "json":
        context.say(json.dumps(state, indent=4, ensure_ascii=False))
        return 0
    context.say(_pretty(state))
    return 0


def _pretty(state: Mapping[str, Any]) -> str:
    head = (
        ("Healthy", _word(state["Healthy"])),
        ("Failure Tolerance", state["FailureTolerance"]),
        ("Optimistic Failure Tolerance", state.get("OptimisticFailureTolerance", state["FailureTolerance"])),
        ("Leader", state["Leader"]),
    )
    lines = [f"{name + ':':<30}{value}" for name, value in head]
    lines += ["Voters:", *(f"   {voter}" for voter in state["Voters"] or ()), "Servers:"]
    for server_id, server in sorted((state["Servers"] or {}).items()):
        lines.append(f"   {server_id}")
        lines += [f"      {name + ':':<17}{_word(server.get(key, ''))}" for name, key in SERVER_ROWS]
        meta = server.get("Meta") or {}
        if meta:
            lines += ["      Meta", *(f'         "{key}": "{value}"' for key, value in sorted(meta.items()))]
    return "\n".join([*lines, ""])


SERVER_ROWS = (
    ("Name", "Name"), ("Address", "Address"), ("Version", "Version"), ("Status", "Status"), ("Node Type", "NodeType"),
    ("Node Status", "NodeStatus"), ("Healthy", "Healthy"), ("Last Contact", "LastContact"), ("Last Term", "LastTerm"),
    ("Last Index", "LastIndex"),
)  # fmt: skip


def _word(value: object) -> object:
    return str(value).lower() if isinstance(value, bool) else value


GET = Command(
    "consul operator autopilot get-config [options]", "Shows autopilot's settings.", run_get, groups="CS"
)  # fmt: skip
SET = Command(
    "consul operator autopilot set-config [options]",
    "Changes autopilot's settings; what is not given stays.",
    run_set,
    tuple(Flag(name, "string", text, shown="value") for name, (_, _, text) in SETTINGS.items()),
    groups="CS",
)
STATE = Command(
    # compat: 1.10.11 names the neighbouring command in its own usage line.
    "consul operator autopilot get-config [options]",
    "Shows how autopilot sees the servers: who votes, who is healthy.",
    run_state,
    (Flag("format", "string", "Output format: pretty or json.", "pretty"),),
    groups="CS",
)
