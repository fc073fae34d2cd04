"""The recorded conversations of the legacy RPC, replayed.

Two proofs per connection: every message is decoded and encoded again, byte for byte; and what the clients of 0.5.2,
0.6.4 and 0.7.5 sent is sent to our server, which knows the members, numbers and keys that the recorded agent knew and
must give the recorded bytes. `python -m conformance.ipc_conversations` prints the result; `replay()` gives it.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections import defaultdict, deque
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pyconsul_agent.env.base import open_stream
from pyconsul_agent.errors import ConsulError, NetError
from pyconsul_agent.interfaces.ipc.handlers import Actions, Handlers
from pyconsul_agent.interfaces.ipc.server import IPCServer
from pyconsul_agent.sim.env import make_env
from pyconsul_agent.sim.world import World
from pyconsul_agent.structs.member import Member, MemberStatus
from pyconsul_agent.structs.operator import KeyringResponse
from pyconsul_agent.structs.requests import KeyringResponses
from pyconsul_agent.wire import ipc
from pyconsul_agent.wire.msgpack import build

VECTORS = Path(__file__).resolve().parent / "vectors" / "ipc"

REQUEST_FORMS = {
    "handshake": ipc.Handshake, "join": ipc.Join, "force-leave": ipc.ForceLeave, "monitor": ipc.Monitor,
    "stop": ipc.Stop, "install-key": ipc.KeyOperation, "use-key": ipc.KeyOperation, "remove-key": ipc.KeyOperation,
    "list-keys": ipc.KeyOperation,
}  # fmt: skip
ANSWER_FORMS = {
    "members-lan": ipc.Members, "members-wan": ipc.Members, "join": ipc.Joined, "monitor": ipc.LogRecord,
    "install-key": ipc.KeyringAnswer, "use-key": ipc.KeyringAnswer, "remove-key": ipc.KeyringAnswer,
    "list-keys": ipc.KeyringAnswer, "stats": dict[str, dict[str, str]],
}  # fmt: skip
NOT_CANONICAL = {
    "header-extra-keys", "header-lowercase", "array-header", "missing-seq", "bin-strings",
}  # fmt: skip
"""Cases whose requests our encoder would never write: read only."""


@dataclass
class Result:
    """Names of what was replayed; failures with their reason."""

    passed: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)

    def note(self, name: str, problem: str) -> None:
        """One more replay; no problem is a pass."""
        if problem:
            self.failed.append(f"{name}: {problem}")
        else:
            self.passed.append(name)


def recordings(folder: Path = VECTORS) -> list[tuple[str, dict[str, Any]]]:
    """(name, case) of all recordings."""
    found = []
    for path in sorted(folder.glob("consul-*.json")):
        found += [(f"{path.stem}/{case['name']}", case) for case in json.loads(path.read_text())["cases"]]
    return found


def replay(folder: Path = VECTORS) -> Result:
    """Replay every recording in `folder`."""
    result = Result()
    with World(seed=1) as world:
        for name, case in recordings(folder):
            for number, connection in enumerate(case["connections"]):
                messages = connection["messages"]
                for at, message in enumerate(messages):
                    if message["kind"] == "raw":
                        result.skipped.append(f"{name}#{number}.{at}: no message, sent as it is")
                    else:
                        result.note(f"{name}#{number}.{at}", same_after_recoding(case["name"], message))
                result.note(f"{name}#{number}", world.run(converse(world, case, messages)))
            if not case["connections"]:
                result.skipped.append(f"{name}: nothing was said")
    return result


# --- codec ---------------------------------------------------------------------------------------------------------


def value_of(data: bytes) -> object:
    """The one value in `data`."""
    stream = ipc.Messages()
    stream.feed(data)
    value = stream.next_value()
    if value is None or len(stream):
        raise ConsulError("not one whole message")
    return value[0]


def decoded(message: dict[str, Any]) -> object:
    """A recorded message as its struct."""
    value = value_of(bytes.fromhex(message["hex"]))
    if message["kind"] == "other":
        return value
    if message["kind"] == "header" and message["dir"] == "s2c":
        return ipc.decode_body(ipc.ResponseHeader, value)
    if message["kind"] == "header":
        header = ipc.decode_header(value, ipc.RequestHeader())
        return header if "Token" in message["value"] else ipc.OldRequestHeader(command=header.command, seq=header.seq)
    forms = REQUEST_FORMS if message["dir"] == "c2s" else ANSWER_FORMS
    form: Any = forms[message["of"]]
    return build(form, value) if message["of"] == "stats" else ipc.decode_body(form, value)


def same_after_recoding(case: str, message: dict[str, Any]) -> str:
    """The difference, if decoding and encoding gives other bytes."""
    try:
        value = decoded(message)
    except (ConsulError, KeyError) as error:
        return f"cannot be decoded: {error!r}"
    # 0.5 and 0.6 know no RelayFactor.
    short = message.get("of") in REQUEST_FORMS and set(message["value"]) == {"Key"}
    if short or (case in NOT_CANONICAL and message["dir"] == "c2s"):
        return ""
    again = ipc.encode(value).hex()
    return "" if again == message["hex"] else f"{again} is not {message['hex']}"


# --- server --------------------------------------------------------------------------------------------------------


class RecordedAgent:
    """Delegate and actions that answer what the recorded agent answered."""

    def __init__(self, case: str, messages: list[dict[str, Any]]) -> None:
        self.is_server = not (case.endswith("-on-client-agent") or case == "leave-client")
        self.log: list[tuple[str, dict[str, object]]] = []
        self._answers: dict[str, deque[Any]] = defaultdict(deque)
        self._lines: dict[int, list[str]] = defaultdict(list)
        self._monitors: deque[int] = deque()
        header: Any = None
        for message in messages:
            if message["dir"] == "c2s":
                continue
            value = decoded(message)
            if message["kind"] == "header":
                header = value
                if message.get("answers") == "monitor" and not header.error and header.seq not in self._monitors:
                    self._monitors.append(header.seq)
            elif message["of"] == "monitor":
                self._lines[header.seq].append(value.log)  # type: ignore[attr-defined]
            else:
                self._answers[message["of"]].append((header.error, value))

    def _next(self, command: str) -> Any:
        error, value = self._answers[command].popleft()
        if error:
            raise NetError(error)
        return value

    def lan_members(self) -> list[Member]:
        return [_member(row) for row in self._next("members-lan").members]

    def wan_members(self) -> list[Member]:
        return [_member(row) for row in self._next("members-wan").members]

    async def join_lan(self, addresses: list[str]) -> int:
        return int(self._next("join").num)

    join_wan = join_lan

    async def force_leave(self, node: str) -> None:
        return None

    async def leave(self) -> None:
        return None

    def reload(self) -> None:
        return None

    def stats(self) -> Any:
        return self._next("stats") if self._answers["stats"] else {"serf_lan": {"encrypted": "true"}}

    async def call(self, method: object, request: Any) -> KeyringResponses:
        answer = self._next({"list": "list-keys"}.get(request.operation, f"{request.operation}-key"))
        return KeyringResponses(responses=tuple(_pool(info, answer) for info in answer.info))

    def open_tap(self, level: str, wake: Any) -> Any:
        wake()
        return _Lines(self._lines[self._monitors.popleft()])

    def event(self, name: str, /, **fields: object) -> None:
        self.log.append((name, fields))

    debug = info = warn = error = event


class _Lines:
    dropped = 0

    def __init__(self, lines: list[str]) -> None:
        self._lines = lines

    def take(self) -> list[str]:
        lines, self._lines = self._lines, []
        return lines


def _member(row: ipc.MemberRow) -> Member:
    return Member(
        name=row.name,
        address=".".join(map(str, row.address or b"")),
        port=row.port,
        tags=row.tags or {},
        status=MemberStatus[row.status.upper()],
        protocol_min=row.protocol_min,
        protocol_max=row.protocol_max,
        protocol_current=row.protocol_current,
        delegate_min=row.delegate_min,
        delegate_max=row.delegate_max,
        delegate_current=row.delegate_current,
    )


def _pool(info: ipc.KeyringInfo, answer: ipc.KeyringAnswer) -> KeyringResponse:
    here = (info.datacenter, info.pool)
    return KeyringResponse(
        wan=info.pool == "WAN",
        datacenter=info.datacenter,
        num_nodes=info.num_nodes,
        error=info.error,
        keys={each.key: each.count for each in answer.keys or () if (each.datacenter, each.pool) == here},
        messages={each.node: each.message for each in answer.messages or () if (each.datacenter, each.pool) == here},
    )


async def converse(world: World, case: dict[str, Any], messages: list[dict[str, Any]]) -> str:
    """Send the client's side to our server; the difference to the agent's side, if any."""
    agent: Any = RecordedAgent(case["name"], messages)
    actions = Actions(agent.leave, agent.reload, agent.stats, agent.open_tap, lambda tap: None)
    server = IPCServer(
        make_env(world, world.host("10.0.0.1")).net, Handlers(agent, actions, datacenter="dc1"), actions, agent
    )
    await server.start([("10.0.0.1", 8400)])
    try:
        reader, writer = await open_stream(make_env(world, world.host("10.0.0.2")).net, "10.0.0.1", 8400)
        for message in messages:
            if message["dir"] == "c2s":
                writer.write(bytes.fromhex(message["hex"]))
                if case["name"].startswith("monitor"):
                    await asyncio.sleep(1)  # the lines that were sent before the next request
        if case["name"] == "half-close":
            writer.write_eof()
        got, closed = await _everything(reader)
        writer.close()
        if case.get("server_closed") is True and not closed:
            return "the connection was not closed"
        if case.get("server_closed") is False and closed and case["name"] != "half-close":
            return f"the connection was closed: {agent.log}"
        wanted = b"".join(bytes.fromhex(message["hex"]) for message in messages if message["dir"] == "s2c")
        if case["name"].startswith("monitor"):
            return "" if _by_request(got) == _by_request(wanted) else "other answers or lines"
        return "" if got == wanted else f"{got.hex()} is not {wanted.hex()}"
    finally:
        await server.stop()


async def _everything(reader: asyncio.StreamReader) -> tuple[bytes, bool]:
    """What comes until nothing has come for 5 s, and whether the connection was closed."""
    got = b""
    while True:
        try:
            async with asyncio.timeout(5):
                data = await reader.read(65536)
        except TimeoutError:
            return got, False
        if not data:
            return got, True
        got += data


def _by_request(data: bytes) -> dict[object, list[object]]:
    """Headers and bodies by Seq: how lines mix with other answers is chance."""
    stream = ipc.Messages()
    stream.feed(data)
    found: dict[object, list[object]] = defaultdict(list)
    seq: object = None
    while (value := stream.next_value()) is not None:
        if isinstance(value[0], dict) and b"Seq" in value[0]:
            seq = value[0][b"Seq"]
        found[seq].append(value[0])
    return found


def main() -> int:
    """Print the result; 1 when something failed."""
    result = replay()
    for text in (*result.failed, *(f"skipped {text}" for text in result.skipped)):
        print(text[:400])
    print(f"ipc: {len(result.passed)} passed, {len(result.failed)} failed, {len(result.skipped)} skipped")
    return 1 if result.failed else 0


if __name__ == "__main__":
    sys.exit(main())
