"""`python -m pyconsul_agent`: the command line."""

import signal

# From the first line on, Ctrl-C ends the program as it ends any other, without a traceback out of an import.
signal.signal(signal.SIGINT, signal.SIG_DFL)

from pyconsul_agent.cli.main import main  # noqa: E402

raise SystemExit(main())
