"""The scheduler at work with the rights of deploy/ and no others: each call is allowed, and each right is used.

The API server itself tells, in its audit log, what the account asked and whether that was allowed.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from scheduler import faultpoint
from scheduler.apiserver import client, errors, paths
from scheduler.model import names
from tests.live import site as sites
from tests.live import team as teams
from tests.live import work
from tests.testbed import audit, fixtures
from tests.testbed import cluster as clusters
from tests.testbed.controllers import kueue, manifests

pytestmark = [pytest.mark.slow, pytest.mark.testbed, pytest.mark.xdist_group("privilege")]

USER = f"system:serviceaccount:{sites.SPACE}:{sites.NAME}"
FOREIGN = (
    ("JobSet", "jobsets", "jobset.x-k8s.io", "v1alpha2"),
    ("LeaderWorkerSet", "leaderworkersets", "leaderworkerset.x-k8s.io", "v1"),
    ("PodGroup", "podgroups", "scheduling.x-k8s.io", "v1alpha1"),
    ("InferencePool", "inferencepools", "inference.networking.k8s.io", "v1"),
)
"""Kinds of which only the right to watch them matters here."""

SYNTHETIC = "resourceclaims/binding"
"""No request: the server asks for this right when an allocation is written. See the last test."""

Right = tuple[str, str, str]
"""Group, resource, verb."""


def crd(kind: str, plural: str, group: str, version: str) -> dict[str, Any]:
    schema = {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": True}}
    spec = {
        "group": group,
        "scope": "Namespaced",
        "names": {"kind": kind, "plural": plural, "singular": kind.lower(), "listKind": f"{kind}List"},
        "versions": [{"name": version, "served": True, "storage": True, "schema": schema}],
    }
    notes = {"api-approved.kubernetes.io": "unapproved, test"}
    metadata = {"name": f"{plural}.{group}", "annotations": notes}
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": metadata,
        "spec": spec,
    }


@pytest.fixture(scope="module")
def site(kubernetes_version: str) -> Iterator[sites.Site]:
    fixtures.require(real_nodes=False)
    with clusters.Cluster(clusters.Options(version=kubernetes_version, audited=USER)).start() as home:
        asyncio.run(install(home, [crd(*one) for one in FOREIGN]))
        made = sites.of(home)
        made.start(("kueue",))
        made.stop_muster()
        made.start_muster("--preempt", "execute")
        yield made


async def install(home: clusters.Cluster, items: list[manifests.Object]) -> None:
    async with await client.Client.connect(home.kubeconfig) as api:
        await manifests.apply(api, items)


@pytest.fixture
async def team(site: sites.Site) -> AsyncIterator[teams.Team]:
    async with await client.Client.connect(site.home.kubeconfig) as api, teams.Team.open(site, api) as opened:
        yield opened


async def test_every_call_is_allowed_and_every_right_is_used(team: teams.Team) -> None:
    try:
        await placed_by_kueue(team)
        await killed_half_way(team)
        await evicted(team)
        await team.empty()
    finally:  # a step that failed most likely lacked a right: that is what has to be told
        calls = list(_audit(team).calls())
        assert not (found := [one for one in calls if refused(one)]), found[:3]
    asked = {(one.group, one.resource, one.verb) for one in calls}
    unused = {right for right in rights("rbac.yaml", "kueue.yaml") - asked if right[1] != SYNTHETIC}
    assert unused == not_here(team.site)
    assert {one.namespace for one in calls if one.resource == "leases"} == {sites.SPACE}


def refused(one: audit.Call) -> bool:
    """Tell whether a right was missing; an Event for a namespace that is being deleted is refused whatever they are."""
    return not one.allowed or (one.code == 403 and one.resource != "events")


def _audit(team: teams.Team) -> audit.Audit:
    found = team.site.home.control.audit
    assert found is not None
    return found


def not_here(site: sites.Site) -> set[Right]:
    """Return the rights for kinds that this version does not serve, which can be listed in vain only."""
    if site.tainted:
        return set()
    return {("resource.k8s.io", "devicetaintrules", "watch"), ("scheduling.k8s.io", "podgroups", "watch")}


def rights(*files: str) -> set[Right]:
    """Return what the account may do, by the roles that are bound to it."""
    items = [one for file in files for one in sites.manifest(file)]
    bound = {one["roleRef"]["name"] for one in items if one["kind"].endswith("Binding")}
    rules = [rule for one in items if one["metadata"]["name"] in bound for rule in one.get("rules", ())]
    return {
        (group, resource, verb)
        for rule in rules
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }


async def placed_by_kueue(team: teams.Team) -> None:
    """A Job waits for our check, and its pods come to the devices that were kept for it."""
    quota: dict[str, str | int] = {"cpu": 64, "memory": "64Gi", "muster.dev/gpu": 64}
    queue = [kueue.flavor(team.name), kueue.cluster_queue_of(team.name, quota, "muster-placement")]
    await manifests.apply(team.api, [*queue, kueue.local_queue(team.name, "main", team.name)])
    await team.apply(work.job("train", 2, labels={work.QUEUE_LABEL: "main"}))
    await team.bound(2)
    await team.phase("job-train", "Running")
    # Anew in the same place: what is told of the Job is told a second time.
    for name in await team.bound(2):
        await team.api.delete(team.path("v1", "pods", name), grace_s=0)
    await team.until(lambda: repeated(team, "GangPlanned"))
    await team.bound(2)
    await team.empty()


async def repeated(team: teams.Team, reason: str) -> bool:
    """Tell whether an Event was lengthened to a series."""
    found = await team.list("events.k8s.io/v1", "events")
    return any(one["reason"] == reason and one.get("series") for one in found)


async def killed_half_way(team: teams.Team) -> None:
    """A scheduler dies while it writes a plan; the next one takes it back, since a pod is gone, and places the rest.

    The pods have the gate from the start, since nobody answers the webhook, and an affinity, to which the pin is added.
    """
    team.site.stop_muster()
    notes = {names.GANG_NAME: "left", names.GANG_SIZE: "3"}
    terms = [{"matchExpressions": [{"key": work.RACK, "operator": "Exists"}]}]
    affinity = {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms}}}
    gated = {"schedulingGates": [{"name": names.GATE}], "affinity": affinity}
    members = [work.pod(f"left-{i}", notes=notes, **gated) for i in range(4)]
    process = await asyncio.create_subprocess_exec(
        *team.site.argv("--preempt", "execute"),
        env=os.environ | {faultpoint.VARIABLE: "claim-allocated:2"},
        cwd=sites.ROOT,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        await team.create(members[:3])
        async with asyncio.timeout(60):
            assert await process.wait() == -signal.SIGKILL
    finally:
        if process.returncode is None:
            process.kill()
    await team.api.delete(team.path("v1", "pods", "left-1"), grace_s=0)
    team.site.start_muster("--preempt", "execute")
    await team.create(members[3:])
    await team.bound(3, within_s=60)  # the Lease of a dead leader lasts 15 s


async def evicted(team: teams.Team) -> None:
    """A gang of higher priority takes the place of all others."""
    for name, value in (("low", 1), ("high", 1000)):
        body = {
            "apiVersion": "scheduling.k8s.io/v1",
            "kind": "PriorityClass",
            "metadata": {"name": f"{team.name}-{name}"},
        }
        await team.api.create(paths.of("scheduling.k8s.io/v1", "priorityclasses"), body | {"value": value})
    high = [one | {"spec": one["spec"] | {"priorityClassName": f"{team.name}-high"}} for one in work.gang("urgent", 8)]
    await team.create(high)
    await team.bound(8, within_s=60)


async def test_the_right_to_bind_claims_is_asked_for_when_devices_are_given(team: teams.Team) -> None:
    """From 1.36; without it not one gang would start, and no request shows it."""
    if not team.site.tainted:
        pytest.skip("asked for from 1.36")
    spec = {"devices": {"requests": [{"name": "gpus", "exactly": {"deviceClassName": "gpu.muster.dev"}}]}}
    body = {"apiVersion": paths.RESOURCE, "kind": "ResourceClaim", "metadata": {"name": "probe"}, "spec": spec}
    claim = await team.api.create(team.path(paths.RESOURCE, "resourceclaims"), body)
    row = {"request": "gpus", "driver": "gpu.muster.dev", "pool": "nowhere", "device": "gpu-0"}
    claim["status"] = {"allocation": {"devices": {"results": [row]}}}
    path = team.path(paths.RESOURCE, "resourceclaims", "probe", "status")
    try:
        async with await client.Client.connect(team.site.home.folder / f"{sites.NAME}.kubeconfig") as account:
            await account.replace(path, claim, dryRun="All")
            async with without_binding(team.api):
                assert SYNTHETIC in await team.until(lambda: refusal(account, path, claim))
    finally:
        await team.api.delete(team.path(paths.RESOURCE, "resourceclaims", "probe"))


@contextlib.asynccontextmanager
async def without_binding(api: client.Client) -> AsyncIterator[None]:
    """Take the right away for a while."""
    role = paths.of("rbac.authorization.k8s.io/v1", "clusterroles", "", sites.NAME)
    rules = (await api.get(role))["rules"]
    less = [rule | {"resources": [one for one in rule["resources"] if one != SYNTHETIC]} for rule in rules]
    await api.patch(role, {"rules": less})
    try:
        yield
    finally:
        await api.patch(role, {"rules": rules})


async def refusal(account: client.Client, path: str, claim: dict[str, Any]) -> str:
    """Return why an allocation can't be written; "" where it can, as some moments after a change of roles."""
    try:
        await account.replace(path, claim, dryRun="All")
    except errors.ApiError as error:
        if error.status != 422:  # the server looks at this right while it validates
            raise
        return str(error)
    return ""
