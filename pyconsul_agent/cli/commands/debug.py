"""`debug`: what an agent is, sees and logs, over a while, in a folder or an archive, for those who are to help."""

from __future__ import annotations

import json
import os
import shutil
import signal
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from pyconsul_agent.cli import children
from pyconsul_agent.cli.command import Command, Context
from pyconsul_agent.cli.flags import Flag
from pyconsul_agent.cli.http_api import API, APIError
from pyconsul_agent.wire.gotypes import format_duration, parse_duration

TARGETS = ("metrics", "logs", "pprof", "host", "agent", "cluster")
STATIC = {"host": "/v1/agent/host", "agent": "/v1/agent/self", "cluster": "/v1/agent/members"}
SECOND_NS = 1_000_000_000
DURATION_NS_MIN = 10 * SECOND_NS
INTERVAL_NS_MIN = 5 * SECOND_NS
GRACE_NS = 2 * SECOND_NS
"""Added to the duration, so that the last interval is whole."""
INDEX_VERSION = 1
LOG_BYTES_MAX = 256 * 1024 * 1024


class _CannotCapture(Exception):
    """The request makes no sense, or the agent does not answer."""


class _Stopped(Exception):
    """A signal asked us to end."""


def run(context: Context, arguments: Sequence[str]) -> int:
    """Record and pack."""
    if arguments:
        return context.complain("==> debug: Too many arguments provided, expected 0")
    api = context.api()
    try:
        capture = _Capture(context, api)
    except _CannotCapture as error:
        return context.complain(f"==> Capture validation failed: {error}")
    return capture.run()


class _Capture:
    """One recording into one folder."""

    def __init__(self, context: Context, api: API) -> None:
        self._context = context
        self._api = api
        self._interval = int(parse_duration(context.text("interval")))
        self._duration = int(parse_duration(context.text("duration")))
        targets = context.values["capture"]
        self._targets = list(targets) if isinstance(targets, list) and targets else list(TARGETS)
        self._folder = Path(context.text("output") or f"consul-debug-{int(time.time())}")
        self._over = threading.Event()
        self._version = self._prepare()

    def _prepare(self) -> str:
        """Judge flags and agent, make the folder; the agent's version. Raises _CannotCapture."""
        if self._duration < DURATION_NS_MIN:
            raise _CannotCapture(f"duration must be longer than {format_duration(DURATION_NS_MIN)}")
        if self._interval < INTERVAL_NS_MIN:
            # compat: 1.10.11 names the least duration here.
            raise _CannotCapture(f"interval must be longer than {format_duration(DURATION_NS_MIN)}")
        if self._duration < self._interval:
            raise _CannotCapture(
                f"duration ({format_duration(self._duration)}) must be longer than interval "
                f"({format_duration(self._interval)})"
            )
        try:
            document = self._api.get("/v1/agent/self").expect_ok().json()
        except APIError as error:
            raise _CannotCapture(
                f"error querying target agent: {error}. verify connectivity and agent address"
            ) from None
        version = str((document.get("Config") or {}).get("Version", ""))
        if not version:
            raise _CannotCapture("agent response did not contain version key")
        debugging = (document.get("DebugConfig") or {}).get("EnableDebug") is True
        if "pprof" in self._targets and not debugging:
            self._targets.remove("pprof")
            self._warn("[WARN] Unable to capture pprof. Set enable_debug to true on target agent to enable profiling.")
        for target in self._targets:
            if target not in TARGETS:
                raise _CannotCapture(f"target not found: {target}")
        if self._folder.exists():
            raise _CannotCapture(f"output directory already exists: {self._folder}")
        try:
            self._folder.mkdir(parents=True, mode=0o755)
        except OSError as error:
            raise _CannotCapture(f"could not create output directory: {error}") from None
        return version

    def _warn(self, text: str) -> None:
        self._context.complain(f"==> {text}")

    def run(self) -> int:
        """The exit code."""
        context, archive = self._context, self._context.on("archive")
        output = f"{self._folder}.tar.gz" if archive else str(self._folder)
        context.say("==> Starting debugger and capturing static information...")
        for name, value in (
            ("Agent Version", self._version), ("Interval", format_duration(self._interval)),
            ("Duration", format_duration(self._duration)), ("Output", output), ("Capture", ", ".join(self._targets)),
        ):  # fmt: skip
            context.say(f"    {name:>14}: '{value}'")
        context.out.flush()
        self._static()
        try:
            self._over_time()
        except _Stopped:
            self._warn("Error encountered during collection: stopping collection due to shutdown signal")
        self._over.set()
        self._write("index.json", {
            "Version": INDEX_VERSION, "AgentVersion": self._version, "Interval": format_duration(self._interval),
            "Duration": format_duration(self._duration + GRACE_NS), "Targets": self._targets,
        })  # fmt: skip
        if archive:
            try:
                self._pack(Path(output))
            except OSError as error:
                self._warn(f"Archive creation failed: {error}")
                return 1
        context.say(f"    Saved debug archive: {output}")
        return 0

    def _static(self) -> None:
        for target, path in STATIC.items():
            if target not in self._targets:
                continue
            value = None
            try:
                query = {"wan": "1"} if target == "cluster" else {}
                value = self._api.get(path, query).expect_ok().json()
            except APIError as error:
                self._warn(f"Static capture failed: {target}: {error}")
            self._write(f"{target}.json", value)

    def _write(self, name: str, value: Any) -> None:
        path = self._folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(value, indent="\t", ensure_ascii=False))
        path.chmod(0o644)

    # --- over time -------------------------------------------------------------------------------------------------

    def _over_time(self) -> None:
        moving = [target for target in ("metrics", "logs", "pprof") if target in self._targets]
        if not moving:
            return

        def stop(number: int, frame: object) -> None:
            raise _Stopped

        children.on_signals(stop, signal.SIGINT, signal.SIGTERM)
        end = time.monotonic() + (self._duration + GRACE_NS) / 1e9
        count = 0
        while (left := end - time.monotonic()) > 0:
            self._context.say(f"==> Beginning capture interval {_now()} ({count})")
            self._context.out.flush()
            self._interval_of(min(left, self._interval / 1e9), moving)
            count += 1

    def _interval_of(self, length_s: float, moving: Sequence[str]) -> None:
        folder = str(int(time.time()))
        takes: dict[str, Callable[[str, float], None]] = {"metrics": self._metrics, "logs": self._logs,
                                                           "pprof": self._profiles}  # fmt: skip
        threads = [threading.Thread(target=takes[name], args=(folder, length_s), daemon=True) for name in moving]
        for thread in threads:
            thread.start()
        time.sleep(length_s)

    def _metrics(self, folder: str, length_s: float) -> None:
        try:
            self._write(f"{folder}/metrics.json", self._api.get("/v1/agent/metrics").expect_ok().json())
        except APIError as error:
            self._warn(f"failed to collect metrics: {error}")

    def _logs(self, folder: str, length_s: float) -> None:
        path, end, written = self._folder / folder / "consul.log", time.monotonic() + length_s, 0
        path.parent.mkdir(exist_ok=True)
        try:
            with path.open("wb") as file:
                for line in self._api.stream("/v1/agent/monitor", {"loglevel": "DEBUG"}):
                    written += file.write(line)
                    file.flush()
                    if time.monotonic() >= end or self._over.is_set() or written > LOG_BYTES_MAX:
                        return
        except APIError as error:
            self._warn(f"failed to collect logs: {error}")

    def _profiles(self, folder: str, length_s: float) -> None:
        for name, path in (("heap.prof", "heap"), ("goroutine.prof", "goroutine")):
            try:
                data = self._api.get(f"/debug/pprof/{path}").expect_ok().body
            except APIError as error:
                self._warn(f"failed to collect {path} profile: {error}")
                continue
            (self._folder / folder).mkdir(exist_ok=True)
            (self._folder / folder / name).write_bytes(data)

    def _pack(self, output: Path) -> None:
        """One archive instead of the folder; whole or not there at all."""
        import tarfile

        unfinished = output.with_name(output.name + ".tmp")
        with tarfile.open(unfinished, "w:gz") as archive:
            archive.add(self._folder, arcname=self._folder.name)
        os.replace(unfinished, output)
        shutil.rmtree(self._folder)


def _now() -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S +0000 UTC", time.gmtime())


DEBUG = Command(
    "consul debug [options]",
    "Records for a while what an agent is, measures and logs, and packs it into an archive for operators. It may hold "
    "secrets of the configuration: look before you pass it on.",
    run,
    (
        Flag("archive", "bool", "Pack the folder into an archive.", True),
        Flag("capture", "strings", f"What to record: {', '.join(TARGETS)}. May be given several times; unset, all."),
        Flag("duration", "duration", "How long to record.", "2m0s"),
        Flag("interval", "duration", "How often to record what changes.", "30s"),
        Flag("output", "string", "Folder, and name of the archive; unset, consul-debug- and the time."),
    ),
    groups="C",
)
