"""The health of a service as a subscription tells it: events in, the answer to a query out. Pure."""

from __future__ import annotations

from pyconsul_agent.errors import DecodeError
from pyconsul_agent.query.bexpr.expression import compile_filter
from pyconsul_agent.structs.health import CheckServiceNode
from pyconsul_agent.structs.requests import IndexedCheckServiceNodes, ServiceSpecificRequest
from pyconsul_agent.structs.subscribe import (
    CatalogOp,
    ServiceHealthUpdate,
    SubscribeEvent,
    SubscribeRequest,
    Topic,
)

STREAMING = 1
"""`Backend` of an answer that came from a subscription."""
INSTANCES_MAX = 100_000


class HealthView:
    """What a query wants of one service. The filters that servers apply to a query are applied here.

    The constructor raises ValueError for what is no filter.
    """

    def __init__(self, request: ServiceSpecificRequest) -> None:
        self._request = request
        self._tags = (
            [] if request.connect or not request.tag_filter else [t.lower() for t in request.service_tags or ()]
        )
        self._filter = compile_filter(request.filter, CheckServiceNode) if request.filter else None
        self._rows: dict[tuple[str, str], CheckServiceNode] = {}
        self.complete = False
        """Whether a whole snapshot has come; what is told before must not be shown."""
        self.index = 0

    @property
    def question(self) -> SubscribeRequest:
        """What to subscribe to: from the last index on if there is one."""
        asked = self._request
        topic = Topic.SERVICE_HEALTH_CONNECT if asked.connect else Topic.SERVICE_HEALTH
        return SubscribeRequest(
            topic=topic,
            key=asked.service_name,
            token=asked.token,
            datacenter=asked.datacenter,
            index=self.index if self.complete else 0,
        )

    def reset(self) -> None:
        """Forget everything: the servers' state was replaced."""
        self._rows.clear()
        self.complete = False
        self.index = 0

    def apply(self, event: SubscribeEvent) -> bool:
        """Take an event; True when there is a new answer. Raises DecodeError when it makes no sense."""
        if event.new_snapshot_to_follow:
            self.reset()
            return False
        if event.end_of_snapshot:
            self.complete = True
        elif event.event_batch is not None:
            for each in event.event_batch.events or ():
                self._update(each.service_health)
        else:
            self._update(event.service_health)
        if not self.complete:
            return False
        # An index of 0 would make callers ask in a circle.
        self.index = max(1, event.index)
        return True

    def reply(self) -> IndexedCheckServiceNodes:
        """The answer, by node and service ID. A subscription knows nothing of a leader."""
        nodes = tuple(row for _, row in sorted(self._rows.items()))
        return IndexedCheckServiceNodes(index=self.index, nodes=nodes or None, backend=STREAMING)

    def _update(self, update: ServiceHealthUpdate | None) -> None:
        instance = None if update is None else update.check_service_node
        if update is None or instance is None or instance.node is None or instance.service is None:
            raise DecodeError("event about no instance")
        key = (instance.node.node.lower(), instance.service.id.lower())
        if update.op == CatalogOp.REGISTER and self._wanted(instance):
            self._rows[key] = instance
            if len(self._rows) > INSTANCES_MAX:
                raise DecodeError("too many instances of a service")
        elif update.op in (CatalogOp.REGISTER, CatalogOp.DEREGISTER):
            self._rows.pop(key, None)
        else:
            raise DecodeError(f"unknown operation {update.op}")

    def _wanted(self, instance: CheckServiceNode) -> bool:
        assert instance.node is not None and instance.service is not None
        meta = instance.node.meta or {}
        if any(meta.get(name) != value for name, value in (self._request.node_meta_filters or {}).items()):
            return False
        have = {tag.lower() for tag in instance.service.tags or ()}
        if any(tag not in have for tag in self._tags):
            return False
        try:
            return self._filter is None or bool(self._filter.keep([instance]))
        except ValueError as error:
            raise DecodeError(str(error)) from error
