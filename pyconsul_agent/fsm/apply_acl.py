"""Commands of ACLs: rows are stored and deleted, several at once; nothing is enforced here."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pyconsul_agent.errors import RPCError
from pyconsul_agent.state import acl
from pyconsul_agent.state.acl import TokenRules
from pyconsul_agent.state.store import Txn, raw
from pyconsul_agent.structs.acl import ACL
from pyconsul_agent.structs.acl_commands import (
    ACLAuthMethodBatchDeleteRequest,
    ACLAuthMethodBatchSetRequest,
    ACLBindingRuleBatchDeleteRequest,
    ACLBindingRuleBatchSetRequest,
    ACLPolicyBatchDeleteRequest,
    ACLPolicyBatchSetRequest,
    ACLRoleBatchDeleteRequest,
    ACLRoleBatchSetRequest,
    ACLTokenBatchDeleteRequest,
    ACLTokenBatchSetRequest,
    ACLTokenBootstrapRequest,
)
from pyconsul_agent.structs.acl_requests import ACLRequest
from pyconsul_agent.wire.msgpack import decode

LEGACY = TokenRules(legacy=True)


def _legacy(txn: Txn, body: bytes) -> str | bool | ACL | None:
    """The API of before 1.4, of which 1.10 still writes sets and deletions."""
    request = decode(ACLRequest, body)
    match request.op:
        case "set" | "force-set":
            acl.put_token(txn, acl.token_of(request.acl), LEGACY)
            return request.acl.id
        case "delete":
            acl.delete_token_by_secret(txn, request.acl.id)
            return None
        case "bootstrap-init":
            return txn.tables.index.get(raw(acl.BOOTSTRAP)) is None
        case "bootstrap-now":
            acl.bootstrap(txn, acl.token_of(request.acl), 0, LEGACY)
            return acl.legacy_of(txn.tables.acl_tokens.rows[raw(request.acl.id)])
    raise RPCError(f"Invalid ACL operation '{request.op}'")


def _bootstrap(txn: Txn, body: bytes) -> None:
    request = decode(ACLTokenBootstrapRequest, body)
    acl.bootstrap(txn, request.token, request.reset_index)


def _token_set(txn: Txn, body: bytes) -> None:
    request = decode(ACLTokenBatchSetRequest, body)
    rules = TokenRules(
        compare=request.cas,
        allow_missing_links=request.allow_missing_links,
        prohibit_unprivileged=request.prohibit_unprivileged,
        from_replication=request.from_replication,
    )
    for token in request.tokens or ():
        acl.put_token(txn, token, rules)


def _token_delete(txn: Txn, body: bytes) -> None:
    for token_id in decode(ACLTokenBatchDeleteRequest, body).token_ids or ():
        acl.delete_token(txn, token_id)


def _policy_set(txn: Txn, body: bytes) -> None:
    for policy in decode(ACLPolicyBatchSetRequest, body).policies or ():
        acl.put_policy(txn, policy)


def _policy_delete(txn: Txn, body: bytes) -> None:
    for policy_id in decode(ACLPolicyBatchDeleteRequest, body).policy_ids or ():
        acl.delete_policy(txn, policy_id)


def _role_set(txn: Txn, body: bytes) -> None:
    request = decode(ACLRoleBatchSetRequest, body)
    for role in request.roles or ():
        acl.put_role(txn, role, allow_missing_links=request.allow_missing_links)


def _role_delete(txn: Txn, body: bytes) -> None:
    for role_id in decode(ACLRoleBatchDeleteRequest, body).role_ids or ():
        acl.delete_role(txn, role_id)


def _binding_rule_set(txn: Txn, body: bytes) -> None:
    for rule in decode(ACLBindingRuleBatchSetRequest, body).binding_rules or ():
        acl.put_binding_rule(txn, rule)


def _binding_rule_delete(txn: Txn, body: bytes) -> None:
    for rule_id in decode(ACLBindingRuleBatchDeleteRequest, body).binding_rule_ids or ():
        acl.delete_binding_rule(txn, rule_id)


def _auth_method_set(txn: Txn, body: bytes) -> None:
    for method in decode(ACLAuthMethodBatchSetRequest, body).auth_methods or ():
        acl.put_auth_method(txn, method)


def _auth_method_delete(txn: Txn, body: bytes) -> None:
    for name in decode(ACLAuthMethodBatchDeleteRequest, body).auth_method_names or ():
        acl.delete_auth_method(txn, name)


HANDLERS: dict[int, Callable[[Txn, bytes], Any]] = {
    4: _legacy,
    11: _bootstrap,
    17: _token_set,
    18: _token_delete,
    19: _policy_set,
    20: _policy_delete,
    23: _role_set,
    24: _role_delete,
    25: _binding_rule_set,
    26: _binding_rule_delete,
    27: _auth_method_set,
    28: _auth_method_delete,
}
