"""What a ResourceSlice may hold, by version (dra.md 2.2; scheduling.md 2.9), and what first fit makes of its order."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import Any

import pytest

from scheduler.apiserver import paths
from tests.testbed import objects
from tests.testbed.assumptions import world

SLICES = paths.of(paths.RESOURCE, "resourceslices")


@contextlib.asynccontextmanager
async def published(here: world.World, **spec: Any) -> AsyncIterator[Any]:
    """Create a slice of a pool of its own on a node that has no other, and take it away."""
    made = objects.resource_slice(f"{here.namespace}-s", "limits.muster.dev", "kw-0", [])
    made["spec"]["pool"]["name"] = here.namespace
    made["spec"] |= spec
    if "devices" not in spec:
        del made["spec"]["devices"]
    found = await here.api.create(SLICES, made)
    try:
        yield found
    finally:
        await here.api.delete(f"{SLICES}/{found['metadata']['name']}")


def devices(count: int, **more: Any) -> list[dict[str, Any]]:
    return [{"name": f"d{index}"} | more for index in range(count)]


TAINT = {"taints": [{"key": "muster.dev/owned", "effect": "NoSchedule"}]}


async def refusal(here: world.World, **spec: Any) -> str:
    made = objects.resource_slice(f"{here.namespace}-r", "limits.muster.dev", "kw-0", [])
    made["spec"] |= spec
    error = await here.refused(here.api.create(SLICES, made))
    assert error.status == 422
    return error.message


async def test_128_plain_devices_are_the_limit(here: world.World) -> None:
    async with published(here, devices=devices(128)) as found:
        assert len(found["spec"]["devices"]) == 128
    assert "128" in await refusal(here, devices=devices(129))


async def test_64_devices_with_taints_are_the_limit(here: world.World) -> None:
    if here.minor < 36:
        pytest.skip("1.34 drops taints; see below")
    async with published(here, devices=devices(64, **TAINT)):
        pass
    assert "64" in await refusal(here, devices=devices(65, **TAINT))


async def test_fields_behind_a_gate_that_is_off_are_dropped_in_silence(here: world.World) -> None:
    """Only the answer tells: a driver has to compare it with what it sent."""
    async with published(here, devices=devices(1, **TAINT)) as found:
        assert ("taints" in found["spec"]["devices"][0]) == (here.minor >= 36)


async def test_partitions_and_counters_by_version(here: world.World) -> None:
    """1.36 and later hold counters in slices of their own; on 1.34 both are dropped."""
    sets = [{"name": "gpu-0", "counters": {"memory": {"value": "80Gi"}}}]
    part = {"consumesCounters": [{"counterSet": "gpu-0", "counters": {"memory": {"value": "10Gi"}}}]}
    if here.minor >= 36:
        assert "sharedCounters" in await refusal(here, sharedCounters=sets, devices=devices(2, **part))
        async with published(here, sharedCounters=sets) as found:
            assert found["spec"]["sharedCounters"] == sets
    else:
        async with published(here, sharedCounters=sets, devices=devices(2, **part)) as found:
            assert "sharedCounters" not in found["spec"]
            assert "consumesCounters" not in found["spec"]["devices"][0]


async def test_driver_and_node_of_a_slice_never_change(here: world.World) -> None:
    async with published(here, devices=devices(1)) as found:
        path = f"{SLICES}/{found['metadata']['name']}"
        for change in ({"nodeName": "kw-1"}, {"driver": "other.muster.dev"}, {"pool": {"name": "other"}}):
            error = await here.refused(here.api.patch(path, {"spec": change}))
            assert error.status == 422


async def test_versions_in_attributes_have_to_be_semantic(here: world.World) -> None:
    named = devices(1, attributes={"driverVersion": {"version": "550.54"}})
    assert "version" in (await refusal(here, devices=named)).lower()
    async with published(here, devices=devices(1, attributes={"driverVersion": {"version": "550.54.15"}})):
        pass


async def test_slices_can_be_selected_by_node_and_driver(here: world.World) -> None:
    async with published(here, devices=devices(1)):
        selector = "spec.nodeName=kw-0,spec.driver=limits.muster.dev"
        items, _ = await here.api.list(SLICES, fieldSelector=selector)
        assert [one["spec"]["pool"]["name"] for one in items] == [here.namespace]


async def test_a_pool_that_waits_for_a_slice_of_its_generation_is_not_used(here: world.World) -> None:
    """So a pool is changed in one slice, or looks incomplete for a while; 1.34 takes what it has seen of it."""
    driver = f"{here.namespace}.muster.dev"
    classes = paths.of(paths.RESOURCE, "deviceclasses")
    await here.api.create(classes, objects.device_class(driver, driver))
    half = objects.resource_slice(f"{here.namespace}-h", driver, "kw-0", ["d0"])
    half["spec"]["pool"]["resourceSliceCount"] = 2
    await here.api.create(SLICES, half)
    await here.create(objects.claim("c", driver))
    await here.create(objects.pod("w", claims=["c"]))
    if here.minor >= 36:
        await here.never_bound("w")
    rest = objects.resource_slice(f"{here.namespace}-i", driver, "kw-0", ["d1"])
    rest["spec"]["pool"]["resourceSliceCount"] = 2
    await here.api.create(SLICES, rest)
    await here.bound("w", 30)
    for name in ("h", "i"):
        await here.api.delete(f"{SLICES}/{here.namespace}-{name}")
    await here.api.delete(f"{classes}/{driver}")
