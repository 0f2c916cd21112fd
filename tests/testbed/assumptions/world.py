"""What the tests of assumptions do to a cluster: pods, claims, allocations, and waits with deadlines."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import json
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

from scheduler.apiserver import client, errors, paths
from tests.testbed import cluster as clusters
from tests.testbed import objects

DRIVER = "gpu.test.muster.dev"
FINALIZER = "resource.kubernetes.io/delete-protection"
GATE = "muster.dev/placement"
WAIT_S = 20.0
STILL_S = 3.0  # how long "it does not happen" is watched; a bind takes 0.1 s, a first retry one second
Object = dict[str, Any]


@dataclass(frozen=True, slots=True)
class World:
    """One namespace in one cluster."""

    home: clusters.Cluster
    api: client.Client
    namespace: str

    @classmethod
    @contextlib.asynccontextmanager
    async def open(cls, home: clusters.Cluster, api: client.Client) -> AsyncIterator[Self]:
        """Make a namespace and wait for its service account; take away its pods and claims at the end."""
        name = f"a-{uuid.uuid4().hex[:8]}"
        await api.create(paths.of("v1", "namespaces"), {"metadata": {"name": name}})
        made = cls(home, api, name)
        await made.until(lambda: made.get("serviceaccounts", "default"))
        try:
            yield made
        finally:
            await api.delete(made.path("pods"), grace_s=0)  # one by one, a controller may take one away first
            for claim in (await api.list(made.path("resourceclaims")))[0]:
                with contextlib.suppress(errors.ApiError):
                    await made.free(claim["metadata"]["name"])
            await api.delete(paths.of("v1", "namespaces", "", name))

    @property
    def minor(self) -> int:
        return self.home.kubernetes.minor

    def path(self, plural: str, name: str = "", sub: str = "") -> str:
        group = paths.RESOURCE if plural.startswith("resourceclaim") else "v1"
        return paths.of(group, plural, self.namespace, name, sub)

    async def create(self, obj: Mapping[str, Any]) -> Any:
        plural = {"Pod": "pods", "ResourceClaim": "resourceclaims", "ResourceClaimTemplate": "resourceclaimtemplates"}
        return await self.api.create(self.path(plural[obj["kind"]]), obj)

    async def get(self, plural: str, name: str) -> Any:
        """Return an object, or None where there is none."""
        try:
            return await self.api.get(self.path(plural, name))
        except errors.ApiError as error:
            if error.missing:
                return None
            raise

    async def until(self, ask: Callable[[], Awaitable[Any]], deadline_s: float = WAIT_S) -> Any:
        """Ask until the answer is true, and return it."""
        began, answer = time.monotonic(), None
        while time.monotonic() - began < deadline_s:
            if answer := await ask():
                return answer
            await asyncio.sleep(0.05)
        raise AssertionError(f"not within {deadline_s:g} s; the last answer was {answer!r}")

    async def bound(self, pod: str, deadline_s: float = WAIT_S) -> Any:
        """Wait until a pod is bound, and return it."""

        async def ask() -> Any:
            found = await self.get("pods", pod)
            return found if found and found["spec"].get("nodeName") else None

        return await self.until(ask, deadline_s)

    async def never_bound(self, pod: str, still_s: float = STILL_S) -> None:
        began = time.monotonic()
        while time.monotonic() - began < still_s:
            found = await self.get("pods", pod)
            assert not found["spec"].get("nodeName"), f"{pod} was bound to {found['spec']['nodeName']}"
            await asyncio.sleep(0.1)

    async def claim_of(self, pod: str) -> str:
        """Wait until the claim of a pod's template exists, and return its name."""

        async def ask() -> Any:
            statuses = ((await self.get("pods", pod))["status"]).get("resourceClaimStatuses") or []
            return statuses[0].get("resourceClaimName") if statuses else None

        return str(await self.until(ask))

    async def allocate(
        self,
        name: str,
        node: str,
        devices: Sequence[str],
        stamp: bool = True,
        finalizer: bool = True,
        driver: str = DRIVER,
    ) -> Any:
        """Allocate a claim by hand, in the order that the API wants: finalizer, then status."""
        if finalizer:
            claim = await self.get("resourceclaims", name)
            claim["metadata"]["finalizers"] = [FINALIZER]
            await self.api.replace(self.path("resourceclaims", name), claim)
        claim = await self.get("resourceclaims", name)
        results = [{"request": "gpu", "driver": driver, "pool": node, "device": device} for device in devices]
        term = objects.pinned(node)["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
        claim["status"] = {"allocation": {"devices": {"results": results}, "nodeSelector": term}}
        if stamp:
            claim["status"]["allocation"]["allocationTimestamp"] = now()
        return await self.api.replace(self.path("resourceclaims", name, "status"), claim)

    async def free(self, name: str) -> None:
        """Take an allocation back, whoever holds it, and drop the finalizer."""
        await self.api.patch(self.path("resourceclaims", name, "status"), {"status": None})
        await self.api.patch(self.path("resourceclaims", name), {"metadata": {"finalizers": None}})

    async def devices(self, claim: str) -> list[str]:
        found = await self.get("resourceclaims", claim)
        allocation = (found.get("status") or {}).get("allocation") or {"devices": {"results": []}}
        return [one["device"] for one in allocation["devices"]["results"]]

    async def ungate(self, pod: str, node: str = "") -> Any:
        """Remove the gates of a pod and pin it, in one update."""
        found = await self.get("pods", pod)
        found["spec"]["schedulingGates"] = []
        if node:
            found["spec"]["affinity"] = objects.pinned(node)
        return await self.api.replace(self.path("pods", pod), found)

    async def refused(self, request: Awaitable[Any]) -> errors.ApiError:
        """Return the error of a request that has to be refused."""
        try:
            done = await request
        except errors.ApiError as error:
            return error
        raise AssertionError(f"the API server accepted it: {json.dumps(done)[:500]}")


def now() -> str:
    return datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def text(obj: Object) -> str:
    return json.dumps(obj)


def node(name: str) -> Object:
    """Return a node for kwok."""
    room = {"cpu": "64", "memory": "256Gi", "pods": "110"}
    meta = {
        "name": name,
        "annotations": {"kwok.x-k8s.io/node": "fake"},
        "labels": {"kubernetes.io/hostname": name, "muster.dev/rack": f"rack-{name[-1]}"},
    }
    return {"apiVersion": "v1", "kind": "Node", "metadata": meta, "status": {"allocatable": room, "capacity": room}}
