"""What the process runs on, as `consul info` tells it."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Mapping

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
