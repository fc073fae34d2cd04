"""Query parameters and headers that many endpoints share, with Consul's rules and error texts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypedDict

from pyconsul_agent.interfaces.http.message import HTTPError, Request, bad_request
from pyconsul_agent.structs.base import Duration, seconds
from pyconsul_agent.structs.requests import QueryMeta, QueryOptions, QuerySource
from pyconsul_agent.wire.gotypes import parse_duration, parse_uint, quote


class ReadFields(TypedDict):
    """The QueryOptions part of a read request, ready to be passed on as keywords."""

    token: str
    min_query_index: int
    max_query_time: Duration
    allow_stale: bool
    require_consistent: bool
    max_stale_duration: Duration
    use_cache: bool
    max_age: Duration
    must_revalidate: bool
    stale_if_error: Duration
    filter: str


@dataclass(frozen=True, slots=True)
class Defaults:
    """What this agent fills in: its datacenter and node, and its own token for requests without one."""

    datacenter: str
    node_name: str
    token: str = ""
    pretty: bool = False
    discovery_max_stale: Duration = Duration(0)
    use_cache: bool = True
    use_streaming: bool = True


def token_of(request: Request, defaults: Defaults) -> str:
    """The caller's token: parameter, header, bearer, else the agent's."""
    if token := request.query.get("token"):
        return token
    if token := request.headers.get("x-consul-token", ""):
        return token
    if not (given := request.headers.get("authorization")):
        return defaults.token
    scheme, _, rest = given.strip().partition(" ")
    if scheme.lower() == "bearer" and (words := rest.split()):
        return words[0]
    return defaults.token


def datacenter_of(request: Request, defaults: Defaults) -> str:
    """`?dc=`, else this agent's."""
    return request.query.get("dc") or defaults.datacenter


def refuse_namespaces(request: Request) -> None:
    """Namespaces are an Enterprise feature: naming one is an error."""
    if request.query.get("ns"):
        raise bad_request('Invalid query parameter: "ns" - Namespaces are a Consul Enterprise feature')
    if request.headers.get("x-consul-namespace"):
        raise bad_request('Invalid header: "X-Consul-Namespace" - Namespaces are a Consul Enterprise feature')


def read_fields(request: Request, defaults: Defaults, *, discovery: bool = False) -> ReadFields:
    """Parse the options of a read. `discovery` endpoints honor `discovery_max_stale`. Raises HTTPError."""
    fields = ReadFields(
        token=token_of(request, defaults),
        min_query_index=0,
        max_query_time=Duration(0),
        allow_stale=False,
        require_consistent=False,
        max_stale_duration=Duration(0),
        use_cache=False,
        max_age=Duration(0),
        must_revalidate=False,
        stale_if_error=Duration(0),
        filter=request.query.get("filter"),
    )
    _consistency(request, defaults, fields, discovery)
    _cache_control(request, defaults, fields)
    _wait(request, fields)
    return fields


def _consistency(request: Request, defaults: Defaults, fields: ReadFields, discovery: bool) -> None:
    query = request.query
    if not query.pairs and not (discovery and defaults.discovery_max_stale > 0):
        return
    default = True
    if "stale" in query:
        fields["allow_stale"] = True
        default = False
    if "consistent" in query:
        fields["require_consistent"] = True
        default = False
    if "leader" in query:
        default = False
    if "cached" in query and defaults.use_cache:
        fields["use_cache"] = True
        default = False
    if text := query.get("max_stale"):
        try:
            fields["max_stale_duration"] = parse_duration(text)
        except ValueError:
            raise HTTPError(400, f"Invalid max_stale value {quote(text)}") from None
        if fields["max_stale_duration"] > 0:
            fields["allow_stale"] = True
            default = False
    if default and discovery and defaults.discovery_max_stale > 0:
        fields["max_stale_duration"] = defaults.discovery_max_stale
        fields["allow_stale"] = True
    if fields["allow_stale"] and fields["require_consistent"]:
        raise HTTPError(400, "Cannot specify ?stale with ?consistent, conflicting semantics.")
    if fields["use_cache"] and fields["require_consistent"]:
        raise HTTPError(400, "Cannot specify ?cached with ?consistent, conflicting semantics.")


def _cache_control(request: Request, defaults: Defaults, fields: ReadFields) -> None:
    header = request.headers.get("cache-control", "")
    if not header or not defaults.use_cache:
        return
    for part in header.lower().split(","):
        name, _, value = part.strip().partition("=")
        if name == "must-revalidate":
            fields["must_revalidate"] = True
        elif name in ("max-age", "stale-if-error"):
            if not value.isdigit() or len(value) > 9:
                raise HTTPError(400, "Invalid Cache-Control header.")
            span = Duration(int(value) * 1_000_000_000)
            if name == "max-age":
                fields["max_age"] = span
                fields["must_revalidate"] = fields["must_revalidate"] or span == 0
            else:
                fields["stale_if_error"] = span


def _wait(request: Request, fields: ReadFields) -> None:
    if not request.query.pairs:
        return
    if text := request.query.get("wait"):
        try:
            fields["max_query_time"] = parse_duration(text)
        except ValueError:
            raise HTTPError(400, "Invalid wait time") from None
    if text := request.query.get("index"):
        try:
            fields["min_query_index"] = parse_uint(text)
        except ValueError:
            raise HTTPError(400, "Invalid index") from None


def source_of(request: Request, defaults: Defaults) -> QuerySource:
    """`?near=`: the node whose distance sorts the answer, `_agent` being this one."""
    near = request.query.get("near")
    if not near:
        return QuerySource()
    return QuerySource(datacenter=defaults.datacenter, node=defaults.node_name if near == "_agent" else near)


def node_meta_of(request: Request) -> dict[str, str] | None:
    """`?node-meta=key:value`, repeated; None when absent."""
    values = request.query.all("node-meta")
    if not values:
        return None
    return {key: value for key, _, value in (text.partition(":") for text in values)}


def meta_headers(meta: QueryMeta, options: QueryOptions | None = None) -> dict[str, str]:
    """The `X-Consul-*` headers of a read; with `options` also the effective consistency."""
    headers = {
        "X-Consul-Index": str(max(meta.index, 1)),
        "X-Consul-Knownleader": "true" if meta.known_leader else "false",
        "X-Consul-Lastcontact": str(int(seconds(meta.last_contact) * 1000)),
        "X-Consul-Query-Backend": "streaming" if meta.backend == 1 else "blocking-query",
    }
    if options is not None:
        headers["X-Consul-Effective-Consistency"] = effective_consistency(options)
    return headers


def effective_consistency(options: QueryOptions) -> str:
    """The name of the consistency that a read asks for."""
    return "consistent" if options.require_consistent else "stale" if options.allow_stale else "leader"
