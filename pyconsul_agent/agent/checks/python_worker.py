"""One run of a Python check: `python_worker.py module:function`. Started by the agent, never imported by it.

The function takes nothing and may be `async`. What it returns is the check's result:

| returned                        | status                                    | output      |
|---------------------------------|-------------------------------------------|-------------|
| `None`, `True`                  | passing                                   |             |
| `False`                         | critical                                  |             |
| text                            | passing                                   | the text    |
| `(status, text)`                | `"passing"`, `"warning"` or `"critical"`  | the text    |
| an exception                    | critical                                  | its text    |

What it prints comes before the text. The exit code is a script's: 0, 1, 2. Imports nothing of the agent, so that a
check cannot reach into it, and starts soon.
"""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Sequence

CODES = {"passing": 0, "warning": 1, "critical": 2}


def called(target: str) -> object:
    """What the function named by `module:function` returns."""
    module, _, name = target.partition(":")
    function: object = importlib.import_module(module)
    for part in name.split("."):
        function = getattr(function, part)
    if not callable(function):
        raise TypeError(f"{target} is no function")
    result: object = function()
    if inspect.isawaitable(result):
        import asyncio

        async def whole(waiting: object = result) -> object:
            return await waiting  # type: ignore[misc]

        return asyncio.run(whole())
    return result


def judged(result: object) -> tuple[str, str]:
    """(status, output) of what a function returned. Raises TypeError for what is no result."""
    if result is None or result is True:
        return "passing", ""
    if result is False:
        return "critical", ""
    if isinstance(result, str):
        return "passing", result
    if isinstance(result, tuple) and len(result) == 2 and result[0] in CODES:
        return str(result[0]), str(result[1])
    raise TypeError(f"a check returns nothing, a bool, a text or (status, text), not {result!r:.200}")


def main(arguments: Sequence[str]) -> int:
    """Run it; the exit code."""
    try:
        status, output = judged(called(arguments[0]))
    except (Exception, SystemExit) as error:  # the edge of the process: whatever it was, the check has failed
        status, output = "critical", f"{type(error).__name__}: {error}"
    sys.stdout.flush()
    sys.stdout.buffer.write(output.encode("utf-8", "replace"))
    sys.stdout.buffer.flush()
    return CODES[status]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
