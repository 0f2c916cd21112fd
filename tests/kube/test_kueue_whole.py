"""The scheduler and Kueue's objects over the embedded API server: what is asked, answered, kept and forgotten.

Kueue itself is played by the test: it writes quota, assignments and evictions into Workloads.
"""

import math
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from scheduler.apiserver import client, paths
from scheduler.kube import kueue, kueue_check, names
from tests.kube import live
from tests.kube.test_admits import change, nodes

VERSION = f"{kueue.GROUP}/v1beta2"
HOST = "kubernetes.io/hostname"
CHECK = "muster"


def definition(plural: str, kind: str, scope: str = "Cluster") -> dict[str, Any]:
    """Return a CustomResourceDefinition that knows of Kueue's kind only what server-side apply has to know."""
    open_object = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    listed = {"type": "array", "items": open_object, "x-kubernetes-list-type": "map"}
    keys = {name: {**listed, "x-kubernetes-list-map-keys": [key]} for name, key in LISTS.items()}
    status = {"type": "object", "x-kubernetes-preserve-unknown-fields": True, "properties": keys}
    schema = {"type": "object", "properties": {"spec": open_object, "status": status}}
    version = {"name": "v1beta2", "served": True, "storage": True, "subresources": {"status": {}}}
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{plural}.{kueue.GROUP}"},
        "spec": {
            "group": kueue.GROUP,
            "scope": scope,
            "names": {"plural": plural, "kind": kind},
            "versions": [version | {"schema": {"openAPIV3Schema": schema}}],
        },
    }


LISTS = {"conditions": "type", "admissionChecks": "name"}


@pytest.fixture
async def home(tmp_path: Path) -> AsyncIterator[live.Cluster]:
    async with live.cluster(tmp_path) as found:
        kinds = (("workloads", "Workload", "Namespaced"), ("admissionchecks", "AdmissionCheck"))
        for kind in (*kinds, ("resourceflavors", "ResourceFlavor"), ("topologies", "Topology")):
            await found.api.create(paths.of("apiextensions.k8s.io/v1", "customresourcedefinitions"), definition(*kind))
        await create(found, "admissionchecks", "AdmissionCheck", CHECK, {"controllerName": kueue_check.CONTROLLER})
        await create(found, "resourceflavors", "ResourceFlavor", "plain", {})
        yield found


async def create(home: live.Cluster, plural: str, kind: str, name: str, spec: dict[str, Any], space: str = "") -> Any:
    body = {"apiVersion": VERSION, "kind": kind, "metadata": {"name": name}, "spec": spec}
    return await home.api.create(paths.of(VERSION, plural, space), body)


def template(pods: dict[str, Any] | None = None) -> dict[str, Any]:
    body = live.pod("x")
    return {"metadata": {}, "spec": body["spec"] | (pods or {})}


async def job(home: live.Cluster, name: str, pods: int, priority: int = 0, **spec: Any) -> dict[str, Any]:
    """Create a suspended Job with its Workload, as Kueue makes it, and return both."""
    work = {"parallelism": pods, "completions": pods, "completionMode": "Indexed", "suspend": True}
    made = await home.api.create(
        paths.of("batch/v1", "jobs", "default"),
        {
            "apiVersion": "batch/v1",
            "kind": "Job",
            "metadata": {"name": name},
            "spec": work | {"template": template(spec)},
        },
    )
    owner = {"apiVersion": "batch/v1", "kind": "Job", "name": name, "uid": made["metadata"]["uid"], "controller": True}
    podset = {"name": "main", "count": pods, "template": template(spec)}
    body = {
        "apiVersion": VERSION,
        "kind": "Workload",
        "metadata": {"name": f"job-{name}", "ownerReferences": [owner]},
        "spec": {"podSets": [podset], "queueName": "q", "priority": priority},
    }
    await home.api.create(paths.of(VERSION, "workloads", "default"), body)
    return dict(owner)


def workload_path(name: str, *rest: str) -> str:
    return paths.of(VERSION, "workloads", "default", f"job-{name}", *rest)


async def admit(
    home: live.Cluster, name: str, pods: int, hosts: dict[str, int] | None = None, flavor: str = "plain"
) -> None:
    """Give a Workload quota, with a topology assignment where hosts are given, and ask the check."""
    assigned: dict[str, Any] = {"name": "main", "count": pods, "flavors": {"cpu": flavor}}
    if hosts:
        domains = [{"values": [host], "count": count} for host, count in hosts.items()]
        assigned["topologyAssignment"] = {"levels": [HOST], "domains": domains}
    status = {
        "conditions": [{"type": "QuotaReserved", "status": "True", "reason": "x", "message": ""}],
        "admission": {"clusterQueue": "q", "podSetAssignments": [assigned]},
        "admissionChecks": [{"name": CHECK, "state": "Pending", "message": "", "lastTransitionTime": "x"}],
    }
    await home.api.patch(workload_path(name, "status"), {"status": status}, client.MERGE)


async def evict(home: live.Cluster, name: str) -> None:
    """Take the quota away, as Kueue does when a Retry is over."""
    status = {"conditions": [], "admission": None, "admissionChecks": []}
    await home.api.patch(workload_path(name, "status"), {"status": status}, client.MERGE)


async def state(home: live.Cluster, name: str, wanted: str) -> dict[str, Any]:
    """Wait for a state of the check and return its entry."""

    async def ask() -> dict[str, Any] | None:
        found = await home.api.get(workload_path(name))
        return next((one for one in found["status"].get("admissionChecks", ()) if one["state"] == wanted), None)

    return dict(await home.until(ask))


def shell(home: live.Cluster) -> Any:
    assert home.scheduler is not None and home.scheduler.shell is not None
    return home.scheduler.shell


async def forgotten(home: live.Cluster, name: str) -> None:
    key = f"default/job-{name}"

    async def ask() -> bool:
        return key not in shell(home).followed and not shell(home).machine.knows(key)

    await home.until(ask)


def placed(home: live.Cluster, name: str) -> list[str]:
    """Return the nodes that are kept for a gang, by rank."""
    found = shell(home).machine.held[f"default/job-{name}"].placement
    return [shell(home).compiled.topology.nodes[grant.node].name for grant in found.grants]


async def come(home: live.Cluster, owner: dict[str, Any], pods: int, **spec: Any) -> None:
    """Start a Job: unsuspend it and make its pods."""
    name = owner["name"]
    await home.api.patch(paths.of("batch/v1", "jobs", "default", name), {"spec": {"suspend": False}}, client.MERGE)
    entry = next(
        one for one in (await home.api.get(workload_path(name)))["status"]["admissionChecks"] if one["name"] == CHECK
    )
    [update] = entry["podSetUpdates"]
    for index in range(pods):
        body = live.pod(f"{name}-{index}")
        notes = {"batch.kubernetes.io/job-completion-index": str(index), "kueue.x-k8s.io/workload": f"job-{name}"}
        body["metadata"] |= {
            "ownerReferences": [owner],
            "annotations": notes | update["annotations"],
            "labels": {"kueue.x-k8s.io/podset": "main"} | update["labels"],
        }
        body["spec"] |= spec
        await home.create(body)


async def test_a_workload_is_kept_what_its_pods_then_get(home: live.Cluster) -> None:
    await home.start(reservation_s=0.5)
    owner = await job(home, "ring", 2)
    await admit(home, "ring", 2)
    entry = await state(home, "ring", "Ready")
    kept = placed(home, "ring")
    held = shell(home).machine.held["default/job-ring"]
    assert held.expires == math.inf, "it is kept until the pods come or the quota goes, not for a time"
    [update] = entry["podSetUpdates"]
    assert update["labels"] == {names.GANG: "job-ring"} and "nodeSelector" not in update
    assert update["annotations"][names.DECISION] == held.gang.decision_id != ""
    assert update["annotations"][names.DOMAIN] == f"{held.placement.level} {held.placement.domain}"
    decisions = shell(home).machine.decisions
    await come(home, owner, 2)
    where = await home.bound("ring-0", "ring-1")
    assert [where[f"ring-{rank}"] for rank in range(2)] == kept
    assert shell(home).machine.decisions == decisions, "the reservation was theirs as it was"


async def test_what_kueue_assigned_is_a_constraint_at_the_check_and_for_the_pods(home: live.Cluster) -> None:
    await home.start()
    *_, third, last = await nodes(home)
    owner = await job(home, "ring", 2)
    await admit(home, "ring", 2, {last: 1, third: 1})
    await state(home, "ring", "Ready")
    assert placed(home, "ring") == [third, last], "Kueue gives ranks to hosts in the order of their names"
    decisions = shell(home).machine.decisions
    gate = {"schedulingGates": [{"name": names.GATE}, {"name": "kueue.x-k8s.io/topology"}]}
    await come(home, owner, 2, **gate)
    # Kueue's ungater goes by its own order: the later rank is told first, and its selector differs from the other's.
    for index, host in ((1, last), (0, third)):
        path = f"/api/v1/namespaces/default/pods/ring-{index}"

        async def ungate(path: str = path, host: str = host) -> bool:
            pod = await home.api.get(path)
            gates = [one for one in pod["spec"].get("schedulingGates", ()) if one["name"] == names.GATE]
            pod["spec"] |= {"schedulingGates": gates, "nodeSelector": {HOST: host}}
            try:
                await home.api.replace(path, pod)
            except Exception as error:  # it was let go in between, say: read it again
                return bool(getattr(error, "conflict", False)) and False
            return True

        await home.until(ungate)
    assert await home.bound("ring-0", "ring-1") == {"ring-0": third, "ring-1": last}
    assert shell(home).machine.decisions == decisions, "the reservation was theirs as it was"


async def test_a_full_host_that_kueue_assigned_is_named_although_others_are_free(home: live.Cluster) -> None:
    await home.start()
    await home.create(live.pod("old", "old", 1))
    busy = (await home.bound("old"))["old"]
    free = next(node for node in await nodes(home) if node != busy)
    await job(home, "ring", 2)
    await admit(home, "ring", 2, {busy: 1, free: 1})
    entry = await state(home, "ring", "Retry")
    assert entry["requeueAfterSeconds"] == 30
    assert f"nearest is {busy}, which lacks 8 GPUs" in entry["message"]
    await forgotten(home, "ring")
    await evict(home, "ring")
    others = [node for node in await nodes(home) if node != busy][:2]
    await admit(home, "ring", 2, dict.fromkeys(others, 1))
    await state(home, "ring", "Ready")
    assert placed(home, "ring") == sorted(others)


async def test_a_flavour_of_kueue_is_planned_on_its_own_nodes(home: live.Cluster) -> None:
    await home.start()
    *_, last = await nodes(home)
    taint = {"key": "pool", "value": "ml", "effect": "NoSchedule"}
    await change(home, last, metadata={"labels": {"pool": "ml"}}, spec={"taints": [taint]})
    tolerations = [{"key": "pool", "operator": "Exists"}]
    spec = {"nodeLabels": {"pool": "ml"}, "tolerations": tolerations}
    await create(home, "resourceflavors", "ResourceFlavor", "pool", spec)
    owner = await job(home, "one", 1)
    await admit(home, "one", 1, flavor="pool")
    await state(home, "one", "Ready")
    assert placed(home, "one") == [last]
    decisions = shell(home).machine.decisions
    await come(home, owner, 1, nodeSelector={"pool": "ml"}, tolerations=tolerations)
    assert await home.bound("one-0") == {"one-0": last}
    assert shell(home).machine.decisions == decisions, "the reservation was theirs as it was"


@pytest.mark.parametrize("end", ["deleted", "evicted"])
async def test_a_workload_that_was_sent_away_takes_nothing_from_anybody(home: live.Cluster, end: str) -> None:
    await home.start(preempt="execute")
    for index in range(3):
        await home.create(live.pod(f"firm-{index}", f"firm-{index}", 1, preemptible="false"))
    await home.create(live.pod("weak", "weak", 1))
    await home.bound("weak", *(f"firm-{index}" for index in range(3)))
    await job(home, "greedy", 2, priority=1000)
    await admit(home, "greedy", 2)
    entry = await state(home, "greedy", "Retry")
    assert "no gang" in entry["message"] or "lacks" in entry["message"]
    await forgotten(home, "greedy")
    if end == "deleted":
        await home.api.delete(workload_path("greedy"))
    else:
        await evict(home, "greedy")
    before = (await home.pods())["weak"]["metadata"]["uid"]
    await home.api.delete("/api/v1/namespaces/default/pods/firm-0", grace_s=0)
    await home.create(live.pod("next", "next", 1))
    await home.bound("next")  # by then the ghost would have had its turn: it is older, and of higher priority
    weak = (await home.pods())["weak"]
    assert weak["metadata"]["uid"] == before and "deletionTimestamp" not in weak["metadata"]
    assert not shell(home).machine.queue.waiting


async def test_a_workload_that_can_never_run_is_rejected_and_forgotten(home: live.Cluster) -> None:
    await home.start()
    await job(home, "huge", 5)
    await admit(home, "huge", 5)
    entry = await state(home, "huge", "Rejected")
    assert "GangLargerThanCluster" in entry["message"]
    await forgotten(home, "huge")
    assert not shell(home)._stages


async def test_a_question_that_is_taken_back_and_asked_anew_is_answered(home: live.Cluster) -> None:
    await home.start()
    *_, third, last = await nodes(home)
    await job(home, "ring", 1)
    await admit(home, "ring", 1, {third: 1})
    await state(home, "ring", "Ready")
    await admit(home, "ring", 1, {last: 1})  # Kueue has admitted it anew, elsewhere

    async def moved() -> bool:
        await state(home, "ring", "Ready")
        return placed(home, "ring") == [last]

    await home.until(moved)
