"""Seeded clients: readers and writers, holders of locks, watchers. Each asks any server and notes what it was told."""

from __future__ import annotations

import asyncio
import base64
import json
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass

from pyconsul_agent.sim.history import Operation
from scripts.torturing.ask import Answer, NoAnswer
from scripts.torturing.record import Generation, Recorder
from scripts.torturing.server import Server

TIMEOUT_S = 12.0
"""Longer than a server holds a request while there is no leader."""
MODES = ("default", "default", "consistent", "stale")
WATCH_S = 10
TTL_S = 10
DELAYS_S = (0, 1, 4, 15)
"""The last is longer than from the earliest to the latest moment at which a session may end by its TTL."""


@dataclass(slots=True)
class Load:
    """What all clients share. `current` are the generations that new operations go to."""

    servers: Sequence[Server]
    recorder: Recorder
    rng: random.Random
    registers: Generation
    locks: Generation
    pause_s: float = 0.4
    running: bool = True
    workers: int = 0

    def number(self) -> int:
        """Of a client nobody has been before."""
        self.workers += 1
        return self.workers

    def server(self) -> Server:
        return self.rng.choice(self.servers)

    async def ask(
        self, generation: Generation, operation: Operation, server: Server, method: str, path: str,
        body: bytes = b"", *, timeout_s: float = TIMEOUT_S,
    ) -> Answer | None:  # fmt: skip
        """Send it and note the outcome as far as the status tells it: None unless it was answered 200, 404 or 409,
        when the caller reads the body and calls `done`."""
        operation.node = server.name
        self.recorder.begin(generation, operation)
        try:
            answer = await server.ask(method, path, body, timeout_s=timeout_s)
        except NoAnswer as error:
            operation.outcome, operation.detail = "info" if error.sent else "fail", str(error)
            self.done(generation, operation)
            return None
        except BaseException:
            operation.outcome = "info"
            self.done(generation, operation)
            raise
        operation.end = time.monotonic()
        if answer.status in (200, 404, 409):
            operation.outcome = "ok"
            return answer
        operation.outcome = "info" if answer.status >= 500 else "fail"
        operation.detail = f"{answer.status} {answer.body[:200].decode('latin-1')}"
        if "invalid session" in operation.detail or "Session id" in operation.detail:
            operation.outcome, operation.detail = "fail", "unknown session"
        self.done(generation, operation)
        return None

    def done(self, generation: Generation, operation: Operation) -> None:
        """What was answered has been noted in the operation."""
        operation.end = operation.end or time.monotonic()
        self.recorder.end(generation, operation)

    async def read(
        self, generation: Generation, number: int, server: Server, key: str, mode: str, *, index: int = 0
    ) -> Operation:
        """One key; with an index, when it has changed since or after WATCH_S."""
        operation = Operation(number=0, worker=number, node="", f="get", key=key, mode=mode)
        parts = [mode] if mode != "default" else []
        timeout_s = TIMEOUT_S
        if index:
            operation.guard, operation.detail = index, f"wait {WATCH_S}"
            parts.append(f"index={index}&wait={WATCH_S}s")
            timeout_s += WATCH_S + 2
        query = "?" + "&".join(parts) if parts else ""
        answer = await self.ask(generation, operation, server, "GET", f"/v1/kv/{key}{query}", timeout_s=timeout_s)
        if answer is None:
            return operation
        operation.header = answer.index
        if answer.status == 200:
            row = answer.json()[0]
            operation.read = base64.b64decode(row["Value"] or "").decode()
            operation.index, operation.lock_index = row["ModifyIndex"], row["LockIndex"]
            operation.session = row.get("Session") or ""
        self.done(generation, operation)
        return operation


class Register:
    """One client that reads and writes keys, one operation after the other."""

    WEIGHTS = (("put", 4), ("txn", 4), ("get", 10), ("cas", 4), ("delete", 1), ("delete_cas", 1))

    def __init__(self, load: Load) -> None:
        self._load, self._number = load, load.number()
        self._random = random.Random(load.rng.getrandbits(64))
        self._count = 0

    async def run(self) -> None:
        """Until the load stops."""
        names, weights = zip(*self.WEIGHTS, strict=True)
        while self._load.running:
            await asyncio.sleep(self._random.expovariate(1 / self._load.pause_s))
            if self._load.running:
                generation = self._load.registers
                key = self._random.choice(generation.keys)
                await getattr(self, f"_{self._random.choices(names, weights)[0]}")(generation, key)

    def _operation(self, f: str, key: str, *, value: bool = False, guard: int | None = None) -> Operation:
        self._count += value
        text = f"{self._number}.{self._count}" if value else ""
        return Operation(number=0, worker=self._number, node="", f=f, key=key, value=text, guard=guard)

    async def _get(self, generation: Generation, key: str) -> None:
        mode = self._random.choice(MODES)
        operation = await self._load.read(generation, self._number, self._load.server(), key, mode)
        if operation.outcome == "ok" and mode != "stale":
            generation.seen[key] = operation.index

    async def _put(self, generation: Generation, key: str) -> None:
        operation = self._operation("put", key, value=True)
        await self._ask(generation, operation, "PUT", f"/v1/kv/{key}", operation.value.encode())

    async def _cas(self, generation: Generation, key: str) -> None:
        if self._random.random() < 0.5:
            await self._txn(generation, key, guard=generation.seen.get(key, 0))
            return
        operation = self._operation("cas", key, value=True, guard=generation.seen.get(key, 0))
        path = f"/v1/kv/{key}?cas={operation.guard}"
        await self._ask(generation, operation, "PUT", path, operation.value.encode())

    async def _delete(self, generation: Generation, key: str) -> None:
        await self._ask(generation, self._operation("delete", key), "DELETE", f"/v1/kv/{key}")

    async def _delete_cas(self, generation: Generation, key: str) -> None:
        guard = generation.seen.get(key, 0)
        if guard:
            operation = self._operation("delete-cas", key, guard=guard)
            await self._ask(generation, operation, "DELETE", f"/v1/kv/{key}?cas={guard}")

    async def _ask(
        self, generation: Generation, operation: Operation, method: str, path: str, body: bytes = b""
    ) -> None:
        answer = await self._load.ask(generation, operation, self._load.server(), method, path, body)
        if answer is not None:
            if answer.body.strip() != b"true":
                operation.outcome, operation.detail = "fail", "refused"
            self._load.done(generation, operation)

    async def _txn(self, generation: Generation, key: str, guard: int | None = None) -> None:
        """The same as a transaction of one: its answer tells the index."""
        operation = self._operation("put" if guard is None else "cas", key, value=True, guard=guard)
        verb = {"Verb": "set"} if guard is None else {"Verb": "cas", "Index": guard}
        value = base64.b64encode(operation.value.encode()).decode()
        body = json.dumps([{"KV": {**verb, "Key": key, "Value": value}}]).encode()
        answer = await self._load.ask(generation, operation, self._load.server(), "PUT", "/v1/txn", body)
        if answer is None:
            return
        if answer.status == 200:
            operation.index = answer.json()["Results"][0]["KV"]["ModifyIndex"]
            generation.seen[key] = operation.index
        else:
            stale = guard is not None and b"stale" in answer.body
            operation.outcome = "fail"
            operation.detail = "refused" if stale else f"{answer.status} {answer.body[:200].decode('latin-1')}"
        self._load.done(generation, operation)


class Holder:
    """One client that holds locks: takes, renews, reads, gives back, destroys its session or forgets all about it."""

    def __init__(self, load: Load) -> None:
        self._load, self._number = load, load.number()
        self._random = random.Random(load.rng.getrandbits(64))
        self._deletes = self._number % 3 == 0
        self._count = 0

    async def run(self) -> None:
        """Until the load stops: one session after the other."""
        while self._load.running:
            await self._session(self._load.locks)

    async def _session(self, generation: Generation) -> None:
        session = await self._create(generation)
        if not session:
            await asyncio.sleep(1)
            return
        while self._load.running and generation is self._load.locks:
            await asyncio.sleep(self._random.expovariate(2))
            key = self._random.choice([each for each in generation.keys if ("/del" in each) == self._deletes])
            server = self._load.server()
            outcome = await self._change(generation, "acquire", key, session)
            if outcome.detail == "unknown session":
                return
            if outcome.outcome == "fail":
                await self._load.read(
                    generation, self._number, server, key, self._random.choice(("default", "consistent"))
                )
                await self._renew(generation, session)
                continue
            await self._hold(generation, key, session)
            fate = self._random.random()
            if fate < 0.6:
                await self._change(generation, "release", key, session)
            elif fate < 0.8:
                operation = Operation(number=0, worker=self._number, node="", f="destroy", session=session)
                if await self._load.ask(generation, operation, server, "PUT", f"/v1/session/destroy/{session}"):
                    self._load.done(generation, operation)
                return
            else:
                return  # its TTL will end it

    async def _hold(self, generation: Generation, key: str, session: str) -> None:
        for _ in range(self._random.randint(0, 6)):
            await asyncio.sleep(self._random.uniform(0.1, 1.5))
            mode = self._random.choice(("default", "consistent"))
            await self._load.read(generation, self._number, self._load.server(), key, mode)
            if not await self._renew(generation, session):
                return

    async def _create(self, generation: Generation) -> str:
        delay, behavior = self._random.choice(DELAYS_S), "delete" if self._deletes else "release"
        operation = Operation(number=0, worker=self._number, node="", f="session")
        body = {"TTL": f"{TTL_S}s", "LockDelay": f"{delay}s", "Behavior": behavior, "NodeChecks": []}
        answer = await self._load.ask(
            generation, operation, self._load.server(), "PUT", "/v1/session/create", json.dumps(body).encode()
        )
        if answer is None:
            return ""
        operation.session = answer.json()["ID"]
        operation.detail = f"ttl={TTL_S} delay={delay} behavior={behavior}"
        self._load.done(generation, operation)
        return operation.session

    async def _change(self, generation: Generation, f: str, key: str, session: str) -> Operation:
        self._count += 1
        operation = Operation(
            number=0, worker=self._number, node="", f=f, key=key, value=f"{self._number}.{self._count}", session=session
        )
        path = f"/v1/kv/{key}?{f}={session}"
        answer = await self._load.ask(generation, operation, self._load.server(), "PUT", path, operation.value.encode())
        if answer is not None:
            if answer.body.strip() != b"true":
                operation.outcome, operation.detail = "fail", "refused"
            self._load.done(generation, operation)
        return operation

    async def _renew(self, generation: Generation, session: str) -> bool:
        operation = Operation(number=0, worker=self._number, node="", f="renew", session=session)
        answer = await self._load.ask(generation, operation, self._load.server(), "PUT", f"/v1/session/renew/{session}")
        if answer is None:
            return operation.detail != "unknown session"
        if answer.status == 404:
            operation.outcome, operation.detail = "fail", "unknown session"
        self._load.done(generation, operation)
        return operation.outcome == "ok"


class Watcher:
    """One client that follows a key after the other by blocking queries, until its generation ends."""

    def __init__(self, load: Load, mode: str) -> None:
        self._load, self._mode = load, mode
        self._random = random.Random(load.rng.getrandbits(64))

    async def run(self) -> None:
        """Until the load stops."""
        while self._load.running:
            await self._follow(self._load.registers)

    async def _follow(self, generation: Generation) -> None:
        """To the last change: `last` is known once nobody writes any more."""
        number, key, server, index = self._load.number(), self._random.choice(generation.keys), self._load.server(), 0
        generation.watchers[number] = f"{self._mode} watcher of {key}: nothing"
        while generation.open:
            operation = await self._load.read(generation, number, server, key, self._mode, index=index)
            if operation.outcome == "ok":
                index = operation.header
                if generation.is_last(operation):
                    break
                seen = f"{operation.read} of {operation.index} at {index} from {operation.node}"
                generation.watchers[number] = f"{self._mode} watcher of {key}: {seen}"
            else:
                server = self._load.server()
                await asyncio.sleep(0.5)
            if not index:
                await asyncio.sleep(0.2)
        del generation.watchers[number]
