"""How watches ask this agent's own API: through its pipeline, without a socket, as a client on this host would."""

from __future__ import annotations

from urllib.parse import quote, urlencode

from pyconsul_agent.agent.watches import Answer, Fetch
from pyconsul_agent.interfaces.http.message import Query, Request, Response
from pyconsul_agent.interfaces.http.pipeline import Pipeline
from pyconsul_agent.watch.plan import Request as Asked

REMOTE = "127.0.0.1"


def own_api(pipeline: Pipeline) -> Fetch:
    """Rules such as `http_config.block_endpoints` hold for watches too."""

    async def fetch(asked: Asked) -> Answer:
        raw_query = urlencode(asked.query, doseq=True, errors="surrogateescape")
        target = pipeline.locate(f"{quote(asked.path, errors='surrogateescape')}?{raw_query}", "GET")
        if isinstance(target, Response):
            return _answer(target)
        headers = {"x-consul-token": asked.token} if asked.token else {}
        query = target.query if target.query is not None else Query("")
        return _answer(await pipeline.answer(target, Request("GET", target.path, query, headers, b"", REMOTE)))

    return fetch


def _answer(response: Response) -> Answer:
    given = {name.lower(): value for name, value in response.headers.items()}
    index = given.get("x-consul-index", "")
    return Answer(response.status, int(index) if index.isdecimal() else 0, response.body)
