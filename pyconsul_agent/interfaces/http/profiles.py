"""`/debug/pprof/`: what Python can tell of itself, as text, only with `enable_debug`.

Consul answers with Go's own profiles, which no Python program has; the paths are the same, the contents are ours:
tasks and threads with their stacks (`goroutine`), living objects by type (`heap`, `allocs`), and functions by time
(`profile?seconds=N`). One profile runs at a time.
"""

from __future__ import annotations

import asyncio
import cProfile
import gc
import io
import pstats
import sys
import traceback
from collections import Counter
from collections.abc import AsyncIterator

from pyconsul_agent.interfaces.http.message import TEXT, Request, Response, text_response

SECONDS_DEFAULT, SECONDS_MAX = 30.0, 300.0
ROWS_MAX = 100
TASKS_MAX = 2000
FRAMES_MAX = 32
BUSY = "Could not enable CPU profiling: cpu profiling already in use"
INDEX = "cmdline\ngoroutine\nheap\nallocs\nprofile?seconds=30\nthreadcreate\n"
NOT_HERE = "no such profile: this agent runs on Python and has no Go runtime\n"


class Profiles:
    """Answers below `/debug/pprof/`."""

    def __init__(self) -> None:
        self._running = False

    def answer(self, request: Request) -> Response:
        """The profile that the path names."""
        name = request.path.removeprefix("/debug/pprof/")
        if name == "profile":
            return self._profile(request.query.get("seconds"))
        plain = {"": lambda: INDEX, "cmdline": _cmdline, "goroutine": _tasks, "heap": _heap, "allocs": _heap,
                 "threadcreate": _threads}  # fmt: skip
        make = plain.get(name)
        if make is None:
            return text_response(NOT_HERE, status=404)
        return Response(200, make().encode("utf-8", "replace"), TEXT, {"X-Content-Type-Options": "nosniff"})

    def _profile(self, text: str) -> Response:
        try:
            seconds = float(text) if text else SECONDS_DEFAULT
        except ValueError:
            seconds = -1.0
        if not 0 < seconds <= SECONDS_MAX:
            return text_response(f"seconds must be a number from 0 to {SECONDS_MAX:g}", status=400)
        if self._running:
            return text_response(BUSY, status=500)
        return Response(200, content_type=TEXT, stream=self._measured(seconds))

    async def _measured(self, seconds: float) -> AsyncIterator[bytes]:
        """What the event loop's thread does for some time."""
        if self._running:  # between the question and the first byte, another one began
            yield BUSY.encode()
            return
        self._running = True
        profile = cProfile.Profile()
        try:
            profile.enable()
            try:
                await asyncio.sleep(seconds)
            finally:
                profile.disable()
            out = io.StringIO()
            pstats.Stats(profile, stream=out).sort_stats("tottime").print_stats(ROWS_MAX)
            yield out.getvalue().encode("utf-8", "replace")
        finally:
            self._running = False


def _cmdline() -> str:
    return "\0".join(sys.argv)


def _heap() -> str:
    found = Counter(type(each).__qualname__ for each in gc.get_objects())
    rows = [f"{count:>10} {name}" for name, count in found.most_common(ROWS_MAX)]
    return f"{sum(found.values())} objects known to the garbage collector\n" + "\n".join(rows) + "\n"


def _tasks() -> str:
    out = io.StringIO()
    tasks = sorted(asyncio.all_tasks(), key=lambda task: task.get_name())
    print(f"{len(tasks)} tasks", file=out)
    for task in tasks[:TASKS_MAX]:
        task.print_stack(limit=FRAMES_MAX, file=out)
    return out.getvalue() + _threads()


def _threads() -> str:
    out = io.StringIO()
    frames = sys._current_frames()
    print(f"{len(frames)} threads", file=out)
    for identity, frame in frames.items():
        print(f"thread {identity}", file=out)
        traceback.print_stack(frame, limit=FRAMES_MAX, file=out)
    return out.getvalue()
