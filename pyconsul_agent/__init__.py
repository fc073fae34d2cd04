"""The Consul agent, written anew in Python."""

from pyconsul_agent.version import VERSION as __version__

__all__ = ["__version__"]
