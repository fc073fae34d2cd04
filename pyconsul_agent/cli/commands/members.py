"""`members`: who is in the cluster, as the agent's gossip sees it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from pyconsul_agent.cli.command import Command, Context
from pyconsul_agent.cli.flags import Flag
from pyconsul_agent.cli.tables import columnize
from pyconsul_agent.cli.terminal import GREEN, RED, YELLOW, colored, paint

STATUSES = ("none", "alive", "leaving", "left", "failed")
NOTHING_TO_SHOW = 2
COLORS = {"alive": GREEN, "leaving": YELLOW, "left": YELLOW, "failed": RED}
STATUS_COLUMN = re.compile(rf"^(.* {{2,}}\S+:\d+ {{2,}})({'|'.join(COLORS)})\b", re.MULTILINE)


def run(context: Context, arguments: Sequence[str]) -> int:
    """Print the table; exit code 2 when no member is left to show."""
    from pyconsul_agent.cli.http_api import APIError

    try:
        wanted = re.compile(context.text("status"))
    except re.error as error:
        return context.complain(f"Failed to compile status regexp: {go_regexp_error(context.text('status'), error)}")
    if address := context.rpc_address():
        from pyconsul_agent.cli import legacy

        return legacy.members(context, address, wanted)
    query = {"segment": context.text("segment")}
    if context.on("wan"):
        query["wan"] = "1"
    try:
        members = context.api().get("/v1/agent/members", query).expect_ok().json()
    except APIError as error:
        return context.complain(f"Error retrieving members: {error}")
    shown = [m for m in map(_with_segment, members or []) if wanted.search(_status(m))]
    if not shown:
        return NOTHING_TO_SHOW
    shown.sort(key=lambda m: (m["Tags"]["segment"], m["Name"]))
    table = columnize(_detailed(shown) if context.on("detailed") else _standard(shown))
    context.say(_painted(table) if colored(context.out, context.environ) else table)
    return 0


def _painted(table: str) -> str:
    """The table with the status of each member in its color."""
    return STATUS_COLUMN.sub(lambda found: found[1] + paint(found[2], COLORS[found[2]]), table)


def go_regexp_error(pattern: str, error: re.error) -> str:
    """A bad pattern in the words of Go's regexp package, as far as scripts can meet it."""
    if "unterminated character set" in error.msg:
        return f"error parsing regexp: missing closing ]: `{pattern[error.pos or 0 :]}`"
    if "missing ), unterminated" in error.msg:
        return f"error parsing regexp: missing closing ): `{pattern}`"
    return f"error parsing regexp: {error.msg}: `{pattern}`"


def _with_segment(member: Mapping[str, Any]) -> dict[str, Any]:
    tags = dict(member.get("Tags") or {})
    if tags.get("role") == "consul":
        tags["segment"] = "<all>"
    elif not tags.get("segment"):
        tags["segment"] = "<default>"
    return {**member, "Tags": tags}


def _status(member: Mapping[str, Any]) -> str:
    status = member.get("Status", 0)
    return STATUSES[status] if isinstance(status, int) and 0 <= status < len(STATUSES) else f"unknown: {status}"


def _address(member: Mapping[str, Any]) -> str:
    ip = str(member.get("Addr", ""))
    return f"[{ip}]:{member.get('Port', 0)}" if ":" in ip else f"{ip}:{member.get('Port', 0)}"


def _standard(members: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    rows = [["Node", "Address", "Status", "Type", "Build", "Protocol", "DC", "Segment"]]
    kinds = {"consul": "server", "node": "client"}
    for member in members:
        tags = member["Tags"]
        build = tags.get("build", "").partition(":")[0] if tags.get("build") else "< 0.3"
        row = [member["Name"], _address(member), _status(member)]
        if tags.get("role") in kinds:
            row += [kinds[tags["role"]], build, tags.get("vsn", ""), tags.get("dc", ""), tags["segment"]]
        else:
            row += ["unknown", "", "", "", ""]
        rows.append(row)
    return rows


def _detailed(members: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    rows = [["Node", "Address", "Status", "Tags"]]
    for member in members:
        tags = ",".join(f"{key}={value}" for key, value in sorted(member["Tags"].items()))
        rows.append([member["Name"], _address(member), _status(member), tags])
    return rows


MEMBERS = Command(
    "consul members [options]",
    "Lists the members that the agent's gossip knows.",
    run,
    (
        Flag("detailed", "bool", "Show all tags of each member."),
        Flag("segment", "string", "Show only members of this segment (Consul Enterprise).", "_all"),
        Flag("status", "string", "Show only members whose status matches this regular expression.", ".*"),
        Flag("wan", "bool", "Show the WAN pool (servers only)."),
    ),
    groups="CL",
)
