"""The compiled twins decide as the engine and the machine do, job by job."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from scheduler import policies
from scheduler.gang import config
from scheduler.model import device, fabric, gang, node, request
from scheduler.placement import policy, scoring, target
from scheduler.snapshot import topology
from simulator import compiled, faults, inflation, kernel, replay
from simulator.fleet import load as fleets
from simulator.trace import job, samples, synthetic
from simulator.trace import load as traces_load

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not kernel.AVAILABLE, reason="numba is not installed"),
    pytest.mark.timeout(900),
]

COLUMNS = [
    *("state", "start_s", "end_s", "wait_s", "run_s", "reference_s", "lost_s", "starts"),
    *("nodes", "level", "bandwidth_mb_s", "reference_mb_s", "placed"),
]


def mixed_fleet() -> topology.Topology:
    """Racks of unequal size, two GPU models, machines of 2, 4 and 8 GPUs and one without any."""
    models = {name: device.GpuModel(name, "x", 16_000) for name in ("A", "B")}
    sizes = [8, 8, 4, 8, 2, 0, 8, 8, 4, 8, 8, 8, 2, 8]
    nodes = {}
    for n, size in enumerate(sizes):
        gpus = tuple(device.Gpu(i, models["AB"[n % 3 == 0]]) for i in range(size))
        nodes[f"n{n}"] = node.NodeTopology(f"n{n}", "test", 8_000 * max(size, 2), 64_000 * max(size, 2), gpus)
    paths = {name: (f"b{n // 8}", f"r{n // 3}" if n != 4 else "") for n, name in enumerate(nodes)}
    return topology.compile_topology(fabric.from_paths(nodes, paths, ("block", "rack")))


def plain_trace(seed: int, jobs: int) -> job.Trace:
    """Shares, CPU-only pods, one to eight GPUs, GPU models, whole-machine gangs with and without levels."""
    pods = [
        request.PodRequest(2_000, 4_000),
        request.PodRequest(3_000, 8_000, 1, 300),
        request.PodRequest(6_000, 8_000, 1, 810, gpu_models=("B",)),
        request.PodRequest(6_000, 16_000, 1),
        request.PodRequest(9_000, 16_000, 2, gpu_models=("A", "B")),
        request.PodRequest(30_000, 64_000, 4),
        request.PodRequest(60_000, 128_000, 8),
    ]
    gangs = [gang.single(f"pod-{i}", pod) for i, pod in enumerate(pods)]
    whole = pods[-1]
    for name, count, level in (("pair", 2, "rack"), ("trio", 3, "block"), ("four", 4, ""), ("huge", 40, "")):
        gangs.append(
            gang.Gang(name, (gang.Role("w", count, whole),), constraint=gang.TopologyConstraint(required=level))
        )
    random = np.random.default_rng(seed)
    return job.build(
        "plain",
        [job.JobShape(one) for one in gangs],
        names=[f"job-{i}" for i in range(jobs)],
        submit_s=np.sort(random.integers(0, jobs * 3, jobs)).astype(float),
        duration_s=random.integers(1, 200, jobs).astype(float),
        shape=random.integers(0, len(gangs), jobs).astype(np.int32),
        priority=random.integers(0, 3, jobs).astype(np.int32),
    )


@pytest.mark.parametrize("mode", ["skip", "fifo"])
@pytest.mark.parametrize("name", ["muster", "fgd", "random", "least-allocated", "packing"])
def test_a_replay_in_compiled_code_is_the_same_replay(name: str, mode: config.Mode) -> None:
    fleet = mixed_fleet()
    chosen = policies.load(name)
    gangs = policy.GangScoring()
    chosen = chosen.model_copy(update={"spec": chosen.spec.model_copy(update={"gangs": gangs})})
    for seed in range(4):
        trace = plain_trace(seed, 220)
        expected = target.from_requests(trace.requests())
        queue = config.QueueConfig(mode=mode)
        twin = compiled.Compiled(trace, scoring.compile_scoring(chosen, fleet, expected, seed), queue).finish()
        plain = replay.Replay(trace, scoring.compile_scoring(chosen, fleet, expected, seed), queue).run()
        for column in COLUMNS:
            np.testing.assert_array_equal(getattr(twin.jobs, column), getattr(plain.jobs, column), column)
        assert (twin.jobs.state == 4).any(), "the trace should have gangs that never fit"
        assert len(set(twin.jobs.wait_s.tolist())) > 10, "the trace should make jobs wait"
        assert twin.series.waiting == plain.series.waiting
        np.testing.assert_allclose(twin.series.fragmented_gpus, plain.series.fragmented_gpus)


def test_a_synthetic_trace_over_racks_is_the_same_replay() -> None:
    fleet = topology.compile_topology(fleets.preset("80x8"))
    trace = synthetic.generate(samples.benchmark(2_500, fleet.total_gpus, 1.2), np.random.default_rng(3))
    expected = target.from_requests(trace.requests())
    chosen = policies.load("muster")
    twin = compiled.Compiled(trace, scoring.compile_scoring(chosen, fleet, expected)).finish()
    plain = replay.Replay(trace, scoring.compile_scoring(chosen, fleet, expected)).run()
    for column in COLUMNS:
        np.testing.assert_array_equal(getattr(twin.jobs, column), getattr(plain.jobs, column), column)


def test_a_compiled_replay_in_pieces_is_the_same_replay() -> None:
    fleet, trace = mixed_fleet(), plain_trace(9, 150)
    chosen = policies.load("muster")
    whole = compiled.Compiled(trace, scoring.compile_scoring(chosen, fleet)).finish()
    pieces = compiled.Compiled(trace, scoring.compile_scoring(chosen, fleet))
    while pieces.advance(7):
        pass
    np.testing.assert_array_equal(whole.jobs.start_s, pieces.outcome().jobs.start_s)


def test_what_is_not_plain_is_refused_with_the_reason() -> None:
    fleet, trace = mixed_fleet(), plain_trace(0, 20)
    scored = scoring.compile_scoring(policies.load("muster"), fleet)
    assert compiled.refusal(trace, scored, config.QueueConfig()) == ""
    assert "EASY" in compiled.refusal(trace, scored, config.QueueConfig(mode="easy"))
    assert "failures" in compiled.refusal(trace, scored, config.QueueConfig(), faults.Faults(node_mtbf_s=1e6))
    several = gang.Gang("shared", (gang.Role("w", 2, request.PodRequest(gpus=1)),))
    other = job.build(
        "x", [job.JobShape(several)], names=["a"], submit_s=[0.0], duration_s=[1.0], shape=np.zeros(1, dtype=np.int32)
    )
    assert "several pods" in compiled.refusal(other, scored, config.QueueConfig())
    with pytest.raises(ValueError, match="several pods"):
        compiled.Compiled(other, scored)


@pytest.mark.parametrize("name", sorted(scoring.RULES))
def test_inflation_places_every_pod_alike_with_and_without_compiled_code(name: policy.PodRule, traces: Path) -> None:
    source = fleets.read(str(traces / "openb" / "openb_node_list_gpu_node.csv"))
    work = inflation.workload(traces_load.read(traces / "openb" / "openb_pod_list_gpuspec10.csv"))
    short = inflation.Workload(work.name, work.requests, work.pods)
    chosen = policy.ScoringPolicy(
        metadata=policy.Metadata(name="twin"), spec=policy.Spec(pods=policy.PodScoring(rule=name))
    )
    made = inflation.experiment(source, short, chosen)
    generator = np.random.default_rng(5)
    sequence = generator.choice(work.pods, 500).astype(np.int64)
    scored = scoring.Scoring(chosen, made.fleet, work.target(), replace(made.tables, seed=5), 5)
    fast = inflation._compiled(scored, work, sequence)
    slow = inflation._interpreted(scored, work, sequence)
    for mine, theirs in zip(fast, slow, strict=True):
        np.testing.assert_array_equal(mine, theirs)
