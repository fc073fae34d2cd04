"""Replays the recorded DNS cases against real agent processes on the loopback interface.

    python -m conformance.dns_golden --agent-command "python -m pyconsul_agent" [case...]

Every case starts its agents with its configuration, makes its set-up calls over HTTP, sends its queries and compares
the replies with those of Consul. Without names all cases run but those of `golden/dns/differing.txt`, which are told
with the reason. Ends with `N passed, N failed, N skipped`; the exit status is 1 when anything failed.
"""

from __future__ import annotations

import argparse
import http.client
import itertools
import json
import re
import select
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

from conformance.dns_replies import (
    SECTIONS,
    TYPE_NAMES,
    Json,
    differences,
    normalised,
    opt_json,
    opt_of,
    packet,
    record_of,
    text,
)
from pyconsul_agent.wire import dns

CASES = Path(__file__).parent / "golden/dns/cases"
DIFFERING = Path(__file__).parent / "golden/dns/differing.txt"
HOST = "127.0.0.1"
PORT_NAMES = ("dns", "http", "serf_lan", "serf_wan", "server")
FIRST_PORT = 21_000
READY_S = 30.0
WAIT_S = 20.0
RELOAD_S = 1.5
BASE = {
    "node_name": "golden", "node_id": "11111111-2222-3333-4444-555555555555", "datacenter": "dc1", "server": True,
    "bootstrap": True, "bind_addr": HOST, "client_addr": HOST, "disable_update_check": True, "log_level": "warn",
    "performance": {"raft_multiplier": 1, "leave_drain_time": "0s"},
}  # fmt: skip

_ports = itertools.count(FIRST_PORT)


class SetupFailed(Exception):
    """The case cannot go on."""


def free_port() -> int:
    """The next port that is free for TCP and UDP."""
    for port in _ports:
        with suppress(OSError), ExitStack() as stack:
            for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
                stack.enter_context(socket.socket(socket.AF_INET, kind)).bind((HOST, port))
            return port
    raise AssertionError("endless")


def merged(base: Json, extra: Json) -> Json:
    """`extra` over `base`, maps key by key; None removes a key."""
    out = dict(base)
    for key, value in extra.items():
        out[key] = merged(out[key], value) if isinstance(value, dict) and isinstance(out.get(key), dict) else value
    return {key: value for key, value in out.items() if value is not None}


def filled(value: Any, names: dict[str, Any]) -> Any:
    """Every `${name}` replaced; one that is a whole text keeps the type of its value."""
    if isinstance(value, dict):
        return {filled(key, names): filled(one, names) for key, one in value.items()}
    if isinstance(value, list):
        return [filled(one, names) for one in value]
    if not isinstance(value, str):
        return value
    whole = re.fullmatch(r"\$\{([^}]+)\}", value)
    if whole:
        return names.get(whole[1], value)
    return re.sub(r"\$\{([^}]+)\}", lambda found: str(names.get(found[1], found[0])), value)


# --- the other DNS server -------------------------------------------------------------------------------------------


class Upstream:
    """A resolver in a thread, with the answers of a case."""

    def __init__(self, spec: Json) -> None:
        self.spec = spec
        self.seen: list[Json] = []
        self.port = free_port()
        self._ended = threading.Event()
        self._udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._udp.bind((HOST, self.port))
        self._tcp = socket.create_server((HOST, self.port))
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._ended.is_set():
            for ready in select.select([self._udp, self._tcp], [], [], 0.1)[0]:
                with suppress(OSError):
                    self._serve_tcp() if ready is self._tcp else self._serve_udp()

    def _serve_udp(self) -> None:
        data, peer = self._udp.recvfrom(65535)
        reply, delay_s = self._answer(data, "udp")
        if reply is not None:
            timer = threading.Timer(delay_s, self._udp.sendto, (reply, peer))
            timer.daemon = True
            timer.start()

    def _serve_tcp(self) -> None:
        connection, _ = self._tcp.accept()
        with connection:
            connection.settimeout(2)
            size = int.from_bytes(connection.recv(2), "big")
            reply, delay_s = self._answer(connection.recv(size), "tcp")
            time.sleep(delay_s)
            if reply is not None:
                connection.sendall(len(reply).to_bytes(2, "big") + reply)

    def _answer(self, data: bytes, transport: str) -> tuple[bytes | None, float]:
        query = dns.parse_message(data)
        assert query.question is not None
        name, type_ = query.question[0], TYPE_NAMES[query.question[1]]
        flags = [flag for flag, bit in (("rd", dns.RD), ("cd", dns.CD)) if query.flags & bit]
        entry: Json = {"name": name, "type": type_, "class": _class(query), "transport": transport, "flags": flags}
        for at, record in enumerate(query.additional):
            if record.type == dns.OPT:
                entry["edns"] = {**opt_json(record), "position": f"additional[{at}]"}
        self.seen.append(entry)
        rule = next((one for one in self.spec.get("rules", []) if _applies(one, entry)), {})
        if rule.get("drop"):
            return None, 0.0
        return dns.pack(self._message(query, entry, rule)), rule.get("delay", 0.0)

    def _message(self, query: dns.Message, entry: Json, rule: Json) -> dns.Message:
        own = [one for one in self.spec.get("records", []) if one["name"].lower() == entry["name"].lower()]
        default = [one for one in own if one["type"] in (entry["type"], "CNAME") or entry["type"] == "ANY"]
        known = "NOERROR" if own or "answer" in rule else self.spec.get("default", "NXDOMAIN")
        rcode = {"NOERROR": 0, "FORMERR": 1, "SERVFAIL": 2, "NXDOMAIN": 3, "NOTIMP": 4, "REFUSED": 5}
        flags = dns.QR | dns.RA | query.flags & (dns.RD | dns.CD) | rcode[rule.get("rcode", known)]
        flags |= sum(bit for flag, bit in (("tc", dns.TC), ("aa", dns.AA), ("ad", dns.AD)) if rule.get(flag))
        records = {"answer": default, **rule}
        sections = [[record_of(one) for one in records.get(section, [])] for section in SECTIONS]
        if "edns" in entry and rule.get("edns", True):
            sections[2].append(opt_of({"udp_size": 1400}))
        return dns.Message(query.id, flags, query.question, *sections)

    def stop(self) -> None:
        self._ended.set()
        self._thread.join()
        self._udp.close()
        self._tcp.close()


def _class(query: dns.Message) -> str:
    assert query.question is not None
    return {1: "IN", 3: "CH"}.get(query.question[2], "?")


def _applies(rule: Json, entry: Json) -> bool:
    return all(str(rule.get(key, entry[key])).lower() == entry[key].lower() for key in ("name", "type", "transport"))


# --- the agent ------------------------------------------------------------------------------------------------------


class Agent:
    """One agent process."""

    def __init__(self, name: str, spec: Json, home: Path, names: dict[str, Any]) -> None:
        self.name, self.spec, self.names = name, spec, names
        self.ports = {port: free_port() for port in PORT_NAMES}
        self.home = home / name
        self.home.mkdir()
        names.update({f"{name}.{port}": number for port, number in self.ports.items()})
        own = {"ports": self.ports, "data_dir": str(self.home / "data")}
        self.config = merged(merged(BASE, own), spec.get("config", {}))
        self.process: subprocess.Popen[bytes] | None = None

    def write(self, extra: Json) -> None:
        self.config = merged(self.config, extra)
        (self.home / "agent.json").write_text(json.dumps(filled(self.config, self.names)))

    def start(self, command: str) -> None:
        self.write({})
        flags = filled(self.spec.get("flags", []), self.names)
        arguments = [*shlex.split(command), "agent", "-config-file", str(self.home / "agent.json"), *flags]
        with (self.home / "log").open("wb") as log:
            self.process = subprocess.Popen(arguments, stdout=log, stderr=log, stdin=subprocess.DEVNULL)

    def wait_ready(self, *, leader: bool, token: str) -> None:
        """Until the node is in the catalog with its service and metadata, or, without a leader, HTTP answers."""
        assert self.process is not None
        query = f"?token={token}" if token else ""
        end = time.monotonic() + READY_S
        while time.monotonic() < end and self.process.poll() is None:
            with suppress(OSError, http.client.HTTPException):
                _, who = self.http("GET", "/v1/status/leader")
                if not leader:
                    return
                _, node = self.http("GET", f"/v1/catalog/node/{self.config['node_name']}{query}")
                complete = isinstance(node, dict) and node["Node"]["Meta"]
                if who and complete and ("consul" in node["Services"] or not self.config["server"]):
                    return
            time.sleep(0.1)
        raise SetupFailed("agent not ready: " + "\n".join((self.home / "log").read_text().splitlines()[-10:]))

    def http(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        connection = http.client.HTTPConnection(HOST, self.ports["http"], timeout=30)
        try:
            given = body if isinstance(body, str) or body is None else text(body)
            connection.request(method, path, None if given is None else given.encode())
            reply = connection.getresponse()
            raw = reply.read()
        finally:
            connection.close()
        try:
            return reply.status, json.loads(raw)
        except ValueError:
            return reply.status, raw.decode("utf-8", "replace")

    def stop(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGKILL if self.config["server"] else signal.SIGTERM)
            try:
                self.process.wait(10)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()


def exchange(port: int, data: bytes, transport: str, wait_s: float) -> bytes | str:
    """The reply, or how there was none."""
    kind = socket.SOCK_DGRAM if transport == "udp" else socket.SOCK_STREAM
    with socket.socket(socket.AF_INET, kind) as client:
        client.settimeout(wait_s)
        try:
            client.connect((HOST, port))
            if transport == "udp":
                client.send(data)
                return client.recv(65535)
            client.sendall(len(data).to_bytes(2, "big") + data)
            received = b""
            while len(received) < 2 or len(received) < 2 + int.from_bytes(received[:2], "big"):
                chunk = client.recv(65535)
                if not chunk:
                    return "closed"
                received += chunk
            return received[2:]
        except TimeoutError:
            return "timeout"
        except ConnectionError:
            return "closed"


# --- a case ---------------------------------------------------------------------------------------------------------


class Case:
    """One recorded case while it is replayed."""

    def __init__(self, recorded: Json, command: str) -> None:
        self.recorded, self.command = recorded, command
        self.names: dict[str, Any] = {}
        self.saved: dict[str, str] = {}
        self.pools: dict[str, list[Json]] = {}
        self.agents: dict[str, Agent] = {}
        self.upstreams: dict[str, Upstream] = {}
        self.queries = 0
        self.problems: list[str] = []

    def run(self) -> list[str]:
        """What is wrong, in lines."""
        home = Path(tempfile.mkdtemp(prefix="dns-golden-"))
        try:
            self._prepare(home)
            for number, step in enumerate(self.recorded["steps"]):
                lines = self._step(step, filled({k: v for k, v in step.items() if k != "expect"}, self.names))
                if lines:
                    self.problems.append(f"step {number}: {text(step.get('dns') or step.get('http') or '')}")
                    self.problems += [f"    {line}" for line in lines]
        except (SetupFailed, OSError, http.client.HTTPException) as error:
            self.problems.append(f"{type(error).__name__}: {error}")
        finally:
            for owned in (*self.agents.values(), *self.upstreams.values()):
                owned.stop()
            shutil.rmtree(home, ignore_errors=True)
        return self.problems

    def _prepare(self, home: Path) -> None:
        for name, spec in self.recorded.get("upstreams", {}).items():
            self.upstreams[name] = Upstream(spec)
            self.names[f"upstream.{name}"] = f"{HOST}:{self.upstreams[name].port}"
        self.names["closed"] = f"{HOST}:{free_port()}"
        for name, spec in (self.recorded.get("agents") or {"a": self.recorded}).items():
            self.agents[name] = Agent(name, spec, home, self.names)
        for agent in self.agents.values():
            agent.start(self.command)
        for agent in self.agents.values():
            agent.wait_ready(leader=not self.recorded.get("no_leader"), token=self.recorded.get("token", ""))

    def _step(self, step: Json, live: Json) -> list[str]:
        agent = self.agents[live.get("agent") or next(iter(self.agents))]
        want = step.get("expect", {})
        if "http" in live:
            return self._http(agent, live, want)
        if "wait" in live:
            self._wait(agent, *live["wait"])
        elif "sleep" in live:
            time.sleep(live["sleep"])
        elif "reload" in live:
            agent.write(step["reload"])
            assert agent.process is not None
            agent.process.send_signal(signal.SIGHUP)
            time.sleep(RELOAD_S)
        elif "upstream_log" in live:
            upstream = self.upstreams[live["upstream_log"]]
            seen, upstream.seen = upstream.seen, []
            return [] if seen == want["queries"] else [f"- {text(want['queries'])}", f"+ {text(seen)}"]
        elif "spread" in live:
            return self._spread(agent, live, want)
        elif "dns" in live:
            got = self._ask(agent, live["dns"])
            if "label" in step:
                self.pools[step["label"]] = got.get("answer", [])
                self.pools[f"{step['label']}.additional"] = got.get("additional", [])
            return differences(want, got, step.get("match"), self.pools)
        return []

    def _http(self, agent: Agent, live: Json, want: Json) -> list[str]:
        status, body = 0, None
        times = live.get("times")
        for i in range(1, (times or 1) + 1):
            call = json.dumps(live["http"])
            if times:
                for mark, value in (("{i}", i), ("{hi}", i // 250), ("{lo}", i % 250), ("{i3}", f"{i:03}")):
                    call = call.replace(mark, str(value))
            status, body = agent.http(*json.loads(call))
        for name, member in live.get("save", {}).items():
            if isinstance(body, dict) and member in body:
                self.names[name], self.saved[body[member]] = body[member], f"${{{name}}}"
        return [] if status == want["status"] else [f"status {status}, not {want['status']}: {str(body)[:120]}"]

    def _wait(self, agent: Agent, path: str, entries: int) -> None:
        end = time.monotonic() + WAIT_S
        while time.monotonic() < end:
            status, body = agent.http("GET", path)
            if status == 200 and body is not None and len(body) == entries:
                return
            time.sleep(0.1)
        raise SetupFailed(f"{path} never had {entries} entries")

    def _ask(self, agent: Agent, spec: Json) -> Json:
        self.queries += 1
        id_ = 1 + self.queries % 65_000
        began = time.monotonic()
        reply = exchange(agent.ports["dns"], packet(spec, id_), spec.get("transport", "udp"), spec.get("wait", 8))
        took = time.monotonic() - began
        if isinstance(reply, str):
            got: Json = {"outcome": reply}
        else:
            ports = {
                port: f"${{{one.name}.{name}}}" for one in self.agents.values() for name, port in one.ports.items()
            }
            got = normalised(reply, spec, id_, ports=ports)
        if "elapsed" in spec:
            low, high = spec["elapsed"]
            got["elapsed"] = "as expected" if low <= took <= high else f"{took:.2f} s"
        whole = json.dumps(got)
        for value, name in self.saved.items():
            whole = whole.replace(value, name)
        result: Json = json.loads(whole)
        return result

    def _spread(self, agent: Agent, live: Json, want: Json) -> list[str]:
        """The same query many times: which records came at all, how many at once, and whether the order varies."""
        replies = [self._ask(agent, live["spread"]).get("answer", []) for _ in range(live.get("times", 60))]
        records = {text(record): record for reply in replies for record in reply}
        got = {
            "counts": sorted({len(reply) for reply in replies}),
            "order_varies": len({text(reply[:1]) for reply in replies}) > 1,
            "answer": list(records.values()),
        }
        return differences(want, got)


def differing() -> dict[str, str]:
    """Cases that are known to differ, each with what is missing here."""
    lines = [line for line in DIFFERING.read_text().splitlines() if line and not line.startswith("#")]
    return dict(line.split(": ", 1) for line in lines)


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", nargs="*", help="names of cases; all without any")
    parser.add_argument("--agent-command", default=f"{sys.executable} -m pyconsul_agent", help='given "agent ..."')
    arguments = parser.parse_args()
    failed = 0
    left_out = {} if arguments.cases else differing()
    names = arguments.cases or sorted({path.stem for path in CASES.glob("*.json")} - left_out.keys())
    for name in names:
        case = Case(json.loads((CASES / f"{name}.json").read_text()), arguments.agent_command)
        problems = case.run()
        failed += bool(problems)
        sys.stdout.write(f"{'FAIL' if problems else 'PASS'} {name} ({case.queries} queries)\n")
        sys.stdout.writelines(f"  {line}\n" for line in problems)
        sys.stdout.flush()
    sys.stdout.writelines(f"SKIP {name}: {reason}\n" for name, reason in left_out.items())
    sys.stdout.write(f"{len(names) - failed} passed, {failed} failed, {len(left_out)} skipped\n")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
