"""Virtual time: a total order that does not depend on when things were scheduled."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from simulator import clock

TIMES = st.sampled_from((0.0, 1.0, 1.5, 7.0, 1e9))
THINGS = st.lists(st.tuples(TIMES, st.sampled_from(clock.Rank)), max_size=30)


@given(THINGS)
def test_time_then_rank_then_insertion(things: list[tuple[float, clock.Rank]]) -> None:
    heap: clock.Clock[int] = clock.Clock()
    for number, (time, rank) in enumerate(things):
        heap.add(time, rank, number)
    taken, times = [], []
    while len(heap):
        assert heap.peek()[0] >= heap.now
        taken.append(heap.take())
        times.append(heap.now)
    expected = sorted(range(len(things)), key=lambda number: (*things[number], number))
    assert taken == expected
    assert times == [things[number][0] for number in expected]


@given(THINGS, st.integers(0, 5))
def test_what_is_scheduled_while_time_goes_on_comes_in_its_turn(
    things: list[tuple[float, clock.Rank]], delay: int
) -> None:
    heap: clock.Clock[int] = clock.Clock()
    for number, (time, rank) in enumerate(things):
        heap.add(time, rank, number)
    before = 0.0
    while len(heap):
        number = heap.take()
        assert heap.now >= before
        before = heap.now
        if 0 <= number < len(things):
            heap.add(heap.now + delay, clock.Rank.TICK, -1)
            assert heap.peek()[0] <= heap.now + delay


def test_nothing_is_scheduled_in_the_past() -> None:
    heap: clock.Clock[str] = clock.Clock()
    heap.add(5.0, clock.Rank.SUBMIT, "a")
    heap.take()
    heap.add(5.0, clock.Rank.FINISH, "at once")
    for time in (4.999, -1.0, math.nan):
        with pytest.raises(ValueError, match="cannot schedule"):
            heap.add(time, clock.Rank.FINISH, "late")


def test_an_empty_clock_has_nothing_to_come() -> None:
    heap: clock.Clock[str] = clock.Clock()
    assert heap.peek()[0] == math.inf
    with pytest.raises(IndexError):
        heap.take()


def test_room_appears_before_it_is_asked_for() -> None:
    ranks = clock.Rank
    assert ranks.FINISH < ranks.REPAIR < ranks.FAILURE < ranks.SUBMIT < ranks.TICK
