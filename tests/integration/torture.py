"""Three servers, writers through all of them, and a seeded fault every few seconds; then the history is checked.

A fault list is a function of its seed; what the machine makes of it is not. `scripts/torture` has more kinds of faults.
"""

from __future__ import annotations

import base64
import http.client
import json
import random
import signal
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from tests.integration.agents import Agent, own, wait_for

KEYS = 8
WRITERS = 3
FAULT_EVERY_S = (1.5, 3.5)
DOWN_S = (0.5, 4.0)
SETTLE_S = 60.0

State = dict[str, tuple[str, int, int]]
"""key -> (value, CreateIndex, ModifyIndex)."""


@dataclass(frozen=True, slots=True)
class Write:
    """One write. `ok` only if it was answered `true`; `refused` if the server said that it did not happen (CAS)."""

    key: str
    value: str
    guard: int | None
    begin: float
    end: float
    ok: bool
    refused: bool


class Cluster:
    """Three servers on `127.0.2.<first_ip>` and the next two."""

    def __init__(self, folder: Path, *, first_ip: int, multiplier: int = 1) -> None:
        ips = [own(f"127.0.2.{first_ip + number}") for number in range(3)]
        self.agents = [
            Agent(
                folder, ip, f"s{number + 1}", "-server", "-bootstrap-expect", "3",
                *(word for other in ips if other != ip for word in ("-retry-join", other)),
                "-retry-interval", "1s", "-hcl", f"performance {{ raft_multiplier = {multiplier} }}",
            )
            for number, ip in enumerate(ips)
        ]  # fmt: skip

    def start(self) -> float:
        """Seconds until the first write succeeded."""
        begin = time.monotonic()
        for agent in self.agents:
            agent.start()
        wait_for(lambda: self.agents[0].put("/v1/kv/ready", b"1"), what="first write", timeout_s=60, every_s=0.02)
        return time.monotonic() - begin

    def leader(self) -> Agent:
        """The agent that the first of them that answers takes for the leader."""

        def find() -> Agent | None:
            for agent in self.agents:
                try:
                    address = agent.get("/v1/status/leader", timeout_s=2)
                except (OSError, http.client.HTTPException):
                    continue
                for candidate in self.agents:
                    if address == f"{candidate.ip}:8300":
                        return candidate
            return None

        return wait_for(find, what="a leader")

    def state(self, agent: Agent, prefix: str, mode: str = "stale") -> State:
        status, body = agent.ask("GET", f"/v1/kv/{prefix}?recurse&{mode}")
        if status == 404:
            return {}
        if status != 200:
            raise OSError(f"{status} {body[:200]!r}")
        return {
            entry["Key"]: (
                base64.b64decode(entry["Value"] or "").decode(), entry["CreateIndex"], entry["ModifyIndex"],
            )
            for entry in json.loads(body)
        }  # fmt: skip

    def settled(self, prefix: str) -> list[State]:
        """The state of each server once a barrier write was seen by all."""
        value = str(time.monotonic_ns()).encode()
        for agent in self.agents:
            wait_for(lambda agent=agent: agent.put("/v1/kv/barrier", value), what="a write", timeout_s=SETTLE_S)
        for agent in self.agents:
            agent_sees = lambda agent=agent: agent.ask("GET", "/v1/kv/barrier?raw&stale") == (200, value)  # noqa: E731
            wait_for(agent_sees, what=f"{agent.name} has caught up", timeout_s=SETTLE_S)
        return [self.state(agent, prefix) for agent in self.agents]

    def assert_clean(self) -> None:
        for agent in self.agents:
            agent.assert_clean()

    def close(self) -> None:
        for agent in self.agents:
            agent.close()


class Torture:
    """Runs writers and so many faults; `run` gives the history of writes."""

    def __init__(self, folder: Path, *, seed: int, faults: int, first_ip: int = 31) -> None:
        self.cluster = Cluster(folder, first_ip=first_ip)
        self.log: list[str] = []
        self._seed = seed
        self._fault_count = faults
        self._over = threading.Event()
        self._history: list[Write] = []
        self._errors: list[str] = []

    def run(self) -> list[Write]:
        self.cluster.start()
        writers = [threading.Thread(target=self._write, args=(number,)) for number in range(WRITERS)]
        for writer in writers:
            writer.start()
        try:
            self._faults()
        finally:
            self._over.set()
            for writer in writers:
                writer.join()
        assert not self._errors, self._errors
        return self._history

    def settle(self) -> list[State]:
        return self.cluster.settled("t/")

    def close(self) -> None:
        self._over.set()
        self.cluster.close()

    def _faults(self) -> None:
        rng = random.Random(self._seed)
        for _ in range(self._fault_count):
            time.sleep(rng.uniform(*FAULT_EVERY_S))
            kind = rng.choice(("kill", "kill", "pause"))
            at_leader, number, down_s = rng.random() < 0.6, rng.randrange(3), rng.uniform(*DOWN_S)
            victim = self.cluster.leader() if at_leader else self.cluster.agents[number]
            self.log.append(f"{kind} {victim.name} for {down_s:.2f} s")
            if kind == "kill":
                victim.kill()
                time.sleep(down_s)
                victim.start()
            else:
                victim.signal(signal.SIGSTOP)
                time.sleep(down_s)
                victim.signal(signal.SIGCONT)
            # Never two at once: the next fault waits until this one has the whole log again.
            value = str(time.monotonic_ns()).encode()
            other = next(agent for agent in self.cluster.agents if agent is not victim)
            wait_for(lambda other=other, value=value: other.put("/v1/kv/barrier", value), what="a write", timeout_s=30)
            wait_for(
                lambda victim=victim, value=value: victim.ask("GET", "/v1/kv/barrier?raw&stale") == (200, value),
                what=f"{victim.name} is back", timeout_s=30,
            )  # fmt: skip

    def _write(self, number: int) -> None:
        rng = random.Random(self._seed * 1000 + number)
        agent, count = self.cluster.agents[number], 0
        while not self._over.is_set():
            count += 1
            cas = rng.random() < 0.3
            value = f"{number}-{count}"
            key = f"t/{rng.randrange(KEYS)}" if cas else f"t/{value}"
            try:
                self._history.append(self._one(agent, key, value, cas=cas))
            except AssertionError as error:
                self._errors.append(str(error))
                return
            time.sleep(0.01)

    def _one(self, agent: Agent, key: str, value: str, *, cas: bool) -> Write:
        guard: int | None = None
        begin = time.monotonic()
        body: bytes = b""
        status = 0
        try:
            if cas:
                found = agent.ask("GET", f"/v1/kv/{key}?stale", timeout_s=5)
                guard = json.loads(found[1])[0]["ModifyIndex"] if found[0] == 200 else 0
                begin = time.monotonic()
            query = "" if guard is None else f"?cas={guard}"
            status, body = agent.ask("PUT", f"/v1/kv/{key}{query}", value.encode(), timeout_s=12)
        except (OSError, http.client.HTTPException):
            time.sleep(0.1)
        answered = status == 200
        return Write(
            key, value, guard, begin, time.monotonic(), answered and body == b"true", answered and body == b"false"
        )


def check(history: list[Write], final: list[State]) -> list[str]:
    """What is wrong: writes lost, ModifyIndex against real time, guards that two CAS passed, servers that differ.

    Each plain write has a key of its own, so its place in the order can be read at the end. A write without an answer
    may have happened at any later time or never; one that was refused must not be seen.
    """
    wrong = [f"server {number + 1} differs from server 1" for number in (1, 2) if final[number] != final[0]]
    state = final[0]
    by_value = {(write.key, write.value): write for write in history}
    plain = [write for write in history if write.guard is None and write.ok]
    wrong += [f"{write.key}: lost" for write in plain if state.get(write.key, ("",))[0] != write.value]
    # Linearizable: a write that began after another had ended has the higher index.
    placed = sorted((write for write in plain if write.key in state), key=lambda write: state[write.key][2])
    latest_begin = 0.0
    for write in placed:
        if write.end < latest_begin:
            wrong.append(f"{write.key} (index {state[write.key][2]}) ended before one with a lower index began")
        latest_begin = max(latest_begin, write.begin)
    for key, (value, _, index) in state.items():
        last = by_value.get((key, value))
        if last is None or last.refused:
            wrong.append(f"{key}: holds {value}, which was not written")
        for write in history:
            if write.key == key and write.ok and last is not None and write.begin > last.end and last.ok:
                wrong.append(f"{key}: holds {value}, but {write.value} was acknowledged later")
            if write.key == key and write.ok and write.guard is not None and write.guard >= index:
                wrong.append(f"{key}: {write.value} passed the guard {write.guard}, but the last index is {index}")
    passed: dict[tuple[str, int], str] = {}
    for write in history:
        if write.ok and write.guard is not None:
            first = passed.setdefault((write.key, write.guard), write.value)
            if first != write.value:
                wrong.append(f"{write.key}: {first} and {write.value} both passed the guard {write.guard}")
    wrong += [f"{key}: lost" for key, _ in passed if key not in state]
    return wrong
