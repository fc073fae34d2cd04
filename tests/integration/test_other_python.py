"""Other interpreters of this machine that can use our packages: the same seed gives the same digest on each.

The image runs on Debian's Python, whose asyncio is older than most; what differs between versions must not reach us.
"""

import os
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SEED = 9004
"""Of a server that loses its connections and comes back: with 3.11.2 nobody sent it entries any more."""
CANDIDATES = ("/usr/bin/python3", "/usr/bin/python3.11", "/usr/bin/python3.12", "/usr/bin/python3.13")
ABOUT = "import sys; print(sys.implementation.cache_tag, sys.version_info[:3], sys.abiflags)"


def about(python):
    """Byte code tag and version, "" for what does not run."""
    if shutil.which(python) is None:
        return ""
    done = subprocess.run([python, "-c", ABOUT], capture_output=True, text=True, timeout=30)
    return done.stdout.strip() if done.returncode == 0 else ""


def others():
    """Interpreters of another version with the binary interface of ours."""
    ours = about(sys.executable)
    found = {about(python): python for python in CANDIDATES}
    return [found[text] for text in found if text and text != ours and text.split()[0] == ours.split()[0]]


def output_of(python, *arguments):
    """What it prints with our packages; fails the test when it fails."""
    done = subprocess.run(
        [python, *arguments],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": sysconfig.get_path("purelib")},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def digest_of(python):
    """Of a whole cluster's run."""
    text = output_of(python, "-m", "pyconsul_agent.simulate", "--seed", str(SEED), "--profile", "article")
    return re.search(r"ok digest=(\w+)", text)[1]


def interpreters():
    """The others; skips the test without any."""
    found = others()
    if not found:
        pytest.skip("no second interpreter here that could load our packages")
    return found


@pytest.mark.slow
def test_a_seed_gives_one_digest_on_all_interpreters():
    assert {digest_of(python) for python in interpreters()} == {digest_of(sys.executable)}


@pytest.mark.slow
def test_what_stands_on_asyncio_works_on_all_interpreters():
    files = sorted(str(path) for room in ("env", "runtime") for path in (ROOT / "tests/unit").glob(f"test_{room}_*.py"))
    for python in interpreters():
        output_of(python, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "-m", "not slow", *files)
