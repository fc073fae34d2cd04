"""Debian's Patroni: PostgreSQL whose leader is found, held and replaced through us.

The short form has two members and a session TTL that is below Consul's default minimum; the long form three members,
Patroni's usual kind of times, the return of the killed leader, and a switchover.
"""

from __future__ import annotations

import json
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any

from conformance.agents import DNS_PORT, HTTP_PORT, Agent, until
from conformance.clients.scenario import Scenario
from conformance.dns_query import ask
from conformance.real_consul import Missing, program

ADDRESS = "127.0.21.5"
POSTGRES_PORT, REST_PORT = 5500, 8100
SCOPE = "pg_main"
SERVICE = "pg-main"
START_S, FOLLOW_S = 60.0, 20.0
LEADER_KEY = f"/v1/kv/service/{SCOPE}/leader?raw"


@dataclass(frozen=True)
class Times:
    """Of Patroni, in seconds; `members` says how many there are."""

    members: int
    ttl: int
    loop_wait: int
    retry_timeout: int


SHORT, LONG = Times(2, 10, 2, 3), Times(3, 20, 5, 5)


def postgres_folder() -> str:
    """Where PostgreSQL's programs are. Raises Missing."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    if not found:
        raise Missing("no PostgreSQL on this machine")
    return str(found[-1].parent)


class Member:
    """A member of the PostgreSQL cluster: patroni with its postgres."""

    def __init__(self, number: int, folder: Path, times: Times) -> None:
        self.name = f"m{number}"
        self.postgres_port, self.rest_port = POSTGRES_PORT + number, REST_PORT + number
        self.data = folder / self.name
        self.config = folder / f"{self.name}.yml"
        self.log_path = folder / f"{self.name}.log"
        self.process: subprocess.Popen[bytes] | None = None
        self.config.write_text(json.dumps(self._configuration(folder, times)))

    def _configuration(self, folder: Path, times: Times) -> dict[str, Any]:
        postgres, rest = f"{ADDRESS}:{self.postgres_port}", f"{ADDRESS}:{self.rest_port}"
        hba = [f"{kind} {base} all {where} trust" for kind, where in (("local", ""), ("host", "127.0.0.0/8"))
               for base in ("all", "replication")]  # fmt: skip
        return {
            "scope": SCOPE,
            "name": self.name,
            "restapi": {"listen": rest, "connect_address": rest},
            "consul": {"host": f"{ADDRESS}:{HTTP_PORT}", "register_service": True, "service_check_interval": "1s"},
            "bootstrap": {
                "dcs": {
                    "ttl": times.ttl, "loop_wait": times.loop_wait, "retry_timeout": times.retry_timeout,
                    "postgresql": {"use_pg_rewind": True},
                },
                "initdb": [{"encoding": "UTF8"}, "data-checksums", "no-sync"],
            },
            "postgresql": {
                "listen": postgres, "connect_address": postgres, "data_dir": str(self.data),
                "bin_dir": postgres_folder(), "pg_hba": hba, "pgpass": str(folder / f"{self.name}.pgpass"),
                "authentication": {"superuser": {"username": "postgres"}, "replication": {"username": "replicator"}},
                "parameters": {"fsync": "off", "shared_buffers": "16MB", "unix_socket_directories": str(folder)},
                "basebackup": [{"checkpoint": "fast"}, "no-sync"],
            },
        }  # fmt: skip

    def start(self) -> None:
        """Run it, as the user `postgres` when we are root: PostgreSQL refuses to run as root."""
        who: dict[str, Any] = {"user": "postgres", "group": "postgres", "extra_groups": []} if os.getuid() == 0 else {}
        with self.log_path.open("ab") as log:
            self.process = subprocess.Popen(
                [program("patroni"), str(self.config)],
                stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, cwd=self.config.parent, **who,
            )  # fmt: skip

    def kill(self) -> None:
        """End patroni and postgres at once, as a crash of their host would. Idempotent."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None
        pid_file = self.data / "postmaster.pid"
        if pid_file.exists():
            try:
                os.kill(int(pid_file.read_text().split()[0]), signal.SIGKILL)
            except ProcessLookupError:
                return

    def sql(self, statement: str) -> str:
        """What psql prints, an error included."""
        done = subprocess.run(
            ["psql", "-h", ADDRESS, "-p", str(self.postgres_port), "-U", "postgres", "-Atqc", statement],
            capture_output=True, text=True, timeout=20, stdin=subprocess.DEVNULL,
        )  # fmt: skip
        return (done.stdout + done.stderr).strip()

    def rest(self, method: str, path: str, body: Any = None) -> tuple[int, str]:
        """Status and text of patroni's own API; status 0 without an answer."""
        connection = HTTPConnection(ADDRESS, self.rest_port, timeout=30)
        try:
            connection.request(method, path, json.dumps(body) if body else None)
            reply = connection.getresponse()
            return reply.status, reply.read().decode()
        except (OSError, HTTPException) as error:
            return 0, str(error)
        finally:
            connection.close()


@contextmanager
def members(scenario: Scenario, times: Times) -> Iterator[dict[str, Member]]:
    """All members, not started; they and their files are gone at the end, logs are shown after a failure."""
    folder = Path(tempfile.mkdtemp(prefix="patroni-"))
    made = {member.name: member for member in (Member(n, folder, times) for n in range(1, times.members + 1))}
    try:
        if os.getuid() == 0:
            account = pwd.getpwnam("postgres")
            os.chown(folder, account.pw_uid, account.pw_gid)
        yield made
    finally:
        for member in made.values():
            member.kill()
        for member in made.values():
            if scenario.checks.failed and member.log_path.exists():
                print(f"--- {member.name}", member.log_path.read_text(errors="replace")[-4000:], sep="\n")
        shutil.rmtree(folder)


def holder(agent: Agent) -> str:
    """The name in the leader key, "" without one."""
    return str(agent.get(LEADER_KEY) or "")


def passing(agent: Agent, tag: str) -> list[int]:
    """Ports of passing instances with a tag."""
    rows = agent.get(f"/v1/health/service/{SERVICE}?passing&tag={tag}") or ()
    return sorted(row["Service"]["Port"] for row in rows)


def in_dns(tag: str) -> list[int]:
    """Ports in the SRV records of instances with a tag."""
    return sorted(
        int(text.split()[2]) for text in ask((ADDRESS, DNS_PORT), f"{tag}.{SERVICE}.service.consul", "SRV").data()
    )


def run(scenario: Scenario) -> None:
    """Bootstrap, replicate, fail over."""
    for name in ("patroni", "psql"):
        program(name)
    postgres_folder()
    times = LONG if scenario.long else SHORT
    more = () if scenario.long else ("-hcl", f'session_ttl_min = "{times.ttl // 2}s"')
    with scenario.agent(ADDRESS, *more) as agent, members(scenario, times) as made:
        leader = bootstrap(scenario, agent, made)
        replicas = [member for member in made.values() if member is not leader]
        replicate(scenario, agent, leader, replicas)
        leader = fail_over(scenario, agent, made, leader, times)
        if scenario.long:
            come_back(scenario, agent, made, leader)


def bootstrap(scenario: Scenario, agent: Agent, made: dict[str, Member]) -> Member:
    """All start at once; one of them may initialize the cluster."""
    for member in made.values():
        member.start()
    name = scenario.until("a leader is elected", lambda: holder(agent), START_S)
    leader = made[name]
    scenario.until(
        "it leads", lambda: leader.rest("GET", "/leader")[0] == 200, START_S, lambda: leader.rest("GET", "/")
    )
    row = agent.get(f"/v1/kv/service/{SCOPE}/leader")[0]
    session = agent.get(f"/v1/session/info/{row['Session']}")
    scenario.note("its session is on the key", session and session[0]["Name"] == f"{SCOPE}-{name}", session)
    identity = agent.request("GET", f"/v1/kv/service/{SCOPE}/initialize?raw").body
    wanted = leader.sql("select system_identifier from pg_control_system()")
    scenario.note("the cluster's identity is in the store", str(identity) == wanted, (identity, wanted))
    return leader


def replicate(scenario: Scenario, agent: Agent, leader: Member, replicas: list[Member]) -> None:
    """The others follow, and who is who is in the catalog."""
    count = "select count(*) from pg_stat_replication where state = 'streaming'"
    streaming = scenario.until("replicas stream", lambda: leader.sql(count) == str(len(replicas)), START_S)
    assert streaming, "no replica"
    leader.sql("create table seen (n int); insert into seen values (1)")
    for replica in replicas:
        scenario.until(f"{replica.name} has the row", lambda r=replica: r.sql("select n from seen") == "1", FOLLOW_S)
    ports = sorted(replica.postgres_port for replica in replicas)
    for tag, wanted in (("master", [leader.postgres_port]), ("primary", [leader.postgres_port]), ("replica", ports)):
        scenario.until(f"health: passing as {tag}", lambda t=tag, w=wanted: passing(agent, t) == w, FOLLOW_S)
        scenario.note(f"DNS: {tag}", in_dns(tag) == wanted, in_dns(tag))
    done = subprocess.run(
        ["patronictl", "-c", str(leader.config), "list", "-f", "json"],
        capture_output=True, text=True, timeout=30, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    listed = {row["Member"]: row["Role"] for row in json.loads(done.stdout or "[]")}
    wanted_roles = {leader.name: "Leader"} | {replica.name: "Replica" for replica in replicas}
    scenario.note("patronictl lists them", listed == wanted_roles, done)


def fail_over(scenario: Scenario, agent: Agent, made: dict[str, Member], old: Member, times: Times) -> Member:
    """A kill -9 of the leader's patroni and postgres."""
    old.kill()
    killed, bound = time.monotonic(), times.ttl + times.loop_wait + 5.0
    name = until(lambda: (found := holder(agent)) and found != old.name and found, bound)
    took = time.monotonic() - killed
    scenario.note(f"another takes over within {bound:.0f} s", name, f"{holder(agent)!r} after {took:.0f} s")
    assert name, "nobody took over"
    print(f"...  {scenario.name}: taken over after {took:.1f} s, ttl {times.ttl} s", flush=True)
    new = made[name]

    def writes() -> bool:
        return new.sql("insert into seen values (2) returning n") == "2"

    scenario.until("it accepts writes", writes, FOLLOW_S, lambda: new.sql("select pg_is_in_recovery()"))
    scenario.note("nothing was lost", new.sql("select min(n) from seen") == "1")
    for tag in ("master", "primary"):
        scenario.until(f"health: {tag} follows", lambda t=tag: passing(agent, t) == [new.postgres_port], FOLLOW_S)
        scenario.note(f"DNS: {tag} follows", in_dns(tag) == [new.postgres_port], in_dns(tag))
    return new


def come_back(scenario: Scenario, agent: Agent, made: dict[str, Member], leader: Member) -> None:
    """The killed one returns as a replica, and leads again when asked to."""
    gone = next(member for member in made.values() if member.process is None)
    gone.start()
    count = "select count(*) from pg_stat_replication where state = 'streaming'"
    scenario.until("the killed one streams", lambda: leader.sql(count) == str(len(made) - 1), START_S)
    ready = {"leader": leader.name, "candidate": gone.name}
    scenario.until("it may lead again", lambda: gone.rest("GET", "/replica")[0] == 200, FOLLOW_S)
    status, text = leader.rest("POST", "/switchover", ready)
    scenario.note("switchover", status == 200, (status, text))
    scenario.until("the key names it", lambda: holder(agent) == gone.name, FOLLOW_S)
    scenario.until("health follows", lambda: passing(agent, "master") == [gone.postgres_port], FOLLOW_S)
    scenario.note("DNS follows", in_dns("master") == [gone.postgres_port], in_dns("master"))
