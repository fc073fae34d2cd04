"""Internal.KeyringOperation: gossip keys listed and changed on every member of the WAN, this LAN and the other LANs."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Protocol

from pyconsul_agent.errors import RPCError
from pyconsul_agent.serf.keys import KeyOutcome
from pyconsul_agent.server.seams import Endpoint, Where
from pyconsul_agent.structs import methods
from pyconsul_agent.structs.operator import KeyringResponse
from pyconsul_agent.structs.requests import KeyringRequest, KeyringResponses
from pyconsul_agent.wire import msgpack
from pyconsul_agent.wire.gotypes import base64_problem

OPERATIONS = {"list": "list-keys", "install": "install-key", "use": "use-key", "remove": "remove-key"}


class KeyPool(Protocol):
    """A gossip pool, for its keys."""

    async def key_operation(self, operation: str, key: bytes = b"", *, relay_factor: int = 0) -> KeyOutcome: ...


class Keyrings:
    """`wan` None: no WAN pool. `elsewhere(datacenter, method, body)` asks a server of another datacenter."""

    def __init__(
        self,
        lan: KeyPool,
        wan: KeyPool | None,
        *,
        datacenter: str,
        datacenters: Callable[[], list[str]],
        elsewhere: Callable[[str, str, bytes], Awaitable[bytes]],
    ) -> None:
        self._lan = lan
        self._wan = wan
        self._datacenter = datacenter
        self._datacenters = datacenters
        self._elsewhere = elsewhere

    def endpoints(self) -> list[Endpoint]:
        """The method."""
        return [Endpoint(methods.INTERNAL_KEYRING_OPERATION, Where.LOCAL, self.operate, write=True)]

    async def operate(self, request: KeyringRequest) -> KeyringResponses:
        """Carry the operation out in every pool that it is for. What members say against it is in the responses."""
        if request.local_only and request.operation != "list":
            raise RPCError("argument error: LocalOnly can only be used for List operations")
        if request.operation not in OPERATIONS:
            raise RPCError(f"unknown keyring operation {request.operation!r}")
        if request.local_only or request.forwarded or self._wan is None:
            return KeyringResponses(responses=(await self._in_pool(self._lan, request, wan=False),))
        answers = [
            await self._in_pool(self._wan, request, wan=True),
            await self._in_pool(self._lan, request, wan=False),
        ]
        others = [name for name in self._datacenters() if name != self._datacenter]
        forwarded = replace(request, forwarded=True)
        for reply in await asyncio.gather(*(self._ask(name, forwarded) for name in others)):
            answers += reply.responses or ()
        return KeyringResponses(responses=tuple(answers))

    async def _in_pool(self, pool: KeyPool, request: KeyringRequest, *, wan: bool) -> KeyringResponse:
        response = KeyringResponse(wan=wan, datacenter=self._datacenter, messages={}, keys={}, primary_keys={})
        if request.operation != "list" and (problem := base64_problem(request.key)):
            return replace(response, error=problem)
        key = b"" if request.operation == "list" else base64.b64decode(request.key)
        try:
            outcome = await pool.key_operation(OPERATIONS[request.operation], key, relay_factor=request.relay_factor)
        except ValueError as error:
            return replace(response, error=str(error))
        return replace(
            response,
            messages=outcome.messages,
            keys=outcome.keys,
            primary_keys=outcome.primary_keys,
            num_nodes=outcome.nodes,
            error=outcome.error,
        )

    async def _ask(self, datacenter: str, request: KeyringRequest) -> KeyringResponses:
        method = methods.INTERNAL_KEYRING_OPERATION
        return msgpack.decode(method.reply, await self._elsewhere(datacenter, method.name, msgpack.encode(request)))
