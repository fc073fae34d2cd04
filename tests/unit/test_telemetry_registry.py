import io
import math
import random

import pytest

from pyconsul_agent.telemetry.prometheus import go_number
from pyconsul_agent.telemetry.quantiles import SLICE_VALUES, Recent, Ticks
from pyconsul_agent.telemetry.registry import SERIES_MAX, Registry
from pyconsul_agent.telemetry.sinks import FileSink, StreamSink

SECOND_NS = 1_000_000_000


class Wall:
    def __init__(self):
        self.ns = 1795385860 * SECOND_NS  # 2026-11-22T22:17:40Z

    def __call__(self):
        return self.ns


def make(**options):
    wall = Wall()
    return wall, Registry(wall_ns=wall, **options)


def test_display_is_the_last_complete_interval():
    wall, registry = make(hostname="host1")
    registry.gauge("raft.peers", 3)
    registry.count("rpc.request")
    registry.count("rpc.request", 3)
    registry.sample("raft.commitTime", 2.0, peer="a")
    wall.ns += 10 * SECOND_NS
    registry.count("later")
    assert registry.display() == {
        "Timestamp": "2026-11-22 22:17:40 +0000 UTC",
        "Gauges": [{"Name": "consul.host1.raft.peers", "Value": 3, "Labels": {}}],
        "Points": [],
        "Counters": [
            {
                "Name": "consul.rpc.request", "Count": 2, "Rate": 0.4, "Sum": 4.0, "Min": 1.0, "Max": 3, "Mean": 2.0,
                "Stddev": pytest.approx(2**0.5), "Labels": {},
            }
        ],
        "Samples": [
            {
                "Name": "consul.raft.commitTime", "Count": 1, "Rate": 0.2, "Sum": 2.0, "Min": 2.0, "Max": 2.0,
                "Mean": 2.0, "Stddev": 0.0, "Labels": {"peer": "a"},
            }
        ],
    }  # fmt: skip


def test_series_are_bounded():
    _, registry = make()
    for number in range(SERIES_MAX + 1):
        registry.count("x", id=str(number))
    assert len(registry.display()["Counters"]) == SERIES_MAX
    assert registry.dropped == 1


def test_filter_drops_by_longest_prefix():
    _, registry = make(prefix_filter=["-consul.raft", "+consul.raft.apply"])
    registry.count("raft.apply")
    registry.count("raft.barrier")
    registry.count("rpc.request")
    assert [c["Name"] for c in registry.display()["Counters"]] == ["consul.raft.apply", "consul.rpc.request"]


def test_prometheus_text():
    wall, registry = make(retention_s=120.0)
    registry.count("rpc.request")
    wall.ns += 60 * SECOND_NS
    registry.count("rpc.request")
    registry.gauge("state.nodes", 2, datacenter='d"c')
    for milliseconds in (1.5, 0.00002, 1234567.0):
        registry.sample("api.http", milliseconds, path="v1_kv_")
    assert registry.prometheus() == (
        "# HELP consul_api_http consul_api_http\n# TYPE consul_api_http summary\n"
        'consul_api_http{path="v1_kv_",quantile="0.5"} 1.5\n'
        'consul_api_http{path="v1_kv_",quantile="0.9"} 1.234567e+06\n'
        'consul_api_http{path="v1_kv_",quantile="0.99"} 1.234567e+06\n'
        'consul_api_http_sum{path="v1_kv_"} 1.23456850002e+06\nconsul_api_http_count{path="v1_kv_"} 3\n'
        "# HELP consul_rpc_request consul_rpc_request\n# TYPE consul_rpc_request counter\nconsul_rpc_request 2\n"
        "# HELP consul_state_nodes consul_state_nodes\n# TYPE consul_state_nodes gauge\n"
        'consul_state_nodes{datacenter="d\\"c"} 2\n'
    )


def quantiles(registry, name):
    lines = (line.split(" ") for line in registry.prometheus().splitlines() if line.startswith(f"{name}{{quantile="))
    return [float(value) for _, value in lines]


def test_quantiles_are_of_the_last_ten_seconds_and_then_of_nothing():
    wall, registry = make(retention_s=60.0)
    for milliseconds in range(1, 101):
        registry.sample("x", float(milliseconds))
    assert quantiles(registry, "consul_x") == [50, 90, 99]
    wall.ns += 6 * SECOND_NS
    registry.sample("x", 1000.0)
    assert quantiles(registry, "consul_x") == [51, 91, 100]
    wall.ns += 6 * SECOND_NS
    assert quantiles(registry, "consul_x") == [1000, 1000, 1000]
    wall.ns += 10 * SECOND_NS
    assert all(math.isnan(value) for value in quantiles(registry, "consul_x"))
    assert "\nconsul_x_count 101\n" in registry.prometheus()


def test_however_many_samples_come_few_are_kept_and_quantiles_stay_near():
    recent = Recent(Ticks())
    numbers = list(range(100_000))
    random.Random(4).shuffle(numbers)
    for number in numbers:
        recent.add(float(number))
    assert sum(len(each.values) for each in recent._slices) <= SLICE_VALUES
    assert recent.quantiles() == pytest.approx([50_000, 90_000, 99_000], abs=10_000)
    recent.add_zeros(900_000)
    assert recent.quantiles((0.5, 0.89)) == [0.0, 0.0]


def test_samples_are_kept_only_for_prometheus():
    _, registry = make()
    assert registry.samples("x").recent is None


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (-0.0, "0"), (1, "1"), (-2.5, "-2.5"), (112366, "112366"), (1e6, "1e+06"), (9920864.0, "9.920864e+06"),
     (0.0001, "0.0001"), (0.00001, "1e-05"), (1.290990948677063, "1.290990948677063"), (1e21, "1e+21"),
     (1.8446744073709552e19, "1.8446744073709552e+19"), (100, "100"), (float("nan"), "NaN"), (float("inf"), "+Inf"),
     (float("-inf"), "-Inf")],
)  # fmt: skip
def test_numbers_are_written_as_go_writes_them(value, text):
    assert go_number(value) == text


def test_file_is_rotated_by_size_and_old_files_are_pruned(tmp_path):
    wall = Wall()
    sink = FileSink(f"{tmp_path}/", wall_ns=wall, bytes_max=10, files_max=1)
    for text in ("12345678\n", "b2345678\n", "c2345678\n"):
        sink(text)
        wall.ns += 1
    sink.close()
    files = sorted(tmp_path.iterdir())
    assert [f.read_text() for f in files] == ["b2345678\n", "c2345678\n"]
    assert [f.name for f in files] == [f"consul-{wall.ns - 1}.log", "consul.log"]


def test_file_is_rotated_by_age(tmp_path):
    wall = Wall()
    sink = FileSink(f"{tmp_path}/a.txt", wall_ns=wall, age_s_max=60)
    sink("one\n")
    wall.ns += 60 * SECOND_NS
    sink("two\n")
    sink.close()
    assert (tmp_path / "a.txt").read_text() == "two\n"
    assert len(list(tmp_path.iterdir())) == 2


def test_closed_file_and_broken_stream_lose_lines_without_raising(tmp_path):
    sink = FileSink(f"{tmp_path}/x.log", wall_ns=Wall())
    sink.close()
    sink("x\n")
    stream = io.StringIO()
    stream.close()
    console = StreamSink(stream)
    console("x\n")
    assert (sink.lost, console.lost) == (1, 1)


def test_console_that_cannot_show_the_text_gets_it_escaped():
    raw = io.BytesIO()
    console = StreamSink(io.TextIOWrapper(raw, encoding="ascii", write_through=True))
    console("ü\udc80\n")
    assert raw.getvalue() == b"\\xfc\\udc80\n"
