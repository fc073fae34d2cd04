"""The prologue of every call: who answers, how long is waited, what the reply says of the leader."""

import asyncio
import random
from dataclasses import replace

import pytest

from pyconsul_agent.errors import LeadershipLost, NoLeader, NoPathToDatacenter, NotLeader, RPCError
from pyconsul_agent.runtime.rpc_pool import ServerAddress
from pyconsul_agent.server.dispatch import Dispatcher
from pyconsul_agent.server.forward import Forwarder, LeaderNotTracked
from pyconsul_agent.server.seams import Endpoint, Where
from pyconsul_agent.structs.base import duration
from pyconsul_agent.structs.methods import (
    KVS_APPLY,
    KVS_GET,
    OPERATOR_SERVER_HEALTH,
    SESSION_RENEW,
    STATUS_LEADER,
    STATUS_PING,
    Empty,
)
from pyconsul_agent.structs.operator import AutopilotHealthReply
from pyconsul_agent.structs.requests import (
    DCSpecificRequest,
    IndexedDirEntries,
    IndexedSessions,
    KeyRequest,
    KVSRequest,
    SessionSpecificRequest,
)
from pyconsul_agent.wire import msgpack
from tests.memory_net import Clock, run

PEER = ("127.0.0.2", 40000)


class Leadership:
    def __init__(self, *, leads=False, address="", contact=None, lease=True):
        self.is_leader = leads
        self.leader_address = address
        self.last_contact_s = contact
        self.lease_valid = lease
        self.verified = 0
        self.verify_error = None

    async def verify(self):
        self.verified += 1
        if self.verify_error is not None:
            raise self.verify_error


def leading(**options):
    return Leadership(leads=True, address="10.0.0.1:8300", contact=0.0, **options)


def following(address="10.0.0.2:8300", contact=0.025):
    return Leadership(address=address, contact=contact)


class Forwards:
    """Answers in turn what it was given: bytes, or an error to raise. Remembers what was sent."""

    def __init__(self, *answers):
        self.answers = list(answers)
        self.sent = []

    def _next(self):
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def to_leader(self, name, body):
        self.sent.append(("leader", name, body))
        return self._next()

    async def to_datacenter(self, datacenter, name, body):
        self.sent.append((datacenter, name, body))
        return self._next()


class Server:
    """A dispatcher with a few endpoints that count their runs."""

    def __init__(self, leadership, *answers, **options):
        self.runs = []
        self.leadership = leadership
        self.forwards = Forwards(*(answers or (RPCError("nobody was to be asked"),)))
        self.on_run = lambda: None
        endpoints = [
            self.endpoint(KVS_GET, Where.FORWARD, IndexedDirEntries(index=42)),
            self.endpoint(KVS_APPLY, Where.FORWARD, True, write=True),
            self.endpoint(SESSION_RENEW, Where.FORWARD, IndexedSessions()),
            self.endpoint(OPERATOR_SERVER_HEALTH, Where.FORWARD, AutopilotHealthReply()),
            self.endpoint(STATUS_LEADER, Where.DATACENTER, "10.0.0.1:8300"),
            self.endpoint(STATUS_PING, Where.LOCAL, Empty()),
        ]
        self.dispatcher = Dispatcher(
            endpoints,
            leadership,
            self.forwards,
            datacenter="dc1",
            clock=Clock(),
            random=random.Random(1),
            **{"consistent_ready": lambda: True, "settled": lambda: True, "version": lambda part: 0} | options,
        )

    def endpoint(self, method, where, reply, write=False):
        async def answer(request):
            self.runs.append((method.name, request))
            self.on_run()
            return reply

        return Endpoint(method, where, answer, write)

    async def timed(self, call):
        """(reply or error, seconds)"""
        loop = asyncio.get_running_loop()
        started = loop.time()
        try:
            return await call, loop.time() - started
        except RPCError as error:
            return error, loop.time() - started


GET = KeyRequest(datacenter="dc1", key=b"a")
PUT = KVSRequest(datacenter="dc1", op="set")
ENTRIES = msgpack.encode(IndexedDirEntries(index=7, known_leader=True))


def call(server, method, request):
    return run(server.timed(server.dispatcher.call(method, request)))


def serve(server, name, body):
    return run(server.timed(server.dispatcher.serve(name, body, PEER)))


def test_leader_answers_itself():
    server = Server(leading())
    reply, waited = call(server, KVS_GET, GET)
    assert reply == IndexedDirEntries(index=42, known_leader=True)
    assert waited == 0
    assert server.leadership.verified == 0
    assert server.runs == [("KVS.Get", GET)]


def test_request_without_datacenter_is_ours():
    assert call(Server(leading()), KVS_GET, replace(GET, datacenter=""))[0].index == 42


def test_follower_passes_the_very_bytes_to_the_leader():
    server = Server(following(), ENTRIES)
    body = msgpack.encode({"Datacenter": "dc1", "Key": "a", "FromTheFuture": 1})
    assert serve(server, "KVS.Get", body)[0] == ENTRIES
    assert server.forwards.sent == [("leader", "KVS.Get", body)]
    assert server.runs == []


def test_follower_passes_a_local_call_to_the_leader_and_decodes_its_reply():
    server = Server(following(), ENTRIES)
    assert call(server, KVS_GET, GET)[0] == IndexedDirEntries(index=7, known_leader=True)
    assert server.forwards.sent == [("leader", "KVS.Get", msgpack.encode(GET))]


def test_reply_of_the_leader_that_does_not_fit_is_an_error():
    assert "codec.decoder: " in str(call(Server(following(), b"\x01"), KVS_GET, GET)[0])


def test_other_datacenter_comes_before_everything():
    server = Server(leading(), ENTRIES)
    call(server, KVS_GET, replace(GET, datacenter="dc2", allow_stale=True))
    assert server.forwards.sent[0][:2] == ("dc2", "KVS.Get")
    assert server.runs == []


def test_unknown_datacenter():
    error, _ = call(Server(leading(), NoPathToDatacenter()), STATUS_LEADER, DCSpecificRequest(datacenter="dc9"))
    assert str(error) == "No path to datacenter"


def test_datacenter_methods_are_not_passed_to_the_leader():
    server = Server(following())
    assert call(server, STATUS_LEADER, DCSpecificRequest(datacenter="dc1"))[0] == "10.0.0.1:8300"


def test_local_methods_need_no_leader():
    assert call(Server(Leadership()), STATUS_PING, Empty())[0] == Empty()


# --- stale reads ----------------------------------------------------------------------------------------------


def test_follower_answers_stale_reads_and_says_how_stale():
    reply, waited = call(Server(following(contact=0.025)), KVS_GET, replace(GET, allow_stale=True))
    assert reply == IndexedDirEntries(index=42, known_leader=True, last_contact=duration(0.025))
    assert waited == 0


def test_stale_reads_go_on_without_a_leader():
    reply, _ = call(Server(following(address="", contact=9.0)), KVS_GET, replace(GET, allow_stale=True))
    assert (reply.known_leader, reply.last_contact) == (False, duration(9.0))


def test_server_that_never_heard_a_leader_does_not_answer_stale_reads():
    error, waited = call(Server(Leadership(), NoLeader()), KVS_GET, replace(GET, allow_stale=True))
    assert str(error) == "No cluster leader"
    assert waited >= 7


def test_stale_is_no_excuse_for_writes():
    server = Server(following(), b"\xc3")
    call(server, KVS_APPLY, PUT)
    assert server.forwards.sent[0][0] == "leader"


# --- no leader ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("method", "request_"), [(KVS_GET, GET), (KVS_APPLY, PUT)], ids=["read", "write"])
def test_without_leader_a_call_is_held_and_fails(method, request_):
    error, waited = call(Server(Leadership(), NoLeader()), method, request_)
    assert str(error) == "No cluster leader"
    assert 7.0 <= waited <= 7.0 + 7.0 / 16 + 0.01


def test_a_leader_that_appears_ends_the_wait():
    server = Server(Leadership(), NoLeader(), NoLeader(), ENTRIES)
    reply, waited = call(server, KVS_GET, GET)
    assert reply.index == 7
    assert 0 < waited < 1


def test_becoming_leader_ends_the_wait():
    leadership = Leadership()
    server = Server(leadership, NoLeader())

    async def main():
        asyncio.get_running_loop().call_later(2.0, lambda: setattr(leadership, "is_leader", True))
        return await server.timed(server.dispatcher.call(KVS_GET, GET))

    reply, waited = run(main())
    assert reply.known_leader
    assert 2.0 <= waited < 2.5


def test_news_of_a_leader_end_the_wait_at_once():
    leadership = Leadership()
    server = Server(leadership, NoLeader())

    def elected():
        leadership.is_leader = True
        server.dispatcher.news()

    async def main():
        asyncio.get_running_loop().call_later(2.0, elected)
        return await asyncio.gather(*(server.timed(server.dispatcher.call(KVS_GET, GET)) for _ in range(20)))

    for reply, waited in run(main()):
        assert reply.known_leader
        assert 2.0 <= waited < 2.001


def test_leader_that_gossip_does_not_know_is_waited_for_and_named():
    error, waited = call(Server(following(), LeaderNotTracked()), KVS_GET, GET)
    assert str(error) == "Raft leader not found in server lookup mapping"
    assert waited >= 7


def test_leaving_server_holds_nothing():
    error, waited = call(Server(leading(), is_leaving=lambda: True), KVS_APPLY, PUT)
    assert str(error) == "No cluster leader"
    assert waited == 0


def test_leaving_server_still_answers_stale_reads():
    server = Server(following(), is_leaving=lambda: True)
    assert call(server, KVS_GET, replace(GET, allow_stale=True))[0].index == 42


def test_leaving_during_the_wait_ends_it():
    leaving = []
    server = Server(Leadership(), NoLeader(), is_leaving=lambda: bool(leaving))

    async def main():
        asyncio.get_running_loop().call_later(1.0, leaving.append, True)
        return await server.timed(server.dispatcher.call(KVS_GET, GET))

    assert run(main())[1] < 1.5


@pytest.mark.parametrize(
    ("text", "method", "request_", "tries"),
    [
        ("rpc error making call: No cluster leader", KVS_APPLY, PUT, 2),
        ("rpc error making call: EOF", KVS_GET, GET, 2),
        ("rpc error making call: EOF", KVS_APPLY, PUT, 1),
        ("rpc error making call: Must provide key", KVS_GET, GET, 1),
        ("rpc error making call: leadership lost while committing log", KVS_APPLY, PUT, 1),
    ],
)
def test_only_harmless_failures_at_the_leader_are_repeated(text, method, request_, tries):
    good = ENTRIES if method is KVS_GET else b"\xc3"
    server = Server(following(), RPCError(text), good)
    outcome, _ = call(server, method, request_)
    assert len(server.forwards.sent) == tries
    assert isinstance(outcome, RPCError) is (tries == 1)
    if tries == 1:
        assert str(outcome) == text


# --- what a leader must prove ---------------------------------------------------------------------------------


def test_default_read_without_lease_is_confirmed_by_a_quorum():
    server = Server(leading(lease=False))
    assert call(server, KVS_GET, GET)[0].index == 42
    assert server.leadership.verified == 1


def test_lease_is_checked_after_the_answer_was_computed():
    leadership = leading()
    server = Server(leadership)
    server.on_run = lambda: setattr(leadership, "lease_valid", False)
    call(server, KVS_GET, GET)
    assert leadership.verified == 1


@pytest.mark.parametrize("error", [LeadershipLost(), NotLeader()])
def test_answer_of_a_deposed_leader_is_dropped_and_the_new_leader_is_asked(error):
    leadership = leading(lease=False)
    leadership.verify_error = error
    server = Server(leadership, ENTRIES)
    server.on_run = lambda: leadership.__dict__.update(is_leader=True)

    async def main():
        loop = asyncio.get_running_loop()
        loop.call_later(0.001, lambda: leadership.__dict__.update(is_leader=False, leader_address="10.0.0.2:8300"))
        return await server.timed(server.dispatcher.call(KVS_GET, GET))

    reply, _ = run(main())
    assert reply.index == 7
    assert server.forwards.sent[0][0] == "leader"


def test_deposed_leader_without_successor_answers_no_leader():
    leadership = leading(lease=False)
    leadership.verify_error = LeadershipLost()
    error, waited = call(Server(leadership), KVS_GET, GET)
    assert str(error) == "No cluster leader"
    assert waited >= 7


def test_stale_read_at_a_leader_without_lease_is_answered():
    server = Server(leading(lease=False))
    assert call(server, KVS_GET, replace(GET, allow_stale=True))[0].index == 42
    assert server.leadership.verified == 0


def test_write_is_not_verified():
    server = Server(leading(lease=False))
    assert call(server, KVS_APPLY, PUT)[0] is True
    assert server.leadership.verified == 0


def test_consistent_read_is_verified_before_it_runs():
    server = Server(leading())
    server.on_run = lambda: server.runs.append(server.leadership.verified)
    call(server, KVS_GET, replace(GET, require_consistent=True))
    assert server.runs[-1] == 1


def test_consistent_read_that_cannot_be_verified_fails():
    server = Server(leading())
    server.leadership.verify_error = LeadershipLost()
    error, _ = call(server, KVS_GET, replace(GET, require_consistent=True))
    assert str(error) == "leadership lost while committing log"
    assert server.runs == []


def test_consistent_read_waits_for_the_start_up_barrier():
    error, waited = call(
        Server(leading(), consistent_ready=lambda: False), KVS_GET, replace(GET, require_consistent=True)
    )
    assert str(error) == "Not ready to serve consistent reads"
    assert waited >= 7


def test_default_read_waits_for_the_start_up_barrier_of_a_new_leader():
    ready = []
    server = Server(leading(), consistent_ready=lambda: bool(ready))

    async def main():
        asyncio.get_running_loop().call_later(1.0, ready.append, True)
        return await server.timed(server.dispatcher.call(KVS_GET, GET))

    reply, waited = run(main())
    assert reply.index == 42
    assert 1.0 <= waited < 1.5
    assert len(server.runs) == 1


def test_read_that_ran_before_the_barrier_of_a_later_leadership_runs_again():
    # It blocked while this server was deposed and elected again: the lease is good, the state may be old.
    ready = [True]
    server = Server(leading(), consistent_ready=lambda: bool(ready))

    def depose():
        if len(server.runs) == 1:
            ready.clear()
            asyncio.get_running_loop().call_later(0.1, ready.append, True)

    server.on_run = depose
    assert call(server, KVS_GET, GET)[0].index == 42
    assert len(server.runs) == 2


def test_read_that_finds_itself_deposed_asks_the_new_leader():
    leadership = leading()
    server = Server(leadership, ENTRIES)

    def depose():
        leadership.__dict__.update(is_leader=False, leader_address="10.0.0.2:8300")
        raise NotLeader

    server.on_run = depose
    assert call(server, KVS_GET, GET)[0].index == 7
    assert server.forwards.sent[0][0] == "leader"


def test_stale_read_does_not_wait_for_the_start_up_barrier():
    server = Server(leading(), consistent_ready=lambda: False)
    assert call(server, KVS_GET, replace(GET, allow_stale=True))[1] == 0


def test_server_health_is_always_asked_of_a_verified_leader():
    server = Server(leading())
    call(server, OPERATOR_SERVER_HEALTH, DCSpecificRequest(allow_stale=True))
    assert server.leadership.verified == 1
    server = Server(following(), msgpack.encode(AutopilotHealthReply()))
    serve(server, "Operator.ServerHealth", msgpack.encode(DCSpecificRequest(allow_stale=True)))
    sent = msgpack.decode(DCSpecificRequest, server.forwards.sent[0][2])
    assert (sent.allow_stale, sent.require_consistent) == (False, True)


# --- replies and texts ----------------------------------------------------------------------------------------


def test_session_renew_says_nothing_of_the_leader():
    reply, _ = call(Server(leading()), SESSION_RENEW, SessionSpecificRequest())
    assert (reply.index, reply.known_leader) == (1, False)


def test_served_reply_is_encoded():
    reply, _ = serve(Server(leading()), "KVS.Get", msgpack.encode(GET))
    assert msgpack.decode(IndexedDirEntries, reply) == IndexedDirEntries(index=42, known_leader=True)
    assert serve(Server(leading()), "Status.Ping", b"\x80")[0] == b"\x80"
    assert serve(Server(leading()), "KVS.Apply", msgpack.encode(PUT))[0] == b"\xc3"


@pytest.mark.parametrize(
    ("name", "body", "text"),
    [
        ("KVS.Nope", b"\x80", "rpc: can't find method KVS.Nope"),
        ("Foo.Bar", b"\x80", "rpc: can't find service Foo.Bar"),
        ("FooBar", b"\x80", "rpc: service/method request ill-formed: FooBar"),
        ("KVS.Get", b"\xa3abc", "codec.decoder: Only encoded map or array can be decoded into a struct."),
        ("KVS.Get", msgpack.encode({"Key": 1}), "codec.decoder: "),
    ],
)
def test_calls_that_cannot_be_understood(name, body, text):
    error, _ = serve(Server(leading()), name, body)
    assert str(error).startswith(text)


# --- forwarder ------------------------------------------------------------------------------------------------

LEADER = ServerAddress("srv2", "10.0.0.2", 8300, "dc1")
REMOTE = ServerAddress("far1", "10.2.0.1", 8300, "dc2")


class Pool:
    def __init__(self, error=None):
        self.error = error
        self.calls = []

    async def call_raw(self, server, name, body):
        self.calls.append((server, name, body))
        if self.error:
            raise self.error
        return b"\x80"


class Lookup:
    def __init__(self):
        self.failures = []

    def server_at(self, address):
        return LEADER if address == "10.0.0.2:8300" else None

    def has_datacenter(self, datacenter):
        return datacenter in ("dc2", "dc3")

    def route(self, datacenter):
        return REMOTE if datacenter == "dc2" else None

    def failed(self, server):
        self.failures.append(server)


def test_forwarder_asks_the_server_that_gossip_names():
    pool, lookup = Pool(), Lookup()
    forwarder = Forwarder(pool, following(), lookup)
    run(forwarder.to_leader("KVS.Get", b"body"))
    run(forwarder.to_datacenter("dc2", "KVS.Get", b"body"))
    assert pool.calls == [(LEADER, "KVS.Get", b"body"), (REMOTE, "KVS.Get", b"body")]


@pytest.mark.parametrize(
    ("address", "text"),
    [("", "No cluster leader"), ("10.0.0.9:8300", "Raft leader not found in server lookup mapping")],
)
def test_forwarder_without_a_leader(address, text):
    with pytest.raises(RPCError) as caught:
        run(Forwarder(Pool(), following(address=address), Lookup()).to_leader("KVS.Get", b""))
    assert str(caught.value) == text


@pytest.mark.parametrize(
    ("datacenter", "text"),
    [("dc3", "Remote DC has no server currently reachable"), ("dc9", "No path to datacenter")],
)
def test_forwarder_without_a_way(datacenter, text):
    with pytest.raises(RPCError) as caught:
        run(Forwarder(Pool(), following(), Lookup()).to_datacenter(datacenter, "KVS.Get", b""))
    assert str(caught.value) == text


def test_forwarder_reports_the_failed_server_of_another_datacenter():
    lookup = Lookup()
    with pytest.raises(RPCError):
        run(Forwarder(Pool(RPCError("x")), following(), lookup).to_datacenter("dc2", "KVS.Get", b""))
    assert lookup.failures == [REMOTE]


# --- stamps -------------------------------------------------------------------------------------------------------


def test_a_stamp_needs_a_leader_that_is_ready_stays_and_holds_its_lease():
    def stamp(leadership, **options):
        return Server(leadership, version=lambda part: 7, **options).dispatcher.stamp("kv")

    assert stamp(leading()) == 7
    assert stamp(leading(lease=False)) is None
    assert stamp(following()) is None
    assert stamp(leading(), consistent_ready=lambda: False) is None
    assert stamp(leading(), is_leaving=lambda: True) is None


def test_who_leads_is_a_stamp_of_its_own():
    assert Server(following()).dispatcher.stamp("leader") == "10.0.0.2:8300"
