"""One run: servers up, clients and faults until time is up, every generation of keys judged, then the end's checks."""

from __future__ import annotations

import argparse
import asyncio
import gc
import random
import subprocess
import time
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

from scripts.torturing import finish
from scripts.torturing.clients import Holder, Load, Register, Watcher
from scripts.torturing.faults import FIRST_WRITE_S, FaultDriver, draw
from scripts.torturing.judge import Circumstances, judge
from scripts.torturing.net import Net
from scripts.torturing.plant import planted
from scripts.torturing.record import Generation, Recorder
from scripts.torturing.server import Server

KEYS, LOCKS = 8, 3
REGISTERS_S, LOCKS_S = 12.0, 60.0
"""How long a generation of keys is written to."""
HOLDERS = 5
WATCHERS = ("default", "default", "consistent", "stale")
CLOSE_S = 360.0
"""For the last reads of a generation: longer than any fault and what follows it."""
OPERATIONS_PER_WORKER_S = 1.6
FAULT_SHORTEST_S = 2.0
FOUND_SHOWN = 20


class Torture:
    """`folder` takes the servers' data, their logs and history.jsonl."""

    def __init__(self, options: argparse.Namespace, folder: Path) -> None:
        self._options = options
        self._folder = folder
        rng = random.Random(options.seed)
        self._net = Net(3, random.Random(rng.getrandbits(64)))
        real = rng.randint(1, 3) if options.consul else 0
        self._servers = [
            Server(self._net, folder, number, real=options.consul if number == real else "") for number in (1, 2, 3)
        ]
        self._recorder = Recorder(folder / "history.jsonl")
        self._load = Load(
            self._servers, self._recorder, random.Random(rng.getrandbits(64)), self._registers(0), self._locks(0),
            pause_s=1 / OPERATIONS_PER_WORKER_S,
        )  # fmt: skip
        self._driver = FaultDriver(self._servers, self._net, self._recorder, random.Random(rng.getrandbits(64)))
        self._faults = random.Random(rng.getrandbits(64))
        self._last: finish.Last = {}
        self._judged = 0
        self._wrong: list[str] = []
        self._planted = False

    @staticmethod
    def _registers(number: int) -> Generation:
        return Generation(number, [f"t/{number}/{key}" for key in range(KEYS)])

    @staticmethod
    def _locks(number: int) -> Generation:
        keys = [f"lock/{number}/{kind}{key}" for kind in ("keep", "del") for key in range(LOCKS)]
        return Generation(number, keys)

    async def run(self) -> int:
        """The exit code."""
        began = time.monotonic()
        try:
            self._up()
            await self._first_write()
            await self._torture()
            print("faults are over, clients have stopped", flush=True)
            self._wrong += await finish.check(self._servers, self._last)
            self._wrong += await self._stop()
        finally:
            for server in self._servers:
                server.go_on()
                server.kill()
            self._recorder.close()
            self._net.close()
        return self._report(time.monotonic() - began)

    def _up(self) -> None:
        self._net.up()
        source = Path(__file__).with_name("clock.c")
        subprocess.run(
            ["gcc", "-shared", "-fPIC", "-O2", "-o", str(self._folder / "clock.so"), str(source)], check=True
        )
        small = self._load.rng.choice([server for server in self._servers if not server.real])
        for server in self._servers:
            server.prepare(small_disk=server is small)
            server.start()
        kinds = [f"{server.name} {'a real Consul' if server.real else 'ours'}" for server in self._servers]
        print(f"seed {self._options.seed}: {', '.join(kinds)}; {small.name} has a small disk", flush=True)

    async def _first_write(self) -> None:
        begin = time.monotonic()
        wrong = await finish.within("a first write", FIRST_WRITE_S, lambda: finish._write(self._servers[0]))
        if wrong:
            raise SystemExit(wrong[0])
        print(f"first write after {time.monotonic() - begin:.1f} s", flush=True)
        await self._driver.recover("the start")

    async def _torture(self) -> None:
        until = time.monotonic() + self._options.seconds
        options = self._options
        faults = draw(self._faults, options.kinds.split(","), round(options.seconds / FAULT_SHORTEST_S) + 1)
        workers = max(1, round(options.rate / OPERATIONS_PER_WORKER_S * 0.75))  # the rest are watches and locks
        async with asyncio.TaskGroup() as group:
            for _ in range(workers):
                group.create_task(Register(self._load).run())
            for _ in range(HOLDERS):
                group.create_task(Holder(self._load).run())
            for mode in WATCHERS:
                group.create_task(Watcher(self._load, mode).run())
            group.create_task(self._generations(group, until))
            await self._driver.run(faults, until)
            await asyncio.sleep(max(0.0, until - time.monotonic()))
            self._load.running = False

    async def _generations(self, group: asyncio.TaskGroup, until: float) -> None:
        """New keys now and then; the old ones are closed and judged beside."""
        number, locks_end = 0, time.monotonic() + LOCKS_S
        while self._load.running:
            for _ in range(round(REGISTERS_S / 0.5)):
                await asyncio.sleep(0.5)
                if not self._load.running:
                    break
            number += 1
            closing: list[Coroutine[Any, Any, None]] = []
            if not self._load.running or time.monotonic() >= locks_end:
                closing.append(self._close_locks(self._load.locks))
                self._load.locks = self._locks(number)
                locks_end = time.monotonic() + LOCKS_S
            closing.append(self._close_registers(self._load.registers))
            self._load.registers = self._registers(number)
            for each in closing:
                group.create_task(each)

    async def _close_registers(self, generation: Generation) -> None:
        load, number = self._load, self._load.number()
        # Watchers may still wait, so what is under way of them is not waited for here.
        until = time.monotonic() + CLOSE_S
        while any(each.outcome == "open" and not each.detail for each in generation.operations):
            await asyncio.sleep(0.2)
        for key in generation.keys:
            while key not in generation.last and time.monotonic() < until:
                read = await load.read(generation, number, load.server(), key, "consistent")
                if read.outcome == "ok":
                    generation.last_header[key] = read.header
                    generation.last[key] = (read.read, read.index)
                else:
                    await asyncio.sleep(0.5)
        while generation.watchers and time.monotonic() < until:
            await asyncio.sleep(0.2)
        if generation.watchers:
            seen = "; ".join(generation.watchers.values())
            self._found([f"I13 the last state was never seen: {seen}; it was {generation.last}"])
        if len(generation.last) < len(generation.keys):
            self._found([f"keys {generation.keys[0]}... could not be read consistently within {CLOSE_S:.0f} s"])
        generation.open = False
        while generation.under_way:
            await asyncio.sleep(0.2)
        # A write of unknown outcome may come about after the last read, even much later.
        unsure = {each.key for each in generation.operations if each.f != "get" and each.outcome == "info"}
        self._last = {**self._last, **{key: held for key, held in generation.last.items() if key not in unsure}}
        await self._judge(generation)

    async def _close_locks(self, generation: Generation) -> None:
        generation.open = False
        # Who works with it ends by itself; a session's next operation would otherwise come after the judgment.
        await asyncio.sleep(5)
        while generation.under_way:
            await asyncio.sleep(0.2)
        await self._judge(generation)

    async def _judge(self, generation: Generation) -> None:
        operations = generation.operations
        if self._options.plant and not self._planted:
            spoiled = planted(self._options.plant, operations, random.Random(self._options.seed))
            self._planted = spoiled is not None
            operations = spoiled or operations
        at = Circumstances(
            {server.name: list(server.starts) for server in self._servers}, list(self._driver.calm),
            next((server.name for server in self._servers if server.real), ""),
        )  # fmt: skip
        self._found(await asyncio.to_thread(judge, operations, at))
        self._judged += 1
        generation.operations = []
        gc.collect()

    def _found(self, wrong: list[str]) -> None:
        for each in wrong:
            print(f"WRONG {each}", flush=True)
            self._recorder.event("wrong", text=each)
        self._wrong += wrong

    async def _stop(self) -> list[str]:
        wrong = []
        for server in self._servers:
            code = await server.stop()
            if code not in (0, 1):  # Consul ends with 1 where it does not leave
                wrong.append(f"{server.name} ended with {code} at SIGTERM")
            wrong += [f"{server.name} printed: {text}" for text in server.bad_lines()]
        return wrong

    def _report(self, took_s: float) -> int:
        wrong = self._wrong + self._driver.wrong
        for each in wrong[:FOUND_SHOWN]:
            print(f"WRONG {each}")
        faults = ", ".join(f"{kind} {count}" for kind, count in sorted(self._driver.done.items()))
        outcomes = ", ".join(f"{count} {name}" for name, count in sorted(self._recorder.outcomes.items()))
        print(
            f"{self._recorder.operations} operations ({outcomes}) in {took_s:.0f} s, {self._judged} generations judged"
        )
        print(f"{sum(self._driver.done.values())} faults: {faults}")
        print(f"{self._driver.replaced} servers replaced, {self._net.relayed} packets on slow links")
        print(f"slowest recovery {self._driver.slowest_s:.1f} s; {len(self._last)} keys compared at the end")
        if self._options.consul:
            print("not asked of a real Consul: full disk, damaged files, wall clock; default reads count as stale ones")
        if self._options.plant:
            print(f"planted {self._options.plant}: {'done' if self._planted else 'found no place'}")
        print(f"seed {self._options.seed}")
        print(f"{self._judged + int(not wrong)} passed, {len(wrong)} failed", flush=True)
        return 1 if wrong else 0
