"""Replay recorded command lines of Consul 1.10.11 against our program, with the agents that they were recorded against.

    python -m conformance.cli [FOLDER] [--only NAME...]

FOLDER is in the format of `golden/cli` (its README). Without one, the runs of `golden/cli/passing.txt` must pass and
the others are skipped; `--all` runs them too, `--write-passing` rewrites the list. Each set-up has a network of its own
where the system allows it (a namespace with loopback only), so that the addresses of the recordings are free; the
set-ups run side by side. The last line is 'N passed, N failed, N skipped'; the exit code is 1 when one failed.
"""

from __future__ import annotations

import argparse
import ctypes
import fcntl
import json
import os
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

from conformance.cli_compare import KILLED, Result, problems
from conformance.cli_setups import OURS, SETUPS, TOKEN, NotReady, Setup, environment

GOLDEN = Path(__file__).parent / "golden" / "cli"
PASSING = "passing.txt"
NO_RUNS = {"flags.json"}
SIDE_BY_SIDE = ("cluster", "acl", "none")
KILL = 9
END_TIMEOUT_S = 30.0
ENDLESS_S = 4.0
LOOKED_AT_BYTES = 1024 * 1024

ORDER = {
    "none": (),
    "cluster": (
        "members",
        "join",
        "force-leave",
        "info",
        "reload",
        "rtt",
        "kv",
        "catalog",
        "services",
        "event",
        "exec",
        "lock",
        "maint",
        "monitor",
        "operator",
        "keyring",
        "snapshot",
        "watch",
        "config",
        "intention",
        "connect",
        "acl",
        "login",
        "debug",
    ),
    "acl": (
        "acl",
        "kv",
        "catalog",
        "services",
        "members",
        "operator",
        "event",
        "lock",
        "maint",
        "info",
        "login",
        "logout",
        "connect",
        "intention",
        "rtt",
        "exec",
        "watch",
        "keyring",
        "snapshot",
        "monitor",
        "debug",
        "reload",
        "force-leave",
    ),
}
"""Files by set-up, in the order of recording: it matters where runs change state. Others follow."""
LAST = {
    "cluster": (
        "members-failed", "force-leave-failed", "members-left", "force-leave-prune", "members-pruned", "leave-client",
        "members-after-leave", "leave-none-args", "members-one-server", "leave-server",
    ),
    "acl": (
        "env-addr-scheme", "env-addr-bad", "env-auth", "acl-deny-leave", "acl-leave-client", "env-ssl", "env-bad-ssl",
        "env-rpc-addr-ignored", "old-rpc-addr-flag", "acl-leave-server",
    ),
}  # fmt: skip
"""Runs that end agents, and those that were made after them."""
NEEDS_ACLS = ("acl-deny", "acl-bad-token", "acl-denied")
"""Names of runs that show a refusal."""
MISSING = {"acl": "ACLs", "connect": "the mesh", "login": "ACLs", "logout": "ACLs"}
"""Commands that come with features which we do not have yet."""
ON_PURPOSE = {
    "agent-old-dc-flag": "we take the flags of 0.5",
    "agent-old-atlas-flag": "we take the flags of 0.5",
    "validate-old.json": "we take the keys of 0.5",
    "old-rpc-addr-flag": "we speak the old RPC",
    "env-rpc-addr-ignored": "we speak the old RPC",
}
"""Where we differ on purpose (docs/compat.md)."""


def load(folder: Path) -> list[dict[str, Any]]:
    """Every run, with the name of its file, in the order of running."""
    runs = []
    for path in sorted(folder.glob("*.json")):
        if path.name not in NO_RUNS:
            for run in json.loads(path.read_text()):
                runs.append({**run, "file": path.stem, "setup": run["setup"].partition(":")[0]})
    return sorted(runs, key=lambda run: _place(run["setup"].removesuffix("-denied"), run))


def _place(setup: str, run: Mapping[str, Any]) -> tuple[int, int]:
    last, order = LAST.get(setup, ()), ORDER.get(setup, ())
    if run["name"] in last:
        return 1, last.index(run["name"])
    return 0, order.index(run["file"]) if run["file"] in order else len(order)


def why_not(run: Mapping[str, Any]) -> str:
    """Why a run cannot be made yet; empty when it can."""
    if run["setup"] == "acl-denied" or run["name"].startswith(NEEDS_ACLS):
        return "needs ACLs"
    if run["file"] in MISSING:
        return f"`{run['file']}` comes with {MISSING[run['file']]}"
    return ON_PURPOSE.get(run["name"], "")


# --- one run -------------------------------------------------------------------------------------------------------


def execute(run: Mapping[str, Any], setup: Setup) -> Result:
    """Run the command line in the set-up's folder, with the recorded signal."""
    variables = {name: value.replace("{{TOKEN}}", TOKEN) for name, value in run.get("env", {}).items()}
    words = [word.replace("{{TOKEN}}", TOKEN) for word in run["argv"][1:]]
    # Files, not pipes: what a command leaves running must not keep us waiting.
    with tempfile.TemporaryFile() as stdin, tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        stdin.write(run.get("stdin", "").encode())
        stdin.seek(0)
        process = subprocess.Popen(
            [*OURS, *words], cwd=setup.folder, env=environment() | variables, stdin=stdin, stdout=out, stderr=err,
            start_new_session=True,
        )  # fmt: skip
        code = _ended(process, run, out)
        texts = []
        for stream in (out, err):
            stream.seek(0)
            texts.append(stream.read().decode("utf-8", "replace"))
    return Result(code, *texts, folder=setup.folder)


def _ended(process: subprocess.Popen[bytes], run: Mapping[str, Any], out: IO[bytes]) -> int:
    """The exit code; KILLED when it does not end by itself or by the recorded signal."""
    _, number, _, after = run["ended_by"].split() if "ended_by" in run else ("", "0", "", "0")
    endless = run["exit"] == KILLED
    limit_s = ENDLESS_S if endless else float(after.removesuffix("s")) or END_TIMEOUT_S
    if (code := _waited(process, limit_s)) is None and (endless or number != "0"):
        # A busy machine needs more time than the recorder's until there is something to end.
        deadline = time.monotonic() + END_TIMEOUT_S
        while not _under_way(run, out) and time.monotonic() < deadline and process.poll() is None:
            time.sleep(0.1)
        if number != "0":
            process.send_signal(int(number))
            code = _waited(process, END_TIMEOUT_S)
    if code is not None:
        return code
    os.killpg(process.pid, KILL)
    process.wait()
    return KILLED


def _waited(process: subprocess.Popen[bytes], limit_s: float) -> int | None:
    try:
        return process.wait(limit_s)
    except subprocess.TimeoutExpired:
        return None


def _under_way(run: Mapping[str, Any], out: IO[bytes]) -> bool:
    """Whether an agent runs; whether a command has said a good part of what it says before it is ended."""
    text = os.pread(out.fileno(), LOOKED_AT_BYTES, 0)
    if run["argv"][1] == "agent":
        return b"Consul agent running!" in text
    return text.count(b"\n") >= min(run["stdout"].count("\n") // 2, 3)


def replay(runs: list[dict[str, Any]], setup_name: str) -> Iterator[tuple[str, list[str]]]:
    """(name, problems) of each run of a set-up."""
    setup = SETUPS[setup_name]()
    try:
        setup.start()
        for run in runs:
            yield run["name"], _problems_of(run, setup)
    except NotReady as error:
        yield f"set-up {setup_name}", [str(error)]
    finally:
        setup.stop()


def _problems_of(run: Mapping[str, Any], setup: Setup) -> list[str]:
    try:
        prepared = setup.before(run)
        result = execute(prepared, setup)
    except NotReady as error:
        return [str(error)]
    return problems(prepared, result, socket.gethostname())


# --- a network of our own ------------------------------------------------------------------------------------------

CLONE_NEWUSER, CLONE_NEWNET, CLONE_NEWUTS = 0x10000000, 0x40000000, 0x04000000
SIOCGIFFLAGS, SIOCSIFFLAGS, IFF_UP = 0x8913, 0x8914, 1


def own_network() -> bool:
    """Move this process into a network with nothing but loopback, where the system allows it."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(CLONE_NEWNET | CLONE_NEWUTS) and libc.unshare(CLONE_NEWUSER | CLONE_NEWNET | CLONE_NEWUTS):
        return False
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        request = fcntl.ioctl(any_socket, SIOCGIFFLAGS, struct.pack("16sh14x", b"lo", 0))
        flags = struct.unpack("16sh14x", request)[1]
        fcntl.ioctl(any_socket, SIOCSIFFLAGS, struct.pack("16sh14x", b"lo", flags | IFF_UP))
    socket.sethostname("host1")
    return True


# --- all of them ---------------------------------------------------------------------------------------------------


def child(options: argparse.Namespace, runs: list[dict[str, Any]]) -> int:
    """One set-up in a process of its own: a JSON line per run."""
    if not own_network():
        print("no network of our own here: the recorded addresses must be free", file=sys.stderr)
    for name, found in replay(runs, options.setup):
        print(json.dumps([name, found]), flush=True)
    return 0


def results_of(arguments: list[str], setups: list[str]) -> Iterator[tuple[str, list[str]]]:
    """The results of all set-ups, which run side by side."""
    children = [
        subprocess.Popen(
            [sys.executable, "-m", "conformance.cli", *arguments, "--setup", name], stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[1],
        )
        for name in setups
    ]  # fmt: skip
    for name, process in zip(setups, children, strict=True):
        assert process.stdout is not None
        with process, process.stdout:
            for line in process.stdout:
                run, found = json.loads(line)
                yield run, found
        if process.returncode:
            yield f"set-up {name}", [f"its process ended with {process.returncode}"]


def listed() -> set[str]:
    """The runs that must pass."""
    lines = (GOLDEN / PASSING).read_text().splitlines()
    return {line for line in lines if line and not line.startswith("#")}


def write_passing(results: Mapping[str, list[str]]) -> None:
    """Rewrite the list; runs that were not made keep their place."""
    kept = {name for name in listed() if name not in results} if (GOLDEN / PASSING).exists() else set()
    good = {name for name, found in results.items() if not found}
    head = "# Recorded command lines that must pass (python -m conformance.cli). Written by --write-passing.\n"
    (GOLDEN / PASSING).write_text(head + "".join(f"{name}\n" for name in sorted(kept | good)))


def chosen(options: argparse.Namespace, runs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The runs to make."""
    if options.only:
        return [run for run in runs if run["name"] in options.only or run["file"] in options.only]
    able = [run for run in runs if not why_not(run)]
    if options.folder or options.all or not (GOLDEN / PASSING).exists():
        return able
    passing = listed()
    return [run for run in able if run["name"] in passing]


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description="Replay recorded command lines.")
    parser.add_argument("folder", nargs="?", help="recordings (default: our copy)")
    parser.add_argument("--only", nargs="*", default=[], metavar="NAME", help="only these runs or files")
    parser.add_argument("--all", action="store_true", help="every run, also those known to differ")
    parser.add_argument("--write-passing", action="store_true", help="rewrite the list of those that pass")
    parser.add_argument("--setup", help=argparse.SUPPRESS)
    options = parser.parse_intermixed_args()
    # A shell starts what runs in the background deaf to interrupts, and so would be the commands that are ended by one.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    runs = load(Path(options.folder) if options.folder else GOLDEN)
    wanted = chosen(options, runs)
    by_setup = {name: [r for r in wanted if r["setup"].removesuffix("-denied") == name] for name in SIDE_BY_SIDE}
    if options.setup:
        return child(options, by_setup[options.setup])
    results: dict[str, list[str]] = {}
    arguments = [str(Path(options.folder).resolve())] if options.folder else []
    arguments += ["--all"] * options.all + (["--only", *options.only] if options.only else [])
    for name, found in results_of(arguments, [name for name in SIDE_BY_SIDE if by_setup[name]]):
        results[name] = found
        print(f"{'FAIL' if found else 'ok  '}  {name}", *found, sep="\n    ", flush=True)
    for run in wanted:
        if run["name"] not in results:
            results[run["name"]] = ["was not run"]
            print(f"FAIL  {run['name']}: was not run")
    skipped = [run for run in runs if run["name"] not in results] if not options.only else []
    for run in skipped:
        print(f"skip  {run['name']}: {why_not(run) or 'differs yet (docs/compat.md)'}")
    if options.write_passing:
        write_passing(results)
    failed = sum(1 for found in results.values() if found)
    print(f"{len(results) - failed} passed, {failed} failed, {len(skipped)} skipped")
    return 1 if failed or not results else 0


if __name__ == "__main__":
    raise SystemExit(main())
