"""The whole scheduler over the embedded API server, as a user sees it: pods in, pods bound to exact devices out."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.kube import live


@pytest.fixture
async def home(tmp_path: Path) -> AsyncIterator[live.Cluster]:
    async with live.cluster(tmp_path) as found:
        yield found


async def test_a_gang_of_annotated_pods_runs_on_exact_devices(home: live.Cluster) -> None:
    await home.start()
    await home.create(*(live.pod(f"w-{i}", "train", 4) for i in range(4)))
    nodes = await home.bound(*(f"w-{i}" for i in range(4)))
    assert len(set(nodes.values())) == 4
    claims = await home.claims()
    for name, node in nodes.items():
        assert sorted(claims[name]) == [f"{node}/gpu-{i}" for i in range(8)]
    found = await home.placement("gang-train")
    assert found is not None
    assert [one["name"] for one in found["spec"]["plan"]["pods"]] == [f"w-{i}" for i in range(4)]


async def test_nothing_happens_to_a_gang_before_its_last_pod(home: live.Cluster) -> None:
    await home.start()
    await home.create(*(live.pod(f"w-{i}", "train", 4) for i in range(3)))
    assert home.scheduler and home.scheduler.shell
    turns = home.scheduler.shell
    await home.until(
        lambda: _true(len(turns.followed) == 1 and len(turns.followed["default/gang-train"].workload.members) == 3)
    )
    assert await home.claims() == {}
    await home.create(live.pod("w-3", "train", 4))
    await home.bound(*(f"w-{i}" for i in range(4)))


async def test_an_impossible_gang_is_told_why(home: live.Cluster) -> None:
    await home.start()
    await home.create(*(live.pod(f"w-{i}", "huge", 5) for i in range(5)))

    async def rejected() -> object:
        found = await home.placement("gang-huge")
        return found if found and found.get("status", {}).get("phase") == "Rejected" else None

    found = await home.until(rejected)
    assert found["status"]["reason"] == "GangLargerThanCluster"
    assert "8 GPUs" in found["status"]["message"] or "1 pods" in found["status"]["message"]
    assert await home.claims() == {}


async def test_a_gang_waits_for_the_one_before_it_and_then_runs(home: live.Cluster) -> None:
    await home.start()
    await home.create(*(live.pod(f"a-{i}", "first", 3) for i in range(3)))
    await home.bound(*(f"a-{i}" for i in range(3)))
    await home.create(*(live.pod(f"b-{i}", "second", 2) for i in range(2)))

    async def waits() -> object:
        found = await home.placement("gang-second")
        return found if found and found.get("status", {}).get("phase") == "Waiting" else None

    found = await home.until(waits)
    assert found["status"]["reason"] == "InsufficientGPUs"
    for i in range(3):
        await home.api.delete(f"/api/v1/namespaces/default/pods/a-{i}", grace_s=0)
    await home.bound("b-0", "b-1")


async def _true(value: bool) -> bool:
    return value
