"""Pods that ask for other accelerators get exact ones, and none of them twice."""

import asyncio
import dataclasses
from collections.abc import AsyncIterator
from pathlib import Path

import orjson
import pytest

from scheduler.apiserver import paths
from scheduler.model import device, machines, slices
from tests.kube import live
from tests.testbed.fleet import nodes, presets

FPGAS = 4


@pytest.fixture
async def home(tmp_path: Path) -> AsyncIterator[live.Cluster]:
    """Two nodes whose slices have four FPGAs and two other accelerators beside the GPUs."""
    async with live.cluster(tmp_path, "") as found:
        for body, *_ in nodes.bodies(presets.read("hgx-h100=2")):
            made = machines.build("hgx-h100", body.name)
            others = tuple(
                device.Accelerator(i, "fpga" if i < FPGAS else "tpu", "U250", pci_bus_id=f"0000:{i:02x}:00.0")
                for i in range(FPGAS + 2)
            )
            published = slices.encode(dataclasses.replace(made, accelerators=others))
            items = [nodes.Body(nodes.SLICES, one["metadata"]["name"], orjson.dumps(one)) for one in published]
            await live.furnish(found.api, [(body, *items)])
        await found.api.create(
            paths.of(paths.RESOURCE, "deviceclasses"), live.device_class("accelerator.muster.dev", "accelerator")
        )
        for count in (1, 3, 4):
            kind = "device.attributes['gpu.muster.dev'].kind == 'fpga'"
            wanted = live.template(
                f"fpga-{count}", count, "accelerator.muster.dev", selectors=[{"cel": {"expression": kind}}]
            )
            await found.create(wanted)
        yield found


def exact(claims: dict[str, list[str]]) -> list[str]:
    devices = [device for one in claims.values() for device in one]
    assert len(devices) == len(set(devices))
    return devices


async def test_a_gang_that_shares_a_node_gets_different_accelerators(home: live.Cluster) -> None:
    await home.start()
    await home.create(*(live.pod(f"a-{i}", "first", 4, "fpga-1") for i in range(4)))
    await home.bound(*(f"a-{i}" for i in range(4)))
    assert {one.partition("/")[2] for one in exact(await home.claims())} <= {f"accelerator-{i}" for i in range(FPGAS)}
    await home.create(*(live.pod(f"b-{i}", "second", 4, "fpga-1") for i in range(4)))
    await home.bound(*(f"b-{i}" for i in range(4)))
    assert len(exact(await home.claims())) == 8
    await home.create(live.pod("late", "third", 1, "fpga-1"))

    async def waits() -> bool:
        found = await home.placement("gang-third")
        return (found or {}).get("status", {}).get("phase") == "Waiting"

    await home.until(waits)
    for i in range(4):
        await home.api.delete(f"/api/v1/namespaces/default/pods/b-{i}", grace_s=0)
    await home.bound("late")
    exact(await home.claims())


async def test_many_gangs_at_once_get_different_accelerators(home: live.Cluster) -> None:
    await home.start()
    names = [f"p-{i}" for i in range(8)]
    await asyncio.gather(*(home.create(live.pod(name, name, 1, "fpga-1")) for name in names))
    await home.bound(*names)
    assert len(exact(await home.claims())) == 8
    assert home.scheduler and home.scheduler.shell
    home.scheduler.shell.machine.check_invariants()
    assert not home.scheduler.shell.verifier.found


async def test_after_a_restart_the_accelerators_that_run_are_known(home: live.Cluster) -> None:
    await home.start()
    await home.create(live.pod("a", "first", 1, "fpga-3"), live.pod("b", "second", 1, "fpga-3"))
    await home.bound("a", "b")
    before = await home.claims()
    await home.stop()
    await home.start()
    await home.create(live.pod("c", "third", 1, "fpga-1"), live.pod("d", "fourth", 1, "fpga-1"))
    await home.bound("c", "d")
    after = await home.claims()
    assert before.items() <= after.items() and len(exact(after)) == 8
