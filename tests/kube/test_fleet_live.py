"""A fleet read from a real API server, and a claim allocated there by our rows."""

import datetime
import uuid
from typing import Any

import orjson

from scheduler import policies
from scheduler.apiserver import client, paths
from scheduler.kube import claim, classes, fleet, names, node, occupancy, part, requests, rows
from scheduler.model import claim as model
from scheduler.snapshot import state
from tests.kube import fleets
from tests.testbed import cluster as clusters
from tests.testbed import fixtures, objects
from tests.testbed.fleet import create, nodes, presets

RESOURCE = "resource.k8s.io/v1"
SIXTY_FOUR = presets.Fleet("live", presets.blocks(3, 2, "hgx-h100", 8) + presets.blocks(1, 1, "gb200-nvl72", 16))


async def seen(api: client.Client, name: str) -> fleet.Fleet:
    """Read a fleet as the scheduler does: lists through the projections."""
    found = fleet.Fleet()
    selector = {"labelSelector": f"{nodes.FLEET_LABEL}={name}"}
    for path, read in ((nodes.NODES, node.read), (nodes.SLICES, part.read)):
        items, _ = await api.list(path, **selector)
        for item in items:
            found.update(read(item))
    return found


async def made_class(api: client.Client, name: str) -> dict[str, classes.DeviceClass]:
    """Return our class of whole GPUs under a name of this test."""
    selectors = [{"cel": {"expression": fleets.CLASSES["gpu.muster.dev"]}}]
    body = objects.device_class(name, model.DRIVER) | {"spec": {"selectors": selectors}}
    return {name: classes.read(await api.create(paths.of(RESOURCE, "deviceclasses"), body))}


async def test_64_nodes_of_a_real_server_and_a_claim_allocated_there(
    cluster: clusters.Cluster, space: fixtures.Space
) -> None:
    async with await client.Client.connect(cluster.kubeconfig) as api:
        bodies = [body for found in nodes.bodies(SIXTY_FOUR, cluster.kubernetes.minor) for body in found]
        try:
            for body in bodies:
                await api.create(body.path, orjson.loads(body.data))
            found = await seen(api, SIXTY_FOUR.name)
            compiled = found.compile(policies.load("muster"))
            assert (len(compiled.topology.nodes), compiled.rejected, compiled.failed) == (64, {}, ())
            assert compiled.topology.tree.levels == ("cluster", "zone", "block", "rack", "nvlink-domain", "node")
            assert compiled.topology.total_gpus == 48 * 8 + 16 * 4
            await allocated(api, found, space.name)
        finally:
            await create.delete(api, SIXTY_FOUR)


async def allocated(api: client.Client, found: fleet.Fleet, namespace: str) -> None:
    """Allocate a claim with rows of ours, and read it back."""
    gpu_class = f"gpu-{namespace}"
    known = await made_class(api, gpu_class)
    body = objects.claim("c", gpu_class, 3) | {"metadata": {"name": "c", "finalizers": [names.CLAIM_FINALIZER]}}
    path = paths.of(RESOURCE, "resourceclaims", namespace=namespace)
    item = await api.create(path, body)
    own = next(one for one in found.machines() if len(one.topology.gpus) == 8)
    specs = {"c": claim.read(item).spec}
    assert requests.of(fleets.pod(), specs, known, found).gpus == 3
    ids = [str(uuid.uuid4()) for _ in range(3)]
    grant = state.Grant(0, 0b10000110, 1000, order=(7, 1, 2))
    given = rows.of(specs, known, found.catalog(), own, grant, ids)["c"]
    item["status"] = {"allocation": allocation(given, own.topology.name)}
    item = await api.replace(f"{path}/c/status", item)
    after = claim.read(item)
    assert after.node == own.topology.name
    assert model.held(own.topology, after.rows or ()).gpus == (7, 1, 2)
    assert occupancy.conflicts([after], found) == []
    twice = claim.read(item | {"metadata": item["metadata"] | {"name": "d"}})
    assert len({one.device for one in occupancy.conflicts([after, twice], found)}) == 3
    await api.patch(f"{path}/c", {"metadata": {"finalizers": []}})
    await api.delete(paths.of(RESOURCE, "deviceclasses", name=gpu_class))


def allocation(given: tuple[model.Allocation, ...], name: str) -> dict[str, Any]:
    field = {"key": "metadata.name", "operator": "In", "values": [name]}
    results = [
        {"driver": row.driver, "pool": row.pool, "device": row.device, "request": row.request}
        | ({"shareID": row.share_id, "consumedCapacity": {k: str(v) for k, v in row.consumed}} if row.share_id else {})
        for row in given
    ]
    stamp = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    terms = {"nodeSelectorTerms": [{"matchFields": [field]}]}
    return {"devices": {"results": results}, "nodeSelector": terms, "allocationTimestamp": stamp}
