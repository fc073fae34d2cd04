"""Several Swim values on a virtual network: a heap of (time, sequence, action), seeded loss, no event loop."""

import heapq
import random
from dataclasses import dataclass, field

from pyconsul_agent.swim.config import LAN
from pyconsul_agent.swim.core import Swim
from pyconsul_agent.swim.delegate import NoDelegate
from pyconsul_agent.swim.effects import LogLine, OpenStream, SendPacket
from pyconsul_agent.wire.gossip import NodeState
from pyconsul_agent.wire.gossip_stream import decode_stream

LATENCY_S = 0.002
DIAL_REFUSED_S = 0.001


class Upper(NoDelegate):
    """A layer above with meta, state and messages. The ID is the meta up to a colon."""

    def __init__(self, meta=b""):
        self.meta = meta
        self.state = b""
        self.messages = []
        self.veto = None

    def node_meta(self, limit):
        return self.meta

    def local_state(self, join):
        return self.state

    def get_broadcasts(self, overhead, limit):
        chosen, used = [], 0
        while self.messages and used + overhead + len(self.messages[0]) <= limit:
            used += overhead + len(self.messages[0])
            chosen.append(self.messages.pop(0))
        return chosen

    def merge_veto(self, nodes):
        return self.veto

    def same_identity(self, old_meta, new_meta):
        old, new = (old_meta or b"").partition(b":")[0], (new_meta or b"").partition(b":")[0]
        return old == new != b""


@dataclass
class Host:
    name: str
    address: tuple
    swim: Swim
    upper: Upper
    seen: list = field(default_factory=list)  # (time, effect) of everything but packets and streams
    running: bool = True
    paused: list | None = None  # packets that wait while the process is stopped by a signal
    wake_at: float | None = None

    def states(self):
        return {node.name: node.state for node in self.swim.nodes()}

    def of(self, kind):
        return [effect for _, effect in self.seen if isinstance(effect, kind)]

    def lines(self):
        return [line.event or line.message for line in self.of(LogLine)]


class World:
    def __init__(self, seed=1, config=LAN, loss=0.0):
        self.now = 100.0
        self.config = config
        self.loss = loss
        self.random = random.Random(seed)
        self.seed = seed
        self.hosts = {}
        self.by_address = {}
        self.cut = lambda a, b, tcp: False  # whether a -> b is cut, by host name
        self.sizes = []
        self._heap = []
        self._sequence = 0

    # --- time -------------------------------------------------------------------------------------------------

    def at(self, time, action):
        self._sequence += 1
        heapq.heappush(self._heap, (time, self._sequence, action))

    def run(self, seconds):
        end = self.now + seconds
        while self._heap and self._heap[0][0] <= end:
            self.now, _, action = heapq.heappop(self._heap)
            action()
        self.now = end

    def run_until(self, condition, limit):
        """Seconds until the condition holds; fails after `limit`."""
        start = self.now
        while not condition():
            assert self.now - start < limit, f"not within {limit} s"
            self.run(0.05)
        return self.now - start

    # --- hosts ------------------------------------------------------------------------------------------------

    def add(self, name, *, address=None, meta=b"", config=None):
        address = (address or f"10.0.0.{len(self.by_address) + 1}", 8301)
        upper = Upper(meta)
        rng = random.Random(f"{self.seed} {name} {address}")
        swim = Swim(config or self.config, name=name, advertise=address, delegate=upper, rng=rng)
        host = Host(name, address, swim, upper)
        self.hosts[name] = self.by_address[address] = host
        swim.start(self.now)
        self.settle(host)
        return host

    def cluster(self, count, **options):
        hosts = [self.add(f"n{number}", meta=b"id%d:" % number, **options) for number in range(count)]
        for host in hosts[1:]:
            self.join(host, hosts[0])
        self.run_until(lambda: self.all_see(hosts, NodeState.ALIVE), 75)
        return hosts

    def join(self, host, other):
        ids = host.swim.join([("", other.address)], self.now)
        self.settle(host)
        return ids[0]

    def stop(self, host):
        host.running = False

    def pause(self, host):
        host.paused = []

    def resume(self, host, lag=None):
        packets, host.paused = host.paused, None
        if lag is not None:
            host.swim.note_lag(lag, self.now)
        host.swim.receive(packets, self.now)
        self.settle(host)

    def all_see(self, observers, state, names=None):
        names = names or [host.name for host in observers]
        return all(host.states().get(name) == state for host in observers for name in names)

    # --- effects ----------------------------------------------------------------------------------------------

    def settle(self, host):
        for effect in host.swim.take():
            match effect:
                case SendPacket(to, data):
                    self.sizes.append(len(data))
                    self._send(host, to, data)
                case OpenStream():
                    self._dial(host, effect)
                case _:
                    host.seen.append((self.now, effect))
        deadline = host.swim.next_deadline()
        if deadline is not None and deadline != host.wake_at:
            host.wake_at = deadline
            self.at(max(deadline, self.now), lambda: self._tick(host, deadline))

    def _tick(self, host, deadline):
        if not host.running or host.wake_at != deadline:
            return
        if host.paused is not None:
            self.at(self.now + 0.01, lambda: self._tick(host, deadline))
            return
        host.wake_at = None
        host.swim.tick(self.now)
        self.settle(host)

    def _send(self, host, to, data):
        if self.random.random() < self.loss:
            return
        self.at(self.now + LATENCY_S * (1 + self.random.random()), lambda: self._arrive(host, to, data))

    def _arrive(self, host, to, data):
        target = self.by_address.get(to)
        if target is None or not target.running or self.cut(host.name, target.name, False):
            return
        if target.paused is not None:
            target.paused.append((data, host.address))
            return
        target.swim.receive([(data, host.address)], self.now)
        self.settle(target)

    def _dial(self, host, stream):
        target = self.by_address.get(stream.to)

        def fail(error, refused=False):
            if host.running:
                host.swim.stream_failed(stream.id, error, self.now, refused=refused)
                self.settle(host)

        def connect():
            if target is None or self.cut(host.name, target.name, True) or target.paused is not None:
                self.at(stream.deadline, lambda: fail("i/o timeout"))
            elif not target.running:
                fail("connection refused", refused=True)
            else:
                answer = target.swim.stream_requested(decode_stream(stream.request), host.address, self.now)
                self.settle(target)
                if answer is None:
                    fail("EOF")
                else:
                    self.at(self.now + LATENCY_S, lambda: answered(decode_stream(answer)))

        def answered(message):
            if host.running:
                host.swim.stream_answered(stream.id, message, self.now)
                self.settle(host)

        self.at(self.now + DIAL_REFUSED_S, connect)
