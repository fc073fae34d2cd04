"""User events: kept if their filters say so, and filters of strangers cost little."""

from pyconsul_agent.agent.events import Event, Events, filter_problem
from pyconsul_agent.structs.catalog import NodeService
from pyconsul_agent.structs.member import UserEvent


def taken(**parts):
    service = NodeService(id="web-1", service="web", tags=("v1", "blue"))
    events = Events("node1", lambda: {service.id: service})
    event = Event(id="1b5b2a4e-0000-4000-8000-000000000001", name="deploy", **parts)
    events.take(UserEvent(lamport_time=7, name="consul:event", payload=event.encode(), coalesce=False))
    return [kept.name for kept in events.list()]


def test_an_event_is_kept_by_those_whom_its_filters_name():
    assert taken() == ["deploy"]
    assert taken(node_filter="^node[0-9]$") == ["deploy"]
    assert taken(node_filter="^other") == []
    assert taken(service_filter="^web") == ["deploy"]
    assert taken(service_filter="^db") == []
    assert taken(service_filter="^web", tag_filter="blue") == ["deploy"]
    assert taken(service_filter="^web", tag_filter="green") == []


def test_filters_that_are_wrong_or_could_take_long_keep_nothing():
    for bad in ("[", "(a+)+$", "(" * 200, "a*a*a*a*a*b"):
        assert filter_problem(Event(id="", name="x", node_filter=bad)).startswith("Invalid node filter: ")
        assert taken(node_filter=bad) == []


def test_the_event_of_remote_execution_is_told_of_but_not_kept():
    service = Events("node1", dict)
    event = Event(id="", name="_rexec")
    taken = service.take(UserEvent(lamport_time=1, name="x", payload=event.encode(), coalesce=False))
    assert taken is not None and taken.name == "_rexec"
    assert service.list() == []
    elsewhere = Event(id="", name="_rexec", node_filter="^node2$")
    assert service.take(UserEvent(lamport_time=2, name="x", payload=elsewhere.encode(), coalesce=False)) is None
