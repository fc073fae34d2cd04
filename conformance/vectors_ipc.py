"""The recorded conversations of the legacy RPC (port 8400), message by message, both ways in their types.

What a hand-made client sent (cases with a note) is only read: it is not written as any client writes it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from conformance.case import Case, Skip, holds, load, same
from pyconsul_agent.wire.ipc import (
    ForceLeave,
    Handshake,
    Join,
    Joined,
    KeyOperation,
    KeyringAnswer,
    LogRecord,
    Members,
    Messages,
    Monitor,
    OldRequestHeader,
    RequestHeader,
    ResponseHeader,
    Stop,
    decode_body,
    decode_header,
    encode,
)
from pyconsul_agent.wire.msgpack import decode, pack, unpack

KEY_COMMANDS = ("list-keys", "install-key", "use-key", "remove-key")
REQUESTS: dict[str, Any] = {
    "handshake": Handshake, "force-leave": ForceLeave, "join": Join, "monitor": Monitor, "stop": Stop,
    **dict.fromkeys(KEY_COMMANDS, KeyOperation),
}  # fmt: skip
ANSWERS: dict[str, Any] = {
    "monitor": LogRecord, "members-lan": Members, "members-wan": Members, "join": Joined,
    **dict.fromkeys(KEY_COMMANDS, KeyringAnswer),
}  # fmt: skip


def message(recorded: dict[str, Any], handmade: bool) -> None:
    """One header or body."""
    data = bytes.fromhex(recorded["hex"])
    from_client = recorded["dir"] == "c2s"
    if recorded["kind"] == "header":
        ours: Any = (
            decode_header(unpack(data), RequestHeader()) if from_client else decode_body(ResponseHeader, unpack(data))
        )
        if from_client and b"Token" not in unpack(data):  # before 0.6
            ours = OldRequestHeader(command=ours.command, seq=ours.seq)
    elif recorded["of"] == "stats":
        # Only read: 0.7 wrote its long texts there in the newer spec.
        same(decode(Mapping[str, Mapping[str, str]], data), recorded["value"], "stats")  # type: ignore[type-abstract]
        return
    else:
        ours = decode_body((REQUESTS if from_client else ANSWERS)[recorded["of"]], unpack(data))
        if isinstance(ours, KeyOperation) and b"RelayFactor" not in unpack(data):  # before 0.7
            ours = {"Key": ours.key}
    if not (handmade and from_client):
        wrote = pack(ours) if isinstance(ours, dict) else encode(ours)
        same(wrote.hex(), recorded["hex"], f"{recorded['dir']} {recorded['kind']} {recorded.get('of', '')}")


def conversation(case: dict[str, Any]) -> None:
    """All messages of a case, alone and cut out of their stream."""
    for connection in case["connections"]:
        typed = [m for m in connection["messages"] if m["kind"] in ("header", "body")]
        for recorded in typed:
            message(recorded, "note" in case)
        for side in ("c2s", "s2c"):
            mine = [bytes.fromhex(m["hex"]) for m in typed if m["dir"] == side]
            cutter, got = Messages(), []
            for at in range(0, len(stream := b"".join(mine)), 7):
                cutter.feed(stream[at : at + 7])
                while (value := cutter.next_value()) is not None:
                    got.append(value[0])
            same(got, [unpack(data) for data in mine], f"{side} values")
            holds(not len(cutter), "bytes are left")


def cases(folder: Path) -> Iterator[Case | Skip]:
    """Every recorded conversation of every version."""
    for path in sorted(folder.glob("consul-*.json")):
        document = load(folder, path.stem)
        for case in document["cases"]:
            yield Case(f"{path.stem} {case['name']}", partial(conversation, case))
