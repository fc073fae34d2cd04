"""`intention create|delete|get|list|match|check`: which service may connect to which.

Servers answer only where `connect.enabled` is set.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from pyconsul_agent.cli.command import Command, Context
from pyconsul_agent.cli.flags import Flag
from pyconsul_agent.cli.http_api import API, APIError, Response
from pyconsul_agent.cli.tables import columnize
from pyconsul_agent.wire.gotypes import quote

Row = dict[str, Any]

PATH = "/v1/connect/intentions"
DEFAULT_NAMESPACE = "default"
TEXTS = ("ID", "Description", "SourceNS", "SourceName", "DestinationNS", "DestinationName", "SourceType", "Action")
FIELDS = {name.lower(): name for name in (*TEXTS, "Permissions", "Meta")}
"""What a file may say, without regard to letter case; other keys mean nothing there."""
FILE_BYTES_MAX = 1024 * 1024
CHECK_FAILED = 2
"""Exit code of `check` when it does not know; 1 means denied."""


# --- create --------------------------------------------------------------------------------------------------------


def run_create(context: Context, arguments: Sequence[str]) -> int:
    """Make intentions one after the other; stops at the first error."""
    if context.on("allow") and context.on("deny"):
        return context.complain("Only one of -allow or -deny may be specified.")
    try:
        rows = [_from_file(path) for path in arguments] if context.on("file") else [_from_arguments(context, arguments)]
    except ValueError as error:
        return context.complain(f"Error: {error}")
    api = context.api()
    for row in rows:
        code = _replaced(context, api, row) if context.on("replace") else None
        if code is None:
            code = _created(context, api, row)
        if code:
            return code
    return 0


def _from_arguments(context: Context, arguments: Sequence[str]) -> Row:
    """The one intention that the arguments name. Raises ValueError."""
    if len(arguments) != 2:
        raise ValueError("Must specify two arguments: source and destination")
    row: Row = {"SourceType": "consul", "Action": "deny" if context.on("deny") else "allow"}
    for side, text in zip(("Source", "Destination"), arguments, strict=True):
        namespace, slash, name = text.partition("/")
        if "/" in name:
            raise ValueError(f"Invalid intention {side.lower()}: target can contain at most one '/'")
        row[f"{side}Name"] = name if slash else text
        if slash:
            row[f"{side}NS"] = namespace
    if context.pairs("meta"):
        row["Meta"] = context.pairs("meta")
    return row


def _from_file(path: str) -> Row:
    """The intention in a file of JSON. Raises ValueError."""
    try:
        with open(path, "rb") as file:
            value = json.loads(file.read(FILE_BYTES_MAX) or b"null")
    except OSError as error:
        raise ValueError(f"open {path}: {(error.strerror or str(error)).lower()}") from None
    except RecursionError:
        raise ValueError("exceeded max depth") from None
    if not isinstance(value, dict):
        raise ValueError(f"{path} holds no JSON object")
    row = {FIELDS[key.lower()]: item for key, item in value.items() if key.lower() in FIELDS and item is not None}
    for name in TEXTS:
        if not isinstance(row.get(name, ""), str):
            raise ValueError(f"{name} in {path} is no text")
    return row


def _replaced(context: Context, api: API, row: Row) -> int | None:
    """The exit code after an intention between the same names was replaced; None when there is none."""
    source, destination = _name(row, "Source"), _name(row, "Destination")
    names = f"source {quote(source)} and destination {quote(destination)}"
    try:
        known = _exact(api, source, destination)
    except APIError as error:
        return context.complain(f"Error looking up intention for replacement with {names}: {error}")
    if known is None:
        return None
    row["ID"] = known.get("ID", "")
    try:
        api.put(f"{PATH}/{row['ID']}", None, json.dumps(row).encode()).expect_ok()
    except APIError as error:
        return context.complain(f"Error replacing intention with {names}: {error}")
    return 0


def _created(context: Context, api: API, row: Row) -> int:
    try:
        api.request("POST", PATH, None, json.dumps(row).encode()).expect_ok()
    except APIError as error:
        return context.complain(f"Error creating intention {quote(_words(row))}: {error}")
    context.say(f"Created: {_words(row)}")
    return 0


# --- reads ---------------------------------------------------------------------------------------------------------


def run_get(context: Context, arguments: Sequence[str]) -> int:
    """Show one, by ID or by its two names."""
    if len(arguments) not in (1, 2):
        return context.complain("command requires exactly 1 or 2 arguments")
    api = context.api()
    try:
        row = _exact(api, *arguments) if len(arguments) == 2 else _found(api.get(f"{PATH}/{arguments[0]}"))
    except APIError as error:
        return context.complain(f"Error reading the intention: {error}")
    if row is None and len(arguments) == 2:
        return context.complain(
            f"Intention not found with source {quote(arguments[0])} and destination {quote(arguments[1])}"
        )
    if row is None:
        return context.complain(f"Intention not found with ID {quote(arguments[0])}")
    context.say(columnize(_facts(row)))
    if row.get("Permissions"):
        context.say("Permissions:\n" + json.dumps(row["Permissions"], indent=2, ensure_ascii=False))
    return 0


def _facts(row: Row) -> list[tuple[str, str]]:
    facts = [("Source:", _name(row, "Source")), ("Destination:", _name(row, "Destination"))]
    facts += [(f"{name}:", str(row[name])) for name in ("Action", "ID", "Description") if row.get(name)]
    facts += [(f"Meta[{key}]:", str(value)) for key, value in sorted((row.get("Meta") or {}).items())]
    return [*facts, ("Created At:", _local_time(str(row.get("CreatedAt", ""))))]


def _local_time(text: str) -> str:
    """RFC 3339 as RFC 850 in the zone of this machine; what is no time stays as it is."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return text
    moment = moment.astimezone() if moment.year > 1 else moment.astimezone(UTC)
    return moment.strftime("%A, %d-%b-%y %H:%M:%S %Z")


def _exact(api: API, source: str, destination: str) -> Row | None:
    """The intention between two names, None without one. Raises APIError."""
    return _found(api.get(f"{PATH}/exact", {"source": source, "destination": destination}))


def _found(answer: Response) -> Row | None:
    if answer.status == 404:
        return None
    if answer.status != 200:
        text = answer.body.decode("utf-8", "replace")
        raise APIError(f"Unexpected response {answer.status}: {text}", answer.status)
    return _object(answer.json())


def _object(value: Any) -> Row:
    """A row of an answer. Raises APIError for anything else."""
    if not isinstance(value, dict):
        raise APIError("invalid JSON in response: not an object")
    return value


def run_list(context: Context, arguments: Sequence[str]) -> int:
    """Show all, those of higher precedence first."""
    try:
        rows = [_object(row) for row in context.api().get(PATH).expect_ok().json() or ()]
    except APIError as error:
        return context.complain(f"Failed to retrieve the intentions list: {error}")
    if not rows:
        context.complain("There are no intentions.")
        return 2
    columns = ("ID", "SourceName", "Action", "DestinationName", "Precedence")
    cells = [[str(row.get(name, "")) for name in columns] for row in rows]
    context.say(columnize([["ID", "Source", "Action", "Destination", "Precedence"], *cells]))
    return 0


def run_match(context: Context, arguments: Sequence[str]) -> int:
    """Show what applies to a destination, or to a source."""
    if len(arguments) != 1:
        return context.complain("Error: command requires exactly one argument: src or dst")
    if context.on("source") and context.on("destination"):
        return context.complain("Error: only one of -source or -destination may be specified")
    query = {"by": "source" if context.on("source") else "destination", "name": arguments[0]}
    try:
        matches = _object(context.api().get(f"{PATH}/match", query).expect_ok().json())
        rows = [_object(row) for row in matches.get(arguments[0]) or ()]
    except APIError as error:
        return context.complain(f"Error matching the connection: {error}")
    for row in rows:
        context.say(_words(row))
    return 0


def run_check(context: Context, arguments: Sequence[str]) -> int:
    """Say whether a source may connect to a destination: 0 yes, 1 no, 2 unknown."""
    if len(arguments) != 2:
        context.complain("Error: command requires exactly two arguments: src and dst")
        return CHECK_FAILED
    query = {"source": arguments[0], "destination": arguments[1], "source-type": "consul"}
    try:
        allowed = _object(context.api().get(f"{PATH}/check", query).expect_ok().json()).get("Allowed") is True
    except APIError as error:
        context.complain(f"Error checking the connection: {error}")
        return CHECK_FAILED
    context.say("Allowed" if allowed else "Denied")
    return 0 if allowed else 1


# --- delete --------------------------------------------------------------------------------------------------------


def run_delete(context: Context, arguments: Sequence[str]) -> int:
    """Delete one, by ID or by its two names; that there is none between two names is no error."""
    if len(arguments) not in (1, 2):
        return context.complain("command requires exactly 1 or 2 arguments")
    path, query = f"{PATH}/{arguments[0]}", {}
    if len(arguments) == 2:
        path, query = f"{PATH}/exact", {"source": arguments[0], "destination": arguments[1]}
    try:
        context.api().request("DELETE", path, query).expect_ok()
    except APIError as error:
        return context.complain(f"Error deleting the intention: {error}")
    context.say("Intention deleted.")
    return 0


# --- words ---------------------------------------------------------------------------------------------------------


def _words(row: Mapping[str, Any]) -> str:
    """`web => db (allow)`."""
    count = len(row.get("Permissions") or ())
    detail = f"{count} permission{'s' * (count > 1)}" if count else row.get("Action", "")
    return f"{_name(row, 'Source')} => {_name(row, 'Destination')} ({detail})"


def _name(row: Mapping[str, Any], side: str) -> str:
    """A name, behind its namespace if that is not the default one."""
    namespace, name = row.get(f"{side}NS") or DEFAULT_NAMESPACE, row.get(f"{side}Name", "")
    return name if namespace == DEFAULT_NAMESPACE else f"{namespace}/{name}"


CREATE = Command(
    "consul intention create [options] SRC DST",
    "Makes an intention that allows (default) or denies connections from SRC to DST, or those in the given files of "
    "JSON. One that exists already is an error unless -replace is given.",
    run_create,
    (
        Flag("allow", "bool", "Allow what matches. The default."),
        Flag("deny", "bool", "Deny what matches."),
        Flag("file", "bool", "The arguments are files that hold an intention each."),
        Flag("meta", "pairs", "Metadata as key=value; may be given several times.", shown="<key>=<value>"),
        Flag("replace", "bool", "Replace an intention between the same names."),
    ),
    groups="CSN",
)
DELETE = Command(
    "consul intention delete [options] SRC DST", "Deletes the intention from SRC to DST, or that with the given ID.",
    run_delete, groups="CSN",
)  # fmt: skip
GET = Command(
    "consul intention get [options] SRC DST", "Shows the intention from SRC to DST, or that with the given ID.",
    run_get, groups="CSN",
)  # fmt: skip
LIST = Command("consul intention list", "Shows every intention.", run_list, groups="CSN")
MATCH = Command(
    "consul intention match [options] SRC|DST",
    "Shows the intentions that apply to a destination (or source), in the order in which they are looked at.",
    run_match,
    (
        Flag("destination", "bool", "The argument is a destination. The default."),
        Flag("source", "bool", "The argument is a source."),
    ),
    groups="CSN",
)
CHECK = Command(
    "consul intention check [options] SRC DST",
    "Tells whether SRC may connect to DST. Exit code 0: it may, 1: it may not, 2: an error.",
    run_check,
    groups="CSN",
)
