"""Room for a gang that waits: told where that is the policy, made where that is."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from scheduler.apiserver import errors, paths
from tests.kube import live
from tests.kube.test_verifier import free, told, true


@pytest.fixture
async def home(tmp_path: Path) -> AsyncIterator[live.Cluster]:
    async with live.cluster(tmp_path, "hgx-h100=2") as found:
        yield found


async def owned(home: live.Cluster, name: str) -> dict[str, Any]:
    """Return a pod of four GPUs that some controller has made."""
    owner = await home.api.get(paths.of(paths.RESOURCE, "resourceclaimtemplates", "default", "four"))
    made = live.pod(name, name, 1, "four")
    reference = {"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": name, "controller": True}
    made["metadata"]["ownerReferences"] = [reference | {"uid": owner["metadata"]["uid"]}]
    return made


@contextlib.asynccontextmanager
async def made_anew(home: live.Cluster, *wanted: dict[str, Any]) -> AsyncIterator[None]:
    """Make pods anew when they are gone, as their controllers would, some time later."""

    async def run() -> None:
        while True:
            await asyncio.sleep(1.0)
            there = await home.pods()
            for one in wanted:
                if one["metadata"]["name"] not in there:
                    with contextlib.suppress(errors.ApiError):
                        await home.create(one)

    task = asyncio.create_task(run())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def delete(home: live.Cluster, name: str) -> None:
    await home.api.delete(f"/api/v1/namespaces/default/pods/{name}", grace_s=0)


async def scattered(home: live.Cluster) -> list[dict[str, Any]]:
    """Leave four GPUs of each node to a gang that could be on the other as well."""
    first, last = await owned(home, "first"), await owned(home, "last")
    await home.create(live.pod("a", "a", 1, "four"))
    await home.bound("a")
    await home.create(first)
    await home.bound("first")
    await home.create(last)
    where = await home.bound("a", "first", "last")
    assert where["a"] == where["first"] != where["last"]
    await delete(home, "a")
    await home.until(lambda: true(free(home) == 8))
    return [first, last]


async def message(home: live.Cluster, gang: str) -> str:
    found = await home.placement(gang)
    return str((found or {}).get("status", {}).get("message", ""))


async def test_gangs_move_where_that_is_allowed_and_all_run(home: live.Cluster) -> None:
    await home.start(defragment="execute", move_after_s=0)
    small = await scattered(home)
    async with made_anew(home, *small):
        await home.create(live.pod("big", "big", 1, "eight"))
        await home.until(lambda: told(home, "GangEvicted", "Pod"))
        await home.create(live.pod("rival", "rival", 1, "four"))  # the devices are kept for the gang that moves
        await home.bound("big")

        async def all_run() -> bool:
            there = await home.pods()
            return {name for name, one in there.items() if one["spec"].get("nodeName")} == {"big", "first", "last"}

        await home.until(all_run)
        where = await home.bound("big", "first", "last")
    assert where["first"] == where["last"] != where["big"]
    claims = await home.claims()
    devices = [device for one in claims.values() for device in one]
    assert len(devices) == len(set(devices)) == 16
    moved = await told(home, "GangEvicted", "Pod")
    assert len(moved) == 1 and "put elsewhere" in moved[0]["note"]
    assert home.scheduler and home.scheduler.shell and not home.scheduler.shell.verifier.found
    await home.until(lambda: true(free(home) == 0))


async def test_moves_are_offered_where_that_is_the_policy(home: live.Cluster) -> None:
    await home.start(defragment="offer", move_after_s=0)
    await scattered(home)
    await home.create(live.pod("big", "big", 1, "eight"))
    [event] = await home.until(lambda: told(home, "RoomOffered", "Pod"))
    assert event["regarding"]["name"] == "big" and "--defragment execute" in event["note"]

    async def offered() -> str:
        text = await message(home, "gang-big")
        return text if "moved" in text else ""

    text = await home.until(offered)
    assert "default/gang-first to" in text or "default/gang-last to" in text
    record = await home.placement("gang-big")
    assert record is not None
    offer = record["status"]["offer"]
    [moved] = offer["gangs"]
    assert offer["way"] == "defragment" and moved["gang"] in ("default/gang-first", "default/gang-last")
    assert moved["domain"] == offer["domain"] != moved["movesTo"]
    assert set(await home.pods()) == {"big", "first", "last"}
    await delete(home, moved["gang"].rpartition("-")[2])
    await home.bound("big")

    async def gone() -> bool:
        return "offer" not in (await home.placement("gang-big") or {"status": {"offer": 1}})["status"]

    await home.until(gone)


async def test_victims_are_offered_and_the_offer_goes_when_it_does_not_hold_any_more(
    home: live.Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("scheduler.kube.offers.AGAIN_S", 0.2)
    await home.start()
    await home.create(live.pod("low", "low", 1, "eight"), live.pod("firm", "firm", 1, "eight", preemptible="false"))
    await home.bound("low", "firm")
    high = live.pod("high", "high", 1, "eight")
    high["spec"]["priority"] = 1000
    await home.create(high)
    [event] = await home.until(lambda: told(home, "RoomOffered", "Pod"))
    assert "default/gang-low (priority 0)" in event["note"] and "--preempt execute" in event["note"]
    assert "gang-firm" not in event["note"]
    await delete(home, "low")
    await home.bound("high")
    more = live.pod("more", "more", 1, "eight")
    more["spec"]["priority"] = 1000
    await home.create(more)

    async def waits() -> str:
        text = await message(home, "gang-more")
        return text if "8 GPUs" in text else ""

    assert "evicted" not in await home.until(waits)


async def test_nothing_is_offered_where_that_is_the_policy(home: live.Cluster) -> None:
    await home.start(preempt="never")
    await home.create(live.pod("low", "low", 2, "eight"), live.pod("low-1", "low", 2, "eight"))
    await home.bound("low", "low-1")
    high = live.pod("high", "high", 1, "eight")
    high["spec"]["priority"] = 1000
    await home.create(high)
    await home.until(lambda: message(home, "gang-high"))
    await asyncio.sleep(1)
    assert not await told(home, "RoomOffered") and set(await home.pods()) == {"low", "low-1", "high"}
