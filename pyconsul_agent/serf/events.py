"""User events: each is delivered once, whatever number of times and ways it arrives (docs/protocol/gossip.md 10).

A ring of the last 512 Lamport times remembers what was seen. The ring also travels in push/pulls, so that a node which
missed a broadcast gets it there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from pyconsul_agent.serf.clock import LamportClock
from pyconsul_agent.serf.config import EVENT_SLOTS, EVENTS_PER_SLOT_MAX, USER_EVENT_BYTES_SANE
from pyconsul_agent.serf.effects import SerfEffect
from pyconsul_agent.structs.member import UserEvent
from pyconsul_agent.swim.effects import LogLevel, log_line
from pyconsul_agent.wire.serf import EventBody, EventSlot, UserEventMessage, encode


class UserEventTooLong(ValueError):
    """An event that may not be sent; the text is the original's."""


@dataclass(slots=True)
class _Slot:
    ltime: int
    events: list[EventBody]


class UserEvents:
    """What was seen, and the clock that stamps our own."""

    def __init__(self, emit: Callable[[SerfEffect], None]) -> None:
        self._emit = emit
        self.clock = LamportClock()
        self.min_time = 0
        """Events before this Lamport time are history: neither delivered nor spread."""
        self._ring: dict[int, _Slot] = {}

    def is_too_old(self, ltime: int) -> bool:
        """Whether `ltime` has fallen out of the window."""
        return self.clock.time > EVENT_SLOTS and ltime < self.clock.time - EVENT_SLOTS

    def hear(self, message: UserEventMessage) -> bool:
        """An event from anybody, ourselves included: a new one is delivered. True if it is to be spread."""
        if self.is_too_old(message.ltime):
            text = "received old event from the past"
            self._emit(log_line(LogLevel.WARN, text, event=message.name, ltime=message.ltime))
        if not self._is_new(message):
            return False
        self._emit(UserEvent(message.ltime, message.name, message.payload or b"", message.coalesce))
        return True

    def merge(self, slots: Iterable[EventSlot | None]) -> None:
        """What another one has seen, from a push/pull: nothing of it is spread."""
        for slot in slots:
            if slot is None:
                continue
            for body in slot.events or ():
                self.hear(UserEventMessage(ltime=slot.ltime, name=body.name, payload=body.payload))

    def stamp(self, name: str, payload: bytes, *, coalesce: bool, bytes_max: int) -> tuple[UserEventMessage, bytes]:
        """A new event of our own and its encoding; the clock moves on. Raises UserEventTooLong."""
        size = len(name.encode("utf-8", "surrogateescape")) + len(payload)
        if size > bytes_max:
            raise UserEventTooLong(f"user event exceeds configured limit of {bytes_max} bytes before encoding")
        if size > USER_EVENT_BYTES_SANE:
            raise UserEventTooLong(f"user event exceeds sane limit of {USER_EVENT_BYTES_SANE} bytes before encoding")
        message = UserEventMessage(ltime=self.clock.time, name=name, payload=payload or None, coalesce=coalesce)
        data = encode(message)
        if len(data) > bytes_max:
            raise UserEventTooLong(f"encoded user event exceeds configured limit of {bytes_max} bytes after encoding")
        if len(data) > USER_EVENT_BYTES_SANE:
            raise UserEventTooLong(
                f"encoded user event exceeds reasonable limit of {USER_EVENT_BYTES_SANE} bytes after encoding"
            )
        self.clock.increment()
        return message, data

    def slots(self) -> tuple[EventSlot | None, ...]:
        """The ring as it travels in a push/pull, gaps included."""
        return tuple(self._slot(self._ring.get(index)) for index in range(EVENT_SLOTS))

    def _is_new(self, message: UserEventMessage) -> bool:
        self.clock.witness(message.ltime)
        if message.ltime < self.min_time or self.is_too_old(message.ltime):
            return False
        body = EventBody(name=message.name, payload=message.payload or None)
        index = message.ltime % EVENT_SLOTS
        slot = self._ring.get(index)
        if slot is None or slot.ltime != message.ltime:
            self._ring[index] = _Slot(message.ltime, [body])
            return True
        if body in slot.events or len(slot.events) >= EVENTS_PER_SLOT_MAX:
            return False
        slot.events.append(body)
        return True

    @staticmethod
    def _slot(slot: _Slot | None) -> EventSlot | None:
        return None if slot is None else EventSlot(ltime=slot.ltime, events=tuple(slot.events))
