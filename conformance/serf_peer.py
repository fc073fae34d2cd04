"""A real `serf` agent and our GossipPool on loopback: do they take each other for members of one pool?

Run as `python -m conformance.serf_peer [--key]` with Debian's package `serf` installed. Each step prints its result;
closes with 'N passed, N failed', exit code 1 when one failed. Steps: join both ways, hold each other alive without a
suspicion, user events both ways, a query answered, tags changed, leave seen as left on both sides, crash seen as
failed. With `--key` all of it under encryption, with a change of keys.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import json
import sys
import tempfile
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from conformance.real_consul import Missing, program, report_missing
from pyconsul_agent.env.base import Env
from pyconsul_agent.env.real import real_env
from pyconsul_agent.runtime.gossip import GossipOptions, GossipPool, Subscription
from pyconsul_agent.serf.config import SerfConfig
from pyconsul_agent.serf.effects import QueryReceived
from pyconsul_agent.structs.member import MemberEvent, UserEvent
from pyconsul_agent.swim.config import LAN
from pyconsul_agent.swim.keyring import Keyring

SERF_GOSSIP, SERF_RPC = ("127.0.0.1", 17946), "127.0.0.1:17373"
OUR_HOST, OUR_PORT = "127.0.0.2", 17946
HOLD_S = 10.0
"""Longer calm is shown by `gossip_peer`, whose pools live beside each other for a minute."""
KEY = bytes(range(32))


class PrintLog:
    """Warnings and errors of the pool go to standard error."""

    def event(self, name: str, /, **fields: object) -> None:
        print(f"    | {name} {fields}", file=sys.stderr)

    def _quiet(self, message: str, **pairs: object) -> None:
        """Not shown."""

    def _loud(self, message: str, **pairs: object) -> None:
        print(f"    | {message} {pairs}", file=sys.stderr)

    trace = debug = info = _quiet
    warn = error = _loud

    def named(self, name: str) -> PrintLog:
        return self


@dataclass
class Peer:
    """A running serf agent."""

    binary: str
    process: asyncio.subprocess.Process
    lines: list[str] = field(default_factory=list)
    reader: asyncio.Task[None] | None = None

    @classmethod
    async def start(cls, binary: str, folder: str, key: bytes | None) -> Peer:
        arguments = [
            "agent", "-node=real", f"-bind={SERF_GOSSIP[0]}:{SERF_GOSSIP[1]}", f"-rpc-addr={SERF_RPC}",
            "-log-level=debug", "-tag", "role=db", f"-snapshot={folder}/real.snapshot",
        ]  # fmt: skip
        if key is not None:
            arguments.append(f"-encrypt={base64.b64encode(key).decode()}")
        process = await asyncio.create_subprocess_exec(
            binary, *arguments, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
        )
        peer = cls(binary, process)
        peer.reader = asyncio.create_task(peer._read())
        await until(lambda: peer.said("agent: Serf agent starting") or peer.said("Agent"), 10)
        await asyncio.sleep(1)
        return peer

    async def _read(self) -> None:
        assert self.process.stdout is not None
        async for line in self.process.stdout:
            self.lines.append(line.decode(errors="replace").rstrip())

    def said(self, text: str) -> bool:
        return any(text in line for line in self.lines)

    async def command(self, *arguments: str) -> str:
        process = await asyncio.create_subprocess_exec(
            self.binary,
            arguments[0],
            f"-rpc-addr={SERF_RPC}",
            *arguments[1:],
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        output, _ = await process.communicate()
        return output.decode(errors="replace")

    async def status_of(self, name: str) -> str:
        for member in json.loads(await self.command("members", "-format=json"))["members"]:
            if member["name"] == name:
                return str(member["status"])
        return "unknown"

    async def stop(self) -> None:
        if self.process.returncode is None:
            self.process.kill()
        await self.process.wait()
        if self.reader is not None:
            await self.reader


async def until(holds: Callable[[], bool] | Callable[[], Awaitable[bool]], timeout_s: float) -> bool:
    """Whether it holds within that time."""
    loop = asyncio.get_running_loop()
    end = loop.time() + timeout_s
    while True:
        result = holds()
        if (await result) if isinstance(result, Awaitable) else result:
            return True
        if loop.time() >= end:
            return False
        await asyncio.sleep(0.2)


@dataclass
class Checks:
    """Results so far."""

    passed: int = 0
    failed: int = 0

    def note(self, step: str, good: bool, detail: object = "") -> None:
        self.passed += good
        self.failed += not good
        print(f"{'ok  ' if good else 'FAIL'} {step}" + (f": {detail}" if detail and not good else ""), flush=True)


def new_pool(env: Env, key: bytes | None) -> GossipPool:
    """Our side, not started."""
    options = GossipOptions(
        name="ours",
        tags={"role": "web"},
        bind_host=OUR_HOST,
        bind_port=OUR_PORT,
        swim=LAN,
        serf=SerfConfig(leave_propagate_delay_s=1.0),
        keyring=None if key is None else Keyring((key,)),
    )
    return GossipPool(env, PrintLog(), options)


async def collect(subscription: Subscription, into: list[object], pool: GossipPool) -> None:
    """Remember events, answer queries."""
    async for event in subscription:
        into.append(event)
        if isinstance(event, QueryReceived):
            pool.respond(event, b"0.42 " + event.payload)


def status(pool: GossipPool) -> str:
    """How we see the serf agent."""
    member = pool.member("real")
    return "unknown" if member is None else member.status.word


async def run(binary: str, key: bytes | None) -> Checks:
    """All steps."""
    checks = Checks()
    with tempfile.TemporaryDirectory() as folder:
        peer = await Peer.start(binary, folder, key)
        env = real_env()
        pool = new_pool(env, key)
        await pool.start()
        events: list[object] = []
        collector = asyncio.create_task(collect(pool.subscribe(), events, pool))
        try:
            await live_together(checks, peer, pool, events)
            if key is not None:
                await rotate_keys(checks, peer, pool)
            await part(checks, peer, pool, folder, key)
        finally:
            await pool.stop()
            await peer.stop()
            await collector
            await env.blocking.close()
        if checks.failed:
            print("--- last lines of serf", *peer.lines[-40:], sep="\n", file=sys.stderr)
    return checks


async def live_together(checks: Checks, peer: Peer, pool: GossipPool, events: list[object]) -> None:
    """Join, talk, hold."""
    count = await pool.join([f"{SERF_GOSSIP[0]}:{SERF_GOSSIP[1]}"])
    checks.note("we join serf", count == 1)
    checks.note("we see serf alive", await until(lambda: status(pool) == "alive", 5), status(pool))

    async def sees_us() -> bool:
        return await peer.status_of("ours") == "alive"

    checks.note("serf sees us alive", await until(sees_us, 5))
    member = pool.member("real")
    checks.note("we read its tags", member is not None and dict(member.tags) == {"role": "db"}, member)

    pool.user_event("deploy", b"v1")
    checks.note("our user event reaches serf", await until(lambda: peer.said("deploy"), 10))
    await peer.command("event", "restart", "now")

    def heard() -> bool:
        return any(isinstance(e, UserEvent) and (e.name, e.payload) == ("restart", b"now") for e in events)

    checks.note("serf's user event reaches us", await until(heard, 10))
    output = await peer.command("query", "-timeout=3s", "load", "please")
    checks.note("our answer and ack to a query arrive", "0.42 please" in output and "Total Acks: 2" in output, output)

    await pool.set_tags({"role": "web", "color": "blue"})

    async def sees_tags() -> bool:
        return "color=blue" in await peer.command("members")

    checks.note("our new tags reach serf", await until(sees_tags, 10))
    print(f"...  holding for {HOLD_S:.0f} s", flush=True)
    await asyncio.sleep(HOLD_S)
    calm = not any("ours" in line and ("suspect" in line.lower() or "failed" in line.lower()) for line in peer.lines)
    checks.note("serf never suspected us", calm, [line for line in peer.lines if "uspect" in line])
    told = [e.kind.value for e in events if isinstance(e, MemberEvent) and e.member.name == "real"]
    checks.note("we never lost serf", told == ["Join"], told)
    checks.note("our health score is 0", pool.stats()["health_score"] == "0", pool.stats())
    checks.note("we have serf's coordinate", pool.cached_coordinate("real") is not None)


async def rotate_keys(checks: Checks, peer: Peer, pool: GossipPool) -> None:
    """Key queries in both directions."""
    text, other = base64.b64encode(KEY).decode(), bytes(reversed(KEY))
    output = await peer.command("keys", "-list")
    checks.note("we answer serf's key list", text in output and "[2/2]" in output, output)
    for operation in ("install-key", "use-key"):
        outcome = await pool.key_operation(operation, other)
        checks.note(f"serf obeys our {operation}", not outcome.error, outcome)
    outcome = await pool.key_operation("list-keys")
    checks.note("serf answers our key list", set(outcome.keys.values()) == {2} and len(outcome.keys) == 2, outcome)
    output = await peer.command("keys", f"-use={text}")
    ring = pool.keyring
    checks.note("we obey serf's use of a key", ring is not None and ring.primary == KEY, output)


async def part(checks: Checks, peer: Peer, pool: GossipPool, folder: str, key: bytes | None) -> None:
    """Leave, crash, come back, leave."""
    await peer.command("leave")
    checks.note("serf's leave is seen as left", await until(lambda: status(pool) == "left", 15), status(pool))
    await peer.stop()

    peer.process = (again := await Peer.start(peer.binary, folder, key)).process
    peer.lines, peer.reader = again.lines, again.reader
    await peer.command("join", f"{OUR_HOST}:{OUR_PORT}")
    checks.note("serf comes back and joins us", await until(lambda: status(pool) == "alive", 15), status(pool))
    await peer.stop()
    checks.note("serf's crash is seen as failed", await until(lambda: status(pool) == "failed", 30), status(pool))
    await pool.force_leave("real")
    checks.note("force-leave makes it left", await until(lambda: status(pool) == "left", 5), status(pool))

    peer.process = (again := await Peer.start(peer.binary, folder, key)).process
    peer.lines, peer.reader = again.lines, again.reader
    await peer.command("join", f"{OUR_HOST}:{OUR_PORT}")
    await until(lambda: status(pool) == "alive", 15)
    await pool.leave()

    async def sees_left() -> bool:
        return await peer.status_of("ours") == "left"

    checks.note("our leave is seen as left", await until(sees_left, 15), await peer.status_of("ours"))


def main() -> int:
    """Exit code of the program."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--key", action="store_true", help="encrypt")
    options = parser.parse_args()
    try:
        binary = program("serf")
    except Missing as reason:
        return report_missing("serf_peer", reason)
    checks = asyncio.run(run(binary, KEY if options.key else None))
    print(f"{checks.passed} passed, {checks.failed} failed")
    return 1 if checks.failed else 0


if __name__ == "__main__":
    sys.exit(main())
