"""Price tables: the linear programme against plain enumeration, quantiles and pressures by hand."""

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize

from scheduler.model import request
from scheduler.placement import prices, target
from tests.placement import states

FLEET = states.fleet([states.machine("a", 8, 80_000), states.machine("b", 4, 40_000, states.MODELS[1])])


def share(milli: int, cpu: int = 0) -> request.PodRequest:
    return request.PodRequest(cpu_milli=cpu, gpus=1, gpu_milli=milli)


def whole(gpus: int, cpu: int = 0, *models: str) -> request.PodRequest:
    return request.PodRequest(cpu_milli=cpu, gpus=gpus, gpu_models=models)


def patterns(sizes: list[int]) -> list[tuple[int, ...]]:
    """Return every filling of one GPU."""
    counts = [range(1000 // size + 1) for size in sizes]
    return [p for p in product(*counts) if sum(n * s for n, s in zip(p, sizes, strict=True)) <= 1000]


sizes_of_shares = st.lists(
    st.sampled_from([130, 190, 250, 300, 400, 470, 500, 700, 810]), min_size=1, max_size=4, unique=True
)


@settings(max_examples=25)
@given(sizes_of_shares.map(sorted), st.data())
def test_the_duals_solve_the_covering_programme_over_all_patterns(sizes: list[int], data: st.DataObject) -> None:
    """Same optimum as with every pattern written out, and no pattern is worth more than the GPU that it needs."""
    pods = np.array(data.draw(st.lists(st.integers(0, 50), min_size=len(sizes), max_size=len(sizes))))
    if not pods.any():
        return
    duals = prices._duals(np.array(sizes), pods)
    matrix = np.array(patterns(sizes), dtype=np.float64)
    best = optimize.linprog(np.ones(len(matrix)), A_ub=-matrix.T, b_ub=-pods, method="highs")
    assert duals @ pods == pytest.approx(best.fun, abs=1e-6)
    present = pods > 0
    assert (matrix[:, present] @ duals[present]).max() <= 1 + 1e-6
    assert (duals[present] >= -1e-9).all()


@given(sizes_of_shares.map(sorted), st.data())
def test_the_knapsack_is_the_best_filling_of_every_residual(sizes: list[int], data: st.DataObject) -> None:
    values = np.array(data.draw(st.lists(st.integers(0, 9).map(float), min_size=len(sizes), max_size=len(sizes))))
    table = prices._knapsack(np.array(sizes), values)
    every = [(sum(n * s for n, s in zip(p, sizes, strict=True)), float(values @ p)) for p in patterns(sizes)]
    for room in (0, 129, 130, 299, 500, 810, 999, 1000):
        assert table[room] == pytest.approx(max(value for size, value in every if size <= room))


def test_halves_are_worth_half_a_gpu() -> None:
    table = prices.residual_values(target.from_requests([(share(500), 9)]))
    assert table.tolist() == [0] * 500 + [500_000] * 500 + [1_000_000]


def test_what_nobody_asks_for_is_worth_nothing() -> None:
    table = prices.residual_values(target.from_requests([(whole(2), 9), (request.PodRequest(cpu_milli=1), 3)]))
    assert table.tolist() == [0] * 1000 + [1_000_000]
    assert prices.residual_values(target.TargetWorkload(())).tolist() == table.tolist()


def test_a_left_over_is_worth_what_pairs_with_its_partner() -> None:
    """700s are plenty and each leaves 300 over: a 300 takes what is there anyway, so only the 700 costs a GPU."""
    table = prices.residual_values(target.from_requests([(share(700), 90), (share(300), 10)]))
    assert table[699] - table[300] == 0 and table[300] < 10_000
    assert table[700] > 990_000


@settings(max_examples=10)
@given(st.dictionaries(st.sampled_from([100, 200, 330, 470, 620, 810]), st.integers(1, 60), min_size=1))
def test_a_table_never_falls_and_never_exceeds_a_gpu(counts: dict[int, int]) -> None:
    table = prices.residual_values(target.from_requests([(share(s), n) for s, n in counts.items()]))
    assert (np.diff(table) >= 0).all()
    assert table[0] == 0 and abs(int(table[1000]) - prices.MICRO) <= 1
    assert not table[: min(counts)].any()


def test_tables_depend_on_shares_of_the_target_and_not_on_its_size() -> None:
    pods = [(share(810), 3), (share(190), 2), (share(470), 4)]
    small, large = (target.from_requests([(pod, n * times) for pod, n in pods]) for times in (1, 1000))
    assert prices.residual_values(small).tolist() == prices.residual_values(large).tolist()
    assert prices.kappas(small).tolist() == prices.kappas(large).tolist()
    assert prices.pressures(FLEET, small).tolist() == prices.pressures(FLEET, large).tolist()


def test_a_table_cannot_be_changed_by_its_readers() -> None:
    table = prices.residual_values(target.from_requests([(share(250), 1)]))
    with pytest.raises(ValueError, match="read-only"):
        table[3] = 1


def test_cpu_per_gpu_is_weighed_by_gpu_demand() -> None:
    """Nine GPUs at 2 cores each, one at 10: the quantiles .1 to .8 all are 2 cores, so 1 milli-CPU feeds 500 micro-GPU."""
    wanted = target.from_requests([(whole(1, 2000), 1), (whole(8, 16_000), 1), (whole(1, 10_000), 1)])
    assert prices.kappas(wanted).tolist() == [1000 * 1024 // 2] * 8
    turned = target.from_requests([(whole(1, 2000), 1), (whole(8, 80_000), 1)])
    assert prices.kappas(turned).tolist() == [512_000] + [102_400] * 7


def test_targets_without_cpu_or_without_gpus_strand_nothing() -> None:
    assert prices.kappas(target.from_requests([(whole(1), 5)])).tolist() == []
    assert prices.kappas(target.from_requests([(request.PodRequest(cpu_milli=5), 5)])).tolist() == []
    assert prices.kappas(target.TargetWorkload(())).tolist() == []


def test_ratios_of_zero_are_left_out_of_the_quantiles() -> None:
    half = target.from_requests([(whole(1), 5), (whole(1, 4000), 5)])
    assert prices.kappas(half).tolist() == [256_000] * 3  # at .6, .7 and .8


def test_cpu_is_dearer_only_where_the_target_asks_for_more_than_the_fleet_has() -> None:
    """The fleet has ten cores per GPU. GPU pods ask for eight; CPU-only pods bring that to nine, ten and twelve."""
    found = [
        prices.cpu_burden(FLEET, target.from_requests([(whole(1, 8000), 10), (request.PodRequest(cpu_milli=1000), n)]))
        for n in (0, 10, 15, 20, 40)
    ]
    assert found == [1000, 1000, 1000, 1250, 1500]
    between = target.from_requests([(whole(1, 8000), 100), (request.PodRequest(cpu_milli=1000), 175)])
    assert prices.cpu_burden(FLEET, between) == 1000 + 500 * 218 // 1000  # 975 per mille is half way up
    assert prices.cpu_burden(FLEET, target.from_requests([(request.PodRequest(cpu_milli=1000), 9)])) == 1000
    dear = target.from_requests([(whole(1, 8000), 10), (request.PodRequest(cpu_milli=1000), 20)])
    assert (prices.compile_prices(FLEET, dear).kappa == prices.kappas(dear) * 1000 // 1250).all()


def test_pressure_is_the_demand_that_insists_over_the_capacity() -> None:
    """A quarter of the demand insists on T4, a third of the fleet: 12/4 x 1/4. A free choice of both models adds evenly."""
    wanted = target.from_requests([(whole(1, 0, "T4"), 1), (whole(1), 3)])
    assert prices.pressures(FLEET, wanted).tolist() == [0, 750]
    both = target.from_requests([(whole(1, 0, "P4", "T4"), 1), (share(1), 0), (whole(1), 1)])
    assert prices.pressures(FLEET, both).tolist() == [500, 500]
    assert prices.pressures(FLEET, target.from_requests([(whole(1, 0, "H100"), 1)])).tolist() == [0, 0]
    assert prices.pressures(FLEET, target.TargetWorkload(())).tolist() == [0, 0]


def test_machines_without_gpus_are_under_no_pressure() -> None:
    fleet = states.fleet([states.machine("a", 0), states.machine("b", 2)])
    assert prices.pressures(fleet, target.from_requests([(whole(1, 0, "P4"), 1)])).tolist() == [0, 1000]


def test_whole_machines_are_counted_by_gpu_demand() -> None:
    wanted = target.from_requests([(whole(8), 1), (whole(4), 1), (whole(2), 1), (whole(1), 1), (share(500), 2)])
    assert prices.whole_machine_shares(wanted) == {2: 2 * 1024 // 16, 4: 4 * 1024 // 16, 8: 8 * 1024 // 16}
    assert prices.whole_machine_shares(target.TargetWorkload(())) == {}


def test_rules_without_weights_get_tables_of_nothing() -> None:
    wanted = target.from_requests([(share(500, 4000), 3), (whole(1, 4000, "T4"), 3)])
    made = states.compiled("fgd", FLEET, wanted).tables.prices
    assert not made.residual.any() and not made.pressure.any() and not len(made.kappa) and not made.whole
    assert states.tables_of(FLEET, wanted).prices.residual.any()
