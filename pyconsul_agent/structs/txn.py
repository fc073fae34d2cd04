"""Operations and results of multi-key transactions."""

from __future__ import annotations

from pyconsul_agent.structs.base import struct, wire
from pyconsul_agent.structs.catalog import Node, NodeService
from pyconsul_agent.structs.health import HealthCheck
from pyconsul_agent.structs.intention import Intention, IntentionMutation
from pyconsul_agent.structs.kv import DirEntry
from pyconsul_agent.structs.session import Session


@struct
class TxnKVOp:
    """Consul's `TxnKVOp`."""

    verb: str = wire("Verb", default="")
    dir_ent: DirEntry = wire("DirEnt", default=DirEntry())


@struct
class TxnNodeOp:
    """Consul's `TxnNodeOp`."""

    verb: str = wire("Verb", default="")
    node: Node = wire("Node", default=Node())


@struct
class TxnServiceOp:
    """Consul's `TxnServiceOp`."""

    verb: str = wire("Verb", default="")
    node: str = wire("Node", default="")
    service: NodeService = wire("Service", default=NodeService())


@struct
class TxnCheckOp:
    """Consul's `TxnCheckOp`."""

    verb: str = wire("Verb", default="")
    check: HealthCheck = wire("Check", default=HealthCheck())


@struct
class TxnSessionOp:
    """Consul's `TxnSessionOp`."""

    verb: str = wire("Verb", default="")
    session: Session = wire("Session", default=Session())


@struct
class TxnIntentionOp:
    """Consul's `TxnIntentionOp`."""

    datacenter: str = wire("Datacenter", default="")
    op: str = wire("Op", default="")
    intention: Intention | None = wire("Intention", default=None)
    mutation: IntentionMutation | None = wire("Mutation", default=None)
    token: str = wire("Token", default="")


@struct
class TxnOp:
    """Consul's `TxnOp`."""

    kv: TxnKVOp | None = wire("KV", default=None)
    node: TxnNodeOp | None = wire("Node", default=None)
    service: TxnServiceOp | None = wire("Service", default=None)
    check: TxnCheckOp | None = wire("Check", default=None)
    session: TxnSessionOp | None = wire("Session", default=None)
    intention: TxnIntentionOp | None = wire("Intention", default=None)


@struct
class TxnResult:
    """Consul's `TxnResult`."""

    kv: DirEntry | None = wire("KV", default=None)
    node: Node | None = wire("Node", default=None)
    service: NodeService | None = wire("Service", default=None)
    check: HealthCheck | None = wire("Check", default=None)


@struct
class TxnError:
    """Consul's `TxnError`."""

    op_index: int = wire("OpIndex", default=0)
    what: str = wire("What", default="")
