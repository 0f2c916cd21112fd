"""The published rules on three machines, with every number worked out by hand."""

from dataclasses import replace

import numpy as np
import pytest

from scheduler.model import request
from scheduler.placement import policy, scoring, target
from scheduler.placement.score import fragmentation
from scheduler.snapshot import state
from tests.placement import fleets

ONE = request.PodRequest(gpus=1, cpu_milli=8000)
TWO = request.PodRequest(gpus=2, cpu_milli=8000)
HALF = request.PodRequest(gpus=1, gpu_milli=500, cpu_milli=8000)
CPU = request.PodRequest(cpu_milli=8000)


def scored(
    rule: str, wanted: target.TargetWorkload | None = None, sizes: tuple[int, ...] = (4, 4, 4)
) -> scoring.Scoring:
    """Compile a pod rule for machines of 32 cores and 64,000 MiB."""
    built = {f"n{i}": fleets.machine(f"n{i}", gpus) for i, gpus in enumerate(sizes)}
    fleet = fleets.fleet(dict.fromkeys(built, ("b", "r")), built)
    pods = policy.PodScoring(rule=rule)
    chosen = policy.ScoringPolicy(metadata=policy.Metadata(name="test"), spec=policy.Spec(pods=pods))
    return scoring.compile_scoring(chosen, fleet, wanted)


def used(score: scoring.Scoring, *grants: state.Grant) -> state.Snapshot:
    """Return the fleet after some grants."""
    return fleets.take_all(state.empty(score.topology), grants)


def costs(score: scoring.Scoring, snapshot: state.Snapshot, pod: request.PodRequest) -> list[int]:
    """Return the pod's cost on every node."""
    nodes = np.arange(len(score.topology.nodes))
    return [int(cost) for cost in score.costs(snapshot, score.demand(pod), nodes)]


def test_best_fit_adds_what_is_left_of_cpu_and_gpus() -> None:
    score = scored("best-fit")
    snapshot = used(score, state.Grant(1, 0b0011, 1000, 16_000))
    # n0: 100 (1 - 24000/256000 - 3000/16000) = 71.875; n1: 100 (1 - 8000/256000 - 1000/16000) = 90.625.
    assert costs(score, snapshot, ONE) == [-71, -90, -71]


def test_best_fit_takes_the_gpu_with_the_least_sufficient_residual() -> None:
    score = scored("best-fit")
    snapshot = used(score, state.Grant(0, 0b0010, 600), state.Grant(0, 0b0100, 500), state.Grant(0, 0b1000, 500))
    assert score.row(snapshot, score.demand(HALF)).gpu.tolist()[0] == 2
    assert score.row(snapshot, score.demand(replace(HALF, gpu_milli=600))).gpu.tolist()[0] == 0


def test_dot_product_prefers_the_smaller_product() -> None:
    score = scored("dot-product")
    snapshot = used(score, state.Grant(2, 0b0111, 1000, 24_000))
    # n0: 32000*8000/128000^2 + 4000*1000/8000^2 = 0.078125, half of it is 3.9 per cent: 96; n2 a quarter of it: 99.
    assert costs(score, snapshot, ONE) == [-96, -96, -99]


def test_clustering_keeps_kinds_together() -> None:
    score = scored("clustering")
    snapshot = used(score, state.Grant(0, 0b0001, 1000), state.Grant(1, 0b0001, 1000), state.Grant(1, 0b0110, 1000))
    # Used GPU gives floor(25 (8000 - R) / 8000): 15, 21 and 12 with four of eight GPUs missing anyway.
    assert costs(score, snapshot, ONE) == [-(15 + 75), -(21 + 50), -(12 + 25)]
    assert costs(score, snapshot, HALF) == [-15, -21, -(12 + 25)]
    assert costs(score, snapshot, CPU) == [0, 0, 0]


def test_packing_uses_used_gpus_first() -> None:
    score = scored("packing")
    snapshot = used(score, state.Grant(0, 0b0001, 1000), state.Grant(1, 0b0001, 300))
    # Untouched: max(33 - 4, 4). One or two fresh GPUs of a used node: 50 - x. A used GPU with 70 % left: 100 - 7*10.
    assert costs(score, snapshot, ONE) == [-49, -49, -29]
    assert costs(score, snapshot, TWO) == [-48, -48, -29]
    assert costs(score, snapshot, HALF) == [-49, -93, -29]
    assert costs(score, snapshot, CPU) == [0, 0, 0]


def test_least_and_most_allocated_mirror_each_other() -> None:
    for rule, expected in (
        # After the pod: CPU 24/32 and 8/32 left, all memory, 3/4 and 1/4 of the GPUs; mean of the three, floored.
        ("least-allocated", [-((75 + 100 + 75) // 3), -((25 + 100 + 25) // 3)]),
        ("most-allocated", [-((25 + 0 + 25) // 3), -((75 + 0 + 75) // 3)]),
    ):
        score = scored(rule, sizes=(4, 4))
        snapshot = used(score, state.Grant(1, 0b0011, 1000, 16_000))
        assert costs(score, snapshot, ONE) == expected


def test_first_fit_goes_by_node_and_gpu() -> None:
    score = scored("first-fit")
    snapshot = used(score, state.Grant(0, 0b1111, 1000), state.Grant(1, 0b0001, 600))
    found = score.choose(snapshot, score.demand(HALF))
    assert found is not None and (found.node, found.gpu) == (1, 1)


def test_random_is_a_function_of_seed_and_state() -> None:
    score = scored("random", sizes=(4,) * 40)
    snapshot = used(score)
    first = score.choose(snapshot, score.demand(HALF))
    assert first == score.choose(snapshot, score.demand(HALF))
    assert first is not None
    seen, shared = set(), set()
    for _ in range(30):
        snapshot.take(state.Grant(0, 0, 0, 1))
        found = score.choose(snapshot, score.demand(HALF))
        assert found is not None
        seen.add(found.node)
        shared.add(found.gpu)
    assert len(seen) > 10 and shared == {0, 1, 2, 3}


def test_fgd_scores_the_fall_of_fragmentation() -> None:
    # One whole GPU is all that anybody wants: slivers below 1000 are fragments, everything is without CPU.
    wanted = target.from_requests([(ONE, 10)])
    score = scored("fgd", wanted)
    snapshot = used(score, state.Grant(1, 0b0001, 500))
    # n0: 500 milli become a sliver: 100 / (1 + e^0.5) = 37.8. n1: the sliver of 500 goes: 100 / (1 + e^-0.5) = 62.2.
    assert costs(score, snapshot, HALF) == [-37, -62, -37]
    assert score.row(snapshot, score.demand(HALF)).gpu.tolist() == [0, 0, 0]


def test_fgd_sees_gpus_without_cpu() -> None:
    wanted = target.from_requests([(ONE, 10)])
    score = scored("fgd", wanted)
    # 30 of 32 cores leave less than the 8 that anybody needs: all four GPUs become fragments.
    assert costs(score, used(score), request.PodRequest(cpu_milli=30_000)) == [-1, -1, -1]


def test_sigmoid_of_integers_is_the_published_one() -> None:
    total = 7
    score = scored("fgd", target.from_requests([(ONE, total)]))
    falls = np.arange(-8000 * total, 8000 * total, 37)
    ours = score.tables.sigmoid(falls)
    assert ours.tolist() == np.trunc(100 / (1 + np.exp(-falls / 1000 / total))).astype(int).tolist()


def test_access_counts_everything_as_fragment() -> None:
    fleet = scored("fgd").topology
    other = replace(ONE, gpu_models=("OTHER",))
    free = np.full((1, 4), 1000)
    at, cpu = np.array([0]), np.array([32_000])
    for pod, expected in ((ONE, 0), (other, 4000), (CPU, 4000), (replace(ONE, gpus=5), 4000)):
        compiled = fragmentation.compile_fragmentation(fleet, target.from_requests([(pod, 3)]))
        assert compiled.of(free, cpu, at).tolist() == [3 * expected]


def test_fragmentation_in_parts_is_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    fleet = scored("fgd", sizes=(4,) * 30).topology
    compiled = fragmentation.compile_fragmentation(fleet, target.from_requests([(ONE, 3), (HALF, 5)]))
    draws = np.random.default_rng(0)
    free, cpu = draws.integers(0, 1001, (30, 4)), draws.integers(0, 32_000, 30)
    whole = compiled.of(free, cpu, np.arange(30))
    monkeypatch.setattr(fragmentation, "CHUNK", 1)
    assert compiled.of(free, cpu, np.arange(30)).tolist() == whole.tolist()
