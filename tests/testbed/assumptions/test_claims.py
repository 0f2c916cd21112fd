"""Claims that somebody else than kube-scheduler allocates (testbed.md 6.1-6.4, 6.8; scheduling.md 2)."""

from __future__ import annotations

import asyncio

from scheduler.apiserver import client, errors
from tests.testbed import objects
from tests.testbed.assumptions import world

GATES = [world.GATE]


async def gated(here: world.World, name: str = "w", count: int = 2) -> str:
    """Create a gated pod with a claim from a template, and return the claim's name."""
    await here.create(objects.template(f"{name}-t", "gpu.test", count))
    await here.create(objects.pod(name, template=f"{name}-t", gates=GATES))
    return await here.claim_of(name)


async def test_a_gated_pod_gets_its_claim_from_the_template(here: world.World) -> None:
    claim = await gated(here)
    found = await here.get("resourceclaims", claim)
    assert found["metadata"]["ownerReferences"][0]["name"] == "w"
    assert not (found.get("status") or {}).get("allocation")
    assert not (await here.get("pods", "w"))["spec"].get("nodeName")


async def test_exactly_the_allocated_devices_are_kept_when_the_pod_is_let_go(here: world.World) -> None:
    """First fit would take gpu-0 and gpu-1."""
    claim = await gated(here)
    await here.allocate(claim, "kw-1", ["gpu-6", "gpu-7"])
    await here.ungate("w", "kw-1")
    assert (await here.bound("w"))["spec"]["nodeName"] == "kw-1"
    assert await here.devices(claim) == ["gpu-6", "gpu-7"]
    reserved = (await here.get("resourceclaims", claim))["status"]["reservedFor"]
    assert [one["name"] for one in reserved] == ["w"]


async def test_first_fit_takes_the_first_devices_of_the_list(here: world.World) -> None:
    await here.create(objects.claim("plain", "gpu.test", 2))
    await here.create(objects.pod("p", claims=["plain"]))
    await here.bound("p")
    assert await here.devices("plain") == ["gpu-0", "gpu-1"]


async def test_without_a_timestamp_the_pod_never_binds(here: world.World) -> None:
    """On 1.37 kube-scheduler adds it in PreBind, and validation refuses; 1.34 knows no such field."""
    claim = await gated(here)
    await here.allocate(claim, "kw-1", ["gpu-2"], stamp=False)
    await here.ungate("w", "kw-1")
    if here.minor >= 36:
        await here.never_bound("w")
    else:
        await here.bound("w")


async def test_the_timestamp_is_kept_where_it_is_known(here: world.World) -> None:
    claim = await gated(here)
    await here.allocate(claim, "kw-1", ["gpu-2"])
    found = (await here.get("resourceclaims", claim))["status"]["allocation"]
    assert ("allocationTimestamp" in found) == (here.minor >= 36)


async def test_an_unpinned_pod_that_does_not_fit_loses_its_allocation(here: world.World) -> None:
    """PostFilter frees the claim: its node has no room for the pod, and it keeps the pod off all other nodes."""
    await large_pod_allocated_where_no_room_is(here, pin="")
    bound = await here.bound("w", 30)
    assert bound["spec"]["nodeName"] != "kw-1"
    assert await here.devices("big") == ["gpu-0"]


async def test_a_pinned_pod_that_does_not_fit_keeps_its_allocation(here: world.World) -> None:
    await large_pod_allocated_where_no_room_is(here, pin="kw-1")
    await here.never_bound("w", 4)
    assert await here.devices("big") == ["gpu-6"]


async def large_pod_allocated_where_no_room_is(here: world.World, pin: str) -> None:
    await here.create(objects.pod("filler", node="kw-1", containers=[room("60")]))
    await here.bound("filler")
    await here.create(objects.claim("big", "gpu.test", 1))
    await here.create(objects.pod("w", claims=["big"], gates=GATES, containers=[room("10", "big")]))
    await here.allocate("big", "kw-1", ["gpu-6"])
    await here.ungate("w", pin)


def room(cpu: str, claim: str = "") -> dict[str, object]:
    resources: dict[str, object] = {"requests": {"cpu": cpu}}
    if claim:
        resources["claims"] = [{"name": claim}]
    return {"name": "main", "image": "none", "resources": resources}


async def test_an_allocation_cannot_be_changed_only_taken_back(here: world.World) -> None:
    claim = await gated(here)
    await here.allocate(claim, "kw-1", ["gpu-2"])
    error = await here.refused(here.allocate(claim, "kw-1", ["gpu-3"], finalizer=False))
    told = "cannot be modified once set" if here.minor >= 36 else "immutable"
    assert error.status == 422 and told in error.message
    await here.free(claim)
    await here.allocate(claim, "kw-2", ["gpu-3"])
    assert await here.devices(claim) == ["gpu-3"]


async def test_an_allocation_in_use_cannot_be_taken_back(here: world.World) -> None:
    claim = await gated(here)
    await here.allocate(claim, "kw-1", ["gpu-2"])
    await here.ungate("w", "kw-1")
    await here.bound("w")
    change = {"status": {"allocation": None}}
    error = await here.refused(here.api.patch(here.path("resourceclaims", claim, "status"), change))
    assert error.status == 422 and "reservedFor" in error.message


async def test_the_server_lets_two_claims_have_one_device(here: world.World) -> None:
    """Double allocation is ours to prevent."""
    one, two = await gated(here, "a", 1), await gated(here, "b", 1)
    await here.allocate(one, "kw-1", ["gpu-5"])
    await here.allocate(two, "kw-1", ["gpu-5"])
    assert await here.devices(one) == await here.devices(two) == ["gpu-5"]


async def test_a_stale_version_is_a_conflict(here: world.World) -> None:
    claim = await gated(here)
    old = await here.get("resourceclaims", claim)
    await here.api.patch(here.path("resourceclaims", claim), {"metadata": {"labels": {"changed": "yes"}}})
    error = await here.refused(here.api.replace(here.path("resourceclaims", claim), old))
    assert error.conflict


async def test_more_than_32_devices_are_refused(here: world.World) -> None:
    claim = await gated(here)
    error = await here.refused(here.allocate(claim, "kw-1", [f"gpu-{index}" for index in range(33)]))
    assert error.status == 422 and "32" in error.message


async def test_a_result_has_to_name_a_request_of_the_claim(here: world.World) -> None:
    claim = await gated(here)
    found = await here.get("resourceclaims", claim)
    result = {"request": "other", "driver": world.DRIVER, "pool": "kw-1", "device": "gpu-0"}
    found["status"] = {"allocation": {"devices": {"results": [result]}, "allocationTimestamp": world.now()}}
    error = await here.refused(here.api.replace(here.path("resourceclaims", claim, "status"), found))
    assert error.status == 422 and "request" in error.message


async def test_a_spec_of_a_claim_never_changes(here: world.World) -> None:
    claim = await gated(here)
    found = await here.get("resourceclaims", claim)
    found["spec"]["devices"]["requests"][0]["exactly"]["count"] = 3
    error = await here.refused(here.api.replace(here.path("resourceclaims", claim), found))
    assert error.status == 422 and "immutable" in error.message


async def test_an_allocation_that_nobody_used_is_left_alone(here: world.World) -> None:
    """A pre-allocation persists until it is used, deleted or rolled back."""
    await here.create(objects.claim("kept", "gpu.test", 1))
    await here.allocate("kept", "kw-1", ["gpu-4"])
    await asyncio.sleep(world.STILL_S)
    assert await here.devices("kept") == ["gpu-4"]


async def test_a_claim_of_a_template_goes_with_its_pod(here: world.World) -> None:
    claim = await gated(here)
    await here.allocate(claim, "kw-1", ["gpu-2"])
    await here.ungate("w", "kw-1")
    await here.bound("w")
    await here.api.delete(here.path("pods", "w"), grace_s=0)

    async def ask() -> bool:
        return await here.get("resourceclaims", claim) is None

    await here.until(ask)


async def test_writing_an_allocation_needs_the_binding_permission_in_the_whole_cluster(here: world.World) -> None:
    """1.36 and later: status alone is not enough (DRAResourceClaimGranularStatusAuthorization).

    The refusal is a 422, not a 403, and a role of the claim's namespace does not help.
    """
    claim = await gated(here)
    path = here.path("resourceclaims", claim, "status")
    result = {"request": "gpu", "driver": world.DRIVER, "pool": "kw-1", "device": "gpu-0"}
    change = {"status": {"allocation": {"devices": {"results": [result]}, "allocationTimestamp": world.now()}}}
    user = f"system:serviceaccount:{here.namespace}:default"

    async def write(expected: int) -> bool:
        return await status_as(here, user, path, change) == expected

    await grant(here, "Role", "resourceclaims/status")
    if here.minor < 36:
        assert await here.until(lambda: write(200))
        return
    await grant(here, "Role", "resourceclaims/binding")
    assert await here.until(lambda: write(422))
    await asyncio.sleep(1)
    assert await write(422)
    await grant(here, "ClusterRole", "resourceclaims/binding")
    assert await here.until(lambda: write(200))


async def grant(here: world.World, kind: str, resource: str) -> None:
    """Allow the namespace's account to change a resource of resource.k8s.io, here or in the whole cluster."""
    group = "rbac.authorization.k8s.io"
    place = f"/namespaces/{here.namespace}" if kind == "Role" else ""
    name = f"{here.namespace}-{resource.replace('/', '-')}"
    rule = {"apiGroups": ["resource.k8s.io"], "resources": [resource], "verbs": ["get", "patch", "update"]}
    base = f"/apis/{group}/v1{place}/{kind.lower()}"
    await here.api.create(f"{base}s", {"metadata": {"name": name}, "rules": [rule]})
    subject = {"kind": "ServiceAccount", "name": "default", "namespace": here.namespace}
    reference = {"apiGroup": group, "kind": kind, "name": name}
    await here.api.create(f"{base}bindings", {"metadata": {"name": name}, "roleRef": reference, "subjects": [subject]})


async def status_as(here: world.World, user: str, path: str, change: object) -> int:
    """Patch as somebody else and return the HTTP status."""
    async with await client.Client.connect(here.home.kubeconfig, acting_as=user) as api:
        try:
            await api.patch(path, change)
        except errors.ApiError as error:
            return error.status
    return 200
