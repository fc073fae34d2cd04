"""The server port and the pool against recorded conversations and against each other, in memory and virtual time."""

import asyncio
from dataclasses import replace

import pytest

from conformance.vectors_rpc_connections import World, read_all
from pyconsul_agent.errors import RPCError
from pyconsul_agent.runtime.rpc_pool import ServerAddress
from pyconsul_agent.runtime.rpc_server import RPCLimits
from pyconsul_agent.structs.methods import STATUS_LEADER, STATUS_PING, Empty
from pyconsul_agent.structs.requests import DCSpecificRequest
from pyconsul_agent.wire import msgpack, netrpc
from pyconsul_agent.wire.yamux_frames import HEADER
from tests.memory_net import run

SERVER = ServerAddress("srv1", "127.0.0.1", 8300, "dc1")


def in_world(limits=None, **handlers):
    """Run the decorated coroutine function as a test, with a World."""

    def decorate(test):
        def run_test():
            async def main():
                async with World(limits, **handlers) as world:
                    await test(world)
                    await world.pool.close()
                    await asyncio.sleep(20)
                    assert world.server.connection_count == 0

            run(main())

        run_test.__name__, run_test.__doc__ = test.__name__, test.__doc__
        return run_test

    return decorate


# --- recorded conversations -----------------------------------------------------------------------------------


# --- the port -------------------------------------------------------------------------------------------------


@in_world()
async def test_unknown_first_byte_is_logged_with_the_peer(world):
    reader, writer = await world.dial()
    writer.write(b"\x42")
    assert await reader.read() == b""
    level, message, pairs = world.log.lines[-1]
    assert (level, message) == ("error", "unrecognized RPC byte")
    assert pairs["peer"].startswith("127.0.0.2:")
    writer.close()


@in_world()
async def test_connection_101_of_one_client_is_closed_and_the_others_work(world):
    open_ones = [await world.dial() for _ in range(100)]
    reader, writer = await world.dial()
    with pytest.raises(ConnectionResetError):
        await reader.read()
    writer.close()
    for _, writer in open_ones:
        writer.write(b"\x00" + netrpc.encode_request(1, "Status.Ping", b"\x80"))
    for reader, writer in open_ones:
        assert await reader.readexactly(40) == netrpc.encode_response(netrpc.RequestHeader(1, "Status.Ping"), b"\x80")
        writer.close()
    await asyncio.sleep(1)
    assert await world.pool.call(SERVER, STATUS_PING, Empty()) == Empty()


def test_raft_and_snapshot_handlers_get_their_connections():
    seen = []

    async def handler(reader, writer, peer):
        seen.append((await reader.readexactly(3), peer[0]))

    async def main():
        async with World(raft_accept=handler, snapshot=handler) as world:
            for first in (b"\x01abc", b"\x05def"):
                reader, writer = await world.dial()
                writer.write(first)
                assert await reader.read() == b""
                writer.close()

    run(main())
    assert seen == [(b"abc", "127.0.0.2"), (b"def", "127.0.0.2")]


@pytest.mark.parametrize("first", [1, 5, 8, 3, 7])
def test_bytes_without_a_handler_are_closed_at_once(first):
    async def main():
        async with World() as world:
            reader, writer = await world.dial()
            writer.write(bytes([first]))
            data, closed = await read_all(reader)
            writer.close()
            return data, closed, asyncio.get_running_loop().time()

    data, closed, now = run(main())
    assert (data, closed) == (b"", True)
    assert now < 1


@in_world(RPCLimits(request_timeout_s=30.0))
async def test_a_request_must_be_complete_in_time(world):
    reader, writer = await world.dial()
    writer.write(b"\x00\x82\xa3Seq")
    started = world.clock.monotonic()
    assert await reader.read() == b""
    assert 29.9 < world.clock.monotonic() - started < 30.1
    writer.close()


@in_world(RPCLimits(body_bytes_max=1000))
async def test_a_body_too_large_ends_its_stream_only(world):
    with pytest.raises(RPCError, match="EOF"):
        await world.pool.call_raw(SERVER, "Test.Echo", msgpack.encode(bytes(2000)))
    assert "malformed RPC message" in world.log.messages("error")
    assert await world.pool.call_raw(SERVER, "Test.Echo", msgpack.encode(bytes(900))) == msgpack.encode(bytes(900))


@in_world(RPCLimits(incomplete_bytes_max=100_000))
async def test_incomplete_requests_together_are_bounded(world):
    reader, writer = await world.dial()
    writer.write(b"\x00" + netrpc.encode_request(1, "Test.Echo", b"\xdb\x03\x00\x00\x00") + bytes(200_000))
    assert (await read_all(reader))[1]
    writer.close()
    assert world.log.lines[-1][2]["error"] == "too many bytes in incomplete requests"


@in_world()
async def test_handler_on_a_single_connection_is_cancelled_when_it_is_lost(world):
    _, writer = await world.dial()
    writer.write(b"\x00" + netrpc.encode_request(1, "Test.Block", b"\x80"))
    await asyncio.sleep(1)
    assert world.service.blocked == 1
    writer.transport.abort()
    await asyncio.sleep(1)
    assert world.service.cancelled == 1


# --- pool and server ------------------------------------------------------------------------------------------


@in_world()
async def test_typed_call(world):
    assert await world.pool.call(SERVER, STATUS_LEADER, DCSpecificRequest(datacenter="dc1")) == "127.0.0.1:8300"
    assert world.service.peers[0][0] == "127.0.0.2"


@in_world()
async def test_calls_share_one_connection_and_reuse_streams(world):
    for _ in range(5):
        await world.pool.call(SERVER, STATUS_PING, Empty())
    assert len(world.net.dials) == 1
    (session,) = world.pool._sessions.values()
    assert session.connection.session._next_id == 3


@in_world()
async def test_calls_that_come_together_share_the_dial(world):
    bodies = [msgpack.encode(i) for i in range(50)]
    answers = await asyncio.gather(*(world.pool.call_raw(SERVER, "Test.Slow", body) for body in bodies))
    assert answers == bodies
    assert world.service.running_max == 50
    assert len(world.net.dials) == 1


@in_world()
async def test_a_blocking_call_does_not_hold_up_others(world):
    blocking = asyncio.create_task(world.pool.call_raw(SERVER, "Test.Block", b"\x80"))
    await asyncio.sleep(1)
    assert await world.pool.call(SERVER, STATUS_PING, Empty()) == Empty()
    blocking.cancel()
    await asyncio.gather(blocking, return_exceptions=True)


@in_world()
async def test_cancelling_a_call_cancels_its_handler_and_spares_the_session(world):
    call = asyncio.create_task(world.pool.call_raw(SERVER, "Test.Block", b"\x80"))
    await asyncio.sleep(1)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    await asyncio.sleep(1)
    assert world.service.cancelled == 1
    await world.pool.call(SERVER, STATUS_PING, Empty())
    assert len(world.net.dials) == 1


@in_world()
async def test_handlers_are_cancelled_when_the_connection_is_lost(world):
    calls = [asyncio.create_task(world.pool.call_raw(SERVER, "Test.Block", b"\x80")) for _ in range(3)]
    await asyncio.sleep(1)
    world.net.transports[0].abort()
    errors = await asyncio.gather(*calls, return_exceptions=True)
    assert {str(error) for error in errors} == {"rpc error making call: EOF"}
    await asyncio.sleep(1)
    assert world.service.cancelled == 3
    await world.pool.call(SERVER, STATUS_PING, Empty())
    assert len(world.net.dials) == 2


@in_world()
async def test_errors_are_worded_and_close_their_stream_only(world):
    for method, text in [
        ("KVS.Nope", "rpc: can't find method KVS.Nope"),
        ("FooBar", "rpc: service/method request ill-formed: FooBar"),
        ("Test.Lost", "leadership lost while committing log"),
        ("Test.Crash", "rpc: internal error in Test.Crash"),
    ]:
        with pytest.raises(RPCError) as caught:
            await world.pool.call_raw(SERVER, method, b"\x80")
        assert str(caught.value) == f"rpc error making call: {text}"
    (session,) = world.pool._sessions.values()
    assert session.connection.session._next_id == 9
    await asyncio.sleep(1)
    assert session.connection.session.stream_count == 0
    assert len(world.net.dials) == 1
    crash = next(pairs for level, message, pairs in world.log.lines if message == "RPC handler failed")
    assert crash["peer"].startswith("127.0.0.2:")


@in_world()
async def test_bodies_larger_than_the_window_pass_both_ways(world):
    body = msgpack.encode(bytes(range(256)) * 8000)
    assert await world.pool.call_raw(SERVER, "Test.Echo", body) == body


@in_world()
async def test_refused_dial_is_worded(world):
    with pytest.raises(RPCError) as caught:
        await world.pool.call(replace(SERVER, port=9), STATUS_PING, Empty())
    assert str(caught.value) == (
        "rpc error getting client: failed to get conn: dial tcp 127.0.0.1:9: connect: connection refused"
    )


@in_world()
async def test_idle_session_is_kept_alive_and_then_closed(world):
    await world.pool.call(SERVER, STATUS_PING, Empty())
    await asyncio.sleep(115)
    assert world.pool.session_count == 1
    await asyncio.sleep(20)
    assert world.pool.session_count == 0
    await asyncio.sleep(1)
    assert world.server.connection_count == 0


@in_world()
async def test_silent_server_is_noticed_by_keepalive(world):
    call = asyncio.create_task(world.pool.call_raw(SERVER, "Test.Block", b"\x80"))
    await asyncio.sleep(1)
    started = world.clock.monotonic()
    world.net.transports[0].peer.pause_reading()
    with pytest.raises(RPCError, match="EOF"):
        await call
    assert world.clock.monotonic() - started < 41


@in_world()
async def test_closing_the_pool_fails_calls_in_flight(world):
    call = asyncio.create_task(world.pool.call_raw(SERVER, "Test.Block", b"\x80"))
    await asyncio.sleep(1)
    await world.pool.close()
    with pytest.raises(RPCError):
        await call
    with pytest.raises(RPCError, match="shut down"):
        await world.pool.call(SERVER, STATUS_PING, Empty())


@pytest.mark.parametrize("turns", range(6))
def test_closing_the_pool_while_it_dials_fails_the_calls(turns):
    async def main():
        async with World() as world:
            call = asyncio.create_task(world.pool.call(SERVER, STATUS_PING, Empty()))
            for _ in range(turns):
                await asyncio.sleep(0)
            await world.pool.close()
            with pytest.raises(RPCError):
                await call

    run(main())


@in_world(RPCLimits(streams_per_session_max=4))
async def test_streams_above_the_limit_wait_their_turn(world):
    calls = [world.pool.call_raw(SERVER, "Test.Slow", msgpack.encode(i)) for i in range(12)]
    tasks = [asyncio.create_task(call) for call in calls]
    await asyncio.sleep(0.5)
    assert world.service.running_max == 4
    for task in tasks[4:]:
        task.cancel()
    assert await asyncio.gather(*tasks[:4]) == [msgpack.encode(i) for i in range(4)]
    await asyncio.gather(*tasks, return_exceptions=True)


@in_world(RPCLimits(streams_max=2))
async def test_streams_of_all_sessions_together_are_bounded(world):
    calls = [world.pool.call_raw(SERVER, "Test.Slow", msgpack.encode(i)) for i in range(3)]
    answers = await asyncio.gather(*calls, return_exceptions=True)
    assert answers[:2] == [b"\x00", b"\x01"]
    assert str(answers[2]) == "rpc error making call: EOF"
    assert await world.pool.call_raw(SERVER, "Test.Echo", b"\x05") == b"\x05"


@in_world(RPCLimits(reply_stall_s=60.0))
async def test_a_caller_that_does_not_read_loses_its_stream(world):
    reader, writer = await world.dial()
    body = msgpack.encode(bytes(400_000))
    request = netrpc.encode_request(1, "Test.Echo", body)
    writer.write(b"\x04" + HEADER.pack(0, 1, 1, 1, 0))
    for start in range(0, len(request), 100_000):
        piece = request[start : start + 100_000]
        writer.write(HEADER.pack(0, 0, 0, 1, len(piece)) + piece)
        await asyncio.sleep(0.1)
    data, frames = b"", []

    async def keep_reading():
        nonlocal data
        while piece := await reader.read(65536):
            data += piece
            while len(data) >= 12:
                _, kind, flags, stream, length = HEADER.unpack_from(data)
                size = 12 + (length if kind == 0 else 0)
                if len(data) < size:
                    break
                frames.append((kind, flags, stream, length))
                data = data[size:]
                if kind == 2 and flags == 1:
                    writer.write(HEADER.pack(0, 2, 2, 0, length))

    reading = asyncio.create_task(keep_reading())
    await asyncio.sleep(130)
    assert (1, 8, 1, 0) in frames
    assert sum(length for kind, *_, length in frames if kind == 0) == 262144
    reading.cancel()
    await asyncio.gather(reading, return_exceptions=True)
    writer.close()
