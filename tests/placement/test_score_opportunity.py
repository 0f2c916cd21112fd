"""The opportunity cost against its terms written out, GPU by GPU, and what the terms are for."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scheduler.model import fabric, machines, request
from scheduler.placement import policy, scoring, target
from scheduler.placement.score import feasible, opportunity
from scheduler.snapshot import state, topology
from tests.placement import states
from tests.placement.test_score_fragmentation import expected
from tests.placement.test_score_published import able, is_share, sizes

WANTED = target.from_requests(
    [
        (request.PodRequest(cpu_milli=3152, gpus=1, gpu_milli=810), 13),
        (request.PodRequest(cpu_milli=8000, gpus=1, gpu_milli=370), 9),
        (request.PodRequest(cpu_milli=11_000, gpus=1), 20),
        (request.PodRequest(cpu_milli=4000, gpus=1, gpu_models=("T4",)), 4),
        (request.PodRequest(cpu_milli=24_000, gpus=4), 3),
        (request.PodRequest(cpu_milli=88_000, gpus=8), 1),
        (request.PodRequest(cpu_milli=20_000), 6),
    ]
)


def strand(one: scoring.Scoring, cpu: int, free: int) -> int:
    """Return the free GPU that the CPU can't feed, micro-GPU, mean over the quantiles."""
    kappa = one.tables.prices.kappa.tolist()
    over = [max(0, 1000 * 1024 * free - cpu * k) for k in kappa]
    return sum(over) // (1024 * len(kappa))


def price(one: scoring.Scoring, snapshot: state.Snapshot, row: int, pod: request.PodRequest, gpu: int) -> int:
    """Return the cost of a pod on a node, a share on `gpu`, in plain integers."""
    weight, table = one.tables.weights, one.tables.prices
    free, cpu = sizes(snapshot, row), int(snapshot.cpu_free[row])
    total, need = sum(free), pod.total_gpu_milli
    work = snapshot.copy()
    work.cpu_free[row] -= pod.cpu_milli
    for g in [gpu] if is_share(pod) else [g for g, r in enumerate(free) if r == 1000][: pod.gpus]:
        work.gpu_free[row, g] -= pod.gpu_milli
    growth = expected(work, row, one.target) - expected(snapshot, row, one.target)
    cost = weight["fragmentation"] * (1000 * growth // one.target.total)
    cost += weight["stranded"] * (strand(one, cpu - pod.cpu_milli, total - need) - strand(one, cpu, total))
    if not pod.gpus:
        return cost + weight["left_cpu"] * 125 * total
    cost += weight["left"] * 125 * (total - need) + weight["pressure"] * int(table.pressure[row]) * need
    cost += weight["open"] * 1_000_000 * all(r == 1000 for r in free)
    value = table.residual.tolist()
    if is_share(pod):
        left = free[gpu] - pod.gpu_milli
        return cost + weight["value"] * (value[free[gpu]] - value[left]) + weight["gpu_left"] * 1000 * left
    return cost + weight["value"] * pod.gpus * (value[1000] - value[0])


@settings(max_examples=60)
@given(states.snapshots(most=4), states.pods())
def test_the_cost_is_the_sum_of_its_terms(snapshot: state.Snapshot, pod: request.PodRequest) -> None:
    """Unlinked GPUs of one kind of bus: the bandwidth term is nothing here and has its own test."""
    one = states.compiled("opportunity-cost", snapshot.topology, WANTED, bandwidth=0)
    wanted = one.demand(pod)
    rows = np.flatnonzero(feasible.feasible(snapshot, wanted, np.arange(len(snapshot.up))))
    cost, gpu = opportunity.opportunity_cost(one.tables, snapshot, wanted, rows)
    for at, row in enumerate(rows.tolist()):
        tries = able(snapshot, row, pod) if is_share(pod) else [-1]
        best, first = min((price(one, snapshot, row, pod, g), g) for g in tries)
        assert (int(cost[at]), int(gpu[at])) == (best, first)


@given(states.snapshots(most=4), states.pods())
def test_weights_of_nothing_make_all_nodes_equal(snapshot: state.Snapshot, pod: request.PodRequest) -> None:
    weights = dict.fromkeys(policy.POD_WEIGHTS["opportunity-cost"], 0)
    one = states.compiled("opportunity-cost", snapshot.topology, WANTED, **weights)
    chosen = one.choose(snapshot, one.demand(pod))
    cost = one.costs(snapshot, one.demand(pod), np.arange(len(snapshot.up)))
    able_rows = np.flatnonzero(cost < np.iinfo(np.int64).max // 2)
    assert not cost[able_rows].any()
    assert (chosen is None) == (not len(able_rows))
    if chosen:
        assert chosen.node == min(able_rows, key=lambda row: snapshot.topology.tie[row])


@given(states.snapshots(most=5), states.pods(), st.sampled_from([2, 3, 10]))
def test_multiplying_all_weights_changes_no_decision(
    snapshot: state.Snapshot, pod: request.PodRequest, factor: int
) -> None:
    weights = policy.POD_WEIGHTS["opportunity-cost"]
    one = states.compiled("opportunity-cost", snapshot.topology, WANTED)
    other = states.compiled(
        "opportunity-cost", snapshot.topology, WANTED, **{k: factor * w for k, w in weights.items()}
    )
    mine, theirs = (each.choose(snapshot, each.demand(pod)) for each in (one, other))
    assert (mine is None) == (theirs is None)
    if mine and theirs:
        assert (mine.node, mine.gpu, mine.cost * factor) == (theirs.node, theirs.gpu, theirs.cost)


def test_stranding_is_the_gpu_that_the_cpu_cannot_feed() -> None:
    """Every pod wants four cores per GPU; two free GPUs with two cores leave one and a half without."""
    wanted = target.from_requests([(request.PodRequest(cpu_milli=4000, gpus=1), 1)])
    one = states.tables_of(states.fleet([states.machine("a", 2)]), wanted)
    found = opportunity.stranded(one, np.array([2000, 8000, 0, 9000]), np.array([2000, 2000, 2000, 0]))
    assert found.tolist() == [1_500_000, 0, 2_000_000, 0]
    nothing = states.tables_of(states.fleet([states.machine("a", 2)]))
    assert opportunity.stranded(nothing, np.array([0]), np.array([2000])).tolist() == [0]


@pytest.mark.parametrize(
    ("share", "free", "untouched", "expected_price"),
    [
        (1024, 8000, 8000, 500_000_000),  # all demand needs what is left: half a GPU, the weight
        (1024, 8000, 16_000, 500_000_000 // 16),
        (512, 8000, 8000, 500_000_000 // 16),
        (1024, 80_000, 8000, 500_000_000),  # never more
        (1024, 8000, 0, 500_000_000),
        (0, 8000, 8000, 0),
        (102, 8000, 80_000, 0),
    ],
)
def test_the_scarcity_price_rises_as_untouched_machines_run_short(
    share: int, free: int, untouched: int, expected_price: int
) -> None:
    assert opportunity.opening_price(500, share, free, untouched) == expected_price


def test_opening_prices_count_untouched_machines_by_size() -> None:
    """Two eights, one of them touched, and a four; an eighth of the demand wants eights, a quarter fours."""
    fleet = states.fleet([states.machine("a", 8), states.machine("b", 8), states.machine("c", 4)])
    pods = [(request.PodRequest(gpus=8), 1), (request.PodRequest(gpus=4), 4), (request.PodRequest(gpus=1), 40)]
    one = states.tables_of(fleet, target.from_requests(pods), scarcity=1000)
    snapshot = state.empty(fleet)
    states.loads(snapshot, 1, (1, 500, 0))
    assert opportunity.opening_prices(one, snapshot) == {
        4: opportunity.opening_price(1000, 256, 19_500, 4000),
        8: opportunity.opening_price(1000, 128, 19_500, 8000),
    }
    snapshot.set_up(0, False)
    assert opportunity.opening_prices(one, snapshot)[8] == opportunity.opening_price(1000, 128, 19_500, 0)
    assert opportunity.opening_prices(states.tables_of(fleet, target.from_requests(pods), scarcity=0), snapshot) == {}


def test_the_last_untouched_machine_is_kept_for_the_pods_that_need_it() -> None:
    """Two eights, of which one is started: a share goes to the started one, a pod of eight still fits."""
    fleet = states.fleet([states.machine("a", 8, 96_000), states.machine("b", 8, 96_000)])
    pods = [(request.PodRequest(gpus=8, cpu_milli=88_000), 3), (request.PodRequest(gpus=1, gpu_milli=500), 1)]
    one = states.compiled("opportunity-cost", fleet, target.from_requests(pods))
    snapshot = state.empty(fleet)
    states.loads(snapshot, 1, (0b1111111, 1000, 20_000))
    chosen = one.choose(snapshot, one.demand(request.PodRequest(gpus=1, gpu_milli=500)))
    assert chosen is not None and (chosen.node, chosen.gpu) == (1, 7)
    whole = one.choose(snapshot, one.demand(request.PodRequest(gpus=8, cpu_milli=88_000)))
    assert whole is not None and whole.node == 0


def bridged() -> topology.Topology:
    """Return two machines of four GPUs in bridged pairs."""
    nodes = {name: machines.build("a100-pcie-pairs", name) for name in ("a", "b")}
    return topology.compile_topology(fabric.from_paths(nodes, dict.fromkeys(nodes, ("r",)), ("rack",)))


def test_a_pair_goes_where_it_is_bridged() -> None:
    """Machine a has halves of two pairs left, machine b a whole pair; without the bandwidth term they are equal."""
    fleet = bridged()
    peak = fleet.shapes[0].peak_table[2]
    halves, pair = 0b0101, 0b0011
    assert peak[pair] == peak.max() > peak[halves] > 0
    snapshot = state.empty(fleet)
    states.loads(snapshot, 0, (0b1111 ^ halves, 1000, 0))
    states.loads(snapshot, 1, (0b1111 ^ pair, 1000, 0))
    found = {}
    for weight in (0, 400):
        one = states.compiled("opportunity-cost", fleet, None, bandwidth=weight)
        wanted = one.demand(request.PodRequest(gpus=2))
        chosen = one.choose(snapshot, wanted)
        assert chosen is not None and chosen.node == (1 if weight else 0)
        found[weight] = one.costs(snapshot, wanted, np.array([0, 1]))
    short = 1000 - 1000 * int(peak[halves]) // int(peak[pair])
    assert (found[400] - found[0]).tolist() == [400 * 1000 * 2 * short, 0]
