"""A whole scheduler of which nothing moves: real code over an API server that is only a table of objects.

Its lists are answered at once and its watches never tell anything, so a fleet of 5,000 nodes that is in use is there in
seconds, and the only work beside what is measured is the measuring.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NoReturn

import orjson

from scheduler import app, config
from scheduler.apiserver import access, client, errors, paths
from scheduler.kube import names, world
from scheduler.model import claim as model
from tests.bench import burst
from tests.live import site
from tests.testbed.fleet import nodes, presets

Item = dict[str, Any]

SPACE = "ml"
SYNC_S = 120.0
CLAIMS = paths.of(paths.RESOURCE, "resourceclaims")
PODS = paths.of("v1", "pods")
TOLERANT = [{"key": names.OWNED, "operator": "Exists", "effect": "NoSchedule"}]
"""Pods whose claims tolerate our taint wait for kube-scheduler, which asks the extender about them."""


class Table(client.Client):
    """Lists what it was given, tells of no change, and takes no writes."""

    def __init__(self, items: Mapping[str, list[Item]]) -> None:
        super().__init__(access.Access("http://still.invalid"))
        self.items = items

    async def list(self, path: str, **params: str) -> tuple[list[Item], str]:
        if path not in self.items:
            raise errors.ApiError(404, "NotFound", f"there is no {path}")
        return self.items[path], "1"

    async def open(self, *_: Any, **__: Any) -> NoReturn:
        await asyncio.Event().wait()
        raise AssertionError("nothing sets it")

    async def request(self, method: str, path: str, *_: Any, **__: Any) -> NoReturn:
        raise errors.ApiError(403, "Forbidden", f"{method} {path}: nothing is written here")


@dataclass(slots=True)
class Cluster:
    """A fleet with what runs on it and what waits.

    Attributes
    ----------
    free : dict of node to list
        Indices of its free GPUs.
    running : dict of node to UID
        The pod that has the others.
    """

    fleet: presets.Fleet
    items: dict[str, list[Item]] = field(default_factory=dict)
    free: dict[str, list[int]] = field(default_factory=dict)
    running: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        required = [kind.paths[0] for kind in world.KINDS if kind.required]
        self.items = {path: [] for path in required}
        for member in nodes.bodies(self.fleet):
            for body in member:
                item = orjson.loads(body.data)
                if body.path == nodes.NODES:
                    item["status"]["conditions"] = [{"type": "Ready", "status": "True"}]
                item["metadata"] |= {"uid": f"uid-{body.name}", "resourceVersion": "1"}
                self.items[body.path].append(item)
        self.items[paths.of(paths.RESOURCE, "deviceclasses")].append(burst.device_class())
        self.items[paths.of("v1", "namespaces")].append({"metadata": {"name": SPACE}})
        self.items[paths.of(paths.RESOURCE, "devicetaintrules")] = site.manifest("ownership.yaml")
        self.free = {member.name: list(range(gpus)) for member, gpus in self._sizes()}

    def names(self) -> list[str]:
        """Return the nodes in kube-scheduler's order: zone by zone in turn."""
        zones: dict[str, list[str]] = {}
        for member in self.fleet.members():
            zones.setdefault(member.zone, []).append(member.name)
        longest = max(map(len, zones.values()))
        return [zone[i] for i in range(longest) for zone in zones.values() if i < len(zone)]

    def run(self, node: str, gpus: int) -> None:
        """Have a pod of no gang run on some GPUs of a node."""
        self.running[node] = self.pod(f"on-{node}", gpus, node, bound=True)["metadata"]["uid"]

    def pod(self, name: str, gpus: int, node: str = "", bound: bool = False) -> Item:
        """Add a pod, with a claim where it asks for GPUs, and with a plan where a node is named; return it."""
        resources: Item = {"requests": {"cpu": "1", "memory": "1Gi"}}
        container = {"name": "main", "image": "none", "env": ENV, "resources": resources}
        spec: Item = {"containers": [container], "schedulerName": "default-scheduler"}
        status: Item = {"phase": "Running" if bound else "Pending"}
        metadata = {"name": name, "namespace": SPACE, "uid": f"uid-{name}", "resourceVersion": "1"}
        if gpus:
            spec["resourceClaims"] = [{"name": "gpus", "resourceClaimTemplateName": burst.TEMPLATE}]
            status["resourceClaimStatuses"] = [{"name": "gpus", "resourceClaimName": name}]
            self._claim(metadata, gpus, node)
        if bound:
            spec["nodeName"] = node
        elif node:
            spec["affinity"] = {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": _only(node)}}
        item = {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec, "status": status}
        self.items[PODS].append(item)
        return item

    def _claim(self, pod: Item, gpus: int, node: str) -> None:
        """Add the claim of a pod: allocated on a node, or for kube-scheduler to allocate."""
        exactly: Item = {"deviceClassName": model.DRIVER, "count": gpus}
        status: Item = {}
        if node:
            taken, self.free[node] = self.free[node][:gpus], self.free[node][gpus:]
            named = {"request": "gpus", "driver": model.DRIVER, "pool": node}
            devices = {"results": [named | {"device": f"gpu-{gpu}"} for gpu in taken]}
            status["allocation"] = {"devices": devices, "nodeSelector": _only(node)}
            status["reservedFor"] = [{"resource": "pods", "name": pod["name"], "uid": pod["uid"]}]
        else:
            exactly["tolerations"] = TOLERANT
        owner = {"apiVersion": "v1", "kind": "Pod", "name": pod["name"], "uid": pod["uid"], "controller": True}
        metadata = pod | {"uid": f"claim-{pod['uid']}", "ownerReferences": [owner]}
        spec = {"devices": {"requests": [{"name": "gpus", "exactly": exactly}]}}
        self.items[CLAIMS].append({"metadata": metadata, "spec": spec, "status": status})

    def _sizes(self) -> Iterator[tuple[presets.Member, int]]:
        """Yield the nodes with the number of their GPUs."""
        sizes: dict[str, int] = {}
        for member in self.fleet.members():
            if member.kind not in sizes:
                sizes[member.kind] = len(nodes.machine(member).gpus)
            yield member, sizes[member.kind]


def _only(node: str) -> Item:
    """Return the selector of one node."""
    where = {"key": "metadata.name", "operator": "In", "values": [node]}
    return {"nodeSelectorTerms": [{"matchFields": [where]}]}


ENV = [{"name": f"VARIABLE_{i}", "value": "x" * 40} for i in range(60)]
"""Makes a pod about as long as pods are, 6 kB."""


@contextlib.asynccontextmanager
async def scheduler(cluster: Cluster, port: int) -> AsyncIterator[app.Scheduler]:
    """Run the scheduler on a cluster; it leads, and answers on a port of 127.0.0.1."""
    settings = config.Config(leader_elect=False, host="127.0.0.1", port=port)
    one = app.Scheduler(settings, Table(cluster.items), "still")
    task = asyncio.create_task(one.run())
    ready = asyncio.create_task(one.ready.wait())
    try:
        await asyncio.wait((task, ready), timeout=SYNC_S, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            task.result()
        if not ready.done():
            raise TimeoutError(f"the scheduler is not synced after {SYNC_S:g} s")
        yield one
    finally:
        for each in (ready, task):
            each.cancel()
        await asyncio.gather(ready, task, return_exceptions=True)
