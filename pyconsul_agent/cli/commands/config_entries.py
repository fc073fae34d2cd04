"""`config write|read|list|delete`: central configuration entries."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from pyconsul_agent.cli.command import Command, Context
from pyconsul_agent.cli.flags import Flag
from pyconsul_agent.cli.http_api import APIError
from pyconsul_agent.errors import DecodeError
from pyconsul_agent.wire import gojson, hcl

KINDS = (
    "ingress-gateway", "mesh", "proxy-defaults", "service-defaults", "service-intentions", "service-resolver",
    "service-router", "service-splitter", "terminating-gateway",
)  # fmt: skip
LISTS = {
    "additionalheaders", "cidrblocks", "destinations", "hashpolicies", "header", "hosts", "listeners", "onlypassing",
    "overrides", "paths", "permissions", "queryparam", "routes", "services", "sources", "splits", "targets",
}  # fmt: skip
"""Keys (without underscores) whose HCL blocks stay lists; other lists of one block are single objects."""
ENTRY_BYTES_MAX = 16 * 1024 * 1024


class _BadEntry(Exception):
    """The input is no entry."""


# --- write ---------------------------------------------------------------------------------------------------------


def run_write(context: Context, arguments: Sequence[str]) -> int:
    """Send one entry, from a file or standard input."""
    if len(arguments) != 1:
        return context.complain("Must provide exactly one positional argument to specify the config entry to write")
    try:
        text = _text(context, arguments[0])
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        return context.complain(f"Failed to load data: Failed to read file: open {arguments[0]}: {reason}")
    except UnicodeDecodeError as error:
        return context.complain(f"Failed to load data: {error}")
    try:
        entry = entry_of(text)
    except _BadEntry as error:
        return context.complain(f"Failed to decode config entry input: {error}")
    named = f"{entry['Kind']}/{entry.get('Name', '')}"
    query = {"cas": str(context.number("modify-index"))} if context.on("cas") else {}
    try:
        written = context.api().put("/v1/config", query, json.dumps(entry).encode()).expect_ok().body
    except APIError as error:
        return context.complain(f"Error writing config entry {named}: {error}")
    if written.strip() != b"true":
        return context.complain(f"Config entry not updated: {named}")
    context.say(f"Config entry written: {named}")
    return 0


def _text(context: Context, name: str) -> str:
    if name == "-":
        return context.stdin.read(ENTRY_BYTES_MAX).decode()
    with open(name, "rb") as file:
        return file.read(ENTRY_BYTES_MAX).decode()


def entry_of(text: str) -> dict[str, Any]:
    """An entry in HCL or JSON as the HTTP API takes it. Raises _BadEntry with Consul's words."""
    try:
        raw = json.loads(text) if text.lstrip().startswith("{") else _single(hcl.plain(hcl.parse(text)))
    except (ValueError, RecursionError) as error:
        raise _BadEntry(str(error)) from None
    except DecodeError as error:
        raise _BadEntry(str(error)) from None
    kind = raw.get("Kind", raw.get("kind"))
    if kind is None:
        raise _BadEntry("Payload does not contain a kind/Kind key at the top level")
    if not isinstance(kind, str):
        raise _BadEntry("Kind value in payload is not a string")
    if kind not in KINDS:
        raise _BadEntry(f"invalid config entry kind: {kind}")
    name = raw.get("Name", raw.get("name", "mesh" if kind == "mesh" else ""))
    rest = {key: value for key, value in raw.items() if key.lower() not in ("kind", "name")}
    return {"Kind": kind, "Name": name, **rest}


def _single(value: Any) -> Any:
    """HCL's lists of one block as the objects that they mean."""
    if isinstance(value, Mapping):
        return {key: _unpacked(key, _single(each)) for key, each in value.items()}
    return [_single(each) for each in value] if isinstance(value, list) else value


def _unpacked(key: str, value: Any) -> Any:
    alone = isinstance(value, list) and len(value) == 1 and isinstance(value[0], Mapping)
    return value[0] if alone and key.lower().replace("_", "") not in LISTS else value


# --- read, list, delete --------------------------------------------------------------------------------------------


def run_read(context: Context, arguments: Sequence[str]) -> int:
    """Print one entry."""
    kind, name = context.text("kind"), context.text("name")
    if missing := _missing(kind, name):
        return context.complain(missing)
    try:
        entry = context.api().get(f"/v1/config/{kind}/{name}").expect_ok().json()
    except APIError as error:
        return context.complain(f"Error reading config entry {kind}/{name}: {error}")
    context.say(gojson.indent(gojson.dump(entry)).decode().rstrip("\n"))
    return 0


def run_list(context: Context, arguments: Sequence[str]) -> int:
    """Print the names of a kind."""
    kind = context.text("kind")
    if not kind:
        return context.complain("Must specify the -kind parameter")
    try:
        entries = context.api().get(f"/v1/config/{kind}").expect_ok().json() or []
    except APIError as error:
        return context.complain(f"Error listing config entries for kind {_quoted(kind)}: {error}")
    for entry in entries:
        context.say(entry["Name"])
    return 0


def run_delete(context: Context, arguments: Sequence[str]) -> int:
    """Delete one entry; that it is not there is no error."""
    kind, name = context.text("kind"), context.text("name")
    if missing := _missing(kind, name):
        return context.complain(missing)
    try:
        context.api().request("DELETE", f"/v1/config/{kind}/{name}").expect_ok()
    except APIError as error:
        return context.complain(f"Error deleting config entry {kind}/{name}: {error}")
    context.say(f"Config entry deleted: {kind}/{name}")
    return 0


def _missing(kind: str, name: str) -> str:
    if not kind:
        return "Must specify the -kind parameter"
    return "" if name else "Must specify the -name parameter"


def _quoted(text: str) -> str:
    return f'"{text}"'


KIND = Flag("kind", "string", "Kind of the entry.")
NAME = Flag("name", "string", "Name of the entry.")
WRITE = Command(
    "consul config write [options] <configuration>",
    "Creates or replaces a central configuration entry. The argument is a file in HCL or JSON, or - for standard "
    "input.",
    run_write,
    (
        Flag("cas", "bool", "Write only if the entry's index is still -modify-index; 0: only if there is none."),
        Flag("modify-index", "uint", "The index for -cas.", 0),
    ),
    groups="CSN",
)
READ = Command(
    "consul config read [options] -kind <config kind> -name <config name>",
    "Shows a central configuration entry.", run_read, (KIND, NAME), groups="CSN",
)  # fmt: skip
LIST = Command(
    "consul config list [options] -kind <config kind>",
    "Lists the names of the central configuration entries of a kind.", run_list, (KIND,), groups="CSN",
)  # fmt: skip
DELETE = Command(
    "consul config delete [options] -kind <config kind> -name <config name>",
    "Deletes a central configuration entry.", run_delete, (KIND, NAME), groups="CSN",
)  # fmt: skip
