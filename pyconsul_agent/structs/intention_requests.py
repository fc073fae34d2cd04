"""Arguments and replies of the Intention methods."""

from __future__ import annotations

from pyconsul_agent.structs.base import struct, wire
from pyconsul_agent.structs.intention import Intention, IntentionMutation
from pyconsul_agent.structs.requests import QueryMeta, QueryOptions, WriteRequest


@struct
class IntentionListRequest(QueryOptions):
    """Consul's `IntentionListRequest`."""

    datacenter: str = wire("Datacenter", default="")
    legacy: bool = wire("Legacy", default=False)


@struct
class IntentionMatchEntry:
    """Consul's `IntentionMatchEntry`."""

    namespace: str = wire("Namespace", default="")
    name: str = wire("Name", default="")


@struct
class IntentionQueryMatch:
    """Consul's `IntentionQueryMatch`."""

    type: str = wire("Type", default="")
    entries: tuple[IntentionMatchEntry, ...] | None = wire("Entries", default=None)


@struct
class IntentionQueryCheck:
    """Consul's `IntentionQueryCheck`."""

    source_ns: str = wire("SourceNS", default="")
    source_name: str = wire("SourceName", default="")
    destination_ns: str = wire("DestinationNS", default="")
    destination_name: str = wire("DestinationName", default="")
    source_type: str = wire("SourceType", default="")


@struct
class IntentionQueryExact:
    """Consul's `IntentionQueryExact`."""

    source_ns: str = wire("SourceNS", default="")
    source_name: str = wire("SourceName", default="")
    destination_ns: str = wire("DestinationNS", default="")
    destination_name: str = wire("DestinationName", default="")


@struct
class IntentionQueryRequest(QueryOptions):
    """Consul's `IntentionQueryRequest`."""

    datacenter: str = wire("Datacenter", default="")
    intention_id: str = wire("IntentionID", default="")
    match: IntentionQueryMatch | None = wire("Match", default=None)
    check: IntentionQueryCheck | None = wire("Check", default=None)
    exact: IntentionQueryExact | None = wire("Exact", default=None)


@struct
class IntentionQueryCheckResponse:
    """Consul's `IntentionQueryCheckResponse`."""

    allowed: bool = wire("Allowed", default=False)


@struct
class IntentionRequest(WriteRequest):
    """Consul's `IntentionRequest`."""

    datacenter: str = wire("Datacenter", default="")
    op: str = wire("Op", default="")
    intention: Intention | None = wire("Intention", default=None)
    mutation: IntentionMutation | None = wire("Mutation", default=None)


@struct
class IndexedIntentions(QueryMeta):
    """Consul's `IndexedIntentions`."""

    intentions: tuple[Intention, ...] | None = wire("Intentions", default=None)
    data_origin: str = wire("DataOrigin", default="")


@struct
class IndexedIntentionMatches(QueryMeta):
    """Consul's `IndexedIntentionMatches`."""

    matches: tuple[tuple[Intention, ...] | None, ...] | None = wire("Matches", default=None)
