"""What the commands of the legacy RPC do. Knows no bytes and no connection; `server` has those, and the commands that
belong to a connection: `handshake`, `monitor`, `stop`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from pyconsul_agent.agent.delegate import Delegate
from pyconsul_agent.errors import ConsulError, RPCError
from pyconsul_agent.structs.member import Member, MemberStatus
from pyconsul_agent.structs.methods import INTERNAL_KEYRING_OPERATION
from pyconsul_agent.structs.operator import KeyringResponse
from pyconsul_agent.structs.requests import KeyringRequest
from pyconsul_agent.wire.gotypes import base64_problem
from pyconsul_agent.wire.ipc import (
    ForceLeave,
    Join,
    Joined,
    KeyOperation,
    KeyringAnswer,
    KeyringEntry,
    KeyringInfo,
    KeyringMessage,
    Members,
    member_row,
)

LEVELS = ("TRACE", "DEBUG", "INFO", "WARN", "ERR")
"""Names of levels as a monitor of this protocol may ask for them."""

NO_KEYRING = "No keyring to modify (encryption not enabled)"
EMPTY_KEYRING = "Keyring is empty (encryption not enabled)"

_KEY_OPERATIONS = {"install-key": "install", "use-key": "use", "remove-key": "remove", "list-keys": "list"}
LIST_KEYS = "list-keys"


class Tap(Protocol):
    """A subscription to the log; `dropped` counts the lines that did not fit its queue."""

    @property
    def dropped(self) -> int: ...

    def take(self) -> list[str]:
        """Every waiting line, oldest first."""


class OpenTap(Protocol):
    """Subscribes: the backlog, then lines from `level` on. `wake` is called for each."""

    def __call__(self, level: str, wake: Callable[[], None]) -> Tap: ...


@dataclass(frozen=True, slots=True)
class Actions:
    """What the agent can be asked to do. `reload` only starts it."""

    leave: Callable[[], Awaitable[None]]
    reload: Callable[[], None]
    stats: Callable[[], Mapping[str, Mapping[str, str]]]
    open_tap: OpenTap
    close_tap: Callable[[Any], None]


@dataclass(frozen=True, slots=True)
class Answer:
    """An error text, empty for success, and a body for the commands that have one."""

    body: object | None = None
    error: str = ""


@dataclass(frozen=True, slots=True)
class Command:
    """`form` is the request's body; `empty` the body that goes with an error."""

    run: Callable[[Any, str], Awaitable[Answer]]
    form: type | None = None
    empty: object | None = None
    needs_local_peer: bool = True

    async def answer(self, body: object, token: str) -> Answer:
        """Run it; an error of ours becomes its text."""
        try:
            return await self.run(body, token)
        except ConsulError as error:
            return Answer(self.empty, str(error))


class Handlers:
    """The commands that concern the agent, by name in `table`."""

    def __init__(self, delegate: Delegate, actions: Actions, *, datacenter: str) -> None:
        self._delegate = delegate
        self._actions = actions
        self._datacenter = datacenter
        self.table: dict[str, Command] = {
            "members-lan": Command(self._members_lan, empty=Members(members=())),
            "members-wan": Command(self._members_wan, empty=Members(members=())),
            "join": Command(self._join, Join, Joined()),
            "force-leave": Command(self._force_leave, ForceLeave),
            "leave": Command(self._leave),
            "stats": Command(self._stats, empty={}),
            "reload": Command(self._reload),
            **{name: self._key_command(name) for name in _KEY_OPERATIONS},
        }

    async def _members_lan(self, body: object, token: str) -> Answer:
        return Answer(_members(self._delegate.lan_members()))

    async def _members_wan(self, body: object, token: str) -> Answer:
        return Answer(_members(self._delegate.wan_members()))

    async def _join(self, body: Join, token: str) -> Answer:
        addresses = list(body.existing or ())
        if not body.wan:
            return Answer(Joined(num=await self._delegate.join_lan(addresses)))
        if not self._delegate.is_server:
            return Answer(Joined(), "Must be a server to join WAN cluster")
        return Answer(Joined(num=await self._delegate.join_wan(addresses)))

    async def _force_leave(self, body: ForceLeave, token: str) -> Answer:
        try:
            await self._delegate.force_leave(body.node)
        except RPCError as error:
            if "No node found with name" not in str(error):
                raise
            # compat: 0.7 and older said nothing about unknown nodes (test_force_leave_of_an_unknown_node_succeeds)
        return Answer()

    async def _leave(self, body: object, token: str) -> Answer:
        await self._actions.leave()
        return Answer()

    async def _stats(self, body: object, token: str) -> Answer:
        return Answer({section: dict(values) for section, values in self._actions.stats().items()})

    async def _reload(self, body: object, token: str) -> Answer:
        self._actions.reload()
        return Answer()

    # --- keyring ----------------------------------------------------------------------------------------------

    def _key_command(self, name: str) -> Command:
        async def run(body: KeyOperation | None, token: str) -> Answer:
            return Answer(await self._key_operation(name, body or KeyOperation(), token))

        # The servers check the token of these themselves. A body of `list-keys` comes late or never, see `server`.
        form = None if name == LIST_KEYS else KeyOperation
        return Command(run, form, KeyringAnswer(), needs_local_peer=False)

    async def _key_operation(self, name: str, body: KeyOperation, token: str) -> KeyringAnswer:
        if not self._delegate.is_server:
            raise RPCError("keyring operations must run against a server node")
        if self._delegate.stats().get("serf_lan", {}).get("encrypted") != "true":
            return self._without_encryption(name, body.key)
        request = KeyringRequest(
            operation=_KEY_OPERATIONS[name],
            key=body.key,
            datacenter=self._datacenter,
            relay_factor=body.relay_factor,
            token=token,
        )
        reply = await self._delegate.call(INTERNAL_KEYRING_OPERATION, request)
        return keyring_answer(reply.responses or ())

    def _without_encryption(self, name: str, key: str) -> KeyringAnswer:
        """What every node of an unencrypted pool says; pools are encrypted as a whole, so nobody needs to be asked."""
        text = EMPTY_KEYRING if name == LIST_KEYS else NO_KEYRING
        problem = "" if name == LIST_KEYS else base64_problem(key)
        responses = []
        for wan, members in ((True, self._delegate.wan_members()), (False, self._delegate.lan_members())):
            alive = [member.name for member in members if member.status is MemberStatus.ALIVE]
            if not alive:
                continue
            if problem:
                responses.append(KeyringResponse(wan=wan, datacenter=self._datacenter, error=problem))
                continue
            count = len(alive)
            responses.append(
                KeyringResponse(
                    wan=wan,
                    datacenter=self._datacenter,
                    messages=dict.fromkeys(alive, text),
                    num_nodes=count,
                    error=f"{count}/{count} nodes reported failure",
                )
            )
        return keyring_answer(responses)


def _members(members: Sequence[Member]) -> Members:
    return Members(members=tuple(member_row(member) for member in members))


def keyring_answer(responses: Sequence[KeyringResponse]) -> KeyringAnswer:
    """The answers of pools as rows; no rows of a kind is nil."""
    info, keys, messages = [], [], []
    for each in responses:
        pool = "WAN" if each.wan else "LAN"
        where = {"datacenter": each.datacenter, "pool": pool}
        info.append(KeyringInfo(**where, num_nodes=each.num_nodes, error=each.error))
        keys += [KeyringEntry(**where, key=key, count=count) for key, count in (each.keys or {}).items()]
        messages += [KeyringMessage(**where, node=node, message=text) for node, text in (each.messages or {}).items()]
    return KeyringAnswer(info=tuple(info) or None, keys=tuple(keys) or None, messages=tuple(messages) or None)
