"""Versions: our own, the Consul that we claim to be on the wire, and the protocol versions that we speak."""

from __future__ import annotations

VERSION = "0.1.0"
"""This project's release."""

CONSUL_VERSION = "1.10.11"
"""The reference version, told to peers and users (`build` tag, `/v1/agent/self`)."""

CONSUL_REVISION = ""
"""The revision part of the `build` tag (`1.10.11:<revision>`); ours has none."""

PROTOCOL_VERSION_MIN = 2
PROTOCOL_VERSION = 2
PROTOCOL_VERSION_MAX = 3
"""Consul protocol versions (`vsn_min`, `vsn`, `vsn_max` tags)."""

RAFT_PROTOCOL_VERSION = 3
"""Raft protocol that we send; 2 and 3 are accepted."""
