"""The admission check over the embedded server: the version that is served, conflicts, failures, and Kueue that goes."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from scheduler.apiserver import client, errors, paths
from scheduler.kube import kueue, kueue_answer, kueue_check, kueue_controller, mirror, pens
from tests.testbed import embedded

OLD = "kueue.x-k8s.io/v1beta1"
START = kueue_answer.Start("job-ring", "7f3a", "rack r3")
CHECK = {
    "apiVersion": OLD,
    "kind": "AdmissionCheck",
    "metadata": {"name": "place"},
    "spec": {"controllerName": kueue_check.CONTROLLER},
}
TEMPLATE = {"spec": {"containers": [{"name": "c"}]}}
WORKLOAD = {
    "apiVersion": OLD,
    "kind": "Workload",
    "metadata": {"name": "job-ring", "namespace": "default"},
    "spec": {"podSets": [{"name": "main", "count": 2, "template": TEMPLATE}]},
}
STATUS = {
    "conditions": [{"type": "QuotaReserved", "status": "True"}],
    "admissionChecks": [{"name": "place", "state": "Pending", "lastTransitionTime": "2026-01-01T00:00:00Z"}],
}


def definition(plural: str, kind: str, namespaced: bool, lists: dict[str, str]) -> dict[str, Any]:
    """Return a CRD like Kueue's, of the old version alone."""
    status = {
        name: {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": [key]}
        for name, key in lists.items()
    }
    schema = {"type": "object", "properties": {"status": {"type": "object", "properties": status}}}
    version = {"name": "v1beta1", "served": True, "storage": True, "subresources": {"status": {}}}
    names = {"plural": plural, "kind": kind, "singular": kind.lower(), "listKind": f"{kind}List"}
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{plural}.{kueue.GROUP}"},
        "spec": {
            "group": kueue.GROUP,
            "scope": "Namespaced" if namespaced else "Cluster",
            "names": names,
            "versions": [version | {"schema": {"openAPIV3Schema": schema}}],
        },
    }


DEFINITIONS = (
    definition(kueue.WORKLOADS, "Workload", True, {"conditions": "type", "admissionChecks": "name"}),
    definition(kueue.CHECKS, "AdmissionCheck", False, {"conditions": "type"}),
    definition(kueue.FLAVORS, "ResourceFlavor", False, {}),
)


class Planner:
    """Starts everything at once."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.cancelled: list[str] = []
        self.controller: kueue_controller.Controller | None = None

    def reserve(self, workload: kueue.Workload) -> None:
        self.asked.append(workload.key)
        assert self.controller is not None
        asyncio.get_running_loop().call_soon(self.controller.answer, workload.uid, START)

    def cancel(self, uid: str) -> None:
        self.cancelled.append(uid)


@pytest.fixture
async def api(tmp_path: Path) -> AsyncIterator[client.Client]:
    async with (
        embedded.Server("1.37") as server,
        await client.Client.connect(server.kubeconfig(tmp_path / "kubeconfig")) as one,
    ):
        for crd in DEFINITIONS:
            await one.create(paths.of("apiextensions.k8s.io/v1", "customresourcedefinitions"), crd)
        yield one


@contextlib.asynccontextmanager
async def checking(
    api: client.Client, planner: Planner, leads: Callable[[], bool] = pens.always
) -> AsyncIterator[None]:
    watched = mirror.Mirror(api, kueue_controller.KINDS, lambda change: controller.told(change), absent_s=0.1)
    pen = pens.Pen(api, 1, leads, patience_s=0.0)
    controller = planner.controller = kueue_controller.Controller(pen, watched.served, planner)
    tasks = [asyncio.create_task(watched.run()), asyncio.create_task(controller.run())]
    try:
        yield
        assert not any(task.done() for task in tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def put(api: client.Client) -> None:
    """Create a Workload that has quota and waits for our check."""
    await api.create(paths.of(OLD, kueue.CHECKS), CHECK)
    await api.create(paths.of(OLD, kueue.WORKLOADS, "default"), WORKLOAD)
    await api.patch(workload_path("status"), {"status": STATUS})


def workload_path(sub: str = "") -> str:
    return paths.of(OLD, kueue.WORKLOADS, "default", "job-ring", sub)


async def until(ask: Callable[[], Any]) -> Any:
    async with asyncio.timeout(10):
        while not (said := await ask()):
            await asyncio.sleep(0.02)
    return said


async def ready(api: client.Client) -> Any:
    [entry] = (await api.get(workload_path()))["status"]["admissionChecks"]
    return entry if entry["state"] == "Ready" else None


async def test_the_old_version_is_spoken_where_no_newer_is_served(api: client.Client) -> None:
    planner = Planner()
    await put(api)
    async with checking(api, planner):
        entry = await until(lambda: ready(api))
        check = await api.get(paths.of(OLD, kueue.CHECKS, "", "place"))
    assert entry["podSetUpdates"][0]["annotations"] == {"muster.dev/decision-id": "7f3a"}
    assert check["status"]["conditions"][0]["status"] == "True" and planner.asked == ["default/job-ring"]


async def test_a_write_on_an_old_copy_is_refused_and_made_anew(
    api: client.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    conflicts, apply = [], api.apply

    async def late(path: str, body: Any, manager: str) -> Any:
        """Let another writer in just before the first write."""
        if path == workload_path("status") and not conflicts:
            conflicts.append(body["metadata"]["resourceVersion"])
            await api.patch(workload_path("status"), {"status": {"requeueState": {"count": 1}}})
            with pytest.raises(errors.ApiError) as refused:
                await apply(path, body, manager)
            assert refused.value.conflict
            raise refused.value
        return await apply(path, body, manager)

    monkeypatch.setattr(api, "apply", late)
    await put(api)
    async with checking(api, Planner()):
        await until(lambda: ready(api))
    assert len(conflicts) == 1


async def test_a_write_that_fails_is_tried_again(api: client.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kueue_controller, "AGAIN_S", (0.01, 0.05))
    failures, apply = iter((errors.ApiError(503, "Busy", "later"), TimeoutError(), None)), api.apply

    async def failing(path: str, body: Any, manager: str) -> Any:
        if path == workload_path("status") and (error := next(failures, None)):
            raise error
        return await apply(path, body, manager)

    monkeypatch.setattr(api, "apply", failing)
    await put(api)
    async with checking(api, Planner()):
        await until(lambda: ready(api))
    assert next(failures, "used up") == "used up"


async def test_kueue_may_come_and_go(api: client.Client) -> None:
    planner = Planner()
    definitions = paths.of("apiextensions.k8s.io/v1", "customresourcedefinitions")
    for crd in DEFINITIONS:
        await api.delete(f"{definitions}/{crd['metadata']['name']}")
    async with checking(api, planner):
        await asyncio.sleep(0.3)
        for crd in DEFINITIONS:
            await api.create(definitions, crd)
        await put(api)
        await until(lambda: ready(api))
        await api.delete(workload_path())
        await until(lambda: asyncio.sleep(0, planner.cancelled))


async def test_nothing_is_answered_after_the_term_has_ended(api: client.Client) -> None:
    planner, asked = Planner(), asyncio.Event()

    def leads() -> bool:
        asked.set()
        return False

    await put(api)
    async with checking(api, planner, leads):
        await until(lambda: told(planner))
        async with asyncio.timeout(10):
            await asked.wait()
        await asyncio.sleep(0)
        [entry] = (await api.get(workload_path()))["status"]["admissionChecks"]
    assert entry["state"] == "Pending"


async def told(planner: Planner) -> list[str]:
    return planner.asked
