"""Gangs as the real controllers make them: JobSet, Job, LeaderWorkerSet, and Kueue's Workloads for each of them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from scheduler.apiserver import client, paths
from scheduler.kube import pod as kube_pod
from scheduler.kube import workload
from scheduler.kube.gangs import identity, recognize
from scheduler.model import names, request
from tests.testbed import cluster as clusters
from tests.testbed import fixtures
from tests.testbed.assumptions import world
from tests.testbed.controllers import jobset, kueue, lws, manifests

pytestmark = [pytest.mark.slow, pytest.mark.testbed, pytest.mark.timeout(1800), pytest.mark.xdist_group("kueue")]

RACK = "example.com/rack"
JOBSETS, LWS = "jobset.x-k8s.io/v1alpha2", "leaderworkerset.x-k8s.io/v1"
PLACES = {"JobSet": (JOBSETS, "jobsets"), "Job": ("batch/v1", "jobs"), "LeaderWorkerSet": (LWS, "leaderworkersets")}
QUEUE = {"kueue.x-k8s.io/queue-name": "main"}
FRAMEWORKS = ("batch/job", "jobset.x-k8s.io/jobset", "leaderworkerset.x-k8s.io/leaderworkerset", "pod")


@dataclass(frozen=True)
class Space:
    """A namespace with a queue, and what is recognised in it."""

    here: world.World

    async def pods(self) -> list[kube_pod.Pod]:
        return [kube_pod.read(one) for one in await self.list("v1", "pods")]

    async def list(self, version: str, plural: str) -> list[dict[str, Any]]:
        return (await self.here.api.list(paths.of(version, plural, self.here.namespace)))[0]

    async def create(self, version: str, kind: str, name: str, spec: dict[str, Any], **metadata: Any) -> None:
        plural = PLACES[kind][1]
        body = {"apiVersion": version, "kind": kind, "metadata": {"name": name, **metadata}, "spec": spec}
        await self.here.api.create(paths.of(version, plural, self.here.namespace), body)

    async def gangs(self) -> dict[str, workload.Workload]:
        """Recognise all pods of the namespace; by gang name."""
        found: dict[workload.Identity, list[kube_pod.Pod]] = {}
        for pod in await self.pods():
            one = identity.of(pod)
            assert one is not None, pod
            found.setdefault(one, []).append(pod)
        objects = {
            (kind, self.here.namespace, item["metadata"]["name"]): item
            for kind, place in PLACES.items()
            for item in await self.list(*place)
        }
        workloads = await self.list(kueue.VERSION, "workloads")
        objects |= {("Workload", self.here.namespace, one["metadata"]["name"]): one for one in workloads}
        each = [
            recognize.recognize(one, members, lambda *key: objects.get(key), _request) for one, members in found.items()
        ]
        return {one.identity.name: one for stages in each for one in stages}

    async def expected(self, one: workload.Identity) -> Any:
        """Return the gang that an owner of pods will have, told from it alone."""
        version, plural = PLACES[one.kind]
        item = await self.here.api.get(paths.of(version, plural, self.here.namespace, one.owner))
        [found] = recognize.expected(one, lambda kind, *_: item if kind == one.kind else None, _request)
        return found.gang

    async def complete(self, *called: str) -> dict[str, workload.Workload]:
        """Wait until exactly these gangs are complete; others may wait for pods. Problems end the wait."""

        async def ask() -> dict[str, workload.Workload]:
            found = await self.gangs()
            assert not any(one.problem for one in found.values()), found
            return found if sorted(called) == sorted(name for name, one in found.items() if one.complete) else {}

        return await self.until(ask)

    async def until(self, ask: Callable[[], Awaitable[Any]], deadline_s: float = 30.0) -> Any:
        return await self.here.until(ask, deadline_s)

    async def reserved(self, count: int) -> list[str]:
        """Wait for Kueue's Workloads to have quota; return the gangs that they are about, sorted."""

        async def ask() -> list[str]:
            items = [one for one in await self.list(kueue.VERSION, "workloads") if _true(one, "QuotaReserved")]
            found = [identity.of_workload(one) for one in items]
            return sorted(one.name for one in found if one) if len(items) == count else []

        return await self.until(ask)

    async def run(self, name: str, node: str) -> None:
        """Play scheduler and kubelet: take the gates off a pod, bind it, and say that it is ready."""
        path = f"{self.here.path('pods')}/{name}"
        pod = await self.here.api.get(path)
        if pod["spec"].get("schedulingGates"):
            await self.here.api.patch(path, [{"op": "remove", "path": "/spec/schedulingGates"}], client.JSON_PATCH)
        target = {"apiVersion": "v1", "kind": "Node", "name": node}
        await self.here.api.create(
            f"{path}/binding", {"apiVersion": "v1", "kind": "Binding", "metadata": {"name": name}, "target": target}
        )
        await self.status(name, {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]})

    async def status(self, name: str, status: dict[str, Any]) -> None:
        await self.here.api.patch(f"{self.here.path('pods')}/{name}/status", {"status": status})


@pytest.fixture(scope="module")
def controlled(kubernetes_version: str) -> Iterator[clusters.Cluster]:
    fixtures.require(real_nodes=False)
    with clusters.Cluster(clusters.Options(version=kubernetes_version)).start() as home:
        jobset.start(home)
        lws.start(home)
        kueue.start(home, frameworks=FRAMEWORKS)
        yield home


@pytest.fixture
async def space(controlled: clusters.Cluster) -> AsyncIterator[Space]:
    async with await client.Client.connect(controlled.kubeconfig) as api, world.World.open(controlled, api) as here:
        await asyncio.to_thread(kueue.queue, controlled, here.namespace, {"cpu": 64, "memory": "64Gi"})
        one = Space(here)
        try:
            yield one
        finally:
            await _gone(one)


async def test_a_jobset_and_its_workload_are_one_gang(space: Space) -> None:
    spec = {"replicatedJobs": [_replicated("driver", 1, 1), _replicated("workers", 2, 3, {names.REQUIRED_LEVEL: RACK})]}
    await space.create(JOBSETS, "JobSet", "train", spec, labels=QUEUE, annotations={names.EXPECTED_S: "60"})
    found = (await space.complete("jobset-train"))["jobset-train"]
    assert await space.reserved(1) == ["jobset-train"]
    assert [(one.role, one.index, one.pod.name.rpartition("-")[0]) for one in found.members] == [
        ("driver", 0, "train-driver-0-0"),
        *(("workers", 3 * job + index, f"train-workers-{job}-{index}") for job in range(2) for index in range(3)),
    ]
    assert found.gang and found.gang.expected_s == 60
    assert found.gang == await space.expected(found.identity)
    assert [one.constraint.required for one in found.gang.roles] == ["", RACK]


async def test_a_failed_jobset_starts_over_as_a_gang_of_new_pods(space: Space) -> None:
    failing = {"failurePolicy": {"maxRestarts": 1}, "replicatedJobs": [_replicated("workers", 2, 2, backoffLimit=0)]}
    await space.create(JOBSETS, "JobSet", "train", failing)
    before = {one.pod.uid for one in (await space.complete("jobset-train"))["jobset-train"].members}
    first = next(one for one in await space.pods() if one.uid in before)
    await space.status(first.name, {"phase": "Failed"})

    async def again() -> bool:
        found = (await space.gangs()).get("jobset-train")
        assert found is None or not found.complete or _whole_or_new(found, before)
        return bool(found and found.complete and not before & {one.pod.uid for one in found.members})

    assert await space.until(again)


async def test_stages_of_a_jobset_are_gangs_of_their_own(space: Space) -> None:
    depends = [{"name": "driver", "status": "Ready"}]
    spec = {"replicatedJobs": [_replicated("driver", 1, 1), {**_replicated("workers", 1, 2), "dependsOn": depends}]}
    await space.create(JOBSETS, "JobSet", "train", spec)
    found = await space.complete("jobset-train")
    assert found["jobset-train.workers"].missing == 2
    await space.run(found["jobset-train"].members[0].pod.name, await _node(space))
    found = await space.complete("jobset-train", "jobset-train.workers")
    assert len(found["jobset-train.workers"].members) == 2


async def test_followers_of_an_exclusive_topology_join_their_leader(space: Space) -> None:
    notes = {"alpha.jobset.sigs.k8s.io/exclusive-topology": RACK}
    await space.create(
        JOBSETS, "JobSet", "train", {"replicatedJobs": [_replicated("workers", 2, 2)]}, annotations=notes
    )
    found = await space.complete("jobset-train")
    leaders = [one.pod.name for one in found["jobset-train"].members]
    assert [name.rpartition("-")[0] for name in leaders] == ["train-workers-0-0", "train-workers-1-0"]
    node = await _node(space)
    await space.run(leaders[0], node)
    found = await space.complete("jobset-train", "jobset-train.workers.0")
    assert found["jobset-train.workers.0"].within == (workload.Within("workers", RACK, node=node),)
    assert found["jobset-train.workers.1"].missing == 1


async def test_a_job_and_its_workload_are_one_gang(space: Space) -> None:
    spec = {**_job(3), "completions": 5}
    await space.create("batch/v1", "Job", "ring", spec, labels=QUEUE)
    found = await space.complete("job-ring")
    assert await space.reserved(1) == ["job-ring"]
    assert found["job-ring"].gang == await space.expected(found["job-ring"].identity)
    members = found["job-ring"].members
    assert [one.pod.labels["batch.kubernetes.io/job-completion-index"] for one in members] == ["0", "1", "2"]
    node = await _node(space)
    await space.run(members[1].pod.name, node)
    await space.status(members[1].pod.name, {"phase": "Succeeded"})

    async def next_index() -> bool:
        found = (await space.gangs())["job-ring"]
        indices = [one.pod.labels["batch.kubernetes.io/job-completion-index"] for one in found.members]
        return found.complete and indices == ["0", "2", "3"]

    assert await space.until(next_index)


async def test_each_replica_of_a_leader_worker_set_and_its_workload_are_one_gang(space: Space) -> None:
    template = {"size": 3, "workerTemplate": {"metadata": {}, "spec": _pod()}}
    await space.create(
        LWS, "LeaderWorkerSet", "decode", {"replicas": 2, "leaderWorkerTemplate": template}, labels=QUEUE
    )
    called = ["lws-decode-0", "lws-decode-1"]
    found = await space.complete(*called)
    assert await space.reserved(2) == called
    for group, name in enumerate(called):
        assert found[name].gang == await space.expected(found[name].identity)
        pods = [f"decode-{group}", f"decode-{group}-1", f"decode-{group}-2"]
        assert [(one.role, one.pod.name) for one in found[name].members] == list(
            zip(("leader", "worker", "worker"), pods, strict=True)
        )


@pytest.mark.parametrize("how", ["LeaderReady", "exclusive"])
async def test_workers_that_come_after_their_leader_are_a_second_gang(space: Space, how: str) -> None:
    template = {"size": 2, "workerTemplate": {"metadata": {}, "spec": _pod()}}
    spec = {"replicas": 1, "startupPolicy": "LeaderCreated", "leaderWorkerTemplate": template}
    notes = {"leaderworkerset.sigs.k8s.io/exclusive-topology": RACK} if how == "exclusive" else {}
    await space.create(
        LWS, "LeaderWorkerSet", "decode", spec if notes else {**spec, "startupPolicy": how}, annotations=notes
    )
    found = await space.complete("lws-decode-0")
    node = await _node(space)
    await space.run(found["lws-decode-0"].members[0].pod.name, node)
    found = await space.complete("lws-decode-0", "lws-decode-0.workers")
    expected = (workload.Within("worker", RACK, node=node),) if notes else ()
    assert found["lws-decode-0.workers"].within == expected


async def test_a_plain_pod_group_and_its_workload_are_one_gang(space: Space) -> None:
    for number in (1, 0):
        labels = {**QUEUE, "kueue.x-k8s.io/pod-group-name": "pair", "kueue.x-k8s.io/pod-group-pod-index": str(number)}
        metadata = {
            "name": f"p{1 - number}",
            "labels": labels,
            "annotations": {"kueue.x-k8s.io/pod-group-total-count": "2"},
        }
        body = {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": _pod()}
        await space.here.api.create(space.here.path("pods"), body)
    found = await space.complete("kueue-podgroup-pair")
    assert await space.reserved(1) == ["kueue-podgroup-pair"]
    assert [one.pod.name for one in found["kueue-podgroup-pair"].members] == ["p1", "p0"]


async def test_the_domains_that_kueue_assigned_are_those_of_the_node_selectors_it_writes(
    space: Space, controlled: clusters.Cluster
) -> None:
    """Kueue's own ungater shares pods out by rank; what we say of its assignment has to be the same, pod by pod."""
    nodes = await _racks(space)
    spec = _job(4, {"kueue.x-k8s.io/podset-required-topology": RACK})
    await space.create("batch/v1", "Job", "ring", spec, labels={"kueue.x-k8s.io/queue-name": "topo"})
    found = (await space.complete("job-ring"))["job-ring"]
    assert found.gang and found.gang.roles[0].constraint.required == RACK
    assert {one.level for one in found.within} == {"kubernetes.io/hostname"} and sum(
        one.count for one in found.within
    ) == 4
    ours = [one.domain for one in found.within for _ in range(one.count)]

    async def selected() -> list[str]:
        pods = await space.list("v1", "pods")
        pods.sort(key=lambda pod: int(pod["metadata"]["labels"]["batch.kubernetes.io/job-completion-index"]))
        hosts = [pod["spec"].get("nodeSelector", {}).get("kubernetes.io/hostname", "") for pod in pods]
        return hosts if all(hosts) else []

    assert await space.until(selected) == ours
    assert set(ours) <= set(nodes) and len(set(ours)) == 2


async def _racks(space: Space) -> list[str]:
    """Make two racks of two nodes with room for two pods each, and a queue that assigns by topology."""
    own = space.here.namespace
    called = [f"gangs-{own}-{number}" for number in (9, 10, 8, 11)]  # as strings, 10 and 11 come first
    for number, name in enumerate(called):
        labels = {RACK: f"r{number // 2}", "kubernetes.io/hostname": name, "fleet": own}
        room = {"cpu": "2", "memory": "8Gi", "pods": "10"}
        body = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "labels": labels}}
        await space.here.api.create(paths.of("v1", "nodes"), body)
        ready = {"type": "Ready", "status": "True"}
        status = {"status": {"allocatable": room, "capacity": room, "conditions": [ready]}}
        await space.here.api.patch(f"{paths.of('v1', 'nodes')}/{name}/status", status)
        await space.here.api.patch(f"{paths.of('v1', 'nodes')}/{name}", {"spec": {"taints": None}})
    called_topo = f"topo-{own}"
    topology = {"levels": [{"nodeLabel": RACK}, {"nodeLabel": "kubernetes.io/hostname"}]}
    flavor = {"nodeLabels": {"fleet": own}, "topologyName": called_topo}
    queue = kueue.cluster_queue_of(called_topo, {"cpu": 64, "memory": "64Gi"})
    for kind, body in (
        ("Topology", {"metadata": {"name": called_topo}, "spec": topology}),
        ("ResourceFlavor", {"metadata": {"name": called_topo}, "spec": flavor}),
    ):
        await manifests.apply(space.here.api, [{"apiVersion": kueue.VERSION, "kind": kind, **body}])
    await manifests.apply(space.here.api, [queue, kueue.local_queue(own, "topo", called_topo)])
    return called


def _request(pod: kube_pod.Pod) -> request.PodRequest:
    return request.PodRequest(pod.cpu_milli, pod.memory_mib, gpus=2)


def _pod() -> dict[str, Any]:
    """Return a pod that nobody schedules."""
    container = {"name": "main", "image": "none", "resources": {"requests": {"cpu": "1", "memory": "1Mi"}}}
    return {"containers": [container], "schedulingGates": [{"name": names.GATE}]}


def _job(pods: int, notes: dict[str, str] | None = None, **more: Any) -> dict[str, Any]:
    template = {"metadata": {"annotations": notes or {}}, "spec": {**_pod(), "restartPolicy": "Never"}}
    return {"parallelism": pods, "completions": pods, "completionMode": "Indexed", "template": template, **more}


def _replicated(
    name: str, replicas: int, pods: int, notes: dict[str, str] | None = None, **more: Any
) -> dict[str, Any]:
    return {"name": name, "replicas": replicas, "template": {"spec": _job(pods, notes, **more)}}


async def _node(space: Space) -> str:
    """Make a node that no kubelet stands behind."""
    name = f"gangs-{space.here.namespace}"
    body = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "labels": {RACK: "r1"}}}
    await space.here.api.create(paths.of("v1", "nodes"), body)
    return name


def _true(item: dict[str, Any], kind: str) -> bool:
    conditions = item.get("status", {}).get("conditions", ())
    return any((one["type"], one["status"]) == (kind, "True") for one in conditions)


def _whole_or_new(found: workload.Workload, before: set[str]) -> bool:
    """Tell whether a complete gang is all of the first attempt or all of the second."""
    uids = {one.pod.uid for one in found.members}
    return uids == before or not uids & before


async def _gone(space: Space) -> None:
    """Take the nodes of a test away."""
    for item in (await space.here.api.list(paths.of("v1", "nodes")))[0]:
        name = item["metadata"]["name"]
        if name.startswith(f"gangs-{space.here.namespace}"):
            await space.here.api.delete(f"{paths.of('v1', 'nodes')}/{name}")
