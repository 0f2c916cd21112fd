"""Kinds of other projects in a whole scheduler: coscheduling's PodGroups, InferencePools; and gangs that lose a part."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from scheduler.apiserver import paths
from scheduler.kube import inference_pools
from scheduler.kube import pod as pods
from tests.kube import live
from tests.kube.test_verifier import told

SIGS, INFERENCE = "scheduling.x-k8s.io/v1alpha1", "inference.networking.k8s.io/v1"


@pytest.fixture
async def home(tmp_path: Path) -> AsyncIterator[live.Cluster]:
    async with live.cluster(tmp_path, "hgx-h100=2") as found:
        yield found


async def install(home: live.Cluster, api_version: str, kind: str) -> None:
    """Install the definition of a kind, any fields allowed."""
    group, _, version = api_version.partition("/")
    plural = f"{kind.lower()}s"
    schema = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    served = {"name": version, "served": True, "storage": True, "schema": {"openAPIV3Schema": schema}}
    names = {"plural": plural, "singular": kind.lower(), "kind": kind, "listKind": f"{kind}List"}
    body = {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{plural}.{group}"},
        "spec": {"group": group, "scope": "Namespaced", "names": names, "versions": [served]},
    }
    await home.api.create(paths.of("apiextensions.k8s.io/v1", "customresourcedefinitions"), body)


def labelled(name: str, claim: str, **labels: str) -> dict[str, Any]:
    made = live.pod(name, claim=claim)
    made["metadata"]["labels"] = {key.replace("__", "/").replace("_", "."): value for key, value in labels.items()}
    return made


async def test_a_pod_group_of_coscheduling_is_a_gang_of_its_least_members(home: live.Cluster) -> None:
    await install(home, SIGS, "PodGroup")
    group = {"apiVersion": SIGS, "kind": "PodGroup", "metadata": {"name": "ring"}, "spec": {"minMember": 2}}
    await home.api.create(paths.of(SIGS, "podgroups", "default"), group)
    await home.start()
    label = {"scheduling_x-k8s_io__pod-group": "ring"}
    await home.create(labelled("r-0", "eight", **label))
    assert home.scheduler and home.scheduler.shell
    now = home.scheduler.shell

    async def seen() -> bool:
        return "default/sigs-podgroup-ring" in now.followed

    await home.until(seen)
    assert await home.claims() == {}, "one of two"
    await home.create(labelled("r-1", "eight", **label))
    nodes = await home.bound("r-0", "r-1")
    assert len(set(nodes.values())) == 2
    record = await home.placement("sigs-podgroup-ring")
    assert record and record["metadata"]["ownerReferences"][0]["kind"] == "PodGroup"


async def test_what_is_told_of_a_pod_is_told_on_the_inference_pool_that_it_serves(home: live.Cluster) -> None:
    await install(home, INFERENCE, "InferencePool")
    for name, labels in {"chat": {"app": "chat"}, "other": {"app": "other"}, "every": {}}.items():
        spec = {"selector": {"matchLabels": labels}, "targetPorts": [{"number": 8000}]}
        body = {"apiVersion": INFERENCE, "kind": "InferencePool", "metadata": {"name": name}, "spec": spec}
        await home.api.create(paths.of(INFERENCE, "inferencepools", "default"), body)
    await home.start()
    await home.create(*(labelled(f"c-{i}", "eight", app="chat") for i in range(2)))
    await home.bound("c-0", "c-1")
    await home.create(labelled("c-2", "eight", app="chat"))

    async def waiting() -> list[dict[str, Any]]:
        return [one for one in await told(home, "GangWaiting", "InferencePool") if "c-2" in one["note"]]

    [event] = await home.until(waiting)
    assert (event["regarding"]["name"] == "chat" and "8 GPUs" in event["note"]) or "1 pods" in event["note"]
    planned = await told(home, "GangPlanned", "InferencePool")
    assert {one["regarding"]["name"] for one in planned} == {"chat"} and len(planned) == 2
    assert home.scheduler and home.scheduler.shell
    known = home.scheduler.shell.known
    assert [one.name for one in inference_pools.members(known, "default", "chat")] == ["c-0", "c-1", "c-2"]
    assert inference_pools.members(known, "default", "every") == []
    assert inference_pools.members(known, "default", "none") == []


@pytest.mark.parametrize(
    ("labels", "wanted", "expected"),
    [({"a": "1"}, {"a": "1"}, True), ({"a": "2"}, {"a": "1"}, False), ({"a": "1"}, {"a": "1", "b": "2"}, False)],
)
def test_selectors(labels: dict[str, str], wanted: dict[str, str], expected: bool) -> None:
    pod = pods.Pod("ml", "p", "u", "1", labels, {})
    assert inference_pools.selects({"spec": {"selector": {"matchLabels": wanted}}}, pod) is expected
    assert not inference_pools.selects({"spec": {}}, pod)


async def test_a_gang_that_loses_a_claim_while_it_waits_says_so_and_says_why_it_waits_then(home: live.Cluster) -> None:
    await home.start()
    await home.create(live.pod("full-0", "full", 2), live.pod("full-1", "full", 2))
    await home.bound("full-0", "full-1")
    claim = await made_claim(home)
    await home.create(claim)
    late = live.pod("late", "late", 1)
    late["spec"]["resourceClaims"] = [{"name": "devices", "resourceClaimName": "mine"}]
    await home.create(late)
    assert home.scheduler and home.scheduler.shell

    async def reason(word: str) -> str:
        found = (await home.placement("gang-late") or {}).get("status", {})
        return found["message"] if found.get("reason") == word else ""

    await home.until(lambda: reason("InsufficientGPUs"))
    await home.api.delete(paths.of(paths.RESOURCE, "resourceclaims", "default", "mine"))
    assert "there is no ResourceClaim mine" in await home.until(lambda: reason("Invalid"))
    [event] = await home.until(lambda: told(home, "GangInvalid", "Pod"))
    assert event["regarding"]["name"] == "late" and event["type"] == "Warning"
    await home.create(claim)
    await home.until(lambda: reason("InsufficientGPUs"))
    for name in ("full-0", "full-1"):
        await home.api.delete(f"/api/v1/namespaces/default/pods/{name}", grace_s=0)
    await home.bound("late")


async def test_a_gang_that_loses_a_pod_while_it_waits_says_so_and_says_why_it_waits_then(home: live.Cluster) -> None:
    await home.start()
    await home.create(live.pod("full-0", "full", 2), live.pod("full-1", "full", 2))
    await home.bound("full-0", "full-1")
    await home.create(*(live.pod(f"w-{i}", "late", 2) for i in range(2)))

    async def message(reason: str) -> str:
        found = (await home.placement("gang-late") or {}).get("status", {})
        return str(found["message"]) if found.get("reason") == reason else ""

    await home.until(lambda: message("InsufficientGPUs"))
    assert not await told(home, "GangIncomplete")
    await home.api.delete("/api/v1/namespaces/default/pods/w-1", grace_s=0)
    assert "1 of 2 pods" in await home.until(lambda: message("Incomplete"))
    [event] = await home.until(lambda: told(home, "GangIncomplete", "Pod"))
    assert event["regarding"]["name"] == "w-0"
    await home.create(live.pod("w-1", "late", 2))
    await home.until(lambda: message("InsufficientGPUs"))
    for name in ("full-0", "full-1"):
        await home.api.delete(f"/api/v1/namespaces/default/pods/{name}", grace_s=0)
    await home.bound("w-0", "w-1")


async def test_a_pod_whose_claim_does_not_exist_is_told_and_runs_when_it_does(home: live.Cluster) -> None:
    await home.start()
    late = live.pod("late", "late", 1)
    late["spec"]["resourceClaims"] = [{"name": "devices", "resourceClaimName": "mine"}]
    await home.create(late)
    [event] = await home.until(lambda: told(home, "GangInvalid", "Pod"))
    assert "there is no ResourceClaim mine" in event["note"]
    await home.create(await made_claim(home))
    await home.bound("late")


async def made_claim(home: live.Cluster) -> dict[str, Any]:
    """Return a claim of eight GPUs that no pod owns."""
    template = await home.api.get(paths.of(paths.RESOURCE, "resourceclaimtemplates", "default", "eight"))
    spec = template["spec"]["spec"]
    return {"apiVersion": paths.RESOURCE, "kind": "ResourceClaim", "metadata": {"name": "mine"}, "spec": spec}
