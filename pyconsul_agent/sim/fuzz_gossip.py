"""Bytes that no agent sends, for a member: mutated packets and streams through decoders and both cores.

Whatever comes, only DecodeError may come out of a decoder and nothing out of a core, and what a member keeps stays
within its bounds. Everything follows from the seed; `scripts/fuzz gossip` counts, `run_one` repeats one life.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from pyconsul_agent.errors import DecodeError
from pyconsul_agent.runtime.gossip_cipher import AESCipher
from pyconsul_agent.serf.config import INTENTS_MAX, SerfConfig
from pyconsul_agent.serf.consul import AgentTags, LanRules, client_tags
from pyconsul_agent.serf.core import Serf
from pyconsul_agent.serf.effects import QueryReceived, SendUser
from pyconsul_agent.structs.coordinate import VivaldiCoordinate
from pyconsul_agent.swim.broadcast import QUEUE_MAX
from pyconsul_agent.swim.config import LAN
from pyconsul_agent.swim.core import Swim
from pyconsul_agent.swim.effects import OpenStream, SendPacket
from pyconsul_agent.swim.keyring import Keyring
from pyconsul_agent.wire import serf as wire_serf
from pyconsul_agent.wire.gossip import (
    Ack,
    Address,
    Alive,
    Dead,
    ErrorReply,
    IndirectPing,
    Nack,
    Ping,
    PushNodeState,
    PushPull,
    Suspect,
    UserMessage,
    decode_message,
    encode_message,
)
from pyconsul_agent.wire.gossip_crypto import NONCE_LENGTH, open_packet, seal_packet
from pyconsul_agent.wire.gossip_packet import add_crc, compress_message, label_header, open_packet_body, pack_compounds
from pyconsul_agent.wire.gossip_stream import StreamReader, encode_stream, wrap_stream
from pyconsul_agent.wire.msgpack import pack

INPUTS_PER_LIFE = 5_000
"""A member is replaced by a new one after so many inputs, so that early states are seen as often as late ones."""
TICK_EVERY = 16
PIECES_MAX = 4
ANSWER_BYTES_MAX = 65_507
"""No datagram may be longer."""
KEY = bytes(range(16))
PING, COMPOUND = 0, 7
ODD_FLOATS = (0.0, -0.0, 1e-9, 0.01, -1.0, 1e300, float("inf"), float("nan"))
ODD_BYTES = bytes((0, 1, 7, 8, 9, 10, 12, 0x7F, 0x80, 0x81, 0x90, 0xA0, 0xC0, 0xC1, 0xC4, 0xC7, 0xCB, 0xCF, 0xD3,
                   0xD9, 0xDB, 0xDC, 0xDD, 0xDE, 0xDF, 0xF4, 0xFF))  # fmt: skip
ODD_VALUES: tuple[object, ...] = (
    None, True, 0, -1, 1 << 31, (1 << 32) - 1, (1 << 64) - 1, -(1 << 63), 1e308, float("nan"), float("inf"), b"", "",
    b"\xff" * 16, bytes(4), "n1", "me", "x" * 300, [], [1, 2, 3, 4],
    [[[[[[]]]]]], {}, {"a": {"b": {}}}, list(range(70)),
)  # fmt: skip
FIELDS = {
    0: ("SeqNo", "Node", "SourceAddr", "SourcePort", "SourceNode"),
    1: ("SeqNo", "Target", "Port", "Node", "Nack", "SourceAddr", "SourcePort", "SourceNode"),
    2: ("SeqNo", "Payload"),
    3: ("Incarnation", "Node", "From"),
    4: ("Incarnation", "Node", "Addr", "Port", "Meta", "Vsn"),
    5: ("Incarnation", "Node", "From"),
    6: ("Nodes", "UserStateLen", "Join"),
    8: ("UserMsgLen",),
    9: ("Algo", "Buf"),
    11: ("SeqNo",),
    13: ("Error",),
}
SERF_FIELDS = {
    0: ("LTime", "Node", "Prune"),
    1: ("LTime", "Node"),
    2: ("LTime", "StatusLTimes", "LeftMembers", "EventLTime", "Events", "QueryLTime"),
    3: ("LTime", "Name", "Payload", "CC"),
    4: ("LTime", "ID", "Addr", "Port", "SourceNode", "Filters", "Flags", "RelayFactor", "Timeout", "Name", "Payload"),
    5: ("LTime", "ID", "From", "Flags", "Payload"),
    6: ("Member",),
    7: ("Key",),
    8: ("Result", "Message", "Keys", "PrimaryKey"),
    9: ("DestAddr", "DestName"),
}


@dataclass(slots=True)
class FuzzReport:
    """What came of so many inputs."""

    inputs: int = 0
    refused: int = 0
    escapes: list[str] = field(default_factory=list)
    members_most: int = 0
    queued_most: int = 0


class _Member:
    """A member that is spoken to."""

    def __init__(self, rng: random.Random) -> None:
        tags = client_tags(AgentTags(datacenter="dc1", node_id="me-id", build="1.10.11:"))
        self.serf = Serf(SerfConfig(), name="me", tags=tags, rng=rng, veto=LanRules("me", "me-id", "dc1"))
        self.serf.set_keyring(Keyring((KEY,)))
        self.swim = Swim(LAN, name="me", advertise=("10.0.0.1", 8301), delegate=self.serf, rng=rng)
        self.now = 1000.0
        self.opened: list[int] = []
        self.pinged = 0
        self.asked = 0
        self.serf.start(self.now)
        self.swim.start(self.now)
        self.settle()

    def settle(self) -> None:
        while True:
            effects, told = self.swim.take(), self.serf.take()
            if not effects and not told:
                return
            for serf_effect in told:
                if isinstance(serf_effect, SendUser):
                    self.swim.send_user(serf_effect.to, serf_effect.data)
                elif isinstance(serf_effect, QueryReceived):
                    self.serf.respond(serf_effect.ltime, serf_effect.id, b"answer", self.now)
            for effect in effects:
                if isinstance(effect, SendPacket):
                    assert len(effect.data) <= ANSWER_BYTES_MAX, "a datagram that is too long"
                    self._note_ping(effect.data)
                elif isinstance(effect, OpenStream):
                    self.opened.append(effect.id)
                else:
                    self.serf.handle(effect, self.now)

    def _note_ping(self, data: bytes) -> None:
        """Remember what an ack of our probe must say."""
        if data[0] != COMPOUND and data[0] != PING:
            return
        message = decode_message(open_packet_body(data).messages[0])
        if isinstance(message, Ping):
            self.pinged = message.sequence_number

    def expected(self, rng: random.Random, mutated: Callable[[bytes], bytes]) -> bytes:
        """An answer that it waits for: to its probe or its query, with an odd payload."""
        if rng.random() < 0.5:
            payload = wire_serf.encode_coordinate(
                VivaldiCoordinate(vec=tuple(rng.choice(ODD_FLOATS) for _ in range(8)), error=rng.choice(ODD_FLOATS))
            )
            return encode_message(Ack(self.pinged, payload if rng.random() < 0.5 else mutated(payload)))
        if not self.asked or rng.random() < 0.1:
            self.asked = self.serf.ask("q", b"", self.now, timeout_s=5.0, ack=True)
            self.serf.user_event("mine", b"")
        answer = wire_serf.QueryResponse(ltime=rng.randrange(1, 9), id=self.asked, from_="n1", payload=b"x")
        return b"\x08" + mutated(wire_serf.encode(answer))

    def check_bounds(self, report: FuzzReport) -> None:
        """Raises AssertionError when something has outgrown its bound."""
        stats = self.serf.stats()
        queued = self.swim.queued_broadcasts() + sum(stats[name] for name in stats if name.endswith("_queue"))
        report.members_most = max(report.members_most, stats["members"])
        report.queued_most = max(report.queued_most, queued)
        assert self.swim.queued_broadcasts() <= QUEUE_MAX
        assert stats["members"] <= INPUTS_PER_LIFE * 4, "more members than anybody named"
        assert self.serf.buffered_intents() <= INTENTS_MAX


class GossipFuzzer:
    """Makes inputs from a corpus and a seed."""

    def __init__(self, seed: int, extra: Sequence[bytes] = ()) -> None:
        """`extra`: recorded packets to mutate besides our own."""
        self._rng = random.Random(f"fuzz {seed}")  # noqa: S311 - a test
        self._cipher = AESCipher(KEY)
        self._messages = [encode_message(message) for message in _packet_messages()]  # type: ignore[arg-type]
        self._messages += [b"\x08" + wire_serf.encode(message) for message in _serf_messages()]
        self._packets = [*self._messages, *extra]
        self._streams = [encode_stream(message) for message in _stream_messages()]

    def run(self, count: int, report: FuzzReport) -> None:
        """So many inputs; faults are added to the report, with what repeats them."""
        life = 0
        while count > 0:
            member = _Member(random.Random(f"member {life}"))  # noqa: S311 - a test
            for number in range(min(count, INPUTS_PER_LIFE)):
                self._one(member, number, report)
            member.check_bounds(report)
            count -= INPUTS_PER_LIFE
            life += 1

    def _one(self, member: _Member, number: int, report: FuzzReport) -> None:
        rng = self._rng
        report.inputs += 1
        is_stream = rng.random() < 0.3
        data = b""
        try:
            data = self.stream() if is_stream else self.packet()
            if not is_stream and rng.random() < 0.1:
                data = member.expected(rng, self._mutated)
            (_feed_stream if is_stream else _feed_packet)(member, data, rng, self._cipher)
            if number % TICK_EVERY == 0:
                member.now += rng.choice((0.01, 0.2, 1.0, 5.0))
                member.swim.tick(member.now)
                member.serf.tick(member.now)
            member.settle()
        except DecodeError:
            report.refused += 1
        except Exception as error:  # what the fuzzer is for
            kind = "stream" if is_stream else "packet"
            report.escapes.append(f"{kind} {data.hex()[:4000]}: {type(error).__name__}: {error}")

    # --- making -----------------------------------------------------------------------------------------------------

    def packet(self) -> bytes:
        """A datagram as it would come from the socket."""
        rng = self._rng
        data = self._message()
        if rng.random() < 0.3:
            data = pack_compounds([data, *(self._message() for _ in range(rng.randrange(4)))])[0]
        if rng.random() < 0.15:
            data = compress_message(data[:2000])
        if rng.random() < 0.3:
            data = self._mutated(data)
        if rng.random() < 0.2:
            data = add_crc(data)
        if rng.random() < 0.05:
            data = label_header(rng.randbytes(rng.randrange(1, 9))) + data
        return data

    def stream(self) -> bytes:
        """What a peer writes to a stream."""
        rng = self._rng
        data = self._odd_map(FIELDS) if rng.random() < 0.2 else rng.choice(self._streams)
        if rng.random() < 0.7:
            data = self._mutated(data)
        choice = rng.random()
        if choice < 0.2:
            data = wrap_stream(data[:3000], None, b"", opens=True)
        elif choice < 0.35:
            data = wrap_stream(data[:3000], self._cipher, rng.randbytes(NONCE_LENGTH), opens=True, compress=False)
        if rng.random() < 0.2:
            data = self._mutated(data)
        return data

    def _message(self) -> bytes:
        rng = self._rng
        choice = rng.random()
        if choice < 0.2:
            return self._odd_map(FIELDS)
        if choice < 0.35:
            return b"\x08" + self._odd_map(SERF_FIELDS)
        data = rng.choice(self._packets)
        return data if choice < 0.45 else self._mutated(data)

    def _odd_map(self, fields: dict[int, tuple[str, ...]]) -> bytes:
        """A message of a known kind with values of any kind."""
        rng = self._rng
        kind = rng.choice(list(fields))
        body = pack({name: rng.choice(ODD_VALUES) for name in fields[kind] if rng.random() < 0.9})
        return bytes((kind,)) + body

    def _mutated(self, data: bytes) -> bytes:
        raw = bytearray(data)
        for _ in range(self._rng.randrange(1, 5)):
            self._rng.choice(_MUTATIONS)(self._rng, raw)
        if self._rng.random() < 0.1:
            raw += self._rng.choice(self._packets)
        return bytes(raw)


def _flip(rng: random.Random, raw: bytearray) -> None:
    if raw:
        raw[rng.randrange(len(raw))] ^= 1 << rng.randrange(8)


def _odd(rng: random.Random, raw: bytearray) -> None:
    if raw:
        raw[rng.randrange(len(raw))] = rng.choice(ODD_BYTES)


def _cut(rng: random.Random, raw: bytearray) -> None:
    del raw[rng.randrange(len(raw) + 1) :]


def _remove(rng: random.Random, raw: bytearray) -> None:
    at = rng.randrange(len(raw) + 1)
    del raw[at : at + rng.randrange(9)]


def _insert(rng: random.Random, raw: bytearray) -> None:
    at = rng.randrange(len(raw) + 1)
    raw[at:at] = rng.randbytes(rng.randrange(1, 9))


def _repeat(rng: random.Random, raw: bytearray) -> None:
    at = rng.randrange(len(raw) + 1)
    raw[at:at] = raw[at : at + rng.randrange(17)] * rng.randrange(1, 4)


def _huge(rng: random.Random, raw: bytearray) -> None:
    at = rng.randrange(len(raw) + 1)
    raw[at : at + 4] = rng.choice((b"\x7f\xff\xff\xff", b"\xff\xff\xff\xff", b"\x80\0\0\0", b"\0\x10\0\0"))


_MUTATIONS: tuple[Callable[[random.Random, bytearray], None], ...] = (
    _flip, _odd, _odd, _cut, _remove, _insert, _repeat, _huge,
)  # fmt: skip


# --- feeding ------------------------------------------------------------------------------------------------------

SOURCE: Address = ("10.0.0.9", 8301)


def _feed_packet(member: _Member, data: bytes, rng: random.Random, cipher: AESCipher) -> None:
    """As `runtime.gossip` does; now and then through the keys, which let plain packets in or not."""
    choice = rng.random()
    if choice < 0.1:
        data = seal_packet(data, cipher, rng.randbytes(NONCE_LENGTH))
        if choice < 0.05:
            data = data[: rng.randrange(len(data))]
        plain = open_packet(data, (cipher,))
    else:
        plain = open_packet(data, (cipher,) if choice < 0.2 else (), verify_incoming=choice < 0.15)
    member.swim.receive(((plain, SOURCE),), member.now)


def _feed_stream(member: _Member, data: bytes, rng: random.Random, cipher: AESCipher) -> None:
    """In pieces, as the answer to one of ours or as a request."""
    reader = StreamReader((cipher,), verify_incoming=False, opened=rng.random() < 0.3)
    at = 0
    while at < len(data):
        end = at + max(1, len(data) // rng.randrange(1, PIECES_MAX + 1))
        message = reader.feed(data[at:end])
        at = end
        if message is not None:
            if member.opened and rng.random() < 0.3:
                member.swim.stream_answered(member.opened.pop(), message, member.now)
            else:
                member.swim.stream_requested(message, SOURCE, member.now)
            return


# --- the corpus -----------------------------------------------------------------------------------------------------


def _packet_messages() -> list[object]:
    meta = wire_serf.encode_tags(client_tags(AgentTags(datacenter="dc1", node_id="n1-id", build="1.10.11:")))
    here, versions = bytes((10, 0, 0, 9)), LAN.versions
    found: list[object] = [
        Ping(1, "me", here, 8301, "n1"),
        Ping(2, ""),
        IndirectPing(3, here, 8301, "n1", True, here, 8301, "n1"),
        Ack(1, b"\x01\x80"),
        Nack(1),
        ErrorReply("no"),
    ]
    for name in ("n1", "n2", "n3", "me"):
        found += [
            Alive(1, name, here, 8301, meta, versions),
            Alive(7, name, bytes(12) + here, 0, b"web", versions),
            Suspect(1, name, "n2"),
            Dead(1, name, "n2"),
            Dead(2, name, name),
        ]
    return found


def _serf_messages() -> list[wire_serf.Message]:
    here = bytes((10, 0, 0, 9))
    answer = wire_serf.QueryResponse(ltime=5, id=7, from_="n1", payload=b"p")
    filters = (
        wire_serf.encode_filter(wire_serf.NodeFilter(names=("me",))),
        wire_serf.encode_filter(wire_serf.TagFilter(tag="role", expression="^n.*e$")),
    )
    found: list[wire_serf.Message] = [
        wire_serf.LeaveIntent(ltime=5, node="n1"),
        wire_serf.LeaveIntent(ltime=9, node="me", prune=True),
        wire_serf.JoinIntent(ltime=6, node="n2"),
        wire_serf.UserEventMessage(ltime=3, name="deploy", payload=b"x", coalesce=True),
        answer,
        wire_serf.Relay(destination=wire_serf.RelayAddress(ip=here, port=8301), inner=wire_serf.encode(answer)),
        wire_serf.KeyRequest(key=KEY),
    ]
    for number, name in enumerate(("uptime", "_serf_ping", "_serf_conflict", "_serf_list-keys", "_serf_install-key")):
        payload = wire_serf.encode(wire_serf.KeyRequest(key=bytes(16))) if "key" in name else b"n1"
        found.append(
            wire_serf.Query(
                ltime=number + 1, id=number, address=here, port=8301, source_node="n1", name=name, payload=payload,
                filters=filters, flags=1, relay_factor=3, timeout=10**10,
            )
        )  # fmt: skip
    return found


def _stream_messages() -> list[PushPull | Ping | UserMessage | Ack | ErrorReply]:
    here, versions = bytes((10, 0, 0, 9)), LAN.versions
    meta = wire_serf.encode_tags({"role": "node", "dc": "dc1", "id": "n1-id"})
    states = tuple(
        PushNodeState(f"n{number}", here, 8300 + number, meta, number, number % 4, versions) for number in range(6)
    )
    body = wire_serf.EventBody(name="deploy", payload=b"x")
    user = wire_serf.encode(
        wire_serf.PushPullState(
            ltime=9, status_ltimes={"n1": 4, "me": 8}, left_members=("n3",), event_ltime=4,
            events=(None, wire_serf.EventSlot(ltime=3, events=(body,))), query_ltime=5,
        )
    )  # fmt: skip
    return [
        PushPull(True, states, user),
        PushPull(False, states[:2], b""),
        Ping(5, "me"),
        Ack(1),
        UserMessage(wire_serf.encode(wire_serf.LeaveIntent(ltime=5, node="n1"))),
        ErrorReply("no"),
    ]
