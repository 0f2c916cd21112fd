"""Figures from columns, on runs small enough to be worked out by hand."""

import math
from typing import Any

import numpy as np
import pytest

from simulator import faults, metrics, outcome, runtime
from simulator.report import figures, runsheets
from simulator.scenario import Run
from tests.placement import fleets
from tests.simulator import runs


def interrupted(**fields: Any) -> outcome.Outcome:
    """One job of 100 s on four GPUs, stopped at 75 s for 10 s, beside four idle GPUs of another kind of rack."""
    window = faults.Maintenance("n00", 75, 10)
    jobs = runs.trace([0], [100], (runs.shape(gpus=4),))
    return runs.made(jobs, fleets.racks(1), broken=faults.Faults(maintenance=(window,), **fields)).run()


def test_effective_training_time_counts_everything_after_the_first_start() -> None:
    found = interrupted(checkpoint_s=30, restart_s=7)
    # 100 useful of 60 + 15 lost + 10 waiting + 7 restarting + 40.
    assert metrics.useful_s(found).tolist() == [100]
    assert metrics.effective_ratio(found) == pytest.approx(100 / 132)
    assert metrics.effective_ratio(found, np.array([False])) != metrics.effective_ratio(found)
    assert math.isnan(metrics.effective_ratio(found, np.array([False])))


def test_the_wait_before_the_first_start_does_not_count() -> None:
    jobs = runs.trace([0, 0], [100, 100], (runs.shape(gpus=4),))
    found = runs.made(jobs, fleets.racks(1)).run()
    assert found.jobs.wait_s.tolist() == [0, 100] and metrics.effective_ratio(found) == 1


def test_effective_training_time_is_weighted_by_gpus() -> None:
    window = faults.Maintenance("n00", 50, 10)
    shapes = (runs.shape(gpus=4), runs.shape(gpus=1))
    jobs = runs.trace([0, 0], [100, 100], shapes, shape=[0, 1])
    found = runs.made(jobs, broken=faults.Faults(maintenance=(window,))).run()
    assert found.jobs.starts.tolist() == [2, 1]
    moved = float(found.jobs.end_s[0])
    assert metrics.effective_ratio(found) == pytest.approx((4 * 100 + 100) / (4 * moved + 100))


def test_goodput_is_useful_work_over_gpu_time_in_service() -> None:
    jobs = runs.trace([0, 100], [100, 50], (runs.shape(gpus=4),))
    found = runs.made(jobs).run()
    assert metrics.served_gpu_s(found) == 8 * 150
    assert metrics.goodput(found) == pytest.approx(4 * 150 / (8 * 150))
    assert math.isnan(metrics.goodput(runs.made(runs.trace([], [])).run()))


def test_gpus_out_of_service_do_not_count_against_goodput() -> None:
    window = faults.Maintenance("n01", 0, 1000)
    jobs = runs.trace(np.arange(100) * 10.0, np.full(100, 10.0), (runs.shape(gpus=4),))
    found = runs.made(jobs, broken=faults.Faults(maintenance=(window,))).run()
    assert found.series.up_gpus[5] == 4
    assert metrics.goodput(found) == pytest.approx(1, abs=0.02)


def test_a_slow_placement_is_no_work() -> None:
    pair = runs.shape(2, communication_milli=500)
    jobs = runs.trace([0, 0, 1], [500, 500, 100], (runs.shape(gpus=3), pair), shape=[0, 0, 1])
    found = runs.made(jobs, runtime=runtime.collectives()).run()
    slowed = float(found.jobs.run_s[2])
    assert slowed > 110
    assert metrics.goodput(found) == pytest.approx((3000 + 200) / metrics.served_gpu_s(found))


def test_jobs_by_the_gpu_type_they_ask_for() -> None:
    shapes = (runs.shape(), runs.shape(gpu_models=("BIG", "SMALL")), runs.shape(gpus=0), runs.shape(gpus=2))
    jobs = runs.trace(range(6), [1] * 6, shapes, shape=[1, 0, 2, 3, 0, 1])
    assert {name: rows.tolist() for name, rows in metrics.by_type(jobs).items()} == {
        "any": [False, True, False, True, True, False],
        "BIG|SMALL": [True, False, False, False, False, True],
        "none": [False, False, True, False, False, False],
    }
    found = runs.made(jobs).run()
    run = Run(found, 0, runs.made(jobs).machine.snapshot, 0.0)
    assert [row[0] for row in runsheets.waits_by_type(run.outcome).rows] == ["any", "BIG|SMALL", "none"]


def test_measures_agree_with_the_columns() -> None:
    found = interrupted(checkpoint_s=30, restart_s=7)
    measures = figures.measures(found)
    assert measures["effective training time (%)"] == pytest.approx(100 * 100 / 132)
    assert measures["goodput (%)"] == pytest.approx(100 * metrics.goodput(found))
    assert measures["GPU-hours lost"] == pytest.approx(4 * 22 / 3600)
    assert measures["makespan (s)"] == 132 and measures["jobs not finished"] == 0
    assert measures["bounded slowdown, mean"] == 1
    assert all(math.isfinite(value) for value in figures.measures(runs.made(runs.trace([], [])).run()).values())


def test_bounded_slowdown() -> None:
    """Flow time over run time, short jobs taken as ten minutes long: (1000 + 1200) / 1200 and 1."""
    jobs = runs.trace([0, 0, 500], [1000, 1200, 60], (runs.shape(gpus=4), runs.shape(gpus=1)), shape=[0, 0, 1])
    found = runs.made(jobs, fleets.racks(1, gpus=5)).run()
    assert found.jobs.wait_s.tolist() == [0, 1000, 0]
    assert figures.measures(found)["bounded slowdown, mean"] == pytest.approx((1 + 2200 / 1200 + 1) / 3)


def test_waits_are_percentiles_of_those_not_refused() -> None:
    shapes = (runs.shape(gpus=4), runs.shape(3, gpus=4))
    jobs = runs.trace([0, 0, 0, 0, 0], [10] * 5, shapes, shape=[0, 0, 0, 0, 1])
    measures = figures.measures(runs.made(jobs, fleets.racks(1)).run())
    assert measures["jobs refused"] == 1
    assert measures["wait, p50 (s)"] == 15 and measures["wait, mean (s)"] == 15
    assert measures["wait, p90 (s)"] == pytest.approx(27)


def test_utilisation_ends_with_the_last_arrival() -> None:
    jobs = runs.trace([0, 100], [100, 900], (runs.shape(gpus=4),))
    assert figures.utilisation(runs.made(jobs).run()) == pytest.approx(0.5)
