"""Subscriptions over byte 8: order of events, resuming, slow and hostile callers. In memory and virtual time."""

import asyncio
import random
from contextlib import aclosing, asynccontextmanager

import pytest
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.errors import ErrorCodes
from h2.events import ConnectionTerminated, DataReceived, ResponseReceived, StreamReset, TrailersReceived
from h2.settings import SettingCodes
from hypothesis import given, settings
from hypothesis import strategies as st

from conformance.vectors_rpc_subscribe import PREFACE, commit, copy_of
from pyconsul_agent.errors import NoPathToDatacenter
from pyconsul_agent.runtime import grpc_server, http2
from pyconsul_agent.runtime.grpc_client import GRPCPool
from pyconsul_agent.runtime.rpc_pool import ServerAddress
from pyconsul_agent.runtime.rpc_server import RPCServer
from pyconsul_agent.server import feeds as feed_module
from pyconsul_agent.server.directory import ServerDirectory
from pyconsul_agent.server.feeds import EVENTS_MAX, IDLE_S, Feeds, Interrupted
from pyconsul_agent.server.streaming import Streaming
from pyconsul_agent.state import health, registration
from pyconsul_agent.state.store import Store
from pyconsul_agent.state.watch import WatchSet
from pyconsul_agent.structs.catalog import ConnectProxyConfig, NodeService, Weights
from pyconsul_agent.structs.health import HealthCheck
from pyconsul_agent.structs.requests import RegisterRequest
from pyconsul_agent.structs.subscribe import SubscribeRequest, Topic
from pyconsul_agent.wire.grpc import GRPCError, MessageCutter, NotOffered, Status, encode_message
from pyconsul_agent.wire.subscribe import CLOSED, EVENT, PATH, REQUEST
from tests.memory_net import Clock, MemoryNet, Recorder, run

SERVER = ServerAddress("s1", "127.0.0.1", 8300, "dc1")
HEALTH, CONNECT = Topic.SERVICE_HEALTH, Topic.SERVICE_HEALTH_CONNECT


def register(name, number=1, node="n1", port=80, status=None, **more):
    service = NodeService(id=f"{name}{number}", service=name, port=port, weights=Weights(passing=1, warning=1), **more)
    check = status and HealthCheck(node=node, check_id=f"c-{name}{number}", status=status, service_id=service.id)
    request = RegisterRequest(datacenter="dc1", node=node, address="10.0.0.1", service=service, check=check or None)
    return lambda txn: registration.register(txn, request)


def deregister(name, number=1, node="n1"):
    return lambda txn: registration.deregister(txn, node, f"{name}{number}", "")


class World:
    def __init__(self):
        self.network = {}
        self.log = Recorder()
        self.store = Store()
        self.net = MemoryNet("127.0.0.2", self.network)
        near = MemoryNet("127.0.0.1", self.network)
        self.directory = ServerDirectory("dc1", "s1")
        self.settled = True
        self.streaming = Streaming(
            near, Clock(), self.log, self.store, self.directory, datacenter="dc1", settled=lambda: self.settled
        )
        self.server = RPCServer(near, Clock(), self.log, None, grpc=self.streaming.serve)
        self.pool = GRPCPool(self.net, Clock(), self.log)
        self.index = 10

    def write(self, *commands):
        for command in commands:
            self.index += 1
            commit(self.store, [(self.index, command)])

    def subscribe(self, key="web", topic=HEALTH, **more):
        request = SubscribeRequest(topic=topic, key=key, **more)
        return aclosing(events(self.pool.call(SERVER, PATH, REQUEST.encode(request))))

    @asynccontextmanager
    async def raw(self, **settings):
        """An h2 client on a connection of its own, and its reader and writer."""
        from pyconsul_agent.env.base import open_stream

        reader, writer = await open_stream(self.net, "127.0.0.1", 8300)
        client = RawClient(reader, writer, settings)
        try:
            yield client
        finally:
            writer.close()


async def events(messages):
    async with aclosing(messages):
        async for message in messages:
            yield EVENT.decode(message)


class RawClient:
    """A gRPC client as the specification describes it, on h2 alone."""

    def __init__(self, reader, writer, settings):
        self.reader, self.writer = reader, writer
        self.h2 = H2Connection(H2Configuration(client_side=True))
        self.h2.initiate_connection()
        if settings:
            self.h2.update_settings({getattr(SettingCodes, name): value for name, value in settings.items()})
        self.events = []
        writer.write(b"\x08")
        self.flush()

    def flush(self):
        self.writer.write(self.h2.data_to_send())

    def call(self, body=None, path=PATH, end=True, **headers):
        number = self.h2.get_next_available_stream_id()
        named = {
            ":method": "POST", ":scheme": "http", ":path": path, ":authority": "server.dc1",
            "content-type": "application/grpc", "te": "trailers",
        } | {name.replace("_", "-"): value for name, value in headers.items()}  # fmt: skip
        self.h2.send_headers(number, list(named.items()))
        if body is not None:
            self.h2.send_data(number, body, end_stream=end)
        self.flush()
        return number

    def subscribe(self, **fields):
        return self.call(encode_message(REQUEST.encode(SubscribeRequest(**{"topic": 1, "key": "web"} | fields))))

    async def read(self, seconds=1.0, credit=True):
        """All events of a while; whether the connection is still open."""
        try:
            async with asyncio.timeout(seconds):
                while data := await self.reader.read(65536):
                    for event in self.h2.receive_data(data):
                        self.events.append(event)
                        if credit and isinstance(event, DataReceived):
                            self.h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
                    self.flush()
                return False
        except TimeoutError:
            return True
        except ConnectionResetError:
            return False

    def messages(self, number):
        cutter = MessageCutter()
        body = [e.data for e in self.events if isinstance(e, DataReceived) and e.stream_id == number]
        return [EVENT.decode(message) for data in body for message in cutter.feed(data)]

    def status(self, number):
        for event in self.events:
            if isinstance(event, (ResponseReceived, TrailersReceived)) and event.stream_id == number:
                headers = {_text(name): _text(value) for name, value in event.headers}
                if "grpc-status" in headers:
                    return int(headers["grpc-status"]), headers.get("grpc-message", "")
        return None


def _text(value):
    return value.decode() if isinstance(value, bytes) else value


def in_world(test):
    """Run a coroutine function in a world that must be empty afterwards."""

    def run_test():
        async def main():
            world = World()
            await world.server.start("127.0.0.1", 8300)
            await test(world)
            await asyncio.sleep(2)
            # Whatever was done: others are served, and nothing is left of it.
            world.write(register("last"))
            async with world.subscribe("last") as stream:
                first = await anext(stream)
                assert first.service_health.check_service_node.service.id == "last1"
            await world.pool.close()
            await asyncio.sleep(IDLE_S + 1)
            assert world.server.connection_count == 0
            assert len(world.streaming.feeds) == 0
            assert len(world.store.watchers) == 0
            assert world.streaming._server.calls == 0
            await world.streaming.close()
            await world.server.close()

        run(main())

    run_test.__name__, run_test.__doc__ = test.__name__, test.__doc__
    return run_test


async def snapshot(stream):
    """(ids, index) up to the end of the snapshot."""
    ids = []
    async for event in stream:
        if event.end_of_snapshot:
            return ids, event.index
        ids.append(event.service_health.check_service_node.service.id)
    raise AssertionError("no end of snapshot")


# --- what is told -----------------------------------------------------------------------------------------------


@in_world
async def test_snapshot_then_changes_with_the_indexes_of_plain_queries(world):
    world.write(register("web"), register("web", 2), register("db"))
    async with world.subscribe() as stream:
        assert await snapshot(stream) == (["web1", "web2"], 12)
        world.write(register("db", 2), register("web", 2, port=81))
        event = await anext(stream)
        assert (event.index, event.service_health.check_service_node.service.port) == (15, 81)
        world.write(deregister("web"))
        event = await anext(stream)
        gone = event.service_health
        assert (event.index, gone.op, gone.check_service_node.service.id) == (16, 1, "web1")
        plain, _ = health.service_nodes(world.store, WatchSet(), "web")
        assert plain == 16


@in_world
async def test_instances_that_one_commit_touches_come_as_a_batch(world):
    world.write(register("web"), register("web", 2))
    async with world.subscribe() as stream:
        await snapshot(stream)
        check = HealthCheck(node="n1", check_id="serfHealth", status="critical")
        request = RegisterRequest(datacenter="dc1", node="n1", address="10.0.0.1", check=check)
        world.write(lambda txn: registration.register(txn, request))
        event = await anext(stream)
        batch = event.event_batch.events
        assert [each.index for each in batch] == [13, 13]
        assert {each.service_health.check_service_node.checks[0].status for each in batch} == {"critical"}


@in_world
async def test_absent_service_is_an_empty_snapshot_with_an_index_and_then_appears(world):
    async with world.subscribe() as stream:
        assert await snapshot(stream) == ([], 1)
        world.write(register("web"))
        assert (await anext(stream)).index == 11


@in_world
async def test_connect_topic_has_the_proxies(world):
    proxy = ConnectProxyConfig(destination_service_name="web")
    world.write(register("web"), register("web-proxy", kind="connect-proxy", proxy=proxy))
    async with world.subscribe(topic=CONNECT) as stream:
        assert await snapshot(stream) == (["web-proxy1"], 12)
        world.write(deregister("web-proxy"))
        assert (await anext(stream)).service_health.op == 1


@in_world
async def test_known_index_resumes_and_an_unknown_one_begins_again(world):
    world.write(register("web"))
    async with world.subscribe() as first:
        await snapshot(first)
        world.write(register("web", 2))
        await anext(first)
        world.write(register("web", 3))
        await anext(first)
        async with world.subscribe(index=12) as resumed:
            event = await anext(resumed)
            assert (event.index, event.service_health.check_service_node.service.id) == (13, "web3")
        async with world.subscribe(index=11) as resumed:
            assert (await anext(resumed)).index == 12
        async with world.subscribe(index=99) as again:
            assert (await anext(again)).new_snapshot_to_follow
            assert await snapshot(again) == (["web1", "web2", "web3"], 13)


@in_world
async def test_restore_ends_subscriptions_so_that_callers_begin_again(world):
    world.write(register("web"))
    async with world.subscribe() as stream, world.subscribe(key="db") as other:
        await snapshot(stream)
        await snapshot(other)
        world.store.restore(copy_of(world.store))
        for each in (stream, other):
            with pytest.raises(GRPCError) as end:
                await anext(each)
            assert (end.value.status, end.value.text) == (Status.ABORTED, CLOSED)
    async with world.subscribe() as stream:
        assert await snapshot(stream) == (["web1"], 11)


@in_world
async def test_restored_state_that_may_be_taken_back_is_not_shown(world):
    world.write(register("web"))
    async with world.subscribe() as stream:
        await snapshot(stream)
        world.settled = False
        world.store.restore(copy_of(world.store))
        with pytest.raises(GRPCError):
            await anext(stream)
    with pytest.raises(GRPCError) as refusal:
        async with world.subscribe() as stream:
            await anext(stream)
    assert refusal.value.status == Status.UNAVAILABLE
    world.settled = True


@in_world
async def test_many_instances_arrive_whole_through_small_windows(world):
    world.write(*(register("web", number, meta={"k": "v" * 400}) for number in range(500)))
    async with world.raw(INITIAL_WINDOW_SIZE=100) as client:
        number = client.subscribe()
        assert await client.read(20)
        assert len(client.messages(number)) == 501
    async with world.subscribe() as stream:
        ids, _ = await snapshot(stream)
        assert len(ids) == 500


# --- what is refused --------------------------------------------------------------------------------------------


@in_world
async def test_wrong_requests_get_their_status(world):
    async def status(**fields):
        with pytest.raises(GRPCError) as error:
            async with world.subscribe(**fields) as stream:
                await anext(stream)
        return error.value.status, error.value.text

    assert await status(key="") == (Status.INVALID_ARGUMENT, "Key is required")
    assert (await status(topic=7))[0] == Status.UNKNOWN
    assert await status(datacenter="dc9") == (Status.UNKNOWN, str(NoPathToDatacenter()))


@in_world
async def test_wrong_calls_get_their_status_and_leave_the_others_alone(world):
    world.write(register("web"))
    async with world.raw() as client:
        good = client.subscribe()
        body = encode_message(REQUEST.encode(SubscribeRequest(topic=1, key="web")))
        expected = {
            client.call(body, path="/subscribe.StateChangeSubscription/Nope"): Status.UNIMPLEMENTED,
            client.call(body, path="/grpc.health.v1.Health/Check"): Status.UNIMPLEMENTED,
            client.call(b"\x01" + body[1:]): Status.UNIMPLEMENTED,
            client.call(b"\0\xff\xff\xff\xff"): Status.RESOURCE_EXHAUSTED,
            client.call(encode_message(b"\x0a\x01")): Status.INTERNAL,
            client.call(body + body): Status.INTERNAL,
            client.call(body[:-1]): Status.INTERNAL,
            client.call(b""): Status.INTERNAL,
        }
        not_grpc = client.call(body, content_type="text/html")
        assert await client.read()
        assert {number: client.status(number)[0] for number in expected} == expected
        answers = [e for e in client.events if isinstance(e, ResponseReceived) and e.stream_id == not_grpc]
        assert _text(dict(answers[0].headers).get(":status", dict(answers[0].headers).get(b":status"))) == "415"
        assert len(client.messages(good)) == 2
        world.write(register("web", 2))
        await client.read()
        assert len(client.messages(good)) == 3


@in_world
async def test_request_that_does_not_end_is_reset(world):
    async with world.raw() as client:
        number = client.call(b"\0\0", end=False)
        assert await client.read(grpc_server.REQUEST_TIMEOUT_S + 1)
        assert [e.stream_id for e in client.events if isinstance(e, StreamReset)] == [number]


def test_calls_above_the_limit_are_refused_and_counted_down():
    async def main():
        world = World()
        await world.server.start("127.0.0.1", 8300)
        async with world.subscribe() as stream:
            await snapshot(stream)
            world.streaming._server.calls_max = 1
            with pytest.raises(GRPCError) as refusal:
                async with world.subscribe() as other:
                    await anext(other)
            assert refusal.value.status == Status.RESOURCE_EXHAUSTED
        await asyncio.sleep(1)
        async with world.subscribe() as stream:
            await snapshot(stream)
        await world.pool.close()
        await world.streaming.close()
        await world.server.close()
        await asyncio.sleep(0.1)

    run(main())


# --- slow, silent, hostile --------------------------------------------------------------------------------------


@in_world
async def test_caller_that_does_not_read_is_reset_and_the_others_go_on(world):
    world.write(*(register("web", number, meta={"k": "v" * 400}) for number in range(300)))
    async with world.raw() as client, world.subscribe("db") as other:
        number = client.subscribe()
        await snapshot(other)
        await client.read(10, credit=False)
        world.write(register("db"))
        assert (await anext(other)).index == world.index
        await client.read(http2.SEND_TIMEOUT_S + 5, credit=False)
        assert [e.stream_id for e in client.events if isinstance(e, StreamReset)] == [number]


def test_reader_that_has_fallen_behind_must_begin_again_and_costs_no_memory():
    async def main():
        store, feeds = Store(), None
        feeds = Feeds(store)
        commit(store, [(1, register("web"))])
        with feeds.read(HEALTH, "web") as (feed, reader):
            for index in range(EVENTS_MAX):
                commit(store, [(index + 2, register("web", port=index + 1))])
                await asyncio.sleep(0)
            assert len(reader.take()) == EVENTS_MAX
            for index in range(EVENTS_MAX + 1):
                commit(store, [(index + 1000, register("web", port=index + 5000))])
                await asyncio.sleep(0)
            assert len(feed._told) == EVENTS_MAX
            with pytest.raises(Interrupted):
                reader.take()
            assert not reader.resume(5)
        feeds.close()

    run(main())


def test_bytes_kept_are_bounded(monkeypatch):
    async def main():
        monkeypatch.setattr(feed_module, "ALL_BYTES_MAX", 3000)
        store = Store()
        feeds = Feeds(store)
        with feeds.read(HEALTH, "web") as (feed, _):
            for index in range(1, 60):
                commit(store, [(index, register("web", port=index))])
                await asyncio.sleep(0)
                assert feed._bytes == sum(len(told.data) for told in feed._told) <= 3000
            commit(store, [(100, register("web", meta={"k": "v" * 500, "l": "v" * 500}))])
        feeds.close()

    run(main())


def test_feeds_are_bounded_and_idle_ones_make_room(monkeypatch):
    async def main():
        monkeypatch.setattr(feed_module, "FEEDS_MAX", 2)
        store = Store()
        feeds = Feeds(store)
        with feeds.read(HEALTH, "a"):
            with feeds.read(HEALTH, "b"), pytest.raises(feed_module.TooManyFeeds), feeds.read(HEALTH, "c"):
                pass
            with feeds.read(HEALTH, "c"):
                assert len(feeds) == 2
        await asyncio.sleep(IDLE_S + 1)
        assert len(feeds) == len(store.watchers) == 0

    run(main())


@in_world
async def test_pings_and_settings_without_end_end_the_connection(world):
    for flood in (b"\0\0\x08\x06\0\0\0\0\0" + bytes(8), b"\0\0\0\x04\0\0\0\0\0", b"\0\0\x04\x08\0\0\0\0\0\0\0\0\x01"):
        async with world.raw() as client:
            await client.read(0.1)
            client.writer.write(flood * 6000)
            assert not await client.read(5)
            last = client.events[-1]
            assert isinstance(last, ConnectionTerminated) and last.error_code == ErrorCodes.ENHANCE_YOUR_CALM


@in_world
async def test_streams_opened_and_reset_without_end_end_the_connection(world):
    async with world.raw() as client:
        for _ in range(3000):
            number = client.subscribe()
            client.h2.reset_stream(number)
            client.flush()
        assert not await client.read(5)


@in_world
async def test_pings_after_messages_are_no_flood(world):
    world.write(register("web"))
    async with world.raw() as client:
        number = client.subscribe()
        await client.read(0.2)
        for at in range(2600):
            world.write(register("web", port=at + 1))
            client.h2.ping(bytes(8))
            client.h2.increment_flow_control_window(1)
            client.flush()
            await client.read(0.001)
        assert len(client.messages(number)) == 2602


@in_world
async def test_broken_frames_end_the_connection(world):
    settings_frame = b"\0\0\0\x04\0\0\0\0\0"
    for data in (
        b"GET / HTTP/1.1\r\n\r\n" + bytes(24),
        PREFACE + b"\xff\xff\xff\x00\0\0\0\0\x01",  # a frame larger than announced
        PREFACE + settings_frame + b"\0\0\x04\x08\0\0\0\0\0\0\0\0\0",  # an increment of 0
        PREFACE + settings_frame + (b"\0\0\x04\x08\0\0\0\0\0\x7f\xff\xff\xff" * 2),  # a window beyond 2^31 - 1
        PREFACE + b"\0\0\x06\x04\0\0\0\0\0\0\x04\xff\xff\xff\xff",  # an absurd initial window
        PREFACE + settings_frame + b"\0\0\x01\x01\x04\0\0\0\x01\xff",  # headers that are no HPACK
        PREFACE + settings_frame + b"\0\0\0\x00\x01\0\0\0\x01",  # data on an idle stream
    ):
        async with world.raw() as client:
            client.writer.write(data[len(PREFACE) :] if data.startswith(PREFACE) else data)
            assert not await client.read(5), data


@in_world
async def test_headers_without_end_end_the_connection(world):
    async with world.raw() as client:
        await client.read(0.1)
        client.writer.write(b"\0\0\x01\x01\0\0\0\0\x01\x82" + b"\0\x10\0\x09\0\0\0\0\x01" + bytes(4096))
        client.writer.write((b"\0\x10\0\x09\0\0\0\0\x01" + b"\x40\x01a\x01b" * 819 + b"\x82") * 100)
        assert not await client.read(5)


@in_world
async def test_silent_caller_is_pinged_and_then_cut(world):
    async with world.raw() as client:
        client.subscribe()
        await client.read(0.5)
        await asyncio.sleep(http2.SILENCE_S + http2.PING_TIMEOUT_S + 1)
        assert world.server.connection_count == 0


@settings(max_examples=25, deadline=None)
@given(st.binary(max_size=200), st.integers(0, 3))
def test_any_bytes_after_the_first_end_or_wait(data, seed):
    async def main():
        world = World()
        await world.server.start("127.0.0.1", 8300)
        async with world.raw() as client:
            cut = random.Random(seed).randrange(30)
            client.writer.write(data[:cut])
            client.writer.write(data[cut:])
            try:
                async with asyncio.timeout(1):
                    while await client.reader.read(65536):
                        pass
            except (TimeoutError, ConnectionResetError):
                pass
        await asyncio.sleep(1)
        assert world.server.connection_count == 0
        assert not [line for line in world.log.lines if "failed" in line[1]]
        await world.streaming.close()
        await world.server.close()

    run(main())


# --- our own client ---------------------------------------------------------------------------------------------


def test_server_that_closes_byte_8_does_not_offer_it():
    async def main():
        world = World()
        server = RPCServer(MemoryNet("127.0.0.1", world.network), Clock(), world.log, None)
        await server.start("127.0.0.1", 8300)
        with pytest.raises(NotOffered):
            async with world.subscribe() as stream:
                await anext(stream)
        assert world.pool.connection_count == 0
        await world.pool.close()
        await server.close()
        await asyncio.sleep(0.1)

    run(main())


@in_world
async def test_lost_connection_fails_its_calls_and_the_next_dials_again(world):
    world.write(register("web"))
    async with world.subscribe() as stream, world.subscribe("db") as other:
        await snapshot(stream)
        await snapshot(other)
        assert world.pool.connection_count == 1
        world.pool.forget(SERVER)
        for each in (stream, other):
            with pytest.raises(GRPCError) as end:
                await anext(each)
            assert end.value.status == Status.UNAVAILABLE
    async with world.subscribe() as stream:
        assert await snapshot(stream) == (["web1"], 11)


@in_world
async def test_ended_call_leaves_nothing_at_the_server(world):
    async with world.subscribe() as stream:
        await snapshot(stream)
        assert world.streaming._server.calls == 1
    await asyncio.sleep(0.1)
    assert world.streaming._server.calls == 0
    assert world.pool.connection_count == 1
