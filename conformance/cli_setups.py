"""The set-ups of the recorded command lines: which agents run, which files lie there, what happened before a run.

The recordings hold three quarters of the runs; what the missing ones did (a key, a service, a held lock) is done here
before the first run that shows it. Every preparation can be repeated without harm.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

from conformance.http_agent import Exchange, send

ROOT = Path(__file__).resolve().parents[1]
OURS = (sys.executable, "-m", "pyconsul_agent")
KEY = "pUqJrVyVRj5jsiYEkM/tFQYfWyJIv4s3XkvDwy7Cu5s="
OTHER_KEY = "GtGw8rtA2YJ6ASxAb0c2mBmbtMmAhnuQ9wjCDXrH3Go="
TOKEN = "8a643680-01e4-4ffd-83e8-7319898b6b92"
HTTP_PORT = 8500
READY_TIMEOUT_S = 40.0
STOP_TIMEOUT_S = 25.0
POLL_S = 0.1
LOCK_FLAGS = 0x2DDCCBC058A50C18

FILES = {
    "web.json": {
        "service": {
            "name": "web", "tags": ["v1", "primary"], "port": 80, "meta": {"a": "b"},
            "check": {"ttl": "10m"},
        }
    },
    "many.json": {"services": [{"name": "m1"}, {"name": "m2"}]},
    "web2.json": {"service": {"name": "web2", "tags": ["x"]}},
    "sr.json": {"Kind": "service-resolver", "Name": "web", "ConnectTimeout": "3s"},
    "bad.json": {"servr": True},
    "ok.json": {"data_dir": "/tmp/pyconsul-validate", "server": True, "bootstrap_expect": 3},
    "old.json": {"data_dir": "/tmp/pyconsul-validate", "recursor": "8.8.8.8"},
    "nm.json": {
        "service": {"name": "x", "kind": "connect-proxy", "port": 1, "proxy": {"destination_service_name": "y"}},
    },
    "ca.json": {"Provider": "consul", "Config": {"LeafCertTTL": "24h"}},
    "ixn.json": {"SourceName": "f1", "DestinationName": "f2", "Action": "allow"},
    "kv.json": [{"key": "imp/a", "flags": 0, "value": "aGVsbG8="}, {"key": "imp/b", "flags": 0, "value": ""}],
}  # fmt: skip
TEXTS = {
    "val.txt": "file value",
    "broken.json": '{"server": ',
    "sd.hcl": 'Kind = "service-defaults"\nName = "web"\nProtocol = "http"\n',
    "badce.hcl": 'Kind = "nope"\nName = "web"\n',
    "nokind.hcl": 'Name = "web"\n',
    "ok.hcl": 'data_dir = "/tmp/pyconsul-validate"\nserver = true\nbootstrap_expect = 1\n',
    "p.hcl": 'key_prefix "app/" { policy = "write" }\nnode_prefix "" { policy = "read" }\n',
    "bad.snap": "no snap\n",
    "tok": TOKEN + "\n",
    "jwt": "eyJhbGciOiJSUzI1NiJ9.e30.c2ln\n",
}
KEYS = {
    "app/b64": (b"", 0), "app/casnew": (b"x", 0), "app/dash": (b"\\-literal", 0), "app/empty": (b"", 0),
    "app/file": (b"file value", 0), "app/flags": (b"v", 42), "app/name": (b"pyconsul", 0),
    "app/spé cial/ü": ("välue".encode(), 0), "app/stdin": (b"from stdin\nline 2\n", 0),
}  # fmt: skip


class NotReady(Exception):
    """Agents did not become what the runs need."""


class Setup:
    """A folder to run in, the agents, and what is done before and after single runs."""

    def __init__(self) -> None:
        self._temporary = tempfile.TemporaryDirectory(prefix="golden-cli-")
        self.root = Path(self._temporary.name)
        self.folder = self.root / "work"
        self.folder.mkdir()
        (self.folder / "empty").mkdir()
        for name, content in FILES.items():
            (self.folder / name).write_text(json.dumps(content))
        for name, text in TEXTS.items():
            (self.folder / name).write_bytes(text.encode("latin-1"))
        self._agents: dict[str, subprocess.Popen[bytes]] = {}
        self.sessions: dict[str, str] = {}

    def start(self) -> None:
        """Bring up what the runs need. Raises NotReady."""

    def before(self, run: Mapping[str, Any]) -> Mapping[str, Any]:
        """Make the state that this run was recorded in; the run, with its names of this set-up."""
        return run

    def stop(self) -> None:
        """End everything and remove the files."""
        for process in self._agents.values():
            if process.poll() is None:
                process.send_signal(signal.SIGKILL)
            process.wait()
        self._temporary.cleanup()

    # --- agents ----------------------------------------------------------------------------------------------------

    def launch(self, name: str, number: int, **config: Any) -> None:
        """Start an agent on 127.0.0.N with the node id of the recordings."""
        address = f"127.0.0.{number}"
        options = {
            "node_name": name,
            "node_id": "-".join((str(number) * 8, str(number) * 4, f"4{str(number) * 3}", f"8{str(number) * 3}",
                                 str(number) * 12)),
            "bind_addr": address, "client_addr": address, "data_dir": str(self.root / name), "encrypt": KEY,
            "disable_remote_exec": False, "performance": {"raft_multiplier": 1, "leave_drain_time": "1s"},
            "disable_update_check": True, **config,
        }  # fmt: skip
        path = self.root / f"{name}.json"
        path.write_text(json.dumps(options))
        with (self.root / f"{name}.log").open("ab") as log:
            self._agents[name] = subprocess.Popen(
                [*OURS, "agent", f"-config-file={path}", "-log-level=debug"],
                stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, cwd=ROOT,
            )  # fmt: skip

    def signal(self, name: str, number: int) -> None:
        """Send an agent a signal and wait until it has ended."""
        self._agents[name].send_signal(number)
        self.ended(name)

    def ended(self, name: str) -> None:
        """Wait until an agent has ended by itself."""
        try:
            self._agents[name].wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            raise NotReady(f"{name} did not end") from None

    def log_of(self, name: str) -> str:
        """The end of an agent's log."""
        return (self.root / f"{name}.log").read_text(errors="replace")[-3000:]

    def until(self, what: str, look: Callable[[], Any], timeout_s: float = READY_TIMEOUT_S) -> None:
        """Wait until `look` is true. Raises NotReady."""
        deadline = time.monotonic() + timeout_s
        while not look():
            if time.monotonic() > deadline:
                logs = "\n".join(f"--- {name}\n{self.log_of(name)}" for name in self._agents)
                raise NotReady(f"never: {what}\n{logs}")
            time.sleep(POLL_S)

    # --- HTTP ------------------------------------------------------------------------------------------------------

    def ask(self, method: str, path: str, body: Any = None, *, client: bool = False, at: str = "") -> Any:
        """The decoded answer of server1, of client1, or `at` an address; None when there is none or no success."""
        data = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
        address = (at or ("127.0.0.4" if client else "127.0.0.1"), HTTP_PORT)
        try:
            answer = send(address, Exchange(method, quote(path, safe="/?=&%:-"), None, data))
        except OSError:
            return None
        if answer.status != 200:
            return None
        try:
            return json.loads(answer.body)
        except ValueError:
            return answer.body.decode(errors="replace")

    def member_is(self, name: str, status: int) -> bool:
        """How server1 sees a member: 1 alive, 2 leaving, 3 left, 4 failed."""
        return any(m["Name"] == name and m["Status"] == status for m in self.ask("GET", "/v1/agent/members") or ())

    def healthy(self, nodes: int) -> bool:
        """Whether so many nodes pass and have sent their metadata."""
        health = self.ask("GET", "/v1/health/state/passing") or []
        known = self.ask("GET", "/v1/catalog/nodes") or []
        synced = [node for node in known if "consul-network-segment" in (node["Meta"] or {})]
        return len({check["Node"] for check in health if check["CheckID"] == "serfHealth"}) == nodes == len(synced)

    def put_keys(self, keys: Mapping[str, tuple[bytes, int]]) -> None:
        """Write keys that are not there yet."""
        for key, (value, flags) in keys.items():
            self.ask("PUT", f"/v1/kv/{key}?cas=0&flags={flags}", value)

    def register(self, *services: Mapping[str, Any], client: bool = True) -> None:
        """Register services with client1 (or server1) and wait until the catalog has them."""
        for service in services:
            self.ask("PUT", "/v1/agent/service/register", service, client=client)
        for service in services:
            self.until(
                f"{service} in the catalog", lambda s=service: self.ask("GET", f"/v1/catalog/service/{s['Name']}")
            )

    def hold(self, key: str) -> None:
        """Hold the lock at a key."""
        if key in self.sessions:
            return
        self.sessions[key] = self.ask("PUT", "/v1/session/create", {"TTL": "600s"})["ID"]
        self.ask("PUT", f"/v1/kv/{key}?acquire={self.sessions[key]}&flags={LOCK_FLAGS}", b"")


WEB = {
    "Name": "web", "Tags": ["v1", "primary"], "Port": 80, "Meta": {"a": "b"}, "Check": {"TTL": "10m"},
}  # fmt: skip
API = {"Name": "api", "ID": "api-1", "Port": 9000, "Tags": ["t1", "t2"], "Meta": {"k": "v"}, "Address": "10.0.0.9"}


class Nothing(Setup):
    """No agent."""

    def before(self, run: Mapping[str, Any]) -> Mapping[str, Any]:
        """Certificates that earlier runs made, and only those."""
        if run["argv"][1] == "tls":
            name = run["name"]
            have_ca = name not in ("tls-ca-create", "tls-cert-noca")
            ca = self.folder / "consul-agent-ca.pem"
            if have_ca and not ca.exists():
                subprocess.run([*OURS, "tls", "ca", "create"], cwd=self.folder, env=environment(), capture_output=True)
            elif not have_ca:
                ca.unlink(missing_ok=True)
                (self.folder / "consul-agent-ca-key.pem").unlink(missing_ok=True)
        return run


QUIET = "127.0.0.9"
QUIET_S = 7.0
"""An agent sends its first coordinate 15 s after its start."""
WITHOUT_COORDINATES = {"rtt", "rtt-one", "rtt-unknown"}


class Cluster(Setup):
    """Three servers and a client, without ACLs and connect."""

    _quiet_since = -QUIET_S

    def start(self) -> None:
        """Start all and wait until they know each other."""
        # Only server1 is told how many to expect: so it is the one that can stand first, and leads.
        self.launch("server1", 1, server=True, bootstrap_expect=3)
        for number in (2, 3):
            self.launch(f"server{number}", number, server=True, retry_join=["127.0.0.1"], retry_interval="1s")
        self.launch("client1", 4, retry_join=["127.0.0.1"], node_meta={"zone": "z1"}, retry_interval="1s")
        self.until("four healthy nodes", lambda: self.healthy(4))
        self.until("three WAN members", lambda: len(self.ask("GET", "/v1/agent/members?wan=1") or ()) == 3)
        self.until("three peers", lambda: len(self.ask("GET", "/v1/status/peers") or ()) == 3)
        self.until("the client knows the leader", lambda: self.ask("GET", "/v1/status/leader", client=True))
        self.lead()

    def lead(self) -> None:
        """server1 was the leader when the recordings were made."""
        if (self.ask("GET", "/v1/status/leader") or "").startswith("127.0.0.1:"):
            return
        raise NotReady("server1 does not lead")

    def before(self, run: Mapping[str, Any]) -> Mapping[str, Any]:
        """What the missing runs, or the hand of the recorder, had done."""
        name, command = run["name"], run["argv"][1]
        prepare = getattr(self, f"_before_{command.replace('-', '_')}", None)
        if prepare is not None:
            prepare(name, run["argv"])
        if name in WITHOUT_COORDINATES:
            return {**run, "env": {**run.get("env", {}), "CONSUL_HTTP_ADDR": f"{QUIET}:{HTTP_PORT}"}}
        return run

    def _before_rtt(self, name: str, _: list[str]) -> None:
        """Those were the cluster's first seconds, before anybody had sent a coordinate; a busy machine is too slow."""
        if name not in WITHOUT_COORDINATES or time.monotonic() - self._quiet_since < QUIET_S:
            return
        if "quiet" in self._agents:
            self.signal("quiet", signal.SIGKILL)
        self.launch("quiet", 9, node_name="server1", server=True, bootstrap=True, encrypt="")
        self._quiet_since = time.monotonic()
        self.until("the quiet one leads", lambda: self.ask("GET", "/v1/status/leader", at=QUIET))

    def _before_kv(self, name: str, argv: list[str]) -> None:
        if argv[2] in ("get", "export") and "imp" not in argv[-1]:
            self.put_keys(KEYS)
        if name in ("kv-get-imported", "kv-delete"):
            self.put_keys({"imp/a": (b"hello", 0), "imp/b": (b"", 0)})

    def _before_catalog(self, name: str, _: list[str]) -> None:
        if name.startswith("catalog-services") and name != "catalog-services":
            self.register(WEB, API, {"Name": "m1"}, {"Name": "m2"}, {"Name": "web2", "Tags": ["x"]})

    def _before_exec(self, _: str, argv: list[str]) -> None:
        if "-service=web" in argv:
            self.register(WEB)

    def _before_lock(self, name: str, _: list[str]) -> None:
        if name.startswith("lock-try"):
            self.hold("locks/held/.lock")

    def _before_maint(self, name: str, _: list[str]) -> None:
        if name != "maint-show-none":
            self.register(WEB)
        if name in ("maint-show", "maint-show-2"):
            self.ask("PUT", "/v1/agent/maintenance?enable=true&reason=testing", client=True)
            self.ask("PUT", "/v1/agent/service/maintenance/web?enable=false", client=True)
        if name == "maint-show-2":
            self.ask("PUT", "/v1/agent/service/maintenance/web?enable=true&reason=svc", client=True)

    def _before_watch(self, name: str, _: list[str]) -> None:
        self.ask("DELETE", "/v1/kv/?recurse")
        self.ask("PUT", "/v1/agent/service/maintenance/web?enable=false", client=True)
        self.ask("PUT", "/v1/agent/maintenance?enable=false", client=True)
        self.register(WEB)
        if name == "watch-event" and not self.ask("GET", "/v1/event/list?name=deploy"):
            self.ask("PUT", "/v1/event/fire/deploy", b"v1.2")
        self.until("no maintenance", lambda: len(self.ask("GET", "/v1/health/checks/web") or ()) == 1)

    def _before_config(self, name: str, _: list[str]) -> None:
        if name in ("config-list", "config-read"):
            self.ask("PUT", "/v1/config", {"Kind": "service-defaults", "Name": "web", "Protocol": "http"})

    def _before_snapshot(self, name: str, _: list[str]) -> None:
        if name == "snapshot-save":  # by then all keys had been deleted
            self.ask("DELETE", "/v1/kv/?recurse")

    def _before_operator(self, name: str, _: list[str]) -> None:
        if name == "autopilot-get-2":
            changed = {"CleanupDeadServers": False, "MaxTrailingLogs": 500, "LastContactThreshold": "300ms"}
            body = {**changed, "ServerStabilizationTime": "5s"}
            self.ask("PUT", "/v1/operator/autopilot/configuration", body)

    def _before_keyring(self, name: str, _: list[str]) -> None:
        """A second key is installed, used, given up and removed again."""
        installed = name in ("keyring-use", "keyring-list-2", "keyring-remove-primary", "keyring-use-back",
                             "keyring-remove")  # fmt: skip
        primary = OTHER_KEY if name in ("keyring-list-2", "keyring-remove-primary", "keyring-use-back") else KEY
        if installed:
            self.ask("POST", "/v1/operator/keyring", {"Key": OTHER_KEY})
        self.ask("PUT", "/v1/operator/keyring", {"Key": primary})
        if not installed:
            self.ask("DELETE", "/v1/operator/keyring", {"Key": OTHER_KEY})

    # --- the end: one after the other goes -------------------------------------------------------------------------

    def _before_members(self, name: str, _: list[str]) -> None:
        ends = ("members-failed", "members-left", "members-pruned", "members-after-leave", "members-one-server")
        if name in ends:
            self._bring_to(ends.index(name) + 1)

    def _before_force_leave(self, name: str, _: list[str]) -> None:
        if name in ("force-leave-failed", "force-leave-prune"):
            self._bring_to(1 if name == "force-leave-failed" else 2)

    def _before_leave(self, name: str, _: list[str]) -> None:
        if name in ("leave-client", "leave-server"):
            self._bring_to(3 if name == "leave-client" else 5)

    def _bring_to(self, stage: int) -> None:
        """1: server3 has failed, 2: was made to leave, 3: is forgotten; 4: client1 has left, 5: server2 has ended."""
        if self._agents["server3"].poll() is None:
            # It was seen failed by the recorder, before autopilot cleaned up.
            self.ask("PUT", "/v1/operator/autopilot/configuration", {"CleanupDeadServers": False})
            self.signal("server3", signal.SIGKILL)
        if stage == 1:
            self.until("server3 failed", lambda: self.member_is("server3", 4))
        if stage == 2:
            self.until("server3 failed or left", lambda: self.member_is("server3", 4) or self.member_is("server3", 3))
            self.ask("PUT", "/v1/agent/force-leave/server3")
            self.until("server3 left", lambda: self.member_is("server3", 3))
        if stage >= 3 and (
            self.member_is("server3", 3) or self.member_is("server3", 4) or self.member_is("server3", 1)
        ):
            self.until("server3 is gone", lambda: not self.member_is("server3", 1))
            self.ask("PUT", "/v1/agent/force-leave/server3?prune=1")
            self.until("server3 forgotten", lambda: not self.member_is("server3", 3))
        if stage >= 4:
            if self._agents["client1"].poll() is None and not self.member_is("client1", 3):
                self.ask("PUT", "/v1/agent/leave", client=True)
            self.ended("client1")
            self.until("client1 left", lambda: self.member_is("client1", 3))
        if stage >= 5 and self._agents["server2"].poll() is None:
            self.signal("server2", signal.SIGINT)


ACL_KEYS = {"w/name": (b"pyconsul", 0), "w/other": (b"2", 0)}


class ACL(Setup):
    """One server, later a client too. Without ACLs as long as we have none: only what a management token sees holds."""

    def start(self) -> None:
        """Start the server."""
        self.launch("server1", 1, server=True, bootstrap=True, connect={"enabled": True})
        self.until("a healthy node", lambda: self.healthy(1))

    def before(self, run: Mapping[str, Any]) -> Mapping[str, Any]:
        """The client when it is wanted, keys and services."""
        name, command = run["name"], run["argv"][1]
        if name in WITH_CLIENT and "client1" not in self._agents:
            self.launch("client1", 4, retry_join=["127.0.0.1"], node_meta={"zone": "z1"})
            self.until("two healthy nodes", lambda: self.healthy(2))
        if name == "env-bad-ssl" and self._agents["client1"].poll() is None:
            self.ask("PUT", "/v1/agent/leave", client=True)
        if command == "watch":
            self.ask("DELETE", "/v1/kv/w/?recurse")
        if command == "watch" or name in ("kv-get-detailed-a", "kv-get-after"):
            self.put_keys(ACL_KEYS)
        if name == "token-flag":
            self.put_keys({"a": (b"b", 0)})
        if command == "rtt":
            self.until("coordinates", lambda: len(self.ask("GET", "/v1/coordinate/nodes") or ()) == 2)
        if name == "acl-catalog-services":
            self.register(WEB, client=False)
        if name in INTENTIONS:
            self._intend(INTENTIONS[name])
        return self._lock(run)

    def _intend(self, wanted: Mapping[tuple[str, str], str]) -> None:
        """Make the intentions that are not there yet."""
        there = {(row["SourceName"], row["DestinationName"]) for row in self.ask("GET", INTENTIONS_PATH) or ()}
        for (source, destination), action in wanted.items():
            if (source, destination) not in there:
                row = {"SourceName": source, "DestinationName": destination, "Action": action}
                self.ask("POST", INTENTIONS_PATH, row)

    def _lock(self, run: Mapping[str, Any]) -> Mapping[str, Any]:
        """The recorded session and index are those of the recorder's cluster."""
        if "w/lock" in run["argv"]:
            self.hold("w/lock")
            if run["argv"][2] == "get":
                self.ask("PUT", f"/v1/kv/w/lock?acquire={self.sessions['w/lock']}", b"me")
        argv = list(run["argv"])
        for at, word in enumerate(argv):
            if word == "-session=72853685-8423-7146-cca7-e337ab383373":
                argv[at] = f"-session={self.sessions['w/lock']}"
            if word == "-modify-index=50" and run["name"] == "kv-put-cas-ok":
                self.put_keys(ACL_KEYS)
                argv[at] = f"-modify-index={self.ask('GET', '/v1/kv/w/name')[0]['ModifyIndex']}"
        return {**run, "argv": argv}


WITH_CLIENT = {
    "acl-rtt", "acl-rtt-one", "acl-rtt-unknown", "exec-agent-default-token", "acl-keyring-list",
    "keyring-agent-default-token", "watch-name-alias", "watch-agent-default-token", "acl-leave-client",
    "env-addr-scheme", "env-bad-ssl",
}  # fmt: skip

INTENTIONS_PATH = "/v1/connect/intentions"
MADE_BY_HAND = {("a", "b"): "allow"}
FIRST = {("web", "db"): "allow", ("api", "db"): "deny"}
REPLACED = {**FIRST, ("web", "db"): "deny"}
INTENTIONS: dict[str, dict[tuple[str, str], str]] = {
    "acl-intention-create-exists": FIRST, "acl-intention-create-replace": FIRST,
    "acl-intention-list": {**REPLACED, ("f1", "f2"): "allow", **MADE_BY_HAND}, "acl-intention-get": REPLACED,
    "intention-check-denied": REPLACED, "acl-intention-check-allowed": MADE_BY_HAND,
    "acl-intention-match": REPLACED, "acl-intention-match-source": REPLACED, "acl-intention-delete": REPLACED,
}  # fmt: skip
"""What must be there before a run."""

SETUPS: dict[str, type[Setup]] = {"none": Nothing, "cluster": Cluster, "acl": ACL, "acl-denied": ACL}


def environment() -> dict[str, str]:
    """What every run sees besides its own variables."""
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG", "TMPDIR") if name in os.environ}
    return {**kept, "PYTHONPATH": str(ROOT)}
