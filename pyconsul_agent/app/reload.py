"""Reading the configuration again while the agent runs: everything is understood first, then taken over at once.

SIGHUP, `PUT /v1/agent/reload` and the legacy RPC lead here. Between the examination of the new options and their use
nothing is awaited, so nobody sees half of them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from pyconsul_agent.agent.registry import Registry
from pyconsul_agent.agent.reload import definitions_of, examine, exchange
from pyconsul_agent.config.options import Options
from pyconsul_agent.config.origins import locating
from pyconsul_agent.env.log import Log
from pyconsul_agent.errors import ConfigError

Reread = Callable[[], Options]


class Reloader:
    """Reloads, one at a time. `take_over` refuses new options by ConfigError or uses them."""

    def __init__(
        self,
        reread: Reread | None,
        blocking: Callable[[Reread], Awaitable[Options]],
        registry: Registry,
        log: Log,
        take_over: Callable[[Options], None],
    ) -> None:
        self._reread = reread
        self._blocking = blocking
        self._registry = registry
        self._log = log
        self._take_over = take_over
        self._lock = asyncio.Lock()
        self._wanted = asyncio.Event()

    def request(self) -> None:
        """Reload soon. Requests that come before it begins are one."""
        self._wanted.set()

    async def run(self) -> None:
        """Reload when requested, until cancelled. An error is in the log already."""
        while True:
            await self._wanted.wait()
            self._wanted.clear()
            try:
                await self.reload()
            except ConfigError:
                continue

    async def reload(self) -> None:
        """Reload now. Raises ConfigError, after logging it, with nothing changed."""
        async with self._lock:
            try:
                await self._reload()
            except (ConfigError, OSError, ValueError) as error:
                self._log.error("Reload config failed", error=str(error))
                raise ConfigError(str(error)) from None

    async def _reload(self) -> None:
        if self._reread is None:
            raise ConfigError("this agent has no configuration to read again")
        fresh = await self._blocking(self._reread)
        with locating(fresh.origins):
            definitions = definitions_of(fresh.services, fresh.checks)
            examine(self._registry, definitions)
            for text in fresh.warnings:
                self._log.warn(text)
            self._take_over(fresh)
        exchange(self._registry, definitions)
