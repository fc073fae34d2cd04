"""The raft core: inputs to the rule that handles them, effects out. It holds no rule itself.

It must not know clock, disk, network or state machine; see `raft.types` for the contract with its driver.
"""

from __future__ import annotations

import random

from pyconsul_agent.raft.config import RaftConfig
from pyconsul_agent.raft.types import Change, Done, InitialState, LogReader, Ready, Role
from pyconsul_agent.structs.base import GoTime
from pyconsul_agent.structs.raft import (
    Configuration,
    RaftRequest,
    RaftResponse,
    Server,
    SnapshotMeta,
)


class Raft:
    """One server's part in the consensus protocol.

    Every input takes `now` (monotonic seconds, never smaller than before). After any input call `ready` until it
    gives None, and arm one timer for the latest `ready.deadline` (or the property `deadline`).
    """

    def __init__(
        self, config: RaftConfig, me: Server, initial: InitialState, reader: LogReader, rng: random.Random, now: float
    ) -> None:
        """`me` is this server's ID and advertised "ip:port" (its suffrage is not looked at)."""
        raise NotImplementedError

    # -- inputs of peers and time -------------------------------------------------------------------------------
    def receive(self, token: int, request: RaftRequest, now: float) -> None:
        """Take a peer's request; exactly one Reply with `token` comes out of a later Ready.

        For an InstallSnapshotRequest the driver has received all `size` bytes before it calls this.
        """
        raise NotImplementedError

    def received_reply(self, sequence: int, reply: RaftResponse | str | None, now: float) -> None:
        """Take the answer to the Request `sequence`: the object, the peer's error text, or None when it got lost.

        Must be called once for every Request. Unknown sequences (of an earlier role) are ignored.
        """
        raise NotImplementedError

    def peer_reachable(self, server_id: str, now: float) -> None:
        """Something was heard of this server (it dialed us, gossip says alive): its back-off ends."""
        raise NotImplementedError

    def peer_refused(self, server_id: str, now: float) -> None:
        """Evidence of death: all connections with this server ended and a new dial was refused (not timed out)."""
        raise NotImplementedError

    def tick(self, now: float) -> None:
        """Time has passed; call at `deadline` (earlier does no harm)."""
        raise NotImplementedError

    # -- inputs of our own server -------------------------------------------------------------------------------
    def bootstrap(self, configuration: Configuration, now: float) -> None:
        """Give a virgin server its first configuration (entry 1, term 1). ValueError when there is any state."""
        raise NotImplementedError

    def propose(
        self,
        kind: int,
        data: bytes | None,
        now: float,
        extensions: bytes | None = None,
        appended_at: GoTime = GoTime(),  # noqa: B008 -- frozen
    ) -> int:
        """Propose an entry (EntryType COMMAND, BARRIER); its ticket is answered when committed and given out."""
        raise NotImplementedError

    def change(self, change: Change, now: float) -> int:
        """Change the membership; answered when the configuration entry is committed. ValueError-texts as RaftError."""
        raise NotImplementedError

    def transfer(self, now: float, target: str = "") -> int:
        """Hand leadership to the server with ID `target`, or the voter that is furthest; answered when handed over."""
        raise NotImplementedError

    def verify(self, now: float) -> int:
        """Prove leadership by a round of heartbeats sent after this call; `Answer.index` is the commit index then."""
        raise NotImplementedError

    def snapshot_taken(self, meta: SnapshotMeta, now: float) -> None:
        """The driver stored a snapshot of the state machine at `meta.index`; the log may be cut."""
        raise NotImplementedError

    def begin_restore(self, now: float) -> SnapshotMeta:
        """Start a user restore on the leader: no proposals until `restored`. Gives the index, term and configuration
        the restored snapshot must be stored under. NotLeader otherwise."""
        raise NotImplementedError

    def restored(self, meta: SnapshotMeta | None, now: float) -> None:
        """The user restore ended: `meta` is stored and loaded and the stored log is empty; None: it failed."""
        raise NotImplementedError

    def stop(self, now: float) -> None:
        """End all tickets with LeadershipLost and stay silent from now on."""
        raise NotImplementedError

    # -- effects ------------------------------------------------------------------------------------------------
    def ready(self, now: float) -> Ready | None:
        """The next round of effects, None if there is nothing to do before `deadline`.

        While a Ready with `must_sync` has not been answered by `advance`, the Readies given have nothing to store,
        no `after_sync` and no `committed`: the driver may go on answering heartbeats while the disk works.
        """
        raise NotImplementedError

    def advance(self, done: Done, now: float) -> None:
        """The Ready with `must_sync` has been stored. Call it once for each of those and never for others."""
        raise NotImplementedError

    # -- what others may see ------------------------------------------------------------------------------------
    @property
    def deadline(self) -> float | None:
        """When `tick` must be called at the latest."""
        raise NotImplementedError

    @property
    def role(self) -> Role:
        """Follower, candidate or leader."""
        raise NotImplementedError

    @property
    def term(self) -> int:
        """Current term (perhaps not durable yet)."""
        raise NotImplementedError

    @property
    def leader_address(self) -> str:
        """The known leader's address, "" if none."""
        raise NotImplementedError

    @property
    def leader_id(self) -> str:
        """The known leader's ID, "" if unknown."""
        raise NotImplementedError

    @property
    def commit_index(self) -> int:
        """Highest index known to be committed."""
        raise NotImplementedError

    @property
    def last_index(self) -> int:
        """Highest index of log or snapshot, durable or not."""
        raise NotImplementedError

    @property
    def last_term(self) -> int:
        """Term of `last_index`."""
        raise NotImplementedError

    @property
    def configuration(self) -> Configuration:
        """The latest configuration, committed or not; without servers before bootstrap or first contact."""
        raise NotImplementedError

    @property
    def configuration_index(self) -> int:
        """Index of the latest configuration, 0 if there is none."""
        raise NotImplementedError

    @property
    def committed_configuration(self) -> tuple[int, Configuration]:
        """(index, configuration) that a snapshot must carry."""
        raise NotImplementedError

    @property
    def snapshot(self) -> SnapshotMeta | None:
        """The newest snapshot known."""
        raise NotImplementedError

    def last_contact(self, now: float) -> float | None:
        """Seconds since the leader was heard (0 for the leader itself), None: never."""
        raise NotImplementedError

    def lease_valid(self, now: float) -> bool:
        """Whether this leader may answer a default read without a round (promise P3).

        Ask again just before the answer is written: it must still be so then.
        """
        raise NotImplementedError
