"""Which instances a prepared query wants."""

import pytest

from pyconsul_agent.errors import RPCError
from pyconsul_agent.query.near import distance_s, sort_near
from pyconsul_agent.server.endpoints.prepared_query import check_query, is_wanted
from pyconsul_agent.structs.catalog import Node, NodeService
from pyconsul_agent.structs.coordinate import VivaldiCoordinate
from pyconsul_agent.structs.health import CheckServiceNode, HealthCheck
from pyconsul_agent.structs.prepared_query import PreparedQuery, ServiceQuery


def instance(status="passing"):
    return CheckServiceNode(
        node=Node(node="a", meta={"rack": "1"}),
        service=NodeService(id="web", service="web", tags=("V1", "blue"), meta={"k": "v"}),
        checks=(HealthCheck(check_id="c", status=status),),
    )


@pytest.mark.parametrize(
    ("status", "options", "wanted"),
    [
        ("passing", {}, True),
        ("warning", {}, True),
        ("warning", {"only_passing": True}, False),
        ("critical", {}, False),
        ("critical", {"ignore_check_ids": ("c",)}, True),
        ("passing", {"tags": ("v1", "!green")}, True),
        ("passing", {"tags": ("!BLUE",)}, False),
        ("passing", {"node_meta": {"rack": "2"}}, False),
        ("passing", {"service_meta": {"k": "v"}}, True),
    ],
)
def test_an_instance_is_wanted_by_health_tags_and_metadata(status, options, wanted):
    assert is_wanted(instance(status), ServiceQuery(service="web", **options)) is wanted


@pytest.mark.parametrize(
    ("query", "words"),
    [
        (PreparedQuery(service=ServiceQuery(service="web")), "Must be bound to a session"),
        (PreparedQuery(name="q"), "Must provide a Service name to query"),
    ],
)
def test_an_invalid_query_is_refused(query, words):
    with pytest.raises(RPCError, match=f"Invalid prepared query: {words}"):
        check_query(query)


def test_rows_are_sorted_by_distance_and_unknown_nodes_come_last():
    at = {name: {"": VivaldiCoordinate(vec=(x,), height=0.001)} for name, x in (("far", 9.0), ("near", 1.0))}
    source = {"": VivaldiCoordinate(vec=(0.0,), height=0.001)}
    assert sort_near(["lost", "far", "near"], source, str, lambda name: at.get(name, {})) == ["near", "far", "lost"]


def test_a_negative_adjustment_that_would_give_a_negative_distance_is_not_used():
    coordinate = VivaldiCoordinate(vec=(0.0,), height=0.5, adjustment=-2.0)
    assert distance_s(coordinate, coordinate) == 1.0
