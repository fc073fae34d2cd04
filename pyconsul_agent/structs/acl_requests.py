"""Arguments and replies of the ACL methods. The services behind them are not there yet; the forms are."""

from __future__ import annotations

from collections.abc import Mapping

from pyconsul_agent.structs.acl import (
    ACL,
    ACLAuthMethod,
    ACLAuthMethodListStub,
    ACLBindingRule,
    ACLPolicy,
    ACLPolicyListStub,
    ACLRole,
    ACLToken,
    ACLTokenListStub,
)
from pyconsul_agent.structs.acl_rules import ParsedPolicy
from pyconsul_agent.structs.base import Duration, GoTime, struct, wire
from pyconsul_agent.structs.requests import QueryMeta, QueryOptions, WriteRequest


@struct
class ACLAuthMethodDeleteRequest(WriteRequest):
    """Consul's `ACLAuthMethodDeleteRequest`."""

    auth_method_name: str = wire("AuthMethodName", default="")
    datacenter: str = wire("Datacenter", default="")


@struct
class ACLAuthMethodGetRequest(QueryOptions):
    """Consul's `ACLAuthMethodGetRequest`."""

    auth_method_name: str = wire("AuthMethodName", default="")
    datacenter: str = wire("Datacenter", default="")


@struct
class ACLAuthMethodListRequest(QueryOptions):
    """Consul's `ACLAuthMethodListRequest`."""

    datacenter: str = wire("Datacenter", default="")


@struct
class ACLAuthMethodListResponse(QueryMeta):
    """Consul's `ACLAuthMethodListResponse`."""

    auth_methods: tuple[ACLAuthMethodListStub, ...] | None = wire("AuthMethods", default=None)


@struct
class ACLAuthMethodResponse(QueryMeta):
    """Consul's `ACLAuthMethodResponse`."""

    auth_method: ACLAuthMethod | None = wire("AuthMethod", default=None)


@struct
class ACLAuthMethodSetRequest(WriteRequest):
    """Consul's `ACLAuthMethodSetRequest`."""

    auth_method: ACLAuthMethod = wire("AuthMethod", default=ACLAuthMethod())
    datacenter: str = wire("Datacenter", default="")


@struct
class ACLAuthorizationRequest:
    """Consul's `ACLAuthorizationRequest`."""

    resource: str = wire("Resource", default="")
    segment: str = wire("Segment", default="", json_omit=True)
    access: str = wire("Access", default="")


@struct
class ACLAuthorizationResponse:
    """Consul's `ACLAuthorizationResponse`."""

    resource: str = wire("Resource", default="")
    segment: str = wire("Segment", default="", json_omit=True)
    access: str = wire("Access", default="")
    allow: bool = wire("Allow", default=False)


@struct
class ACLBindingRuleDeleteRequest(WriteRequest):
    """Consul's `ACLBindingRuleDeleteRequest`."""

    binding_rule_id: str = wire("BindingRuleID", default="")
    datacenter: str = wire("Datacenter", default="")


@struct
class ACLBindingRuleGetRequest(QueryOptions):
    """Consul's `ACLBindingRuleGetRequest`."""

    binding_rule_id: str = wire("BindingRuleID", default="")
    datacenter: str = wire("Datacenter", default="")


@struct
class ACLBindingRuleListRequest(QueryOptions):
    """Consul's `ACLBindingRuleListRequest`."""

    auth_method: str = wire("AuthMethod", default="")
    datacenter: str = wire("Datacenter", default="")


@struct
class ACLBindingRuleListResponse(QueryMeta):
    """Consul's `ACLBindingRuleListResponse`."""

    binding_rules: tuple[ACLBindingRule, ...] | None = wire("BindingRules", default=None)


@struct
class ACLBindingRuleResponse(QueryMeta):
    """Consul's `ACLBindingRuleResponse`."""

    binding_rule: ACLBindingRule | None = wire("BindingRule", default=None)


@struct
class ACLBindingRuleSetRequest(WriteRequest):
    """Consul's `ACLBindingRuleSetRequest`."""

    binding_rule: ACLBindingRule = wire("BindingRule", default=ACLBindingRule())
    datacenter: str = wire("Datacenter", default="")


@struct
class ACLLoginParams:
    """Consul's `ACLLoginParams`."""

    auth_method: str = wire("AuthMethod", default="")
    bearer_token: str = wire("BearerToken", default="")
    meta: Mapping[str, str] | None = wire("Meta", default=None, json_omit=True)


@struct
class ACLLoginRequest(WriteRequest):
    """Consul's `ACLLoginRequest`."""

    auth: ACLLoginParams | None = wire("Auth", default=None)
    datacenter: str = wire("Datacenter", default="")


@struct
class ACLLogoutRequest(WriteRequest):
    """Consul's `ACLLogoutRequest`."""

    datacenter: str = wire("Datacenter", default="")


@struct
class ACLPolicyBatchGetRequest(QueryOptions):
    """Consul's `ACLPolicyBatchGetRequest`."""

    policy_ids: tuple[str, ...] | None = wire("PolicyIDs", default=None)
    datacenter: str = wire("Datacenter", default="")


@struct
class ACLPolicyBatchResponse(QueryMeta):
    """Consul's `ACLPolicyBatchResponse`."""

    policies: tuple[ACLPolicy, ...] | None = wire("Policies", default=None)


@struct
class ACLPolicyDeleteRequest(WriteRequest):
    """Consul's `ACLPolicyDeleteRequest`."""

    policy_id: str = wire("PolicyID", default="")
    datacenter: str = wire("Datacenter", default="")


@struct
class ACLPolicyGetRequest(QueryOptions):
    """Consul's `ACLPolicyGetRequest`."""

    policy_id: str = wire("PolicyID", default="")
    policy_name: str = wire("PolicyName", default="")
    datacenter: str = wire("Datacenter", default="")


@struct
class ACLPolicyListRequest(QueryOptions):
    """Consul's `ACLPolicyListRequest`."""

    datacenter: str = wire("Datacenter", default="")


@struct
class ACLPolicyListResponse(QueryMeta):
    """Consul's `ACLPolicyListResponse`."""

    policies: tuple[ACLPolicyListStub, ...] | None = wire("Policies", default=None)


@struct
class ACLPolicyResolveLegacyRequest(QueryOptions):
    """Consul's `ACLPolicyResolveLegacyRequest`."""

    datacenter: str = wire("Datacenter", default="")
    acl: str = wire("ACL", default="")
    etag: str = wire("ETag", default="")


@struct
class ACLPolicyResolveLegacyResponse(QueryMeta):
    """Consul's `ACLPolicyResolveLegacyResponse`."""

    etag: str = wire("ETag", default="")
    parent: str = wire("Parent", default="")
    policy: ParsedPolicy | None = wire("Policy", default=None)
    ttl: Duration = wire("TTL", default=Duration(0))


@struct
class ACLPolicyResponse(QueryMeta):
    """Consul's `ACLPolicyResponse`."""

    policy: ACLPolicy | None = wire("Policy", default=None)


@struct
class ACLPolicySetRequest(WriteRequest):
    """Consul's `ACLPolicySetRequest`."""

    policy: ACLPolicy = wire("Policy", default=ACLPolicy())
    datacenter: str = wire("Datacenter", default="")


@struct
class ACLReplicationStatus:
    """Consul's `ACLReplicationStatus`."""

    enabled: bool = wire("Enabled", default=False)
    running: bool = wire("Running", default=False)
    source_datacenter: str = wire("SourceDatacenter", default="")
    replication_type: str = wire("ReplicationType", default="")
    replicated_index: int = wire("ReplicatedIndex", default=0)
    replicated_role_index: int = wire("ReplicatedRoleIndex", default=0)
    replicated_token_index: int = wire("ReplicatedTokenIndex", default=0)
    last_success: GoTime = wire("LastSuccess", default=GoTime())
    last_error: GoTime = wire("LastError", default=GoTime())


@struct
class ACLRequest(WriteRequest):
    """Consul's `ACLRequest`."""

    datacenter: str = wire("Datacenter", default="")
    op: str = wire("Op", default="")
    acl: ACL = wire("ACL", default=ACL())


@struct
class ACLRoleBatchGetRequest(QueryOptions):
    """Consul's `ACLRoleBatchGetRequest`."""

    role_ids: tuple[str, ...] | None = wire("RoleIDs", default=None)
    datacenter: str = wire("Datacenter", default="")


@struct
class ACLRoleBatchResponse(QueryMeta):
    """Consul's `ACLRoleBatchResponse`."""

    roles: tuple[ACLRole, ...] | None = wire("Roles", default=None)


@struct
class ACLRoleDeleteRequest(WriteRequest):
    """Consul's `ACLRoleDeleteRequest`."""

    role_id: str = wire("RoleID", default="")
    datacenter: str = wire("Datacenter", default="")


@struct
class ACLRoleGetRequest(QueryOptions):
    """Consul's `ACLRoleGetRequest`."""

    role_id: str = wire("RoleID", default="")
    role_name: str = wire("RoleName", default="")
    datacenter: str = wire("Datacenter", default="")


@struct
class ACLRoleListRequest(QueryOptions):
    """Consul's `ACLRoleListRequest`."""

    policy: str = wire("Policy", default="")
    datacenter: str = wire("Datacenter", default="")


@struct
class ACLRoleListResponse(QueryMeta):
    """Consul's `ACLRoleListResponse`."""

    roles: tuple[ACLRole, ...] | None = wire("Roles", default=None)


@struct
class ACLRoleResponse(QueryMeta):
    """Consul's `ACLRoleResponse`."""

    role: ACLRole | None = wire("Role", default=None)


@struct
class ACLRoleSetRequest(WriteRequest):
    """Consul's `ACLRoleSetRequest`."""

    role: ACLRole = wire("Role", default=ACLRole())
    datacenter: str = wire("Datacenter", default="")


@struct
class ACLSpecificRequest(QueryOptions):
    """Consul's `ACLSpecificRequest`."""

    datacenter: str = wire("Datacenter", default="")
    acl: str = wire("ACL", default="")


@struct
class ACLTokenBatchGetRequest(QueryOptions):
    """Consul's `ACLTokenBatchGetRequest`."""

    accessor_ids: tuple[str, ...] | None = wire("AccessorIDs", default=None)
    datacenter: str = wire("Datacenter", default="")


@struct
class ACLTokenBatchResponse(QueryMeta):
    """Consul's `ACLTokenBatchResponse`."""

    tokens: tuple[ACLToken, ...] | None = wire("Tokens", default=None)
    redacted: bool = wire("Redacted", default=False)
    removed: bool = wire("Removed", default=False)


@struct
class ACLTokenDeleteRequest(WriteRequest):
    """Consul's `ACLTokenDeleteRequest`."""

    token_id: str = wire("TokenID", default="")
    datacenter: str = wire("Datacenter", default="")


@struct
class ACLTokenGetRequest(QueryOptions):
    """Consul's `ACLTokenGetRequest`."""

    token_id: str = wire("TokenID", default="")
    token_id_type: str = wire("TokenIDType", default="")
    datacenter: str = wire("Datacenter", default="")


@struct
class ACLTokenListRequest(QueryOptions):
    """Consul's `ACLTokenListRequest`."""

    include_local: bool = wire("IncludeLocal", default=False)
    include_global: bool = wire("IncludeGlobal", default=False)
    policy: str = wire("Policy", default="")
    role: str = wire("Role", default="")
    auth_method: str = wire("AuthMethod", default="")
    datacenter: str = wire("Datacenter", default="")


@struct
class ACLTokenListResponse(QueryMeta):
    """Consul's `ACLTokenListResponse`."""

    tokens: tuple[ACLTokenListStub, ...] | None = wire("Tokens", default=None)


@struct
class ACLTokenResponse(QueryMeta):
    """Consul's `ACLTokenResponse`."""

    token: ACLToken | None = wire("Token", default=None)
    redacted: bool = wire("Redacted", default=False)
    source_datacenter: str = wire("SourceDatacenter", default="")


@struct
class ACLTokenSetRequest(WriteRequest):
    """Consul's `ACLTokenSetRequest`."""

    acl_token: ACLToken = wire("ACLToken", default=ACLToken())
    create: bool = wire("Create", default=False)
    datacenter: str = wire("Datacenter", default="")


@struct
class IndexedACLs(QueryMeta):
    """Consul's `IndexedACLs`."""

    acls: tuple[ACL, ...] | None = wire("ACLs", default=None)


@struct
class RemoteACLAuthorizationRequest(QueryOptions):
    """Consul's `RemoteACLAuthorizationRequest`."""

    datacenter: str = wire("Datacenter", default="")
    requests: tuple[ACLAuthorizationRequest, ...] | None = wire("Requests", default=None)
