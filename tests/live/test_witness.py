"""The witness sees what it is there to see."""

from __future__ import annotations

from typing import Any

import pytest

from scheduler.model import names
from tests.live import instant, witness, work

HERE = {"key": "metadata.name", "operator": "In", "values": ["n"]}


def pod(revision: int, name: str, node: str = "", there: bool = True, gate: bool = False, pin: Any = HERE) -> Any:
    item = work.pod(name, notes={names.GANG_NAME: "g", names.GANG_SIZE: "2"})
    item["metadata"]["uid"] = name
    item["spec"]["nodeName"] = node
    if gate:
        item["spec"]["schedulingGates"] = [{"name": names.GATE}]
    elif pin:
        required = {"nodeSelectorTerms": [{"matchFields": [pin]}]}
        item["spec"]["affinity"] = {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": required}}
    return instant.Seen(revision, instant.POD, there, item)


def claim(revision: int, owner: str, device: str, pool: str = "n") -> instant.Seen:
    rows = [{"pool": pool, "device": device}] if device else []
    item: dict[str, Any] = {"metadata": {"uid": f"c-{owner}", "ownerReferences": [{"uid": owner, "name": owner}]}}
    item["status"] = {"allocation": {"devices": {"results": rows}}} if rows else {}
    return instant.Seen(revision, instant.CLAIM, True, item)


def node(revision: int, there: bool = True, ready: bool = True, cpu: str = "8", **spec: Any) -> instant.Seen:
    room = {"cpu": cpu, "memory": "64Gi", "pods": "110"}
    status = {"allocatable": room, "conditions": [{"type": "Ready", "status": str(ready)}]}
    return instant.Seen(revision, instant.NODE, there, {"metadata": {"name": "n"}, "spec": spec, "status": status})


CREATED = [node(0), pod(1, "a", gate=True), pod(2, "b", gate=True), claim(3, "a", "gpu-0")]
PLANNED = [*CREATED, claim(4, "b", "gpu-1"), pod(5, "b")]
BOUND = pod(9, "a", "n")


def faults(*story: instant.Seen) -> list[str]:
    return list(witness.Witness("space", seen=list(story)).faults())


def test_a_gang_that_gets_nodes_after_all_devices_is_well() -> None:
    assert not faults(*PLANNED, BOUND, pod(10, "b", "n"))


def test_a_member_that_waits_for_its_release_is_well() -> None:
    assert not faults(*CREATED, claim(4, "b", "gpu-1"), BOUND)


def test_a_member_that_runs_beside_one_without_devices_is_seen() -> None:
    [fault] = faults(*CREATED, pod(4, "a", "n"), claim(5, "b", "gpu-1"))
    assert fault == "revision 4: 1 pods of g have nodes, b has no devices"


def test_a_member_that_runs_beside_one_that_does_not_exist_is_seen() -> None:
    [fault] = faults(node(0), claim(1, "a", "gpu-0"), pod(4, "a", "n"))
    assert fault == "revision 4: 1 pods of g have nodes, 1 do not exist"


@pytest.mark.parametrize(
    ("event", "why"),
    [
        (node(8, there=False), "has devices of n, which is no node"),
        (node(8, ready=False), "has devices of n, which takes no pods"),
        (node(8, unschedulable=True), "has devices of n, which takes no pods"),
        (node(8, cpu="1"), "has devices of n, whose cpu is not enough"),
        (pod(8, "b", pin=None), "has devices of n and may run on any node"),
        (pod(8, "b", pin=HERE | {"values": ["m"]}), "has devices of n and may run on m"),
        (pod(8, "b", pin=HERE | {"values": ["m", "n"]}), "has devices of n and may run on m, n"),
        (claim(8, "b", "gpu-1", pool="m"), "has devices of m, which is no node"),
        (claim(8, "b", ""), "has no devices"),
    ],
)
def test_a_member_that_can_not_follow_is_seen(event: instant.Seen, why: str) -> None:
    [fault] = faults(*PLANNED, event, BOUND)
    assert fault == f"revision 9: 1 pods of g have nodes, b {why}"


def test_a_device_in_two_claims_is_seen() -> None:
    [fault] = faults(*CREATED, claim(4, "b", "gpu-0"))
    assert "in two claims: n/gpu-0" in fault


def test_a_gang_of_which_a_pod_was_deleted_is_over() -> None:
    story = [*CREATED, claim(4, "b", "gpu-1"), pod(5, "a", "n"), pod(6, "b", there=False), claim(7, "b", "")]
    assert not faults(*story)


def test_the_pods_of_a_job_are_a_gang_of_the_size_that_is_told() -> None:
    one = pod(4, "a", "n")
    one.item["metadata"]["annotations"] = {}
    one.item["metadata"]["labels"] = {"batch.kubernetes.io/job-name": "train"}
    seen = [node(0), claim(1, "a", "gpu-0"), one]
    [fault] = witness.Witness("space", {"train": 3}, seen).faults()
    assert fault == "revision 4: 1 pods of train have nodes, 2 do not exist"
