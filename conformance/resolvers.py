"""Real resolvers and a load balancer in front of our DNS: dig, glibc, dnsmasq, unbound and haproxy.

    python -m conformance.resolvers [SCENARIO...]

All of it lives in a network namespace of its own, where our agent has port 53 of 127.0.0.1 and /etc/resolv.conf names
it; so root is needed, and `ip`, and Debian's dnsutils, dnsmasq-base, unbound and haproxy. Scenarios are the names in
SCENARIOS, all without one. Each step prints its result; closes with 'N passed, N failed'. What is missing is skipped,
in CI it fails.
"""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from http.client import HTTPConnection, HTTPException
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from conformance.agents import OURS, ROOT, Agent, Checks, cluster
from conformance.real_consul import Missing, program, report_missing
from pyconsul_agent.wire import dns

INSIDE = "PYCONSUL_RESOLVERS_INSIDE"
PROGRAMS = ("dig", "getent", "dnsmasq", "unbound", "haproxy", "ip")
SERVER, DNSMASQ, UNBOUND, HAPROXY = "127.0.0.1", "127.0.0.2", "127.0.0.3", "127.0.0.4"
OWN_IPV4, OWN_IPV6 = "192.0.2.1", "2001:db8::1"
"""glibc asks for the families of which the host has an address that is no loopback one."""

BACKENDS = ("127.0.0.21", "127.0.0.22", "127.0.0.23")
BACKEND_PORT, HAPROXY_PORT = 8081, 8080
CHANGES = 60
"""Changes of the catalog that must each be in the very next answer."""

FOLLOW_S = 10.0
"""A resolver that asks each half second and holds each answer for one follows well within this."""


def node(agent: Agent, name: str, address: str, service: str = "", **more: Any) -> None:
    """Put a node, and an instance of a service on it, into the catalog."""
    row: dict[str, Any] = {"Node": name, "Address": address, **more}
    if service:
        row["Service"] = {"ID": f"{service}-{name}", "Service": service, "Tags": ["v1"], "Port": 8080}
    answer = agent.request("PUT", "/v1/catalog/register", row)
    assert answer.status == 200, answer


def dig(*arguments: str, server: str = SERVER) -> tuple[str, list[str]]:
    """(status and warnings, sorted lines of the answer section)."""
    done = subprocess.run(
        ["dig", f"@{server}", "+tries=1", "+time=5", "+nocookie", *arguments],
        capture_output=True, text=True, timeout=30, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    status = re.search(r"status: (\w+)", done.stdout)
    odd = [line for line in done.stdout.splitlines() if re.search("WARNING|Warning|bad|malformed|mismatch", line)]
    odd = [line for line in odd if "recursion requested but not available" not in line]
    section = done.stdout.partition(";; ANSWER SECTION:\n")[2].partition("\n\n")[0]
    lines = sorted(" ".join(line.split()) for line in section.splitlines())
    return " ".join([status[1] if status else done.stdout[-200:], *odd]), lines


# --- scenarios ----------------------------------------------------------------------------------------------------


def by_dig(checks: Checks, agent: Agent) -> None:
    """BIND's client reads what we write, over both transports."""
    addresses = [f"web.service.consul. 0 IN A 10.1.0.{n}" for n in (1, 2, 3)]
    checks.equal("dig: addresses of a service", dig("web.service.consul"), ("NOERROR", addresses))
    checks.equal("dig: the same over TCP", dig("+tcp", "web.service.consul"), ("NOERROR", addresses))
    checks.equal("dig: the same without EDNS", dig("+noedns", "web.service.consul"), ("NOERROR", addresses))
    srv = [f"_web._tcp.service.consul. 0 IN SRV 1 1 8080 n{n}.node.dc1.consul." for n in (1, 2, 3)]
    checks.equal("dig: SRV", dig("_web._tcp.service.consul", "SRV"), ("NOERROR", srv))
    checks.equal("dig: a node", dig("n2.node.consul"), ("NOERROR", ["n2.node.consul. 0 IN A 10.1.0.2"]))
    checks.equal(
        "dig: a node's metadata", dig("n2.node.consul", "TXT"), ("NOERROR", ['n2.node.consul. 0 IN TXT "rack=a b"'])
    )
    checks.equal(
        "dig: the name of an address",
        dig("-x", "10.1.0.2"),
        ("NOERROR", ["2.0.1.10.in-addr.arpa. 0 IN PTR n2.node.dc1.consul."]),
    )
    checks.equal("dig: a name that is not there", dig("none.service.consul"), ("NXDOMAIN", []))
    checks.equal("dig: a name outside, without recursors", dig("example.com"), ("REFUSED", []))
    checks.equal("dig: name servers", dig("consul", "NS")[1], ["consul. 0 IN NS server.node.dc1.consul."])
    checks.note("dig: the SOA", "hostmaster.consul." in str(dig("consul", "SOA")[1]))
    status, lines = dig("+tcp", "many.service.consul")
    checks.equal("dig: 300 addresses over TCP", (status, len(lines)), ("NOERROR", 300))
    checks.equal("dig: three of them over UDP", len(dig("+noedns", "many.service.consul")[1]), 3)
    checks.equal(
        "dig: with a client subnet",
        dig("+subnet=192.0.2.0/24", "n1.node.consul")[1],
        ["n1.node.consul. 0 IN A 10.1.0.1"],
    )
    several = subprocess.run(
        ["dig", f"@{SERVER}", "+tcp", "+keepopen", "+short", "n1.node.consul", "n2.node.consul", "n3.node.consul"],
        capture_output=True, text=True, timeout=30, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    checks.equal("dig: three questions on one connection", several.stdout.split(), [f"10.1.0.{n}" for n in (1, 2, 3)])


def by_glibc(checks: Checks, agent: Agent) -> None:
    """The C library, by /etc/resolv.conf."""

    def getent(*arguments: str) -> list[str]:
        done = subprocess.run(
            ["getent", *arguments], capture_output=True, text=True, timeout=30, stdin=subprocess.DEVNULL
        )
        return sorted({" ".join(line.split()) for line in done.stdout.splitlines()})

    checks.equal(
        "glibc: both address families are asked for, and IPv4 is there",
        getent("ahosts", "n1.node.consul"),
        ["10.1.0.1 DGRAM", "10.1.0.1 RAW", "10.1.0.1 STREAM n1.node.consul"],
    )
    found = {line.split()[0] for line in getent("ahostsv4", "web.service.consul")}
    checks.equal("glibc: a service", found, {"10.1.0.1", "10.1.0.2", "10.1.0.3"})
    checks.equal("glibc: the name of an address", getent("hosts", "10.1.0.3"), ["10.1.0.3 n3.node.dc1.consul"])
    checks.equal("glibc: an IPv6 node", getent("ahostsv6", "six.node.consul")[-1], "2001:db8::6 STREAM six.node.consul")
    checks.equal("glibc: a name that is not there", getent("ahosts", "none.service.consul"), [])
    checks.equal("glibc: the search list", getent("ahostsv4", "n2")[-1], "10.1.0.2 STREAM n2.node.consul")


@contextmanager
def running(*command: str) -> Iterator[subprocess.Popen[bytes]]:
    """A program, until the end of the block."""
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output)
        try:
            yield process
        finally:
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            if process.returncode not in (0, -15, 143):
                output.seek(0)
                print(output.read().decode(errors="replace")[-2000:], file=sys.stderr)


def through(checks: Checks, agent: Agent, name: str, server: str) -> None:
    """What every forwarder must pass on."""

    def ready() -> bool:
        return dig("n1.node.consul", server=server)[0].startswith("NOERROR")

    checks.until(f"{name}: passes questions on", ready, 10, detail=lambda: dig("n1.node.consul", server=server))

    def addresses(*arguments: str) -> list[str]:
        return [line.split()[-1] for line in dig(*arguments, server=server)[1]]

    web = ["10.1.0.1", "10.1.0.2", "10.1.0.3"]
    checks.equal(f"{name}: addresses of a service", addresses("web.service.consul"), web)
    checks.equal(f"{name}: any letter case", addresses("WeB.sErViCe.CoNsUl"), web)
    checks.equal(f"{name}: over TCP", addresses("+tcp", "web.service.consul"), web)
    checks.equal(f"{name}: SRV", len(addresses("_web._tcp.service.consul", "SRV")), 3)
    checks.equal(f"{name}: the name of an address", addresses("-x", "10.1.0.1"), ["n1.node.dc1.consul."])
    checks.equal(f"{name}: a name that is not there", dig("none.service.consul", server=server)[0], "NXDOMAIN")
    checks.equal(f"{name}: no IPv6 address", dig("n1.node.consul", "AAAA", server=server), ("NOERROR", []))
    node(agent, "moving", "10.3.0.1")
    checks.equal(f"{name}: a new node", addresses("moving.node.consul"), ["10.3.0.1"])
    node(agent, "moving", "10.3.0.2")
    checks.equal(f"{name}: has moved, with the next question", addresses("moving.node.consul"), ["10.3.0.2"])


def by_dnsmasq(checks: Checks, agent: Agent) -> None:
    """dnsmasq, told to send `consul` and the reverse zone to us."""
    with running(
        program("dnsmasq"), "--keep-in-foreground", "--conf-file=/dev/null", "--no-resolv", "--no-hosts", "--no-poll",
        "--user=root", "--pid-file=", f"--listen-address={DNSMASQ}", "--bind-interfaces", f"--server=/consul/{SERVER}",
        f"--server=/10.in-addr.arpa/{SERVER}", "--log-facility=-",
    ):  # fmt: skip
        through(checks, agent, "dnsmasq", DNSMASQ)


UNBOUND_CONF = """
server:
    interface: {address}
    do-daemonize: no
    username: ""
    chroot: ""
    pidfile: ""
    directory: "{folder}"
    use-syslog: no
    do-not-query-localhost: no
    use-caps-for-id: yes
    module-config: "iterator"
    local-zone: "10.in-addr.arpa." nodefault
remote-control:
    control-enable: no
forward-zone:
    name: "consul"
    forward-addr: {server}
stub-zone:
    name: "10.in-addr.arpa"
    stub-addr: {server}
"""


def by_unbound(checks: Checks, agent: Agent) -> None:
    """unbound, which asks in random letter case and takes no reply that does not repeat it."""
    with tempfile.TemporaryDirectory(prefix="unbound-") as folder:
        conf = Path(folder) / "unbound.conf"
        conf.write_text(UNBOUND_CONF.format(address=UNBOUND, folder=folder, server=SERVER))
        with running(program("unbound"), "-d", "-c", str(conf)):
            through(checks, agent, "unbound", UNBOUND)


# --- haproxy ------------------------------------------------------------------------------------------------------


class Backend(BaseHTTPRequestHandler):
    """Tells its own address."""

    def do_GET(self) -> None:
        body = str(self.server.server_address[0]).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *values: object) -> None:
        """Quiet."""


@contextmanager
def backends() -> Iterator[None]:
    """An HTTP server on each backend address."""
    with ExitStack() as stack:
        for address in BACKENDS:
            server = stack.enter_context(ThreadingHTTPServer((address, BACKEND_PORT), Backend))
            threading.Thread(target=server.serve_forever, daemon=True).start()
            stack.callback(server.shutdown)
        yield


HAPROXY_CONF = """
defaults
    mode http
    timeout connect 1s
    timeout client 5s
    timeout server 5s
resolvers consul
    nameserver agent {server}:53
    accepted_payload_size 8192
    resolve_retries 3
    timeout resolve 500ms
    timeout retry 500ms
    hold valid 1s
    hold obsolete 1s
    hold nx 1s
    hold other 1s
frontend front
    bind {address}:{port}
    default_backend web
backend web
    balance roundrobin
    server-template app 6 _app._tcp.service.consul resolvers consul resolve-prefer ipv4 init-addr none check inter 500ms
"""


def served_by() -> set[str]:
    """Who answers behind haproxy, in a dozen requests; `503` when nobody does."""
    found = set()
    for _ in range(12):
        connection = HTTPConnection(HAPROXY, HAPROXY_PORT, timeout=5)
        try:
            connection.request("GET", "/")
            reply = connection.getresponse()
            body = reply.read().decode()
            found.add(body if reply.status == 200 else str(reply.status))
        except (OSError, HTTPException) as error:
            found.add(type(error).__name__)
        finally:
            connection.close()
    return found


def register(agent: Agent, number: int) -> None:
    """An instance behind haproxy, with a TTL check that passes."""
    service = {
        "ID": f"app{number}", "Name": "app", "Address": BACKENDS[number], "Port": BACKEND_PORT,
        "Check": {"CheckID": f"app{number}", "TTL": "10m", "Status": "passing"},
    }  # fmt: skip
    answer = agent.request("PUT", "/v1/agent/service/register", service)
    assert answer.status == 200, answer


def by_haproxy(checks: Checks, agent: Agent) -> None:
    """A server template of haproxy is filled from SRV answers."""

    def follows(step: str, *numbers: int) -> None:
        wanted = {BACKENDS[number] for number in numbers} or {"503"}
        checks.until(f"haproxy: {step}", lambda: served_by() == wanted, FOLLOW_S, detail=served_by)

    with tempfile.TemporaryDirectory(prefix="haproxy-") as folder, backends():
        conf = Path(folder) / "haproxy.cfg"
        conf.write_text(HAPROXY_CONF.format(server=SERVER, address=HAPROXY, port=HAPROXY_PORT))
        with running(program("haproxy"), "-db", "-f", str(conf)):
            follows("nobody is there")
            register(agent, 0)
            register(agent, 1)
            follows("two instances were registered", 0, 1)
            register(agent, 2)
            follows("a third one came", 0, 1, 2)
            agent.request("PUT", "/v1/agent/check/fail/app1")
            follows("the check of one fails", 0, 2)
            agent.request("PUT", "/v1/agent/check/pass/app1")
            agent.request("PUT", "/v1/agent/service/deregister/app0")
            follows("it passes again, and another has gone", 1, 2)


# --- visibility -----------------------------------------------------------------------------------------------------


def changes(checks: Checks, agent: Agent) -> None:
    """Whatever was acknowledged over HTTP is in the next answer, on whichever way that is made."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.settimeout(5)
        client.connect((SERVER, 53))

        def ask(type_: int) -> dns.Message:
            client.send(dns.pack(dns.Message(7, dns.RD, ("seen.service.consul.", type_, dns.IN))))
            return dns.parse_message(client.recv(65535))

        late = []
        for number in range(CHANGES):
            for _ in range(3):  # the third reply comes from prepared pieces
                ask(dns.A)
                ask(dns.SRV)
            last = number % 250 + 1
            status = "critical" if number % 3 == 2 else "passing"
            node(agent, "seen", f"10.4.0.{last}", "seen", Check={"CheckID": "up", "Name": "up", "Status": status})
            a, srv = ask(dns.A), ask(dns.SRV)
            wanted = [] if status == "critical" else [bytes((10, 4, 0, last))]
            got = [record.data[0] for record in a.answers]
            if got != wanted or len(srv.answers) != len(wanted):
                late.append((number, got, wanted))
        checks.equal(f"{CHANGES} changes are each in the next answers", late, [])


SCENARIOS = {
    "dig": by_dig,
    "glibc": by_glibc,
    "dnsmasq": by_dnsmasq,
    "unbound": by_unbound,
    "haproxy": by_haproxy,
    "changes": changes,
}


def inside(names: list[str]) -> int:
    """What runs in the namespace."""
    for arguments in ("link set lo up", f"addr add {OWN_IPV4}/32 dev lo", f"addr add {OWN_IPV6}/128 dev lo"):
        subprocess.run(["ip", *arguments.split()], check=True)
    checks = Checks()
    with cluster(checks) as start:
        agent = start(OURS, "server", SERVER, "-server", "-bootstrap-expect=1", "-dns-port=53")
        checks.until("our agent leads", lambda: agent.get("/v1/catalog/service/consul"), 30)
        for number in (1, 2, 3):
            node(agent, f"n{number}", f"10.1.0.{number}", "web", NodeMeta={"rack": "a b"})
        node(agent, "six", "2001:db8::6")
        for number in range(300):
            node(agent, f"m{number}", f"10.2.{number // 250}.{number % 250}", "many")
        for name in names or SCENARIOS:
            SCENARIOS[name](checks, agent)
    return checks.close()


def main(names: list[str]) -> int:
    """Make the namespace, run in it, remove it."""
    if unknown := [name for name in names if name not in SCENARIOS]:
        print(f"no scenario {', '.join(unknown)}; there are {', '.join(SCENARIOS)}", file=sys.stderr)
        return 2
    if os.environ.get(INSIDE):
        return inside(names)
    try:
        for name in PROGRAMS:
            program(name)
        if os.getuid() != 0:
            raise Missing("a network namespace needs root")
    except Missing as reason:
        return report_missing("resolvers", reason)
    space = f"pyconsul-{os.getpid()}"
    folder = Path("/etc/netns") / space
    folder.mkdir(parents=True)
    (folder / "resolv.conf").write_text(f"nameserver {SERVER}\nsearch node.consul\noptions timeout:2 attempts:2\n")
    try:
        made = subprocess.run(["ip", "netns", "add", space], capture_output=True, text=True)
        if made.returncode:
            return report_missing("resolvers", Missing(made.stderr.strip()))
        try:
            return subprocess.run(
                ["ip", "netns", "exec", space, sys.executable, "-m", "conformance.resolvers", *names],
                cwd=ROOT, env=os.environ | {INSIDE: "1"}, stdin=subprocess.DEVNULL,
            ).returncode  # fmt: skip
        finally:
            subprocess.run(["ip", "netns", "delete", space], check=True)
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
