"""The messages of `subscribe.StateChangeSubscription/Subscribe` (docs/protocol/rpc.md#grpc-subscribe)."""

from __future__ import annotations

from typing import Any

from pyconsul_agent.structs.catalog import (
    ConnectProxyConfig,
    ExposeConfig,
    ExposePath,
    MeshGatewayConfig,
    Node,
    NodeService,
    ServiceAddress,
    ServiceConnect,
    TransparentProxyConfig,
    Upstream,
    Weights,
)
from pyconsul_agent.structs.health import CheckServiceNode, HealthCheck, HealthCheckDefinition
from pyconsul_agent.structs.subscribe import (
    CatalogOp,
    EventBatch,
    ServiceHealthUpdate,
    SubscribeEvent,
    SubscribeRequest,
)
from pyconsul_agent.wire.protobuf import (
    Budget,
    Flag,
    FreeForm,
    Inline,
    MapOf,
    Message,
    Signed,
    Span,
    Sub,
    Subs,
    Text,
    Texts,
    Unsigned,
    bytes_field,
    number_field,
)

PATH = "/subscribe.StateChangeSubscription/Subscribe"
CLOSED = "subscription closed by server, client must reset state and resubscribe"
"""With status ABORTED: the state was replaced."""
KEY_REQUIRED = "Key is required"

REQUEST = Message(
    SubscribeRequest,
    Unsigned(1, "topic"),
    Text(2, "key"),
    Text(3, "token"),
    Unsigned(4, "index"),
    Text(5, "datacenter"),
    Text(6, "namespace"),
)


def _raft_index(number: int) -> Inline:
    return Inline(number, Unsigned(1, "create_index"), Unsigned(2, "modify_index"))


def _texts(number: int, name: str) -> MapOf:
    return MapOf(number, name, Text(2, "value"), "")


_NODE = Message(
    Node,
    Text(1, "id"),
    Text(2, "node"),
    Text(3, "address"),
    Text(4, "datacenter"),
    _texts(5, "tagged_addresses"),
    _texts(6, "meta"),
    _raft_index(7),
)
_WEIGHTS = Message(Weights, Signed(1, "passing"), Signed(2, "warning"))
_MESH_GATEWAY = Message(MeshGatewayConfig, Text(1, "mode"))
_UPSTREAM = Message(
    Upstream,
    Text(1, "destination_type"),
    Text(2, "destination_namespace"),
    Text(3, "destination_name"),
    Text(4, "datacenter"),
    Text(5, "local_bind_address"),
    Signed(6, "local_bind_port"),
    FreeForm(7, "config"),
    Sub(8, "mesh_gateway", _MESH_GATEWAY),
    Flag(9, "centrally_configured"),
    Text(10, "local_bind_socket_path"),
    Text(11, "local_bind_socket_mode"),
)
_EXPOSE_PATH = Message(
    ExposePath,
    Signed(1, "listener_port"),
    Text(2, "path"),
    Signed(3, "local_path_port"),
    Text(4, "protocol"),
    Flag(5, "parsed_from_check"),
)
_PROXY = Message(
    ConnectProxyConfig,
    Text(1, "destination_service_name"),
    Text(2, "destination_service_id"),
    Text(3, "local_service_address"),
    Signed(4, "local_service_port"),
    FreeForm(5, "config"),
    Subs(6, "upstreams", _UPSTREAM),
    Sub(7, "mesh_gateway", _MESH_GATEWAY),
    Sub(8, "expose", Message(ExposeConfig, Flag(1, "checks"), Subs(2, "paths", _EXPOSE_PATH))),
    Text(9, "mode"),
    Sub(
        10,
        "transparent_proxy",
        Message(TransparentProxyConfig, Signed(1, "outbound_listener_port"), Flag(2, "dialed_directly")),
    ),
    Text(11, "local_service_socket_path"),
)
_SERVICE = Message(
    NodeService,
    Text(1, "kind"),
    Text(2, "id"),
    Text(3, "service"),
    Texts(4, "tags"),
    Text(5, "address"),
    _texts(6, "meta"),
    Signed(7, "port"),
    Sub(8, "weights", _WEIGHTS),
    Flag(9, "enable_tag_override"),
    Sub(11, "proxy", _PROXY),
    # A sidecar's definition (3) is never in the catalog: the agent registers it as a service of its own.
    Sub(12, "connect", Message(ServiceConnect, Flag(1, "native"))),
    Flag(13, "locally_registered_as_sidecar"),
    _raft_index(14),
    MapOf(
        15,
        "tagged_addresses",
        Sub(2, "value", Message(ServiceAddress, Text(1, "address"), Signed(2, "port"))),
        ServiceAddress(),
    ),
    Inline(16),
    Text(17, "socket_path"),
)


class _HeaderValues(Texts):
    """The values of one header: a message with the strings inside."""

    def write(self, value: Any) -> bytes:
        return bytes_field(2, super().write(value))

    def take(self, into: dict[str, Any], value: Any, budget: Budget, depth: int) -> None:
        into[self.name] = _HEADER.read(value, budget, depth + 1)


def _values(value: tuple[str, ...] = ()) -> tuple[str, ...]:
    return value


_HEADER: Message[tuple[str, ...]] = Message(_values, Texts(1, "value"))

_DEFINITION = Message(
    HealthCheckDefinition,
    Text(1, "http"),
    Flag(2, "tls_skip_verify"),
    MapOf(3, "header", _HeaderValues(1, "value"), ()),
    Text(4, "method"),
    Text(5, "tcp"),
    Span(6, "interval"),
    Span(7, "timeout"),
    Span(8, "deregister_critical_service_after"),
    Unsigned(9, "output_max_size"),
    Texts(10, "script_args"),
    Text(11, "docker_container_id"),
    Text(12, "shell"),
    Text(13, "grpc"),
    Flag(14, "grpc_use_tls"),
    Text(15, "alias_node"),
    Text(16, "alias_service"),
    Span(17, "ttl"),
    Text(18, "body"),
    Text(19, "tls_server_name"),
    Text(20, "h2ping"),
    Flag(22, "disable_redirects"),
)
_CHECK = Message(
    HealthCheck,
    Text(1, "node"),
    Text(2, "check_id"),
    Text(3, "name"),
    Text(4, "status"),
    Text(5, "notes"),
    Text(6, "output"),
    Text(7, "service_id"),
    Text(8, "service_name"),
    Texts(9, "service_tags"),
    Sub(10, "definition", _DEFINITION),
    _raft_index(11),
    Text(12, "type"),
    Inline(13),
    Signed(14, "exposed_port"),
    Text(15, "interval"),
    Text(16, "timeout"),
)
_UPDATE = Message(
    ServiceHealthUpdate,
    Unsigned(1, "op"),
    Sub(
        2,
        "check_service_node",
        Message(CheckServiceNode, Sub(1, "node", _NODE), Sub(2, "service", _SERVICE), Subs(3, "checks", _CHECK)),
    ),
)
# A batch holds plain events, never another batch.
_IN_BATCH = Message(SubscribeEvent, Unsigned(1, "index"), Sub(10, "service_health", _UPDATE))
EVENT = Message(
    SubscribeEvent,
    Unsigned(1, "index"),
    Flag(2, "end_of_snapshot"),
    Flag(3, "new_snapshot_to_follow"),
    Sub(4, "event_batch", Message(EventBatch, Subs(1, "events", _IN_BATCH))),
    Sub(10, "service_health", _UPDATE),
)


# --- events, built from parts that are encoded once and sent to many ----------------------------------------------


def encode_registered(instance: CheckServiceNode) -> bytes:
    """An instance that is there, as the part of an event that follows its index."""
    return bytes_field(10, _UPDATE.encode(ServiceHealthUpdate(check_service_node=instance)))


def encode_deregistered(instance: CheckServiceNode) -> bytes:
    """An instance that went: of its node only the name, no checks, as the original tells it."""
    node = None if instance.node is None else Node(node=instance.node.node)
    gone = CheckServiceNode(node=node, service=instance.service)
    return bytes_field(10, _UPDATE.encode(ServiceHealthUpdate(op=CatalogOp.DEREGISTER, check_service_node=gone)))


def encode_event(index: int, part: bytes) -> bytes:
    """An event from its part."""
    return number_field(1, index) + part


def encode_events(index: int, parts: list[bytes]) -> bytes:
    """One event, or a batch of several."""
    if len(parts) == 1:
        return encode_event(index, parts[0])
    batch = b"".join(bytes_field(1, encode_event(index, part)) for part in parts)
    return encode_event(index, bytes_field(4, batch))


def encode_end_of_snapshot(index: int) -> bytes:
    """What closes a snapshot."""
    return EVENT.encode(SubscribeEvent(index=index, end_of_snapshot=True))


def encode_new_snapshot() -> bytes:
    """What tells a subscriber to forget what it has."""
    return EVENT.encode(SubscribeEvent(new_snapshot_to_follow=True))
