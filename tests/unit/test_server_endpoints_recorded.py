"""Requests that real agents sent, replayed in order: our replies against those of a real server.

Indexes and random IDs differ by nature and are masked; requests that carry an index of the recording are translated.
"""

import asyncio
import io
import json
import random
from pathlib import Path

import msgpack

from pyconsul_agent.errors import RPCError
from pyconsul_agent.fsm.machine import StateMachine
from pyconsul_agent.serf.consul import ServerInfo
from pyconsul_agent.server.blocking import Blocking
from pyconsul_agent.server.endpoints.catalog import Catalog
from pyconsul_agent.server.endpoints.config_entry import ConfigEntries
from pyconsul_agent.server.endpoints.connect import ConnectCA, DiscoveryChains
from pyconsul_agent.server.endpoints.coordinate import Coordinates
from pyconsul_agent.server.endpoints.federation import FederationStates
from pyconsul_agent.server.endpoints.health import Health
from pyconsul_agent.server.endpoints.intention import Intentions
from pyconsul_agent.server.endpoints.internal import Internal
from pyconsul_agent.server.endpoints.kvs import KeyValues
from pyconsul_agent.server.endpoints.operator import Autopilot, RaftOperator
from pyconsul_agent.server.endpoints.session import Sessions
from pyconsul_agent.server.endpoints.shared import Near
from pyconsul_agent.server.endpoints.status import Status
from pyconsul_agent.server.endpoints.txn import Txn
from pyconsul_agent.server.leader.session_ttl import SessionTimers
from pyconsul_agent.server.leader.standing import DEFAULTS, LeaderPosition, Moment, judge
from pyconsul_agent.state.store import Store
from pyconsul_agent.structs import methods, methods_mesh
from pyconsul_agent.structs.base import GoTime
from pyconsul_agent.structs.catalog import NodeService, Weights
from pyconsul_agent.structs.config_requests import ConfigEntryRequest
from pyconsul_agent.structs.federation import FederationStateRequest
from pyconsul_agent.structs.health import HealthCheck
from pyconsul_agent.structs.kv import DirEntry
from pyconsul_agent.structs.member import Member, MemberStatus
from pyconsul_agent.structs.operator import RaftStats
from pyconsul_agent.structs.raft import Configuration, LogEntry, Server
from pyconsul_agent.structs.requests import (
    AutopilotSetConfigRequest,
    DeregisterRequest,
    KVSRequest,
    RegisterRequest,
    SessionRequest,
)
from pyconsul_agent.wire.msgpack import decode, encode, pack, unpack

VECTORS = Path(__file__).resolve().parents[2] / "conformance" / "vectors" / "rpc"
SERVICES = (
    "status", "catalog", "health", "kvs", "session", "txn", "internal", "operator", "coordinate", "configentry",
    "connectca", "discoverychain", "federationstate", "intention",
)  # fmt: skip
METHODS = methods.METHODS | methods_mesh.METHODS
FIRST_CLUSTER_ENDS = "p205"


class DirectProposer:
    """Applies commands at once, as a leader of one would."""

    is_leader = True

    def __init__(self, machine):
        self.machine = machine
        self.index = 3

    async def apply(self, kind, body):
        self.index += 1
        return self.machine.apply(LogEntry(index=self.index, term=2, type=0, data=bytes([kind]) + body))

    async def barrier(self):
        return None


class Leading:
    is_leader = True
    leader_address = "127.0.0.1:8300"
    last_contact_s = 0.0
    lease_valid = True

    async def verify(self):
        return None


class OneServer:
    def configuration(self):
        return Configuration(servers=(Server(id=SERVER_ID, address="127.0.0.1:8300"),)), 1

    async def remove_server(self, id):
        raise AssertionError(id)


class OneMember:
    def members(self):
        return [Member(name="srv1", address="127.0.0.1", port=8301, tags={"id": SERVER_ID, "raft_vsn": "3"})]


class SilentLog:
    def warn(self, message, **pairs):
        raise AssertionError(message)

    error = warn


SERVER_ID = "11111111-1111-1111-1111-111111111111"


class Bench:
    """A leader's endpoints over a store that is written directly."""

    def __init__(self):
        self.now = 0.0
        self.next_id = ""
        self.store = Store()
        self.machine = StateMachine(self.store, lambda: self.now)
        self.proposer = DirectProposer(self.machine)
        leading = Leading()
        blocking = Blocking(self.store, leading, random.Random(1))
        near = Near(self.store, "dc1")

        def clock():
            return self.now

        def leads():
            return True

        self.events = []
        self.services = [
            Status(leading, OneServer(), lambda: (4, 2)),
            Catalog(self.store, self.proposer, blocking, near, lambda: ["dc1"]),
            Health(self.store, blocking, near),
            KeyValues(self.store, self.proposer, blocking, clock, ready=leads),
            Sessions(self.store, self.proposer, blocking, SessionTimers(), now=clock, uuid=lambda: self.next_id),
            Txn(self.store, self.proposer, blocking, clock, ready=leads),
            Coordinates(self.store, self.proposer, blocking, list, SilentLog()),
            Internal(self.store, blocking, lambda name, payload: self.events.append((name, payload))),
            Autopilot(self.store, self.proposer, blocking, standings),
            RaftOperator(leading, OneServer(), OneMember()),
            ConfigEntries(self.store, self.proposer, blocking, connect_enabled=False),
            DiscoveryChains(self.store, blocking, datacenter="dc1", connect_enabled=False),
            ConnectCA(self.store, blocking, connect_enabled=False),
            FederationStates(self.store, self.proposer, blocking),
            Intentions(self.store, self.proposer, blocking, uuid=lambda: "", wall_ns=lambda: 0, connect_enabled=False),
        ]
        self.endpoints = {point.method.name: point for service in self.services for point in service.endpoints()}

    async def call(self, name, body):
        """(error text, reply as plain values) for a request in wire form."""
        point = self.endpoints[name]
        try:
            reply = await point.run(decode(point.method.request, body))
        except RPCError as error:
            return str(error), None
        return "", unpack(encode(reply))


def register_member(name, address, node_id, service=None):
    check = HealthCheck(
        node=name,
        check_id="serfHealth",
        name="Serf Health Status",
        status="passing",
        output="Agent alive and reachable",
    )
    return RegisterRequest(datacenter="dc1", node=name, address=address, id=node_id, service=service, check=check)


STABLE_SINCE = GoTime(1_795_384_862, 370_877, 0)
"""As in the recorded reply."""


def standings():
    """What autopilot made of that one server when it was asked."""
    info = ServerInfo(
        name="srv1", id=SERVER_ID, address="127.0.0.1", port=8300, datacenter="dc1", build=(1, 10, 11), raft_version=3,
        status=MemberStatus.ALIVE,
    )  # fmt: skip
    now = Moment(0.0, STABLE_SINCE.unix_seconds * 10**9 + STABLE_SINCE.nanoseconds)
    stats = RaftStats(last_contact="0", last_term=2, last_index=58)
    leader = LeaderPosition(SERVER_ID, 2, 58)
    return judge(OneServer().configuration()[0], {SERVER_ID: info}, {SERVER_ID: stats}, leader, DEFAULTS, now, {})


async def populate(bench):
    """What the leader had written by itself before the recording began."""
    meta = {
        "non_voter": "false", "raft_version": "3", "read_replica": "false", "serf_protocol_current": "2",
        "serf_protocol_max": "5", "serf_protocol_min": "1", "version": "1.10.11",
    }  # fmt: skip
    consul = NodeService(id="consul", service="consul", port=8300, weights=Weights(passing=1, warning=1), meta=meta)
    await bench.proposer.apply(0, encode(register_member("srv1", "127.0.0.1", SERVER_ID, consul)))
    lan = dict.fromkeys(("lan", "lan_ipv4", "wan", "wan_ipv4"), "127.0.0.1")
    itself = RegisterRequest(
        datacenter="dc1", node="srv1", address="127.0.0.1", id=SERVER_ID, tagged_addresses=lan,
        node_meta={"consul-network-segment": ""},
    )  # fmt: skip
    await bench.proposer.apply(0, encode(itself))
    await bench.proposer.apply(0, encode(register_member("cli1", "127.0.0.2", "2" * 8 + "-2222-2222-2222-" + "2" * 12)))


MASKED = {b"Index", b"CreateIndex", b"ModifyIndex", b"LastContact"}


def masked(value):
    if isinstance(value, dict):
        return {key: 0 if key in MASKED else masked(item) for key, item in value.items()}
    if isinstance(value, list):
        return [masked(item) for item in value]
    if isinstance(value, bytes) and any(name in value for name in MASKED):
        return [masked(item) for item in msgpack.Unpacker(io.BytesIO(value), raw=True, strict_map_key=False)]
    return value


def recorded(last=FIRST_CLUSTER_ENDS):
    pairs = [pair for name in SERVICES for pair in json.loads((VECTORS / f"pairs-{name}.json").read_text())]
    return [pair for pair in sorted(pairs, key=lambda pair: pair["id"]) if pair["id"] <= last]


SKIPPED = {
    "p034": "routing to another datacenter happens before the endpoint",
    "p115": "WAN coordinates come from the gossip pool",
    "p116": "coordinates of the servers' own updates are not in the recording",
    "p117": "coordinates of the servers' own updates are not in the recording",
}


def reply_of(pairs, id, name):
    point = METHODS[name]
    return decode(point.reply, bytes.fromhex(next(pair for pair in pairs if pair["id"] == id)["response"]["body_hex"]))


def missing_writes(pairs):
    """Writes that the recording left out, by the place in it, taken from what later replies show."""
    services = reply_of(pairs, "p031", "Catalog.NodeServiceList").node_services.services
    check = reply_of(pairs, "p037", "Health.ServiceChecks").health_checks[0]
    redis = RegisterRequest(datacenter="dc1", node="ext1", address="10.1.0.1", service=services[0], check=check)
    second = reply_of(pairs, "p085", "Session.List").sessions[1]
    owner = reply_of(pairs, "p085", "Session.List").sessions[0].id
    web = reply_of(pairs, "p124", "Health.ServiceNodes").nodes[0]
    warning = RegisterRequest(node="cli1", skip_node_update=True, check=web.checks[0])
    extra = reply_of(pairs, "p136", "Internal.ServiceDump").nodes[2]
    by_txn = RegisterRequest(
        id=extra.node.id, node="tn", address=extra.node.address, datacenter="dc1", node_meta=extra.node.meta,
        tagged_addresses=extra.node.tagged_addresses, service=extra.service, checks=extra.checks,
    )  # fmt: skip
    dc1 = reply_of(pairs, "p146", "FederationState.List").states[0]
    autopilot = AutopilotSetConfigRequest(config=reply_of(pairs, "p138", "Operator.AutopilotGetConfiguration"))
    return {
        "p002": (9, autopilot),
        "p012": (0, redis),
        "p050": (2, KVSRequest(op="set", dir_ent=DirEntry(key=b"dir/b", value=b"\0\1\xff\xfe"))),
        "p073": (3, SessionRequest(op="create", session=second)),
        "p074": (2, KVSRequest(op="lock", dir_ent=DirEntry(key=b"lock", value=b"me", session=owner))),
        "p095": (2, KVSRequest(op="set", dir_ent=DirEntry(key=b"t/1", value=b"a"))),
        "p099": (0, by_txn),
        "p123": (0, warning),
        "p183": (1, DeregisterRequest(node="ext1")),
        "p146": (30, FederationStateRequest(op="upsert", state=dc1)),
        "p152": (22, ConfigEntryRequest(op="upsert", entry=reply_of(pairs, "p152", "ConfigEntry.Get").entry)),
        "p133": (1, DeregisterRequest(node="cli1", check_id="nodechk")),
    }


def learn_indexes(ours, theirs, known):
    if isinstance(ours, dict) and isinstance(theirs, dict):
        if b"ModifyIndex" in theirs:
            known[theirs[b"ModifyIndex"]] = ours[b"ModifyIndex"]
        for key, value in theirs.items():
            learn_indexes(ours.get(key), value, known)
    elif isinstance(ours, list) and isinstance(theirs, list):
        for one, other in zip(ours, theirs, strict=False):
            learn_indexes(one, other, known)


def translated(body, known):
    entry = body.get(b"DirEnt")
    if isinstance(entry, dict) and entry[b"ModifyIndex"] in known:
        entry[b"ModifyIndex"] = known[entry[b"ModifyIndex"]]
    return pack(body)


def next_session_id(reply):
    return reply.decode() or "0" * 8 + "-0000-0000-0000-" + "0" * 12


async def replay():
    bench, differences, same, known, pairs = Bench(), [], [], {}, recorded()
    await populate(bench)
    missing = sorted(missing_writes(pairs).items())
    for pair in pairs:
        while missing and missing[0][0] <= pair["id"]:
            kind, request = missing.pop(0)[1]
            result = await bench.proposer.apply(kind, encode(request))
            assert not isinstance(result, Exception), result
        name, body = pair["method"], unpack(bytes.fromhex(pair["request"]["body_hex"]))
        blocking = isinstance(body, dict) and body.get(b"MinQueryIndex")
        if name not in bench.endpoints or pair["id"] in SKIPPED or blocking:
            continue
        wanted_error = pair["response"]["header"]["Error"]
        wanted = unpack(bytes.fromhex(pair["response"]["body_hex"]))
        if name == "Session.Apply":
            bench.next_id = next_session_id(b"" if wanted_error else wanted)
        error, ours = await bench.call(name, translated(body, known) if isinstance(body, dict) else pack(body))
        if error != wanted_error or (not error and masked(ours) != masked(wanted)):
            differences.append((pair["id"], name, error or ours, wanted_error or wanted))
        else:
            same.append(pair["id"])
        if not error:
            learn_indexes(ours, wanted, known)
    return same, differences


def test_replies_to_recorded_requests_are_those_of_a_real_server():
    same, differences = asyncio.run(replay())
    assert differences == []
    assert len(same) >= 130
