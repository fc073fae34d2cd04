"""`/v1/operator/keyring`: the gossip keys of every pool."""

from __future__ import annotations

import re
from collections.abc import Sequence

from pyconsul_agent.agent.delegate import Delegate
from pyconsul_agent.errors import RPCError
from pyconsul_agent.interfaces.http.message import HTTPError, Request, Response, bad_request, json_response
from pyconsul_agent.interfaces.http.params import Defaults, token_of
from pyconsul_agent.interfaces.http.routes import Route
from pyconsul_agent.structs.base import struct, wire
from pyconsul_agent.structs.methods import INTERNAL_KEYRING_OPERATION
from pyconsul_agent.structs.operator import KeyringResponse
from pyconsul_agent.structs.requests import KeyringRequest
from pyconsul_agent.wire.gojson import Ordered
from pyconsul_agent.wire.gojson_reader import decode, parse
from pyconsul_agent.wire.gotypes import parse_bool, quote

RELAY_FACTOR_MAX = 5


@struct
class _Body:
    """What changes send."""

    key: str = wire("Key", default="")


class Keyring:
    """The handlers."""

    def __init__(self, delegate: Delegate, defaults: Defaults) -> None:
        self._delegate = delegate
        self._defaults = defaults

    def routes(self) -> list[Route]:
        handlers = (("GET", self.list), ("POST", self.install), ("PUT", self.use), ("DELETE", self.remove))
        return [Route("/v1/operator/keyring", handlers, "keyring:read,keyring:write")]

    async def list(self, request: Request) -> Response:
        """The keys of every pool, with the number of members that have each."""
        answers = await self._operate(request, "list")
        return json_response([_shown(each) for each in answers], request, pretty=self._defaults.pretty)

    async def install(self, request: Request) -> Response:
        """Give every member one more key."""
        await self._operate(request, "install")
        return Response()

    async def use(self, request: Request) -> Response:
        """Make an installed key the one that encrypts."""
        await self._operate(request, "use")
        return Response()

    async def remove(self, request: Request) -> Response:
        """Take a key that does not encrypt from every member."""
        await self._operate(request, "remove")
        return Response()

    async def _operate(self, request: Request, operation: str) -> Sequence[KeyringResponse]:
        key = "" if operation == "list" else _key(request)
        asked = KeyringRequest(
            operation=operation,
            key=key,
            datacenter=self._defaults.datacenter,
            relay_factor=_relay_factor(request),
            local_only=_local_only(request, operation),
            token=token_of(request, self._defaults),
        )
        if not self._delegate.is_server:
            raise RPCError("keyring operations must run against a server node")
        reply = await self._delegate.call(INTERNAL_KEYRING_OPERATION, asked)
        answers = reply.responses or ()
        if problems := _problems(answers):
            raise HTTPError(500, problems)
        return answers


def _key(request: Request) -> str:
    try:
        return decode(_Body, parse(request.body)).key
    except ValueError as error:
        raise bad_request(f"Request decode failed: {error}") from None


def _relay_factor(request: Request) -> int:
    text = request.query.get("relay-factor")
    if not text:
        return 0
    if not re.fullmatch(r"[+-]?[0-9]{1,18}", text):
        raise bad_request(f"Error parsing relay factor: strconv.Atoi: parsing {quote(text)}: invalid syntax")
    if not 0 <= int(text) <= RELAY_FACTOR_MAX:
        raise bad_request(f"Invalid relay-factor: Relay factor must be in range: [0, {RELAY_FACTOR_MAX}]")
    return int(text)


def _local_only(request: Request, operation: str) -> bool:
    text = request.query.get("local-only")
    if not text:
        return False
    try:
        wanted = parse_bool(text)
    except ValueError:
        message = f"Error parsing local-only: strconv.ParseBool: parsing {quote(text)}: invalid syntax"
        raise bad_request(message) from None
    if wanted and operation != "list":
        raise bad_request("Invalid use of local-only: local-only can only be set for list requests")
    return wanted


def _problems(answers: Sequence[KeyringResponse]) -> str:
    """Every failure of every pool in one text, empty if there is none."""
    lines = []
    for each in answers:
        if each.error:
            pool = "WAN" if each.wan else f"{each.datacenter} (LAN)"
            lines.append(f"{pool} error: {each.error}")
            lines += [f"{node}: {text}" for node, text in (each.messages or {}).items()]
    if not lines:
        return ""
    head = "1 error occurred" if len(lines) == 1 else f"{len(lines)} errors occurred"
    return f"{head}:\n" + "".join(f"\t* {line}\n" for line in lines) + "\n"


def _shown(response: KeyringResponse) -> Ordered:
    shown = Ordered(WAN=response.wan, Datacenter=response.datacenter, Segment=response.segment)
    if response.messages:
        shown["Messages"] = dict(response.messages)
    shown["Keys"] = dict(response.keys or {})
    shown["PrimaryKeys"] = dict(response.primary_keys or {})
    shown["NumNodes"] = response.num_nodes
    return shown
