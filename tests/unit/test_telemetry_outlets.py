"""Metrics on their way: series, meters, and the sinks outside, which must never hold anything up."""

import asyncio

import pytest

from pyconsul_agent.app.metrics import Metrics, outlets
from pyconsul_agent.config.options import Telemetry
from pyconsul_agent.env.base import serve_streams
from pyconsul_agent.errors import ConfigError
from pyconsul_agent.sim.env import make_env
from pyconsul_agent.sim.world import World
from pyconsul_agent.telemetry.meters import LOOKUPS_MAX, HTTPMeter, RPCMeter, count_event
from pyconsul_agent.telemetry.names import DECLARED
from pyconsul_agent.telemetry.outlets import QUEUE_MAX, Outlet, dogstatsd_line, statsd_line
from pyconsul_agent.telemetry.registry import INTERVALS_KEPT, Registry
from tests.raft_cluster import Recorder

HERE, SINK = "10.0.0.1", "10.0.0.2"
S = 1_000_000_000


class Wall:
    def __init__(self):
        self.ns = 1_795_385_860 * S

    def __call__(self):
        return self.ns


def registry(**options):
    wall = Wall()
    return wall, Registry(wall_ns=wall, **options)


def names(rows):
    return [row["Name"] for row in rows]


# --- series --------------------------------------------------------------------------------------------------------


def test_a_kept_series_counts_into_the_interval_that_runs():
    wall, metrics = registry()
    series = metrics.counter("raft.apply")
    series.add()
    wall.ns += 10 * S
    metrics.roll()
    series.add(2)
    (row,) = metrics.display()["Counters"]
    assert (row["Name"], row["Count"], row["Sum"]) == ("consul.raft.apply", 1, 1)
    wall.ns += 10 * S
    assert metrics.display()["Counters"][0]["Sum"] == 2


def test_no_more_than_a_minute_is_kept_and_a_reader_gets_each_interval_once():
    wall, metrics = registry()
    for _ in range(20):
        metrics.count("x")
        wall.ns += 10 * S
    found = metrics.completed(0)
    assert len(found) == INTERVALS_KEPT - 1
    assert [each.start for each in metrics.completed(found[-2].start)] == [found[-1].start]


def test_prometheus_shows_what_is_declared_from_the_start_and_forgets_what_is_silent():
    wall, metrics = registry(declared=DECLARED, retention_s=60.0)
    assert "# TYPE consul_raft_apply counter\nconsul_raft_apply 0\n" in metrics.prometheus()
    assert (
        '# TYPE consul_kvs_apply summary\nconsul_kvs_apply{quantile="0.5"} NaN\nconsul_kvs_apply{quantile="0.9"} NaN\n'
        'consul_kvs_apply{quantile="0.99"} NaN\nconsul_kvs_apply_sum 0\nconsul_kvs_apply_count 0\n'
    ) in metrics.prometheus()
    metrics.count("raft.apply", 3)
    metrics.count("odd.name-with:signs/of all")
    assert "\nconsul_raft_apply 3\n" in metrics.prometheus()
    assert "\nconsul_odd_name_with:signs_of_all 1\n" in metrics.prometheus()
    wall.ns += 90 * S
    assert "\nconsul_raft_apply 0\n" in metrics.prometheus()
    assert "odd_name" not in metrics.prometheus()


def test_a_filter_given_later_holds_for_what_is_asked_then():
    _, metrics = registry()
    metrics.set_filter(["-consul.raft"])
    metrics.counter("raft.apply").add()
    metrics.gauge("raft.peers", 1)
    metrics.count("rpc.query")
    shown = metrics.display()
    assert (names(shown["Counters"]), shown["Gauges"]) == (["consul.rpc.query"], [])


# --- meters --------------------------------------------------------------------------------------------------------


def test_requests_are_measured_by_route_under_both_names():
    _, metrics = registry()
    meter = HTTPMeter(metrics, node="n1")
    meter("/v1/kv/", "GET", 200, 0.002)
    meter("/v1/kv/", "BREW", 405, 0.0)
    meter("/v1/catalog/nodes", "GET", 500, 0.001)
    meter.again["/v1/kv/"] = 3
    meter.settle()
    shown = metrics.display()
    rows = {(row["Name"], *row["Labels"].values()): row for row in shown["Samples"]}
    assert rows["consul.api.http", "GET", "v1_kv_"]["Count"] == 4
    assert rows["consul.api.http", "GET", "v1_kv_"]["Max"] == 2
    assert ("consul.api.http", "other", "v1_kv_") in rows
    assert ("consul.http.GET.v1.kv._",) in rows
    assert names(shown["Counters"]) == ["consul.client.api.catalog_nodes"], "not a success"


def test_names_of_1_9_can_be_left_out():
    _, metrics = registry()
    HTTPMeter(metrics, node="n1", names_of_1_9=False)("/v1/kv/", "GET", 200, 0.1)
    assert names(metrics.display()["Samples"]) == ["consul.api.http"]


def test_services_of_strangers_are_bounded():
    _, metrics = registry()
    meter = RPCMeter(metrics)
    for number in range(LOOKUPS_MAX + 50):
        meter.looked_up("catalog.service", f"s{number}", (), old_tag=False, found=True)
    rows = [row for row in metrics.display()["Counters"] if row["Name"] == "consul.catalog.service.query"]
    assert len(rows) == LOOKUPS_MAX + 1
    assert next(row for row in rows if row["Labels"]["service"] == "other")["Count"] == 50


def test_what_the_log_tells_is_counted():
    _, metrics = registry()
    count_event(metrics, "raft_leader", {"address": "a"})
    count_event(metrics, "member_event", {"kind": "member-join"})
    count_event(metrics, "member_event", {"kind": "FAILED"})
    count_event(metrics, "synced_node", {})
    assert names(metrics.display()["Counters"]) == [
        "consul.memberlist.msg.alive", "consul.raft.state.leader", "consul.serf.member.failed",
        "consul.serf.member.join",
    ]  # fmt: skip


# --- sinks ---------------------------------------------------------------------------------------------------------


def test_lines_of_each_sink():
    key = ("consul.h1.api.http", (("path", "v1 kv"), ("evil", "a|b\nc,d")))
    assert statsd_line("ms", key, 1.5) == b"consul.h1.api.http.v1_kv.a_b_c,d:1.500000|ms\n"
    line = dogstatsd_line(("env:a",), "h1")("c", key, 2)
    assert line == b"consul.api.http:2|c|#env:a,host:h1,path:v1 kv,evil:a_b_c_d\n"
    assert dogstatsd_line((), "")("g", ("x", ()), 0.5) == b"x:0.5|g\n"


def test_a_full_queue_drops_and_counts():
    outlet = Outlet("h:1", statsd_line, None, None, Recorder())
    for _ in range(QUEUE_MAX + 3):
        outlet.put("c", ("x", ()), 1)
    assert outlet.dropped == 3
    packets = outlet._packets()
    assert sum(packet.count(b"\n") for packet in packets) == QUEUE_MAX
    assert max(map(len, packets)) <= 1400


@pytest.mark.parametrize("address", ["nowhere", "h:x", ""])
def test_an_address_without_port_is_refused(address):
    options = Telemetry(statsd_address=address or "h:")
    with World(seed=1) as world, pytest.raises(ConfigError, match="is not host:port"):
        outlets(options, make_env(world, world.host(HERE)), Recorder())


def run_metrics(options, sink):
    with World(seed=3) as world:
        env, there = make_env(world, world.host(HERE)), make_env(world, world.host(SINK))

        async def main():
            received = []
            close = await sink(there, received)
            metrics = Metrics(options, env, Recorder(), node="n1")
            task = asyncio.create_task(metrics.run(lambda: [("raft.peers", 3.0, {})]))
            await asyncio.sleep(1)
            metrics.registry.count("raft.apply")
            await asyncio.sleep(25)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            await asyncio.sleep(1)
            await close()
            return b"".join(received), metrics.registry.display()

        return world.run(main())


def test_gauges_are_read_and_sent_to_statsd_and_dogstatsd():
    async def sink(env, received):
        sockets = [await env.net.datagrams(lambda data, _: received.append(data), SINK, port) for port in (8125, 8126)]

        async def close():
            for socket in sockets:
                socket.close()

        return close

    options = Telemetry(statsd_address=f"{SINK}:8125", dogstatsd_addr=f"{SINK}:8126", dogstatsd_tags=("a:b",))
    sent, shown = run_metrics(options, sink)
    assert b"raft.peers:3.000000|g\n" in sent
    assert b"consul.raft.apply:1.000000|c\n" in sent
    assert b"consul.raft.apply:1|c|#a:b\n" in sent
    assert any(name.endswith(".raft.peers") and name != "consul.raft.peers" for name in names(shown["Gauges"]))


def test_statsite_gets_a_stream():
    async def sink(env, received):
        async def connection(reader, writer):
            while data := await reader.read(1000):
                received.append(data)
            writer.close()

        listener = await serve_streams(env.net, connection, SINK, 8125)
        return listener.close

    sent, _ = run_metrics(Telemetry(statsite_address=f"{SINK}:8125", disable_hostname=True), sink)
    assert b"consul.raft.peers:3.000000|g\n" in sent


def test_a_stream_of_intervals_gives_each_when_it_is_complete():
    with World(seed=4) as world:
        env = make_env(world, world.host(HERE))

        async def main():
            metrics = Metrics(Telemetry(), env, Recorder(), node="n1")
            task = asyncio.create_task(metrics.run(lambda: [("raft.peers", 3.0, {})]))
            stream = metrics.stream()
            starts = [(await anext(stream)).start for _ in range(3)]
            await stream.aclose()
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            return starts

        first, second, third = world.run(main())
        assert (second - first, third - second) == (10, 10)
