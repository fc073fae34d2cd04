"""Seeded clients: they use the agents' HTTP as programs do, from a machine of their own, and write down what they see.

Values are unique, so that a value names its write. Each worker does one thing after the other; a request without an
answer is `info`, and its worker goes on under the same number, because the checkers look at intervals only.
"""

from __future__ import annotations

import asyncio
import base64
import json
import random
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from urllib.parse import quote

from pyconsul_agent.env.base import Env
from pyconsul_agent.sim.cluster import HTTP_PORT, Cluster, Node
from pyconsul_agent.sim.history import History, Operation, Truth
from pyconsul_agent.sim.http_client import Answer, NoAnswer, request

MODES = ("default", "consistent", "stale")
SESSION_TTL_S = 10
WATCH_S = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkloadOptions:
    """Drawn per seed."""

    workers: int = 3
    keys: int = 4
    locks: int = 2
    services: int = 3
    pause_s: float = 0.4
    """Mean time between two operations of a worker."""
    timeout_s: float = 10.0
    weights: tuple[tuple[str, int], ...] = (
        ("put", 6),
        ("get", 10),
        ("cas", 4),
        ("delete", 1),
        ("watch", 2),
        ("lock", 3),
        ("renew", 2),
        ("service", 1),
    )

    @classmethod
    def draw(cls, rng: random.Random) -> WorkloadOptions:
        """Another mix for another seed."""
        return cls(
            workers=rng.randint(2, 5),
            keys=rng.randint(1, 5),
            locks=rng.randint(1, 2),
            pause_s=rng.choice((0.1, 0.3, 0.6)),
            timeout_s=rng.choice((3.0, 10.0, 20.0)),
            weights=tuple((name, rng.randint(0, 10) or weight) for name, weight in cls().weights),
        )


class Workload:
    """The workers and their history."""

    def __init__(
        self, cluster: Cluster, truth: Truth, options: WorkloadOptions, rng: random.Random, *, ip: str = "10.0.0.101"
    ) -> None:
        self.history = History()
        self._cluster = cluster
        self._truth = truth
        self._options = options
        self._random = rng
        self._running = True
        self._known: dict[str, int] = {}
        self._env: Env
        self._ready = asyncio.Event()
        self._end = asyncio.Event()
        host = cluster.world.network.add_host(ip, name="clients")
        self.process = cluster.world.process(host, self._main, name="clients")

    async def _main(self, env: Env) -> None:
        self._env = env
        self._ready.set()
        await self._end.wait()

    async def run(self) -> None:
        """Work until `stop`."""
        await self._ready.wait()
        await self.process.call(self._all)

    async def _all(self) -> None:
        async with asyncio.TaskGroup() as group:
            for number in range(self._options.workers):
                group.create_task(self._worker(number, random.Random(self._random.getrandbits(64))))  # noqa: S311

    def stop(self) -> None:
        """Let what is under way end, begin nothing new."""
        self._running = False

    async def close(self) -> None:
        """End the clients' process."""
        self._end.set()
        await self.process.wait()

    # --- one worker -------------------------------------------------------------------------------------------------

    async def _worker(self, number: int, rng: random.Random) -> None:
        names = [name for name, _ in self._options.weights]
        weights = [weight for _, weight in self._options.weights]
        mine = _Worker(self, number, rng)
        while self._running:
            await asyncio.sleep(rng.expovariate(1 / self._options.pause_s))
            if not self._running:
                return
            await mine.do(rng.choices(names, weights)[0])

    async def ask(self, operation: Operation, node: Node, method: str, path: str, body: bytes = b"") -> Answer | None:
        """Send it and note the outcome as far as the status tells it: None unless it was answered well (or 404)."""
        operation.number = len(self.history.operations)
        operation.begin = self._env.clock.monotonic()
        operation.applied_before = self._truth.highest
        self.history.operations.append(operation)
        try:
            answer = await request(
                self._env.net, (node.ip, HTTP_PORT), method, path, body, timeout_s=self._options.timeout_s
            )
        except NoAnswer as error:
            operation.outcome, operation.detail = "info" if error.sent else "fail", str(error)
            answer = None
        operation.end = self._env.clock.monotonic()
        operation.applied_after = self._truth.highest
        if answer is None:
            return None
        if answer.status in (200, 404):
            operation.outcome = "ok"
            return answer
        operation.outcome = "info" if answer.status >= 500 else "fail"
        operation.detail = f"{answer.status} {answer.body[:200].decode('latin-1')}"
        return None

    # --- operations that others use too -----------------------------------------------------------------------------

    async def put(self, worker: int, node: Node, key: str, value: str) -> Operation:
        """Write unconditionally."""
        operation = Operation(number=0, worker=worker, node=node.name, f="put", key=key, value=value)
        await self.ask(operation, node, "PUT", f"/v1/kv/{key}", value.encode())
        return operation

    async def get(
        self, worker: int, node: Node, key: str, mode: str = "default", *, index: int = 0, wait_s: int = 0
    ) -> Operation:
        """Read one key; with an index, when it has changed since, at the latest after `wait_s`."""
        operation = Operation(number=0, worker=worker, node=node.name, f="get", key=key, mode=mode)
        if index:
            operation.guard, operation.detail = index, f"wait {wait_s}"
        parts = [mode] if mode != "default" else []
        parts += [f"index={index}&wait={wait_s}s"] if index else []
        query = "?" + "&".join(parts) if parts else ""
        answer = await self.ask(operation, node, "GET", f"/v1/kv/{key}{query}")
        if answer is not None:
            operation.header = int(answer.headers.get("x-consul-index", "0"))
            if answer.status == 200:
                row = json.loads(answer.body)[0]
                operation.read = base64.b64decode(row["Value"] or "").decode()
                operation.index, operation.lock_index = row["ModifyIndex"], row["LockIndex"]
                operation.session = row.get("Session", "")
        return operation

    async def inside(self, work: Callable[[], Awaitable[Operation]]) -> Operation:
        """Do one of these from outside: the request leaves from the clients' machine."""
        await self._ready.wait()
        return await self.process.call(work)

    async def services(self, node: Node, of: str) -> list[tuple[str, tuple[str, ...]]] | None:
        """(ID, tags) of what the catalog holds of an agent, None without an answer. Not part of the history."""
        try:
            answer = await self.process.call(
                lambda: request(self._env.net, (node.ip, HTTP_PORT), "GET", f"/v1/catalog/node/{of}")
            )
        except NoAnswer:
            return None
        if answer.status != 200:
            return None
        services = (json.loads(answer.body) or {}).get("Services") or {}
        return sorted((name, tuple(row["Tags"] or ())) for name, row in services.items() if name != "consul")

    @property
    def nodes(self) -> Sequence[Node]:
        """Whom to ask."""
        return list(self._cluster.nodes.values())

    @property
    def options(self) -> WorkloadOptions:
        """As drawn."""
        return self._options


class _Worker:
    """What one client knows and does."""

    def __init__(self, load: Workload, number: int, rng: random.Random) -> None:
        self._load = load
        self._number = number
        self._random = rng
        self._count = 0
        self._indexes: dict[str, int] = {}
        self._headers: dict[str, int] = {}
        self._session = ""
        self._held = ""

    async def do(self, what: str) -> None:
        """One operation; locks take a few."""
        node = self._random.choice(self._load.nodes)
        await getattr(self, f"_{what}")(node)

    def _key(self) -> str:
        return f"key/{self._random.randrange(self._load.options.keys)}"

    def _value(self) -> str:
        self._count += 1
        return f"{self._number}.{self._count}"

    def _operation(self, node: Node, f: str, key: str = "", value: str = "") -> Operation:
        return Operation(number=0, worker=self._number, node=node.name, f=f, key=key, value=value)

    async def _put(self, node: Node) -> None:
        await self._load.put(self._number, node, self._key(), self._value())

    async def _get(self, node: Node) -> None:
        key = self._random.choice((self._key(), self._key(), self._lock_key()))
        operation = await self._load.get(self._number, node, key, self._random.choice(MODES))
        if operation.outcome == "ok":
            self._indexes[key] = operation.index

    async def _watch(self, node: Node) -> None:
        key = self._key()
        index = self._headers.get(key, 0)
        mode = self._random.choice(("default", "default", "stale"))
        operation = await self._load.get(self._number, node, key, mode, index=index, wait_s=WATCH_S)
        if operation.outcome == "ok":
            self._headers[key] = operation.header

    async def _cas(self, node: Node) -> None:
        operation = self._operation(node, "cas", self._key(), self._value())
        operation.guard = self._indexes.get(operation.key, 0)
        path = f"/v1/kv/{operation.key}?cas={operation.guard}"
        self._conditional(operation, await self._load.ask(operation, node, "PUT", path, operation.value.encode()))

    async def _delete(self, node: Node) -> None:
        operation = self._operation(node, "delete", self._key())
        await self._load.ask(operation, node, "DELETE", f"/v1/kv/{operation.key}")

    def _conditional(self, operation: Operation, answer: Answer | None) -> None:
        if answer is not None and answer.body != b"true":
            operation.outcome, operation.detail = "fail", "refused"

    # --- locks ------------------------------------------------------------------------------------------------------

    def _lock_key(self) -> str:
        return f"lock/{self._random.randrange(self._load.options.locks)}"

    async def _lock(self, node: Node) -> None:
        if not self._session:
            await self._create_session(node)
        elif self._held:
            operation = self._operation(node, "release", self._held, self._value())
            await self._change_lock(operation, node)
            self._held = ""
        elif self._random.random() < 0.2:
            await self._destroy_session(node)
        else:
            operation = self._operation(node, "acquire", self._lock_key(), self._value())
            await self._change_lock(operation, node)
            if operation.outcome != "fail":
                self._held = operation.key

    async def _change_lock(self, operation: Operation, node: Node) -> None:
        operation.session = self._session
        path = f"/v1/kv/{operation.key}?{operation.f}={self._session}"
        self._conditional(operation, await self._load.ask(operation, node, "PUT", path, operation.value.encode()))
        if "invalid session" in operation.detail:
            operation.outcome, self._session = "fail", ""

    async def _create_session(self, node: Node) -> None:
        operation = self._operation(node, "session")
        body = {
            "TTL": f"{SESSION_TTL_S}s",
            "LockDelay": self._random.choice(("0s", "1s", "5s")),
            "Behavior": self._random.choice(("release", "delete")),
            "NodeChecks": self._random.choice(([], ["serfHealth"])),
        }
        answer = await self._load.ask(operation, node, "PUT", "/v1/session/create", json.dumps(body).encode())
        if answer is not None:
            self._session = operation.session = json.loads(answer.body)["ID"]

    async def _destroy_session(self, node: Node) -> None:
        operation = self._operation(node, "destroy")
        operation.session, self._session = self._session, ""
        await self._load.ask(operation, node, "PUT", f"/v1/session/destroy/{operation.session}")

    async def _renew(self, node: Node) -> None:
        if not self._session:
            return
        operation = self._operation(node, "renew")
        operation.session = self._session
        answer = await self._load.ask(operation, node, "PUT", f"/v1/session/renew/{self._session}")
        if answer is not None and answer.status == 404:
            operation.outcome, operation.detail, self._session = "fail", "unknown", ""

    # --- services ---------------------------------------------------------------------------------------------------

    async def _service(self, node: Node) -> None:
        name = f"service{self._random.randrange(self._load.options.services)}"
        if self._random.random() < 0.6:
            operation = self._operation(node, "register", name, self._value())
            body = {"Name": name, "Tags": [operation.value], "Check": {"TTL": "30s", "Status": "passing"}}
            await self._load.ask(operation, node, "PUT", "/v1/agent/service/register", json.dumps(body).encode())
        else:
            operation = self._operation(node, "deregister", name)
            await self._load.ask(operation, node, "PUT", f"/v1/agent/service/deregister/{quote(name)}")
