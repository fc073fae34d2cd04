"""Cuts replies to what their transport carries, record for record as Consul does it.

The number of answers that survives depends on exact sizes: of the compressed message, or, for plain UDP queries with
more answers than the limit, of the uncompressed one.
"""

from __future__ import annotations

from collections.abc import Mapping

from pyconsul_agent.wire.dns import CNAME, HEADER_BYTES, SRV, UDP_BYTES, Edns, Message, Record, pack

UDP_ANSWERS_MAX = 8
UDP_HEADROOM = 7
TCP_BYTES = 65_523
TCP_ANSWERS_MAX = 4096
TCP_SRV_ANSWERS_MAX = 1024
SEARCH_ABOVE = 100
"""More octets than this over the limit are cut by binary search, fewer by dropping answers one by one."""

CLOSE_ENOUGH = 10

NAME_EXTRA = 2
"""Octets of a name beyond its characters: its first length, and its end when the final dot is not written."""

QUESTION_EXTRA = NAME_EXTRA + 4
RECORD_EXTRA = NAME_EXTRA + 10


class _Trimmer:
    """One reply while it is cut."""

    def __init__(self, message: Message, *, compress: bool) -> None:
        self.message = message
        self.compress = compress
        self._glue = _first_by_owner(message.additional)

    def size(self) -> int:
        return len(pack(self.message, compress=self.compress))

    def keep(self, answers: list[Record]) -> None:
        """Take these answers and the additional records that they need."""
        self.message.answers = answers
        if self._glue:
            self.message.additional = _glue_of(answers, self._glue)

    def cut(self, limit: int, aim: int) -> None:
        """Cut until the message has at most `limit` octets or one answer; the search aims at `aim`."""
        if _at_most(self.message, limit):
            return
        while len(self.message.answers) > 1 and self.size() > limit:
            self.message.authority = []
            if self.size() - aim > SEARCH_ABOVE:
                self.keep(self._search(aim))
            else:
                self.keep(self.message.answers[:-1])

    def _search(self, aim: int) -> list[Record]:
        answers = self.message.answers
        low, high = 0, len(answers) + 1
        while high - low > 1:
            middle = low + (high - low) // 2
            self.keep(answers[:middle])
            size = self.size()
            if size > aim:
                high = middle
            elif aim - size < CLOSE_ENOUGH:
                return answers[:middle]
            else:
                low = middle
        return answers[:low]


def trim_udp(message: Message, edns: Edns | None, *, answer_limit: int, compress: bool) -> bool:
    """Cut `message` in place for UDP; returns whether answers were cut."""
    before = len(message.answers)
    largest = max(UDP_BYTES, edns.udp_size if edns is not None else 0)
    limit = min(UDP_ANSWERS_MAX, answer_limit)
    over_limit = largest == UDP_BYTES and before > limit
    if before <= 1 and not over_limit:
        return False
    trimmer = _Trimmer(message, compress=compress)
    if over_limit:
        trimmer.compress = False
        trimmer.keep(message.answers[:limit])
    trimmer.cut(largest - UDP_HEADROOM, largest)
    return len(message.answers) < before


def trim_tcp(message: Message, *, compress: bool) -> bool:
    """Cut `message` in place for TCP; returns whether answers were cut."""
    before = len(message.answers)
    if before <= 1:
        return False
    trimmer = _Trimmer(message, compress=compress)
    is_srv = message.question is not None and message.question[1] == SRV
    message.answers = message.answers[: TCP_SRV_ANSWERS_MAX if is_srv else TCP_ANSWERS_MAX]
    trimmer.cut(TCP_BYTES, TCP_BYTES)
    return len(message.answers) < before


def _at_most(message: Message, limit: int) -> bool:
    """Whether the message surely fits, by its length without compression: most do, and packing them is not cheap."""
    size = HEADER_BYTES
    if message.question is not None:
        size += len(message.question[0]) + QUESTION_EXTRA
    for section in (message.answers, message.authority, message.additional):
        for name, _, _, data, _ in section:
            size += len(name) + RECORD_EXTRA
            for part in data:
                size += len(part) + NAME_EXTRA
                if isinstance(part, str) and not part.isascii():
                    return False  # takes more octets than characters
            if size > limit:
                return False
    return size <= limit


def _first_by_owner(records: list[Record]) -> dict[str, Record]:
    found: dict[str, Record] = {}
    for record in records:
        found.setdefault(record.name.lower(), record)
    return found


def _glue_of(answers: list[Record], glue: Mapping[str, Record]) -> list[Record]:
    """One record per target of the SRV answers, and along CNAMEs found on the way."""
    out: list[Record] = []
    seen: set[str] = set()
    for answer in answers:
        if answer.type != SRV:
            continue
        target = str(answer.data[-1]).lower()
        while target not in seen:
            seen.add(target)
            record = glue.get(target)
            if record is None:
                break
            out.append(record)
            if record.type != CNAME:
                break
            target = str(record.data[-1]).lower()
    return out
