"""Facts about this machine and this process, from /proc; what cannot be read is left out and named."""

from __future__ import annotations

import asyncio
import gc
import os
import platform
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

from pyconsul_agent.env.base import MachineFacts, ProcessFacts

PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
PROC_BYTES_MAX = 1024 * 1024
"""Of one file below /proc; the list of processors of a large machine is some 100 KiB."""
MEMORY = {
    "active": "Active", "inactive": "Inactive", "buffers": "Buffers", "writeback": "Writeback", "dirty": "Dirty",
    "writebacktmp": "WritebackTmp", "shared": "Shmem", "slab": "Slab", "sreclaimable": "SReclaimable",
    "sunreclaim": "SUnreclaim", "pagetables": "PageTables", "swapcached": "SwapCached", "commitlimit": "CommitLimit",
    "committedas": "Committed_AS", "hightotal": "HighTotal", "highfree": "HighFree", "lowtotal": "LowTotal",
    "lowfree": "LowFree", "swaptotal": "SwapTotal", "swapfree": "SwapFree", "mapped": "Mapped",
    "vmalloctotal": "VmallocTotal", "vmallocused": "VmallocUsed", "vmallocchunk": "VmallocChunk",
    "hugepagestotal": "HugePages_Total", "hugepagesfree": "HugePages_Free", "hugepagesize": "Hugepagesize",
}  # fmt: skip
ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64", "i686": "386", "armv7l": "arm"}


class RealHost:
    """`Host` of the operating system."""

    def __init__(self) -> None:
        self._gc_runs = 0
        self._gc_ns = 0
        self._gc_began = 0
        self._counting = False

    def process(self) -> ProcessFacts:
        """This process now; the garbage collector's times count from the first call on."""
        if not self._counting:
            self._counting = True
            gc.callbacks.append(self._collected)
        sizes = _read("/proc/self/statm").split()
        virtual, resident = (int(sizes[0]), int(sizes[1])) if len(sizes) > 1 else (0, 0)
        return ProcessFacts(
            resident_bytes=resident * PAGE_BYTES,
            virtual_bytes=virtual * PAGE_BYTES,
            heap_objects=sys.getallocatedblocks(),
            freed_objects=sum(generation["collected"] for generation in gc.get_stats()),
            gc_runs=sum(generation["collections"] for generation in gc.get_stats()),
            gc_pause_ns=self._gc_ns,
            tasks=len(asyncio.all_tasks()),
        )

    def _collected(self, phase: str, info: Mapping[str, int]) -> None:
        if phase == "start":
            self._gc_began = time.perf_counter_ns()
        elif self._gc_began:
            self._gc_ns += time.perf_counter_ns() - self._gc_began

    def close(self) -> None:
        """Count no more."""
        if self._counting:
            gc.callbacks.remove(self._collected)
            self._counting = False

    def machine(self, path: str) -> MachineFacts:
        """Memory, processors, system and the disk that holds `path`. Reads files: call it on a thread."""
        began = time.time_ns()
        errors: list[str] = []

        def part(read: Callable[[], Any]) -> Any:
            try:
                return read()
            except (OSError, ValueError, IndexError, KeyError) as error:
                errors.append(str(error))
                return None

        return MachineFacts(
            memory=part(_memory),
            processors=part(_processors),
            system=part(_system),
            disk=part(lambda: _disk(path)),
            collected_ns=began,
            errors=tuple(errors),
        )

    @property
    def architecture(self) -> str:
        """As Go names it."""
        return ARCHITECTURES.get(platform.machine(), platform.machine())

    @property
    def processors(self) -> int:
        """Those that this process may use."""
        return len(os.sched_getaffinity(0))

    @property
    def runtime(self) -> str:
        """What runs this program."""
        return f"{platform.python_implementation().lower()}{platform.python_version()}"


def _read(path: str) -> str:
    with open(path, "rb") as file:
        return file.read(PROC_BYTES_MAX).decode("utf-8", "replace")


def _memory() -> dict[str, Any]:
    found: dict[str, int] = {}
    for line in _read("/proc/meminfo").splitlines():
        name, _, rest = line.partition(":")
        words = rest.split()
        if words:
            found[name] = int(words[0]) * (1024 if len(words) > 1 else 1)
    total, free = found["MemTotal"], found["MemFree"]
    cached = found.get("Cached", 0) + found.get("SReclaimable", 0)
    used = total - free - found.get("Buffers", 0) - cached
    shown: dict[str, Any] = {
        "total": total,
        "available": found.get("MemAvailable", free),
        "used": used,
        "usedPercent": used / total * 100 if total else 0.0,
        "free": free,
        "wired": 0,
        "laundry": 0,
        "cached": cached,
    }
    shown.update((name, found.get(source, 0)) for name, source in MEMORY.items())
    return shown


def _processors() -> list[dict[str, Any]]:
    out = []
    for block in _read("/proc/cpuinfo").strip().split("\n\n"):
        rows = _rows(block, ":")
        if "processor" not in rows:
            continue
        out.append(
            {
                "cpu": int(rows["processor"]),
                "vendorId": rows.get("vendor_id", ""),
                "family": rows.get("cpu family", ""),
                "model": rows.get("model", ""),
                "stepping": int(rows.get("stepping", "0")) if rows.get("stepping", "0").isdigit() else 0,
                "physicalId": rows.get("physical id", ""),
                "coreId": rows.get("core id", ""),
                "cores": 1,
                "modelName": rows.get("model name", ""),
                "mhz": float(rows.get("cpu MHz", "0")),
                "cacheSize": int(rows.get("cache size", "0").split()[0]),
                "flags": rows.get("flags", rows.get("Features", "")).split(),
                "microcode": rows.get("microcode", ""),
            }
        )
    return out


def _system() -> dict[str, Any]:
    release = _rows(_quietly("/etc/os-release"), "=")
    name = os.uname()
    uptime = int(float(_read("/proc/uptime").split()[0]))
    return {
        "hostname": name.nodename,
        "uptime": uptime,
        "bootTime": int(time.time()) - uptime,
        "procs": sum(entry.isdigit() for entry in os.listdir("/proc")),
        "os": sys.platform,
        "platform": release.get("ID", "").strip('"'),
        "platformFamily": (release.get("ID_LIKE") or release.get("ID", "")).strip('"').partition(" ")[0],
        "platformVersion": release.get("VERSION_ID", "").strip('"'),
        "kernelVersion": name.release,
        "kernelArch": name.machine,
        "virtualizationSystem": "",
        "virtualizationRole": "",
        "hostid": _quietly("/sys/class/dmi/id/product_uuid").strip().lower(),
    }


def _rows(text: str, separator: str) -> dict[str, str]:
    rows: dict[str, str] = {}
    for line in text.splitlines():
        name, found, value = line.partition(separator)
        if found:
            rows[name.strip()] = value.strip()
    return rows


def _quietly(path: str) -> str:
    """A file that many machines do not have, or show to root only."""
    try:
        return _read(path)
    except OSError:
        return ""


def _disk(path: str) -> dict[str, Any]:
    path = path or "/"
    facts = os.statvfs(path)
    total, free = facts.f_blocks * facts.f_frsize, facts.f_bavail * facts.f_frsize
    used = (facts.f_blocks - facts.f_bfree) * facts.f_frsize
    inodes = facts.f_files - facts.f_ffree
    return {
        "path": path,
        "fstype": _filesystem(path),
        "total": total,
        "free": free,
        "used": used,
        "usedPercent": used / (used + free) * 100 if used + free else 0.0,
        "inodesTotal": facts.f_files,
        "inodesUsed": inodes,
        "inodesFree": facts.f_ffree,
        "inodesUsedPercent": inodes / facts.f_files * 100 if facts.f_files else 0.0,
    }


def _filesystem(path: str) -> str:
    """The type of the mount with the longest name that `path` lies below."""
    real, best, kind = os.path.realpath(path), "", ""
    for line in _quietly("/proc/self/mounts").splitlines():
        words = line.split()
        if len(words) > 2:
            point = words[1].rstrip("/")
            if (real == point or real.startswith(point + "/")) and len(point) >= len(best):
                best, kind = point, words[2]
    return kind
