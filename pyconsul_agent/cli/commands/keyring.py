"""`keyring`: lists, installs, uses and removes gossip keys."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from pyconsul_agent.cli.command import Command, Context
from pyconsul_agent.cli.flags import Flag
from pyconsul_agent.cli.http_api import APIError

RELAY_FACTOR_MAX = 5
PATH = "/v1/operator/keyring"

CHANGES = {
    "install": ("POST", "Installing new gossip encryption key..."),
    "use": ("PUT", "Changing primary gossip encryption key..."),
    "remove": ("DELETE", "Removing gossip encryption key..."),
}
LISTS = {
    "list": ("Keys", "Gathering installed encryption keys..."),
    "list-primary": ("PrimaryKeys", "Gathering installed primary encryption keys..."),
}


def run(context: Context, arguments: Sequence[str]) -> int:
    """Do the one thing that the flags ask for."""
    wanted = [name for name in LISTS if context.on(name)] + [name for name in CHANGES if context.text(name)]
    if not wanted:
        return context.complain(context.usage.removesuffix("\n"))
    if len(wanted) > 1:
        return context.complain("Only a single action is allowed")
    action = wanted[0]
    if not 0 <= context.number("relay-factor") <= RELAY_FACTOR_MAX:
        return context.complain(f"Error parsing relay factor: Relay factor must be in range: [0, {RELAY_FACTOR_MAX}]")
    if context.on("local-only") and action not in LISTS:
        return context.complain("Error validating local-only: local-only can only be set for list requests")
    if address := context.rpc_address():
        return _legacy(context, address, action)
    query = {"relay-factor": str(context.number("relay-factor"))} if context.number("relay-factor") else {}
    try:
        if action in LISTS:
            return _list(context, action, query)
        method, text = CHANGES[action]
        context.say(f"==> {text}")
        context.api().request(method, PATH, query, _body(context.text(action))).expect_ok()
    except APIError as error:
        return context.complain(f"error: {error}")
    return 0


def _legacy(context: Context, address: str, action: str) -> int:
    from pyconsul_agent.cli import legacy

    if action == "list-primary" or context.on("local-only"):
        return context.complain("The legacy RPC has neither -list-primary nor -local-only")
    return legacy.keyring(context, address, action, LISTS["list"][1] if action == "list" else CHANGES[action][1])


def _list(context: Context, action: str, query: dict[str, str]) -> int:
    field, text = LISTS[action]
    context.say(f"==> {text}")
    if context.on("local-only"):
        query = {**query, "local-only": "true"}
    for answer in context.api().get(PATH, query).expect_ok().json():
        context.say(_pool(answer, answer.get(field) or {}))
    return 0


def _pool(answer: dict[str, Any], keys: dict[str, int]) -> str:
    name = "WAN" if answer["WAN"] else f"{answer['Datacenter']} (LAN)"
    lines = [f"\n{name}:"]
    lines += [f"  ===> {node}: {message}" for node, message in sorted((answer.get("Messages") or {}).items())]
    lines += [f"  {key} [{count}/{answer['NumNodes']}]" for key, count in sorted(keys.items())]
    return "\n".join(lines)


def _body(key: str) -> bytes:
    return json.dumps({"Key": key}).encode()


KEYRING = Command(
    "consul keyring [options]",
    "Manages the keys that encrypt gossip: a new key is installed, then used, then the old one removed.",
    run,
    (
        Flag("install", "string", "Install a key on every member, without using it yet."),
        Flag("list", "bool", "List the keys, and how many members have each."),
        Flag("list-primary", "bool", "List the keys that encrypt, and how many members use each."),
        Flag("local-only", "bool", "List only the keys of this datacenter's LAN pool."),
        Flag("relay-factor", "int", "Through how many other members answers come a second time, 0 to 5."),
        Flag("remove", "string", "Remove a key that is not in use from every member."),
        Flag("use", "string", "Encrypt with a key that every member has."),
    ),
    groups="CL",
)
