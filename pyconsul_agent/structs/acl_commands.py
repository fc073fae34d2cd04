"""What the replicated log says of ACLs: sets and deletions of several rows at once. They name no datacenter."""

from __future__ import annotations

from pyconsul_agent.structs.acl import ACLAuthMethod, ACLBindingRule, ACLPolicy, ACLRole, ACLToken
from pyconsul_agent.structs.base import struct, wire


@struct
class ACLTokenBatchSetRequest:
    """Consul's `ACLTokenBatchSetRequest`."""

    tokens: tuple[ACLToken, ...] | None = wire("Tokens", default=None)
    cas: bool = wire("CAS", default=False)
    allow_missing_links: bool = wire("AllowMissingLinks", default=False)
    prohibit_unprivileged: bool = wire("ProhibitUnprivileged", default=False)
    from_replication: bool = wire("FromReplication", default=False)


@struct
class ACLTokenBatchDeleteRequest:
    """Consul's `ACLTokenBatchDeleteRequest`."""

    token_ids: tuple[str, ...] | None = wire("TokenIDs", default=None)


@struct
class ACLTokenBootstrapRequest:
    """Consul's `ACLTokenBootstrapRequest`."""

    token: ACLToken = wire("Token", default=ACLToken())
    reset_index: int = wire("ResetIndex", default=0)


@struct
class ACLPolicyBatchSetRequest:
    """Consul's `ACLPolicyBatchSetRequest`."""

    policies: tuple[ACLPolicy, ...] | None = wire("Policies", default=None)


@struct
class ACLPolicyBatchDeleteRequest:
    """Consul's `ACLPolicyBatchDeleteRequest`."""

    policy_ids: tuple[str, ...] | None = wire("PolicyIDs", default=None)


@struct
class ACLRoleBatchSetRequest:
    """Consul's `ACLRoleBatchSetRequest`."""

    roles: tuple[ACLRole, ...] | None = wire("Roles", default=None)
    allow_missing_links: bool = wire("AllowMissingLinks", default=False)


@struct
class ACLRoleBatchDeleteRequest:
    """Consul's `ACLRoleBatchDeleteRequest`."""

    role_ids: tuple[str, ...] | None = wire("RoleIDs", default=None)


@struct
class ACLBindingRuleBatchSetRequest:
    """Consul's `ACLBindingRuleBatchSetRequest`."""

    binding_rules: tuple[ACLBindingRule, ...] | None = wire("BindingRules", default=None)


@struct
class ACLBindingRuleBatchDeleteRequest:
    """Consul's `ACLBindingRuleBatchDeleteRequest`."""

    binding_rule_ids: tuple[str, ...] | None = wire("BindingRuleIDs", default=None)


@struct
class ACLAuthMethodBatchSetRequest:
    """Consul's `ACLAuthMethodBatchSetRequest`."""

    auth_methods: tuple[ACLAuthMethod, ...] | None = wire("AuthMethods", default=None)


@struct
class ACLAuthMethodBatchDeleteRequest:
    """Consul's `ACLAuthMethodBatchDeleteRequest`."""

    auth_method_names: tuple[str, ...] | None = wire("AuthMethodNames", default=None)
