"""The program: finds the command, imports only its module, runs it.

`pyconsul version` must not pay for aiohttp or asyncio; so the table below holds names and one-line descriptions, and a
command's module is imported when the command runs.
"""

from __future__ import annotations

import importlib
import io
import os
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO, TextIO

from pyconsul_agent.cli.command import Command, Context, SetupError
from pyconsul_agent.cli.flags import HelpAsked, UsageError, parse, with_defaults

PROGRAM = "consul"


@dataclass(frozen=True, slots=True)
class Entry:
    """A command: `module:NAME` below `cli.commands`; or a group (`target` empty) with the rest of its usage line."""

    synopsis: str
    target: str = ""
    group_usage: str = ""
    help: str = ""


_SUB = "<subcommand> [options] [args]"

COMMANDS: dict[str, Entry] = {
    "agent": Entry("Runs a Consul agent", "agent:AGENT"),
    "catalog": Entry("Interact with the catalog", group_usage=_SUB, help="Reads the catalog of nodes and services."),
    "catalog datacenters": Entry("Lists all known datacenters", "catalog:DATACENTERS"),
    "catalog nodes": Entry("Lists all nodes in the given datacenter", "catalog:NODES"),
    "catalog services": Entry("Lists all registered services in a datacenter", "catalog:SERVICES"),
    "configtest": Entry("Checks configuration files (old name of validate)", "validate:CONFIGTEST"),
    "event": Entry("Fire a new event", "event:EVENT"),
    "force-leave": Entry('Forces a member of the cluster to enter the "left" state', "membership:FORCE_LEAVE"),
    "healthcheck": Entry("Tells whether the agent answers", "healthcheck:HEALTHCHECK"),
    "info": Entry("Provides debugging information for operators", "info:INFO"),
    "join": Entry("Tell Consul agent to join cluster", "membership:JOIN"),
    "keygen": Entry("Generates a new encryption key", "keygen:KEYGEN"),
    "keyring": Entry("Manages gossip layer encryption keys", "keyring:KEYRING"),
    "kv": Entry("Interact with the key-value store", group_usage=_SUB, help="Reads and writes the key-value store."),
    "kv delete": Entry("Removes data from the KV store", "kv:DELETE"),
    "kv export": Entry("Exports a tree from the KV store as JSON", "kv:EXPORT"),
    "kv get": Entry("Retrieves or lists data from the KV store", "kv:GET"),
    "kv import": Entry("Imports a tree stored as JSON to the KV store", "kv:IMPORT"),
    "kv put": Entry("Sets or updates data in the KV store", "kv:PUT"),
    "leave": Entry("Gracefully leaves the Consul cluster and shuts down", "membership:LEAVE"),
    "members": Entry("Lists the members of a Consul cluster", "members:MEMBERS"),
    "monitor": Entry("Stream logs from a Consul agent", "monitor:MONITOR"),
    "operator": Entry(
        "Provides cluster-level tools for Consul operators",
        group_usage="<subcommand> [options]",
        help="Tools for the operators of a cluster: raft's peers and autopilot.",
    ),
    "operator autopilot": Entry(
        "Provides tools for modifying Autopilot configuration", group_usage=_SUB, help="Reads autopilot's settings."
    ),
    "operator autopilot get-config": Entry("Display the current Autopilot configuration", "operator:AUTOPILOT_GET"),
    "operator raft": Entry(
        "Provides cluster-level tools for Consul operators", group_usage=_SUB, help="Reads and changes raft's peers."
    ),
    "operator raft list-peers": Entry("Display the current Raft peer configuration", "operator:LIST_PEERS"),
    "operator raft remove-peer": Entry("Remove a Consul server from the Raft configuration", "operator:REMOVE_PEER"),
    "reload": Entry("Triggers the agent to reload configuration files", "membership:RELOAD"),
    "snapshot": Entry(
        "Saves, restores and inspects snapshots of Consul server state",
        group_usage=_SUB,
        help="Saves, restores and inspects the state of the servers, for disaster recovery.",
    ),
    "snapshot inspect": Entry("Displays information about a Consul snapshot file", "snapshot:INSPECT"),
    "snapshot restore": Entry("Restores snapshot of Consul server state", "snapshot:RESTORE"),
    "snapshot save": Entry("Saves snapshot of Consul server state", "snapshot:SAVE"),
    "validate": Entry("Validate config files/directories", "validate:VALIDATE"),
    "version": Entry("Prints the Consul version", "version:VERSION_COMMAND"),
}


def main(
    arguments: Sequence[str] | None = None,
    *,
    out: TextIO | None = None,
    err: TextIO | None = None,
    stdin: BinaryIO | None = None,
    environ: Mapping[str, str] | None = None,
    make_env: Callable[[], Any] | None = None,
) -> int:
    """Run one command; gives the exit code. Everything it touches can be handed in (tests do)."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # A value may be any bytes; what came in undecodable goes out as it was, whatever the locale.
            stream.reconfigure(encoding="utf-8", errors="surrogateescape")
    context = Context(
        out=out or sys.stdout,
        err=err or sys.stderr,
        stdin=stdin or sys.stdin.buffer,
        environ=os.environ if environ is None else environ,
        make_env=make_env or _real_env,
    )
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        return _dispatch(context, words)
    except BrokenPipeError:
        # The reader of our output went away (`| head`); nothing is left to be said, not even at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt:
        return 130


def _dispatch(context: Context, words: list[str]) -> int:
    if words and words[0] in ("-v", "-version", "--version"):
        words = ["version", *words[1:]]
    if words and words[0] in ("-h", "-help", "--help", "help"):
        context.out.write(_top_usage())
        return 0
    name, rest = _find(words)
    if not name:
        context.err.write(_top_usage())
        return 127
    entry = COMMANDS[name]
    if not entry.target:
        asked = bool(rest) and rest[0] in ("-h", "-help", "--help")
        (context.out if asked else context.err).write(_group_usage(name, entry))
        return 0 if asked else 1
    command = load(entry)
    if name != "agent" and signal.getsignal(signal.SIGINT) is signal.SIG_DFL:
        signal.signal(signal.SIGINT, signal.default_int_handler)  # some commands end in their own way
    return _run(context, command, rest)


def load(entry: Entry) -> Command:
    """The command of an entry, its module imported now."""
    module, _, attribute = entry.target.partition(":")
    command = getattr(importlib.import_module(f"pyconsul_agent.cli.commands.{module}"), attribute)
    assert isinstance(command, Command)
    return command


def _run(context: Context, command: Command, arguments: Sequence[str]) -> int:
    context.usage = command.usage_text()
    flags = command.all_flags()
    try:
        context.given, rest = parse(flags, arguments)
    except HelpAsked:
        context.out.write(context.usage)
        return 0
    except UsageError as error:
        context.err.write(f"{error}\n{context.usage}")
        return 1
    context.values = with_defaults(flags, context.given)
    try:
        return command.run(context, rest)
    except SetupError as error:
        return context.complain(f"Error connecting to Consul agent: {error}")


def _find(words: Sequence[str]) -> tuple[str, list[str]]:
    """The longest command that the words begin with, and the words after it."""
    name, used = "", 0
    for count in range(1, len(words) + 1):
        candidate = " ".join(words[:count])
        if candidate not in COMMANDS:
            break
        name, used = candidate, count
    return name, list(words[used:])


def _listing(names: Sequence[str]) -> str:
    width = max(len(name.split()[-1]) for name in names)
    return "".join(f"    {name.split()[-1]:<{width}}    {COMMANDS[name].synopsis}\n" for name in names)


def _top_usage() -> str:
    names = sorted(name for name in COMMANDS if " " not in name)
    return f"Usage: {PROGRAM} [--version] [--help] <command> [<args>]\n\nAvailable commands are:\n{_listing(names)}\n"


def _group_usage(name: str, entry: Entry) -> str:
    names = sorted(n for n in COMMANDS if n.startswith(f"{name} ") and n.count(" ") == name.count(" ") + 1)
    return f"Usage: {PROGRAM} {name} {entry.group_usage}\n\n  {entry.help}\n\nSubcommands:\n{_listing(names)}"


def _real_env() -> Any:
    """The door to the operating system, opened only by commands that need it."""
    return importlib.import_module("pyconsul_agent.env.real").real_env()


if __name__ == "__main__":
    sys.exit(main())
