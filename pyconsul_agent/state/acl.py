"""Rows of ACLs: tokens, policies, roles, binding rules and auth methods, as the log changes them.

Nothing is enforced here. Links between rows are by ID; the name beside an ID is what it was when the link was written.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, replace

from pyconsul_agent.errors import RPCError
from pyconsul_agent.state.store import Txn, raw, row_id
from pyconsul_agent.state.table import Table, fold
from pyconsul_agent.structs.acl import (
    ACL,
    ACLAuthMethod,
    ACLBindingRule,
    ACLNodeIdentity,
    ACLPolicy,
    ACLRole,
    ACLRolePolicyLink,
    ACLServiceIdentity,
    ACLToken,
    ACLTokenPolicyLink,
    ACLTokenRoleLink,
)
from pyconsul_agent.wire.gotypes import quote

TOKENS, POLICIES, ROLES = "acl-tokens", "acl-policies", "acl-roles"
BINDING_RULES, AUTH_METHODS = "acl-binding-rules", "acl-auth-methods"
BOOTSTRAP = "acl-token-bootstrap"
ANONYMOUS_ID = "00000000-0000-0000-0000-000000000002"
MANAGEMENT_POLICY_ID = "00000000-0000-0000-0000-000000000001"
MANAGEMENT_POLICY = "global-management"
BOOTSTRAP_OVER = "ACL bootstrap no longer allowed"


def _management_rules() -> str:
    """What the built-in policy grants: everything."""

    def prefix(name: str, *more: str) -> str:
        lines = "".join(f'\t{word} = "write"\n' for word in ("policy", *more))
        return f'{name}_prefix "" {{\n{lines}}}\n'

    return (
        '\nacl = "write"\n'
        + "".join(map(prefix, ("agent", "event", "key")))
        + 'keyring = "write"\n'
        + prefix("node")
        + 'operator = "write"\n'
        + prefix("query")
        + prefix("service", "intentions")
        + prefix("session")
    )


MANAGEMENT_RULES = _management_rules()


@dataclass(frozen=True, slots=True)
class TokenRules:
    """On what terms tokens are stored."""

    compare: bool = False
    allow_missing_links: bool = False
    prohibit_unprivileged: bool = False
    from_replication: bool = False
    legacy: bool = False


# --- tokens -----------------------------------------------------------------------------------------------------


def bootstrap(txn: Txn, token: ACLToken, reset_index: int, rules: TokenRules = TokenRules()) -> None:
    """Store the first management token, once; again only by whoever knows the index of the last time."""
    known = txn.tables.index.get(raw(BOOTSTRAP))
    if known is not None and reset_index == 0:
        raise RPCError(BOOTSTRAP_OVER)
    if known is not None and reset_index != known:
        raise RPCError("Invalid ACL bootstrap reset index")
    try:
        put_token(txn, token, rules)
    except RPCError as error:
        raise RPCError(f"failed inserting bootstrap token: {error}") from None
    txn.set_index(BOOTSTRAP)


def put_token(txn: Txn, token: ACLToken, rules: TokenRules) -> None:
    """Insert or replace a token, found by its secret. Raises RPCError."""
    if not token.secret_id:
        raise RPCError("Missing ACL Token SecretID")
    if not rules.legacy and not token.accessor_id:
        raise RPCError("Missing ACL Token AccessorID")
    if rules.from_replication and token.local:
        raise RPCError("Cannot replicate local tokens")
    existing = txn.tables.acl_tokens.get(raw(token.secret_id))
    if rules.compare and (existing.modify_index if existing is not None else 0) != token.modify_index:
        return
    if rules.legacy and existing is not None:
        if _is_modern(existing):
            raise RPCError("failed inserting acl token: cannot use legacy endpoint to modify a non-legacy token")
        token = replace(token, accessor_id=existing.accessor_id)
    token = _linked_token(txn, token, rules)
    if existing is not None and existing.accessor_id and token.accessor_id != existing.accessor_id:
        raise RPCError("The ACL Token AccessorID field is immutable")
    created = existing.create_index if existing is not None else txn.index
    token = replace(
        token,
        create_index=created,
        modify_index=txn.index,
        hash=token_hash(token) if token.hash is None else token.hash,
    )
    txn.put(txn.tables.acl_tokens, raw(token.secret_id), token)
    txn.raise_index(TOKENS)


def _is_modern(token: ACLToken) -> bool:
    """Whether a token has what those of before 1.4 could not have."""
    links = (token.policies, token.roles, token.service_identities, token.node_identities, token.auth_method)
    return not token.type or token.expiration_time is not None or any(links)


def _linked_token(txn: Txn, token: ACLToken, rules: TokenRules) -> ACLToken:
    """The token with the names of what it links to."""
    policies = [
        ACLTokenPolicyLink(id=link.id, name=_name(txn.tables.acl_policies, link.id, link.name, "policies", rules))
        for link in token.policies or ()
    ]
    roles = [
        ACLTokenRoleLink(id=link.id, name=_name(txn.tables.acl_roles, link.id, link.name, "roles", rules))
        for link in token.roles or ()
    ]
    method = txn.tables.acl_auth_methods.get(fold(token.auth_method))
    if token.auth_method and not rules.from_replication and method is None:
        raise RPCError(f"No such auth method with Name: {token.auth_method}")
    _check_identities("Token", token.service_identities, token.node_identities)
    if rules.prohibit_unprivileged and not (token.service_identities or token.node_identities):
        tables = txn.tables
        if not any(tables.acl_policies.get(row_id(link.id)) for link in policies) and not any(
            tables.acl_roles.get(row_id(link.id)) for link in roles
        ):
            raise RPCError("Token has no privileges")
    return replace(
        token,
        policies=None if token.policies is None else tuple(policies),
        roles=None if token.roles is None else tuple(roles),
    )


def _name(table: Table[ACLPolicy] | Table[ACLRole], link_id: str, old: str, what: str, rules: TokenRules) -> str:
    if not link_id:
        raise RPCError(f"Encountered a Token with {what} linked by Name in the state store")
    row = table.get(row_id(link_id))
    if row is not None:
        return row.name
    if not rules.allow_missing_links:
        raise RPCError(f"No such {'policy' if what == 'policies' else 'role'} with ID: {link_id}")
    return old


def _check_identities(
    owner: str, services: Iterable[ACLServiceIdentity] | None, nodes: Iterable[ACLNodeIdentity] | None
) -> None:
    words = f"Encountered a {owner} with an empty"
    for service in services or ():
        if not service.service_name:
            raise RPCError(f"{words} service identity name in the state store")
    for node in nodes or ():
        if not node.node_name:
            raise RPCError(f"{words} node identity name in the state store")
        if not node.datacenter:
            raise RPCError(f"{words} node identity datacenter in the state store")


def delete_token(txn: Txn, accessor_id: str) -> None:
    """Delete a token by its accessor; unknown ones are fine. Raises RPCError for the anonymous one."""
    token = txn.tables.acl_tokens.first("accessor", row_id(accessor_id))
    if token is not None:
        _remove_token(txn, token)


def delete_token_by_secret(txn: Txn, secret_id: str) -> None:
    """Delete a token by its secret, as the API of before 1.4 does."""
    token = txn.tables.acl_tokens.get(raw(secret_id))
    if token is not None:
        _remove_token(txn, token)


def _remove_token(txn: Txn, token: ACLToken) -> None:
    if token.accessor_id == ANONYMOUS_ID:
        raise RPCError("Deletion of the builtin anonymous token is not permitted")
    txn.delete(txn.tables.acl_tokens, raw(token.secret_id))
    txn.set_index(TOKENS)


def token_of(old: ACL) -> ACLToken:
    """A token of before 1.4 as one of today."""
    token = ACLToken(
        secret_id=old.id,
        description=old.name,
        type=old.type,
        rules=old.rules,
        create_index=old.create_index,
        modify_index=old.modify_index,
    )
    return replace(token, hash=token_hash(token))


def legacy_of(token: ACLToken) -> ACL:
    """The other way round."""
    return ACL(
        id=token.secret_id,
        name=token.description,
        type=token.type,
        rules=token.rules,
        create_index=token.create_index,
        modify_index=token.modify_index,
    )


def token_hash(token: ACLToken) -> bytes:
    """The sum by which replication sees that a token changed."""
    parts = [token.description, token.type, token.rules, "local" if token.local else "global"]
    parts += [link.id for link in token.policies or ()]
    parts += [link.id for link in token.roles or ()]
    for service in token.service_identities or ():
        parts += [service.service_name, *(service.datacenters or ())]
    for node in token.node_identities or ():
        parts += [node.node_name, node.datacenter]
    return hashlib.blake2b(b"".join(map(raw, parts)), digest_size=32).digest()


# --- policies and roles -----------------------------------------------------------------------------------------


def put_policy(txn: Txn, policy: ACLPolicy) -> None:
    """Insert or replace a policy. Raises RPCError."""
    if not policy.id:
        raise RPCError("Missing ACL Policy ID")
    if not policy.name:
        raise RPCError("Missing ACL Policy Name")
    existing = txn.tables.acl_policies.get(row_id(policy.id))
    if existing is not None and policy.id == MANAGEMENT_POLICY_ID:
        if policy.rules != MANAGEMENT_RULES:
            raise RPCError(f"Changing the Rules for the builtin {MANAGEMENT_POLICY} policy is not permitted")
        if policy.datacenters:
            raise RPCError(f"Changing the Datacenters of the builtin {MANAGEMENT_POLICY} policy is not permitted")
    _refuse_taken(txn.tables.acl_policies, policy, "policy")
    created = existing.create_index if existing is not None else txn.index
    txn.put(txn.tables.acl_policies, row_id(policy.id), replace(policy, create_index=created, modify_index=txn.index))
    txn.raise_index(POLICIES)


def _refuse_taken(table: Table[ACLPolicy] | Table[ACLRole], row: ACLPolicy | ACLRole, what: str) -> None:
    other = table.first("name", fold(row.name))
    if other is not None and other.id != row.id:
        raise RPCError(f"A {what} with name {quote(row.name)} already exists")


def delete_policy(txn: Txn, policy_id: str) -> None:
    """Delete a policy; unknown ones are fine. Raises RPCError for the built-in one."""
    if txn.tables.acl_policies.get(row_id(policy_id)) is None:
        return
    if policy_id == MANAGEMENT_POLICY_ID:
        raise RPCError(f"Deletion of the builtin {MANAGEMENT_POLICY} policy is not permitted")
    txn.delete(txn.tables.acl_policies, row_id(policy_id))
    txn.set_index(POLICIES)


def put_role(txn: Txn, role: ACLRole, *, allow_missing_links: bool = False) -> None:
    """Insert or replace a role. Raises RPCError."""
    if not role.id:
        raise RPCError("Missing ACL Role ID")
    if not role.name:
        raise RPCError("Missing ACL Role Name")
    existing = txn.tables.acl_roles.get(row_id(role.id))
    _refuse_taken(txn.tables.acl_roles, role, "role")
    links = tuple(_role_link(txn, link, allow_missing_links) for link in role.policies or ())
    _check_identities("Role", role.service_identities, role.node_identities)
    created = existing.create_index if existing is not None else txn.index
    row = replace(
        role,
        policies=None if role.policies is None else links,
        create_index=created,
        modify_index=txn.index,
    )
    txn.put(txn.tables.acl_roles, row_id(role.id), row)
    txn.raise_index(ROLES)


def _role_link(txn: Txn, link: ACLRolePolicyLink, allow_missing: bool) -> ACLRolePolicyLink:
    if not link.id:
        raise RPCError("Encountered a Role with policies linked by Name in the state store")
    policy = txn.tables.acl_policies.get(row_id(link.id))
    if policy is not None:
        return ACLRolePolicyLink(id=link.id, name=policy.name)
    if not allow_missing:
        raise RPCError(f"No such policy with ID: {link.id}")
    return link


def delete_role(txn: Txn, role_id: str) -> None:
    """Delete a role; unknown ones are fine."""
    if txn.tables.acl_roles.get(row_id(role_id)) is not None:
        txn.delete(txn.tables.acl_roles, row_id(role_id))
        txn.set_index(ROLES)


# --- binding rules and auth methods -----------------------------------------------------------------------------


def put_binding_rule(txn: Txn, rule: ACLBindingRule) -> None:
    """Insert or replace a binding rule. Raises RPCError."""
    if not rule.id:
        raise RPCError("Missing ACL Binding Rule ID")
    if not rule.auth_method:
        raise RPCError("Missing ACL Binding Rule Auth Method")
    existing = txn.tables.acl_binding_rules.get(row_id(rule.id))
    if txn.tables.acl_auth_methods.get(fold(rule.auth_method)) is None:
        raise RPCError("failed inserting acl binding rule: auth method not found")
    created = existing.create_index if existing is not None else txn.index
    txn.put(txn.tables.acl_binding_rules, row_id(rule.id), replace(rule, create_index=created, modify_index=txn.index))
    txn.raise_index(BINDING_RULES)


def delete_binding_rule(txn: Txn, rule_id: str) -> None:
    """Delete a binding rule; unknown ones are fine."""
    if txn.tables.acl_binding_rules.get(row_id(rule_id)) is not None:
        txn.delete(txn.tables.acl_binding_rules, row_id(rule_id))
        txn.set_index(BINDING_RULES)


def put_auth_method(txn: Txn, method: ACLAuthMethod) -> None:
    """Insert or replace an auth method. Raises RPCError."""
    if not method.name:
        raise RPCError("Missing ACL Auth Method Name")
    if not method.type:
        raise RPCError("Missing ACL Auth Method Type")
    existing = txn.tables.acl_auth_methods.get(fold(method.name))
    created = existing.create_index if existing is not None else txn.index
    txn.put(
        txn.tables.acl_auth_methods, fold(method.name), replace(method, create_index=created, modify_index=txn.index)
    )
    txn.raise_index(AUTH_METHODS)


def delete_auth_method(txn: Txn, name: str) -> None:
    """Delete an auth method with its binding rules and the tokens that it gave out; unknown ones are fine."""
    method = txn.tables.acl_auth_methods.get(fold(name))
    if method is None:
        return
    for rule in txn.tables.acl_binding_rules.lookup("auth_method", fold(name)):
        delete_binding_rule(txn, rule.id)
    # Tokens of the other locality came from a method of the same name in another datacenter.
    for token in txn.tables.acl_tokens.lookup("auth_method", fold(name)):
        if token.local != (method.token_locality == "global"):  # noqa: S105  (not a password)
            _remove_token(txn, token)
    txn.delete(txn.tables.acl_auth_methods, fold(name))
    txn.set_index(AUTH_METHODS)
