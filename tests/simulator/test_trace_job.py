"""Traces as columns, and their round trip through our own schema."""

import pickle
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scheduler.model import gang, request
from simulator.trace import job, load, pods, samples, schema, summary, synthetic

ONE = job.JobShape(gang.single("one", request.PodRequest(gpus=1)))
TEAM = pods.training(16)


def small(name: str = "t", **columns: Any) -> job.Trace:
    given: dict[str, Any] = {
        "names": ["b", "a", "c"],
        "submit_s": [5, 1, 5],
        "duration_s": [10, 20, 30],
        "shape": [0, 1, 0],
    }
    return job.build(name, [ONE, TEAM], **(given | columns))


def test_jobs_are_sorted_by_submission_and_then_by_row() -> None:
    trace = small(tenant=[0, 1, 1], tenants=("x", "y"), priority=[1, 2, 3])
    assert trace.names.tolist() == ["a", "b", "c"]
    assert trace.priority.tolist() == [2, 1, 3]
    made = trace.gang(0)
    assert (made.name, made.tenant, made.priority, made.expected_s) == ("a", "y", 2, 20.0)
    assert made.roles == TEAM.gang.roles


def test_columns_cannot_be_changed() -> None:
    with pytest.raises(ValueError, match="read-only"):
        small().submit_s[0] = 0


def test_requests_count_pods_and_not_jobs() -> None:
    assert small().requests() == ((ONE.gang.roles[0].request, 2), (TEAM.gang.roles[0].request, 2))


def test_load_scales_arrivals_and_leaves_run_times() -> None:
    trace = small()
    twice = trace.scale_load(2.0)
    assert twice.submit_s.tolist() == [0.5, 2.5, 2.5]
    assert twice.duration_s.tolist() == trace.duration_s.tolist()
    assert summary.summarise(twice).offered_load(8) == pytest.approx(2 * summary.summarise(trace).offered_load(8))
    with pytest.raises(ValueError, match="positive"):
        trace.scale_load(0)


def test_hashes_name_the_content_and_what_was_done_to_it() -> None:
    trace = small()
    assert trace.sha256 == small().sha256
    others = [trace.head(2), trace.scale_load(2), job.concat("t", [trace]), small(priority=[0, 0, 1])]
    assert len({trace.sha256, *(other.sha256 for other in others)}) == 5


def test_merging_keeps_order_and_tells_equal_names_apart() -> None:
    first, second = small("x"), small("y", submit_s=[0, 1, 9])
    merged = job.concat("both", [first, second])
    assert merged.names.tolist() == ["y/b", "x/a", "y/a", "x/b", "x/c", "y/c"]
    assert merged.shapes == (ONE, TEAM)
    assert merged.gpus().sum() == first.gpus().sum() + second.gpus().sum()
    with pytest.raises(job.TraceError, match="two jobs have this name"):
        job.concat("twice", [first, first])


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ({"duration_s": [1, 2]}, "2 values for 3 jobs"),
        ({"duration_s": [1, -2, 3]}, "job a: must be a finite number"),
        ({"submit_s": [1, np.nan, 3]}, "finite"),
        ({"shape": [0, 2, 0]}, "outside 0..1"),
        ({"names": ["a", "b", "a"]}, "two jobs have this name, got 'a'"),
        ({"names": ["a", "", "c"]}, "a job has no name"),
    ],
)
def test_columns_that_make_no_trace_are_refused(columns: dict[str, Any], words: str) -> None:
    with pytest.raises(job.TraceError, match=words):
        small(**columns)


def test_a_hundred_thousand_jobs_take_little_memory() -> None:
    trace = synthetic.generate(samples.benchmark(100_000, 4_000), np.random.default_rng(1))
    columns = (trace.names, trace.submit_s, trace.duration_s, trace.expected_s, trace.shape, trace.tenant)
    assert sum(column.nbytes for column in columns) + trace.priority.nbytes < 100_000 * 100
    assert sys.getsizeof(trace) < 1000


def test_traces_travel_between_processes() -> None:
    trace = small()
    copy = pickle.loads(pickle.dumps(trace))
    assert copy.names.tolist() == trace.names.tolist()
    assert copy.shapes == trace.shapes


# Our own schema.

WORD = st.text(st.characters(min_codepoint=33, max_codepoint=0x2FF, exclude_categories=("C", "Z")), min_size=1)
LEVEL = st.sampled_from(["", "rack", "block"])
SECONDS = st.floats(0, 3e8, allow_subnormal=False)


@st.composite
def requests(draw: st.DrawFn) -> request.PodRequest:
    kind = draw(st.sampled_from(list(request.RequestKind)))
    gpus = {"cpu": 0, "share": 1}.get(kind.value, draw(st.integers(1, 8)))
    return request.PodRequest(
        cpu_milli=draw(st.integers(0, 64_000)),
        memory_mib=draw(st.integers(0, 1 << 30)),
        gpus=gpus,
        gpu_milli=draw(st.integers(1, 999)) if kind is request.RequestKind.SHARE else 1000,
        mig="1g.10gb" if kind is request.RequestKind.MIG else "",
        nics=draw(st.integers(0, 8)),
        gpu_models=tuple(sorted(draw(st.sets(st.sampled_from(["A100", "H100", "L40S"]))))),
        accelerators=draw(st.sampled_from([(), (("fpga", 2),), (("dpu", 1), ("fpga", 4))])),
    )


@st.composite
def roles(draw: st.DrawFn, name: str) -> gang.Role:
    count = draw(st.integers(1, 4)) * 2
    return gang.Role(
        name=name,
        count=count,
        request=draw(requests()),
        constraint=gang.TopologyConstraint(draw(LEVEL), draw(LEVEL)),
        segment=draw(st.sampled_from([None, gang.Segment(2, "rack")])),
        spread=draw(st.sampled_from([None, gang.Spread("rack", 1)])),
    )


@st.composite
def shapes(draw: st.DrawFn, name: str) -> job.JobShape:
    if draw(st.booleans()):
        own: tuple[gang.Role, ...] = (gang.Role("worker", draw(st.integers(1, 9)), draw(requests())),)
    else:
        own = tuple(draw(roles(f"role-{i}")) for i in range(draw(st.integers(1, 3))))
    template = gang.Gang(
        name=name,
        roles=own,
        constraint=gang.TopologyConstraint(draw(LEVEL), draw(LEVEL)),
        min_member=draw(st.integers(0, 1)),
        preemptible=draw(st.booleans()),
    )
    return job.JobShape(template, draw(st.integers(0, 1000)), draw(st.integers(0, 1 << 40)))


@st.composite
def written(draw: st.DrawFn) -> job.Trace:
    kinds = [draw(shapes(f"kind-{i}")) for i in range(draw(st.integers(1, 4)))]
    names = draw(st.lists(WORD, min_size=1, max_size=8, unique=True))
    tenants = draw(st.lists(WORD, min_size=1, max_size=3, unique=True))

    def column(values: st.SearchStrategy[Any]) -> list[Any]:
        return draw(st.lists(values, min_size=len(names), max_size=len(names)))

    return job.build(
        "written",
        kinds,
        names=names,
        submit_s=column(SECONDS),
        duration_s=column(SECONDS),
        expected_s=column(SECONDS),
        shape=column(st.integers(0, len(kinds) - 1)),
        tenant=column(st.integers(0, len(tenants) - 1)),
        tenants=tenants,
        priority=column(st.integers(-1000, 1000)),
    )


@settings(max_examples=60, deadline=None)
@given(written(), st.sampled_from(["csv", "parquet"]))
def test_a_trace_survives_writing_and_reading(trace: job.Trace, suffix: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        read = load.read(schema.write(trace, Path(folder) / f"jobs.{suffix}"))
    assert [read.gang(i) for i in range(len(read))] == [trace.gang(i) for i in range(len(trace))]
    assert read.submit_s.tolist() == trace.submit_s.tolist()
    assert read.duration_s.tolist() == trace.duration_s.tolist()
    used = [trace.shapes[i] for i in trace.shape]
    assert [read.shapes[i] for i in read.shape] == used


def test_writing_fails_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "jobs.csv"
    target.write_text("old")
    monkeypatch.setattr("polars.DataFrame.write_csv", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        schema.write(small(), target)
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_summaries_count_gangs_tenants_and_kinds() -> None:
    figures = summary.summarise(small(tenant=[0, 1, 1], tenants=("x", "y", "idle")))
    assert figures.jobs == 3
    assert figures.pods == 4
    assert [row[:2] for row in figures.gangs] == [(1, 2), (16, 1)]
    assert [row[2] for row in figures.gangs] == pytest.approx([40 / 3600, 320 / 3600])
    assert [row[:2] for row in figures.tenants] == [("y", 2), ("x", 1)]
    assert figures.kinds == (("whole", 3),)
    assert figures.offered_load(18) == pytest.approx(360 / (4 * 18))
    assert figures.as_dict()["span_s"] == 4.0
