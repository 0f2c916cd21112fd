"""The whole scheduler over the embedded API server, as a user sees it: pods in, pods bound to exact devices out."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from scheduler.apiserver import paths
from scheduler.kube import names
from scheduler.kube import shell as shells
from scheduler.record import replay
from tests.kube import live

SLICES = paths.of(paths.RESOURCE, "resourceslices")


@pytest.fixture
async def home(tmp_path: Path) -> AsyncIterator[live.Cluster]:
    async with live.cluster(tmp_path) as found:
        yield found


async def test_a_gang_of_annotated_pods_runs_on_exact_devices(home: live.Cluster) -> None:
    await home.start()
    await home.create(*(live.pod(f"w-{i}", "train", 4) for i in range(4)))
    nodes = await home.bound(*(f"w-{i}" for i in range(4)))
    assert len(set(nodes.values())) == 4
    claims = await home.claims()
    for name, node in nodes.items():
        assert sorted(claims[name]) == [f"{node}/gpu-{i}" for i in range(8)]
    found = await home.placement("gang-train")
    assert found is not None
    assert [one["name"] for one in found["spec"]["plan"]["pods"]] == [f"w-{i}" for i in range(4)]


async def test_nothing_happens_to_a_gang_before_its_last_pod(home: live.Cluster) -> None:
    await home.start()
    await home.create(*(live.pod(f"w-{i}", "train", 4) for i in range(3)))
    assert home.scheduler and home.scheduler.shell
    turns = home.scheduler.shell
    await home.until(
        lambda: _true(len(turns.followed) == 1 and len(turns.followed["default/gang-train"].workload.members) == 3)
    )
    assert await home.claims() == {}
    await home.create(live.pod("w-3", "train", 4))
    await home.bound(*(f"w-{i}" for i in range(4)))


async def test_a_gang_that_is_short_of_pods_for_long_is_told_so(
    home: live.Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shells, "PATIENCE_S", 0.5)
    await home.start()
    await home.create(*(live.pod(f"w-{i}", "train", 3) for i in range(2)))

    async def waits() -> object:
        found = await home.placement("gang-train")
        return found if found and "waiting for 1 of 3 pods" in found.get("status", {}).get("message", "") else None

    found = await home.until(waits)
    assert found["status"]["reason"] == "Incomplete"
    await home.create(live.pod("w-2", "train", 3))
    await home.bound("w-0", "w-1", "w-2")


async def test_an_impossible_gang_is_told_why(home: live.Cluster) -> None:
    await home.start()
    await home.create(*(live.pod(f"w-{i}", "huge", 5) for i in range(5)))

    async def rejected() -> object:
        found = await home.placement("gang-huge")
        return found if found and found.get("status", {}).get("phase") == "Rejected" else None

    found = await home.until(rejected)
    assert found["status"]["reason"] == "GangLargerThanCluster"
    assert "8 GPUs" in found["status"]["message"] or "1 pods" in found["status"]["message"]
    assert await home.claims() == {}


async def test_a_gang_waits_for_the_one_before_it_and_then_runs(home: live.Cluster) -> None:
    await home.start()
    await home.create(*(live.pod(f"a-{i}", "first", 3) for i in range(3)))
    await home.bound(*(f"a-{i}" for i in range(3)))
    await home.create(*(live.pod(f"b-{i}", "second", 2) for i in range(2)))

    async def waits() -> object:
        found = await home.placement("gang-second")
        return found if found and found.get("status", {}).get("phase") == "Waiting" else None

    found = await home.until(waits)
    assert found["status"]["reason"] == "InsufficientGPUs"
    for i in range(3):
        await home.api.delete(f"/api/v1/namespaces/default/pods/a-{i}", grace_s=0)
    await home.bound("b-0", "b-1")


async def _true(value: bool) -> bool:
    return value


def gpus(home: live.Cluster) -> int:
    """Return the GPUs that the machine counts as wholly free."""
    assert home.scheduler and home.scheduler.shell
    home.scheduler.shell.machine.check_invariants()
    return home.scheduler.shell.machine.snapshot.free_gpus


async def delete(home: live.Cluster, *pods: str) -> None:
    for name in pods:
        await home.api.delete(f"/api/v1/namespaces/default/pods/{name}", grace_s=0)


async def test_a_scheduler_that_starts_anew_knows_what_runs_and_places_beside_it(home: live.Cluster) -> None:
    await home.start()
    await home.create(*(live.pod(f"a-{i}", "first", 2, "four") for i in range(2)))
    await home.bound("a-0", "a-1")
    before = await home.claims()
    await home.stop()
    await home.create(*(live.pod(f"b-{i}", "second", 3) for i in range(3)))
    await home.start()
    await home.bound("b-0", "b-1", "b-2")
    after = await home.claims()
    assert before.items() <= after.items()
    await home.until(lambda: _true(gpus(home) == 0))
    await delete(home, "a-0", "a-1")
    await home.until(lambda: _true(gpus(home) == 8))


async def test_a_pod_that_its_owner_makes_anew_gets_devices_beside_its_gang(home: live.Cluster) -> None:
    await home.start()
    await home.create(*(live.pod(f"a-{i}", "first", 2, "four", rank=str(i)) for i in range(2)))
    nodes = await home.bound("a-0", "a-1")
    await delete(home, "a-1")
    await home.create(live.pod("a-2", "first", 2, "four", rank="1"))
    again = await home.bound("a-0", "a-2")
    assert again["a-0"] == nodes["a-0"]
    claims = await home.claims()
    devices = [device for one in claims.values() for device in one]
    assert len(devices) == len(set(devices)) == 8
    await home.until(lambda: _true(gpus(home) == 24))


async def test_a_pod_whose_claims_are_not_ours_is_let_go_as_it_is(home: live.Cluster) -> None:
    other = {
        "apiVersion": "resource.k8s.io/v1",
        "kind": "DeviceClass",
        "metadata": {"name": "other"},
        "spec": {"selectors": [{"cel": {"expression": "device.driver == 'other.example.com'"}}]},
    }
    await home.api.create("/apis/resource.k8s.io/v1/deviceclasses", other)
    await home.create(live.template("foreign", 1, "other"))
    await home.start()
    await home.create(live.pod("p", claim="foreign"))

    async def free() -> bool:
        return not (await home.pods())["p"]["spec"].get("schedulingGates")

    await home.until(free)
    assert await home.placement("pod-p") is None


async def test_what_kube_scheduler_gave_out_is_not_given_again(home: live.Cluster) -> None:
    await home.create(live.pod("s", claim="eight", gated=False))
    name = await home.until(lambda: claim_of(home, "s"))
    path = f"/apis/resource.k8s.io/v1/namespaces/default/resourceclaims/{name}"
    claim = await home.api.get(path)
    claim["metadata"]["finalizers"] = ["resource.kubernetes.io/delete-protection"]
    claim = await home.api.replace(path, claim)
    node = sorted(one["metadata"]["name"] for one in (await home.api.list("/api/v1/nodes"))[0])[0]
    rows = [{"request": "gpus", "driver": "gpu.muster.dev", "pool": node, "device": f"gpu-{i}"} for i in range(8)]
    claim["status"] = {
        "allocation": {"devices": {"results": rows}, "allocationTimestamp": "2026-01-01T00:00:00Z"},
    }
    await home.api.replace(f"{path}/status", claim)
    await home.start()
    await home.until(lambda: _true(gpus(home) == 24))
    await home.create(*(live.pod(f"w-{i}", "train", 3) for i in range(3)))
    nodes = await home.bound(*(f"w-{i}" for i in range(3)))
    assert node not in nodes.values()


async def claim_of(home: live.Cluster, pod: str) -> str:
    found = (await home.pods())[pod]
    statuses = found.get("status", {}).get("resourceClaimStatuses") or [{}]
    return str(statuses[0].get("resourceClaimName") or "")


async def test_of_a_node_that_leaves_only_its_pods_are_replaced(home: live.Cluster) -> None:
    await home.start()
    await home.create(*(live.pod(f"a-{i}", "first", 3, rank=str(i)) for i in range(3)))
    nodes = await home.bound("a-0", "a-1", "a-2")
    uids = {name: pod["metadata"]["uid"] for name, pod in (await home.pods()).items()}
    await home.api.delete(f"/api/v1/nodes/{nodes['a-1']}")

    async def gone() -> bool:
        return "a-1" not in await home.pods()

    await home.until(gone)
    await home.create(live.pod("a-1", "first", 3, rank="1"))
    again = await home.bound("a-0", "a-1", "a-2")
    assert again["a-1"] not in nodes.values()
    left = {name: pod["metadata"]["uid"] for name, pod in (await home.pods()).items()}
    assert {name for name, uid in left.items() if uids[name] == uid} == {"a-0", "a-2"}
    claims = await home.claims()
    assert {name: {device.partition("/")[0] for device in own} for name, own in claims.items()} == {
        name: {node} for name, node in again.items()
    }
    await home.until(lambda: _true(gpus(home) == 0))


async def test_without_room_beside_it_a_gang_that_loses_a_node_leaves_whole(home: live.Cluster) -> None:
    await home.start()
    await home.create(*(live.pod(f"a-{i}", "first", 4) for i in range(4)))
    nodes = await home.bound(*(f"a-{i}" for i in range(4)))
    await home.api.delete(f"/api/v1/nodes/{nodes['a-0']}")

    async def gone() -> bool:
        return not await home.pods()

    await home.until(gone)
    await home.until(lambda: _true(gpus(home) == 24))


@pytest.mark.parametrize("size", [3, 4])
async def test_a_leader_that_starts_after_a_node_left_makes_the_gang_whole_or_evicts_it(
    home: live.Cluster, size: int
) -> None:
    await home.start()
    await home.create(*(live.pod(f"a-{i}", "first", size, rank=str(i)) for i in range(size)))
    nodes = await home.bound(*(f"a-{i}" for i in range(size)))
    await home.stop()
    await home.api.delete(f"/api/v1/nodes/{nodes['a-1']}")
    await home.start()

    async def left() -> bool:
        return set(await home.pods()) == ({"a-0", "a-2"} if size == 3 else set())

    await home.until(left)
    if size == 3:
        await home.create(live.pod("a-1", "first", 3, rank="1"))
        again = await home.bound("a-0", "a-1", "a-2")
        assert again["a-1"] not in nodes.values()


async def slices_of(home: live.Cluster, node: str) -> list[dict[str, Any]]:
    found, _ = await home.api.list(SLICES)
    return [one for one in found if one["spec"]["nodeName"] == node]


async def test_slices_that_are_gone_for_a_moment_take_no_gang_along(home: live.Cluster) -> None:
    """A kubelet wipes the slices of a driver that restarts."""
    await home.start()
    await home.create(*(live.pod(f"a-{i}", "first", 2) for i in range(2)))
    nodes = await home.bound("a-0", "a-1")
    uids = {pod["metadata"]["uid"] for pod in (await home.pods()).values()}
    assert home.scheduler and home.scheduler.shell
    shell, node = home.scheduler.shell, nodes["a-0"]
    whole = await slices_of(home, node)
    for one in whole:
        await home.api.delete(f"{SLICES}/{one['metadata']['name']}")
    await home.until(lambda: _true(node in shell.compiled.closed))
    await home.create(*(live.pod(f"b-{i}", "second", 3) for i in range(3)))
    await home.until(lambda: _true("default/gang-second" in shell.machine.queue.waiting))
    for one in whole:
        await home.api.create(SLICES, {**one, "metadata": {"name": one["metadata"]["name"]}})
    await home.until(lambda: _true(not shell.compiled.closed))
    assert {pod["metadata"]["uid"] for name, pod in (await home.pods()).items() if name[0] == "a"} == uids
    await delete(home, "a-0", "a-1")
    await home.bound("b-0", "b-1", "b-2")


async def test_a_leader_that_starts_while_slices_are_gone_adopts_gangs_whole_when_they_are_back(
    home: live.Cluster,
) -> None:
    await home.start()
    await home.create(*(live.pod(f"a-{i}", "first", 2) for i in range(2)))
    nodes = await home.bound("a-0", "a-1")
    claims = await home.claims()
    await home.stop()
    whole = await slices_of(home, nodes["a-0"])
    for one in whole:
        await home.api.delete(f"{SLICES}/{one['metadata']['name']}")
    await home.start()
    assert home.scheduler and home.scheduler.shell
    shell = home.scheduler.shell
    assert "default/gang-first" not in shell.machine.held
    await home.create(*(live.pod(f"b-{i}", "second", 2) for i in range(2)))
    second = await home.bound("b-0", "b-1")
    assert not set(second.values()) & set(nodes.values())
    for one in whole:
        await home.api.create(SLICES, {**one, "metadata": {"name": one["metadata"]["name"]}})
    await home.until(lambda: _true("default/gang-first" in shell.machine.held))
    assert {name: own for name, own in (await home.claims()).items() if name[0] == "a"} == claims
    shell.machine.check_invariants()


async def test_the_decision_log_of_a_live_run_replays(home: live.Cluster) -> None:
    await home.start(audit_folder=str(home.folder / "audit"))
    await home.create(*(live.pod(f"a-{i}", "first", 3) for i in range(3)))
    await home.bound("a-0", "a-1", "a-2")
    await home.create(*(live.pod(f"b-{i}", "second", 2) for i in range(2)))
    await home.create(*(live.pod(f"c-{i}", "third", 9) for i in range(9)))
    await delete(home, "a-0", "a-1", "a-2")
    await home.bound("b-0", "b-1")
    await home.stop()
    found = replay.replay(home.folder / "audit")
    assert found.difference is None and found.starts == 2 and found.refusals >= 2


async def test_a_gang_of_higher_priority_evicts_where_that_is_allowed(home: live.Cluster) -> None:
    await home.start(preempt="execute")
    await home.create(*(live.pod(f"a-{i}", "low", 4) for i in range(4)))
    await home.bound(*(f"a-{i}" for i in range(4)))
    high = live.pod("b-0", "high", 1)
    high["spec"]["priority"] = 1000
    await home.create(high)
    await home.bound("b-0")
    left = await home.pods()
    assert set(left) == {"b-0"}, "a gang goes whole"


async def test_many_gangs_at_once_leave_nothing_behind(home: live.Cluster) -> None:
    await home.start()
    sizes = [(f"g{i}", 1 + i % 3, ("two", "four", "one")[i % 3]) for i in range(12)]
    for name, size, claim in sizes:
        await home.create(*(live.pod(f"{name}-{i}", name, size, claim) for i in range(size)))
    for name, size, _ in sizes:
        members = [f"{name}-{i}" for i in range(size)]
        await home.bound(*members)
        claims = [device for one in (await home.claims()).values() for device in one]
        assert len(claims) == len(set(claims))
        await delete(home, *members)
    await home.until(lambda: _true(gpus(home) == 32))
    assert home.scheduler and home.scheduler.shell and not home.scheduler.shell.followed
    placements, _ = await home.api.list("/apis/muster.dev/v1alpha1/gangplacements")
    assert placements == []


async def test_a_pod_that_tolerates_our_taint_is_left_to_kube_scheduler(home: live.Cluster) -> None:
    """A gated pod with the same claim is ours: the gate says so."""
    tolerating = [{"key": names.OWNED, "operator": "Exists", "effect": "NoSchedule"}]
    await home.create(live.template("tolerant", 1, tolerations=tolerating))
    await home.start()
    await home.create(live.pod("theirs", claim="tolerant", gated=False))
    await home.until(lambda: claim_of(home, "theirs"))
    await home.create(live.pod("ours", claim="tolerant"))
    await home.bound("ours")
    assert set(await home.claims()) == {"ours"}


async def test_a_gang_whose_pods_end_one_by_one_is_told_of_once(home: live.Cluster) -> None:
    await home.start()
    await home.create(*(live.pod(f"w-{i}", "train", 3, "four") for i in range(3)))
    await home.bound("w-0", "w-1", "w-2")
    for number in range(2):
        path = f"/api/v1/namespaces/default/pods/w-{number}/status"
        await home.api.patch(path, {"status": {"phase": "Succeeded"}})
        left = 24 + 4 * number
        await home.until(lambda left=left: _true(gpus(home) == left))
    assert home.scheduler and home.scheduler.shell
    await home.scheduler.shell.carrier.recorder.flush(10)
    found, _ = await home.api.list("/apis/events.k8s.io/v1/namespaces/default/events")
    notes = {one["note"] for one in found if one["reason"] == "GangPlanned"}
    assert len(notes) == 1 and "3 pods" in notes.pop()
