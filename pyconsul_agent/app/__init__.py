"""The composition of an agent: options and Env to a running agent, and the process around it. No other behavior."""

from pyconsul_agent.app.process import run

__all__ = ["run"]
