"""Price tables against brute force and closed forms."""

from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scheduler.model import device, request
from scheduler.placement import prices, target
from scheduler.snapshot import topology
from tests.placement import fleets

BIG = device.GpuModel("BIG", "Hopper", 80_000)


def share(milli: int, cpu: int = 0) -> request.PodRequest:
    return request.PodRequest(gpus=1, gpu_milli=milli, cpu_milli=cpu)


def best_by_search(sizes: list[int], values: list[float]) -> list[float]:
    """Try everything: the most valuable set of requests, with repetition, that fits into each residual."""

    @cache
    def best(room: int) -> float:
        fits = [value + best(room - size) for size, value in zip(sizes, values, strict=True) if size <= room]
        return max(fits, default=0.0)

    return [best(room) for room in range(prices.WHOLE + 1)]


@given(st.lists(st.tuples(st.integers(90, 999), st.floats(0, 1)), min_size=1, max_size=4, unique_by=lambda one: one[0]))
@settings(max_examples=30)
def test_knapsack_is_the_best_filling(items: list[tuple[int, float]]) -> None:
    sizes, values = [size for size, _ in sorted(items)], [value for _, value in sorted(items)]
    found = prices._knapsack(np.array(sizes), np.array(values))
    assert found == pytest.approx(best_by_search(sizes, values))


@given(st.lists(st.tuples(st.integers(90, 999), st.floats(0, 1)), min_size=1, max_size=4, unique_by=lambda one: one[0]))
@settings(max_examples=30)
def test_best_pattern_fits_and_is_worth_the_optimum(items: list[tuple[int, float]]) -> None:
    sizes, values = np.array([size for size, _ in sorted(items)]), np.array([value for _, value in sorted(items)])
    pattern = prices._best_pattern(sizes, values)
    assert pattern @ sizes <= prices.WHOLE
    assert pattern @ values == pytest.approx(best_by_search(sizes.tolist(), values.tolist())[prices.WHOLE])


@pytest.mark.parametrize("size", [250, 334, 400, 500, 700])
def test_with_one_size_a_residual_is_worth_what_fits_of_it(size: int) -> None:
    table = prices.residual_values(target.from_requests([(share(size), 10)]))
    per_gpu = 1000 // size
    expected = [round(prices.MICRO * (left // size) / per_gpu) for left in range(1001)]
    assert table.tolist() == expected


def test_without_shares_only_a_whole_gpu_is_worth_anything() -> None:
    table = prices.residual_values(target.from_requests([(request.PodRequest(gpus=1), 3)]))
    assert table[1000] == prices.MICRO and not table[:1000].any()


@given(
    st.lists(
        st.tuples(st.sampled_from((150, 280, 300, 410, 500, 620, 900)), st.integers(1, 20)), min_size=1, max_size=4
    )
)
@settings(max_examples=10)
def test_residuals_never_fall_and_a_gpu_is_a_gpu(items: list[tuple[int, int]]) -> None:
    table = prices.residual_values(target.from_requests([(share(milli), count) for milli, count in items]))
    assert (np.diff(table) >= 0).all()
    assert table[1000] == pytest.approx(prices.MICRO, rel=1e-6)
    smallest = min(milli for milli, _ in items)
    assert not table[:smallest].any()


def test_duals_price_requests_by_the_fewest_gpus() -> None:
    # Twenty of 600 need a GPU each; forty of 300 fill their gaps of 400 and, by threes, ten GPUs more in part.
    sizes, pods = np.array([300, 600]), np.array([40, 20])
    duals = prices._duals(sizes, pods)
    fewest = 20 + (40 - 20) / 3
    assert pods @ duals == pytest.approx(fewest)
    assert duals == pytest.approx([1 / 3, 2 / 3])


def test_kappas_are_quantiles_of_cpu_per_gpu() -> None:
    wanted = target.from_requests([(request.PodRequest(gpus=1, cpu_milli=1000 * k), 1) for k in range(1, 11)])
    # The k-th tenth of the GPUs asks k cores per GPU: a milli-CPU feeds 1000/k micro-GPU, in 1024ths.
    expected = [round(prices.MICRO * prices.STRANDED_SCALE / (1000 * k)) for k in range(1, 9)]
    assert prices.kappas(wanted).tolist() == expected
    assert not len(prices.kappas(target.from_requests([(request.PodRequest(cpu_milli=5), 1)])))
    assert not len(prices.kappas(target.from_requests([(request.PodRequest(gpus=1), 1)])))


def two_models() -> topology.Topology:
    built = {"a": fleets.machine("a", 4), "b": fleets.machine("b", 8, model=BIG), "c": fleets.machine("c", 0)}
    return fleets.fleet(dict.fromkeys(built, ("b0", "r0")), built)


def test_pressure_is_insisting_demand_over_capacity() -> None:
    insisting = request.PodRequest(gpus=1, gpu_models=("BIG",))
    either = request.PodRequest(gpus=1, gpu_models=("BIG", "SMALL"))
    anything = request.PodRequest(gpus=1)
    fleet = two_models()
    of = {node.name: row for row, node in enumerate(fleet.nodes)}
    pressure = prices.pressures(fleet, target.from_requests([(insisting, 1), (anything, 3)]))
    # A quarter of the demand, of twelve GPUs, on eight: 0.25 * 12 / 8.
    assert (pressure[of["a"]], pressure[of["b"]], pressure[of["c"]]) == (0, 375, 0)
    shared = prices.pressures(fleet, target.from_requests([(either, 1), (anything, 1)]))
    assert (shared[of["a"]], shared[of["b"]]) == (500, 500)


def test_whole_machine_shares_are_of_gpu_demand() -> None:
    pods = [(request.PodRequest(gpus=8), 1), (request.PodRequest(gpus=2), 2), (share(500), 8)]
    assert prices.whole_machine_shares(target.from_requests(pods)) == {2: 4 * 1024 // 16, 8: 8 * 1024 // 16}
    assert prices.whole_machine_shares(target.from_requests([(request.PodRequest(gpus=1), 2)])) == {}


def test_cpu_only_pods_make_cpu_dearer_only_when_it_is_scarce() -> None:
    fleet = fleets.racks(2)  # 8 GPUs, 64 cores
    beside = request.PodRequest(gpus=1, cpu_milli=4000)
    alone = request.PodRequest(cpu_milli=4000)
    assert prices.cpu_burden(fleet, target.from_requests([(beside, 10), (alone, 8)])) == 1000
    assert prices.cpu_burden(fleet, target.from_requests([(beside, 10), (alone, 10)])) == 2000
    assert prices.cpu_burden(fleet, target.from_requests([(alone, 10)])) == 1000


def test_prices_of_a_target_are_made_once() -> None:
    wanted = target.from_requests([(share(300), 5), (share(700), 5)])
    assert prices.residual_values(wanted) is prices.residual_values(wanted)
    with pytest.raises(ValueError, match="read-only"):
        prices.residual_values(wanted)[0] = 1
