"""Full and damaged disks, and what an operator does about a server that its disk has ended.

A server of ours that cannot store stops; with room again it starts as if it had been killed. One whose files are
damaged either starts with everything that it had promised, or says in a line that it cannot and stays down. Then it is
removed from raft, wiped and started: it joins as a new server. To start with less than it had is what is looked for.
"""

from __future__ import annotations

import asyncio
import random
import re
import time
from collections.abc import Callable, Sequence
from typing import Any

from scripts.torturing.ask import NoAnswer
from scripts.torturing.damage import Known, damage, known
from scripts.torturing.server import Server

END_S = 20.0
"""How long a server on a full disk may go on: what is left in its write-ahead log has room."""
OPEN_S = 60.0
OPENED = re.compile(r"raft storage opened.*")
REMOVE_S = 120.0


class Disks:
    """`event` writes into the record."""

    def __init__(self, servers: Sequence[Server], rng: random.Random, event: Callable[..., Any]) -> None:
        self._servers, self._random, self._event = servers, rng, event
        self._suspect: set[str] = set()
        """Damage may lie where it is read only later."""
        self.replaced = 0

    @property
    def small(self) -> Server:
        """The one whose disk can be filled."""
        return next(server for server in self._servers if server.has_small_disk)

    async def freed(self, server: Server) -> list[str]:
        """After its disk was full for a time: a start that cannot work, then room. What was wrong."""
        wrong: list[str] = []
        code = await server.ended(END_S)
        self._event("server on a full disk", ended=code, lives=server.lives)
        if code is not None:
            server.start()
            again = await server.ended(10)
            self._event("start on a full disk", ended=again)
            if again == 0 or (again is not None and "raft" not in server.log_since_start()):
                wrong.append(f"{server.name} ended with {again} on a full disk without saying why")
        server.free()
        if not server.lives:
            server.start()
        return wrong

    async def damaged(self, server: Server, way: str) -> list[str]:
        """It is down; damage its files and see what it makes of that. What was wrong."""
        raft = server.data / "raft"
        before = known(raft)
        what = damage(raft, way, self._random)
        self._event("damage", what=what or "nothing there", known=str(before))
        print(f"         {what or 'nothing there to damage'}; it had {before}", flush=True)
        if what:
            self._suspect.add(server.name)
        server.start()
        opened = await self._opened(server)
        if opened is None:
            return await self.ended(server) if not server.lives else [f"{server.name} neither opens its log nor ends"]
        if what and before is not None and (opened.last_index < before.last_index or opened.term < before.term):
            return [f"I7 {server.name} starts with {opened} but had {before}: {what}"]
        return []

    async def _opened(self, server: Server) -> Known | None:
        until = time.monotonic() + OPEN_S
        while server.lives and time.monotonic() < until:
            line = OPENED.search(server.log_since_start())
            if line:
                numbers = {name: int(value) for name, value in re.findall(r"(\w+)=(\d+)\b", line[0])}
                return Known(
                    max(numbers.get("last_index", 0), numbers.get("snapshot_index", 0)), numbers.get("term", 0)
                )
            await asyncio.sleep(0.1)
        return None

    async def ended(self, server: Server) -> list[str]:
        """A server is down that nobody stopped. If it says that its disk is damaged, it is replaced.

        That it may say only when its disk was damaged, at whatever time, or can be full.
        """
        log = server.log_since_start()
        reasons = [line for line in log.splitlines() if "raft storage" in line or "raft snapshots" in line]
        reasons = [line for line in reasons if "opened" not in line]
        code = server.process.returncode if server.process is not None else None
        self._event("server ended by itself", server=server.name, code=code, reasons=reasons)
        wrong = []
        if server.real or not reasons or code == 0:
            wrong.append(f"{server.name} ended by itself with {code}:\n{log[-3000:]}")
            server.start()
            return wrong
        print(f"         {server.name} refuses: {reasons[-1].strip()[:400]}", flush=True)
        if server.name not in self._suspect and not server.has_small_disk:
            wrong.append(f"{server.name} refuses a disk that nobody has damaged: {reasons[-1].strip()[:400]}")
        self.replaced += 1
        try:
            await self._remove(server, server.node_id())
        except (NoAnswer, OSError) as error:
            wrong.append(f"{server.name} cannot be removed from raft: {error}")
        server.wipe()
        self._suspect.discard(server.name)
        server.start()
        return wrong

    async def _remove(self, server: Server, node_id: str) -> None:
        """As `consul operator raft remove-peer`. Raises NoAnswer."""
        until = time.monotonic() + REMOVE_S
        others = [other for other in self._servers if other is not server]
        while True:
            for other in others:
                try:
                    answer = await other.ask("DELETE", f"/v1/operator/raft/peer?id={node_id}")
                except NoAnswer:
                    continue
                if answer.status == 200 or b"was not found" in answer.body:
                    return
            if time.monotonic() > until:
                raise NoAnswer(f"no server removes it within {REMOVE_S:.0f} s", sent=True)
            await asyncio.sleep(0.5)
