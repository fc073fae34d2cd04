"""`snapshot save|restore|inspect`."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from typing import IO

from pyconsul_agent.cli.command import Command, Context
from pyconsul_agent.cli.flags import Flag
from pyconsul_agent.cli.http_api import APIError
from pyconsul_agent.cli.tables import tab_stops
from pyconsul_agent.cli.terminal import Counted, Progress
from pyconsul_agent.errors import DecodeError
from pyconsul_agent.structs.raft import SnapshotMeta
from pyconsul_agent.wire.gojson import Ordered, encode
from pyconsul_agent.wire.snapshot import ArchiveReader
from pyconsul_agent.wire.snapshot_records import Census, Count, census

PIECE_BYTES = 64 * 1024
MIN_WIDTH = 8


def run_save(context: Context, arguments: Sequence[str]) -> int:
    """Write an archive, look at it, and only then give it its name."""
    path = _file_of(context, arguments)
    if not path:
        return 1
    unverified = f"{path}.unverified"
    try:
        with context.api().download("/v1/snapshot") as answer:
            index = answer.header("X-Consul-Index")
            size = answer.header("Content-Length")
            try:
                with Progress(context.err, "Saving", int(size) if size.isdecimal() else 0) as progress:
                    _write(unverified, answer.pieces(), progress)
            except OSError as error:
                return context.complain(f"Error writing unverified snapshot file: {_words(error)}")
            except APIError as error:
                return context.complain(f"Error writing unverified snapshot file: {error}")
        return _verified(context, unverified, path, index)
    except APIError as error:
        return context.complain(f"Error saving snapshot: {error}")
    finally:
        _remove(unverified)


def _verified(context: Context, unverified: str, path: str, index: str) -> int:
    try:
        _verify(unverified)
    except OSError as error:
        return context.complain(f"Error opening snapshot file for verify: {_words(error)}")
    except DecodeError as error:
        return context.complain(f"Error verifying snapshot file: {error}")
    try:
        os.replace(unverified, path)
        _sync_directory(path)
    except OSError as error:
        return context.complain(f'Error renaming "{unverified}" to "{path}": {_words(error)}')
    context.say(f"Saved and verified snapshot to index {index}")
    return 0


def run_restore(context: Context, arguments: Sequence[str]) -> int:
    """Send an archive."""
    path = _file_of(context, arguments)
    if not path:
        return 1
    try:
        file = open(path, "rb")  # noqa: SIM115 -- closed below
    except OSError as error:
        return context.complain(f"Error opening snapshot file: {_words(error)}")
    with file:
        try:
            with Progress(context.err, "Sending", os.fstat(file.fileno()).st_size) as progress:
                context.api().upload("/v1/snapshot", Counted(file, progress)).expect_ok()
        except APIError as error:
            return context.complain(f"Error restoring snapshot: {error}")
    context.say("Restored snapshot")
    return 0


def run_inspect(context: Context, arguments: Sequence[str]) -> int:
    """Tell what an archive holds."""
    path = _file_of(context, arguments)
    if not path:
        return 1
    try:
        file = open(path, "rb")  # noqa: SIM115 -- closed below
    except OSError as error:
        return context.complain(f"Error opening snapshot file: {_words(error)}")
    depth = context.number("kvdepth") if context.on("kvdetails") else None
    with file, tempfile.TemporaryFile() as state:
        try:
            meta = _read(file, state.write)
        except (DecodeError, OSError) as error:
            return context.complain(f"Error reading snapshot: {error}")
        state.seek(0)
        try:
            found = census(_pieces(state), key_depth=depth, key_prefix=context.text("kvfilter"))
        except DecodeError as error:
            return context.complain(f"Error extracting snapshot data: {error}")
    style = context.text("format")
    if style not in ("pretty", "json"):
        return context.complain(f"Error outputting enhanced snapshot data: Unknown format: {style}")
    context.say(_pretty(meta, found) if style == "pretty" else _json(meta, found))
    return 0


# --- files -----------------------------------------------------------------------------------------------------


def _file_of(context: Context, arguments: Sequence[str]) -> str:
    """The one argument; empty, with the complaint made, when it is missing or not alone."""
    if not arguments:
        context.complain("Missing FILE argument")
        return ""
    if len(arguments) > 1:
        context.complain(f"Too many arguments (expected 1, got {len(arguments)})")
        return ""
    return arguments[0]


def _write(path: str, pieces: Iterator[bytes], progress: Progress) -> None:
    """A private file, on the disk on return. Raises OSError; APIError when the pieces end early."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with open(descriptor, "wb") as file:
        os.fchmod(descriptor, 0o600)
        for piece in pieces:
            file.write(piece)
            progress.add(len(piece))
        file.flush()
        os.fsync(descriptor)


def _verify(path: str) -> None:
    with open(path, "rb") as file:
        _read(file, lambda piece: None)


def _read(file: IO[bytes], write_state: Callable[[bytes], object]) -> SnapshotMeta:
    reader = ArchiveReader(write_state)
    for piece in _pieces(file):
        reader.feed(piece)
    return reader.finish()


def _pieces(file: IO[bytes]) -> Iterator[bytes]:
    while piece := file.read(PIECE_BYTES):
        yield piece


def _sync_directory(path: str) -> None:
    descriptor = os.open(os.path.dirname(os.path.abspath(path)), os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _remove(path: str) -> None:
    if os.path.exists(path):
        os.remove(path)


def _words(error: OSError) -> str:
    """As Go prints it."""
    return f"open {error.filename}: {(error.strerror or str(error)).lower()}"


# --- output ----------------------------------------------------------------------------------------------------


def _largest_first(counts: dict[str, Count]) -> list[tuple[str, Count]]:
    return sorted(counts.items(), key=lambda item: (-item[1].size, item[0]))


def _pretty(meta: SnapshotMeta, found: Census) -> str:
    facts = (("ID", meta.id), ("Size", meta.size), ("Index", meta.index), ("Term", meta.term), ("Version", 1))
    parts = [tab_stops([[f" {name}", str(value)] for name, value in facts]), _table("Type", found.types, found.size)]
    if found.keys:
        parts.append(_table("Key Name", found.keys, found.keys_size))
    return "\n\n".join(parts)


def _table(title: str, counts: dict[str, Count], total: int) -> str:
    rule = [" ----", "----", "----"]
    rows = [[f" {title}", "Count", "Size"], rule]
    rows += [[f" {name}", str(row.count), _bytes(row.size)] for name, row in _largest_first(counts)]
    return tab_stops([*rows, rule, [" Total", "", _bytes(total)]])


def _bytes(size: int) -> str:
    """1536 as 1.5KB."""
    for limit, unit in ((1 << 40, "TB"), (1 << 30, "GB"), (1 << 20, "MB"), (1 << 10, "KB")):
        if size >= limit:
            return f"{size / limit:.1f}".removesuffix(".0") + unit
    return f"{size}B" if size else "0"


def _json(meta: SnapshotMeta, found: Census) -> str:
    def rows(counts: dict[str, Count]) -> list[Ordered] | None:
        made = [Ordered(Name=name, Sum=row.size, Count=row.count) for name, row in _largest_first(counts)]
        return made or None

    document = Ordered(
        Meta=Ordered(ID=meta.id, Size=meta.size, Index=meta.index, Term=meta.term, Version=1),
        Stats=rows(found.types),
        StatsKV=rows(found.keys),
        TotalSize=found.size,
        TotalSizeKV=found.keys_size,
    )
    lines = encode(document, pretty=True).decode("utf-8", "surrogateescape").rstrip("\n").split("\n")
    return "\n".join(f"{(len(line) - len(line.lstrip(' '))) // 4 * '   '}{line.lstrip(' ')}" for line in lines)


SAVE = Command(
    "consul snapshot save [options] FILE",
    "Asks the leader for the state of all servers and saves it in FILE, which is written beside its name, read back "
    "and checked first. With -stale any server answers, as it does when there is no leader.",
    run_save,
    groups="CS",
)
RESTORE = Command(
    "consul snapshot restore [options] FILE",
    "Replaces the state of all servers by that in FILE. What was written since it was saved is lost.",
    run_restore,
    groups="CS",
)
INSPECT = Command(
    "consul snapshot inspect [options] FILE",
    "Shows what FILE holds, without a server.",
    run_inspect,
    (
        Flag("format", "string", "How to print: pretty or json.", default="pretty"),
        Flag("kvdepth", "int", "How many parts of a key make a group.", default=2),
        Flag("kvdetails", "bool", "Also count the keys by group."),
        Flag("kvfilter", "string", "Count only keys that begin so."),
    ),
)
