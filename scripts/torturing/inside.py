"""Namespaces of our own for the whole run, so that whatever happens to it nothing is left behind.

The run starts itself again under `unshare`: with a network, mounts and processes of its own. When it ends, killed or
not, the kernel ends all its processes and removes its networks and mounts. Nothing outside is seen or changed: names
and addresses cannot collide with those of another run, and no firewall of the machine is in the way.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence

MARK = "PYCONSUL_TORTURE_INSIDE"
PROGRAMS = ("unshare", "nsenter", "mount", "ip", "nft", "gcc")
UNSHARE = ("unshare", "--net", "--mount", "--propagation", "private", "--pid", "--fork", "--kill-child", "--mount-proc")


def why_not() -> str:
    """What this machine lacks, "" when nothing."""
    if os.geteuid():
        return "not root"
    missing = [name for name in PROGRAMS if shutil.which(name) is None]
    if missing:
        return f"no {', '.join(missing)}"
    if not os.path.exists("/dev/net/tun"):
        return "no /dev/net/tun"
    done = subprocess.run([*UNSHARE, "true"], capture_output=True, text=True, stdin=subprocess.DEVNULL)
    return f"no own namespaces: {done.stderr.strip()}" if done.returncode else ""


def enter(arguments: Sequence[str]) -> None:
    """Start this program again inside, unless it is there already. Does not return."""
    if os.environ.get(MARK):
        return
    os.environ[MARK] = "1"
    os.execvp(UNSHARE[0], [*UNSHARE, sys.executable, *arguments])


def is_inside() -> bool:
    """Whether `enter` has done its work."""
    return bool(os.environ.get(MARK))
