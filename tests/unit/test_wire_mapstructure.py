"""Lenient decoding of configuration: what stands for what, and what is said of the rest."""

import contextlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pyconsul_agent.interfaces.http.config import entry_of
from pyconsul_agent.structs.config_entry import ProxyConfigEntry, ServiceConfigEntry
from pyconsul_agent.structs.config_routing import ServiceResolverConfigEntry, ServiceRouterConfigEntry
from pyconsul_agent.wire.mapstructure import decode


def test_names_match_in_any_case_and_with_underscores():
    entry, unused = decode(ServiceConfigEntry, {"name": "web", "EXTERNAL_SNI": "x", "mesh_gateway": {"mode": "local"}})
    assert (entry.name, entry.external_sni, entry.mesh_gateway.mode, unused) == ("web", "x", "local", [])


def test_values_of_other_types_stand_for_what_is_wanted():
    entry, _ = decode(
        ServiceConfigEntry, {"Protocol": 5, "Expose": {"Checks": "true", "Paths": {"ListenerPort": "80"}}}
    )
    assert (entry.protocol, entry.expose.checks, entry.expose.paths[0].listener_port) == ("5", True, 80)


def test_durations_are_text_or_nanoseconds():
    for value in ("15s", 15_000_000_000, 15e9):
        assert decode(ServiceResolverConfigEntry, {"ConnectTimeout": value})[0].connect_timeout == 15_000_000_000
    with pytest.raises(ValueError, match="1 error\\(s\\) decoding:\n\n\\* error decoding 'ConnectTimeout': time: inva"):
        decode(ServiceResolverConfigEntry, {"ConnectTimeout": "soon"})


def test_numbers_without_a_declared_type_are_floats_and_bools_stay():
    entry, _ = decode(ProxyConfigEntry, {"Config": {"a": 1, "b": True, "c": {"d": [2]}}})
    assert [type(value) for value in entry.config.values()] == [float, bool, dict]
    assert type(entry.config["c"]["d"][0]) is float


def test_what_names_no_field_is_told_with_its_path():
    _, unused = decode(ServiceRouterConfigEntry, {"Bogus": 1, "Routes": [{"Match": {"HTTP": {"Nope": 1}}}]})
    assert sorted(unused) == ["Bogus", "Routes[0].Match.HTTP.Nope"]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ([], "'' expected a map, got 'slice'"),
        ({"Protocol": {}}, "'Protocol' expected type 'string', got unconvertible type 'map[string]interface {}'"),
        ({"MeshGateway": "local"}, "'MeshGateway' expected a map, got 'string'"),
        ({"CreateIndex": 1e300}, "cannot parse 'CreateIndex': value out of range"),
        ({"Expose": {"Checks": "maybe"}}, "cannot parse 'Expose.Checks' as bool"),
    ],
)
def test_what_cannot_stand_for_it_is_refused(value, text):
    with pytest.raises(ValueError) as error:
        decode(ServiceConfigEntry, value)
    assert text in str(error.value)


def test_a_null_inside_a_proxys_configuration_is_refused():
    with pytest.raises(ValueError, match="null"):
        entry_of({"Kind": "proxy-defaults", "Name": "global", "Config": {"a": [{"b": None}]}})


def test_depth_is_bounded():
    value = {}
    for _ in range(300):
        value = {"a": value}
    with pytest.raises(ValueError, match="max depth"):
        decode(ProxyConfigEntry, {"Config": value})


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
NAMES = st.sampled_from(
    ["Routes", "Match", "HTTP", "Splits", "Weight", "Subsets", "Config", "Failover", "Listeners", "x"]
)


@settings(deadline=None)
@given(
    st.sampled_from(["service-router", "service-splitter", "service-resolver", "proxy-defaults", "ingress-gateway"]),
    st.dictionaries(NAMES, JSON, max_size=4),
)
def test_any_json_is_an_entry_or_refused(kind, body):
    with contextlib.suppress(ValueError):
        entry_of({"Kind": kind, **body})
