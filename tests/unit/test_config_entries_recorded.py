"""The recorded scenario of routers, splitters and resolvers: what is taken or refused, and the compiled chains."""

import json
from pathlib import Path

import pytest

from pyconsul_agent.errors import RPCError
from pyconsul_agent.interfaces.http.config import entry_of
from pyconsul_agent.state import config_entry
from pyconsul_agent.state.config_rules import checked
from pyconsul_agent.state.discovery_chain import Evaluation
from pyconsul_agent.state.store import Store
from pyconsul_agent.state.watch import WatchSet
from pyconsul_agent.structs.discovery_chain import DiscoveryChainRequest
from pyconsul_agent.wire import gojson, mapstructure

GOLDEN = Path(__file__).resolve().parents[2] / "conformance" / "golden" / "http"
NAME = "config/discovery-chain"


def steps():
    scenario = json.loads((GOLDEN / "scenarios" / f"{NAME}.json").read_text())["steps"]
    transcript = json.loads((GOLDEN / "transcripts" / f"{NAME}.json").read_text())["steps"]
    return list(zip([step for step in scenario if "do" in step], transcript, strict=True))


def trust_domain(chain):
    name = next(iter(chain["Targets"].values()))["Name"]
    return name.partition(".internal.")[2]


def write(store, index, method, path, body):
    """The text of a refusal, or "" when it was taken."""
    try:
        with store.begin(index) as txn:
            if method == "PUT":
                config_entry.put(txn, checked(entry_of(body)))
            else:
                config_entry.delete(txn, *path.removeprefix("/v1/config/").split("/"))
    except (RPCError, ValueError) as error:
        return str(error)
    return ""


def compiled(store, path, body, chain):
    given, _ = mapstructure.decode(DiscoveryChainRequest, body or {})
    name, _, query = path.removeprefix("/v1/discovery-chain/").partition("?")
    asked = Evaluation(
        service=name,
        datacenter="dc2" if "compile-dc=dc2" in query else "dc1",
        trust_domain=trust_domain(chain),
        mesh_gateway=given.override_mesh_gateway.mode,
        protocol=given.override_protocol,
        connect_timeout=given.override_connect_timeout,
    )
    return json.loads(gojson.encode(config_entry.discovery_chain(store, WatchSet(), asked)[1]))


def test_chains_compile_and_changes_are_refused_as_recorded():
    store, compared, refused = Store(), 0, 0
    for index, (step, recorded) in enumerate(steps(), 10):
        method, path = step["do"].split(" ", 1)
        if path.startswith("/v1/config") and method in ("PUT", "DELETE"):
            text = write(store, index, method, path, step.get("json"))
            if recorded["status"] == 200:
                assert text == "", step
            elif "circular" in text:
                assert text.startswith("detected circular resolver redirect: [loop")
            else:
                assert text == recorded["body"]["text"]
                refused += 1
        elif "discovery-chain" in path and isinstance((recorded["body"] or {}).get("json"), dict):
            chain = recorded["body"]["json"]["Chain"]
            assert compiled(store, path, step.get("json"), chain) == chain
            compared += 1
    assert (compared, refused) == (9, 9)


def test_a_stored_entry_is_shown_as_recorded():
    store, shown = Store(), 0
    for index, (step, recorded) in enumerate(steps(), 10):
        method, path = step["do"].split(" ", 1)
        if method == "PUT" and path == "/v1/config":
            write(store, index, method, path, step["json"])
        elif method == "GET" and path.startswith("/v1/config/") and recorded["status"] == 200:
            _, entry = config_entry.get(store, WatchSet(), *path.removeprefix("/v1/config/").split("/"))
            ours, theirs = json.loads(gojson.encode(entry)), recorded["body"]["json"]
            for row in (ours, theirs):
                row.pop("CreateIndex"), row.pop("ModifyIndex")
            assert ours == theirs
            assert list(ours) == list(theirs)
            shown += 1
    assert shown == 4


def splitters(count):
    entries = [{"Kind": "proxy-defaults", "Name": "global", "Config": {"protocol": "http"}}]
    entries += [
        {"Kind": "service-splitter", "Name": f"s{at}", "Splits": [{"Weight": 100, "Service": f"s{at + 1}"}]}
        for at in reversed(range(count))
    ]
    return entries


def test_splitters_without_end_are_refused_before_they_exhaust_the_stack():
    store, texts = Store(), set()
    for index, body in enumerate(splitters(150), 1):
        texts.add(write(store, index, "PUT", "", body))
    assert len(texts) == 2
    assert all("too many splitters in a row" in text for text in texts if text)


def test_splits_that_multiply_are_refused():
    store = Store()
    assert write(store, 1, "PUT", "", splitters(0)[0]) == ""
    texts = []
    for at in reversed(range(30)):
        halves = [{"Weight": 50, "Service": f"s{at + 1}"}, {"Weight": 50, "Service": f"t{at + 1}"}]
        for name in ("s", "t"):
            body = {"Kind": "service-splitter", "Name": f"{name}{at}", "Splits": halves}
            texts.append(write(store, 100 - at, "PUT", "", body))
    assert any("has too many splits" in text for text in texts)


@pytest.mark.parametrize(
    ("body", "text"),
    [
        ({"Kind": "service-router", "Name": "r", "Routes": [{"Destination": {"PrefixRewrite": "/"}}]},
         "Route[0] cannot make use of PrefixRewrite without configuring either PathExact or PathPrefix"),
        ({"Kind": "service-router", "Name": "r", "Routes": [{"Match": {"HTTP": {"Methods": ["get", "GET"]}}}]},
         'Route[0] Methods contains "GET" more than once'),
        ({"Kind": "service-splitter", "Name": "s", "Splits": [{"Weight": 50}, {"Weight": 50, "Service": "s"}]},
         'split destination occurs more than once: service="s", subset="", namespace=""'),
        ({"Kind": "service-resolver", "Name": "r", "Failover": {"v9": {"Service": "x"}}},
         'Bad Failover["v9"]: not a valid subset'),
        ({"Kind": "service-resolver", "Name": "r", "LoadBalancer": {"Policy": "x"}},
         'Bad LoadBalancer policy: "x" is not supported'),
        ({"Kind": "ingress-gateway", "Name": "g", "Listeners": [{"Port": 1, "Services": [{"Name": "*"}]}]},
         "Wildcard service name is only valid for protocol = 'http' (listener on port 1)"),
        ({"Kind": "terminating-gateway", "Name": "g", "Services": [{"Name": "a"}, {"Name": "a"}]},
         'Service "a" was specified more than once within a namespace'),
        ({"Kind": "service-intentions", "Name": "d", "Sources": [{"Name": "a", "Action": "maybe"}]},
         "Sources[0].Action must be set to 'allow' or 'deny'"),
        ({"Kind": "service-intentions", "Name": "d"}, "At least one source is required"),
        ({"Kind": "service-defaults", "Name": "*"},
         "service-defaults name must be the name of a service, and not a wildcard"),
        ({"Kind": "mesh", "Meta": {"k" * 129: "v"}},
         f'1 error occurred:\n\t* Meta key "{"k" * 129}" exceeds maximum length 128\n\n'),
    ],
)  # fmt: skip
def test_an_entry_that_makes_no_sense_is_refused_in_consuls_words(body, text):
    with pytest.raises(RPCError) as refusal:
        checked(entry_of(body))
    assert str(refusal.value) == text
