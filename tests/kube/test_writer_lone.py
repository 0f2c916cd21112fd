"""Lone pods are written without a record: three requests, and no device twice whoever is stopped where."""

import asyncio
import dataclasses
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from scheduler.apiserver import errors, paths
from scheduler.kube import claim as claims
from scheduler.kube import names, pens, plan, scribe, workload
from scheduler.kube import pod as pods
from tests.kube import live, writing

LONE = workload.Identity("default", "pod-w-0", "Pod")
CLAIMS = "/apis/resource.k8s.io/v1/namespaces/default/resourceclaims"


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[writing.Site]:
    async with writing.site(tmp_path) as found:
        yield found


async def seen(site: writing.Site, one: plan.Plan) -> claims.Claim:
    return claims.read(await site.home.api.get(f"{CLAIMS}/{one.pods[0].claims[0].name}"))


def lone(site: writing.Site, number: int = 0, node: str = "") -> plan.Plan:
    """Return the plan of one pod alone, on the devices that another of the gang's pods had in its plan."""
    pod = site.plan.pods[number]
    if node:
        (claim,) = pod.claims
        moved = tuple(dataclasses.replace(row, pool=node) for row in claim.rows)
        pod = dataclasses.replace(pod, node=node, claims=(dataclasses.replace(claim, rows=moved),))
    return plan.Plan(workload.Identity("default", f"pod-{pod.name}", "Pod"), (pod,), 7)


async def mirrored(site: writing.Site) -> Any:
    """Return what finds pods as they are now."""
    listed, _ = await site.home.api.list("/api/v1/pods")
    found = {(one["metadata"]["namespace"], one["metadata"]["name"]): pods.read(one) for one in listed}
    return found.get


async def test_three_requests_and_no_record(site: writing.Site) -> None:
    one = lone(site)
    writer = site.scribe()
    writer.pods = dataclasses.replace(writer.pods, seen=await mirrored(site))
    await writer.start_lone(one, await seen(site, one))
    assert [method for method, _ in site.api.asked] == ["PATCH", "PUT", "PATCH"]
    await site.home.bound("w-0")
    pod = (await site.home.pods())["w-0"]
    assert pod["metadata"]["annotations"][names.PLANNED_RANK] == "0"
    claim = await site.home.api.get(f"{CLAIMS}/{one.pods[0].claims[0].name}")
    assert [user["uid"] for user in claim["status"]["reservedFor"]] == [one.pods[0].uid]
    assert await site.home.placement("pod-w-0") is None


async def test_a_pod_that_changed_meanwhile_is_read_again(site: writing.Site) -> None:
    one, find = lone(site), await mirrored(site)
    path = "/api/v1/namespaces/default/pods/w-0"
    await site.home.api.patch(path, {"metadata": {"annotations": {"example.com/new": "yes"}}})
    writer = site.scribe()
    writer.pods = dataclasses.replace(writer.pods, seen=find)
    await writer.start_lone(one, await seen(site, one))
    await site.home.bound("w-0")
    assert (await site.home.pods())["w-0"]["metadata"]["annotations"]["example.com/new"] == "yes"


@pytest.mark.parametrize("number", [1, 2])
async def test_a_claim_that_is_refused_is_taken_back(site: writing.Site, number: int) -> None:
    one = lone(site)

    async def refuse(turn: int, *_: object) -> None:
        if turn == number:
            raise errors.ApiError(422, "Invalid", "no", "")

    site.api.before = refuse
    with pytest.raises(scribe.StartFailed, match="no") as failed:
        await site.scribe().start_lone(one, await seen(site, one))
    assert failed.value.stands is None
    assert await site.home.claims() == {} and await site.released() == set()
    claim = await seen(site, one)
    assert not claim.finalizers and not claim.reserved


@pytest.mark.parametrize("clock", [True, False], ids=["clock", "no-clock"])
@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("number", [1, 2, 3])
async def test_a_leader_that_was_stopped_takes_no_device_of_its_successor(
    site: writing.Site, number: int, after: bool, clock: bool
) -> None:
    """The successor gives the devices to another pod, unless they were allocated before it looked.

    Without a clock nothing holds back who was stopped before its first write: no stamp tells of it yet (`pens`).
    """
    held, reached, stopped = asyncio.Event(), asyncio.Event(), [False]

    async def stop(turn: int, *_: object) -> None:
        if turn >= number and not held.is_set():
            stopped[0] = True
            await writing.pause(held, reached)

    setattr(site.api, "after" if after else "before", stop)
    one = lone(site)
    old = site.scribe(leads=lambda: not stopped[0] if clock or (number, after) == (1, False) else True)
    task = asyncio.create_task(old.start_lone(one, await seen(site, one)))
    await asyncio.wait_for(reached.wait(), 10)
    await site.recover(2)
    had = await site.home.claims()
    if not had:
        other = lone(site, 1, one.pods[0].node)
        await site.scribe(2, site.home.api).start_lone(other, await seen(site, other))
    held.set()
    await asyncio.gather(task, return_exceptions=True)
    devices = [device for own in (await site.home.claims()).values() for device in own]
    assert len(devices) == len(set(devices)) == 8
    assert set(await site.home.claims()) == ({"w-0"} if had else {"w-1"})


async def test_a_stamp_of_a_later_leader_is_never_covered(site: writing.Site) -> None:
    one = lone(site)
    before = await seen(site, one)
    await site.home.api.patch(f"{CLAIMS}/{before.name}", {"metadata": {"annotations": {pens.TERM: "5"}}})
    with pytest.raises(scribe.StartFailed, match="term 5 has taken over"):
        await site.scribe(4).start_lone(one, before)
    claim = await seen(site, one)
    assert claim.rows is None and claim.annotations and claim.annotations[pens.TERM] == "5"


async def test_a_whole_scheduler_places_a_lone_pod_without_a_record(tmp_path: Path) -> None:
    async with live.cluster(tmp_path) as home:
        await home.start()
        await home.create(live.pod("alone"))
        await home.bound("alone")
        records, _ = await home.api.list(paths.of(names.API_VERSION, names.PLURAL))
        assert records == []

        async def told() -> Any:
            found, _ = await home.api.list("/apis/events.k8s.io/v1/namespaces/default/events")
            return [one for one in found if one["regarding"]["name"] == "alone" and one["reason"] == "GangPlanned"]

        (event,) = await home.until(told)
        assert not event.get("series") and not event.get("deprecatedCount"), "told once"
        assert len((await home.claims())["alone"]) == 8
        await home.api.delete("/api/v1/namespaces/default/pods/alone", grace_s=0)

        async def free() -> bool:
            assert home.scheduler and home.scheduler.shell
            return home.scheduler.shell.machine.snapshot.free_gpus == 32 and not await home.claims()

        await home.until(free)
