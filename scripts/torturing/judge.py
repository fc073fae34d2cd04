"""The checkers over one generation of a recorded history. All that is judged is what clients were told."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

from pyconsul_agent.sim.checkers import blocking, holders, monotone_index, real_time, register, watched
from pyconsul_agent.sim.history import History, Operation, Violation


@dataclass(frozen=True, slots=True)
class Circumstances:
    """What the checkers must know besides the answers."""

    starts: Mapping[str, Sequence[float]] = field(default_factory=dict)
    """Server to the monotonic times at which it was started."""
    calm: Sequence[tuple[float, float]] = ()
    """Intervals in which no fault was going on and every server had caught up."""
    real: str = ""
    """The server that is a real Consul, if any. As leader it answers default reads until its lease ends, so that one
    that was paused or cut off may show an old state: default reads are then judged like stale ones. Rules of ours alone
    are that a blocking query does not return early, that neither acquisition nor renewal slips in with the end of a
    session, and that no leader calls a session unknown because it was just started and elected."""

    @property
    def all_starts(self) -> list[float]:
        return sorted(start for starts in self.starts.values() for start in starts)


def judge(operations: Iterable[Operation], at: Circumstances) -> list[str]:
    """What is wrong, one text a finding; each key and each rule gives at most one."""
    done = [_weakened(each) if at.real else each for each in operations]
    by_key: dict[str, list[Operation]] = defaultdict(list)
    for each in done:
        if each.key:
            by_key[each.key].append(each)
    rules: list[Callable[[], None]] = [
        partial(real_time.check, done),
        partial(holders.check, done, at.all_starts, consul=at.starts.get(at.real, ()) if at.real else None),
    ]
    for of_key in by_key.values():
        rules.append(partial(watched.check, of_key, at.starts, at.calm))
        rules.append(partial(monotone_index.check, History(of_key)))
        if not any(each.f == "acquire" for each in of_key):
            rules.append(partial(register.check, of_key))
    if not at.real:
        rules.append(partial(blocking.check, History([each for each in done if _in_calm(each, at.calm)])))
    found = []
    for rule in rules:
        try:
            rule()
        except Violation as violation:
            found.append(str(violation))
    return found


def _weakened(operation: Operation) -> Operation:
    return replace(operation, mode="stale") if operation.mode == "default" else operation


def _in_calm(operation: Operation, calm: Sequence[tuple[float, float]]) -> bool:
    return any(begin <= operation.begin and operation.end <= end for begin, end in calm)
