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

_FIXED: dict[int, int] = {0xC0: 1, 0xC2: 1, 0xC3: 1, 0xCA: 5, 0xCB: 9, 0xCC: 2, 0xCD: 3, 0xCE: 5, 0xCF: 9}
_FIXED |= {0xD0: 2, 0xD1: 3, 0xD2: 5, 0xD3: 9, 0xD4: 3, 0xD5: 4, 0xD6: 6, 0xD7: 10, 0xD8: 18}
_FIXED |= dict.fromkeys((*range(128), *range(224, 256)), 1) | {lead: 1 + (lead & 0x1F) for lead in range(0xA0, 0xC0)}
_SCALAR = tuple(_FIXED.get(lead, 0) for lead in range(256))
"""By lead byte: the size of a value that the lead byte alone tells, 0 for others."""
_CHILDREN = tuple(2 * (lead & 0x0F) if lead < 0x90 else lead & 0x0F for lead in range(0x80, 0xA0))
"""By lead byte from 0x80 on: how many values a short map or array has."""
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
        """Where the value that began ends. Raises DecodeError when it breaks a limit or is not msgpack.

        One loop over local names: every log entry of a follower and every reply passes here.
        """
        pending, position, items = self._pending, self._position, self._items
        available, limit, items_max = len(buffer), self._start + self._bytes_max, self._items_max
        stop, scalar = min(available, limit), _SCALAR
        left = pending[-1] if pending else 0
        while True:
            while not left:
                if len(pending) <= 1:
                    self._pending, self._position, self._items = [], position, items
                    return position
                pending.pop()
                left = pending[-1]
            if items + left <= items_max:
                # Scalars one after another are most of what there is: no more is done for each than must be.
                size, run = 0, left
                while left and position < stop:
                    size = scalar[buffer[position]]
                    if not size:
                        break
                    position += size
                    left -= 1
                if left < run and position > stop:  # the last one is cut off: left to what follows
                    position -= size
                    left += 1
                items += run - left
                if not left:
                    continue
            if position >= available:
                break
            lead = buffer[position]
            size = scalar[lead]
            children = 0
            if not size:
                if lead < 0xA0:
                    size, children = 1, _CHILDREN[lead - 0x80]
                else:
                    found = _long(buffer, position, available)
                    if found is None:
                        break
                    size, children = found
            if position + size > limit:
                raise DecodeError(f"message over {self._bytes_max} bytes", offset=position)
            if position + size > available:
                break
            position += size
            items += 1
            left -= 1
            # What is announced counts at once: each needs at least a byte that has yet to come.
            if items + children > items_max:
                raise DecodeError(f"message of over {items_max} values", offset=position)
            if children:
                if len(pending) > self._depth_max:
                    raise DecodeError(f"message nested deeper than {self._depth_max}", offset=position)
                pending[-1] = left
                pending.append(children)
                left = children
        pending[-1] = left
        self._position, self._items = position, items
        return None


def _long(buffer: bytearray | bytes, position: int, available: int) -> tuple[int, int] | None:
    """(bytes of this value without its children, number of children), None if its head is not there yet."""
    lead = buffer[position]
    if lead == 0xDA and position + 3 <= available:  # by far the most: the data of log entries
        return 3 + (buffer[position + 1] << 8 | buffer[position + 2]), 0
    width, more = _SIZED.get(lead) or _NESTED.get(lead) or (0, 0)
    if not width:
        raise DecodeError(f"not msgpack: byte {lead:#04x}", offset=position)
    head = 1 + width
    if position + head > available:
        return None
    number = int.from_bytes(buffer[position + 1 : position + head], "big")
    if lead in _NESTED:
        return head, number * more
    return head + more + number, 0
