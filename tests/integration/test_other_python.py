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


def digest_of(python):
    """Of a whole cluster's run; fails the test when the run does."""
    packages = sysconfig.get_path("purelib")
    done = subprocess.run(
        [python, "-m", "pyconsul_agent.simulate", "--seed", str(SEED), "--profile", "article"],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": packages},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return re.search(r"ok digest=(\w+)", done.stdout)[1]


@pytest.mark.slow
def test_a_seed_gives_one_digest_on_all_interpreters():
    pythons = others()
    if not pythons:
        pytest.skip("no second interpreter here that could load our packages")
    assert {digest_of(python) for python in pythons} == {digest_of(sys.executable)}
