"""The DNS interface against recorded answers of Consul, and its limits, on simulated links in virtual time."""

import asyncio
import json
import os
import random
import struct
from dataclasses import replace

import pytest

from conformance.dns_replies import differences, normalised, packet
from pyconsul_agent.env.base import open_stream
from pyconsul_agent.errors import DialRefused, NoLeader, RPCError
from pyconsul_agent.interfaces.dns import server as server_module
from pyconsul_agent.interfaces.dns.config import DNSConfig
from pyconsul_agent.interfaces.dns.server import DNSServer
from pyconsul_agent.structs import methods
from pyconsul_agent.structs.base import duration
from pyconsul_agent.structs.health import CheckServiceNode
from pyconsul_agent.structs.requests import IndexedCheckServiceNodes, PreparedQueryExecuteResponse
from pyconsul_agent.wire import dns
from tests.builders import run_sim
from tests.memory_net import Clock, Recorder
from tests.unit.dns_cases import Catalog, load

OWN_PORT = "${a.server}"
HOST, CLIENT, UPSTREAM, PORT = "10.0.0.1", "10.0.0.2", "10.0.0.9", 8600

REPLAYED = [
    "ingress-lookup", "addr-names", "domain-alt", "domain-custom", "edns",
    "limit-udp-answer-zero", "malformed", "node-lookup",
    "node-meta-txt", "node-meta-txt-off", "opcodes-classes", "reverse", "service-addresses", "service-checks",
    "service-standard", "service-tags", "service-upper-name", "service-weights", "truncate-txt", "ttl-service",
    "zone-apex", "many-instances-uncompressed", "many-instances-tcp-limit",
]  # fmt: skip


def config_of(case):
    given = case.get("config", {})
    own = given.get("dns_config", {})
    soa = own.get("soa", {})
    alt = given.get("alt_domain", "")
    return DNSConfig(
        node_name="golden",
        domain=given.get("domain", "consul").strip(".").lower() + ".",
        alt_domain=alt.strip(".").lower() + "." if alt else "",
        node_ttl_s=seconds(own.get("node_ttl", "0s")),
        service_ttl_s={name: seconds(text) for name, text in own.get("service_ttl", {}).items()},
        enable_truncate=own.get("enable_truncate", False),
        only_passing=own.get("only_passing", False),
        udp_answer_limit=own.get("udp_answer_limit", 3),
        a_record_limit=own.get("a_record_limit", 0),
        disable_compression=own.get("disable_compression", False),
        node_meta_txt=own.get("enable_additional_node_meta_txt", True),
        soa_refresh_s=soa.get("refresh", 3600),
        soa_retry_s=soa.get("retry", 600),
        soa_expire_s=soa.get("expire", 86400),
        soa_min_ttl_s=soa.get("min_ttl", 0),
    )


def seconds(text):
    unit = {"s": 1, "m": 60, "h": 3600}
    if text.endswith("ms"):
        return int(int(text[:-2]) / 1000)
    return int(float(text[:-1]) * unit[text[-1]])


class Setup:
    """A server at HOST with a client beside it."""

    def __init__(self, world, caller, config, **more):
        self.net = world.network.host(HOST)
        self.client = world.network.host(CLIENT)
        self.log = Recorder()
        self.server = DNSServer(
            self.net,
            caller,
            config,
            Clock(),
            random.Random(1),
            self.log,
            token_bytes=random.Random(2).randbytes,
            **more,
        )

    async def __aenter__(self):
        await self.server.start([(HOST, PORT)])
        return self

    async def __aexit__(self, *_):
        await self.server.stop()
        await self.server.stop()  # twice does no harm

    async def udp(self, data, wait_s=40.0):
        """The reply, or None."""
        replies = asyncio.Queue()
        socket = await self.client.datagrams(lambda reply, _: replies.put_nowait(reply), CLIENT, 0)
        try:
            socket.send(data, (HOST, PORT))
            async with asyncio.timeout(wait_s):
                return await replies.get()
        except TimeoutError:
            return None
        finally:
            socket.close()

    async def tcp(self, data, wait_s=40.0):
        reader, writer = await open_stream(self.client, HOST, PORT)
        try:
            writer.write(len(data).to_bytes(2, "big") + data)
            async with asyncio.timeout(wait_s):
                return await reader.readexactly(int.from_bytes(await reader.readexactly(2), "big"))
        except (TimeoutError, EOFError):
            return None
        finally:
            writer.close()

    async def ask(self, name, type_="A", **more):
        reply = await self.udp(packet({"name": name, "type": type_, **more}))
        return None if reply is None else dns.parse_message(reply)


def scenario(caller, config=None):
    """Run the decorated coroutine with a started server."""

    def wrap(work):
        async def main(world):
            async with Setup(world, caller, config or DNSConfig(node_name="golden")) as setup:
                await work(setup)

        run_sim(1, main)
        return work

    return wrap


@pytest.mark.parametrize("name", REPLAYED)
def test_replies_are_those_recorded_from_consul(name):
    case = load(name)
    catalog, asked = Catalog(), 0

    async def main(world):
        nonlocal asked
        async with Setup(world, catalog, config_of(case)) as setup:
            wrong = []
            for number, step in enumerate(case["steps"]):
                if "http" in step:
                    register(catalog, step)
                    continue
                if "query." in step["dns"].get("name", "") or step.get("match"):
                    continue
                asked += 1
                send = setup.tcp if step["dns"].get("transport") == "tcp" else setup.udp
                wait_s = 1.0 if "outcome" in step["expect"] else 40.0
                reply = await send(packet(step["dns"]), wait_s)
                got = (
                    {"outcome": "timeout"} if reply is None else normalised(reply, step["dns"], ports={8300: OWN_PORT})
                )
                if lines := differences(step["expect"], timeless(got)):
                    wrong.append(f"step {number} {step['dns']}: " + "; ".join(lines[:6]))
            assert not wrong, "\n".join(wrong)

    run_sim(1, main)
    assert asked


def register(catalog, step):
    """The catalog calls of a case; what they should be refused for is not the catalog's business here."""
    _, path, body = step["http"]
    if path == "/v1/config":
        catalog.bind(body)
    if path != "/v1/catalog/register" or step["expect"]["status"] != 200:
        return
    for i in range(1, (step.get("times") or 1) + 1):
        text = json.dumps(body)
        if step.get("times"):
            for key, value in (("{i}", i), ("{hi}", i // 250), ("{lo}", i % 250), ("{i3}", f"{i:03}")):
                text = text.replace(key, str(value))
        catalog.register(json.loads(text))


def timeless(got):
    """Serials are the simulated time here."""
    for section in ("answer", "authority"):
        for record in got.get(section, []):
            if record["type"] == "SOA":
                record["data"]["serial"] = "$NOW"
    return got


class Failing:
    def __init__(self, error):
        self.error = error

    async def call(self, method, request):
        raise self.error


@pytest.mark.parametrize(
    ("error", "rcode"),
    [
        (NoLeader(), dns.SERVFAIL),
        (RPCError("rpc error making call: No path to datacenter"), dns.NXDOMAIN),
        (RPCError("rpc error making call: Permission denied"), dns.NXDOMAIN),
    ],
)
def test_errors_of_the_catalog_become_rcodes(error, rcode):
    @scenario(Failing(error))
    async def _(setup):
        reply = await setup.ask("web.service.consul.")
        assert reply.rcode == rcode
        assert [record.type for record in reply.authority] == ([dns.SOA] if rcode == dns.NXDOMAIN else [])
        assert reply.flags & dns.AA
        apex = await setup.ask("consul.", "NS")
        assert (apex.rcode, apex.answers) == (dns.NOERROR, [])


def test_a_reply_older_than_max_stale_is_asked_again_from_the_leader():
    class Old(Catalog):
        async def call(self, method, request):
            reply = await super().call(method, request)
            return replace(reply, last_contact=duration(10.0 if request.allow_stale else 0.0))

    catalog = Old()

    @scenario(catalog, DNSConfig(max_stale_s=5.0))
    async def _(setup):
        assert (await setup.ask("golden.node.consul.")).answers
        assert [request.allow_stale for _, request in catalog.calls] == [True, False]


def test_a_look_up_that_never_ends_is_given_up_and_does_not_hold_up_others():
    class Slow(Catalog):
        async def call(self, method, request):
            if getattr(request, "node", "") == "slow":
                await asyncio.Event().wait()
            return await super().call(method, request)

    @scenario(Slow())
    async def _(setup):
        loop = asyncio.get_running_loop()
        slow = asyncio.ensure_future(setup.ask("slow.node.consul."))
        await asyncio.sleep(0.1)
        before = loop.time()
        assert (await setup.ask("golden.node.consul.")).answers
        assert loop.time() - before < 1
        assert (await slow).rcode == dns.SERVFAIL


def test_more_queries_than_are_allowed_at_once_get_servfail(monkeypatch):
    monkeypatch.setattr(server_module, "QUERIES_MAX", 2)

    class Stuck:
        async def call(self, method, request):
            await asyncio.Event().wait()

    @scenario(Stuck())
    async def _(setup):
        stuck = [asyncio.ensure_future(setup.ask("x.node.consul.")) for _ in range(2)]
        await asyncio.sleep(1)
        loop = asyncio.get_running_loop()
        before = loop.time()
        assert (await setup.ask("x.node.consul.")).rcode == dns.SERVFAIL
        assert loop.time() - before < 1
        for task in stuck:
            task.cancel()
        await asyncio.gather(*stuck, return_exceptions=True)


def test_a_tcp_connection_has_2_s_for_its_first_query_and_8_s_between_queries():
    @scenario(Catalog())
    async def _(setup):
        loop = asyncio.get_running_loop()
        reader, writer = await open_stream(setup.client, HOST, PORT)
        began = loop.time()
        assert await reader.read() == b""
        assert 1.9 < loop.time() - began < 2.2
        writer.close()

        reader, writer = await open_stream(setup.client, HOST, PORT)
        query = packet({"name": "golden.node.consul."})
        writer.write(len(query).to_bytes(2, "big") + query)
        await reader.readexactly(int.from_bytes(await reader.readexactly(2), "big"))
        began = loop.time()
        assert await reader.read() == b""
        assert 7.9 < loop.time() - began < 8.2
        writer.close()


def test_a_tcp_connection_serves_128_queries_in_order():
    @scenario(Catalog())
    async def _(setup):
        reader, writer = await open_stream(setup.client, HOST, PORT)
        for number in range(130):
            query = packet({"name": "golden.node.consul."}, number)
            writer.write(len(query).to_bytes(2, "big") + query)
        data = await reader.read(-1)
        ids, at = [], 0
        while at < len(data):
            size = int.from_bytes(data[at : at + 2], "big")
            ids.append(int.from_bytes(data[at + 2 : at + 4], "big"))
            at += 2 + size
        assert ids == list(range(128))
        writer.close()


def test_one_address_may_have_100_tcp_connections_and_idle_ones_block_nobody():
    @scenario(Catalog())
    async def _(setup):
        idle = [await open_stream(setup.client, HOST, PORT) for _ in range(100)]
        refused, writer = await open_stream(setup.client, HOST, PORT)
        began = asyncio.get_running_loop().time()
        assert await refused.read() == b""
        assert asyncio.get_running_loop().time() - began < 1
        writer.close()
        assert (await setup.ask("golden.node.consul.")).answers
        for _, writer in idle:
            writer.close()
        await asyncio.sleep(1)
        assert await setup.tcp(packet({"name": "golden.node.consul."}))


def test_stop_ends_connections_and_queries_at_once():
    class Stuck:
        async def call(self, method, request):
            await asyncio.Event().wait()

    async def main(world):
        setup = Setup(world, Stuck(), DNSConfig())
        await setup.server.start([(HOST, PORT)])
        reader, writer = await open_stream(setup.client, HOST, PORT)
        query = packet({"name": "x.node.consul."})
        writer.write(len(query).to_bytes(2, "big") + query)
        waiting = asyncio.ensure_future(setup.udp(query, 3.0))
        await asyncio.sleep(0.5)
        await setup.server.stop()
        assert await reader.read() == b""
        assert await waiting is None
        writer.close()
        with pytest.raises(DialRefused):
            await open_stream(setup.client, HOST, PORT)

    run_sim(1, main)


def test_a_label_over_63_octets_in_the_answer_gives_no_reply():
    catalog = Catalog()
    catalog.register({"Node": "n" * 64, "Address": "10.1.1.1", "Service": {"Service": "web", "Port": 1}})

    @scenario(catalog)
    async def _(setup):
        assert await setup.udp(packet({"name": "web.service.consul.", "type": "SRV"}), 3.0) is None
        assert await setup.tcp(packet({"name": "web.service.consul.", "type": "SRV"}), 3.0) is None
        assert (await setup.ask("web.service.consul.")).answers


def test_prepared_queries_are_executed_when_servers_offer_them():
    catalog = Catalog()
    catalog.register({"Node": "n1", "Address": "10.3.0.1", "Service": {"Service": "web", "Port": 1}})
    seen = []

    class Querying:
        async def call(self, method, request):
            assert method is methods.PREPARED_QUERY_EXECUTE
            seen.append(request)
            if request.query_id_or_name != "find.it":
                raise RPCError("rpc error making call: Query not found")
            row = CheckServiceNode(node=catalog.nodes["n1"], service=catalog.services["n1", "web"])
            response = PreparedQueryExecuteResponse(service="web", nodes=(row,), datacenter="dc2")
            return replace(response, dns=replace(response.dns, ttl="1m5s"))

    @scenario(Querying(), DNSConfig(node_name="me", service_ttl_s={"*": 3}))
    async def _(setup):
        reply = await setup.ask(
            "find.it.query.consul.", "SRV", edns={"udp_size": 4096, "ecs": {"address": "192.0.2.0", "source": 24}}
        )
        (answer,) = reply.answers
        assert (answer.ttl, answer.data[1]) == (65, "n1.node.dc2.consul.")
        (opt,) = [record for record in reply.additional if record.type == dns.OPT]
        assert opt.data[0][:8] == struct.pack("!HHHBB", 8, 7, 1, 24, 24)
        assert (seen[0].source.ip, seen[0].agent.node) == ("192.0.2.0", "me")
        assert (await setup.ask("other.query.consul.")).rcode == dns.NXDOMAIN
        assert seen[1].source.ip == CLIENT


def test_instances_come_in_random_order():
    catalog = Catalog()
    for number in range(6):
        catalog.register({"Node": f"n{number}", "Address": f"10.3.0.{number}", "Service": {"Service": "web"}})

    @scenario(catalog, DNSConfig(udp_answer_limit=1))
    async def _(setup):
        first = {(await setup.ask("web.service.consul.")).answers[0].data for _ in range(100)}
        assert len(first) == 6


# --- recursion --------------------------------------------------------------------------------------------------


class Upstream:
    """A resolver with one answer for everything, or a chosen misbehaviour."""

    def __init__(self, world, answer=b"\xc0\x00\x02\x01", *, rcode=0, mangle=lambda reply: [reply]):
        self.net = world.network.host(UPSTREAM)
        self.answer, self.rcode, self.mangle, self.seen = answer, rcode, mangle, []

    async def __aenter__(self):
        def receive(data, from_):
            query = dns.parse_query(data)
            self.seen.append((query, from_))
            record = dns.Record(query.name, 1, 60, (self.answer,))
            reply = dns.Message(query.id, dns.QR | dns.RA | dns.RD | self.rcode, (query.name, query.type, 1), [record])
            for one in self.mangle(reply):
                self.socket.send(one if isinstance(one, bytes) else dns.pack(one), from_)

        self.socket = await self.net.datagrams(receive, UPSTREAM, 53)
        return self

    async def __aexit__(self, *_):
        self.socket.close()


RECURSING = DNSConfig(node_name="golden", recursors=((UPSTREAM, 53),))


def recursive(work, config=RECURSING, catalog=None, **options):
    async def main(world):
        async with Upstream(world, **options) as upstream, Setup(world, catalog or Catalog(), config) as setup:
            await work(setup, upstream)

    run_sim(1, main)


def test_names_outside_are_passed_through_from_fresh_ports_under_random_ids():
    async def work(setup, upstream):
        for number in range(50):
            reply = dns.parse_message(await setup.udp(packet({"name": "www.Example.com."}, number)))
            assert (reply.id, reply.flags & dns.AA) == (number, 0)
            assert reply.answers[0].data == (b"\xc0\x00\x02\x01",)
        assert len({query.id for query, _ in upstream.seen}) > 45
        assert len({from_ for _, from_ in upstream.seen}) == 50

    recursive(work)


def test_forged_replies_are_not_taken():
    def mangle(reply):
        return [
            replace(reply, id=reply.id ^ 1, answers=[]),
            replace(reply, question=("other.example.com.", 1, 1), answers=[]),
            replace(reply, flags=reply.flags & ~dns.QR, answers=[]),
            reply,
        ]

    async def work(setup, upstream):
        assert (await setup.ask("www.example.com.")).answers

    recursive(work, mangle=mangle)


@pytest.mark.parametrize(
    "options",
    [
        {"rcode": dns.REFUSED},
        {"mangle": lambda reply: []},
        {"mangle": lambda reply: [dns.pack(reply)[:-1]]},
        {"mangle": lambda reply: [replace(reply, answers=reply.answers * 60)]},
    ],
    ids=["refused", "silent", "broken", "over the announced size"],
)
def test_a_recursor_that_gives_no_usable_reply_leads_to_servfail(options):
    async def work(setup, upstream):
        reply = await setup.ask("www.example.com.", edns={"udp_size": 600})
        assert (reply.rcode, reply.flags & (dns.AA | dns.RA)) == (dns.SERVFAIL, dns.RA)
        assert reply.additional[0].cls == 600

    recursive(work, **options)


def test_host_names_of_services_are_chased_with_the_service_ttl():
    catalog = Catalog()
    catalog.register(
        {"Node": "n", "Address": "10.0.0.1", "Service": {"Service": "ext", "Port": 1, "Address": "www.example.com"}}
    )

    async def work(setup, upstream):
        reply = await setup.ask("ext.service.consul.")
        assert [(r.name, r.type, r.ttl) for r in reply.answers] == [
            ("ext.service.consul.", dns.CNAME, 7),
            ("www.example.com.", dns.A, 7),
        ]
        (query, _) = upstream.seen[0]
        assert (query.flags, query.type, query.edns) == (dns.RD, dns.A, None)

    recursive(work, replace(RECURSING, service_ttl_s={"*": 7}), catalog)


@pytest.mark.parametrize("transport", ["udp", "tcp"])
def test_loops_of_node_addresses_end_after_four_records(transport):
    catalog = Catalog()
    catalog.register({"Node": "a", "Address": "b.node.consul"})
    catalog.register({"Node": "b", "Address": "a.node.consul"})

    @scenario(catalog)
    async def _(setup):
        query = packet({"name": "a.node.consul.", "edns": {"udp_size": 4096}})
        reply = dns.parse_message(await getattr(setup, transport)(query))
        assert [record.type for record in reply.answers] == [dns.CNAME] * 4


def test_reload_turns_recursion_on():
    async def work(setup, upstream):
        assert (await setup.ask("www.example.com.")).rcode == dns.REFUSED
        setup.server.reload(RECURSING)
        assert (await setup.ask("www.example.com.")).answers

    recursive(work, DNSConfig())


def test_random_datagrams_never_stop_the_server():
    @scenario(Catalog())
    async def _(setup):
        draw = random.Random(5)
        whole = packet({"name": "golden.node.consul.", "edns": {"udp_size": 4096}})
        for _ in range(200):
            data = bytearray(whole if draw.random() < 0.7 else os.urandom(40))
            data[draw.randrange(len(data))] = draw.randrange(256)
            await setup.udp(bytes(data), 0.1)
        assert (await setup.ask("golden.node.consul.")).answers
        assert not setup.log.messages("error")


def test_unhealthy_instances_of_the_catalog_are_left_out_with_rows_that_are_incomplete():
    class Odd(Catalog):
        async def call(self, method, request):
            return IndexedCheckServiceNodes(nodes=(CheckServiceNode(),))

    @scenario(Odd())
    async def _(setup):
        assert (await setup.ask("web.service.consul.")).rcode == dns.NXDOMAIN
