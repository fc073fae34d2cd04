"""Answers that are given again: only while they would be the same, and never what is for one's eyes only."""

import asyncio

import pytest

from pyconsul_agent.interfaces.http import known
from pyconsul_agent.interfaces.http.known import Answer, Known
from pyconsul_agent.interfaces.http.message import Response, text_response
from pyconsul_agent.interfaces.http.routes import Route
from tests.unit.http_bench import serve

GET = b"GET /v1/kv/a HTTP/1.1\r\nHost: x\r\n\r\n"


class State:
    """What a server would be asked: the stamps of its parts, and how often the handler ran."""

    def __init__(self):
        self.stamps = {"kv": 1}
        self.runs = 0
        self.during = lambda: None
        self.status = 200
        self.text = ""

    async def get(self, request):
        self.runs += 1
        self.during()
        return text_response(self.text or f"{request.path} {self.runs}", status=self.status)

    async def slow(self, request):
        self.runs += 1
        await asyncio.sleep(1)
        return Response(200, b"slow")

    def serve(self, scenario):
        routes = [
            Route("/v1/kv/", (("GET", self.get), ("PUT", self.get)), "key", state="kv"),
            Route("/v1/other/", (("GET", self.get),), "none"),
            Route("/v1/slow", (("GET", self.slow),), "none", state="kv"),
        ]
        return serve(scenario, routes=routes, stamp=lambda part: self.stamps[part])


class Client:
    def __init__(self, bench, reader, writer):
        self.bench, self.reader, self.writer = bench, reader, writer

    async def send(self, data):
        self.writer.write(data)

    async def answer(self):
        head = await self.reader.readuntil(b"\r\n\r\n")
        length = int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0])
        return head, await self.reader.readexactly(length)

    async def ask(self, data=GET):
        self.writer.write(data)
        return (await self.answer())[1].decode()


def talk(state, conversation):
    async def scenario(bench):
        reader, writer = await bench.connect()
        try:
            return await conversation(Client(bench, reader, writer))
        finally:
            writer.close()

    return state.serve(scenario)


def test_a_repeated_request_is_answered_alike_without_its_handler():
    async def conversation(client):
        return [await client.ask() for _ in range(5)]

    state = State()
    assert talk(state, conversation) == ["/v1/kv/a 1", "/v1/kv/a 2", *["/v1/kv/a 3"] * 3]
    assert state.runs == 3  # what comes only once or twice is not worth keeping


def test_another_connection_gets_the_same_answer_with_its_own_time():
    async def scenario(bench):
        heads = []
        for _ in range(4):
            reader, writer = await bench.connect()
            client = Client(bench, reader, writer)
            await client.send(GET)
            heads.append(await client.answer())
            writer.close()
            await asyncio.sleep(5)
        return heads

    state = State()
    _, _, (first, body), (second, again) = state.serve(scenario)
    assert state.runs == 3 and body == again
    dates = [next(line for line in head.split(b"\r\n") if line.startswith(b"Date: ")) for head in (first, second)]
    assert dates[0] != dates[1]
    assert first.replace(dates[0], b"") == second.replace(dates[1], b"")


def test_a_change_of_the_state_is_seen_by_the_next_request():
    async def conversation(client):
        for _ in range(2):
            await client.ask()
        first = await client.ask()
        state.stamps["kv"] = 2
        return [first, await client.ask(), await client.ask()]

    state = State()
    assert talk(state, conversation) == ["/v1/kv/a 3", "/v1/kv/a 4", "/v1/kv/a 4"]


def test_without_a_stamp_every_request_reaches_its_handler():
    async def conversation(client):
        answers = [await client.ask() for _ in range(3)]
        state.stamps["kv"] = None  # the lease is over
        answers += [await client.ask(), await client.ask()]
        state.stamps["kv"] = 1
        return [*answers, await client.ask()]

    state = State()
    assert [answer[-1] for answer in talk(state, conversation)] == ["1", "2", "3", "4", "5", "3"]


def test_an_answer_made_while_the_state_changed_is_not_kept():
    async def conversation(client):
        def change():
            state.stamps["kv"] += 1

        state.during = change
        return [await client.ask() for _ in range(4)]

    state = State()
    assert [answer[-1] for answer in talk(state, conversation)] == ["1", "2", "3", "4"]


def test_new_response_headers_show_in_the_next_answer():
    async def conversation(client):
        for _ in range(3):
            await client.ask()
        client.bench.pipeline.set_response_headers({"X-New": "1"})
        await client.send(GET)
        return (await client.answer())[0]

    assert b"X-New: 1" in talk(State(), conversation)


@pytest.mark.parametrize(
    "data",
    [
        b"GET /v1/kv/a?index=5 HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /v1/kv/a?consistent HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /v1/kv/a?token=t HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /v1/kv/a?cached HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /v1/kv/a?dc=other HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /v1/kv/a HTTP/1.1\r\nHost: x\r\nX-Consul-Token: t\r\n\r\n",
        b"GET /v1/kv/a HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer t\r\n\r\n",
        b"GET /v1/kv/a HTTP/1.1\r\nHost: x\r\nCache-Control: max-age=1\r\n\r\n",
        b"GET /v1/kv/a HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\nx",
        b"PUT /v1/kv/a HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /v1/other/a HTTP/1.1\r\nHost: x\r\n\r\n",
    ],
)
def test_what_depends_on_more_than_the_state_is_never_kept(data):
    async def conversation(client):
        for _ in range(4):
            await client.ask(data)

    state = State()
    talk(state, conversation)
    assert state.runs == 4


def test_errors_are_not_kept():
    async def conversation(client):
        for _ in range(4):
            await client.ask()

    state = State()
    state.status = 500
    talk(state, conversation)
    assert state.runs == 4


def test_a_known_request_in_pieces_or_behind_another_is_still_read_right():
    async def conversation(client):
        answers = [await client.ask() for _ in range(3)]
        await client.send(GET[:10])
        await asyncio.sleep(0.1)
        answers.append(await client.ask(GET[10:]))
        await client.send(GET + GET[:5])
        await asyncio.sleep(0.1)
        answers.append((await client.answer())[1].decode())
        await client.send(GET[5:])
        answers.append((await client.answer())[1].decode())
        other = GET.replace(b"/a", b"/b")
        await client.send(other + GET)
        answers += [(await client.answer())[1].decode() for _ in range(2)]
        return answers

    answers = talk(State(), conversation)
    assert [answer.split()[0] for answer in answers] == ["/v1/kv/a"] * 6 + ["/v1/kv/b", "/v1/kv/a"]


def test_a_read_that_waits_after_all_is_asked_again_and_holds_up_the_known_request_behind_it():
    slow = b"GET /v1/slow HTTP/1.1\r\nHost: x\r\n\r\n"

    async def conversation(client):
        await client.ask()
        await client.ask()
        await client.send(slow)
        await asyncio.sleep(0.1)
        await client.send(GET)
        return [(await client.answer())[1] for _ in range(2)]

    assert talk(State(), conversation) == [b"slow", b"/v1/kv/a 5"]


def test_a_bytewise_request_can_not_be_confused_with_a_known_one_in_a_body():
    put = b"PUT /v1/kv/z HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(GET)

    async def conversation(client):
        await client.ask()
        await client.ask()
        await client.send(put)
        await asyncio.sleep(0.1)
        await client.send(GET)  # this is the body
        return (await client.answer())[1]

    assert talk(State(), conversation) == b"/v1/kv/z 3"


def test_too_many_requests_or_too_long_answers_are_forgotten():
    store = Known()
    for number in range(known.REQUESTS_MAX + 1):
        store.learn(b"%d" % number, number)
    assert len(store) == 1
    long = b"x" * (known.REQUEST_BYTES_MAX + 1)
    assert not store.again(long) and not store.again(long)
    assert not store.again(b"short") and store.again(b"short")
    for number in range(known.SEEN_MAX):
        store.again(b"%d" % number)
    assert not store.again(b"short")
    assert not store.admits(Answer(1, b"", b"x" * (known.ANSWER_BYTES_MAX + 1)), None)
    big = Answer(1, b"", b"x" * known.ANSWER_BYTES_MAX)
    fits = known.ANSWERS_BYTES_MAX // known.ANSWER_BYTES_MAX
    assert all(store.admits(big, None) for _ in range(fits))
    assert store.admits(big, big)
    assert not store.admits(big, None)
    assert len(store) == 0
