"""Options reach the parts that they are meant for, and what cannot be honored is refused or said."""

import asyncio
from ipaddress import ip_network

import pytest

from pyconsul_agent.app.settings import client_config, dns_config, http_defaults, reloaded, server_config
from pyconsul_agent.config.configure import configure
from pyconsul_agent.config.sources import Sources
from pyconsul_agent.env.base import InterfaceAddress
from pyconsul_agent.errors import ConfigError
from pyconsul_agent.interfaces.http.catalog import read
from pyconsul_agent.structs.base import duration
from pyconsul_agent.structs.methods import CATALOG_LIST_NODES
from pyconsul_agent.structs.requests import DCSpecificRequest, IndexedNodes

INTERFACES = [InterfaceAddress("eth0", "10.0.0.1", is_loopback=False, is_default_route=True)]


def options(*, hcl=(), **flags):
    flags = {"data_dir": "/d", **flags}
    return configure(Sources(flags=flags, fragments=hcl), files=None, interfaces=INTERFACES, hostname="host1")


# --- allowed networks ----------------------------------------------------------------------------------------------


def test_each_pool_gets_its_allowed_networks():
    given = options(serf_lan_allowed_cidrs=["10.0.0.0/8", "fd00::/8"], serf_wan_allowed_cidrs=["192.0.2.0/24"])
    server = server_config(given, "id")
    assert server.lan_serf.allowed_networks == ("10.0.0.0/8", "fd00::/8")
    assert server.wan_serf.allowed_networks == ("192.0.2.0/24",)
    assert client_config(given, "id").lan_serf.allowed_networks == ("10.0.0.0/8", "fd00::/8")


def test_without_allowed_networks_any_address_may_join():
    server = server_config(options(), "id")
    assert (server.lan_serf.allowed_networks, server.wan_serf.allowed_networks) == (None, None)


@pytest.mark.parametrize("key", ["serf_lan_allowed_cidrs", "serf_wan_allowed_cidrs", "dns_allow_recursion"])
@pytest.mark.parametrize("text", ["10.0.0.0", "10.0.0.0/33", "lan", ""])
def test_network_that_is_none_is_refused(key, text):
    with pytest.raises(ConfigError, match=f"{key}: invalid CIDR address: {text}"):
        options(**{key: [text]})


def test_recursion_is_for_neighbors_unless_told_otherwise():
    assert ip_network("10.0.0.0/8") in dns_config(options()).recursion_for
    assert dns_config(options(dns_allow_recursion=["192.0.2.0/24"])).recursion_for == (ip_network("192.0.2.0/24"),)
    assert dns_config(options(dns_allow_recursion=[])).recursion_for == ()


# --- times and rates -----------------------------------------------------------------------------------------------


def test_waits_of_blocking_queries_and_the_shortest_session_reach_the_server():
    server = server_config(options(default_query_time="20s", max_query_time="40s", session_ttl_min="1s"), "id")
    assert (server.query_default_s, server.query_max_s, server.session_ttl_min_s) == (20.0, 40.0, 1.0)
    server = server_config(options(), "id")
    assert (server.query_default_s, server.query_max_s, server.session_ttl_min_s) == (300.0, 600.0, 10.0)


def test_what_concerns_the_cache_is_read_and_its_limits_change_on_reload():
    given = options(cache={"entry_fetch_rate": 0.5, "entry_fetch_max_burst": 7}, use_streaming_backend=False)
    fresh = reloaded(options(), given)
    assert (fresh.cache.entry_fetch_rate, fresh.cache.entry_fetch_max_burst) == (0.5, 7)
    assert (http_defaults(given).use_streaming, http_defaults(options()).use_streaming) == (False, True)
    assert options().cache.entry_fetch_rate == float("inf")


def test_limits_on_calls_reach_the_client_at_start_and_on_reload():
    given = options(limits={"rpc_rate": 3.5, "rpc_max_burst": 7})
    client = client_config(given, "id")
    assert (client.rpc_rate, client.rpc_burst) == (3.5, 7)
    client = client_config(reloaded(options(), given), "id")
    assert (client.rpc_rate, client.rpc_burst) == (3.5, 7)
    client = client_config(options(), "id")
    assert (client.rpc_rate, client.rpc_burst) == (-1.0, 1000)


@pytest.mark.parametrize(
    ("stale_s", "contact_s", "calls"), [(5, 6, [True, False]), (5, 5, [True]), (5, 0, [True]), (0, 6, [True])]
)
def test_answer_staler_than_allowed_is_asked_for_again_at_the_leader(stale_s, contact_s, calls):
    made = []

    class Servers:
        async def call(self, method, request):
            made.append(request.allow_stale)
            return IndexedNodes(index=len(made), last_contact=duration(contact_s if request.allow_stale else 0))

    asked = DCSpecificRequest(allow_stale=True, max_stale_duration=duration(stale_s))
    reply = asyncio.run(read(Servers(), CATALOG_LIST_NODES, asked))
    assert (made, reply.index) == (calls, len(calls))


# --- config entries -------------------------------------------------------------------------------------------------

BOOTSTRAP = """
config_entries {
  bootstrap {
    kind = "proxy-defaults"
    name = "global"
    config { protocol = "http", local_connect_timeout_ms = 1000 }
    mesh_gateway { mode = "local" }
  }
  bootstrap {
    kind = "service-splitter"
    name = "web"
    splits = [{ weight = 100 service_subset = "v1" }]
  }
}
"""


def test_config_entries_of_the_configuration_reach_the_server_with_their_defaults():
    proxy, splitter = server_config(options(hcl=[BOOTSTRAP]), "id").bootstrap_entries
    assert (proxy.name, dict(proxy.config)) == ("global", {"protocol": "http", "local_connect_timeout_ms": 1000})
    assert proxy.mesh_gateway.mode == "local"
    assert [(split.weight, split.service_subset) for split in splitter.splits] == [(100.0, "v1")]
    assert server_config(options(), "id").bootstrap_entries == ()


@pytest.mark.parametrize(
    ("entry", "error"),
    [
        ('kind = "nope" name = "x"', "config_entries.bootstrap[0]: invalid config entry kind: nope"),
        ('name = "x"', "config_entries.bootstrap[0]: Payload does not contain a kind/Kind key at the top level"),
        (
            'kind = "service-splitter" name = "x" splits = [{ weight = 50 }]',
            "config_entries.bootstrap[0]: the sum of all split weights must be 100",
        ),
        ('kind = "service-defaults" name = "x" odd = 1', 'invalid config key "odd"'),
    ],
)
def test_a_config_entry_that_cannot_be_used_stops_the_start(entry, error):
    given = options(hcl=[f"config_entries {{ bootstrap = [{{ {entry} }}] }}"])
    with pytest.raises(ConfigError) as caught:
        server_config(given, "id")
    assert error in str(caught.value)


def test_a_key_of_config_entries_that_is_none_is_refused():
    with pytest.raises(ConfigError, match=r"invalid config key config_entries\.boot"):
        server_config(options(hcl=["config_entries { boot = [] }"]), "id")
