"""A stock kube-scheduler asks our extender, and the pod goes where it says."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import pytest

from scheduler import policies
from scheduler.apiserver import client
from scheduler.model import machines
from scheduler.placement import scoring
from scheduler.snapshot import state
from scheduler.web import answers, server
from tests.placement import fleets
from tests.testbed import cluster as clusters
from tests.testbed import objects
from tests.testbed.assumptions import test_extender as restarts
from tests.testbed.assumptions import world
from tests.testbed.assumptions.conftest import NODES, assumed  # noqa: F401  a fixture
from tests.web import given


@dataclass(frozen=True, slots=True)
class Live:
    world: world.World
    decided: answers.Answers
    plans: dict[str, str]

    async def create(self, name: str, **spec: Any) -> str:
        """Create a pod that asks for one GPU; returns its UID."""
        pod = objects.pod(name, **spec)
        pod["spec"]["containers"][0]["resources"] = {"limits": {given.RESOURCE: "1"}}
        return (await self.world.create(pod))["metadata"]["uid"]


@contextlib.asynccontextmanager
async def extended(home: clusters.Cluster, face: server.Face) -> AsyncIterator[None]:
    """Restart kube-scheduler with our extender; give the plain one back afterwards."""
    resources = [{"name": given.RESOURCE, "ignoredByScheduler": True}]
    told = {"filterVerb": "filter", "prioritizeVerb": "prioritize", "preemptVerb": "preempt", "weight": face.weight}
    told |= {"nodeCacheCapable": True, "httpTimeout": "1s", "managedResources": resources}
    async with given.listening(face) as url:
        restarts.restart(home, {"extenders": [told | {"urlPrefix": url}]})
        try:
            yield
        finally:
            restarts.restart(home, {})


@pytest.fixture
async def live(assumed: clusters.Cluster) -> AsyncIterator[Live]:  # noqa: F811
    built = {name: machines.build("a100-pcie-pairs", name) for name in NODES}
    fleet = fleets.fleet(dict.fromkeys(built, ("b", "r")), built)
    score = scoring.compile_scoring(policies.load("best-fit"), fleet)
    plans: dict[str, str] = {}
    decided = answers.Answers(state.empty(fleet), score, plans, {}, given.wanted)
    face = server.Face(lambda: decided)
    async with (
        await client.Client.connect(assumed.kubeconfig) as api,
        world.World.open(assumed, api) as opened,
        extended(assumed, face),
    ):
        yield Live(opened, decided, plans)


async def test_a_planned_pod_is_bound_to_its_node(live: Live) -> None:
    for index, node in enumerate(reversed(NODES)):
        name = f"w-{index}"
        live.plans[await live.create(name, gates=[world.GATE])] = node
        pod = await live.world.get("pods", name)
        del pod["spec"]["schedulingGates"]
        await live.world.api.replace(live.world.path("pods", name), pod)
        assert (await live.world.bound(name, 30))["spec"]["nodeName"] == node


async def test_pods_without_a_plan_go_where_the_score_is_best(live: Live) -> None:
    live.decided.snapshot.take(state.Grant(1, 0b0011, 1000))
    for index in range(4):
        await live.create(f"w-{index}")
        assert (await live.world.bound(f"w-{index}", 30))["spec"]["nodeName"] == "kw-1"


async def test_a_pod_that_fits_nowhere_reads_why(live: Live) -> None:
    for node in range(3):
        live.decided.snapshot.take(state.Grant(node, 0b1111, 1000))
    await live.create("w")

    async def told() -> bool:
        conditions = (await live.world.get("pods", "w"))["status"].get("conditions") or []
        return any(f"3 {answers.TAKEN}" in (one.get("message") or "") for one in conditions)

    await live.world.until(told)
