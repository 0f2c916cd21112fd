"""Kueue's real controller asks Muster's check: pods come to kept devices, wait with a reason, or never come."""

from __future__ import annotations

from typing import Any

from scheduler.model import names
from tests.live import team as teams
from tests.live import test_waiting, test_workloads, work
from tests.testbed.controllers import kueue, manifests

CHECK = "muster-placement"
RETRY_S = 30
"""After which Kueue is to ask again, as Muster tells it."""


async def submit(team: teams.Team, pods: int) -> None:
    """Apply a JobSet of pods of eight GPUs in one rack to a queue of the team that requires the check of deploy/."""
    quota: dict[str, str | int] = {"cpu": 64, "memory": "64Gi", "muster.dev/gpu": 40}
    objects = [kueue.flavor(team.name), kueue.cluster_queue_of(team.name, quota, CHECK)]
    await manifests.apply(team.api, [*objects, kueue.local_queue(team.name, "main", team.name)])
    await team.apply(work.jobset("train", {"workers": work.job_spec(pods, notes=work.IN_ONE_RACK)}, queue="main"))


async def check(team: teams.Team, state: str, within_s: float = teams.WAIT_S) -> tuple[teams.Obj, teams.Obj]:
    """Wait until our check of the one Workload is in a state; returns it and the Workload."""

    async def ask() -> Any:
        for one in await team.list(kueue.VERSION, "workloads"):
            for entry in one.get("status", {}).get("admissionChecks") or ():
                if (entry["name"], entry["state"]) == (CHECK, state):
                    return entry, one
        return None

    found: tuple[teams.Obj, teams.Obj] = await team.until(ask, within_s)
    return found


async def test_a_jobset_that_kueue_admits_lands_in_one_rack(team: teams.Team) -> None:
    """The pods come to the devices that were kept for them."""
    await submit(team, 4)
    pods = await test_workloads.lands_in_one_rack(team, "jobset-train")
    entry, _ = await check(team, "Ready")
    assert "4 pods on 4 nodes in rack" in entry["message"]
    assert {one["metadata"]["labels"][names.GANG] for one in pods} == {"jobset-train"}


async def test_a_jobset_without_room_is_told_what_is_missing_and_runs_later(team: teams.Team) -> None:
    async with test_waiting.cordoned(team, "e2e-b00-r00", 1) as [one], test_waiting.cordoned(team, "e2e-b00-r01", 2):
        await submit(team, 4)
        entry, _ = await check(team, "Retry")
        shut = "nodes with GPUs that take nothing new: 3 (is cordoned)"
        nearest = f"nearest is {test_waiting.RACK}, which lacks 1 pods; {shut}"
        text = f"NoDomainLargeEnough: no rack can hold gang {team.name}/jobset-train now; {nearest}"
        assert (entry["message"], entry["requeueAfterSeconds"]) == (text, RETRY_S)
        assert (await team.phase("jobset-train", "Waiting"))["status"]["message"] == text
        assert await team.told("JobSet/train", "GangWaiting") == text
        assert await team.pods() == [] and await team.devices() == {}
        await test_waiting.cordon(team, one, False)
        await check(team, "Ready", RETRY_S + 2 * teams.WAIT_S)
        assert await team.racks(await test_workloads.lands_in_one_rack(team, "jobset-train")) == {"e2e-b00-r00"}


async def test_a_jobset_that_never_fits_is_rejected(team: teams.Team) -> None:
    await submit(team, 5)
    nearest = f"nearest is {test_waiting.RACK}, which lacks 1 pods"
    text = f"NoDomainLargeEnough: no rack can hold gang {team.name}/jobset-train even when empty; {nearest}"

    async def deactivated() -> list[str]:
        """Return what Kueue says of a Workload that it has set aside for good."""
        found = [one for one in await team.list(kueue.VERSION, "workloads") if one["spec"].get("active") is False]
        conditions = [each for one in found for each in one.get("status", {}).get("conditions") or ()]
        return [one["message"] for one in conditions if (one["type"], one["status"]) == ("Evicted", "True")]

    assert text in (await team.until(deactivated))[0]
    assert await team.told("JobSet/train", "GangRejected") == text
    assert await team.pods() == [] and await team.devices() == {}
