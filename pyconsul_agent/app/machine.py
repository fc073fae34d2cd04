"""What the process runs on, as `consul info` and `/v1/agent/host` tell it. Everything comes from /proc and the system's
own calls; what is not there is left out or zero.
"""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Mapping
from typing import Any

from pyconsul_agent.env.base import Files
from pyconsul_agent.wire.gojson import Ordered

PROC_BYTES_MAX = 256 * 1024
KIB = 1024
MEMORY = {
    "total": "MemTotal", "available": "MemAvailable", "free": "MemFree", "active": "Active", "inactive": "Inactive",
    "buffers": "Buffers", "cached": "Cached", "shared": "Shmem", "slab": "Slab", "mapped": "Mapped",
    "swaptotal": "SwapTotal", "swapfree": "SwapFree", "committedas": "Committed_AS", "commitlimit": "CommitLimit",
}  # fmt: skip
"""Our key -> the kernel's."""
_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64", "i686": "386"}
"""Names of the kernel -> Consul's names, which scripts know."""


def runtime_stats(tasks: int) -> Mapping[str, str]:
    """The section `runtime`. `goroutines` counts what comes nearest to them: the loop's tasks."""
    machine = platform.machine()
    processors = str(os.cpu_count() or 1)
    return {
        "arch": _ARCHITECTURES.get(machine, machine),
        "cpu_count": processors,
        "goroutines": str(tasks),
        "max_procs": processors,
        "os": sys.platform,
        "version": f"python{platform.python_version()}",
    }


def host_document(files: Files, *, hostname: str, data_dir: str, now_ns: int) -> Ordered:
    """Memory, processors, system and disk."""
    return Ordered(
        Memory=_memory(_read(files, "/proc/meminfo")),
        CPU=_processors(_read(files, "/proc/cpuinfo")),
        Host=_system(files, hostname, now_ns),
        Disk=_disk(data_dir or "/"),
        CollectionTime=now_ns,
        Errors=None,
    )


def _read(files: Files, path: str) -> str:
    try:
        return files.read(path)[:PROC_BYTES_MAX].decode("utf-8", "replace")
    except OSError:
        return ""


def _pairs(text: str, separator: str) -> dict[str, str]:
    parts = (line.partition(separator) for line in text.splitlines())
    return {key.strip(): value.strip().strip('"') for key, _, value in parts if value}


def _number(text: str) -> int:
    digits = text.split()[0] if text else ""
    return int(digits) if digits.isascii() and digits.isdigit() and len(digits) < 20 else 0


def _memory(text: str) -> Ordered:
    known = _pairs(text, ":")
    sizes = {ours: _number(known.get(theirs, "")) * KIB for ours, theirs in MEMORY.items()}
    used = max(0, sizes["total"] - sizes["free"] - sizes["buffers"] - sizes["cached"])
    percent = used / sizes["total"] * 100 if sizes["total"] else 0.0
    return Ordered(total=sizes.pop("total"), available=sizes.pop("available"), used=used, usedPercent=percent, **sizes)


def _processors(text: str) -> list[Ordered]:
    found = []
    for block in text.split("\n\n"):
        known = _pairs(block, ":")
        if "processor" not in known:
            continue
        speed = known.get("cpu MHz", "0")
        found.append(
            Ordered(
                cpu=_number(known["processor"]),
                vendorId=known.get("vendor_id", ""),
                family=known.get("cpu family", ""),
                model=known.get("model", ""),
                physicalId=known.get("physical id", ""),
                coreId=known.get("core id", ""),
                cores=1,
                modelName=known.get("model name", ""),
                mhz=float(speed) if speed.replace(".", "", 1).isdigit() else 0.0,
                cacheSize=_number(known.get("cache size", "")),
                flags=known.get("flags", "").split(),
            )
        )
    return found


def _system(files: Files, hostname: str, now_ns: int) -> Ordered:
    distribution = _pairs(_read(files, "/etc/os-release"), "=")
    uptime = _number(_read(files, "/proc/uptime").partition(".")[0])
    return Ordered(
        hostname=hostname,
        uptime=uptime,
        bootTime=now_ns // 1_000_000_000 - uptime if uptime else 0,
        procs=0,
        os=sys.platform,
        platform=distribution.get("ID", ""),
        platformFamily=distribution.get("ID_LIKE", distribution.get("ID", "")),
        platformVersion=distribution.get("VERSION_ID", ""),
        kernelVersion=platform.release(),
        kernelArch=platform.machine(),
        virtualizationSystem="",
        virtualizationRole="",
        hostid="",
    )


def _disk(path: str) -> Mapping[str, Any]:
    try:
        disk = os.statvfs(path)
    except OSError:
        return Ordered(path=path)
    total, free = disk.f_blocks * disk.f_frsize, disk.f_bavail * disk.f_frsize
    used = (disk.f_blocks - disk.f_bfree) * disk.f_frsize
    inodes_used = disk.f_files - disk.f_ffree
    return Ordered(
        path=path,
        fstype="",
        total=total,
        free=free,
        used=used,
        usedPercent=used / (used + free) * 100 if used + free else 0.0,
        inodesTotal=disk.f_files,
        inodesUsed=inodes_used,
        inodesFree=disk.f_ffree,
        inodesUsedPercent=inodes_used / disk.f_files * 100 if disk.f_files else 0.0,
    )
