"""Patches of three kinds, and server-side apply."""

from __future__ import annotations

from typing import Any

from scheduler.apiserver import client
from tests.testbed import objects as bodies
from tests.testbed.assumptions import world
from tests.testbed.contract.suite import objects


async def test_a_merge_patch_adds_changes_and_removes(here: world.World) -> None:
    await objects.put(here, "a", x="1", y="2")
    change = {"data": {"x": "3", "y": None, "z": "4"}}
    assert (await here.api.patch(here.path("configmaps", "a"), change))["data"] == {"x": "3", "z": "4"}


async def test_a_merge_patch_with_an_old_version_is_a_conflict(here: world.World) -> None:
    old = await objects.put(here, "a", x="1")
    await here.api.patch(here.path("configmaps", "a"), {"data": {"x": "2"}})
    change = {"metadata": {"resourceVersion": old["metadata"]["resourceVersion"]}, "data": {"x": "3"}}
    assert (await here.refused(here.api.patch(here.path("configmaps", "a"), change))).conflict


async def test_a_patch_with_another_uid_is_refused(here: world.World) -> None:
    await objects.put(here, "a")
    change = {"metadata": {"uid": "00000000-0000-4000-8000-000000000000"}, "data": {"x": "3"}}
    error = await here.refused(here.api.patch(here.path("configmaps", "a"), change))
    assert error.status == 422 and "metadata.uid" in error.message


async def json_patch(here: world.World, name: str, *steps: Any) -> Any:
    return await here.api.patch(here.path("configmaps", name), list(steps), client.JSON_PATCH)


async def test_a_json_patch_goes_step_by_step(here: world.World) -> None:
    await objects.put(here, "a", x="1")
    found = await json_patch(
        here,
        "a",
        {"op": "test", "path": "/data/x", "value": "1"},
        {"op": "replace", "path": "/data/x", "value": "2"},
        {"op": "add", "path": "/data/y", "value": "3"},
    )
    assert found["data"] == {"x": "2", "y": "3"}


async def test_a_json_patch_whose_test_fails_changes_nothing(here: world.World) -> None:
    await objects.put(here, "a", x="1")
    steps = [{"op": "add", "path": "/data/y", "value": "3"}, {"op": "test", "path": "/data/x", "value": "9"}]
    assert (await here.refused(json_patch(here, "a", *steps))).status == 422
    assert (await here.api.get(here.path("configmaps", "a")))["data"] == {"x": "1"}


async def test_a_json_patch_of_what_is_not_there_is_refused(here: world.World) -> None:
    await objects.put(here, "a", x="1")
    assert (await here.refused(json_patch(here, "a", {"op": "remove", "path": "/data/none"}))).status == 422


async def test_a_strategic_patch_merges_lists_by_their_key(here: world.World) -> None:
    await here.create(bodies.pod("w", gates=[world.GATE, "other.dev/gate"]))
    change = {"spec": {"schedulingGates": [{"$patch": "delete", "name": world.GATE}]}}
    found = await here.api.patch(here.path("pods", "w"), change, client.STRATEGIC)
    assert found["spec"]["schedulingGates"] == [{"name": "other.dev/gate"}]


async def test_conditions_of_a_pod_are_merged_by_type(here: world.World) -> None:
    await here.create(bodies.pod("w", gates=[world.GATE]))
    condition = {"type": "muster.dev/Planned", "status": "True"}
    change = {"status": {"conditions": [condition]}}
    found = await here.api.patch(here.path("pods", "w", "status"), change, client.STRATEGIC)
    assert "muster.dev/Planned" in {one["type"] for one in found["status"]["conditions"]}
    again = {"status": {"conditions": [condition | {"status": "False"}]}}
    found = await here.api.patch(here.path("pods", "w", "status"), again, client.STRATEGIC)
    ours = [one["status"] for one in found["status"]["conditions"] if one["type"] == "muster.dev/Planned"]
    assert ours == ["False"]


async def test_an_apply_creates_and_then_owns_its_fields(here: world.World) -> None:
    path = here.path("configmaps", "a")
    await here.api.apply(path, objects.config("a", x="1", y="2"), "muster")
    found = await here.api.apply(path, objects.config("a", x="1"), "muster")
    assert found["data"] == {"x": "1"}, "a field that its owner no longer names goes"


async def test_an_apply_leaves_the_fields_of_others(here: world.World) -> None:
    path = here.path("configmaps", "a")
    await here.api.apply(path, objects.config("a", x="1"), "muster")
    await here.api.apply(path, objects.config("a", y="2"), "other")
    found = await here.api.apply(path, objects.config("a", x="3"), "muster")
    assert found["data"] == {"x": "3", "y": "2"}


async def test_an_apply_to_the_field_of_another_is_a_conflict_unless_forced(here: world.World) -> None:
    path = here.path("configmaps", "a")
    await here.api.apply(path, objects.config("a", x="1"), "other")
    error = await here.refused(here.api.apply(path, objects.config("a", x="2"), "muster", force=False))
    assert error.status == 409 and "conflict" in error.message.lower()
    found = await here.api.apply(path, objects.config("a", x="2"), "muster", force=True)
    assert found["data"] == {"x": "2"}


async def test_an_apply_of_the_same_makes_no_version(here: world.World) -> None:
    path = here.path("configmaps", "a")
    one = await here.api.apply(path, objects.config("a", x="1"), "muster")
    two = await here.api.apply(path, objects.config("a", x="1"), "muster")
    assert one["metadata"]["resourceVersion"] == two["metadata"]["resourceVersion"]
