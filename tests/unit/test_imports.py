"""The layers of docs/architecture.md, enforced: imports go down only, pure rooms touch no operating system."""

import ast
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[2] / "pyconsul_agent"

# room -> rooms it may import (besides itself). A module `a.b` belongs to the most specific room named here.
ALLOWED: dict[str, set[str]] = {
    "version": set(),
    "errors": set(),
    "structs": {"errors"},
    "wire": {"structs", "errors", "version"},
    "swim": {"wire", "structs", "errors"},
    "serf": {"swim", "wire", "structs", "errors"},
    "raft": {"wire", "structs", "errors"},
    "state": {"wire", "structs", "errors"},
    "fsm": {"state", "wire", "structs", "errors"},
    "acl": {"wire", "structs", "errors"},
    "query": {"wire", "structs", "errors"},
    "watch": {"wire", "structs", "errors"},
    "env": {"errors"},
    "telemetry": {"env", "structs", "errors", "version"},
    "config": {"env", "wire", "structs", "errors", "version"},
    "runtime": {"env", "telemetry", "serf", "swim", "raft", "wire", "structs", "errors", "version"},
    "server": {
        "env",
        "telemetry",
        "runtime",
        "fsm",
        "state",
        "acl",
        "query",
        "raft",
        "serf",
        "swim",
        "wire",
        "structs",
        "errors",
        "version",
    },
    "client": {"env", "telemetry", "runtime", "serf", "swim", "wire", "structs", "errors", "version"},
    "agent": {"env", "telemetry", "serf", "acl", "query", "watch", "wire", "structs", "errors", "version"},
    "interfaces": {"env", "telemetry", "agent", "acl", "query", "wire", "structs", "errors", "version"},
    "app": {
        "serf",
        "swim",
        "env",
        "telemetry",
        "config",
        "interfaces",
        "agent",
        "server",
        "client",
        "runtime",
        "watch",
        "wire",
        "structs",
        "errors",
        "version",
    },
    "cli": {"env", "config", "telemetry", "query", "watch", "wire", "structs", "errors", "version"},
    "cli.commands.agent": {"app", "cli", "env", "config", "telemetry", "structs", "errors", "version"},
}
SEES_EVERYTHING = {"sim", "simulate", "testing", "__main__", "__init__"}
PURE = {"structs", "wire", "swim", "serf", "raft", "state", "fsm", "acl", "query", "watch"}
PURE_MODULES = {
    "config.merge", "agent.local", "agent.cache_table", "agent.checks.status",
    "interfaces.dns.finish", "interfaces.dns.plan", "interfaces.dns.resolve",
}  # fmt: skip
OPERATING_SYSTEM = {
    "asyncio", "time", "secrets", "uuid", "socket", "ssl", "subprocess", "threading", "signal", "os", "select",
    "shutil", "tempfile", "pathlib", "sqlite3", "multiprocessing", "concurrent", "aiohttp", "uvloop", "logging",
}  # fmt: skip
FORBIDDEN_OUTSIDE_ENV = {"time", "random", "secrets", "uuid", "socket", "subprocess", "threading", "signal"}


def modules():
    for path in sorted(PACKAGE.rglob("*.py")):
        name = ".".join(path.relative_to(PACKAGE).with_suffix("").parts)
        yield name.removesuffix(".__init__"), path


def room_of(module):
    parts = module.split(".")
    for length in range(len(parts), 0, -1):
        candidate = ".".join(parts[:length])
        if candidate in ALLOWED:
            return candidate
    return parts[0]


def imports_of(path):
    """(module, line, type-checking only or not) of every import, relative ones refused."""
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, node.lineno
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: relative import"
            yield node.module, node.lineno


def test_imports_go_down_only():
    wrong = []
    for module, path in modules():
        room = room_of(module)
        if module.split(".")[0] in SEES_EVERYTHING:
            continue
        for imported, line in imports_of(path):
            if not imported.startswith("pyconsul_agent."):
                continue
            target = room_of(imported.removeprefix("pyconsul_agent."))
            if target != room and target not in ALLOWED[room]:
                wrong.append(f"{module}:{line} imports {imported}")
    assert not wrong, "\n".join(wrong)


def test_pure_rooms_do_not_touch_the_operating_system():
    wrong = []
    for module, path in modules():
        if module.split(".")[0] not in PURE and module not in PURE_MODULES:
            continue
        wrong += [
            f"{module}:{line} imports {name}"
            for name, line in imports_of(path)
            if name.split(".")[0] in OPERATING_SYSTEM
        ]
    assert not wrong, "\n".join(wrong)


def test_clock_randomness_and_sockets_are_reached_through_env():
    wrong = []
    for module, path in modules():
        if module.split(".")[0] in {"env", "sim", "cli"}:
            continue
        for name, line in imports_of(path):
            # `random.Random` is how a core names the generator that is handed to it.
            if name == "random" and "random." in path.read_text() and "random.Random" in path.read_text():
                uses = {
                    n.attr
                    for n in ast.walk(ast.parse(path.read_text()))
                    if isinstance(n, ast.Attribute) and isinstance(n.value, ast.Name) and n.value.id == "random"
                }
                if uses <= {"Random"}:
                    continue
            if name.split(".")[0] in FORBIDDEN_OUTSIDE_ENV:
                wrong.append(f"{module}:{line} imports {name}")
    assert not wrong, "\n".join(wrong)


def test_timeouts_are_those_of_env():
    """Those of asyncio fail where Debian 12's Python runs us, see env/timeouts.py."""
    wrong = []
    for module, path in modules():
        wrong += [
            f"{module}:{node.lineno} uses asyncio.{node.attr}"
            for node in ast.walk(ast.parse(path.read_text()))
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "asyncio"
            if node.attr in {"timeout", "timeout_at", "Timeout"} and module != "env.timeouts"
        ]
    assert not wrong, "\n".join(wrong)


def test_every_room_is_on_the_map():
    for module, _ in modules():
        top = module.split(".")[0]
        assert top in SEES_EVERYTHING or room_of(module) in ALLOWED, f"{module} is in no room"
