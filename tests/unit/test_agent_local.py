"""The agent's own services and checks against the catalog, and the driver that brings them in line."""

import asyncio
import random
from dataclasses import replace

import pytest

from pyconsul_agent.agent import antientropy
from pyconsul_agent.agent.antientropy import AntiEntropy, scale
from pyconsul_agent.agent.local import LocalState, NodeInfo, Tokens
from pyconsul_agent.errors import RPCError
from pyconsul_agent.structs.catalog import Node, NodeService, NodeServiceList
from pyconsul_agent.structs.health import HealthCheck
from pyconsul_agent.structs.methods import Empty
from pyconsul_agent.structs.requests import (
    DeregisterRequest,
    IndexedHealthChecks,
    IndexedNodeServiceList,
    RegisterRequest,
)
from tests.builders import run_sim
from tests.unit.http_bench import SilentLog

INFO = NodeInfo("n1", "id-1", "10.0.0.1", "dc1", {"lan": "10.0.0.1"}, {"a": "b"})
NODE = Node(id="id-1", node="n1", address="10.0.0.1", tagged_addresses={"lan": "10.0.0.1"}, meta={"a": "b"})
WEB = NodeService(id="web1", service="web", tags=("t",), port=80)
CHECK = HealthCheck(node="n1", check_id="c", name="c", status="passing", service_id="web1")


def make(**options):
    changes = []
    state = LocalState(INFO, changed=lambda: changes.append(1), **options)
    return state, changes


def perform(state):
    writes = state.plan()
    for write in writes:
        state.done(write)
    return writes


def test_everything_new_is_planned_once():
    state, changes = make()
    state.add_service(WEB)
    state.add_check(CHECK)
    assert len(changes) == 2
    writes = perform(state)
    assert [write.services for write in writes] == [(), ("web1",)]
    assert writes[1].checks == ("c",)
    assert writes[1].request.check.service_name == "web"
    assert state.plan() == []


def test_a_check_takes_name_and_tags_of_its_service_and_needs_it():
    state, _ = make()
    with pytest.raises(ValueError, match="refers to non-existent service"):
        state.add_check(CHECK)
    state.add_service(WEB)
    state.add_check(CHECK)
    check = state.check("c")
    assert (check.service_name, check.service_tags) == ("web", ("t",))


def test_checks_with_another_token_than_their_service_travel_alone():
    state, _ = make(tokens=Tokens(user="user", agent="agent"))
    state.add_service(WEB, "one")
    state.add_check(CHECK, "two")
    node, service, check = state.plan()
    assert (node.request.token, service.request.token, check.request.token) == ("agent", "one", "two")
    assert service.request.check is None
    assert check.request.service.id == "web1"


def test_a_removed_service_stays_until_its_removal_is_confirmed_and_takes_its_checks_along():
    state, _ = make(tokens=Tokens(user="user", agent="agent"))
    state.add_service(WEB)
    state.add_check(CHECK)
    perform(state)
    assert state.remove_service("web1")
    assert not state.remove_service("web1")
    assert state.service("web1") is None
    assert state.check("c") is None
    (write,) = state.plan()
    assert write.removes
    assert (write.request.service_id, write.request.token) == ("web1", "agent")
    state.done(write)
    assert state.plan() == []
    assert state.services == {} == state.checks


def test_a_change_during_a_write_stays_out_of_sync():
    state, _ = make()
    state.add_service(WEB)
    writes = state.plan()
    state.add_service(replace(WEB, port=81))
    for write in writes:
        state.done(write)
    (again,) = state.plan()
    assert again.request.service.port == 81


def test_what_only_the_catalog_has_is_removed_except_consuls_own():
    state, _ = make()
    foreign = NodeService(id="x", service="x")
    state.compare(
        NODE,
        [foreign, NodeService(id="consul", service="consul")],
        [HealthCheck(node="n1", check_id="old"), HealthCheck(node="n1", check_id="serfHealth")],
    )
    assert [(w.request.service_id, w.request.check_id) for w in state.plan()] == [("x", ""), ("", "old")]


@pytest.mark.parametrize(
    ("theirs", "in_sync"),
    [
        (replace(WEB, create_index=5, modify_index=9), True),
        (replace(WEB, meta={}), True),
        (replace(WEB, tags=("t", "u")), False),
        (replace(WEB, port=81), False),
    ],
)
def test_comparing_services(theirs, in_sync):
    state, _ = make()
    state.add_service(WEB)
    state.compare(NODE, [theirs], [])
    assert (state.plan() == []) is in_sync


def test_tags_of_the_catalog_win_where_the_service_allows_it():
    state, _ = make()
    state.add_service(replace(WEB, enable_tag_override=True))
    state.compare(NODE, [replace(WEB, enable_tag_override=True, tags=("theirs",))], [])
    assert state.service("web1").tags == ("theirs",)
    assert state.plan() == []


@pytest.mark.parametrize("change", [{"meta": {}}, {"tagged_addresses": {}}, {"id": "other"}])
def test_a_node_that_differs_is_written(change):
    state, _ = make()
    state.compare(replace(NODE, **change), [], [])
    (write,) = state.plan()
    assert write.node
    assert not write.request.skip_node_update


def test_the_address_alone_is_not_compared():
    state, _ = make()
    state.compare(replace(NODE, address="1.2.3.4"), [], [])
    assert state.plan() == []


def test_a_refused_write_waits_for_the_next_comparison():
    state, _ = make()
    state.add_service(WEB)
    for write in state.plan():
        state.accept_denial(write)
    assert state.plan() == []
    state.compare(NODE, [], [])
    assert [write.services for write in state.plan()] == [("web1",)]


def test_a_new_status_is_sent_and_new_output_alone_is_deferred():
    state, changes = make()
    state.add_check(replace(CHECK, service_id=""))
    perform(state)
    changes.clear()
    assert not state.update_check("c", "passing", "", 1.0, defer_output=True)
    assert state.update_check("c", "passing", "new", 1.0, defer_output=True)
    assert not state.update_check("c", "passing", "newer", 1.0, defer_output=True)
    assert changes == []
    assert state.plan() == []
    state.end_deferral("c")
    assert changes == [1]
    assert state.plan()[0].request.check.output == "newer"
    assert not state.update_check("c", "warning", "w", 1.0, defer_output=True)
    assert len(changes) == 2


def test_an_output_may_be_discarded():
    state, _ = make(discard_output=True)
    state.add_check(replace(CHECK, service_id="", output="secret"))
    state.update_check("c", "critical", "more", 1.0, defer_output=False)
    assert state.check("c").output == ""


def test_critical_time_counts_from_the_first_of_a_row():
    state, _ = make()
    state.add_service(WEB)
    state.add_check(CHECK)
    state.update_check("c", "critical", "", 10.0, defer_output=False)
    state.update_check("c", "critical", "again", 50.0, defer_output=False)
    assert state.critical_too_long({"c": 60.0}, 70.0) == []
    assert state.critical_too_long({"c": 60.0}, 70.1) == ["web1"]
    state.update_check("c", "passing", "", 80.0, defer_output=False)
    assert state.critical_too_long({"c": 60.0}, 1000.0) == []


def test_watchers_hear_of_a_services_checks_until_they_leave():
    state, _ = make()
    heard = []
    state.watch(heard.append)
    state.add_service(WEB)
    state.add_check(CHECK)
    state.unwatch(heard.append)
    state.remove_service("web1")
    assert heard == ["web1", "web1"]


# --- the driver -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("members", "factor"), [(1, 1), (128, 1), (129, 2), (256, 2), (512, 3), (8192, 7)])
def test_big_clusters_sync_slower(members, factor):
    assert scale(members) == factor


class Servers:
    """A catalog that keeps what it is told. `failures` are raised first."""

    def __init__(self):
        self.writes = []
        self.reads = 0
        self.failures = []
        self.node = None
        self.services = {}
        self.checks = {}

    async def call(self, method, request):
        if self.failures:
            raise self.failures.pop(0)
        if method.name == "Catalog.NodeServiceList":
            self.reads += 1
            listed = NodeServiceList(node=self.node, services=tuple(self.services.values()) or None)
            return IndexedNodeServiceList(node_services=listed)
        if method.name == "Health.NodeChecks":
            return IndexedHealthChecks(health_checks=tuple(self.checks.values()) or None)
        self.writes.append(request)
        if isinstance(request, RegisterRequest):
            if not request.skip_node_update:
                self.node = Node(id=request.id, node=request.node, address=request.address,
                                 tagged_addresses=request.tagged_addresses, meta=request.node_meta)  # fmt: skip
            if request.service:
                self.services[request.service.id] = request.service
            for check in (*((request.check,) if request.check else ()), *(request.checks or ())):
                self.checks[check.check_id] = check
        elif isinstance(request, DeregisterRequest):
            self.services.pop(request.service_id, None)
            self.checks.pop(request.check_id, None)
        return Empty()


def drive(scenario, **options):
    async def whole(world):
        servers, log = Servers(), SilentLog()
        state = LocalState(INFO, changed=lambda: sync.changed())
        sync = AntiEntropy(state, servers, log, random.Random(1), cluster_size=lambda: 3)
        task = asyncio.create_task(sync.run())
        try:
            return await scenario(world, state, sync, servers)
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    return run_sim(1, whole, **options)


def test_the_first_sync_is_at_once_and_changes_follow_at_once():
    async def scenario(world, state, sync, servers):
        await asyncio.sleep(0.1)
        assert servers.node is not None
        state.add_service(WEB)
        await asyncio.sleep(0.1)
        assert list(servers.services) == ["web1"]
        assert servers.writes[-1].skip_node_update
        state.remove_service("web1")
        await asyncio.sleep(0.1)
        assert servers.services == {}
        assert servers.reads == 1

    drive(scenario)


def test_a_foreign_change_is_undone_within_two_minutes():
    async def scenario(world, state, sync, servers):
        state.add_service(WEB)
        await asyncio.sleep(1)
        servers.services["web1"] = replace(WEB, port=1)
        servers.services["x"] = NodeService(id="x", service="x")
        await asyncio.sleep(2 * antientropy.INTERVAL_S + 1)
        assert {service.port for service in servers.services.values()} == {80}
        assert list(servers.services) == ["web1"]

    drive(scenario)


def test_a_failed_full_sync_is_retried_within_half_a_minute():
    async def scenario(world, state, sync, servers):
        servers.failures = [RPCError("No cluster leader")]
        await asyncio.sleep(1)
        assert servers.node is None
        await asyncio.sleep(2 * antientropy.RETRY_S)
        assert servers.node is not None

    drive(scenario)


def test_a_new_server_is_told_within_seconds():
    async def scenario(world, state, sync, servers):
        await asyncio.sleep(1)
        sync.server_appeared()
        await asyncio.sleep(antientropy.SERVER_UP_STAGGER_S + 0.1)
        assert servers.reads == 2

    drive(scenario)


def test_a_pause_gathers_changes():
    async def scenario(world, state, sync, servers):
        await asyncio.sleep(1)
        count = len(servers.writes)
        sync.pause()
        state.add_service(WEB)
        state.add_check(CHECK)
        await asyncio.sleep(1)
        assert len(servers.writes) == count
        sync.resume()
        await asyncio.sleep(1)
        assert len(servers.writes) == count + 1

    drive(scenario)


def test_a_denied_write_does_not_hold_up_the_others_nor_is_it_repeated():
    async def scenario(world, state, sync, servers):
        await asyncio.sleep(1)
        sync.pause()
        state.add_service(WEB)
        state.add_service(NodeService(id="other", service="other"))
        servers.failures = [RPCError("Permission denied")]
        sync.resume()
        await asyncio.sleep(10)
        assert list(servers.services) == ["other"]

    drive(scenario)
