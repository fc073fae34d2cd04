"""The route table is that of Consul 1.10.11: each path with its methods, in the order in which `Allow` tells them."""

import importlib.machinery
import importlib.util
from pathlib import Path

OURS = {"/v1/status/diagnosis"}
ROUTES = """
/v1/kv/ GET PUT DELETE
/v1/session/create PUT
/v1/session/destroy/ PUT
/v1/session/renew/ PUT
/v1/session/info/ GET
/v1/session/list GET
/v1/session/node/ GET
/v1/txn PUT
/v1/catalog/register PUT
/v1/catalog/deregister PUT
/v1/catalog/datacenters GET
/v1/catalog/nodes GET
/v1/catalog/services GET
/v1/catalog/service/ GET
/v1/catalog/connect/ GET
/v1/catalog/node/ GET
/v1/catalog/node-services/ GET
/v1/catalog/gateway-services/ GET
/v1/health/node/ GET
/v1/health/checks/ GET
/v1/health/service/ GET
/v1/health/connect/ GET
/v1/health/ingress/ GET
/v1/health/state/ GET
/v1/agent/self GET
/v1/agent/metrics GET
/v1/agent/metrics/stream GET
/v1/agent/monitor GET
/v1/agent/host GET
/v1/agent/members GET
/v1/agent/services GET
/v1/agent/checks GET
/v1/agent/service/ GET
/v1/agent/service/register PUT
/v1/agent/service/deregister/ PUT
/v1/agent/service/maintenance/ PUT
/v1/agent/maintenance PUT
/v1/agent/check/register PUT
/v1/agent/check/deregister/ PUT
/v1/agent/check/pass/ PUT
/v1/agent/check/warn/ PUT
/v1/agent/check/fail/ PUT
/v1/agent/check/update/ PUT
/v1/agent/health/service/id/ GET
/v1/agent/health/service/name/ GET
/v1/agent/join/ PUT
/v1/agent/leave PUT
/v1/agent/reload PUT
/v1/agent/force-leave/ PUT
/v1/agent/token/ PUT
/v1/agent/connect/ca/roots GET
/v1/agent/connect/ca/leaf/ GET
/v1/agent/connect/authorize POST
/v1/event/fire/ PUT
/v1/event/list GET
/v1/status/leader GET
/v1/status/peers GET
/v1/coordinate/datacenters GET
/v1/coordinate/nodes GET
/v1/coordinate/node/ GET
/v1/coordinate/update PUT
/v1/operator/raft/configuration GET
/v1/operator/raft/peer DELETE
/v1/operator/autopilot/configuration GET PUT
/v1/operator/autopilot/health GET
/v1/operator/autopilot/state GET
/v1/operator/keyring GET POST PUT DELETE
/v1/snapshot GET PUT
/v1/query GET POST
/v1/query/ GET PUT DELETE
/v1/config PUT
/v1/config/ GET DELETE
/v1/discovery-chain/ GET POST
/v1/connect/intentions GET POST
/v1/connect/intentions/exact GET PUT DELETE
/v1/connect/intentions/match GET
/v1/connect/intentions/check GET
/v1/connect/intentions/ GET PUT DELETE
/v1/connect/ca/roots GET
/v1/connect/ca/configuration GET PUT
/v1/internal/ui/nodes GET
/v1/internal/ui/node/ GET
/v1/internal/ui/services GET
/v1/internal/ui/service-topology/ GET
/v1/internal/ui/gateway-services-nodes/ GET
/v1/internal/ui/gateway-intentions/ GET
/v1/internal/ui/metrics-proxy/ GET
/v1/internal/federation-states GET
/v1/internal/federation-states/mesh-gateways GET
/v1/internal/federation-state/ GET
/v1/internal/acl/authorize POST
/v1/acl/bootstrap PUT
/v1/acl/login POST
/v1/acl/logout POST
/v1/acl/replication GET
/v1/acl/policies GET
/v1/acl/policy PUT
/v1/acl/policy/ GET PUT DELETE
/v1/acl/policy/name/ GET
/v1/acl/roles GET
/v1/acl/role PUT
/v1/acl/role/ GET PUT DELETE
/v1/acl/role/name/ GET
/v1/acl/binding-rules GET
/v1/acl/binding-rule PUT
/v1/acl/binding-rule/ GET PUT DELETE
/v1/acl/auth-methods GET
/v1/acl/auth-method PUT
/v1/acl/auth-method/ GET PUT DELETE
/v1/acl/rules/translate POST
/v1/acl/rules/translate/ GET
/v1/acl/tokens GET
/v1/acl/token PUT
/v1/acl/token/ GET PUT DELETE
/v1/acl/token/self GET
/v1/acl/create PUT
/v1/acl/update PUT
/v1/acl/destroy/ PUT
/v1/acl/info/ GET
/v1/acl/clone/ PUT
/v1/acl/list GET
"""


def test_every_route_of_consul_is_there_with_its_methods():
    loader = importlib.machinery.SourceFileLoader("reference", str(Path(__file__).parents[2] / "scripts/reference"))
    spec = importlib.util.spec_from_loader("reference", loader)
    reference = importlib.util.module_from_spec(spec)
    loader.exec_module(reference)
    found = {route.pattern: [method for method, _ in route.methods] for route in reference.routes()}
    wanted = {path: methods for path, *methods in (line.split() for line in ROUTES.split("\n") if line)}
    assert {path: methods for path, methods in found.items() if path not in OURS} == wanted
