"""Prepared replies equal those made from scratch, never outlive what they are made of, and keep within bounds."""

import asyncio
import random
from collections import Counter

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from conformance.dns_replies import packet
from pyconsul_agent.interfaces.dns import prepared
from pyconsul_agent.interfaces.dns.config import DNSConfig
from pyconsul_agent.interfaces.dns.finish import Instances
from pyconsul_agent.interfaces.dns.prepared import PERMUTED_MAX, Fixed, PreparedReplies, order
from pyconsul_agent.interfaces.dns.server import DNSServer
from pyconsul_agent.state.catalog import CHECKS, NODES, SERVICES
from pyconsul_agent.state.store import Store
from pyconsul_agent.state.watch import WatchSet
from pyconsul_agent.telemetry.instruments import Instruments
from pyconsul_agent.wire import dns
from tests.memory_net import Recorder
from tests.unit.dns_cases import Catalog, load
from tests.unit.test_dns_server import REPLAYED, config_of, register

PEER = ("192.0.2.7", 5353)


class Local:
    """The catalog of the process, as prepared replies see it."""

    def __init__(self):
        self.age_s = 0.0
        self.changed = lambda: None

    def catalog_age_s(self):
        return self.age_s

    def watch_catalog(self, changed):
        self.changed = changed


class StoppedClock:
    second = 1_600_000_000

    def wall_ns(self):
        return self.second * 10**9 + 999_999_999

    monotonic = boottime = lambda self: 0.0


class Asker:
    """A DNS server without sockets: `ask` hands it a datagram and returns the reply, None when there is none."""

    def __init__(self, catalog, config, local=None, cache=None):
        self.draw = random.Random()
        self.clock = StoppedClock()
        self.local = local
        self.server = DNSServer(
            self, catalog, config, self.clock, self.draw, Recorder(), token_bytes=random.Random(2).randbytes,
            local=local, cache=cache,
        )  # fmt: skip
        self.quick = 0

    async def questions(self, quick, receive, host, port):
        self._quick, self._receive = quick, receive

    async def open(self):
        await self.server._listen_udp("", 0)
        return self

    async def ask(self, data, seed):
        self.draw.seed(seed)
        reply = self._quick(data)
        if reply is not None:
            self.quick += 1
            return reply
        replies = []
        self._receive(data, PEER, replies.append)
        while self.server._tasks:
            await asyncio.gather(*self.server._tasks)
            await asyncio.sleep(0)
        return replies[0] if replies else None


async def both_ways(catalog, config, questions, rounds=3):
    """Ask with and without preparation under the same random numbers; how many replies were prepared."""
    fast = await Asker(catalog, config, Local()).open()
    slow = await Asker(catalog, config).open()
    for number, data in enumerate(questions):
        for again in range(rounds):
            seed = 1000 * number + again
            fast.clock.second = slow.clock.second = 1_600_000_000 + seed
            assert await fast.ask(data, seed) == await slow.ask(data, seed), data
    return fast.quick


@pytest.mark.parametrize("name", REPLAYED)
def test_recorded_questions_get_the_same_replies_with_and_without_preparation(name):
    case, catalog, questions = load(name), Catalog(), []
    for step in case["steps"]:
        if "http" in step:
            register(catalog, step)
        elif "dns" in step and step["dns"].get("transport") != "tcp":
            questions.append(packet(step["dns"], len(questions)))
    asyncio.run(both_ways(catalog, config_of(case), questions))


ADDRESSES = st.sampled_from(["", "", "", "10.9.0.1", "10.9.0.2", "2001:db8::9", "web.example.com", "n0.node.consul"])


KINDS = ("alike", "few addresses", "two families", "many on a node", "wild")


@st.composite
def catalogs(draw):
    """A catalog with instances of `web` that have one thing or another in common."""
    catalog, kind = Catalog(), draw(st.sampled_from(KINDS))
    wild, crowded = kind == "wild", kind == "many on a node"
    own = ADDRESSES if wild else st.sampled_from(["", "2001:db8::9"]) if kind == "two families" else st.just("")
    own = st.sampled_from(["", "10.9.0.1", "10.9.0.2"]) if crowded else own
    for number in range(draw(st.integers(1, 14))):
        node = f"n{number // 4 if crowded else number}"
        service = {
            "Service": "web",
            "ID": f"web{number}",
            "Port": draw(st.integers(80, 81)) if wild or crowded else 80,
            "Address": draw(own),
        }
        status = draw(st.sampled_from(["passing", "passing", "warning", "critical"])) if wild else "passing"
        catalog.register(
            {
                "Node": node + (draw(st.sampled_from(["", "-with-a-longer-name", "X"])) if wild else ""),
                "Address": f"10.1.0.{draw(st.integers(0, 5)) if kind == 'few addresses' else number}",
                "NodeMeta": draw(st.sampled_from([{}, {"a": "b"}, {"env": "x" * 90, "rfc1035-": "text"}])),
                "Service": service,
                "Check": {"CheckID": f"c{number}", "ServiceID": f"web{number}", "Status": status},
            }
        )
    return catalog


CONFIGS = st.builds(
    DNSConfig,
    udp_answer_limit=st.sampled_from([3, 3, 0, 1, 5, 9]),
    a_record_limit=st.sampled_from([0, 0, 1, 4]),
    enable_truncate=st.booleans(),
    only_passing=st.booleans(),
    disable_compression=st.booleans(),
    node_meta_txt=st.booleans(),
    service_ttl_s=st.sampled_from([{}, {"web": 9}]),
)
QUESTIONS = st.builds(
    lambda name, type_, edns, flags: packet(
        {"name": name, "type": type_, "flags": flags} | ({"edns": {"udp_size": edns}} if edns is not None else {})
    ),
    st.sampled_from(["web.service.consul.", "WeB.service.dc1.consul.", "_web._tcp.service.consul.", "n0.node.consul."]),
    st.sampled_from(["A", "A", "SRV", "SRV", "AAAA", "ANY", "TXT", "MX"]),
    st.sampled_from([None, None, 0, 512, 600, 1232, 4096]),
    st.sampled_from([["rd"], [], ["rd", "cd", "ad"]]),
)


@settings(max_examples=250, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(catalogs(), CONFIGS, st.lists(QUESTIONS, min_size=1, max_size=4))
def test_any_question_gets_the_same_reply_with_and_without_preparation(catalog, config, questions):
    asyncio.run(both_ways(catalog, config, questions, rounds=4))


def web(instances):
    catalog = Catalog()
    for number in range(instances):
        catalog.register(
            {"Node": f"n{number}", "Address": f"10.1.{number // 250}.{number % 250}",
             "Service": {"Service": "web", "Port": 80}}
        )  # fmt: skip
    return catalog


@pytest.mark.parametrize("instances", [1, 3, 4, 5, 100])
@pytest.mark.parametrize("type_", ["A", "SRV", "ANY"])
@pytest.mark.parametrize("edns", [None, 4096])
def test_common_questions_are_answered_from_preparation(instances, type_, edns):
    more = {} if edns is None else {"edns": {"udp_size": edns}}
    question = packet({"name": "web.service.consul.", "type": type_, **more})
    assert asyncio.run(both_ways(web(instances), DNSConfig(), [question], rounds=6)) == 5


def test_each_way_is_taken_where_it_is_meant_to_be():
    def way(count, type_):
        asked = prepared.resolve.Asked("web.service.consul.", type_, "dc1", 0, False, DNSConfig())
        rows = list(web(count)._instances(request_for("web")))
        query = dns.parse_query(packet({"name": "web.service.consul.", "type": {1: "A", 33: "SRV"}[type_]}))
        reply = prepared._strategy(Instances(rows, asked), query, random.Random(1), lambda size: None)
        return reply.__qualname__.split(".")[0]

    assert (way(4, dns.A), way(4, dns.SRV)) == ("_permuted", "_permuted")
    assert (way(5, dns.A), way(100, dns.SRV)) == ("_sampled", "_shortened")


def request_for(service):
    from pyconsul_agent.structs.requests import ServiceSpecificRequest

    return ServiceSpecificRequest(service_name=service)


@pytest.mark.parametrize("count", [2, 3, 4, 5, 6])
def test_every_order_is_equally_likely(count):
    draw, seen = random.Random(7), Counter()
    for _ in range(20_000):
        seen[tuple(order(draw, count, 2))] += 1
    expected = 20_000 / (count * (count - 1))
    assert len(seen) == count * (count - 1)
    assert all(abs(times - expected) < 6 * expected**0.5 for times in seen.values())


@pytest.mark.parametrize("count", [0, 1, 3, PERMUTED_MAX, PERMUTED_MAX + 1, 40])
def test_the_first_places_do_not_depend_on_how_many_are_wanted(count):
    whole = list(order(random.Random(3), count, count))
    assert sorted(whole) == list(range(count))
    for wanted in range(count + 2):
        assert list(order(random.Random(3), count, wanted)) == whole[:wanted]


def test_a_change_of_the_catalog_is_seen_by_the_very_next_question():
    async def main():
        catalog, local = web(3), Local()
        asker = await Asker(catalog, DNSConfig(), local).open()
        question = packet({"name": "web.service.consul."})
        for number in range(3):
            await asker.ask(question, number)
        assert asker.quick == 2
        catalog.register({"Node": "n0", "Address": "10.7.7.7", "Service": {"Service": "web", "Port": 80}})
        local.changed()
        reply = dns.parse_message(await asker.ask(question, 9))
        assert bytes((10, 7, 7, 7)) in [record.data[0] for record in reply.answers]

    asyncio.run(main())


def test_a_reply_made_while_the_catalog_changed_is_not_kept():
    class Moving(Catalog):
        async def call(self, method, request):
            reply = await super().call(method, request)
            local.changed()
            return reply

    local = Local()

    async def main():
        asker = await Asker(Moving(), DNSConfig(), local).open()
        for number in range(3):
            assert await asker.ask(packet({"name": "golden.node.consul."}), number)
        assert asker.quick == 0

    asyncio.run(main())


def test_a_state_that_is_too_old_or_without_a_leader_is_not_answered_from():
    async def main():
        local = Local()
        asker = await Asker(web(3), DNSConfig(max_stale_s=5.0), local).open()
        question = packet({"name": "web.service.consul."})
        await asker.ask(question, 0)
        for age_s, quick in ((4.0, 1), (6.0, 1), (None, 1), (0.0, 2)):
            local.age_s = age_s
            await asker.ask(question, 0)
            assert asker.quick == quick

    asyncio.run(main())


def test_a_reload_changes_the_next_reply_and_can_turn_preparation_off():
    async def main():
        asker = await Asker(web(3), DNSConfig(), Local()).open()
        question = packet({"name": "web.service.consul."})
        await asker.ask(question, 0)
        asker.server.reload(DNSConfig(service_ttl_s={"*": 30}))
        assert dns.parse_message(await asker.ask(question, 0)).answers[0].ttl == 30
        asker.server.reload(DNSConfig(allow_stale=False))
        for _ in range(3):
            await asker.ask(question, 0)
        assert asker.quick == 0

    asyncio.run(main())


@pytest.mark.parametrize(
    ("name", "type_"),
    [
        ("golden.node.dc9.consul.", "A"),
        ("web.service.dc9.consul.", "A"),
        ("any.query.consul.", "A"),
        ("web.connect.consul.", "A"),
        ("web.ingress.consul.", "A"),
        ("www.example.com.", "A"),
        ("1.0.1.10.in-addr.arpa.", "PTR"),
        ("consul.", "SOA"),
        ("consul.", "NS"),
    ],
)
def test_replies_that_depend_on_more_than_the_catalog_are_made_each_time(name, type_):
    assert asyncio.run(both_ways(web(1), DNSConfig(), [packet({"name": name, "type": type_})])) == 0


@pytest.mark.parametrize(
    ("name", "type_", "edns"),
    [
        ("none.service.consul.", "A", None),
        ("none.service.consul.", "A", {"udp_size": 1232, "ecs": {"address": "192.0.2.0", "source": 24}}),
        ("none.node.consul.", "TXT", None),
        ("web.service.consul.", "MX", None),
        ("web.service.consul.", "AAAA", {"udp_size": 4096}),
        ("web.consul.", "A", None),
        ("n0.node.consul.", "MX", None),
    ],
)
def test_replies_without_an_answer_are_prepared_but_for_the_serial(name, type_, edns):
    question = packet({"name": name, "type": type_, **({"edns": edns} if edns else {})})
    quick = asyncio.run(both_ways(web(2), DNSConfig(soa_min_ttl_s=5), [question]))
    assert quick == 2


def test_a_serial_that_is_also_elsewhere_in_the_reply_is_not_guessed():
    numbers = b"\0\0\0\1" * 5
    assert Fixed(b"head" + numbers + b"tail" + numbers, numbers).reply(StoppedClock()) is None
    reply = Fixed(b"head" + numbers + b"tail", numbers).reply(StoppedClock())()
    assert reply == b"head" + (1_600_000_000).to_bytes(4, "big") + numbers[4:] + b"tail"


def test_questions_without_end_do_not_take_memory_without_end(monkeypatch):
    monkeypatch.setattr(prepared, "QUESTIONS_MAX", 50)

    async def main():
        asker = await Asker(web(3), DNSConfig(), Local()).open()
        kept = asker.server._prepared
        popular = packet({"name": "web.service.consul."})
        await asker.ask(popular, 0)
        for number in range(300):
            name = "".join(c.upper() if number >> at & 1 else c for at, c in enumerate("web.service")) + ".consul."
            await asker.ask(packet({"name": name, "type": "SRV"}), number)
            before = asker.quick
            await asker.ask(popular, number)
            assert asker.quick == before + 1, "what is asked for all the time stays"
        assert len(kept) <= 50
        monkeypatch.setattr(prepared, "BYTES_MAX", 8000)
        await asker.ask(packet({"name": "web.service.dc1.consul."}), 0)
        assert 0 < kept.kept_bytes <= 8000
        kept.clear()
        assert (len(kept), kept.kept_bytes) == (0, 0)

    asyncio.run(main())


def test_bytes_are_counted_while_orders_are_filled_in(monkeypatch):
    async def main():
        asker = await Asker(web(4), DNSConfig(), Local()).open()
        kept, question = asker.server._prepared, packet({"name": "web.service.consul.", "type": "SRV"})
        await asker.ask(question, 0)
        before = kept.kept_bytes
        for number in range(400):
            await asker.ask(question, number)
        assert kept.kept_bytes - before > 24 * 100
        monkeypatch.setattr(prepared, "BYTES_MAX", kept.kept_bytes + 100)
        for number in range(100):
            await asker.ask(packet({"name": "web.service.consul.", "edns": {"udp_size": 512 + number}}), number)
            await asker.ask(question, number)
        assert kept.kept_bytes <= prepared.BYTES_MAX

    asyncio.run(main())


def test_long_datagrams_are_no_keys():
    async def main():
        asker = await Asker(web(1), DNSConfig(), Local()).open()
        for number in range(3):
            assert await asker.ask(packet({"name": "web.service.consul."}) + bytes(400), number)
        assert asker.quick == 0

    asyncio.run(main())


@pytest.mark.parametrize("table", [NODES, SERVICES, CHECKS])
def test_a_watch_of_whole_tables_is_told_of_each_commit_again_and_again(table):
    store, calls = Store(), []
    watch = WatchSet()
    for name in (NODES, SERVICES, CHECKS):
        watch.table(name)
    store.watchers.register(watch, lambda: calls.append(store.tables.all()))
    for index in range(1, 4):
        with store.begin(index) as txn:
            txn.put(getattr(store.tables, table), b"x\0%d" % index, _row(table))
    assert len(calls) == 3
    with store.begin(9) as txn:
        txn.put(store.tables.tombstones, b"k", None)
    assert len(calls) == 3
    store.restore(Store())
    assert len(calls) == 4


def _row(table):
    from pyconsul_agent.state.store import ServiceRow
    from pyconsul_agent.structs.catalog import Node, NodeService
    from pyconsul_agent.structs.health import HealthCheck as Check

    return {NODES: Node(node="x"), SERVICES: ServiceRow("x", NodeService(service="s")), CHECKS: Check(node="x")}[table]


def test_nothing_is_kept_for_a_stamp_that_is_over():
    local = Local()
    replies = PreparedReplies(local, random.Random(1), StoppedClock(), Instruments().dns)
    replies.use(DNSConfig())
    stamp = replies.stamp()
    local.changed()
    data = packet({"name": "x."})
    replies.put(data, stamp, dns.parse_query(data), Fixed(data, None))
    assert len(replies) == 0
