"""Scenario files: blocks of commands, `----`, and what came of them (docs/testing.md#scenario-files)."""

from __future__ import annotations

from typing import Protocol


class Performer(Protocol):
    """Knows the verbs; says in `lines` what happened since that was emptied."""

    lines: list[str]

    def perform(self, words: list[str]) -> None:
        """Do one command."""


def play(performer: Performer, text: str) -> str:
    """Perform a whole file; gives it with the outputs that came."""
    done = []
    for block in text.strip("\n").split("\n\n"):
        commands = [line for line in block.split("\n----")[0].split("\n") if line.strip()]
        performer.lines = []
        for command in commands:
            if not command.startswith("#"):
                performer.perform(command.split())
        head = "\n".join(commands)
        only_comment = all(command.startswith("#") for command in commands)
        done.append(head if only_comment else "\n".join([head, "----", *(performer.lines or ["ok"])]))
    return "\n\n".join(done) + "\n"
