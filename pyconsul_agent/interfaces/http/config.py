"""`/v1/config`: central configuration entries."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from pyconsul_agent.agent.delegate import Caller
from pyconsul_agent.interfaces.http.message import (
    HTTPError,
    Request,
    Response,
    bad_request,
    json_response,
    text_response,
)
from pyconsul_agent.interfaces.http.params import (
    Defaults,
    datacenter_of,
    meta_headers,
    read_fields,
    refuse_namespaces,
    token_of,
)
from pyconsul_agent.interfaces.http.routes import Route
from pyconsul_agent.structs.config_entry import MeshConfigEntry, ProxyConfigEntry
from pyconsul_agent.structs.config_kinds import KINDS, MESH, ConfigEntry
from pyconsul_agent.structs.config_requests import ConfigEntryQuery, ConfigEntryRequest
from pyconsul_agent.structs.methods_mesh import (
    CONFIG_ENTRY_APPLY,
    CONFIG_ENTRY_DELETE,
    CONFIG_ENTRY_GET,
    CONFIG_ENTRY_LIST,
)
from pyconsul_agent.wire import mapstructure
from pyconsul_agent.wire.gojson import Ordered, render
from pyconsul_agent.wire.gojson_reader import parse
from pyconsul_agent.wire.gotypes import parse_uint, quote

PREFIX = "/v1/config/"
BODY_BYTES_MAX = 1024 * 1024
INDEXES = ("createindex", "modifyindex")


def entry_of(value: Any) -> ConfigEntry:
    """A config entry from plain JSON values. Raises ValueError in the original's words."""
    if not isinstance(value, dict):
        mapstructure.decode(MeshConfigEntry, value)  # says what it should be
    kind = value.get("Kind", value.get("kind"))
    if kind is None:
        raise ValueError("Payload does not contain a kind/Kind key at the top level")
    if not isinstance(kind, str):
        raise ValueError("Kind value in payload is not a string")
    form = KINDS.get(kind)
    if form is None:
        raise ValueError(f"invalid config entry kind: {kind}")
    if form is MeshConfigEntry:  # its kind and name are no fields
        value = {name: item for name, item in value.items() if name.lower() not in ("kind", "name")}
    entry, unused = mapstructure.decode(form, value)
    foreign = sorted(name for name in unused if name.replace("_", "").lower() not in INDEXES)
    if foreign:
        head = "1 error occurred:" if len(foreign) == 1 else f"{len(foreign)} errors occurred:"
        raise ValueError(head + "".join(f"\n\t* invalid config key {quote(name)}" for name in foreign) + "\n\n")
    # compat: a null inside takes every 1.10 server of the cluster down, and again at each start.
    if isinstance(entry, ProxyConfigEntry) and _has_null(entry.config or {}):
        raise ValueError("Config may not contain null")
    return entry


def _has_null(value: Any) -> bool:
    if isinstance(value, dict):
        return any(map(_has_null, value.values()))
    return any(map(_has_null, value)) if isinstance(value, list) else value is None


def entry_json(entry: ConfigEntry) -> Any:
    """An entry as users see it; the mesh's kind is no field of it."""
    if isinstance(entry, MeshConfigEntry):
        return Ordered({"Kind": MESH, **render(entry)})
    return entry


class ConfigEntries:
    """The handlers."""

    def __init__(self, caller: Caller, defaults: Defaults) -> None:
        self._caller = caller
        self._defaults = defaults

    def routes(self) -> list[Route]:
        single = (("GET", self.read), ("DELETE", self.delete))
        access = "service:write,operator:write"
        return [
            Route("/v1/config", (("PUT", self.apply),), access, body_bytes_max=BODY_BYTES_MAX),
            Route(PREFIX, single, "service:read," + access, blocking=True),
        ]

    async def apply(self, request: Request) -> Response:
        """Store an entry, with `cas` only if it is unchanged."""
        refuse_namespaces(request)
        try:
            entry = entry_of(parse(request.body))
        except ValueError as error:
            raise bad_request(f"Request decoding failed: {error}") from None
        op = "upsert"
        if text := request.query.get("cas"):
            try:
                entry = replace(entry, modify_index=parse_uint(text))
            except ValueError as error:
                raise HTTPError(500, str(error)) from None
            op = "upsert-cas"
        asked = ConfigEntryRequest(
            op=op,
            datacenter=datacenter_of(request, self._defaults),
            entry=entry,
            token=token_of(request, self._defaults),
        )
        done = await self._caller.call(CONFIG_ENTRY_APPLY, asked)
        return json_response(done, request, pretty=self._defaults.pretty)

    async def read(self, request: Request) -> Response:
        """One entry, or the list of a kind (of all kinds if none is named)."""
        kind, slash, name = request.path[len(PREFIX) :].partition("/")
        fields = read_fields(request, self._defaults)
        refuse_namespaces(request)
        asked = ConfigEntryQuery(kind=kind, name=name, datacenter=datacenter_of(request, self._defaults), **fields)
        if not slash:
            listed = await self._caller.call(CONFIG_ENTRY_LIST, asked)
            rows = [entry_json(entry) for entry in listed.entries or () if entry is not None]
            headers = meta_headers(listed)
            return json_response(rows, request, pretty=self._defaults.pretty, headers=headers)
        reply = await self._caller.call(CONFIG_ENTRY_GET, asked)
        if reply.entry is None:
            words = f"Config entry not found for {quote(kind)} / {quote(name)}"
            return text_response(words, status=404, headers=meta_headers(reply))
        headers = meta_headers(reply)
        return json_response(entry_json(reply.entry), request, pretty=self._defaults.pretty, headers=headers)

    async def delete(self, request: Request) -> Response:
        """Delete an entry; what is not there is fine."""
        refuse_namespaces(request)
        kind, slash, name = request.path[len(PREFIX) :].partition("/")
        if not slash:
            raise HTTPError(404, "Must provide both a kind and name to delete")
        form = KINDS.get(kind)
        if form is None:
            raise HTTPError(400, f"invalid config entry kind: {kind}")
        entry: ConfigEntry = MeshConfigEntry() if form is MeshConfigEntry else _named(form, name)
        asked = ConfigEntryRequest(
            op="delete",
            datacenter=datacenter_of(request, self._defaults),
            entry=entry,
            token=token_of(request, self._defaults),
        )
        await self._caller.call(CONFIG_ENTRY_DELETE, asked)
        return json_response({}, request, pretty=self._defaults.pretty)


def _named(form: Any, name: str) -> ConfigEntry:
    entry: ConfigEntry = form(name=name)
    return entry
