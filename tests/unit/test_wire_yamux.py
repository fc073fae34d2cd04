"""The yamux session against recorded frames, against itself, and against any bytes."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conformance.vectors_rpc import drain, frames_of
from pyconsul_agent.wire import yamux
from pyconsul_agent.wire.yamux import Session
from pyconsul_agent.wire.yamux_frames import (
    ACK,
    FIN,
    RST,
    SYN,
    FrameType,
    GoneAway,
    SessionEnded,
    StreamAcked,
    StreamData,
    StreamDrained,
    StreamFinished,
    StreamOpened,
    StreamReset,
    encode_header,
)


def make_pair(**options):
    return Session(is_client=True, now=0.0, **options), Session(is_client=False, now=0.0, **options)


def exchange(client, server, now=0.0):
    """Carry bytes both ways until both are silent."""
    while client.has_output or server.has_output:
        server.receive(drain(client, now), now)
        client.receive(drain(server, now), now)


def frame(kind, flags, stream, length, payload=b""):
    return encode_header(kind, flags, stream, length) + payload


def server_after(*frames):
    server = Session(is_client=False, now=0.0)
    server.receive(b"".join(frames), 0.0)
    return server


def test_a_stream_is_opened_with_syn_and_data_at_once():
    client, _ = make_pair()
    number = client.open(b"abc", 0.0)
    assert number == 1
    assert drain(client).hex() == "000100010000000100000000" + "000000000000000100000003" + b"abc".hex()
    assert client.open(b"x", 0.0) == 3


def test_syn_and_first_data_stay_together_when_output_is_short():
    client, _ = make_pair()
    for _ in range(10):
        client.open(b"request", 0.0)
    piece = client.take_output(0.0, limit=1)
    assert [kind for kind, *_ in frames_of(piece)] == [1, 0]


def test_call_and_answer_on_a_stream():
    client, server = make_pair()
    number = client.open(b"question", 0.0)
    exchange(client, server)
    assert server.take_events() == [StreamOpened(number), StreamData(number, b"question")]
    server.accept(number)
    server.send(number, b"answer")
    exchange(client, server)
    assert client.take_events() == [StreamDrained(number), StreamAcked(number), StreamData(number, b"answer")]


def test_syn_may_ride_on_data():
    server = server_after(frame(0, SYN, 1, 3, b"abc"))
    assert server.take_events() == [StreamOpened(1), StreamData(1, b"abc")]


def test_even_stream_of_a_client_is_served():
    assert server_after(frame(1, SYN, 2, 0)).take_events() == [StreamOpened(2)]


def test_half_close_by_both_ends_the_stream():
    client, server = make_pair()
    number = client.open(b"x", 0.0)
    exchange(client, server)
    server.accept(number)
    client.finish(number)
    exchange(client, server)
    assert StreamFinished(number) in server.take_events()
    assert (client.stream_count, server.stream_count) == (1, 1)
    server.send(number, b"last words")
    server.finish(number)
    exchange(client, server)
    assert client.take_events()[-2:] == [StreamData(number, b"last words"), StreamFinished(number)]
    assert (client.stream_count, server.stream_count) == (0, 0)


def test_fin_on_data_comes_after_the_data():
    server = server_after(frame(1, SYN, 1, 0), frame(0, FIN, 1, 2, b"ab"))
    assert server.take_events() == [StreamOpened(1), StreamData(1, b"ab"), StreamFinished(1)]


def test_reset_drops_the_stream_on_both_sides():
    client, server = make_pair()
    number = client.open(b"x", 0.0)
    exchange(client, server)
    server.take_events()
    client.reset(number)
    exchange(client, server)
    assert server.take_events() == [StreamReset(number)]
    assert (client.stream_count, server.stream_count) == (0, 0)


@pytest.mark.parametrize("end", [Session.reset], ids=["reset"])
def test_a_stream_the_peer_never_saw_is_forgotten_in_silence(end):
    client, _ = make_pair()
    end(client, client.open(b"x", 0.0))
    assert drain(client) == b""


@pytest.mark.parametrize(
    ("frames", "reason"),
    [
        ([b"\x01" + bytes(11)], "version"),
        ([frame(9, 0, 0, 0)], "type"),
        ([frame(1, SYN, 1, 0), frame(1, SYN, 1, 0)], "duplicate"),
        ([frame(1, SYN, 1, 0), frame(0, 0, 1, yamux.WINDOW_BYTES + 1)], "window exceeded"),
        ([frame(1, SYN, 1, 0), frame(1, FIN, 1, 0), frame(1, FIN, 1, 0)], "second FIN"),
        ([frame(3, 0, 0, 1)], "went away"),
        ([frame(3, 0, 0, 2)], "went away"),
        ([frame(1, SYN, 1, 0), frame(1, 0, 1, 2**32 - 1)], "overflow"),
        ([frame(1, SYN, 0, 0)], "stream 0"),
        ([frame(0, 0, 1, 2**31), frame(1, SYN, 1, 0), b"\x01" * 12], None),
    ],
)
def test_protocol_errors_end_the_session(frames, reason):
    server = server_after(*frames)
    if reason is None:  # a long frame for an unknown stream is drained, not believed
        assert server.ended is None
        return
    last = server.take_events()[-1]
    assert isinstance(last, SessionEnded)
    assert reason in last.reason
    assert drain(server) == b""


@pytest.mark.parametrize(
    "ignored", [frame(0, 0, 9999, 3, b"abc"), frame(1, 0, 77, 5), frame(1, RST, 77, 0), frame(1, FIN, 77, 0)]
)
def test_frames_of_unknown_streams_are_ignored(ignored):
    server = server_after(ignored, frame(0, SYN, 1, 2, b"ok"))
    assert server.take_events() == [StreamOpened(1), StreamData(1, b"ok")]


def test_ping_is_echoed():
    assert drain(server_after(frame(2, SYN, 0, 777))) == frame(2, ACK, 0, 777)


def test_many_pings_are_not_hoarded():
    server = server_after(*(frame(2, SYN, 0, value) for value in range(1000)))
    assert len(drain(server)) == 12 * yamux.PING_ANSWERS_MAX


def test_keepalive_counts_up_and_times_out():
    client, server = make_pair()
    assert client.next_deadline() == 30.0
    client.tick(30.0)
    assert frames_of(client.take_output(30.0)) == [(FrameType.PING, SYN, 0, 0)]
    client.receive(frame(2, ACK, 0, 0), 30.1)
    assert client.next_deadline() == 60.1
    client.tick(60.1)
    assert frames_of(client.take_output(60.1)) == [(FrameType.PING, SYN, 0, 1)]
    client.tick(70.0)
    assert client.ended is None
    client.tick(70.1)
    assert client.ended == "keepalive timeout"
    assert server.ended is None


def test_stream_without_ack_ends_the_session():
    client, _ = make_pair(keepalive_s=1000.0)
    client.open(b"x", 5.0)
    assert client.next_deadline() == 80.0
    client.tick(80.0)
    assert client.ended == "stream open timeout"


def test_stream_that_the_peer_never_closes_is_reset():
    client, server = make_pair(keepalive_s=1000.0)
    number = client.open(b"x", 0.0)
    exchange(client, server)
    server.accept(number)
    client.finish(number)
    exchange(client, server)
    assert client.next_deadline() == 300.0
    client.tick(300.0)
    assert client.stream_count == 0
    assert frames_of(drain(client, 300.0)) == [(FrameType.WINDOW_UPDATE, RST, number, 0)]


def test_go_away_stops_new_streams_only():
    client, server = make_pair()
    number = client.open(b"x", 0.0)
    exchange(client, server)
    server.go_away()
    server.accept(number)
    server.send(number, b"still")
    exchange(client, server)
    events = client.take_events()
    assert GoneAway() in events
    assert StreamData(number, b"still") in events
    assert not client.can_open
    with pytest.raises(ValueError, match="no new stream"):
        client.open(b"y", 0.0)


def test_backlog_is_bounded():
    frames = b"".join(frame(1, SYN, 2 * i + 1, 0) for i in range(yamux.ACCEPT_BACKLOG + 1))
    server = server_after(frames)
    refused = 2 * yamux.ACCEPT_BACKLOG + 1
    assert frames_of(drain(server)) == [(1, RST, refused, 0)]
    server.accept(1)
    server.receive(frame(1, SYN, refused, 0), 0.0)
    assert StreamOpened(refused) in server.take_events()


def test_refusals_that_nobody_reads_end_the_session():
    count = yamux.ACCEPT_BACKLOG + yamux.CONTROL_FRAMES_MAX + 1
    server = server_after(b"".join(frame(1, SYN, i + 1, 0) for i in range(count)))
    assert server.ended == "too many frames wait to be sent"


def test_client_refuses_streams():
    client, _ = make_pair()
    client.receive(frame(1, SYN, 2, 0), 0.0)
    assert frames_of(drain(client)) == [(1, RST, 2, 0)]
    assert client.take_events() == []


def test_unacknowledged_streams_are_bounded():
    client, server = make_pair()
    for _ in range(yamux.ACCEPT_BACKLOG):
        client.open(b"x", 0.0)
    assert not client.can_open
    exchange(client, server)
    server.accept(1)
    exchange(client, server)
    assert client.can_open


def test_sender_stops_at_the_window_and_goes_on_after_an_update():
    client, server = make_pair()
    payload = bytes(range(256)) * 1600
    number = client.open(payload, 0.0)
    exchange(client, server)
    assert client.unsent(number) == len(payload) - yamux.WINDOW_BYTES
    got = b"".join(event.data for event in server.take_events() if isinstance(event, StreamData))
    server.consume(number, len(got))
    update = frames_of(drain(server))
    assert update == [(1, 0, number, yamux.WINDOW_BYTES)]  # as recorded: 262144 after the window was used up
    client.receive(frame(*update[0]), 0.0)
    exchange(client, server)
    got += b"".join(event.data for event in server.take_events() if isinstance(event, StreamData))
    assert got == payload


def test_window_is_not_reopened_before_half_is_used():
    server = server_after(frame(1, SYN, 1, 0), frame(0, 0, 1, 131071, bytes(131071)))
    server.consume(1, 131071)
    assert drain(server) == b""
    server.receive(frame(0, 0, 1, 1, b"x"), 0.0)
    server.consume(1, 1)
    assert frames_of(drain(server)) == [(1, 0, 1, 131072)]


def test_unread_bytes_of_all_streams_are_bounded():
    server = server_after()
    full = yamux.UNREAD_BYTES_MAX // yamux.WINDOW_BYTES
    payload = bytes(yamux.WINDOW_BYTES)
    for i in range(full):
        server.receive(frame(0, SYN, 2 * i + 1, len(payload), payload), 0.0)
        server.take_events()
    server.accept(1)
    server.reset(1)
    server.receive(frame(0, SYN, 9001, len(payload), payload), 0.0)
    assert server.ended is None
    server.receive(frame(0, SYN, 9003, 1, b"x"), 0.0)
    assert server.ended == "too many bytes wait to be read"


def test_streams_take_turns():
    client, server = make_pair()
    one, two = client.open(bytes(200_000), 0.0), client.open(b"small", 0.0)
    stream_order = [stream for kind, _, stream, _ in frames_of(client.take_output(0.0)) if kind == 0]
    assert stream_order.index(two) <= 2
    assert one in stream_order
    assert server.stream_count == 0


def test_data_after_fin_is_dropped():
    server = server_after(frame(1, SYN, 1, 0), frame(1, FIN, 1, 0), frame(0, 0, 1, 2, b"ab"))
    assert server.take_events() == [StreamOpened(1), StreamFinished(1)]
    assert server.ended is None


@settings(max_examples=60, deadline=None)
@given(
    messages=st.lists(st.binary(min_size=1, max_size=5000), min_size=1, max_size=8),
    cuts=st.lists(st.integers(1, 4000), min_size=1, max_size=5),
)
def test_any_cut_of_the_bytes_gives_the_same_data(messages, cuts):
    client, server = make_pair()
    numbers = [client.open(message, 0.0) for message in messages]
    data, got, turn = drain(client), dict.fromkeys(numbers, b""), 0
    while data:
        cut = cuts[turn % len(cuts)]
        server.receive(data[:cut], 0.0)
        data, turn = data[cut:], turn + 1
    for event in server.take_events():
        if isinstance(event, StreamData):
            got[event.stream] += event.data
    assert got == dict(zip(numbers, messages, strict=True))


@settings(max_examples=40, deadline=None)
@given(sizes=st.lists(st.integers(1, 700_000), min_size=1, max_size=4), number=st.integers(0, 1 << 32))
def test_everything_arrives_however_slowly_it_is_read(sizes, number):
    seed = random.Random(number)  # hypothesis's own generator would count every byte as drawn
    client, server = make_pair()
    payloads = {client.open(seed.randbytes(size), 0.0): size for size in sizes}
    for number in payloads:
        client.finish(number)
    got, unread, finished = dict.fromkeys(payloads, 0), dict.fromkeys(payloads, 0), set()
    for _ in range(10_000):
        server.receive(client.take_output(0.0, seed.choice([1, 5000, 100_000])), 0.0)
        client.receive(server.take_output(0.0), 0.0)
        for event in server.take_events():
            match event:
                case StreamOpened(number):
                    server.accept(number)
                case StreamData(number, data):
                    got[number] += len(data)
                    unread[number] += len(data)
                    assert unread[number] <= yamux.WINDOW_BYTES
                case StreamFinished(number):
                    finished.add(number)
        number = seed.choice(list(payloads))
        count = unread[number] if seed.random() < 0.5 else unread[number] // 2
        server.consume(number, count)
        unread[number] -= count
        if len(finished) == len(payloads):
            break
    assert got == payloads
    assert (client.ended, server.ended) == (None, None)


FRAMES = st.builds(
    lambda kind, flags, stream, length, payload: frame(kind, flags, stream, length, payload[:length]),
    st.sampled_from([0, 0, 1, 1, 2, 3, 4]),
    st.integers(0, 15),
    st.integers(0, 5),
    st.one_of(st.integers(0, 20), st.integers(0, 2**32 - 1)),
    st.binary(max_size=20),
)


@settings(max_examples=200, deadline=None)
@given(data=st.one_of(st.binary(max_size=200), st.lists(FRAMES, max_size=30).map(b"".join)), is_client=st.booleans())
def test_no_bytes_of_a_peer_raise(data, is_client):
    session = Session(is_client=is_client, now=0.0)
    if is_client:
        session.open(b"x", 0.0)
    session.receive(data, 0.0)
    for event in session.take_events():
        match event:
            case StreamOpened(number):
                session.accept(number)
                session.send(number, b"hello")
            case StreamData(number, piece):
                session.consume(number, len(piece))
            case StreamFinished(number):
                session.finish(number)
            case _:
                pass
    drain(session)
    session.receive(data, 1.0)
    drain(session)
    session.tick(1000.0)
    drain(session)
    assert not session.has_output
