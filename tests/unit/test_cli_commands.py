"""Commands that need an agent, against a small server with its answers; and those that need none."""

import base64
import io
import json
import os
import stat
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
from cryptography import x509

from pyconsul_agent.cli import children
from pyconsul_agent.cli.commands.config_entries import entry_of
from pyconsul_agent.cli.commands.services import body_of
from pyconsul_agent.cli.main import main
from pyconsul_agent.env.real import real_env
from tests.unit.test_cli_golden import CLOSED, assert_same, case, replay, runs, server

NEED_NO_AGENT = {
    "exec-none", "lock-n0", "maint-service-only", "rtt-none", "services-register-none", "services-register-missing",
    "services-register-stdin", "services-deregister-none", "watch-none", "watch-badtype", "watch-key-nokey",
    "watch-connect_roots", "watch-filter", "config-write-none", "config-list-none", "config-read-nokind",
    "config-read-noname", "config-delete-none", "autopilot-set-bad", "debug-bad",
}  # fmt: skip


@pytest.mark.parametrize(
    "run",
    [
        p
        for p in runs("exec", "lock", "maint", "rtt", "services", "watch", "config", "operator", "debug")
        if p.id in NEED_NO_AGENT
    ],
)
def test_mistake_of_the_user(run):
    assert_same(run, replay(run, CLOSED, make_env=real_env), CLOSED)


def ask(arguments, answer=lambda *_: (200, None), stdin=b"", **environ):
    """(exit code, output, errors, requests) of a run against a server with these answers."""
    out, err, seen = io.StringIO(), io.StringIO(), []

    def noted(method, target, body, headers):
        seen.append((method, target, body))
        return answer(method, target, body, headers)

    with server(noted) as address:
        code = main(
            arguments, out=out, err=err, stdin=io.BytesIO(stdin), environ={"CONSUL_HTTP_ADDR": address, **environ},
            make_env=real_env,
        )  # fmt: skip
    return code, out.getvalue(), err.getvalue(), seen


# --- maint, rtt, services ------------------------------------------------------------------------------------------


def test_maintenance_is_switched_and_shown():
    code, out, _, seen = ask(["maint", "-enable", "-service=web", "-reason=a b"])
    assert (code, out) == (0, 'Service maintenance is now enabled for "web"\n')
    assert seen[0][:2] == ("PUT", "/v1/agent/service/maintenance/web?enable=true&reason=a+b")
    assert ask(["maint", "-disable"])[1] == "Node maintenance is now disabled\n"
    checks = {
        "_node_maintenance": {"Notes": "testing"},
        "_service_maintenance:web": {"Notes": "svc", "ServiceID": "web"},
        "other": {},
    }
    answers = {"/v1/agent/self": {"Config": {"NodeName": "client1"}}, "/v1/agent/checks": checks}
    _, out, _, _ = ask(["maint"], lambda method, target, *_: (200, answers[target]))
    assert out == case("maint", "maint-show-2")["stdout"]


def coordinate(node, x, segment=""):
    return {"Node": node, "Segment": segment, "Coord": {"Vec": [x] + [0.0] * 7, "Error": 1.0, "Height": 0.0005}}


def test_rtt_is_the_distance_of_the_coordinates():
    rows = [coordinate("server1", 0.0), coordinate("client1", 0.002)]
    answers = {"/v1/coordinate/nodes": rows, "/v1/agent/self": {"Config": {"NodeName": "server1", "Datacenter": "dc1"}}}
    code, out, _, _ = ask(["rtt", "CLIENT1"], lambda method, target, *_: (200, answers[target]))
    assert (code, out) == (0, "Estimated CLIENT1 <-> server1 rtt: 3.000 ms (using LAN coordinates)\n")
    code, _, err, _ = ask(["rtt", "server1", "nosuch"], lambda method, target, *_: (200, answers[target]))
    assert (code, err) == (1, 'Could not find a coordinate for node "nosuch"\n')


def test_rtt_over_the_wan_needs_datacenters_and_one_area():
    maps = [
        {"Datacenter": "dc1", "AreaID": "wan", "Coordinates": [coordinate("a.dc1", 0.0)]},
        {"Datacenter": "dc2", "AreaID": "wan", "Coordinates": [coordinate("b.dc2", 0.001)]},
    ]
    _, out, _, _ = ask(["rtt", "-wan", "a.dc1", "b.dc2"], lambda *_: (200, maps))
    assert out == "Estimated a.dc1 <-> b.dc2 rtt: 2.000 ms (using WAN coordinates)\n"
    code, _, err, _ = ask(["rtt", "-wan", "a", "b.dc2"])
    assert (code, err) == (1, "Node names must be specified as <node name>.<datacenter> with -wan\n")


def test_services_of_flags_and_files(tmp_path):
    _, out, _, seen = ask(
        ["services", "register", "-name=api", "-id=api-1", "-port=9", "-tag=a", "-tag=b", "-meta=k=v",
         "-tagged-address=lan=10.0.0.1:80", "-tagged-address=six=[::1]:81"]
    )  # fmt: skip
    assert out == "Registered service: api\n"
    assert json.loads(seen[0][2]) == {
        "ID": "api-1", "Name": "api", "Tags": ["a", "b"], "Port": 9, "Meta": {"k": "v"},
        "TaggedAddresses": {"lan": {"Address": "10.0.0.1", "Port": 80}, "six": {"Address": "::1", "Port": 81}},
    }  # fmt: skip
    file = tmp_path / "web.hcl"
    file.write_text('service { name = "web" port = 80 meta { a_b = "c" } check { id = "x" ttl = "5s" } }')
    _, out, _, seen = ask(["services", "register", str(file)])
    assert out == "Registered service: web\n"
    assert json.loads(seen[0][2]) == {
        "Name": "web", "Port": 80, "Meta": {"a_b": "c"}, "Check": {"ID": "x", "TTL": "5s"},
    }  # fmt: skip
    _, out, _, seen = ask(["services", "deregister", str(file)])
    assert (out, seen[0][1]) == ("Deregistered service: web\n", "/v1/agent/service/deregister/web")


def test_names_of_definitions_become_those_of_the_api():
    block = {"tls_skip_verify": True, "deregister_critical_service_after": "1m", "enable_tag_override": True,
             "tagged_addresses": {"my_lan": {"address": "a", "port": 1}}, "connect": [{"native": True}]}  # fmt: skip
    assert body_of(block) == {
        "TLSSkipVerify": True, "DeregisterCriticalServiceAfter": "1m", "EnableTagOverride": True,
        "TaggedAddresses": {"my_lan": {"Address": "a", "Port": 1}}, "Connect": {"Native": True},
    }  # fmt: skip


def test_the_first_error_ends_registration():
    code, out, err, seen = ask(["services", "register", "-name=zz"], lambda *_: (403, b"Permission denied"))
    assert (code, out, len(seen)) == (1, "", 1)
    assert err == 'Error registering service "zz": Unexpected response code: 403 (Permission denied)\n'


# --- config, operator ----------------------------------------------------------------------------------------------


def test_config_entries_are_written_read_listed_deleted():
    text = b'Kind = "service-defaults"\nName = "web"\nMeshGateway { Mode = "local" }\n'
    code, out, _, seen = ask(["config", "write", "-cas", "-modify-index=7", "-"], lambda *_: (200, True), text)
    assert (code, out) == (0, "Config entry written: service-defaults/web\n")
    assert seen[0][:2] == ("PUT", "/v1/config?cas=7")
    assert json.loads(seen[0][2]) == {"Kind": "service-defaults", "Name": "web", "MeshGateway": {"Mode": "local"}}
    code, _, err, _ = ask(["config", "write", "-"], lambda *_: (200, False), text)
    assert (code, err) == (1, "Config entry not updated: service-defaults/web\n")
    entry = {"Kind": "service-defaults", "Name": "web", "Meta": {"b": "<x>", "a": ""}}
    _, out, _, _ = ask(["config", "read", "-kind=service-defaults", "-name=web"], lambda *_: (200, entry))
    assert out.startswith('{\n    "Kind": "service-defaults",\n    "Name": "web",')
    assert "\\u003cx\\u003e" in out
    assert ask(["config", "list", "-kind=mesh"], lambda *_: (200, [entry]))[1] == "web\n"
    _, out, _, seen = ask(["config", "delete", "-kind=mesh", "-name=mesh"], lambda *_: (200, {}))
    assert (out, seen[0][:2]) == ("Config entry deleted: mesh/mesh\n", ("DELETE", "/v1/config/mesh/mesh"))


@pytest.mark.parametrize("name", ["config-write-bad", "config-write-nokind"])
def test_what_is_no_entry(name):
    text = {"config-write-bad": b'Kind = "nope"\nName = "web"', "config-write-nokind": b'Name = "web"'}[name]
    run = {**case("config", name), "argv": ["consul", "config", "write", "-"], "stdin": text.decode()}
    assert_same(run, replay(run, CLOSED), CLOSED)


def test_blocks_of_hcl_are_objects_where_entries_have_objects():
    assert entry_of('kind = "service-splitter"\nname = "a"\nsplits = [{ weight = 100 }]') == {
        "Kind": "service-splitter", "Name": "a", "splits": [{"weight": 100}],
    }  # fmt: skip
    assert entry_of('Kind = "service-resolver"\nName = "a"\nSubsets { v1 { Filter = "x" } }')["Subsets"] == {
        "v1": {"Filter": "x"}
    }


AUTOPILOT = {
    "CleanupDeadServers": True, "LastContactThreshold": "200ms", "MaxTrailingLogs": 250, "ModifyIndex": 5,
}  # fmt: skip


def test_autopilot_settings_change_only_what_is_named_and_only_unchanged_ones():
    answers = {"GET": (200, AUTOPILOT), "PUT": (200, True)}
    code, out, _, seen = ask(
        ["operator", "autopilot", "set-config", "-cleanup-dead-servers=false", "-last-contact-threshold=1s"],
        lambda method, *_: answers[method],
    )
    assert (code, out) == (0, "Configuration updated!\n")
    assert seen[1][1] == "/v1/operator/autopilot/configuration?cas=5"
    assert json.loads(seen[1][2]) == {**AUTOPILOT, "CleanupDeadServers": False, "LastContactThreshold": "1s"}
    answers["PUT"] = (200, False)
    code, _, err, _ = ask(["operator", "autopilot", "set-config", "-min-quorum=3"], lambda method, *_: answers[method])
    assert (code, err) == (1, "Configuration could not be atomically updated, please try again\n")


def test_autopilot_state_is_shown_as_recorded():
    state = json.loads(case("operator", "autopilot-state-json")["stdout"])
    for name in ("autopilot-state", "autopilot-state-json"):
        run = case("operator", name)
        assert ask(run["argv"][1:], lambda *_: (200, state))[1] == run["stdout"]


def test_the_form_of_07_still_lists_and_removes_peers():
    servers = {"Servers": [{"Node": "a", "ID": "1", "Address": "x:1", "Leader": True, "Voter": True}]}
    assert "leader" in ask(["operator", "raft", "-list-peers"], lambda *_: (200, servers))[1]
    _, out, _, seen = ask(["operator", "raft", "-remove-peer", "-address=x:1"])
    assert (out, seen[0][1]) == ('Removed peer with address "x:1"\n', "/v1/operator/raft/peer?address=x%3A1")


# --- debug, tls ----------------------------------------------------------------------------------------------------

SELF = {"Config": {"Version": "1.10.11", "NodeName": "n", "Datacenter": "dc1"}, "DebugConfig": {"EnableDebug": False}}


def test_debug_packs_what_does_not_change(tmp_path):
    output = tmp_path / "dbg"
    code, out, _, _ = ask(
        ["debug", "-duration=10s", "-interval=5s", "-capture=agent", "-capture=cluster", f"-output={output}"],
        lambda *_: (200, SELF),
    )
    assert code == 0
    assert out == case("debug", "acl-debug")["stdout"].replace("agent, host, cluster", "agent, cluster").replace(
        "dbg.tar.gz", f"{output}.tar.gz"
    )
    with tarfile.open(f"{output}.tar.gz") as archive:
        names = sorted(member.name for member in archive)
        assert names == ["dbg", "dbg/agent.json", "dbg/cluster.json", "dbg/index.json"]
    assert not output.exists()


def test_debug_needs_a_new_folder_and_known_targets(tmp_path):
    base = ["debug", "-duration=10s", "-interval=5s"]
    for more, text in (
        (["-capture=zz"], "target not found: zz"),
        (["-capture=agent", f"-output={tmp_path}"], f"output directory already exists: {tmp_path}"),
        (["-interval=1s"], "interval must be longer than 10s"),
        (["-interval=11s"], "duration (10s) must be longer than interval (11s)"),
    ):
        code, _, err, _ = ask([*base, *more], lambda *_: (200, SELF))
        assert (code, err) == (1, f"==> Capture validation failed: {text}\n")


def tls(*arguments):
    out, err = io.StringIO(), io.StringIO()
    code = main(["tls", *arguments], out=out, err=err, stdin=io.BytesIO(), environ={})
    return code, out.getvalue(), err.getvalue()


def test_certificates_are_made_by_an_authority_and_never_overwritten(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert tls("cert", "create", "-server") == (1, "", case("tls", "tls-cert-noca")["stderr"])
    code, out, _ = tls("ca", "create", "-name-constraint", "-additional-name-constraint=example.org")
    assert (code, out) == (0, "==> Saved consul-agent-ca.pem\n==> Saved consul-agent-ca-key.pem\n")
    assert tls("ca", "create")[2] == case("tls", "tls-ca-create-again")["stderr"]
    run = case("tls", "tls-cert-server")
    assert tls("cert", "create", "-server") == (0, run["stdout"], "")
    assert "dc1-server-consul-1.pem" in tls("cert", "create", "-server", "-node=n1", "-additional-ipaddress=::1")[1]
    assert stat.S_IMODE(os.stat("dc1-server-consul-0-key.pem").st_mode) == 0o600

    authority, first, second = (
        x509.load_pem_x509_certificate(Path(name).read_bytes())
        for name in ("consul-agent-ca.pem", "dc1-server-consul-0.pem", "dc1-server-consul-1.pem")
    )
    first.verify_directly_issued_by(authority)
    names = second.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["n1.server.dc1.consul", "server.dc1.consul", "localhost"]
    assert [str(ip) for ip in names.get_values_for_type(x509.IPAddress)] == ["::1", "127.0.0.1"]
    constraints = authority.extensions.get_extension_for_class(x509.NameConstraints).value
    assert [name.value for name in constraints.permitted_subtrees] == ["example.org", "consul", "localhost"]
    ours = first.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value.key_identifier
    theirs = authority.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value.digest
    assert ours == theirs


def test_certificates_that_cannot_be_made(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tls("ca", "create")
    for name in ("tls-cert-node-client", "tls-cert-badip"):
        run = case("tls", name)
        assert tls(*run["argv"][2:]) == (run["exit"], run["stdout"], run["stderr"])
    assert tls("cert", "create")[2] == "Please provide either -server, -client, or -cli\n"
    assert "more than a certificate can name" in tls("cert", "create", "-client", "-days=999999999")[2]
    Path("consul-agent-ca-key.pem").write_text("no key")
    assert tls("cert", "create", "-client")[2] == "failed to parse root certificate or its key\n"


# --- children, watch, start-up -------------------------------------------------------------------------------------


def test_an_end_is_told_in_gos_words():
    assert [children.outcome(code) for code in (0, 7, -15, -9, -60)] == [
        "", "exit status 7", "signal: terminated", "signal: killed", "signal: signal 60",
    ]  # fmt: skip


def program(*arguments, stdin=None, **environ):
    """A run as a process of its own: children need real descriptors."""
    done = subprocess.run(
        [sys.executable, "-m", "pyconsul_agent", *arguments], capture_output=True, text=True, input=stdin, timeout=30,
        env={"PATH": os.environ["PATH"], **environ}, cwd=Path(__file__).parents[2],
    )  # fmt: skip
    return done.returncode, done.stdout, done.stderr


def test_a_watch_ends_when_its_program_fails():
    pair = {"Key": "k", "Value": base64.b64encode(b"v").decode(), "Flags": 0, "ModifyIndex": 3}
    with server(lambda *_: (200, [pair])) as address:
        code, out, err = program(
            "watch", "-type=key", "-key=k", "cat; echo idx=$CONSUL_INDEX; exit 9", CONSUL_HTTP_ADDR=address
        )  # fmt: skip
    assert (code, err) == (1, "Error executing handler: exit status 9\n")
    assert json.loads(out.splitlines()[0])["Key"] == "k"
    assert out.splitlines()[1] == "idx=0"  # the little server sends no index


HEAVY = {"asyncio", "aiohttp", "cryptography", "pyconsul_agent.app", "pyconsul_agent.server", "hypothesis", "structlog"}


@pytest.mark.parametrize("command", ["members", "kv get a", "version", "lock a true"])
def test_a_command_imports_only_what_it_needs(command):
    code = (
        "import sys; from pyconsul_agent.cli.main import main; main(sys.argv[1:]); "
        "print(*sorted(sys.modules), file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *command.split()], capture_output=True, text=True, timeout=30,
        env={"CONSUL_HTTP_ADDR": CLOSED}, cwd=Path(__file__).parents[2],
    )  # fmt: skip
    assert not HEAVY & set(done.stderr.splitlines()[-1].split())
