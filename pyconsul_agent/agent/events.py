"""User events as agents exchange and keep them. Pure: knows no gossip and no HTTP.

On the wire an event is the msgpack map `{ID, n, p, nf, sf, tf, v}`, empty parts left out. An agent keeps the last 256
that are meant for it: the filters are regular expressions on its node name, and on id and tags of its services.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from pyconsul_agent.errors import DecodeError
from pyconsul_agent.structs.catalog import NodeService
from pyconsul_agent.structs.member import UserEvent
from pyconsul_agent.wire import msgpack
from pyconsul_agent.wire.regexp import BadRegexp, compile_regexp

EVENTS_MAX = 256
VERSION = 1
REMOTE_EXEC = "_rexec"


@dataclass(frozen=True, slots=True)
class Event:
    """A user event. `ltime` is serf's clock at its delivery, 0 in the answer to whom fired it."""

    id: str
    name: str
    payload: bytes | None = None
    node_filter: str = ""
    service_filter: str = ""
    tag_filter: str = ""
    version: int = VERSION
    ltime: int = 0

    def encode(self) -> bytes:
        """The payload of the serf event."""
        optional = {"p": self.payload, "nf": self.node_filter, "sf": self.service_filter, "tf": self.tag_filter}
        given = {key: value for key, value in optional.items() if value}
        return msgpack.pack({"ID": self.id, "n": self.name, **given, "v": self.version})

    @property
    def index(self) -> int:
        """What a watcher of the list compares: the two halves of the id, folded."""
        digits = self.id.replace("-", "")
        try:
            return int(digits[:16], 16) ^ int(digits[16:32], 16)
        except ValueError:
            return 1


def decode(serf_event: UserEvent) -> Event:
    """An event as gossip delivered it. Raises DecodeError."""
    value = msgpack.unpack(serf_event.payload)
    if not isinstance(value, dict):
        raise DecodeError("a user event is no map")

    def text(key: bytes) -> str:
        item = value.get(key, b"")
        if not isinstance(item, bytes):
            raise DecodeError(f"a user event's {key.decode()} is no text")
        return item.decode("utf-8", "surrogateescape")

    version = value.get(b"v", 0)
    if not isinstance(version, int):
        raise DecodeError("a user event's version is no number")
    payload = value.get(b"p")
    if payload is not None and not isinstance(payload, bytes):
        raise DecodeError("a user event's payload is no text")
    return Event(
        id=text(b"ID"),
        name=text(b"n"),
        payload=payload or None,
        node_filter=text(b"nf"),
        service_filter=text(b"sf"),
        tag_filter=text(b"tf"),
        version=version,
        ltime=serf_event.lamport_time,
    )


def filter_problem(event: Event) -> str:
    """Why an event's filters cannot be used, in Consul's words; empty if they can."""
    if event.tag_filter and not event.service_filter:
        return "Cannot provide tag filter without service filter"
    filters = (("node", event.node_filter), ("service", event.service_filter), ("tag", event.tag_filter))
    for kind, pattern in filters:
        try:
            compile_regexp(pattern)
        except BadRegexp as error:
            return f"Invalid {kind} filter: {error}"
    return ""


def _matches(pattern: str, text: str) -> bool:
    """Whether `text` holds a match. A text too long to be searched soon holds none."""
    try:
        return compile_regexp(pattern).search(text) is not None
    except BadRegexp:
        return False


class Events:
    """The events that this agent has taken in, oldest first."""

    def __init__(self, node: str, services: Callable[[], Mapping[str, NodeService]]) -> None:
        self._node = node
        self._services = services
        self._kept: deque[Event] = deque(maxlen=EVENTS_MAX)
        self._watchers: dict[Callable[[], None], None] = {}

    def take(self, serf_event: UserEvent) -> Event | None:
        """An event that is meant for this agent, kept; one whose filters cannot be used is not. Raises DecodeError.

        Remote execution is asked for by an event, too. It is returned but never kept: whether it is done is not ours
        to say.
        """
        event = decode(serf_event)
        if filter_problem(event) or not self._is_meant(event):
            return None
        if event.name == REMOTE_EXEC:
            return event
        self._kept.append(event)
        for wake in tuple(self._watchers):
            wake()
        return event

    def _is_meant(self, event: Event) -> bool:
        if event.node_filter and not _matches(event.node_filter, self._node):
            return False
        if not event.service_filter:
            return True
        for identity, service in self._services().items():
            if _matches(event.service_filter, identity) and (
                not event.tag_filter or any(_matches(event.tag_filter, tag) for tag in service.tags or ())
            ):
                return True
        return False

    def list(self, name: str = "") -> Sequence[Event]:
        """Those kept, or those of a name."""
        return [event for event in self._kept if not name or event.name == name]

    def watch(self, wake: Callable[[], None]) -> None:
        """Call `wake` at each new event."""
        self._watchers[wake] = None

    def unwatch(self, wake: Callable[[], None]) -> None:
        """End a `watch`."""
        self._watchers.pop(wake, None)
