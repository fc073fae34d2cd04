"""Every metric by name: Consul's own names where it has the thing, ours below `runtime.` and the like. Pure.

Names lack the prefix (`consul.`). The reference page is made from this table, and Prometheus is shown all of it from
the start. A name with `<...>` has a variable part; such families appear when they are first used.
"""

from __future__ import annotations

from pyconsul_agent.telemetry.registry import Declared


def _all(kind: str, *rows: tuple[str, str]) -> tuple[Declared, ...]:
    return tuple(Declared(name, kind, about) for name, about in rows)


GAUGES = _all(
    "gauge",
    ("autopilot.failure_tolerance", "voters that may fail before the quorum is lost; on the leader"),
    ("autopilot.healthy", "1 when autopilot holds every server for healthy; on the leader"),
    ("members.clients", "client agents in the LAN pool, label datacenter; on servers"),
    ("members.servers", "servers in the LAN pool, label datacenter; on servers"),
    ("raft.applied_index", "index of the last applied entry"),
    ("raft.commitNumLogs", "entries committed since the interval before"),
    ("raft.last_index", "index of the last entry of the log"),
    ("raft.peers", "servers in the raft configuration"),
    ("rpc.queries_blocking", "blocking queries that wait on this server"),
    ("runtime.alloc_bytes", "resident memory of the process"),
    ("runtime.event_loop_lag_ms", "ours: by how much the loop was late in this interval, at worst"),
    ("runtime.free_count", "objects that the garbage collector has freed"),
    ("runtime.heap_objects", "container objects that the garbage collector knows"),
    ("runtime.malloc_count", "freed and living container objects"),
    ("runtime.num_goroutines", "asyncio tasks"),
    ("runtime.sys_bytes", "address space of the process"),
    ("runtime.total_gc_pause_ns", "time spent in the garbage collector"),
    ("runtime.total_gc_runs", "runs of the garbage collector"),
    ("runtime.watchers", "ours: reads registered with the state store"),
    ("session_ttl.active", "sessions with a TTL that the leader watches"),
    ("state.config_entries", "config entries, labels datacenter and kind"),
    ("state.kv_entries", "keys, label datacenter"),
    ("state.nodes", "registered nodes, label datacenter"),
    ("state.service_instances", "registered instances, label datacenter"),
    ("state.services", "service names, label datacenter"),
    ("version", "1; labels version and pre_release"),
)
COUNTERS = _all(
    "counter",
    ("client.rpc", "calls of this agent to a server, or to itself as one"),
    ("client.rpc.exceeded", "calls that the rate limit refused"),
    ("client.rpc.failed", "calls that ended with an error"),
    ("memberlist.msg.alive", "members that came to life"),
    ("memberlist.msg.dead", "members that were declared dead"),
    ("memberlist.msg.suspect", "members that were suspected"),
    ("raft.apply", "proposals"),
    ("raft.barrier", "barriers asked for"),
    ("raft.state.candidate", "times that this server stood for election"),
    ("raft.state.follower", "times that this server became a follower"),
    ("raft.state.leader", "times that this server became leader"),
    ("raft.transition.heartbeat_timeout", "times that a follower's timer ran out"),
    ("rpc.query", "reads that this server answered or passed on"),
    ("rpc.request", "calls that came over the network"),
    ("rpc.request_error", "calls that ended with an error"),
    ("serf.member.failed", "members that failed"),
    ("serf.member.join", "members that joined"),
    ("serf.member.left", "members that left"),
)
SAMPLES = _all(
    "summary",
    ("api.http", "HTTP requests in ms, labels method and path (the route)"),
    ("catalog.deregister", "Catalog.Deregister in ms"),
    ("catalog.register", "Catalog.Register in ms"),
    ("kvs.apply", "KVS.Apply in ms"),
    ("prepared-query.execute", "PreparedQuery.Execute in ms"),
    ("raft.commitTime", "from proposal to result, in ms"),
    ("rpc.consistentRead", "consistent reads in ms"),
    ("session.apply", "Session.Apply in ms"),
    ("session.renew", "Session.Renew in ms"),
    ("txn.apply", "Txn.Apply in ms"),
    ("txn.read", "Txn.Read in ms"),
)
VARYING = _all(
    "summary", ("http.<method>.<path>", "as api.http, by name; unless disable_compat_1.9")
) + _all(
    "counter",
    ("catalog.service.query", "Catalog.ServiceNodes by service, label service; 256 names at most"),
    ("client.api.<call>", "catalog reads and writes over HTTP, label node"),
    ("client.api.success.<call>", "those that succeeded, label node"),
)  # fmt: skip
DECLARED = tuple(entry for entry in (*GAUGES, *COUNTERS, *SAMPLES))
