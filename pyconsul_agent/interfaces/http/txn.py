"""`/v1/txn`: several operations, all or none."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from pyconsul_agent.agent.delegate import Caller
from pyconsul_agent.interfaces.http.message import HTTPError, Request, Response, json_response
from pyconsul_agent.interfaces.http.params import Defaults, datacenter_of, read_fields, token_of
from pyconsul_agent.interfaces.http.routes import Route
from pyconsul_agent.structs.base import struct, wire
from pyconsul_agent.structs.catalog import Weights
from pyconsul_agent.structs.kv import DirEntry
from pyconsul_agent.structs.methods import TXN_APPLY, TXN_READ
from pyconsul_agent.structs.requests import TxnReadRequest, TxnRequest
from pyconsul_agent.structs.txn import TxnCheckOp, TxnKVOp, TxnNodeOp, TxnOp, TxnResult, TxnServiceOp
from pyconsul_agent.wire.gojson import Ordered
from pyconsul_agent.wire.gojson_reader import decode, mismatch, parse
from pyconsul_agent.wire.gotypes import quote

OPERATIONS_MAX = 64
KV_WRITES = frozenset({"set", "cas", "lock", "unlock", "delete", "delete-cas", "delete-tree"})
BODY_SETTING = "txn_max_req_len"


@struct
class KVBody:
    """A key-value operation as it is sent."""

    verb: str = wire("Verb", default="")
    key: bytes = wire("Key", default=b"")
    value: bytes | None = wire("Value", default=None)
    flags: int = wire("Flags", default=0)
    index: int = wire("Index", default=0)
    session: str = wire("Session", default="")
    namespace: str = wire("Namespace", default="")


@struct
class OpBody:
    """One element of the list; the first of KV, Node, Service, Check counts."""

    kv: KVBody | None = wire("KV", default=None)
    node: TxnNodeOp | None = wire("Node", default=None)
    service: TxnServiceOp | None = wire("Service", default=None)
    check: TxnCheckOp | None = wire("Check", default=None)


class Transactions:
    """The handler. `value_bytes_max` bounds a value, `body_bytes_max` the request."""

    def __init__(self, caller: Caller, defaults: Defaults, *, value_bytes_max: int, body_bytes_max: int) -> None:
        self._caller = caller
        self._defaults = defaults
        self._value_bytes_max = value_bytes_max
        self._body_bytes_max = max(body_bytes_max, value_bytes_max)

    def routes(self) -> list[Route]:
        methods = (("PUT", self.put),)
        limit = self._body_bytes_max
        return [Route("/v1/txn", methods, "by operation", body_bytes_max=limit, body_setting=BODY_SETTING)]

    async def put(self, request: Request) -> Response:
        """Run the operations; 409 with every failure when one fails."""
        ops, writes = self._operations(request)
        datacenter = datacenter_of(request, self._defaults)
        if writes:
            asked = TxnRequest(datacenter=datacenter, ops=ops, token=token_of(request, self._defaults))
            reply = await self._caller.call(TXN_APPLY, asked)
            shown = Ordered(Results=_results(reply.results, reply.errors), Errors=reply.errors or None)
            return self._answer(request, shown, {})
        fields = read_fields(request, self._defaults)
        read = await self._caller.call(TXN_READ, TxnReadRequest(datacenter=datacenter, ops=ops, **fields))
        shown = Ordered(
            Results=_results(read.results, read.errors),
            Errors=read.errors or None,
            Index=read.index,
            LastContact=read.last_contact,
            KnownLeader=read.known_leader,
            ConsistencyLevel=read.consistency_level,
            NotModified=read.not_modified,
            Backend=read.backend,
        )
        headers = {
            "X-Consul-Knownleader": "true" if read.known_leader else "false",
            "X-Consul-Lastcontact": str(read.last_contact // 1_000_000),
        }
        return self._answer(request, shown, headers)

    def _answer(self, request: Request, shown: Ordered, headers: dict[str, str]) -> Response:
        status = 409 if shown["Errors"] else 200
        return json_response(shown, request, status=status, headers=headers, pretty=self._defaults.pretty)

    def _operations(self, request: Request) -> tuple[tuple[TxnOp, ...], bool]:
        """The operations, and whether one of them writes. Raises HTTPError."""
        try:
            bodies = _bodies(parse(request.body))
        except ValueError as error:
            raise HTTPError(400, f"Failed to parse body: {error}") from None
        if len(bodies) > OPERATIONS_MAX:
            raise HTTPError(413, f"Transaction contains too many operations ({len(bodies)} > {OPERATIONS_MAX})")
        ops, writes = [], False
        for body in bodies:
            if body.kv is not None:
                size = len(body.kv.value or b"")
                if size > self._value_bytes_max:
                    key = quote(body.kv.key.decode("utf-8", "surrogateescape"))
                    raise HTTPError(413, f"Value for key {key} is too large ({size} > {self._value_bytes_max} bytes)")
                writes = writes or body.kv.verb in KV_WRITES
                ops.append(TxnOp(kv=_kv(body.kv)))
            elif (other := body.node or body.service or body.check) is not None:
                writes = writes or other.verb != "get"
                ops.append(_one(body, self._defaults.datacenter))
        return tuple(ops), writes


def _bodies(value: Any) -> list[OpBody]:
    if value is None:
        return []
    if not isinstance(value, list):
        raise mismatch(value, "", "api.TxnOps")
    if any(item is None for item in value):
        # compat: the original crashes at this
        raise ValueError("an operation is null")
    return [decode(OpBody, item) for item in value]


def _kv(body: KVBody) -> TxnKVOp:
    entry = DirEntry(key=body.key, value=body.value, flags=body.flags, session=body.session, modify_index=body.index)
    return TxnKVOp(verb=body.verb, dir_ent=entry)


def _one(body: OpBody, datacenter: str) -> TxnOp:
    if body.node is not None:
        node = replace(body.node.node, datacenter=body.node.node.datacenter or datacenter)
        return TxnOp(node=replace(body.node, node=node))
    if body.service is not None:
        # Weights that were not sent are zero, not absent.
        service = replace(body.service.service, weights=body.service.service.weights or Weights())
        return TxnOp(service=replace(body.service, service=service))
    return TxnOp(check=body.check)


def _results(results: tuple[TxnResult, ...] | None, errors: object) -> list[Ordered] | None:
    """Each result under the name of its kind; null when the transaction failed."""
    if errors:
        return None
    return [_result(result) for result in results or ()]


def _result(result: TxnResult) -> Ordered:
    if result.kv is not None:
        return Ordered(KV=replace(result.kv, value=result.kv.value or None))
    rows = {"Node": result.node, "Service": result.service, "Check": result.check}
    return Ordered({name: row for name, row in rows.items() if row is not None})
