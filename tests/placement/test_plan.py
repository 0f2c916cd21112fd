"""Plans: what is rolled back is as if it had never been."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scheduler.placement import plan
from scheduler.snapshot import bulk, state
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


@settings(max_examples=100, deadline=None)
@given(
    snapshot=fleets.snapshots(),
    pods=st.lists(
        st.tuples(st.integers(0, 5), st.integers(0, 15), st.sampled_from((1000, 1000, 1000, 300)), st.integers(0, 3)),
        min_size=16,
        max_size=24,
    ),
    sparse=st.booleans(),
)
def test_all_grants_at_once_are_the_grants_one_by_one(
    snapshot: state.Snapshot, pods: list[tuple[int, int, int, int]], sparse: bool
) -> None:
    one_by_one = snapshot.copy()
    grants: list[state.Grant] = []
    for node, mask, milli, nics in pods:
        row = node % len(snapshot.up)
        mask &= int(snapshot.topology.all_gpus[row])
        grant = state.Grant(row, mask, milli if mask else 0, 10, 1, (), (), nics)
        try:
            one_by_one.take(grant)
        except state.InvariantError:
            if sparse:
                continue
            with pytest.raises(state.InvariantError):
                bulk.take_all(snapshot, [*grants, grant] * 8)
            state.compare(snapshot, _without(one_by_one, grants))
            return
        grants.append(grant)
    filler = [state.Grant(0, cpu_milli=0)] * bulk.FEW
    if all(_takes(one_by_one, grant) for grant in filler):
        before = snapshot.copy()
        bulk.take_all(snapshot, [*grants, *filler])
        state.compare(snapshot, one_by_one)
        for row in range(0, len(snapshot.up), 2):
            snapshot.set_up(row, False)
            one_by_one.set_up(row, False)
        bulk.release_all(snapshot, [*grants, *filler])
        state.compare(snapshot, _without(one_by_one, [*grants, *filler]))
        for row in range(0, len(snapshot.up), 2):
            snapshot.set_up(row, bool(before.up[row]))
        state.compare(snapshot, before)
        with pytest.raises(state.InvariantError):
            bulk.release_all(snapshot, [state.Grant(0, memory_mib=64_001)] * bulk.FEW)


def _takes(snapshot: state.Snapshot, grant: state.Grant) -> bool:
    """Take a grant if it is free."""
    try:
        snapshot.take(grant)
    except state.InvariantError:
        return False
    return True


def _without(snapshot: state.Snapshot, grants: list[state.Grant]) -> state.Snapshot:
    """Give grants back on a copy."""
    work = snapshot.copy()
    for grant in grants:
        work.release(grant)
    return work
