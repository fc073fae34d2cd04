"""The recorded runs of Consul's command line, replayed against a small server with the agent's answers."""

import base64
import io
import json
import re
import subprocess
import sys
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from pyconsul_agent.cli.main import COMMANDS, main

GOLDEN = Path(__file__).resolve().parents[2] / "conformance" / "golden" / "cli"
CLOSED = "127.0.0.1:1"  # nobody listens there


def runs(*commands):
    for command in commands:
        for run in json.loads((GOLDEN / f"{command}.json").read_text()):
            yield pytest.param(run, id=run["name"])


@contextmanager
def server(answer):
    """An HTTP server on a free port; `answer(method, target, body, headers)` gives (status, body)."""

    class Handler(BaseHTTPRequestHandler):
        def handle_any(self):
            length = int(self.headers.get("Content-Length") or 0)
            status, body = answer(self.command, self.path, self.rfile.read(length), self.headers)
            body = body if isinstance(body, bytes) else json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_GET = do_PUT = do_POST = do_DELETE = handle_any

        def log_message(self, *arguments):
            pass

    httpd = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"127.0.0.1:{httpd.server_address[1]}"
    finally:
        httpd.shutdown()
        thread.join()
        httpd.server_close()


def replay(run, address, **more):
    out, err = io.StringIO(), io.StringIO()
    environ = {**run.get("env", {}), "CONSUL_HTTP_ADDR": address}
    stdin = io.BytesIO(run.get("stdin", "").encode())
    code = main(run["argv"][1:], out=out, err=err, stdin=stdin, environ=environ, **more)
    return code, out.getvalue(), err.getvalue()


def assert_same(run, result, address):
    code, out, err = result
    assert code == run["exit"]
    for got, recorded in ((out, run["stdout"]), (err, run["stderr"])):
        recorded = recorded.replace("127.0.0.1:8500", address)
        if "{{USAGE}}" in recorded:
            head = recorded.split("{{USAGE}}")[0]
            # Unknown flags print `Usage:` alone; our usage line stands on the same line.
            assert got.startswith((head, head.removesuffix("\n"))), got
        else:
            assert got == recorded


def case(command, name):
    return next(r for r in json.loads((GOLDEN / f"{command}.json").read_text()) if r["name"] == name)


# --- without an agent ----------------------------------------------------------------------------------------------

OURS = {
    # flags of 0.5 - 0.7 that 1.10 refuses and we accept
    "agent-old-dc-flag", "agent-old-atlas-flag", "old-rpc-addr-flag", "validate-old.json",
}  # fmt: skip
ALONE = [
    p
    for p in runs("root", "frobnicate", "version", "members", "join", "leave", "info", "kv", "operator", "catalog")
    if p.values[0]["setup"].startswith("none") and p.id not in OURS
]


@pytest.mark.parametrize("run", ALONE)
def test_run_without_agent(run):
    assert_same(run, replay(run, CLOSED), CLOSED)


USAGE_ERRORS = {
    "members-status-bad", "join-none", "leave-none-args", "force-leave-noargs", "event-noname", "event-badre",
    "event-tag-noservice", "kv-put-none", "kv-put-three", "kv-put-acquire-nosession", "kv-put-slash",
    "kv-put-file-missing", "kv-get-none", "kv-get-two", "kv-import-none", "kv-delete-cas-noidx",
    "kv-delete-modidx-without-cas", "kv-delete-cas-recurse", "raft-remove-peer-none", "catalog-parent",
    "cacert-missing",
}  # fmt: skip


@pytest.mark.parametrize(
    "run",
    [
        p
        for p in runs("members", "join", "leave", "force-leave", "event", "kv", "operator", "catalog")
        if p.id in USAGE_ERRORS
    ],
)
def test_mistake_of_the_user(run):
    assert_same(run, replay(run, CLOSED), CLOSED)


def test_keygen_makes_32_random_bytes():
    run = case("keygen", "keygen")
    first, second = replay(run, CLOSED)[1], replay(run, CLOSED)[1]
    assert len(base64.b64decode(first)) == 32
    assert first != second


# --- with an agent -------------------------------------------------------------------------------------------------


def members_of(detailed):
    """The agent's answer, recovered from the recorded table with all tags."""
    rows = [line.split("  ") for line in detailed.splitlines()[1:]]
    statuses = ["none", "alive", "leaving", "left", "failed"]
    found = []
    for row in rows:
        name, address, status, tags = [field.strip() for field in row if field.strip()]
        ip, port = address.rsplit(":", 1)
        values = dict(tag.split("=", 1) for tag in tags.split(","))
        if values["segment"] == "<all>":
            del values["segment"]
        else:
            values["segment"] = ""
        found.append({"Name": name, "Addr": ip, "Port": int(port), "Tags": values, "Status": statuses.index(status)})
    return found[::-1]


def test_members_table_details_filter_and_segment():
    members = members_of(case("members", "members-detailed")["stdout"])
    seen = []

    def answer(method, target, body, headers):
        seen.append(target)
        if "segment=a" in target:
            return 500, b"Network segments are not supported in this version of Consul"
        return 200, members

    with server(answer) as address:
        for name in ("members", "members-detailed", "members-status", "members-extra-args", "members-segment"):
            run = case("members", name)
            assert_same(run, replay(run, address), address)
        left = {**case("members", "members-status"), "argv": ["consul", "members", "-status=left"]}
        assert replay(left, address) == (2, "", "")
    assert seen[0] == "/v1/agent/members?segment=_all"


def test_member_states_are_shown():
    members = members_of(case("members", "members-detailed")["stdout"])
    for name, status in (("members-failed", 4), ("members-left", 3)):
        changed = [{**m, "Status": status if m["Name"] == "server3" else m["Status"]} for m in members]
        with server(lambda *_, changed=changed: (200, changed)) as address:
            run = case("members", name)
            assert_same(run, replay(run, address), address)


JOIN_ERROR = (
    b"1 error occurred:\n\t* Failed to join 127.0.0.77:8301: dial tcp 127.0.0.77:8301: connect: connection refused\n\n"
)
ANSWERS = {
    # run -> [(method, target, status, body)]
    "join": [("PUT", "/v1/agent/join/127.0.0.2", 200, b"")],
    "join-fails": [("PUT", "/v1/agent/join/127.0.0.77", 500, JOIN_ERROR)],
    "join-wan": [("PUT", "/v1/agent/join/127.0.0.2?wan=1", 200, b"")],
    "join-wan-client": [("PUT", "/v1/agent/join/127.0.0.2?wan=1", 500, b"Must be a server to join WAN cluster")],
    "denied-join": [("PUT", "/v1/agent/join/127.0.0.4", 403, b"Permission denied")],
    "leave-client": [("PUT", "/v1/agent/leave", 200, b"")],
    "acl-deny-leave": [("PUT", "/v1/agent/leave", 403, b"Permission denied")],
    "force-leave-failed": [("PUT", "/v1/agent/force-leave/server3", 200, b"")],
    "force-leave-prune": [("PUT", "/v1/agent/force-leave/server3?prune=1", 200, b"")],
    "acl-reload": [("PUT", "/v1/agent/reload", 200, b"")],
    "denied-monitor": [("GET", "/v1/agent/monitor?loglevel=INFO", 403, b"Permission denied")],
    "acl-deny-info": [("GET", "/v1/agent/self", 403, b"Permission denied")],
    "denied-event": [("GET", "/v1/agent/self", 403, b"Permission denied")],
    "event": [
        ("GET", "/v1/agent/self", 200, {}),
        ("PUT", "/v1/event/fire/deploy", 200, {"ID": "067103cc-a363-3952-831c-5d4f888f1940"}),
    ],
    "event-service": [
        ("GET", "/v1/agent/self", 200, {}),
        ("PUT", "/v1/event/fire/x?service=web&tag=v1", 200, {"ID": "28cb7e4f-b5b5-ae13-f4cf-1834bf3b1cc7"}),
    ],
    "kv-put": [("PUT", "/v1/kv/app/name", 200, b"true")],
    "kv-put-base64-bad": [("PUT", "/v1/kv/app/b64", 200, b"true")],
    "kv-put-cas0-exists": [("PUT", "/v1/kv/app/name?cas=0", 200, b"false")],
    "kv-put-cas-new": [("PUT", "/v1/kv/app/casnew?cas=0", 200, b"true")],
    "kv-put-cas-wrong": [("PUT", "/v1/kv/app/name?cas=1", 200, b"false")],
    "kv-put-special": [("PUT", "/v1/kv/app/sp%C3%A9%20cial/%C3%BC", 200, b"true")],
    "kv-put-release": [("PUT", "/v1/kv/w/lock?release=72853685-8423-7146-cca7-e337ab383373", 200, b"true")],
    "kv-put-acquire-other": [
        (
            "PUT",
            "/v1/kv/w/lock?acquire=00000000-0000-4000-8000-000000000000",
            500,
            b'raft apply failed: invalid session "00000000-0000-4000-8000-000000000000"',
        )
    ],
    "acl-deny-kv": [("PUT", "/v1/kv/a", 403, b"Permission denied")],
    "acl-bad-token": [("GET", "/v1/kv/a", 403, b"ACL not found")],
    "kv-get-missing": [("GET", "/v1/kv/nope", 404, b"")],
    "kv-get-recurse-none": [("GET", "/v1/kv/zzz?recurse=", 404, b"")],
    "kv-get-dc": [("GET", "/v1/kv/app/name?dc=nodc", 500, b"No path to datacenter")],
    "namespace-oss": [("GET", "/v1/kv/w/name?ns=x", 400, b"Invalid query parameter")],
    "kv-export-none": [("GET", "/v1/kv/zzz?recurse=", 404, b"")],
    "kv-delete": [("DELETE", "/v1/kv/imp/a", 200, b"true")],
    "kv-delete-recurse": [("DELETE", "/v1/kv/imp/?recurse=", 200, b"true")],
    "kv-delete-recurse-all-noarg": [("DELETE", "/v1/kv/?recurse=", 200, b"true")],
    "raft-remove-peer-unknown": [
        (
            "DELETE",
            "/v1/operator/raft/peer?address=127.0.0.99%3A8300",
            500,
            b'address "127.0.0.99:8300" was not found in the Raft configuration',
        )
    ],
    "denied-raft-list-peers": [("GET", "/v1/operator/raft/configuration", 403, b"Permission denied")],
    "raft-list-peers-agent-default-token": [
        (
            "GET",
            "/v1/operator/raft/configuration",
            200,
            {
                "Servers": [
                    {
                        "ID": "11111111-1111-4111-8111-111111111111", "Node": "server1", "Address": "127.0.0.1:8300",
                        "Leader": True, "ProtocolVersion": "3", "Voter": True,
                    }
                ],
                "Index": 1,
            },
        )
    ],
    "autopilot-get-2": [
        (
            "GET",
            "/v1/operator/autopilot/configuration",
            200,
            {
                "CleanupDeadServers": False, "LastContactThreshold": "300ms", "MaxTrailingLogs": 500, "MinQuorum": 0,
                "ServerStabilizationTime": "5s", "RedundancyZoneTag": "", "DisableUpgradeMigration": False,
                "UpgradeVersionTag": "", "CreateIndex": 4, "ModifyIndex": 4,
            },
        )
    ],
    "catalog-datacenters": [("GET", "/v1/catalog/datacenters", 200, ["dc1"])],
    "catalog-nodes-none": [("GET", "/v1/catalog/service/nosuch", 200, [])],
    "catalog-nodes-meta": [
        (
            "GET",
            "/v1/catalog/nodes?node-meta=zone%3Az1",
            200,
            [{"ID": "44444444-4444", "Node": "client1", "Address": "127.0.0.4", "Datacenter": "dc1"}],
        )
    ],
    "catalog-services-tags": [
        (
            "GET",
            "/v1/catalog/services",
            200,
            {"consul": [], "web": ["v1", "primary"], "api": ["t2", "t1"], "m1": [], "m2": None, "web2": ["x"]},
        )
    ],
    "catalog-services-node": [
        (
            "GET",
            "/v1/catalog/node/client1",
            200,
            {"Node": {}, "Services": {n: {"Service": n, "Tags": []} for n in ("web", "api", "m1", "m2", "web2")}},
        )
    ],
    "catalog-services-node-none": [("GET", "/v1/catalog/node/nosuch", 200, b"null")],
}  # fmt: skip


@pytest.mark.parametrize(
    "run",
    [
        p
        for p in runs("join", "leave", "force-leave", "reload", "monitor", "info", "event", "kv", "operator", "catalog")
        if p.id in ANSWERS
    ],
)
def test_run_with_agent(run):
    expected = list(ANSWERS[run["name"]])

    def answer(method, target, body, headers):
        wanted_method, wanted_target, status, reply = expected.pop(0)
        assert (method, target) == (wanted_method, wanted_target)
        assert headers.get("X-Consul-Token") == run.get("env", {}).get("CONSUL_HTTP_TOKEN")
        return status, reply

    with server(answer) as address:
        result = replay(run, address)
    assert_same(run, result, address)
    assert not expected, "a request was not made"


def kv(key, value, **more):
    encoded = base64.b64encode(value.encode()).decode() if value else None
    pair = {"Key": key, "Value": encoded, "Flags": 0, "CreateIndex": 18, "ModifyIndex": 18, "LockIndex": 0}
    return {**pair, **more}


TREE = [
    kv("app/b64", ""), kv("app/casnew", "x"), kv("app/dash", "\\-literal"), kv("app/empty", ""),
    kv("app/file", "file value"), kv("app/flags", "v", Flags=42, CreateIndex=19, ModifyIndex=19),
    kv("app/name", "pyconsul"), kv("app/spé cial/ü", "välue"), kv("app/stdin", "from stdin\nline 2\n"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "reply"),
    [
        ("kv-get", [kv("app/name", "pyconsul")]),
        ("kv-get-base64", [kv("app/name", "pyconsul")]),
        ("kv-get-stale", [kv("app/name", "pyconsul")]),
        ("kv-get-slash", [kv("app/name", "pyconsul")]),
        ("kv-get-empty-value", [kv("app/empty", "")]),
        ("kv-get-recurse", TREE),
        ("kv-get-recurse-base64", TREE[:1]),
        ("kv-get-recurse-detailed", TREE[4:6]),
        ("kv-get-keys", ["app/b64", "app/casnew", "app/dash", "app/empty", "app/file", "app/flags", "app/name",
                         "app/spé cial/", "app/stdin"]),
        ("kv-get-keys-dirs", ["app/"]),
        ("kv-get-detailed-locked", [kv("w/lock", "me", LockIndex=1, CreateIndex=53, ModifyIndex=53,
                                       Session="72853685-8423-7146-cca7-e337ab383373")]),
    ],
)  # fmt: skip
def test_kv_reading(name, reply):
    run = case("kv", name)
    with server(lambda *_: (200, reply)) as address:
        assert_same(run, replay(run, address), address)


def test_binary_value_is_printed_as_it_is():
    pair = {**kv("bin", "x"), "Value": base64.b64encode(b"\x00\xff\xfe").decode()}
    script = "import sys; from pyconsul_agent.cli.main import main; sys.exit(main(sys.argv[1:]))"
    with server(lambda *_: (200, [pair])) as address:
        done = subprocess.run(
            [sys.executable, "-c", script, "kv", "get", f"-http-addr={address}", "bin"],
            cwd=GOLDEN.parents[2],
            capture_output=True,
            timeout=30,
        )
    assert (done.returncode, done.stdout, done.stderr) == (0, b"\x00\xff\xfe\n", b"")


def test_kv_export_is_consuls_json():
    run = case("kv", "kv-export-all")
    tree = [kv(e["key"], base64.b64decode(e["value"]).decode(), Flags=e["flags"]) for e in json.loads(run["stdout"])]
    with server(lambda *_: (200, tree)) as address:
        assert_same(run, replay(run, address), address)


def test_kv_import_writes_what_export_printed():
    written = []

    def answer(method, target, body, headers):
        written.append((method, target, body))
        return 200, b"true"

    data = '[{"key": "a", "flags": 0, "value": "aGVsbG8="}, {"key": "b", "flags": 7, "value": ""}]'
    with server(answer) as address:
        run = {"argv": ["consul", "kv", "import", "-prefix=imp", "-"], "stdin": data}
        assert replay(run, address) == (0, "Imported: imp/a\nImported: imp/b\n", "")
    assert written == [("PUT", "/v1/kv/imp/a", b"hello"), ("PUT", "/v1/kv/imp/b?flags=7", b"")]


def test_info_sorts_groups_and_keys():
    run = case("info", "info")
    stats, group = {}, ""
    for line in run["stdout"].splitlines():
        if line.startswith("\t"):
            key, value = line.strip("\t").split(" = ", 1) if " = " in line else (line.strip("\t"), "")
            stats[group] = {key: value, **stats[group]}
        else:
            group = line.rstrip(":")
            stats = {group: {}, **stats}
    with server(lambda *_: (200, {"Config": {}, "Stats": stats})) as address:
        assert_same(run, replay(run, address), address)


def test_monitor_prints_lines_and_notes_the_end():
    with server(lambda *_: (200, b"one\ntwo\n")) as address:
        code, out, err = replay({"argv": ["consul", "monitor", "-log-level=debug"]}, address)
    assert (code, out) == (1, "one\ntwo\n\n")
    assert err.startswith("Remote side ended the monitor!")


def test_token_file_wins_over_token(tmp_path):
    (tmp_path / "token").write_text("from-file\n")
    seen = []

    def answer(method, target, body, headers):
        seen.append(headers.get("X-Consul-Token"))
        return 200, ["dc1"]

    with server(answer) as address:
        argv = ["consul", "catalog", "datacenters", f"-token-file={tmp_path / 'token'}", "-token=from-flag"]
        assert replay({"argv": argv}, address)[0] == 0
    assert seen == ["from-file"]
    code, _, err = replay({"argv": ["consul", "info", "-token-file=/nope/x"]}, CLOSED)
    assert (code, "Error loading token file: open /nope/x: no such file or directory" in err) == (1, True)


def test_https_to_a_plain_server_is_named():
    with server(lambda *_: (200, [])) as address:
        code, _, err = replay({"argv": ["consul", "members"], "env": {"CONSUL_HTTP_SSL": "true"}}, address)
    assert code == 1
    assert err.endswith(": http: server gave HTTP response to HTTPS client\n")


def test_every_command_can_say_its_usage():
    for name, entry in COMMANDS.items():
        out, err = io.StringIO(), io.StringIO()
        assert main([*name.split(), "-h"], out=out, err=err, stdin=io.BytesIO(), environ={}) == 0
        shown = {"operator autopilot state": "operator autopilot get-config"}.get(name, name)  # compat: 1.10.11
        assert out.getvalue().startswith(f"Usage: consul {shown}"), entry
        assert err.getvalue() == ""
        assert not re.search(r".{81}", out.getvalue()), f"{name}: a line is too long"


# --- keyring -------------------------------------------------------------------------------------------------------

FIRST, SECOND = "pUqJrVyVRj5jsiYEkM/tFQYfWyJIv4s3XkvDwy7Cu5s=", "GtGw8rtA2YJ6ASxAb0c2mBmbtMmAhnuQ9wjCDXrH3Go="


def pools(*keys, lan=4):
    def pool(wan, nodes):
        counts = dict.fromkeys(keys, nodes)
        return {"WAN": wan, "Datacenter": "dc1", "Segment": "", "Keys": counts, "PrimaryKeys": {}, "NumNodes": nodes}

    return [pool(True, 3 if lan == 4 else 1), pool(False, lan)]


def said(name):
    """The body of the error that a recorded run shows."""
    text = case("keyring", name)["stderr"]
    return text.removeprefix("error: Unexpected response code: 500 (").removesuffix(")\n").encode()


KEYRING_ANSWERS = {
    # run -> (method, query, key, status, body)
    "keyring-list": ("GET", "", "", 200, pools(FIRST)),
    "keyring-install": ("POST", "", SECOND, 200, b""),
    "keyring-use": ("PUT", "", SECOND, 200, b""),
    "keyring-list-2": ("GET", "", "", 200, pools(FIRST, SECOND)),
    "keyring-remove-primary": ("DELETE", "", SECOND, 500, said("keyring-remove-primary")),
    "keyring-use-back": ("PUT", "", FIRST, 200, b""),
    "keyring-remove": ("DELETE", "", SECOND, 200, b""),
    "keyring-install-bad": ("POST", "", "abc", 500, said("keyring-install-bad")),
    "keyring-on-client": ("GET", "", "", 500, said("keyring-on-client")),
    "keyring-list-local": ("GET", "?local-only=true", "", 200, pools(FIRST)[1:]),
    "keyring-relay": ("GET", "?relay-factor=1", "", 200, pools(FIRST)),
    "acl-keyring-list": ("GET", "", "", 200, pools(FIRST, lan=2)),
    "keyring-agent-default-token": ("GET", "", "", 200, pools(FIRST, lan=2)),
    "denied-keyring": ("GET", "", "", 500, said("denied-keyring")),
    "keyring-none": None,
    "keyring-install-local": None,
    "keyring-relay-bad": None,
}


@pytest.mark.parametrize("run", list(runs("keyring")))
def test_keyring(run):
    expected = KEYRING_ANSWERS[run["name"]]
    asked = []

    def answer(method, target, body, headers):
        asked.append((method, target, json.loads(body)["Key"] if body else ""))
        return expected[3:]

    with server(answer) as address:
        assert_same(run, replay(run, address), address)
    assert asked == ([] if expected is None else [(expected[0], f"/v1/operator/keyring{expected[1]}", expected[2])])


def test_keyring_takes_one_action_and_lists_primary_keys_and_messages():
    run = {"argv": ["consul", "keyring", "-list", "-use", FIRST]}
    assert replay(run, CLOSED) == (1, "", "Only a single action is allowed\n")
    (answer,) = pools()[1:]
    answer.update(PrimaryKeys={FIRST: 3}, Messages={"n2": "truncated"})
    with server(lambda *_: (200, [answer])) as address:
        code, out, err = replay({"argv": ["consul", "keyring", "-list-primary"]}, address)
    lines = ["==> Gathering installed primary encryption keys...", "", "dc1 (LAN):", "  ===> n2: truncated"]
    assert (code, out, err) == (0, "\n".join([*lines, f"  {FIRST} [3/4]", ""]), "")
