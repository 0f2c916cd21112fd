"""GangPlacement on a real API server: its schema, its table, its size, and plans written there."""

import asyncio
import contextlib
import dataclasses
import time
from collections.abc import AsyncIterator
from typing import Any

import orjson
import pytest
import yaml

from scheduler.apiserver import client, errors, paths
from scheduler.kube import gang_record, names, plan, scribe, workload
from scheduler.kube import pod as pods
from scheduler.model import claim as rows
from tests.kube import live
from tests.testbed import cluster as clusters
from tests.testbed import fixtures

CRDS = paths.of("apiextensions.k8s.io/v1", "customresourcedefinitions")
BODY = yaml.safe_load(live.CRD.read_text())
STATUS = BODY["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["status"]["properties"]


def large(count: int = 512, space: str = "ml") -> plan.Plan:
    """Return a plan of pods with 8 GPUs each, with names as long as they get in practice."""
    found = []
    for i in range(count):
        node = f"gpu-node-{i:05}.rack-17.block-3.eu-north-1.compute.internal"
        given = tuple(rows.Allocation("gpu.muster.dev", node, f"gpu-{k}", "gpus") for k in range(8))
        claim = plan.PlannedClaim(
            f"pretraining-run-workers-0-{i}-x7k2p-gpus-9vq4m", f"{i:08}-b0c5-4d1e-9a3f-{i:012}", given
        )
        pod = f"pretraining-run-workers-0-{i}-x7k2p"
        found.append(plan.PlannedPod(i, "workers", pod, f"{i:08}-1c5e-4f7a-8b2d-{i:012}", node, (claim,)))
    return plan.Plan(
        workload.Identity(space, "gang-large", "JobSet"), tuple(found), 3, "d", "eu/block-3", "block", 391_000
    )


def test_a_plan_of_512_pods_is_far_below_what_etcd_takes() -> None:
    gang = workload.Workload(large().identity, pods.Owner(), None)
    data = orjson.dumps(gang_record.body(gang, large(), 1))
    assert len(data) < 512 * 1024, len(data)
    assert gang_record.read_plan(orjson.loads(data)) == large()


def test_shares_and_what_they_consume_come_back() -> None:
    share = rows.Allocation("gpu.muster.dev", "n", "gpu-0", "a/b", "uid", (("compute", 30), ("memory", 4096)))
    pod = plan.PlannedPod(0, "r", "p", "u", "n", (plan.PlannedClaim("c", "uc", (share,)),))
    one = dataclasses.replace(large(1), pods=(pod,))
    gang = workload.Workload(one.identity, pods.Owner(), None)
    assert gang_record.read_plan(orjson.loads(orjson.dumps(gang_record.body(gang, one, 1)))) == one


def test_every_phase_is_in_the_schema_and_no_message_is_too_long() -> None:
    assert set(STATUS["phase"]["enum"]) == {phase.value for phase in gang_record.Phase}
    item = gang_record.body(workload.Workload(large(1).identity, pods.Owner(), None), large(1), 1)
    told = gang_record.status(item, gang_record.Phase.WAITING, "", "x" * 9999)
    assert len(told["message"]) <= STATUS["message"]["maxLength"]
    assert set(told) <= set(STATUS)


def test_a_condition_keeps_its_time_until_it_changes() -> None:
    item = gang_record.body(workload.Workload(large(1).identity, pods.Owner(), None), large(1), 1)
    first = gang_record.status(item, gang_record.Phase.ALLOCATING, "", "")
    old = "2020-01-01T00:00:00Z"
    before = first | {"conditions": [one | {"lastTransitionTime": old} for one in first["conditions"]]}
    later = gang_record.status(item | {"status": before}, gang_record.Phase.RUNNING, "", "")
    times = {one["type"]: one["lastTransitionTime"] == old for one in later["conditions"]}
    assert times == {"Planned": True, "Allocated": False, "Released": False}


@pytest.fixture
async def api(cluster: clusters.Cluster) -> AsyncIterator[client.Client]:
    """The cluster with the CRD served."""
    async with await client.Client.connect(cluster.kubeconfig) as one:
        with contextlib.suppress(errors.ApiError):
            await one.create(CRDS, BODY)
        async with asyncio.timeout(20):
            while not await served(one):
                await asyncio.sleep(0.1)
        yield one


async def served(api: client.Client) -> bool:
    item = await api.get(f"{CRDS}/{BODY['metadata']['name']}")
    found = {one["type"]: one for one in item.get("status", {}).get("conditions") or ()}
    assert "NonStructuralSchema" not in found, found["NonStructuralSchema"]
    try:
        await api.list(paths.of(names.API_VERSION, names.PLURAL))
    except errors.ApiError as error:
        if not error.missing:
            raise
        return False
    return found.get("Established", {}).get("status") == "True"


async def test_a_large_plan_is_taken_and_shown(api: client.Client, space: fixtures.Space) -> None:
    one = large(space=space.name)
    gang = workload.Workload(one.identity, pods.Owner(), None)
    path = paths.of(names.API_VERSION, names.PLURAL, space.name)
    item = await api.create(path, gang_record.body(gang, one, 1))
    assert gang_record.read_plan(item) == one, "nothing was pruned"
    gone = {"gang": "ml/other", "priority": 1, "domain": "b-0/r-0", "movesTo": "b-0/r-1"}
    offer = {"way": "defragment", "level": "rack", "domain": "b-0/r-0", "gangs": [gone]}
    told = gang_record.status(item, gang_record.Phase.WAITING, "", "", offer)
    after = await api.patch(f"{path}/gang-large/status", {"status": told})
    assert after["status"] == told, "nothing was pruned"
    told = gang_record.status(item, gang_record.Phase.RUNNING, "", "")
    assert told.pop("offer") is None
    after = await api.patch(f"{path}/gang-large/status", {"status": {**told, "offer": None}})
    assert after["status"] == told, "an offer that does not hold is taken away"
    table = space.kubectl("get", "gp")
    assert table.split()[:3] == ["NAME", "PHASE", "PODS"] and "Running" in table and "512" in table
    assert "gang-large" in space.kubectl("get", "muster")
    with pytest.raises(errors.ApiError, match="Unsupported value"):
        await api.patch(f"{path}/gang-large/status", {"status": {"phase": "Dancing"}})


def member(name: str) -> dict[str, Any]:
    return live.pod(name, claim="eight") | {"metadata": {"name": name, "labels": {"of": "crd"}}}


async def gang_of(api: client.Client, space: str, count: int) -> plan.Plan:
    """Create gated pods with claims, and return a plan for them."""
    template = live.template("eight", 8, f"gpu-{space}")
    await api.create(paths.of(paths.RESOURCE, "resourceclaimtemplates", space), template)
    for i in range(count):
        await api.create(paths.of("v1", "pods", space), member(f"w-{i}"))
    async with asyncio.timeout(60):
        while True:
            found, _ = await api.list(paths.of("v1", "pods", space))
            made = {one["metadata"]["name"]: one.get("status", {}).get("resourceClaimStatuses") for one in found}
            if all(made.values()):
                break
            await asyncio.sleep(0.1)
    claimed, _ = await api.list(paths.of(paths.RESOURCE, "resourceclaims", space))
    uids = {one["metadata"]["name"]: one["metadata"]["uid"] for one in claimed}
    planned = []
    for rank, item in enumerate(sorted(found, key=lambda one: int(one["metadata"]["name"][2:]))):
        claim, node = made[item["metadata"]["name"]][0]["resourceClaimName"], f"n-{rank}"
        given = tuple(rows.Allocation("gpu.muster.dev", node, f"gpu-{k}", "gpus") for k in range(8))
        one = plan.PlannedClaim(claim, uids[claim], given)
        planned.append(plan.PlannedPod(rank, "w", item["metadata"]["name"], item["metadata"]["uid"], node, (one,)))
    return plan.Plan(workload.Identity(space, "gang-w", "Annotated"), tuple(planned), 1, level="rack")


@pytest.mark.parametrize("count", [4, 64])
async def test_a_plan_is_written_and_another_taken_back(
    api: client.Client, space: fixtures.Space, count: int, record_property: Any
) -> None:
    one = await gang_of(api, space.name, count)
    gang = workload.Workload(one.identity, pods.Owner(), None)
    writer = scribe.Scribe(api, 1, live.device_class)
    await writer.claims.take_back(one.identity.namespace, one.pods)
    refused = dataclasses.replace(one, pods=(*one.pods[:-1], dataclasses.replace(one.pods[-1], claims=(gone(),))))
    with pytest.raises(scribe.StartFailed, match="not found"):
        await writer.start(gang, refused, None)
    claims, _ = await api.list(paths.of(paths.RESOURCE, "resourceclaims", space.name))
    assert not any((item.get("status") or {}).get("allocation") for item in claims)
    assert not any(names.CLAIM_FINALIZER in item["metadata"].get("finalizers", ()) for item in claims)
    began = time.monotonic()
    await writer.start(gang, one, None)
    record_property("seconds", time.monotonic() - began)
    print(f"\n{count} pods written in {time.monotonic() - began:.3f} s")
    claims, _ = await api.list(paths.of(paths.RESOURCE, "resourceclaims", space.name))
    assert len([item for item in claims if item["status"].get("allocation")]) == count
    found, _ = await api.list(paths.of("v1", "pods", space.name))
    assert not any(item["spec"].get("schedulingGates") for item in found)
    assert {pods.read(item).pinned for item in found} == {f"n-{i}" for i in range(count)}
    with pytest.raises(scribe.StartFailed, match="field is immutable"):
        await writer.start(gang, dataclasses.replace(one, pods=(stranger(one.pods[0]),)), None)
    await writer.claims.take_back(one.identity.namespace, one.pods)
    await api.delete(paths.of("v1", "pods", space.name), grace_s=0)


def gone() -> plan.PlannedClaim:
    return plan.PlannedClaim("nobody", "none", ())


def stranger(pod: plan.PlannedPod) -> plan.PlannedPod:
    """Return a pod whose claim was made anew under the same name."""
    return dataclasses.replace(pod, claims=(dataclasses.replace(pod.claims[0], uid="another"),))
