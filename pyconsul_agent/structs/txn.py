"""Operations and results of multi-key transactions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pyconsul_agent.structs.base import wire
from pyconsul_agent.structs.catalog import Node, NodeService
from pyconsul_agent.structs.health import HealthCheck
from pyconsul_agent.structs.kv import DirEntry
from pyconsul_agent.structs.session import Session


@dataclass(frozen=True, slots=True, kw_only=True)
class TxnKVOp:
    """Consul's `TxnKVOp`."""

    verb: str = wire("Verb", "")
    dir_ent: DirEntry = wire("DirEnt", DirEntry())


@dataclass(frozen=True, slots=True, kw_only=True)
class TxnNodeOp:
    """Consul's `TxnNodeOp`."""

    verb: str = wire("Verb", "")
    node: Node = wire("Node", Node())


@dataclass(frozen=True, slots=True, kw_only=True)
class TxnServiceOp:
    """Consul's `TxnServiceOp`."""

    verb: str = wire("Verb", "")
    node: str = wire("Node", "")
    service: NodeService = wire("Service", NodeService())


@dataclass(frozen=True, slots=True, kw_only=True)
class TxnCheckOp:
    """Consul's `TxnCheckOp`."""

    verb: str = wire("Verb", "")
    check: HealthCheck = wire("Check", HealthCheck())


@dataclass(frozen=True, slots=True, kw_only=True)
class TxnSessionOp:
    """Consul's `TxnSessionOp`."""

    verb: str = wire("Verb", "")
    session: Session = wire("Session", Session())


@dataclass(frozen=True, slots=True, kw_only=True)
class TxnOp:
    """Consul's `TxnOp`."""

    kv: TxnKVOp | None = wire("KV", None)
    node: TxnNodeOp | None = wire("Node", None)
    service: TxnServiceOp | None = wire("Service", None)
    check: TxnCheckOp | None = wire("Check", None)
    session: TxnSessionOp | None = wire("Session", None)
    intention: Any = wire("Intention", None)


@dataclass(frozen=True, slots=True, kw_only=True)
class TxnResult:
    """Consul's `TxnResult`."""

    kv: DirEntry | None = wire("KV", None)
    node: Node | None = wire("Node", None)
    service: NodeService | None = wire("Service", None)
    check: HealthCheck | None = wire("Check", None)


@dataclass(frozen=True, slots=True, kw_only=True)
class TxnError:
    """Consul's `TxnError`."""

    op_index: int = wire("OpIndex", 0)
    what: str = wire("What", "")
