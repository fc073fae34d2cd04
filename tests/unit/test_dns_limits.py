"""What a stranger can make the DNS server send, and how hard replies to its own questions are to forge."""

import asyncio
import random
from collections import Counter
from dataclasses import replace
from ipaddress import ip_network

import pytest

from conformance.dns_replies import packet
from pyconsul_agent.config.options import NEARBY
from pyconsul_agent.interfaces.dns.config import DNSConfig
from pyconsul_agent.interfaces.dns.server import may_recurse
from pyconsul_agent.wire import dns
from tests.dns_fuzz import RECURSOR, Net, Run, mutated, recorded_queries
from tests.memory_net import run
from tests.unit.dns_cases import Catalog
from tests.unit.test_dns_prepared import Asker, web
from tests.unit.test_dns_server import CLIENT, RECURSING, recursive


@pytest.mark.parametrize("udp_size", [None, 0, 512, 1232, 4096, 65535])
@pytest.mark.parametrize("type_", ["A", "SRV", "ANY", "TXT"])
def test_a_udp_reply_is_no_longer_than_what_the_client_takes(type_, udp_size):
    """But for a single record, which is sent whole (Consul does so, as recorded)."""
    catalog = web(200)
    for number in range(200):
        catalog.nodes[f"n{number}"] = replace(catalog.nodes[f"n{number}"], meta={"about": "x" * 100})
    more = {} if udp_size is None else {"edns": {"udp_size": udp_size}}

    async def main():
        asker = await Asker(catalog, DNSConfig()).open()
        for name in ("web.service.consul.", "n1.node.consul.", "consul."):
            reply = await asker.ask(packet({"name": name, "type": type_, **more}), 1)
            assert len(reply) <= max(512, udp_size or 0)

    asyncio.run(main())


def test_one_question_makes_one_question_to_each_recursor_and_one_reply():
    async def work(setup, upstream):
        assert (await setup.ask("www.example.com.")).answers
        assert len(upstream.seen) == 1

    recursive(work, mangle=lambda reply: [reply] * 5)


@pytest.mark.parametrize(
    ("network", "rcode", "asked"), [("10.0.0.0/8", dns.NOERROR, 1), ("192.0.2.0/24", dns.REFUSED, 0)]
)
@pytest.mark.parametrize("name", ["www.example.com.", "9.9.9.9.in-addr.arpa."])
def test_recursors_are_asked_for_those_only_who_may_use_them(name, network, rcode, asked):
    async def work(setup, upstream):
        reply = await setup.ask(name)
        assert (reply.rcode, len(upstream.seen)) == (rcode, asked)

    recursive(work, replace(RECURSING, recursion_for=(ip_network(network),)))


@pytest.mark.parametrize(
    ("host", "expected"),
    [("127.0.0.1", True), ("10.1.2.3", True), ("192.168.0.9", True), ("8.8.8.8", False), ("172.32.0.1", False),
     ("::1", True), ("fe80::1%eth0", True), ("2001:db8::1", False)],
)  # fmt: skip
def test_unless_told_otherwise_only_neighbors_may_recurse(host, expected):
    config = DNSConfig(recursion_for=tuple(map(ip_network, NEARBY)))
    assert may_recurse(host, config) == expected


def test_a_recursor_cannot_make_a_reply_longer_than_the_client_takes():
    async def work(setup, upstream):
        reply = await setup.udp(packet({"name": "www.example.com."}))
        assert len(reply) <= 512
        assert dns.parse_message(reply).rcode == dns.SERVFAIL

    recursive(work, mangle=lambda reply: [replace(reply, answers=reply.answers * 60)])


def test_replies_are_never_answered():
    async def main():
        asker = await Asker(web(1), DNSConfig(recursors=(RECURSOR,))).open()
        for data in recorded_queries():
            if len(data) >= 12:
                assert await asker.ask(data[:2] + bytes((data[2] | 0x80,)) + data[3:], 1) is None

    asyncio.run(main())


def test_a_reply_of_another_class_is_not_taken():
    async def work(setup, upstream):
        assert (await setup.ask("www.example.com.")).answers

    recursive(work, mangle=lambda reply: [replace(reply, question=(*reply.question[:2], 3), answers=[]), reply])


def test_a_reply_from_another_address_is_not_taken():
    async def work(setup, upstream):
        stranger = await setup.client.datagrams(print, CLIENT, 53)

        def forge(reply):
            stranger.send(dns.pack(replace(reply, answers=[])), upstream.seen[-1][1])
            return [reply]

        upstream.mangle = forge
        for _ in range(5):
            assert (await setup.ask("www.example.com.")).answers
        stranger.close()

    recursive(work)


def test_ids_of_forwarded_questions_are_spread_evenly_and_never_the_client_s_own_choice():
    """10,000 questions with one id: every bit of the ids sent on is set in half of them."""
    sent = []

    class Silent(Net):
        async def datagrams(self, receive, host, port, *, connected=None):
            assert port == 0, "the system chooses a fresh port"
            assert connected[0] == RECURSOR
            return Heard()

    class Heard:
        def send(self, data, to):
            sent.append(int.from_bytes(data[:2], "big"))

        def close(self):
            return None

    async def main():
        asked = Run(1, Catalog(), DNSConfig(recursors=(RECURSOR,), recursor_timeout_s=0.01), ())
        asked.server._recursor._net = Silent(random.Random(1))
        asked.server._recursor._token_bytes = random.Random(2).randbytes
        query = dns.parse_query(packet({"name": "www.example.com."}, 4242))
        for _ in range(10_000):
            await asked.server._recursor.forward(packet({"name": "www.example.com."}, 4242), query, tcp=False)

    run(main())
    assert len(sent) == 10_000
    assert max(Counter(sent).values()) <= 6
    for bit in range(16):
        assert abs(sum(id_ >> bit & 1 for id_ in sent) - 5000) < 300


@pytest.mark.parametrize("seed", range(3))
def test_mutated_messages_get_a_reply_by_the_rules_or_none(seed):
    config = DNSConfig() if seed else DNSConfig(recursors=(RECURSOR,), recursor_timeout_s=0.5)

    async def main():
        asked = Run(seed, web(6), config, recorded_queries())
        await asked.server._listen_udp("", 0)
        for number in range(300):
            await asked.one(number)
        assert not asked.problems
        assert not asked.server._tasks

    run(main())


def test_mutations_reach_every_part_of_a_message():
    draw, data = random.Random(1), packet({"name": "web.service.consul.", "edns": {"udp_size": 4096}})
    seen = [mutated(data, draw, (data,)) for _ in range(2000)]
    for at in range(len(data)):
        assert any(len(one) > at and one[at] != data[at] for one in seen)
