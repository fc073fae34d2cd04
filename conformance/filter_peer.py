"""Ask a real Consul and our own parser the same filter expressions: equal rows, equal error texts?

    python -m conformance.filter_peer --seed 1 --count 4000
    python -m conformance.filter_peer --seed 1 --count 600 --record conformance/vectors/filter/cases.json

Expressions are drawn from the seed: valid ones, such that name what is not there, and then some bytes changed. The
real agent runs on loopback for as long as this takes. Every difference is printed; the last line is
`N passed, N failed`; the exit code is 1 when one failed. Not in CI, where the recorded cases stand for it.
"""

from __future__ import annotations

import argparse
import http.client
import json
import random
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

from conformance.real_consul import Missing, real_consul, report_missing
from pyconsul_agent.query.bexpr.expression import compile_filter
from pyconsul_agent.structs.catalog import ServiceNode
from pyconsul_agent.wire.gojson_reader import decode

ADDRESS = "127.77.3.1"
PORT = 28500
START_S = 30.0
PREFIX = "Failed to create boolean expression evaluator: "
SERVICE = "/v1/catalog/service/web"

REGISTRATIONS: list[dict[str, Any]] = [
    {
        "Node": "n1",
        "Address": "10.0.0.1",
        "TaggedAddresses": {"lan": "10.0.0.1", "wan": "1.1.1.1"},
        "NodeMeta": {"rack": "r1", "os": "linux"},
        "Service": {
            "ID": "web1",
            "Service": "web",
            "Tags": ["v1", "prod"],
            "Port": 80,
            "Meta": {"ver": "1"},
            "Weights": {"Passing": 10, "Warning": 1},
        },
    },
    {
        "Node": "n2",
        "Address": "10.0.0.2",
        "NodeMeta": {"rack": "r2", "os": "linux"},
        "Service": {"ID": "web2", "Service": "web", "Tags": ["v2"], "Port": 81, "Meta": {"ver": "2"}},
    },
    {
        "Node": "n3",
        "Address": "10.0.0.3",
        "Service": {
            "ID": "web3",
            "Service": "web",
            "Port": 82,
            "TaggedAddresses": {"lan": {"Address": "10.0.0.33", "Port": 5433}},
            "EnableTagOverride": True,
            "Proxy": {
                "DestinationServiceName": "db",
                "Upstreams": [{"DestinationName": "a", "LocalBindPort": 9}, {"DestinationName": "b"}],
                "Expose": {"Checks": True, "Paths": [{"Path": "/x"}]},
            },
        },
    },
]
SELECTORS = (
    "ServicePort", "ServiceTags", "NodeMeta", "NodeMeta.rack", 'NodeMeta["os"]', "NodeMeta.nope", "ServiceID", "Node",
    "ServiceMeta.ver", "ServiceTaggedAddresses.lan.Port", "ServiceTaggedAddresses.lan", "ServiceWeights.Passing",
    "ServiceEnableTagOverride", "ServiceProxy.Upstreams", "ServiceProxy.Upstreams.DestinationName",
    "ServiceProxy.Expose.Paths.Path", "ServiceProxy.Expose.Checks", "ServiceConnect.Native", "ServiceConnect", "Bogus",
    "TaggedAddresses.wan", "ServiceProxy.Upstreams.LocalBindPort", "ServiceProxy.Config", "CreateIndex", "ServiceKind",
    "ServiceProxy.MeshGateway.Mode", "NodeMeta[`rack`]", 'TaggedAddresses["x y"]',
)  # fmt: skip
VALUES = (
    "80", '"80"', "0x50", '"0x50"', '"0b1010000"', '"0120"', '"8_0"', "-1", "1.5", "007", "99999999999999999999", "v1",
    '"v1"', "`v1`", "web1", "r1", "true", '"t"', "T", "yes", '""', '"a\\nb"', '"\\q"', '"\\x76\\x31"', '"\\u0076\\061"',
    '"\\400"', "linux", "a.b", '"^web[12]$"', '"["', '"(a"', '"a{2,1}"', '"web.*"', "prod", '"+80"', '"é"', '""x', "1x",
    '"\\"', "`a`b", "`a)`", "`\\q`",
    "`[z-a]`", "`a\\`", "`*`", "`a**`", "`(?<x>a)`", "`+?`", "`a{3,2}?`", "`(`", '"/x"', '"\\U00110000"',
)  # fmt: skip
OPERATORS = (
    " == ", " != ", "==", "!=", " contains ", " not contains ", " matches ", " not matches ", " is ", "  ==\t", " > ",
    " in ",
)  # fmt: skip


class Drawn:
    """Expressions of a seed."""

    def __init__(self, seed: int) -> None:
        self._draw = random.Random(seed)

    def text(self) -> bytes:
        """One more: mostly as drawn, else with a byte or two changed."""
        out = bytearray(self._expression(3).encode())
        for _ in range(self._draw.choice((0, 0, 0, 0, 0, 1, 1, 2))):
            at, other = self._draw.randrange(len(out) + 1), self._draw.randrange(len(out) + 1)
            change = self._draw.randrange(3)
            if change == 0:
                del out[at : at + 1]
            elif change == 1:
                out.insert(at, self._draw.choice(b' ()"`.[]=!nota10x\n\t\\\xff\xc3'))
            else:
                out[at:at] = out[min(at, other) : max(at, other)][:12]
        return bytes(out)

    def _expression(self, depth: int) -> str:
        kind = self._draw.random()
        if depth <= 0 or kind < 0.45:
            return self._comparison()
        inner = self._expression(depth - 1)
        if kind < 0.65:
            return inner + self._draw.choice((" and ", " or ", " and\n", " orr ")) + self._expression(depth - 1)
        if kind < 0.75:
            return "not " + inner
        if kind < 0.95:
            return f"({self._draw.choice(('', ' '))}{inner}{self._draw.choice(('', ' '))})"
        return self._draw.choice(("(", "not ", "")) + inner + self._draw.choice(("", ")", " ", " x"))

    def _comparison(self) -> str:
        kind, pick = self._draw.random(), self._draw.choice
        if kind < 0.55:
            return pick(SELECTORS) + pick(OPERATORS) + pick(VALUES)
        if kind < 0.75:
            return pick(VALUES) + pick((" in ", " not in ", " in ", " not  in ")) + pick(SELECTORS)
        if kind < 0.95:
            return pick(SELECTORS) + pick((" is empty", " is not empty", " is empty", " is  not"))
        return pick(SELECTORS)


class Real:
    """A real agent's HTTP API."""

    def __init__(self) -> None:
        self._connection = http.client.HTTPConnection(ADDRESS, PORT, timeout=10)

    def ask(self, method: str, path: str, body: object = None) -> tuple[int, bytes]:
        """Status and body."""
        self._connection.request(method, path, body=None if body is None else json.dumps(body))
        answer = self._connection.getresponse()
        return answer.status, answer.read()

    def rows(self) -> list[dict[str, Any]]:
        """The instances of `web`."""
        found: list[dict[str, Any]] = json.loads(self.ask("GET", SERVICE)[1])
        return found

    def filtered(self, text: bytes) -> list[str] | str:
        """The IDs that pass, or the error."""
        status, body = self.ask("GET", f"{SERVICE}?filter={quote(text)}")
        if status == 200:
            return [row["ServiceID"] for row in json.loads(body)]
        return body.decode("utf-8", "surrogateescape").removeprefix(PREFIX)


def ours(rows: list[ServiceNode], text: str) -> list[str] | str:
    """The same from our own room."""
    try:
        return [row.service_id for row in compile_filter(text, ServiceNode).keep(rows)]
    except ValueError as error:
        return str(error)


@contextmanager
def real_agent(program: str) -> Iterator[Real]:
    """A real agent with the registrations. Raises TimeoutError when it does not come up."""
    with tempfile.TemporaryDirectory() as folder:
        ports = {"http": PORT, "dns": -1, "server": PORT + 1, "serf_lan": PORT + 2, "serf_wan": PORT + 3}
        settings = {
            "server": True, "bootstrap": True, "data_dir": f"{folder}/data", "bind_addr": ADDRESS,
            "client_addr": ADDRESS, "ports": ports, "log_level": "ERR", "performance": {"raft_multiplier": 1},
        }  # fmt: skip
        (Path(folder) / "c.json").write_text(json.dumps(settings))
        process = subprocess.Popen(
            [program, "agent", "-config-file", f"{folder}/c.json"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        try:
            yield _ready()
        finally:
            process.terminate()
            process.wait(30)


def _ready() -> Real:
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline:
        time.sleep(0.2)
        real = Real()
        try:
            if all(real.ask("PUT", "/v1/catalog/register", each)[0] == 200 for each in REGISTRATIONS):
                return real
        except (OSError, http.client.HTTPException):
            continue
    raise TimeoutError("the real agent did not come up")


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description="Compare filter expressions with a real Consul.")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--record", type=Path, help="write what the real agent said into this file")
    options = parser.parse_args()
    try:
        program = real_consul()
    except Missing as reason:
        return report_missing("filter_peer", reason)
    drawn, cases, failed = Drawn(options.seed), {}, 0
    with real_agent(program) as real:
        shown = real.rows()
        rows = [decode(ServiceNode, row) for row in shown]
        for _ in range(options.count):
            raw = drawn.text()
            if not raw:
                continue
            text = raw.decode("utf-8", "surrogateescape")
            cases[text] = want = real.filtered(raw)
            got = ours(rows, text)
            if got != want:
                failed += 1
                print(f"FAIL {raw!r}\n    real {want!r}\n    ours {got!r}")
    if options.record:
        kept = [{"filter": text, "is": want} for text, want in cases.items()]
        lines = ",\n".join(json.dumps(case) for case in kept)
        options.record.write_text(f'{{"rows": {json.dumps(shown)},\n"cases": [\n{lines}\n]}}\n')
    print(f"{len(cases) - failed} passed, {failed} failed")
    return 1 if failed or not cases else 0


if __name__ == "__main__":
    raise SystemExit(main())
