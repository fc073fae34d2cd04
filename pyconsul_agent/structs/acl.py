"""Rows of the ACL tables: tokens, policies, roles, binding rules, auth methods, and the tokens of before 1.4."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pyconsul_agent.structs.base import Duration, GoTime, struct, wire


@struct
class ACL:
    """Consul's `ACL`."""

    id: str = wire("ID", default="")
    name: str = wire("Name", default="")
    type: str = wire("Type", default="")
    rules: str = wire("Rules", default="")
    create_index: int = wire("CreateIndex", default=0)
    modify_index: int = wire("ModifyIndex", default=0)


@struct
class ACLTokenPolicyLink:
    """Consul's `ACLTokenPolicyLink`."""

    id: str = wire("ID", default="")
    name: str = wire("Name", default="")


@struct
class ACLTokenRoleLink:
    """Consul's `ACLTokenRoleLink`."""

    id: str = wire("ID", default="")
    name: str = wire("Name", default="")


@struct
class ACLRolePolicyLink:
    """Consul's `ACLRolePolicyLink`."""

    id: str = wire("ID", default="")
    name: str = wire("Name", default="")


@struct
class ACLServiceIdentity:
    """Consul's `ACLServiceIdentity`."""

    service_name: str = wire("ServiceName", default="")
    datacenters: tuple[str, ...] | None = wire("Datacenters", default=None, json_omit=True)


@struct
class ACLNodeIdentity:
    """Consul's `ACLNodeIdentity`."""

    node_name: str = wire("NodeName", default="")
    datacenter: str = wire("Datacenter", default="")


@struct
class ACLToken:
    """Consul's `ACLToken`."""

    accessor_id: str = wire("AccessorID", default="")
    secret_id: str = wire("SecretID", default="")
    description: str = wire("Description", default="")
    policies: tuple[ACLTokenPolicyLink, ...] | None = wire("Policies", default=None, json_omit=True)
    roles: tuple[ACLTokenRoleLink, ...] | None = wire("Roles", default=None, json_omit=True)
    service_identities: tuple[ACLServiceIdentity, ...] | None = wire("ServiceIdentities", default=None, json_omit=True)
    node_identities: tuple[ACLNodeIdentity, ...] | None = wire("NodeIdentities", default=None, json_omit=True)
    type: str = wire("Type", default="", json_hidden=True)
    rules: str = wire("Rules", default="", json_omit=True)
    local: bool = wire("Local", default=False)
    auth_method: str = wire("AuthMethod", default="", json_omit=True)
    expiration_time: GoTime | None = wire("ExpirationTime", default=None, json_omit=True)
    expiration_ttl: Duration = wire("ExpirationTTL", default=Duration(0), json_omit=True, json_duration=True)
    create_time: GoTime = wire("CreateTime", default=GoTime())
    hash: bytes | None = wire("Hash", default=None)
    create_index: int = wire("CreateIndex", default=0)
    modify_index: int = wire("ModifyIndex", default=0)


@struct
class ACLTokenListStub:
    """Consul's `ACLTokenListStub`."""

    accessor_id: str = wire("AccessorID", default="")
    secret_id: str = wire("SecretID", default="")
    description: str = wire("Description", default="")
    policies: tuple[ACLTokenPolicyLink, ...] | None = wire("Policies", default=None, json_omit=True)
    roles: tuple[ACLTokenRoleLink, ...] | None = wire("Roles", default=None, json_omit=True)
    service_identities: tuple[ACLServiceIdentity, ...] | None = wire("ServiceIdentities", default=None, json_omit=True)
    node_identities: tuple[ACLNodeIdentity, ...] | None = wire("NodeIdentities", default=None, json_omit=True)
    local: bool = wire("Local", default=False)
    auth_method: str = wire("AuthMethod", default="", json_omit=True)
    expiration_time: GoTime | None = wire("ExpirationTime", default=None, json_omit=True)
    create_time: GoTime = wire("CreateTime", default=GoTime())
    hash: bytes | None = wire("Hash", default=None)
    create_index: int = wire("CreateIndex", default=0)
    modify_index: int = wire("ModifyIndex", default=0)
    legacy: bool = wire("Legacy", default=False, json_omit=True)


@struct
class ACLPolicy:
    """Consul's `ACLPolicy`."""

    id: str = wire("ID", default="")
    name: str = wire("Name", default="")
    description: str = wire("Description", default="")
    rules: str = wire("Rules", default="")
    syntax: int = wire("Syntax", default=0, json_hidden=True)
    datacenters: tuple[str, ...] | None = wire("Datacenters", default=None, json_omit=True)
    hash: bytes | None = wire("Hash", default=None)
    create_index: int = wire("CreateIndex", default=0)
    modify_index: int = wire("ModifyIndex", default=0)


@struct
class ACLPolicyListStub:
    """Consul's `ACLPolicyListStub`."""

    id: str = wire("ID", default="")
    name: str = wire("Name", default="")
    description: str = wire("Description", default="")
    datacenters: tuple[str, ...] | None = wire("Datacenters", default=None)
    hash: bytes | None = wire("Hash", default=None)
    create_index: int = wire("CreateIndex", default=0)
    modify_index: int = wire("ModifyIndex", default=0)


@struct
class ACLRole:
    """Consul's `ACLRole`."""

    id: str = wire("ID", default="")
    name: str = wire("Name", default="")
    description: str = wire("Description", default="")
    policies: tuple[ACLRolePolicyLink, ...] | None = wire("Policies", default=None, json_omit=True)
    service_identities: tuple[ACLServiceIdentity, ...] | None = wire("ServiceIdentities", default=None, json_omit=True)
    node_identities: tuple[ACLNodeIdentity, ...] | None = wire("NodeIdentities", default=None, json_omit=True)
    hash: bytes | None = wire("Hash", default=None)
    create_index: int = wire("CreateIndex", default=0)
    modify_index: int = wire("ModifyIndex", default=0)


@struct
class ACLBindingRule:
    """Consul's `ACLBindingRule`."""

    id: str = wire("ID", default="")
    description: str = wire("Description", default="")
    auth_method: str = wire("AuthMethod", default="")
    selector: str = wire("Selector", default="")
    bind_type: str = wire("BindType", default="")
    bind_name: str = wire("BindName", default="")
    create_index: int = wire("CreateIndex", default=0)
    modify_index: int = wire("ModifyIndex", default=0)


@struct
class ACLAuthMethod:
    """Consul's `ACLAuthMethod`."""

    name: str = wire("Name", default="")
    type: str = wire("Type", default="")
    display_name: str = wire("DisplayName", default="", json_omit=True)
    description: str = wire("Description", default="", json_omit=True)
    max_token_ttl: Duration = wire("MaxTokenTTL", default=Duration(0), json_omit=True, json_duration=True)
    token_locality: str = wire("TokenLocality", default="", json_omit=True)
    config: Mapping[str, Any] | None = wire("Config", default=None)
    create_index: int = wire("CreateIndex", default=0)
    modify_index: int = wire("ModifyIndex", default=0)


@struct
class ACLAuthMethodListStub:
    """Consul's `ACLAuthMethodListStub`."""

    name: str = wire("Name", default="")
    type: str = wire("Type", default="")
    display_name: str = wire("DisplayName", default="", json_omit=True)
    description: str = wire("Description", default="", json_omit=True)
    max_token_ttl: Duration = wire("MaxTokenTTL", default=Duration(0), json_omit=True, json_duration=True)
    token_locality: str = wire("TokenLocality", default="", json_omit=True)
    create_index: int = wire("CreateIndex", default=0)
    modify_index: int = wire("ModifyIndex", default=0)
