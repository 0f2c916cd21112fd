"""Each kind of workload, applied as a user does, lands as a gang on exact devices."""

from __future__ import annotations

import pytest

from scheduler.model import levels, names
from tests.live import team as teams
from tests.live import work
from tests.testbed.controllers import kueue, manifests

GROUP = "leaderworkerset.sigs.k8s.io/group-index"
EIGHT = [f"gpu-{i}" for i in range(8)]


async def lands_in_one_rack(team: teams.Team, placement: str, count: int = 4) -> None:
    """Check what a gang of pods with eight GPUs each has come to: one rack, and the planned devices in each claim."""
    pods = await team.bound(count)
    assert len(await team.racks(pods.values())) == 1
    assert len({one["spec"]["nodeName"] for one in pods.values()}) == count
    found = await team.phase(placement, "Running")
    planned = {one["name"]: one for one in found["spec"]["plan"]["pods"]}
    assert planned.keys() == pods.keys()
    devices = await team.devices()
    for name, one in planned.items():
        assert pods[name]["spec"]["nodeName"] == one["node"]
        [claim] = one["claims"]
        assert devices[name] == [f"{row.get('pool', one['node'])}/{row['device']}" for row in claim["devices"]]
        assert sorted(devices[name]) == [f"{one['node']}/{device}" for device in EIGHT]


async def test_a_jobset_lands_in_one_rack(team: teams.Team) -> None:
    await team.apply(work.jobset("train", {"workers": work.job_spec(4, notes=work.IN_ONE_RACK)}))
    await lands_in_one_rack(team, "jobset-train")
    shown = team.kubectl("get", "gangplacements").splitlines()
    assert "PHASE" in shown[0] and "DOMAIN" in shown[0]
    assert "jobset-train" in shown[1] and "Running" in shown[1] and "rack" in shown[1]
    told = team.kubectl("events")
    assert "GangPlanned" in told and "4 pods on 4 nodes in rack" in told and "JobSet/train" in told


async def test_a_job_lands_in_one_rack(team: teams.Team) -> None:
    await team.apply(work.job("train", 4, notes=work.IN_ONE_RACK))
    await lands_in_one_rack(team, "job-train")


async def test_each_replica_of_a_leader_worker_set_lands_in_one_rack(team: teams.Team) -> None:
    await team.apply(work.leader_worker_set("decode", 4, replicas=2, notes=work.IN_ONE_RACK))
    pods = await team.bound(8)
    racks = []
    for group in ("0", "1"):
        await team.phase(f"lws-decode-{group}", "Running")
        racks.append(await team.racks(one for one in pods.values() if one["metadata"]["labels"][GROUP] == group))
    assert all(len(found) == 1 for found in racks) and racks[0] != racks[1]


async def test_plain_pods_that_name_their_gang_land_in_one_rack(team: teams.Team) -> None:
    await team.create(work.gang("train", 4, notes=work.IN_ONE_RACK))
    await lands_in_one_rack(team, "gang-train")
    found = await team.placement("gang-train")
    assert [one["name"] for one in found["spec"]["plan"]["pods"]] == [f"train-{i}" for i in range(4)]


async def test_a_gang_of_trays_is_on_one_nvlink_domain(team: teams.Team) -> None:
    await team.create(work.gang("wide", 4, "four", notes={names.REQUIRED_LEVEL: levels.NVLINK_LEVEL}))
    pods = await team.bound(4)
    [rack] = await team.racks(pods.values())
    assert rack == "e2e-b01-r00"


async def test_a_pod_group_of_kubernetes_is_a_gang(team: teams.Team) -> None:
    if team.site.home.kubernetes.minor < 37:
        pytest.skip("PodGroup v1beta1 is served from 1.37 on")
    await team.apply(work.pod_group("train", 4))
    group = {"podGroupName": "train"}
    await team.create(work.pod(f"w-{i}", notes=work.IN_ONE_RACK, schedulingGroup=group) for i in range(4))
    await lands_in_one_rack(team, "podgroup-train")


async def test_a_jobset_that_kueue_admits_lands_in_one_rack(team: teams.Team) -> None:
    """Kueue's real controller asks our check, and the pods come to the devices that were kept for them."""
    quota = {"cpu": 64, "memory": "64Gi", "muster.dev/gpu": 32}
    await kueue_queue(team, quota)
    await team.apply(work.jobset("train", {"workers": work.job_spec(4, notes=work.IN_ONE_RACK)}, queue="main"))
    await lands_in_one_rack(team, "jobset-train")
    [workload] = await team.list(kueue.VERSION, "workloads")
    [check] = workload["status"]["admissionChecks"]
    assert check["name"] == "muster-placement" and check["state"] == "Ready"
    assert "rack" in check["message"]
    for one in await team.pods():
        assert one["metadata"]["labels"][names.GANG] == "jobset-train"


async def kueue_queue(team: teams.Team, quota: dict[str, str | int]) -> None:
    """Make a queue of the team that requires the check of deploy/."""
    check = "muster-placement"
    objects = [kueue.flavor(team.name), kueue.cluster_queue_of(team.name, quota, check)]
    await manifests.apply(team.api, [*objects, kueue.local_queue(team.name, "main", team.name)])
