"""The real operating system behind `env.base`: sockets, files, children, threads, look-ups."""

import asyncio
import contextlib
import errno
import os
import resource
import socket
import struct
import threading
import time

import pytest

from pyconsul_agent.env.base import open_stream, peer_of, serve_streams
from pyconsul_agent.env.failures import connection_failure, dial_failure, listen_failure
from pyconsul_agent.env.interfaces import default_route_interface
from pyconsul_agent.env.real import RealFiles, real_env
from pyconsul_agent.errors import ConnectionLost, DialError, DialRefused, NetError, NetTimeout
from tests.builders import run_async

LOCAL = "127.0.0.1"

both_loops = pytest.mark.parametrize("uvloop", [False, True], ids=["asyncio", "uvloop"])


def with_env(test, *, uvloop=False):
    async def body():
        env = real_env()
        try:
            await asyncio.wait_for(test(env), 20)
        finally:
            await env.blocking.close()

    run_async(body(), uvloop=uvloop)


async def echo(reader, writer):
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()
    writer.close()
    await writer.wait_closed()


@both_loops
def test_a_stream_carries_bytes_both_ways_without_delay_and_with_keep_alive(uvloop):
    async def test(env):
        accepted = asyncio.get_running_loop().create_future()

        async def handler(reader, writer):
            accepted.set_result(writer.get_extra_info("socket").getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE))
            await echo(reader, writer)

        listener = await serve_streams(env.net, handler, LOCAL, 0)
        reader, writer = await open_stream(env.net, *listener.local, local_host=LOCAL)
        ours = writer.get_extra_info("socket")
        assert ours.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        assert ours.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        assert await accepted
        message = os.urandom(300_000)
        writer.write(message)
        writer.write_eof()
        assert await reader.read(-1) == message
        writer.close()
        await writer.wait_closed()
        await listener.close()
        with pytest.raises(DialRefused):
            await open_stream(env.net, *listener.local)

    with_env(test, uvloop=uvloop)


@both_loops
@pytest.mark.parametrize(("bound", "to"), [(LOCAL, LOCAL), ("::", LOCAL), ("::", "::1")])
def test_a_client_has_the_address_that_it_came_from_whatever_we_listen_on(uvloop, bound, to):
    async def test(env):
        seen = asyncio.get_running_loop().create_future()

        async def handler(reader, writer):
            seen.set_result(peer_of(writer))
            writer.close()

        listener = await serve_streams(env.net, handler, bound, 0)
        _, writer = await open_stream(env.net, to, listener.local[1])
        assert await seen == writer.get_extra_info("sockname")[:2]
        writer.close()
        await listener.close()

    with_env(test, uvloop=uvloop)


@both_loops
def test_closing_a_listener_leaves_accepted_connections_alone(uvloop):
    async def test(env):
        listener = await serve_streams(env.net, echo, LOCAL, 0)
        reader, writer = await open_stream(env.net, *listener.local)
        writer.write(b"a")
        assert await reader.readexactly(1) == b"a"
        await listener.close()
        writer.write(b"b")
        assert await reader.readexactly(1) == b"b"
        writer.close()
        await writer.wait_closed()

    with_env(test, uvloop=uvloop)


@both_loops
def test_a_taken_port_is_one_clear_line(uvloop):
    async def test(env):
        listener = await serve_streams(env.net, echo, LOCAL, 0)
        port = listener.local[1]
        with pytest.raises(NetError) as caught:
            await serve_streams(env.net, echo, LOCAL, port)
        assert str(caught.value) == f"listen tcp 127.0.0.1:{port}: bind: address already in use"
        await listener.close()
        socket_ = await env.net.datagrams(print, LOCAL, 0)
        with pytest.raises(NetError, match=r"^listen udp 127.0.0.1:\d+: bind: address already in use$"):
            await env.net.datagrams(print, *socket_.local)
        socket_.close()
        with pytest.raises(NetError, match=r"^listen tcp 192.0.2.1:80: bind: cannot assign requested address$"):
            await serve_streams(env.net, echo, "192.0.2.1", 80)

    with_env(test, uvloop=uvloop)


@both_loops
def test_dial_errors_are_told_apart(uvloop):
    async def test(env):
        with socket.socket() as sleeper:
            sleeper.bind((LOCAL, 0))
            port = sleeper.getsockname()[1]
            with pytest.raises(DialRefused) as caught:
                await open_stream(env.net, LOCAL, port)
            assert str(caught.value) == f"dial tcp 127.0.0.1:{port}: connect: connection refused"
            # A listener whose backlog is full answers nothing.
            sleeper.listen(0)
            fillers = [socket.socket() for _ in range(2)]
            for filler in fillers:
                filler.setblocking(False)
                filler.connect_ex((LOCAL, port))
            try:
                with pytest.raises(NetTimeout) as caught:
                    await open_stream(env.net, LOCAL, port, timeout_s=0.1)
                assert str(caught.value) == f"dial tcp 127.0.0.1:{port}: i/o timeout"
            finally:
                for filler in fillers:
                    filler.close()
        with pytest.raises(DialError, match=r"^dial tcp 192.0.2.1:0->127.0.0.1:1: bind: cannot assign"):
            await open_stream(env.net, LOCAL, 1, local_host="192.0.2.1")

    with_env(test, uvloop=uvloop)


@both_loops
def test_datagrams_arrive_in_one_drain_and_sends_never_raise(uvloop):
    async def test(env):
        loop = asyncio.get_running_loop()
        got = []
        full = loop.create_future()

        def receive(data, from_):
            got.append((data, from_))
            if len(got) == 200 and not full.done():
                full.set_result(None)

        a = await env.net.datagrams(receive, LOCAL, 0)
        b = await env.net.datagrams(print, LOCAL, 0)
        for number in range(200):
            b.send(b"%d" % number, a.local)
        await full
        assert got == [(b"%d" % number, b.local) for number in range(200)]
        b.send(bytes(100_000), a.local)
        b.send(b"x", ("not an address", 5))
        b.send(b"x", (LOCAL, 99_999))
        assert b.dropped == 3
        a.close()
        b.close()
        b.close()

    with_env(test, uvloop=uvloop)


@both_loops
def test_a_connected_socket_hears_its_peer_only_and_learns_that_nobody_listens(uvloop):
    async def test(env):
        loop = asyncio.get_running_loop()
        got, heard, refused = [], loop.create_future(), loop.create_future()

        def receive(data, from_):
            got.append((data, from_))
            heard.set_result(None)

        peer = await env.net.datagrams(print, LOCAL, 0)
        stranger = await env.net.datagrams(print, LOCAL, 0)
        socket_ = await env.net.datagrams(
            receive, "0.0.0.0", 0, connected=(peer.local, lambda error: refused.done() or refused.set_result(error))
        )
        there = (LOCAL, socket_.local[1])
        stranger.send(b"stranger", there)
        peer.send(b"peer", there)
        await heard
        assert got == [(b"peer", peer.local)]
        gone = peer.local
        peer.close()
        socket_.send(b"anybody?", gone)
        assert isinstance(await refused, DialRefused)
        socket_.close()
        stranger.close()

    with_env(test, uvloop=uvloop)


@both_loops
@pytest.mark.parametrize("bound", [LOCAL, "0.0.0.0", "::"])
@pytest.mark.parametrize("on_the_spot", [True, False])
def test_a_question_is_answered_from_the_address_that_it_came_to(uvloop, bound, on_the_spot):
    """A connected client hears that address only; nobody else's reply reaches it."""

    async def test(env):
        loop = asyncio.get_running_loop()
        asked = []

        def quick(data):
            return b"quick " + data if on_the_spot else None

        def receive(data, from_, reply):
            asked.append(from_)
            loop.call_soon(reply, b"later " + data)

        server = await env.net.questions(quick, receive, bound, 0)
        to = LOCAL if bound == LOCAL else "127.0.0.77"
        heard = loop.create_future()
        client = await env.net.datagrams(
            lambda data, from_: heard.done() or heard.set_result(data),
            LOCAL, 0, connected=((to, server.local[1]), lambda error: heard.set_exception(error)),
        )  # fmt: skip
        client.send(b"hello", (to, server.local[1]))
        assert await heard == (b"quick hello" if on_the_spot else b"later hello")
        assert asked == ([] if on_the_spot else [client.local])
        client.close()
        server.close()
        server.close()
        server.send(b"x", client.local)

    with_env(test, uvloop=uvloop)


@both_loops
def test_many_questions_are_answered_in_turn_and_what_cannot_be_sent_is_counted(uvloop):
    async def test(env):
        loop = asyncio.get_running_loop()
        answers, full = [], loop.create_future()

        def receive(data, from_):
            answers.append(data)
            if len(answers) == 150:
                full.set_result(None)

        server = await env.net.questions(lambda data: data or bytes(70_000), print, LOCAL, 0)
        client = await env.net.datagrams(receive, LOCAL, 0)
        client.send(b"", server.local)
        for number in range(150):
            client.send(b"%d" % number, server.local)
        await full
        assert answers == [b"%d" % number for number in range(150)]
        server.send(b"x", (LOCAL, 99_999))
        assert server.dropped == 2
        client.close()
        server.close()

    with_env(test, uvloop=uvloop)


@both_loops
def test_a_unix_socket_replaces_a_dead_one_but_no_other_file(uvloop, tmp_path):
    async def test(env):
        path = str(tmp_path / "http.sock")
        dead = socket.socket(socket.AF_UNIX)
        dead.bind(path)
        dead.close()

        def factory():
            reader = asyncio.StreamReader()
            return asyncio.StreamReaderProtocol(reader, echo)

        listener = await env.net.listen_unix(factory, path, mode=0o600)
        assert os.stat(path).st_mode & 0o777 == 0o600
        reader = asyncio.StreamReader()
        transport, _ = await env.net.connect_unix(lambda: asyncio.StreamReaderProtocol(reader), path)
        transport.write(b"hello")
        assert await reader.readexactly(5) == b"hello"
        transport.close()
        await asyncio.sleep(0.01)
        await listener.close()
        assert not os.path.exists(path)
        with pytest.raises(DialError, match=r"^dial unix .*: connect: no such file or directory$"):
            await env.net.connect_unix(factory, path)
        (tmp_path / "http.sock").write_text("precious")
        with pytest.raises(NetError, match="address already in use"):
            await env.net.listen_unix(factory, path, mode=0o600)
        assert (tmp_path / "http.sock").read_text() == "precious"

    with_env(test, uvloop=uvloop)


@both_loops
def test_a_child_gives_exit_code_and_merged_output(uvloop):
    async def test(env):
        result = await env.process.run(
            ["/bin/sh", "-c", "cat; echo $X >&2; exit 3"],
            timeout_s=10,
            output_bytes_max=100,
            environment={"X": "y"},
            stdin=b"in ",
        )
        assert (result.exit_code, result.output, result.truncated, result.timed_out) == (3, b"in y\n", False, False)
        with pytest.raises(FileNotFoundError):
            await env.process.run(["/no/such/program"], timeout_s=1, output_bytes_max=1)

    with_env(test, uvloop=uvloop)


@both_loops
def test_output_is_cut_while_reading_and_its_end_kept(uvloop):
    async def test(env):
        result = await env.process.run(
            ["/bin/sh", "-c", "head -c 3000000 /dev/zero; echo end"], timeout_s=10, output_bytes_max=10
        )
        assert result.output == bytes(6) + b"end\n"
        assert result.truncated

    with_env(test, uvloop=uvloop)


@both_loops
@pytest.mark.parametrize("cancelled", [False, True], ids=["timeout", "cancelled"])
def test_a_process_group_is_killed_as_a_whole(uvloop, cancelled, tmp_path):
    async def test(env):
        pids = tmp_path / "pids"
        script = f"sleep 60 & echo $! > {pids}; wait"
        run = env.process.run(["/bin/sh", "-c", script], timeout_s=60 if cancelled else 0.3, output_bytes_max=10)
        if cancelled:
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(run, 0.3)
        else:
            result = await run
            assert result.timed_out
            assert result.exit_code == -9
        grandchild = int(pids.read_text())
        for _ in range(100):
            if not alive(grandchild):
                return
            await asyncio.sleep(0.01)
        pytest.fail("the grandchild lives")

    with_env(test, uvloop=uvloop)


@pytest.mark.parametrize("stdin", [None, b"words"], ids=["no input", "input"])
def test_a_child_that_finds_too_few_descriptors_leaves_none_open(stdin):
    """Popen of Python 3.11.2 forgot the ones that it had opened."""

    async def test(env):
        async def run():
            return await env.process.run(["/bin/true"], timeout_s=5, output_bytes_max=10, stdin=stdin)

        await run()  # whatever is imported and opened once, is now
        limits = resource.getrlimit(resource.RLIMIT_NOFILE)
        before, failed = sorted(os.listdir("/proc/self/fd"), key=int), 0
        resource.setrlimit(resource.RLIMIT_NOFILE, (int(before[-1]) + 20, limits[1]))
        try:
            for free in range(8):
                fillers = []
                with contextlib.suppress(OSError):
                    while True:
                        fillers.append(os.open("/dev/null", os.O_RDONLY))
                for filler in fillers[:free]:
                    os.close(filler)
                try:
                    await run()
                except OSError as error:
                    assert error.errno == errno.EMFILE
                    failed += 1
                finally:
                    for filler in fillers[free:]:
                        os.close(filler)
                assert sorted(os.listdir("/proc/self/fd"), key=int) == before, f"with {free} free"
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        assert 3 < failed < 8

    with_env(test)


def alive(pid):
    try:
        with open(f"/proc/{pid}/stat") as stat:
            return stat.read().rsplit(")", 1)[1].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


def test_files_are_replaced_whole_and_leave_no_temporary(tmp_path):
    files = RealFiles()
    directory = str(tmp_path / "a" / "b")
    files.make_dirs(directory)
    assert os.stat(directory).st_mode & 0o777 == 0o700
    path = directory + "/x"
    files.write_atomic(path, b"one", mode=0o640)
    files.write_atomic(path, b"two!")
    assert files.read(path) == b"two!"
    assert files.size(path) == 4
    assert os.stat(path).st_mode & 0o777 == 0o600
    assert files.list_dir(directory) == ["x"]
    files.append(directory + "/log", b"1", sync=True)
    files.append(directory + "/log", b"2")
    assert files.read(directory + "/log") == b"12"
    files.rename(path, directory + "/y")
    files.sync_dir(directory)
    assert files.list_dir(directory) == ["log", "y"]
    with pytest.raises(IsADirectoryError):
        files.write_atomic(str(tmp_path / "a"), b"")
    assert files.list_dir(str(tmp_path)) == ["a"]
    files.remove(directory + "/y")
    files.remove_tree(str(tmp_path / "a"))
    assert not files.exists(directory)
    with pytest.raises(FileNotFoundError):
        files.read(path)


@both_loops
def test_a_worker_is_one_thread_that_keeps_order_and_finishes_before_it_closes(uvloop):
    async def test(env):
        done = []
        worker = env.blocking.worker("raft", queue_max=2)

        def job(number):
            time.sleep(0.002)
            done.append((number, threading.get_ident()))
            return number

        tasks = [asyncio.ensure_future(worker(lambda n=number: job(n))) for number in range(10)]
        assert await asyncio.gather(*tasks) == list(range(10))
        assert [number for number, _ in done] == list(range(10))
        assert len({thread for _, thread in done}) == 1
        assert threading.get_ident() not in {thread for _, thread in done}
        assert await env.blocking(threading.get_ident) != done[0][1]
        with pytest.raises(ZeroDivisionError):
            await worker(lambda: 1 / 0)
        last = asyncio.ensure_future(worker(lambda: job(10)))
        await asyncio.sleep(0)
        await worker.close()
        assert await last == 10
        with pytest.raises(RuntimeError):
            await worker(lambda: None)

    with_env(test, uvloop=uvloop)


def test_names_are_looked_up_ipv4_first():
    async def test(env):
        assert (await env.resolver.resolve("localhost"))[0] == "127.0.0.1"
        assert await env.resolver.resolve("10.1.2.3") == ["10.1.2.3"]
        with pytest.raises(NetError, match=r"^lookup .*: "):
            await env.resolver.resolve("a" * 70 + ".invalid")

    with_env(test)


def test_the_loopback_interface_is_listed():
    addresses = real_env().interfaces.addresses()
    loopback = [address for address in addresses if address.ip == LOCAL]
    assert [address.is_loopback for address in loopback] == [True]
    assert not loopback[0].is_default_route


def test_the_default_route_with_the_lowest_metric_wins(tmp_path):
    table = tmp_path / "route"
    table.write_text(
        "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\tMTU\tWindow\tIRTT\n"
        "eth1\t00000000\t0102A8C0\t0003\t0\t0\t100\t00000000\t0\t0\t0\n"
        "eth0\t00000000\t0101A8C0\t0003\t0\t0\t50\t00000000\t0\t0\t0\n"
        "eth2\t0001A8C0\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0\n"
    )
    assert default_route_interface(str(table)) == "eth0"
    assert default_route_interface(str(tmp_path / "absent")) is None


def test_clocks_share_their_base_with_the_loop():
    async def test(env):
        assert abs(env.clock.monotonic() - asyncio.get_running_loop().time()) < 0.1
        assert env.clock.boottime() >= env.clock.monotonic() - 0.1
        assert abs(env.clock.wall_ns() / 1e9 - time.time()) < 1

    with_env(test)
    with_env(test, uvloop=True)


def test_failures_speak_as_go_does():
    refused = ConnectionRefusedError(errno.ECONNREFUSED, "x")
    assert str(dial_failure("tcp", "[::1]:80", refused)) == "dial tcp [::1]:80: connect: connection refused"
    assert isinstance(dial_failure("tcp", "h", OSError(errno.ETIMEDOUT, "x")), NetTimeout)
    denied = listen_failure("udp", "0.0.0.0:53", OSError(errno.EACCES, "x"))
    assert str(denied) == "listen udp 0.0.0.0:53: bind: permission denied"
    reset = connection_failure("10.0.0.1:8300", ConnectionResetError(errno.ECONNRESET, "x"))
    assert isinstance(reset, ConnectionLost)
    assert str(reset) == "10.0.0.1:8300: connection reset by peer"
    assert str(connection_failure("h:1", None)) == "h:1: EOF"
    assert isinstance(connection_failure("h:1", TimeoutError()), NetTimeout)


def test_a_locked_file_has_one_holder_until_it_is_unlocked(tmp_path):
    files, path = RealFiles(), str(tmp_path / "lock")
    unlock = files.lock(path)
    with pytest.raises(BlockingIOError):
        files.lock(path)
    unlock()
    files.lock(path)()


@both_loops
def test_writing_after_the_peers_reset_is_told_by_drain_alone(uvloop):
    async def test(env):
        accepted = asyncio.get_running_loop().create_future()

        async def handler(reader, writer):
            accepted.set_result((reader, writer))

        listener = await serve_streams(env.net, handler, "127.0.0.1", 0)
        try:
            for side in ("dialed", "accepted"):
                reader, writer = await open_stream(env.net, *listener.local)
                ends = {"dialed": (reader, writer), "accepted": await accepted}
                accepted = asyncio.get_running_loop().create_future()
                _, resetting = ends["accepted" if side == "dialed" else "dialed"]
                sock = resetting.get_extra_info("socket")
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                resetting.transport.abort()
                reader, writer = ends[side]
                with contextlib.suppress(OSError):
                    assert await reader.read() == b""
                await asyncio.sleep(0)
                writer.write(b"late")
                writer.writelines([b"later"])
                with pytest.raises(OSError):
                    await writer.drain()
                writer.close()
        finally:
            await listener.close()

    with_env(test, uvloop=uvloop)
