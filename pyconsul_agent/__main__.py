"""`python -m pyconsul_agent`: the command line."""

from pyconsul_agent.cli.main import main

raise SystemExit(main())
