"""Our own first fit against kube-scheduler: the same random claims on the same slices give the same GPUs."""

import asyncio
import random
from collections.abc import Iterator
from typing import Any

import pytest

from scheduler.apiserver import client
from scheduler.model import claim, machines, slices
from tests.driver import first_fit
from tests.testbed import cluster as clusters
from tests.testbed import fixtures, kwok, objects, versions
from tests.testbed.assumptions import world

pytestmark = pytest.mark.slow

NODE, CLASS = "mesh-0", "first-fit"
CLAIMS = 20
INFORMED_S = 0.3
"""After a claim is gone kube-scheduler must hear of it, or it counts the devices as taken."""


@pytest.fixture(scope="module")
def mesh() -> Iterator[clusters.Cluster]:
    """A control plane with one simulated DGX-1V and our slices of it."""
    fixtures.require(real_nodes=False)
    gpus = objects.device_class(CLASS, claim.DRIVER)
    gpus["spec"]["selectors"][0]["cel"]["expression"] += f" && device.attributes['{claim.DRIVER}'].type == 'gpu'"
    with clusters.Cluster(clusters.Options(version=versions.NEWEST)).start() as home:
        kwok.start(home)
        home.kubectl("create", "-f", "-", stdin=world.text(world.node(NODE)))
        home.wait_ready([NODE])
        for item in (gpus, *slices.encode(machines.build("dgx-1v", NODE))):
            home.kubectl("create", "-f", "-", stdin=world.text(item))
        yield home


async def test_kube_scheduler_takes_what_our_first_fit_takes(mesh: clusters.Cluster) -> None:
    chance = random.Random(3)
    ours = first_fit.Allocator(slices.encode(machines.build("dgx-1v", NODE)))
    held: dict[str, list[dict[str, Any]]] = {}
    async with await client.Client.connect(mesh.kubeconfig) as api, world.World.open(mesh, api) as here:
        for number in range(CLAIMS):
            count = chance.choice((1, 2, 2, 3, 4))
            while (found := ours.allocate(first_fit.Request(first_fit.is_gpu, count))) is None:
                name = chance.choice(sorted(held))
                ours.release(held.pop(name))
                await release(here, name)
            held[f"c{number}"] = found
            assert await allocated(here, f"c{number}", count) == {entry["name"] for entry in found}, f"claim {number}"


async def allocated(here: world.World, name: str, count: int) -> set[str]:
    """Let kube-scheduler allocate a claim for a pod, and return the devices."""
    await here.create(objects.claim(name, CLASS, count))
    await here.create(objects.pod(name, claims=[name], node=NODE))
    await here.bound(name)
    found = await here.get("resourceclaims", name)
    return {result["device"] for result in found["status"]["allocation"]["devices"]["results"]}


async def release(here: world.World, name: str) -> None:
    await here.api.delete(here.path("pods", name), grace_s=0)
    await here.free(name)
    await asyncio.sleep(INFORMED_S)
