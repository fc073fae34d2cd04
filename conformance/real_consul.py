"""Where the real programs are that we are tested against, and what their absence means.

In CI (environment variable `CI` is `true`) a missing program is a failure, elsewhere a skip that names it.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).resolve().parents[1] / "scripts" / "real-consul"
DOWNLOAD_TIMEOUT_S = 300


class Missing(Exception):
    """There is no such program here; the text says why."""


def real_consul() -> str:
    """Path of a real Consul: $CONSUL, or what scripts/real-consul finds or fetches. Raises Missing."""
    try:
        found = subprocess.run(
            [str(SCRIPT)], capture_output=True, text=True, timeout=DOWNLOAD_TIMEOUT_S, stdin=subprocess.DEVNULL
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Missing(str(error)) from error
    if found.returncode:
        raise Missing(found.stderr.strip())
    return found.stdout.strip()


def program(name: str) -> str:
    """Path of an installed program. Raises Missing."""
    path = shutil.which(name)
    if path is None:
        raise Missing(f"no `{name}` on this machine")
    return path


def report_missing(what: str, reason: Missing) -> int:
    """Print the closing line for a peer that is not there; the exit code."""
    if os.environ.get("CI") == "true":
        print(f"FAIL {what}: {reason}")
        print("0 passed, 1 failed")
        return 1
    print(f"skip {what}: {reason}")
    print("0 passed, 0 failed, 1 skipped")
    return 0


def main() -> int:
    """Print the path and version of the real Consul."""
    try:
        path = real_consul()
    except Missing as reason:
        return report_missing("real consul", reason)
    print(path)
    version = subprocess.run([path, "version"], capture_output=True, text=True, stdin=subprocess.DEVNULL)
    print(version.stdout.splitlines()[0] if version.returncode == 0 else version.stderr)
    print("1 passed, 0 failed" if version.returncode == 0 else "0 passed, 1 failed")
    return version.returncode


if __name__ == "__main__":
    sys.exit(main())
