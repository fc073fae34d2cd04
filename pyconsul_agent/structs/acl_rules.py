"""A policy of ACLs after parsing, as servers send it to resolve tokens of before 1.4."""

from __future__ import annotations

from pyconsul_agent.structs.base import struct, wire


@struct
class AgentRule:
    """Consul's `acl.AgentRule`."""

    node: str = wire("Node", default="")
    policy: str = wire("Policy", default="")


@struct
class EventRule:
    """Consul's `acl.EventRule`."""

    event: str = wire("Event", default="")
    policy: str = wire("Policy", default="")


@struct
class KeyRule:
    """Consul's `acl.KeyRule`."""

    prefix: str = wire("Prefix", default="")
    policy: str = wire("Policy", default="")


@struct
class NodeRule:
    """Consul's `acl.NodeRule`."""

    name: str = wire("Name", default="")
    policy: str = wire("Policy", default="")


@struct
class PreparedQueryRule:
    """Consul's `acl.PreparedQueryRule`."""

    prefix: str = wire("Prefix", default="")
    policy: str = wire("Policy", default="")


@struct
class ServiceRule:
    """Consul's `acl.ServiceRule`."""

    name: str = wire("Name", default="")
    policy: str = wire("Policy", default="")
    intentions: str = wire("Intentions", default="")


@struct
class SessionRule:
    """Consul's `acl.SessionRule`."""

    node: str = wire("Node", default="")
    policy: str = wire("Policy", default="")


@struct
class PolicyRules:
    """Consul's `acl.PolicyRules`."""

    acl: str = wire("ACL", default="")
    agents: tuple[AgentRule, ...] | None = wire("Agents", default=None)
    agent_prefixes: tuple[AgentRule, ...] | None = wire("AgentPrefixes", default=None)
    keys: tuple[KeyRule, ...] | None = wire("Keys", default=None)
    key_prefixes: tuple[KeyRule, ...] | None = wire("KeyPrefixes", default=None)
    nodes: tuple[NodeRule, ...] | None = wire("Nodes", default=None)
    node_prefixes: tuple[NodeRule, ...] | None = wire("NodePrefixes", default=None)
    services: tuple[ServiceRule, ...] | None = wire("Services", default=None)
    service_prefixes: tuple[ServiceRule, ...] | None = wire("ServicePrefixes", default=None)
    sessions: tuple[SessionRule, ...] | None = wire("Sessions", default=None)
    session_prefixes: tuple[SessionRule, ...] | None = wire("SessionPrefixes", default=None)
    events: tuple[EventRule, ...] | None = wire("Events", default=None)
    event_prefixes: tuple[EventRule, ...] | None = wire("EventPrefixes", default=None)
    prepared_queries: tuple[PreparedQueryRule, ...] | None = wire("PreparedQueries", default=None)
    prepared_query_prefixes: tuple[PreparedQueryRule, ...] | None = wire("PreparedQueryPrefixes", default=None)
    keyring: str = wire("Keyring", default="")
    operator: str = wire("Operator", default="")


@struct
class ParsedPolicy:
    """Consul's `acl.Policy`."""

    id: str = wire("ID", default="")
    revision: int = wire("Revision", default=0)
    acl: str = wire("ACL", default="")
    agents: tuple[AgentRule, ...] | None = wire("Agents", default=None)
    agent_prefixes: tuple[AgentRule, ...] | None = wire("AgentPrefixes", default=None)
    keys: tuple[KeyRule, ...] | None = wire("Keys", default=None)
    key_prefixes: tuple[KeyRule, ...] | None = wire("KeyPrefixes", default=None)
    nodes: tuple[NodeRule, ...] | None = wire("Nodes", default=None)
    node_prefixes: tuple[NodeRule, ...] | None = wire("NodePrefixes", default=None)
    services: tuple[ServiceRule, ...] | None = wire("Services", default=None)
    service_prefixes: tuple[ServiceRule, ...] | None = wire("ServicePrefixes", default=None)
    sessions: tuple[SessionRule, ...] | None = wire("Sessions", default=None)
    session_prefixes: tuple[SessionRule, ...] | None = wire("SessionPrefixes", default=None)
    events: tuple[EventRule, ...] | None = wire("Events", default=None)
    event_prefixes: tuple[EventRule, ...] | None = wire("EventPrefixes", default=None)
    prepared_queries: tuple[PreparedQueryRule, ...] | None = wire("PreparedQueries", default=None)
    prepared_query_prefixes: tuple[PreparedQueryRule, ...] | None = wire("PreparedQueryPrefixes", default=None)
    keyring: str = wire("Keyring", default="")
    operator: str = wire("Operator", default="")
