"""Keeps the slices of this node as they should be, also after somebody else deleted or changed them.

The kubelet deletes all slices of a driver when it starts; the watch tells, and they are back after `SETTLE_S`.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import structlog

from dra_driver.publish import plan, server
from scheduler.apiserver import client, errors, paths, watch
from scheduler.model import claim, names, node, published, slices

log = structlog.get_logger()

OWNED = {"key": names.OWNED, "effect": "NoSchedule"}
"""Keeps kube-scheduler from giving out a device by itself; what Muster allocates needs no toleration."""

SETTLE_S = 0.3
"""Between a change and the writes: a wipe by the kubelet is over then, and changes that come together are one."""
MAX_WAIT_S = 30.0
TRIES = 5  # conflicts in one go


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is to be published: the node and the taints of its devices by name."""

    machine: node.NodeTopology
    taints: Mapping[str, Sequence[Mapping[str, str]]] = field(default_factory=dict)


@dataclass(slots=True)
class Stats:
    """Writes so far and the time the last publication took."""

    creates: int = 0
    updates: int = 0
    deletes: int = 0
    conflicts: int = 0
    seconds: float = 0.0


class Publisher:
    """Publishes the one pool of a node; `run` works until it is cancelled and deletes nothing at its end.

    Parameters
    ----------
    owned : bool
        Put the ownership taint on every device. Where the server keeps no taints (1.34 and 1.35 by default) nothing is
        put: there a tainted device could only be left out, and the gate of Muster's webhook protects instead.
    """

    def __init__(self, api: client.Client, node_name: str, driver: str = claim.DRIVER, owned: bool = False) -> None:
        self.api, self.node_name, self.driver, self.owned = api, node_name, driver, owned
        self.stats = Stats()
        self.form: slices.Layout | None = None
        self.problem = ""
        self._wanted: Wanted | None = None
        self._floor = 0
        self._owner: dict[str, Any] | None = None
        self._refused: tuple[Any, ...] = ()
        self._dirty = asyncio.Event()

    def want(self, wanted: Wanted) -> None:
        """Publish this from now on."""
        self._wanted = wanted
        self._dirty.set()

    async def run(self) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(self._watch())
            group.create_task(self._work())

    async def publish(self) -> None:
        """Bring the API server to what is wanted, once; no write where nothing differs."""
        if self._wanted is None:
            return
        began = time.monotonic()
        for _ in range(TRIES):
            try:
                while await self._publish_once(self._wanted):
                    log.warning("the API server dropped fields of slices; publishing without them", form=str(self.form))
                self.stats.seconds = time.monotonic() - began
                return
            except errors.ApiError as error:
                if not (error.conflict or error.exists or error.missing):
                    raise
                self.stats.conflicts += 1
        raise TimeoutError(f"slices of node {self.node_name}: changed by somebody else {TRIES} times in a row")

    async def _publish_once(self, wanted: Wanted) -> bool:
        """Write what differs; return whether fields were dropped, so that another layout is due."""
        form = self.form = self.form or await server.ask(self.api, self.driver, self.node_name)
        owner = await self._node()
        found, _ = await self.api.list(server.PATH, fieldSelector=self._selector)
        taints = with_ownership(wanted) if self.owned and form.taints else wanted.taints
        items = slices.encode(wanted.machine, 1, form, self.driver, taints)
        if self._refused == (items, _versions(found)):
            return False
        todo = plan.plan(items, found, owner, self._floor)
        self._floor = max(
            [self._floor, *(i["spec"]["pool"]["generation"] for i in (*found, *todo.creates, *todo.updates))]
        )
        lost = await self._write(todo)
        if "unknown" in lost:  # writing the same again would lose the same again, for ever
            self.problem = (
                f"slices of node {self.node_name}: the API server dropped fields that belong to no known gate"
            )
            found, _ = await self.api.list(server.PATH, fieldSelector=self._selector)
            self._refused = items, _versions(found)
        self.form = server.without(form, lost)
        return self.form != form

    async def _write(self, todo: plan.Plan) -> set[str]:
        lost: set[str] = set()
        for item in todo.creates:
            lost |= server.dropped(item, await self.api.create(server.PATH, item))
            self.stats.creates += 1
        for item in todo.updates:
            lost |= server.dropped(item, await self.api.replace(_path(item), item))
            self.stats.updates += 1
        for item in todo.deletes:
            await self._delete(item)
        return lost

    async def _delete(self, item: Mapping[str, Any]) -> None:
        metadata = item["metadata"]
        try:
            await self.api.delete(_path(item), metadata["uid"], metadata["resourceVersion"])
        except errors.ApiError as error:
            if not error.missing:
                raise
        self.stats.deletes += 1

    async def _node(self) -> dict[str, Any]:
        if self._owner is None:
            found = await self.api.get(paths.of("v1", "nodes", name=self.node_name))
            uid = found["metadata"]["uid"]
            self._owner = {"apiVersion": "v1", "kind": "Node", "name": self.node_name, "uid": uid, "controller": True}
        return self._owner

    @property
    def _selector(self) -> str:
        return f"spec.driver={self.driver},spec.nodeName={self.node_name}"

    async def _watch(self) -> None:
        """Any news about our slices lets them be compared again; our own writes then cost one list and no write."""
        async for event in watch.follow(self.api, server.PATH, fieldSelector=self._selector):
            if isinstance(event, watch.Interrupted):
                log.warning("watch of slices interrupted", cause=event.cause)
            else:
                self._dirty.set()

    async def _work(self) -> None:
        failures = 0
        while True:
            await self._dirty.wait()
            await asyncio.sleep(SETTLE_S)
            self._dirty.clear()
            try:
                await self.publish()
                failures, self.problem = 0, ""
            except (
                errors.ApiError,
                published.SliceError,
                server.ServerError,
                TimeoutError,
                aiohttp.ClientError,
            ) as error:
                failures += 1
                self.problem = f"{type(error).__name__}: {error}"
                log.error("slices not published", node=self.node_name, problem=self.problem)
                await asyncio.sleep(min(MAX_WAIT_S, 0.2 * 2 ** min(failures, 8)) * random.uniform(0.5, 1.0))
                self._dirty.set()


def with_ownership(wanted: Wanted) -> Mapping[str, Sequence[Mapping[str, str]]]:
    """Return the taints with the mark of Muster's own devices on each; partitions have those of their GPU."""
    machine = wanted.machine
    found = [gpu.name for gpu in machine.gpus] + [nic.device_name for nic in machine.nics]
    found += [other.device_name for other in machine.accelerators]
    return {name: [OWNED, *wanted.taints.get(name, ())] for name in found}


def _path(item: Mapping[str, Any]) -> str:
    return f"{server.PATH}/{published.slice_name(item)}"


def _versions(items: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    return {published.slice_name(item): str(item["metadata"]["resourceVersion"]) for item in items}
