"""Txn.*: several operations, all or none."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from pyconsul_agent.errors import RPCError
from pyconsul_agent.fsm.apply import TXN
from pyconsul_agent.server.blocking import Blocking
from pyconsul_agent.server.endpoints.catalog import check_node, checked_service
from pyconsul_agent.server.endpoints.kvs import check_entry, held_by_another
from pyconsul_agent.server.endpoints.shared import propose
from pyconsul_agent.server.seams import Endpoint, Proposer, Where
from pyconsul_agent.state import txn as transactions
from pyconsul_agent.state.store import Store
from pyconsul_agent.structs import methods
from pyconsul_agent.structs.requests import TxnReadRequest, TxnReadResponse, TxnRequest, TxnResponse
from pyconsul_agent.structs.txn import TxnError, TxnOp, TxnResult


class Txn:
    """Reads run on the local store, writes through the log."""

    def __init__(
        self,
        store: Store,
        proposer: Proposer,
        blocking: Blocking,
        now: Callable[[], float],
        *,
        ready: Callable[[], bool],
    ) -> None:
        """`ready` says whether this leader has applied what its predecessors committed."""
        self._store = store
        self._proposer = proposer
        self._blocking = blocking
        self._now = now
        self._ready = ready

    def endpoints(self) -> list[Endpoint]:
        """The methods of this service."""
        return [
            Endpoint(methods.TXN_APPLY, Where.FORWARD, self.apply, write=True),
            Endpoint(methods.TXN_READ, Where.FORWARD, self.read),
        ]

    async def apply(self, request: TxnRequest) -> TxnResponse:
        """Write; refusals are in the reply's errors, with the place of their operation."""
        locks = [op.kv.dir_ent for op in request.ops or () if op.kv is not None and op.kv.verb == "lock"]
        if locks and (not self._ready() or any(held_by_another(self._store, entry) for entry in locks)):
            await self._proposer.barrier()  # the end of the holder's session, and so the delay, may not be applied yet
        ops, errors = self._checked(request.ops or ())
        if not errors and any(held_by_another(self._store, entry) for entry in locks):
            # Tried on the state as it is. When the log came to it, the end of the holder's session might be before it,
            # which may have begun since the barrier, and so the delay. An earlier operation may free the lock, though.
            _, errors = self._tried(ops)
        if errors:
            return TxnResponse(results=None, errors=errors)
        body = replace(request, ops=ops)
        result = await propose(self._proposer, TXN, body, prefix="raft apply failed: ")
        if not isinstance(result, TxnResponse):
            raise RPCError(f"unexpected return type {type(result).__name__}")
        return result

    async def read(self, request: TxnReadRequest) -> TxnReadResponse:
        """Run operations that only read."""
        await self._blocking.check(request)
        ops, errors = self._checked(request.ops or (), read=True)
        if errors:
            return self._blocking.finish(TxnReadResponse(results=None, errors=errors))
        results, errors = self._tried(ops)
        reply = TxnReadResponse(results=None if errors else results, errors=errors or None)
        return self._blocking.finish(reply)

    def _tried(self, ops: tuple[TxnOp, ...]) -> tuple[tuple[TxnResult, ...], tuple[TxnError, ...]]:
        """Results and errors that the operations have now. Nothing is written."""
        txn = self._store.begin(0)
        try:
            return transactions.run(txn, ops)
        finally:
            txn.abort()

    def _checked(self, ops: tuple[TxnOp, ...], *, read: bool = False) -> tuple[tuple[TxnOp, ...], tuple[TxnError, ...]]:
        done, errors = [], []
        for place, op in enumerate(ops):
            try:
                done.append(self._checked_op(op, read))
            except RPCError as error:
                errors.append(TxnError(op_index=place, what=str(error)))
        return tuple(done), tuple(errors)

    def _checked_op(self, op: TxnOp, read: bool) -> TxnOp:
        if op.kv is not None:
            check_entry(op.kv.verb, op.kv.dir_ent)
            if read and op.kv.verb in _KV_WRITES:
                raise RPCError(f'unknown KV verb "{op.kv.verb}"')
            delay = self._store.lock_delays.remaining_s(op.kv.dir_ent.key, self._now())
            if op.kv.verb == "lock" and delay > 0:
                key = op.kv.dir_ent.key.decode("utf-8", "surrogateescape")
                raise RPCError(f'failed to lock key "{key}" due to lock delay')
            return op
        if read and any(
            part is not None and part.verb != "get" for part in (op.node, op.service, op.check, op.session)
        ):
            raise RPCError("cannot write in a read-only transaction")  # it would answer as if it had
        if op.node is not None and op.node.verb != "get":
            check_node(op.node.node.node, op.node.node.id)
        elif op.service is not None and op.service.verb != "get":
            return replace(op, service=replace(op.service, service=checked_service(op.service.service)))
        elif op.check is not None and op.check.verb != "get":
            # compat: only the ID is filled in here, not the type
            check = op.check.check
            return replace(op, check=replace(op.check, check=replace(check, check_id=check.check_id or check.name)))
        return op


_KV_WRITES = frozenset({"set", "delete", "delete-cas", "delete-tree", "cas", "lock", "unlock"})
