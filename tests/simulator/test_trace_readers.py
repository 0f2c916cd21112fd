"""Published trace formats: small samples field by field, the real files by their known totals."""

import datetime
import gzip
from pathlib import Path

import numpy as np
import pytest

from scheduler.model import request
from simulator.trace import azure, gavel, job, load, mooncake, pods, pools, summary, table

DATA = Path(__file__).parents[1] / "data"


def sizes(trace: job.Trace) -> list[list[tuple[int, int]]]:
    """Return count and GPUs of every role of every job."""
    return [[(r.count, r.request.gpus) for r in trace.gang(i).roles] for i in range(len(trace))]


def test_openb_pods_arrive_when_created_and_run_from_their_scheduling() -> None:
    trace = load.read(DATA / "openb_pods_11.csv")
    assert trace.names.tolist() == ["pod-b", "pod-c", "pod-a", "pod-d"]
    assert trace.submit_s.tolist() == [10, 20, 50, 50]
    assert trace.duration_s.tolist() == [30, 5, 190, 35]
    assert trace.priority.tolist() == [0, 3, 2, 1]
    assert trace.gang(0).roles[0].request == request.PodRequest(
        6000, 12288, gpus=1, gpu_milli=460, gpu_models=("P100", "V100M32")
    )
    assert [trace.gang(i).roles[0].request.kind.value for i in range(4)] == ["share", "cpu", "whole", "whole"]


def test_openb_pods_without_times_arrive_in_file_order_and_stay() -> None:
    trace = load.read(DATA / "openb_pods_5.csv")
    assert trace.names.tolist() == ["pod-a", "pod-b"]
    assert trace.submit_s.tolist() == [0, 1]
    assert trace.duration_s.min() > 300_000_000


def test_elasticflow_gangs_become_pods_of_up_to_eight_gpus() -> None:
    trace = load.read(DATA / "elasticflow.csv")
    assert trace.names.tolist() == ["a", "b", "c"]
    assert sizes(trace) == [[(1, 1)], [(2, 8)], [(2, 6)]]
    assert trace.gang(1).expected_s == 1000
    small = load.read(DATA / "elasticflow.csv", load.Options(pod_size=pods.PodSize(gpus_per_node=4)))
    assert sizes(small) == [[(1, 1)], [(4, 4)], [(3, 4)]]


def test_only_jobs_with_several_gpus_communicate() -> None:
    trace = load.read(DATA / "elasticflow.csv")
    assert [trace.shapes[s].communication_milli > 0 for s in trace.shape] == [False, True, True]


@pytest.mark.parametrize("name", ["gavel.csv", "gavel.trace"])
def test_gavel_steps_become_seconds_by_the_throughput_of_the_model(name: str) -> None:
    trace = load.read(DATA / name)
    assert trace.duration_s == pytest.approx([1000, 1000], rel=1e-3)
    assert trace.submit_s.tolist() == [0, 6.5]
    assert sizes(trace) == [[(1, 1)], [(1, 4)]]
    assert trace.tenants == ("gavel",)


def test_swf_keeps_jobs_that_ran_and_their_declared_times() -> None:
    trace = load.read(DATA / "sample.swf")
    assert trace.names.tolist() == ["1", "2", "5", "4"]
    assert trace.gpus().tolist() == [8, 16, 3, 1]
    assert trace.duration_s.tolist() == [100, 300, 7, 50]
    assert trace.expected_s.tolist() == [200, 600, 10, 0]
    assert [trace.gang(i).tenant for i in range(4)] == ["group-1", "group-2", "group-1", "default"]
    assert [note.split(" were ")[0] for note in trace.notes] == ["1 jobs without a run time or processors"]


def test_swf_processors_may_share_a_gpu() -> None:
    trace = load.read(DATA / "sample.swf", load.Options(processors_per_gpu=8))
    assert trace.gpus().tolist() == [1, 2, 1, 1]


def test_azure_requests_start_at_zero_to_the_hundred_nanoseconds() -> None:
    requests = azure.requests(table.read(DATA / "azure.csv"), "azure")
    assert requests.arrival_s == pytest.approx([0, 0.052, 121])
    assert requests.prompt_tokens.tolist() == [4808, 3180, 110]


def test_mooncake_requests_are_sorted_and_cached_prefixes_left_out_on_demand() -> None:
    path = DATA / "mooncake.jsonl"
    plain = mooncake.requests(str(path), path.read_bytes(), "m")
    assert plain.arrival_s.tolist() == [0, 1.5, 3]
    assert plain.prompt_tokens.tolist() == [1500, 600, 1100]
    cached = mooncake.requests(str(path), path.read_bytes(), "m", prefix_cache=True)
    # Block 1 is known when the second request comes, but behind block 7, which is not.
    assert cached.prompt_tokens.tolist() == [1500, 600, 1100 - 2 * 512]


def test_a_gzip_file_is_read_like_its_content(tmp_path: Path) -> None:
    squeezed = tmp_path / "sample.swf.gz"
    squeezed.write_bytes(gzip.compress((DATA / "sample.swf").read_bytes()))
    assert load.read(squeezed).sha256 == load.read(DATA / "sample.swf").sha256
    squeezed.write_bytes(squeezed.read_bytes()[:60])
    with pytest.raises(job.TraceError, match="truncated or damaged gzip"):
        load.read(squeezed)


def test_whole_numbers_may_be_written_as_floats(tmp_path: Path) -> None:
    path = tmp_path / "jobs.csv"
    path.write_text("name,submit_s,duration_s,gpus,priority\na,0,60,8.0,\nb,0,60,2,-3.0\n")
    trace = load.read(path)
    assert trace.gpus().tolist() == [8, 2]
    assert trace.priority.tolist() == [0, -3]


def test_our_schema_reads_partitions_and_roles() -> None:
    trace = load.read(DATA / "jobs.csv")
    assert trace.names.tolist() == ["slice", "train", "mixed"]
    assert [trace.gang(i).tenant for i in range(3)] == ["default", "research", "product"]
    assert trace.gang(0).roles[0].request.kind is request.RequestKind.MIG
    assert trace.gang(1).size == 4
    assert trace.gang(1).roles[0].request.gpu_models == ("A100-SXM4-80GB", "H100-SXM5-80GB")
    mixed = trace.gang(2)
    assert [role.name for role in mixed.roles] == ["driver", "worker"]
    assert mixed.gpus == 32
    assert mixed.roles[1].segment is not None


# The published files.


@pytest.mark.parametrize(
    ("name", "rows", "gpus"),
    [
        ("default", 8152, 6086.8),
        ("cpu050", 7439, 6086.8),
        ("cpu200", 8832, 6086.8),
        ("gpuspec10", 8152, 6086.8),
        ("gpushare40", 8152, None),
        ("multigpu20", 8324, 7086.8),
        ("multigpu40", 8746, 9442.8),
    ],
)
def test_openb_lists_have_their_published_rows_and_gpus(traces: Path, name: str, rows: int, gpus: float | None) -> None:
    trace = load.read(traces / "openb" / f"openb_pod_list_{name}.csv")
    assert len(trace) == rows
    if gpus is not None:
        assert trace.gpus().sum() == pytest.approx(gpus)


def test_openb_default_has_its_published_kinds_and_native_times(traces: Path) -> None:
    trace = load.read(traces / "openb" / "openb_pod_list_default.csv")
    kinds = dict(summary.summarise(trace).kinds)
    assert kinds == {"cpu": 1088, "share": 3078, "whole": 3911 + 16 + 15 + 44}
    ran = trace.gpus() * trace.duration_s / 3600
    assert ran.sum() == pytest.approx(51_600, rel=0.02)


@pytest.mark.parametrize(
    ("cluster", "jobs", "gpu_hours"),
    [("01", 1595, 22.7e3), ("04", 15802, 705.7e3), ("05", 3629, 14.3e3), ("07", 12699, 366.8e3), ("09", 11134, 39.0e3)],
)
def test_elasticflow_clusters_have_their_published_totals(
    traces: Path, cluster: str, jobs: int, gpu_hours: float
) -> None:
    figures = summary.summarise(load.read(traces / "elasticflow" / f"cluster{cluster}.csv"))
    assert figures.jobs == jobs
    assert figures.gpu_hours == pytest.approx(gpu_hours, rel=2e-3)


def test_gavel_files_give_back_phillys_shortest_run_times(traces: Path) -> None:
    files = sorted((traces / "gavel-philly").glob("*.csv"))
    read = [load.read(path) for path in files]
    assert sum(len(trace) for trace in read) == 6727
    # The shortest jobs all took 20 minutes, whatever their model: with a wrong throughput they would scatter.
    assert min(trace.duration_s.min() for trace in read if len(trace) > 500) == pytest.approx(1200, rel=0.01)
    assert set(gavel.V100_STEPS_PER_SECOND) == {m for path in files for m in table.read(path).text("model").unique()}


def test_azure_code_has_its_published_requests(traces: Path) -> None:
    path = traces / "azure-llm-2023" / "AzureLLMInferenceTrace_code.csv"
    requests = azure.requests(table.read(path), "code")
    assert len(requests) == 8819
    assert len(requests) / requests.arrival_s[-1] == pytest.approx(2.57, abs=0.01)
    between = np.diff(requests.arrival_s)
    assert between.std() / between.mean() == pytest.approx(13.2, abs=0.1)
    assert datetime.timedelta(seconds=float(requests.arrival_s[-1])) < datetime.timedelta(hours=1)


def test_mooncake_conversation_has_its_published_requests_and_block_hits(traces: Path) -> None:
    path = traces / "mooncake" / "conversation_trace.jsonl"
    data = path.read_bytes()
    plain = mooncake.requests(str(path), data, "conversation")
    cached = mooncake.requests(str(path), data, "conversation", prefix_cache=True)
    assert len(plain) == 12_031
    saved = (plain.prompt_tokens.sum() - cached.prompt_tokens.sum()) / plain.prompt_tokens.sum()
    assert saved == pytest.approx(0.37, abs=0.01)
    assert pools.demand(plain, pools.Capacity()).mean() > pools.demand(cached, pools.Capacity()).mean()
