"""What the consoles of the article's agents show, in the classic format: patterns, in order. Pure text, no I/O."""

from __future__ import annotations

import re
from collections.abc import Sequence

from conformance.article_backend import Ports

TS = r"\d{4}/\d\d/\d\d \d\d:\d\d:\d\d"
IP = r"\d+\.\d+\.\d+\.\d+"

Pattern = str | tuple[str, ...]
"""One line's pattern; a tuple's lines may come in any order among themselves."""


def missing(lines: Sequence[str], patterns: Sequence[Pattern]) -> str:
    """Empty when the patterns are found in order, other lines between them; else which one is not, and where."""
    at = 0
    for pattern in patterns:
        group = (pattern,) if isinstance(pattern, str) else pattern
        used: list[int] = []
        for one in group:
            found = next(
                (i for i in range(at, len(lines)) if i not in used and re.search(one, lines[i])),
                None,
            )
            if found is None:
                earlier = any(re.search(one, line) for line in lines)
                where = "only earlier, out of order" if earlier else "nowhere"
                after = lines[at - 1] if at else "the beginning"
                return f"no line {one!r} after {after!r} ({where})"
            used.append(found)
        at = max(used) + 1
    return ""


def log(level: str, text: str) -> str:
    """Pattern of a whole classic log line; `text` is a pattern too."""
    return rf"^ {{4}}{TS} \[{level}\] {text}$"


def info(text: str) -> str:
    """A line of level INFO."""
    return log("INFO", text)


def banner(name: str, *, server: bool, bootstrap: bool, ports: Ports, opening: Sequence[Pattern] = ()) -> list[Pattern]:
    """The classic start-up screen, from its first line to the empty one before the log."""
    mode = f"{'true' if server else 'false'} \\(bootstrap: {'true' if bootstrap else 'false'}\\)"
    return [
        *opening,
        r"^==> Consul agent running!$",
        rf"^         Node name: '{name}'$",
        r"^        Datacenter: 'dc1'$",
        rf"^            Server: {mode}$",
        rf"^       Client Addr: {IP} \(HTTP: {ports.http}, HTTPS: -1, DNS: {ports.dns}, RPC: (-1|{ports.rpc})\)$",
        rf"^      Cluster Addr: {IP} \(LAN: {ports.lan}, WAN: {ports.wan}\)$",
        r"^    Gossip encrypt: false, RPC-TLS: false, TLS-Incoming: false$",
        r"^             Atlas: <disabled>$",
        r"^$",
        r"^==> Log data will now stream in as it occurs:$",
        r"^$",
    ]


STARTING: list[Pattern] = [r"^==> Starting Consul agent\.\.\.$", r"^==> Starting Consul agent RPC\.\.\.$"]


def one_server(name: str, ip: str, ports: Ports) -> list[Pattern]:
    """Section 1: the log of a server with -bootstrap."""
    address = re.escape(f"{ip}:{ports.server}")
    return [
        (
            info(rf"serf: EventMemberJoin: {name} {re.escape(ip)}"),
            info(rf"serf: EventMemberJoin: {name}\.dc1 {re.escape(ip)}"),
            info(rf"raft: Node at {address} \[Follower\] entering Follower state"),
            info(rf"consul: adding server {name} \(Addr: {address}\) \(DC: dc1\)"),
            info(rf"consul: adding server {name}\.dc1 \(Addr: {address}\) \(DC: dc1\)"),
        ),
        *election(name, ip, ports, tally=1),
    ]


def election(name: str, ip: str, ports: Ports, *, tally: int) -> list[Pattern]:
    """From candidate to leader."""
    address = re.escape(f"{ip}:{ports.server}")
    return [
        info(rf"raft: Node at {address} \[Candidate\] entering Candidate state"),
        info(rf"raft: Election won\. Tally: {tally}"),
        info(rf"raft: Node at {address} \[Leader\] entering Leader state"),
        info(r"consul: cluster leadership acquired"),
        info(rf"consul: New leader elected: {name}"),
    ]


def joined(name: str) -> str:
    """The leader has put a member into the catalog."""
    return info(rf"consul: member '{name}' joined, marking health alive")


def removed(name: str, ip: str, ports: Ports) -> tuple[str, str]:
    """Any agent's two lines about a server that has left."""
    address = re.escape(f"{ip}:{ports.server}")
    return (
        info(rf"serf: EventMemberLeave: {name} {re.escape(ip)}"),
        info(rf"consul: removing server {name} \(Addr: {address}\) \(DC: dc1\)"),
    )


def leaving_leader(name: str, ip: str, ports: Ports, others: Sequence[str]) -> list[Pattern]:
    """Section 4: the console of the leader that is told to stop."""
    address = re.escape(f"{ip}:{ports.server}")
    aborted = [info(rf"raft: aborting pipeline replication to peer {re.escape(o)}:{ports.server}") for o in others]
    return [
        r"^==> Caught signal: (terminated|interrupt)$",
        r"^==> Gracefully shutting down agent\.\.\.$",
        info(r"consul: server starting leave"),
        info(rf"raft: Node at {address} \[Follower\] entering Follower state"),
        (
            info(r"consul: cluster leadership lost"),
            info(rf"serf: EventMemberLeave: {name}\.dc1 {re.escape(ip)}"),
            *aborted,
        ),
        info(rf"consul: removing server {name}\.dc1 \(Addr: {address}\) \(DC: dc1\)"),
        *removed(name, ip, ports),
        info(r"agent: requesting shutdown"),
        info(r"consul: shutting down server"),
        info(r"agent: shutdown complete"),
    ]  # fmt: skip
