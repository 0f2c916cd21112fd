"""Objects: names, versions, conflicts, deletion."""

from __future__ import annotations

import asyncio
from typing import Any

from scheduler.apiserver import paths
from tests.testbed.assumptions import world

COUNTED = ("uid", "resourceVersion", "creationTimestamp")


def config(name: str, **data: str) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": data}


async def put(here: world.World, name: str, **data: str) -> Any:
    return await here.api.create(here.path("configmaps"), config(name, **data))


async def test_a_created_object_has_identity_and_version(here: world.World) -> None:
    made = await put(here, "a", x="1")
    assert all(made["metadata"][field] for field in COUNTED)
    assert made["kind"] == "ConfigMap" and made["metadata"]["namespace"] == here.namespace
    assert await here.api.get(here.path("configmaps", "a")) == made


async def test_a_create_on_trial_is_answered_and_not_stored(here: world.World) -> None:
    made = await here.api.create(here.path("configmaps"), config("a", x="1"), dryRun="All")
    assert made["metadata"]["uid"] and made["data"] == {"x": "1"}
    await put(here, "a", x="2")
    assert (await here.api.get(here.path("configmaps", "a")))["data"] == {"x": "2"}


async def test_a_second_of_the_same_name_exists_already(here: world.World) -> None:
    await put(here, "a")
    error = await here.refused(put(here, "a"))
    assert error.exists and not error.conflict


async def test_what_is_not_there_is_not_found(here: world.World) -> None:
    for request in (
        here.api.get(here.path("configmaps", "none")),
        here.api.delete(here.path("configmaps", "none")),
        here.api.patch(here.path("configmaps", "none"), {"data": {}}),
        here.api.get(paths.of("v1", "nonesuches", here.namespace)),
        here.api.get("/apis/none.such/v1/things"),
    ):
        assert (await here.refused(request)).missing


async def test_a_prefix_becomes_a_name(here: world.World) -> None:
    body = config("") | {"metadata": {"generateName": "made-"}}
    names = {(await here.api.create(here.path("configmaps"), body))["metadata"]["name"] for _ in range(3)}
    assert len(names) == 3 and all(name.startswith("made-") and len(name) == len("made-") + 5 for name in names)


async def test_a_name_has_to_be_a_name(here: world.World) -> None:
    error = await here.refused(put(here, "Not_A_Name"))
    assert error.status == 422 and error.reason == "Invalid" and "metadata.name" in error.message


async def test_an_object_needs_a_name(here: world.World) -> None:
    error = await here.refused(here.api.create(here.path("configmaps"), {"data": {}}))
    assert error.status == 422 and "name or generateName is required" in error.message


async def test_an_update_of_an_old_version_is_a_conflict(here: world.World) -> None:
    old = await put(here, "a", x="1")
    new = await here.api.replace(here.path("configmaps", "a"), old | {"data": {"x": "2"}})
    assert int(new["metadata"]["resourceVersion"]) > int(old["metadata"]["resourceVersion"])
    error = await here.refused(here.api.replace(here.path("configmaps", "a"), old | {"data": {"x": "3"}}))
    assert error.conflict and error.status == 409


async def test_an_update_without_a_version_wins(here: world.World) -> None:
    await put(here, "a", x="1")
    await here.api.replace(here.path("configmaps", "a"), config("a", x="2"))
    assert (await here.api.get(here.path("configmaps", "a")))["data"] == {"x": "2"}


async def test_an_update_that_changes_nothing_makes_no_version(here: world.World) -> None:
    old = await put(here, "a", x="1")
    same = await here.api.replace(here.path("configmaps", "a"), old)
    assert same["metadata"]["resourceVersion"] == old["metadata"]["resourceVersion"]


async def test_identity_never_changes(here: world.World) -> None:
    old = await put(here, "a")
    other = old | {"metadata": old["metadata"] | {"uid": "00000000-0000-4000-8000-000000000000"}}
    assert (await here.refused(here.api.replace(here.path("configmaps", "a"), other))).status == 409


async def test_a_finalizer_holds_a_deletion(here: world.World) -> None:
    body = config("a")
    body["metadata"]["finalizers"] = ["muster.dev/hold"]
    await here.api.create(here.path("configmaps"), body)
    await here.api.delete(here.path("configmaps", "a"))
    held = await here.api.get(here.path("configmaps", "a"))
    assert held["metadata"]["deletionTimestamp"]
    more = {"metadata": {"finalizers": ["muster.dev/hold", "muster.dev/late"]}}
    error = await here.refused(here.api.patch(here.path("configmaps", "a"), more))
    assert error.status in (403, 422)
    await here.api.patch(here.path("configmaps", "a"), {"metadata": {"finalizers": None}})
    assert await here.get("configmaps", "a") is None


async def test_a_deletion_keeps_its_preconditions(here: world.World) -> None:
    made = await put(here, "a")
    path = here.path("configmaps", "a")
    wrong = "00000000-0000-4000-8000-000000000000"
    assert (await here.refused(here.api.delete(path, uid=wrong))).status == 409
    assert (await here.refused(here.api.delete(path, version="1"))).status == 409
    await here.api.delete(path, uid=made["metadata"]["uid"], version=made["metadata"]["resourceVersion"])
    assert await here.get("configmaps", "a") is None


async def test_a_collection_is_deleted_by_its_selector(here: world.World) -> None:
    for name, label in (("a", "x"), ("b", "x"), ("c", "y")):
        body = config(name)
        body["metadata"]["labels"] = {"group": label}
        await here.api.create(here.path("configmaps"), body)
    await here.api.delete(here.path("configmaps"), labelSelector="group=x")
    assert await here.get("configmaps", "a") is None and await here.get("configmaps", "c")


async def test_an_owner_takes_what_it_owns_along(here: world.World) -> None:
    owner = await put(here, "owner")
    reference = {"apiVersion": "v1", "kind": "ConfigMap", "name": "owner", "uid": owner["metadata"]["uid"]}
    body = config("owned")
    body["metadata"]["ownerReferences"] = [reference]
    await here.api.create(here.path("configmaps"), body)
    await here.api.delete(here.path("configmaps", "owner"))

    async def gone() -> bool:
        return await here.get("configmaps", "owned") is None

    await here.until(gone)


async def test_a_namespace_takes_its_objects_along(here: world.World) -> None:
    name = f"{here.namespace}-x"
    spaces = paths.of("v1", "namespaces")
    await here.api.create(spaces, {"metadata": {"name": name}})
    await here.api.create(paths.of("v1", "configmaps", name), config("a"))
    await here.api.delete(f"{spaces}/{name}")

    async def gone() -> bool:
        items, _ = await here.api.list(spaces, fieldSelector=f"metadata.name={name}")
        return not items

    await here.until(gone)


async def test_a_status_is_written_apart(here: world.World) -> None:
    """A write of the object leaves its status alone, a write of the status leaves the rest alone."""
    nodes = paths.of("v1", "nodes")
    name = f"{here.namespace}-n"
    await here.api.create(nodes, {"metadata": {"name": name}})
    path = f"{nodes}/{name}"
    await here.api.patch(f"{path}/status", {"metadata": {"labels": {"a": "b"}}, "status": {"phase": "Running"}})
    await here.api.patch(path, {"metadata": {"labels": {"c": "d"}}, "status": {"phase": "Pending"}})
    found = await here.api.get(path)
    assert found["status"]["phase"] == "Running" and found["metadata"]["labels"]["c"] == "d"
    await here.api.delete(path)


async def test_a_malformed_body_is_a_bad_request(here: world.World) -> None:
    error = await here.refused(here.api.request("POST", here.path("configmaps"), b'{"metadata": '))
    assert error.status == 400 and error.reason == "BadRequest"


async def test_an_object_of_another_kind_is_a_bad_request(here: world.World) -> None:
    error = await here.refused(here.api.create(here.path("configmaps"), config("a") | {"kind": "Secret"}))
    assert error.status == 400


async def test_a_name_in_the_body_has_to_be_that_of_the_path(here: world.World) -> None:
    await put(here, "a")
    error = await here.refused(here.api.replace(here.path("configmaps", "a"), config("b")))
    assert error.status == 400


async def test_a_version_at_creation_is_refused(here: world.World) -> None:
    body = config("a")
    body["metadata"]["resourceVersion"] = "5"
    error = await here.refused(here.api.create(here.path("configmaps"), body))
    assert error.status == 500 and "resourceVersion should not be set" in error.message


async def test_many_writers_of_one_object_lose_nothing(here: world.World) -> None:
    await put(here, "a", count="0")

    async def add() -> None:
        while True:
            found = await here.api.get(here.path("configmaps", "a"))
            found["data"]["count"] = str(int(found["data"]["count"]) + 1)
            try:
                await here.api.replace(here.path("configmaps", "a"), found)
                return
            except Exception as error:
                if not getattr(error, "conflict", False):
                    raise

    await asyncio.gather(*(add() for _ in range(8)))
    assert (await here.api.get(here.path("configmaps", "a")))["data"] == {"count": "8"}
