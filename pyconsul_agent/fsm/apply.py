"""Commands of the replicated log: a table from type byte to the function that applies it.

Each function decodes its request, calls the state store and returns the caller's result. A refusal is a result too: it
comes back as an exception *value*, changes nothing and still consumes the index. Nothing here is random or reads a
clock that could differ between servers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pyconsul_agent.errors import ConsulError, DecodeError, RPCError
from pyconsul_agent.state import (
    config_entry,
    coordinate,
    intention,
    kv,
    prepared_query,
    registration,
    system,
    tombstone,
)
from pyconsul_agent.state import session as sessions
from pyconsul_agent.state import txn as transactions
from pyconsul_agent.state.store import Txn
from pyconsul_agent.structs.base import wire
from pyconsul_agent.structs.config_kinds import kind_of, name_of
from pyconsul_agent.structs.config_requests import ConfigEntryRequest
from pyconsul_agent.structs.coordinate import Coordinate
from pyconsul_agent.structs.federation import FederationStateRequest
from pyconsul_agent.structs.intention import Intention
from pyconsul_agent.structs.intention_requests import IntentionRequest
from pyconsul_agent.structs.requests import (
    AutopilotSetConfigRequest,
    DeregisterRequest,
    KVSRequest,
    PreparedQueryRequest,
    RegisterRequest,
    SessionRequest,
    TxnRequest,
    TxnResponse,
)
from pyconsul_agent.structs.system import SystemMetadataRequest, TombstoneRequest
from pyconsul_agent.wire.msgpack import decode

REGISTER = 0
DEREGISTER = 1
KVS = 2
SESSION = 3
TOMBSTONE = 5
COORDINATES = 6
PREPARED_QUERY = 7
TXN = 8
AUTOPILOT = 9
INTENTION = 12
CONNECT_CA_LEAF = 21
FEDERATION_STATE = 30
SYSTEM_METADATA = 31
LOG_VERIFIER = 41

IGNORE_UNKNOWN = 0x80
"""Bit of the type byte: skip the command if its type is unknown."""

ACL_KINDS = frozenset({4, 11, *range(17, 21), *range(23, 29)})
CONNECT_CA = 13
CONFIG_ENTRY = 22

NO_OPERATION = frozenset({10, 14, *range(32, 44)})
"""Known types that this server does not implement: enterprise areas (10) and what Consul after 1.10 added (32-43). They
consume their index and change nothing."""


class UnknownCommand(ConsulError):
    """A command of a type that this version cannot know. The server must stop rather than diverge."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OperationOnly:
    """The one field of a request that decides what can be done without reading the rest."""

    op: str = wire("Op", "")


Handler = Callable[[Txn, bytes], Any]


def _register(txn: Txn, body: bytes) -> None:
    registration.register(txn, decode(RegisterRequest, body))


def _deregister(txn: Txn, body: bytes) -> None:
    request = decode(DeregisterRequest, body)
    registration.deregister(txn, request.node, request.service_id, request.check_id)


def _kvs(txn: Txn, body: bytes) -> bool | None:
    request = decode(KVSRequest, body)
    txn.op = request.op
    entry = request.dir_ent
    match request.op:
        case "set":
            kv.put(txn, entry)
        case "delete":
            kv.delete(txn, entry.key)
        case "delete-tree":
            kv.delete_tree(txn, entry.key)
        case "delete-cas":
            return kv.compare_and_delete(txn, entry.key, entry.modify_index)
        case "cas":
            return kv.compare_and_set(txn, entry) is not None
        case "lock":
            return kv.lock(txn, entry) is not None
        case "unlock":
            return kv.unlock(txn, entry) is not None
        case _:
            raise RPCError(f"Invalid KVS operation '{request.op}'")
    return None


def _session(txn: Txn, body: bytes) -> str | None:
    request = decode(SessionRequest, body)
    txn.op = request.op
    if request.op == "create":
        return sessions.create(txn, request.session).id
    if request.op == "destroy":
        sessions.destroy(txn, request.session.id)
        return None
    raise RPCError(f"Invalid Session operation '{request.op}'")


def _tombstone(txn: Txn, body: bytes) -> None:
    request = decode(TombstoneRequest, body)
    txn.op = request.op
    if request.op != "reap":
        raise RPCError(f"Invalid Tombstone operation '{request.op}'")
    tombstone.reap(txn, request.reap_index)


def _coordinates(txn: Txn, body: bytes) -> None:
    coordinate.batch_update(txn, decode(list[Coordinate], body))


def _prepared_query(txn: Txn, body: bytes) -> None:
    request = decode(PreparedQueryRequest, body)
    txn.op = request.op
    if request.query is None:
        raise RPCError("Missing Query ID")
    if request.op in ("create", "update"):
        prepared_query.put(txn, request.query)
    elif request.op == "delete":
        prepared_query.delete(txn, request.query.id)
    else:
        raise RPCError(f"Invalid PreparedQuery operation '{request.op}'")


def _txn(txn: Txn, body: bytes) -> TxnResponse:
    request = decode(TxnRequest, body)
    results, errors = transactions.run(txn, request.ops or ())
    if errors:
        return TxnResponse(results=None, errors=errors)
    return TxnResponse(results=results, errors=None)


def _autopilot(txn: Txn, body: bytes) -> bool | None:
    request = decode(AutopilotSetConfigRequest, body)
    done = system.set_autopilot_config(txn, request.config, compare=request.cas)
    return done if request.cas else None


def _config_entry(txn: Txn, body: bytes) -> bool | None:
    request = decode(ConfigEntryRequest, body)
    txn.op = request.op
    entry = request.entry
    if entry is None:
        raise DecodeError("a config entry command without an entry")
    txn.of = kind_of(entry)
    if request.op == "upsert":
        config_entry.put(txn, entry)
        return True
    if request.op == "upsert-cas":
        return config_entry.compare_and_set(txn, entry.modify_index, entry)
    if request.op == "delete":
        config_entry.delete(txn, kind_of(entry), name_of(entry))
        return None
    raise RPCError(f"invalid config entry operation type: {request.op}")


def _intention(txn: Txn, body: bytes) -> None:
    request = decode(IntentionRequest, body)
    txn.op = request.op
    if request.mutation is not None:
        intention.mutate(txn, request.op, request.mutation)
        return
    row = request.intention or Intention()
    match request.op:
        case "create" | "update":
            intention.refuse_if_moved(txn)
            intention.put_row(txn, row)
        case "delete":
            intention.refuse_if_moved(txn)
            intention.delete_row(txn, row.id)
        case "delete-all":
            intention.delete_all_rows(txn)
        case _:
            raise RPCError(f"Invalid Intention operation '{request.op}'")


def _acl(kind: int) -> Handler:
    def handler(txn: Txn, body: bytes) -> Any:
        from pyconsul_agent.fsm import apply_acl  # read by those only who meet such a command

        return apply_acl.HANDLERS[kind](txn, body)

    return handler


def _connect_ca(txn: Txn, body: bytes) -> Any:
    from pyconsul_agent.fsm import apply_connect_ca

    return apply_connect_ca.apply(txn, body)


def _leaf(txn: Txn, body: bytes) -> int:
    txn.op = decode(OperationOnly, body).op
    txn.set_index("connect-ca-leaf-certs")
    return txn.index


def _federation_state(txn: Txn, body: bytes) -> bool | None:
    request = decode(FederationStateRequest, body)
    txn.op = request.op
    if request.state is None or request.op not in ("upsert", "delete"):
        raise RPCError(f"Invalid FederationState operation '{request.op}'")
    txn.of = request.state.datacenter
    if request.op == "upsert":
        system.set_federation_state(txn, request.state)
        return True
    system.delete_federation_state(txn, request.state.datacenter)
    return None


def _system_metadata(txn: Txn, body: bytes) -> bool | None:
    request = decode(SystemMetadataRequest, body)
    txn.op = request.op
    if request.entry is None or request.op not in ("upsert", "delete"):
        raise RPCError(f"Invalid SystemMetadata operation '{request.op}'")
    if request.op == "upsert":
        system.set_metadata(txn, request.entry)
        return True
    system.delete_metadata(txn, request.entry.key)
    return None


HANDLERS: dict[int, Handler] = {
    REGISTER: _register,
    DEREGISTER: _deregister,
    KVS: _kvs,
    SESSION: _session,
    TOMBSTONE: _tombstone,
    COORDINATES: _coordinates,
    PREPARED_QUERY: _prepared_query,
    TXN: _txn,
    AUTOPILOT: _autopilot,
    INTENTION: _intention,
    CONNECT_CA: _connect_ca,
    CONFIG_ENTRY: _config_entry,
    CONNECT_CA_LEAF: _leaf,
    FEDERATION_STATE: _federation_state,
    SYSTEM_METADATA: _system_metadata,
} | {kind: _acl(kind) for kind in sorted(ACL_KINDS)}


def find(kind: int) -> Handler | None:
    """The function for a type byte; None if the command is to be passed over. Raises UnknownCommand."""
    handler = HANDLERS.get(kind & ~IGNORE_UNKNOWN)
    if handler is None and kind & ~IGNORE_UNKNOWN not in NO_OPERATION and not kind & IGNORE_UNKNOWN:
        raise UnknownCommand(f"unknown command type {kind} in the log: written by a newer version?")
    return handler


DEFECTS = (ArithmeticError, AssertionError, AttributeError, LookupError, TypeError, ValueError)
"""What a mistake in a handler raises, whatever the machine: neither a lack of memory nor of stack is among them."""


class Defect(RPCError):
    """The result of a command that a mistake of ours keeps from being applied. Every server has the same."""


def run(txn: Txn, handler: Handler, body: bytes) -> Any:
    """Apply one command in `txn` and end it; returns the result or, as a value, the error."""
    try:
        result = handler(txn, body)
    except (RPCError, DecodeError) as error:
        txn.abort()
        return error
    except DEFECTS as error:
        # One entry that meets a defect of ours must not stop every server at every start: all run the same code on
        # the same state, so all refuse it.
        txn.abort()
        return Defect(f"internal error: command cannot be applied: {type(error).__name__}: {error}")
    except BaseException:
        txn.abort()
        raise
    if isinstance(result, TxnResponse) and result.errors:
        txn.abort()
    else:
        txn.commit()
    return result
