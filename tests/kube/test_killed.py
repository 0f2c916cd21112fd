"""The scheduler killed after each write of a plan: whoever starts next leaves the gang whole, and no device twice."""

import asyncio
import os
import re
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from scheduler import faultpoint
from tests.kube import live

ROOT = Path(__file__).resolve().parents[2]
MEMBERS = ("w-0", "w-1", "w-2")
EVERY = [
    "record-written",
    "status-written",
    "claim-protected",
    "claim-allocated",
    "pod-released",
    "claim-protected:3",
    "claim-allocated:2",
    "claim-allocated:3",
    "pod-released:2",
    "pod-released:3",
    "status-written:2",
]


def test_the_points_are_those_in_the_code() -> None:
    code = "".join(path.read_text() for path in (ROOT / "scheduler").rglob("*.py"))
    assert set(re.findall(r'faultpoint\.reach\("([^"]+)"\)', code)) == set(faultpoint.POINTS)


@pytest.fixture
async def home(tmp_path: Path) -> AsyncIterator[live.Cluster]:
    async with live.cluster(tmp_path) as found:
        yield found


async def killed(home: live.Cluster, point: str) -> None:
    """Run a scheduler that dies at a point, and wait for its death."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "scheduler.cli", "run", "--kubeconfig", str(home.kubeconfig)),
        *("--no-leader-elect", "--host", "127.0.0.1", "--port", "0"),
        env=os.environ | {faultpoint.VARIABLE: point},
        stderr=asyncio.subprocess.DEVNULL,
    )
    async with asyncio.timeout(120):
        assert await process.wait() == -signal.SIGKILL, f"{point} was never reached"


@pytest.mark.slow
@pytest.mark.parametrize("point", EVERY)
async def test_a_gang_is_whole_after_a_kill(home: live.Cluster, point: str) -> None:
    await home.create(*(live.pod(name, "train", 3) for name in MEMBERS))
    await killed(home, point)
    await home.start()
    nodes = await home.bound(*MEMBERS)
    claims = await home.claims()
    devices = [device for one in claims.values() for device in one]
    assert len(devices) == len(set(devices)) == 24
    assert {name: {device.partition("/")[0] for device in own} for name, own in claims.items()} == {
        name: {node} for name, node in nodes.items()
    }
    for name in MEMBERS:
        await home.api.delete(f"/api/v1/namespaces/default/pods/{name}", grace_s=0)

    async def all_free() -> bool:
        assert home.scheduler and home.scheduler.shell
        return home.scheduler.shell.machine.snapshot.free_gpus == 32 and not await home.claims()

    await home.until(all_free)


@pytest.mark.slow
async def test_a_gang_that_lost_a_pod_meanwhile_is_undone_and_placed_anew(home: live.Cluster) -> None:
    await home.create(*(live.pod(name, "train", 3, rank=str(rank)) for rank, name in enumerate(MEMBERS)))
    await killed(home, "claim-allocated:2")
    await home.api.delete("/api/v1/namespaces/default/pods/w-1", grace_s=0)
    await home.start()
    assert await home.claims() == {}, "half a gang holds nothing"
    await home.create(live.pod("w-9", "train", 3, rank="1"))
    await home.bound("w-0", "w-2", "w-9")
    devices = [device for one in (await home.claims()).values() for device in one]
    assert len(devices) == len(set(devices)) == 24
