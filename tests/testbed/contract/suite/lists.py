"""Lists in pages, selectors, and watches from a version on."""

from __future__ import annotations

import asyncio
from typing import Any

import orjson

from scheduler.apiserver import watch
from tests.testbed import objects as bodies
from tests.testbed.assumptions import world
from tests.testbed.contract.suite import objects


def names(items: list[dict[str, Any]]) -> list[str]:
    return sorted(one["metadata"]["name"] for one in items if not one["metadata"]["name"].startswith("kube-"))


async def test_pages_together_are_the_list_of_one_version(here: world.World) -> None:
    for index in range(7):
        await objects.put(here, f"c{index}")
    seen, versions, pages = [], set(), 0
    async for body in here.api.pages(here.path("configmaps"), limit="3"):
        page = orjson.loads(body)
        pages += 1
        versions.add(page["metadata"]["resourceVersion"])
        seen += names(page["items"])
        if pages == 1:
            await objects.put(here, "later")
    assert seen == [f"c{index}" for index in range(7)] and len(versions) == 1 and pages == 3


async def test_labels_and_fields_select(here: world.World) -> None:
    for name, group in (("a", "x"), ("b", "x"), ("c", "y")):
        body = objects.config(name)
        body["metadata"]["labels"] = {"group": group}
        await here.api.create(here.path("configmaps"), body)
    path = here.path("configmaps")

    async def found(**selector: str) -> list[str]:
        return names((await here.api.list(path, **selector))[0])

    assert await found(labelSelector="group=x") == ["a", "b"]
    assert await found(labelSelector="group!=x") == ["c"]
    assert await found(labelSelector="group in (y, z)") == ["c"]
    assert await found(labelSelector="group,group notin (x)") == ["c"]
    assert await found(labelSelector="!group") == []
    assert await found(fieldSelector="metadata.name=b") == ["b"]
    assert (await here.refused(here.api.list(path, fieldSelector="data.x=1"))).status == 400


async def test_pods_are_selected_by_node_and_phase(here: world.World) -> None:
    await here.create(bodies.pod("gated", gates=[world.GATE]))
    await here.create(bodies.pod("placed", node="kw-1"))
    await here.bound("placed")
    path = here.path("pods")
    assert names((await here.api.list(path, fieldSelector="spec.nodeName=kw-1"))[0]) == ["placed"]
    assert "gated" in names((await here.api.list(path, fieldSelector="status.phase=Pending"))[0])


async def collect(here: world.World, count: int, told: list[tuple[str, str]], **params: str) -> None:
    """Follow the ConfigMaps of the namespace until `count` changes were told."""
    async for event in watch.follow(here.api, here.path("configmaps"), **params):
        match event:
            case watch.Changed(item) if not item["metadata"]["name"].startswith("kube-"):
                told.append(("changed", item["metadata"]["name"]))
            case watch.Deleted(item):
                told.append(("deleted", item["metadata"]["name"]))
        if len(told) >= count:
            return


async def test_a_watch_tells_every_change_in_order(here: world.World) -> None:
    told: list[tuple[str, str]] = []
    listening = asyncio.create_task(collect(here, 4, told))
    await asyncio.sleep(0.5)
    await objects.put(here, "a", x="1")
    await here.api.patch(here.path("configmaps", "a"), {"data": {"x": "2"}})
    await objects.put(here, "b")
    await here.api.delete(here.path("configmaps", "a"))
    await asyncio.wait_for(listening, 10)
    assert told == [("changed", "a"), ("changed", "a"), ("changed", "b"), ("deleted", "a")]


async def test_what_no_longer_fits_a_selector_is_told_as_deleted(here: world.World) -> None:
    body = objects.config("a")
    body["metadata"]["labels"] = {"group": "x"}
    await here.api.create(here.path("configmaps"), body)
    told: list[tuple[str, str]] = []
    listening = asyncio.create_task(collect(here, 1, told, labelSelector="group=x"))
    await asyncio.sleep(0.5)
    await here.api.patch(here.path("configmaps", "a"), {"metadata": {"labels": {"group": "y"}}})
    await asyncio.wait_for(listening, 10)
    assert told == [("deleted", "a")]


async def test_a_watch_from_an_old_version_tells_what_came_since(here: world.World) -> None:
    first = await objects.put(here, "a")
    await objects.put(here, "b")
    version = first["metadata"]["resourceVersion"]
    params = {"watch": "1", "resourceVersion": version, "timeoutSeconds": "2"}
    body = await here.api.request("GET", here.path("configmaps"), params=params)
    told = [orjson.loads(line) for line in body.splitlines()]
    assert [one["object"]["metadata"]["name"] for one in told if one["type"] == "ADDED"] == ["b"]


async def test_a_watch_ends_when_it_was_asked_to(here: world.World) -> None:
    params = {"watch": "1", "resourceVersion": "0", "timeoutSeconds": "1"}
    async with asyncio.timeout(8):
        await here.api.request("GET", here.path("configmaps"), params=params)
