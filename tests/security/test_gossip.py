"""The rules for gossip, one group for each: the bytes go to running agents, which must stay as they were.

Two members without a key (`server`, `client`) and a lone server with one. After each test they still answer pings and
HTTP, list the same members with the same tags, and have not grown.
"""

from __future__ import annotations

import base64
import os
import socket
import struct
import time

import msgpack
import pytest

from pyconsul_agent.runtime.gossip_cipher import AESCipher
from pyconsul_agent.wire.gossip import Alive, Dead, IndirectPing, Suspect, UserMessage, decode_message, encode_message
from pyconsul_agent.wire.gossip_crypto import NONCE_LENGTH, seal_packet, seal_stream
from pyconsul_agent.wire.gossip_packet import add_crc, compress_message, open_packet_body, pack_compounds
from pyconsul_agent.wire.gossip_stream import StreamReader
from pyconsul_agent.wire.serf import JoinIntent, LeaveIntent, UserEventMessage, encode, encode_tags
from tests.integration.agents import Agent, own, wait_for
from tests.integration.test_bad_input import lzw_bomb
from tests.security.gossip_peer import LAN_PORT, SILENCE_S, Stranger, exchange

pytestmark = pytest.mark.slow

SERVER, CLIENT, SEALED, STRANGER = (own(f"127.0.48.{number}") for number in (1, 2, 3, 9))
KEY, WRONG_KEY = bytes(range(32)), bytes(range(1, 33))
GROWTH_MAX = 48 * 1024 * 1024
"""One decompressed stream may be 40 MiB."""
QUICK = ("-hcl", "performance { raft_multiplier = 1 }")
VERSIONS = bytes((1, 5, 2, 2, 5, 4))
MIB = 1024 * 1024


@pytest.fixture(scope="module")
def agents(tmp_path_factory):
    folder = tmp_path_factory.mktemp("gossip")
    secret = base64.b64encode(KEY).decode()
    made = {
        "server": Agent(folder, SERVER, "server", "-server", "-bootstrap", *QUICK),
        "client": Agent(folder, CLIENT, "client", "-retry-join", SERVER, "-retry-interval", "1s"),
        "sealed": Agent(folder, SEALED, "sealed", "-server", "-bootstrap", "-encrypt", secret, *QUICK),
    }
    for agent in made.values():
        agent.start()
    wait_for(lambda: len(view(made["server"])) == 2, what="two members")
    wait_for(lambda: len(view(made["client"])) == 2, what="two members")
    made["sealed"].wait_leader()
    yield made
    for agent in made.values():
        agent.close()
    for agent in made.values():
        agent.assert_clean()


def view(agent: Agent) -> dict[str, tuple[object, ...]]:
    """Name -> (status, address, port, tags)."""
    rows = agent.get("/v1/agent/members")
    return {row["Name"]: (row["Status"], row["Addr"], row["Port"], tuple(sorted(row["Tags"].items()))) for row in rows}


@pytest.fixture
def stranger():
    plain = Stranger(STRANGER)
    yield plain
    plain.close()


@pytest.fixture
def insider():
    """One that has the key."""
    sealed = Stranger(STRANGER, KEY)
    yield sealed
    sealed.close()


@pytest.fixture(autouse=True)
def unharmed(agents):
    """Before and after are equal, and each agent answers on both ports."""
    views = {name: view(agent) for name, agent in agents.items()}
    memory = {name: agent.rss() for name, agent in agents.items()}
    yield
    for name, agent in agents.items():
        other = Stranger(STRANGER, KEY if name == "sealed" else None)
        assert other.is_answered(agent.ip, name), name
        other.close()
        wait_for(lambda n=name, a=agent: view(a) == views[n], timeout_s=5, what=f"the members of {name}")
        wait_for(lambda a=agent, m=memory[name]: a.rss() - m < GROWTH_MAX, timeout_s=5, what=f"the memory of {name}")


def packed(**fields: object) -> bytes:
    return msgpack.packb(fields, use_bin_type=False)


def push_pull(nodes: int, user_bytes: int, rest: bytes = b"") -> bytes:
    return b"\x06" + packed(Nodes=nodes, UserStateLen=user_bytes, Join=True) + rest


# --- ML-357: counts of a push/pull ------------------------------------------------------------------------------------

COUNTS = [
    (0x7FFFFFFF, 0),
    (-1, 0),
    (2**63 - 1, 0),
    (-(2**63), 0),
    (1_048_577, 0),
    (0, -1),
    (0, 2**31),
    (0, 20 * MIB + 1),
]


@pytest.mark.parametrize(("nodes", "user_bytes"), COUNTS)
@pytest.mark.parametrize("finish", [True, False])
def test_ml_357_counts_of_a_push_pull_are_not_believed(agents, nodes, user_bytes, finish):
    message = push_pull(nodes, user_bytes)
    assert len(message) <= 40, "what ends Consul 1.10.11 is as short as this"
    assert exchange(SERVER, message, finish=finish) == b""


def test_ml_357_a_believable_count_costs_memory_only_as_entries_come(agents):
    assert exchange(SERVER, push_pull(1_000_000, 20 * MIB)) == b""


def test_ml_357_hundreds_of_them_at_once_change_nothing(agents):
    sockets = []
    for _ in range(200):
        connection = socket.create_connection((SERVER, LAN_PORT), timeout=3)
        connection.sendall(push_pull(1_000_000, 20 * MIB))
        sockets.append(connection)
    assert view(agents["server"])
    for connection in sockets:
        connection.close()


# --- ML-361: length of a user message ---------------------------------------------------------------------------------


@pytest.mark.parametrize("length", [-1, 20 * MIB + 1, 0x7FFFFFFF, 2**63 - 1])
def test_ml_361_length_of_a_user_message_is_not_believed(agents, length):
    assert exchange(SERVER, b"\x08" + packed(UserMsgLen=length), finish=False) == b""


def test_ml_361_a_user_message_that_never_comes_ends_with_its_connection(agents):
    assert exchange(SERVER, b"\x08" + packed(UserMsgLen=20 * MIB) + b"x" * MIB) == b""


def test_ml_361_slow_streams_end_at_the_deadline_and_hold_nobody_up(agents, stranger):
    """120 of them say a byte each second; each has 10 s in all."""
    began = time.monotonic()
    slow = [socket.create_connection((SERVER, LAN_PORT), timeout=3) for _ in range(120)]
    for connection in slow:
        connection.sendall(push_pull(1000, 0))
        connection.setblocking(False)
    left, answered = slow, []
    while left and time.monotonic() - began < 15:
        answered.append(stranger.is_answered(SERVER, "server"))
        left = [connection for connection in left if not ended(connection)]
        time.sleep(1)
    for connection in slow:
        connection.close()
    assert not left, f"{len(left)} streams are open after 15 s"
    assert time.monotonic() - began > 8, "they had their time"
    assert all(answered)


def ended(connection: socket.socket) -> bool:
    """Say one byte more; whether the agent has closed."""
    try:
        connection.send(b"\x80")
        return connection.recv(10) == b""
    except BlockingIOError:
        return False
    except OSError:
        return True


# --- ML-363: compression ----------------------------------------------------------------------------------------------

BOMBS = {
    "a bomb of 100 MiB": lzw_bomb(100 * MIB),
    "a bomb of 41 MiB": lzw_bomb(41 * MIB),
    "compressed in compressed": compress_message(compress_message(b"\x00" + packed(SeqNo=1, Node="server"))),
    "nothing inside": compress_message(b""),
    "an unknown algorithm": b"\x09" + packed(Algo=1, Buf=b"\x00\x01"),
    "a buffer that is nil": b"\x09" + packed(Algo=0, Buf=None),
    "garbage": b"\x09" + packed(Algo=0, Buf=b"\x55" * 900),
}


@pytest.mark.parametrize("name", BOMBS)
def test_ml_363_decompression_is_bounded_on_streams(agents, name):
    assert exchange(SERVER, BOMBS[name]) == b""


@pytest.mark.parametrize("name", BOMBS)
def test_ml_363_decompression_is_bounded_in_packets(agents, stranger, name):
    for _ in range(20):
        stranger.send(SERVER, BOMBS[name][:60_000])
    assert stranger.is_answered(SERVER, "server")


def test_ml_363_each_part_of_a_compound_does_not_get_the_limit_anew(agents, stranger):
    (packet,) = pack_compounds([lzw_bomb(60 * 1024)] * 100)
    for _ in range(10):
        stranger.send(SERVER, packet[:60_000])
    assert stranger.is_answered(SERVER, "server")


# --- ML-336: missing fields -------------------------------------------------------------------------------------------

HOST = socket.inet_aton(STRANGER)
INCOMPLETE = {
    "no Vsn": packed(Incarnation=1, Node="ghost", Addr=HOST, Port=8301, Meta=None),
    "Vsn of five": packed(Incarnation=1, Node="ghost", Addr=HOST, Port=8301, Meta=None, Vsn=VERSIONS[:5]),
    "Vsn that is nil": packed(Incarnation=1, Node="ghost", Addr=HOST, Port=8301, Meta=None, Vsn=None),
    "Vsn that cannot be": packed(Incarnation=1, Node="ghost", Addr=HOST, Port=8301, Meta=None, Vsn=b"\5\1\2\2\5\4"),
    "no name": packed(Incarnation=1, Addr=HOST, Port=8301, Meta=None, Vsn=VERSIONS),
    "no address": packed(Incarnation=1, Node="ghost", Port=8301, Meta=None, Vsn=VERSIONS),
    "an address of three": packed(Incarnation=1, Node="ghost", Addr=b"abc", Port=8301, Meta=None, Vsn=VERSIONS),
    "meta of 513": packed(Incarnation=1, Node="ghost", Addr=HOST, Port=8301, Meta=b"x" * 513, Vsn=VERSIONS),
    "a negative incarnation": packed(Incarnation=-1, Node="ghost", Addr=HOST, Port=8301, Meta=None, Vsn=VERSIONS),
    "a port of 65536": packed(Incarnation=1, Node="ghost", Addr=HOST, Port=65536, Meta=None, Vsn=VERSIONS),
    "nothing": packed(),
    "no map": b"\xc0",
}


@pytest.mark.parametrize("name", INCOMPLETE)
def test_ml_336_an_alive_message_with_missing_or_bad_fields_makes_no_member(agents, stranger, name):
    stranger.send(SERVER, b"\x04" + INCOMPLETE[name])
    assert stranger.is_answered(SERVER, "server")


@pytest.mark.parametrize("kind", [0, 1, 2, 3, 5, 8, 11, 13])
def test_ml_336_messages_without_fields_are_dropped(agents, stranger, kind):
    for body in (b"\x80", b"\xc0", b"", packed(Unknown=1)):
        stranger.send(SERVER, bytes((kind,)) + body)
    assert stranger.is_answered(SERVER, "server")


@pytest.mark.parametrize("name", [*INCOMPLETE])
def test_ml_336_a_push_pull_with_such_a_state_merges_nothing(agents, name):
    state = msgpack.unpackb(INCOMPLETE[name], raw=True) or {}
    name_and_state = {b"Name": state.pop(b"Node", b""), b"State": 0, **state}
    good = packed(Name="other", Addr=HOST, Port=8301, Meta=None, Incarnation=1, State=0, Vsn=VERSIONS)
    exchange(SERVER, push_pull(2, 0, msgpack.packb(name_and_state, use_bin_type=False) + good[:-1]))


# --- ML-compound ------------------------------------------------------------------------------------------------------


def test_ml_compound_whole_parts_of_a_truncated_one_are_processed(agents, stranger):
    number, ping = stranger.ping("server")
    stranger.send(SERVER, struct.pack(">BBHH", 7, 2, len(ping), 500) + ping + b"\x04\x80")
    assert stranger.hears_ack(number)


@pytest.mark.parametrize("count", [1, 2, 255])
def test_ml_compound_lengths_that_are_cut_short_drop_all(agents, stranger, count):
    number, ping = stranger.ping("server")
    stranger.send(SERVER, bytes((7, count)) + ping[: 2 * count - 1])
    assert not stranger.hears_ack(number, SILENCE_S)


def test_ml_compound_in_compound_is_not_opened(agents, stranger):
    number, ping = stranger.ping("server")
    (inner,) = pack_compounds([ping])
    (outer,) = pack_compounds([inner])
    stranger.send(SERVER, outer)
    assert not stranger.hears_ack(number, SILENCE_S)


def test_ml_compound_of_255_parts_and_a_crc_is_read_and_a_wrong_crc_is_not(agents, stranger):
    number, ping = stranger.ping("server")
    (packet,) = pack_compounds([b"\x03\x80"] * 254 + [ping])
    stranger.send(SERVER, add_crc(packet)[:-1] + b"\x00")
    assert not stranger.hears_ack(number, SILENCE_S)
    stranger.send(SERVER, add_crc(packet))
    assert stranger.hears_ack(number)


# --- ML-label/key -----------------------------------------------------------------------------------------------------


def sealed(plain: bytes, key: bytes = KEY, version: int = 1) -> bytes:
    return seal_packet(plain, AESCipher(key), os.urandom(NONCE_LENGTH), version=version)


def test_ml_key_plain_packets_are_dropped_unparsed_and_unanswered(agents, stranger):
    _, ping = stranger.ping("sealed")
    for packet in (ping, add_crc(ping), compress_message(ping), *pack_compounds([ping]), lzw_bomb(MIB)[:60_000]):
        stranger.send(SEALED, packet)
    assert stranger.datagrams(SILENCE_S) == []
    assert "decompress" not in agents["sealed"].out


FORGED = {
    "another key": lambda ping: sealed(ping, WRONG_KEY),
    "version 2": lambda ping: b"\x02" + sealed(ping)[1:],
    "version 255": lambda ping: b"\xff" + sealed(ping)[1:],
    "version 0 of a block of version 1": lambda ping: b"\x00" + sealed(ping)[1:],
    "a tag cut short": lambda ping: sealed(ping)[:-1],
    "a bit turned": lambda ping: sealed(ping)[:-20] + bytes((sealed(ping)[-20] ^ 1,)) + sealed(ping)[-19:],
    "no block": lambda ping: sealed(ping)[:28],
    "a label": lambda ping: b"\xf4\x01x" + sealed(ping),
}


@pytest.mark.parametrize("name", FORGED)
def test_ml_key_what_does_not_decrypt_is_dropped(agents, insider, name):
    _, ping = insider.ping("sealed")
    insider.send(SEALED, FORGED[name](ping))
    assert insider.datagrams(SILENCE_S) == []


def test_ml_key_both_versions_are_read_and_answers_are_never_plain(agents, insider):
    for version in (0, 1):
        number, ping = insider.ping("sealed")
        insider.send(SEALED, sealed(ping, version=version))
        (answer,) = insider.datagrams(SILENCE_S)
        assert answer[0] == 1
        assert b"SeqNo" not in answer
        (body,) = open_packet_body(insider.seal.unpack(answer)).messages
        assert decode_message(body).sequence_number == number


def stream(message: bytes, key: bytes) -> bytes:
    return seal_stream(message, AESCipher(key), os.urandom(NONCE_LENGTH))


@pytest.mark.parametrize(
    ("request_", "error"),
    [
        (push_pull(0, 0), "Encryption is configured but remote state is not encrypted"),
        (lzw_bomb(MIB), "Encryption is configured but remote state is not encrypted"),
        (stream(push_pull(0, 0), WRONG_KEY), "No installed keys could decrypt the message"),
        (stream(push_pull(0, 0), KEY)[:-1] + b"\x00", "No installed keys could decrypt the message"),
    ],
    ids=["plain", "plain and compressed", "another key", "damaged"],
)
def test_ml_key_streams_without_the_key_get_a_sealed_refusal(agents, request_, error):
    answer = exchange(SEALED, request_, finish=False)
    assert answer[0] == 10
    assert error.encode() not in answer
    message = StreamReader((AESCipher(KEY),), verify_incoming=True, opened=True).feed(answer)
    assert error in message.error


@pytest.mark.parametrize("length", [0, 28, 20 * MIB + 1, 0xFFFFFFFF])
def test_ml_key_the_length_of_a_sealed_stream_is_not_believed(agents, length):
    answer = exchange(SEALED, b"\x0a" + struct.pack(">I", length) + b"x" * 100)
    assert answer == b"" or answer[0] == 10


def test_ml_nonce_every_message_has_its_own(agents, insider):
    for _ in range(200):
        insider.send(SEALED, insider.seal.packet(insider.ping("sealed")[1]))
    answers = insider.datagrams(SILENCE_S)
    assert len(answers) > 100
    assert len({answer[1 : 1 + NONCE_LENGTH] for answer in answers}) == len(answers)


# --- ML-replay --------------------------------------------------------------------------------------------------------

OLD = {
    "dead of an incarnation that is over": Dead(0, "client", "server"),
    "suspicion of an incarnation that is over": Suspect(0, "client", "server"),
    "a leave of an incarnation that is over": Dead(0, "client", "client"),
    "dead of nobody": Dead(4_000_000_000, "ghost", "server"),
    "suspicion of nobody": Suspect(4_000_000_000, "ghost", "server"),
    "an old alive with other tags": Alive(
        0, "client", socket.inet_aton(CLIENT), 8301, encode_tags({"role": "node", "dc": "dc1"}), VERSIONS
    ),
    "an intent of nobody to leave": UserMessage(encode(LeaveIntent(ltime=1, node="ghost"))),
    "an old intent to leave": UserMessage(encode(LeaveIntent(ltime=0, node="client"))),
    "an old intent to join": UserMessage(encode(JoinIntent(ltime=0, node="client"))),
}


@pytest.mark.parametrize("name", OLD)
def test_ml_replay_old_messages_and_such_about_nobody_change_nothing(agents, stranger, name):
    for _ in range(3):
        stranger.send(SERVER, encode_message(OLD[name]))
    assert stranger.is_answered(SERVER, "server")


@pytest.mark.parametrize("kind", [Dead, Suspect])
def test_ml_replay_accusations_of_the_agent_itself_are_refuted(agents, stranger, kind):
    for incarnation in (1, 7, 1000):
        stranger.send(SERVER, encode_message(kind(incarnation, "server", "client")))
        assert stranger.is_answered(SERVER, "server")
        assert view(agents["server"])["server"][0] == 1
        wait_for(lambda: view(agents["client"])["server"][0] == 1, timeout_s=3, what="the other sees it alive")


def test_ml_replay_a_forged_death_of_another_is_refuted_by_it(agents, stranger):
    stranger.send(SERVER, encode_message(Dead(1, "client", "client")))
    wait_for(lambda: view(agents["server"])["client"][0] == 1, timeout_s=10, what="it is alive again")


def test_ml_replay_an_event_twice_is_heard_once(agents, stranger):
    server = agents["server"]
    assert server.ask("PUT", "/v1/event/fire/once", b"")[0] == 200
    (event,) = wait_for(lambda: server.get("/v1/event/list?name=once"), what="the event")
    payload = msgpack.packb({"ID": event["ID"], "n": "once", "v": 1}, use_bin_type=True)
    forged = UserEventMessage(ltime=event["LTime"], name="consul:event:once", payload=payload, coalesce=False)
    for _ in range(5):
        stranger.send(SERVER, encode_message(UserMessage(encode(forged))))
    assert stranger.is_answered(SERVER, "server")
    assert len(server.get("/v1/event/list?name=once")) <= 2, "the stranger's own copy, at most, but not five"


def test_ml_replay_relays_serve_nobody_as_an_amplifier(agents, stranger):
    """An indirect ping makes one small packet; nothing else goes where the stranger says."""
    host, port = stranger.socket.getsockname()
    inner = b"\x08" + bytes((3,)) + packed(LTime=1, Name="x", Payload=b"x" * 400, CC=False)
    relay = b"\x09" + packed(DestAddr={"IP": socket.inet_aton(host), "Port": port, "Zone": ""}, DestName="x") + inner
    stranger.send(SERVER, encode_message(UserMessage(relay)))
    assert stranger.datagrams(SILENCE_S) == []
    request = encode_message(IndirectPing(9, socket.inet_aton(host), port, "nobody", False))
    stranger.send(SERVER, request)
    assert sum(map(len, stranger.datagrams(SILENCE_S))) < 1400


# --- ML-name ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("own_id", [True, False])
def test_ml_name_a_name_stays_at_the_address_that_answers(agents, stranger, own_id):
    """Whether the stranger copies the member's ID or has its own."""
    tags = dict(view(agents["server"])["client"][3])
    if not own_id:
        tags["id"] = "11111111-2222-3333-4444-555555555555"
    claim = Alive(4_000_000_000, "client", HOST, 8301, encode_tags(tags), VERSIONS)
    for _ in range(10):
        stranger.send(SERVER, encode_message(claim))
        assert view(agents["server"])["client"][:3] == (1, CLIENT, 8301)
        time.sleep(0.2)
    assert "Conflicting address for node" in agents["server"].out


def test_ml_name_the_agents_own_name_stays_its_own(agents, stranger):
    tags = dict(view(agents["server"])["server"][3])
    stranger.send(SERVER, encode_message(Alive(4_000_000_000, "server", HOST, 8301, encode_tags(tags), VERSIONS)))
    assert stranger.is_answered(SERVER, "server")


def test_ml_name_members_of_another_datacenter_stay_out(agents, stranger):
    tags = {"role": "node", "dc": "dc9", "id": "11111111-2222-3333-4444-555555555555", "build": "1.10.11:"}
    stranger.send(SERVER, encode_message(Alive(1, "ghost", HOST, 8301, encode_tags(tags), VERSIONS)))
    assert stranger.is_answered(SERVER, "server")


# --- MP ---------------------------------------------------------------------------------------------------------------

VALUES = {
    "array of 4 G": b"\xdd\xff\xff\xff\xff",
    "map of 4 G": b"\xdf\xff\xff\xff\xff",
    "text of 4 GiB": b"\xdb\xff\xff\xff\xff",
    "bytes of 4 GiB": b"\xc6\xff\xff\xff\xff",
    "extension of 4 GiB": b"\xc9\xff\xff\xff\xff\x01",
    "array nested 20,000 deep": b"\x91" * 20_000,
    "map nested 10,000 deep": b"\x81\xa1a" * 10_000,
    "a map as key": b"\x81\x80\x01",
    "a number as key": b"\x81\x01\x01",
    "bad UTF-8": b"\x82\xa4Node\xa2\xff\xfe\xa5SeqNo\x01",
    "a key twice": b"\x83\xa4Node\xa1a\xa4Node\xa6server\xa5SeqNo\x01",
    "a reserved byte": b"\xc1",
    "wrong types": packed(SeqNo="x", Node=1, Incarnation=1.5, Addr=[], Port={}, Nodes="x", UserStateLen=[]),
}


@pytest.mark.parametrize("name", VALUES)
def test_mp_values_are_bounded_by_their_bytes_in_packets(agents, stranger, name):
    for kind in (*range(14), 244):
        stranger.send(SERVER, bytes((kind,)) + VALUES[name])
    for kind in range(10):  # inside a user message: serf's own
        stranger.send(SERVER, bytes((8, kind)) + VALUES[name])
    assert stranger.is_answered(SERVER, "server")


@pytest.mark.parametrize("name", VALUES)
def test_mp_values_are_bounded_by_their_bytes_on_streams(agents, name):
    for kind in (0, 6, 8, 9):
        exchange(SERVER, bytes((kind,)) + VALUES[name])


@pytest.mark.parametrize("name", VALUES)
def test_mp_values_are_bounded_by_their_bytes_in_serfs_state(agents, name):
    state = b"\x02" + VALUES[name]
    me = packed(
        Name="server", Addr=socket.inet_aton(SERVER), Port=8301, Meta=None, Incarnation=0, State=0, Vsn=VERSIONS
    )
    answer = exchange(SERVER, push_pull(1, len(state), me + state))
    assert answer, "the agent tells its own state before it judges the other's"
