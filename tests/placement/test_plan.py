"""Plans: what is rolled back is as if it had never been."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scheduler.placement import plan
from scheduler.snapshot import state
from tests.placement import fleets


def content(snapshot: state.Snapshot) -> tuple[object, ...]:
    """Return what is free, without the versions, which only ever grow."""
    s = snapshot
    return tuple(a.tolist() for a in (s.gpu_free, s.free_mask, s.cpu_free, s.pods_free, s.nic_mask, s.tags, s.free_in))


@settings(max_examples=80, deadline=None)
@given(
    takes=st.lists(st.tuples(st.integers(0, 3), st.integers(1, 15), st.booleans()), max_size=8), keep=st.integers(0, 8)
)
def test_rollback_to_a_mark_undoes_what_came_after(takes: list[tuple[int, int, bool]], keep: int) -> None:
    snapshot = state.empty(fleets.racks(2, 2))
    trial = plan.Plan(snapshot)
    held: list[state.Grant] = []
    mark, then = 0, content(snapshot)
    for turn, (node, mask, give_back) in enumerate(takes):
        if turn == keep:
            mark, then = trial.checkpoint(), content(snapshot)
        grant = state.Grant(node, mask, 1000, 100)
        if give_back and held:
            trial.release(held.pop())
        elif mask & int(snapshot.free_mask[node]) == mask:
            trial.take(grant)
            held.append(grant)
    if keep < len(takes):
        trial.rollback(mark)
        assert content(snapshot) == then
    trial.rollback()
    assert content(snapshot) == content(state.empty(snapshot.topology))


def test_a_grant_that_is_not_free_leaves_the_plan_as_it_was() -> None:
    snapshot = state.empty(fleets.racks(1))
    trial = plan.Plan(snapshot)
    trial.take(state.Grant(0, 0b0011, 1000))
    with pytest.raises(state.InvariantError):
        trial.take(state.Grant(0, 0b0010, 1000))
    trial.rollback()
    assert content(snapshot) == content(state.empty(snapshot.topology))


def test_commit_keeps_the_changes() -> None:
    snapshot = state.empty(fleets.racks(1))
    trial = plan.Plan(snapshot)
    trial.take(state.Grant(0, 0b0011, 1000))
    trial.commit()
    trial.rollback()
    assert snapshot.free_gpus == 2
