"""Where configuration comes from: defaults, -dev, files and folders, flags, environment; and in which order.

Later wins: -dev defaults; list-valued flags; -config-file and -config-dir in the order of the command line;
PYCONSUL_LOG_FORMAT; other flags; `-hcl` fragments. Reads files through `env.base.Files`; parses no command line (that
is `cli.flags`).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from pyconsul_agent.config.build import build, check
from pyconsul_agent.config.merge import merge
from pyconsul_agent.config.options import Options
from pyconsul_agent.config.origins import Origins, locating
from pyconsul_agent.env.base import Files
from pyconsul_agent.errors import ConfigError, DecodeError
from pyconsul_agent.wire import hcl

FILE_BYTES_MAX = 4 * 1024 * 1024
"""Largest configuration file."""

FILES_MAX = 4096
"""Most files of one folder."""

LOG_FORMAT_VARIABLE = "PYCONSUL_LOG_FORMAT"

DEV_DEFAULTS: Mapping[str, Any] = {
    "bind_addr": "127.0.0.1",
    "disable_anonymous_signature": True,
    "disable_keyring_file": True,
    "disable_update_check": True,
    "enable_debug": True,
    "log_level": "DEBUG",
    "server": True,
    "connect": {"enabled": True},
    "performance": {"raft_multiplier": 1},
    "ui_config": {"enabled": True},
    "ports": {"grpc": 8502},
    "gossip_lan": {
        "gossip_interval": "100ms",
        "probe_interval": "100ms",
        "probe_timeout": "100ms",
        "suspicion_mult": 3,
    },
    "gossip_wan": {
        "gossip_interval": "100ms",
        "probe_interval": "100ms",
        "probe_timeout": "100ms",
        "suspicion_mult": 3,
    },
}


@dataclass(frozen=True, slots=True)
class Sources:
    """What the command line and the environment say, in the spelling of configuration keys.

    `list_flags` come before the files and `flags` after them; `paths` are the -config-file and -config-dir values in
    order; `fragments` are the -hcl values.
    """

    flags: Mapping[str, Any] = field(default_factory=dict)
    list_flags: Mapping[str, Any] = field(default_factory=dict)
    paths: Sequence[str] = ()
    fragments: Sequence[str] = ()
    config_format: str = ""
    dev_mode: bool = False
    environ: Mapping[str, str] = field(default_factory=dict)
    warnings: Sequence[str] = ()


def load(sources: Sources, files: Files) -> Options:
    """Read everything and build the options; not yet validated. Raises ConfigError with Consul's texts."""
    if sources.config_format not in ("", "json", "hcl"):
        raise ConfigError("-config-format must be either 'hcl' or 'json'")
    warnings = list(sources.warnings)
    parts: list[Mapping[str, Any]] = []
    if sources.dev_mode:
        parts.append(DEV_DEFAULTS)
    parts.append(sources.list_flags)
    read = []
    for name, text, kind in _files(sources, files, warnings):
        read.append((name, text))
        checked, more = parse_file(name, text, kind)
        parts.append(checked)
        warnings += more
    if sources.environ.get(LOG_FORMAT_VARIABLE):
        parts.append({"log_format": sources.environ[LOG_FORMAT_VARIABLE]})
    parts.append(sources.flags)
    for index, fragment in enumerate(sources.fragments):
        checked, more = parse_file(f"flags.hcl.{index}" if index else "flags.hcl", fragment, "hcl")
        parts.append(checked)
        warnings += more
    origins = Origins(tuple(read))
    with locating(origins):
        options = build(merge(parts), warnings=tuple(warnings), dev_mode=sources.dev_mode)
    return replace(options, origins=origins)


def parse_file(name: str, text: str, format: str) -> tuple[dict[str, Any], list[str]]:
    """Decode and check one source. Raises ConfigError naming it."""
    try:
        raw = _decode_json(text) if format == "json" else hcl.plain(hcl.parse(text))
        return check(raw)
    except (ConfigError, DecodeError) as error:
        raise ConfigError(f"failed to parse {name}: {error}") from error


def _decode_json(text: str) -> Mapping[str, Any]:
    try:
        value = json.loads(text)
    except RecursionError:
        raise ConfigError("exceeded max depth") from None
    except ValueError as error:
        at_end = isinstance(error, json.JSONDecodeError) and error.pos >= len(text.rstrip())
        raise ConfigError("unexpected end of JSON input" if at_end else f"invalid JSON: {error}") from None
    if not isinstance(value, dict):
        raise ConfigError("json: cannot unmarshal into Go value of type map[string]interface {}")
    return value


def _files(sources: Sources, files: Files, warnings: list[str]) -> Iterable[tuple[str, str, str]]:
    """(name, text, format) of every file, in order."""
    for path in sources.paths:
        if files.is_dir(path):
            names = sorted(files.list_dir(path), key=lambda name: name.encode("utf-8", "surrogateescape"))
            if len(names) > FILES_MAX:
                raise ConfigError(f"config: more than {FILES_MAX} files in {path}")
            paths = [f"{path.rstrip('/')}/{name}" for name in names]
            # A folder that is missing is an error; what a folder holds besides files is not ours.
            chosen = [inner for inner in paths if not files.is_dir(inner)]
            for odd in [inner for inner in chosen if files.exists(inner) and not files.is_file(inner)]:
                warnings.append(f"skipping file {odd}, it is no regular file")  # a pipe would be waited for
                chosen.remove(odd)
        else:
            if not files.exists(path):  # a typing error in the name must not start an agent without its configuration
                raise ConfigError(_missing(path))
            chosen = [path]
        for name in chosen:
            kind = sources.config_format or _format_of(name)
            if not kind:
                warnings.append(f"skipping file {name}, extension must be .hcl or .json, or config format must be set")
                continue
            text = _read(name, files)
            if text.strip():
                yield name, text, kind


def _format_of(name: str) -> str:
    return next((ending for ending in ("json", "hcl") if name.endswith(f".{ending}")), "")


def _missing(name: str) -> str:
    return f"config: Open failed on {name}. open {name}: no such file or directory"


def _read(name: str, files: Files) -> str:
    try:
        data = files.read(name, bytes_max=FILE_BYTES_MAX + 1)  # the size of a pipe is not known before
        if len(data) > FILE_BYTES_MAX:
            raise ConfigError(f"config: {name} is larger than {FILE_BYTES_MAX} bytes")
        return data.decode("utf-8")
    except FileNotFoundError:
        raise ConfigError(_missing(name)) from None
    except OSError as error:
        raise ConfigError(f"config: Open failed on {name}. open {name}: {(error.strerror or '').lower()}") from None
    except UnicodeDecodeError:
        raise ConfigError(f"failed to parse {name}: not UTF-8 text") from None
