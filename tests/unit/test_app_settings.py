"""Options reach the parts that they are meant for, and what cannot be honored is refused or said."""

import pytest

from pyconsul_agent.app.settings import client_config, server_config
from pyconsul_agent.config.configure import configure
from pyconsul_agent.config.sources import Sources
from pyconsul_agent.env.base import InterfaceAddress
from pyconsul_agent.errors import ConfigError

INTERFACES = [InterfaceAddress("eth0", "10.0.0.1", is_loopback=False, is_default_route=True)]


def options(**flags):
    flags = {"data_dir": "/d", **flags}
    return configure(Sources(flags=flags), files=None, interfaces=INTERFACES, hostname="host1")


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


@pytest.mark.parametrize("key", ["serf_lan_allowed_cidrs", "serf_wan_allowed_cidrs"])
@pytest.mark.parametrize("text", ["10.0.0.0", "10.0.0.0/33", "lan", ""])
def test_network_that_is_none_is_refused(key, text):
    with pytest.raises(ConfigError, match=f"{key}: invalid CIDR address: {text}"):
        options(**{key: [text]})
