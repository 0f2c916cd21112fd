"""What a kubelet does to the slices of its node (dra.md 1.5)."""

from __future__ import annotations

import uuid

from scheduler.apiserver import client, paths
from tests.testbed import cluster as clusters
from tests.testbed import objects, process


async def test_a_restarted_kubelet_deletes_all_slices_of_its_node(real_nodes: clusters.Cluster) -> None:
    """Nobody but the driver brings them back. Slices of other nodes stay."""
    mark = uuid.uuid4().hex[:6]
    slices = paths.of(paths.RESOURCE, "resourceslices")
    async with await client.Client.connect(real_nodes.kubeconfig) as api:
        for node in ("real-0", "real-1"):
            await api.create(slices, objects.resource_slice(f"{node}-{mark}", f"{mark}.muster.dev", node, ["d0"]))
        real_nodes.nodes["real-0"].restart_kubelet()
        left: set[str] = set()
        for _ in process.until(30, 0.2):
            left = {one["metadata"]["name"] for one in (await api.list(slices))[0]}
            if f"real-0-{mark}" not in left:
                break
        assert f"real-0-{mark}" not in left
        assert f"real-1-{mark}" in left
        await api.delete(f"{slices}/real-1-{mark}")
