"""`kv get|put|delete|export|import`."""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pyconsul_agent.cli.command import Command, Context
from pyconsul_agent.cli.flags import Flag
from pyconsul_agent.cli.http_api import API, APIError
from pyconsul_agent.cli.tables import tab_stops
from pyconsul_agent.cli.terminal import Progress

STDIN_BYTES_MAX = 512 * 1024 * 1024

Pair = Mapping[str, Any]


class _DataError(Exception):
    """DATA cannot be had."""


# --- get -----------------------------------------------------------------------------------------------------------


def run_get(context: Context, arguments: Sequence[str]) -> int:
    """One value, a tree, or the keys of a tree."""
    if len(arguments) > 1:
        return context.complain(f"Too many arguments (expected 1, got {len(arguments)})")
    key = arguments[0].removeprefix("/") if arguments else ""
    many = context.on("recurse") or context.on("keys")
    if not key and not many:
        return context.complain("Error! Missing KEY argument")
    try:
        api = context.api()
        if context.on("keys"):
            for name in _read(api, key, {"keys": "", "separator": context.text("separator")}) or []:
                context.say(name)
            return 0
        pairs = _read(api, key, {"recurse": ""} if context.on("recurse") else {})
    except APIError as error:
        # compat: read errors come without the server's words, only with the status (1.10.11).
        text = f"Unexpected response code: {error.status}" if error.status else str(error)
        return context.complain(f"Error querying Consul agent: {text}")
    if context.on("recurse"):
        _print_tree(context, pairs or [])
    elif not pairs:
        return context.complain(f"Error! No key exists at: {key}")
    elif context.on("detailed"):
        context.out.write(_details(context, pairs[0]))
    else:
        context.say(_value(context, pairs[0]))
    return 0


def _read(api: API, key: str, query: Mapping[str, str], progress: Callable[[int], object] | None = None) -> Any:
    """The decoded answer; None when nothing is there."""
    answer = api.get(f"/v1/kv/{key}", dict(query), progress=progress)
    return None if answer.status == 404 else answer.expect_ok().json()


def _print_tree(context: Context, pairs: Sequence[Pair]) -> None:
    for index, pair in enumerate(pairs):
        if not context.on("detailed"):
            context.say(f"{pair['Key']}:{_value(context, pair)}")
            continue
        if index:
            context.say()
        context.out.write(_details(context, pair))


def _value(context: Context, pair: Pair) -> str:
    encoded = pair.get("Value") or ""
    if context.on("base64"):
        return str(encoded)
    return base64.b64decode(encoded).decode("utf-8", "surrogateescape")


def _details(context: Context, pair: Pair) -> str:
    rows = [
        ("CreateIndex", str(pair["CreateIndex"])),
        ("Flags", str(pair["Flags"])),
        ("Key", str(pair["Key"])),
        ("LockIndex", str(pair["LockIndex"])),
        ("ModifyIndex", str(pair["ModifyIndex"])),
        ("Session", str(pair.get("Session") or "-")),
        ("Value", _value(context, pair)),
    ]
    return f"{tab_stops(rows)}\n"


# --- put -----------------------------------------------------------------------------------------------------------


def run_put(context: Context, arguments: Sequence[str]) -> int:
    """Write one key, plainly or under a condition."""
    session = context.text("session")
    if not arguments:
        return context.complain("Error! Missing KEY argument")
    if len(arguments) > 2:
        return context.complain(f"Error! Too many arguments (expected 1 or 2, got {len(arguments)})")
    if (context.on("acquire") or context.on("release")) and not session:
        return context.complain("Error! Missing -session (required with -acquire and -release)")
    key = arguments[0]
    try:
        data = _data(context, arguments[1]) if len(arguments) == 2 else b""
    except _DataError as error:
        return context.complain(f"Error! {error}")
    if context.on("base64"):
        data = _decoded(context, data)
    query = {"flags": str(context.number("flags"))} if context.number("flags") else {}
    index = context.number("modify-index")
    if context.on("cas"):
        query["cas"] = str(index)
        lost = "CAS performed with index=0 and key already exists." if index == 0 else "CAS failed"
        texts = (f"Success! Data written to: {key}", f"Error! Did not write to {key}: {lost}")
    elif context.on("acquire"):
        query["acquire"] = session
        texts = (f"Success! Lock acquired on: {key}", "Error! Did not acquire lock")
    elif context.on("release"):
        query["release"] = session
        texts = (f"Success! Lock released on: {key}", "Error! Did not release lock")
    else:
        texts = (f"Success! Data written to: {key}", "")
    if key.startswith("/"):
        return context.complain(f"Error! Failed writing data: Invalid key. Key must not begin with a '/': {key}")
    try:
        written = _is_true(context.api().put(f"/v1/kv/{key}", query, data).expect_ok().body)
    except APIError as error:
        return context.complain(f"Error! Failed writing data: {error}")
    if not written and texts[1]:
        return context.complain(texts[1])
    context.say(texts[0])
    return 0


def _data(context: Context, text: str) -> bytes:
    """DATA: literal, `@file`, or `-` for stdin."""
    if text.startswith("@"):
        try:
            with open(text[1:], "rb") as file:
                return file.read()
        except OSError as error:
            reason = (error.strerror or "").lower()
            raise _DataError(f"Failed to read file: open {text[1:]}: {reason}") from None
    if text == "-":
        return context.stdin.read(STDIN_BYTES_MAX)
    return text.encode("utf-8", "surrogateescape")


def _decoded(context: Context, data: bytes) -> bytes:
    try:
        return base64.b64decode(data, validate=True)
    except binascii.Error:
        # compat: 1.10.11 says so, writes an empty value all the same, and exits 0.
        illegal = re.search(rb"[^A-Za-z0-9+/]", data.rstrip(b"="))
        offset = illegal.start() if illegal else len(data) // 4 * 4
        context.complain(f"Error! Cannot base 64 decode data: illegal base64 data at input byte {offset}")
        return b""


def _is_true(body: bytes) -> bool:
    return body.strip() == b"true"


# --- delete --------------------------------------------------------------------------------------------------------


def run_delete(context: Context, arguments: Sequence[str]) -> int:
    """Delete a key, or a tree."""
    if len(arguments) > 1:
        return context.complain(f"Error! Too many arguments (expected 1, got {len(arguments)})")
    key = arguments[0].removeprefix("/") if arguments else ""
    index = context.number("modify-index")
    if not key and not context.on("recurse"):
        return context.complain("Error! Missing KEY argument")
    if index and not context.on("cas"):
        return context.complain("Cannot specify -modify-index without -cas!")
    if context.on("cas") and not index:
        return context.complain("Cannot delete a key that does not exist. Provide a -modify-index greater than than 0.")
    if context.on("cas") and context.on("recurse"):
        return context.complain("Cannot specify both -cas and -recurse!")
    query = {"recurse": ""} if context.on("recurse") else {"cas": str(index)} if context.on("cas") else {}
    try:
        answer = context.api().request("DELETE", f"/v1/kv/{key}", query).expect_ok()
    except APIError as error:
        what = "prefix" if context.on("recurse") else "key"
        return context.complain(f"Error! Did not delete {what} {key}: {error}")
    if context.on("cas") and not _is_true(answer.body):
        return context.complain(f"Error! Did not delete key {key}: CAS failed")
    context.say(f"Success! Deleted {'keys with prefix' if context.on('recurse') else 'key'}: {key}")
    return 0


# --- export, import ------------------------------------------------------------------------------------------------


def run_export(context: Context, arguments: Sequence[str]) -> int:
    """A tree as JSON."""
    if len(arguments) > 1:
        return context.complain(f"Error! Too many arguments (expected 1, got {len(arguments)})")
    key = arguments[0].removeprefix("/") if arguments else ""
    try:
        with Progress(context.err, "Exporting", shown=not context.out.isatty()) as progress:
            pairs = _read(context.api(), key, {"recurse": ""}, progress.add) or []
    except APIError as error:
        return context.complain(f"Error querying Consul agent: {error}")
    exported = [{"key": p["Key"], "flags": p["Flags"], "value": p.get("Value") or ""} for p in pairs]
    text = json.dumps(exported, indent="\t", ensure_ascii=False)
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    context.say(text)
    return 0


def run_import(context: Context, arguments: Sequence[str]) -> int:
    """Write what `kv export` printed."""
    if not arguments:
        return context.complain("Error! Missing DATA argument")
    if len(arguments) > 1:
        return context.complain(f"Error! Too many arguments (expected 1, got {len(arguments)})")
    try:
        entries = json.loads(_data(context, arguments[0]))
        pairs = [(str(e["key"]), int(e.get("flags", 0)), base64.b64decode(e.get("value") or "")) for e in entries]
    except _DataError as error:
        return context.complain(f"Error! {error}")
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        return context.complain(f"Cannot unmarshal data: {error}")
    api = context.api()
    prefix = context.text("prefix")
    # On a terminal the lines that follow say how far it is.
    progress = Progress(context.err, "Importing", len(pairs), unit="keys", shown=not context.out.isatty())
    key = ""
    try:
        with progress:
            for key, flags, value in pairs:
                target = f"{prefix.rstrip('/')}/{key.removeprefix('/')}" if prefix else key
                api.put(f"/v1/kv/{target}", {"flags": str(flags)} if flags else {}, value).expect_ok()
                context.say(f"Imported: {target}")
                progress.add(1)
    except APIError as error:
        return context.complain(f"Error! Failed writing data for pair {key}: {error}")
    return 0


GET = Command(
    "consul kv get [options] [KEY_OR_PREFIX]",
    "Reads a key, a tree of keys (-recurse), or the names of a tree (-keys).",
    run_get,
    (
        Flag("base64", "bool", "Show values in base64."),
        Flag("detailed", "bool", "Show indexes, flags and session too."),
        Flag("keys", "bool", "Show only names."),
        Flag("recurse", "bool", "Everything below the prefix."),
        Flag("separator", "string", "With -keys: names are cut after this text.", "/"),
    ),
    groups="CSN",
)
PUT = Command(
    "consul kv put [options] KEY [DATA]",
    "Writes a key. DATA is literal, @ and a file name, or - for standard input.",
    run_put,
    (
        Flag("acquire", "bool", "Take the lock of the key for -session."),
        Flag("base64", "bool", "DATA is base64."),
        Flag("cas", "bool", "Write only if the key's index is still -modify-index; 0: only if there is none."),
        Flag("flags", "uint", "A number kept with the key.", 0),
        Flag("modify-index", "uint", "The index for -cas.", 0),
        Flag("release", "bool", "Give the lock of the key back for -session."),
        Flag("session", "string", "Session for -acquire and -release."),
    ),
    groups="CSN",
)
DELETE = Command(
    "consul kv delete [options] KEY_OR_PREFIX",
    "Deletes a key, or everything below a prefix (-recurse).",
    run_delete,
    (
        Flag("cas", "bool", "Delete only if the key's index is still -modify-index."),
        Flag("modify-index", "uint", "The index for -cas.", 0),
        Flag("recurse", "bool", "Everything below the prefix."),
    ),
    groups="CSN",
)
EXPORT = Command("consul kv export [KEY_OR_PREFIX]", "Shows a tree as JSON.", run_export, groups="CSN")
IMPORT = Command(
    "consul kv import [DATA]",
    "Writes a tree that `kv export` printed. DATA is literal, @ and a file name, or - for standard input.",
    run_import,
    (Flag("prefix", "string", "Write below this key."),),
    groups="CSN",
)
