"""The runners of checks: each a coroutine that reports results until it is cancelled."""

from __future__ import annotations

import asyncio
import ipaddress
import random
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from pyconsul_agent.agent.checks.status import (
    CRITICAL,
    OUTPUT_BYTES_MAX,
    PASSING,
    WARNING,
    Thresholds,
    cut_head,
    http_status,
    script_status,
    with_capture_note,
)
from pyconsul_agent.env.base import Net, Process, Resolver
from pyconsul_agent.env.timeouts import timeout
from pyconsul_agent.errors import DialRefused, NetError, NetTimeout
from pyconsul_agent.structs.base import duration, seconds
from pyconsul_agent.structs.catalog import CheckType
from pyconsul_agent.structs.health import HealthCheck
from pyconsul_agent.wire.gotypes import format_duration

TIMEOUT_S = 10.0
SCRIPT_TIMEOUT_S = 30.0
INTERVAL_S_MIN = 1.0
ALIAS_REFRESH_S = 60.0


@dataclass(frozen=True, slots=True)
class Result:
    """`at_once` results show past any threshold."""

    status: str
    output: str
    at_once: bool = False


Report = Callable[[str, str, str], None]
"""report(check_id, status, output)"""

Probe = Callable[[], Awaitable[Result]]


class HTTPClient(Protocol):
    """One HTTP request of a check."""

    async def request(self, check: CheckType, *, timeout_s: float, output_bytes_max: int) -> Result: ...


async def run_probe(check: CheckType, probe: Probe, report: Report, rng: random.Random) -> None:
    """Probe after a random part of the interval, then an interval after the end of each run."""
    interval_s = max(seconds(check.interval), INTERVAL_S_MIN)
    thresholds = Thresholds(check.success_before_passing, check.failures_before_critical)
    await asyncio.sleep(rng.uniform(0, interval_s))
    while True:
        try:
            result = await probe()
        except Exception as error:  # the edge of a task: a check that cannot be run must not look healthy for ever
            result = Result(CRITICAL, f"check failed to run: {type(error).__name__}: {error}", at_once=True)
        if result.at_once or thresholds.shows(result.status):
            report(check.check_id, result.status, result.output)
        await asyncio.sleep(interval_s)


def output_limit(check: CheckType, agent_limit: int) -> int:
    """The agent's limit, lowered by the check's own."""
    return min(check.output_max_size, agent_limit) if check.output_max_size > 0 else agent_limit


def script_probe(check: CheckType, process: Process, *, output_bytes_max: int = OUTPUT_BYTES_MAX) -> Probe:
    """Run a command; its exit code is the status."""
    return command_probe(check, check.script_args or (), process, output_bytes_max=output_bytes_max)


def command_probe(check: CheckType, arguments: Sequence[str], process: Process, *, output_bytes_max: int) -> Probe:
    """As `script_probe`, with the arguments given."""
    timeout_s = seconds(check.timeout) or SCRIPT_TIMEOUT_S

    async def probe() -> Result:
        try:
            ended = await process.run(arguments, timeout_s=timeout_s, output_bytes_max=output_bytes_max)
        except (OSError, ValueError) as error:  # ValueError: a NUL in an argument
            reason = ((error.strerror if isinstance(error, OSError) else "") or str(error)).lower()
            return Result(CRITICAL, f"fork/exec {arguments[0]}: {reason}", at_once=True)
        output = ended.output.decode("utf-8", "replace")
        if ended.timed_out:
            text = f"Timed out ({_short(timeout_s)}) running check"
            return Result(CRITICAL, f"{text}\n\n{output}" if output else text, at_once=True)
        if ended.truncated:
            output = with_capture_note(ended.output, ended.output_total, output_bytes_max)
        return Result(script_status(ended.exit_code), output)

    return probe


def _short(timeout_s: float) -> str:
    return format_duration(duration(timeout_s))


def tcp_probe(check: CheckType, net: Net, resolver: Resolver) -> Probe:
    """Connect and close; of a name with several addresses any will do."""
    timeout_s = seconds(check.timeout) or TIMEOUT_S

    async def probe() -> Result:
        problem = f"dial tcp {check.tcp}: i/o timeout"
        try:
            async with timeout(timeout_s):
                host, port = host_and_port(check.tcp)
                for address in await addresses_of(host, resolver):
                    problem = await _dial(check.tcp, net, address, port, timeout_s)
                    if not problem:
                        return Result(PASSING, f"TCP connect {check.tcp}: Success")
        except TimeoutError:
            return Result(CRITICAL, problem)
        except (NetError, ValueError) as error:
            return Result(CRITICAL, f"dial tcp: {error}")
        return Result(CRITICAL, problem)

    return probe


async def _dial(target: str, net: Net, host: str, port: int, timeout_s: float) -> str:
    """Why there is no connection, "" if there was one."""
    try:
        transport, _ = await net.connect(asyncio.Protocol, host, port, timeout_s=timeout_s)
    except DialRefused:
        return f"dial tcp {target}: connect: connection refused"
    except NetTimeout:
        return f"dial tcp {target}: i/o timeout"
    except NetError as error:
        return str(error)
    transport.abort()
    return ""


def host_and_port(target: str) -> tuple[str, int]:
    """`host:port` or `[v6]:port`, taken apart. Raises ValueError with Go's text."""
    host, colon, port = target.rpartition(":")
    if not colon:
        raise ValueError(f"address {target}: missing port in address")
    if not port.isdecimal() or not 0 <= int(port) <= 65535:
        raise ValueError(f"address {port}: invalid port")
    return host.removeprefix("[").removesuffix("]") or "127.0.0.1", int(port)


async def addresses_of(host: str, resolver: Resolver) -> Sequence[str]:
    """What to dial. Raises NetError for a name that nobody knows."""
    try:
        return [str(ipaddress.ip_address(host))]
    except ValueError:
        return await resolver.resolve(host)


def http_probe(check: CheckType, client: HTTPClient, *, output_bytes_max: int = OUTPUT_BYTES_MAX) -> Probe:
    """One request; the status code is the status."""
    timeout_s = seconds(check.timeout) or TIMEOUT_S

    async def probe() -> Result:
        return await client.request(check, timeout_s=timeout_s, output_bytes_max=output_bytes_max)

    return probe


class TTLTimer:
    """A TTL check: critical when nobody has spoken for it in time."""

    def __init__(self, check: CheckType, report: Report, *, output_bytes_max: int = OUTPUT_BYTES_MAX) -> None:
        self._check = check
        self._report = report
        self._limit = output_bytes_max
        self._last_output = ""
        self._spoken = asyncio.Event()

    @property
    def ttl_s(self) -> float:
        """Seconds until silence is critical."""
        return seconds(self._check.ttl)

    @property
    def last_output(self) -> str:
        """What was said last."""
        return self._last_output

    def update(self, status: str, output: str) -> str:
        """Somebody spoke: report it and restart the timer. Returns the output as it was kept."""
        output = cut_head(output, self._limit)
        self._last_output = output
        self._spoken.set()
        self._report(self._check.check_id, status, output)
        return output

    def restore(self, output: str) -> None:
        """The output that an earlier process of this agent had."""
        self._last_output = output

    async def run(self) -> None:
        """Expire once after each silence, until cancelled."""
        while True:
            self._spoken.clear()
            try:
                async with timeout(self.ttl_s):
                    await self._spoken.wait()
            except TimeoutError:
                text = "TTL expired"
                if self._last_output:
                    text = f"TTL expired (last output before timeout follows): {self._last_output}"
                self._report(self._check.check_id, CRITICAL, text)
                await self._spoken.wait()


def alias_result(service_id: str, exists: bool, checks: Sequence[HealthCheck], *, node: str = "") -> Result:
    """The status of an alias from the checks of its service and of the node; `node` only if it is another one."""
    if service_id and not exists:
        return Result(CRITICAL, f"Service {service_id} could not be found on node {node}")
    worst = None
    for check in checks:
        if check.status == CRITICAL:
            worst = check
            break
        if check.status == WARNING and worst is None:
            worst = check
    if worst is not None:
        return Result(worst.status, f'Aliased check "{worst.name}" failing: {worst.output}')
    return Result(PASSING, "All checks passing." if checks else "No checks found.")


async def run_alias(check_id: str, evaluate: Callable[[], Result], changed: asyncio.Event, report: Report) -> None:
    """Evaluate now, at each change of what is aliased, and every minute."""
    while True:
        changed.clear()
        result = evaluate()
        report(check_id, result.status, result.output)
        try:
            async with timeout(ALIAS_REFRESH_S):
                await changed.wait()
        except TimeoutError:
            continue


__all__ = [
    "HTTPClient",
    "Probe",
    "Report",
    "Result",
    "TTLTimer",
    "addresses_of",
    "alias_result",
    "command_probe",
    "host_and_port",
    "http_probe",
    "http_status",
    "output_limit",
    "run_alias",
    "run_probe",
    "script_probe",
    "tcp_probe",
]
