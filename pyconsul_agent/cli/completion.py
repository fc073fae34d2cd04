"""Completion for bash, zsh and fish: the shell runs our program with the line so far in COMP_LINE, we print words.

`-autocomplete-install` writes a line into each shell's own start file that exists, `-autocomplete-uninstall` takes it
out again.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TextIO

NAMES = ("consul", "pyconsul")
LINE_VARIABLE, POINT_VARIABLE = "COMP_LINE", "COMP_POINT"
LINE_CHARACTERS_MAX = 64 * 1024
INSTALL, UNINSTALL = "-autocomplete-install", "-autocomplete-uninstall"
ZSH_PREPARE = "autoload -U +X bashcompinit && bashcompinit"

Flags = Callable[[str], Sequence[str]]
"""The flags of a command by its name, without dash."""


def words_for(line: str, commands: Sequence[str], flags_of: Flags) -> list[str]:
    """What may stand at the end of `line`. `commands` are whole names as `kv get`; groups are named alone, too."""
    *done, begun = _split(line[:LINE_CHARACTERS_MAX])
    name = ""
    for word in done[1:]:
        longer = f"{name} {word}".strip()
        if longer not in commands:
            break
        name = longer
    prefix = f"{name} " if name else ""
    if begun.startswith("-"):
        dashes = "--" if begun.startswith("--") else "-"
        return sorted(word for flag in flags_of(name) if (word := f"{dashes}{flag}").startswith(begun))
    if len(done) > 1 + len(name.split()):
        return []  # behind flags and arguments there is no further command
    below = (each.removeprefix(prefix) for each in commands if each.startswith(prefix) and each != name)
    return sorted(word for word in below if " " not in word and word.startswith(begun))


def _split(line: str) -> list[str]:
    """The words of a line; the last one is what has been begun, empty after a blank."""
    try:
        words = shlex.split(line)
    except ValueError:  # an open quote
        words = line.split()
    return [*words, ""] if not words or line[-1:].isspace() else words


# --- installing ----------------------------------------------------------------------------------------------------


def _lines(program: str) -> dict[str, list[str]]:
    """Start file -> lines for it; only files that exist are touched."""
    command = shlex.quote(program)
    return {
        ".bashrc": [f"complete -C {command} {name}" for name in NAMES],
        ".zshrc": [ZSH_PREPARE, *(f"complete -o nospace -C {command} {name}" for name in NAMES)],
    }


def _fish(program: str, name: str) -> str:
    function = f"__complete_{name}"
    return (
        f"function {function}\n"
        "    set -lx COMP_LINE (commandline -cp)\n"
        '    test -z (commandline -ct); and set COMP_LINE "$COMP_LINE "\n'
        f"    {shlex.quote(program)}\n"
        "end\n"
        f'complete -f -c {name} -a "({function})"\n'
    )


def change(arguments: Sequence[str], environ: Mapping[str, str], program: str, err: TextIO) -> int:
    """Install or uninstall, as the argument says; gives the exit code."""
    home = environ.get("HOME", "")
    if not home:
        err.write("Error: HOME is not set\n")
        return 1
    if program.endswith("__main__.py") or not os.path.isabs(program):
        err.write("Error: the shell needs the path of an installed program, not of a module\n")
        return 1
    install = arguments[0].lstrip("-") == INSTALL.lstrip("-")
    try:
        problems = (_install if install else _uninstall)(Path(home), environ, program)
    except OSError as error:
        problems = [f"{error.filename}: {(error.strerror or '').lower()}"]
    for problem in problems:
        err.write(f"Error: {problem}\n")
    return 1 if problems else 0


def _fish_folder(home: Path, environ: Mapping[str, str]) -> Path:
    base = Path(environ["XDG_CONFIG_HOME"]) if environ.get("XDG_CONFIG_HOME") else home / ".config"
    return base / "fish"


def _install(home: Path, environ: Mapping[str, str], program: str) -> list[str]:
    problems, done = [], False
    for file, lines in _lines(program).items():
        path = home / file
        if not path.exists():
            continue
        text = path.read_text(errors="surrogateescape")
        missing = [line for line in lines if line not in text.splitlines()]
        if not [line for line in missing if line != ZSH_PREPARE]:
            problems.append(f"already installed in {path}")
            continue
        before = "" if not text or text.endswith("\n") else "\n"
        with path.open("a") as file_:
            file_.write(before + "".join(f"{line}\n" for line in missing))
        done = True
    fish = _fish_folder(home, environ)
    if fish.is_dir():
        (fish / "completions").mkdir(exist_ok=True)
        for name in NAMES:
            (fish / "completions" / f"{name}.fish").write_text(_fish(program, name))
        done = True
    if not done and not problems:
        problems.append("did not find any shells to install")
    return problems


def _uninstall(home: Path, environ: Mapping[str, str], program: str) -> list[str]:
    done = False
    for file, lines in _lines(program).items():
        path = home / file
        if not path.exists():
            continue
        ours = {line for line in lines if line != ZSH_PREPARE}  # others may need what zsh was prepared for
        text = path.read_text(errors="surrogateescape")
        kept = [line for line in text.splitlines(keepends=True) if line.rstrip("\n") not in ours]
        if len(kept) != len(text.splitlines()):
            path.write_text("".join(kept), errors="surrogateescape")
            done = True
    for name in NAMES:
        path = _fish_folder(home, environ) / "completions" / f"{name}.fish"
        if path.exists():
            path.unlink()
            done = True
    return [] if done else ["did not find any shells to uninstall"]
