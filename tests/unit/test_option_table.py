"""The table of options, key by key: each is seen to change something, or docs/compat.md says why it does not.

*Seen* is a difference in what the parts of an agent are constructed with (`parts`), in what an agent holds (`inside`),
or in what its process does (`process`), between a configuration with the key and one without. For the few keys that
need more, a test elsewhere is named.
"""

import asyncio
import contextlib
import fnmatch
import re
from dataclasses import fields, replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pyconsul_agent.app import compose, files
from pyconsul_agent.app import settings as made
from pyconsul_agent.app.compose import Agent
from pyconsul_agent.app.process import INTERRUPT, TERMINATED, _until_told, log_stream
from pyconsul_agent.config import build
from pyconsul_agent.config.configure import configure
from pyconsul_agent.config.options import TLS, Options
from pyconsul_agent.config.sources import Sources, parse_file
from pyconsul_agent.env.base import InterfaceAddress
from pyconsul_agent.errors import ConfigError
from pyconsul_agent.sim.env import make_env
from pyconsul_agent.sim.world import World
from pyconsul_agent.telemetry.logging import LogStream

ROOT = Path(__file__).resolve().parents[2]
IP = "10.0.0.1"
INTERFACES = [InterfaceAddress("eth0", IP, is_loopback=False, is_default_route=True)]
KEYS_OF_CONSUL = (ROOT / "conformance/golden/config/keys.txt").read_text().split()


def table(section=Options, prefix=""):
    """(key, kind, default) of every option."""
    for option in fields(section):
        kind = option.metadata["kind"]
        key = prefix + (option.metadata["key"] or option.name)
        if kind == "section":
            yield from table(type(option.default), f"{key}.")
        elif kind != "derived":
            yield key, kind, option.default
    if section is Options:
        yield from table(TLS)


TABLE = {key: (kind, default) for key, kind, default in table()}

# --- values ---------------------------------------------------------------------------------------------------------

VALUES = {
    **{f"telemetry.{name}": "10.0.0.9:8125" for name in ("statsd_address", "statsite_address", "dogstatsd_addr")},
    "telemetry.prefix_filter": ["-consul.rpc"],
    "datacenter": "dc9",
    "node_id": "11111111-2222-3333-4444-555555555555",
    "encrypt": "AAECAwQFBgcICQoLDA0ODw==",
    "log_level": "WARN",
    "log_format": "classic",
    "recursors": ["10.0.0.53"],
    "acl.default_policy": "deny",
    "serf_lan_allowed_cidrs": ["10.0.0.0/8"],
    "serf_wan_allowed_cidrs": ["10.0.0.0/8"],
    "dns_allow_recursion": ["10.0.0.0/8"],
    "http_config.allow_write_http_from": ["10.0.0.0/8"],
    "bootstrap_expect": 3,
    "gossip_lan.probe_timeout": "600ms",
    "gossip_wan.probe_timeout": "600ms",
    "performance.rpc_hold_timeout": "9s",
    "ports.serf_lan": 18301,
    "ports.server": 18300,
    "ports.http": 18500,
    "ports.https": 8501,
    "ports.dns": 18600,
    "ports.rpc": 18400,
    "unix_sockets.mode": "0777",
    "unix_sockets.user": "7",
    "unix_sockets.group": "8",
    "leave_on_terminate": False,
    "services": [{"name": "web"}],
    "checks": [{"name": "c", "ttl": "10s"}],
    "watches": [{"type": "event", "args": ["x"]}],
    "syslog_facility": "LOCAL3",
    **dict.fromkeys(("bind_addr", "client_addr", "serf_lan", "serf_wan"), "10.0.0.9"),
    **{f"addresses.{name}": "10.0.0.9" for name in ("dns", "http", "https", "grpc", "rpc")},
    **{f"advertise_addr{name}": "10.0.0.9" for name in ("", "_ipv4", "_wan", "_wan_ipv4")},
    **dict.fromkeys(("advertise_addr_ipv6", "advertise_addr_wan_ipv6"), "fd00::9"),
}
NEEDS = {
    "ui_config.content_path": {"ui_config": {"enabled": True}},
    "telemetry.disable_hostname": {"telemetry": {"statsd_address": "10.0.0.9:8125"}},
    "telemetry.dogstatsd_tags": {"telemetry": {"dogstatsd_addr": "10.0.0.9:8125"}},
    "bootstrap": {"server": True},
    "bootstrap_expect": {"server": True},
    "auto_encrypt.allow_tls": {"server": True},
    "verify_incoming": {"ca_file": "x"},
    "verify_incoming_rpc": {"ca_file": "x"},
    "advertise_addr_ipv6": {"bind_addr": "fd00::1"},
    "advertise_addr_wan_ipv6": {"bind_addr": "fd00::1"},
    "syslog_facility": {"enable_syslog": True},
    **{f"log_rotate_{name}": {"log_file": "/log/"} for name in ("bytes", "duration", "max_files")},
    **{f"retry_{name}": {"retry_join": ["x"]} for name in ("interval", "max")},
    **{f"retry_{name}_wan": {"retry_join_wan": ["x"]} for name in ("interval", "max")},
}
"""What has to be set beside a key for it to mean something."""


def value_of(key):
    kind, default = TABLE[key]
    number = default if isinstance(default, int) else 0
    usual = {
        "text": "x", "flag": not default, "integer": number + 1, "number": 7.5, "duration": "8s", "texts": ["x"],
        "text_map": {"a": "b"}, "duration_map": {"a": "3s"}, "blocks": [{}], "block": {"a": 1},
    }  # fmt: skip
    return VALUES.get(key, usual[kind])


def nested(key, value):
    if key.startswith("telemetry.disable_compat_1"):
        return {"telemetry": {"disable_compat_1.9": value}}
    head, _, rest = key.partition(".")
    return {head: nested(rest, value)} if rest else {head: value}


class Folders:
    def is_dir(self, path):
        return True


def configured(*blocks):
    raw = {"data_dir": "/d"}
    for block in blocks:
        raw |= build.check(block)[0]
    return configure(Sources(flags=raw), files=Folders(), interfaces=INTERFACES, hostname="h")


# --- what is looked at ----------------------------------------------------------------------------------------------


def parts(options):
    """What the parts are constructed with."""
    return (
        made.server_config(options, "id"),
        made.client_config(options, "id"),
        made.node_info(options, "id"),
        made.http_rules(options),
        made.http_defaults(options),
        made.dns_config(options),
        files.socket_owner(options),
        options.resolved,
    )


def measured(registry, metrics):
    """How metrics are named, filtered, kept and sent."""
    return (
        registry._prefix, registry._hostname, registry._rules, registry._filter_default, registry.retention_s,
        metrics.http._old_names, [(outlet._host, outlet._port, outlet._stream) for outlet in metrics._outlets],
        [outlet._render("c", ("x", ()), 1.0) for outlet in metrics._outlets],
    )  # fmt: skip


def inside(options):
    """What a client agent holds, where it listens, and whom it would join."""
    joins, seen = [], {}

    async def joined(join, addresses, *rest, **named):
        rules = [word for word in rest if isinstance(word, compose.RetryRules)]
        joins.append((addresses, rules, named.get("pool")))

    async def look(env):
        logs = LogStream(write=lambda text: None, wall_ns=env.clock.wall_ns, level=0, role="client")
        agent = Agent(replace(options, server=False, bootstrap=False, bootstrap_expect=0), env, logs, lambda _: None)
        try:
            await agent.start()
            seen["listening"] = (agent._http.addresses, agent._dns.addresses, agent._ipc.addresses)
            seen["tasks"] = sorted(task.get_name() for task in agent._tasks._tasks)
            agent.options = replace(agent.options, server=True)
            await agent._join()
            await asyncio.sleep(0)
            state, http = agent.state, agent._http
            seen["held"] = (
                agent.node_id, http._limit, http.head_bytes_max, agent._registry._settings, state._tokens,
                state._discard_output, sorted(state.live_services()), sorted(state.live_checks()), len(agent._watches),
                agent.options.disable_remote_exec, agent._cache._table._limits, agent._registry.sidecar_ports,
                sorted((route.pattern, route.body_bytes_max or 0) for route in agent._pipeline._table.routes),
            )  # fmt: skip
            outside, metrics = agent._pipeline._fallback, agent._metrics
            seen["shown"] = (outside._ui.enabled, outside._ui.content_path, outside._profiles is None)
            seen["measured"] = measured(metrics.registry, metrics)
        finally:
            await agent.stop()

    with pytest.MonkeyPatch.context() as patch, World(seed=1) as world:
        for name in ("join_until_done", "join_once", "join_with_own_name"):
            patch.setattr(compose, name, joined)
        host = world.host(IP)
        if options.resolved.bind != IP:
            options = replace(options, resolved=replace(options.resolved, bind=IP))
        env = make_env(world, host)
        env.files.make_dirs("/etc")
        env.files.write_atomic("/etc/machine-id", b"0" * 32)
        world.run(look(env))
    return seen, joins


def process(options):
    """What the process does with its log and with signals."""

    async def told(word):
        signals = asyncio.Queue()
        signals.put_nowait(word)

        async def leave():
            return None

        agent = SimpleNamespace(options=options, finished=asyncio.Event(), exit_code=7, leave=leave)
        return await _until_told(agent, signals, log_stream(options, env))

    sinks = []

    class Sink:
        def __init__(self, *arguments, **named):
            named.pop("wall_ns", None)
            sinks.append((arguments, named))

        def close(self):
            pass

    with pytest.MonkeyPatch.context() as patch, World(seed=1) as world, contextlib.ExitStack() as opened:
        env = make_env(world, world.host(IP))
        patch.setattr(files, "FileSink", Sink)
        patch.setattr(files, "SyslogSink", Sink)
        patch.setattr("pyconsul_agent.app.process._write", lambda text: None)
        logs = log_stream(options, env)
        opened.enter_context(files.log_sinks(options, SimpleNamespace(add_sink=lambda sink: None), lambda: 0))
        return logs.level, logs.format, sinks, [world.run(told(word)) for word in (INTERRUPT, TERMINATED)]


ELSEWHERE = {
    "data_dir": ("tests/unit/test_agent_persist.py", "Persistence(files or RealFiles(), str(folder)"),
    "pid_file": ("tests/unit/test_app_unsupported.py", "pid_file("),
    "server": ("tests/sim/test_cluster.py", "Cluster"),
    "disable_remote_exec": ("tests/unit/test_agent_remote_exec.py", "RemoteExec("),
    "raft_protocol": ("tests/unit/test_config.py", "raft_protocol"),
}
"""Keys whose effect another test sees: the file, and words in it."""


def outcome(look, options):
    """What is seen; that an agent refuses to start with a security option that it cannot honor is an effect too."""
    try:
        return look(options)
    except ConfigError as error:
        return str(error)


def effectless():
    """Patterns of keys that docs/compat.md lists as without effect."""
    page = (ROOT / "docs/compat.md").read_text()
    section = page.partition("## Keys without effect\n")[2].partition("\n## ")[0]
    rows = [line for line in section.splitlines() if line.startswith("| `")]
    return [pattern for row in rows for pattern in re.findall(r"`([^`]+)`", row.split("|")[1])]


def is_listed(key):
    return any(fnmatch.fnmatchcase(key, pattern) for pattern in effectless())


@pytest.mark.parametrize("key", TABLE)
def test_a_key_has_an_effect_or_the_docs_say_why_not(key):
    if key in ELSEWHERE:
        path, words = ELSEWHERE[key]
        assert words in (ROOT / path).read_text()
        return
    needs = NEEDS.get(key, {})
    without, with_it = configured(needs), configured(needs, nested(key, value_of(key)))
    changed = any(outcome(look, without) != outcome(look, with_it) for look in (parts, process, inside))
    if is_listed(key):
        assert not changed, f"{key} has an effect: take it out of docs/compat.md, 'Keys without effect'"
    else:
        assert changed, f"{key} changes nothing: give it an effect, or list it in docs/compat.md"


def test_the_docs_list_only_keys_that_there_are():
    for pattern in effectless():
        assert fnmatch.filter([*TABLE, *KEYS_OF_CONSUL], pattern), f"{pattern} is no key"


@pytest.mark.parametrize("key", KEYS_OF_CONSUL)
def test_every_key_of_consul_is_known(key):
    """What Consul's files may hold is no "invalid config key" here, even where it has no effect."""
    try:
        build.check(nested(key, value_of(key)) if key in TABLE else nested(key, {}))
    except ConfigError as error:
        assert "invalid config key" not in str(error)


def test_every_old_or_foreign_key_says_so():
    quiet = []
    for key in KEYS_OF_CONSUL:
        if key in TABLE or key in ("service", "check") or any(name.startswith(f"{key}.") for name in TABLE):
            continue
        with contextlib.suppress(ConfigError):
            _, warnings = build.check(nested(key, {}))
            if not warnings and not build.is_silent(key):
                quiet.append(key)
    assert quiet == []


# --- values that nobody should give ---------------------------------------------------------------------------------

NUMBERS = [key for key, (kind, _) in TABLE.items() if kind in ("integer", "duration", "number")]
ODD = {
    "integer": st.sampled_from([-(2**63), -1, 0, 1, 2**16, 2**63]),
    "number": st.sampled_from([-1.0, 0.0, 1e-300, 1e300]),
    "duration": st.sampled_from(["-1s", "0s", "1ns", "87600h", "x", ""]),
}


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_odd_numbers_are_taken_or_refused_in_one_line(data):
    """Whatever numbers a file holds: the configuration is refused with a text, or the parts can be constructed."""
    keys = data.draw(st.lists(st.sampled_from(NUMBERS), min_size=1, max_size=3, unique=True))
    blocks = [nested(key, data.draw(ODD[TABLE[key][0]], label=key)) for key in keys]
    try:
        parts(configured(*blocks))
    except ConfigError as error:
        assert str(error)


@given(
    st.text(max_size=200) | st.binary(max_size=200).map(lambda raw: raw.decode("latin-1")),
    st.sampled_from(["json", "hcl"]),
)
def test_any_text_is_a_configuration_or_refused_by_its_name(text, kind):
    try:
        parse_file("some.file", text, kind)
    except ConfigError as error:
        assert str(error).startswith("failed to parse some.file: ")
