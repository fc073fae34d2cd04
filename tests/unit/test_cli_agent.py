"""The agent's command line: flags to options, refusals in Consul's words, the start-up screens, import discipline."""

import io
import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from pyconsul_agent.cli.commands.agent import AGENT, FLAGS, options_of, sources_of
from pyconsul_agent.cli.flags import Flag, HelpAsked, UsageError, parse
from pyconsul_agent.cli.main import main
from pyconsul_agent.config.banner import banner, opening
from pyconsul_agent.env.base import InterfaceAddress

ROOT = Path(__file__).resolve().parents[2]
GOLDEN = ROOT / "conformance" / "golden" / "cli"
RUNS = {run["name"]: run for run in json.loads((GOLDEN / "agent.json").read_text())}


class Disk:
    def __init__(self, files):
        self.files = files

    def exists(self, path):
        return path in self.files

    def is_dir(self, path):
        return False

    def size(self, path):
        return len(self.read(path))

    def read(self, path):
        if path not in self.files:
            raise FileNotFoundError(path)
        return self.files[path].encode()


def env(files=None, ip="127.0.0.1"):
    addresses = [InterfaceAddress("eth0" if ip != "127.0.0.1" else "lo", ip, is_loopback=ip == "127.0.0.1")]
    return SimpleNamespace(
        files=Disk(files or {}), interfaces=SimpleNamespace(addresses=lambda: addresses), hostname="host1"
    )


FILES = {
    "broken.json": '{"server": true',
    "bad.json": '{"servr": true}',
    "ok.json": '{"data_dir": "/d", "server": true, "bootstrap_expect": 3}',
    "ok.hcl": 'data_dir = "/d"\nserver = true\nbootstrap_expect = 1',
    "empty": "",
    "old.json": '{"data_dir": "/d", "recursor": "8.8.8.8"}',
}


def run(argv, files=FILES):
    out, err = io.StringIO(), io.StringIO()
    code = main(argv, out=out, err=err, stdin=io.BytesIO(), environ={}, make_env=lambda: env(files))
    return code, out.getvalue(), err.getvalue()


def options(*arguments, ip="127.0.0.1"):
    given, rest = parse(AGENT.all_flags(), arguments)
    assert rest == []
    return options_of(sources_of(given, {}), env(ip=ip))


# --- refusals ------------------------------------------------------------------------------------------------------

REFUSED = [
    name
    for name, recorded in RUNS.items()
    if recorded["exit"] == 1 and not recorded["stdout"] and name not in ("agent-old-dc-flag", "agent-old-atlas-flag")
]


@pytest.mark.parametrize("name", REFUSED)
def test_agent_is_refused_with_consuls_words(name):
    recorded = RUNS[name]
    code, out, err = run(recorded["argv"][1:])
    assert (code, out) == (1, "")
    head, usage, _ = recorded["stderr"].partition("{{USAGE}}")
    assert err.startswith(head.removesuffix("\n")) if usage else err == head


VALIDATE = [
    r
    for r in json.loads((GOLDEN / "validate.json").read_text())
    if r["name"] not in ("validate-old.json", "validate-empty")
]


@pytest.mark.parametrize("recorded", VALIDATE, ids=[r["name"] for r in VALIDATE])
def test_validate_says_what_consul_says(recorded):
    assert run(recorded["argv"][1:]) == (recorded["exit"], recorded["stdout"], recorded["stderr"])


def test_validate_accepts_the_05_key_that_110_refuses():
    code, out, err = run(["validate", "old.json"])
    assert (code, out) == (0, "Configuration is valid!\n")
    assert err == '"recursor" is deprecated, use "recursors"\n'


def test_configtest_is_silent_when_valid():
    assert run(["configtest", "-config-file", "ok.json"]) == (0, "", "")
    assert run(["configtest", "-config-file", "bad.json"])[0] == 1


# --- flags ---------------------------------------------------------------------------------------------------------


def test_flags_become_options():
    result = options(
        "-server", "--data-dir=/d", "-bootstrap-expect", "3", "-retry-join=a", "-retry-join", "b", "-dns-port=53",
        "-node-meta", "zone:z1", "-ui-dir=/ui", "-client", "0.0.0.0", "-rejoin", "-log-format=classic",
    )  # fmt: skip
    assert (result.server, result.bootstrap_expect, result.retry_join) == (True, 3, ("a", "b"))
    assert (result.ports.dns, result.node_meta) == (53, {"zone": "z1"})
    assert (result.ui_config.enabled, result.ui_config.dir) == (True, "")
    assert (result.resolved.http, result.rejoin_after_leave) == (("0.0.0.0",), True)
    assert result.log_format == "classic"


def test_flags_of_the_05_line_are_accepted():
    result = options("-data-dir=/d", "-dc", "EAST", "-atlas=a/b", "-atlas-join", "-atlas-token", "x")
    assert result.datacenter == "east"
    assert [w for w in result.warnings if "atlas" in w] == [
        f"-{name} has no effect: the service behind it is gone" for name in ("atlas", "atlas-token", "atlas-join")
    ]


def test_files_and_folders_keep_the_order_of_the_command_line():
    given, _ = parse(FLAGS, ["-config-dir", "a", "-config-file", "b", "-config-dir", "c"])
    assert given["paths"] == ["a", "b", "c"]


REFERENCE_FLAGS = """
advertise advertise-wan allow-write-http-from alt-domain bind bootstrap bootstrap-expect
check_output_max_size client config-dir config-file config-format data-dir datacenter
default-query-time dev disable-host-node-id disable-keyring-file dns-port domain
enable-local-script-checks enable-script-checks encrypt grpc-port hcl http-port https-port join
join-wan log-file log-json log-level log-rotate-bytes log-rotate-duration log-rotate-max-files
max-query-time node node-id node-meta non-voting-server pid-file primary-gateway protocol
raft-protocol read-replica recursor rejoin retry-interval retry-interval-wan retry-join
retry-join-wan retry-max retry-max-wan segment serf-lan-allowed-cidrs serf-lan-bind serf-lan-port
serf-wan-allowed-cidrs serf-wan-bind serf-wan-port server server-port syslog ui ui-content-path
ui-dir
"""


def test_every_flag_of_the_reference_is_known():
    listed = {flag.name for flag in FLAGS}
    assert listed >= set(REFERENCE_FLAGS.split())


FEW = (
    Flag("b", "bool", ""), Flag("s", "string", ""), Flag("n", "int", ""), Flag("l", "strings", ""),
    Flag("d", "duration", ""), Flag("p", "pairs", ""),
)  # fmt: skip
PARSED = [
    (["-b", "true"], {"b": True}, ["true"]),
    (["-b=false", "--s", "-b"], {"b": False, "s": "-b"}, []),
    (["-s=a=b", "-s="], {"s": ""}, []),
    (["x", "-b"], {}, ["x", "-b"]),
    (["-b", "--", "-s"], {"b": True}, ["-s"]),
    (["-"], {}, ["-"]),
    (["-l", "1", "-l=2"], {"l": ["1", "2"]}, []),
    (["-p", "a=1", "-p=b=2=3"], {"p": {"a": "1", "b": "2=3"}}, []),
    (["-n=-5"], {"n": -5}, []),
]


@pytest.mark.parametrize(("arguments", "given", "rest"), PARSED)
def test_go_flag_rules(arguments, given, rest):
    assert parse(FEW, arguments) == (given, rest)


BAD = [
    (["-x"], "flag provided but not defined: -x"),
    (["-s"], "flag needs an argument: -s"),
    (["-b=maybe"], 'invalid boolean value "maybe" for -b: parse error'),
    (["-n=3x"], 'invalid value "3x" for flag -n: strconv.Atoi: parsing "3x": invalid syntax'),
    (["-d=5"], 'invalid value "5" for flag -d: time: missing unit in duration "5"'),
    (["---b"], "bad flag syntax: ---b"),
    (["-=b"], "bad flag syntax: -=b"),
]


@pytest.mark.parametrize(("arguments", "error"), BAD)
def test_go_flag_errors(arguments, error):
    with pytest.raises(UsageError) as caught:
        parse(FEW, arguments)
    assert str(caught.value) == error


def test_help_is_asked_by_any_spelling():
    for word in ("-h", "--help", "-help"):
        with pytest.raises(HelpAsked):
            parse(FEW, [word])


# --- screens -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["agent-expect-1", "agent-bad-node-name", "agent-dev", "agent-client-sigterm", "agent-server-sigterm"]
)
def test_modern_screen_is_consuls(name):
    recorded = RUNS[name]
    screen, mark, _ = recorded["stdout"].partition("==> Log data will now stream in as it occurs:\n\n")
    node_id = screen.split("Node ID: '")[1].split("'")[0]
    assert banner(options(*recorded["argv"][2:]), node_id=node_id, encrypted=False) == screen + mark


CLASSIC = """\
==> Consul agent running!
         Node name: 'node1'
        Datacenter: 'dc1'
            Server: true (bootstrap: true)
       Client Addr: 0.0.0.0 (HTTP: 8500, HTTPS: -1, DNS: 53, RPC: 8400)
      Cluster Addr: 172.17.0.2 (LAN: 8301, WAN: 8302)
    Gossip encrypt: false, RPC-TLS: false, TLS-Incoming: false
             Atlas: <disabled>

==> Log data will now stream in as it occurs:

"""


def test_classic_screen_is_the_articles():
    result = options(
        "-data-dir=/d", "-server", "-bootstrap", "-node=node1", "-client=0.0.0.0", "-dns-port=53",
        "-hcl=ports { rpc = 8400 }", "-log-format=classic", ip="172.17.0.2",
    )  # fmt: skip
    assert opening(result) == "==> Starting Consul agent...\n==> Starting Consul agent RPC...\n"
    assert banner(result, node_id="x", encrypted=False) == CLASSIC


def test_screens_say_that_gossip_is_encrypted_though_the_key_is_only_in_a_file():
    modern = banner(options("-data-dir=/d"), node_id="x", encrypted=True)
    assert "           Encrypt: Gossip: true, TLS-Outgoing: false," in modern
    classic = banner(options("-data-dir=/d", "-log-format=classic"), node_id="x", encrypted=True)
    assert "    Gossip encrypt: true, RPC-TLS: false," in classic


def test_json_has_no_screen():
    assert banner(options("-data-dir=/d", "-log-json"), node_id="x", encrypted=False) == ""


# --- start-up time -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("arguments", [["version"], ["members", "-http-addr=127.0.0.1:1"], ["kv", "get", "-h"]])
def test_light_commands_import_nothing_heavy(arguments):
    script = (
        "import sys; from pyconsul_agent.cli.main import main; main(sys.argv[1:]); "
        "heavy = {'aiohttp', 'cryptography', 'asyncio', 'structlog', 'msgpack', 'dnslib'} & set(sys.modules); "
        "sys.exit(f'imported {sorted(heavy)}' if heavy else 0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=30
    )
    assert done.returncode == 0, done.stderr
