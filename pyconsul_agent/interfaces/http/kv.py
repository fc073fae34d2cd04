"""`/v1/kv/`: the key-value store."""

from __future__ import annotations

from dataclasses import replace

from pyconsul_agent.agent.delegate import Caller
from pyconsul_agent.interfaces.http.message import HTTPError, Request, Response, json_response
from pyconsul_agent.interfaces.http.params import (
    Defaults,
    datacenter_of,
    meta_headers,
    read_fields,
    refuse_namespaces,
    token_of,
)
from pyconsul_agent.interfaces.http.routes import Route
from pyconsul_agent.structs.kv import DirEntry
from pyconsul_agent.structs.methods import KVS_APPLY, KVS_GET, KVS_LIST, KVS_LIST_KEYS
from pyconsul_agent.structs.requests import KeyListRequest, KeyRequest, KVSRequest
from pyconsul_agent.wire.gotypes import parse_uint

PREFIX = "/v1/kv/"
CHUNKED_BYTES_MAX = 4 * 1024 * 1024
"""compat: Consul checks the declared length only, and takes any chunked body; here it has a limit too."""
RAW_HEADERS = {"X-Content-Type-Options": "nosniff", "Content-Security-Policy": "sandbox"}


class KV:
    """The handlers. `value_bytes_max` is `limits.kv_max_value_size`."""

    def __init__(self, caller: Caller, defaults: Defaults, *, value_bytes_max: int = 512 * 1024) -> None:
        self._caller = caller
        self._defaults = defaults
        self._value_bytes_max = value_bytes_max

    def routes(self) -> list[Route]:
        methods = (("GET", self.get), ("PUT", self.put), ("DELETE", self.delete))
        return [
            Route(
                PREFIX,
                methods,
                "key",
                blocking=True,
                state="kv",
                body_bytes_max=self._value_bytes_max,
                chunked_bytes_max=CHUNKED_BYTES_MAX,
            )
        ]

    async def get(self, request: Request) -> Response:
        """One key, all under a prefix (`recurse`), or names only (`keys`)."""
        fields = read_fields(request, self._defaults)
        refuse_namespaces(request)
        key = _key(request)
        datacenter = datacenter_of(request, self._defaults)
        if "keys" in request.query:
            return await self._keys(request, key, KeyListRequest(datacenter=datacenter, prefix=key, **fields))
        method = KVS_LIST if "recurse" in request.query else KVS_GET
        if method is KVS_GET and not key:
            raise HTTPError(400, "Missing key name")
        reply = await self._caller.call(method, KeyRequest(datacenter=datacenter, key=key, **fields))
        headers = meta_headers(reply)
        if not reply.entries:
            return Response(404, headers=headers)
        if "raw" in request.query and method is KVS_GET:
            return Response(200, reply.entries[0].value or b"", "text/plain", {**headers, **RAW_HEADERS})
        entries = [replace(entry, value=None) if entry.value == b"" else entry for entry in reply.entries]
        return json_response(entries, request, headers=headers, pretty=self._defaults.pretty)

    async def _keys(self, request: Request, prefix: bytes, asked: KeyListRequest) -> Response:
        separator = request.query.get("separator") or request.query.get("seperator")
        asked = replace(asked, seperator=separator.encode("utf-8", "surrogateescape"))
        reply = await self._caller.call(KVS_LIST_KEYS, asked)
        headers = meta_headers(reply)
        if not reply.keys and prefix:
            return Response(404, headers=headers)
        return json_response(reply.keys or (), request, headers=headers, pretty=self._defaults.pretty)

    async def put(self, request: Request) -> Response:
        """Set, check-and-set, acquire or release."""
        refuse_namespaces(request)
        key = _key(request)
        if not key:
            raise HTTPError(400, "Missing key name")
        operation, index, session, flags = "set", 0, "", 0
        query = request.query
        if query.pairs:
            _refuse_conflicts(request, "cas", "acquire", "release")
            if "flags" in query:
                flags = parse_uint_parameter(query.get("flags"))
            if "cas" in query:
                operation, index = "cas", parse_uint_parameter(query.get("cas"))
            if "acquire" in query:
                operation, session = "lock", query.get("acquire")
            if "release" in query:
                operation, session = "unlock", query.get("release")
        # The original's buffer stays nil if there is nothing to read.
        value = request.body or None
        entry = DirEntry(key=key, flags=flags, value=value, session=session, modify_index=index)
        return await self._apply(request, operation, entry)

    async def delete(self, request: Request) -> Response:
        """Delete a key, a whole prefix (`recurse`), or a key at an index (`cas`)."""
        refuse_namespaces(request)
        key = _key(request)
        _refuse_conflicts(request, "recurse", "cas")
        operation, index = "delete", 0
        if "recurse" in request.query:
            operation = "delete-tree"
        elif not key:
            raise HTTPError(400, "Missing key name")
        if "cas" in request.query:
            operation, index = "delete-cas", parse_uint_parameter(request.query.get("cas"))
        return await self._apply(request, operation, DirEntry(key=key, modify_index=index))

    async def _apply(self, request: Request, operation: str, entry: DirEntry) -> Response:
        changed = await self._caller.call(
            KVS_APPLY,
            KVSRequest(
                datacenter=datacenter_of(request, self._defaults),
                op=operation,
                dir_ent=entry,
                token=token_of(request, self._defaults),
            ),
        )
        answer = changed if operation in ("cas", "lock", "unlock", "delete-cas") else True
        return json_response(answer, request, pretty=self._defaults.pretty)


def _key(request: Request) -> bytes:
    return request.path[len(PREFIX) :].encode("utf-8", "surrogateescape")


def _refuse_conflicts(request: Request, *names: str) -> None:
    if sum(name in request.query for name in names) > 1:
        raise HTTPError(400, f"Conflicting flags: {request.query.encode()}")


def parse_uint_parameter(text: str) -> int:
    """An unsigned parameter; Consul answers a bad one with 500."""
    try:
        return parse_uint(text)
    except ValueError as error:
        raise HTTPError(500, str(error)) from None
