"""What dials say about a peer's life."""

import asyncio

import pytest

from pyconsul_agent.errors import DialRefused
from pyconsul_agent.raft.types import Request
from pyconsul_agent.runtime.raft_incoming import request_kind
from pyconsul_agent.runtime.raft_peers import PROBE_WATCH_S, Peers
from pyconsul_agent.structs.raft import (
    AppendEntriesRequest,
    AppendEntriesResponse,
    LogEntry,
    RequestPreVoteRequest,
    RequestVoteRequest,
    Server,
    TimeoutNowRequest,
)
from pyconsul_agent.wire.raft import encode_reply
from tests.builders import run_sim
from tests.raft_cluster import Recorder

LEADER = Server(id="n1", address="10.0.0.1:8300")


class Events:
    def __init__(self):
        self.refusals = []
        self.replies = []

    def replied(self, sequence, reply):
        self.replies.append((sequence, reply))

    def reachable(self, server_id):
        pass

    def refused(self, server_id):
        self.refusals.append(server_id)


class Dying:
    """A host whose kernel accepts `accepted` more dials in the name of a process that is going."""

    def __init__(self, accepted):
        self.accepted = accepted
        self.dials = 0

    async def dial(self, host, port):
        self.dials += 1
        if self.dials > self.accepted:
            raise DialRefused("refused")
        reader = asyncio.StreamReader()
        reader.feed_eof()
        return reader, Writer()


class Alive(Dying):
    async def dial(self, host, port):
        self.dials += 1
        return asyncio.StreamReader(), Writer()


class Silent(Dying):
    async def dial(self, host, port):
        await asyncio.Event().wait()


class Writer:
    def close(self):
        pass

    async def wait_closed(self):
        pass

    def is_closing(self):
        return True

    @property
    def transport(self):
        return self

    def abort(self):
        pass


def peers_of(host, events):
    async def open_snapshot(identity):
        raise AssertionError(identity)

    return Peers(
        dial=host.dial,
        resolve=lambda server: ("10.0.0.1", 8300),
        open_snapshot=open_snapshot,
        events=events,
        log=Recorder(),
    )


def test_a_dial_that_a_dying_host_accepts_does_not_hide_its_death():
    async def scene(world):
        host, events = Dying(accepted=2), Events()
        peers = peers_of(host, events)
        peers.opened("n1")
        peers.ended(LEADER)
        await asyncio.sleep(1)
        assert events.refusals == ["n1"]
        assert host.dials == 3
        await peers.close()

    run_sim(1, scene)


def test_a_dial_that_stays_open_is_a_sign_of_life():
    async def scene(world):
        host, events = Alive(accepted=0), Events()
        peers = peers_of(host, events)
        peers.opened("n1")
        peers.ended(LEADER)
        await asyncio.sleep(4 * PROBE_WATCH_S)
        assert events.refusals == []
        assert host.dials == 1
        await peers.close()

    run_sim(1, scene)


def test_requests_to_a_server_that_is_removed_are_told_as_lost():
    async def scene(world):
        events = Events()
        peers = peers_of(Silent(accepted=0), events)
        for sequence in (1, 2):
            peers.send(Request(sequence, LEADER, AppendEntriesRequest(), heartbeat=True))
        await asyncio.sleep(0.1)
        assert events.replies == []
        peers.retain(set())
        await asyncio.sleep(0.1)
        assert events.replies == [(1, None), (2, None)]
        await peers.close()

    run_sim(1, scene)


def test_last_failure_of_a_dial_is_known_until_a_dial_succeeds():
    class Rising(Dying):
        async def dial(self, host, port):
            self.dials += 1
            if self.dials == 1:
                raise DialRefused("refused")
            return asyncio.StreamReader(), Writer()

    async def scene(world):
        peers = peers_of(Rising(accepted=0), Events())
        with pytest.raises(DialRefused):
            await peers.connect(LEADER)
        assert peers.dial_errors == {"n1": "DialRefused: refused"}
        await peers.connect(LEADER)
        assert peers.dial_errors == {}
        await peers.close()

    run_sim(1, scene)


def test_a_server_that_is_removed_leaves_no_dial_error():
    async def scene(world):
        peers = peers_of(Dying(accepted=0), Events())
        with pytest.raises(DialRefused):
            await peers.connect(LEADER)
        peers.retain({"n2"})
        assert peers.dial_errors == {}
        await peers.close()

    run_sim(1, scene)


def test_answers_belong_to_the_requests_in_their_order():
    class Answering(Dying):
        def __init__(self):
            self.reader = asyncio.StreamReader()
            self.written = 0

        async def dial(self, host, port):
            return self.reader, self

        def write(self, data):
            self.written += 1

        async def drain(self):
            pass

        close, wait_closed, is_closing, abort = Writer.close, Writer.wait_closed, Writer.is_closing, Writer.abort
        transport = Writer.transport

    async def scene(world):
        host, events = Answering(), Events()
        peers = peers_of(host, events)
        for sequence in (1, 2, 3):
            peers.send(Request(sequence, LEADER, AppendEntriesRequest()))
        await asyncio.sleep(0.1)
        assert host.written == 3
        for term in (11, 12, 13):
            host.reader.feed_data(encode_reply("", AppendEntriesResponse(term=term)))
        await asyncio.sleep(0.1)
        assert [(sequence, reply.term) for sequence, reply in events.replies] == [(1, 11), (2, 12), (3, 13)]
        await peers.close()

    run_sim(1, scene)


def test_a_lane_that_failed_tells_what_it_loses_and_is_started_anew():
    class Failing(Dying):
        async def dial(self, host, port):
            self.dials += 1
            if self.dials == 1:
                raise RuntimeError("nobody thought of this")
            await asyncio.Event().wait()

    class Log(Recorder):
        def error(self, message, **pairs):
            assert message == "task failed"

    async def scene(world):
        host, events = Failing(accepted=0), Events()
        peers = peers_of(host, events)
        peers.tasks._log = Log()
        peers.send(Request(1, LEADER, AppendEntriesRequest()))
        await asyncio.sleep(0.1)
        assert (host.dials, events.replies) == (1, [(1, None)])
        peers.send(Request(2, LEADER, AppendEntriesRequest()))
        await asyncio.sleep(0.1)
        assert (host.dials, events.replies) == (2, [(1, None)])
        await peers.close()

    run_sim(1, scene)


@pytest.mark.parametrize(
    ("request_", "kind"),
    [
        (AppendEntriesRequest(), "processHeartbeat"),
        (AppendEntriesRequest(entries=(LogEntry(index=1),)), "appendEntries"),
        (AppendEntriesRequest(prev_log_entry=1), "appendEntries"),
        (RequestVoteRequest(), "requestVote"),
        (RequestPreVoteRequest(), "requestVote"),
        (TimeoutNowRequest(), ""),
    ],
)
def test_a_request_is_measured_by_the_name_that_the_reference_has(request_, kind):
    assert request_kind(request_) == kind
