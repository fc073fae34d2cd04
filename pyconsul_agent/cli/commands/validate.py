"""`validate` and its old name `configtest`: judge configuration files without starting an agent."""

from __future__ import annotations

from collections.abc import Sequence

from pyconsul_agent.cli.command import Command, Context
from pyconsul_agent.cli.flags import Flag
from pyconsul_agent.errors import ConfigError


def _warnings(context: Context, paths: Sequence[str], config_format: str) -> list[str]:
    """The warnings about a configuration that is valid. Raises ConfigError."""
    from pyconsul_agent.config.configure import configure
    from pyconsul_agent.config.sources import Sources
    from pyconsul_agent.config.validate import start_warnings

    env = context.make_env()
    sources = Sources(paths=tuple(paths), config_format=config_format, environ=context.environ)
    return start_warnings(
        configure(sources, files=env.files, interfaces=env.interfaces.addresses(), hostname=env.hostname)
    )


def run(context: Context, paths: Sequence[str]) -> int:
    """Say whether the files are valid."""
    if not paths:
        return context.complain("Must specify at least one config file or directory")
    try:
        warnings = _warnings(context, paths, context.text("config-format"))
    except ConfigError as error:
        return context.complain(f"Config validation failed: {error}")
    if not context.on("quiet"):
        for warning in warnings:
            context.complain(warning)
        context.say("Configuration is valid!")
    return 0


def run_configtest(context: Context, arguments: Sequence[str]) -> int:
    """The 0.5 form: silent when valid."""
    paths = [str(path) for flag in ("config-file", "config-dir") for path in _list(context.values[flag])]
    if not paths:
        return context.complain("Must specify config using -config-file or -config-dir")
    try:
        _warnings(context, paths, "")
    except ConfigError as error:
        return context.complain(f"Config validation failed: {error}")
    return 0


def _list(value: object) -> list[object]:
    return value if isinstance(value, list) else []


VALIDATE = Command(
    "consul validate [options] FILE_OR_DIRECTORY...",
    "Judges configuration files as the agent would at its start.",
    run,
    (
        Flag("config-format", "string", "Format of all files: hcl or json. Unset, by their names."),
        Flag("quiet", "bool", "Say nothing when valid."),
    ),
)
CONFIGTEST = Command(
    "consul configtest [options]",
    "Judges configuration files (the name that `validate` had before 0.8).",
    run_configtest,
    (
        Flag("config-dir", "strings", "Folder of configuration files."),
        Flag("config-file", "strings", "Configuration file."),
    ),
)
