"""Byte 5 of the server port, both ends: the recorded conversations, routing, refusals, connections that break."""

import asyncio
import contextlib
import json
from pathlib import Path

import pytest

from conformance.vectors_rpc_connections import World, read_all
from pyconsul_agent.errors import ConnectionLost, ConsulError, NotLeader, RaftError, RPCError
from pyconsul_agent.runtime.rpc_pool import ServerAddress
from pyconsul_agent.runtime.snapshot_rpc import SnapshotPort, call
from pyconsul_agent.server.snapshots import Snapshots, go_character
from pyconsul_agent.structs.base import duration
from pyconsul_agent.structs.raft import Configuration, Server, SnapshotMeta
from pyconsul_agent.structs.requests import SnapshotRequest, SnapshotResponse
from pyconsul_agent.structs.snapshot import RESTORE, SAVE, ArchiveStream, SnapshotAnswer, nothing
from pyconsul_agent.wire import msgpack
from pyconsul_agent.wire.snapshot import read_archive, write_archive
from tests.memory_net import Recorder, run

VECTORS = Path(__file__).resolve().parents[2] / "conformance" / "vectors" / "rpc" / "snapshot-rpc.json"
RECORDED = {one["name"]: one for one in json.loads(VECTORS.read_text())["conversations"]}
SERVER = ServerAddress("srv1", "127.0.0.1", 8300, "dc1")
STATE = b"state" * 100_000
META = SnapshotMeta(
    id="2-75-1", index=75, term=2, size=len(STATE), configuration_index=1,
    configuration=Configuration(servers=(Server(id="a", address="127.0.0.1:8300"),)),
)  # fmt: skip
ARCHIVE = b"".join(write_archive(META, [STATE], 1))


async def at_once(work):
    return work()


class Sink:
    def __init__(self):
        self.data, self.aborted = b"", False

    async def write(self, data):
        self.data += data

    async def finish(self):
        return META

    def chunks(self):
        return [self.data]

    async def abort(self):
        self.aborted = True


class Source:
    meta = META

    def __init__(self):
        self.closed = False

    def chunks(self):
        yield STATE[:1000]
        yield STATE[1000:]

    async def close(self):
        self.closed = True


class Raft:
    """What is asked of RaftNode, and who leads."""

    def __init__(self, leader="127.0.0.1:8300", is_leader=True):
        self.leader_address, self.is_leader, self.last_contact_s = leader, is_leader, 0.0 if is_leader else 0.02
        self.restored, self.scratches, self.sources, self.done = [], [], [], []
        self.problem = None
        self.hold = None

    def scratch(self):
        self.scratches.append(Sink())
        return self.scratches[-1]

    async def open_snapshot(self):
        if self.problem:
            raise self.problem
        self.sources.append(Source())
        return self.sources[-1]

    async def restore(self, chunks, saved):
        if self.hold:
            await self.hold.wait()
        if self.problem:
            raise self.problem
        self.restored.append((b"".join(chunks), saved))

    async def barrier(self):
        self.done.append("barrier")

    async def reassert(self):
        self.done.append("reassert")

    async def consistent(self):
        self.done.append("consistent")


class Servers:
    def __init__(self, leader=None, routes=None):
        self.leader, self.routes, self.bad = leader, routes or {}, []

    def server_at(self, address):
        return self.leader

    def has_datacenter(self, name):
        return name in self.routes

    def route(self, name):
        return self.routes.get(name)

    def failed(self, server):
        self.bad.append(server)


def snapshots(raft, servers=None, remote=None):
    return Snapshots(
        raft, raft, servers or Servers(), remote, datacenter="dc1", worker=at_once, wall_ns=lambda: 10**18,
        consistent=raft.consistent, reassert=raft.reassert, log=Recorder(),
    )  # fmt: skip


def port(raft, **more):
    return SnapshotPort(snapshots(raft, **more).answer, Recorder()).serve


async def pieces(data, size=50_000):
    for at in range(0, len(data), size):
        yield data[at : at + size]


async def whole(answer):
    data = b"".join([piece async for piece in answer.archive])
    await answer.archive.aclose()
    return data


def asked(op=SAVE, **more):
    return SnapshotRequest(datacenter=more.pop("datacenter", "dc1"), op=op, **more)


def with_port(handler, test):
    async def main():
        async with World(snapshot=handler) as world:
            await test(world)

    run(main())


async def called(world, request, archive=b""):
    async with contextlib.aclosing(pieces(archive)) as sent:
        return await call(world.net, world.log, SERVER, request, sent, local_host=None)


# --- on the wire -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", RECORDED)
def test_recorded_conversation_is_answered_with_the_recorded_bytes(name):
    recorded, raft = RECORDED[name], Raft()

    async def test(world):
        reader, writer = await world.dial()
        stream = bytes.fromhex(recorded["request"]["stream_hex"])
        writer.write(b"\x05" + bytes.fromhex(recorded["request"]["header_hex"]) + stream)
        writer.write_eof()
        data, closed = await read_all(reader)
        writer.close()
        assert closed
        head = bytes.fromhex(recorded["response"]["header_hex"])
        index = recorded["response"]["header"]["Index"]
        head = head.replace(b"\xa5Index" + msgpack.pack(index), b"\xa5Index" + msgpack.pack(75 if index else 0))
        assert data[: len(head)] == head
        if recorded["request"]["header"]["Op"] == SAVE:
            assert read_archive(data[len(head) :]) == (META, STATE)
        else:
            assert data == head
            wanted = [] if recorded["response"]["header"]["Error"] else [read_archive(stream)]
            assert [(meta, state) for state, meta in raft.restored] == wanted

    with_port(port(raft), test)


def test_save_is_answered_before_the_caller_has_half_closed():
    async def test(world):
        reader, writer = await world.dial()
        writer.write(b"\x05" + msgpack.encode(asked()))
        data, closed = await read_all(reader)
        writer.close()
        assert closed and data.endswith(ARCHIVE[-4:])

    with_port(port(Raft()), test)


@pytest.mark.parametrize("head", [b"\xc1", b"\x93\x01\x02\x03", b"\xdf\xff\xff\xff\xff", b"\x81"])
def test_head_that_is_none_is_closed_without_an_answer(head):
    async def test(world):
        reader, writer = await world.dial()
        writer.write(b"\x05" + head)
        writer.write_eof()
        assert await read_all(reader) == (b"", True)
        writer.close()

    with_port(port(Raft()), test)


def test_both_ends_of_ours_save_and_restore():
    raft = Raft()

    async def test(world):
        answer = await called(world, asked())
        assert (answer.response.index, answer.response.known_leader) == (75, True)
        assert read_archive(await whole(answer)) == (META, STATE)
        assert raft.sources[0].closed
        restored = await called(world, asked(RESTORE), ARCHIVE)
        assert await whole(restored) == b""
        assert raft.restored == [(STATE, META)]
        assert raft.done == ["consistent", "barrier", "reassert"]
        assert raft.scratches[0].aborted

    with_port(port(raft), test)


def test_stale_save_proves_nothing_and_tells_how_old_it_may_be():
    raft = Raft(is_leader=False)

    async def test(world):
        answer = await called(world, asked(allow_stale=True))
        assert answer.response == SnapshotResponse(index=75, known_leader=True, last_contact=duration(0.02))
        await whole(answer)
        assert raft.done == []

    with_port(port(raft), test)


def test_refusal_reaches_a_caller_that_is_still_sending():
    async def test(world):
        with pytest.raises(RPCError) as refused:
            await called(world, asked(RESTORE, allow_stale=True), bytes(3_000_000))
        assert str(refused.value) == "stale not allowed for restore"

    with_port(port(Raft()), test)


def test_archive_that_is_cut_off_is_an_error_for_who_reads_it():
    async def handler(reader, writer, peer):
        writer.write(msgpack.encode(SnapshotResponse(index=5)) + ARCHIVE[:100])
        await writer.drain()
        writer.transport.abort()

    async def test(world):
        answer = await called(world, asked())
        with pytest.raises(ConnectionLost):
            await whole(answer)

    with_port(handler, test)


def test_server_that_closes_without_an_answer_is_an_error():
    async def handler(reader, writer, peer):
        await reader.read(10)

    async def test(world):
        with pytest.raises(RPCError, match="failed to decode response: EOF"):
            await called(world, asked())

    with_port(handler, test)


def test_silent_sender_is_given_up_and_leaves_nothing():
    raft = Raft()

    async def test(world):
        reader, writer = await world.dial()
        writer.write(b"\x05" + msgpack.encode(asked(RESTORE)) + ARCHIVE[:100])
        started = world.clock.monotonic()
        answer = msgpack.decode(SnapshotResponse, await reader.read(1000))
        assert answer.error == "failed to read snapshot: i/o timeout"
        assert 59 < world.clock.monotonic() - started < 61
        writer.close()
        assert raft.scratches[0].aborted and not raft.restored

    with_port(port(raft), test)


def test_receiver_that_takes_nothing_is_cut_off():
    async def endless(request, archive):
        async def pieces():
            while True:
                yield bytes(60_000)

        async def close():
            closed.append(True)

        return SnapshotAnswer(SnapshotResponse(index=1), ArchiveStream(pieces(), close))

    closed = []

    async def test(world):
        reader, writer = await world.dial()
        writer.transport.pause_reading()
        writer.write(b"\x05" + msgpack.encode(asked()))
        await asyncio.sleep(100)
        assert closed
        writer.transport.resume_reading()
        with pytest.raises(ConnectionResetError):
            while await reader.read(1 << 20):
                pass
        writer.close()

    with_port(SnapshotPort(endless, Recorder()).serve, test)


# --- routing ---------------------------------------------------------------------------------------------------


def answered(raft, request, archive=b"", **more):
    async def main():
        answer = await snapshots(raft, **more).answer(request, pieces(archive))
        return answer.response, await whole(answer)

    return run(main())


def refused(raft, request, archive=b"", **more):
    with pytest.raises(ConsulError) as error:
        answered(raft, request, archive, **more)
    return str(error.value)


def test_refusals_in_consul_s_words():
    leader, follower = Raft(), Raft(is_leader=False)
    assert refused(leader, asked(5)) == "unrecognized snapshot op '\\x05'"
    assert refused(leader, asked(RESTORE, allow_stale=True), ARCHIVE) == "stale not allowed for restore"
    assert refused(leader, asked(datacenter="")) == "No path to datacenter"
    assert refused(leader, asked(datacenter="dc9")) == "No path to datacenter"
    unreachable = Servers(routes={"dc2": None})
    assert refused(leader, asked(datacenter="dc2"), servers=unreachable).startswith("Remote DC has no server")
    assert refused(follower, asked()) == "No cluster leader"  # at once, and also where gossip does not know it
    assert refused(Raft(leader="", is_leader=False), asked()) == "No cluster leader"
    leader.problem = RaftError("nothing new to snapshot")
    assert refused(leader, asked()) == "Raft error when taking snapshot: nothing new to snapshot"
    leader.problem = NotLeader()
    assert refused(leader, asked(RESTORE), ARCHIVE) == "Raft error when restoring snapshot: node is not the leader"


@pytest.mark.parametrize("op", [SAVE, RESTORE])
@pytest.mark.parametrize("elsewhere", ["leader", "datacenter"])
def test_request_is_passed_on_unchanged_and_its_error_unwrapped(op, elsewhere):
    seen = []

    async def remote(server, request, archive):
        seen.append((server, request, b"".join([piece async for piece in archive])))
        if len(seen) > 1:
            raise RPCError("failed to decompress snapshot: EOF")
        return SnapshotAnswer(SnapshotResponse(index=3), nothing())

    servers = Servers(leader=SERVER, routes={"dc2": SERVER})
    request = asked(op, token="t", datacenter="dc1" if elsewhere == "leader" else "dc2")
    raft = Raft(is_leader=elsewhere == "datacenter")
    more = {"servers": servers, "remote": remote}
    assert answered(raft, request, b"bytes", **more) == (SnapshotResponse(index=3), b"")
    assert refused(raft, request, b"bytes", **more) == "failed to decompress snapshot: EOF"
    assert seen[0] == (SERVER, request, b"bytes")
    assert servers.bad == ([SERVER] if elsewhere == "datacenter" else [])


def test_damaged_archive_touches_nothing_and_one_restore_runs_at_a_time():
    raft = Raft()
    words = refused(raft, asked(RESTORE), ARCHIVE[:-1])
    assert words == "unexpected EOF"
    assert not raft.restored and raft.scratches[0].aborted

    async def main():
        raft.hold = asyncio.Event()
        both = snapshots(raft)
        first = asyncio.ensure_future(both.answer(asked(RESTORE), pieces(ARCHIVE)))
        await asyncio.sleep(1)
        with pytest.raises(RPCError, match="a snapshot is being restored already"):
            await both.answer(asked(RESTORE), pieces(ARCHIVE))
        raft.hold.set()
        await first

    run(main())
    assert len(raft.restored) == 1


def test_numbers_as_go_quotes_characters():
    numbers = {0: "'\\x00'", 7: "'\\a'", 10: "'\\n'", 39: "'\\''", 65: "'A'", 127: "'\\x7f'", 173: "'\\u00ad'"}
    assert {number: go_character(number) for number in numbers} == numbers
    assert go_character(-1) == go_character(1 << 40) == "'\ufffd'"
