"""What was asked and answered, by generations: keys live for some seconds, are judged together and let go.

So memory does not grow with the run, the search for an order stays short, and what was found wrong is told while the
servers that did it still run. Every operation is also a JSON line in a file, faults between them.
"""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pyconsul_agent.sim.history import Operation

Calm = list[tuple[float, float]]


@dataclass(slots=True)
class Generation:
    """Keys that are used at the same time. `last` is what consistent reads showed when nobody wrote any more."""

    number: int
    keys: list[str]
    operations: list[Operation] = field(default_factory=list)
    under_way: int = 0
    open: bool = True
    last: dict[str, tuple[str | None, int]] = field(default_factory=dict)
    seen: dict[str, int] = field(default_factory=dict)
    """ModifyIndex that some client saw last: guards for others."""
    last_header: dict[str, int] = field(default_factory=dict)
    """The X-Consul-Index that came with it."""
    watchers: dict[int, str] = field(default_factory=dict)
    """By number, who has not seen the last state yet: what it saw instead."""

    def is_last(self, operation: Operation) -> bool:
        """Whether a read shows the last state, or a later one: a write of unknown outcome may come about any time."""
        last = self.last.get(operation.key)
        if last is None:
            return False
        return (operation.read, operation.index) == last or operation.header > self.last_header[operation.key]


class Recorder:
    """The file, and the count of everything."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = path.open("w")
        self.operations = 0
        self.outcomes: dict[str, int] = {}
        self._begin = time.monotonic()

    def begin(self, generation: Generation, operation: Operation) -> None:
        """It is asked now."""
        operation.number = self.operations
        self.operations += 1
        generation.operations.append(operation)
        generation.under_way += 1
        operation.begin = time.monotonic()

    def end(self, generation: Generation, operation: Operation) -> None:
        """All that will ever be known of it is known."""
        generation.under_way -= 1
        self.outcomes[operation.outcome] = self.outcomes.get(operation.outcome, 0) + 1
        self._file.write(line(operation))

    def event(self, what: str, /, **more: Any) -> None:
        """A fault or the like."""
        self._file.write(json.dumps({"event": what, "at": round(time.monotonic(), 4), **more}) + "\n")
        self._file.flush()

    def close(self) -> None:
        self._file.close()


def line(operation: Operation) -> str:
    """One line of JSON, fields without a value left out."""
    fields = {
        name: value
        for name in (each.name for each in dataclasses.fields(Operation))
        if (value := getattr(operation, name)) not in ("", 0, None) or (name == "guard" and value == 0)
    }
    return json.dumps(fields) + "\n"


def read_lines(lines: Iterable[str]) -> tuple[list[Operation], list[dict[str, Any]]]:
    """(operations, events) of a recorded file. Raises ValueError and TypeError for anything else."""
    operations: list[Operation] = []
    events: list[dict[str, Any]] = []
    for text in lines:
        fields = json.loads(text)
        if "event" in fields:
            events.append(fields)
        else:
            operations.append(Operation(**{"number": 0, "worker": 0, **fields}))
    return operations, events
