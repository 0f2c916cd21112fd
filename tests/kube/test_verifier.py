"""Devices that are given out twice are told of and closed until it ends; so are devices that nothing keeps for us."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from scheduler.apiserver import paths
from tests.kube import live

ALLOCATED = "2026-01-01T00:00:00Z"


@pytest.fixture
async def home(tmp_path: Path) -> AsyncIterator[live.Cluster]:
    async with live.cluster(tmp_path, "hgx-h100=1") as found:
        yield found


async def stranger(home: live.Cluster, name: str, count: str, *devices: str) -> None:
    """Create a pod whose claim somebody else has given devices of the only node; a half gang, which Muster leaves alone."""
    await home.create(live.pod(name, f"half-{name}", 2, count, gated=False))

    async def made() -> str:
        found = (await home.pods())[name].get("status", {}).get("resourceClaimStatuses") or [{}]
        return str(found[0].get("resourceClaimName") or "")

    path = paths.of(paths.RESOURCE, "resourceclaims", "default", await home.until(made))
    claim = await home.api.get(path)
    claim["metadata"]["finalizers"] = ["resource.kubernetes.io/delete-protection"]
    claim = await home.api.replace(path, claim)
    [node] = (await home.api.list("/api/v1/nodes"))[0]
    rows = [
        {"request": "gpus", "driver": "gpu.muster.dev", "pool": node["metadata"]["name"], "device": device}
        for device in devices
    ]
    claim["status"] = {"allocation": {"devices": {"results": rows}, "allocationTimestamp": ALLOCATED}}
    await home.api.replace(f"{path}/status", claim)


async def told(home: live.Cluster, word: str, kind: str = "") -> list[dict[str, Any]]:
    found, _ = await home.api.list("/apis/events.k8s.io/v1/namespaces/default/events")
    return [one for one in found if one["reason"] == word and kind in ("", one["regarding"]["kind"])]


def free(home: live.Cluster) -> int:
    assert home.scheduler and home.scheduler.shell
    home.scheduler.shell.machine.check_invariants()
    return home.scheduler.shell.machine.snapshot.free_gpus


async def true(value: bool) -> bool:
    return value


async def test_a_device_of_two_claims_is_told_on_both_and_closed_until_one_is_gone(home: live.Cluster) -> None:
    await home.start()
    await home.create(*(live.pod(f"g-{i}", "train", 2, "two") for i in range(2)))
    await home.bound("g-0", "g-1")
    mine = {device.partition("/")[2] for one in (await home.claims()).values() for device in one}
    assert home.scheduler and home.scheduler.shell
    verifier = home.scheduler.shell.verifier
    assert (verifier.standing, verifier.found) == ({}, 0)
    shared = min(mine)
    await stranger(home, "thief", "one", shared)
    claims = await home.until(lambda: told(home, "DeviceConflict", "ResourceClaim"))
    await home.until(lambda: true(verifier.found == 1))
    pods = await home.until(lambda: told(home, "DeviceConflict", "Pod"))

    async def everybody() -> bool:
        nonlocal claims, pods
        claims, pods = await told(home, "DeviceConflict", "ResourceClaim"), await told(home, "DeviceConflict", "Pod")
        pods = [one for one in pods if "given out twice" in one["note"]]
        return len(claims) >= 2 and len(pods) >= 2

    await home.until(everybody)
    assert home.scheduler.meters.registry.get_sample_value("muster_shared_devices") == 1
    assert "thief" in {one["regarding"]["name"] for one in pods} and len(pods) == len(claims) == 2
    assert all(shared in one["note"] and "delete one of the pods" in one["note"] for one in [*claims, *pods])
    assert {one["type"] for one in claims} == {"Warning"}
    assert free(home) == 4
    for name in ("g-0", "g-1"):
        await home.api.delete(f"/api/v1/namespaces/default/pods/{name}", grace_s=0)
    await home.until(lambda: true(not verifier.standing))
    await home.until(lambda: true(free(home) == 7))
    await home.api.delete("/api/v1/namespaces/default/pods/thief", grace_s=0)
    await home.until(lambda: true(free(home) == 8))
    assert not any(name.startswith("conflict/") for name in home.scheduler.shell.occupants.told)
    assert verifier.found == 1


async def test_what_is_left_of_a_device_that_is_given_out_twice_is_nobodys(home: live.Cluster) -> None:
    await home.start()
    await stranger(home, "a", "one", "gpu-0")
    await stranger(home, "b", "one", "gpu-0")
    assert home.scheduler and home.scheduler.shell
    now = home.scheduler.shell
    await home.until(lambda: true(bool(now.verifier.standing)))
    assert [name.rpartition("/")[2] for name in now.occupants.told if name.startswith("conflict/")] == ["gpu-0"]
    await home.create(live.pod("w", "all", 1, "eight"))

    async def waits() -> bool:
        found = await home.placement("gang-all")
        return (found or {}).get("status", {}).get("phase") == "Waiting"

    await home.until(waits)
    for name in ("a", "b"):
        await home.api.delete(f"/api/v1/namespaces/default/pods/{name}", grace_s=0)
    await home.bound("w")


async def test_devices_without_the_ownership_taint_are_told_of_unless_nobody_says_that_they_are_owned(
    home: live.Cluster,
) -> None:
    await home.start()
    found = await home.until(lambda: told(home, "DeviceNotOwned", "Node"))
    assert len(found) == 1 and "ownership.yaml" in found[0]["note"]
    assert home.scheduler and home.scheduler.shell
    verifier = home.scheduler.shell.verifier
    [bare] = verifier.unowned.values()
    assert "gpu-0" in bare
    value = home.scheduler.meters.registry.get_sample_value
    assert value("muster_unowned_devices") == len(bare) and value("muster_shared_devices") == 0
    rule = {
        "apiVersion": "resource.k8s.io/v1",
        "kind": "DeviceTaintRule",
        "metadata": {"name": "muster-owned"},
        "spec": {
            "deviceSelector": {"driver": "gpu.muster.dev"},
            "taint": {"key": "muster.dev/owned", "effect": "NoSchedule"},
        },
    }
    await home.api.create(paths.of(paths.RESOURCE, "devicetaintrules"), rule)
    await home.until(lambda: true(not verifier.unowned))
    assert free(home) == 8, "owned devices are free for us"
    await home.stop()
    await home.api.delete(paths.of(paths.RESOURCE, "devicetaintrules", name="muster-owned"))
    await home.start(owned=False)
    assert home.scheduler.shell and not home.scheduler.shell.verifier.unowned
