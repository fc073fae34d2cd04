"""Life after the faults: within fixed times a leader, writes, equal states with nothing lost, full membership."""

from __future__ import annotations

import asyncio
import base64
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from scripts.torturing.ask import NoAnswer
from scripts.torturing.clients import TTL_S
from scripts.torturing.server import Server

LEADER_S, WRITE_S, EQUAL_S, MEMBERS_S = 60.0, 60.0, 60.0, 120.0
SESSIONS_S = 2 * TTL_S + 40.0
"""A session ends after at most twice its TTL, counted anew by a new leader."""

Last = Mapping[str, tuple[str | None, int]]
"""Key to (value, ModifyIndex) as consistent reads showed them when nobody wrote them any more."""
View = dict[str, Any]


async def within(what: str, seconds: float, look: Callable[[], Awaitable[str]]) -> list[str]:
    """What is wrong: nothing once `look` finds nothing."""
    until = time.monotonic() + seconds
    while True:
        try:
            found = await look()
        except NoAnswer as error:
            found = str(error)
        if not found:
            return []
        if time.monotonic() > until:
            return [f"{what} within {seconds:.0f} s: {found}"]
        await asyncio.sleep(0.25)


async def check(servers: Sequence[Server], last: Last) -> list[str]:
    """All rules; faults are healed and clients have stopped. What is wrong."""
    wrong = [f"{server.name} is not running" for server in servers if not server.lives]
    wrong += await within("one leader that all know", LEADER_S, lambda: _leader(servers))
    for server in servers:
        wrong += await within(f"a write through {server.name}", WRITE_S, lambda server=server: _write(server))
    wrong += await within("sessions ended by their TTL", SESSIONS_S, lambda: _sessions(servers))
    wrong += await within("equal states", EQUAL_S, lambda: _equal(servers, last))
    wrong += await within("full membership", MEMBERS_S, lambda: _members(servers))
    return wrong


async def _leader(servers: Sequence[Server]) -> str:
    found = [await server.get("/v1/status/leader") for server in servers]
    return "" if len(set(map(str, found))) == 1 and found[0] else f"{found}"


async def _write(server: Server) -> str:
    answer = await server.ask("PUT", f"/v1/kv/end/{server.name}", b"end", timeout_s=10)
    return "" if answer.body.strip() == b"true" else f"{answer.status} {answer.body[:200]!r}"


async def _sessions(servers: Sequence[Server]) -> str:
    left = await servers[0].get("/v1/session/list?consistent")
    return f"{left}"[:1000] if left else ""


async def view(server: Server) -> View:
    """What one server holds, read from itself. Raises NoAnswer."""
    found: View = {}
    for path in ("/v1/kv/?recurse&stale", "/v1/session/list?stale", "/v1/catalog/nodes?stale"):
        answer = await server.ask("GET", path, timeout_s=20)
        if answer.status != 200:
            raise NoAnswer(f"{server.name} {path}: {answer.status}", sent=True)
        found[path.partition("?")[0]] = (answer.index, answer.json())
    return found


async def _equal(servers: Sequence[Server], last: Last) -> str:
    views = [await view(server) for server in servers]
    for server, other in zip(servers[1:], views[1:], strict=True):
        for path, held in views[0].items():
            if other[path] != held:
                return f"{path} differs between {servers[0].name} and {server.name}: {difference(held, other[path])}"
    return missing(views[0]["/v1/kv/"][1], last)


def difference(one: Any, other: Any) -> str:
    """Of two (index, rows)."""
    rows, others = one[1], other[1]
    first, second = [row for row in rows if row not in others], [row for row in others if row not in rows]
    return f"index {one[0]} and {other[0]}, only in the first {first[:3]}, only in the second {second[:3]}"


def missing(rows: Sequence[Mapping[str, Any]], last: Last) -> str:
    """I10: acknowledged writes of the whole run that a state lacks, "" when none."""
    held = {row["Key"]: (base64.b64decode(row["Value"] or "").decode(), row["ModifyIndex"]) for row in rows}
    wrong = [
        f"{key} is {held.get(key)}, was {(value, index)}"
        for key, (value, index) in last.items()
        if held.get(key) != (None if value is None else (value, index))
    ]
    return f"I10 acknowledged writes lost: {len(wrong)}: {wrong[:5]}" if wrong else ""


async def _members(servers: Sequence[Server]) -> str:
    names = {server.name for server in servers}
    for server in servers:
        members: Any = await server.get("/v1/agent/members")
        alive = {member["Name"] for member in members if member["Status"] == 1}
        if alive != names:
            return f"{server.name} sees {[(member['Name'], member['Status']) for member in members]}"
        raft: Any = await server.get("/v1/operator/raft/configuration")
        voters = {each["Node"] for each in raft["Servers"] if each["Voter"]}
        if voters != names or len(raft["Servers"]) != len(names):
            return f"{server.name} has raft members {raft['Servers']}"
        health: Any = await server.get("/v1/health/state/critical")
        if health:
            return f"{server.name} has critical checks {health}"[:1000]
    return ""
