"""`StateChangeSubscription.Subscribe`: a snapshot of events, then what changes, for as long as the caller listens.

Any server answers from its own state, as the original does: what it tells may be old, never wrong. The rules of the
order of events are in docs/protocol/rpc.md#grpc-subscribe.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing

from pyconsul_agent.errors import RPCError
from pyconsul_agent.runtime.grpc_server import Send
from pyconsul_agent.server.dispatch import RESTORING
from pyconsul_agent.server.feeds import Feed, Feeds, Interrupted, Reader, TooManyFeeds
from pyconsul_agent.structs.subscribe import SubscribeRequest, Topic
from pyconsul_agent.wire.grpc import GRPCError, Status, encode_message
from pyconsul_agent.wire.subscribe import (
    CLOSED,
    KEY_REQUIRED,
    REQUEST,
    encode_end_of_snapshot,
    encode_new_snapshot,
)

SEND_BYTES = 16 * 1024
"""Of small messages so many go together."""

Remote = Callable[[SubscribeRequest], AsyncGenerator[bytes, None]]
"""The same subscription at a server of another datacenter, message by message. Raises RPCError."""


class Subscriptions:
    """The method."""

    def __init__(self, feeds: Feeds, datacenter: str, remote: Remote, settled: Callable[[], bool]) -> None:
        self._feeds = feeds
        self._settled = settled
        self._datacenter = datacenter
        self._remote = remote

    async def serve(self, body: bytes, send: Send) -> None:
        """One subscription. Raises GRPCError when it must end, DecodeError when the request is none."""
        request = REQUEST.decode(body)
        if request.datacenter not in ("", self._datacenter):
            await self._pass_through(request, send)
            return
        if not self._settled():
            # A restored state that may yet be taken back is shown to nobody (P4); when it came, all calls ended.
            raise GRPCError(Status.UNAVAILABLE, RESTORING)
        if not request.key:
            raise GRPCError(Status.INVALID_ARGUMENT, KEY_REQUIRED)
        try:
            topic = Topic(request.topic)
        except ValueError:
            raise GRPCError(Status.UNKNOWN, f"unknown topic {request.topic}") from None
        try:
            with self._feeds.read(topic, request.key) as (feed, reader):
                await self._follow(request, feed, reader, send)
        except Interrupted:
            raise GRPCError(Status.ABORTED, CLOSED) from None
        except TooManyFeeds as error:
            raise GRPCError(Status.RESOURCE_EXHAUSTED, str(error)) from None

    async def _follow(self, request: SubscribeRequest, feed: Feed, reader: Reader, send: Send) -> None:
        if request.index == 0 or not reader.resume(request.index):
            index, messages = feed.snapshot()
            if request.index:
                messages.insert(0, encode_new_snapshot())
            await _send_all([*messages, encode_end_of_snapshot(index)], send)
        while True:
            await _send_all(reader.take(), send)
            await reader.changed.wait()

    async def _pass_through(self, request: SubscribeRequest, send: Send) -> None:
        try:
            async with aclosing(self._remote(request)) as messages:
                async for message in messages:
                    await send(encode_message(message))
        except GRPCError:
            raise
        except RPCError as error:
            raise GRPCError(Status.UNKNOWN, str(error)) from error


async def _send_all(messages: list[bytes], send: Send) -> None:
    together = bytearray()
    for message in messages:
        if together and len(together) + len(message) > SEND_BYTES:
            await send(bytes(together))
            together.clear()
        together += encode_message(message)
    if together:
        await send(bytes(together))
