"""Pods that ask for GPUs in ways that no plan can serve, or for nothing of ours: left alone, or refused once with a remedy."""

import uuid
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from scheduler.apiserver import client, paths
from scheduler.web import wire
from tests.kube import live

RESOURCE = "example.com/muster-gpu"


@pytest.fixture
async def home(tmp_path: Path) -> AsyncIterator[live.Cluster]:
    async with live.cluster(tmp_path) as found:
        yield found


def bare(name: str, gated: bool = True, **resources: str) -> dict[str, Any]:
    """Return a pod without claims that asks for extended resources."""
    body = live.pod(name, gated=gated)
    del body["spec"]["resourceClaims"]
    body["spec"]["containers"][0]["resources"] = {"requests": {"cpu": "1", **resources}, "limits": resources}
    return body


async def told(home: live.Cluster, pod: str) -> dict[str, int]:
    """Return the words of the Events of a pod, with how often each was told."""
    found, _ = await home.api.list(paths.of("events.k8s.io/v1", "events", "default"))
    mine = [one for one in found if one["regarding"]["name"] == pod]
    return {f"{one['reason']}: {one['note']}": (one.get("series") or {}).get("count", 1) for one in mine}


async def settled(home: live.Cluster) -> None:
    """Wait until the scheduler has looked at everything that came before."""
    name = f"settled-{uuid.uuid4().hex[:8]}"
    await home.create(live.pod(name, claim="one"))
    await home.bound(name)


async def test_a_pod_that_asks_by_the_resource_of_a_class_is_refused_once_with_the_remedy(home: live.Cluster) -> None:
    path = f"{paths.of(paths.RESOURCE, 'deviceclasses')}/{live.GPU_CLASS}"
    await home.api.patch(path, {"spec": {"extendedResourceName": RESOURCE}}, client.MERGE)
    await home.start()
    for name, resource in (("named", RESOURCE), ("implicit", f"deviceclass.resource.kubernetes.io/{live.GPU_CLASS}")):
        await home.create(bare(name, gated=False, **{resource: "2"}))
        [text] = await home.until(lambda name=name: told(home, name))
        assert text.startswith(
            f"GangInvalid: pod default/{name}: resources.requests {resource}: stands for DeviceClass"
        )
        assert "name a ResourceClaimTemplate with a request of class gpu.muster.dev in spec.resourceClaims" in text
    await settled(home)
    assert [list((await told(home, name)).values()) for name in ("named", "implicit")] == [[1], [1]]
    assert await home.placement("pod-named") is None


@pytest.mark.parametrize("gated", [False, True])
async def test_a_pod_of_a_device_plugin_is_left_alone(home: live.Cluster, gated: bool) -> None:
    node = sorted(one["metadata"]["name"] for one in (await home.api.list(paths.of("v1", "nodes")))[0])[0]
    room = {"nvidia.com/gpu": "8"}
    patch = {"status": {"allocatable": room, "capacity": room}}
    await home.api.patch(f"{paths.of('v1', 'nodes')}/{node}/status", patch, client.MERGE)
    path = f"{paths.of(paths.RESOURCE, 'deviceclasses')}/{live.GPU_CLASS}"
    await home.api.patch(path, {"spec": {"extendedResourceName": "nvidia.com/gpu"}}, client.MERGE)
    await home.start()
    await home.create(bare("plugin", gated, **{"nvidia.com/gpu": "1"}))
    await settled(home)

    async def free() -> bool:
        return not (await home.pods())["plugin"]["spec"].get("schedulingGates")

    await home.until(free)
    assert await told(home, "plugin") == {} and await home.placement("pod-plugin") is None


async def test_gpus_of_a_device_plugin_beside_claims_are_refused(home: live.Cluster) -> None:
    await home.start()
    both = live.pod("both")
    both["spec"]["containers"][0]["resources"]["limits"] = {"nvidia.com/gpu": "1"}
    await home.create(both)
    [text] = await home.until(lambda: told(home, "both"))
    assert "GPUs of a device plugin beside claims can't be planned by Muster: ask for all of them by claims" in text


def sharing(name: str, **gang: Any) -> dict[str, Any]:
    body = live.pod(name, **gang)
    body["spec"]["resourceClaims"] = [{"name": "devices", "resourceClaimName": "common"}]
    return body


@pytest.mark.parametrize("together", [True, False])
async def test_a_claim_that_several_pods_name_is_refused_and_never_allocated(
    home: live.Cluster, together: bool
) -> None:
    await home.start()
    spec = live.template("x", 8)["spec"]["spec"]
    claim = {"apiVersion": paths.RESOURCE, "kind": "ResourceClaim", "metadata": {"name": "common"}, "spec": spec}
    gang: dict[str, Any] = {"gang": "pair", "size": 2} if together else {}
    for name in ("a", "b"):  # the pods first: with the claim alone the first of them would be served
        await home.create(sharing(name, **gang))
    await home.create(claim)
    for name in ("a", "b"):

        async def invalid(name: str = name) -> list[str]:
            return [text for text in await told(home, name) if "is used by pods" in text]

        [text] = await home.until(invalid)
        assert text.startswith("GangInvalid: ResourceClaim default/common is used by pods a, b: Muster gives every pod")
    await settled(home)
    found = await home.api.get(paths.of(paths.RESOURCE, "resourceclaims", "default", "common"))
    assert not found.get("status", {}).get("allocation")
    for name in ("a", "b"):
        assert set((await told(home, name)).values()) == {1}
    await home.api.delete("/api/v1/namespaces/default/pods/b", grace_s=0)
    if not together:
        await home.bound("a")


async def test_the_extender_has_nothing_to_say_about_claims_of_other_drivers(home: live.Cluster) -> None:
    other = live.device_class("other")
    other["spec"]["selectors"] = [{"cel": {"expression": "device.driver == 'other.example.com'"}}]
    await home.api.create(paths.of(paths.RESOURCE, "deviceclasses"), other)
    odd = live.device_class("odd", "no-such-type")
    await home.api.create(paths.of(paths.RESOURCE, "deviceclasses"), odd)
    await home.create(live.template("foreign", 1, "other"), live.template("odd", 1, "odd"))
    await home.start()
    nodes = sorted(one["metadata"]["name"] for one in (await home.api.list(paths.of("v1", "nodes")))[0])
    assert home.scheduler is not None
    for claim in ("foreign", "odd"):
        await home.create(live.pod(claim, claim=claim, gated=False))
        found = await home.until(lambda claim=claim: known(home, claim))
        pod = wire.Pod(wire.Metadata(claim, "default", found.uid), wire.PodSpec())
        deciding = home.scheduler.decisions()
        assert deciding is not None
        if claim == "foreign":
            assert list(deciding.filter(pod, nodes).feasible) == nodes
        else:
            with pytest.raises(wire.BadRequest, match="no device of the cluster suits"):
                deciding.filter(pod, nodes)


async def known(home: live.Cluster, name: str) -> Any:
    assert home.scheduler and home.scheduler.shell
    pod = home.scheduler.shell.known.pod(("default", name))
    return pod if pod is not None and pod.claims[0].claim else None
