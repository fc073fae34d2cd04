"""Finds where a msgpack value ends in a stream that has no length prefixes, before anything is built from it.

Announced lengths are only compared with limits, never allocated for. A value is handed to the real decoder once all of
it is there, so that what it allocates is bounded by bytes that were really sent. The scan resumes where it stopped:
feeding a message byte by byte costs no more than feeding it at once.
"""

from __future__ import annotations

from pyconsul_agent.errors import DecodeError

DEPTH_MAX = 32
ITEMS_MAX = 1 << 20
"""Values in one message, nested ones included. A batch of 64 log entries has about a thousand."""

# lead byte -> (bytes of head, bytes of body): values whose size the lead byte alone tells
_FIXED: dict[int, int] = {0xC0: 1, 0xC2: 1, 0xC3: 1, 0xCA: 5, 0xCB: 9, 0xCC: 2, 0xCD: 3, 0xCE: 5, 0xCF: 9}
_FIXED |= {0xD0: 2, 0xD1: 3, 0xD2: 5, 0xD3: 9, 0xD4: 3, 0xD5: 4, 0xD6: 6, 0xD7: 10, 0xD8: 18}
# lead byte -> (bytes of the length field, further bytes that are not in the length)
_SIZED: dict[int, tuple[int, int]] = {0xC4: (1, 0), 0xC5: (2, 0), 0xC6: (4, 0), 0xC7: (1, 1), 0xC8: (2, 1)}
_SIZED |= {0xC9: (4, 1), 0xD9: (1, 0), 0xDA: (2, 0), 0xDB: (4, 0)}
# lead byte -> (bytes of the count field, values per count)
_NESTED: dict[int, tuple[int, int]] = {0xDC: (2, 1), 0xDD: (4, 1), 0xDE: (2, 2), 0xDF: (4, 2)}


class ValueScanner:
    """Scans one value at a time. `end(buffer)` is the position after it, or None until all of it is there."""

    def __init__(self, bytes_max: int, *, depth_max: int = DEPTH_MAX, items_max: int = ITEMS_MAX) -> None:
        self._bytes_max = bytes_max
        self._depth_max = depth_max
        self._items_max = items_max
        self._restart(0)

    def _restart(self, position: int) -> None:
        self._start = position
        self._position = position
        self._pending = [1]
        self._items = 0

    def begin(self, position: int) -> None:
        """The next value starts at `position` of the buffer."""
        self._restart(position)

    def end(self, buffer: bytearray | bytes) -> int | None:
        """Where the value that began ends. Raises DecodeError when it breaks a limit or is not msgpack."""
        pending = self._pending
        available = len(buffer)
        while pending:
            if self._position >= available:
                return None
            step = self._value(buffer, available)
            if step is None:
                return None
            size, children = step
            if self._position + size - self._start > self._bytes_max:
                raise DecodeError(f"message over {self._bytes_max} bytes", offset=self._position)
            if self._position + size > available:
                return None
            self._position += size
            self._count(children)
        return self._position

    def _count(self, children: int) -> None:
        pending = self._pending
        self._items += 1
        pending[-1] -= 1
        if children:
            # What is announced counts at once: each needs at least a byte that has yet to come.
            if self._items + children > self._items_max:
                raise DecodeError(f"message of over {self._items_max} values", offset=self._position)
            if len(pending) > self._depth_max:
                raise DecodeError(f"message nested deeper than {self._depth_max}", offset=self._position)
            pending.append(children)
        if self._items > self._items_max:
            raise DecodeError(f"message of over {self._items_max} values", offset=self._position)
        while pending and not pending[-1]:
            pending.pop()

    def _value(self, buffer: bytearray | bytes, available: int) -> tuple[int, int] | None:
        """(bytes of this value without its children, number of children), None if its head is not there yet."""
        lead = buffer[self._position]
        if lead < 0x80 or lead >= 0xE0:
            return 1, 0
        if 0xA0 <= lead < 0xC0:
            return 1 + (lead & 0x1F), 0
        if lead < 0x90:
            return 1, 2 * (lead & 0x0F)
        if lead < 0xA0:
            return 1, lead & 0x0F
        if lead in _FIXED:
            return _FIXED[lead], 0
        width, more = _SIZED.get(lead) or _NESTED.get(lead) or (0, 0)
        if not width:
            raise DecodeError(f"not msgpack: byte {lead:#04x}", offset=self._position)
        head = 1 + width
        if self._position + head > available:
            return None
        number = int.from_bytes(buffer[self._position + 1 : self._position + head], "big")
        if lead in _NESTED:
            return head, number * more
        return head + more + number, 0
