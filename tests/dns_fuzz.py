"""Bad input for the DNS server: every recorded message as it is, then mutations of them all.

    scripts/fuzz_dns [--count 1000000 | --seconds 20] [--seed N]

The server object is asked, without sockets, over UDP and TCP, with and without recursors, whose replies are mutated as
well. A recorded malformed message must get the recorded reaction. Any message gets a reply that obeys the rules of
docs/protocol/dns.md#limits and #sizes, or silence; never an exception, an error in the log, a task left behind, or
memory that grows with the number of messages. Closes with 'N passed, N failed'; a failure names seed and message.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import random
import resource
import sys
import time
from pathlib import Path

import dnslib

from conformance.dns_replies import differences, normalised, packet
from pyconsul_agent.errors import DialRefused
from pyconsul_agent.interfaces.dns import server as server_module
from pyconsul_agent.interfaces.dns.config import DNSConfig
from pyconsul_agent.interfaces.dns.prepared import BYTES_MAX
from pyconsul_agent.interfaces.dns.server import DNSServer
from pyconsul_agent.wire import dns
from tests.memory_net import Clock, Recorder, run
from tests.unit.dns_cases import CASES, Catalog, load
from tests.unit.test_dns_server import config_of, register

PEER = ("192.0.2.7", 5353)
RECURSOR = ("192.0.2.53", 53)
RECORDED = ("malformed", "opcodes-classes", "edns", "zone-apex")
MUTATIONS_MAX = 4
GROWTH_BYTES_MAX = 24 * 1024 * 1024
"""What the process may be larger at the end than after the first tenth, beside the prepared replies, whose memory is
bounded: noise of the allocator.
"""

ORACLE_EVERY = 10
TCP_EVERY = 5
REPORTED_MAX = 5
RCODES = frozenset({dns.NOERROR, dns.FORMERR, dns.SERVFAIL, dns.NXDOMAIN, dns.NOTIMP, dns.REFUSED})


class Net:
    """A network of one DNS server and its recursor, which answers with mutations of a good reply."""

    def __init__(self, draw: random.Random) -> None:
        self.draw = draw

    async def questions(self, quick, receive, host, port):
        self.quick, self.receive = quick, receive
        return self

    async def datagrams(self, receive, host, port, *, connected=None):
        return Upstream(self.draw, receive, connected[0])

    async def connect(self, factory, host, port, **more):
        raise DialRefused("dial tcp: connection refused")

    def close(self):
        """Nothing to close."""


class Upstream:
    """A connected socket to the recursor."""

    def __init__(self, draw, receive, peer):
        self.draw, self.receive, self.peer = draw, receive, peer

    def send(self, data, to):
        reply = bytearray(data)
        reply[2] |= 0x80
        if len(data) > 16 and not data[6:12].strip(b"\0"):
            reply[6:8] = b"\0\1"
            reply += b"\xc0\x0c\0\1\0\1\0\0\0\1\0\4\x0a\0\0\1"
        loop = asyncio.get_running_loop()
        for _ in range(self.draw.randrange(3)):
            loop.call_soon(self.receive, mutated(bytes(reply), self.draw, (bytes(reply),)), self.peer)

    def close(self):
        """Nothing to close."""


def mutated(data: bytes, draw: random.Random, others) -> bytes:
    """`data` with a few things wrong."""
    out = bytearray(data)
    for _ in range(draw.randint(1, MUTATIONS_MAX)):
        at = draw.randrange(len(out)) if out else 0
        kind = draw.randrange(9)
        if kind == 0 and out:
            out[at] ^= 1 << draw.randrange(8)
        elif kind == 1 and out:
            out[at] = draw.choice((0, 1, 0x3F, 0x40, 0xC0, 0xFF, draw.randrange(256)))
        elif kind == 2:
            del out[at:]
        elif kind == 3:
            out[at:at] = draw.randbytes(draw.randrange(1, 9))
        elif kind == 4:
            out[at : at + 2] = bytes((0xC0 | draw.randrange(2), draw.randrange(64)))  # a pointer
        elif kind == 5:
            out += out[at:]
        elif kind == 6:
            other = draw.choice(others)
            out[at:] = other[draw.randrange(len(other) + 1) :]
        elif kind == 7 and len(out) >= 12:
            out[draw.randrange(4, 12)] = draw.choice((0, 0, 1, 1, 2, 255))  # counts
        elif len(out) > 12:
            out[12:12] = bytes((63,)) + draw.randbytes(63)  # a longer name
    return bytes(out[:65535])


def wrong(data: bytes, reply: bytes | None, *, tcp: bool) -> str | None:
    """What is wrong with a reply to `data`, by the rules that need no catalog."""
    if len(data) < 12 or data[2] & 0x80:
        return None if reply is None else "an answer to what is no query"
    if reply is None:
        return None  # dropped: a reply that has no form on the wire
    if len(reply) < 12 or reply[:2] != data[:2] or not reply[2] & 0x80:
        return "no reply to this query"
    opcode, rcode = data[2] & 0x78, reply[3] & 15
    counts = [int.from_bytes(data[at : at + 2], "big") for at in (4, 6, 8, 10)]
    if opcode not in (0, 0x20):
        return None if rcode == dns.NOTIMP and len(reply) == 12 else "no bare NOTIMP"
    if counts[0] != 1 or counts[1] > 1 or counts[2] > 1 or counts[3] > 2:
        return None if rcode == dns.FORMERR and len(reply) == 12 else "no bare FORMERR"
    if rcode not in RCODES:
        return f"rcode {rcode}"
    message = dns.parse_message(reply)
    query = dns.parse_query(data)
    if isinstance(query, dns.Query) and query.name is not None:
        name, *kind = message.question or ("", 0, 0)  # a recursor may have its own letter case
        if (name.lower(), kind) != (query.name.lower(), [query.type, query.cls]):
            return f"question {message.question}"
        largest = max(512, query.edns.udp_size if query.edns else 0)
        if not tcp and len(reply) > largest and len(message.answers) > 1:
            return f"{len(reply)} octets"
    elif isinstance(query, bytes) and reply != query:
        return "another rejection"
    return None


def read_by_another(reply: bytes) -> None:
    """Raises when another library cannot read the reply, if it takes such names at all."""
    try:
        dnslib.DNSRecord.parse(reply)
    except dnslib.DNSError as error:
        if "Invalid label" not in str(error):
            raise


class Run:
    """One server under fire."""

    def __init__(self, seed: int, catalog: Catalog, config: DNSConfig, seeds) -> None:
        self.draw = random.Random(seed)
        self.seeds = seeds
        self.log = Recorder()
        self.net = Net(self.draw)
        self.server = DNSServer(
            self.net, catalog, config, Clock(), self.draw, self.log, token_bytes=self.draw.randbytes, local=Always()
        )
        self.problems: list[str] = []

    async def ask(self, data: bytes, *, tcp: bool = False) -> bytes | None:
        if tcp:
            return await self.server._tcp_reply(data, PEER)
        reply = self.net.quick(data)
        if reply is not None:
            return reply
        replies: list[bytes] = []
        self.net.receive(data, PEER, replies.append)
        while self.server._tasks:
            await asyncio.wait(self.server._tasks)
            await asyncio.sleep(0)
        return replies[0] if replies else None

    async def one(self, number: int) -> None:
        data = mutated(self.draw.choice(self.seeds), self.draw, self.seeds)
        tcp = number % TCP_EVERY == 0
        try:
            reply = await self.ask(data, tcp=tcp)
            problem = wrong(data, reply, tcp=tcp)
            if problem is None and reply is not None and number % ORACLE_EVERY == 0:
                read_by_another(reply)
        except Exception as error:  # that is what is looked for
            problem = f"{type(error).__name__}: {error}"
        if self.log.messages("error"):
            problem = f"logged: {self.log.lines[-1]}"
        self.log.lines.clear()
        if problem:
            self.problems.append(f"message {number}: {problem}: {data.hex()}")


class Always:
    """A local catalog that never changes."""

    def catalog_age_s(self):
        return 0.0

    def watch_catalog(self, changed):
        self.changed = changed


def recorded_queries() -> list[bytes]:
    """Every message of the recordings."""
    found = {}
    for path in sorted(CASES.glob("*.json")):
        for step in load(path.stem)["steps"]:
            spec = step.get("dns") or step.get("spread")
            if spec and "$" not in str(spec):
                found[packet(spec)] = None
    return list(found)


def filled() -> Catalog:
    """A catalog in which the mutations find something."""
    catalog = Catalog()
    for name in ("service-standard", "service-addresses", "node-lookup", "many-instances"):
        for step in load(name)["steps"]:
            if "http" in step:
                register(catalog, step)
    return catalog


async def replay(name: str) -> list[str]:
    """A recorded case's messages, unchanged, and where the reaction differs."""
    case, catalog, lines = load(name), Catalog(), []
    run_ = Run(1, catalog, config_of(case), ())
    await run_.server._listen_udp("", 0)
    for number, step in enumerate(case["steps"]):
        if "http" in step:
            register(catalog, step)
        elif "dns" in step and "query." not in step["dns"].get("name", "") and not step.get("match"):
            spec = step["dns"]
            reply = await run_.ask(packet(spec), tcp=spec.get("transport") == "tcp")
            got = {"outcome": "timeout"} if reply is None else normalised(reply, spec, ports={8300: "${a.server}"})
            for section in ("answer", "authority"):
                for record in got.get(section, []):
                    if record["type"] == "SOA":
                        record["data"]["serial"] = "$NOW"
            lines += [f"{name} step {number}: {line}" for line in differences(step["expect"], got)]
    return lines


def resident_bytes() -> int:
    """Of this process, now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()


async def mutate(run_: Run, count: int, seconds: float) -> tuple[int, int]:
    """(messages, bytes that the process grew by after the first tenth)."""
    await run_.server._listen_udp("", 0)
    began, number, first = time.monotonic(), 0, 0
    end = began + seconds if seconds else float("inf")
    while number < count and (now := time.monotonic()) < end and len(run_.problems) < REPORTED_MAX:
        if not first and (number >= count // 10 or (seconds and now - began > seconds / 10)):
            gc.collect()
            first = resident_bytes()
        await run_.one(number)
        number += 1
    gc.collect()
    grown = resident_bytes() - first if first else 0
    server = run_.server
    if server._in_work or server._tasks:
        run_.problems.append(f"{server._in_work} queries left in work")
    return number, grown


def main(arguments: list[str]) -> int:
    """Run it."""
    parser = argparse.ArgumentParser(
        prog="scripts/fuzz_dns", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--count", type=int, default=1_000_000, help="mutated messages in all (1000000)")
    parser.add_argument("--seconds", type=float, default=0.0, help="stop after so long (never)")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(2**32))
    options = parser.parse_args(arguments)
    passed = failed = 0

    def note(step: str, problems: list[str]) -> None:
        nonlocal passed, failed
        passed, failed = passed + (not problems), failed + bool(problems)
        print(f"{'FAIL' if problems else 'ok  '} {step}", *problems[:REPORTED_MAX], sep="\n     ", flush=True)

    for name in RECORDED:
        note(f"recorded {name}", run(replay(name)))
    server_module.QUERY_DEADLINE_S = 5.0  # virtual seconds
    seeds, catalog = recorded_queries(), filled()
    recursing = DNSConfig(recursors=(RECURSOR,), recursor_timeout_s=0.5)
    for label, config in (("without recursors", DNSConfig(alt_domain="alt.consul.")), ("with recursors", recursing)):
        run_ = Run(options.seed, catalog, config, seeds)
        number, grown = run(mutate(run_, options.count // 2, options.seconds / 2))
        note(f"{number} mutated messages {label}, seed {options.seed}", run_.problems)
        kept = run_.server._prepared
        good = grown <= GROWTH_BYTES_MAX + kept.kept_bytes and kept.kept_bytes <= BYTES_MAX
        told = f"grown by {grown / 2**20:.1f} MiB, {len(kept)} questions kept in {kept.kept_bytes / 2**20:.1f} MiB"
        note(told, [] if good else ["that is growth"])
    print(f"{passed} passed, {failed} failed", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
