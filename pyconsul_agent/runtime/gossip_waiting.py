"""Who waits for what a gossip core has begun: joins, broadcasts, intents and queries, each by its number."""

from __future__ import annotations

import asyncio
from typing import Any

from pyconsul_agent.errors import NetError

STOPPED = "gossip pool is stopped"

Answers = asyncio.Queue[tuple[str, bytes] | None]
"""(node, payload) of each answer to a query; None: that were all."""


class Waiting:
    """Futures of one pool. Whoever begins to wait takes its entry out again, but for a join, which ends once."""

    def __init__(self) -> None:
        self.joins: dict[int, asyncio.Future[str | None]] = {}
        """None when the join succeeded, else why not."""
        self.broadcasts: dict[int, asyncio.Future[bool]] = {}
        self.intents: dict[int, asyncio.Future[bool]] = {}
        """True when the time was over before the word was spread."""
        self.answers: dict[int, Answers] = {}

    def joined(self, number: int, error: str | None) -> None:
        """A join has ended."""
        _settle(self.joins.pop(number, None), error)

    def broadcast(self, ticket: int, timed_out: bool) -> None:
        """Memberlist's word is out, or its time is over."""
        _settle(self.broadcasts.get(ticket), timed_out)

    def intent(self, ticket: int, timed_out: bool) -> None:
        """Serf's word is out, or its time is over."""
        _settle(self.intents.get(ticket), timed_out)

    def answered(self, number: int, answer: tuple[str, bytes] | None) -> None:
        """An answer to a query came; None: no more will."""
        if number in self.answers:
            self.answers[number].put_nowait(answer)

    def stop(self) -> None:
        """Let nobody wait for what will not happen."""
        for join in self.joins.values():
            _settle(join, STOPPED)
        for answers in self.answers.values():
            answers.put_nowait(None)
        for future in (*self.broadcasts.values(), *self.intents.values()):
            if not future.done():
                future.set_exception(NetError(STOPPED))


def _settle(future: asyncio.Future[Any] | None, result: object) -> None:
    if future is not None and not future.done():
        future.set_result(result)
