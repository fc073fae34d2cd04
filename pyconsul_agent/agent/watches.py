"""The watches of the configuration: each asks this agent's own API and hands news to its handler, one call at a time.

What is asked, and what counts as news, is `watch.plan`'s; here are the tasks. A handler that ends badly is logged and
called again at the next news; one that does not end holds up its own watch only, and is killed with everything that it
started when the watch is taken away or the agent stops.
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from pyconsul_agent.env.base import Process
from pyconsul_agent.env.log import Log
from pyconsul_agent.errors import ConfigError, ConsulError
from pyconsul_agent.structs.base import duration
from pyconsul_agent.watch import handler as handlers
from pyconsul_agent.watch.handler import HTTP, OUTPUT_BYTES_MAX, Script
from pyconsul_agent.watch.plan import MESH_TYPES, BadWatch, Failure, News, Plan, Request, parse
from pyconsul_agent.wire.gotypes import format_duration

WATCHES_MAX = 1024
HANDLER_S_MAX = 24 * 3600.0
"""A program that has run for a day is killed; the next news starts it anew."""
NEEDS_HTTP = "watch plans require an HTTP or HTTPS endpoint"
HANDLER_IS_OLD = (
    "The 'handler' field in watches has been deprecated and replaced with the 'args' field. "
    "See https://www.consul.io/docs/agent/watches.html"
)


@dataclass(frozen=True, slots=True)
class Answer:
    """What the API said. `index` is its X-Consul-Index, 0 without one."""

    status: int
    index: int
    body: bytes


Fetch = Callable[[Request], Awaitable[Answer]]
"""Asks this agent's own API. Raises ConsulError."""


class Poster(Protocol):
    """Calls HTTP handlers."""

    async def post(self, to: HTTP, headers: Sequence[tuple[str, str]], body: bytes) -> tuple[int, bytes]:
        """(status, the first OUTPUT_BYTES_MAX bytes of the answer). Raises NetError."""


@dataclass(frozen=True, slots=True)
class Definition:
    """A watch of the configuration, understood. Equal definitions (`key`) are the same watch after a reload."""

    key: str
    block: Mapping[str, Any]
    handler: Script | HTTP
    label: str

    def plan(self) -> Plan:
        """A fresh start of it."""
        return parse(self.block, exempt=handlers.KEYS)


def understood(
    blocks: Sequence[Mapping[str, Any]], environ: Mapping[str, str], *, http: bool = True, log: Log | None = None
) -> tuple[Definition, ...]:
    """The `watches` of a configuration. Raises ConfigError naming the one that is wrong."""
    if blocks and not http:
        raise ConfigError(NEEDS_HTTP)
    if len(blocks) > WATCHES_MAX:
        raise ConfigError(f"watches: more than {WATCHES_MAX}")
    found = []
    for number, block in enumerate(blocks):
        given = {key.lower(): value for key, value in block.items()}
        kind = given.get("type", "")
        label = f"watches[{number}]"
        try:
            if kind in MESH_TYPES:
                raise BadWatch(f"Watch type {kind} is not allowed in agent config")
            parse(block, exempt=handlers.KEYS)
        except BadWatch as error:
            raise ConfigError(f"Failed to parse watch ({label}): {error}") from None
        try:
            handler = handlers.parse(block, environ)
        except BadWatch as error:
            raise ConfigError(f"{label} (type {kind}): {error}") from None
        if log is not None and given.get("handler"):
            log.warn(HANDLER_IS_OLD, watch=label)
        found.append(Definition(json.dumps(block, sort_keys=True, default=str), block, handler, label))
    return tuple(found)


class Watches:
    """Runs watches between `exchange` and `stop`."""

    def __init__(self, fetch: Fetch, process: Process, poster: Poster, environ: Mapping[str, str], log: Log) -> None:
        self._fetch = fetch
        self._process = process
        self._poster = poster
        self._environ = environ
        self._log = log
        self._running: list[tuple[str, asyncio.Task[None]]] = []
        self._ending: set[asyncio.Task[None]] = set()

    def __len__(self) -> int:
        return len(self._running)

    def exchange(self, wanted: Sequence[Definition]) -> None:
        """From now on these and no others. Those that are already there go on undisturbed."""
        left = Counter(definition.key for definition in wanted)
        kept = []
        for key, task in self._running:
            if left[key] > 0:
                left[key] -= 1
                kept.append((key, task))
            else:
                self._end(task)
        self._running = kept
        for definition in wanted:
            if left[definition.key] > 0:
                left[definition.key] -= 1
                task = asyncio.get_running_loop().create_task(self._run(definition), name=definition.label)
                self._running.append((definition.key, task))

    def _end(self, task: asyncio.Task[None]) -> None:
        task.cancel()
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)

    async def stop(self) -> None:
        """End all; their programs are dead afterwards. Idempotent."""
        self.exchange(())
        await asyncio.gather(*self._ending, return_exceptions=True)

    async def _run(self, definition: Definition) -> None:
        plan = definition.plan()
        while True:
            outcome = await self._asked(plan)
            if isinstance(outcome, Failure):
                wait = format_duration(duration(outcome.retry_s))
                self._log.error("Watch errored", type=plan.kind, error=outcome.text, retry=wait)
                await asyncio.sleep(outcome.retry_s)
            elif isinstance(outcome, News):
                await self._hand_over(definition, outcome)

    async def _asked(self, plan: Plan) -> News | Failure | None:
        try:
            answer = await self._fetch(plan.request())
        except ConsulError as error:
            return plan.failed(str(error))
        return plan.answered(answer.status, answer.index, answer.body)

    async def _hand_over(self, definition: Definition, news: News) -> None:
        """Call the handler and wait for its end. Whatever it does, the watch goes on."""
        try:
            if isinstance(definition.handler, Script):
                await self._run_program(definition, definition.handler, news)
            else:
                await self._call(definition.handler, news)
        except (OSError, ValueError, ConsulError) as error:
            reason = (error.strerror or "").lower() if isinstance(error, OSError) else str(error)
            self._log.error("Failed to run watch handler", watch=definition.label, error=reason or str(error))

    async def _run_program(self, definition: Definition, script: Script, news: News) -> None:
        ended = await self._process.run(
            script.arguments,
            timeout_s=HANDLER_S_MAX,
            output_bytes_max=OUTPUT_BYTES_MAX,
            environment=handlers.environment(self._environ, news.index),
            stdin=news.compact(),
        )
        output = ended.output.decode("utf-8", "replace")
        self._log.debug("watch handler output", watch=definition.label, output=output)
        if ended.timed_out:
            self._log.error("watch handler was killed", watch=definition.label, after=f"{HANDLER_S_MAX:.0f}s")
        elif ended.exit_code:
            self._log.error("Failed to run watch handler", watch=definition.label, error=_exit(ended.exit_code))

    async def _call(self, to: HTTP, news: News) -> None:
        status, body = await self._poster.post(to, handlers.headers(to, news), news.compact())
        output = body.decode("utf-8", "replace")
        if 200 <= status <= 299:
            self._log.debug("http watch handler output", http_handler=to.url, output=output)
        else:
            self._log.error("http watch handler failed with output", http_handler=to.url, status=status, output=output)


def _exit(code: int) -> str:
    return f"signal: {-code}" if code < 0 else f"exit status {code}"
