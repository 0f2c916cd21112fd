"""Each kind of workload, applied as a user does, lands as a gang on exact devices."""

from __future__ import annotations

from tests.live import team as teams
from tests.live import work

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
        assert devices[name] == [f"{row['pool']}/{row['device']}" for row in claim["devices"]]
        assert sorted(devices[name]) == [f"{one['node']}/{device}" for device in EIGHT]


async def test_a_jobset_lands_in_one_rack(team: teams.Team) -> None:
    await team.apply(work.jobset("train", {"workers": work.job_spec(4, notes=work.IN_ONE_RACK)}))
    await lands_in_one_rack(team, "jobset-train")
    shown = team.kubectl("get", "gangplacements").splitlines()
    assert "PHASE" in shown[0] and "DOMAIN" in shown[0]
    assert "jobset-train" in shown[1] and "Running" in shown[1] and "rack" in shown[1]
    told = team.kubectl("events")
    assert "Placed" in told, told
