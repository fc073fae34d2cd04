"""Replay recorded HTTP scenarios against an agent: does it answer as the recorded 1.10.11 did?

    python -m conformance.http_golden --agent-command "python -m pyconsul_agent" [area | area/name ...]

Without names, the scenarios of `golden/http/passing.txt` run, which are those that must pass; `--all` runs every one.
`--write-passing` rewrites that list from the result. The last line is `N passed, N failed`; the exit code is 1 when
one failed. Scenarios run one after the other, each with fresh agents.
"""

from __future__ import annotations

import argparse
import base64
import http.client
import json
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from conformance.http_agent import AgentProcess, Answer, Exchange, NotReady, fill, send
from conformance.http_compare import Comparison, Observed, RawNumber, observe, parse_json

ROOT = Path(__file__).parent / "golden" / "http"
PASSING = ROOT / "passing.txt"
RECORDED_PORTS = 18000
"""The transcripts show ports of this block."""
PORTS_PER_SCENARIO = 60
PORT_BLOCKS = 8
SETTLE_S = 0.3
UNTIL_TIMEOUT_S = 20.0


class Pending:
    """A request under way in a thread, to be joined by a later step."""

    def __init__(self, address: tuple[str, int], exchange: Exchange) -> None:
        self._address = address
        self._exchange = exchange
        self._answer: Answer | None = None
        self._error: Exception | None = None
        self._took_s = 0.0
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()

    def _work(self) -> None:
        began = time.monotonic()
        try:
            self._answer = send(self._address, self._exchange)
        except (OSError, http.client.HTTPException) as error:
            self._error = error
        self._took_s = time.monotonic() - began

    def result(self, timeout_s: float) -> tuple[Answer, float]:
        """The answer and how long it took. Raises what the exchange raised, or TimeoutError."""
        self._thread.join(timeout_s)
        if self._error is not None:
            raise self._error
        if self._answer is None:
            raise TimeoutError("no answer yet")
        return self._answer, self._took_s


class Run:
    """The agents of one scenario and what their steps gave."""

    def __init__(self, scenario: dict[str, Any], command: str, port_base: int) -> None:
        self._scenario = scenario
        self._command = command
        self._port_base = port_base
        self._token = scenario.get("token", "")
        self._root = Path(tempfile.mkdtemp(prefix="golden-"))
        alone = {key: scenario[key] for key in ("config", "flags", "files", "ready", "skip_leader") if key in scenario}
        specs = scenario.get("agents") or {"a": alone}
        self._agents = {
            name: AgentProcess(name, place, spec, self._root, port_base)
            for place, (name, spec) in enumerate(specs.items())
        }
        self._first = next(iter(self._agents))
        self._values: dict[str, Any] = {f"dir.{name}": str(agent.directory) for name, agent in self._agents.items()}
        for name, agent in self._agents.items():
            self._values.update({f"port.{name}.{port}": number for port, number in agent.ports.items()})
        self._bodies: dict[str, bytes] = {}
        self._pending: dict[str, Pending] = {}
        self.watermark = 0

    def __enter__(self) -> Run:
        try:
            now = [agent for agent in self._agents.values() if not agent.spec.get("later")]
            for agent in now:
                agent.start(self._command, self._values)
            for agent in now:
                agent.wait_ready(self._token)
        except BaseException:
            self.__exit__()
            raise
        self.watermark = self._last_index()
        return self

    def __exit__(self, *_: object) -> None:
        for agent in self._agents.values():
            agent.stop()
        shutil.rmtree(self._root, ignore_errors=True)

    def _last_index(self) -> int:
        """The newest index of the start-up phase; 0 where that is not told."""
        headers = {"X-Consul-Token": self._token} if self._token else {}
        try:
            answer = send(self._agents[self._first].address, Exchange(path="/v1/agent/self", headers=headers))
            return int(parse_json(answer.body.decode())["Stats"]["raft"]["last_log_index"])
        except (OSError, http.client.HTTPException, ValueError, KeyError, TypeError):
            return 0

    def steps(self) -> Iterator[Observed | None]:
        """Do the steps, in order."""
        for step in self._scenario["steps"]:
            try:
                observed = self._step(step)
            except (OSError, http.client.HTTPException, NotReady) as error:
                observed = Observed(failed=f"{type(error).__name__}: {error}")
            for name, path in step.get("capture", {}).items():
                value = None if observed is None else observed.pick(path)
                self._values[name] = f"UNCAPTURED-{name}" if value is None else value
            yield observed

    def _step(self, step: dict[str, Any]) -> Observed | None:
        if "sleep" in step:
            time.sleep(step["sleep"])
        elif "launch" in step or "restart" in step:
            agent = self._agents[step.get("launch") or step["restart"]]
            agent.stop()
            agent.start(self._command, self._values)
            agent.wait_ready(self._token)
        elif "write_file" in step:
            directory = self._agents[step.get("agent", self._first)].directory
            (directory / step["write_file"]).write_text(fill(step["content"], self._values))
        elif "start" in step:
            self._pending[step["start"]] = Pending(self._address(step), self._exchange(step))
            time.sleep(step.get("settle", SETTLE_S))
        elif "join" in step:
            answer, took_s = self._pending.pop(step["join"]).result(step.get("timeout", 60))
            return self._judged(step, answer, took_s)
        else:
            return self._request(step)
        return None

    def _request(self, step: dict[str, Any]) -> Observed:
        """Send, again and again where the step says until when."""
        began = time.monotonic()
        limit_s = step.get("timeout", UNTIL_TIMEOUT_S)
        address, exchange = self._address(step), self._exchange(step)
        while True:
            answer = send(address, exchange)
            took_s = time.monotonic() - began
            if "keep_body" in step:
                self._bodies[step["keep_body"]] = answer.body
            if satisfied(step.get("until"), answer):
                return self._judged(step, answer, took_s)
            if took_s > limit_s:
                return self._seen(answer, took=f"{limit_s} s without {step['until']}")
            time.sleep(0.1)

    def _judged(self, step: dict[str, Any], answer: Answer, took_s: float) -> Observed:
        allowed = step.get("took", {})
        late = not allowed.get("min", 0) <= took_s <= allowed.get("max", 1e9)
        return self._seen(answer, took=f"{took_s:.2f} s" if late else "")

    def _seen(self, answer: Answer, *, took: str) -> Observed:
        renamed = {str(self._root): "/GOLDEN"}
        for agent in self._agents.values():
            renamed.update({str(n): str(n - self._port_base + RECORDED_PORTS) for n in agent.ports.values()})
        return observe(answer, renamed, took)

    def _address(self, step: dict[str, Any]) -> tuple[str, int]:
        return self._agents[step.get("agent", self._first)].address

    def _exchange(self, step: dict[str, Any]) -> Exchange:
        """Everything is filled in now: a started request does not see later captures."""
        timeout_s = step.get("timeout", UNTIL_TIMEOUT_S) + 15
        if "raw" in step:
            return Exchange(raw=fill(step["raw"], self._values).encode("latin-1"), timeout_s=timeout_s)
        method, _, path = fill(step["do"], self._values).partition(" ")
        headers = {name: fill(value, self._values) for name, value in step.get("headers", {}).items()}
        if "token" in step:
            headers["X-Consul-Token"] = fill(step["token"], self._values)
        return Exchange(
            method,
            path,
            headers,
            self._body(step),
            chunked=step.get("chunked", False),
            stream_s=step.get("stream", 0.0),
            timeout_s=timeout_s,
        )

    def _body(self, step: dict[str, Any]) -> bytes | None:
        if "json" in step:
            return fill(json.dumps(step["json"]), self._values).encode()
        if "body" in step:
            return fill(step["body"], self._values).encode()
        if "base64" in step:
            return base64.b64decode(step["base64"])
        if "repeat" in step:
            text, times = step["repeat"]
            return bytes(text.encode() * times)
        return self._bodies[step["body_from"]] if "body_from" in step else None


def satisfied(until: dict[str, Any] | None, answer: Answer) -> bool:
    """Whether an answer is the one that a step waits for."""
    if not until:
        return True
    text = answer.body.decode("utf-8", "replace")
    return (
        until.get("status", answer.status) == answer.status
        and all(answer.headers.get(name) == value for name, value in until.get("header", {}).items())
        and all(part in text for part in until.get("has", ()))
        and not any(part in text for part in until.get("lacks", ()))
    )


def names() -> list[str]:
    """Every scenario."""
    folder = ROOT / "scenarios"
    return sorted(str(path.relative_to(folder).with_suffix("")) for path in folder.rglob("*.json"))


def chosen(wanted: list[str], everything: bool) -> list[str]:
    """The scenarios to run."""
    if wanted:
        return [
            name for name in names() if any(name == one or name.startswith(one.rstrip("/") + "/") for one in wanted)
        ]
    if everything:
        return names()
    return [line for line in PASSING.read_text().split("\n") if line and not line.startswith("#")]


def replay(name: str, command: str, port_base: int) -> list[str]:
    """Run one scenario; what differs from its transcript."""
    scenario = json.loads((ROOT / "scenarios" / f"{name}.json").read_text())
    transcript = parse_json((ROOT / "transcripts" / f"{name}.json").read_text())
    try:
        with Run(scenario, command, port_base) as run:
            observed = list(run.steps())
    except (NotReady, OSError) as error:
        return [f"could not run: {error}"]
    return Comparison(scenario, transcript, run.watermark).problems(observed)


def write_passing(results: dict[str, bool]) -> None:
    """Keep the list of those that pass; scenarios that did not run keep their place."""
    before = set(chosen([], False)) if PASSING.exists() else set()
    kept = sorted({name for name in before if results.get(name, True)} | {name for name, ok in results.items() if ok})
    head = "# Recorded HTTP scenarios that must pass (python -m conformance.http_golden). Written by --write-passing.\n"
    PASSING.write_text(head + "".join(f"{name}\n" for name in kept))


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description="Replay recorded HTTP scenarios against an agent.")
    parser.add_argument("names", nargs="*", help="areas or scenarios (default: those of passing.txt)")
    parser.add_argument("--agent-command", default=f"{sys.executable} -m pyconsul_agent")
    parser.add_argument("--port-base", type=int, default=24000)
    parser.add_argument("--max-problems", type=int, default=8, help="differences shown of each scenario")
    parser.add_argument("--all", action="store_true", help="every scenario, also those known to differ")
    parser.add_argument("--write-passing", action="store_true", help="rewrite the list of those that pass")
    options = parser.parse_intermixed_args()
    results: dict[str, bool] = {}
    for place, name in enumerate(chosen(options.names, options.all)):
        block = options.port_base + place % PORT_BLOCKS * PORTS_PER_SCENARIO
        problems = replay(name, options.agent_command, block)
        results[name] = not problems
        print(f"{'FAIL' if problems else 'ok  '}  {name}", flush=True)
        for problem in problems[: options.max_problems]:
            print(f"    {problem}")
        if len(problems) > options.max_problems:
            print(f"    ... and {len(problems) - options.max_problems} more")
    if options.write_passing:
        write_passing(results)
    left_out = [] if options.names else [name for name in names() if name not in results]
    for name in left_out:
        print(f"skip  {name}: differs yet (docs/compat.md)")
    passed = sum(results.values())
    print(f"{passed} passed, {len(results) - passed} failed, {len(left_out)} skipped")
    return 0 if results and passed == len(results) else 1


__all__ = ["RawNumber", "Run", "chosen", "main", "names", "replay", "satisfied"]

if __name__ == "__main__":
    raise SystemExit(main())
