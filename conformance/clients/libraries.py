"""Client libraries: a program beside this one uses each and reports its steps, one JSON object a line."""

from __future__ import annotations

import json
import subprocess

from conformance.agents import HTTP_PORT, ROOT
from conformance.clients.installs import HERE, node_client, python_client
from conformance.clients.scenario import Scenario
from conformance.real_consul import program

DRIVE_TIMEOUT_S = 90


def drive(scenario: Scenario, address: str, *command: str) -> None:
    """Run a driving program against a server of its own, and count what it reports."""
    with scenario.agent(address, "-node-meta=rack:r1"):
        done = subprocess.run(
            [*command, address, str(HTTP_PORT), scenario.name],
            capture_output=True, text=True, timeout=DRIVE_TIMEOUT_S, stdin=subprocess.DEVNULL, cwd=ROOT,
        )  # fmt: skip
        for line in done.stdout.splitlines():
            report = json.loads(line)
            scenario.note(report["step"], report["good"], report["detail"])
        scenario.note("its program reached its end", done.returncode == 0, done.stderr[-1500:])


def py_consul(scenario: Scenario) -> None:
    """The Python client that is maintained today."""
    drive(scenario, "127.0.21.1", python_client("py-consul"), str(HERE / "drive_python.py"))


def python_consul(scenario: Scenario) -> None:
    """Its predecessor, which many programs still have."""
    drive(scenario, "127.0.21.2", python_client("python-consul"), str(HERE / "drive_python.py"))


def npm_consul(scenario: Scenario) -> None:
    """The client of Node.js."""
    folder = node_client()
    drive(scenario, "127.0.21.3", program("node"), str(HERE / "drive_npm.js"), str(folder))
