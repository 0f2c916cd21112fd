"""What a new leader does with the plan of the one before: decided from values, and carried out after further deaths."""

import dataclasses
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from scheduler.kube import allocation, gang_record, names, plan, recover, workload
from scheduler.model import claim as rows
from tests.kube import live, test_killed, writing

DEVICE = rows.Allocation("gpu.muster.dev", "n0", "gpu-0", "gpus")
CLAIMED = plan.PlannedClaim("c-a", "uid-c-a", (DEVICE,))
POD = plan.PlannedPod(0, "worker", "a", "uid-a", "n0", (CLAIMED,))
SECOND = plan.PlannedPod(
    1,
    "worker",
    "b",
    "uid-b",
    "n1",
    (plan.PlannedClaim("c-b", "uid-c-b", (dataclasses.replace(DEVICE, pool="n1"),)),),
)
PLAN = plan.Plan(workload.Identity("ml", "gang-x", "Annotated"), (POD, SECOND), 1)


def pod(planned: plan.PlannedPod, gated: bool = True, node: str = "", phase: str = "Pending") -> dict[str, Any]:
    spec: dict[str, Any] = {"containers": [], "nodeName": node}
    if gated:
        spec["schedulingGates"] = [{"name": names.GATE}]
    metadata = {"name": planned.name, "namespace": "ml", "uid": planned.uid}
    return {"metadata": metadata, "spec": spec, "status": {"phase": phase}}


def claim(planned: plan.PlannedPod, allocated: bool, reserved: bool = False, uid: str = "") -> dict[str, Any]:
    one = planned.claims[0]
    item: dict[str, Any] = {
        "metadata": {"name": one.name, "namespace": "ml", "uid": uid or one.uid},
        "spec": {"devices": {"requests": [{"name": "gpus", "exactly": {"deviceClassName": "gpu.muster.dev"}}]}},
        "status": {},
    }
    if allocated:
        item["status"]["allocation"] = allocation.body(
            item, planned.node, one, live.device_class, "2026-01-01T00:00:00Z"
        )
    if reserved:
        item["status"]["reservedFor"] = [{"resource": "pods", "name": planned.name, "uid": planned.uid}]
    return item


def found(pods: list[dict[str, Any]], claims: list[dict[str, Any]]) -> recover.Found:
    return recover.Cluster(pods, claims, []).found(PLAN)


def test_a_plan_that_is_written_is_finished() -> None:
    one = found([pod(POD, False), pod(SECOND, False, "n1")], [claim(POD, True), claim(SECOND, True, True)])
    assert one.finished and one.whole


def test_gates_and_claims_that_are_missing_are_pending() -> None:
    one = found([pod(POD), pod(SECOND)], [claim(POD, True), claim(SECOND, False)])
    assert (one.pending, one.whole, one.let_go) == ([POD, SECOND], True, False)
    assert [two.uid for two in one.unallocated] == ["uid-c-b"]
    later = found([pod(POD, False), pod(SECOND)], [claim(POD, True), claim(SECOND, True)])
    assert (later.pending, later.let_go) == ([SECOND], True)


def test_a_pod_that_is_done_gets_no_devices_again() -> None:
    one = found(
        [pod(POD, False, "n0", "Succeeded"), pod(SECOND, False, "n1")], [claim(POD, False), claim(SECOND, True)]
    )
    assert one.finished and not one.whole


def test_what_a_pod_that_is_gone_left_is_taken_back_unless_it_is_used() -> None:
    one = found([pod(SECOND, False, "n1")], [claim(POD, True), claim(SECOND, True, True)])
    assert [two.uid for two in one.left] == ["uid-a"] and not one.finished
    reserved = found([pod(SECOND, False, "n1")], [claim(POD, True, True), claim(SECOND, True, True)])
    assert [two.uid for two in reserved.left] == ["uid-a"], "reserved for the pod that is gone"
    stranger = dataclasses.replace(reserved.claims["uid-c-a"], reserved=("uid-x",))
    used = dataclasses.replace(reserved, claims=reserved.claims | {"uid-c-a": stranger})
    assert used.finished


def test_devices_that_went_to_others_are_seen() -> None:
    there = recover.Cluster([], [claim(POD, True, uid="other"), claim(SECOND, True)], [])
    assert there.taken(PLAN) == ["ml/c-a"]
    assert recover.Cluster([], [claim(POD, True)], []).taken(PLAN) == []


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[writing.Site]:
    async with writing.site(tmp_path) as one:
        yield one


@pytest.mark.slow
@pytest.mark.parametrize(
    "point",
    [
        "recovery-stamped",
        "claim-taken-back",
        "claim-taken-back:2",
        "claim-unprotected",
        "record-cleared",
        "status-written",
    ],
)
async def test_a_recovery_that_is_killed_is_begun_again(site: writing.Site, point: str) -> None:
    home = site.home
    await test_killed.killed(home, "claim-allocated:2" if point == "recovery-stamped" else "claim-allocated:3")
    await home.api.delete("/api/v1/namespaces/default/pods/w-1", grace_s=0)
    await test_killed.killed(home, point)
    await home.start()
    assert await home.claims() == {}
    record = await site.record()
    assert gang_record.read_plan(record) is None
    await home.create(live.pod("w-1", "train", 3))
    await home.bound(*writing.MEMBERS)
    await site.whole()


async def test_configs_of_the_class_are_copied_by_a_leader_that_just_began(site: writing.Site) -> None:
    path = "/apis/resource.k8s.io/v1/deviceclasses/gpu.muster.dev"
    opaque = {"driver": "gpu.muster.dev", "parameters": {"kind": "TimeSlicing"}}
    item = await site.home.api.get(path)
    item["spec"]["config"] = [{"opaque": opaque}]
    await site.home.api.replace(path, item)
    site.api.before = stop_at_first_claim
    with pytest.raises(RuntimeError):
        await site.scribe().start(writing.GANG, site.plan, None)
    await site.home.start()
    await site.home.bound(*writing.MEMBERS)
    await site.whole()
    claims, _ = await site.home.api.list("/apis/resource.k8s.io/v1/namespaces/default/resourceclaims")
    given = [one["status"]["allocation"]["devices"]["config"] for one in claims]
    assert given == [[{"source": "FromClass", "requests": ["gpus"], "opaque": opaque}]] * 3


async def stop_at_first_claim(_: int, __: str, path: str) -> None:
    if "resourceclaims" in path:
        raise RuntimeError("the process ends here")


async def test_a_pod_made_anew_while_no_scheduler_ran_gets_devices_beside_its_gang(site: writing.Site) -> None:
    home = site.home
    await home.create(*(live.pod(f"a-{i}", "first", 2, "one", rank=str(i)) for i in range(2)))
    await home.start()
    await home.bound(*writing.MEMBERS, "a-0", "a-1")
    before = await home.claims()
    await home.stop()
    await home.api.delete("/api/v1/namespaces/default/pods/a-1", grace_s=0)
    await home.create(live.pod("a-2", "first", 2, "one", rank="1"))
    await home.start()
    await home.bound("a-2")
    after = await home.claims()
    assert after["a-0"] == before["a-0"]
    devices = [device for one in after.values() for device in one]
    assert len(devices) == len(set(devices)) == 26


async def test_a_gang_whose_record_was_deleted_before_it_was_let_go_is_let_go(site: writing.Site) -> None:
    async def stop(_: int, __: str, path: str) -> None:
        if "/pods/" in path:
            raise RuntimeError("the process ends here")

    site.api.before = stop
    with pytest.raises(RuntimeError):
        await site.scribe().start(writing.GANG, site.plan, None)
    before = await site.home.claims()
    await site.home.api.delete("/apis/muster.dev/v1alpha1/namespaces/default/gangplacements/gang-train")
    await site.home.start()
    assert await site.home.bound(*writing.MEMBERS) == {pod.name: pod.node for pod in site.plan.pods}
    assert await site.home.claims() == before


async def test_a_gang_that_was_let_go_is_said_to_run_when_its_leader_could_not_say_it(site: writing.Site) -> None:
    async def stop(number: int, _: str, path: str) -> None:
        if path.endswith("gang-train/status") and number > 2:
            raise RuntimeError("the process ends here")

    site.api.before = stop
    with pytest.raises(RuntimeError):
        await site.scribe().start(writing.GANG, site.plan, None)
    assert await site.released() == set(writing.MEMBERS)
    assert (await site.record())["status"]["phase"] == "Allocating"
    assert await site.recover() == 0
    assert (await site.record())["status"]["phase"] == "Running"


async def test_the_record_of_a_gang_that_ended_while_nobody_led_is_deleted(site: writing.Site) -> None:
    await site.home.start()
    await site.home.bound(*writing.MEMBERS)
    await site.home.stop()
    for name in writing.MEMBERS:
        await site.home.api.delete(f"/api/v1/namespaces/default/pods/{name}", grace_s=0)
    await site.home.create(*(live.pod(f"a-{i}", "first", 2, "one") for i in range(2)))
    await site.home.start()
    await site.home.bound("a-0", "a-1")

    async def ended() -> bool:
        return await site.home.placement("gang-train") is None

    await site.home.until(ended)
    assert await site.home.placement("gang-first") is not None
