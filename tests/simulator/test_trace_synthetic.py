"""Seeded workloads: exact offered load, determinism, and refusals with lines."""

from pathlib import Path

import numpy as np
import pytest

from scheduler.model import request
from simulator.trace import job, samples, summary, synthetic, workload

DATA = Path(__file__).parents[1] / "data"


def drawn(seed: int = 1) -> job.Trace:
    return synthetic.generate(synthetic.read(DATA / "workload.yaml"), np.random.default_rng(seed))


def test_one_seed_gives_one_trace_and_another_another() -> None:
    assert drawn(1).sha256 == drawn(1).sha256
    assert drawn(1).sha256 != drawn(2).sha256


def test_classes_become_shares_partitions_and_gangs() -> None:
    shapes = {shape.gang.name: shape for shape in drawn().shapes}
    kinds = {name: shape.gang.roles[0].request.kind for name, shape in shapes.items()}
    assert kinds["share"] is request.RequestKind.SHARE
    assert kinds["cut"] is request.RequestKind.MIG
    assert kinds["cpu"] is request.RequestKind.CPU
    gang = shapes["gang"].gang
    assert (gang.size, gang.gpus, gang.constraint.required) == (4, 32, "rack")
    assert gang.roles[0].segment is not None
    assert shapes["gang"].communication_milli > 0 == shapes["share"].communication_milli


def test_jobs_offer_the_load_that_was_asked_for() -> None:
    for load in (0.3, 0.9, 1.4):
        trace = synthetic.generate(samples.benchmark(5_000, 512, load), np.random.default_rng(4))
        assert summary.summarise(trace).offered_load(512) == pytest.approx(load, rel=0.01)


def test_weights_decide_how_many_jobs_a_class_and_a_tenant_have() -> None:
    trace = drawn()
    batch = [i for i in range(len(trace)) if trace.gang(i).tenant in ("a", "b")]
    assert len(batch) == 300
    gangs = sum(trace.gang(i).gpus == 32 for i in batch)
    assert gangs == pytest.approx(300 * 3 / 7, abs=3 * (300 * 3 / 7 * 4 / 7) ** 0.5)
    of_a = sum(trace.gang(i).tenant == "a" for i in batch)
    assert of_a == pytest.approx(225, abs=25)


def test_declared_times_are_never_below_the_true_ones() -> None:
    trace = drawn()
    batch = trace.expected_s > 0
    stretch = trace.expected_s[batch] / trace.duration_s[batch]
    assert stretch.min() >= 1
    assert 1.4 < stretch.mean() < 1.6


def test_burstiness_is_the_variation_between_arrivals() -> None:
    source = samples.benchmark(20_000, 4_000)
    for burstiness in (0.5, 1.0, 3.0):
        spec = source.spec.model_copy(update={"burstiness": burstiness})
        trace = synthetic.generate(source.model_copy(update={"spec": spec}), np.random.default_rng(9))
        assert summary.summarise(trace).arrival_cv == pytest.approx(burstiness, rel=0.1)


def test_a_swing_moves_arrivals_into_the_day() -> None:
    source = samples.benchmark(50_000, 2_000)
    spec = source.spec.model_copy(update={"swing": 0.8})
    trace = synthetic.generate(source.model_copy(update={"spec": spec}), np.random.default_rng(9))
    phase = (trace.submit_s % 86_400) / 86_400
    noon, night = ((np.abs(phase - middle) < 0.1).mean() for middle in (0.5, 0.0))
    assert noon > 4 * night


def test_pools_follow_the_day() -> None:
    trace = synthetic.generate(samples.demo(), np.random.default_rng(2))
    figures = summary.summarise(trace)
    assert {"chat", "agents"} <= {tenant for tenant, _, _ in figures.tenants}
    chat = [i for i in range(len(trace)) if trace.gang(i).tenant == "chat"]
    assert len({trace.submit_s[i] for i in chat}) > 3


def test_the_demonstration_has_every_kind_but_cpu() -> None:
    kinds = dict(summary.summarise(synthetic.generate(samples.demo(), np.random.default_rng(2))).kinds)
    assert set(kinds) == {"mig", "share", "whole"}


@pytest.mark.parametrize(
    ("change", "line", "field", "words"),
    [
        (("jobs: 300", "jobs: 0"), 5, "spec.jobs", "greater than or equal to 1"),
        (("jobs: 300", "jobs: many"), 5, "spec.jobs", "'many'"),
        (("fleetGpus: 64", "fleetGpu: 64"), 6, "spec.fleetGpu", "unknown field"),
        (("  fleetGpus: 64\n", ""), 4, "spec.fleetGpus", "missing"),
        (("overestimate", "optimism"), 8, "spec.optimism", "unknown field"),
        (("name: gang, weight: 3", "name: gang, weight: -3"), 13, "spec.classes[3].weight", "greater than 0"),
        (("gpuMilli: 250", "gpuMilli: 250, gpus: 2"), 10, "spec.classes[0]", "has gpus: 1"),
        (("name: cut", "name: share"), 4, "spec", "two are called share"),
        (("kind: Workload", "kind: Fleet"), 2, "kind", "'Fleet'"),
        (("offeredLoad: 0.7", "offeredLoad: .nan"), 7, "spec.offeredLoad", "nan"),
        (("  jobs: 300", "  jobs: 300\n  jobs: 3"), 6, "spec.jobs", "the key occurs twice"),
        (("metadata: {name: sample}", "metadata: {name: sample"), 4, "", "not valid YAML"),
    ],
)
def test_wrong_workloads_are_told_with_line_and_field(
    tmp_path: Path, change: tuple[str, str], line: int, field: str, words: str
) -> None:
    text = (DATA / "workload.yaml").read_text()
    assert change[0] in text
    path = tmp_path / "workload.yaml"
    path.write_text(text.replace(*change, 1))
    with pytest.raises(job.TraceError) as caught:
        synthetic.read(path)
    assert words in str(caught.value)
    assert caught.value.line == line
    assert not field or caught.value.field == field


def test_documents_round_trip_through_json() -> None:
    source = samples.demo()
    again = workload.Workload.model_validate(source.model_dump(by_alias=True))
    assert synthetic.generate(again, np.random.default_rng(3)).sha256 == (
        synthetic.generate(source, np.random.default_rng(3)).sha256
    )
