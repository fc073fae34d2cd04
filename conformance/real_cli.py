"""The real `consul` command line (1.8.7) against our agents: an operator's day, command by command.

Three of our servers and a client, encrypted, with remote execution allowed. Run as a scenario of
`conformance.consul_peer`.
"""

from __future__ import annotations

import base64
import json
import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

from conformance.agents import HTTP_PORT, OURS, ROOT, Agent, Checks, cluster, leader_known

KEY, OTHER_KEY = (base64.b64encode(bytes(range(start, start + 32))).decode() for start in (0, 100))
SERVERS = ("127.0.1.2", "127.0.1.3", "127.0.1.4")
CLIENT = "127.0.1.5"


class Line:
    """Runs the real program against one agent and counts what it says."""

    def __init__(self, checks: Checks, real: tuple[str, ...], agent: Agent) -> None:
        self.checks, self.real, self.agent = checks, real, agent

    def says(self, arguments: list[str], *texts: str, code: int = 0, timeout_s: float = 30.0) -> str:
        """Its output, which must hold the texts; its exit code must be `code`."""
        ended, output = self.agent.command(self.real, *arguments, timeout_s=timeout_s)
        good = ended == code and all(text in output for text in texts)
        shown = " ".join(arguments)[:60].partition("\n")[0]
        self.checks.note(f"consul {shown}", good, (ended, output))
        return output

    def started(self, *arguments: str) -> subprocess.Popen[str]:
        """A run that goes on."""
        return subprocess.Popen(
            [*self.real, *arguments], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            text=True, cwd=ROOT, env=os.environ | {"CONSUL_HTTP_ADDR": f"{self.agent.address}:{HTTP_PORT}"},
        )  # fmt: skip

    def ends(self, step: str, process: subprocess.Popen[str], *texts: str, number: int | None = None) -> None:
        """A run that goes on ends, by a signal if one is given, and has said the texts."""
        if number is not None:
            process.send_signal(number)
        try:
            output, _ = process.communicate(timeout=20)
        except subprocess.TimeoutExpired:
            process.kill()
            output = process.communicate()[0]
        self.checks.note(step, all(text in output for text in texts), (process.returncode, output))


def run(checks: Checks, real: tuple[str, ...]) -> None:
    """The real command line against our HTTP API."""
    with cluster(checks) as start:
        more = (f"-encrypt={KEY}", "-retry-join=127.0.1.2", "-retry-interval=1s", "-hcl=disable_remote_exec=false")
        servers = [
            start(OURS, f"ours{number}", address, "-server", "-bootstrap-expect=3", *more)
            for number, address in enumerate(SERVERS, 1)
        ]
        client = start(OURS, "ours4", CLIENT, *more)
        agents = [*servers, client]
        checks.until("all know a leader", lambda: all(leader_known(agent) for agent in agents), 40)
        line = Line(checks, real, servers[0])
        checks.until("three peers", lambda: len(servers[0].get("/v1/status/peers") or ()) == 3, 30)
        checks.until("four nodes", lambda: len(servers[0].get("/v1/catalog/nodes") or ()) == 4, 30)
        for part in (membership, keys, catalog, services_from_files, maintenance, events, locks, watches, execution):
            part(line)
        for part in (operators, keyring, monitor, distances, snapshots):
            part(line)
        leaving(Line(checks, real, client), line)


def membership(line: Line) -> None:
    """members, info, join, force-leave, reload, version of the agent."""
    line.says(["members"], "ours1", "127.0.1.3:8301", "alive", "server", "client", "1.10.11", "dc1")
    line.says(["members", "-detailed"], "role=consul", "port=8300")
    line.says(["members", "-wan"], "ours1.dc1")
    line.says(["members", "-status=failed"], code=2)
    line.says(["info"], "server = true", "state = ", "num_peers = 2", "encrypted = true")
    line.says(["join", "127.0.1.3"], "Successfully joined cluster by contacting 1 nodes")
    line.says(["join", "127.0.1.99"], "Failed to join any nodes", code=1)
    line.says(["reload"], "Configuration reload triggered")


def keys(line: Line) -> None:
    """kv: put, get, delete, export, import, conditions."""
    line.says(["kv", "put", "-flags=5", "a/b", "value"], "Success! Data written to: a/b")
    line.says(["kv", "get", "a/b"], "value")
    line.says(["kv", "get", "-detailed", "a/b"], "Flags            5", "ModifyIndex")
    line.says(["kv", "get", "-recurse", "a/"], "a/b:value")
    line.says(["kv", "get", "-keys", "a"], "a/")
    line.says(["kv", "put", "-cas", "-modify-index=1", "a/b", "lost"], "CAS failed", code=1)
    exported = line.says(["kv", "export", "a/"], '"key": "a/b"')
    line.says(["kv", "delete", "a/b"], "Success! Deleted key: a/b")
    line.says(["kv", "get", "a/b"], "No key exists at: a/b", code=1)
    line.says(["kv", "import", exported], "Imported: a/b")
    line.says(["kv", "delete", "-recurse", "a/"], "Success! Deleted keys with prefix: a/")


def catalog(line: Line) -> None:
    """Catalog."""
    line.says(["catalog", "nodes"], "ours1", "ours2", "ours3", "ours4")
    line.says(["catalog", "nodes", "-detailed", "-service=consul"], "lan=127.0.1.2")
    line.says(["catalog", "services", "-tags"], "consul")
    line.says(["catalog", "datacenters"], "dc1")


def services_from_files(line: Line) -> None:
    """Services register and deregister."""
    path = line.agent.log_path.parent / "web.json"
    web = {"name": "web", "tags": ["v1"], "port": 80, "meta": {"a": "b"}, "check": {"ttl": "10m", "status": "passing"}}
    path.write_text(json.dumps({"service": web}))
    line.says(["services", "register", str(path)], "Registered service: web")
    line.says(["services", "register", "-name=cli", "-port=99"], "Registered service: cli")
    for name in ("web", "cli"):
        line.checks.until(f"{name} is found", lambda n=name: line.agent.get(f"/v1/catalog/service/{n}"))
    line.says(["services", "deregister", "-id=cli"], "Deregistered service: cli")


def maintenance(line: Line) -> None:
    """Maint."""
    line.says(["maint", "-enable", "-reason=test"], "Node maintenance is now enabled")
    line.says(["maint"], "Node:", "Reason: test")
    line.says(["maint", "-disable"], "Node maintenance is now disabled")
    line.says(["maint", "-enable", "-service=web"], 'Service maintenance is now enabled for "web"')
    line.says(["maint", "-disable", "-service=web"], 'Service maintenance is now disabled for "web"')


def events(line: Line) -> None:
    """Event."""
    line.says(["event", "-name=deploy", "v1"], "Event ID:")
    line.says(["event", "-name=x", "-node=["], "Failed to compile node filter regexp", code=1)


def locks(line: Line) -> None:
    """lock: alone, taken, by a signal, as a semaphore."""
    line.says(["lock", "locks/one", "echo held $CONSUL_LOCK_HELD"], "held true")
    line.says(["lock", "-child-exit-code", "locks/one", "exit 3"], "exit status 3", code=2)
    line.says(["lock", "-verbose", "-n=2", "locks/many", "echo inside"], "Setting up semaphore", "inside", "Cleanup")
    holder = line.started("lock", "-verbose", "locks/one", "echo begun; sleep 30")
    line.checks.until("the lock is held", lambda: "Session" in str(line.agent.get("/v1/kv/locks/one/.lock")))
    line.says(["lock", "-timeout=1s", "locks/one", "true"], "timeout during lock acquisition", code=1)
    line.ends("consul lock ends by SIGINT", holder, "Child terminated", number=signal.SIGINT)
    line.checks.until("the lock is free", lambda: not line.agent.get("/v1/kv/locks/one/.lock"))


def watches(line: Line) -> None:
    """watch: once, and with a program that sees a change."""
    line.says(["watch", "-type=nodes"], '"Node": "ours1"')
    line.says(["watch", "-type=service", "-service=web", "-passingonly=true"], '"Service": "web"')
    line.says(["watch", "-type=checks", "-state=passing"], '"CheckID": "serfHealth"')
    line.says(["watch", "-type=event", "-name=deploy"], '"Name": "deploy"')
    line.says(["kv", "put", "seen", "one"], "Success!")
    watch = line.started("watch", "-type=key", "-key=seen", "cat; echo")
    time.sleep(1.0)
    line.says(["kv", "put", "seen", "two"], "Success!")
    time.sleep(1.0)
    one, two = (base64.b64encode(text).decode() for text in (b"one", b"two"))
    line.ends("consul watch sees both values", watch, one, two, number=signal.SIGINT)


def execution(line: Line) -> None:
    """Exec on all nodes, by name, by service, as a script."""
    names = [f"ours{number}: hello" for number in (1, 2, 3, 4)]
    line.says(["exec", "-wait=1s", "echo hello"], *names, "4 / 4 node(s) completed / acknowledged")
    line.says(["exec", "-wait=1s", "-node=ours4", "exit 3"], "finished with exit code 3", code=2)
    line.says(["exec", "-wait=500ms", "-service=web", "echo x"], "ours1: x", "1 / 1 node(s)")
    many = "i=0; while [ $i -lt 500 ]; do echo line $i; i=$((i+1)); done"
    line.says(["exec", "-wait=1s", "-node=ours2", many], "ours2: line 0", "ours2: line 499", "exit code 0")
    line.checks.until("nothing is left of it", lambda: line.agent.request("GET", "/v1/kv/_rexec/?keys").status == 404)


def operators(line: Line) -> None:
    """Operator raft and autopilot."""
    line.says(["operator", "raft", "list-peers"], "ours1", "leader", "follower", "true")
    line.says(["operator", "raft", "remove-peer", "-id=nobody"], "was not found in the Raft configuration", code=1)
    line.says(["operator", "autopilot", "set-config", "-max-trailing-logs=500"], "Configuration updated!")
    line.says(["operator", "autopilot", "get-config"], "CleanupDeadServers = true", "MaxTrailingLogs = 500")


def keyring(line: Line) -> None:
    """keyring: install, use, remove, list."""
    line.says(["keyring", "-list"], KEY, "[4/4]", "[3/3]")
    line.says(["keyring", f"-install={OTHER_KEY}"], "Installing new gossip encryption key")
    line.says(["keyring", f"-use={OTHER_KEY}"], "Changing primary gossip encryption key")
    line.says(["keyring", f"-remove={KEY}"], "Removing gossip encryption key")
    line.says(["keyring", "-list"], OTHER_KEY, "[4/4]")


def monitor(line: Line) -> None:
    """Monitor shows what happens meanwhile."""
    follower = line.started("monitor", "-log-level=debug")
    time.sleep(1.0)
    line.says(["event", "-name=monitored"], "Event ID:")
    time.sleep(0.5)
    line.ends("consul monitor shows the log", follower, "[DEBUG] agent", number=signal.SIGINT)


def distances(line: Line) -> None:
    """rtt, when coordinates are known."""
    for name in ("ours1", "ours2"):
        line.checks.until(
            f"a coordinate of {name} is known", lambda n=name: line.agent.get(f"/v1/coordinate/node/{n}"), 40
        )
    line.says(["rtt", "ours1", "ours2"], "Estimated ours1 <-> ours2 rtt:", "using LAN coordinates")
    line.says(["rtt", "nobody"], 'Could not find a coordinate for node "nobody"', code=1)


def snapshots(line: Line) -> None:
    """snapshot, when there is one."""
    if not line.checks.serves(line.agent, "/v1/snapshot"):
        return
    path = Path(line.agent.log_path.parent / "x.snap")
    line.says(["snapshot", "save", str(path)], "Saved and verified")
    line.says(["snapshot", "restore", str(path)], "Restored snapshot")


def leaving(line: Line, other: Line) -> None:
    """leave, and force-leave of one who is gone."""
    checks: Any = line.checks
    line.says(["leave"], "Graceful leave complete")
    checks.equal("the agent ends well", line.agent.wait(), 0)
    checks.until("consul members shows it left", lambda: "left" in other.agent.command(other.real, "members")[1])
    other.says(["force-leave", "-prune", "ours4"])
    checks.until("it is forgotten", lambda: "ours4" not in other.agent.command(other.real, "members")[1])
