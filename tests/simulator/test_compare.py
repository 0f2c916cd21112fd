"""Paired differences and their intervals."""

import math

import numpy as np
import pytest
from scipy import stats

from simulator import compare


def test_interval_is_students_t_around_the_mean() -> None:
    samples = np.random.default_rng(7).normal(3.0, 2.0, size=12).tolist()
    expected = stats.t.interval(0.95, 11, loc=np.mean(samples), scale=stats.sem(samples))
    got = compare.interval(samples)
    assert (got.low, got.high) == pytest.approx(expected)
    assert got.n == 12


def test_one_sample_gives_a_mean_without_an_interval() -> None:
    got = compare.interval([4.0])
    assert got.mean == 4.0
    assert math.isnan(got.half_width)
    assert not got.decided
    assert got.words() == "+4.00, n=1"


def test_pairing_takes_out_what_both_policies_share() -> None:
    rng = np.random.default_rng(3)
    noise = rng.normal(0.0, 10.0, size=30)
    ours, baseline = noise + rng.normal(-0.3, 0.1, size=30), noise
    assert compare.paired(ours.tolist(), baseline.tolist()).decided
    assert not compare.paired(ours.tolist(), rng.permutation(baseline).tolist()).decided


def test_samples_that_do_not_pair_are_refused() -> None:
    with pytest.raises(ValueError, match="3 and 2"):
        compare.paired([1, 2, 3], [1, 2])


def test_interval_covers_the_truth_as_often_as_it_says() -> None:
    rng = np.random.default_rng(11)
    covered = [i.low <= 0 <= i.high for i in (compare.interval(rng.normal(size=5).tolist()) for _ in range(4000))]
    assert 0.935 < np.mean(covered) < 0.965
