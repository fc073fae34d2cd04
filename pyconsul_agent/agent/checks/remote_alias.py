"""An alias of another node, or of a service there: follows the checks that the servers know."""

from __future__ import annotations

import asyncio
from typing import NoReturn

from pyconsul_agent.agent.checks.runners import ALIAS_REFRESH_S, Report, Result, alias_result
from pyconsul_agent.agent.checks.status import CRITICAL
from pyconsul_agent.agent.delegate import Caller
from pyconsul_agent.errors import ConsulError
from pyconsul_agent.structs.base import duration
from pyconsul_agent.structs.catalog import CheckType
from pyconsul_agent.structs.methods import CATALOG_NODE_SERVICE_LIST, HEALTH_NODE_CHECKS
from pyconsul_agent.structs.requests import NodeSpecificRequest

MAX_STALE_S = 15.0
RETRY_S = 1.0
PATIENT_FAILURES = 3


async def run_remote_alias(
    check: CheckType, caller: Caller, report: Report, *, datacenter: str, token: str
) -> NoReturn:
    """Ask, report, wait for a change, until cancelled. A single failure is forgiven."""
    index, failures = 0, 0
    while True:
        try:
            result, index = await _ask(check, caller, index, datacenter, token)
        except ConsulError as error:
            failures += 1
            index = 0
            if failures > 1:
                report(check.check_id, CRITICAL, f"Failure checking aliased node or service: {error}")
            await asyncio.sleep(pause_s(failures))
            continue
        failures = 0
        report(check.check_id, result.status, result.output)


def pause_s(failures: int) -> float:
    """How long to wait after so many failures in a row."""
    return RETRY_S if failures <= PATIENT_FAILURES else min(2.0 ** min(failures, 16), ALIAS_REFRESH_S)


async def _ask(check: CheckType, caller: Caller, index: int, datacenter: str, token: str) -> tuple[Result, int]:
    asked = NodeSpecificRequest(
        datacenter=datacenter,
        node=check.alias_node,
        token=token,
        min_query_index=index,
        max_query_time=duration(ALIAS_REFRESH_S),
        allow_stale=True,
        max_stale_duration=duration(MAX_STALE_S),
    )
    reply = await caller.call(HEALTH_NODE_CHECKS, asked)
    rows = [row for row in reply.health_checks or () if row.service_id in ("", check.alias_service)]
    exists = True
    if check.alias_service:
        now = NodeSpecificRequest(datacenter=datacenter, node=check.alias_node, token=token, allow_stale=True)
        listed = (await caller.call(CATALOG_NODE_SERVICE_LIST, now)).node_services
        exists = any(service.id == check.alias_service for service in listed.services or ())
    result = alias_result(check.alias_service, exists, rows, node=check.alias_node)
    # An index that went backwards means another past: begin anew. A reply without one must not make us spin.
    return result, reply.index if reply.index > index or index == 0 else (index if reply.index == index else 0)
