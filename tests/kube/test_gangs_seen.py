"""Gangs of objects as a real cluster had them (1.37, with JobSet 0.12, LeaderWorkerSet 0.9 and Kueue 0.19), cut down."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from scheduler.kube import pod as kube_pod
from scheduler.kube import workload
from scheduler.kube.gangs import identity, recognize
from scheduler.model import request

SEEN = Path(__file__).parent / "gangs"
EXPECTED = {
    "jobset": [
        "Workload is about jobset-train",
        "jobset-train: driver x1, workers x6 in example.com/rack; 60 s",
        "  0 driver train-driver-0-0",
        *(f"  {1 + 3 * job + index} workers train-workers-{job}-{index}" for job in range(2) for index in range(3)),
    ],
    "job": [
        "Workload is about job-ring",
        "job-ring: pods x3",
        *(f"  {rank} pods ring-{index}" for rank, index in enumerate((0, 2, 3))),
    ],
    "leader-worker-set": [
        "Workload is about lws-decode-0",
        "Workload is about lws-decode-1",
        *(
            line
            for group in range(2)
            for line in (
                f"lws-decode-{group}: leader x1, worker x2",
                f"  0 leader decode-{group}",
                f"  1 worker decode-{group}-1",
                f"  2 worker decode-{group}-2",
            )
        ),
    ],
    "pod-group": [
        "Workload is about kueue-podgroup-pair",
        "kueue-podgroup-pair: pods x2",
        "  0 pods p1",
        "  1 pods p0",
    ],
    "exclusive-jobset": [
        "jobset-train: workers x2",
        "  0 workers train-workers-0-0",
        "  1 workers train-workers-1-0",
        "jobset-train.workers.0: workers x1",
        "  beside node-1 in example.com/rack",
        "  0 workers train-workers-0-1",
        "jobset-train.workers.1: waits for 1 of 1 pods; a node for the leader",
    ],
}


@pytest.mark.parametrize("name", EXPECTED)
def test_what_was_seen_is_recognised(name: str) -> None:
    seen = json.loads((SEEN / f"{name}.json").read_text())
    pods: dict[workload.Identity, list[kube_pod.Pod]] = {}
    for item in seen["pods"]:
        found = identity.of(kube_pod.read(item))
        assert found is not None
        pods.setdefault(found, []).append(kube_pod.read(item))
    items = {(one["kind"], "ml", one["metadata"]["name"]): one for one in seen["owners"]}
    items |= {("Workload", "ml", one["metadata"]["name"]): one for one in seen["workloads"]}
    lines = sorted(f"Workload is about {_about(one)}" for one in seen["workloads"])
    for one in sorted(pods):
        for found in recognize.recognize(one, pods[one], lambda *key: items.get(key), _request):
            lines += _told(found)
    assert lines == EXPECTED[name]


def test_all_that_was_seen_is_tested() -> None:
    assert {one.stem for one in SEEN.glob("*.json")} == set(EXPECTED)


def _request(pod: kube_pod.Pod) -> request.PodRequest:
    return request.PodRequest(pod.cpu_milli, pod.memory_mib)


def _about(item: dict[str, Any]) -> str:
    found = identity.of_workload(item)
    return found.name if found else "nothing"


def _told(found: workload.Workload) -> list[str]:
    if not found.complete or found.gang is None:
        return [f"{found.identity.name}: waits for {found.waiting_for}{found.problem}"]
    roles = ", ".join(
        f"{one.name} x{one.count}" + (f" in {one.constraint.required}" if one.constraint.required else "")
        for one in found.gang.roles
    )
    return [
        f"{found.identity.name}: {roles}" + (f"; {found.gang.expected_s:.0f} s" if found.gang.expected_s else ""),
        *(f"  beside {one.node} in {one.level}" for one in found.within),
        *(f"  {one.rank} {one.role} {_stem(one.pod)}" for one in found.members),
    ]


def _stem(pod: kube_pod.Pod) -> str:
    """Leave out the five letters that the API server made up."""
    return pod.name.rpartition("-")[0] if pod.owner.kind == "Job" else pod.name
