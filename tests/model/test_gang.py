"""Gangs and requests refuse contradictions, count, and number their ranks."""

import pytest

from scheduler.model import gang, reasons, request

GPU = request.PodRequest(gpus=1)
WORKER = gang.Role("worker", 4, request.PodRequest(gpus=8))
LEADER = gang.Role("leader", 1, GPU)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"roles": ()}, "needs roles"),
        ({"roles": (gang.Role("w", 0, GPU),)}, "count of at least 1"),
        ({"roles": (LEADER, LEADER)}, "two roles have the same name"),
        ({"min_member": 6}, r"min_member 6 is outside 0\.\.5"),
        ({"min_member": -1}, r"min_member -1 is outside 0\.\.5"),
        ({"expected_s": -1.0}, "expected_s must be a number of seconds, got -1.0"),
        ({"expected_s": float("nan")}, "expected_s must be a number of seconds, got nan"),
        (
            {"roles": (gang.Role("w", 6, GPU, segment=gang.Segment(4, "rack")),)},
            "role w: segment size must divide count 6",
        ),
        ({"roles": (gang.Role("w", 4, GPU, segment=gang.Segment(0, "rack")),)}, "segment size must divide"),
        ({"roles": (gang.Role("w", 4, GPU, segment=gang.Segment(2, "")),)}, "segment names no level"),
        ({"roles": (gang.Role("w", 4, GPU, spread=gang.Spread("rack", 0)),)}, "spread needs a level and max_pods"),
    ],
)
def test_contradictory_gangs_are_refused_by_name(fields: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=f"gang g: .*{message}"):
        gang.Gang(**({"name": "g", "roles": (LEADER, WORKER)} | fields))  # type: ignore[arg-type]


def test_ranks_run_through_the_roles_in_order() -> None:
    ranks = [(rank, role.name, index) for rank, role, index in gang.Gang("g", (LEADER, WORKER)).ranks()]
    assert ranks == [(0, "leader", 0), (1, "worker", 0), (2, "worker", 1), (3, "worker", 2), (4, "worker", 3)]


def test_sizes_and_minimum() -> None:
    whole = gang.Gang("g", (LEADER, WORKER))
    assert (whole.size, whole.gpus, whole.minimum) == (5, 33, 5)
    assert gang.Gang("g", (LEADER, WORKER), min_member=3).minimum == 3


def test_a_lone_pod_is_a_gang_of_one() -> None:
    lone = gang.single("p", GPU, tenant="t", priority=7)
    assert (lone.size, lone.minimum, lone.tenant, lone.priority) == (1, 1, "t", 7)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"cpu_milli": -1}, "cpu_milli must not be negative, got -1"),
        ({"memory_mib": -1}, "memory_mib must not be negative"),
        ({"gpus": -1}, "gpus must not be negative"),
        ({"nics": -2}, "nics must not be negative, got -2"),
        ({"gpus": 1, "gpu_milli": 0}, r"gpu_milli must be 1\.\.1000, got 0"),
        ({"gpus": 1, "gpu_milli": 1001}, r"gpu_milli must be 1\.\.1000, got 1001"),
        ({"gpus": 2, "gpu_milli": 500}, "gpu_milli below 1000 needs gpus == 1"),
        ({"gpus": 1, "gpu_milli": 500, "mig": "1g.5gb"}, "no mig profile"),
        ({"mig": "1g.5gb"}, "mig needs gpus >= 1"),
        ({"gpus": 1, "gpu_models": ("B", "A")}, "gpu_models must be sorted"),
        ({"accelerators": (("fpga", 0),)}, "counts of at least 1"),
        ({"accelerators": (("tpu", 1), ("fpga", 1))}, "sorted and without duplicates"),
    ],
)
def test_contradictory_requests_are_refused_by_field(fields: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        request.PodRequest(**fields)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("fields", "kind", "milli"),
    [
        ({}, "CPU", 0),
        ({"nics": 1}, "CPU", 0),
        ({"gpus": 1, "gpu_milli": 250}, "SHARE", 250),
        ({"gpus": 1, "gpu_milli": 1000}, "WHOLE", 1000),
        ({"gpus": 8}, "WHOLE", 8000),
        ({"gpus": 3, "mig": "1g.5gb"}, "MIG", 0),
    ],
)
def test_kinds_of_requests(fields: dict[str, object], kind: str, milli: int) -> None:
    pod = request.PodRequest(**fields)  # type: ignore[arg-type]
    assert (pod.kind.name, pod.total_gpu_milli) == (kind, milli)


def test_a_rejection_says_what_blocked_where_and_what_is_missing() -> None:
    refused = reasons.Rejection("g", reasons.Reason.GPUS, "rack", "block-0/rack-3", 4, "GPUs")
    assert str(refused) == (
        "InsufficientGPUs: no rack can hold gang g now; nearest is block-0/rack-3, which lacks 4 GPUs"
    )
    never = reasons.Rejection("g", reasons.Reason.TOO_LARGE, permanent=True, detail="9 pods of 8 GPUs")
    assert str(never) == "GangLargerThanCluster: the fleet cannot hold gang g even when empty (9 pods of 8 GPUs)"
