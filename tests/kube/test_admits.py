"""Pods that say on which nodes they may run: read as kube-scheduler reads them, planned there, and refused by name."""

import copy
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from scheduler.apiserver import client, paths
from scheduler.kube import admits, names, pin, plan
from scheduler.kube import pod as pods
from scheduler.model.admission import Admission, Requirement, Toleration
from tests.kube import live

SPEC: dict[str, Any] = {
    "nodeSelector": {"zone": "z", "pool": "a"},
    "tolerations": [
        {"key": "node.kubernetes.io/not-ready", "operator": "Exists", "effect": "NoExecute"},
        {"key": "soft", "operator": "Exists", "effect": "PreferNoSchedule"},
        {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"},
        {"key": "dedicated", "value": "ml"},
    ],
    "affinity": {
        "nodeAffinity": {
            "requiredDuringSchedulingIgnoredDuringExecution": {
                "nodeSelectorTerms": [
                    {"matchExpressions": [{"key": "gpus", "operator": "Gt", "values": ["4"]}]},
                    {"matchFields": [{"key": "metadata.name", "operator": "NotIn", "values": ["bad"]}]},
                ]
            }
        }
    },
}
READ = Admission(
    (Requirement("pool", "In", ("a",)), Requirement("zone", "In", ("z",))),
    ((Requirement("gpus", "Gt", ("4",)),), (Requirement("metadata.name", "NotIn", ("bad",), field=True),)),
    (Toleration("dedicated", "Equal", "ml"), Toleration("nvidia.com/gpu", "Exists", "", "NoSchedule")),
)


def test_selectors_affinities_and_tolerations_are_read() -> None:
    assert admits.read(SPEC) == READ
    assert admits.read({}) == Admission()
    assert READ.keys == {"pool", "zone", "gpus"}


@pytest.mark.parametrize("spec", [SPEC, {}, {"nodeSelector": {"a": "b"}}])
def test_our_own_pin_is_not_taken_for_the_users_wish(spec: dict[str, Any]) -> None:
    body = live.pod("p", gated=True)
    body["metadata"] |= {"namespace": "ml", "uid": "u"}
    body["spec"] |= copy.deepcopy(spec)
    before = pods.read(body)
    pin.release(body, "gang", plan.PlannedPod(0, "w", "p", "u", "n7"))
    after = pods.read(body)
    assert after.pinned == "n7" and after.nodes == before.nodes == admits.read(spec)
    by_hand = live.pod("p", gated=False)
    by_hand["metadata"]["namespace"] = "ml"
    pin.node(by_hand["spec"], "n7")
    assert pods.read(by_hand).nodes.terms == ((Requirement("metadata.name", "In", ("n7",), field=True),),)


@pytest.fixture
async def home(tmp_path: Path) -> AsyncIterator[live.Cluster]:
    async with live.cluster(tmp_path) as found:
        yield found


async def nodes(home: live.Cluster) -> list[str]:
    found, _ = await home.api.list(paths.of("v1", "nodes"))
    return sorted(one["metadata"]["name"] for one in found)


async def change(home: live.Cluster, node: str, **changes: Any) -> None:
    await home.api.patch(f"{paths.of('v1', 'nodes')}/{node}", changes, client.MERGE)


def labelled(**labels: str) -> dict[str, Any]:
    return {"labels": labels}


async def reason(home: live.Cluster, gang: str, word: str) -> str:
    """Wait for the reason of a GangPlacement and return its message."""

    async def told() -> str:
        status = (await home.placement(gang) or {}).get("status", {})
        return str(status["message"]) if status.get("reason") == word else ""

    return str(await home.until(told))


def wanting(name: str, gang: str, size: int, **spec: Any) -> dict[str, Any]:
    body = live.pod(name, gang, size)
    body["spec"] |= copy.deepcopy(spec)
    return body


async def test_a_gang_goes_to_the_nodes_that_its_selector_names_and_waits_for_them(home: live.Cluster) -> None:
    await home.start()
    first, *_, last = await nodes(home)
    chosen = {"nodeSelector": {"pool": "ml"}}
    await home.create(wanting("a", "picky", 2, **chosen))
    await home.create(wanting("b", "picky", 2, **chosen))
    text = await reason(home, "gang-picky", "NoNodeMatchesSelector")
    assert "none of 4 nodes with such devices has pool=ml" in text
    assert await home.claims() == {}
    await change(home, last, metadata=labelled(pool="ml"))
    text = await reason(home, "gang-picky", "GangLargerThanCluster")
    assert "1 of 4 nodes have pool=ml" in text
    await change(home, first, metadata=labelled(pool="ml"))
    where = await home.bound("a", "b")
    assert set(where.values()) == {first, last}


async def test_a_required_affinity_is_kept_to_and_narrowed_by_the_pin(home: live.Cluster) -> None:
    await home.start()
    *_, last = await nodes(home)
    term = {"matchExpressions": [{"key": "kubernetes.io/hostname", "operator": "In", "values": [last]}]}
    affinity = {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [term]}}}
    await home.create(wanting("a", "one", 1, affinity=affinity))
    assert await home.bound("a") == {"a": last}
    await home.create(wanting("b", "two", 1, affinity=affinity))
    text = await reason(home, "gang-two", "InsufficientGPUs")
    assert "1 of 4 nodes have kubernetes.io/hostname=" in text


async def test_tainted_nodes_are_for_pods_that_tolerate_the_taint(home: live.Cluster) -> None:
    await home.start()
    *others, last = await nodes(home)
    for node in await nodes(home):
        taint = {"key": "dedicated", "value": "ml", "effect": "NoSchedule"}
        await change(home, node, spec={"taints": [taint] if node == last else [{**taint, "key": "nvidia.com/gpu"}]})
    tolerations = [{"key": "dedicated", "operator": "Equal", "value": "ml"}]
    await home.create(wanting("a", "able", 1, tolerations=tolerations))
    assert await home.bound("a") == {"a": last}
    await home.create(wanting("b", "barred", 1))
    text = await reason(home, "gang-barred", "InsufficientGPUs")
    assert "taints keep it off 1: dedicated=ml:NoSchedule (1 node)" in text
    assert "nodes with GPUs that take nothing new: 3 (has taint nvidia.com/gpu=ml:NoSchedule)" in text
    for name in "cde":
        await home.create(wanting(name, "gpus", 3, tolerations=[{"key": "nvidia.com/gpu", "operator": "Exists"}]))
    where = await home.bound("c", "d", "e")
    assert sorted(where.values()) == others
    await home.create(wanting("f", "late", 1))
    text = await reason(home, "gang-late", "TaintsNotTolerated")
    assert "nvidia.com/gpu=ml:NoSchedule (3 nodes)" in text and "dedicated=ml:NoSchedule (1 node)" in text
    await change(home, last, spec={"taints": None})
    await home.api.delete("/api/v1/namespaces/default/pods/a", grace_s=0)
    assert await home.bound("b") == {"b": last}


async def test_pods_that_are_not_bound_in_time_are_told_of_or_made_anew(home: live.Cluster) -> None:
    await home.start(bind_s=1.0)
    pool = "default"
    owner = await home.api.get(paths.of(paths.RESOURCE, "resourceclaimtemplates", pool, "eight"))
    made = [live.pod(name, "owned", 2) for name in ("kept", "lost")]
    reference = {"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "x", "controller": True}
    for one in made:
        one["metadata"]["ownerReferences"] = [reference | {"uid": owner["metadata"]["uid"]}]
    absent = {"schedulerName": "absent"}
    lost, alone = made[1] | {"spec": made[1]["spec"] | absent}, wanting("alone", "alone", 1, **absent)
    await home.create(made[0], lost, alone)

    async def events(word: str, name: str) -> list[str]:
        found, _ = await home.api.list(paths.of("events.k8s.io/v1", "events", pool))
        return [one["note"] for one in found if one["reason"] == word and one["regarding"]["name"] == name]

    [told] = await home.until(lambda: events("GangNotBound", "alone"))
    assert "1 pods were let go and are not bound after 1 s, alone" in told and "keep their devices" in told
    assert "alone" in await home.pods() and len((await home.claims())["alone"]) == 8
    text = await reason(home, "gang-alone", "NotBound")
    assert text == told

    async def gone() -> bool:
        return not {"kept", "lost"} & set(await home.pods())

    await home.until(gone)
    [told] = await events("GangNotBound", "lost")
    assert "lost" in told and "they are deleted, to be made anew" in told
    await home.create(*made)
    await home.bound("kept", "lost")
    claims = await home.claims()
    devices = [device for one in claims.values() for device in one]
    assert len(devices) == len(set(devices)) == 24
    assert names.PLANNED_RANK in (await home.pods())["lost"]["metadata"]["annotations"]
