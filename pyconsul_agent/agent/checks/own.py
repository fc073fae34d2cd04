"""Checks that Consul 1.10 does not have: UDP (1.13), services of the system (1.15), Python functions (ours)."""

from __future__ import annotations

import asyncio
import re
import sys
from collections.abc import Callable, Mapping
from pathlib import PurePath

from pyconsul_agent.agent.checks.runners import (
    TIMEOUT_S,
    Probe,
    Result,
    addresses_of,
    command_probe,
    host_and_port,
)
from pyconsul_agent.agent.checks.status import CRITICAL, OUTPUT_BYTES_MAX, PASSING
from pyconsul_agent.env.base import Address, Net, Process, Resolver
from pyconsul_agent.env.timeouts import timeout
from pyconsul_agent.errors import NetError
from pyconsul_agent.structs.base import seconds
from pyconsul_agent.structs.catalog import CheckType

PYTHON_WORKER = str(PurePath(__file__).with_name("python_worker.py"))
_PYTHON = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*(\.[A-Za-z_]\w*)*")
_UNIT = re.compile(r"[A-Za-z0-9_][A-Za-z0-9:_.\\@-]{0,250}")
STATE_BYTES_MAX = 256

# --- UDP -----------------------------------------------------------------------------------------------------------


def udp_probe(check: CheckType, net: Net, resolver: Resolver) -> Probe:
    """Send an empty datagram. An answer is as good as silence; bad is only to hear that nobody listens."""
    timeout_s = seconds(check.timeout) or TIMEOUT_S

    async def probe() -> Result:
        try:
            host, port = host_and_port(check.udp)
            async with timeout(timeout_s):
                address = (await addresses_of(host, resolver))[0]
        except (NetError, ValueError) as error:
            return Result(CRITICAL, f"dial udp: {error}")
        except TimeoutError:
            return Result(CRITICAL, f"dial udp: lookup {host}: i/o timeout")
        problem = await _heard(net, (address, port), timeout_s)
        return Result(CRITICAL, problem) if problem else Result(PASSING, f"UDP connect {check.udp}: Success")

    return probe


async def _heard(net: Net, peer: Address, timeout_s: float) -> str:
    """What is bad about a peer, "" if nothing."""
    outcome: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    def end(problem: str) -> None:
        if not outcome.done():
            outcome.set_result(problem)

    own = "::" if ":" in peer[0] else "0.0.0.0"  # noqa: S104 - connected to one peer below
    try:
        socket = await net.datagrams(
            lambda data, from_: end(""), own, 0, connected=(peer, lambda error: end(str(error)))
        )
    except NetError as error:
        return str(error)
    try:
        socket.send(b"", peer)
        async with timeout(timeout_s):
            return await outcome
    except TimeoutError:
        return ""
    finally:
        socket.close()


# --- services of the operating system --------------------------------------------------------------------------


def os_service_probe(check: CheckType, process: Process) -> Probe:
    """Ask systemd for a unit. No command of the definition's author is run, so no option has to allow it."""
    timeout_s = seconds(check.timeout) or TIMEOUT_S

    async def probe() -> Result:
        try:
            ended = await process.run(
                ("systemctl", "is-active", "--", check.os_service),
                timeout_s=timeout_s,
                output_bytes_max=STATE_BYTES_MAX,
            )
        except OSError as error:
            return Result(CRITICAL, f"systemctl: {(error.strerror or str(error)).lower()}")
        if ended.timed_out:
            return Result(CRITICAL, f'OS Service "{check.os_service}": systemctl does not answer')
        state = ended.output.decode("utf-8", "replace").strip()
        if ended.exit_code == 0 and state == "active":
            return Result(PASSING, f'OS Service "{check.os_service}" is healthy')
        return Result(CRITICAL, f'OS Service "{check.os_service}" is unhealthy: {state or ended.exit_code}')

    return probe


# --- Python functions ------------------------------------------------------------------------------------------


def python_probe(check: CheckType, process: Process, *, output_bytes_max: int = OUTPUT_BYTES_MAX) -> Probe:
    """Call a function in a process of its own (`python_worker`), under the rules, limits and texts of scripts.

    `-P`: modules come from PYTHONPATH and the installation, never from the folder that the agent happens to run in.
    """
    arguments = (sys.executable, "-P", PYTHON_WORKER, check.python)
    return command_probe(check, arguments, process, output_bytes_max=output_bytes_max)


# --- what may not be ---------------------------------------------------------------------------------------------


def _python_problem(check: CheckType) -> str:
    return "" if _PYTHON.fullmatch(check.python) else "python must be 'module:function'"


def _unit_problem(check: CheckType) -> str:
    return "" if _UNIT.fullmatch(check.os_service) else "os_service must be the name of a unit"


OWN_PROBLEMS: Mapping[str, Callable[[CheckType], str]] = {"python": _python_problem, "os_service": _unit_problem}
"""By type: why a definition cannot run, empty if it can."""
