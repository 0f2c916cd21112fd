"""Fragmentation and FGD's score: equal to the published definition, in exact integers."""

from decimal import Decimal, localcontext
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scheduler.model import request
from scheduler.placement import target
from scheduler.placement.score import fragmentation, tables
from scheduler.snapshot import state
from tests.placement import states


def fragment(snapshot: state.Snapshot, row: int, pod: request.PodRequest) -> int:
    """Return the free GPU of a node that one pod can't use, as the study defines it."""
    one = snapshot.topology.nodes[row]
    residual = [int(r) for r in snapshot.gpu_free[row][: len(one.gpus)]]
    if pod.gpus == 0:
        return sum(residual)
    if pod.gpu_models and (not one.gpus or one.gpus[0].model.name not in pod.gpu_models):
        return sum(residual)
    if sum(r >= pod.gpu_milli for r in residual) < pod.gpus or snapshot.cpu_free[row] < pod.cpu_milli:
        return sum(residual)
    return sum(r for r in residual if r < pod.gpu_milli)


def expected(snapshot: state.Snapshot, row: int, wanted: target.TargetWorkload) -> int:
    """Return a node's fragmentation over a target, times the target's pods."""
    return sum(item.count * fragment(snapshot, row, item.pod) for item in wanted.items)


@given(states.snapshots(), states.targets())
def test_the_measure_is_the_published_definition(snapshot: state.Snapshot, wanted: target.TargetWorkload) -> None:
    rows = np.arange(len(snapshot.up))
    measure = fragmentation.compile_fragmentation(snapshot.topology, wanted)
    found = measure.of(snapshot.gpu_free.astype(np.int64), snapshot.cpu_free, rows)
    assert found.tolist() == [expected(snapshot, row, wanted) for row in rows.tolist()]
    assert measure.total == wanted.total


@given(states.snapshots(), states.targets())
def test_large_fleets_are_measured_in_pieces(snapshot: state.Snapshot, wanted: target.TargetWorkload) -> None:
    rows = np.arange(len(snapshot.up))
    measure = fragmentation.compile_fragmentation(snapshot.topology, wanted)
    gpu, cpu = snapshot.gpu_free.astype(np.int64), snapshot.cpu_free
    whole = measure.of(gpu, cpu, rows)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fragmentation, "CHUNK", 1)
        assert measure.of(gpu, cpu, rows).tolist() == whole.tolist()
    some = rows[::2]
    assert measure.of(gpu[some], cpu[some], some).tolist() == whole[some].tolist()


def test_partitions_do_not_count() -> None:
    """MIG pods have no milli-shares."""
    fleet = states.fleet([states.machine("a", 2)])
    one, cut = request.PodRequest(gpus=1), request.PodRequest(gpus=1, mig="1g.5gb")
    wanted = target.from_requests([(one, 2), (cut, 5), (one, 3)])
    measure = fragmentation.compile_fragmentation(fleet, wanted)
    assert (measure.count.tolist(), measure.total) == ([5], 5)


def test_whole_gpus_are_taken_from_the_lowest_index() -> None:
    free = np.array([[1000, 400, 1000, 1000], [0, 1000, 0, 0], [1000, 1000, 1000, 1000]])
    assert fragmentation.states_after(free, 1000, 2).tolist() == [
        [0, 400, 0, 1000],
        [0, 0, 0, 0],
        [0, 0, 1000, 1000],
    ]
    assert fragmentation.states_after(free, 1000, 0) is free


def test_a_share_is_tried_on_every_gpu() -> None:
    free = np.array([[1000, 400]])
    assert fragmentation.states_after_share(free, 300).tolist() == [[[700, 400], [1000, 100]]]


def published(fall: int, total: int) -> int:
    """Return ``trunc(100 / (1 + exp(-fall / (1000 total))))`` with sixty digits."""
    with localcontext() as context:
        context.prec = 60
        return int(100 / (1 + (-Decimal(fall) / (1000 * total)).exp()))


@pytest.mark.parametrize("total", [1, 7, 5537, 7748, 1_000_003])
def test_scores_equal_the_sigmoid_on_both_sides_of_every_step(total: int) -> None:
    steps = tables.sigmoid_thresholds(total)
    assert len(steps) == 99 and (np.diff(steps) > 0).all()
    for score, step in enumerate(steps.tolist(), start=1):
        assert published(step, total) == score
        assert published(step - 1, total) == score - 1


@given(st.integers(-10_000, 10_000), st.integers(1, 9000))
def test_the_score_is_the_sigmoid(fall_milli: int, total: int) -> None:
    fall = fall_milli * total + fall_milli % 7
    table = states.tables_of(
        states.fleet([states.machine("a", 1)]), target.from_requests([(request.PodRequest(), total)])
    )
    assert table.popular.total == total
    assert table.sigmoid(np.array([fall])).tolist() == [published(fall, total)]


def test_a_score_near_zero_is_worth_forty_milli() -> None:
    assert [published(Fraction(milli).numerator, 1) for milli in (-41, -40, 0, 40, 41)] == [48, 49, 50, 50, 51]
