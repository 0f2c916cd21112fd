"""Disk, checkpoint and hardware go bad under a driver that runs: it stays, tells it once, loses nothing, and mends it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from typing import Any

import pytest

from dra_driver import claim, instance, mig
from tests.driver import kubelet, objects, small_disk
from tests.driver.conftest import Node
from tests.driver.test_bad_input import PARTITION, errors_of, untouched

MakeNode = Callable[..., Node]
SOON_S = 20.0  # a loaded machine; what is waited for takes some hundredths of a second


@contextlib.asynccontextmanager
async def kept(driver: instance.Instance) -> AsyncIterator[instance.Instance]:
    """Start an instance and let it keep its node in order; nothing may end that work."""
    driver._sweep_s = driver._mend_s = 0.02
    await driver.start()
    work = asyncio.create_task(driver.run())
    try:
        yield driver
        assert not work.done(), work
    finally:
        work.cancel()
        await driver.stop()


async def told(node: Node, reason: str) -> str:
    """Return the first Event with a reason, as soon as it is told."""
    await kubelet.until(lambda: any(one == reason for one, _ in node.events), SOON_S)
    return next(message for one, message in node.events if one == reason)


def records(driver: instance.Instance) -> set[str]:
    return set(driver.state.parts.store.read().claims)


async def turns(driver: instance.Instance, count: int = 3) -> None:
    """Let the driver go over its node some times."""
    done, mend = 0, driver.recovery.mend

    async def counted() -> bool:
        nonlocal done
        answer = await mend()
        done += 1
        return answer

    driver.recovery.mend = counted  # type: ignore[method-assign]
    await kubelet.until(lambda: done > count, SOON_S)
    driver.recovery.mend = mend  # type: ignore[method-assign]


async def two_prepared(node: Node, calls: kubelet.Kubelet) -> list[claim.Reference]:
    mine = [node.claims.add(objects.claim(i, name)) for i, name in enumerate(("gpu-0", PARTITION), 1)]
    assert set((await errors_of(calls, *mine)).values()) == {""}
    return mine


async def whole(node: Node, driver: instance.Instance, calls: kubelet.Kubelet, *mine: claim.Reference) -> None:
    """Nothing is lost, nothing is given out twice, and everything can be given back."""
    await kubelet.until(lambda: driver.recovery._complete() and records(driver) == {one.uid for one in mine}, SOON_S)
    assert len(node.hardware._all()) == 1 and not any(untouched(node, one) for one in mine)
    rivals = [node.claims.add(objects.claim(i, name)) for i, name in enumerate(("gpu-0", PARTITION), 11)]
    assert all("is held by claim" in error for error in (await errors_of(calls, *rivals)).values())
    assert set((await calls.unprepare(*mine)).values()) == {""}
    assert node.hardware._all() == [] and all(untouched(node, one) for one in mine)
    assert set((await errors_of(calls, *rivals)).values()) == {""}


async def test_a_file_of_no_claim_in_a_folder_that_cannot_be_written(make_node: MakeNode) -> None:
    node = make_node(mig_gpus=(7,))
    with small_disk.mounted(node.cdi) as disk:
        async with kept(node.instance()) as driver, node.kubelet() as calls:
            mine = await two_prepared(node, calls)
            orphan = driver.state.parts.cdi.file(claim.ClaimUid(objects.uid(9)))
            driver._sweep_s = 1000.0  # not between these two
            orphan.write_text("{}")
            disk.read_only(True)
            driver._sweep_s = 0.02
            message = await told(node, "SweepFailed")
            assert str(orphan) in message and "Read-only file system" in message
            await turns(driver)
            assert [reason for reason, _ in node.events].count("SweepFailed") == 1, "told anew with each try"
            disk.read_only(False)
            await kubelet.until(lambda: not orphan.exists(), SOON_S)
            await whole(node, driver, calls, *mine)


@pytest.mark.parametrize("damage", ["cut", "empty", "garbage", "removed"])
async def test_a_checkpoint_that_goes_bad_is_rebuilt_under_the_running_pods(make_node: MakeNode, damage: str) -> None:
    node = make_node(mig_gpus=(7,))
    async with kept(node.instance()) as driver, node.kubelet() as calls:
        mine = await two_prepared(node, calls)
        path = node.plugins / "checkpoint.json"
        good = path.read_bytes()
        if damage == "removed":
            path.unlink()
            assert "checkpoint.json: the file is gone" in await told(node, "CheckpointLost")
        else:
            bad = {"cut": good[:-30], "empty": b"", "garbage": b"\xff" * 64}[damage]
            path.write_bytes(bad)
            message = await told(node, "CheckpointCorrupt")
            (aside,) = node.plugins.glob("checkpoint.json.corrupt-*")
            assert str(path) in message and aside.name in message and aside.read_bytes() == bad
        await whole(node, driver, calls, *mine)


async def test_a_checkpoint_of_a_newer_driver_beside_this_one_is_left_alone(make_node: MakeNode) -> None:
    node = make_node()
    async with kept(node.instance()) as driver, node.kubelet() as calls:
        wanted = node.claims.add(objects.claim(1, "gpu-0"))
        assert await errors_of(calls, wanted) == {"claim-1": ""}
        path = node.plugins / "checkpoint.json"
        good = path.read_bytes()
        path.write_bytes(good.replace(b'"version":1', b'"version":2'))
        assert "version 2, this driver reads version 1" in await told(node, "CheckpointUnusable")
        await turns(driver)
        assert b'"version":2' in path.read_bytes() and not list(node.plugins.glob("*.corrupt-*"))
        assert "version 2" in (await errors_of(calls, wanted))["claim-1"]
        path.write_bytes(good)
        assert await errors_of(calls, wanted) == {"claim-1": ""}


@pytest.mark.parametrize("damage", ["garbage", "removed"])
async def test_started_on_a_full_disk_without_its_checkpoint(make_node: MakeNode, damage: str) -> None:
    node = make_node(mig_gpus=(7,))
    with small_disk.mounted(node.plugins) as disk:
        async with node.driver(), node.kubelet() as calls:
            mine = await two_prepared(node, calls)
        path = node.plugins / "checkpoint.json"
        path.write_bytes(b"{" * 40)
        if damage == "removed":
            path.unlink()
        disk.fill()
        async with kept(node.instance()) as driver, node.kubelet() as calls:
            message = await told(node, "CheckpointUnusable")
            assert str(path) in message and "cannot be written anew" in message and "No space left" in message
            await turns(driver)
            fresh = node.claims.add(objects.claim(3, "gpu-1"))
            for error in [*(await errors_of(calls, *mine, fresh)).values(), *(await calls.unprepare(*mine)).values()]:
                assert "default/claim-" in error and str(path) in error and "defect" not in error, error
            assert len(list(node.cdi.glob("*.json"))) == 2 and len(node.hardware._all()) == 1
            del node.claims.objects["default", "claim-3"]
            disk.free()
            await whole(node, driver, calls, *mine)


async def test_started_where_its_folder_cannot_be_written(make_node: MakeNode) -> None:
    node = make_node(mig_gpus=(7,))
    with small_disk.mounted(node.plugins) as disk:
        async with node.driver(), node.kubelet() as calls:
            mine = await two_prepared(node, calls)
        disk.read_only(True)
        driver = node.instance()
        driver._mend_s = 0.02
        starting = asyncio.create_task(driver.start())
        message = await told(node, "NotServing")
        assert str(node.plugins / "dra.sock") in message
        assert not starting.done() and not list(node.registry.glob("*.sock")), "the kubelet would take it for ready"
        disk.read_only(False)
        await asyncio.wait_for(starting, SOON_S)
        work = asyncio.create_task(driver.run())
        try:
            async with node.kubelet() as calls:
                await whole(node, driver, calls, *mine)
        finally:
            work.cancel()
            await driver.stop()


async def test_without_checkpoint_and_api_server_nothing_is_swept_away(
    make_node: MakeNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(instance, "REBUILD_FIRST_S", 0.01)
    node = make_node(mig_gpus=(7,))
    async with node.driver(), node.kubelet() as calls:
        mine = await two_prepared(node, calls)
    (node.plugins / "checkpoint.json").write_bytes(b"{")
    node.claims.reachable = False
    async with kept(node.instance()) as driver, node.kubelet() as calls:
        assert "does not answer" in await told(node, "NotRebuilt")
        await turns(driver)
        await driver.recovery.sweep()
        assert len(list(node.cdi.glob("*.json"))) == 2 and len(node.hardware._all()) == 1
        node.claims.reachable = True
        await whole(node, driver, calls, *mine)


async def test_a_claim_that_cannot_be_taken_over_yet_keeps_its_files(make_node: MakeNode) -> None:
    node = make_node(mig_gpus=(7,))
    async with node.driver(), node.kubelet() as calls:
        mine = await two_prepared(node, calls)
    (node.plugins / "checkpoint.json").write_bytes(b"{")
    driver = node.instance()
    here: Any = driver.state.parts.machine
    complete = here.topology
    gpus = tuple(replace(gpu, index=i, device_name=gpu.name) for i, gpu in enumerate(complete.gpus[1:]))
    here.topology = replace(complete, gpus=gpus, nvlinks=())  # gpu-0 does not answer just now
    async with kept(driver), node.kubelet() as calls:
        assert "default/claim-1" in await told(node, "RebuildFailed")
        await turns(driver)
        assert driver.state.parts.cdi.file(mine[0].uid).exists(), "the files of a running pod are swept away"
        here.topology = complete
        await whole(node, driver, calls, *mine)


class Silent:
    """The devices of a node whose GPU driver does not answer."""

    answer: Any = None

    def current(self) -> Any:
        if self.answer is None:
            raise mig.HardwareError("NVML: nvmlInit: Driver Not Loaded")
        return self.answer


async def test_started_before_its_hardware_answers_it_gives_back_what_needs_none_and_waits_for_the_rest(
    make_node: MakeNode,
) -> None:
    """As after a boot: the CDI folder is empty, and the GPU driver is loaded later than this one."""
    node = make_node(mig_gpus=(7,))
    async with node.driver(), node.kubelet() as calls:
        mine = await two_prepared(node, calls)
        ended = node.claims.add(objects.claim(3, "gpu-1"))
        assert await errors_of(calls, ended) == {"claim-3": ""}
    for path in node.cdi.glob("*.json"):
        path.unlink()
    driver, machine = node.instance(), Silent()
    driver.state.parts = replace(driver.state.parts, machine=machine)
    node.hardware.failing = {"instances"}
    async with kept(driver), node.kubelet() as calls:
        assert await told(node, "HardwareFailed") == "NVML: nvmlInit: Driver Not Loaded"
        fresh = node.claims.add(objects.claim(4, "gpu-2"))
        for name, error in (await errors_of(calls, *mine, fresh)).items():
            assert error.startswith(f"claim default/{name} (") and "NVML: nvmlInit: Driver Not Loaded" in error
        assert await calls.unprepare(ended) == {ended.uid: ""}
        (stays,) = (await calls.unprepare(mine[1])).values()
        assert "instances: Insufficient Resources" in stays
        await turns(driver)
        assert records(driver) == {one.uid for one in mine} and len(node.hardware._all()) == 1
        machine.answer, node.hardware.failing = node.machine, set()
        assert await calls.prepare(mine[1]), "the unprepare was not carried out; the kubelet may turn back"
        await kubelet.until(lambda: len(list(node.cdi.glob("*.json"))) == 2, SOON_S)
        await whole(node, driver, calls, *mine)
