"""Snapshots between ours and a real Consul 1.8.7: archives both ways, damaged ones, and snapshots inside one quorum.

Run as `python -m conformance.snapshots [SCENARIO...]`; all without one. Each step prints its result; closes with
'N passed, N failed'. Without a real Consul it is skipped, in CI it fails.
"""

from __future__ import annotations

import gzip
import http.client
import io
import os
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import Any

from conformance.agents import HTTP_PORT, OURS, SERVER_PORT, Agent, Checks, cluster, leader_known, until
from conformance.scenarios import run_scenarios

Program = tuple[str, ...]

TIMEOUT_S = 60.0
KEYS = 300
"""More than the trailing logs of these servers, so that a newcomer needs a snapshot."""
QUICK = (
    '-hcl=performance { raft_multiplier = 1 } raft_trailing_logs = 20 autopilot { server_stabilization_time = "1s" }',
    "-server",
    "-retry-interval=1s",
)
OUR_ADDRESS, REAL_ADDRESS = "127.0.77.2", "127.0.77.3"


def exchange(agent: Agent, method: str, path: str, body: bytes = b"") -> tuple[int, bytes, dict[str, str]]:
    """A call whose answer is bytes."""
    connection = http.client.HTTPConnection(agent.address, HTTP_PORT, timeout=TIMEOUT_S)
    try:
        connection.request(method, path, body=body)
        answer = connection.getresponse()
        return answer.status, answer.read(), {key.lower(): value for key, value in answer.getheaders()}
    finally:
        connection.close()


def save(agent: Agent, query: str = "") -> bytes:
    """The archive that an agent gives."""
    status, body, headers = exchange(agent, "GET", f"/v1/snapshot{query}")
    if status != 200 or headers.get("content-type") != "application/x-gzip" or not headers.get("x-consul-index"):
        raise RuntimeError(f"save: {status} {body[:200]!r} {headers}")
    return body


def restore(agent: Agent, archive: bytes) -> tuple[int, str]:
    """Status and body of a restore."""
    status, body, _ = exchange(agent, "PUT", "/v1/snapshot", archive)
    return status, body.decode(errors="replace")


def fill(agent: Agent, mark: str) -> None:
    """State of many kinds: keys, a service with checks, a session with a lock, a prepared query, a tombstone."""
    agent.put("/v1/kv/mark", mark.encode())
    agent.put(f"/v1/kv/dir/{mark}?flags=42", bytes(range(256)))
    agent.put("/v1/kv/gone", b"x")
    agent.request("DELETE", "/v1/kv/gone")
    node = {"Node": "Outside", "Address": "10.9.8.7", "NodeMeta": {"external-node": "true"}}
    service = {"ID": "web1", "Service": "web", "Tags": ["a", "b"], "Port": 80, "Meta": {"v": mark}}
    check = {"Node": "Outside", "CheckID": "c", "Name": "c", "Status": "passing", "ServiceID": "web1"}
    agent.put("/v1/catalog/register", {**node, "Service": service, "Check": check})
    session = agent.put("/v1/session/create", {"Name": "s", "TTL": "60s", "LockDelay": "1s"})["ID"]
    agent.put(f"/v1/kv/lock?acquire={session}", b"held")
    agent.request("POST", "/v1/query", {"Name": f"q-{mark}", "Service": {"Service": "web"}})


PATHS = (
    "/v1/kv/?recurse", "/v1/session/list", "/v1/catalog/node/Outside", "/v1/health/service/web", "/v1/query",
    "/v1/catalog/services", "/v1/operator/autopilot/configuration",
)  # fmt: skip
TAGS = "/v1/catalog/services"
"""Consul lists the tags of a service in an order of its own each time."""


UNKNOWN_TO_1_8 = ("Proxy", "Connect", "Interval", "Timeout", "ExposedPort")


def state_of(agent: Agent) -> dict[str, Any]:
    """What an agent's servers hold, with their indexes; the agent's own node is not part of it."""
    found = {}
    for path in PATHS:
        answer = agent.request("GET", path)
        body = without(answer.body, *UNKNOWN_TO_1_8)
        if path == TAGS and isinstance(body, dict):
            body = {name: sorted(tags) for name, tags in body.items()}
        found[path] = (answer.status, body)
    return found


def differing(one: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    """The paths whose answers differ."""
    return {path: (one[path], other[path]) for path in one if one[path] != other[path]}


def without(value: Any, *names: str) -> Any:
    """A JSON value without members of these names: 1.8 shows some of them otherwise than 1.10."""
    if isinstance(value, dict):
        return {key: without(item, *names) for key, item in value.items() if key not in names}
    return [without(item, *names) for item in value] if isinstance(value, list) else value


# --- archives ------------------------------------------------------------------------------------------------------


def archives(checks: Checks, real: Program) -> None:
    """One cluster of each make; archives go both ways, over HTTP and by both command lines."""
    with cluster(checks) as start:
        ours = start(OURS, "ours", OUR_ADDRESS, "-bootstrap-expect=1", *QUICK)
        theirs = start(real, "real", REAL_ADDRESS, "-bootstrap-expect=1", *QUICK)
        for agent in (ours, theirs):
            checks.until(f"{agent.name} leads", lambda a=agent: leader_known(a), 30)
            fill(agent, agent.name)
        before = {agent.name: state_of(agent) for agent in (ours, theirs)}
        our_archive, their_archive = save(ours), save(theirs)
        for target, archive, source in ((theirs, our_archive, "ours"), (ours, their_archive, "real")):
            checks.equal(f"{target.name} restores the archive of {source}", restore(target, archive), (200, ""))
            different = differing(state_of(target), before[source])
            checks.equal(f"{target.name} has the state of {source}", different, {})
            checks.equal(f"{target.name} writes afterwards", target.put("/v1/kv/later", b"1"), True)
            checks.equal(f"{target.name} takes its session over", _renewed(target), 200)
        checks.equal("ours restores its own again", restore(ours, our_archive), (200, ""))
        checks.equal("its state is as it was", state_of(ours), before["ours"])
        damaged(checks, ours, theirs, our_archive, before["ours"])
        for program, name in ((real, "real"), (OURS, "our")):
            command_line(checks, program, name, ours)
        command_line(checks, OURS, "our", theirs)


def _renewed(agent: Agent) -> int:
    sessions = agent.get("/v1/session/list") or [{"ID": "none"}]
    return agent.request("PUT", f"/v1/session/renew/{sessions[0]['ID']}").status


def command_line(checks: Checks, program: Program, name: str, agent: Agent) -> None:
    """`consul snapshot` of one make against an agent of another."""
    who = f"{name} command line on {agent.name}"
    with tempfile.TemporaryDirectory(prefix="conformance-") as folder:
        path = os.path.join(folder, "s.snap")
        agent.put("/v1/kv/cli", b"saved")
        code, text = agent.command(program, "snapshot", "save", path)
        checks.note(f"{who}: save", code == 0 and text.startswith("Saved and verified snapshot to index "), text)
        if program == OURS:  # 1.8.7 leaves the mode to the umask, 1.10 does not
            checks.equal(f"{who}: the file is private", os.stat(path).st_mode & 0o777, 0o600)
        agent.put("/v1/kv/cli", b"changed")
        code, text = agent.command(program, "snapshot", "inspect", path)
        checks.note(f"{who}: inspect", code == 0 and "Index" in text and "Version" in text, text)
        checks.equal(f"{who}: restore", agent.command(program, "snapshot", "restore", path), (0, "Restored snapshot\n"))
        value = until(lambda: agent.request("GET", "/v1/kv/cli?raw").body == "saved", 5)
        checks.note(f"{who}: the value is back", value)
        code, text = agent.command(program, "snapshot", "save", "-stale", path)
        checks.note(f"{who}: save -stale", code == 0, text)
        Path(path).write_bytes(b"garbage")
        bad = (
            "Error restoring snapshot: Unexpected response code: 500 (failed to decompress snapshot: unexpected EOF)\n"
        )
        checks.equal(f"{who}: restore of garbage", agent.command(program, "snapshot", "restore", path), (1, bad))


def damaged(checks: Checks, ours: Agent, theirs: Agent, archive: bytes, state: dict[str, Any]) -> None:
    """Each kind of damage is refused, in the real one's words where they can be had, and changes nothing."""
    for name, data, same in damages(archive):
        our_answer, their_answer = restore(ours, data), restore(theirs, data)
        wanted = their_answer
        if not same:
            wanted = our_answer if our_answer[0] == their_answer[0] == 500 and our_answer[1] else their_answer
        checks.equal(f"damaged archive: {name}", our_answer, wanted)
    checks.equal("damaged archives change nothing", state_of(ours), state)


def damages(archive: bytes) -> list[tuple[str, bytes, bool]]:
    """(what, the bytes, whether both must say the same)."""
    with tarfile.open(fileobj=io.BytesIO(gzip.decompress(archive))) as tar:
        members = {member.name: tar.extractfile(member).read() for member in tar}  # type: ignore[union-attr]
    state = members["state.bin"]
    flipped = state[:100] + bytes([state[100] ^ 1]) + state[101:]
    sums = members["SHA256SUMS"]
    return [
        ("nothing", b"", True),
        ("five bytes", b"\x1f\x8b\x08ab", True),
        ("no gzip", b"this is no archive at all", True),
        ("cut in the middle", archive[: len(archive) // 2], False),
        ("cut in the last bytes", archive[:-3], True),
        ("wrong checksum of gzip", archive[:-8] + b"abcd" + archive[-4:], True),
        ("bytes behind it", archive + b"x" * 50, True),
        ("a changed state", packed({**members, "state.bin": flipped}), True),
        ("a changed meta.json", packed({**members, "meta.json": members["meta.json"] + b" "}), True),
        ("an extra member", packed({**members, "evil": b"x"}), True),
        ("a path out of it", packed({"../../evil": b"x", **members}), True),
        ("no state", packed({name: data for name, data in members.items() if name != "state.bin"}), True),
        ("no sums for the state", packed({**members, "SHA256SUMS": sums_without(sums, b"state.bin")}), True),
        ("a sum of a stranger", packed({**members, "SHA256SUMS": sums + b"00" * 32 + b"  evil\n"}), True),
        ("garbage inside gzip", gzip.compress(b"x" * 2048), False),
        ("a bomb", packed({**members, "meta.json": b" " * 30_000_000}), False),
    ]


def sums_without(sums: bytes, name: bytes) -> bytes:
    """SHA256SUMS without one line."""
    return b"".join(line + b"\n" for line in sums.splitlines() if not line.endswith(name))


def packed(members: dict[str, bytes]) -> bytes:
    """An archive of these members."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    # Not padded to 10 KiB as tar(1) does it: Go's reader takes that for bytes that do not belong there.
    plain = out.getvalue()
    return gzip.compress(plain.rstrip(b"\0") + bytes(-len(plain.rstrip(b"\0")) % 512) + bytes(1024))


# --- one quorum ----------------------------------------------------------------------------------------------------


def quorum(
    checks: Checks, leader: tuple[Program, str, str], follower: tuple[Program, str, str], *, voters: int
) -> None:
    """A leader whose log is cut takes a follower of the other make in; then a user restores through it."""
    with cluster(checks) as start:
        first = start(leader[0], leader[1], leader[2], "-bootstrap-expect=1", *QUICK)
        checks.until(f"{first.name} leads", lambda: leader_known(first), 30)
        fill(first, first.name)
        for number in range(KEYS):
            first.put(f"/v1/kv/many/{number}", b"v%d" % number)
        save(first)
        second = start(follower[0], follower[1], follower[2], "-bootstrap-expect=2", f"-retry-join={leader[2]}", *QUICK)
        if voters == 2:  # autopilot takes its time
            checks.until(f"{second.name} is a voter", lambda: _voters(first) == 2, 40)
        joined = checks.until(f"{second.name} got a snapshot", lambda: _installed(second), 20)
        checks.note(f"{second.name} has all keys", joined and _same(first, second))
        # 1.8 refuses while a configuration is newer than the last command.
        first.put("/v1/kv/settled", b"1")
        checks.until("both have a command after it", lambda: second.get("/v1/kv/settled?stale"), 10)
        archive = save(second)
        stale = save(second, "?stale")
        checks.note("archives of both sorts have the keys", len(archive) > 3000 and len(stale) > 3000)
        first.put("/v1/kv/after", b"1")
        first.request("DELETE", "/v1/kv/many/1")
        checks.equal(f"{second.name} passes a restore on to the leader", restore(second, archive), (200, ""))
        checks.equal("the leader has the restored state", first.request("GET", "/v1/kv/after").status, 404)
        checks.until("the follower has it too", lambda: _same(first, second), 20)
        checks.equal("writes go on", second.put("/v1/kv/again", b"1"), True)
        checks.until("on both", lambda: second.get("/v1/kv/again?stale"), 10)
        if voters == 2:
            checks.equal("they still are a quorum", _voters(first), 2)
        checks.note("the leader is who it was", leader_known(second) == f"{first.address}:{SERVER_PORT}")


def _voters(agent: Agent) -> int:
    servers = (agent.get("/v1/operator/raft/configuration") or {"Servers": []})["Servers"]
    return sum(bool(server["Voter"]) for server in servers)


def _installed(agent: Agent) -> bool:
    words = ("snapshot installed", "Installed remote snapshot", "installed remote snapshot")
    return any(word in line for line in agent.log_lines() for word in words)


def _same(first: Agent, second: Agent) -> bool:
    rows = [agent.get("/v1/kv/?recurse&stale") for agent in (first, second)]
    return bool(rows[0]) and rows[0] == rows[1]


def our_leader(checks: Checks, real: Program) -> None:
    """Ours leads, a real one gets the snapshot."""
    quorum(checks, (OURS, "ours", OUR_ADDRESS), (real, "real", REAL_ADDRESS), voters=2)


def real_leader(checks: Checks, real: Program) -> None:
    """A real one leads, ours gets the snapshot as a nonvoter."""
    quorum(checks, (real, "real", REAL_ADDRESS), (OURS, "ours", OUR_ADDRESS), voters=1)


SCENARIOS = {"archives": archives, "our_leader": our_leader, "real_leader": real_leader}


def main(arguments: list[str]) -> int:
    """Exit code of the program."""
    return run_scenarios("snapshots", SCENARIOS, arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
