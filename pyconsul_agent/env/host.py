"""Facts about this process, from /proc and the interpreter; what cannot be read is zero."""

from __future__ import annotations

import asyncio
import gc
import os
import sys
import time
from collections import deque
from collections.abc import Mapping

from pyconsul_agent.env.base import ProcessFacts

PAUSES_MAX = 256
"""Of the garbage collector, kept until somebody asks."""
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


class RealHost:
    """`Host` of the operating system."""

    def __init__(self) -> None:
        self._gc_ns = 0
        self._gc_began = 0
        self._counting = False
        self._pauses: deque[int] = deque(maxlen=PAUSES_MAX)

    def process(self) -> ProcessFacts:
        """This process now; the garbage collector's times count from the first call on."""
        if not self._counting:
            self._counting = True
            gc.callbacks.append(self._collected)
        sizes = _sizes()
        pauses, self._pauses = tuple(self._pauses), deque(maxlen=PAUSES_MAX)
        virtual, resident = (int(sizes[0]), int(sizes[1])) if len(sizes) > 1 else (0, 0)
        return ProcessFacts(
            resident_bytes=resident * PAGE_BYTES,
            virtual_bytes=virtual * PAGE_BYTES,
            heap_objects=sys.getallocatedblocks(),
            freed_objects=sum(generation["collected"] for generation in gc.get_stats()),
            gc_runs=sum(generation["collections"] for generation in gc.get_stats()),
            gc_pause_ns=self._gc_ns,
            gc_pauses_ns=pauses,
            tasks=len(asyncio.all_tasks()),
        )

    def _collected(self, phase: str, info: Mapping[str, int]) -> None:
        if phase == "start":
            self._gc_began = time.perf_counter_ns()
        elif self._gc_began:
            pause = time.perf_counter_ns() - self._gc_began
            self._gc_ns += pause
            self._pauses.append(pause)

    def close(self) -> None:
        """Count no more."""
        if self._counting:
            gc.callbacks.remove(self._collected)
            self._counting = False


def _sizes() -> list[bytes]:
    try:
        with open("/proc/self/statm", "rb") as file:
            return file.read(256).split()
    except OSError:
        return []
