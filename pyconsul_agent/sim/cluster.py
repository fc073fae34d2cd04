"""Whole agents in one world: the cluster of the article (three servers, one client) or one like it.

Each `Node` is a machine with a disk and one agent process, configured as an operator would, through `config.configure`.
Probes are attached to every life of every agent: what raft elected, what the state machine applied, what was logged.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from pyconsul_agent.app.compose import Agent
from pyconsul_agent.config.configure import configure
from pyconsul_agent.config.options import Options
from pyconsul_agent.config.sources import Sources
from pyconsul_agent.env.base import Env
from pyconsul_agent.env.timeouts import timeout
from pyconsul_agent.errors import ConsulError
from pyconsul_agent.runtime.raft import RaftNode
from pyconsul_agent.runtime.tasks import together
from pyconsul_agent.server.node import ServerNode
from pyconsul_agent.sim.host import SimHost
from pyconsul_agent.sim.owner import OWNER, is_dead
from pyconsul_agent.sim.process import SimProcess
from pyconsul_agent.sim.raft_storage import RaftDisk, SimRaftStorage
from pyconsul_agent.sim.world import World
from pyconsul_agent.structs.raft import LogEntry
from pyconsul_agent.telemetry.logging import LogStream, parse_level

HTTP_PORT = 8500
DATA_DIR = "/consul/data"
POLL_S = 0.1
LEAVE_TIMEOUT_S = 15.0


class Unmet(AssertionError):
    """Something that had to come about did not, within its time."""


@dataclass(slots=True)
class Probes:
    """Who wants to know what the agents do. Each is called at once, on the loop, and must not raise."""

    elected: list[Callable[[Node, int], None]] = field(default_factory=list)
    """(server, term)"""
    applied: list[Callable[[Node, LogEntry, object], None]] = field(default_factory=list)
    """(server, entry, the state machine's answer)"""


class Node:
    """A machine and its agent."""

    def __init__(self, cluster: Cluster, name: str, ip: str, flags: Mapping[str, Any]) -> None:
        self.cluster = cluster
        self.name = name
        self.ip = ip
        self.flags = dict(flags)
        self.agent: Agent | None = None
        """Of the present life, once it is made."""
        self.left = False
        self.exit_codes: list[int] = []
        self.started = False
        """Whether the agent's start of this life has ended well."""
        self._stop, self._leave = asyncio.Event(), asyncio.Event()
        self.host: SimHost = cluster.world.network.add_host(ip, name=name)
        self.process: SimProcess = cluster.world.process(self.host, self._main, name=name, start=False)

    def __repr__(self) -> str:
        return self.name

    # --- the process ------------------------------------------------------------------------------------------------

    async def _main(self, env: Env) -> None:
        stop, leave = self._stop, self._leave
        options = configure(
            Sources(flags=self.flags), files=env.files, interfaces=env.interfaces.addresses(), hostname=env.hostname
        )
        env.files.make_dirs(DATA_DIR)
        env.files.sync_dir("/")  # the data directory itself is the operator's, long made
        env.files.sync_dir("/consul")
        logs = self._logs(options, env)
        agent: Agent | None = None
        try:
            agent = self.agent = Agent(options, env, logs, lambda _: self._storage(env))
            self._watch(agent)
            await agent.start()
            self.started = True
            await together(stop.wait(), leave.wait(), agent.finished.wait())
            if leave.is_set() and not stop.is_set():
                await self._leave_in_time(agent, stop)
            self.exit_codes.append(agent.exit_code)
        except (ConsulError, OSError) as error:
            logs.logger().error("Error starting agent", error=str(error))
            self.exit_codes.append(1)
        finally:
            if agent is not None:
                await agent.stop()
            await env.blocking.close()

    async def _leave_in_time(self, agent: Agent, stop: asyncio.Event) -> None:
        """As `app.process` does it: the time limit or another signal cuts the leave short, an error ends it."""

        async def leave() -> None:
            await agent.leave()
            self.left = True

        with contextlib.suppress(TimeoutError, ConsulError):
            async with timeout(LEAVE_TIMEOUT_S):
                await together(stop.wait(), leave())

    def _logs(self, options: Options, env: Env) -> LogStream:
        level = parse_level(options.log_level)
        assert level is not None
        return LogStream(
            write=lambda text: self.cluster.log(self, text),
            wall_ns=env.clock.wall_ns,
            format="modern",
            level=level,
            role="server" if options.server else "client",
        )

    def _storage(self, env: Env) -> SimRaftStorage:
        disk = self.host.disk.store.setdefault("raft", RaftDisk())
        assert isinstance(disk, RaftDisk)
        return SimRaftStorage(disk, blocking=env.blocking.worker("raft"))

    def _watch(self, agent: Agent) -> None:
        if not isinstance(agent.delegate, ServerNode):
            return
        probes, machine = self.cluster.probes, agent.delegate.machine
        apply = machine.apply

        def watched(entry: LogEntry) -> object:
            result = apply(entry)
            for tell in probes.applied:
                tell(self, entry, result)
            return result

        machine.apply = watched  # type: ignore[method-assign]

        def leadership(is_leader: bool, term: int) -> None:
            for tell in probes.elected if is_leader else ():
                tell(self, term)

        self.raft.on_leadership(leadership)

    # --- looking inside ---------------------------------------------------------------------------------------------

    @property
    def is_server(self) -> bool:
        """By its configuration."""
        return bool(self.flags.get("server"))

    @property
    def running(self) -> bool:
        """Whether the process runs (and is not stopped) and its agent has started."""
        return self.process.running and not self.process.paused and self.started

    @property
    def server(self) -> ServerNode:
        """The server side of the present life."""
        assert self.agent is not None and isinstance(self.agent.delegate, ServerNode)
        return self.agent.delegate

    @property
    def raft(self) -> RaftNode:
        """The consensus driver of the present life."""
        return self.server._raft

    @property
    def is_leader(self) -> bool:
        """Whether it runs and believes that it leads."""
        return self.is_server and self.running and self.raft.is_leader

    def statuses(self) -> dict[str, str]:
        """What this agent believes of the LAN's members: name to status."""
        assert self.agent is not None
        return {member.name: str(member.status.name.lower()) for member in self.agent.delegate.lan_members()}

    # --- what can be done to it -------------------------------------------------------------------------------------

    def start(self) -> None:
        """Start the agent on its disk; powers the machine on if need be."""
        self.cluster.world.power_on(self.host)
        self.left = self.started = False
        self.agent = None
        self._stop, self._leave = asyncio.Event(), asyncio.Event()
        self.process.start()

    def kill(self, *, power_loss: bool = False) -> None:
        """As kill -9, or pull the machine's plug."""
        self.started = False
        if power_loss:
            self.cluster.world.power_off(self.host)
        else:
            self.process.kill()

    async def stop(self) -> None:
        """As a signal that does not leave: stop in order and wait for the end."""
        if self.process.running:
            self.process.resume()
            self._stop.set()
            await self.process.wait()
        self.started = False

    async def leave(self) -> bool:
        """As SIGINT: leave the cluster, then stop. Whether it left: a fault, or the time limit, may cut it short."""
        self._leave.set()
        await self.process.wait()
        self.started = False
        return self.left


class Cluster:
    """The nodes, and what befalls them together."""

    def __init__(self, world: World, *, verbose: Callable[[str], None] | None = None) -> None:
        self.world = world
        self.nodes: dict[str, Node] = {}
        self.probes = Probes()
        self.complaints: list[str] = []
        """Log lines that tell of a defect of ours."""
        self.restored: list[float] = []
        """When a server installed a snapshot."""
        self._verbose = verbose

    # --- making -----------------------------------------------------------------------------------------------------

    def add(self, name: str, ip: str, **flags: Any) -> Node:
        """A machine that is not started yet. `flags` are keys of the configuration."""
        flags = {
            "node_name": name,
            "data_dir": DATA_DIR,
            "bind_addr": ip,
            "client_addr": ip,
            "log_level": "DEBUG" if self._verbose else "INFO",
            "ports": {"dns": -1},
            **flags,
        }
        node = self.nodes[name] = Node(self, name, ip, flags)
        return node

    def article(self, *, servers: int = 3, **flags: Any) -> None:
        """The article's machines: server1 alone with bootstrap_expect, the others join it, and one client."""
        for number in range(1, servers + 1):
            name, ip = f"server{number}", f"10.0.0.{10 + number}"
            joins = {} if number == 1 else {"retry_join": ["10.0.0.11"], "retry_interval": "3s"}
            self.add(name, ip, server=True, bootstrap_expect=servers, **joins, **flags)
        self.add("client1", "10.0.0.21", retry_join=["10.0.0.11"], retry_interval="3s", **flags)

    def start(self, *, between_s: float = 1.0) -> None:
        """Start all, one after the other, `between_s` apart."""
        for number, node in enumerate(self.nodes.values()):
            self.world.loop.call_later(number * between_s, node.start)

    # --- looking ----------------------------------------------------------------------------------------------------

    def log(self, node: Node, text: str) -> None:
        """A line of an agent's log. What a dead process's clean-up code says is not heard."""
        if is_dead(OWNER.get()):
            return
        if "task failed" in text or "Connection failed" in text or "raft stopped" in text or "Traceback" in text:
            self.complaints.append(f"{node.name} at {self.world.loop.time():.3f}: {text.rstrip()}")
        if "raft snapshot installed" in text:
            self.restored.append(self.world.loop.time())
        if self._verbose is not None:
            self._verbose(f"{self.world.loop.time():10.4f} {node.name:8} {text.rstrip()}\n")

    @property
    def servers(self) -> list[Node]:
        """Server machines, running or not."""
        return [node for node in self.nodes.values() if node.is_server]

    @property
    def leader(self) -> Node | None:
        """The running server that leads in the highest term."""
        leading = [node for node in self.servers if node.is_leader]
        return max(leading, key=lambda node: node.raft.term, default=None)

    async def until(self, what: str, holds: Callable[[], object], within_s: float) -> None:
        """Wait until `holds()`. Raises Unmet."""
        loop = self.world.loop
        deadline = loop.time() + within_s
        while not holds():
            if loop.time() >= deadline:
                raise Unmet(f"{what}: not within {within_s:g} s\n{self.describe()}")
            await asyncio.sleep(POLL_S)

    async def ready(self, within_s: float = 60.0) -> Node:
        """Wait until there is a leader ready for consistent reads; returns it. Raises Unmet."""

        def ready() -> bool:
            leader = self.leader
            return leader is not None and leader.server._leader.ready

        await self.until("a ready leader", ready, within_s)
        assert self.leader is not None
        return self.leader

    def describe(self) -> str:
        """One line for each node."""
        return "\n".join(self._describe(node) for node in self.nodes.values())

    def _describe(self, node: Node) -> str:
        state = "left" if node.left else "down" if not node.running else "up"
        if node.process.paused:
            state = "paused"
        if state != "up":
            return f"{node.name}: {state}"
        text = f"{node.name}: {state} members={node.statuses()}"
        if node.is_server:
            raft = node.raft
            voters = [server.address for server in raft.configuration()[0].servers or ()]
            text += (
                f" {'leader' if raft.is_leader else 'follower'} of {raft.leader_address or 'nobody'} term={raft.term}"
                f" last={raft.last_index} commit={raft.commit_index} applied={raft.applied_index}"
                f" ready={node.server._leader.ready} voters={voters}"
            )
        return text

    # --- together ---------------------------------------------------------------------------------------------------

    def isolate(self, node: Node) -> None:
        """Cut one machine from all others of the cluster."""
        for other in self.nodes.values():
            if other is not node:
                self.world.network.cut(node.host, other.host)

    def heal(self) -> None:
        """Undo every fault of the network, let paused agents run and start those that are down (but not who left)."""
        self.world.network.heal()
        for node in self.nodes.values():
            if node.process.paused:
                node.process.resume()
            if not node.process.running and not node.left:
                node.start()

    async def stop(self) -> None:
        """Stop every agent in order."""
        for node in reversed(self.nodes.values()):
            await node.stop()
