"""The whole way from what the user said to options that an agent can be started with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from pyconsul_agent.config.options import Options
from pyconsul_agent.config.origins import locating
from pyconsul_agent.config.sources import Sources, load
from pyconsul_agent.config.validate import validate
from pyconsul_agent.env.base import Files, InterfaceAddress


def configure(sources: Sources, *, files: Files, interfaces: Sequence[InterfaceAddress], hostname: str) -> Options:
    """Read, merge, check and complete. Raises ConfigError with one text for the operator."""
    options = load(sources, files)
    directory = options.ui_config.dir
    if directory and not files.is_dir(directory):
        # compat: the image of 2015 had its UI in /ui and people pass `-ui-dir /ui` to this day.
        options = replace(
            options,
            ui_config=replace(options.ui_config, dir="", enabled=True),
            warnings=(*options.warnings, f"ui_dir {directory} does not exist, the built-in UI is used"),
        )
    with locating(options.origins):
        return validate(options, interfaces, hostname)
