"""Checks over HTTP/2 against a server of the same library, and what any bytes of one may say."""

import asyncio
import contextlib

import h2.config
import h2.connection
import h2.events
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyconsul_agent.agent.checks.http2 import grpc_probe, serving_status, split_target
from pyconsul_agent.agent.checks.remote_alias import pause_s, run_remote_alias
from pyconsul_agent.env.base import serve_streams
from pyconsul_agent.errors import DecodeError, RPCError
from pyconsul_agent.sim.env import make_env
from pyconsul_agent.sim.world import World
from pyconsul_agent.structs.base import duration
from pyconsul_agent.structs.catalog import CheckType, NodeService, NodeServiceList
from pyconsul_agent.structs.health import HealthCheck
from pyconsul_agent.structs.requests import IndexedHealthChecks, IndexedNodeServiceList

HERE, THERE = "10.0.0.1", "10.0.0.2"


def message(status):
    body = b"\x08" + bytes([status]) if status else b""
    return b"\0" + len(body).to_bytes(4, "big") + body


def grpc_server(answers):
    """Answers the health question by service name: (body, trailers), or None to say nothing."""

    async def serve(reader, writer):
        wire = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False, header_encoding="utf-8"))
        wire.initiate_connection()
        asked = b""
        while True:
            writer.write(wire.data_to_send())
            data = await reader.read(10_000)
            if not data:
                writer.close()
                return
            for event in wire.receive_data(data):
                if isinstance(event, h2.events.RequestReceived):
                    assert dict(event.headers)[":path"] == "/grpc.health.v1.Health/Check"
                elif isinstance(event, h2.events.DataReceived):
                    asked += event.data
                elif isinstance(event, h2.events.StreamEnded) and (found := answers[asked[7:].decode()]) is not None:
                    body, trailers = found
                    wire.send_headers(event.stream_id, [(":status", "200"), ("content-type", "application/grpc")])
                    wire.send_data(event.stream_id, body)
                    wire.send_headers(event.stream_id, trailers, end_stream=True)

    return serve


def probe(target, serve=None, timeout_s=0.0):
    with World(seed=5) as world:
        here, there = (make_env(world, world.host(name)) for name in (HERE, THERE))

        async def main():
            listener = await serve_streams(there.net, serve, THERE, 50051) if serve else None
            check = CheckType(check_id="g", grpc=target, timeout=duration(timeout_s))
            result = await grpc_probe(check, here.net)()
            await asyncio.sleep(1)
            if listener is not None:
                await listener.close()
            return result

        return world.run(main())


OK = [("grpc-status", "0")]
ANSWERS = {
    "": (message(1), OK),
    "web": (message(2), OK),
    "gone": (b"", [("grpc-status", "5"), ("grpc-message", "unknown%20service")]),
    "zero": (message(0), OK),
    "bad": (b"\0\0\0\0\5x", OK),
    "silent": None,
}


@pytest.mark.parametrize(
    ("service", "status", "output"),
    [
        ("", "passing", "gRPC check 10.0.0.2:50051: success"),
        ("/web", "critical", "gRPC 10.0.0.2:50051/web serving status: NOT_SERVING"),
        ("/zero", "critical", "gRPC 10.0.0.2:50051/zero serving status: UNKNOWN"),
        ("/gone", "critical", "rpc error: code = NotFound desc = unknown service"),
        ("/bad", "critical", "rpc error: code = Internal desc = grpc: failed to unmarshal the received message "),
        ("/silent", "critical", "rpc error: code = DeadlineExceeded desc = context deadline exceeded"),
    ],
)
def test_the_health_of_a_grpc_service(service, status, output):
    result = probe(f"{THERE}:50051{service}", grpc_server(ANSWERS))
    assert result.status == status
    assert result.output.startswith(output)


def test_a_grpc_server_that_is_not_there_or_speaks_something_else():
    text = "dial tcp 10.0.0.2:50051: connect: connection refused"
    assert text in probe(f"{THERE}:50051").output

    async def garbage(reader, writer):
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        await reader.read()
        writer.close()

    result = probe(f"{THERE}:50051", garbage)
    assert (result.status, "code = DeadlineExceeded" in result.output) == ("critical", True), "that is half a frame"


@pytest.mark.parametrize("target", ["", "host", "host:", "host:x", "host:99999", ":0/x"])
def test_a_target_needs_a_port(target):
    with pytest.raises(ValueError, match="missing port"):
        split_target(target)


def test_targets_are_taken_apart():
    assert split_target("[::1]:80/a/b") == ("a/b", "::1", 80)
    assert split_target(":80") == ("", "127.0.0.1", 80)


@given(st.binary(max_size=60))
def test_any_reply_decodes_or_is_refused(data):
    for body in (data, b"\0" + len(data).to_bytes(4, "big") + data):
        with contextlib.suppress(DecodeError):
            assert serving_status(body) >= 0


# --- aliases of another node ---------------------------------------------------------------------------------------


class Servers:
    def __init__(self, replies):
        self.replies = list(replies)
        self.asked = []

    async def call(self, method, request):
        if method.name == "Catalog.NodeServiceList":
            return IndexedNodeServiceList(node_services=NodeServiceList(services=(NodeService(id="web"),)))
        self.asked.append((request.min_query_index, request.node))
        if not self.replies:
            await asyncio.sleep(10_000)
        reply = self.replies.pop(0)
        if isinstance(reply, Exception):
            raise reply
        return reply


def follow(check, replies, seconds=1000):
    with World(seed=6) as world:

        async def main():
            servers, reports = Servers(replies), []
            report = lambda *said: reports.append(said[1:])  # noqa: E731
            work = run_remote_alias(check, servers, report, datacenter="dc1", token="")
            task = asyncio.create_task(work)
            await asyncio.sleep(seconds)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            return reports, servers.asked

        return world.run(main())


def rows(index, *checks):
    return IndexedHealthChecks(index=index, health_checks=tuple(checks))


def test_an_alias_follows_the_checks_of_a_service_on_another_node():
    bad = HealthCheck(name="c", status="critical", service_id="web", output="o")
    other = HealthCheck(name="x", status="critical", service_id="db")
    check = CheckType(check_id="a", alias_node="n2", alias_service="web")
    reports, asked = follow(check, [rows(5, other), rows(7, bad, other), rows(2)])
    assert reports == [
        ("passing", "No checks found."),
        ("critical", 'Aliased check "c" failing: o'),
        ("passing", "No checks found."),
    ]
    assert asked == [(0, "n2"), (5, "n2"), (7, "n2"), (0, "n2")], "an index that went back is not asked for"


def test_an_alias_of_a_service_that_is_not_there_is_critical():
    reports, _ = follow(CheckType(check_id="a", alias_node="n2", alias_service="db"), [rows(5)])
    assert reports == [("critical", "Service db could not be found on node n2")]


def test_one_failure_of_the_servers_is_forgiven_and_retries_slow_down():
    failed = RPCError("No cluster leader")
    reports, _ = follow(CheckType(check_id="a", alias_node="n2"), [failed, rows(4), *[failed] * 3])
    text = "Failure checking aliased node or service: No cluster leader"
    assert reports == [("passing", "No checks found."), ("critical", text), ("critical", text)]
    assert [pause_s(failures) for failures in (1, 3, 4, 5, 99)] == [1, 1, 16, 32, 60]
