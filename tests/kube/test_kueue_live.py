"""The admission check against the real Kueue: what a scripted planner answers becomes of Jobs."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from scheduler.apiserver import client, errors, paths
from scheduler.kube import kueue, kueue_answer, kueue_check, kueue_controller, mirror, names, pens
from tests.testbed import cluster as clusters
from tests.testbed import fixtures
from tests.testbed.assumptions import world
from tests.testbed.controllers import kueue as real
from tests.testbed.controllers import manifests

pytestmark = [pytest.mark.slow, pytest.mark.testbed, pytest.mark.timeout(1800), pytest.mark.xdist_group("kueue")]

DEPLOY = Path(__file__).resolve().parents[2] / "deploy" / "scheduler"
ACCOUNT = "system:serviceaccount:muster-system:muster-scheduler"  # with the rights of deploy/ and no others
RACK, HOST = "example.com/rack", "kubernetes.io/hostname"
START = kueue_answer.Start("job-ring", "7f3a", "rack r3, 2 nodes", "rack r3")


@dataclass
class Planner:
    """Answers what the script says, question after question; the last answer stands."""

    script: list[kueue_answer.Answer | None]
    asked: list[kueue.Workload] = field(default_factory=list)
    cancelled: list[str] = field(default_factory=list)
    controller: kueue_controller.Controller | None = None
    namespace: str = ""

    def reserve(self, workload: kueue.Workload) -> None:
        if workload.namespace != self.namespace:
            return  # left by another test
        answer = self.script[min(len(self.asked), len(self.script) - 1)]
        self.asked.append(workload)
        if answer is not None:
            assert self.controller is not None
            asyncio.get_running_loop().call_soon(self.controller.answer, workload.uid, answer)

    def cancel(self, uid: str) -> None:
        if uid in {one.uid for one in self.asked}:
            self.cancelled.append(uid)


@dataclass(frozen=True)
class Queue:
    """A namespace with a LocalQueue whose ClusterQueue requires our check."""

    here: world.World
    check: str
    muster: client.Client

    async def job(self, name: str = "ring", pods: int = 2, **metadata: Any) -> str:
        """Create a Job; returns its path."""
        container = {"name": "main", "image": "none", "resources": {"requests": {"cpu": "1"}}}
        spec = {"restartPolicy": "Never", "containers": [container], "schedulingGates": [{"name": names.GATE}]}
        template = {"metadata": metadata, "spec": spec}
        body = {
            "apiVersion": "batch/v1",
            "kind": "Job",
            "metadata": {"name": name, "labels": {"kueue.x-k8s.io/queue-name": "main"}},
            "spec": {"parallelism": pods, "completions": pods, "suspend": True, "template": template},
        }
        path = paths.of("batch/v1", "jobs", self.here.namespace)
        await self.here.api.create(path, body)
        return f"{path}/{name}"

    async def workload(self) -> dict[str, Any]:
        path = paths.of(real.VERSION, "workloads", self.here.namespace)
        [found] = (await self.here.api.list(path))[0]
        return found

    async def active(self) -> bool:
        found = await self.here.api.get(paths.of(real.VERSION, "clusterqueues", "", self.here.namespace))
        conditions = found.get("status", {}).get("conditions", ())
        return any((one["type"], one["status"]) == ("Active", "True") for one in conditions)

    async def pods(self) -> list[dict[str, Any]]:
        return (await self.here.api.list(self.here.path("pods")))[0]

    async def until(self, what: Callable[[], Awaitable[Any]], deadline_s: float = 20.0) -> Any:
        return await self.here.until(what, deadline_s)

    async def state(self, wanted: str, deadline_s: float = 20.0) -> dict[str, Any]:
        """Wait for a state of our check, and return its entry."""

        async def ask() -> Any:
            with contextlib.suppress(ValueError):  # no Workload yet
                for one in (await self.workload()).get("status", {}).get("admissionChecks", ()):
                    if one["name"] == self.check and one["state"] == wanted:
                        return one
            return None

        return await self.until(ask, deadline_s)

    async def condition(self, kind: str, status: str = "True", deadline_s: float = 20.0) -> Any:
        async def ask() -> Any:
            with contextlib.suppress(ValueError):
                found = (await self.workload()).get("status", {}).get("conditions", ())
                return [one for one in found if (one["type"], one["status"]) == (kind, status)]
            return None

        return await self.until(ask, deadline_s)


@pytest.fixture(scope="module")
def kueued(kubernetes_version: str) -> Iterator[clusters.Cluster]:
    fixtures.require(real_nodes=False)
    with clusters.Cluster(clusters.Options(version=kubernetes_version)).start() as home:
        real.start(home, frameworks=["batch/job"])
        for file in ("namespace.yaml", "rbac.yaml", "kueue.yaml"):
            home.kubectl("create", "-f", str(DEPLOY / file))
        yield home


@pytest.fixture
async def queue(kueued: clusters.Cluster) -> AsyncIterator[Queue]:
    async with (
        await client.Client.connect(kueued.kubeconfig, acting_as=ACCOUNT) as muster,
        await client.Client.connect(kueued.kubeconfig) as api,
        world.World.open(kueued, api) as here,
    ):
        check = f"check-{here.namespace}"
        await asyncio.to_thread(real.queue, kueued, here.namespace, {"cpu": 4, "memory": "4Gi"}, check=check)
        made = Queue(here, check, muster)
        yield made
        await api.delete(paths.of("batch/v1", "jobs", here.namespace))

        async def empty() -> bool:
            """Delete what is left; the Job controller and Kueue do the same at the same time."""
            left = await made.pods()
            for pod in left:
                with contextlib.suppress(errors.ApiError):
                    await api.delete(here.path("pods", pod["metadata"]["name"]), grace_s=0)
            return not left

        await made.until(empty)


@contextlib.asynccontextmanager
async def checking(queue: Queue, planner: Planner, **desk: float) -> AsyncIterator[kueue_controller.Controller]:
    """Run the controller until the end of the block."""
    watched = mirror.Mirror(queue.muster, kueue_controller.KINDS, lambda change: controller.told(change))
    pen = pens.Pen(queue.muster, 1, patience_s=0.0)
    controller = kueue_controller.Controller(pen, watched.served, planner, kueue_check.Desk(**desk))
    planner.controller, planner.namespace = controller, queue.here.namespace
    tasks = [asyncio.create_task(watched.run()), asyncio.create_task(controller.run())]
    try:
        await watched.wait_synced(10)
        yield controller
        assert not any(task.done() for task in tasks), [task for task in tasks if task.done()]
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def test_start_admits_the_job_and_its_pods_carry_the_plan(queue: Queue) -> None:
    planner = Planner([START])
    async with checking(queue, planner):
        await queue.until(queue.active)
        began = time.monotonic()
        await queue.job()
        entry = await queue.state("Ready")
        await queue.condition("Admitted")
        print(f"from the Job to Admitted: {time.monotonic() - began:.2f} s")
        assert entry["message"] == START.message and "requeueAfterSeconds" not in entry

        async def both() -> Any:
            return found if len(found := await queue.pods()) == 2 else None

        for pod in await queue.until(both):
            assert pod["metadata"]["labels"][names.GANG] == "job-ring"
            assert pod["metadata"]["annotations"][names.DECISION] == "7f3a"
            assert pod["metadata"]["annotations"][names.DOMAIN] == "rack r3" and "nodeSelector" not in pod["spec"]
        [asked] = planner.asked
        assert (asked.owner.kind, asked.owner.name) == ("Job", "ring")
        [podset] = asked.podsets
        assert (podset.count, podset.template.cpu_milli, podset.template.gates) == (2, 1000, (names.GATE,))
        assert planner.cancelled == []


async def test_wait_gives_quota_back_after_the_delay_and_is_asked_again(queue: Queue) -> None:
    planner = Planner([kueue_answer.Wait("no rack can hold it; nearest is r3, which lacks 2 nodes", 5), START])
    async with checking(queue, planner):
        await queue.job()
        entry = await queue.state("Retry")
        assert entry["requeueAfterSeconds"] == 5 and "lacks 2 nodes" in entry["message"]
        assert await queue.pods() == []
        await queue.condition("Admitted", deadline_s=40)
        assert len(planner.asked) == 2 and planner.cancelled == [planner.asked[0].uid]
        [entry] = (await queue.workload())["status"]["admissionChecks"]
        assert entry["state"] == "Ready"  # Kueue keeps the old requeueAfterSeconds, and reads it only in Retry


async def test_reject_deactivates_the_workload(queue: Queue) -> None:
    planner = Planner([kueue_answer.Reject("even the empty fleet has no such device")])
    async with checking(queue, planner):
        await queue.job()

        async def inactive() -> Any:
            with contextlib.suppress(ValueError):
                return (await queue.workload())["spec"].get("active") is False
            return None

        await queue.until(inactive)
        await queue.condition("QuotaReserved", "False")
        assert await queue.pods() == [] and len(planner.asked) == 1
        told = (await queue.condition("Evicted"))[0]["message"] + str((await queue.workload())["status"])
        assert "no such device" in told


async def test_deactivation_drops_the_reservation(queue: Queue) -> None:
    planner = Planner([START])
    async with checking(queue, planner):
        await queue.job()
        await queue.condition("Admitted")
        workload = await queue.workload()
        path = paths.of(real.VERSION, "workloads", queue.here.namespace, workload["metadata"]["name"])
        await queue.here.api.patch(path, {"spec": {"active": False}})
        await queue.until(lambda: asyncio.sleep(0, planner.cancelled))
        assert planner.cancelled == [workload["metadata"]["uid"]]


async def test_deletion_drops_the_reservation(queue: Queue) -> None:
    planner = Planner([START])
    async with checking(queue, planner):
        path = await queue.job()
        await queue.condition("Admitted")
        uid = (await queue.workload())["metadata"]["uid"]
        await queue.here.api.delete(path, propagation="Background")
        await queue.until(lambda: asyncio.sleep(0, planner.cancelled))
        assert planner.cancelled == [uid]


async def test_a_reservation_lapses_while_another_check_is_pending(queue: Queue) -> None:
    other = f"other-{queue.here.namespace}"
    await manifests.apply(queue.here.api, [real.admission_check(other, "example.com/slow")])
    active = {"type": "Active", "status": "True", "reason": "Active", "message": "", "lastTransitionTime": _now()}
    body = {"apiVersion": real.VERSION, "kind": "AdmissionCheck", "metadata": {"name": other}}
    path = paths.of(real.VERSION, "admissionchecks", "", other, "status")
    await queue.here.api.apply(path, body | {"status": {"conditions": [active]}}, "example")
    both = {"admissionChecks": [{"name": queue.check}, {"name": other}]}
    path = paths.of(real.VERSION, "clusterqueues", "", queue.here.namespace)
    await queue.here.api.patch(path, {"spec": {"admissionChecksStrategy": both}})
    planner = Planner([START])
    async with checking(queue, planner, hold_s=2.0):
        await queue.job()
        await queue.state("Ready")
        entry = await queue.state("Retry")
        assert "not all pods came within" in entry["message"] and entry["requeueAfterSeconds"] >= 5
        assert len(planner.cancelled) == 1


async def test_after_a_restart_the_planner_is_asked_again_and_nothing_is_written(queue: Queue) -> None:
    async with checking(queue, Planner([START])):
        await queue.job()
        await queue.condition("Admitted")
    before = (await queue.workload())["status"]["admissionChecks"]
    planner = Planner([kueue_answer.Wait("not now")])
    async with checking(queue, planner, answer_s=0.5):
        await queue.until(lambda: asyncio.sleep(0, planner.asked))
        await asyncio.sleep(2)
        assert (await queue.workload())["status"]["admissionChecks"] == before
        assert before[0]["state"] == "Ready"


def node(name: str, rack: str) -> dict[str, Any]:
    """Return a node that is Ready although nobody runs it; long enough for one test."""
    labels = {RACK: rack, HOST: name, "example.com/pool": "a"}
    amount = {"cpu": "2", "memory": "8Gi", "pods": "10"}
    ready = {"type": "Ready", "status": "True", "reason": "KubeletReady", "message": "", "lastHeartbeatTime": _now()}
    status = {"capacity": amount, "allocatable": amount, "conditions": [ready]}
    return {"apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "labels": labels}, "status": status}


@pytest.fixture
async def racks(queue: Queue) -> AsyncIterator[list[str]]:
    """Two racks of two machines, which the queue's flavour is tied to by a Topology."""
    api, place = queue.here.api, paths.of("v1", "nodes")
    made = [node(f"{queue.here.namespace}-{rack}-{index}", rack) for rack in ("r1", "r2") for index in (0, 1)]
    for one in made:
        await api.create(place, one)
    topology = {"apiVersion": real.VERSION, "kind": "Topology", "metadata": {"name": queue.here.namespace}}
    await manifests.apply(api, [topology | {"spec": {"levels": [{"nodeLabel": RACK}, {"nodeLabel": HOST}]}}])
    flavor = paths.of(real.VERSION, "resourceflavors", "", queue.here.namespace)
    await api.patch(flavor, {"spec": {"nodeLabels": {"example.com/pool": "a"}, "topologyName": queue.here.namespace}})
    yield [one["metadata"]["name"] for one in made]
    for one in made:
        await api.delete(f"{place}/{one['metadata']['name']}")


async def test_an_assignment_of_kueue_is_handed_over_and_respected(queue: Queue, racks: list[str]) -> None:
    planner = Planner([dataclasses.replace(START, decision_id="")])
    async with checking(queue, planner):
        await queue.until(queue.active)
        await queue.job(pods=4, annotations={"kueue.x-k8s.io/podset-required-topology": RACK})
        entry = await queue.state("Ready")
        await queue.condition("Admitted")
        [podset] = planner.asked[0].podsets
        assert podset.request.required == RACK and podset.flavors == (queue.here.namespace,)
        assert podset.assignment is not None and podset.assignment.levels == (HOST,)
        assert sum(one.count for one in podset.assignment.domains) == 4
        hosts = [one.values[0] for one in podset.assignment.domains]
        assert len(hosts) == 2 and hosts in (racks[:2], racks[2:])
        [update] = entry["podSetUpdates"]
        assert "nodeSelector" not in update and update["annotations"] == {names.DOMAIN: "rack r3"}


async def test_a_check_with_parameters_is_not_active(queue: Queue) -> None:
    name = f"odd-{queue.here.namespace}"
    odd = real.admission_check(name)
    odd["spec"]["parameters"] = {"apiGroup": "example.com", "kind": "Config", "name": "x"}
    await manifests.apply(queue.here.api, [odd])
    async with checking(queue, Planner([START])):

        async def said() -> Any:
            found = await queue.here.api.get(paths.of(real.VERSION, "admissionchecks", "", name))
            return found.get("status", {}).get("conditions")

        [condition] = await queue.until(said)
        assert condition["status"] == "False" and "take spec.parameters away" in condition["message"]


def _now() -> str:
    return kueue_answer.timestamp(time.time())
