"""MIG partitions: what a cut GPU is worth, and that the price is that of the very slices which the device rule gives."""

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize

from scheduler.model import device, gpu_models, node, request
from scheduler.placement import devices, partition_prices, partitions, target
from scheduler.placement.score import feasible
from scheduler.snapshot import demand, state, topology
from tests.placement import states

A100 = gpu_models.A100_SXM4_40
NAMES = [profile.name for profile in A100.mig]


def mig(name: str, count: int = 1, cpu: int = 0) -> request.PodRequest:
    return request.PodRequest(cpu_milli=cpu, gpus=count, mig=name)


def wants(**counts: int) -> target.TargetWorkload:
    """Return a target of A100 partitions, for example ``wants(_1g=7)``."""
    by_compute = {f"_{p.compute}g": p.name for p in reversed(A100.mig) if "+me" not in p.name and p.profile_id != 15}
    return target.from_requests([(mig(by_compute[key]), count) for key, count in counts.items()])


def profile(compute: int) -> device.MigProfile:
    """Return the plain A100 profile with so many compute slices."""
    return next(p for p in A100.mig if p.compute == compute and "+me" not in p.name)


def machine(name: str, gpus: int = 2) -> node.NodeTopology:
    own = tuple(device.Gpu(i, A100, f"{name}/{i}", mig_enabled=True) for i in range(gpus))
    return node.NodeTopology(name, f"mig{gpus}", 64_000, 64_000, own)


def test_a_gpu_for_small_partitions_is_worth_the_ones_that_still_fit() -> None:
    table = partition_prices.values(A100, wants(_1g=10))
    assert table[0] == 1_000_000
    assert [int(table[used]) for used in (0b1, 0b11, 0b1111111)] == [857_143, 714_286, 0]
    assert table[A100.slices(profile(4), 0)] == 428_571  # three singles beside a 4g


def test_a_gpu_that_can_no_longer_be_whole_has_lost_what_whole_ones_are_worth() -> None:
    """Only full-size partitions are asked for: the first slice takes everything."""
    table = partition_prices.values(A100, wants(_7g=3))
    assert table[0] == 1_000_000
    assert not table[1:].any()


def test_the_middle_of_a_gpu_is_dear_where_halves_are_wanted() -> None:
    """Only 3g is asked for: a slice in a half that is gone already costs nothing more."""
    table = partition_prices.values(A100, wants(_3g=5))
    assert [int(table[used]) for used in (0, 0b1, 0b1000, 0b10000, 0b11, 0b10001)] == [
        *(1_000_000, 500_000, 500_000, 500_000, 500_000, 0)
    ]


def test_what_the_target_does_not_ask_for_is_valued_by_its_slices() -> None:
    table = partition_prices.values(A100, target.from_requests([(request.PodRequest(gpus=1), 5)]))
    assert table.tolist() == (partitions.worth(A100).astype(np.int64) * 1_000_000 // partitions.worth(A100)[0]).tolist()
    other = target.from_requests([(request.PodRequest(gpus=1, mig=NAMES[0], gpu_models=("H100",)), 5)])
    assert partition_prices.values(A100, other).tolist() == table.tolist()


def fillings(places: partition_prices.Places) -> set[tuple[int, ...]]:
    """Return every filling of one GPU, as instances per profile."""
    every = [(i, mask) for i, masks in enumerate(places) for mask in masks]
    found = {(0,) * len(places)}
    for size in range(1, 8):
        for chosen in combinations(every, size):
            if sum(mask for _, mask in chosen) == int(np.bitwise_or.reduce([mask for _, mask in chosen])):
                found.add(tuple(sum(p == i for p, _ in chosen) for i in range(len(places))))
    return found


@settings(max_examples=15)
@given(st.lists(st.sampled_from((2, 3, 4, 7)), min_size=1, max_size=3, unique=True), st.data())
def test_the_duals_solve_the_covering_programme_over_all_fillings(kinds: list[int], data: st.DataObject) -> None:
    places = tuple(tuple(A100.slices(profile(k), start) for start in profile(k).starts) for k in kinds)
    pods = np.array(data.draw(st.lists(st.integers(1, 30), min_size=len(kinds), max_size=len(kinds))))
    duals = partition_prices._duals(places, pods)
    matrix = np.array(sorted(fillings(places)), dtype=np.float64)
    best = optimize.linprog(np.ones(len(matrix)), A_ub=-matrix.T, b_ub=-pods, method="highs")
    assert duals @ pods == pytest.approx(best.fun, abs=1e-6)
    assert (matrix @ duals).max() <= 1 + 1e-6
    empty = partition_prices._completions(places, duals)[0]
    assert empty == pytest.approx((matrix @ duals).max(), abs=1e-9)


@settings(max_examples=20)
@given(st.dictionaries(st.sampled_from(NAMES), st.integers(1, 20), min_size=1))
def test_slices_in_use_never_add_worth(counts: dict[str, int]) -> None:
    table = partition_prices.values(A100, target.from_requests([(mig(name), n) for name, n in counts.items()]))
    assert abs(int(table[0]) - 1_000_000) <= 1 and table.min() >= 0
    for bit in range(9):
        without = np.array([used for used in range(512) if not used >> bit & 1])
        assert (table[without] >= table[without | 1 << bit]).all()


@st.composite
def cut_fleets(draw: st.DrawFn) -> state.Snapshot:
    """Draw up to three machines with partitions on them; one may have no GPU in MIG mode."""
    machines = [machine(f"m{i}", draw(st.integers(1, 3))) for i in range(draw(st.integers(1, 3)))]
    if draw(st.booleans()):
        machines.append(states.machine("plain", 2))
    snapshot = state.empty(states.fleet(machines))
    for name, row in draw(st.lists(st.tuples(st.sampled_from(NAMES), st.integers(0, 2)), max_size=10)):
        wanted = demand.compile_demand(snapshot.topology, mig(name))
        if row < len(machines) and feasible.feasible(snapshot, wanted, np.array([row]))[0]:
            rule = draw(st.sampled_from(("best-subset", "first-fit")))
            for grant in devices.grants(snapshot, wanted, row, 1, rule):  # type: ignore[arg-type]
                snapshot.take(grant)
    return snapshot


def fits(snapshot: state.Snapshot, wanted: demand.Demand, row: int) -> bool:
    """Tell whether the device rule finds all instances of a pod."""
    try:
        return len(devices.grants(snapshot, wanted, row, 1, "best-subset")) == 1
    except state.InvariantError:
        return False


@given(cut_fleets(), st.sampled_from(NAMES), st.integers(1, 4))
def test_a_node_is_feasible_exactly_when_the_device_rule_finds_room(
    snapshot: state.Snapshot, name: str, count: int
) -> None:
    wanted = demand.compile_demand(snapshot.topology, mig(name, count))
    rows = np.arange(len(snapshot.up))
    assert feasible.feasible(snapshot, wanted, rows).tolist() == [fits(snapshot, wanted, row) for row in rows.tolist()]


def test_two_media_engines_need_two_gpus() -> None:
    """Seven places of a slice with the media engine are free, but a GPU has one engine."""
    media = next(p.name for p in A100.mig if "+me" in p.name)
    snapshot = state.empty(states.fleet([machine("a", 1), machine("b", 2)]))
    wanted = demand.compile_demand(snapshot.topology, mig(media, 2))
    assert feasible.feasible(snapshot, wanted, np.array([0, 1])).tolist() == [False, True]


def worth_of(fleet: topology.Topology, snapshot: state.Snapshot, row: int, wanted: target.TargetWorkload) -> int:
    """Return what a node's GPUs in MIG mode are worth, micro-GPU."""
    table = partition_prices.values(A100, wanted)
    own = fleet.nodes[row].gpus
    return sum(int(table[snapshot.slices_used[row, gpu.index]]) for gpu in own if gpu.mig_enabled)


@given(cut_fleets(), st.sampled_from(NAMES), st.integers(1, 3))
def test_the_price_is_the_worth_lost_where_the_device_rule_puts_the_partitions(
    snapshot: state.Snapshot, name: str, count: int
) -> None:
    wanted = target.from_requests([(mig(NAMES[0]), 5), (mig(NAMES[-1]), 2), (mig(NAMES[4]), 3)])
    weights = dict.fromkeys(states.policy.POD_WEIGHTS["opportunity-cost"], 0) | {"value": 1000}
    one = states.compiled("opportunity-cost", snapshot.topology, wanted, **weights)
    pod = one.demand(mig(name, count))
    row = one.row(snapshot, pod)
    for at in np.flatnonzero(feasible.feasible(snapshot, pod, np.arange(len(snapshot.up)))).tolist():
        work = snapshot.copy()
        for grant in devices.grants(snapshot, pod, at, 1, "best-subset"):
            work.take(grant)
        fleet = snapshot.topology
        lost = worth_of(fleet, snapshot, at, wanted) - worth_of(fleet, work, at, wanted)
        assert (int(row.cost[at]), int(row.gpu[at])) == (1000 * lost, -1)


def test_a_small_partition_goes_where_the_large_one_is_lost_already() -> None:
    """Full-size ones are wanted too: the GPU that is cut already takes the small one, whole or not."""
    fleet = states.fleet([machine("a", 1), machine("b", 1)])
    one = states.compiled("opportunity-cost", fleet, wants(_1g=7, _7g=3))
    snapshot = state.empty(fleet)
    snapshot.take(state.Grant(1, 1, partitions=((0, 1 << 6),)))
    chosen = one.choose(snapshot, one.demand(mig(profile(1).name)))
    assert chosen is not None and chosen.node == 1
    terms = dict(one.terms(snapshot, one.demand(mig(profile(1).name)), chosen))
    assert sum(terms.values()) == chosen.cost and "value" in terms
