"""`/v1/event/`: firing user events, and the list of those that this agent has taken in."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from pyconsul_agent.agent.delegate import Caller
from pyconsul_agent.agent.events import Event, Events, filter_problem
from pyconsul_agent.env.timeouts import timeout
from pyconsul_agent.interfaces.http.message import HTTPError, Request, Response, json_response
from pyconsul_agent.interfaces.http.params import Defaults, datacenter_of, read_fields, token_of
from pyconsul_agent.interfaces.http.routes import Route
from pyconsul_agent.structs.base import seconds
from pyconsul_agent.structs.methods import INTERNAL_EVENT_FIRE
from pyconsul_agent.structs.requests import EventFireRequest
from pyconsul_agent.wire.gojson import Ordered

WAIT_MAX_S = 600.0
FIRE = "/v1/event/fire/"


class EventEndpoints:
    """The handlers. `uuid` makes identities."""

    def __init__(self, caller: Caller, events: Events, uuid: Callable[[], str], defaults: Defaults) -> None:
        self._caller = caller
        self._events = events
        self._uuid = uuid
        self._defaults = defaults

    def routes(self) -> list[Route]:
        return [
            Route(FIRE, (("PUT", self.fire),), "event:write"),
            Route("/v1/event/list", (("GET", self.list),), "event:read", blocking=True),
        ]

    async def fire(self, request: Request) -> Response:
        """Broadcast an event; the answer tells its id."""
        name = request.path.removeprefix(FIRE)
        if not name:
            raise HTTPError(400, "Missing name")
        query = request.query
        event = Event(
            id=self._uuid(),
            name=name,
            payload=request.body or None,
            node_filter=query.get("node"),
            service_filter=query.get("service"),
            tag_filter=query.get("tag"),
        )
        if problem := filter_problem(event):
            raise HTTPError(500, problem)
        asked = EventFireRequest(
            datacenter=datacenter_of(request, self._defaults),
            name=name,
            payload=event.encode(),
            token=token_of(request, self._defaults),
        )
        await self._caller.call(INTERNAL_EVENT_FIRE, asked)
        return json_response(event_json(event), request, pretty=self._defaults.pretty)

    async def list(self, request: Request) -> Response:
        """The events kept, of all names or one; blocks while the newest is the one that the caller knows."""
        fields = read_fields(request, self._defaults)
        name = request.query.get("name")
        known = fields["min_query_index"]
        limit_s = min(seconds(fields["max_query_time"]) or WAIT_MAX_S, WAIT_MAX_S)
        changed = asyncio.Event()
        self._events.watch(changed.set)
        try:
            async with timeout(limit_s):
                while known and self._index(name) == known:
                    changed.clear()
                    await changed.wait()
        except TimeoutError:
            pass  # the list as it is, with the index that the caller knows
        finally:
            self._events.unwatch(changed.set)
        shown = [event_json(event) for event in self._events.list(name)]
        headers = {"X-Consul-Index": str(self._index(name))}
        return json_response(shown, request, headers=headers, pretty=self._defaults.pretty)

    def _index(self, name: str) -> int:
        events = self._events.list(name)
        return events[-1].index if events else 1


def event_json(event: Event) -> Ordered:
    """An event as users see it."""
    return Ordered(
        ID=event.id,
        Name=event.name,
        Payload=event.payload,
        NodeFilter=event.node_filter,
        ServiceFilter=event.service_filter,
        TagFilter=event.tag_filter,
        Version=event.version,
        LTime=event.ltime,
    )
