"""A yamux connection: what comes and goes without a task of its own, in virtual time."""

import asyncio

from pyconsul_agent.runtime.mux import DirectReader, MuxConnection
from tests.unit.test_server_blocking import run


class Clock:
    def monotonic(self):
        return asyncio.get_running_loop().time()


class Pipe(asyncio.Transport):
    """One end of a connection: what is written comes out at the other end one turn later, unless it is held."""

    def __init__(self):
        super().__init__()
        self.other, self.protocol, self.held = None, None, None
        self.closed, self.paused, self.writes = False, False, 0

    def get_write_buffer_size(self):
        return 0 if self.held is None else sum(map(len, self.held))

    def write(self, data):
        self.writes += 1
        if self.held is not None:
            self.held.append(bytes(data))
            if self.get_write_buffer_size() > 64 * 1024 and not self.paused:
                self.paused = True
                self.protocol.pause_writing()
        else:
            asyncio.get_running_loop().call_soon(self.other.protocol.data_received, bytes(data))

    def hold(self):
        self.held = []

    def let_go(self):
        held, self.held = self.held, None
        for data in held:
            self.write(data)
        if self.paused:
            self.paused = False
            self.protocol.resume_writing()

    def is_closing(self):
        return self.closed

    def close(self):
        if not self.closed:
            self.closed = True
            asyncio.get_running_loop().call_soon(self.protocol.connection_lost, None)
            asyncio.get_running_loop().call_soon(self.other.protocol.eof_received)

    abort = close

    def pause_reading(self):
        pass

    resume_reading = pause_reading


def ends(**options):
    """A client's and a server's end, and the pipes under them."""
    loop, pipes = asyncio.get_running_loop(), (Pipe(), Pipe())
    made = []
    for pipe, is_client in zip(pipes, (True, False), strict=True):
        reader = DirectReader(limit=256 * 1024, loop=loop)
        pipe.protocol = asyncio.StreamReaderProtocol(reader, loop=loop)
        pipe.protocol.connection_made(pipe)
        writer = asyncio.StreamWriter(pipe, pipe.protocol, reader, loop)
        made.append(MuxConnection(reader, writer, is_client=is_client, clock=Clock(), **({} if is_client else options)))
    pipes[0].other, pipes[1].other = pipes[1], pipes[0]
    return made, pipes


async def over(client, server, runs):
    client.end()
    return await asyncio.gather(*runs)


def conversation(scenario):
    """Run `scenario(client, opened, pipes)` between two connections that run."""

    async def whole():
        opened = asyncio.Queue()
        (client, server), pipes = ends(on_stream=lambda stream: (server.accept(stream), opened.put_nowait(stream)))
        runs = [asyncio.create_task(each.run()) for each in (client, server)]
        await asyncio.sleep(0)
        result = await scenario(client, opened, pipes)
        await over(client, server, runs)
        return result

    return run(whole())


def test_what_a_stream_writes_leaves_in_the_same_turn():
    async def scenario(client, opened, pipes):
        await client.open(b"first")
        stream = await opened.get()
        await stream.read()
        await asyncio.sleep(1)
        before = pipes[1].writes
        stream.write(b"answer")
        return pipes[1].writes - before, client.session.stream_count

    assert conversation(scenario) == (1, 1)


def test_what_many_streams_write_in_one_turn_leaves_in_two_pieces():
    async def scenario(client, opened, pipes):
        streams = []
        for _ in range(20):
            await client.open(b"first")
            streams.append(await opened.get())
            await streams[-1].read()
        await asyncio.sleep(1)
        before = pipes[1].writes
        for stream in streams:
            stream.write(b"answer")
        await asyncio.sleep(1)
        return pipes[1].writes - before, [stream.idle for stream in streams]

    assert conversation(scenario) == (2, [True] * 20)


def test_bytes_reach_their_stream_in_the_turn_in_which_they_come():
    async def scenario(client, opened, pipes):
        await client.open(b"first")
        stream = await opened.get()
        await stream.read()
        await asyncio.sleep(1)
        frame = bytes((0, 0, 0, 0, 0, 0, 0, stream.number, 0, 0, 0, 4)) + b"more"
        pipes[1].protocol.data_received(frame)
        return stream.idle, await stream.read()

    assert conversation(scenario) == (False, b"more")


def test_a_connection_that_takes_nothing_stops_the_writing_and_then_everything_comes_in_order():
    async def scenario(client, opened, pipes):
        sender = await client.open(b"start ")
        receiver = await opened.get()
        pipes[0].hold()
        for number in range(2000):
            sender.write(b"%05d " % number * 20)
        await asyncio.sleep(1)
        held = pipes[0].get_write_buffer_size()
        pipes[0].let_go()
        wanted = b"start " + b"".join(b"%05d " % number * 20 for number in range(2000))
        got = b""
        while len(got) < len(wanted):
            got += await receiver.read()
        return held, got == wanted

    held, same = conversation(scenario)
    assert 0 < held <= 200 * 1024 and same


def test_the_end_of_the_connection_ends_both_sides():
    async def whole():
        (client, server), pipes = ends(on_stream=lambda stream: None)
        runs = [asyncio.create_task(each.run()) for each in (client, server)]
        stream = await client.open(b"x")
        await asyncio.sleep(1)
        pipes[1].close()
        reasons = await asyncio.gather(*runs)
        return reasons, stream.broken

    reasons, broken = run(whole())
    assert all(reasons) and broken


def test_what_came_before_the_session_ran_is_not_lost():
    async def whole():
        opened = asyncio.Queue()
        (client, server), _ = ends(on_stream=lambda stream: (server.accept(stream), opened.put_nowait(stream)))
        first = asyncio.create_task(client.run())
        stream = await client.open(b"early")
        await asyncio.sleep(1)
        second = asyncio.create_task(server.run())
        got = await (await opened.get()).read()
        stream.write(b" late")
        await asyncio.sleep(1)
        await over(client, server, [first, second])
        return got

    assert run(whole()) == b"early"
