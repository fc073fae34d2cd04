"""Watches as values: what they ask, when there is news, how handlers are named, and the shapes handed over."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyconsul_agent.watch import handler, shapes
from pyconsul_agent.watch.handler import HTTP, Script
from pyconsul_agent.watch.plan import RETRY_S_MAX, TYPES, BadWatch, Failure, News, parse


def body(value):
    return json.dumps(value).encode()


@pytest.mark.parametrize(
    ("definition", "path", "query"),
    [
        ({"type": "key", "key": "a/b"}, "/v1/kv/a/b", {}),
        ({"type": "keyprefix", "prefix": "a/", "stale": True}, "/v1/kv/a/", {"recurse": "", "stale": ""}),
        ({"type": "services", "datacenter": "dc2"}, "/v1/catalog/services", {"dc": "dc2"}),
        ({"type": "nodes", "filter": "Node == a"}, "/v1/catalog/nodes", {"filter": "Node == a"}),
        (
            {"type": "service", "service": "web", "tag": ["a", "b"], "passingonly": True},
            "/v1/health/service/web",
            {"tag": ["a", "b"], "passing": "1"},
        ),
        ({"type": "service", "service": "web", "tag": "a"}, "/v1/health/service/web", {"tag": ["a"]}),
        ({"type": "checks"}, "/v1/health/state/any", {}),
        ({"type": "checks", "state": "critical"}, "/v1/health/state/critical", {}),
        ({"type": "checks", "service": "web"}, "/v1/health/checks/web", {}),
        ({"type": "event", "name": "deploy"}, "/v1/event/list", {"name": "deploy"}),
    ],
)
def test_each_type_asks_its_endpoint(definition, path, query):
    request = parse(definition).request()
    assert (request.path, request.query) == (path, query)


@pytest.mark.parametrize(
    ("definition", "text"),
    [
        ({}, "Watch type must be specified"),
        ({"type": "zz"}, "Unsupported watch type: zz"),
        ({"type": "connect_roots"}, "Type connect_roots is not supported in the CLI tool"),
        ({"type": "key"}, "Must specify a single key to watch"),
        ({"type": "keyprefix"}, "Must specify a single prefix to watch"),
        ({"type": "service"}, "Must specify a single service to watch"),
        ({"type": "checks", "service": "a", "state": "any"}, "Cannot specify service and state"),
        ({"type": "key", "key": 1}, "Expecting key to be a string"),
        ({"type": "nodes", "stale": "yes"}, "Expecting stale to be a boolean"),
        ({"type": "service", "service": "a", "tag": 1}, "Expecting tag to be a string or []string"),
        ({"type": "service", "service": "a", "tag": ["a", 1]}, "Index 1 of tag expected to be string"),
        ({"type": "nodes", "key": "a", "name": "b"}, "Invalid parameters: [key name]"),
        ({"type": "event", "stale": True}, "Invalid parameters: [stale]"),
    ],
)
def test_a_definition_that_is_none_is_refused_with_consuls_words(definition, text):
    with pytest.raises(BadWatch) as refused:
        parse(definition)
    assert str(refused.value) == text


def test_the_first_answer_is_news_also_when_there_is_nothing():
    plan = parse({"type": "key", "key": "a"})
    assert plan.answered(404, 7, b"") == News(None, 7)
    assert plan.request().query == {"index": "7"}


def test_only_a_changed_answer_is_news():
    plan = parse({"type": "services"})
    assert isinstance(plan.answered(200, 5, body({"web": ["a"]})), News)
    assert plan.answered(200, 5, body({"web": ["b"]})) is None  # the wait was over: same index
    assert plan.answered(200, 6, body({"web": ["a"]})) is None  # something else changed
    assert plan.answered(200, 7, body({"web": ["b"]})) == News({"web": ["b"]}, 7)


def test_an_index_that_went_back_starts_over():
    plan = parse({"type": "services"})
    plan.answered(200, 50, body({}))
    assert plan.answered(200, 3, body({"a": []})) == News({"a": []}, 3)
    assert plan.request().query == {}


def test_failures_wait_longer_and_longer_but_not_for_ever():
    plan = parse({"type": "nodes"})
    waits = [plan.failed("x").retry_s for _ in range(10)]
    assert waits[:3] == [5.0, 20.0, 45.0]
    assert waits[-1] == RETRY_S_MAX
    plan.answered(200, 1, body([]))
    assert plan.failed("x").retry_s == 5.0


def test_after_a_failure_the_same_answer_is_no_news():
    plan = parse({"type": "services"})
    plan.answered(200, 5, body({"web": []}))
    plan.failed("gone")
    assert plan.request().query == {}
    assert plan.answered(200, 5, body({"web": []})) is None


def test_a_refusal_is_a_failure_with_the_servers_words_but_for_keys():
    nodes, key = parse({"type": "nodes"}), parse({"type": "key", "key": "a"})
    assert nodes.answered(500, 0, b"No cluster leader\n") == Failure(
        "Unexpected response code: 500 (No cluster leader)", 5.0
    )
    assert key.answered(403, 0, b"Permission denied") == Failure("Unexpected response code: 403", 5.0)


@given(st.sampled_from(TYPES), st.binary(max_size=200))
def test_any_answer_is_news_or_a_failure(kind, data):
    needed = {"key": {"key": "a"}, "keyprefix": {"prefix": "a"}, "service": {"service": "a"}}
    outcome = parse({"type": kind, **needed.get(kind, {})}).answered(200, 1, data)
    assert isinstance(outcome, News | Failure)


EVENTS = [
    {"ID": f"{n:08x}-0000-4000-8000-000000000000", "Name": "deploy", "Payload": None, "Version": 1, "LTime": n}
    for n in (1, 2, 3)
]


def index_of(event):
    digits = event["ID"].replace("-", "")
    return int(digits[:16], 16) ^ int(digits[16:], 16)


def test_events_are_told_once_each_also_across_a_failure():
    plan = parse({"type": "event"})
    first = plan.answered(200, index_of(EVENTS[1]), body(EVENTS[:2]))
    assert [event["LTime"] for event in first.value] == [1, 2]
    plan.failed("gone")
    assert plan.answered(200, index_of(EVENTS[1]), body(EVENTS[:2])) is None
    second = plan.answered(200, index_of(EVENTS[2]), body(EVENTS))
    assert [event["LTime"] for event in second.value] == [3]


def test_news_are_printed_as_go_prints_them():
    news = News({"Key": "<a>", "Value": None}, 3)
    assert news.compact() == b'{"Key":"\\u003ca\\u003e","Value":null}\n'
    assert news.pretty() == '{\n    "Key": "\\u003ca\\u003e",\n    "Value": null\n}'


def test_a_service_has_the_keys_of_the_go_client_in_its_order():
    source = {"Address": "", "ID": "w", "Service": "web", "Tags": [], "Meta": {"b": "1", "a": "2"}, "Port": 1,
              "Weights": {"Passing": 1, "Warning": 1}, "Proxy": {"Mode": "", "MeshGateway": {}, "Expose": {}},
              "Connect": {}, "RaftIndex": 1, "TaggedAddresses": {}}  # fmt: skip
    shaped = shapes.service(source)
    assert list(shaped) == [
        "ID", "Service", "Tags", "Meta", "Port", "Address", "Weights", "EnableTagOverride", "Proxy", "Connect",
    ]  # fmt: skip
    assert list(shaped["Meta"]) == ["a", "b"]
    assert shaped["Proxy"] == {"MeshGateway": {}, "Expose": {}}


# --- handlers ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("definition", "wanted"),
    [
        ({"args": ["/bin/x", "a b"]}, Script(("/bin/x", "a b"))),
        ({"args": "x y"}, Script(("/bin/sh", "-c", "x y"))),
        ({"handler": "x y", "handler_type": "script"}, Script(("/bin/sh", "-c", "x y"))),
        ({"handler_type": "http", "http_handler_config": {"path": "http://a"}}, HTTP("http://a")),
        (
            {"handler_type": "http", "http_handler_config": [{
                "path": "http://a", "method": "PUT", "timeout": "3s", "tls_skip_verify": True,
                "header": {"X": ["1", "2"], "Y": "3"},
            }]},
            HTTP("http://a", "PUT", (("X", "1"), ("X", "2"), ("Y", "3")), 3.0, True),
        ),
    ],
)  # fmt: skip
def test_handlers_of_definitions(definition, wanted):
    assert handler.parse(definition, {}) == wanted


@pytest.mark.parametrize(
    ("definition", "text"),
    [
        ({}, "Must define a watch handler"),
        ({"handler": "x", "args": ["y"]}, "Only one watch handler allowed"),
        ({"handler_type": "http"}, "requires 'http_handler_config'"),
        ({"handler_type": "http", "http_handler_config": {}}, "Requires 'path' to be set"),
        ({"handler_type": "http", "http_handler_config": {"path": "a", "timeout": "x"}}, "Failed to parse timeout"),
        ({"handler_type": "http", "http_handler_config": {"path": "a", "header": {"x": 1}}}, "header x"),
        ({"handler_type": "mail", "handler": "x"}, "not recognized"),
        ({"args": [1]}, "Watch args must be a list of strings"),
    ],
)
def test_handlers_that_are_none(definition, text):
    with pytest.raises(BadWatch) as refused:
        handler.parse(definition, {})
    assert text in str(refused.value)


def test_the_users_shell_runs_a_text_and_learns_the_index():
    assert handler.shell_arguments("a | b", {"SHELL": "/bin/zsh"}) == ("/bin/zsh", "-c", "a | b")
    assert handler.environment({"A": "1"}, 7) == {"A": "1", "CONSUL_INDEX": "7"}
    assert handler.headers(HTTP("u", headers=(("A", "b"),)), News(None, 7)) == [
        ("Content-Type", "application/json"), ("X-Consul-Index", "7"), ("A", "b"),
    ]  # fmt: skip
