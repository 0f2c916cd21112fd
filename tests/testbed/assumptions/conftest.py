"""A control plane of each version with three simulated nodes of eight devices; every fact is asked of both."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest

from scheduler.apiserver import client
from tests.testbed import cluster as clusters
from tests.testbed import fixtures, kwok, objects, versions
from tests.testbed.assumptions import world

NODES = ("kw-0", "kw-1", "kw-2")


@pytest.fixture(scope="session", params=[versions.NEWEST, versions.FLOOR])
def assumed(request: pytest.FixtureRequest) -> Iterator[clusters.Cluster]:
    fixtures.require(real_nodes=False)
    with clusters.Cluster(clusters.Options(version=request.param)).start() as home:
        kwok.start(home)
        for name in NODES:
            home.kubectl("create", "-f", "-", stdin=world.text(world.node(name)))
        home.wait_ready(NODES)
        home.kubectl("create", "-f", "-", stdin=world.text(objects.device_class("gpu.test", world.DRIVER)))
        for name in NODES:
            devices = [f"gpu-{index}" for index in range(8)]
            home.kubectl(
                "create", "-f", "-", stdin=world.text(objects.resource_slice(f"{name}-s", world.DRIVER, name, devices))
            )
        yield home


@pytest.fixture
async def here(assumed: clusters.Cluster) -> AsyncIterator[world.World]:
    """A namespace of one test, with a client."""
    async with await client.Client.connect(assumed.kubeconfig) as api, world.World.open(assumed, api) as opened:
        yield opened
