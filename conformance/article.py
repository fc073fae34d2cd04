"""The article's walk-through (one server, three servers, a client, the leader stopped) as a check that runs by itself.

Every step is named with the section it comes from, tried until its time is over, and reported as held or NOT HELD with
the reason. Where the agents run is the backend's business. Run by `scripts/cluster --check [--docker]`.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from dataclasses import dataclass, field

from conformance import article_patterns as p
from conformance import dns_query
from conformance.article_backend import STOP_S, Backend, Stopped, http, supports, until
from conformance.article_section4 import stop_the_leader

START_S = 15.0
CLIENT = "client1"
SERVERS = ("server1", "server2", "server3")
KEY, VALUE = "article/kept", b"written before the leader was stopped"

EXPOSED = {"8300-8302/tcp", "8301-8302/udp"}


@dataclass(slots=True)
class Report:
    """The steps' outcomes, printed as they come."""

    held: int = 0
    failed: list[str] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    color: bool = field(default_factory=sys.stdout.isatty)

    def step(self, name: str, check: Callable[[], None], within_s: float = 0.0) -> bool:
        """Run one step; `check` raises AssertionError with the reason while it does not hold."""
        try:
            until(check, within_s)
        except (AssertionError, OSError, ValueError) as error:
            self.failed.append(name)
            self._print("NOT HELD", "31", f"{name}\n           {error}")
            return False
        self.held += 1
        self._print("held", "32", name)
        return True

    def leave_out(self, name: str, why: str) -> None:
        """A step that this tree cannot have; not a failure, but said."""
        self.left_out.append(name)
        self._print("left out", "33", f"{name} ({why})")

    def _print(self, word: str, color: str, text: str) -> None:
        shown = f"\x1b[{color}m{word:<8}\x1b[0m" if self.color else f"{word:<8}"
        print(f"{shown}   {text}", flush=True)

    def summary(self) -> int:
        """The closing line; gives the exit code."""
        print(f"{self.held} held, {len(self.failed)} NOT HELD, {len(self.left_out)} left out", flush=True)
        return 1 if self.failed else 0


@dataclass(slots=True)
class Article:
    """One walk through the article on one backend."""

    at: Backend
    report: Report

    def run(self) -> int:
        """All sections; the exit code. Whatever happens, nothing is left running."""
        print(f"the article's walk-through, {self.at.title}", flush=True)
        try:
            self.one_server()
            self.three_servers()
            self.client()
            for signal in ("TERM", "INT"):
                stop_the_leader(self, signal)
            self.kill_a_server()
            self.end()
        finally:
            self.at.close()
        return self.report.summary()

    # --- asking -----------------------------------------------------------------------------------------------

    def get(self, path: str) -> object:
        """GET through the client's published port."""
        return http(self.at.outside(CLIENT), self.at.public.http, path)

    def leader(self) -> str:
        """The leading server's name, as the client tells it."""
        address = self.get("/v1/status/leader")
        by_address = {f"{self.at.ip(name)}:{self.at.ports.server}": name for name in SERVERS}
        assert address in by_address, f"/v1/status/leader is {address!r}"
        return by_address[str(address)]

    def peers(self) -> set[str]:
        """`/v1/status/peers`."""
        peers = self.get("/v1/status/peers")
        assert isinstance(peers, list), f"/v1/status/peers is {peers!r}"
        return set(peers)

    def nodes(self) -> list[str]:
        """Names in the catalog, sorted."""
        nodes = self.get("/v1/catalog/nodes")
        assert isinstance(nodes, list), f"/v1/catalog/nodes is {nodes!r}"
        return sorted(node["Node"] for node in nodes)

    def members(self, name: str) -> dict[str, tuple[str, str]]:
        """`consul members` there: name -> (status, type)."""
        lines = self.at.members(name).splitlines()
        assert lines and lines[0].split()[:4] == ["Node", "Address", "Status", "Type"], f"no table: {lines[:1]}"
        return {words[0]: (words[2], words[3]) for words in map(str.split, lines[1:])}

    def address(self, name: str) -> str:
        """`ip:8300` of a server."""
        return f"{self.at.ip(name)}:{self.at.ports.server}"

    def dig(self, name: str, question: str, kind: str = "A") -> dns_query.Answer:
        """Ask a published node's DNS."""
        return dns_query.ask((self.at.outside(name), self.at.public.dns), question, kind)

    def console(self, step: str, name: str, patterns: list[p.Pattern], within_s: float = 0.0, skip: int = 0) -> None:
        """A step: the console of `name`, from line `skip` on, shows the patterns in order."""

        def check() -> None:
            why = p.missing(self.at.console(name)[skip:], patterns)
            assert not why, why

        self.report.step(step, check, within_s)

    def dns_step(self, name: str, check: Callable[[], None], within_s: float = 5.0) -> None:
        """A step that needs DNS."""
        if supports("dns"):
            self.report.step(name, check, within_s)
        else:
            self.report.leave_out(name, "this tree has no DNS yet")

    def row(self, step: str, name: str, command: str, published: set[str]) -> None:
        """A step of `docker ps`; nothing where there is no docker."""
        if self.at.row(name) is None:
            return

        def check() -> None:
            row = self.at.row(name)
            assert row is not None
            assert row.command.startswith(command), f"COMMAND is {row.command}"
            assert row.status.startswith("Up "), f"STATUS is {row.status}"
            wanted = EXPOSED | published
            seen = {port for port in row.ports if not port.startswith(("[::]:", ":::"))}
            assert seen == wanted, f"PORTS: missing {sorted(wanted - seen)}, too many {sorted(seen - wanted)}"

        self.report.step(step, check, 2)

    def ended_well(self, stopped: Stopped) -> None:
        """Fails unless it left in time with exit code 0."""
        assert stopped.exit_code == 0, f"exit code {stopped.exit_code} after {stopped.seconds:.1f} s"
        assert stopped.seconds < STOP_S, f"it took {stopped.seconds:.1f} s"

    # --- sections ---------------------------------------------------------------------------------------------

    def one_server(self) -> None:
        """Section 1."""
        at, name = self.at, "node1"
        at.start(name, ["-server", "-bootstrap"], publish=["dns"])
        warning = r"^==> WARNING: Bootstrap mode enabled! Do not enable unless necessary$"
        screen = p.banner(name, server=True, bootstrap=True, ports=at.ports, opening=p.STARTING)
        self.console("1 banner of one server", name, screen, 10)
        self.console("1 bootstrap warning", name, [warning], 1)
        self.console("1 log of one server, in order", name, p.one_server(name, at.ip(name), at.ports), 10)
        late: list[p.Pattern] = [
            (p.joined(name), p.info(r"agent: Synced (service 'consul'|node info)")),
        ]
        self.console("1 member alive, node synced", name, late, 10)
        published = {f"0.0.0.0:{at.public.dns}->53/udp", "53/tcp", "8400/tcp", "8500/tcp"}
        self.row("1 docker ps", name, '"/bin/start -server', published)

        def node_answer() -> None:
            answer = self.dig(name, f"{name}.node.consul")
            assert answer.status == "NOERROR" and {"qr", "aa", "rd"} <= answer.flags, f"{answer}"
            assert [(r.name, r.type, r.ttl, r.data) for r in answer.answers] == [
                (f"{name}.node.consul.", "A", 0, at.ip(name))
            ], f"{answer}"

        def service_answers() -> None:
            assert self.dig(name, "consul.service.consul").data() == [at.ip(name)]
            answer = self.dig(name, "consul.service.consul", "SRV")
            assert answer.data() == [f"1 1 {at.ports.server} {name}.node.dc1.consul."], f"{answer}"
            assert (f"{name}.node.dc1.consul.", at.ip(name)) in [(r.name, r.data) for r in answer.additional], (
                f"{answer}"
            )

        self.dns_step(f"1 dig {name}.node.consul", node_answer)
        self.dns_step("1 dig consul.service.consul, A and SRV", service_answers)

        def members() -> None:
            table = self.members(name)
            assert table == {name: ("alive", "server")}, f"{table}"

        self.report.step("1 consul members", members, 5)
        stopped = at.stop(name, "INT")
        self.report.step(f"1 Ctrl-C ends it in order ({stopped.seconds:.1f} s)", lambda: self.ended_well(stopped))
        at.remove(name)

    def three_servers(self) -> None:
        """Section 2."""
        at = self.at
        at.start("server1", ["-server", "-bootstrap-expect", "3"])
        first = p.banner("server1", server=True, bootstrap=False, ports=at.ports)
        self.console("2 banner of server1", "server1", first, START_S)
        join = at.ip("server1")
        for name in SERVERS[1:]:
            at.start(name, ["-server", "-join", join])
        expect = r"^==> WARNING: Expect Mode enabled, expecting 3 servers$"
        self.console("2 expect warning", "server1", [expect], 1)
        ip = {name: re.escape(at.ip(name)) for name in SERVERS}
        port = at.ports.server
        listed = " ".join([rf"{p.IP}:{port}"] * 3)
        arrivals: list[p.Pattern] = [
            pattern
            for name in SERVERS[1:]
            for pattern in (
                p.info(rf"serf: EventMemberJoin: {name} {ip[name]}"),
                p.info(rf"consul: adding server {name} \(Addr: {ip[name]}:{port}\) \(DC: dc1\)"),
            )
        ]
        self.console("2 server1 sees server2 and server3", "server1", [tuple(map(str, arrivals))], START_S)
        bootstrap: list[p.Pattern] = [p.info(rf"consul: Attempting bootstrap with nodes: \[{listed}\]")]
        self.console("2 server1 makes the cluster", "server1", bootstrap, START_S)
        for name in SERVERS[1:]:
            screen: list[p.Pattern] = [
                r"^==> Joining cluster\.\.\.$",
                r"^    Join completed\. Synced with 1 initial agents$",
                *p.banner(name, server=True, bootstrap=False, ports=at.ports),
                p.info(rf"agent: \(LAN\) joining: \[{ip['server1']}\]"),
                p.info(r"agent: \(LAN\) joined: 1 Err: <nil>"),
                p.info(r"consul: New leader elected: server\d"),
            ]
            self.console(f"2 console of {name}", name, screen, START_S)
        leader = self._elected()
        others = [name for name in SERVERS if name != leader]
        lead: list[p.Pattern] = [
            *p.election(leader, at.ip(leader), at.ports, tally=2),
            tuple(p.info(rf"raft: pipelining replication to peer {ip[name]}:{port}") for name in others),
        ]
        self.console(f"2 {leader} is elected by two votes and replicates to both others", leader, lead, START_S)
        alive: list[p.Pattern] = [tuple(p.joined(name) for name in SERVERS)]
        self.console("2 all three are put into the catalog", leader, alive, START_S)
        for name in SERVERS:
            self.row(f"2 docker ps {name}", name, '"/bin/start -server', {"53/tcp", "53/udp", "8400/tcp", "8500/tcp"})

    def _elected(self) -> str:
        """Who says of itself that it leads; server1 when nobody does (the steps then say so)."""
        pattern = p.info(r"consul: cluster leadership acquired")
        return next((name for name in SERVERS if not p.missing(self.at.console(name), [pattern])), "server1")

    def client(self) -> None:
        """Section 3."""
        at = self.at
        at.start(CLIENT, ["-join", at.ip("server1")], publish=["rpc", "http", "dns"])
        screen = p.banner(CLIENT, server=False, bootstrap=False, ports=at.ports)
        self.console("3 banner of the client", CLIENT, screen, START_S)
        names = (*SERVERS, CLIENT)
        seen: list[p.Pattern] = [tuple(p.info(rf"serf: EventMemberJoin: {n} {re.escape(at.ip(n))}") for n in names)]
        self.console("3 the client sees all four members", CLIENT, seen, START_S)
        added: list[p.Pattern] = [
            tuple(
                p.info(rf"consul: adding server {n} \(Addr: {re.escape(self.address(n))}\) \(DC: dc1\)")
                for n in SERVERS
            )
        ]
        self.console("3 the client finds the three servers", CLIENT, added, START_S)
        public = at.public
        published = {f"0.0.0.0:{public.rpc}->8400/tcp", f"0.0.0.0:{public.http}->8500/tcp",
                     f"0.0.0.0:{public.dns}->53/udp", "53/tcp"}  # fmt: skip
        self.row("3 docker ps", CLIENT, '"/bin/start -join', published)

        def status() -> None:
            peers = self.peers()
            assert peers == {self.address(name) for name in SERVERS}, f"peers are {sorted(peers)}"
            self.leader()

        self.report.step("3 three peers, one of them leads", status, START_S)
        self.report.step("3 catalog has the four nodes", lambda: self._same(self.nodes(), sorted(names)), START_S)
        table = dict.fromkeys(SERVERS, ("alive", "server")) | {CLIENT: ("alive", "client")}
        self.report.step("3 consul members", lambda: self._same(self.members(CLIENT), table), START_S)
        self.dns_step(
            "3 dig server1.node.consul",
            lambda: self._same(self.dig(CLIENT, "server1.node.consul").data(), [at.ip("server1")]),
        )
        self.dns_step(
            "3 dig consul.service.consul gives three addresses",
            lambda: self._same(
                sorted(self.dig(CLIENT, "consul.service.consul").data()), sorted(at.ip(name) for name in SERVERS)
            ),
        )
        if supports("ipc"):
            self.report.step("3 the legacy RPC answers", self._handshake, 5)
        else:
            self.report.leave_out("3 the legacy RPC answers", "this tree has no legacy RPC yet")

        def write() -> None:
            host, port = at.outside(CLIENT), public.http
            assert http(host, port, f"/v1/kv/{KEY}", method="PUT", body=VALUE) is True, "PUT is not true"

        self.report.step("3 a key is written through the client", write, 5)

    @staticmethod
    def _same(seen: object, wanted: object) -> None:
        assert seen == wanted, f"it is {seen}, not {wanted}"

    def _handshake(self) -> None:
        """In msgpack: {Command: handshake, Seq: 7} {Version: 1} -> {Seq: 7, Error: ""}."""
        import socket

        with socket.create_connection((self.at.outside(CLIENT), self.at.public.rpc), timeout=3) as stream:
            stream.sendall(b"\x82\xa7Command\xa9handshake\xa3Seq\x07\x81\xa7Version\x01")
            answer = stream.recv(4096)
        assert b"Seq\x07" in answer and b"Error\xa0" in answer, f"answer is {answer!r}"

    def kept(self) -> None:
        """What was written is still there."""
        seen = http(self.at.outside(CLIENT), self.at.public.http, f"/v1/kv/{KEY}?raw")
        assert seen == VALUE.decode(), f"{KEY} is {seen!r}"

    def kill_a_server(self) -> None:
        """Section 4, beyond the article: one of three dies without a word."""
        leader = self.leader()
        victim = next(name for name in SERVERS if name != leader)
        self.at.kill(victim)
        seen: set[str] = set()

        def failed() -> None:
            if self.members(leader).get(victim, ("", ""))[0] == "failed":
                seen.add("failed")
            checks = http(self.at.outside(CLIENT), self.at.public.http, f"/v1/health/node/{victim}")
            if any(check["CheckID"] == "serfHealth" and check["Status"] == "critical" for check in checks or []):
                seen.add("critical")
            # Autopilot takes a dead server out of a healthy cluster after some seconds, so both must be seen, in time.
            assert seen == {"failed", "critical"}, f"seen so far: {sorted(seen)}"

        self.report.step(f"4 {victim} is killed: member failed, serfHealth critical", failed, 30)

        def goes_on() -> None:
            assert self.leader() == leader, f"leader is now {self.leader()}"
            self.kept()

        self.report.step("4 the leader stays, the key is still there", goes_on, 5)

    def end(self) -> None:
        """All leave in order: the client, then servers one by one."""
        running = [CLIENT, *(name for name in SERVERS if name in self.at.running())]
        for name in running:
            stopped = self.at.stop(name, "TERM")
            self.report.step(f"4 at last {name} leaves ({stopped.seconds:.1f} s)", lambda: self.ended_well(stopped))  # noqa: B023
