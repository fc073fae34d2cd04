"""Reads the records of ACLs and of Connect's certificate authority in a snapshot."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from pyconsul_agent.state import acl
from pyconsul_agent.state.store import SINGLETON, Tables, raw, row_id
from pyconsul_agent.state.table import fold
from pyconsul_agent.structs.acl import ACL, ACLAuthMethod, ACLBindingRule, ACLPolicy, ACLRole, ACLToken
from pyconsul_agent.structs.connect_ca import CAConfiguration, CAConsulProviderState, CARoot
from pyconsul_agent.wire.msgpack import build


def take(tables: Tables, kind: int, value: Any) -> None:
    """Add one record of a type of `snapshot.RARE`. Raises DecodeError."""
    match kind:
        case 4:
            _token(tables, acl.token_of(build(ACL, value)))
        case 17:
            _token(tables, build(ACLToken, value))
        case 19:
            policy = build(ACLPolicy, value)
            tables.acl_policies.put(row_id(policy.id), policy)
        case 23:
            role = build(ACLRole, value)
            tables.acl_roles.put(row_id(role.id), role)
        case 25:
            rule = build(ACLBindingRule, value)
            tables.acl_binding_rules.put(row_id(rule.id), rule)
        case 27:
            method = build(ACLAuthMethod, value)
            tables.acl_auth_methods.put(fold(method.name), method)
        case 13:
            root = build(CARoot, value)
            tables.ca_roots.put(raw(root.id), root)
        case 14:
            state = build(CAConsulProviderState, value)
            tables.ca_provider.put(raw(state.id), state)
        case 15:
            tables.ca_config.put(SINGLETON, build(CAConfiguration, value))


def _token(tables: Tables, token: ACLToken) -> None:
    if token.hash is None:
        token = replace(token, hash=acl.token_hash(token))
    tables.acl_tokens.put(raw(token.secret_id), token)
