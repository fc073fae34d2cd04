"""`exec`: run a command on the nodes that an event reaches, and show what they say.

The job lies at `<prefix>/<session>/job`; each node that takes it writes `<node>/ack`, `<node>/out/<number>` and
`<node>/exit` beside it, all held by our session: when that ends, nobody can write any more and everything is deleted.
Agents take jobs only with `disable_remote_exec = false`.
"""

from __future__ import annotations

import base64
import json
import queue
import re
import signal
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pyconsul_agent.cli import children
from pyconsul_agent.cli.command import Command, Context
from pyconsul_agent.cli.commands.members import go_regexp_error
from pyconsul_agent.cli.flags import Flag
from pyconsul_agent.cli.http_api import API, APIError
from pyconsul_agent.wire.gotypes import parse_duration

EVENT = "_rexec"
SESSION_TTL = "15s"
RENEW_S = 5.0
SOMETHING_FAILED = 2
SCRIPT_BYTES_MAX = 384 * 1024
"""A script must fit into one value of the store, in base64."""
FILTERS = ("node", "service", "tag")


def run(context: Context, arguments: Sequence[str]) -> int:
    """Judge what is asked, then do it."""
    command, script, words = " ".join(arguments), b"", list(arguments)
    if command == "-":
        if not context.on("shell"):
            return context.complain("Cannot configure -shell=false when reading from stdin")
        command, words, script = "", [], context.stdin.read(SCRIPT_BYTES_MAX)
    elif not context.on("shell"):
        command = ""
    else:
        words = []
    if not command and not script and not words:
        context.err.write(f"Must specify a command to execute\n\n{context.usage}")
        return 1
    for flag in FILTERS:
        try:
            re.compile(context.text(flag))
        except re.error as error:
            reason = go_regexp_error(context.text(flag), error)
            return context.complain(f"Failed to compile {flag} filter regexp: {reason}")
    if context.text("tag") and not context.text("service"):
        return context.complain("Cannot provide tag filter without service filter.")
    api = context.api()
    try:
        config = api.get("/v1/agent/self").expect_ok().json()["Config"]
    except APIError as error:
        return context.complain(f"Error querying Consul agent: {error}")
    spec = {
        "Command": command,
        "Args": words or None,
        "Script": base64.b64encode(script).decode() if script else None,
        "Wait": parse_duration(context.text("wait")),
    }
    return _Job(context, api, config).run(json.dumps(spec).encode())


@dataclass(frozen=True, slots=True)
class _News:
    """What a node wrote: kind is ack, heart, out, exit; or stop, failed."""

    kind: str
    node: str = ""
    output: str = ""
    code: int = 0


class _Stopped(Exception):
    """A signal asked us to end."""


class _Job:
    """One job, from its session to the last word of the nodes."""

    def __init__(self, context: Context, api: API, config: dict[str, Any]) -> None:
        self._context = context
        self._api = api
        self._config = config
        self._prefix = context.text("prefix").strip("/")
        self._wait_s = parse_duration(context.text("wait")) / 1e9
        self._news: queue.SimpleQueue[_News] = queue.SimpleQueue()
        self._over = threading.Event()
        self._session = ""

    def _tell(self, text: str) -> None:
        if self._context.on("verbose"):
            self._context.say(text)

    @property
    def _folder(self) -> str:
        return f"{self._prefix}/{self._session}/"

    def run(self, spec: bytes) -> int:
        """The exit code. Whatever happens, the session and the data go."""

        def stop(number: int, frame: object) -> None:
            self._news.put(_News("stop"))
            raise _Stopped

        children.on_signals(stop, signal.SIGINT, signal.SIGTERM)
        try:
            self._session = self._new_session()
        except APIError as error:
            return self._context.complain(f"Failed to create session: {error}")
        threading.Thread(target=self._renew, daemon=True).start()
        self._tell(f"Created remote execution session: {self._session}")
        try:
            return self._with_session(spec)
        except _Stopped:
            return 1
        finally:
            # The session first: without it no node can write any more.
            self._over.set()
            self._quietly("PUT", f"/v1/session/destroy/{self._session}", {})
            self._quietly("DELETE", f"/v1/kv/{self._folder}", {"recurse": ""})

    def _quietly(self, method: str, path: str, query: dict[str, str]) -> None:
        """Clean up; the session's time-out does it, too."""
        try:
            self._api.request(method, path, query)
        except APIError:
            return

    def _with_session(self, spec: bytes) -> int:
        context = self._context
        try:
            query = {"acquire": self._session}
            written = self._api.put(f"/v1/kv/{self._folder}job", query, spec).expect_ok()
            if written.body.strip() != b"true":
                raise APIError(f"failed to acquire key {self._folder}job")
        except APIError as error:
            return context.complain(f"Failed to create job file: {error}")
        self._tell("Uploaded remote execution spec")
        # Nodes read the job from any server: it should be everywhere before they hear of it.
        time.sleep(parse_duration(context.text("wait-repl")) / 1e9)
        try:
            fired = self._fire()
        except APIError as error:
            return context.complain(f"Failed to fire event: {error}")
        self._tell(f"Fired remote execution event: {fired}")
        threading.Thread(target=self._follow, daemon=True).start()
        return self._report()

    def _new_session(self) -> str:
        body: dict[str, Any] = {"Name": "Remote Exec", "Behavior": "delete", "TTL": SESSION_TTL}
        datacenter = self._context.text("datacenter")
        if datacenter and datacenter != self._config["Datacenter"]:
            self._tell("Remote exec in foreign datacenter, using Session TTL")
            servers = self._api.get("/v1/health/service/consul", {"passing": "1"}).expect_ok().json()
            if not servers:
                raise APIError("Failed to find Consul server in remote datacenter")
            node = servers[0]["Node"]["Node"]
            self._tell(f"Binding session to remote node {node}@{datacenter}")
            name = f"Remote Exec via {self._config['NodeName']}@{self._config['Datacenter']}"
            body = {**body, "Name": name, "Node": node, "Checks": []}
        answer = self._api.put("/v1/session/create", None, json.dumps(body).encode())
        return str(answer.expect_ok().json()["ID"])

    def _renew(self) -> None:
        while not self._over.wait(RENEW_S):
            try:
                self._api.put(f"/v1/session/renew/{self._session}").expect_ok()
            except APIError as error:
                if not self._over.is_set():
                    self._context.complain(f"Session renew failed: {error}")
                return

    def _fire(self) -> str:
        payload = json.dumps({"Prefix": self._prefix, "Session": self._session}, separators=(",", ":")).encode()
        query = {flag: self._context.text(flag) for flag in FILTERS if self._context.text(flag)}
        return str(self._api.put(f"/v1/event/fire/{EVENT}", query, payload).expect_ok().json()["ID"])

    # --- what the nodes say ----------------------------------------------------------------------------------------

    def _follow(self) -> None:
        """Read what appears below the folder, in the order of the keys."""
        seen, index = {f"{self._folder}job"}, 0
        try:
            while not self._over.is_set():
                query = {"keys": "", "separator": "", "wait": self._context.text("wait")}
                answer = self._api.get(f"/v1/kv/{self._folder}", {**query, **({"index": str(index)} if index else {})})
                keys = [] if answer.status == 404 else answer.expect_ok().json()
                index = answer.index
                for key in keys:
                    if key not in seen:
                        seen.add(key)
                        self._read(key)
        except APIError as error:
            if not self._over.is_set():
                self._context.complain(f"Failed to read results: {error}")
                self._news.put(_News("failed"))

    def _read(self, key: str) -> None:
        name = key.removeprefix(self._folder)
        if name.endswith("/ack"):
            self._news.put(_News("ack", name.removesuffix("/ack")))
            return
        node, out, _ = name.rpartition("/out/")
        if not out and not name.endswith("/exit"):
            self._context.complain(f"Unknown key '{name}', ignoring.")
            return
        answer = self._api.get(f"/v1/kv/{key}")
        if answer.status != 200:
            self._context.complain(f"Failed to read key '{key}': {answer.status}")
            return
        value = base64.b64decode(answer.json()[0].get("Value") or "")
        if out:
            text = value.decode("utf-8", "surrogateescape")
            self._news.put(_News("out" if value else "heart", node, text))
        else:
            digits = value.decode("ascii", "replace")
            if not re.fullmatch(r"-?\d{1,10}", digits):
                self._context.complain(f"Failed to parse exit code '{digits}'")
                return
            self._news.put(_News("exit", name.removesuffix("/exit"), code=int(digits)))

    def _report(self) -> int:
        """Print until it has been quiet for the wait (twice that while nodes work)."""
        say, began = self._context.say, time.monotonic()
        acknowledged = finished = bad = 0
        while True:
            try:
                news = self._news.get(timeout=self._wait_s * (2 if acknowledged > finished else 1))
            except queue.Empty:
                break
            if news.kind in ("stop", "failed"):
                return 1
            if news.kind == "ack":
                acknowledged += 1
                self._tell(f"==> {news.node}: acknowledged")
            elif news.kind == "heart":
                self._tell(f"==> {news.node}: heartbeat received")
            elif news.kind == "out":
                for line in news.output.split("\n"):
                    say(f"    {news.node}: {line}" if line else f"    {news.node}:")
            else:
                finished += 1
                bad += news.code != 0
                say(f"==> {news.node}: finished with exit code {news.code}")
            self._context.out.flush()
        say(f"{finished} / {acknowledged} node(s) completed / acknowledged")
        self._tell(f"Completed in {time.monotonic() - began:.2f} seconds")
        return SOMETHING_FAILED if bad or finished < acknowledged else 0


EXEC = Command(
    "consul exec [options] [-|command...]",
    "Runs a command on the nodes of the cluster that allow it, and shows their output. With - as the command, a "
    "script is read from standard input.",
    run,
    (
        Flag("node", "string", "Regular expression: only nodes whose names match."),
        Flag("prefix", "string", "Where the job lies in the key-value store.", "_rexec"),
        Flag("service", "string", "Regular expression: only nodes with an instance of a matching service."),
        Flag("shell", "bool", "Have the command run by a shell.", True),
        Flag("tag", "string", "Regular expression: only services with a matching tag. Needs -service."),
        Flag("verbose", "bool", "Say what happens."),
        Flag("wait", "duration", "The job is over when nothing was heard for this time.", "2s"),
        Flag("wait-repl", "duration", "Time for the servers to copy the job before nodes hear of it.", "200ms"),
    ),
    groups="CS",
)
