"""What users, drivers and machines do to gangs that run; afterwards nothing is held by nobody.

Each test ends with Muster's own account, in which nothing may be left, and with one gang that needs every device of the
fleet: whatever leaked, in the API or in Muster's memory, would keep it waiting.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest

from scheduler.apiserver import errors, paths
from tests.live import site as sites
from tests.live import team as teams
from tests.live import work
from tests.testbed.fleet import create

WHOLE = {"machines": work.job_spec(8), "trays": work.job_spec(4, "four")}
SICK = {"key": "gpu.muster.dev/unhealthy", "effect": "NoExecute"}
ATTEMPT = "jobset.sigs.k8s.io/restart-attempt"
GPUS = "muster_gpus"
HELD = ("muster_gangs", "muster_reserved_gpus", "muster_shared_devices")


@pytest.fixture
async def after(team: teams.Team) -> AsyncIterator[teams.Team]:
    """A team after whose test nothing is held, and all devices of the fleet can be given away at once."""
    yield team
    await team.empty()
    await team.until(lambda: asyncio.sleep(0, idle(team.site)))
    await team.apply(work.jobset("whole", WHOLE))
    await team.bound(12)
    given = [row for rows in (await team.devices()).values() for row in rows]
    assert len(given) == len(set(given)) == 80


def idle(site: sites.Site) -> bool:
    """Tell whether Muster follows no gang, holds no device and knows of none that two claims have."""
    found = site.metrics()
    held = [one for one in found if one.name in HELD or (one.name == GPUS and one.labels["state"] != "free")]
    assert {one.name for one in held} == {*HELD, GPUS}
    free = sum(one.value for one in found if one.name == GPUS and one.labels["state"] == "free")
    return free == 80 and not any(one.value for one in held)


async def running(team: teams.Team, pods: int = 3) -> dict[str, teams.Obj]:
    """Have a Job run in one rack."""
    await team.apply(work.job("train", pods, notes=work.IN_ONE_RACK))
    return await team.bound(pods)


async def whole(team: teams.Team, count: int, other_than: str = "") -> dict[str, teams.Obj]:
    """Wait until a gang runs whole in one rack, without a pod that it had."""

    async def ask() -> bool:
        found = [one for one in await team.pods() if teams.alive(one)]
        uids = {one["metadata"]["uid"] for one in found}
        return len(found) == count and other_than not in uids and all(one["spec"].get("nodeName") for one in found)

    await team.until(ask)
    pods = await team.bound(count)
    assert len(await team.racks(pods.values())) == 1
    assert len({one["spec"]["nodeName"] for one in pods.values()}) == count
    return pods


async def test_a_pod_that_is_deleted_by_force_is_replaced(after: teams.Team) -> None:
    pods = await running(after)
    lost = next(iter(pods.values()))
    await after.api.delete(after.path("v1", "pods", lost["metadata"]["name"]), grace_s=0)
    await whole(after, 3, lost["metadata"]["uid"])
    await after.phase("job-train", "Running")


async def test_a_claim_that_is_deleted_under_a_running_pod_stays_until_the_pod_ends(after: teams.Team) -> None:
    pods = await running(after)
    [claim] = await after.claims_of(next(iter(pods)))
    await after.api.delete(after.path(paths.RESOURCE, "resourceclaims", claim["metadata"]["name"]))
    assert len(await after.devices()) == 3
    await after.phase("job-train", "Running")


async def test_a_gang_that_waits_without_a_claim_runs_when_its_pod_is_made_anew(after: teams.Team) -> None:
    """Kubernetes makes a claim from a template once: without it the pod has no future, and nobody gets devices."""
    await after.create(work.gang("first", 8))
    await after.bound(8)
    second = work.gang("second", 2)
    await after.create(second)
    await after.phase("gang-second", "Waiting")
    [claim] = await after.claims_of("second-0")
    await after.api.delete(after.path(paths.RESOURCE, "resourceclaims", claim["metadata"]["name"]))
    for i in range(8):
        await after.api.delete(after.path("v1", "pods", f"first-{i}"), grace_s=0)
    await after.never_bound("second-0", "second-1", still_s=1)
    assert await after.devices() == {}
    await after.api.delete(after.path("v1", "pods", "second-0"), grace_s=0)
    await after.create(second[:1])
    await after.bound(2)


async def test_a_namespace_that_is_deleted_gives_everything_back(after: teams.Team) -> None:
    other = teams.Team(after.site, after.api, f"{after.name}-gone")
    await other.found()
    await other.apply(work.jobset("train", {"workers": work.job_spec(4)}))
    await other.bound(4)
    await other.create(work.gang("huge", 8))
    await other.phase("jobset-train", "Running")
    await other.phase("gang-huge", "Waiting")
    path = paths.of("v1", "namespaces", "", other.name)
    await after.api.delete(path)

    async def gone() -> bool:
        try:
            await after.api.get(path)
        except errors.ApiError as error:
            return error.missing
        return False

    await after.until(gone, 60)


async def test_a_jobset_that_restarts_runs_whole_again(after: teams.Team) -> None:
    workers = work.job_spec(4, notes=work.IN_ONE_RACK) | {"backoffLimit": 0}
    await after.apply(work.jobset("train", {"workers": workers}, failurePolicy={"maxRestarts": 1}))
    pods = await after.bound(4)
    name = next(iter(pods))
    await after.api.patch(after.path("v1", "pods", name, "status"), {"status": {"phase": "Failed"}})

    async def restarted() -> bool:
        found = [one for one in await after.pods() if teams.alive(one)]
        attempts = {one["metadata"]["labels"][ATTEMPT] for one in found}
        return len(found) == 4 and attempts == {"1"} and all(one["spec"].get("nodeName") for one in found)

    await after.until(restarted)
    await whole(after, 4)
    now = await after.planned("jobset-train", 4)
    assert not {one["metadata"]["uid"] for one in now} & {one["metadata"]["uid"] for one in pods.values()}


async def test_a_jobset_that_is_suspended_gives_its_devices_back_and_takes_others_later(after: teams.Team) -> None:
    path = after.path(work.JOBSET, "jobsets", "train")
    await after.apply(work.jobset("train", {"workers": work.job_spec(4, notes=work.IN_ONE_RACK)}))
    await after.bound(4)
    await after.api.patch(path, {"spec": {"suspend": True}})
    await after.until(after.nothing)
    await after.create(work.gang("other", 6))
    await after.bound(6)
    await after.api.patch(path, {"spec": {"suspend": False}})
    await after.phase("jobset-train", "Waiting")
    for i in range(6):
        await after.api.delete(after.path("v1", "pods", f"other-{i}"), grace_s=0)
    await whole(after, 4)


async def test_a_jobset_is_scaled_by_another_in_its_place(after: teams.Team) -> None:
    """JobSet 0.12 refuses other sizes, also while it is suspended; nothing moves then. Users delete it and apply anew."""
    path = after.path(work.JOBSET, "jobsets", "train")
    notes = work.IN_ONE_RACK
    await after.apply(work.jobset("train", {"workers": work.job_spec(2, notes=notes)}))
    before = await after.planned("jobset-train", 2)
    for change in ({"replicas": 2}, {"template": {"spec": work.job_spec(4, notes=notes)}}):
        larger = (await after.api.get(path))["spec"]["replicatedJobs"]
        larger[0] |= change
        with pytest.raises(errors.ApiError, match="immutable"):
            await after.api.patch(path, {"spec": {"replicatedJobs": larger}})
        with pytest.raises(errors.ApiError, match="immutable"):
            await after.api.patch(path, {"spec": {"replicatedJobs": larger, "suspend": True}})
    assert await after.planned("jobset-train", 2) == before
    for size in (4, 1):
        await after.delete(work.JOBSET, "jobsets", "train")
        await after.until(after.nothing)
        await after.apply(work.jobset("train", {"workers": work.job_spec(size, notes=notes)}))
        assert len(await after.racks(await after.planned("jobset-train", size))) == 1


async def test_a_leader_worker_set_gets_more_replicas_and_fewer(after: teams.Team) -> None:
    path = after.path(work.LWS, "leaderworkersets", "decode")
    await after.apply(work.leader_worker_set("decode", 2, notes=work.IN_ONE_RACK))
    first = await after.planned("lws-decode-0", 2)
    await after.api.patch(path, {"spec": {"replicas": 3}})
    for group in (1, 2):
        assert len(await after.racks(await after.planned(f"lws-decode-{group}", 2))) == 1
    assert await uids(after, "lws-decode-0") == [one["metadata"]["uid"] for one in first], (
        "a replica that ran was moved"
    )
    await after.api.patch(path, {"spec": {"replicas": 1}})
    for group in (1, 2):
        await after.until(lambda group=group: absent(after, f"lws-decode-{group}"))
    await after.bound(2)
    assert await uids(after, "lws-decode-0") == [one["metadata"]["uid"] for one in first]
    await after.until(lambda: only(after, first))


async def uids(team: teams.Team, placement: str) -> list[str]:
    """Return the pods of a gang that runs, in rank order."""
    return [one["metadata"]["uid"] for one in await team.planned(placement, 2)]


async def absent(team: teams.Team, placement: str) -> bool:
    return await team.placement(placement) is None


async def only(team: teams.Team, pods: list[teams.Obj]) -> bool:
    """Tell whether nobody but some pods has devices."""
    return set(await team.devices()) == {one["metadata"]["name"] for one in pods}


async def test_a_job_grows_and_shrinks(after: teams.Team) -> None:
    path = after.path(work.BATCH, "jobs", "train")
    before = await running(after, pods=2)
    await after.api.patch(path, {"spec": {"parallelism": 4, "completions": 4}})
    pods = await whole(after, 4)
    for name, one in before.items():
        assert pods[name]["spec"]["nodeName"] == one["spec"]["nodeName"], "a pod that ran was moved"
    await after.api.patch(path, {"spec": {"parallelism": 1, "completions": 1}})
    await after.bound(1)

    async def small() -> bool:
        found = await after.placement("job-train")
        return len(found["spec"]["plan"]["pods"]) == 1

    await after.until(small)


async def test_a_device_that_its_driver_taints_is_left_and_the_gang_goes_on(after: teams.Team) -> None:
    if after.site.home.kubernetes.minor < 36:
        pytest.skip("device taints are off before 1.36")
    pods = await plain(after)
    node = pods["train-0"]["spec"]["nodeName"]
    path, devices = await slice_of(after, node, "gpu-3")
    try:
        told = [one | {"taints": [SICK]} if one["name"] == "gpu-3" else one for one in devices]
        await after.api.patch(path, {"spec": {"devices": told}})
        await after.until(lambda: gone(after, "train-0"))
        await after.create(work.gang("train", 3, notes=work.IN_ONE_RACK)[:1])
        now = await whole(after, 3)
        assert now["train-0"]["spec"]["nodeName"] != node
        for name in ("train-1", "train-2"):
            assert now[name]["metadata"]["uid"] == pods[name]["metadata"]["uid"], "a pod that ran well was moved"
    finally:
        await after.api.patch(path, {"spec": {"devices": devices}})


@pytest.mark.floor
async def test_a_node_that_is_deleted_under_a_gang_is_replaced(after: teams.Team) -> None:
    pods = await plain(after)
    node = pods["train-0"]["spec"]["nodeName"]
    await after.api.delete(paths.of("v1", "nodes", "", node))
    try:
        for name in pods:
            await after.until(lambda name=name: going(after, name))
            with contextlib.suppress(errors.ApiError):  # what the garbage collector of pods does after a minute
                await after.api.delete(after.path("v1", "pods", name), grace_s=0)
        await after.until(after.nothing)
        await after.create(work.gang("train", 3, notes=work.IN_ONE_RACK))
        now = await whole(after, 3)
        assert node not in {one["spec"]["nodeName"] for one in now.values()}
        told = [note for _, reason, note in after.events() if reason == "GangRolledBack"]
        assert not told, "pods that were being evicted were planned again"
    finally:
        await create.create(after.api, sites.FLEET, after.site.home.kubernetes.minor)


async def plain(team: teams.Team) -> dict[str, teams.Obj]:
    """Have three plain pods run in one rack, which has a fourth machine."""
    await team.create(work.gang("train", 3, notes=work.IN_ONE_RACK))
    return await team.bound(3)


async def gone(team: teams.Team, pod: str) -> bool:
    return await team.get("v1", "pods", pod) is None


async def going(team: teams.Team, pod: str) -> bool:
    found = await team.get("v1", "pods", pod)
    return found is None or "deletionTimestamp" in found["metadata"]


async def slice_of(team: teams.Team, node: str, device: str) -> tuple[str, list[teams.Obj]]:
    """Return the path and the devices of the slice that publishes a device of a node."""
    collection = paths.of(paths.RESOURCE, "resourceslices")
    for one in (await team.api.list(collection))[0]:
        devices = one["spec"].get("devices") or []
        if one["spec"].get("nodeName") == node and any(each["name"] == device for each in devices):
            return f"{collection}/{one['metadata']['name']}", devices
    raise LookupError(f"no slice of {node} has {device}")
