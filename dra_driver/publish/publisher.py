"""Keeps the slices of this node as they should be, also after somebody else deleted or changed them.

The kubelet deletes all slices of a driver when it starts; the watch tells, and they are back after `SETTLE_S`.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import structlog

from dra_driver.publish import pace, plan, server
from dra_driver.publish import turn as turns
from scheduler.apiserver import client, errors, watch
from scheduler.model import claim, names, node, published, slices

log = structlog.get_logger()

OWNED = {"key": names.OWNED, "effect": "NoSchedule"}
"""Keeps kube-scheduler from giving out a device by itself; what Muster allocates needs no toleration."""

SETTLE_S = 0.3
"""Between a change and the writes: a wipe by the kubelet is over then, and changes that come together are one."""
MAX_WAIT_S = 30.0
TRIES = 5  # conflicts in one go
INVALID = (400, 422)
"""The server says that a slice can't be so; the same one is sent again every `MAX_WAIT_S` only."""
INVALID_FAILURES = 8


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


@dataclass(frozen=True, slots=True)
class Refused:
    """Slices that the API server took otherwise than they were sent; writing them again would go on for ever."""

    items: Sequence[dict[str, Any]]
    versions: Mapping[str, str]
    problem: str


class Publisher:
    """Publishes the one pool of a node; `run` works until it is cancelled and deletes nothing at its end.

    Parameters
    ----------
    owned : bool
        Put the ownership taint on every device. Where the server keeps no taints (1.34 and 1.35 by default) nothing is
        put: there a tainted device could only be left out, and the gate of Muster's webhook protects instead.
    lists : bool
        Publish NUMA nodes as lists where the server keeps them.
    turn : Turn or None
        Tells when this instance may write; None where there is no other.

    Attributes
    ----------
    problem : str
        Why the slices are not as they should be; "" where they are.
    """

    def __init__(
        self,
        api: client.Client,
        node_name: str,
        driver: str = claim.DRIVER,
        owned: bool = False,
        *,
        lists: bool = False,
        turn: turns.Turn | None = None,
    ) -> None:
        self.api, self.node_name, self.driver, self.owned, self.lists = api, node_name, driver, owned, lists
        self.stats = Stats()
        self.form: slices.Layout | None = None
        self.problem = ""
        self._wanted: Wanted | None = None
        self._published: Wanted | None = None
        self._floor = 0
        self._refused: Refused | None = None
        self._ask = True
        self._turn, self._pace = turn, pace.Pace()
        self._dirty, self._news = asyncio.Event(), asyncio.Event()
        if turn is not None:
            turn.gained = self._dirty.set

    def want(self, wanted: Wanted) -> None:
        """Publish this from now on."""
        self._wanted = wanted
        self._dirty.set()
        self._news.set()

    async def run(self) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(self._watch())
            group.create_task(self._work())
            if self._turn is not None:
                group.create_task(self._turn.run())

    async def publish(self) -> None:
        """Bring the API server to what is wanted, once; no write where nothing differs."""
        wanted = self._wanted
        if wanted is None:
            return
        began, writes = time.monotonic(), self._writes
        asked = self._ask
        for _ in range(TRIES):
            try:
                while await self._publish_once(wanted):
                    log.warning("the API server dropped fields of slices; publishing without them", form=str(self.form))
                break
            except errors.ApiError as error:
                if error.status in INVALID and not asked:
                    asked = self._ask = True  # it may be another server than the one that was asked
                elif error.conflict or error.exists or error.missing:
                    self.stats.conflicts += 1
                else:
                    raise
        else:
            raise TimeoutError(f"slices of node {self.node_name}: changed by somebody else {TRIES} times in a row")
        if self._writes > writes and wanted is self._published:
            self._pace.rewrote(time.monotonic())
        self._published = wanted
        self.problem = self._refused.problem if self._refused else ""
        self.stats.seconds = time.monotonic() - began

    async def _publish_once(self, wanted: Wanted) -> bool:
        """Write what differs; return whether fields were dropped, so that another layout is due."""
        if self._ask or self.form is None:
            self.form = await server.ask(self.api, self.driver, self.node_name, self.lists)
            self._ask = False
        form = self.form
        found, _ = await self.api.list(server.PATH, fieldSelector=self._selector)
        taints = with_ownership(wanted) if self.owned and form.taints else wanted.taints
        items = slices.encode(wanted.machine, 1, form, self.driver, taints)
        if self._refused and (self._refused.items, self._refused.versions) == (items, _versions(found)):
            return False
        self._refused = None
        todo = plan.plan(items, found, None, self._floor)
        if todo.creates:
            todo = plan.plan(items, found, await server.owner(self.api, self.node_name), self._floor)
        self._floor = max(
            [self._floor, *(i["spec"]["pool"]["generation"] for i in (*found, *todo.creates, *todo.updates))]
        )
        lost, place = await self._write(todo)
        self.form = server.without(form, lost)
        if self.form == form and lost:
            problem = f"slices of node {self.node_name}: the API server changes {place}, which belongs to no known gate"
            log.error("slices are not kept as they are sent; they are not sent again", problem=problem)
            found, _ = await self.api.list(server.PATH, fieldSelector=self._selector)
            self._refused = Refused(items, _versions(found), problem)
        return self.form != form

    async def _write(self, todo: plan.Plan) -> tuple[set[str], str]:
        """Return the features that were dropped, and the place of the last difference that belongs to none."""
        lost, place = set[str](), ""
        for item, call in (*((i, self._create) for i in todo.creates), *((i, self._update) for i in todo.updates)):
            kept = await call(item)
            dropped = server.dropped(item, kept)
            lost |= dropped
            if "unknown" in dropped:
                place = f"{published.slice_name(item)}: {plan.difference(item, kept)}"
        for item in todo.deletes:
            await self._delete(item)
        return lost, place

    async def _create(self, item: dict[str, Any]) -> dict[str, Any]:
        kept: dict[str, Any] = await self.api.create(server.PATH, item)
        self.stats.creates += 1
        return kept

    async def _update(self, item: dict[str, Any]) -> dict[str, Any]:
        kept: dict[str, Any] = await self.api.replace(_path(item), item)
        self.stats.updates += 1
        return kept

    async def _delete(self, item: Mapping[str, Any]) -> None:
        metadata = item["metadata"]
        try:
            await self.api.delete(_path(item), metadata["uid"], metadata["resourceVersion"])
        except errors.ApiError as error:
            if not error.missing:
                raise
        self.stats.deletes += 1

    @property
    def _writes(self) -> int:
        return self.stats.creates + self.stats.updates + self.stats.deletes

    @property
    def _selector(self) -> str:
        return f"spec.driver={self.driver},spec.nodeName={self.node_name}"

    async def _watch(self) -> None:
        """Any news about our slices lets them be compared again; our own writes then cost one list and no write."""
        async for event in watch.follow(self.api, server.PATH, fieldSelector=self._selector):
            if isinstance(event, watch.Interrupted):
                log.warning("watch of slices interrupted", cause=event.cause)
                self._ask = True  # the server may come back as another version, or with other gates
            else:
                self._dirty.set()

    async def _work(self) -> None:
        failures = 0
        while True:
            await self._dirty.wait()
            await asyncio.sleep(SETTLE_S)
            if self._turn is not None:
                async with self._turn.taken():
                    failures = await self._try(failures)
            else:
                failures = await self._try(failures)
            wait_s = self._pace.wait_s(time.monotonic())
            if failures:
                wait_s = min(MAX_WAIT_S, 0.2 * 2 ** min(failures, 8)) * random.uniform(0.5, 1.0)
            elif wait_s:
                self.problem = f"slices of node {self.node_name}: somebody else changes them again and again"
                log.error("slices are written again more slowly", problem=self.problem, wait_s=round(wait_s, 1))
            if wait_s:
                await self._pause(wait_s)
                self._dirty.set()

    async def _try(self, failures: int) -> int:
        """Publish; return how many tries have failed in a row, 0 where another one would not help."""
        self._dirty.clear()
        self._news.clear()
        try:
            await self.publish()
            return 0
        except published.SliceError as error:
            self._failed(error)
            return 0
        except (errors.ApiError, server.ServerError, TimeoutError, aiohttp.ClientError) as error:
            self._failed(error)
            if isinstance(error, errors.ApiError) and error.status in INVALID:
                return INVALID_FAILURES
            return failures + 1

    def _failed(self, error: Exception) -> None:
        self.problem = f"{type(error).__name__}: {error}"
        log.error("slices not published", node=self.node_name, problem=self.problem)

    async def _pause(self, wait_s: float) -> None:
        """Wait, but not when something else is wanted meanwhile."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(wait_s):
                await self._news.wait()


def with_ownership(wanted: Wanted) -> Mapping[str, Sequence[Mapping[str, str]]]:
    """Return the taints with the mark of Muster's own devices on each; partitions have those of their GPU."""
    machine = wanted.machine
    found = [gpu.name for gpu in machine.gpus] + [nic.device_name for nic in machine.nics]
    found += [other.device_name for other in machine.accelerators]
    return {**wanted.taints, **{name: [OWNED, *wanted.taints.get(name, ())] for name in found}}


def _path(item: Mapping[str, Any]) -> str:
    return f"{server.PATH}/{published.slice_name(item)}"


def _versions(items: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    return {published.slice_name(item): str(item["metadata"]["resourceVersion"]) for item in items}
