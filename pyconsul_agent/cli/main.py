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
    """A command: `module:NAME` below `cli.commands`; or a group (`target` empty) with the rest of its usage line.

    `old_form`: a group that once was a command, with the switches by which it is known.
    """

    synopsis: str
    target: str = ""
    group_usage: str = ""
    help: str = ""
    old_form: tuple[str, tuple[str, ...]] | None = None


_SUB = "<subcommand> [options] [args]"

COMMANDS: dict[str, Entry] = {
    "agent": Entry("Runs a Consul agent", "agent:AGENT"),
    "catalog": Entry("Interact with the catalog", group_usage=_SUB, help="Reads the catalog of nodes and services."),
    "catalog datacenters": Entry("Lists all known datacenters", "catalog:DATACENTERS"),
    "catalog nodes": Entry("Lists all nodes in the given datacenter", "catalog:NODES"),
    "catalog services": Entry("Lists all registered services in a datacenter", "catalog:SERVICES"),
    "config": Entry("Interact with central configurations", group_usage=_SUB, help="Central configuration entries."),
    "config delete": Entry("Deletes a central configuration entry", "config_entries:DELETE"),
    "config list": Entry("Lists central configuration entries of a kind", "config_entries:LIST"),
    "config read": Entry("Shows a central configuration entry", "config_entries:READ"),
    "config write": Entry("Creates or replaces a central configuration entry", "config_entries:WRITE"),
    "configtest": Entry("Checks configuration files (old name of validate)", "validate:CONFIGTEST"),
    "debug": Entry("Records what an agent is and does, for operators", "debug:DEBUG"),
    "event": Entry("Fire a new event", "event:EVENT"),
    "exec": Entry("Runs a command on many nodes", "exec:EXEC"),
    "force-leave": Entry('Forces a member of the cluster to enter the "left" state', "membership:FORCE_LEAVE"),
    "healthcheck": Entry("Tells whether the agent answers", "healthcheck:HEALTHCHECK"),
    "info": Entry("Provides debugging information for operators", "info:INFO"),
    "intention": Entry(
        "Interact with Connect service intentions",
        group_usage=_SUB,
        help="Which service may connect to which. Needs connect.enabled on the servers.",
    ),
    "intention check": Entry("Tells whether a connection would be allowed", "intentions:CHECK"),
    "intention create": Entry("Creates intentions for service connections", "intentions:CREATE"),
    "intention delete": Entry("Deletes an intention", "intentions:DELETE"),
    "intention get": Entry("Shows an intention", "intentions:GET"),
    "intention list": Entry("Lists all intentions", "intentions:LIST"),
    "intention match": Entry("Shows intentions that apply to a service", "intentions:MATCH"),
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
    "lock": Entry("Runs a command while holding a lock", "lock:LOCK"),
    "maint": Entry("Takes a node or service out of use, and back", "maint:MAINT"),
    "members": Entry("Lists the members of a Consul cluster", "members:MEMBERS"),
    "monitor": Entry("Stream logs from a Consul agent", "monitor:MONITOR"),
    "operator": Entry(
        "Provides cluster-level tools for Consul operators",
        group_usage="<subcommand> [options]",
        help="Tools for the operators of a cluster: raft's peers and autopilot.",
    ),
    "operator autopilot": Entry(
        "Shows and changes autopilot's settings", group_usage=_SUB, help="Autopilot's settings and judgment."
    ),
    "operator autopilot get-config": Entry("Display the current Autopilot configuration", "autopilot:GET"),
    "operator autopilot set-config": Entry("Changes the Autopilot configuration", "autopilot:SET"),
    "operator autopilot state": Entry("Shows how Autopilot sees the servers", "autopilot:STATE"),
    "operator raft": Entry(
        "Provides cluster-level tools for Consul operators",
        group_usage="<subcommand> [options]",
        help="Reads and changes raft's peers.",
        old_form=("operator:RAFT", ("-list-peers", "-remove-peer")),
    ),
    "operator raft list-peers": Entry("Display the current Raft peer configuration", "operator:LIST_PEERS"),
    "operator raft remove-peer": Entry("Remove a Consul server from the Raft configuration", "operator:REMOVE_PEER"),
    "reload": Entry("Triggers the agent to reload configuration files", "membership:RELOAD"),
    "rtt": Entry("Estimates the round trip between nodes", "rtt:RTT"),
    "services": Entry("Interact with services", group_usage=_SUB, help="Services of the local agent."),
    "services deregister": Entry("Deregisters services from the local agent", "services:DEREGISTER"),
    "services register": Entry("Registers services with the local agent", "services:REGISTER"),
    "snapshot": Entry(
        "Saves, restores and inspects snapshots of Consul server state",
        group_usage=_SUB,
        help="Saves, restores and inspects the state of the servers, for disaster recovery.",
    ),
    "snapshot inspect": Entry("Displays information about a Consul snapshot file", "snapshot:INSPECT"),
    "snapshot restore": Entry("Restores snapshot of Consul server state", "snapshot:RESTORE"),
    "snapshot save": Entry("Saves snapshot of Consul server state", "snapshot:SAVE"),
    "tls": Entry(
        "Certificates for agents", group_usage="<subcommand> <subcommand> [options]",
        help="Makes an authority and certificates for agents. Needs no agent.",
    ),
    "tls ca": Entry(
        "An authority for agents' certificates", group_usage="<subcommand> [options] filename-prefix",
        help="Makes a certificate authority for agents.",
    ),
    "tls ca create": Entry("Makes a certificate authority", "tls:CA_CREATE"),
    "tls cert": Entry(
        "Agents' certificates", group_usage="<subcommand> [options] [filename-prefix]",
        help="Makes certificates for agents and the command line.",
    ),
    "tls cert create": Entry("Makes a certificate", "tls:CERT_CREATE"),
    "validate": Entry("Validate config files/directories", "validate:VALIDATE"),
    "version": Entry("Prints the Consul version", "version:VERSION_COMMAND"),
    "watch": Entry("Waits for changes of a view of the cluster", "watch:WATCH"),
}  # fmt: skip


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


def _completion(context: Context, words: list[str]) -> int | None:
    """What shells ask us for; None when this is an ordinary run."""
    line = context.environ.get("COMP_LINE")
    install = bool(words) and words[0].lstrip("-") in ("autocomplete-install", "autocomplete-uninstall")
    if line is None and not (install and words[0].startswith("-")):
        return None
    from pyconsul_agent.cli import completion

    if line is None:
        return completion.change(words, context.environ, os.path.abspath(sys.argv[0]), context.err)
    point = context.environ.get(completion.POINT_VARIABLE, "")
    cut = line[: int(point)] if point.isdigit() else line
    for word in completion.words_for(cut, list(COMMANDS), _flags_of):
        context.say(word)
    return 0


def _flags_of(name: str) -> list[str]:
    if not name:
        return ["autocomplete-install", "autocomplete-uninstall", "help", "version"]
    entry = COMMANDS[name]
    known = [flag.name for flag in load(entry).all_flags() if not flag.hidden] if entry.target else []
    return [*known, "help"]


def _dispatch(context: Context, words: list[str]) -> int:
    completed = _completion(context, words)
    if completed is not None:
        return completed
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
    if entry.old_form and rest and rest[0].replace("--", "-", 1).startswith(entry.old_form[1]):
        entry = Entry(entry.synopsis, entry.old_form[0])
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
    context.usage, context.bad_usage = command.usage_text(), command.bad_usage_text()
    flags = command.all_flags()
    try:
        context.given, rest = parse(flags, arguments)
    except HelpAsked:
        context.out.write(context.usage)
        return 0
    except UsageError as error:
        context.err.write(f"{error}\n{context.bad_usage}")
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
