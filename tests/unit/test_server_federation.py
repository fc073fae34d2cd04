"""Federation states: a leader tells its own, copies the primary's, and forgets datacenters that are gone."""

import asyncio
from dataclasses import replace

import pytest

from pyconsul_agent.errors import RPCError
from pyconsul_agent.fsm.machine import StateMachine
from pyconsul_agent.serf.consul import ServerInfo
from pyconsul_agent.server.blocking import Blocking
from pyconsul_agent.server.leader import federation as room
from pyconsul_agent.server.leader.federation import Federation, Places
from pyconsul_agent.state import registration
from pyconsul_agent.state.store import Store
from pyconsul_agent.structs.base import GoTime
from pyconsul_agent.structs.catalog import NodeService
from pyconsul_agent.structs.federation import (
    FederationState,
    FederationStateQuery,
    FederationStateRequest,
    IndexedFederationStates,
)
from pyconsul_agent.structs.raft import EntryType, LogEntry
from pyconsul_agent.structs.requests import RegisterRequest
from pyconsul_agent.wire import msgpack
from tests.memory_net import Clock, Recorder, run


class Leadership:
    is_leader, leader_address, last_contact_s, lease_valid = True, "10.0.0.1:8300", 0.0, True


class World:
    """A leader of `own`; calls to the primary end in `remote`, which a test may replace. Writes take effect at once."""

    is_leader = True

    def __init__(self, own="dc1", primary="dc1", features=None):
        self.store, self.log, self.index = Store(), Recorder(), 10
        self.machine = StateMachine(self.store, lambda: 0.0, warn=print)
        self.asked, self.written = [], []
        self.features = {"fs": 1} if features is None else features
        self.known = {own, primary}
        self.places = Places(own=own, primary=primary, servers_in=self.servers_in, is_known=self.known.__contains__)
        self.duties = Federation(self.store, self, self.blocking(), self.call, self.places, Clock(), self.log)

    def blocking(self):
        class Draw:
            def random(self):
                return 0.0

        return Blocking(self.store, Leadership(), Draw())

    def servers_in(self, name):
        info = ServerInfo(name=name, id="", address="10.0.0.1", port=8300, datacenter=name, features=self.features)
        return [info] if name in self.known else []

    async def apply(self, kind, body):
        self.written.append(msgpack.decode(FederationStateRequest, body))
        self.index += 1
        return self.machine.apply(LogEntry(index=self.index, term=1, type=EntryType.COMMAND, data=bytes([kind]) + body))

    async def call(self, method, request):
        self.asked.append((asyncio.get_running_loop().time(), method.name, request))
        return await self.remote(method, request)

    async def remote(self, method, request):
        return await self.apply(room.FEDERATION_STATE, msgpack.encode(request))

    def register(self, **service):
        self.index += 1
        service = NodeService(id="gw", service="gw", kind="mesh-gateway", **service)
        with self.store.begin(self.index) as txn:
            registration.register(txn, RegisterRequest(node="n", address="10.0.0.9", service=service))

    def states(self):
        return {row.datacenter: row for row in self.store.tables.federation_states.scan()}

    def live(self, duty, seconds, *steps):
        """Run a duty so long; `steps` are (time, function) on the way."""

        async def main():
            loop = asyncio.get_running_loop()
            for at, step in steps:
                loop.call_at(at, step)
            task = loop.create_task(duty())
            await asyncio.sleep(seconds)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

        run(main())


def test_leader_of_an_empty_datacenter_writes_its_state_once():
    world = World()
    world.live(world.duties.tell, 4000)
    assert [(name, request.op) for _, name, request in world.asked] == [("FederationState.Apply", "upsert")]
    state = world.states()["dc1"]
    assert (state.mesh_gateways, state.modify_index, state.primary_modify_index) == (None, 11, 11)
    assert state.updated_at.offset_minutes == -1 and not state.updated_at.is_zero


def test_new_leader_does_not_repeat_a_state_that_is_right():
    world = World()
    world.register(port=443)
    world.live(world.duties.tell, 10)
    world.live(world.duties.tell, 400)
    assert len(world.written) == 1


def test_mesh_gateways_are_told_when_they_come_change_and_go():
    world = World()

    def gone():
        world.index += 1
        with world.store.begin(world.index) as txn:
            registration.deregister(txn, "n", "gw", "")

    steps = [(10, lambda: world.register(port=443)), (20, lambda: world.register(port=8443)), (30, gone)]
    world.live(world.duties.tell, 100, *steps)
    told = [[row.service.port for row in request.state.mesh_gateways or ()] for request in world.written]
    assert told == [[], [443], [8443], []]
    assert [at for at, _, _ in world.asked] == pytest.approx([0, 10, 20, 30], abs=0.1)


def test_writes_of_other_services_do_not_wake_the_duty(monkeypatch):
    world, looks = World(), []
    dump = room.health.service_dump
    monkeypatch.setattr(room.health, "service_dump", lambda *more: looks.append(1) or dump(*more))

    def other():
        world.index += 1
        with world.store.begin(world.index) as txn:
            service = NodeService(id="web", service="web")
            registration.register(txn, RegisterRequest(node="m", address="10.0.0.8", service=service))

    world.live(world.duties.tell, 100, (20, lambda: looks.clear()), *((at, other) for at in range(30, 60)))
    assert looks == []


def test_flapping_gateways_are_told_at_most_every_few_seconds():
    world = World()
    steps = [(10 + number / 10, lambda port=number: world.register(port=port + 1)) for number in range(100)]
    world.live(world.duties.tell, 60, *steps)
    assert len(world.asked) <= 5
    assert world.states()["dc1"].mesh_gateways[0].service.port == 100


def test_nothing_is_written_beside_servers_that_do_not_know_federation_states():
    world = World(features={})
    world.live(world.duties.tell, 60, (30, lambda: world.features.update(fs=1)))
    assert [at for at, _, _ in world.asked] == pytest.approx([30], abs=room.PAUSE_S)


def test_secondary_tells_the_primary_and_goes_on_when_it_cannot():
    world = World(own="dc2", primary="dc1")

    async def unreachable(method, request):
        raise RPCError("No path to datacenter")

    world.remote = unreachable
    world.live(world.duties.tell, 1000)
    assert {request.datacenter for _, _, request in world.asked} == {"dc1"}
    assert [round(at) for at, _, _ in world.asked] == [0, 2, 6, 14, 30, 62, 126, 254, 510, 766]
    assert len(world.log.messages("error")) == 10


def test_secondary_copies_what_the_primary_has():
    world = World(own="dc2", primary="dc1")
    row = FederationState(datacenter="dc1", updated_at=GoTime(1, 0), modify_index=6, create_index=6)
    there = [IndexedFederationStates(index=6, states=(row,))]
    there.append(IndexedFederationStates(index=9, states=(replace(row, datacenter="dc2", modify_index=9),)))

    async def remote(method, request):
        if there and request.min_query_index < there[0].index:
            return there.pop(0)
        await asyncio.sleep(300)
        return IndexedFederationStates(index=9, states=(replace(row, datacenter="dc2", modify_index=9),))

    world.remote = remote
    world.live(world.duties.copy, 1000)
    done = [(request.op, request.state.datacenter, request.state.primary_modify_index) for request in world.written]
    assert done == [("upsert", "dc1", 6), ("delete", "dc1", 6), ("upsert", "dc2", 9)]
    assert list(world.states()) == ["dc2"]


def test_primary_forgets_datacenters_of_which_no_server_is_known():
    world = World()
    world.known.add("dc2")
    for name in ("dc1", "dc2", "dc3"):
        request = FederationStateRequest(op="upsert", state=FederationState(datacenter=name, updated_at=GoTime(1, 0)))
        run(world.apply(room.FEDERATION_STATE, msgpack.encode(request)))
    world.live(world.duties.prune, 3700)
    assert sorted(world.states()) == ["dc1", "dc2"]


@pytest.mark.parametrize(("own", "names"), [("dc1", {"tell", "prune"}), ("dc2", {"tell", "copy"})])
def test_duties_differ_between_the_primary_and_the_others(own, names):
    world = World(own=own, primary="dc1")
    assert {duty.__name__ for _, duty in world.duties.duties()} == names


def test_query_goes_to_the_target_datacenter_and_asks_for_the_other_name():
    query = FederationStateQuery(datacenter="dc1", target_datacenter="dc9")
    assert msgpack.encode(query).count(b"\xaaDatacenter\xa3dc9") == 1
    assert msgpack.encode(query).count(b"\xb0TargetDatacenter\xa3dc1") == 1
