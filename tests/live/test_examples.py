"""The examples of docs/workloads.md, applied as a user does: each runs as one gang where the text says."""

from __future__ import annotations

from typing import Any

import pytest

from scheduler.model import names
from tests.live import site as sites
from tests.live import team as teams
from tests.live import work
from tests.testbed.controllers import manifests

SHARED = ("ResourceFlavor", "ClusterQueue")
"""Kinds of an example that are in no namespace."""

CLIQUE = "nvidia.com/gpu.clique"

Obj = dict[str, Any]


def example(name: str) -> list[Obj]:
    return sites.manifest(f"examples/{name}.yaml")


async def apply(team: teams.Team, name: str) -> None:
    """Apply an example with what its pods ask for."""
    items = example(name)
    await manifests.apply(team.api, [one for one in items if one["kind"] in SHARED])
    await team.apply(*example("claims"), *(one for one in items if one["kind"] not in SHARED))


async def test_a_job_is_in_one_rack(team: teams.Team) -> None:
    await apply(team, "job")
    await team.bound(4)
    pods = await team.planned("job-pretrain", 4)
    assert len(await team.racks(pods)) == 1


async def test_the_roles_of_a_jobset_start_together(team: teams.Team) -> None:
    await apply(team, "jobset")
    await team.bound(3)
    pods = await team.planned("jobset-finetune", 3)
    found = await team.placement("jobset-finetune")
    assert [(one["name"], one["count"]) for one in found["spec"]["roles"]] == [("trainer", 2), ("evaluator", 1)]
    assert len(await team.racks(pods[:2])) == 1
    assert [len(rows) for rows in (await team.devices()).values() if len(rows) != 8] == [1]


async def test_segments_are_on_one_nvlink_domain_each(team: teams.Team) -> None:
    await apply(team, "segments")
    await team.bound(4)
    pods = await team.planned("job-moe", 4)
    index = [one["metadata"]["labels"]["batch.kubernetes.io/job-completion-index"] for one in pods]
    assert index == ["0", "1", "2", "3"], "the rank is the completion index"
    fabrics = {one["metadata"]["name"]: one["metadata"]["labels"].get(CLIQUE) for one in await team.nodes()}
    first, second = ({fabrics[one["spec"]["nodeName"]] for one in pods[i : i + 2]} for i in (0, 2))
    assert len(first) == len(second) == 1 and None not in first | second


async def test_each_replica_of_a_leader_worker_set_is_a_gang(team: teams.Team) -> None:
    await apply(team, "leaderworkerset")
    await team.bound(4)
    for group in ("0", "1"):
        pods = await team.planned(f"lws-serve-{group}", 2)
        assert len(await team.racks(pods)) == 1


async def test_plain_pods_have_the_ranks_and_the_tenant_that_they_name(team: teams.Team) -> None:
    await apply(team, "pods")
    await team.bound(2)
    pods = await team.planned("gang-ring", 2)
    assert [one["metadata"]["name"] for one in pods] == ["ring-b", "ring-a"]
    assert [one["metadata"]["annotations"][names.PLANNED_RANK] for one in pods] == ["0", "1"]
    assert (await team.placement("gang-ring"))["spec"]["tenant"] == "research"
    assert len(await team.racks(pods)) == 1


async def test_a_pod_group_grows_by_pods_that_come_later(team: teams.Team) -> None:
    if team.site.home.kubernetes.minor < 37:
        pytest.skip("PodGroup v1beta1 is served from 1.37 on")
    await apply(team, "podgroup")
    await team.bound(2)
    await team.planned("podgroup-batch-a", 2)
    _, first, _ = example("podgroup")
    await team.create([first | {"metadata": {"name": "batch-a-2"}}])
    await team.bound(3)
    await team.planned("podgroup-batch-a", 3)


async def test_an_elastic_gang_starts_small_and_grows(team: teams.Team) -> None:
    await team.create(work.gang("others", 6))
    await team.bound(6)
    await apply(team, "elastic")
    await team.planned("job-rollout", 2)
    for i in range(6):
        await team.api.delete(team.path("v1", "pods", f"others-{i}"), grace_s=0)
    await team.planned("job-rollout", 4)
    more = {"spec": {"parallelism": 5, "completions": 5}}
    await team.api.patch(team.path(work.BATCH, "jobs", "rollout"), more)
    await team.planned("job-rollout", 5)


async def test_a_job_goes_through_a_queue(team: teams.Team) -> None:
    await apply(team, "kueue")
    await team.bound(2)
    pods = await team.planned("job-queued", 2)
    assert len(await team.racks(pods)) == 1


async def test_a_namespace_of_the_example_gates_pods_and_names_their_tenant(team: teams.Team) -> None:
    """The team's own namespace gets the labels of the example."""
    [space] = example("namespace")
    await team.api.patch(f"/api/v1/namespaces/{team.name}", {"metadata": {"labels": space["metadata"]["labels"]}})
    await team.until(lambda: tenant_of_next(team))


async def tenant_of_next(team: teams.Team) -> bool:
    """Tell whether a new pod is gated and of the example's tenant; labels reach the webhook within moments."""
    made = await team.api.create(team.path("v1", "pods"), work.pod("probe"), dryRun="All")
    gates = [one["name"] for one in made["spec"].get("schedulingGates", ())]
    return gates == [names.GATE] and made["metadata"]["labels"].get(names.TENANT) == "research"
