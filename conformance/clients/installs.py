"""Client libraries from their registries, pinned by version and hash, in folders of a cache.

A folder is named after the fingerprint of what is asked for, so a change of the pins makes a new one. The cache can be
removed at any time.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from conformance.real_consul import Missing, program

HERE = Path(__file__).resolve().parent
DEBIAN11 = HERE.parents[1] / "scripts" / "debian11"
INSTALL_TIMEOUT_S = 180


def cache() -> Path:
    """Where installed clients are kept."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "pyconsul" / "clients"


def installed(name: str, pins: tuple[Path, ...], install: Callable[[Path], None]) -> Path:
    """The folder with what `pins` ask for, made by `install` when it is not there. Raises Missing."""
    text = f"{sys.version_info[:2]}".encode() + b"".join(path.read_bytes() for path in pins)
    folder = cache() / f"{name}-{hashlib.sha256(text).hexdigest()[:16]}"
    stamp = folder / "complete"
    if not stamp.exists():
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        install(folder)
        stamp.touch()
    return folder


def call(*command: str, cwd: Path | None = None) -> str:
    """What a step of an installation prints. Raises Missing with its last words."""
    try:
        done = subprocess.run(
            command, cwd=cwd, capture_output=True, text=True, timeout=INSTALL_TIMEOUT_S, stdin=subprocess.DEVNULL
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Missing(str(error)) from error
    if done.returncode:
        raise Missing(f"{' '.join(command[:4])}: {(done.stderr or done.stdout).strip()[-600:]}")
    return done.stdout.strip()


def python_client(name: str) -> str:
    """The interpreter of a virtual environment with what requirements-NAME.txt pins. Raises Missing."""
    pins = HERE / f"requirements-{name}.txt"

    def install(folder: Path) -> None:
        call(sys.executable, "-m", "venv", "--without-pip", str(folder))
        call(
            sys.executable, "-m", "pip", "--python", str(folder / "bin" / "python"), "install", "-q",
            "--disable-pip-version-check", "--require-hashes", "-r", str(pins),
        )  # fmt: skip

    return str(installed(name, (pins,), install) / "bin" / "python")


def node_client() -> Path:
    """A folder with `node_modules` as package-lock.json pins them. Raises Missing."""
    program("node")
    npm = program("npm")
    pins = (HERE / "package.json", HERE / "package-lock.json")

    def install(folder: Path) -> None:
        for path in pins:
            shutil.copy(path, folder)
        call(npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund", cwd=folder)

    return installed("npm-consul", pins, install)


def debian11(package: str, path: str) -> str:
    """A program of a package of Debian 11, which is unpacked but not installed. Raises Missing."""
    return call(str(DEBIAN11), package, path, str(cache() / package))
