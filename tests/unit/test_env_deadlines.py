"""Many deadlines on one timer, in virtual time."""

import asyncio
from itertools import pairwise

from pyconsul_agent.env.deadlines import FAR_GRAINS, FAR_S, GRAIN_S, Deadlines
from tests.unit.test_server_blocking import run


class Item:
    def __init__(self, told, name, then=lambda: None):
        self.told, self.name, self.then = told, name, then

    def late(self):
        self.told.append((self.name, asyncio.get_running_loop().time()))
        self.then()


def test_each_is_told_at_its_time_and_at_most_a_grain_later():
    async def scenario():
        deadlines, told = Deadlines(), []
        for when in (7.03, 0.5, 3.0, 0.51):
            deadlines.add(Item(told, when), when)
        await asyncio.sleep(10)
        return told, len(deadlines)

    told, left = run(scenario())
    assert [name for name, _ in told] == [0.5, 0.51, 3.0, 7.03] and left == 0
    assert all(0 <= at - name <= GRAIN_S for name, at in told)


def test_a_far_one_is_told_at_most_a_second_later_and_shares_its_instant():
    async def scenario():
        deadlines, told = Deadlines(), []
        instants = {deadlines.add(Item(told, 600 + each / 1000), 600 + each / 1000) for each in range(1000)}
        await asyncio.sleep(700)
        return told, instants

    told, instants = run(scenario())
    assert len(told) == 1000 and len(instants) <= 2
    assert all(0 <= at - name <= (FAR_GRAINS + 1) * GRAIN_S for name, at in told)


def test_a_nearer_one_is_not_held_up_by_those_that_came_before():
    async def scenario():
        deadlines, told = Deadlines(), []
        deadlines.add(Item(told, "far"), FAR_S * 3)
        await asyncio.sleep(1)
        deadlines.add(Item(told, "near"), 2.0)
        await asyncio.sleep(3)
        return told

    ((name, at),) = run(scenario())
    assert name == "near" and 2.0 <= at <= 2.0 + GRAIN_S


def test_a_removed_one_is_never_told_not_even_by_one_of_its_own_instant():
    async def scenario():
        deadlines, told = Deadlines(), []
        second = Item(told, "second")
        deadlines.add(Item(told, "first", lambda: deadlines.remove(second, instant)), 1.0)
        instant = deadlines.add(second, 1.0)
        gone = Item(told, "gone")
        deadlines.remove(gone, deadlines.add(gone, 1.0))
        await asyncio.sleep(3)
        deadlines.remove(second, instant)
        return [name for name, _ in told], len(deadlines)

    assert run(scenario()) == (["first"], 0)


def test_the_last_one_removed_by_one_that_is_told_leaves_nothing():
    async def scenario():
        deadlines, told = Deadlines(), []
        last = Item(told, "last")
        deadlines.add(Item(told, "first", lambda: deadlines.remove(last, instant)), 1.0)
        instant = deadlines.add(last, 5.0)
        await asyncio.sleep(2)
        seen = len(deadlines), len(deadlines._order)
        deadlines.add(Item(told, "again"), 3.0)
        await asyncio.sleep(5)
        return seen, [name for name, _ in told]

    assert run(scenario()) == ((0, 0), ["first", "again"])


def test_who_is_told_may_wait_again():
    async def scenario():
        deadlines, told = Deadlines(), []

        def again():
            if len(told) < 3:
                deadlines.add(item, asyncio.get_running_loop().time() + 1.0)

        item = Item(told, "x", again)
        deadlines.add(item, 1.0)
        await asyncio.sleep(10)
        return [round(at) for _, at in told]

    assert run(scenario()) == [1, 2, 3]


def test_who_waits_on_for_a_time_that_has_come_is_told_a_grain_later_and_not_at_once():
    async def scenario():
        deadlines, told = Deadlines(), []

        def again():
            if len(told) < 100:
                deadlines.add(item, 1.0)

        item = Item(told, "x", again)
        deadlines.add(item, 1.0)
        await asyncio.sleep(1.0 + 10 * GRAIN_S)
        return [at for _, at in told]

    times = run(scenario())
    assert 9 <= len(times) <= 10 and all(after - before >= GRAIN_S for before, after in pairwise(times))


def test_an_error_of_one_does_not_keep_the_others_waiting():
    async def scenario():
        deadlines, told, errors = Deadlines(), [], []
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: errors.append(context["exception"]))

        def fail():
            raise LookupError("of its own")

        deadlines.add(Item(told, "first", fail), 1.0)
        deadlines.add(Item(told, "second"), 1.0)
        deadlines.add(Item(told, "third"), 2.0)
        await asyncio.sleep(3)
        return [name for name, _ in told], [repr(error) for error in errors], len(deadlines)

    assert run(scenario()) == (["first", "second", "third"], ["LookupError('of its own')"], 0)


def test_ten_thousand_that_end_early_leave_a_bounded_table():
    async def scenario():
        deadlines = Deadlines()
        stays = Item([], "stays")
        instant = deadlines.add(stays, 650)
        for number in range(10_000):
            item = Item([], number)
            deadlines.remove(item, deadlines.add(item, 600 + number % 40))
        seen = [len(deadlines), len(deadlines._instants)]
        deadlines.remove(stays, instant)
        return seen, len(deadlines), len(deadlines._instants), len(deadlines._order)

    assert run(scenario()) == ([1, 41], 0, 0, 0)


def test_without_anybody_who_waits_there_is_no_timer():
    async def scenario():
        deadlines, loop = Deadlines(), asyncio.get_running_loop()
        pending = [len([each for each in loop._scheduled if not each.cancelled()])]
        item = Item([], "x")
        for change in (lambda: deadlines.add(item, 5.0), lambda: deadlines.remove(item, int(5.0 / GRAIN_S) + 1)):
            change()
            pending.append(len([each for each in loop._scheduled if not each.cancelled()]))
        return pending

    assert run(scenario()) == [0, 1, 0]


def test_one_that_comes_again_after_all_have_gone_is_told():
    async def scenario():
        deadlines, told = Deadlines(), []
        first = Item(told, "first")
        deadlines.remove(first, deadlines.add(first, 5.0))
        deadlines.add(Item(told, "second"), 7.0)
        deadlines.add(Item(told, "third"), 5.0)
        await asyncio.sleep(10)
        return [name for name, _ in told], len(deadlines)

    assert run(scenario()) == (["third", "second"], 0)
