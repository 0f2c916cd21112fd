"""Devices that only Muster gives away: a taint keeps kube-scheduler off them, and our allocation needs no toleration."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator

import pytest

from scheduler.apiserver import paths
from tests.testbed import objects
from tests.testbed.assumptions import world

RULES = paths.of(paths.RESOURCE, "devicetaintrules")


@contextlib.asynccontextmanager
async def owned(here: world.World) -> AsyncIterator[str]:
    """Publish two tainted devices of a driver of this test on kw-2; yield the driver, whose class has its name."""
    driver = f"{here.namespace}.muster.dev"
    slices, classes = (paths.of(paths.RESOURCE, plural) for plural in ("resourceslices", "deviceclasses"))
    made = objects.resource_slice(f"{here.namespace}-o", driver, "kw-2", ["gpu-0", "gpu-1"])
    for device in made["spec"]["devices"]:
        device["taints"] = [{"key": "muster.dev/owned", "effect": "NoSchedule"}]
    await here.api.create(slices, made)
    await here.api.create(classes, objects.device_class(driver, driver))
    try:
        yield driver
    finally:
        await here.api.delete(f"{slices}/{here.namespace}-o")
        await here.api.delete(f"{classes}/{driver}")


async def test_a_plain_claim_cannot_be_allocated_by_the_stock_scheduler(here: world.World) -> None:
    async with owned(here) as driver:
        await here.create(objects.claim("plain", driver))
        await here.create(objects.pod("stock", claims=["plain"]))
        if here.minor < 36:
            await here.bound("stock")  # taints are off there: something else has to protect our devices
        else:
            await here.never_bound("stock")
            told = [one["message"] for one in (await here.get("pods", "stock"))["status"]["conditions"]]
            assert any("cannot allocate all claims" in message for message in told)


async def test_a_claim_that_we_allocate_binds_without_a_toleration(here: world.World) -> None:
    if here.minor < 36:
        pytest.skip("no device taints on 1.34")
    async with owned(here) as driver:
        await here.create(objects.claim("ours", driver))
        await here.create(objects.pod("w", claims=["ours"], gates=[world.GATE]))
        await here.allocate("ours", "kw-2", ["gpu-1"], driver=driver)
        await here.ungate("w", "kw-2")
        await here.bound("w")
        assert await here.devices("ours") == ["gpu-1"]


async def test_one_rule_owns_all_devices_of_a_driver(here: world.World) -> None:
    if here.minor < 36:
        pytest.skip("no device taint rules on 1.34")
    rule = {
        "metadata": {"name": here.namespace},
        "spec": {
            "deviceSelector": {"driver": world.DRIVER, "pool": "kw-0"},
            "taint": {"key": "muster.dev/owned", "effect": "NoSchedule"},
        },
    }
    await here.api.create(RULES, rule)
    try:
        await here.create(objects.claim("plain", "gpu.test"))
        await here.create(objects.pod("stock", node="kw-0", claims=["plain"]))
        await here.never_bound("stock")
    finally:
        await here.api.delete(f"{RULES}/{here.namespace}")
    await here.bound("stock", 30)
