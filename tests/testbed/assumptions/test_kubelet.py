"""What a kubelet does to the slices of its node (dra.md 1.5), on both versions."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from scheduler.apiserver import client, paths
from tests.testbed import cluster as clusters
from tests.testbed import fixtures, objects, process, versions


@pytest.fixture(scope="module", params=[versions.NEWEST, versions.FLOOR])
def noded(request: pytest.FixtureRequest) -> Iterator[clusters.Cluster]:
    """A cluster with two real nodes of its own, whose kubelets may be killed."""
    fixtures.require(real_nodes=True)
    with clusters.Cluster(clusters.Options(version=request.param, real_nodes=2)).start() as home:
        yield home


async def test_a_restarted_kubelet_deletes_all_slices_of_its_node(noded: clusters.Cluster) -> None:
    """Nobody but the driver brings them back. Slices of other nodes stay."""
    slices = paths.of(paths.RESOURCE, "resourceslices")
    async with await client.Client.connect(noded.kubeconfig) as api:
        for node in noded.nodes:
            await api.create(slices, objects.resource_slice(node, "restart.muster.dev", node, ["d0"]))
        noded.nodes["real-0"].restart_kubelet()
        left: set[str] = set()
        for _ in process.until(25, 0.2):
            left = {one["metadata"]["name"] for one in (await api.list(slices))[0]}
            if "real-0" not in left:
                break
        assert left == {"real-1"}
