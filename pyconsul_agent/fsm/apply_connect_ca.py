"""Commands of Connect's certificate authority."""

from __future__ import annotations

from typing import Any

from pyconsul_agent.errors import RPCError
from pyconsul_agent.state import connect_ca
from pyconsul_agent.state.store import Txn
from pyconsul_agent.structs.connect_ca import CAConfiguration, CAConsulProviderState, CARequest
from pyconsul_agent.wire.msgpack import decode


def apply(txn: Txn, body: bytes) -> Any:
    """The result of one command: a bool, a serial number, or nothing. Raises RPCError."""
    request = decode(CARequest, body)
    txn.op = request.op
    config = request.config or CAConfiguration()
    state = request.provider_state or CAConsulProviderState()
    match request.op:
        case "set-config":
            compare = config.modify_index != 0
            done = connect_ca.set_config(txn, config, compare=compare)
            return done if compare else None
        case "set-roots":
            return connect_ca.set_roots(txn, request.index, request.roots or ())
        case "set-roots-config":
            return _roots_and_config(txn, request, config)
        case "set-provider-state":
            return connect_ca.set_provider_state(txn, state)
        case "delete-provider-state":
            return connect_ca.delete_provider_state(txn, state.id)
        case "increment-provider-serial":
            return connect_ca.next_serial(txn)
    raise RPCError(f"Invalid CA operation '{request.op}'")


def _roots_and_config(txn: Txn, request: CARequest, config: CAConfiguration) -> bool | RPCError:
    if not connect_ca.set_roots(txn, request.index, request.roots or ()):
        return False
    try:
        return connect_ca.set_config(txn, config, compare=True)
    except RPCError as error:
        return error  # returned, not raised: as in the original, the roots are kept
