"""The controllers of other projects do on a testbed cluster what Muster builds on: gates, claims, quota, checks, groups."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from scheduler.apiserver import client, errors
from tests.testbed import cluster as clusters
from tests.testbed import fixtures, kwok
from tests.testbed.controllers import controller, jobset, kueue, lws, manifests
from tests.testbed.fleet import create, presets

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]  # the first of them may compile a controller

CLASS = "gpu.muster.dev"
GATE = "muster.dev/placement"
PLAN = "muster.dev/plan"
CHECK = "placement"
FLEET = presets.Fleet("ctl", presets.blocks(1, 2, "hgx-h100", 2))

Obj = dict[str, Any]


@pytest.fixture(scope="module")
def machines(cluster_session: clusters.Cluster) -> Iterator[presets.Fleet]:
    """Four simulated machines with their slices, and the device class of their GPUs."""
    home = cluster_session
    if "kwok" not in home.parts.parts:
        kwok.start(home)

    async def put() -> None:
        async with await client.Client.connect(home.kubeconfig) as api:
            await create.create(api, FLEET, minor=home.kubernetes.minor)
            await manifests.apply(api, [_device_class()])

    async def take() -> None:
        async with await client.Client.connect(home.kubeconfig) as api:
            await create.delete(api, FLEET)

    asyncio.run(put())
    yield FLEET
    asyncio.run(take())


@pytest.fixture(scope="module")
def with_jobset(cluster_session: clusters.Cluster) -> controller.Running:
    return jobset.start(cluster_session)


@pytest.fixture(scope="module")
def with_kueue(cluster_session: clusters.Cluster, with_jobset: controller.Running) -> controller.Running:
    return kueue.start(cluster_session)


@pytest.fixture(scope="module")
def with_lws(cluster_session: clusters.Cluster) -> controller.Running:
    return lws.start(cluster_session)


@pytest.fixture
def namespace(space: fixtures.Space) -> str:
    return space.name


@pytest.fixture
async def api(cluster: clusters.Cluster) -> AsyncIterator[client.Client]:
    async with await client.Client.connect(cluster.kubeconfig) as one:
        yield one


async def test_a_jobset_of_gated_pods_runs_to_completed(
    api: client.Client, namespace: str, machines: presets.Fleet, with_jobset: controller.Running
) -> None:
    await manifests.apply(api, [_claim_template(namespace), _jobset(namespace)])
    pods = await _until("4 pods", lambda: _pods(api, namespace, 4))
    assert all(_gates(pod) == [GATE] and "nodeName" not in pod["spec"] for pod in pods)
    claims = await _until("4 claims of gated pods", lambda: _claims(api, namespace, 4))
    assert not any("allocation" in claim.get("status", {}) for claim in claims)
    await _ungate(api, pods)
    done = await _until("Completed", lambda: _with(api, _set_path(namespace), "Completed"), 60)
    assert done["status"]["terminalState"] == "Completed"
    nodes = {member.name for member in machines.members()}
    assert all(pod["spec"]["nodeName"] in nodes for pod in await _list(api, _pods_path(namespace)))


async def test_the_validating_webhook_of_jobset_is_asked(
    api: client.Client, namespace: str, with_jobset: controller.Running
) -> None:
    wrong = _jobset(namespace)
    wrong["spec"]["successPolicy"] = {"operator": "All", "targetReplicatedJobs": ["nobody"]}
    with pytest.raises(errors.ApiError, match=r"vjobset\.kb\.io.*nobody"):
        await manifests.apply(api, [wrong])


async def test_a_controller_that_ended_holds_its_objects_up_until_it_is_started_again(
    api: client.Client, cluster: clusters.Cluster, namespace: str, with_jobset: controller.Running
) -> None:
    cluster.parts.stop("jobset")
    try:
        with pytest.raises(errors.ApiError, match=r"failed calling webhook .*mjobset\.kb\.io"):
            await manifests.apply(api, [_jobset(namespace)])
    finally:
        await controller.started(cluster, jobset.JOBSET)
    [kept] = await manifests.apply(api, [_jobset(namespace)])
    assert kept["spec"]["network"]["enableDNSHostnames"] is True


async def test_kueue_reserves_quota_for_claims_and_our_check_steers_the_pods(
    api: client.Client,
    cluster: clusters.Cluster,
    namespace: str,
    machines: presets.Fleet,
    with_kueue: controller.Running,
) -> None:
    workload = await _asked(api, cluster, namespace)
    target = next(machines.members()).name
    [assigned] = workload["status"]["admission"]["podSetAssignments"]
    assert assigned["resourceUsage"]["muster.dev/gpu"] == "8"
    assert not await _list(api, _pods_path(namespace)), "pods exist before the check is Ready"

    update = {"labels": {PLAN: "p1"}, "annotations": {PLAN: "7f3a"}, "nodeSelector": {"kubernetes.io/hostname": target}}
    await _decide(api, workload, "Ready", podSetUpdates=[{"name": assigned["name"], **update}])
    pods = await _until("4 pods", lambda: _pods(api, namespace, 4))
    assert {pod["metadata"]["labels"][PLAN] for pod in pods} == {"p1"}
    assert {pod["metadata"]["annotations"][PLAN] for pod in pods} == {"7f3a"}
    assert {pod["spec"]["nodeSelector"]["kubernetes.io/hostname"] for pod in pods} == {target}
    assert all(_gates(pod) == [GATE] for pod in pods)

    await _ungate(api, pods)
    await _until("Completed", lambda: _with(api, _set_path(namespace), "Completed"), 60)
    assert {pod["spec"]["nodeName"] for pod in await _list(api, _pods_path(namespace))} == {target}
    await _until("quota released", lambda: _used(api, namespace, "0"))


async def test_kueue_holds_back_what_exceeds_the_quota_of_the_device_class(
    api: client.Client,
    cluster: clusters.Cluster,
    namespace: str,
    machines: presets.Fleet,
    with_kueue: controller.Running,
) -> None:
    await _queue(cluster, namespace, gpus=7)
    await manifests.apply(api, [_claim_template(namespace), _jobset(namespace, queue="main")])
    workload = await _until("a verdict", lambda: _workload(api, namespace, "QuotaReserved", "False"))
    assert "muster.dev/gpu" in _condition(workload, "QuotaReserved")["message"]
    assert not await _list(api, _pods_path(namespace))


async def test_a_check_that_says_retry_is_asked_anew_at_once(
    api: client.Client,
    cluster: clusters.Cluster,
    namespace: str,
    machines: presets.Fleet,
    with_kueue: controller.Running,
) -> None:
    workload = await _asked(api, cluster, namespace)
    await _decide(api, workload, "Retry", message="no room in one block")
    again = await _until("a second time", lambda: _retried(api, namespace))
    assert "no room in one block" in _condition(again, "Evicted")["message"]


async def test_a_retry_with_a_delay_keeps_its_quota_until_the_delay_is_over(
    api: client.Client,
    cluster: clusters.Cluster,
    namespace: str,
    machines: presets.Fleet,
    with_kueue: controller.Running,
) -> None:
    """Kueue 0.19 waits for ``requeueAt`` before it evicts, so whoever wants others to have the quota gives no delay."""
    workload = await _asked(api, cluster, namespace)
    await _decide(api, workload, "Retry", message="no room in one block", requeueAfterSeconds=8)
    await asyncio.sleep(4)
    assert await _used(api, namespace, "8")
    assert not await _workload(api, namespace, "Evicted")
    await _until("a second time", lambda: _retried(api, namespace))


async def test_kueue_leaves_nothing_in_etc(with_kueue: controller.Running) -> None:
    inside = Path(f"/proc/{with_kueue.process.pid}/root/etc/kueue/metrics/certs/tls.crt")
    assert inside.read_bytes() == (with_kueue.seat.certificates / "tls.crt").read_bytes()
    assert not Path("/etc/kueue").exists()


async def test_a_leader_worker_set_starts(
    api: client.Client, namespace: str, machines: presets.Fleet, with_lws: controller.Running
) -> None:
    await manifests.apply(api, [_claim_template(namespace), _leader_worker_set(namespace)])
    pods = await _until("4 pods", lambda: _pods(api, namespace, 4))
    assert sorted((_index(pod, "group-index"), _index(pod, "worker-index")) for pod in pods) == [
        ("0", "0"),
        ("0", "1"),
        ("1", "0"),
        ("1", "1"),
    ]
    assert all(_gates(pod) == [GATE] for pod in pods)
    await _ungate(api, pods)
    ready = await _until("Available", lambda: _with(api, _lws_path(namespace), "Available"), 60)
    assert ready["status"]["readyReplicas"] == 2


async def test_workers_that_wait_for_a_ready_leader_do_not_exist_while_it_is_gated(
    api: client.Client, namespace: str, machines: presets.Fleet, with_lws: controller.Running
) -> None:
    """Whoever waits for all pods of such a group before it removes a gate waits for ever."""
    late = _leader_worker_set(namespace)
    late["spec"]["startupPolicy"] = "LeaderReady"
    await manifests.apply(api, [_claim_template(namespace), late])
    leaders = await _until("2 leaders", lambda: _pods(api, namespace, 2))
    await asyncio.sleep(2)
    assert len(await _list(api, _pods_path(namespace))) == 2
    assert {_index(pod, "worker-index") for pod in leaders} == {"0"}
    await _ungate(api, leaders)
    await _until("4 pods", lambda: _pods(api, namespace, 4))


# What the tests create.


def _device_class() -> Obj:
    spec = {"selectors": [{"cel": {"expression": f"device.driver == '{CLASS}'"}}]}
    return {"apiVersion": "resource.k8s.io/v1", "kind": "DeviceClass", "metadata": {"name": CLASS}, "spec": spec}


def _claim_template(namespace: str) -> Obj:
    request = {"name": "gpus", "exactly": {"deviceClassName": CLASS, "count": 2}}
    return {
        "apiVersion": "resource.k8s.io/v1",
        "kind": "ResourceClaimTemplate",
        "metadata": {"name": "two-gpus", "namespace": namespace},
        "spec": {"spec": {"devices": {"requests": [request]}}},
    }


def _pod_spec() -> Obj:
    """One container with a claim for two GPUs, behind our gate."""
    requests = {"requests": {"cpu": "100m", "memory": "64Mi"}, "claims": [{"name": "gpus"}]}
    return {
        "schedulingGates": [{"name": GATE}],
        "containers": [{"name": "main", "image": "none", "resources": requests}],
        "resourceClaims": [{"name": "gpus", "resourceClaimTemplateName": "two-gpus"}],
    }


def _jobset(namespace: str, queue: str = "") -> Obj:
    """Two Jobs of two pods each."""
    job = {"parallelism": 2, "completions": 2, "template": {"spec": _pod_spec() | {"restartPolicy": "Never"}}}
    labels = {"kueue.x-k8s.io/queue-name": queue} if queue else {}
    return {
        "apiVersion": "jobset.x-k8s.io/v1alpha2",
        "kind": "JobSet",
        "metadata": {"name": "train", "namespace": namespace, "labels": labels},
        "spec": {"replicatedJobs": [{"name": "workers", "replicas": 2, "template": {"spec": job}}]},
    }


def _leader_worker_set(namespace: str) -> Obj:
    template = {"size": 2, "workerTemplate": {"spec": _pod_spec()}}
    return {
        "apiVersion": "leaderworkerset.x-k8s.io/v1",
        "kind": "LeaderWorkerSet",
        "metadata": {"name": "decode", "namespace": namespace},
        "spec": {"replicas": 2, "leaderWorkerTemplate": template},
    }


async def _queue(cluster: clusters.Cluster, namespace: str, gpus: int, check: str = "") -> None:
    quota = {"cpu": 64, "memory": "64Gi", "muster.dev/gpu": gpus}
    await asyncio.to_thread(kueue.queue, cluster, namespace, quota, check=check)


async def _asked(api: client.Client, cluster: clusters.Cluster, namespace: str) -> Obj:
    """Queue the JobSet with our check required, and return its workload once it has quota."""
    await _queue(cluster, namespace, gpus=8, check=CHECK)
    await _activate(api, CHECK)
    await manifests.apply(api, [_claim_template(namespace), _jobset(namespace, queue="main")])
    return await _until("quota reserved", lambda: _workload(api, namespace, "QuotaReserved"))


# The part of Muster's admission check.


async def _activate(api: client.Client, name: str) -> None:
    active = {"type": "Active", "status": "True", "reason": "Active", "message": "", "lastTransitionTime": _now()}
    check = kueue.admission_check(name) | {"status": {"conditions": [active]}}
    del check["spec"]
    await api.apply(f"/apis/{kueue.VERSION}/admissionchecks/{name}/status", check, "muster")


async def _decide(api: client.Client, workload: Obj, state: str, message: str = "plan 7f3a", **more: Any) -> None:
    """Write our entry of the workload's checks, and nothing else."""
    entry = {"name": CHECK, "state": state, "message": message, "lastTransitionTime": _now(), **more}
    namespace, name = workload["metadata"]["namespace"], workload["metadata"]["name"]
    ours = {
        "apiVersion": kueue.VERSION,
        "kind": "Workload",
        "metadata": {"name": name, "namespace": namespace},
        "status": {"admissionChecks": [entry]},
    }
    await api.apply(f"/apis/{kueue.VERSION}/namespaces/{namespace}/workloads/{name}/status", ours, "muster")


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


async def _ungate(api: client.Client, pods: list[Obj]) -> None:
    for pod in pods:
        path = f"{_pods_path(pod['metadata']['namespace'])}/{pod['metadata']['name']}"
        await api.patch(path, [{"op": "remove", "path": "/spec/schedulingGates"}], client.JSON_PATCH)


# What the tests look at.


async def _until(what: str, ask: Callable[[], Awaitable[Any]], deadline_s: float = 30.0) -> Any:
    """Ask until the answer is true."""
    found = None
    try:
        async with asyncio.timeout(deadline_s):
            while not (found := await ask()):
                await asyncio.sleep(0.1)
    except TimeoutError:
        pytest.fail(f"no {what} within {deadline_s:.0f} s")
    return found


async def _list(api: client.Client, path: str) -> list[Obj]:
    return (await api.list(path))[0]


async def _pods(api: client.Client, namespace: str, count: int) -> list[Obj]:
    found = await _list(api, _pods_path(namespace))
    return found if len(found) == count else []


async def _claims(api: client.Client, namespace: str, count: int) -> list[Obj]:
    found = await _list(api, f"/apis/resource.k8s.io/v1/namespaces/{namespace}/resourceclaims")
    return found if len(found) == count else []


async def _with(api: client.Client, path: str, kind: str) -> Obj | None:
    """Return the object once a condition of it is True."""
    found = await api.get(path)
    return found if _condition(found, kind).get("status") == "True" else None


async def _workload(api: client.Client, namespace: str, kind: str, status: str = "True") -> Obj | None:
    """Return the only workload of a namespace once it has a condition."""
    found = await _list(api, f"/apis/{kueue.VERSION}/namespaces/{namespace}/workloads")
    return next((one for one in found if _condition(one, kind).get("status") == status), None)


async def _retried(api: client.Client, namespace: str) -> Obj | None:
    """Return the workload once it was evicted for our Retry, has quota again, and our check is Pending again."""
    found = await _workload(api, namespace, "QuotaReserved")
    checks = found["status"]["admissionChecks"] if found else []
    return found if any(one["state"] == "Pending" and one.get("retryCount") == 1 for one in checks) else None


async def _used(api: client.Client, cluster_queue: str, amount: str) -> bool:
    """Tell whether a ClusterQueue has reserved this much of our resource."""
    found = await api.get(f"/apis/{kueue.VERSION}/clusterqueues/{cluster_queue}")
    [flavor] = found["status"]["flavorsReservation"]
    return any(one["name"] == "muster.dev/gpu" and one["total"] == amount for one in flavor["resources"])


def _condition(obj: Obj, kind: str) -> Obj:
    conditions = obj.get("status", {}).get("conditions") or []
    return next((one for one in conditions if one["type"] == kind), {})


def _gates(pod: Obj) -> list[str]:
    return [gate["name"] for gate in pod["spec"].get("schedulingGates", [])]


def _index(pod: Obj, name: str) -> str:
    return str(pod["metadata"]["labels"][f"leaderworkerset.sigs.k8s.io/{name}"])


def _pods_path(namespace: str) -> str:
    return f"/api/v1/namespaces/{namespace}/pods"


def _set_path(namespace: str) -> str:
    return f"/apis/jobset.x-k8s.io/v1alpha2/namespaces/{namespace}/jobsets/train"


def _lws_path(namespace: str) -> str:
    return f"/apis/leaderworkerset.x-k8s.io/v1/namespaces/{namespace}/leaderworkersets/decode"
