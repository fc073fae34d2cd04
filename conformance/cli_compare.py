"""Is a run of our command line what was recorded? Masks what varies, as `golden/cli/README.md` says, and compares.

Nothing here starts a process. A difference is a text; no differences, and the run passes.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

USAGE = "{{USAGE}}"
MORE_LOG_LINES = "{{MORE LOG LINES}}"
SHOWN_CHARACTERS = 600
KILLED = -9

LOG_LINE = re.compile(r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z \[(?:TRACE|DEBUG|INFO|WARN|ERROR)\] {1,2}\S+: ")
JSON_LOG_LINE = re.compile(r'^\{.*"@level":')
LOG_MARK = "==> Log data will now stream in as it occurs:"
NOTICED = re.compile(
    r"\[(?:INFO|WARN|ERROR)\] +(agent: (?:Consul agent running!|Caught: signal=\S+|Graceful shutdown disabled\. Exiting"
    r"|Gracefully shutting down agent\.\.\.|Graceful exit completed|Exit code: code=\d+|BootstrapExpect is set to 1.*"
    r"|bootstrap = true: do not enable unless necessary|Node name .*))"
)
"""Lines that users wait for; the other lines of a log are our own words (docs/compat.md)."""

WHILE_LEAVING = {"env-bad-ssl", "env-rpc-addr-ignored", "members-one-server"}
"""Recorded in the moment in which a member was leaving, or had just been ended."""
UNORDERED = {"exec", "keyring"}
"""Commands whose lines come from several nodes, in any order."""
COUNTER = re.compile(r"^(\t(?!encrypted = |state = ).*? = ).*$", re.MULTILINE)
COUNTER_GROUPS = ("raft:", "runtime:", "serf_lan:", "serf_wan:")
RAFT_COUNTER = re.compile(
    r'(Last (?:Contact|Term|Index): +|"(?:LastContact|LastTerm|LastIndex)": )("?[\w.µ]+"?)|"StableSince": "[^"]*"'
)
COMPACT_INDEX = re.compile(r'("(?:Create|Modify)Index":)\d+')
SESSION_LINE = re.compile(r"^Session {10}.*$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Result:
    """What a run of ours gave. `code` is KILLED when it never ended."""

    code: int
    out: str
    err: str
    folder: Path = field(default_factory=Path)


def problems(run: Mapping[str, Any], ours: Result, hostname: str) -> list[str]:
    """What differs, in words; empty when the run is as recorded."""
    found: list[str] = []
    if ours.code != run["exit"]:
        found.append(f"exit code {ours.code}, recorded {run['exit']}")
    for stream, mine in (("stdout", ours.out), ("stderr", ours.err)):
        mine = re.sub(rf"\b{re.escape(hostname)}\b", "host1", mine)
        if run["name"] in WHILE_LEAVING:
            run = {**run, stream: _without_status(run[stream])}
            mine = _without_status(mine)
        found += _texts(run, stream, mine)
    return found + _files(run, ours.folder)


def _texts(run: Mapping[str, Any], stream: str, mine: str) -> list[str]:
    recorded: str = run[stream]
    if _is_log(run, recorded):
        return _log_problems(stream, mine, recorded)
    for varying in run.get("varies", ()):
        if varying["in"] == stream and "regex" in varying:
            pattern = re.compile(varying["regex"], re.MULTILINE)
            mine, recorded = (pattern.sub(f"<{varying['kind']}>", text) for text in (mine, recorded))
    mine, recorded = _masked(run["argv"], mine), _masked(run["argv"], recorded)
    if USAGE in recorded:
        head = recorded.split(USAGE)[0]
        same = mine.startswith(head) and len(mine) > len(head)
    elif run["argv"][1] in UNORDERED:
        same = sorted(mine.splitlines()) == sorted(recorded.splitlines())
    else:
        same = mine == recorded
    return [] if same else [f"{stream} is {mine[:SHOWN_CHARACTERS]!r}", f"  recorded {recorded[:SHOWN_CHARACTERS]!r}"]


def _without_status(text: str) -> str:
    return re.sub(r" +", " ", re.sub(r"\b(?:leaving|left|alive|failed)\b", "#", text))


def _masked(argv: list[str], text: str) -> str:
    """What varies without being marked: counters of raft and serf."""
    if argv[1:] == ["info"]:
        groups = re.split(r"^(?=\w+:$)", text, flags=re.MULTILINE)
        return "".join(COUNTER.sub(r"\1#", g) if g.startswith(COUNTER_GROUPS) else g for g in groups)
    if argv[1:3] == ["snapshot", "inspect"]:
        return _inspection(text)
    if argv[1] == "watch":
        return COMPACT_INDEX.sub(r"\1#", text)
    if argv[1:4] == ["operator", "autopilot", "state"]:
        return RAFT_COUNTER.sub(r"\1#", text)
    if argv[1:3] == ["kv", "get"]:
        return SESSION_LINE.sub(lambda line: line[0] if line[0].endswith(" -") else "Session          #", text)
    return text


def _inspection(text: str) -> str:
    """What a snapshot holds is not what was recorded: its rows' kinds and figures are left out, the layout stays."""
    if text.startswith("{"):
        text = re.sub(r'\{\s+"Name": "\w+",\s+"Sum": \d+,\s+"Count": \d+\s+\},?\s+', "<row> ", text)
        return re.sub(r"(?:<row> )+", "<rows> ", re.sub(r": \d+", ": #", text))
    lines = [re.sub(r"  +", "  ", line) for line in text.splitlines()]
    kept = [line for line in lines if not re.fullmatch(r" \w+  \d+  [\d.]+[KMG]?B", line)]
    return "\n".join(re.sub(r"[\d.]+(?:[KMG]?B)?", "#", line) for line in kept)


# --- logs ----------------------------------------------------------------------------------------------------------


def _is_log(run: Mapping[str, Any], recorded: str) -> bool:
    return run["argv"][1] in ("agent", "monitor") and (
        LOG_MARK in recorded or MORE_LOG_LINES in recorded or bool(LOG_LINE.match(recorded) or "@level" in recorded)
    )


def _log_problems(stream: str, mine: str, recorded: str) -> list[str]:
    """The banner must be equal, lines must look like log lines, and those that users wait for must be there."""
    banner, log = _split(mine)
    wanted_banner, wanted_log = _split(recorded)
    found = []
    if _ids_masked(banner) != _ids_masked(wanted_banner):
        found.append(f"{stream}: the banner is {banner!r}, recorded {wanted_banner!r}")
    form = JSON_LOG_LINE if "@level" in wanted_log else LOG_LINE
    # A text of several lines goes on, indented, on the next ones.
    strange = [line for line in log.splitlines() if line.strip() and line[0] not in ' \t"' and not form.match(line)]
    if strange:
        found.append(f"{stream}: not a log line: {strange[0]!r}")
    if not log.strip() and wanted_banner:
        found.append(f"{stream}: no log lines")
    there = set(NOTICED.findall(_ids_masked(log)))
    found += [f"{stream}: no line {line!r}" for line in NOTICED.findall(_ids_masked(wanted_log)) if line not in there]
    return found


def _split(text: str) -> tuple[str, str]:
    banner, mark, log = text.partition(LOG_MARK)
    return (banner + mark, log) if mark else ("", text)


def _ids_masked(text: str) -> str:
    return re.sub(r"\b[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}\b", "<uuid>", text)


# --- files ---------------------------------------------------------------------------------------------------------


def _files(run: Mapping[str, Any], folder: Path) -> list[str]:
    found = []
    for name, wanted in run.get("files", {}).items():
        path = folder / name
        if not path.exists():
            found.append(f"file {name} was not written")
            continue
        mode = oct(path.stat().st_mode & 0o777)
        if mode != wanted["mode"]:
            found.append(f"file {name} has mode {mode}, recorded {wanted['mode']}")
        first, recorded = path.read_text().split("\n")[0], wanted["text"].split("\n")[0]
        if "-----" in recorded and first != recorded:
            found.append(f"file {name} begins with {first!r}, recorded {recorded!r}")
    output = next((a.partition("=")[2] for a in run["argv"] if a.startswith("-output=")), "")
    if "archive" in run:
        found += _listing(f"{output}.tar.gz", _archived(folder / f"{output}.tar.gz"), run["archive"])
    if "tree" in run:
        found += _listing(output, sorted(p.name for p in (folder / output).rglob("*")), run["tree"])
    return found


def _archived(path: Path) -> list[str]:
    import tarfile

    if not path.exists():
        return []
    with tarfile.open(path) as archive:
        return sorted(member.name.rstrip("/") for member in archive.getmembers())


def _listing(what: str, mine: list[str], recorded: list[str]) -> list[str]:
    return [] if mine == sorted(recorded) else [f"{what} holds {mine}, recorded {recorded}"]
