"""Native pod groups with members that are gated, allocated and pinned by somebody else (KEP-4671)."""

from __future__ import annotations

from typing import Any

import pytest

from scheduler.apiserver import paths
from tests.testbed import objects
from tests.testbed.assumptions import world

API = "scheduling.k8s.io/v1beta1"


@pytest.fixture(autouse=True)
def served(here: world.World) -> None:
    if here.minor < 37:
        pytest.skip("PodGroup v1beta1 is served from 1.37 on")


async def group(here: world.World, minimum: int) -> None:
    spec = {"schedulingPolicy": {"gang": {"minCount": minimum}}}
    body = {"apiVersion": API, "kind": "PodGroup", "metadata": {"name": "g"}, "spec": spec}
    await here.api.create(paths.of(API, "podgroups", here.namespace), body)


def member(name: str, **more: Any) -> dict[str, Any]:
    return objects.pod(name, schedulingGroup={"podGroupName": "g"}, **more)


async def test_no_member_binds_before_the_minimum_exists(here: world.World) -> None:
    await group(here, 2)
    await here.create(member("a"))
    await here.never_bound("a")
    await here.create(member("b"))
    await here.bound("a", 30)
    await here.bound("b", 30)


async def test_a_gated_member_holds_the_group(here: world.World) -> None:
    await group(here, 2)
    await here.create(member("a"))
    await here.create(member("b", gates=[world.GATE]))
    await here.never_bound("a")
    await here.ungate("b")
    await here.bound("a", 30)


async def test_members_that_we_allocated_and_pinned_bind_where_we_said(here: world.World) -> None:
    await group(here, 2)
    places = {"a": ("kw-2", "gpu-7"), "b": ("kw-1", "gpu-3")}
    for name, (node, device) in places.items():
        await here.create(objects.claim(f"c-{name}", "gpu.test"))
        await here.create(member(name, claims=[f"c-{name}"], gates=[world.GATE]))
        await here.allocate(f"c-{name}", node, [device])
    for name, (node, _) in places.items():
        await here.ungate(name, node)
    for name, (node, device) in places.items():
        assert (await here.bound(name, 30))["spec"]["nodeName"] == node
        assert await here.devices(f"c-{name}") == [device]


async def test_the_group_of_a_pod_never_changes(here: world.World) -> None:
    await group(here, 2)
    await here.create(member("a", gates=[world.GATE]))
    change = {"spec": {"schedulingGroup": {"podGroupName": "other"}}}
    assert (await here.refused(here.api.patch(here.path("pods", "a"), change))).status == 422
