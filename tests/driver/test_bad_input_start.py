"""NVML that fails, or folders that cannot be written, when the driver starts: it stays, says so, and loses nothing."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from scheduler.apiserver import paths
from tests.driver import kubelet, small_disk
from tests.driver.test_live_kill import MADE
from tests.driver.victim import UP_S, Server, Victim, calling, prepared, serving, victim
from tests.driver.zygote import Zygote
from tests.hardware import machine

pytestmark = pytest.mark.slow

DRIVER_NOT_LOADED, RM_MISMATCH, UNKNOWN = 9, 18, 999


async def devices(server: Server) -> set[str]:
    """Return the names of the devices that are published."""
    items, _ = await server.api.list(paths.of(paths.RESOURCE, "resourceslices"))
    return {one["name"] for item in items for one in item["spec"].get("devices") or ()}


@contextlib.asynccontextmanager
async def two_prepared(folder: Path, starter: Zygote) -> AsyncIterator[tuple[Server, Victim]]:
    """A node whose driver is stopped, with both claims of it prepared."""
    async with serving(folder) as server:
        with victim(folder / "n", server.kubeconfig, starter) as driver:
            assert await driver.come_up()
            async with calling(driver) as calls:
                assert await prepared(calls, server.claims["cut"], server.claims["whole"]) == ["", ""]
            await published(server, something=True)
            driver.kill()
            yield server, driver


async def published(server: Server, *, something: bool) -> None:
    async with asyncio.timeout(UP_S):
        while bool(await devices(server)) != something:
            await asyncio.sleep(0.02)


async def told(server: Server) -> str:
    """Return the first Event about the hardware, as soon as it is there."""
    async with asyncio.timeout(UP_S):
        while not (found := await server.events("HardwareFailed")):
            await asyncio.sleep(0.02)
    return found[0]


@pytest.mark.parametrize(
    ("function", "code", "sentence"),
    [
        ("nvmlInitWithFlags", DRIVER_NOT_LOADED, "NVML: nvmlInit: Driver Not Loaded; an NVIDIA GPU is at "),
        ("nvmlDeviceGetCount_v2", UNKNOWN, "NVML: discovery: Unknown Error"),
    ],
)
async def test_nvml_that_fails_at_the_start(
    short_folder: Path, starter: Zygote, function: str, code: int, sentence: str
) -> None:
    async with two_prepared(short_folder, starter) as (server, driver):
        before, cut, whole = driver.prepared(), server.claims["cut"], server.claims["whole"]
        machine.rule(driver.state, function, code=code)
        assert await driver.come_up()
        async with calling(driver) as calls:
            errors = await prepared(calls, cut, server.claims["rival"])
            for name, error in zip(("cut", "rival"), errors, strict=True):
                assert f"default/{name}" in error and sentence in error
            assert (await told(server)).startswith(sentence)
            await published(server, something=False)
            assert (driver.prepared(), driver.made(), driver.files()) == (before, MADE, 4)
            assert (await calls.unprepare(whole))[whole.uid] == "", "a whole GPU needs no NVML to be given back"
            machine.clear(driver.state)
            await published(server, something=True)
            assert driver.made() == MADE and set(driver.prepared()) == {cut.uid}
            assert await prepared(calls, cut, whole) == ["", ""]
            assert set((await calls.unprepare(cut, whole)).values()) == {""}
            assert (driver.prepared(), driver.made(), driver.files()) == ({}, set(), 0)
        driver.stop()


async def test_folders_that_cannot_be_written_are_waited_for_and_a_signal_ends_that(
    short_folder: Path, starter: Zygote
) -> None:
    async with serving(short_folder) as server:
        with (
            victim(short_folder / "n", server.kubeconfig, starter) as driver,
            small_disk.mounted(driver.node.root) as disk,
        ):
            disk.read_only(True)
            driver.begin()
            await kubelet.until(lambda: "NotServing" in driver.told(), UP_S)
            assert str(driver.plugins) in driver.told() and driver.code is None
            driver.stop()
            driver.begin()
            disk.read_only(False)
            await kubelet.until(lambda: '"event":"serving"' in driver.told(), UP_S)
            async with calling(driver) as calls:
                assert await prepared(calls, server.claims["cut"]) == [""]
            driver.stop()


@pytest.mark.parametrize(("code", "reason"), [(DRIVER_NOT_LOADED, "Driver Not Loaded"), (RM_MISMATCH, "RM")])
async def test_a_gpu_driver_that_is_replaced_below_it_makes_it_start_again(
    short_folder: Path, starter: Zygote, code: int, reason: str
) -> None:
    """It ends by itself, with a sentence; what is prepared and published stays for the next one."""
    async with two_prepared(short_folder, starter) as (server, driver):
        before, names = driver.prepared(), await devices(server)
        assert await driver.come_up()
        machine.rule(driver.state, "nvmlDeviceGetHandleByUUID", code=code)
        await kubelet.until(lambda: driver.code is not None, UP_S)
        assert driver.code == 1 and "the driver must start again" in driver.told() and reason in driver.told()
        assert driver.told().splitlines()[-1].startswith("Error: GPU GPU-")
        assert driver.prepared() == before and set(names) <= set(await devices(server))  # it may publish till then
        machine.clear(driver.state)
        assert await driver.come_up()
        async with calling(driver) as calls:
            assert await prepared(calls, server.claims["cut"], server.claims["whole"]) == ["", ""]
        driver.stop()


async def test_a_library_that_does_not_fit_the_gpu_driver_is_served_without_and_then_a_new_process_tries(
    short_folder: Path, starter: Zygote
) -> None:
    program = (
        "from dra_driver.probe import late; late.LateProbe.__init__.__defaults__ = (1.0,);"
        "from dra_driver import cli; cli.main()"
    )
    async with two_prepared(short_folder, starter) as (server, driver):
        before = driver.prepared()
        machine.rule(driver.state, "nvmlInitWithFlags", code=RM_MISMATCH)
        driver.begin_process(program)
        await kubelet.until(lambda: driver.code is not None, UP_S)
        assert driver.code == 1 and '"event":"serving"' in driver.told() and '"event":"stopped"' in driver.told()
        last = driver.told().splitlines()[-1]
        assert last.startswith("Error: NVML: nvmlInit: RM has detected an NVML/RM version mismatch.")
        assert last.endswith("the driver must start again") and driver.prepared() == before
        machine.clear(driver.state)
        assert await driver.come_up()
        async with calling(driver) as calls:
            assert await prepared(calls, server.claims["cut"], server.claims["whole"]) == ["", ""]
        driver.stop()
