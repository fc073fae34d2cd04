"""At a server's start: the operator's `raft/peers.json`, if there is one, becomes the raft configuration."""

from __future__ import annotations

from collections.abc import Callable

from pyconsul_agent.env.base import Env
from pyconsul_agent.env.log import Log
from pyconsul_agent.errors import ConfigError, RaftError
from pyconsul_agent.fsm.machine import StateMachine
from pyconsul_agent.runtime import raft_recovery
from pyconsul_agent.runtime.raft_storage import RaftStorage
from pyconsul_agent.state.store import Store


async def recover_if_asked(env: Env, directory: str, make_storage: Callable[[], RaftStorage], log: Log) -> bool:
    """Carry out what `<directory>/peers.json` asks for, before raft starts; whether there was something to do.

    `make_storage` gives a storage that nobody else uses: it is used up. Raises ConfigError (the file), RaftError
    (nothing to recover), StorageError. The file is removed last, so that a crash in between repeats the whole.
    """
    files = env.files
    is_relic = files.exists(f"{directory}/peers.json") and not files.exists(f"{directory}/peers.info")
    try:
        configuration = raft_recovery.requested_configuration(files, directory)
    except ConfigError as error:
        raise ConfigError(f"recovery failed to parse {error}") from None
    if is_relic:
        log.warn("peers.json was there before the first start and is removed, see peers.info", path=directory)
    if configuration is None:
        return False
    storage = make_storage()
    worker = env.blocking.worker("raft recovery")
    try:
        machine = StateMachine(Store(), env.clock.monotonic, warn=lambda text: log.warn(text))
        await raft_recovery.recover(storage, machine, configuration, blocking=worker, log=log)
    except RaftError as error:
        raise RaftError(f"recovery failed: {error}") from error
    finally:
        await storage.close()
        await worker.close()
    raft_recovery.finished(files, directory)
    return True
