"""Simulated links: loss, cuts, refusals, resets, back-pressure."""

import asyncio
import ssl

import pytest

from pyconsul_agent.env.base import open_stream, serve_streams
from pyconsul_agent.env.tls import client_context
from pyconsul_agent.errors import DialError, DialRefused, NetError, NetTimeout
from pyconsul_agent.sim.listener import BACKLOG_MAX
from pyconsul_agent.sim.net import LinkOptions
from pyconsul_agent.sim.stream import WINDOW_BYTES
from tests.builders import run_sim

A, B, C = "10.0.0.1", "10.0.0.2", "10.0.0.3"


class Recorder(asyncio.Protocol):
    """Notes what happens to it."""

    def __init__(self):
        self.data = b""
        self.chunks = []
        self.events = []
        self.paused = False
        self.lost = asyncio.get_running_loop().create_future()

    def connection_made(self, transport):
        self.transport = transport

    def data_received(self, data):
        self.data += data
        self.chunks.append(len(data))

    def eof_received(self):
        self.events.append("eof")
        return True

    def pause_writing(self):
        self.paused = True

    def resume_writing(self):
        self.paused = False

    def connection_lost(self, exc):
        self.lost.set_result(exc)


async def pair(world, a=A, b=B, port=80):
    """(listener at b, protocol at a, protocol at b)."""
    servers = []

    def factory():
        servers.append(Recorder())
        return servers[-1]

    listener = await world.network.host(b).listen(factory, b, port)
    _, client = await world.network.host(a).connect(Recorder, b, port)
    await asyncio.sleep(1)
    return listener, client, servers[0]


def test_nobody_listening_is_a_refusal_and_a_silent_host_a_timeout():
    async def test(world):
        net = world.network.host(A)
        world.host(B)
        with pytest.raises(DialRefused) as caught:
            await open_stream(net, B, 80)
        assert str(caught.value) == "dial tcp 10.0.0.2:80: connect: connection refused"
        start = world.loop.time()
        world.network.cut(A, B)
        with pytest.raises(NetTimeout) as caught:
            await open_stream(net, B, 80, timeout_s=5, local_host=A)
        assert str(caught.value) == "dial tcp 10.0.0.1:0->10.0.0.2:80: i/o timeout"
        assert world.loop.time() == start + 5
        with pytest.raises(NetTimeout):
            await open_stream(net, "10.9.9.9", 80)
        with pytest.raises(DialError, match="cannot assign requested address"):
            await open_stream(net, B, 80, local_host=C)

    run_sim(1, test)


def test_a_dial_that_began_in_a_cut_succeeds_when_the_cut_heals_in_time():
    async def test(world):
        listener = await world.network.host(B).listen(Recorder, "0.0.0.0", 80)
        world.network.cut(A, B)
        world.loop.call_later(2, world.network.heal)
        transport, _ = await world.network.host(A).connect(Recorder, B, 80)
        assert transport.get_extra_info("peername") == (B, 80)
        transport.close()
        await asyncio.sleep(1)
        await listener.close()
        for socket in world.network.sockets_of(None):
            socket.close()

    run_sim(1, test)


def test_ports_are_taken_once():
    async def test(world):
        net = world.network.host(A)
        first = await net.listen(Recorder, "0.0.0.0", 80)
        with pytest.raises(NetError) as caught:
            await net.listen(Recorder, A, 80)
        assert str(caught.value) == "listen tcp 10.0.0.1:80: bind: address already in use"
        with pytest.raises(NetError, match="cannot assign requested address"):
            await net.listen(Recorder, B, 80)
        udp = await net.datagrams(print, A, 80)
        with pytest.raises(NetError, match="listen udp"):
            await net.datagrams(print, A, 80)
        free = await net.datagrams(print, A, 0)
        assert free.local[1] > 0
        for listener in (first,):
            await listener.close()
        await (await net.listen(Recorder, A, 80)).close()
        udp.close()
        free.close()

    run_sim(1, test)


def test_bytes_arrive_in_order_and_half_close_keeps_the_other_direction():
    async def test(world):
        listener, a, b = await pair(world)
        message = world.random.randbytes(1_000_000)
        a.transport.write(message)
        a.transport.write_eof()
        await asyncio.sleep(5)
        assert b.data == message
        assert b.events == ["eof"]
        b.transport.write(b"answer")
        await asyncio.sleep(1)
        assert a.data == b"answer"
        b.transport.close()
        await asyncio.sleep(1)
        assert a.events == ["eof"]
        a.transport.close()
        assert await a.lost is None
        assert await b.lost is None
        await listener.close()

    run_sim(1, test)


def test_small_segments_come_byte_by_byte():
    async def test(world):
        listener, a, b = await pair(world)
        world.network.set_link(A, B, segment_bytes_max=1)
        a.transport.write(b"0123456789")
        await asyncio.sleep(1)
        assert b.data == b"0123456789"
        assert b.chunks == [1] * 10
        a.transport.abort()
        assert isinstance(await b.lost, ConnectionResetError)
        await listener.close()

    run_sim(1, test)


def test_a_reader_that_does_not_read_stops_the_writer():
    async def test(world):
        listener, a, b = await pair(world)
        b.transport.pause_reading()
        a.transport.write(bytes(WINDOW_BYTES))
        assert not a.paused
        a.transport.write(bytes(100_000))
        assert a.paused
        await asyncio.sleep(10)
        assert a.paused
        assert len(b.data) == 0
        b.transport.resume_reading()
        await asyncio.sleep(1)
        assert not a.paused
        assert len(b.data) == WINDOW_BYTES + 100_000
        a.transport.close()
        b.transport.close()
        await listener.close()

    run_sim(1, test)


def test_a_connection_stalls_in_a_cut_and_goes_on_after_it():
    async def test(world):
        listener, a, b = await pair(world)
        world.network.partition([[A], [B]])
        a.transport.write(b"one ")
        await asyncio.sleep(60)
        a.transport.write(b"two")
        assert b.data == b""
        assert not a.lost.done()
        world.network.heal()
        await asyncio.sleep(3)
        assert b.data == b"one two"
        a.transport.close()
        b.transport.close()
        await listener.close()

    run_sim(1, test)


def test_a_cut_one_way_passes_the_other_way_until_the_window_is_full():
    async def test(world):
        listener, a, b = await pair(world)
        world.network.cut(B, A, one_way=True)
        b.transport.write(b"lost")
        for _ in range(10):
            a.transport.write(bytes(WINDOW_BYTES // 2))
            await asyncio.sleep(1)
        assert len(b.data) == WINDOW_BYTES
        assert a.data == b""
        world.network.heal()
        await asyncio.sleep(5)
        assert len(b.data) == 5 * WINDOW_BYTES
        assert a.data == b"lost"
        a.transport.close()
        b.transport.close()
        await listener.close()

    run_sim(1, test)


def test_a_cut_that_lasts_ends_idle_connections_on_both_sides():
    async def test(world):
        listener, a, b = await pair(world)
        world.network.cut(A, B)
        await asyncio.sleep(149)
        assert not a.lost.done()
        await asyncio.sleep(2)
        assert isinstance(a.lost.result(), TimeoutError)
        assert isinstance(b.lost.result(), TimeoutError)
        await listener.close()

    run_sim(1, test)


def test_partitions_keep_groups_together_and_the_rest_apart():
    async def test(world):
        net = world.network
        a, b, c = (world.host(ip) for ip in (A, B, C))
        net.partition([[A, B]])
        assert net.reaches(a, b)
        assert not net.reaches(a, c)
        assert not net.reaches(c, b)
        net.heal()
        assert net.reaches(c, b)
        net.cut(A, C, one_way=True)
        assert not net.reaches(a, c)
        assert net.reaches(c, a)
        net.uncut(A, C)
        net.set_up(A, False)
        assert not net.reaches(a, a)

    run_sim(1, test)


def test_a_connected_socket_hears_its_peer_only():
    async def scenario(world):
        got = []
        peer = await world.network.host(B).datagrams(print, B, 53)
        stranger = await world.network.host(C).datagrams(print, C, 53)
        socket = await world.network.host(A).datagrams(
            lambda data, _: got.append(data), A, 0, connected=(peer.local, print)
        )
        stranger.send(b"stranger", socket.local)
        peer.send(b"peer", socket.local)
        await asyncio.sleep(1)
        assert got == [b"peer"]
        for one in (peer, stranger, socket):
            one.close()

    run_sim(1, scenario)


def test_datagrams_are_lost_duplicated_reordered_and_dropped_over_the_mtu():
    async def test(world):
        got = []
        receiver = await world.network.host(B).datagrams(lambda data, from_: got.append((data, from_)), "0.0.0.0", 9)
        sender = await world.network.host(A).datagrams(print, "0.0.0.0", 9)

        async def send(**link):
            got.clear()
            world.network.set_link(A, B, **link)
            for number in range(200):
                sender.send(b"%d" % number, (B, 9))
            await asyncio.sleep(2)
            return [int(data) for data, _ in got]

        plain = await send(latency_sigma=0)
        assert plain == list(range(200))
        assert {from_ for _, from_ in got} == {(A, 9)}
        assert 60 < len(await send(loss=0.5)) < 140
        assert await send(loss=1.0) == []
        numbers = await send(loss=0.0, duplicate=1.0)
        assert len(numbers) in range(250, 401)
        numbers = await send(duplicate=0.0, reorder=0.5)
        assert sorted(numbers) == list(range(200))
        assert numbers != list(range(200))
        assert await send(reorder=0.0, mtu_bytes=1) == list(range(10))
        sender.close()
        receiver.close()
        sender.send(b"x", (B, 9))

    run_sim(1, test)


def test_latency_is_bounded_and_spikes_are_drawn():
    async def test(world):
        a, b = world.host(A), world.host(B)
        world.network.set_link(A, B, latency_s=0.01, latency_sigma=2.0, latency_s_max=0.1)
        drawn = [world.network.latency(a, b) for _ in range(1000)]
        assert max(drawn) == 0.1
        assert 0.005 < sorted(drawn)[500] < 0.02
        world.network.set_link(A, B, spike=0.1)
        assert max(world.network.latency(a, b) for _ in range(1000)) > 1

    run_sim(1, test)


def test_loopback_stays_on_its_host():
    async def test(world):
        here = await serve_streams(world.network.host(A), close_at_once, "127.0.0.1", 80)
        world.host(B)
        reader, writer = await open_stream(world.network.host(A), "127.0.0.1", 80)
        assert await reader.read() == b""
        writer.close()
        with pytest.raises(DialRefused):
            await open_stream(world.network.host(B), "127.0.0.1", 80)
        with pytest.raises(DialRefused):
            await open_stream(world.network.host(B), A, 80)
        await here.close()

    run_sim(1, test)


async def close_at_once(reader, writer):
    writer.close()
    await writer.wait_closed()


def test_unix_sockets():
    async def test(world):
        net = world.network.host(A)

        def factory():
            return asyncio.StreamReaderProtocol(asyncio.StreamReader(), close_at_once)

        listener = await net.listen_unix(factory, "/run/x.sock", mode=0o600)
        with pytest.raises(NetError):
            await net.listen_unix(factory, "/run/x.sock", mode=0o600)
        _, client = await net.connect_unix(Recorder, "/run/x.sock")
        await asyncio.sleep(0.1)
        assert client.events == ["eof"]
        client.transport.close()
        await listener.close()
        with pytest.raises(DialError):
            await net.connect_unix(Recorder, "/run/x.sock")

    run_sim(1, test)


def test_writing_to_an_end_that_was_closed_answers_with_a_reset():
    async def test(world):
        listener, a, b = await pair(world)
        b.transport.close()
        await asyncio.sleep(1)
        a.transport.write(b"anyone?")
        assert isinstance(await a.lost, ConnectionResetError)
        await listener.close()

    run_sim(1, test)


@pytest.mark.parametrize("cancel_after_s", [0.0001, 0.0015, 0.5])
def test_a_cancelled_dial_leaves_no_connection(cancel_after_s):
    async def test(world):
        world.network.link = LinkOptions(latency_s=0.001, latency_sigma=0)
        listener = await serve_streams(world.network.host(B), close_at_once, B, 80)
        task = asyncio.ensure_future(open_stream(world.network.host(A), B, 80))
        if cancel_after_s == 0.5:
            world.network.cut(A, B)
        await asyncio.sleep(cancel_after_s)
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled()
        await asyncio.sleep(200)
        await listener.close()

    run_sim(1, test)


@pytest.mark.parametrize("seed", range(8))
def test_streams_are_whole_whatever_the_faults(seed):
    """Cuts shorter than keep-alive, stopped readers and stopped processes delay bytes; they lose and reorder none."""

    async def test(world):
        received = {}

        async def server_main(env):
            async def handler(reader, writer):
                data = bytearray()
                while part := await reader.read(world.random.randint(1, 50_000)):
                    data += part
                    await asyncio.sleep(world.random.random() * 0.1)
                received[bytes(data[:2])] = bytes(data)
                writer.write(b"%d" % len(data))
                writer.close()
                await writer.wait_closed()

            await serve_streams(env.net, handler, B, 80)
            await asyncio.Event().wait()

        async def client_main(env):
            reader, writer = await open_stream(env.net, B, 80, timeout_s=60)
            message = env.hostname.encode()[-2:] + env.token_bytes(env.random.randint(0, 600_000))
            for start in range(0, len(message), 10_000):
                writer.write(message[start : start + 10_000])
                await writer.drain()
                await asyncio.sleep(env.random.random())
            writer.write_eof()
            assert await reader.read() == b"%d" % len(message)
            writer.close()
            await writer.wait_closed()
            sent[message[:2]] = message

        sent = {}
        server = world.process(B, server_main)
        await asyncio.sleep(1)
        clients = [world.process(f"10.0.1.1{n}", client_main) for n in range(4)]
        for _ in range(30):
            client = world.random.choice(clients)
            fault = world.random.choice(["cut", "one way", "back", "heal", "pause", "pause server", "small"])
            if fault in ("cut", "one way"):
                world.network.cut(client.host, B, one_way=fault == "one way")
            elif fault == "back":
                world.network.cut(B, client.host, one_way=True)
            elif fault == "pause":
                world.pause(client.host)
            elif fault == "pause server":
                world.pause(B)
            elif fault == "small":
                world.network.set_link(client.host, B, segment_bytes_max=1000)
            else:
                world.network.heal()
            await asyncio.sleep(world.random.random() * 4)
            for process in clients:
                process.resume()
            server.resume()
        world.network.heal()
        for client in clients:
            await client.wait()
        assert len(sent) == 4
        assert received == sent

    run_sim(seed, test)


def test_a_stopped_listener_accepts_only_its_backlog():
    async def test(world):
        async def main(env):
            await serve_streams(env.net, close_at_once, B, 80)
            await asyncio.Event().wait()

        process = world.process(B, main)
        await asyncio.sleep(1)
        process.pause()
        net = world.network.host(A)
        open_ones = [await open_stream(net, B, 80) for _ in range(BACKLOG_MAX)]
        with pytest.raises(NetTimeout):
            await open_stream(net, B, 80)
        process.resume()
        for reader, writer in open_ones:
            assert await reader.read() == b""
            writer.close()
        _, writer = await open_stream(net, B, 80)
        writer.close()

    run_sim(1, test)


def test_a_moved_host_is_found_at_its_new_address_only():
    async def test(world):
        async def main(env):
            await serve_streams(env.net, close_at_once, "0.0.0.0", 80)
            await asyncio.Event().wait()

        process = world.process(B, main)
        await asyncio.sleep(1)
        process.kill()
        world.network.move_host(B, C)
        process.start()
        await asyncio.sleep(1)
        _, writer = await open_stream(world.network.host(A), C, 80)
        writer.close()
        with pytest.raises(NetTimeout):
            await open_stream(world.network.host(A), "10.0.0.99", 80, timeout_s=3)
        with pytest.raises(ValueError, match="is taken"):
            world.network.move_host(A, C)
        assert [each.ip for each in process.env.interfaces.addresses()] == ["127.0.0.1", C]

    run_sim(1, test)


def test_tls_runs_on_a_simulated_link(tmp_path):
    async def test(world):
        server_context, client_context = tls_contexts(tmp_path)

        async def handler(reader, writer):
            writer.write(await reader.readexactly(5))
            await close_at_once(reader, writer)

        def factory():
            return asyncio.StreamReaderProtocol(asyncio.StreamReader(), handler)

        listener = await world.network.host(B).listen(factory, B, 443, tls=server_context)
        transport, client = await world.network.host(A).connect(
            Recorder, B, 443, tls=client_context, server_name="server.dc1.consul"
        )
        transport.write(b"hello")
        await asyncio.sleep(1)
        assert client.data == b"hello"
        transport.close()
        with pytest.raises(DialError, match="tls: CERTIFICATE_VERIFY_FAILED"):
            await world.network.host(A).connect(Recorder, B, 443, tls=client_context, server_name="other")
        await asyncio.sleep(1)
        await listener.close()

    run_sim(1, test)


def tls_contexts(directory):
    """A self-signed server and a client that trusts it."""
    import datetime

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "test")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("server.dc1.consul")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    pem = directory / "both.pem"
    pem.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        + certificate.public_bytes(serialization.Encoding.PEM)
    )
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(pem)
    return server, client_context(str(pem))
