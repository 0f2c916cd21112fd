"""A whole scheduler against the embedded API server: nodes with slices, classes, and pods that ask for devices."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson
import yaml

from scheduler import app, config
from scheduler.apiserver import client, errors, paths
from scheduler.kube import names
from tests.testbed import embedded
from tests.testbed.fleet import nodes, presets

CRD = Path(__file__).parents[2] / "deploy/scheduler/crd.yaml"
WAIT_S = 20.0
GPU_CLASS = "gpu.muster.dev"


def device_class(name: str = GPU_CLASS, kind: str = "gpu") -> dict[str, Any]:
    text = f"device.driver == 'gpu.muster.dev' && device.attributes['gpu.muster.dev'].type == '{kind}'"
    return {
        "apiVersion": "resource.k8s.io/v1",
        "kind": "DeviceClass",
        "metadata": {"name": name},
        "spec": {"selectors": [{"cel": {"expression": text}}]},
    }


def template(name: str, count: int, device_class: str = GPU_CLASS, **exactly: Any) -> dict[str, Any]:
    request = {"name": "gpus", "exactly": {"deviceClassName": device_class, "count": count, **exactly}}
    return {
        "apiVersion": "resource.k8s.io/v1",
        "kind": "ResourceClaimTemplate",
        "metadata": {"name": name},
        "spec": {"spec": {"devices": {"requests": [request]}}},
    }


def pod(
    name: str, gang: str = "", size: int = 0, claim: str = "eight", gated: bool = True, **annotations: str
) -> dict[str, Any]:
    """Return a pod of an annotated gang; annotation names have "_" for "-" and no prefix."""
    told = {f"muster.dev/{key.replace('_', '-')}": value for key, value in annotations.items()}
    if gang:
        told |= {names.GANG_NAME: gang, names.GANG_SIZE: str(size)}
    spec: dict[str, Any] = {
        "containers": [{"name": "main", "image": "test", "resources": {"requests": {"cpu": "1", "memory": "1Gi"}}}],
        "resourceClaims": [{"name": "devices", "resourceClaimTemplateName": claim}],
    }
    if gated:
        spec["schedulingGates"] = [{"name": names.GATE}]
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "annotations": told}, "spec": spec}


@dataclass
class Cluster:
    """The embedded server with a scheduler that runs beside it."""

    api: client.Client
    server: embedded.Server
    kubeconfig: Path
    folder: Path
    scheduler: app.Scheduler | None = None
    task: "asyncio.Task[None] | None" = None
    settings: dict[str, Any] = field(default_factory=dict)

    async def start(self, **settings: Any) -> None:
        self.settings = {"leader_elect": False, "port": 0, "host": "127.0.0.1", **settings}
        self.scheduler = app.Scheduler(config.Config(**self.settings), self.api, "test")
        self.task = asyncio.create_task(self.scheduler.run())
        ready = asyncio.create_task(self.scheduler.ready.wait())
        await asyncio.wait((self.task, ready), timeout=WAIT_S, return_when=asyncio.FIRST_COMPLETED)
        if self.task.done():
            self.task.result()
        assert ready.done(), "the scheduler is not synced"

    async def stop(self) -> None:
        if self.task is not None:
            self.task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self.task
            self.task = None

    async def kubelet(self) -> None:
        """End pods that are being deleted, as their kubelets would, until cancelled."""
        while True:
            spaces, _ = await self.api.list("/api/v1/pods")
            for one in spaces:
                metadata = one["metadata"]
                if "deletionTimestamp" in metadata:
                    with contextlib.suppress(errors.ApiError):
                        path = paths.of("v1", "pods", metadata["namespace"], metadata["name"])
                        await self.api.delete(path, uid=metadata["uid"], grace_s=0)
            await asyncio.sleep(0.05)

    async def create(self, *items: dict[str, Any], space: str = "default") -> None:
        plurals = {"Pod": "pods", "ResourceClaimTemplate": "resourceclaimtemplates", "ResourceClaim": "resourceclaims"}
        for item in items:
            await self.api.create(paths.of(item["apiVersion"], plurals[item["kind"]], space), item)

    async def pods(self, space: str = "default") -> dict[str, dict[str, Any]]:
        found, _ = await self.api.list(paths.of("v1", "pods", space))
        return {one["metadata"]["name"]: one for one in found}

    async def placement(self, name: str, space: str = "default") -> dict[str, Any] | None:
        try:
            found: dict[str, Any] = await self.api.get(paths.of(names.API_VERSION, names.PLURAL, space, name))
        except errors.ApiError as error:
            if error.missing:
                return None
            raise
        return found

    async def claims(self, space: str = "default") -> dict[str, list[str]]:
        """Return the devices of every allocated claim by the pod that owns it."""
        found, _ = await self.api.list(paths.of(paths.RESOURCE, "resourceclaims", space))
        given = {}
        for one in found:
            allocation = (one.get("status") or {}).get("allocation")
            if allocation:
                owner = one["metadata"]["ownerReferences"][0]["name"]
                given[owner] = [f"{row['pool']}/{row['device']}" for row in allocation["devices"]["results"]]
        return given

    async def until(self, ask: Callable[[], Awaitable[Any]], wait_s: float = WAIT_S) -> Any:
        end = time.monotonic() + wait_s
        while True:
            if self.task is not None and self.task.done():
                self.task.result()
            found = await ask()
            if found:
                return found
            assert time.monotonic() < end, "it did not happen in time"
            await asyncio.sleep(0.02)

    async def bound(self, *wanted: str, space: str = "default") -> dict[str, str]:
        """Wait until pods are bound and return their nodes."""

        async def ask() -> dict[str, str] | None:
            found = await self.pods(space)
            where = {name: found[name]["spec"].get("nodeName", "") for name in wanted if name in found}
            return where if len(where) == len(wanted) and all(where.values()) else None

        result: dict[str, str] = await self.until(ask)
        return result


@contextlib.asynccontextmanager
async def cluster(folder: Path, fleet: str = "hgx-h100=4", version: str = "1.37") -> AsyncIterator[Cluster]:
    """Start the server with a fleet; the scheduler is started by the test."""
    async with embedded.Server(version) as server:
        path = server.kubeconfig(folder / "kubeconfig")
        async with await client.Client.connect(path) as api:
            await api.create(
                paths.of("apiextensions.k8s.io/v1", "customresourcedefinitions"), yaml.safe_load(CRD.read_text())
            )
            for one in (device_class(), device_class("mig.muster.dev", "mig")):
                await api.create(paths.of(paths.RESOURCE, "deviceclasses"), one)
            if fleet:
                await furnish(api, nodes.bodies(presets.read(fleet), int(version.split(".")[1])))
            home = Cluster(api, server, path, folder)
            for count, name in ((1, "one"), (2, "two"), (4, "four"), (8, "eight")):
                await home.create(template(name, count))
            kubelet = asyncio.create_task(home.kubelet())
            try:
                yield home
            finally:
                kubelet.cancel()
                await asyncio.gather(kubelet, return_exceptions=True)
                await home.stop()


async def furnish(api: client.Client, bodies: Iterable[tuple[nodes.Body, ...]]) -> None:
    """Create nodes, Ready, and their slices."""
    for member in bodies:
        for body in member:
            item = orjson.loads(body.data)
            if body.path == nodes.NODES:
                item["spec"].pop("taints", None)
                item.setdefault("status", {})["conditions"] = [{"type": "Ready", "status": "True"}]
            await api.create(body.path, item)
            if body.path == nodes.NODES:
                await api.patch(f"{body.path}/{body.name}/status", {"status": item["status"]})
