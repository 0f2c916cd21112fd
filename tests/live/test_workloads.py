"""Each kind of workload, applied as a user does, lands as a gang on exact devices."""

from __future__ import annotations

import pytest

from scheduler.model import levels, names
from tests.live import team as teams
from tests.live import test_waiting, work

GROUP = "leaderworkerset.sigs.k8s.io/group-index"
CLIQUE = "nvidia.com/gpu.clique"
EIGHT = [f"gpu-{i}" for i in range(8)]


async def lands_in_one_rack(team: teams.Team, placement: str, count: int = 4) -> list[teams.Obj]:
    """Check what a gang of pods with eight GPUs each has come to: one rack, and the planned devices in each claim."""
    pods = await team.planned(placement, count)
    assert len(await team.racks(pods)) == 1
    assert len({one["spec"]["nodeName"] for one in pods}) == count
    devices = await team.devices()
    for one in pods:
        assert sorted(devices[one["metadata"]["name"]]) == [f"{one['spec']['nodeName']}/{gpu}" for gpu in EIGHT]
    return pods


@pytest.mark.floor
async def test_a_jobset_lands_in_one_rack(team: teams.Team) -> None:
    await team.apply(work.jobset("train", {"workers": work.job_spec(4, notes=work.IN_ONE_RACK)}))
    await lands_in_one_rack(team, "jobset-train")
    shown = team.kubectl("get", "gangplacements").splitlines()
    assert "PHASE" in shown[0] and "DOMAIN" in shown[0]
    assert "jobset-train" in shown[1] and "Running" in shown[1] and "rack" in shown[1]
    told = team.kubectl("events")
    assert "GangPlanned" in told and "4 pods on 4 nodes in rack" in told and "JobSet/train" in told


@pytest.mark.floor
async def test_a_job_lands_in_one_rack(team: teams.Team) -> None:
    await team.apply(work.job("train", 4, notes=work.IN_ONE_RACK))
    await lands_in_one_rack(team, "job-train")


@pytest.mark.floor
async def test_each_replica_of_a_leader_worker_set_lands_in_one_rack(team: teams.Team) -> None:
    await team.apply(work.leader_worker_set("decode", 4, replicas=2, notes=work.IN_ONE_RACK))
    racks = []
    for group in ("0", "1"):
        pods = await lands_in_one_rack(team, f"lws-decode-{group}")
        assert {one["metadata"]["labels"][GROUP] for one in pods} == {group}
        racks.append(await team.racks(pods))
    assert racks[0] != racks[1]


async def test_plain_pods_that_name_their_gang_land_in_one_rack(team: teams.Team) -> None:
    await team.create(work.gang("train", 4, notes=work.IN_ONE_RACK))
    pods = await lands_in_one_rack(team, "gang-train")
    assert [one["metadata"]["name"] for one in pods] == [f"train-{i}" for i in range(4)]


@pytest.mark.floor
async def test_a_jobset_of_trays_is_on_one_nvlink_domain(team: teams.Team) -> None:
    """There a domain is more than a machine: four trays of four GPUs. Without one tray it waits, whatever else is free."""
    workers = work.job_spec(4, "four", notes={names.REQUIRED_LEVEL: levels.NVLINK_LEVEL})
    async with test_waiting.cordoned(team, "e2e-b01-r00", 1) as [tray]:
        await team.apply(work.jobset("wide", {"workers": workers}))
        found = await team.phase("jobset-wide", "Waiting")
        assert found["status"]["message"].startswith(f"NoDomainLargeEnough: no {levels.NVLINK_LEVEL} can hold gang")
        assert await team.devices() == {}
        await test_waiting.cordon(team, tray, False)
        pods = await team.planned("jobset-wide", 4)
    assert len({one["spec"]["nodeName"] for one in pods}) == 4
    assert len(await team.labels(pods, CLIQUE)) == 1
    assert await team.racks(pods) == {"e2e-b01-r00"}


async def test_a_pod_group_of_kubernetes_is_a_gang(team: teams.Team) -> None:
    if team.site.home.kubernetes.minor < 37:
        pytest.skip("PodGroup v1beta1 is served from 1.37 on")
    await team.apply(work.pod_group("train", 4))
    group = {"podGroupName": "train"}
    await team.create(work.pod(f"w-{i}", notes=work.IN_ONE_RACK, schedulingGroup=group) for i in range(4))
    await lands_in_one_rack(team, "podgroup-train")
