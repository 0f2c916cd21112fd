"""The study's rules and kube-scheduler's, each against its definition written out pod by pod."""

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scheduler.model import request
from scheduler.placement import scoring, target
from scheduler.placement.score import feasible, tables
from scheduler.snapshot import state
from tests.placement import states
from tests.placement.test_score_fragmentation import expected, published

Score = Callable[[state.Snapshot, int, request.PodRequest], tuple[int, int]]
"""Score (higher is better) and shared GPU (-1 for none) of a pod on a node where it fits."""


def sizes(snapshot: state.Snapshot, row: int) -> list[int]:
    """Return the free milli of every GPU of a node."""
    return [int(r) for r in snapshot.gpu_free[row][: len(snapshot.topology.nodes[row].gpus)]]


def able(snapshot: state.Snapshot, row: int, pod: request.PodRequest) -> list[int]:
    """Return the GPUs that one GPU's worth of the pod fits on."""
    one = snapshot.topology.nodes[row]
    suits = [not pod.gpu_models or gpu.model.name in pod.gpu_models for gpu in one.gpus]
    return [g for g, free in enumerate(sizes(snapshot, row)) if suits[g] and free >= pod.gpu_milli]


def fits(snapshot: state.Snapshot, row: int, pod: request.PodRequest) -> bool:
    """Tell whether a pod fits on a node."""
    enough = snapshot.cpu_free[row] >= pod.cpu_milli and snapshot.memory_free[row] >= pod.memory_mib
    room = len(able(snapshot, row, pod)) >= pod.gpus
    return bool(snapshot.up[row] and snapshot.pods_free[row] >= 1 and enough and room)


def is_share(pod: request.PodRequest) -> bool:
    return pod.gpus == 1 and pod.gpu_milli < 1000


def snug(snapshot: state.Snapshot, row: int, pod: request.PodRequest) -> int:
    """Return the GPU with the least sufficient residual, lowest index first."""
    free = sizes(snapshot, row)
    return min(able(snapshot, row, pod), key=lambda g: (free[g], g)) if is_share(pod) else -1


def dot_product(snapshot: state.Snapshot, row: int, pod: request.PodRequest) -> tuple[int, int]:
    cpu = int(snapshot.cpu_free[row]) * pod.cpu_milli * 8000**2
    gpu = sum(sizes(snapshot, row)) * pod.total_gpu_milli * 128_000**2
    scale = 128_000**2 * 8000**2
    return (200 * scale - 100 * (cpu + gpu)) // (2 * scale), snug(snapshot, row, pod)


def best_fit(snapshot: state.Snapshot, row: int, pod: request.PodRequest) -> tuple[int, int]:
    cpu = int(snapshot.cpu_free[row]) - pod.cpu_milli
    gpu = sum(sizes(snapshot, row)) - pod.total_gpu_milli
    scale = 2 * 128_000 * 8000
    return (100 * scale - 100 * (cpu * 8000 + gpu * 128_000)) // scale, snug(snapshot, row, pod)


def clustering(snapshot: state.Snapshot, row: int, pod: request.PodRequest) -> tuple[int, int]:
    if not pod.gpus:
        return 0, -1
    own = 0 if is_share(pod) else pod.gpus
    hosted = {tag for tag, count in enumerate(snapshot.tags[row].tolist()) if count}
    base = 25 * (8000 - sum(sizes(snapshot, row))) // 8000
    bonus = 75 if hosted == {own} else 50 if own in hosted else 0 if hosted else 25
    return base + bonus, snug(snapshot, row, pod)


def packing(snapshot: state.Snapshot, row: int, pod: request.PodRequest) -> tuple[int, int]:
    if not pod.gpus:
        return 0, -1
    free = sizes(snapshot, row)
    if all(r == 1000 for r in free):
        return max(33 - len(free), len(free)), snug(snapshot, row, pod)
    picked = sorted(free[g] for g in able(snapshot, row, pod))[: pod.gpus]
    fresh = sum(r == 1000 for r in picked)
    score = max(50 - fresh, 33) if fresh else max(100 - sum(picked) // 100, 50)
    return score, snug(snapshot, row, pod)


def allocated(least: bool) -> Score:
    """NodeResourcesFit's strategy over CPU, memory and, where asked for, GPUs."""

    def score(snapshot: state.Snapshot, row: int, pod: request.PodRequest) -> tuple[int, int]:
        one = snapshot.topology.nodes[row]
        parts = [(one.cpu_milli, int(snapshot.cpu_free[row]) - pod.cpu_milli)]
        parts.append((one.memory_mib, int(snapshot.memory_free[row]) - pod.memory_mib))
        if pod.gpus:
            parts.append((1000 * len(one.gpus), sum(sizes(snapshot, row)) - pod.total_gpu_milli))
        each = [100 * (left if least else total - left) // total for total, left in parts]
        return sum(each) // len(each), snug(snapshot, row, pod)

    return score


def first_fit(snapshot: state.Snapshot, row: int, pod: request.PodRequest) -> tuple[int, int]:
    return -row, able(snapshot, row, pod)[0] if is_share(pod) else -1


REFERENCES: dict[str, Score] = {
    "dot-product": dot_product,
    "best-fit": best_fit,
    "clustering": clustering,
    "packing": packing,
    "least-allocated": allocated(True),
    "most-allocated": allocated(False),
    "first-fit": first_fit,
}


def scored(snapshot: state.Snapshot, pod: request.PodRequest, one: scoring.Scoring) -> dict[int, tuple[int, int]]:
    """Return ``(-cost, GPU)`` of every node where the pod fits, by the rule itself."""
    wanted = one.demand(pod)
    rows = np.flatnonzero(feasible.feasible(snapshot, wanted, np.arange(len(snapshot.up))))
    cost, gpu = scoring.RULES[one.policy.spec.pods.rule](one.tables, snapshot, wanted, rows)
    return dict(zip(rows.tolist(), zip((-cost).tolist(), gpu.tolist(), strict=True), strict=True))


@given(states.snapshots(), states.pods())
def test_feasible_is_what_fits(snapshot: state.Snapshot, pod: request.PodRequest) -> None:
    one = states.compiled("best-fit", snapshot.topology)
    found = scored(snapshot, pod, one)
    assert list(found) == [row for row in range(len(snapshot.up)) if fits(snapshot, row, pod)]


@pytest.mark.parametrize("rule", REFERENCES)
@given(snapshot=states.snapshots(), pod=states.pods())
def test_a_rule_is_its_definition(rule: str, snapshot: state.Snapshot, pod: request.PodRequest) -> None:
    found = scored(snapshot, pod, states.compiled(rule, snapshot.topology))  # type: ignore[arg-type]
    assert found == {row: REFERENCES[rule](snapshot, row, pod) for row in found}


@given(states.snapshots(), states.pods())
def test_the_rescaling_of_best_fit_changes_no_decision(snapshot: state.Snapshot, pod: request.PodRequest) -> None:
    """The study rescales to 0..100 by integer division; it keeps apart what differs and together what is equal."""
    found = scored(snapshot, pod, states.compiled("best-fit", snapshot.topology))
    scores = [score for score, _ in found.values()]
    low, high = min(scores, default=0), max(scores, default=0)
    rescaled = [(score - low) * 100 // (high - low) if high > low else 0 for score in scores]
    assert high - low <= 100
    order = [(a < b) - (a > b) for a in scores for b in scores]
    assert order == [(a < b) - (a > b) for a in rescaled for b in rescaled]


def after(snapshot: state.Snapshot, row: int, pod: request.PodRequest, gpu: int) -> state.Snapshot:
    """Return the snapshot after the pod took the lowest whole GPUs, or its share of `gpu`."""
    work = snapshot.copy()
    work.cpu_free[row] -= pod.cpu_milli
    whole = [g for g, free in enumerate(sizes(snapshot, row)) if free == 1000][: pod.gpus]
    for g in [gpu] if is_share(pod) else whole:
        work.gpu_free[row, g] -= pod.gpu_milli
    return work


@given(states.snapshots(most=4), states.pods(), states.targets())
def test_fgd_is_the_published_score(
    snapshot: state.Snapshot, pod: request.PodRequest, wanted: target.TargetWorkload
) -> None:
    """The score of the fall of fragmentation over the popular part; for shares the first GPU that reaches the best."""
    popular = wanted.popular()
    found = scored(snapshot, pod, states.compiled("fgd", snapshot.topology, wanted))
    for row, answer in found.items():
        before = expected(snapshot, row, popular)
        tries = able(snapshot, row, pod) if is_share(pod) else [-1]
        falls = [(g, before - expected(after(snapshot, row, pod, g), row, popular)) for g in tries]
        scores = [(published(fall, popular.total) if popular.total else 99, g) for g, fall in falls]
        best = max(score for score, _ in scores)
        assert answer == (best, next(g for score, g in scores if score == best))


def test_fgd_without_a_target_finds_all_nodes_equal() -> None:
    fleet = states.fleet([states.machine("a", 2), states.machine("b", 4)])
    found = scored(state.empty(fleet), request.PodRequest(gpus=1), states.compiled("fgd", fleet))
    assert len({score for score, _ in found.values()}) == 1


@given(states.snapshots(), states.pods(), st.integers(0, 99))
def test_random_answers_alike_in_one_state_and_only_feasibly(
    snapshot: state.Snapshot, pod: request.PodRequest, seed: int
) -> None:
    one = states.compiled("random", snapshot.topology, seed=seed)
    found = scored(snapshot, pod, one)
    assert found == scored(snapshot, pod, states.compiled("random", snapshot.topology, seed=seed))
    for row, (_, gpu) in found.items():
        assert gpu in able(snapshot, row, pod) if is_share(pod) else gpu == -1


def test_random_spreads_evenly_over_nodes_and_gpus() -> None:
    """A thousand decisions over four nodes with four GPUs: each of the sixteen within five sigma of its expectation."""
    fleet = states.fleet([states.machine(f"n{i}", 4) for i in range(4)])
    snapshot, pod = state.empty(fleet), request.PodRequest(gpus=1, gpu_milli=1)
    one = states.compiled("random", fleet, seed=3)
    count = np.zeros((4, 4), dtype=np.int64)
    for _ in range(1000):
        chosen = one.choose(snapshot, one.demand(pod))
        assert chosen is not None
        count[chosen.node, chosen.gpu] += 1
        snapshot.set_up(0, True)  # a new version, nothing else
    spread = 5 * (1000 / 16 * 15 / 16) ** 0.5
    assert (abs(count - 1000 / 16) < spread).all()


def test_random_chooses_wherever_anything_fits() -> None:
    """Also where the one feasible node draws a large number."""
    fleet = states.fleet([states.machine("a", 1)])
    snapshot = state.empty(fleet)
    for seed in range(64):
        one = states.compiled("random", fleet, seed=seed)
        assert one.choose(snapshot, one.demand(request.PodRequest(gpus=1))) is not None


def test_the_hash_is_splitmix64() -> None:
    """First output of the reference generator for seed 0, and its avalanche: one bit in, about half of them out."""
    assert int(tables.mix(1, 0, np.array([0]))[0]) == 0xE220A8397B1DCDAF
    one, other = (int(tables.mix(5, 9, np.array([n]))[0]) for n in (1, 2))
    assert 16 < (one ^ other).bit_count() < 48
