"""Kueue's own topology-aware scheduling beside Muster: what it assigns is kept to, rank by rank, on exact devices."""

from __future__ import annotations

from typing import Any

from scheduler.kube import kueue as read
from tests.live import team as teams
from tests.live import work
from tests.testbed.controllers import kueue, manifests
from tests.testbed.fleet import nodes

HOST = "kubernetes.io/hostname"
GPUS = "muster.dev/gpu"
CPUS = 150
"""More than half of a machine with eight GPUs, and more than a tray has."""

TOPOLOGY = {"kueue.x-k8s.io/podset-required-topology": work.BLOCK}
RETRIED_S = 120.0
"""Until Kueue has taken a Workload in Retry back, queued it again and asked anew."""


async def queue(team: teams.Team) -> None:
    """Make a queue of the team whose flavour has a topology, and which requires the check of deploy/."""
    topology = {"apiVersion": kueue.VERSION, "kind": "Topology", "metadata": {"name": team.name}}
    topology["spec"] = {"levels": [{"nodeLabel": one} for one in (work.BLOCK, work.RACK, HOST)]}
    flavor = kueue.flavor(team.name)
    flavor["spec"] = {"nodeLabels": {nodes.FLEET_LABEL: "e2e"}, "topologyName": team.name}
    quota = {"cpu": 8 * CPUS, "memory": "64Gi", GPUS: 64}
    owned = kueue.cluster_queue_of(team.name, quota, "muster-placement")
    await manifests.apply(team.api, [topology, flavor, owned, kueue.local_queue(team.name, "main", team.name)])


def whole_machines(pods: int) -> dict[str, Any]:
    """Return a Job whose pods each fill a machine by its CPU: Kueue's placing counts that, and no claims."""
    spec = work.job_spec(pods, notes=TOPOLOGY)
    spec["template"]["spec"]["containers"][0]["resources"]["requests"]["cpu"] = str(CPUS)
    return spec


async def workload(team: teams.Team) -> Any:
    found = await team.list(kueue.VERSION, "workloads")
    return found[0] if found else None


async def test_a_jobset_runs_where_kueue_put_it_and_waits_while_a_host_of_it_is_taken(team: teams.Team) -> None:
    await queue(team)
    await team.create(work.gang("first", 1))
    [first] = (await team.bound(1)).values()
    taken = first["spec"]["nodeName"]

    await team.apply(work.jobset("train", {"workers": whole_machines(8)}, queue="main"))

    async def sent_back() -> Any:
        found = await workload(team)
        checks = (found or {}).get("status", {}).get("admissionChecks", ())
        return next((one for one in checks if one["state"] == "Retry"), None)

    check = await team.until(sent_back, 60)
    assert f"nearest is {taken}, which lacks 8 GPUs" in check["message"]
    assert len(await team.pods()) == 1

    await team.api.delete(team.path("v1", "pods", "first-0"), grace_s=0)
    pods = await team.bound(8, RETRIED_S)
    found = read.read_workload(await workload(team))
    [podset] = found.podsets
    assert podset.assignment is not None and podset.assignment.levels == (HOST,)
    hosts = [one.values[0] for one in sorted(podset.assignment.domains, key=lambda one: one.values)]
    assert [one.count for one in podset.assignment.domains] == [1] * 8 and taken in hosts
    ranks = {int(one["metadata"]["labels"]["batch.kubernetes.io/job-completion-index"]): one for one in pods.values()}
    assert [ranks[rank]["spec"]["nodeName"] for rank in range(8)] == hosts
    devices = await team.devices()
    for rank, host in enumerate(hosts):
        name = ranks[rank]["metadata"]["name"]
        assert sorted(devices[name]) == [f"{host}/gpu-{index}" for index in range(8)]
    placed = await team.phase("jobset-train", "Running")
    assert [one["node"] for one in placed["spec"]["plan"]["pods"]] == hosts
