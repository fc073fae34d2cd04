"""Where the numbers of the interfaces come from: each meter keeps the series that its hot path adds to.

Labels are bounded: routes come from the table, methods and services of strangers up to a number, the rest is `other`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pyconsul_agent.telemetry.registry import Registry, Series

METHODS = frozenset({"GET", "PUT", "POST", "DELETE", "HEAD", "OPTIONS"})
LOOKUPS_MAX = 512
"""Counters of look-ups by service and tags."""
DATACENTERS_MAX = 64

CATALOG_CALLS = {
    "/v1/catalog/register": "catalog_register",
    "/v1/catalog/deregister": "catalog_deregister",
    "/v1/catalog/datacenters": "catalog_datacenters",
    "/v1/catalog/nodes": "catalog_nodes",
    "/v1/catalog/services": "catalog_services",
    "/v1/catalog/service/": "catalog_service_nodes",
    "/v1/catalog/connect/": "catalog_connect_service_nodes",
    "/v1/catalog/node/": "catalog_node_services",
    "/v1/catalog/node-services/": "catalog_node_service_list",
    "/v1/catalog/gateway-services/": "catalog_gateway_services",
}
RPC_SAMPLES = {
    "Catalog.Register": "catalog.register",
    "Catalog.Deregister": "catalog.deregister",
    "KVS.Apply": "kvs.apply",
    "Session.Apply": "session.apply",
    "Session.Renew": "session.renew",
    "Txn.Apply": "txn.apply",
    "Txn.Read": "txn.read",
    "PreparedQuery.Apply": "prepared-query.apply",
    "PreparedQuery.Execute": "prepared-query.execute",
}
EVENTS = {
    "raft_candidate": "raft.state.candidate",
    "raft_follower": "raft.state.follower",
    "raft_leader": "raft.state.leader",
    "raft_election_start": "raft.transition.heartbeat_timeout",
    "raft_lease_lost": "raft.transition.leader_lease_timeout",
    "suspect": "memberlist.msg.suspect",
    "marked_failed": "memberlist.msg.dead",
}
"""User-visible events of the log that are counted under another name."""
MEMBER_KINDS = {
    "join": "serf.member.join",
    "failed": "serf.member.failed",
    "leave": "serf.member.left",
    "update": "serf.member.update",
}


def path_parts(pattern: str) -> tuple[str, str]:
    """A route as the label of `api.http` and as the name of 1.9: `v1_kv_` and `v1.kv._`."""
    parts = [part if part else "_" for part in pattern.split("/")[1:]]
    return pattern[1:].replace("/", "_"), ".".join(parts)


class HTTPMeter:
    """Measures requests by route and method."""

    def __init__(self, registry: Registry, *, node: str, names_of_1_9: bool = True) -> None:
        self._registry = registry
        self._node = node
        self._old_names = names_of_1_9
        self._rows: dict[tuple[str, str], tuple[Series, ...]] = {}
        self._calls: dict[str, tuple[Series, Series]] = {}
        self.again: dict[str, int] = {}
        """Answers of GET that were given again, by pattern; counted as having taken no time."""

    def __call__(self, pattern: str, method: str, status: int, seconds: float) -> None:
        """One request to the route `pattern` was answered."""
        rows = self._rows.get((pattern, method))
        if rows is None:
            rows = self._make(pattern, method)
        milliseconds = seconds * 1000
        for series in rows:
            series.add(milliseconds)
        call = CATALOG_CALLS.get(pattern)
        if call is not None:
            asked, succeeded = self._calls.get(call) or self._make_call(call)
            asked.add()
            if status < 400:
                succeeded.add()

    def settle(self) -> None:
        """Take in what was counted in `again`."""
        for pattern, count in self.again.items():
            for series in self._rows.get((pattern, "GET")) or self._make(pattern, "GET"):
                series.add_zeros(count)
            call = CATALOG_CALLS.get(pattern)
            if call is not None:
                for series in self._calls.get(call) or self._make_call(call):
                    series.add(count)
        self.again.clear()

    def _make(self, pattern: str, method: str) -> tuple[Series, ...]:
        method = method if method in METHODS else "other"
        label, name = path_parts(pattern)
        rows = [self._registry.samples("api.http", method=method, path=label)]
        if self._old_names:
            rows.append(self._registry.samples(f"http.{method}.{name}"))
        self._rows[pattern, method] = tuple(rows)
        return self._rows[pattern, method]

    def _make_call(self, call: str) -> tuple[Series, Series]:
        made = tuple(self._registry.counter(f"client.api.{kind}{call}", node=self._node) for kind in ("", "success."))
        self._calls[call] = made[0], made[1]
        return self._calls[call]


class RPCMeter:
    """Measures calls: those of this agent (`client.rpc`), and on a server those that it answers."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._own = registry.counter("client.rpc")
        self._own_failed = registry.counter("client.rpc.failed")
        self._exceeded = registry.counter("client.rpc.exceeded")
        self._request = registry.counter("rpc.request")
        self._error = registry.counter("rpc.request_error")
        self._query = registry.counter("rpc.query")
        self._consistent = registry.samples("rpc.consistentRead")
        self._samples = {method: registry.samples(name) for method, name in RPC_SAMPLES.items()}
        self._lookups: dict[tuple[str, str, str], Series] = {}
        self._datacenters: dict[str, Series] = {}
        self.accepted = registry.counter("rpc.accept_conn")
        self.raft_handoff = registry.counter("rpc.raft_handoff")

    def own_call(self, *, failed: bool = False, exceeded: bool = False) -> None:
        """This agent has called a server, or itself as one."""
        self._own.add()
        if failed:
            self._own_failed.add()
        if exceeded:
            self._exceeded.add()

    def network_call(self) -> None:
        """A call came over the network."""
        self._request.add()

    def crossed(self, datacenter: str) -> None:
        """A call goes to another datacenter, which gossip knows."""
        series = self._datacenters.get(datacenter)
        if series is None:
            known = len(self._datacenters) < DATACENTERS_MAX
            series = self._registry.counter("rpc.cross-dc", datacenter=datacenter if known else "other")
            if known:
                self._datacenters[datacenter] = series
        series.add()

    def answered(self, seconds: float, *, read: bool, consistent: bool, failed: bool) -> None:
        """This server has answered a call or passed it on."""
        if read:
            self._query.add()
            if consistent:
                self._consistent.add(seconds * 1000)
        if failed:
            self._error.add()

    def ran(self, method: str, seconds: float) -> None:
        """One of the methods in RPC_SAMPLES was carried out here, not passed on."""
        self._samples[method].add(seconds * 1000)

    def looked_up(self, area: str, service: str, tags: Sequence[str], *, old_tag: bool, found: bool) -> None:
        """The instances of a service were asked for; `area` is `catalog.service`, `health.connect` and the like."""
        self._look_up(f"{area}.query", service, "")
        if tags:
            self._look_up(f"{area}.query-tag{'' if old_tag else 's'}", service, ",".join(sorted(tags)))
        if not found:
            self._look_up(f"{area}.not-found", service, "")

    def _look_up(self, name: str, service: str, tags: str) -> None:
        """Services and tags that strangers name count as `other` beyond a number."""
        series = self._lookups.get((name, service, tags))
        if series is None:
            known = len(self._lookups) < LOOKUPS_MAX
            labels = {"service": service if known else "other"}
            if tags:
                labels["tag"] = tags if known else "other"
            series = self._registry.counter(name, **labels)
            if known:
                self._lookups[name, service, tags] = series
        series.add()


def count_event(registry: Registry, name: str, fields: Mapping[str, object]) -> None:
    """Count what the log tells users: elections, members that come and go."""
    metric = EVENTS.get(name)
    if name == "member_event":
        kind = str(fields.get("kind", "")).lower().removeprefix("member-")
        metric = MEMBER_KINDS.get(kind)
        if kind == "join":
            registry.count("memberlist.msg.alive")
    if metric is not None:
        registry.count(metric)
