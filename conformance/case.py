"""What a check of recorded bytes is: a named case that passes or raises, or the name of a message that has no code yet.

The command `python -m conformance.vectors` and the tests run the same cases. Nothing here knows what is compared.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

DEFAULT_FOLDER = Path(__file__).resolve().parent / "vectors"
SHOWN_CHARACTERS = 400


class Mismatch(AssertionError):
    """Ours is not what was recorded."""


@dataclass(frozen=True)
class Case:
    """A check by name. `check` returns when all is equal and raises otherwise."""

    name: str
    check: Callable[[], None]


@dataclass(frozen=True)
class Skip:
    """A vector that cannot be compared because `message` has no code yet."""

    name: str
    message: str


def same(ours: object, recorded: object, what: str = "value") -> None:
    """Raise Mismatch unless both are equal."""
    if ours != recorded:
        raise Mismatch(f"{what}: ours is {short(ours)}, recorded is {short(recorded)}")


def holds(condition: object, what: str) -> None:
    """Raise Mismatch unless `condition` is true."""
    if not condition:
        raise Mismatch(what)


def short(value: object) -> str:
    """A value for a message."""
    text = value.hex() if isinstance(value, bytes) else repr(value)
    return text if len(text) <= SHOWN_CHARACTERS else f"{text[:SHOWN_CHARACTERS]}... ({len(text)} characters)"


def load(folder: Path, name: str) -> Any:
    """The JSON file `name` (without its ending) of an area's folder."""
    return json.loads((folder / f"{name}.json").read_text())


def data_of(value: dict[str, Any] | None) -> bytes | None:
    """The data of a recorded log entry: all of it, or its long run described."""
    if value is None:
        return None
    if "hex" in value:
        return bytes.fromhex(value["hex"])
    fill = bytes([value["fill_byte"]]) * value["fill_count"]
    return bytes.fromhex(value["prefix_hex"]) + fill + bytes.fromhex(value["suffix_hex"])
