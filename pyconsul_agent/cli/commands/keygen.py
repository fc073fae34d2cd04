"""`keygen`: a new gossip key."""

from __future__ import annotations

import base64
import os
from collections.abc import Sequence

from pyconsul_agent.cli.command import Command, Context

KEY_BYTES = 32


def run(context: Context, arguments: Sequence[str]) -> int:
    """Print a random key in base64."""
    context.say(base64.b64encode(os.urandom(KEY_BYTES)).decode())
    return 0


KEYGEN = Command(
    "consul keygen",
    "Generates a new encryption key for gossip, to be given as `-encrypt` to every agent of a cluster.",
    run,
)
