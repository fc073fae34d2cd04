# ruff: noqa: E501
"""Configuration: what files may hold, how sources merge, what is refused and with which words."""

import json

import pytest

from pyconsul_agent.config.addresses import expand, private_ipv4, public_ipv6
from pyconsul_agent.config.configure import configure
from pyconsul_agent.config.merge import merge
from pyconsul_agent.config.sources import Sources, load
from pyconsul_agent.config.validate import decode_key, start_warnings
from pyconsul_agent.env.base import InterfaceAddress
from pyconsul_agent.errors import ConfigError

LOOPBACK = InterfaceAddress("lo", "127.0.0.1", is_loopback=True)
ETH0 = InterfaceAddress("eth0", "172.17.0.2", is_loopback=False, is_default_route=True)
ETH1 = InterfaceAddress("eth1", "10.1.0.2", is_loopback=False)
PUBLIC = InterfaceAddress("eth2", "8.8.4.4", is_loopback=False)


class Disk:
    """The part of Files that configuration reads."""

    def __init__(self, **files):
        self.files = {name: text.encode() if isinstance(text, str) else text for name, text in files.items()}

    def exists(self, path):
        return path in self.files or self.is_dir(path)

    def is_dir(self, path):
        return any(name.startswith(path.rstrip("/") + "/") for name in self.files)

    def list_dir(self, path):
        return sorted({name[len(path.rstrip("/")) + 1 :].split("/")[0] for name in self.files if name.startswith(path)})

    def size(self, path):
        return len(self.read(path))

    def is_file(self, path):
        return path in self.files

    def read(self, path, *, bytes_max=None):
        if path not in self.files:
            raise FileNotFoundError(path)
        return self.files[path][:bytes_max]


def options(flags=None, *, files=None, interfaces=(LOOPBACK, ETH0), **sources):
    flags = {"data_dir": "/d", **(flags or {})}
    return configure(
        Sources(flags=flags, **sources), files=Disk(**(files or {})), interfaces=list(interfaces), hostname="host1"
    )


def read(**files):
    return load(Sources(paths=tuple(files)), Disk(**files))


# --- sources -------------------------------------------------------------------------------------------------------


def test_defaults_of_a_client():
    result = options()
    assert (result.node_name, result.datacenter, result.domain) == ("host1", "dc1", "consul.")
    assert (result.leave_on_terminate, result.skip_leave_on_interrupt) == (True, False)
    assert result.resolved.advertise == "172.17.0.2"
    assert result.resolved.http == ("127.0.0.1",)
    assert result.performance.raft_heartbeat_timeout_s == 5.0


def test_defaults_of_a_server():
    result = options({"server": True})
    assert (result.leave_on_terminate, result.skip_leave_on_interrupt) == (False, True)


def test_flags_win_over_files_and_list_flags_come_first():
    files = {
        "a.json": '{"node_name": "a", "retry_join": ["2"], "ports": {"http": 1, "dns": 2}}',
        "b.hcl": 'ports { http = 3 } retry_join = ["3"]',
    }
    result = options({"node_name": "f"}, files=files, paths=("a.json", "b.hcl"), list_flags={"retry_join": ["1"]})
    assert result.node_name == "f"
    assert result.retry_join == ("1", "2", "3")
    assert (result.ports.http, result.ports.dns) == (3, 2)


def test_folder_is_read_in_name_order_and_foreign_files_are_skipped_with_a_warning():
    files = {
        "c/b.json": '{"domain": "b"}',
        "c/a.json": '{"domain": "a"}',
        "c/x.txt": "?",
        "c/sub/z.json": "?",
        "c/e.json": " ",
    }
    result = load(Sources(paths=("c/",)), Disk(**files))
    assert result.domain == "b"
    assert result.warnings == ("skipping file c/x.txt, extension must be .hcl or .json, or config format must be set",)


def test_environment_sets_the_log_format_over_files_and_under_flags():
    files = {"a.json": '{"log_format": "classic"}'}
    assert options(files=files, paths=("a.json",), environ={"PYCONSUL_LOG_FORMAT": "modern"}).log_format == "modern"
    flags = {"log_format": "json"}
    assert options(flags, files=files, paths=("a.json",), environ={"PYCONSUL_LOG_FORMAT": "modern"}).log_json


def test_hcl_fragment_is_last():
    assert options({"ports": {"dns": 1}}, fragments=("ports { dns = 2 }",)).ports.dns == 2


def test_singular_definitions_become_elements():
    assert merge([{"service": [{"name": "a"}]}, {"services": [{"name": "b"}], "service": {"name": "c"}}]) == {
        "services": [{"name": "a"}, {"name": "b"}, {"name": "c"}]
    }


def test_keys_match_in_any_letter_case():
    assert read(**{"a.json": '{"LOG_LEVEL": "warn", "Ports": {"DNS": 53}}'}).ports.dns == 53


def test_file_of_the_2015_image_is_accepted():
    text = json.dumps(
        {
            "data_dir": "/data", "ui_dir": "/ui", "client_addr": "0.0.0.0", "ports": {"dns": 53, "rpc": 8400},
            "recursor": "8.8.8.8", "disable_update_check": True, "atlas_token": "x", "statsd_addr": "s:1",
        }
    )  # fmt: skip
    result = options(files={"consul.json": text}, paths=("consul.json",))
    assert result.recursors == ("8.8.8.8",)
    assert (result.ports.dns, result.ports.rpc) == (53, 8400)
    assert result.telemetry.statsd_address == "s:1"
    assert (result.ui_config.enabled, result.ui_config.dir) == (True, "")
    assert '"atlas_token" has no effect in this agent' in result.warnings


def test_dev_mode():
    result = options({"data_dir": ""}, dev_mode=True)
    assert result.dev_mode
    assert result.server
    assert result.ports.grpc == 8502
    assert result.performance.raft_heartbeat_timeout_s == 0.035
    assert result.gossip_lan.probe_interval == 0.1


def test_durations_are_seconds():
    result = read(
        **{"a.json": '{"performance": {"leave_drain_time": "500ms"}, "dns_config": {"service_ttl": {"*": "1m"}}}'}
    )
    assert result.performance.leave_drain_time == 0.5
    assert result.dns_config.service_ttl == {"*": 60.0}


# --- refusals ------------------------------------------------------------------------------------------------------

BAD_FILES = [
    ("a.json", '{"servr": true}', "failed to parse a.json: 1 error occurred:\n\t* invalid config key servr\n\n"),
    ("a.json", '{"ports": {"x": 1}, "y": 1}', "failed to parse a.json: 2 errors occurred:\n\t* invalid config key ports.x\n\t* invalid config key y\n\n"),
    ("a.json", '{"server": tr', None),
    ("a.json", '{"server": true', "failed to parse a.json: unexpected end of JSON input"),
    ("a.json", '{"leave_on_terminate": "true"}', "failed to parse a.json: 1 error(s) decoding:\n\n* 'leave_on_terminate' expected type 'bool', got unconvertible type 'string', value: 'true'"),
    ("a.json", '{"retry_join": "x"}', "failed to parse a.json: 1 error(s) decoding:\n\n* 'retry_join': source data must be an array or slice, got string"),
    ("a.json", '{"retry_interval": 5}', "failed to parse a.json: 1 error(s) decoding:\n\n* 'retry_interval' expected type 'string', got unconvertible type 'int', value: '5'"),
    ("a.json", "[" * 100_000, None),
    ("a.hcl", 'service { name = "a" }\nservice { name = "b" }', "failed to parse a.hcl: 1 error(s) decoding:\n\n* 'service' expected a map, got 'slice'"),
    ("a.hcl", "a: 1", None),
    ("missing.json", None, "config: Open failed on missing.json. open missing.json: no such file or directory"),
    ("missing", None, "config: Open failed on missing. open missing: no such file or directory"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "text", "error"), BAD_FILES)
def test_bad_file_is_refused_with_consuls_words(name, text, error):
    with pytest.raises(ConfigError) as caught:
        load(Sources(paths=(name,)), Disk(**({} if text is None else {name: text})))
    if error is not None:
        assert str(caught.value) == error


REFUSED = [
    ({"data_dir": ""}, "data_dir cannot be empty"),
    ({"datacenter": "dc 1"}, 'datacenter can only contain lowercase alphanumeric, - or _ characters. received: "dc 1"'),
    ({"bootstrap": True}, "'bootstrap = true' requires 'server = true'"),
    ({"bootstrap_expect": 3}, "'bootstrap_expect > 0' requires 'server = true'"),
    (
        {"server": True, "bootstrap": True, "bootstrap_expect": 3},
        "'bootstrap_expect > 0' and 'bootstrap = true' are mutually exclusive",
    ),
    ({"bootstrap_expect": -1}, "bootstrap_expect cannot be -1. Must be greater than or equal to zero"),
    ({"performance": {"raft_multiplier": 11}}, "performance.raft_multiplier cannot be 11. Must be between 1 and 10"),
    ({"raft_protocol": 2}, "raft_protocol version 2 is not supported by this version of Consul"),
    ({"protocol": 1}, "Protocol version '1' too low. Must be in range: [2, 3]"),
    ({"encrypt": "!"}, "encrypt has invalid key: illegal base64 data at input byte 0"),
    ({"retry_interval": "5"}, '1 error occurred:\n\t* retry_interval: invalid duration: "5": time: missing unit in duration "5"\n\n'),
    ({"advertise_addr": "0.0.0.0"}, "Advertise address cannot be 0.0.0.0, :: or [::]"),
    ({"bind_addr": "300.1.1.1"}, "bind_addr cannot be empty"),
    ({"bind_addr": "1.1.1.1 1.1.1.2"}, "bind_addr cannot contain multiple addresses. Use 'addresses.{dns,http,https}' instead."),
    ({"addresses": {"dns": "unix:///x"}}, "DNS address cannot be a unix socket"),
    ({"ports": {"dns": 70000}}, "ports.dns: invalid port: 70000"),
    ({"ports": {"http": 8600}}, "HTTP address 127.0.0.1:8600 already configured for DNS"),
    (
        {"bind_addr": "127.0.0.9", "client_addr": "127.0.0.9", "ports": {"http": 8301}},
        "Serf Advertise LAN address 127.0.0.9:8301 already configured for HTTP",
    ),
    ({"recursors": ["0.0.0.0"]}, "DNS recursor address cannot be 0.0.0.0, :: or [::]"),
    ({"alt_domain": "node.x"}, "alt_domain cannot start with {service,connect,node,query,addr,dc1}"),
    ({"log_level": "loud"}, "Invalid log level: loud. Valid log levels are: [TRACE DEBUG INFO WARN ERR ERROR]"),
    (
        {"node_meta": {"consul-x": "1"}},
        "node_meta invalid: Couldn't load metadata pair ('consul-x', '1'): "
        "Key prefix 'consul-' is reserved for internal use",
    ),
    ({"cache": {"entry_fetch_rate": -1}}, "cache.entry_fetch_rate must be strictly positive, was: -1"),
    ({"cache": {"entry_fetch_max_burst": 0}}, "cache.entry_fetch_max_burst must be strictly positive, was: 0"),
    ({"tls_ignored": 1, "verify_incoming": True}, "VerifyIncoming set but no CA certificates were provided"),
    ({"server": True, "auto_encrypt": {"tls": True}}, "auto_encrypt.tls can only be used on a client."),
]  # fmt: skip


@pytest.mark.parametrize(("flags", "error"), REFUSED, ids=[row[1][:40] for row in REFUSED])
def test_bad_configuration_is_refused_with_consuls_words(flags, error):
    with pytest.raises(ConfigError) as caught:
        options(flags)
    assert str(caught.value) == error


def test_warnings_in_consuls_order():
    assert start_warnings(options({"server": True, "bootstrap_expect": 1})) == [
        "BootstrapExpect is set to 1; this is the same as Bootstrap mode.",
        "bootstrap = true: do not enable unless necessary",
    ]
    assert start_warnings(options({"server": True, "bootstrap_expect": 3})) == [
        "bootstrap_expect > 0: expecting 3 servers"
    ]
    assert "will not be discoverable via DNS" in start_warnings(options({"node_name": "has space!"}))[0]


def test_gossip_key_lengths():
    assert len(decode_key("pUqJrVyVRj5jsiYEkM/tFQ==")) == 16
    with pytest.raises(ConfigError, match="key size must be 16, 24 or 32 bytes"):
        decode_key("YWJj")


# --- addresses -----------------------------------------------------------------------------------------------------


def test_private_address_rule():
    assert private_ipv4([LOOPBACK]) == "127.0.0.1"
    assert private_ipv4([LOOPBACK, ETH0]) == "172.17.0.2"
    assert private_ipv4([LOOPBACK, ETH1, ETH0, PUBLIC]) == "172.17.0.2", "the default route decides"
    with pytest.raises(ConfigError, match=r"^No private IPv4 address found$"):
        private_ipv4([LOOPBACK, PUBLIC])
    with pytest.raises(ConfigError, match=r"^Multiple private IPv4 addresses found\. Please configure one with"):
        private_ipv4([ETH1, InterfaceAddress("eth3", "10.2.0.2", is_loopback=False)])


@pytest.mark.parametrize("ip", ["2600::1", "2002:c000:204::1", "fd00::2", "2001:db8::1", "64:ff9b:1::1"])
def test_an_ipv6_address_is_public_unless_it_is_of_the_link_or_the_host(ip):
    others = [InterfaceAddress("eth0", other, is_loopback=False) for other in ("fe80::1", "fc00::1", "10.0.0.1")]
    others.append(InterfaceAddress("lo", "::1", is_loopback=True))
    assert public_ipv6([*others, InterfaceAddress("eth0", ip, is_loopback=False)]) == ip
    with pytest.raises(ConfigError, match="No public IPv6 address found"):
        public_ipv6(others)
    with pytest.raises(ConfigError, match="Multiple public IPv6 addresses found"):
        public_ipv6([InterfaceAddress("eth0", each, is_loopback=False) for each in (ip, "2600::2")])


TEMPLATES = [
    ("{{ GetPrivateIP }}", "172.17.0.2"),
    ("{{ GetPrivateIPs }}", "172.17.0.2 10.1.0.2"),
    ('{{ GetInterfaceIP "eth1" }}', "10.1.0.2"),
    ('{{ GetInterfaceIP "lo" }}', ""),
    ("{{GetPublicIP}}", "8.8.4.4"),
    ('{{ GetAllInterfaces | include "name" "^eth" | sort "-name" | limit 1 | attr "address" }}', "8.8.4.4"),
    ('{{ GetPrivateInterfaces | exclude "network" "10.0.0.0/8" | join "address" " " }} 1.2.3.4', "172.17.0.2 1.2.3.4"),
    ("no template", "no template"),
]


@pytest.mark.parametrize(("template", "text"), TEMPLATES)
def test_template(template, text):
    assert expand(template, [LOOPBACK, ETH1, ETH0, PUBLIC]) == text


@pytest.mark.parametrize(
    "template",
    ["{{ Nope }}", '{{ GetPrivateIP | attr "x" }}', "{{ | }}", '{{ GetAllInterfaces | include "name" "(" }}'],
)
def test_bad_template_is_refused(template):
    with pytest.raises(ConfigError, match="unable to parse template"):
        expand(template, [ETH0])
