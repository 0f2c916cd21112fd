"""Room for a gang that does not fit: offers can be carried out, moves leave nobody without devices."""

from typing import Any
from unittest import mock

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scheduler.gang import config, effects, events, machine, room
from scheduler.placement import clearing
from tests.gang import test_machine_live as live
from tests.placement import fleets

OFFERS = ("preempt", "defragment")


def spread(**fields: Any) -> machine.Machine:
    """Hold every second node of both racks: full gangs went, and those of one GPU stayed on their nodes."""
    core = live.core(**fields)
    for node in live.NAMES:
        row = core.scoring.topology.row[node]
        one = live.gang(f"s-{node}", 1, 1)
        core.handle(events.Adopted(one, (live.state.Grant(row, 1, live.FULL, 1000),)), 0)
    return core


def test_gangs_move_together_so_that_one_of_whole_nodes_fits() -> None:
    core = spread(defragment=True)
    answer = core.handle(events.GangSubmitted(live.gang("big", 2)), 1)
    evicted = [one for one in answer if isinstance(one, effects.Evict)]
    started = [one for one in answer if isinstance(one, effects.Start)]
    assert len(evicted) == 2 and {one.reason for one in evicted} == {effects.Eviction.MOVED}
    assert [one.gang.name for one in started] == ["big", *(one.gang.name for one in started[1:])]
    assert {one.gang.name for one in started[1:]} == {one.gang.name for one in evicted}
    assert answer[1:] == [*evicted, *started] and not core.queue.waiting
    core.check_invariants()


@pytest.mark.parametrize("fields", [{"preemptible": False}, {"movable": False}, {"priority": 1}])
def test_some_gangs_never_move(fields: dict[str, Any]) -> None:
    core = live.core(defragment=True)
    for node in live.NAMES:
        row = core.scoring.topology.row[node]
        grant = live.state.Grant(row, 1, live.FULL, 1000)
        core.handle(events.Adopted(live.gang(f"s-{node}", 1, 1, **fields), (grant,)), 0)
    answer = core.handle(events.GangSubmitted(live.gang("big", 2)), 1)
    assert [type(one) for one in answer] == [effects.Wait]


def test_a_gang_that_has_just_started_stays_and_moves_when_it_has_run_for_a_while() -> None:
    core = spread(defragment=True, move_after_s=100.0)
    core.handle(events.GangSubmitted(live.gang("big", 2)), 1)
    assert core.next_tick() == 1 + room.SEARCH_REST_S
    now = 1.0
    while now < 90:
        now = core.next_tick()
        assert not core.handle(events.Tick(), now)
    answer = core.handle(events.Tick(), core.next_tick())
    assert {one.reason for one in answer if isinstance(one, effects.Evict)} == {effects.Eviction.MOVED}


def test_nothing_moves_where_strangers_wait_for_what_others_hold() -> None:
    core = spread(defragment=True)
    core.handle(events.Occupied("x", live.NAMES[0], live.gpus(0b1)), 1)
    answer = core.handle(events.GangSubmitted(live.gang("big", 2)), 2)
    assert [type(one) for one in answer] == [effects.Wait]


def test_a_search_for_victims_that_may_not_ask_offers_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "OFFER_TRIALS", 0)
    core = spread(offers=("preempt",))
    core.handle(events.GangSubmitted(live.gang("high", 2, priority=5)), 1)
    assert core.offer("high", 2) is None
    monkeypatch.setattr(room, "OFFER_TRIALS", 60)
    assert core.offer("high", 2) is not None


def test_an_offer_names_the_weaker_first_and_changes_nothing() -> None:
    core = spread(offers=OFFERS)
    core.handle(events.GangSubmitted(live.gang("high", 2, priority=5)), 1)
    core.handle(events.GangSubmitted(live.gang("equal", 2)), 1)
    version = core.snapshot.version
    found, other = core.offer("high", 2), core.offer("equal", 2)
    assert found is not None and found.way == "preempt" and len(found.gone) == 2 and not found.moves
    assert other is not None and other.way == "defragment" and len(other.moves) == len(other.gone) == 2
    assert core.snapshot.version == version and core.offer("nobody", 2) is None
    assert live.core().offer("high", 2) is None
    none = spread()
    none.handle(events.GangSubmitted(live.gang("high", 2, priority=5)), 1)
    assert none.offer("high", 2) is None


@pytest.mark.parametrize(
    ("fields", "problem"),
    [({"offers": ("evict",)}, "offers must be of"), ({"move_after_s": -1.0}, "must not be negative")],
)
def test_settings_that_make_no_sense_are_refused(fields: dict[str, Any], problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        config.QueueConfig(**fields)


def test_a_search_ends_when_it_has_asked_often_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "TRIALS", 1)
    core = spread(defragment=True)
    answer = core.handle(events.GangSubmitted(live.gang("big", 2)), 1)
    assert [type(one) for one in answer] == [effects.Wait]
    monkeypatch.setattr(room, "TRIALS", 400)
    monkeypatch.setattr(room, "MOST_MOVED", 1)
    assert not core.handle(events.Tick(), core.next_tick()), "two gangs would have to move"
    monkeypatch.setattr(room, "MOST_MOVED", 2)
    assert core.handle(events.Tick(), core.next_tick())


COMMANDS = st.tuples(
    st.sampled_from(["submit", "submit", "submit", "finish", "occupy", "vacate"]),
    st.integers(1, 3),  # pods
    st.integers(1, 4),  # GPUs of each
    st.integers(0, 2),  # priority
    st.sampled_from(["", "", "rack"]),
    st.booleans(),
    st.integers(0, 20),
)


def carry_out(core: machine.Machine, found: room.Offer) -> None:
    """Carry an offer out on a copy; what is not free raises."""
    gone = [clearing.Running(one.gang, one.placement.grants) for one in found.gone]
    work = fleets.take_all(clearing.without(core.snapshot, gone), found.placement.grants)
    for move in found.moves:
        work = fleets.take_all(work, move.placement.grants)
        assert len(move.placement.grants) >= move.running.gang.minimum


@settings(max_examples=150, deadline=None)
@given(
    script=st.lists(COMMANDS, min_size=4, max_size=25), preempts=st.booleans(), trials=st.sampled_from([0, 1, 3, 8, 60])
)
def test_whoever_moves_runs_on_and_offers_can_be_carried_out(script: list[Any], preempts: bool, trials: int) -> None:
    with mock.patch.object(room, "OFFER_TRIALS", trials):
        play(script, preempts)


def play(script: list[Any], preempts: bool) -> None:
    core = live.core(defragment=True, preempt=preempts, offers=OFFERS)
    for turn, (word, pods, gpus, priority, required, free, pick) in enumerate(script):
        running = sorted(one.gang.name for one in core.held)
        match word:
            case "submit":
                fields = {"priority": priority, "preemptible": free or pick % 2 == 0, "movable": free}
                event: events.Event = events.GangSubmitted(live.gang(f"g{turn}", pods, gpus, required, **fields))
            case "finish":
                event = events.GangFinished(running[pick % len(running)] if running else "")
            case "occupy":
                event = events.Occupied(f"x{pick % 3}", live.NAMES[pick % 6], live.gpus(1 << pick % 4))
            case _:
                event = events.Vacated(f"x{pick % 3}")
        contested = isinstance(event, events.Occupied) or bool(core.foreign.short)  # what victims leave is a stranger's
        answer = core.handle(event, float(turn))
        core.check_invariants()
        evicted = [one for one in answer if isinstance(one, effects.Evict)]
        started = [one.gang for one in answer if isinstance(one, effects.Start)]
        for one in evicted:
            assert one.gang.preemptible
            if one.reason is effects.Eviction.MOVED:
                assert one.gang.movable and one.gang in started and one.gang.name in core.held
                assert any(other.priority >= one.gang.priority for other in started if other != one.gang)
            else:
                assert contested or any(other.priority > one.gang.priority for other in started)
        for name in list(core.queue.waiting):
            found = core.offer(name, float(turn))
            if found is not None:
                carry_out(core, found)
                most = core.queue.waiting[name].gang.priority - (found.way == "preempt")
                assert all(one.gang.preemptible and one.gang.priority <= most for one in found.gone)
        core.check_invariants()
