"""Our own first fit against kube-scheduler: the same random claims on the same slices give the same GPUs, in one order.

All nodes of a control plane are filled and drained side by side: each has its own claims, so none waits for another.
"""

import asyncio
import os
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

pytestmark = [pytest.mark.slow, pytest.mark.testbed]

CLASS = "first-fit"
KINDS = ("dgx-1v", "hgx-h100-4", "a100-pcie-pairs", "a100-pcie-pairs-crossed")
ORDERS = ("ours", "index")
SERVERS = {"1.37": versions.NEWEST, "1.34": versions.FLOOR}
CLAIMS = int(os.environ.get("MUSTER_ROUNDS", "12"))
"""Of each node; `make test-live` takes many more."""
INFORMED_S = 0.3
"""After a claim is gone kube-scheduler must hear of it, or it counts the devices as taken."""
WAIT_S = 60.0


def items(kind: str, order: str, minor: int) -> list[dict[str, Any]]:
    """Return the slices of a node with its devices in our order or by index."""
    made = slices.encode(machines.build(kind, name(kind, order)), form=slices.layout(minor))
    return made if order == "ours" else first_fit.by_index(made)


def name(kind: str, order: str) -> str:
    return f"{kind}-{order}"


@pytest.fixture(scope="module", params=SERVERS, ids=list(SERVERS))
def fleet(request: pytest.FixtureRequest) -> Iterator[clusters.Cluster]:
    """A control plane with a simulated node of each kind in each order."""
    fixtures.require(real_nodes=False)
    gpus = objects.device_class(CLASS, claim.DRIVER)
    gpus["spec"]["selectors"][0]["cel"]["expression"] += f" && device.attributes['{claim.DRIVER}'].type == 'gpu'"
    places = [(kind, order) for kind in KINDS for order in ORDERS]
    with clusters.Cluster(clusters.Options(version=SERVERS[request.param])).start() as home:
        kwok.start(home)
        made = [world.node(name(*place)) for place in places]
        made += [item for place in places for item in items(*place, home.kubernetes.minor)]
        home.kubectl("create", "-f", "-", stdin="\n---\n".join(world.text(one) for one in (gpus, *made)))
        home.wait_ready(tuple(name(*place) for place in places))
        yield home


async def test_kube_scheduler_takes_what_our_first_fit_takes(fleet: clusters.Cluster) -> None:
    async with (
        await client.Client.connect(fleet.kubeconfig) as api,
        world.World.open(fleet, api) as here,
        asyncio.TaskGroup() as group,
    ):
        for kind in KINDS:
            for order in ORDERS:
                group.create_task(filled(here, kind, order))


async def filled(here: world.World, kind: str, order: str) -> None:
    """Fill and drain one node at random; kube-scheduler takes each time what our own allocator takes."""
    node, chance = name(kind, order), random.Random(f"{kind} {order}")
    ours = first_fit.Allocator(items(kind, order, here.minor))
    sizes = [size for size in (1, 2, 2, 3, 4, 8) if size <= len(machines.build(kind, node).gpus)]
    held: dict[str, list[dict[str, Any]]] = {}
    for number in range(CLAIMS):
        count, wanted = chance.choice(sizes), f"{node}-{number}"
        while (found := ours.allocate(first_fit.Request(first_fit.is_gpu, count))) is None:
            gone = chance.choice(sorted(held))
            ours.release(held.pop(gone))
            await release(here, gone)
        held[wanted] = found
        assert await allocated(here, wanted, node, count) == [entry["name"] for entry in found], f"{wanted}: {count}"


async def allocated(here: world.World, name: str, node: str, count: int) -> list[str]:
    """Let kube-scheduler allocate a claim for a pod, and return the devices in the order in which it took them."""
    await here.create(objects.claim(name, CLASS, count))
    await here.create(objects.pod(name, claims=[name], node=node))
    await here.bound(name, WAIT_S)
    found = await here.get("resourceclaims", name)
    return [result["device"] for result in found["status"]["allocation"]["devices"]["results"]]


async def release(here: world.World, name: str) -> None:
    await here.api.delete(here.path("pods", name), grace_s=0)
    await here.free(name)
    await asyncio.sleep(INFORMED_S)
