"""`/v1/connect/`, `/v1/agent/connect/`, `/v1/discovery-chain/` and federation states.

Servers answer that Connect is disabled unless it is enabled there. Leaf certificates cannot be had from this version.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any
from urllib.parse import urlsplit

from pyconsul_agent.agent.delegate import Caller
from pyconsul_agent.interfaces.http.catalog import read
from pyconsul_agent.interfaces.http.message import HTTPError, Request, Response, bad_request, json_response
from pyconsul_agent.interfaces.http.params import (
    Defaults,
    ReadFields,
    datacenter_of,
    meta_headers,
    read_fields,
    refuse_namespaces,
    token_of,
)
from pyconsul_agent.interfaces.http.routes import Route
from pyconsul_agent.structs.connect_ca import CARequest, CASignRequest, IndexedCARoots
from pyconsul_agent.structs.discovery_chain import DiscoveryChainRequest
from pyconsul_agent.structs.federation import FederationStateQuery
from pyconsul_agent.structs.intention import Intention
from pyconsul_agent.structs.intention_requests import IntentionMatchEntry, IntentionQueryMatch, IntentionQueryRequest
from pyconsul_agent.structs.methods_mesh import (
    CONNECT_CA_CONFIGURATION_GET,
    CONNECT_CA_CONFIGURATION_SET,
    CONNECT_CA_ROOTS,
    CONNECT_CA_SIGN,
    DISCOVERY_CHAIN_GET,
    FEDERATION_STATE_GET,
    FEDERATION_STATE_LIST,
    FEDERATION_STATE_LIST_MESH_GATEWAYS,
    INTENTION_MATCH,
)
from pyconsul_agent.structs.requests import DCSpecificRequest
from pyconsul_agent.wire import mapstructure
from pyconsul_agent.wire.gojson import Ordered, render
from pyconsul_agent.wire.gojson_reader import parse

CHAIN = "/v1/discovery-chain/"
FEDERATION = "/v1/internal/federation-state/"
GATEWAY_MODES = ("", "none", "local", "remote")
LEAF = "/v1/agent/connect/ca/leaf/"


class Connect:
    """The handlers."""

    def __init__(self, caller: Caller, defaults: Defaults) -> None:
        self._caller = caller
        self._defaults = defaults

    def routes(self) -> list[Route]:
        configuration = (("GET", self.configuration), ("PUT", self.set_configuration))
        chain = (("GET", self.chain), ("POST", self.chain))
        return [
            Route("/v1/connect/ca/roots", (("GET", self.roots),), "none", blocking=True),
            Route("/v1/connect/ca/configuration", configuration, "operator:read,operator:write"),
            Route("/v1/agent/connect/ca/roots", (("GET", self.agent_roots),), "none", blocking=True),
            Route(LEAF, (("GET", self.leaf),), "service:write", blocking=True),
            Route("/v1/agent/connect/authorize", (("POST", self.authorize),), "service:write"),
            Route(CHAIN, chain, "service:read", blocking=True),
            Route("/v1/internal/federation-states", (("GET", self.federation_states),), "operator:read", blocking=True),
            Route(
                "/v1/internal/federation-states/mesh-gateways",
                (("GET", self.mesh_gateways),),
                "service:read",
                blocking=True,
            ),
            Route(FEDERATION, (("GET", self.federation_state),), "operator:read", blocking=True),
        ]

    def _answer(self, request: Request, value: Any, headers: dict[str, str] | None = None) -> Response:
        return json_response(value, request, pretty=self._defaults.pretty, headers=headers)

    def _asked(self, request: Request) -> DCSpecificRequest:
        fields = read_fields(request, self._defaults)
        return DCSpecificRequest(datacenter=datacenter_of(request, self._defaults), **fields)

    # --- the CA ---------------------------------------------------------------------------------------------------

    async def roots(self, request: Request) -> Response:
        """The roots of the CA, with `pem` as certificates one after another."""
        reply = await read(self._caller, CONNECT_CA_ROOTS, self._asked(request))
        if "pem" in request.query:
            text = "".join(root.root_cert for root in reply.roots or ())
            return Response(
                body=text.encode("utf-8", "surrogateescape"),
                headers={"Content-Type": "application/pem-certificate-chain"},
            )
        return self._answer(request, _roots_json(reply), meta_headers(reply))

    async def agent_roots(self, request: Request) -> Response:
        """The same, as proxies ask for it."""
        reply = await self._caller.call(CONNECT_CA_ROOTS, self._asked(request))
        return self._answer(request, _roots_json(reply), meta_headers(reply))

    async def configuration(self, request: Request) -> Response:
        """The configuration of the CA."""
        return self._answer(request, await self._caller.call(CONNECT_CA_CONFIGURATION_GET, self._asked(request)))

    async def set_configuration(self, request: Request) -> Response:
        """Replace the configuration of the CA."""
        try:
            parse(request.body)
        except ValueError as error:
            raise bad_request(f"Request decode failed: {error}") from None
        asked = CARequest(datacenter=datacenter_of(request, self._defaults), token=token_of(request, self._defaults))
        await self._caller.call(CONNECT_CA_CONFIGURATION_SET, asked)
        return Response()

    async def leaf(self, request: Request) -> Response:
        """A service's certificate: refused, since nobody here can sign one."""
        if not request.path[len(LEAF) :]:
            raise bad_request("Missing service name")
        asked = CASignRequest(
            datacenter=datacenter_of(request, self._defaults), token=token_of(request, self._defaults)
        )
        return self._answer(request, await self._caller.call(CONNECT_CA_SIGN, asked))

    async def authorize(self, request: Request) -> Response:
        """Whether the holder of an identity may connect to a service of this agent."""
        try:
            body = parse(request.body)
        except ValueError as error:
            raise bad_request(f"Request decode failed: {error}") from None
        fields = {name.lower(): item for name, item in body.items()} if isinstance(body, dict) else {}
        target, identity = str(fields.get("target") or ""), str(fields.get("clientcerturi") or "")
        if not target:
            raise bad_request("Target service must be specified")
        domain, service = _identity(identity)
        match = IntentionQueryMatch(
            type="destination", entries=(IntentionMatchEntry(namespace="default", name=target),)
        )
        base = self._asked(request)
        asked = IntentionQueryRequest(datacenter=base.datacenter, token=base.token, match=match)
        reply = await self._caller.call(INTENTION_MATCH, asked)
        roots = await self._caller.call(CONNECT_CA_ROOTS, base)
        if domain != roots.trust_domain or not domain:
            return self._answer(request, _authorization(False, f"Identity from an external trust domain: {domain}"))
        for row in (reply.matches or ((),))[0] or ():
            if row.source_name in ("*", service):
                allowed = row.action == "allow" and not row.permissions
                return self._answer(request, _authorization(allowed, f"Matched intention: {_words(row)}"))
        return self._answer(request, _authorization(True, "ACLs disabled, access is allowed by default"))

    # --- chains ---------------------------------------------------------------------------------------------------

    async def chain(self, request: Request) -> Response:
        """The compiled discovery chain of a service, with overrides in the body of a POST."""
        fields = read_fields(request, self._defaults)
        refuse_namespaces(request)
        name = request.path[len(CHAIN) :]
        if not name:
            raise bad_request("Missing chain name")
        asked = DiscoveryChainRequest(
            name=name,
            evaluate_in_datacenter=request.query.get("compile-dc"),
            datacenter=datacenter_of(request, self._defaults),
            **fields,
        )
        if request.method == "POST":
            asked = _with_overrides(asked, request.body)
        reply = await read(self._caller, DISCOVERY_CHAIN_GET, asked)
        headers = meta_headers(reply, asked)
        if asked.use_cache:
            headers["X-Cache"] = "MISS"
        return self._answer(request, Ordered(Chain=reply.chain), headers)

    # --- federation -----------------------------------------------------------------------------------------------

    async def federation_states(self, request: Request) -> Response:
        """The federation state of every datacenter."""
        reply = await read(self._caller, FEDERATION_STATE_LIST, self._asked(request))
        return self._answer(request, reply.states or (), meta_headers(reply))

    async def mesh_gateways(self, request: Request) -> Response:
        """The mesh gateways of every datacenter."""
        reply = await read(self._caller, FEDERATION_STATE_LIST_MESH_GATEWAYS, self._asked(request))
        return self._answer(request, reply.datacenter_nodes or {}, meta_headers(reply))

    async def federation_state(self, request: Request) -> Response:
        """The federation state of one datacenter."""
        fields: ReadFields = read_fields(request, self._defaults)
        name = request.path[len(FEDERATION) :]
        if not name:
            raise bad_request("Missing datacenter name")
        asked = FederationStateQuery(
            target_datacenter=name, datacenter=datacenter_of(request, self._defaults), **fields
        )
        reply = await read(self._caller, FEDERATION_STATE_GET, asked)
        if reply.state is None:
            raise HTTPError(404, f"Federation state not found: {name}", headers=meta_headers(reply))
        # The state comes before what is said of the answer.
        shown = Ordered(State=reply.state)
        shown.update((name, value) for name, value in render(reply).items() if name != "State")
        return self._answer(request, shown, meta_headers(reply))


def _roots_json(reply: IndexedCARoots) -> Ordered:
    return Ordered(ActiveRootID=reply.active_root_id, TrustDomain=reply.trust_domain, Roots=reply.roots or ())


def _with_overrides(asked: DiscoveryChainRequest, body: bytes) -> DiscoveryChainRequest:
    try:
        given, _ = mapstructure.decode(DiscoveryChainRequest, parse(body))
    except ValueError as error:
        raise bad_request(f"Request decoding failed: {error}") from None
    if given.override_mesh_gateway.mode not in GATEWAY_MODES:
        raise HTTPError(400, "Invalid OverrideMeshGateway.Mode parameter")
    return replace(
        asked,
        override_protocol=given.override_protocol,
        override_connect_timeout=given.override_connect_timeout,
        override_mesh_gateway=given.override_mesh_gateway,
    )


def _identity(uri: str) -> tuple[str, str]:
    """(trust domain, service) of a SPIFFE identity. Raises HTTPError."""
    try:
        parts = urlsplit(uri)
    except ValueError:
        raise bad_request("ClientCertURI not a valid Connect identifier") from None
    path = parts.path.split("/")
    if parts.scheme != "spiffe" or len(path) != 7 or path[1] != "ns" or path[3] != "dc" or path[5] != "svc":
        raise bad_request("ClientCertURI not a valid Service identifier")
    return parts.netloc.lower(), path[6]


def _authorization(allowed: bool, reason: str) -> Ordered:
    return Ordered(Authorized=allowed, Reason=reason)


def _words(row: Intention) -> str:
    identity = f"ID: {row.id}, " if row.id else ""
    return f"{row.source_name} => {row.destination_name} ({identity}Precedence: {row.precedence})"
