"""Figures of gossip, measured on running processes: failure, moves, leaves. `scripts/measure-gossip` prints them."""

from __future__ import annotations

import shutil
import signal
import statistics
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from conformance.agents import OURS, Agent, Checks, cluster, leader_known, member_status
from conformance.gossip_views import FAST, Program, pool

LIMIT_S = 60.0
POLL_S = 0.02
SETTLE_S = 3.0
RETRY = ("-retry-interval=1s", FAST)


@dataclass(frozen=True)
class Figure:
    """Times of one thing, in seconds, and the most that it may take (the least too, where there is one)."""

    name: str
    times: tuple[float, ...]
    most_s: float
    least_s: float = 0.0

    @property
    def holds(self) -> bool:
        """Whether every time is within the bounds."""
        return all(self.least_s <= each <= self.most_s for each in self.times)

    def line(self) -> str:
        """For people."""
        bound = f"{self.least_s:g}-{self.most_s:g}" if self.least_s else f"<= {self.most_s:g}"
        return (
            f"{self.name:<76} median {statistics.median(self.times):5.2f} s  min {min(self.times):5.2f}  "
            f"max {max(self.times):5.2f}  n {len(self.times):2}  wanted {bound} s{'' if self.holds else '  MISSED'}"
        )


@contextmanager
def agents_at(net: str) -> Iterator[Callable[..., Agent]]:
    """Starts an agent: (program, name, last part of its address, options)."""
    checks = Checks()
    with cluster(checks) as start:

        def one(program: Program, name: str, number: int, *options: str) -> Agent:
            return start(program, name, f"{net}.{number}", *options)

        yield one


def seconds_until(look: Callable[[], object], since: float) -> float:
    """How long after `since` it came true. Raises TimeoutError."""
    while not look():
        if time.monotonic() - since > LIMIT_S:
            raise TimeoutError(f"not within {LIMIT_S:.0f} s")
        time.sleep(POLL_S)
    return time.monotonic() - since


def wait(look: Callable[[], object]) -> None:
    """Until it is true."""
    seconds_until(look, time.monotonic())


def four(start: Callable[..., Agent], net: str) -> list[Agent]:
    """A server and three clients that know each other."""
    joins = [f"-retry-join={net}.1", *RETRY]
    agents = [start(OURS, "m1", 1, "-server", "-bootstrap-expect=1", FAST)]
    agents += [start(OURS, f"m{n}", n, *joins) for n in (2, 3, 4)]
    wait(lambda: all(len(pool(agent)) == 4 for agent in agents))
    time.sleep(SETTLE_S)
    return agents


def failure(net: str, rounds: int) -> list[Figure]:
    """Kill -9 of one of four until all others take it for failed."""
    times = []
    with agents_at(net) as start:
        *others, victim = four(start, net)
        for _ in range(rounds):
            began = time.monotonic()
            victim.kill()
            times.append(seconds_until(lambda: all(member_status(agent, "m4") == "failed" for agent in others), began))
            victim = start(OURS, "m4", 4, f"-retry-join={net}.1", *RETRY)
            wait(lambda: all(member_status(agent, "m4") == "alive" for agent in others))
            time.sleep(SETTLE_S)
    return [Figure("killed agent is failed for its peers, 4 members", tuple(times), 8.0, 4.0)]


def move(net: str, rounds: int) -> list[Figure]:
    """A killed client comes back with its data at another address: from its start until it is alive there for all."""
    whole, heard = [], []
    with agents_at(net) as start:
        *others, mover = four(start, net)
        for number in range(rounds):
            mover.kill()
            began = time.monotonic()
            mover = start(OURS, "m4", 100 + number, f"-retry-join={net}.1", *RETRY)
            where = f"{mover.address}:8301"
            wait(lambda: mover.get("/v1/agent/self"))  # noqa: B023
            up = time.monotonic()

            def moved(where: str = where) -> bool:
                return all(pool(agent).get("m4", ("", ""))[:2] == ("alive", where) for agent in others)

            whole.append(seconds_until(moved, began))
            heard.append(max(0.0, began + whole[-1] - up))
            time.sleep(SETTLE_S)
    return [
        Figure("moved agent is alive everywhere, from the start of its process", tuple(whole), 3.0),
        Figure("moved agent is alive everywhere, from its first HTTP answer", tuple(heard), 3.0),
    ]


def move_from_silence(net: str, rounds: int) -> list[Figure]:
    """The same when the old address refuses nothing, as if its host were gone: the old process is only stopped."""
    times = []
    with agents_at(net) as start:
        *others, old = four(start, net)
        data = old.log_path.parent / "data-m4"
        for number in range(rounds):
            old.process.send_signal(signal.SIGSTOP)
            data = Path(shutil.copytree(data, data.with_name(f"data-m4-{number}")))
            mover = start(OURS, "m4", 100 + number, f"-retry-join={net}.1", *RETRY, f"-data-dir={data}")
            where = f"{mover.address}:8301"
            wait(lambda: mover.get("/v1/agent/self"))  # noqa: B023
            up = time.monotonic()

            def moved(where: str = where) -> bool:
                return all(pool(agent).get("m4", ("", ""))[:2] == ("alive", where) for agent in others)

            times.append(seconds_until(moved, up))
            old.kill()
            old = mover
            time.sleep(SETTLE_S)
    return [Figure("the same, the old address is silent, from its first HTTP answer", tuple(times), 3.0)]


def leave(net: str, rounds: int, program: Program, make: str) -> list[Figure]:
    """`leave` with one other member of the same make: a client of a server, and one of two servers."""
    client_times: list[float] = []
    server_times: list[float] = []
    with agents_at(net) as start:
        first = start(program, "a", 1, "-server", "-bootstrap-expect=1", FAST)
        wait(lambda: leader_known(first))
        for number in range(rounds):
            client_times.append(_leave(start, program, first, f"c{number}", 100 + number))
        for number in range(rounds):
            server_times.append(_leave(start, program, first, f"s{number}", 150 + number, "-server"))
    return [
        Figure(f"leave of a client, one other member, {make}", tuple(client_times), LIMIT_S),
        Figure(f"leave of a server, one other server, {make}", tuple(server_times), LIMIT_S),
    ]


def _leave(start: Callable[..., Agent], program: Program, first: Agent, name: str, number: int, *more: str) -> float:
    agent = start(program, name, number, f"-retry-join={first.address}", *RETRY, *more)
    wait(lambda: member_status(first, name) == "alive" and leader_known(agent))
    time.sleep(SETTLE_S)
    began = time.monotonic()
    answer = agent.request("PUT", "/v1/agent/leave")
    assert answer.status == 200, answer
    agent.wait()
    return time.monotonic() - began


def leave_together(net: str, rounds: int, program: Program, make: str) -> list[Figure]:
    """Two clients, with no other member, are told to leave at the same time; the slower one counts."""
    times = []
    for number in range(rounds):
        with agents_at(net) as start:
            a = start(program, "a", 2 * number + 1, FAST)
            b = start(program, "b", 2 * number + 2, f"-retry-join={a.address}", *RETRY)
            wait(lambda: member_status(a, "b") == "alive" and member_status(b, "a") == "alive")  # noqa: B023
            time.sleep(SETTLE_S)
            began = time.monotonic()
            threads = [threading.Thread(target=agent.interrupt) for agent in (a, b)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            times.append(time.monotonic() - began)
    return [Figure(f"leave of both of two clients at once, {make}", tuple(times), LIMIT_S)]


def run(jobs: Sequence[Callable[[], list[Figure]]]) -> list[Figure]:
    """One after the other, each printed when it is known."""
    figures = []
    for job in jobs:
        for figure in job():
            figures.append(figure)
            print(figure.line(), flush=True)
    return figures
