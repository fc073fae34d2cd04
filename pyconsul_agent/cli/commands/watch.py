"""`watch`: print the first result of a query, or run a program at the first and at each new one."""

from __future__ import annotations

import datetime
import signal
import subprocess
import time
from collections.abc import Sequence
from typing import Any

from pyconsul_agent.cli import children
from pyconsul_agent.cli.command import Command, Context
from pyconsul_agent.cli.flags import Flag
from pyconsul_agent.cli.http_api import API, APIError
from pyconsul_agent.watch.handler import environment
from pyconsul_agent.watch.plan import BadWatch, Failure, News, Plan, parse
from pyconsul_agent.wire.gotypes import format_duration, parse_bool, quote

TEXTS = ("key", "prefix", "service", "state", "name", "datacenter")


class _Stopped(Exception):
    """A signal asked us to end."""


def run(context: Context, arguments: Sequence[str]) -> int:
    """Without a program: print once. With one: go on until it fails or a signal comes."""
    kind = context.text("type")
    if not kind:
        context.err.write(f"Watch type must be specified\n\n{context.usage}")
        return 1
    definition: dict[str, Any] = {"type": kind, **{name: context.text(name) for name in TEXTS if context.text(name)}}
    if context.text("passingonly"):
        try:
            definition["passingonly"] = parse_bool(context.text("passingonly"))
        except ValueError as error:
            return context.complain(f"Failed to parse passingonly flag: {error}")
    if context.on("stale"):
        definition["stale"] = True
    if tags := context.values["tag"]:
        definition["tag"] = tags
    try:
        plan = parse(definition)
    except BadWatch as error:
        return context.complain(str(error))
    api = context.api()

    def stop(number: int, frame: object) -> None:
        raise _Stopped

    children.on_signals(stop, signal.SIGINT, signal.SIGTERM)
    try:
        if not arguments:
            context.say(_next(context, api, plan).pretty())
            return 0
        return _with_program(context, api, plan, arguments)
    except _Stopped:
        return 0


def _with_program(context: Context, api: API, plan: Plan, words: Sequence[str]) -> int:
    while True:
        problem = _handle(context, words, _next(context, api, plan))
        if problem:
            return context.complain(problem)


def _next(context: Context, api: API, plan: Plan) -> News:
    """Ask until there is news; failures are logged, and waited for."""
    while True:
        request = plan.request()
        # What the flags share (datacenter, stale) is in the API's own query already.
        try:
            answer = api.get(request.path, dict(request.query))
            outcome = plan.answered(answer.status, answer.index, answer.body)
        except APIError as error:
            outcome = plan.failed(str(error))
        if isinstance(outcome, News):
            return outcome
        if isinstance(outcome, Failure):
            _log(context, plan.kind, outcome)
            context.err.flush()
            time.sleep(outcome.retry_s)


def _log(context: Context, kind: str, failure: Failure) -> None:
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    wait = format_duration(int(failure.retry_s * 1e9))
    text = failure.text
    context.complain(f"{now} [ERROR] watch.watch: Watch errored: type={kind} error={quote(text)} retry={wait}")


def _handle(context: Context, words: Sequence[str], news: News) -> str:
    """Run the program with the result on its standard input; what went wrong."""
    arguments = children.arguments_of(words, shell=context.on("shell"), environ=context.environ)
    surroundings = environment(context.environ, news.index)
    try:
        process = children.start(
            arguments, surroundings, stdin=subprocess.PIPE, out=context.out, err=context.err
        )  # fmt: skip
    except OSError as error:
        return f"Error starting handler: {children.could_not_start(arguments[0], error)}"
    children.forward(process)
    try:
        process.communicate(news.compact())
    except BaseException:
        process.terminate()  # a program must not outlive the watch that started it
        process.wait()
        raise
    ended = children.outcome(process.returncode)
    return f"Error executing handler: {ended}" if ended else ""


WATCH = Command(
    "consul watch [options] [child...]",
    "Waits for changes of a view of the cluster. Without a program: shows the present result and ends. With one: runs "
    "it now and at each change, with the result as JSON on its standard input and CONSUL_INDEX in its environment.",
    run,
    (
        Flag("key", "string", "With type key: the key."),
        Flag("name", "string", "With type event: only events of this name."),
        Flag("passingonly", "string", "With type service: only instances that are passing (true or false)."),
        Flag("prefix", "string", "With type keyprefix: the prefix."),
        Flag("service", "string", "With type service: the service. With checks: only its checks."),
        Flag("shell", "bool", "Run the program by the shell of $SHELL.", True),
        Flag("state", "string", "With type checks: only checks in this state."),
        Flag("tag", "strings", "With type service: only instances with this tag. May be given several times."),
        Flag("type", "string", "What is watched: key, keyprefix, services, nodes, service, checks or event."),
    ),
    groups="CS",
)
