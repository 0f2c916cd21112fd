"""The inflation protocol: its sequence, its buckets, and the published results on the real lists."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scheduler import policies
from scheduler.model import fabric, gang, request
from scheduler.placement import policy, target
from scheduler.placement.score import fragmentation
from scheduler.snapshot import state
from simulator import inflation, kernel, published, study
from simulator.fleet import load as fleets
from simulator.trace import job
from simulator.trace import load as traces_of
from tests.placement import states

CPU = request.PodRequest(cpu_milli=2000)
SHARE = request.PodRequest(cpu_milli=1000, gpus=1, gpu_milli=400)
ONE = request.PodRequest(cpu_milli=4000, gpus=1)
TWO = request.PodRequest(cpu_milli=9000, gpus=2)
EIGHT = request.PodRequest(cpu_milli=30_000, gpus=8)


def work_of(*pods: tuple[request.PodRequest, int]) -> inflation.Workload:
    """Make a workload of requests and how often each occurs."""
    counts = np.array([count for _, count in pods])
    return inflation.Workload(
        "w", tuple(pod for pod, _ in pods), np.repeat(np.arange(len(pods)), counts).astype(np.int32)
    )


def racks(sizes: list[int]) -> fabric.Fabric:
    """Return machines of the given sizes, with twelve cores per GPU."""
    built = {f"n{i}": states.machine(f"n{i}", gpus, 12_000 * max(1, gpus)) for i, gpus in enumerate(sizes)}
    return fabric.from_paths(built, dict.fromkeys(built, ("r",)), ("rack",))


def milli(work: inflation.Workload) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    return np.array([pod.total_gpu_milli for pod in work.requests])


@given(st.integers(0, 99), st.integers(1, 40))
def test_the_originals_come_first_then_samples_until_the_next_would_exceed(seed: int, gpus: int) -> None:
    """The limit is compared with the total plus the per-GPU milli of the drawn pod: an eight counts as one there."""
    work, capacity = work_of((CPU, 2), (SHARE, 2), (EIGHT, 1)), 1000 * max(gpus, 7)
    sequence = inflation.submissions(work, capacity, np.random.default_rng(seed))
    originals, extra = sequence[: len(work.pods)], sequence[len(work.pods) :]
    assert sorted(originals.tolist()) == work.pods.tolist()
    again = np.random.default_rng(seed)
    again.permutation(len(work.pods))
    total = int(milli(work)[work.pods].sum())
    for drawn in extra.tolist():
        assert drawn == work.pods[again.integers(len(work.pods))]
        assert total + (work.requests[drawn].gpu_milli if work.requests[drawn].gpus else 0) <= 1300 * max(gpus, 7)
        total += int(milli(work)[drawn])
    last = work.requests[work.pods[again.integers(len(work.pods))]]
    assert total + (last.gpu_milli if last.gpus else 0) > 1300 * max(gpus, 7)


def test_one_pod_may_overshoot_the_limit_but_for_its_first_gpu() -> None:
    """Upstream's quirk: seven GPUs are asked for of 13, an eight is let in, and then nothing more is."""
    work = work_of((EIGHT, 1))
    sequence = inflation.submissions(work, 10_000, np.random.default_rng(1))
    assert len(sequence) == 2


@given(st.integers(0, 99), st.integers(1, 8))
def test_pods_are_deleted_until_the_rest_is_within_the_limit(seed: int, gpus: int) -> None:
    work = work_of((ONE, 20), (TWO, 5), (CPU, 6))
    sequence = inflation.submissions(work, 1000 * gpus, np.random.default_rng(seed))
    shuffled = work.pods[np.random.default_rng(seed).permutation(len(work.pods))].tolist()
    total = int(milli(work)[sequence].sum())
    assert total <= 1300 * gpus
    assert total + 2000 > 1300 * gpus  # the last pod deleted was needed: none asks for more than two
    kept = iter(shuffled)
    assert all(any(pod == other for other in kept) for pod in sequence.tolist())  # in the order of the shuffle


def test_a_workload_without_gpus_is_not_inflated_for_ever() -> None:
    work = work_of((CPU, 5))
    assert len(inflation.submissions(work, 4000, np.random.default_rng(0))) == 5


@pytest.mark.parametrize("gpus", range(1, 400, 7))
def test_the_limit_is_exact(gpus: int) -> None:
    """1.3 times the capacity is no float: pods of one GPU reach it to the last."""
    sequence = inflation.submissions(work_of((ONE, 1)), 10_000 * gpus, np.random.default_rng(0))
    assert len(sequence) == 13 * gpus


def run_of(used: list[int], arrived: list[int], capacity: int) -> inflation.Run:
    none = np.zeros(len(inflation.KINDS), dtype=np.int64)
    node = np.zeros(len(used), dtype=np.int64)
    return inflation.Run(node, np.array(used), np.array(arrived), np.array(used) * 3, 3, capacity, none, none)


def test_buckets_are_rounded_half_to_even_and_averaged() -> None:
    made = run_of([1000, 2000, 4000, 4000], [1000, 5000, 15_000, 25_000], 1_000_000)
    left = made.unallocated()
    # 0.1 % is bucket 0; 0.5 % is bucket 0, half to even; 1.5 % is bucket 2, and so is 2.5 %
    assert left[0] == pytest.approx(100 - (0.1 + 0.2) / 2)
    assert left[2] == pytest.approx(100 - 0.4)
    assert made.fragmentation_percent()[2] == pytest.approx(0.4)


def test_an_empty_bucket_borrows_from_the_next_or_else_the_last() -> None:
    made = run_of([10_000, 30_000], [10_000, 30_000], 1_000_000)
    left = made.unallocated()
    assert left[1] == 99.0 and left[3] == 97.0
    assert left[2] == left[3]  # the next
    assert left[0] == left[1] and left[4] == left[3]
    assert np.isnan(left[5:]).all()
    assert len(left) == 131


def test_a_workload_is_ordered_by_the_names_of_its_pods() -> None:
    roles = [gang.Role("worker", 1, pod) for pod in (ONE, CPU)]
    shapes = [job.JobShape(gang.Gang(f"g{i}", (role,))) for i, role in enumerate(roles)]
    trace = job.build(
        "t",
        shapes,
        names=np.array(["c", "a", "b"]),
        submit_s=np.array([0.0, 1.0, 2.0]),
        duration_s=np.ones(3),
        shape=np.array([0, 1, 1], dtype=np.int32),
    )
    work = inflation.workload(trace)
    assert [work.requests[n] for n in work.pods] == [CPU, CPU, ONE]
    assert work.target() == target.from_requests([(ONE, 1), (CPU, 2)])


def test_gangs_are_refused() -> None:
    shape = job.JobShape(gang.Gang("g", (gang.Role("worker", 2, ONE),)))
    trace = job.build(
        "t",
        [shape],
        names=np.array(["a"]),
        submit_s=np.zeros(1),
        duration_s=np.ones(1),
        shape=np.zeros(1, dtype=np.int32),
    )
    with pytest.raises(job.TraceError, match=r"lone pods.*gangs of 2"):
        inflation.workload(trace)


@pytest.mark.parametrize("name", ["fgd", "muster", "random"])
def test_a_run_adds_up(name: str) -> None:
    """GPU used is what placed pods asked for, pods per kind are complete, fragmentation is that of the last state."""
    work = work_of((CPU, 6), (SHARE, 12), (ONE, 9), (TWO, 2), (EIGHT, 1), (request.PodRequest(gpus=3), 1))
    made = inflation.experiment(racks([8, 8, 4, 2, 0]), work, policies.load(name))
    run = made.run(7, compiled=False)
    generator = np.random.default_rng(7)
    sequence = inflation.submissions(work, 22_000, generator)
    asked = milli(work)[sequence]
    assert run.arrived_milli.tolist() == np.cumsum(asked).tolist()
    assert run.used_milli.tolist() == np.cumsum(np.where(run.node >= 0, asked, 0)).tolist()
    kinds = np.array([0, 1, 2, 3, 5, 6])[sequence]
    assert run.submitted.tolist() == np.bincount(kinds, minlength=7).tolist()
    assert run.refused.tolist() == np.bincount(kinds[run.node < 0], minlength=7).tolist()
    assert run.refused.sum() > 0
    tie = generator.permutation(5).astype(np.int32)
    scored = inflation.scoring.Scoring(made.policy, replace(made.fleet, tie=tie), made.work.target(), made.tables, 7)
    snapshot = state.empty(scored.topology)
    for pod, node in zip(sequence.tolist(), run.node.tolist(), strict=True):
        wanted = scored.demand(work.requests[pod])
        scored.tables = replace(made.tables, seed=7)
        found = scored.choose(snapshot, wanted)
        assert (found.node if found else -1) == node
        if found:
            snapshot.take(scored.grant(snapshot, wanted, found))
    measure = fragmentation.compile_fragmentation(made.fleet, work.target().popular())
    rest = measure.of(snapshot.gpu_free.astype(np.int64), snapshot.cpu_free, np.arange(5))
    assert (int(run.fragmentation[-1]), run.fragmentation_scale) == (int(rest.sum()), measure.total)


def test_policies_see_the_same_pods_in_the_same_order() -> None:
    work = work_of((SHARE, 12), (ONE, 9), (TWO, 2))
    one, other = (inflation.experiment(racks([8, 4]), work, policies.load(n)).run(3) for n in ("fgd", "best-fit"))
    assert one.arrived_milli.tolist() == other.arrived_milli.tolist()
    assert inflation.experiment(racks([8, 4]), work, policies.load("fgd")).run(3).node.tolist() == one.node.tolist()


pods = st.lists(st.tuples(states.pods(), st.integers(1, 30)), min_size=1, max_size=6, unique_by=lambda p: p[0])


@pytest.mark.skipif(not kernel.AVAILABLE, reason="numba is not installed")
@pytest.mark.parametrize("rule", states.RULES)
@settings(max_examples=20)
@given(
    sizes=st.lists(st.sampled_from([0, 1, 2, 4, 8]), min_size=1, max_size=40),
    counted=pods,
    seed=st.integers(0, 1 << 20),
)
def test_compiled_and_interpreted_runs_are_identical(
    rule: policy.PodRule, sizes: list[int], counted: list[tuple[request.PodRequest, int]], seed: int
) -> None:
    made = inflation.experiment(racks(sizes), work_of(*counted), states.named(rule))
    one, other = made.run(seed, compiled=True), made.run(seed, compiled=False)
    assert one.node.tolist() == other.node.tolist()
    assert one.used_milli.tolist() == other.used_milli.tolist()
    assert one.fragmentation.tolist() == other.fragmentation.tolist()
    assert one.refused.tolist() == other.refused.tolist()


def openb(traces: Path, name: str) -> inflation.Workload:
    """Return a workload of the published lists."""
    return inflation.workload(traces_of.read(traces / "openb" / f"openb_pod_list_{name}.csv"))


@pytest.fixture(scope="module")
def gpu_nodes(traces: Path) -> fabric.Fabric:
    """Return the study's fleet."""
    return fleets.read(str(traces / "openb" / study.NODE_LIST))


@pytest.mark.skipif(not kernel.AVAILABLE, reason="numba is not installed")
@pytest.mark.parametrize("name", ["gpuspec25", "multigpu40"])
@pytest.mark.parametrize("rule", states.RULES)
def test_compiled_and_interpreted_runs_are_identical_on_real_lists(
    traces: Path, gpu_nodes: fabric.Fabric, rule: policy.PodRule, name: str
) -> None:
    """Every fifteenth machine of the fleet, filled to 130 %: some 600 pods of the real list."""
    some = {one.name: one for one in list(gpu_nodes.nodes())[::15]}
    part = fabric.from_paths(some, dict.fromkeys(some, ("r",)), ("rack",))
    made = inflation.experiment(part, openb(traces, name), states.named(rule))
    one, other = made.run(5, compiled=True), made.run(5, compiled=False)
    assert one.node.tolist() == other.node.tolist()
    assert one.fragmentation.tolist() == other.fragmentation.tolist()
    assert one.refused.sum() > 0


def test_the_published_cut_of_the_default_trace(traces: Path) -> None:
    """35 of 91 shapes, no multi-GPU pod among them; the ten most popular as the study has them."""
    whole = openb(traces, "default").target()
    popular = whole.popular()
    assert (whole.total, len(whole.items), len(popular.items)) == (8152, 91, 35)
    weight = dict.fromkeys(request.RequestKind, 0)
    for item in popular.items:
        weight[item.pod.kind] += item.count
        assert item.pod.gpus <= 1
    assert weight[request.RequestKind.CPU] / popular.total == pytest.approx(0.136, abs=5e-4)
    assert weight[request.RequestKind.SHARE] / popular.total == pytest.approx(0.373, abs=5e-4)
    assert weight[request.RequestKind.WHOLE] / popular.total == pytest.approx(0.491, abs=5e-4)
    first = [(i.pod.cpu_milli, i.pod.gpu_milli if i.pod.gpus else 0, i.pod.gpus) for i in popular.items[:10]]
    assert first == [
        *((3152, 810, 1), (11300, 1000, 1), (11400, 1000, 1), (3152, 1000, 1), (11908, 470, 1)),
        *((12500, 0, 0), (8000, 470, 1), (12000, 1000, 1), (32000, 0, 0), (18708, 1000, 1)),
    ]
    shares = [item.count / popular.total for item in popular.items[:10]]
    published = [0.1348, 0.1125, 0.0771, 0.0605, 0.0500, 0.0471, 0.0464, 0.0420, 0.0373, 0.0328]
    assert shares == pytest.approx(published, abs=5e-5)


def test_the_published_fragmentation_of_a_node(traces: Path) -> None:
    """Golden values of an eight-GPU node over the default trace's target, milli-GPU."""
    fleet = states.fleet([states.machine("a", 8, 96_000)])
    measure = fragmentation.compile_fragmentation(fleet, openb(traces, "default").target().popular())
    full = [1000] * 8
    given_states = [(full, 96_000), ([300] + full[1:], 90_000), (full, 4000)]
    found = [
        measure.of(np.array([gpu]), np.array([cpu]), np.array([0]))[0] / measure.total for gpu, cpu in given_states
    ]
    assert found == pytest.approx([1087.8187, 1243.3814, 5731.6508], abs=5e-5)


@pytest.mark.skipif(not kernel.AVAILABLE, reason="numba is not installed")
def test_fgd_and_best_fit_reproduce_the_published_default(traces: Path, gpu_nodes: fabric.Fabric) -> None:
    """Means of ten seeds within 0.15 points, spread within twice the published one, as a first look; the rest is below."""
    table = published.read(traces / "openb" / "published" / "unallocated_gpu_percent.csv")
    work = openb(traces, "default")
    for name in ("fgd", "best-fit"):
        made = inflation.experiment(gpu_nodes, work, policies.load(name))
        figures = np.array([made.run(seed).unallocated() for seed in inflation.seeds(10)])
        for load in study.LOADS:
            cell = table["default", name, load]
            assert figures[:, load].mean() == pytest.approx(cell.mean, abs=published.TOLERANCE[name])
            assert figures[:, load].std(ddof=1) < 2 * cell.std


@pytest.mark.slow
@pytest.mark.skipif(not kernel.AVAILABLE, reason="numba is not installed")
@pytest.mark.parametrize("name", list(published.POLICIES.values()))
def test_every_published_policy_is_reproduced_on_every_workload(traces: Path, name: str) -> None:
    table = published.read(traces / "openb" / "published" / "unallocated_gpu_percent.csv")
    made = study.run(traces / "openb", [policies.load(name)], inflation.seeds(10))
    assert len(made.workloads) == 9
    for load in study.LOADS:
        gap, where = published.largest_deviation(study.samples(made), table, name, load)
        assert abs(gap) <= published.TOLERANCE[name], f"{where} at {load} %"
