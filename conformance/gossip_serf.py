"""Three pools of ours, in this process, and three `serf` agents (Debian's) in one pool, plain or with a key."""

from __future__ import annotations

import asyncio
import base64
import json
import tempfile
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path

from conformance.gossip_views import ARRIVAL_S, EVENT_S, KEY_ATTEMPTS, NamedChecks, few_missed
from conformance.serf_peer import PrintLog, collect, until
from pyconsul_agent.env.base import Env
from pyconsul_agent.env.real import real_env
from pyconsul_agent.runtime.gossip import GossipOptions, GossipPool
from pyconsul_agent.serf.config import SerfConfig
from pyconsul_agent.structs.member import UserEvent
from pyconsul_agent.swim.config import LAN
from pyconsul_agent.swim.keyring import Keyring

PORT, RPC_PORT = 7946, 7373
FAILURE_S = 40.0
STRANGER_S = 30.0
"""Serf's own vote over a name takes a query."""
TRAFFIC_S = 0.2
PRUNED_S = 6.0
OTHER_KEY = bytes(range(50, 82))

View = dict[str, tuple[str, str, tuple[tuple[str, str], ...]]]


class QuietLog(PrintLog):
    """A pool's warnings are expected here."""

    def event(self, name: str, /, **fields: object) -> None:
        """Not shown."""

    def _nothing(self, message: str, **pairs: object) -> None:
        """Not shown."""

    trace = debug = info = warn = error = _nothing

    def named(self, name: str) -> QuietLog:
        return self


@dataclass
class Serf:
    """A serf process."""

    binary: str
    name: str
    host: str
    folder: Path
    process: asyncio.subprocess.Process | None = None

    @property
    def where(self) -> str:
        """Its gossip address."""
        return f"{self.host}:{PORT}"

    @property
    def log(self) -> Path:
        """What it prints."""
        return self.folder / f"{self.name}-{self.host}.log"

    async def start(self, *more: str) -> Serf:
        """A new process with the same snapshot."""
        with self.log.open("ab") as log:
            self.process = await asyncio.create_subprocess_exec(
                self.binary, "agent", f"-node={self.name}", f"-bind={self.where}", f"-rpc-addr={self.host}:{RPC_PORT}",
                "-log-level=debug", "-event-handler=query:echo=cat", f"-snapshot={self.folder / self.name}.snapshot",
                *more, stdout=log, stderr=log, stdin=asyncio.subprocess.DEVNULL,
            )  # fmt: skip
        await until(lambda: self.said("Serf agent starting") or self.has_ended, 10)
        return self

    @property
    def has_ended(self) -> bool:
        """Whether its process is over."""
        return self.process is None or self.process.returncode is not None

    def said(self, text: str) -> bool:
        """Whether it printed that."""
        return self.log.exists() and text in self.log.read_text(errors="replace")

    async def command(self, *words: str) -> str:
        """Output of a command of its own make against it."""
        process = await asyncio.create_subprocess_exec(
            self.binary, words[0], f"-rpc-addr={self.host}:{RPC_PORT}", *words[1:],
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT, stdin=asyncio.subprocess.DEVNULL,
        )  # fmt: skip
        output, _ = await process.communicate()
        return output.decode(errors="replace")

    async def view(self) -> View:
        """How it sees the pool."""
        try:
            rows = json.loads(await self.command("members", "-format=json"))["members"]
        except (ValueError, KeyError, TypeError):
            return {}
        return {row["name"]: (row["status"], row["addr"], tuple(sorted(row["tags"].items()))) for row in rows}

    async def kill(self) -> None:
        """End it at once."""
        if self.process is not None:
            if self.process.returncode is None:
                self.process.kill()
            await self.process.wait()


@dataclass
class Ours:
    """One of our pools, and what it has heard."""

    env: Env
    name: str
    host: str
    folder: Path
    key: bytes | None
    heard: list[object] = field(default_factory=list)
    pool: GossipPool = field(init=False)
    collector: asyncio.Task[None] | None = None

    @property
    def where(self) -> str:
        """Its gossip address."""
        return f"{self.host}:{PORT}"

    async def start(self) -> Ours:
        """A new pool with the same snapshot."""
        options = GossipOptions(
            name=self.name, tags={"role": "web"}, bind_host=self.host, bind_port=PORT, swim=LAN,
            serf=SerfConfig(leave_propagate_delay_s=1.0), keyring=Keyring((self.key,)) if self.key else None,
            snapshot_path=str(self.folder / f"{self.name}.snapshot"),
        )  # fmt: skip
        self.pool = GossipPool(self.env, QuietLog(), options)
        await self.pool.start()
        self.collector = asyncio.create_task(collect(self.pool.subscribe(), self.heard, self.pool))
        return self

    async def view(self) -> View:
        """How it sees the pool."""
        return {
            m.name: (m.status.word, f"{m.address}:{m.port}", tuple(sorted(m.tags.items()))) for m in self.pool.members()
        }

    def has_heard(self, name: str) -> bool:
        """Whether that user event came."""
        return any(isinstance(event, UserEvent) and event.name == name for event in self.heard)

    async def kill(self) -> None:
        """Stop without a word."""
        await self.pool.stop()
        if self.collector is not None:
            await self.collector


@dataclass
class Scene:
    """All six."""

    checks: NamedChecks
    ours: list[Ours]
    theirs: list[Serf]

    @property
    def everybody(self) -> list[Ours | Serf]:
        """Ours first."""
        return [*self.ours, *self.theirs]

    async def agree(self, step: str, look: Callable[[View], bool], who: list[Ours | Serf], timeout_s: float) -> None:
        """Count whether something holds in everybody's view."""

        async def holds() -> bool:
            return all([look(await member.view()) for member in who])

        good = await until(holds, timeout_s)
        self.checks.note(step, good, "" if good else [(m.name, await m.view()) for m in who])

    async def status(self, name: str, status: str, who: list[Ours | Serf], timeout_s: float = FAILURE_S) -> None:
        """Count whether a member gets that status for all of `who`."""
        await self.agree(
            f"{name} is {status} for {', '.join(m.name for m in who)}",
            lambda view: view.get(name, ("",))[0] == status, who, timeout_s,
        )  # fmt: skip


def serf(checks: NamedChecks, binary: str, net: str, key: bytes | None = None) -> None:
    """All of it; `net` is the /24 that the members live in."""
    asyncio.run(_serf(checks, binary, net, key))


async def _serf(checks: NamedChecks, binary: str, net: str, key: bytes | None) -> None:
    with tempfile.TemporaryDirectory(prefix="conformance-") as name:
        async with AsyncExitStack() as stack:
            folder, env = Path(name), real_env()
            stack.push_async_callback(env.blocking.close)
            ours = [Ours(env, f"ours{n}", f"{net}.{n}", folder, key) for n in (1, 2, 3)]
            theirs = [Serf(binary, f"serf{n}", f"{net}.{10 + n}", folder) for n in (1, 2, 3)]
            strangers = [Serf(binary, "ours3", f"{net}.21", folder)]
            for member in (*ours, *theirs, *strangers):
                if isinstance(member, Ours):
                    await member.start()
                stack.push_async_callback(member.kill)
            secret = [f"-encrypt={base64.b64encode(key).decode()}"] if key else []
            scene = Scene(checks, ours, theirs)
            await live(scene, secret)
            if key:
                await change_keys(scene, key)
            await stranger(scene, strangers[0], secret)
            await part(scene, secret)


async def live(scene: Scene, secret: list[str]) -> None:
    """Join in all ways, tags, events, queries, distances."""
    checks, ours, theirs = scene.checks, scene.ours, scene.theirs
    await theirs[0].start(*secret, "-tag", "role=db")
    await ours[0].pool.join([theirs[0].where])
    await theirs[1].start(*secret, "-tag", "role=db", f"-join={ours[0].where}")
    await theirs[2].start(*secret, "-tag", "role=db", f"-retry-join={ours[0].where}", "-retry-interval=1s")
    await ours[1].pool.join([theirs[1].where])
    await ours[2].pool.join([theirs[2].where])
    tags = {name: "web" if name.startswith("ours") else "db" for name in (m.name for m in scene.everybody)}
    wanted = {m.name: ("alive", m.where, (("role", tags[m.name]),)) for m in scene.everybody}
    await scene.agree("all agree on six members", lambda view: view == wanted, scene.everybody, FAILURE_S)

    await ours[1].pool.set_tags({"role": "web", "color": "blue"})
    await theirs[1].command("tags", "-set", "color=red")
    for name, color in (("ours2", "blue"), ("serf2", "red")):
        await scene.agree(
            f"the new tags of {name} are everywhere",
            lambda view, n=name, c=color: ("color", c) in view.get(n, ("", "", ()))[2], scene.everybody, EVENT_S,
        )  # fmt: skip
    for member in ours:
        member.pool.user_event(f"from-{member.name}", b"v1")
    for member in theirs:
        await member.command("event", "-coalesce=false", f"from-{member.name}", "v1")
    fired = [f"from-{member.name}" for member in scene.everybody]
    for member in scene.everybody:
        hears: Callable[[str], bool] = member.has_heard if isinstance(member, Ours) else member.said
        good = await until(lambda h=hears: all(h(name) for name in fired), EVENT_S)
        checks.note(f"{member.name} hears the events of all", good, [name for name in fired if not hears(name)])
    await queries(scene)
    rtt = await theirs[0].command("rtt", "ours1", "serf1")
    checks.note("serf knows the distance to ours", "rtt: " in rtt and " ms" in rtt, rtt)
    near = ours[0].pool.cached_coordinate("serf1")
    checks.note("we know serf's coordinate", near is not None)


async def queries(scene: Scene) -> None:
    """Asked by either side, answered by both, also by way of others. One that missed a member is repeated."""
    for relay in ("0", "2"):
        output = ""
        for _ in range(KEY_ATTEMPTS):
            output = await scene.theirs[0].command("query", "-timeout=2s", f"-relay-factor={relay}", "echo", "please")
            if "Total Responses: 6" in output and "Total Acks: 6" in output:
                break
        good = all(f"Response from '{m.name}': " in output for m in scene.everybody) and "Total Acks: 6" in output
        scene.checks.note(f"serf's query with {relay} relays is answered by all six", good, output)
        answers: dict[str, bytes] = {}
        for _ in range(KEY_ATTEMPTS):
            answers |= {
                n: a.rstrip() async for n, a in scene.ours[0].pool.ask("echo", b"please", relay_factor=int(relay))
            }
            if len(answers) == 6:
                break
        wanted = {m.name: b"0.42 please" if isinstance(m, Ours) else b"please" for m in scene.everybody}
        scene.checks.equal(f"our query with {relay} relays is answered by all six", answers, wanted)


async def change_keys(scene: Scene, key: bytes) -> None:
    """There from our side, back from theirs, while events flow."""
    checks, us, them = scene.checks, scene.ours[0].pool, scene.theirs[0]
    over, fired = asyncio.Event(), 0

    async def traffic() -> None:
        nonlocal fired
        while not over.is_set():
            us.user_event(f"traffic-{fired}", b"x")
            fired += 1
            await asyncio.sleep(TRAFFIC_S)

    task = asyncio.create_task(traffic())
    for operation, changed in (("install-key", OTHER_KEY), ("use-key", OTHER_KEY), ("remove-key", key)):
        for _ in range(KEY_ATTEMPTS):
            outcome = await us.key_operation(operation, changed)
            if not outcome.error:
                break
        checks.note(f"all six obey our {operation}", not outcome.error, outcome)
    text = {k: base64.b64encode(k).decode() for k in (key, OTHER_KEY)}
    output = await them.command("keys", "-list")
    checks.note("serf lists the new key of all six", f"{text[OTHER_KEY]} [6/6]" in " ".join(output.split()), output)
    for word, changed in (("install", key), ("use", key), ("remove", OTHER_KEY)):
        for _ in range(KEY_ATTEMPTS):
            output = await them.command("keys", f"-{word}={text[changed]}")
            if "uccessfully" in output:
                break
        checks.note(f"all six obey serf's {word}", "uccessfully" in output, output)
    over.set()
    await task
    rings = [member.pool.keyring for member in scene.ours]
    checks.note("ours are back at the first key", all(r is not None and r.keys == (key,) for r in rings), rings)
    all_fired = {f"traffic-{n}" for n in range(fired)}
    for member in (*scene.ours[1:], *scene.theirs):
        hears: Callable[[str], bool] = member.has_heard if isinstance(member, Ours) else member.said
        await until(lambda h=hears: all(h(name) for name in all_fired), ARRIVAL_S)
        few_missed(checks, member.name, all_fired, {name for name in all_fired if hears(name)})
    failed = [m.name for m in scene.theirs if m.said("EventMemberFailed")]
    checks.equal("serf took nobody for failed while keys changed", failed, [])


async def stranger(scene: Scene, newcomer: Serf, secret: list[str]) -> None:
    """A serf with the name of one of ours asks who is right, is told, and ends."""
    await newcomer.start(*secret, f"-join={scene.theirs[0].where}")
    gone = await until(lambda: newcomer.has_ended or newcomer.said("minority in name conflict"), STRANGER_S)
    scene.checks.note("a serf with a taken name is outvoted and ends", gone)
    await newcomer.kill()
    where = scene.ours[2].where
    await scene.agree(
        "the name stays where it was", lambda view: view.get("ours3", ("", ""))[:2] == ("alive", where),
        scene.everybody, 5,
    )  # fmt: skip


async def part(scene: Scene, secret: list[str]) -> None:
    """Crash, return by snapshot, crash, force-leave and prune, leave. Four are always there to find out."""
    ours, theirs = scene.ours, scene.theirs
    left: list[Ours | Serf] = [ours[0], theirs[0]]
    await crash(scene, [ours[1], theirs[1]], [*left, ours[2], theirs[2]])
    back: list[Ours | Serf] = [*left, ours[1], theirs[1]]
    await theirs[1].start(*secret)  # before ours: it looks for one member only, which should know of its death
    await scene.status("serf2", "alive", [*left, theirs[1]])
    await ours[1].start()
    await scene.status("ours2", "alive", back)

    await crash(scene, [ours[2], theirs[2]], back)
    output = await theirs[0].command("force-leave", "ours3")
    scene.checks.note("serf forces ours3 to leave", "Error" not in output, output)
    await scene.status("ours3", "left", back, EVENT_S)
    for name in ("serf3", "ours3"):
        await prune(scene, name, back)
    await ours[1].pool.leave()
    await theirs[1].command("leave")
    for name in ("ours2", "serf2"):
        await scene.status(name, "left", left, EVENT_S)


async def crash(scene: Scene, victims: list[Ours | Serf], watchers: list[Ours | Serf]) -> None:
    """Two end without a word."""
    for member in victims:
        await member.kill()
    for member in victims:
        await scene.status(member.name, "failed", watchers)


async def prune(scene: Scene, name: str, watchers: list[Ours | Serf]) -> None:
    """Asked by ours or serf, and again where it is still listed: who misses the word is told by nobody else."""
    order = watchers if name.startswith("serf") else watchers[::-1]
    for _ in range(KEY_ATTEMPTS):
        asked = [member for member in order if name in await member.view()][:1]
        for member in asked:
            if isinstance(member, Ours):
                await member.pool.force_leave(name, prune=True)
            else:
                await member.command("force-leave", "-prune", name)
        if not asked or await until(lambda: _none_lists(name, watchers), PRUNED_S):
            break
    await scene.agree(f"all have forgotten {name}", lambda view: bool(view) and name not in view, watchers, 1)


async def _none_lists(name: str, watchers: list[Ours | Serf]) -> bool:
    return not any([name in await member.view() for member in watchers])
