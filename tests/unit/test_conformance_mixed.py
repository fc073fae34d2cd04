"""Mixed clusters: what is asked of a real client, and how its answers are compared."""

import json
import socket
from dataclasses import replace
from types import SimpleNamespace

import pytest

from conformance import mixed_api, mixed_client, mixed_dns
from conformance.agents import LAN_PORT, NETS_APART, Checks, claimed_net
from conformance.http_compare import Observed

ROUTES = (
    "/v1/acl/bootstrap", "/v1/acl/policies", "/v1/acl/tokens", "/v1/acl/roles", "/v1/agent/self", "/v1/agent/host",
    "/v1/agent/maintenance", "/v1/agent/reload", "/v1/agent/monitor", "/v1/agent/metrics", "/v1/agent/services",
    "/v1/agent/service/", "/v1/agent/checks", "/v1/agent/members", "/v1/agent/join/", "/v1/agent/force-leave/",
    "/v1/agent/health/service/id/", "/v1/agent/health/service/name/", "/v1/agent/check/register",
    "/v1/agent/check/deregister/", "/v1/agent/check/pass/", "/v1/agent/check/warn/", "/v1/agent/check/fail/",
    "/v1/agent/check/update/", "/v1/agent/connect/authorize", "/v1/agent/connect/ca/roots",
    "/v1/agent/connect/ca/leaf/", "/v1/agent/service/register", "/v1/agent/service/deregister/",
    "/v1/agent/service/maintenance/", "/v1/agent/token/", "/v1/catalog/register", "/v1/catalog/deregister",
    "/v1/catalog/connect/", "/v1/catalog/datacenters", "/v1/catalog/nodes", "/v1/catalog/services",
    "/v1/catalog/service/", "/v1/catalog/node/", "/v1/catalog/node-services/", "/v1/catalog/gateway-services/",
    "/v1/config", "/v1/config/", "/v1/connect/ca/configuration", "/v1/connect/ca/roots", "/v1/connect/intentions",
    "/v1/coordinate/datacenters", "/v1/coordinate/nodes", "/v1/coordinate/node/", "/v1/coordinate/update",
    "/v1/discovery-chain/", "/v1/event/fire/", "/v1/event/list", "/v1/health/node/", "/v1/health/checks/",
    "/v1/health/state/", "/v1/health/service/", "/v1/health/connect/", "/v1/health/ingress/",
    "/v1/internal/federation-states", "/v1/internal/federation-states/mesh-gateways",
    "/v1/internal/federation-state/", "/v1/internal/ui/nodes", "/v1/internal/ui/node/", "/v1/internal/ui/services",
    "/v1/internal/ui/gateway-services-nodes/", "/v1/kv/", "/v1/operator/raft/configuration", "/v1/operator/raft/peer",
    "/v1/operator/keyring", "/v1/operator/autopilot/configuration", "/v1/operator/autopilot/health", "/v1/query",
    "/v1/query/", "/v1/session/create", "/v1/session/destroy/", "/v1/session/renew/", "/v1/session/info/",
    "/v1/session/node/", "/v1/session/list", "/v1/snapshot", "/v1/status/leader", "/v1/status/peers", "/v1/txn",
)  # fmt: skip
"""Of a client with default settings. `/v1/agent/leave` ends it, and is the interrupt's way as well."""


def asked():
    steps = [step for name in mixed_api.names() for step in mixed_api.steps_of(name)["steps"]]
    return {step["do"].split(" ")[1].partition("?")[0] for step in steps if "do" in step}


@pytest.mark.parametrize("route", ROUTES)
def test_every_route_is_asked_of_the_real_client(route):
    paths = asked()
    assert any(path.startswith(route) and path != route for path in paths) if route.endswith("/") else route in paths


def test_scenarios_of_special_agents_are_not_played():
    names = mixed_api.names()
    assert "kv/basic" in names and len(names) > 40
    assert not {"session/ttl", "client/forwarding", "acl/tokens", "agent/services"} & set(names)


def test_events_have_other_names_in_each_turn_since_agents_keep_them():
    first, second = (json.dumps(mixed_api.steps_of("event/fire-list", turn)) for turn in (1, 2))
    assert "/v1/event/fire/deploy?" in first and "/v1/event/fire/deploy-2?" in second
    assert mixed_api.steps_of("kv/basic", 1) == mixed_api.steps_of("kv/basic", 2)


def text(value):
    return Observed(status=500, body={"text": value})


def test_errors_are_equal_however_many_servers_passed_them_on():
    once, twice = text("rpc error making call: x"), text("rpc error making call: rpc error making call: x")
    assert mixed_api.hops(once, 1) == mixed_api.hops(twice, 1) == once
    assert mixed_api.hops(twice, 0) == text("x") != mixed_api.hops(text("y"), 0)


class Side:
    """A client whose answers a test gives."""

    def __init__(self, body, headers=None):
        self.answer = Observed(status=200, headers=headers or {}, body={"json": body, "style": "compact"})


@pytest.mark.parametrize(
    ("ours", "real", "recorded", "good"),
    [
        ({"a": 1}, {"a": 1}, {"a": 2}, True),
        ({"a": 2}, {"a": 1}, {"a": 2}, True),
        ({"a": 3}, {"a": 1}, {"a": 2}, False),
    ],
)
def test_an_answer_must_be_that_of_the_real_side_or_the_recorded_one(monkeypatch, tmp_path, ours, real, recorded, good):
    monkeypatch.setattr(mixed_api, "SCENARIOS", tmp_path / "scenarios")
    monkeypatch.setattr(mixed_api, "TRANSCRIPTS", tmp_path / "transcripts")
    for folder in ("scenarios", "transcripts"):
        (tmp_path / folder).mkdir()
    (tmp_path / "scenarios" / "x.json").write_text(json.dumps({"steps": [{"do": "GET /x"}]}))
    answer = {"status": 200, "headers": {"New": "1"}, "body": {"json": recorded, "style": "compact"}}
    (tmp_path / "transcripts" / "x.json").write_text(json.dumps({"steps": [answer]}))

    class Play:
        def __init__(self, scenario, side):
            self.side = side

        def steps(self):
            return [self.side.answer]

    monkeypatch.setattr(mixed_api, "Play", Play)
    count, problems = mixed_api.compared("x", Side(ours), Side(real))
    assert (count, problems == []) == (1, good)
    with_header = mixed_api.compared("x", Side(ours, {"Odd": "1"}), Side(real))[1]
    assert any("header Odd" in problem for problem in with_header)
    late = Side(real)
    late.answer = replace(late.answer, took="too long")
    assert mixed_api.compared("x", Side({"a": 9}), late) == (0, []), "it is not compared, and not counted"


@pytest.mark.parametrize(
    ("line", "flap"),
    [
        ("[INFO]  agent.server.serf.lan: serf: EventMemberFailed: node-a 127.0.5.5", True),
        ("[INFO]  agent.client.memberlist.lan: memberlist: Marking node-a as failed, suspect timeout reached", True),
        ("[WARN]  agent.client.memberlist.lan: memberlist: Refuting a suspect message (from: server1)", False),
    ],
)
def test_only_who_was_taken_for_failed_has_flapped(line, flap):
    assert bool(mixed_client.FLAP.search(line)) is flap


class Quiet:
    """An agent whose log a test gives."""

    name = "server1"

    def __init__(self, *lines):
        self.log_lines = lambda: list(lines)


def clients(*lines):
    """A client with such a log on quiet servers, and a quiet one to compare with."""
    return [SimpleNamespace(agent=Quiet(*log), servers=[Quiet()]) for log in (lines, ())]


SUSPECT = "[WARN]  agent.client.memberlist.lan: memberlist: Suspect server1 has failed, no acks received"


@pytest.mark.parametrize(("count", "good"), [(0, True), (129, True), (131, False), (600, False)])
def test_suspicions_of_a_busy_machine_are_allowed_and_those_of_pings_that_nobody_understands_are_not(count, good):
    checks = Checks()
    mixed_client.calm(checks, *clients(*[SUSPECT] * count), 600.0)
    assert (checks.failed == 0) is good


def test_complaints_are_told_apart_by_what_they_say_not_by_numbers():
    class Logged:
        def log_lines(self):
            return [
                "2026-11-23T07:00:00.000Z [WARN]  agent: took 3.1s at server1",
                "2026-11-23T07:00:09.000Z [WARN]  agent: took 4.2ms at server2",
                "2026-11-23T07:00:10.000Z [ERROR] agent: rpc error making call: something else",
                "2026-11-23T07:00:10.000Z [ERROR] agent: rpc error making call: rpc error making call: something else",
                "2026-11-23T07:00:11.000Z [INFO]  agent: took 3.1s at server1",
            ]

    assert len(mixed_client.complaints(Logged())) == 2


@pytest.mark.parametrize(
    ("line", "may"),
    [
        ('[ERROR] agent.client: RPC failed to server: method=KVS.Get server=127.0.5.2:8300 error="x"', True),
        ('[ERROR] agent.client: RPC failed to server: method=Coordinate.Update server=127.0.5.2:8300 error="x"', False),
        ('[ERROR] agent.anti_entropy: failed to sync remote state: error="rpc error making call: EOF"', False),
    ],
)
def test_a_client_may_complain_of_what_was_asked_but_not_of_what_it_does_by_itself(line, may):
    assert bool(mixed_client.CLIENT_MAY_SAY.search(line)) is may


def test_two_programs_never_have_one_net():
    try:
        with claimed_net("127.0.5") as first, claimed_net("127.0.5") as second:
            assert first != second
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other, pytest.raises(OSError):
                other.bind((f"{second}.254", LAN_PORT))
    except OSError as error:
        pytest.fail(f"{error}; nets are {NETS_APART} apart")


def test_dns_is_asked_for_every_name_and_type_by_both_transports():
    questions = mixed_dns.questions()
    assert len(questions) == len(set(questions)) > 400
    assert {kind for _, kind, _ in questions} == {*mixed_dns.KINDS, "PTR"}
