"""`python -m pyconsul_agent`, and the installed programs: the command line."""

import _signal  # type: ignore[import-not-found]

# While modules are still being imported, an interrupt ends the process as it ends any other program.
if _signal.getsignal(_signal.SIGINT) is _signal.default_int_handler:
    _signal.signal(_signal.SIGINT, _signal.SIG_DFL)

from pyconsul_agent.cli.main import main

if __name__ == "__main__":
    raise SystemExit(main())
