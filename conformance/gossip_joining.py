"""How agents of either make join, give up joining, and take their keys, side by side; and `rc_tm` between ours.

What a real agent does is not written down here: both are started alike, and ours must end as theirs does.
"""

from __future__ import annotations

import re
import time

from conformance.agents import OURS, Agent, cluster, member_status
from conformance.gossip_lan import KEY, OTHER_KEY, Start
from conformance.gossip_views import FAST, START_S, NamedChecks, Program, all_see, statuses

SERVER = ("-server", "-bootstrap-expect=1")
NOBODY = "nobody"
"""Stands for an address at which nobody listens."""
GIVE_UP = {
    "retry-join with retry-max": ([f"-retry-join={NOBODY}", "-retry-interval=1s", "-retry-max=2"], "max join LAN", 3),
    "retry-join-wan with retry-max-wan": (
        [*SERVER, f"-retry-join-wan={NOBODY}", "-retry-interval-wan=1s", "-retry-max-wan=1"], "max join WAN", 2,
    ),
    "join": ([f"-join={NOBODY}"], "", 0),
    "join-wan": ([*SERVER, f"-join-wan={NOBODY}"], "", 0),
    "join-wan of a client": ([f"-join-wan={NOBODY}"], "", 0),
}  # fmt: skip
"""Name -> (options, what is said, how many attempts are made)."""
SHORT = '-hcl=advertise_reconnect_timeout = "1s"'
REAPED_S = 45.0


def joining(checks: NamedChecks, real: Program, net: str) -> None:
    """All of it."""
    with cluster(checks) as start:
        lines = give_up_begin(start, real, net)
        late = patient(start, real, net)
        reaped_begin = reconnect_timeout(checks, start, net)
        give_up_end(checks, lines)
        checks.until(
            "ours joins by retry-join a real agent that came later", lambda: sees(late[0], "late-real1"), START_S
        )
        checks.until("a real agent joins ours that came later", lambda: sees(late[1], "late-ours1"), START_S)
        keyring_files(checks, start, real, net)
        watcher, name = reaped_begin
        checks.until(f"{name} is forgotten {REAPED_S:.0f} s after its end", lambda: _forgot(watcher, name), REAPED_S)


def give_up_begin(start: Start, real: Program, net: str) -> list[tuple[str, Agent, Agent]]:
    """Pairs of agents that cannot join."""
    pairs = []
    for number, (step, (words, _, _)) in enumerate(GIVE_UP.items()):
        options = [word.replace(NOBODY, f"{net}.254") for word in words]
        ours = start(OURS, f"give-up-ours{number}", f"{net}.{100 + number}", *options)
        theirs = start(real, f"give-up-real{number}", f"{net}.{120 + number}", *options)
        pairs.append((step, ours, theirs))
    return pairs


def give_up_end(checks: NamedChecks, pairs: list[tuple[str, Agent, Agent]]) -> None:
    """They end alike."""
    for step, ours, theirs in pairs:
        code = theirs.wait()
        checks.equal(f"{step}: ours ends with the real one's exit code", ours.wait(), code)
        _, text, attempts = GIVE_UP[step]
        checks.equal(f"{step}: the exit code is 1", code, 1)
        for agent in (ours, theirs):
            said = [line for line in agent.log_lines() if text and text in line]
            if text:
                tried = sum(") joining" in line for line in agent.log_lines())
                checks.equal(f"{step}: {agent.name} tries {attempts} times", tried, attempts)
                checks.note(
                    f"{step}: {agent.name} says that its attempts are used up",
                    any(f"agent: {text} retry exhausted, exiting" in line for line in said), agent.log_lines()[-5:],
                )  # fmt: skip


def patient(start: Start, real: Program, net: str) -> tuple[Agent, Agent]:
    """(ours, theirs): each waits for the other make, which starts a little later."""
    retry = ("-retry-interval=1s", FAST)
    ours = start(OURS, "late-ours2", f"{net}.2", f"-retry-join={net}.3", *retry)
    theirs = start(real, "late-real2", f"{net}.4", f"-retry-join={net}.5", *retry)
    time.sleep(3)
    start(real, "late-real1", f"{net}.3")
    start(OURS, "late-ours1", f"{net}.5")
    return ours, theirs


def sees(agent: Agent, name: str) -> bool:
    """Whether it has that member alive."""
    return member_status(agent, name) == "alive"


def reconnect_timeout(checks: NamedChecks, start: Start, net: str) -> tuple[Agent, str]:
    """A client that wants to be forgotten early is killed; (who watches, its name)."""
    watcher = start(OURS, "watcher", f"{net}.6", *SERVER, FAST)
    client = start(OURS, "short", f"{net}.7", f"-retry-join={net}.6", "-retry-interval=1s", SHORT)
    all_see(checks, [watcher], "short", "alive")
    tags = {row["Name"]: row["Tags"] for row in watcher.get("/v1/agent/members") or ()}
    checks.equal("a client advertises its reconnect timeout", tags.get("short", {}).get("rc_tm"), "1s")
    client.kill()
    return watcher, "short"


def _forgot(watcher: Agent, name: str) -> bool:
    return bool(seen := statuses(watcher)) and name not in seen


def keyring_files(checks: NamedChecks, start: Start, real: Program, net: str) -> None:
    """A file that is there wins over -encrypt, and the log says so; files of the first start are alike."""
    warning = "keyring doesn't include key provided with -encrypt, using keyring"
    texts = []
    for program, name, address in ((OURS, "keys-ours", f"{net}.8"), (real, "keys-real", f"{net}.9")):
        first = start(program, name, address, *SERVER, f"-encrypt={KEY}")
        checks.until(f"{name} runs", lambda a=first: a.get("/v1/agent/self"), START_S)
        first.kill()
        folder = first.log_path.parent / f"data-{name}" / "serf"
        files = {path.name: path for path in folder.glob("*.keyring")}
        checks.equal(f"{name} has both keyring files", sorted(files), ["local.keyring", "remote.keyring"])
        texts.append({path.name: (path.read_text(), oct(path.stat().st_mode & 0o777)) for path in files.values()})
        second = start(program, name, address, *SERVER, f"-encrypt={OTHER_KEY}")
        checks.until(
            f"{name} says that the file wins", lambda a=second: any(warning in line for line in a.log_lines()), START_S
        )
        checks.until(
            f"{name} runs with the file's key", lambda a=second: _keys(a) == {KEY}, 30, lambda a=second: _keys(a)
        )
        second.kill()
    checks.equal("keyring files of the first start are equal", texts[0], texts[1])


def _keys(agent: Agent) -> set[str]:
    rows = agent.get("/v1/operator/keyring") or ()
    return {key for row in rows for key in row["Keys"] if re.fullmatch(r"[A-Za-z0-9+/=]+", key)}
