"""`/v1/agent/service*`, `/v1/agent/check*`, maintenance and local health."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from pyconsul_agent.agent.checks.status import STATUSES
from pyconsul_agent.agent.registry import NotTTL, Registry
from pyconsul_agent.env.timeouts import timeout
from pyconsul_agent.interfaces.http.agent_view import (
    HEALTH_STATUS,
    NODE_MAINTENANCE,
    aggregate,
    check_json,
    content_hash,
    health_check_json,
    service_json,
)
from pyconsul_agent.interfaces.http.catalog import SERVICE_ALIASES
from pyconsul_agent.interfaces.http.filters import filtered_checks, filtered_services
from pyconsul_agent.interfaces.http.message import HTTPError, Request, Response, json_response
from pyconsul_agent.interfaces.http.params import Defaults, read_fields, refuse_namespaces, token_of
from pyconsul_agent.interfaces.http.routes import Route
from pyconsul_agent.structs.base import seconds
from pyconsul_agent.structs.catalog import CheckType, ConnectProxyConfig, NodeService, ServiceConnect, ServiceDefinition
from pyconsul_agent.structs.health import HealthCheck
from pyconsul_agent.structs.proxy_rules import service_problems
from pyconsul_agent.wire.gojson import Ordered
from pyconsul_agent.wire.gojson_reader import decode, mismatch, parse
from pyconsul_agent.wire.gotypes import parse_bool, quote

CHECK_ALIASES = {
    "args": "ScriptArgs",
    "script_args": "ScriptArgs",
    "deregister_critical_service_after": "DeregisterCriticalServiceAfter",
    "docker_container_id": "DockerContainerID",
    "tls_server_name": "TLSServerName",
    "tls_skip_verify": "TLSSkipVerify",
    "grpc_use_tls": "GRPCUseTLS",
    "disable_redirects": "DisableRedirects",
    "os_service": "OSService",
    "service_id": "",
}
META_PAIRS_MAX, META_KEY_MAX, META_VALUE_MAX = 64, 128, 512
META_CHARACTERS = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-")
DNS_WEIGHT_MAX = 65535
WAIT_DEFAULT_S, WAIT_MAX_S = 300.0, 600.0


@dataclass(frozen=True, slots=True)
class CheckBody:
    """`check/register`: a check definition, the service it belongs to and its token."""

    check: CheckType
    service_id: str
    token: str


class AgentServices:
    """The handlers. They see only the registry."""

    def __init__(self, registry: Registry, defaults: Defaults) -> None:
        self._registry = registry
        self._defaults = defaults

    def routes(self) -> list[Route]:
        return [
            Route("/v1/agent/services", (("GET", self.services),), "service:read"),
            Route("/v1/agent/service/register", (("PUT", self.register),), "service:write"),
            Route("/v1/agent/service/deregister/", (("PUT", self.deregister),), "service:write"),
            Route("/v1/agent/service/maintenance/", (("PUT", self.service_maintenance),), "service:write"),
            Route("/v1/agent/service/", (("GET", self.service),), "service:read", blocking=True),
            Route("/v1/agent/maintenance", (("PUT", self.node_maintenance),), "node:write"),
            Route("/v1/agent/checks", (("GET", self.checks),), "node:read"),
            Route("/v1/agent/check/register", (("PUT", self.register_check),), "node:write"),
            Route("/v1/agent/check/deregister/", (("PUT", self.deregister_check),), "node:write"),
            Route("/v1/agent/check/pass/", (("PUT", self.check_pass),), "node:write"),
            Route("/v1/agent/check/warn/", (("PUT", self.check_warn),), "node:write"),
            Route("/v1/agent/check/fail/", (("PUT", self.check_fail),), "node:write"),
            Route("/v1/agent/check/update/", (("PUT", self.check_update),), "node:write"),
            Route("/v1/agent/health/service/id/", (("GET", self.health_by_id),), "service:read"),
            Route("/v1/agent/health/service/name/", (("GET", self.health_by_name),), "service:read"),
        ]

    # --- services ---------------------------------------------------------------------------------------------

    async def services(self, request: Request) -> Response:
        """Every local service by id."""
        refuse_namespaces(request)
        live = self._registry.state.live_services().values()
        shown = {
            service.id: service_json(service, self._defaults.datacenter) for service in filtered_services(request, live)
        }
        return self._json(shown, request)

    async def service(self, request: Request) -> Response:
        """One local service; with `hash`, as soon as its hash is another one."""
        refuse_namespaces(request)
        identity = request.path.removeprefix("/v1/agent/service/")
        fields = read_fields(request, self._defaults)
        if known := request.query.get("hash"):
            await self._until_changed(identity, known, seconds(fields["max_query_time"]))
        service = self._registry.state.service(identity)
        if service is None:
            raise HTTPError(404, f"unknown service ID: {identity}")
        shown = service_json(service, self._defaults.datacenter, with_hash=True)
        return self._json(shown, request, headers={"X-Consul-Contenthash": shown["ContentHash"]})

    async def _until_changed(self, identity: str, known: str, asked_s: float) -> None:
        """Wait while the service has the hash that the caller knows, with the limits of every blocking query."""
        state = self._registry.state
        changed = asyncio.Event()

        def notify(service_id: str) -> None:
            if service_id == identity:
                changed.set()

        limit_s = min(asked_s or WAIT_DEFAULT_S, WAIT_MAX_S)
        state.watch(notify)
        try:
            async with timeout(limit_s):
                while (service := state.service(identity)) is not None and content_hash(service) == known:
                    changed.clear()
                    await changed.wait()
        except TimeoutError:
            return
        finally:
            state.unwatch(notify)

    async def register(self, request: Request) -> Response:
        """Register a service with its checks."""
        refuse_namespaces(request)
        try:
            body = decode(ServiceDefinition, parse(request.body), aliases={**SERVICE_ALIASES, **CHECK_ALIASES})
        except ValueError as error:
            raise HTTPError(400, f"Request decode failed: {error}") from None
        service, checks = self._validated(body)
        replace_checks = _flag(request, "replace-existing-checks")
        token = body.token or token_of(request, self._defaults)
        await self._run(lambda: self._registry.add_service(service, checks, token=token, replace_checks=replace_checks))
        return Response()

    def _validated(self, body: ServiceDefinition) -> tuple[NodeService, list[CheckType]]:
        if not body.name:
            raise HTTPError(400, "Missing service name")
        if body.address in ("0.0.0.0", "::", "[::]"):  # noqa: S104 - refused, not bound
            raise HTTPError(400, "Invalid service address")
        if problem := meta_problem(body.meta or {}):
            raise HTTPError(400, f"Invalid Service Meta: {problem}")
        if body.weights is not None and (problem := weight_problem(body.weights.passing, body.weights.warning)):
            raise HTTPError(400, f"Invalid Weights: {problem}")
        checks = [check for check in (*(body.checks or ()), body.check) if check != CheckType()]
        for check in checks:
            if check.status and check.status not in STATUSES:
                raise HTTPError(400, "Status for checks must 'passing', 'warning', 'critical'")
        service = NodeService(
            kind=body.kind,
            id=body.id or body.name,
            service=body.name,
            tags=body.tags,
            address=body.address,
            tagged_addresses=body.tagged_addresses,
            meta=body.meta,
            port=body.port,
            socket_path=body.socket_path,
            weights=body.weights,
            enable_tag_override=body.enable_tag_override,
            proxy=body.proxy or ConnectProxyConfig(),
            connect=body.connect or ServiceConnect(),
        )
        if problem := service_problems(service):
            raise HTTPError(400, problem)
        return service, checks

    async def deregister(self, request: Request) -> Response:
        """Remove a service; unknown ones too succeed."""
        refuse_namespaces(request)
        identity = request.path.removeprefix("/v1/agent/service/deregister/")
        if not identity:
            raise HTTPError(500, "ServiceID missing")
        await self._registry.durably(lambda: self._registry.remove_service(identity))
        return Response()

    # --- maintenance ------------------------------------------------------------------------------------------

    async def node_maintenance(self, request: Request) -> Response:
        """Put this node in or out of maintenance."""
        enable = _enable(request)
        reason, token = request.query.get("reason"), token_of(request, self._defaults)
        await self._registry.durably(lambda: self._registry.set_node_maintenance(enable, reason, token))
        return Response()

    async def service_maintenance(self, request: Request) -> Response:
        """Put a service in or out of maintenance."""
        identity = request.path.removeprefix("/v1/agent/service/maintenance/")
        if not identity:
            raise HTTPError(400, "Missing service ID")
        enable = _enable(request)
        reason, token = request.query.get("reason"), token_of(request, self._defaults)
        try:
            await self._registry.durably(
                lambda: self._registry.set_service_maintenance(identity, enable, reason, token)
            )
        except KeyError:
            raise HTTPError(404, f"No service registered with ID {quote(identity)}") from None
        return Response()

    # --- checks -----------------------------------------------------------------------------------------------

    async def checks(self, request: Request) -> Response:
        """Every local check by id."""
        refuse_namespaces(request)
        live = self._registry.state.live_checks().values()
        shown = {check.check_id: check_json(check) for check in filtered_checks(request, live)}
        return self._json(shown, request)

    async def register_check(self, request: Request) -> Response:
        """Register a check of the node or of a service."""
        refuse_namespaces(request)
        try:
            body = _check_body(parse(request.body))
        except ValueError as error:
            raise HTTPError(400, f"Request decode failed: {error}") from None
        if not body.check.name:
            raise HTTPError(400, "Missing check name")
        if body.check.status and body.check.status not in STATUSES:
            raise HTTPError(400, "Bad check status")
        token = body.token or token_of(request, self._defaults)
        await self._run(lambda: self._registry.add_check(body.check, service_id=body.service_id, token=token))
        return Response()

    async def deregister_check(self, request: Request) -> Response:
        """Remove a check; unknown ones too succeed."""
        refuse_namespaces(request)
        identity = request.path.removeprefix("/v1/agent/check/deregister/")
        if not identity:
            raise HTTPError(500, "CheckID missing")
        await self._registry.durably(lambda: self._registry.remove_check(identity))
        return Response()

    async def check_pass(self, request: Request) -> Response:
        """Speak well for a TTL check."""
        return await self._ttl(request, "/v1/agent/check/pass/", "passing")

    async def check_warn(self, request: Request) -> Response:
        """Warn for a TTL check."""
        return await self._ttl(request, "/v1/agent/check/warn/", "warning")

    async def check_fail(self, request: Request) -> Response:
        """Fail a TTL check."""
        return await self._ttl(request, "/v1/agent/check/fail/", "critical")

    async def _ttl(self, request: Request, prefix: str, status: str) -> Response:
        refuse_namespaces(request)
        return await self._update(request.path.removeprefix(prefix), status, request.query.get("note"))

    async def check_update(self, request: Request) -> Response:
        """Set a TTL check's status and output from a body."""
        refuse_namespaces(request)
        try:
            body = parse(request.body)
            if not isinstance(body, dict):
                raise mismatch(body, "", "agent.checkUpdate")
            given = {name.lower(): value for name, value in body.items()}
            for name in body:
                if name.lower() not in ("status", "output"):
                    raise ValueError(f"json: unknown field {quote(name)}")
            status, output = given.get("status") or "", given.get("output") or ""
            for name, value in (("Status", status), ("Output", output)):
                if not isinstance(value, str):
                    raise mismatch(value, name, "string")
        except ValueError as error:
            raise HTTPError(400, f"Request decode failed: {error}") from None
        if status not in STATUSES:
            raise HTTPError(400, f"Invalid check status: '{status}'")
        return await self._update(request.path.removeprefix("/v1/agent/check/update/"), status, output)

    async def _update(self, identity: str, status: str, output: str) -> Response:
        try:
            await self._registry.durably(lambda: self._registry.update_ttl(identity, status, output))
        except NotTTL as error:
            raise HTTPError(500, str(error)) from None
        return Response()

    # --- health -----------------------------------------------------------------------------------------------

    async def health_by_id(self, request: Request) -> Response:
        """The state of one local service, as status code and body."""
        identity = request.path.removeprefix("/v1/agent/health/service/id/")
        if not identity:
            raise HTTPError(500, "Bad request: Missing serviceID")
        service = self._registry.state.service(identity)
        if service is None:
            reason = f"ServiceId {identity} not found"
            headers = {"X-Consul-Reason": reason}
            if _wants_text(request):
                return self._json(reason, request, status=404, headers=headers)
            missing = Ordered(AggregatedStatus="critical", Service=None, Checks=None)
            return self._json(missing, request, status=404, headers=headers)
        status, shown = self._health_of(service)
        return self._health(request, status, shown)

    async def health_by_name(self, request: Request) -> Response:
        """The state of all local instances of a service; the worst is the status code."""
        name = request.path.removeprefix("/v1/agent/health/service/name/")
        if not name:
            raise HTTPError(500, "Bad request: Missing service Name")
        found = [
            self._health_of(service)
            for service in self._registry.state.live_services().values()
            if service.service == name
        ]
        if not found:
            reason = f"ServiceName {name} Not Found"
            headers = {"X-Consul-Reason": reason}
            if _wants_text(request):
                return Response(404, reason.encode("utf-8", "surrogateescape"), "text/plain", headers)
            return self._json([], request, status=404, headers=headers)
        order = ("passing", "warning", "critical", "maintenance")
        worst = max((status for status, _ in found), key=order.index)
        return self._health(request, worst, [shown for _, shown in found])

    def _health_of(self, service: NodeService) -> tuple[str, Ordered]:
        state = self._registry.state
        mine = state.checks_of(service.id)
        node = state.check(NODE_MAINTENANCE)
        checks: Sequence[HealthCheck] = [*mine, node] if node is not None else mine
        status = aggregate(checks)
        shown = Ordered(
            AggregatedStatus=status,
            Service=service_json(service, self._defaults.datacenter),
            Checks=[health_check_json(check) for check in checks],
        )
        return status, shown

    def _health(self, request: Request, status: str, shown: Any) -> Response:
        headers = {"X-Consul-Reason": status}
        if _wants_text(request):
            return Response(HEALTH_STATUS[status], status.encode(), "text/plain", headers)
        return self._json(shown, request, status=HEALTH_STATUS[status], headers=headers)

    def _json(
        self, value: Any, request: Request, *, status: int = 200, headers: dict[str, str] | None = None
    ) -> Response:
        return json_response(value, request, status=status, headers=headers, pretty=self._defaults.pretty)

    async def _run(self, work: Callable[[], None]) -> None:
        try:
            await self._registry.durably(work)
        except ValueError as error:
            text = str(error)
            raise HTTPError(400 if text.startswith("Invalid check: ") else 500, text) from None


def _wants_text(request: Request) -> bool:
    return request.query.get("format") == "text" or request.headers.get("accept") == "text/plain"


def _flag(request: Request, name: str) -> bool:
    """A parameter that is on when present, unless its value says otherwise."""
    return name in request.query and request.query.get(name) not in ("false", "0", "f", "F", "FALSE", "False")


def _enable(request: Request) -> bool:
    if "enable" not in request.query:
        raise HTTPError(400, "Missing value for enable")
    text = request.query.get("enable")
    try:
        return parse_bool(text)
    except ValueError:
        raise HTTPError(400, f"Invalid value for enable: {quote(text)}") from None


def _check_body(value: Any) -> CheckBody:
    """The flat body of `check/register`: a definition whose id is `ID`, plus `ServiceID` and `Token`."""
    if value is None:
        value = {}
    if not isinstance(value, dict):
        raise mismatch(value, "", "structs.CheckDefinition")
    rest: dict[str, Any] = {}
    own = {"id": "", "serviceid": "", "service_id": "", "token": ""}
    for name, item in value.items():
        lower = name.lower()
        if lower in own:
            if item is not None and not isinstance(item, str):
                raise mismatch(item, name, "string")
            own[lower] = item or ""
        elif lower == "checkid":
            raise ValueError(f"json: unknown field {quote(name)}")
        else:
            rest[name] = item
    check = decode(CheckType, rest, aliases=CHECK_ALIASES)
    return CheckBody(replace(check, check_id=own["id"]), own["serviceid"] or own["service_id"], own["token"])


def meta_problem(meta: Any) -> str:
    """Why metadata cannot be taken, empty if it can."""
    if len(meta) > META_PAIRS_MAX:
        return f"Node metadata cannot contain more than {META_PAIRS_MAX} key/value pairs"
    for key, value in meta.items():
        if problem := _pair_problem(key, value):
            return f"Couldn't load metadata pair ('{key}', '{value}'): {problem}"
    return ""


def _pair_problem(key: str, value: str) -> str:
    if not key:
        return "Key cannot be blank"
    if not set(key) <= META_CHARACTERS:
        return "Key contains invalid characters"
    if len(key) > META_KEY_MAX:
        return f"Key is too long (limit: {META_KEY_MAX} characters)"
    if key.startswith("consul-"):
        return "Key prefix 'consul-' is reserved for internal use"
    if len(value) > META_VALUE_MAX:
        return f"Value is too long (limit: {META_VALUE_MAX} characters)"
    return ""


def weight_problem(passing: int, warning: int) -> str:
    """Why weights cannot be taken, empty if they can."""
    if passing < 1:
        return "Passing must be greater than 0"
    if warning < 0:
        return "Warning must be greater or equal than 0"
    if passing > DNS_WEIGHT_MAX or warning > DNS_WEIGHT_MAX:
        return "DNS Weight must be between 0 and 65535"
    return ""
