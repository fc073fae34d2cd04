"""Simulated processes: killed, stopped, continued, restarted."""

import asyncio

import pytest

from pyconsul_agent.env.base import open_stream, serve_streams
from pyconsul_agent.errors import DialRefused, NetError
from pyconsul_agent.sim.net import LinkOptions
from pyconsul_agent.sim.process import ProcessKilled
from tests.builders import run_sim

A, B = "10.0.0.1", "10.0.0.2"
SEEDS = range(6)


async def forever():
    await asyncio.Event().wait()


async def hold(reader, writer):
    """Let go of neither: from Python 3.12 on a writer that nobody has closes its connection."""
    await forever()


def test_clean_up_code_of_a_killed_process_has_no_effect():
    async def test(world):
        heard = []
        ear = await world.network.host(B).datagrams(lambda data, from_: heard.append(data), B, 9)
        ran = []

        async def main(env):
            mouth = await env.net.datagrams(print, A, 9)

            async def child():
                try:
                    await forever()
                finally:
                    mouth.send(b"child", (B, 9))
                    await asyncio.sleep(1)
                    mouth.send(b"child later", (B, 9))

            async def generate():
                try:
                    yield 1
                finally:
                    await asyncio.sleep(1)
                    mouth.send(b"generator", (B, 9))

            mouth.send(b"alive", (B, 9))
            try:
                async with asyncio.TaskGroup() as group, asyncio.timeout(100):
                    group.create_task(child())
                    async for _ in generate():
                        await forever()
            finally:
                ran.append("finally")
                mouth.send(b"main", (B, 9))
                mouth.close()
                for effect in (
                    lambda: env.files.append("/x", b"dead"),
                    lambda: asyncio.get_running_loop().call_later(1, ran.append, "timer"),
                ):
                    try:
                        effect()
                    except OSError:
                        ran.append("refused")
                asyncio.get_running_loop().create_task(forever())
                with pytest.raises(NetError):
                    await env.net.datagrams(print, A, 10)
                ran.append("no port")
                await asyncio.sleep(5)
                ran.append("slept")

        process = world.process(A, main)
        await asyncio.sleep(1)
        process.kill()
        process.kill()
        assert not process.running
        await process.wait()
        await asyncio.sleep(20)
        assert heard == [b"alive"]
        assert ran == ["finally", "refused", "no port"]
        assert process.leftovers == []
        # The port is free again.
        (await world.network.host(A).datagrams(print, A, 9)).close()
        ear.close()

    run_sim(1, test)


def test_peers_of_a_killed_process_see_an_end():
    async def test(world):
        async def main(env):
            async def handler(reader, writer):
                writer.write(await reader.read(5))
                await forever()

            await serve_streams(env.net, handler, A, 80)
            await forever()

        process = world.process(A, main)
        await asyncio.sleep(1)
        net = world.network.host(B)
        reader, writer = await open_stream(net, A, 80)
        writer.write(b"hello")
        assert await reader.readexactly(5) == b"hello"
        process.kill()
        kind = "eof"
        try:
            assert await reader.read() == b""
            writer.write(b"are you there?")
            await asyncio.sleep(1)
            with pytest.raises(ConnectionResetError):
                writer.write(b"?")
                await writer.drain()
        except ConnectionResetError:
            kind = "reset"
        with pytest.raises(DialRefused):
            await open_stream(net, A, 80)
        process.restart()
        await asyncio.sleep(1)
        _, second = await open_stream(net, A, 80)
        for each in (writer, second):
            each.close()
        return kind

    assert {run_sim(seed, test) for seed in SEEDS} == {"eof", "reset"}


def test_a_stopped_process_does_nothing_while_its_kernel_receives():
    async def test(world):
        got, ticks, accepted = [], [], []

        async def main(env):
            async def handler(reader, writer):
                accepted.append(await reader.read())
                writer.close()
                await writer.wait_closed()

            await env.net.datagrams(lambda data, from_: got.append(data), A, 9)
            await serve_streams(env.net, handler, A, 80)
            while True:
                ticks.append(env.clock.monotonic())
                await asyncio.sleep(1)

        process = world.process(A, main)
        await asyncio.sleep(10.5)
        assert len(ticks) == 11
        process.pause()
        assert process.paused
        assert process.running
        sender = await world.network.host(B).datagrams(print, B, 9)
        for number in range(1000):
            sender.send(b"%d" % number, (A, 9))
            await asyncio.sleep(0.001)
        reader, writer = await open_stream(world.network.host(B), A, 80)
        writer.write(b"hello")
        writer.write_eof()
        await asyncio.sleep(60)
        assert len(ticks) == 11
        assert got == []
        process.resume()
        process.resume()
        await asyncio.sleep(0.3)
        assert len(ticks) == 12
        assert len(got) == 256  # the receive buffer
        assert accepted == [b"hello"]
        assert await reader.read() == b""
        writer.close()
        sender.close()
        process.pause()
        process.kill()
        await asyncio.sleep(1)
        assert len(ticks) == 12

    run_sim(1, test, link=LinkOptions(latency_s=0.0005, latency_sigma=0))


def test_a_restarted_process_finds_its_files_again():
    async def test(world):
        async def main(env):
            env.files.append("/life", b"x")
            await forever()

        process = world.process(A, main)
        await asyncio.sleep(1)
        first = process.env
        process.restart()
        await asyncio.sleep(1)
        assert process.lives == 2
        assert process.env.files.read("/life") == b"xx"
        assert process.env.uuid() != first.uuid()
        with pytest.raises(OSError, match="dead"):
            first.files.read("/life")

    run_sim(1, test)


def test_a_kill_hits_a_job_before_or_after_its_effect():
    async def test(world):
        answered = []

        async def main(env):
            worker = env.blocking.worker("raft")
            await worker(lambda: env.files.append("/log", b"1", sync=True))
            answered.append(1)
            await forever()

        process = world.process(A, main)
        await asyncio.sleep(world.random.uniform(0, 0.004))
        process.kill()
        await asyncio.sleep(1)
        process.restart()
        written = process.env.files.exists("/log")
        assert written or not answered
        return written, bool(answered)

    outcomes = {run_sim(seed, test) for seed in range(20)}
    assert outcomes == {(False, False), (True, False), (True, True)}


@pytest.mark.parametrize("seed", SEEDS)
def test_power_loss_keeps_what_was_synced_and_leaves_peers_in_the_dark(seed):
    async def test(world):
        async def main(env):
            env.files.make_dirs("/data")
            env.files.write_atomic("/data/safe", b"safe" * 500)
            env.files.append("/data/risky", b"risky" * 500)
            await serve_streams(env.net, hold, A, 80)
            await forever()

        process = world.process(A, main)
        await asyncio.sleep(1)
        reader, writer = await open_stream(world.network.host(B), A, 80)
        reading = asyncio.ensure_future(reader.read())
        world.power_off(A)
        await asyncio.sleep(100)
        assert not reading.done()
        world.power_on(A)
        await asyncio.sleep(1)
        with pytest.raises(ConnectionResetError):
            await reading
        writer.close()
        process.start()
        files = process.env.files
        assert files.read("/data/safe") == b"safe" * 500
        return files.exists("/data/risky") and files.read("/data/risky") == b"risky" * 500

    run_sim(seed, test)


def test_calls_into_a_process_run_in_it_and_die_with_it():
    async def test(world):
        async def main(env):
            await forever()

        process = world.process(A, main)

        async def answer():
            await asyncio.sleep(1)
            return process.env.hostname

        assert await process.call(answer) == A
        with pytest.raises(ZeroDivisionError):
            await process.call(lambda: fail())
        world.loop.call_later(0.5, process.kill)
        with pytest.raises(ProcessKilled):
            await process.call(answer)
        with pytest.raises(ProcessKilled):
            await process.call(answer)
        assert process.leftovers == []

    async def fail():
        await asyncio.sleep(0)
        return 1 / 0

    run_sim(1, test)


def test_programs_names_and_interfaces_are_simulated():
    async def test(world):
        host = world.network.add_host(A, "192.168.0.1", name="web")

        async def greet(arguments, stdin):
            return len(arguments), b"hello " + stdin

        async def hang(arguments, stdin):
            await forever()

        host.commands.update({"greet": greet, "hang now": hang})
        world.network.names["db.example"] = ["fd00::1", "10.0.0.9"]

        async def main(env):
            result = await env.process.run(["greet", "x"], timeout_s=5, output_bytes_max=3, stdin=b"you")
            assert (result.exit_code, result.output, result.truncated) == (2, b"you", True)
            assert (await env.process.run(["hang", "now"], timeout_s=5, output_bytes_max=3)).timed_out
            with pytest.raises(FileNotFoundError):
                await env.process.run(["absent"], timeout_s=5, output_bytes_max=3)
            assert await env.resolver.resolve("DB.example.") == ["10.0.0.9", "fd00::1"]
            assert await env.resolver.resolve("10.1.1.1") == ["10.1.1.1"]
            with pytest.raises(NetError, match=r"^lookup nowhere: no such host$"):
                await env.resolver.resolve("nowhere")
            assert [(a.interface, a.ip, a.is_default_route) for a in env.interfaces.addresses()] == [
                ("lo", "127.0.0.1", False),
                ("eth0", A, True),
                ("eth1", "192.168.0.1", False),
            ]
            before = env.clock.wall_ns()
            host.wall_offset_s = -3600
            assert env.clock.wall_ns() == before - 3600 * 10**9
            assert env.clock.boottime() >= env.clock.monotonic() == asyncio.get_running_loop().time()
            assert env.hostname == "web"

        await world.process("web", main).wait()

    run_sim(1, test)


def test_a_worker_keeps_order_and_is_bounded():
    async def test(world):
        async def main(env):
            worker = env.blocking.worker("raft", queue_max=2)
            done = []
            tasks = [asyncio.ensure_future(worker(lambda n=number: done.append(n))) for number in range(10)]
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            tasks[1].cancel()
            tasks[5].cancel()
            await asyncio.wait(tasks)
            assert done == [0, 2, 3, 4, 6, 7, 8, 9]
            with pytest.raises(ZeroDivisionError):
                await worker(lambda: 1 / 0)
            assert await env.blocking(lambda: 5) == 5
            await env.blocking.close()
            with pytest.raises(RuntimeError):
                await worker(lambda: 1)

        await world.process(A, main).wait()

    run_sim(1, test)
