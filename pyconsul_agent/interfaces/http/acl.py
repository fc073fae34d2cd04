"""`/v1/acl/` and what else manages tokens: all of it answers that ACLs are off, since they cannot be on yet."""

from __future__ import annotations

from pyconsul_agent.interfaces.http.message import HTTPError, Request, Response
from pyconsul_agent.interfaces.http.routes import Route

DISABLED = "ACL support disabled"

ROUTES = (
    ("/v1/acl/bootstrap", "PUT"),
    ("/v1/acl/create", "PUT"),
    ("/v1/acl/update", "PUT"),
    ("/v1/acl/destroy/", "PUT"),
    ("/v1/acl/info/", "GET"),
    ("/v1/acl/clone/", "PUT"),
    ("/v1/acl/list", "GET"),
    ("/v1/acl/login", "POST"),
    ("/v1/acl/logout", "POST"),
    ("/v1/acl/replication", "GET"),
    ("/v1/acl/policies", "GET"),
    ("/v1/acl/policy", "PUT"),
    ("/v1/acl/policy/", "GET,PUT,DELETE"),
    ("/v1/acl/policy/name/", "GET"),
    ("/v1/acl/roles", "GET"),
    ("/v1/acl/role", "PUT"),
    ("/v1/acl/role/name/", "GET"),
    ("/v1/acl/role/", "GET,PUT,DELETE"),
    ("/v1/acl/binding-rules", "GET"),
    ("/v1/acl/binding-rule", "PUT"),
    ("/v1/acl/binding-rule/", "GET,PUT,DELETE"),
    ("/v1/acl/auth-methods", "GET"),
    ("/v1/acl/auth-method", "PUT"),
    ("/v1/acl/auth-method/", "GET,PUT,DELETE"),
    ("/v1/acl/rules/translate", "POST"),
    ("/v1/acl/rules/translate/", "GET"),
    ("/v1/acl/tokens", "GET"),
    ("/v1/acl/token", "PUT"),
    ("/v1/acl/token/self", "GET"),
    ("/v1/acl/token/", "GET,PUT,DELETE"),
    ("/v1/agent/token/", "PUT"),
    ("/v1/internal/acl/authorize", "POST"),
)


class ACLs:
    """The handlers, of which there is one."""

    def routes(self) -> list[Route]:
        return [
            Route(pattern, tuple((method, self.disabled) for method in methods.split(",")), "none")
            for pattern, methods in ROUTES
        ]

    async def disabled(self, request: Request) -> Response:
        """ACLs are off."""
        raise HTTPError(401, DISABLED)
