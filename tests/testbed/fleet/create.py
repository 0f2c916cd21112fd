"""Put a fleet into a cluster, wait until it can take pods, and take it out again."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import orjson

from scheduler.apiserver import client, errors, watch
from tests.testbed.fleet import nodes, presets

T = TypeVar("T")

AT_ONCE = 48
"""Requests under way; more only queue in the API server, whose default is 400 for all clients."""

CREATE_S, READY_S, DELETE_S = 180.0, 240.0, 180.0
STEP_S = 0.5
"""Between two calls of `told`."""

Told = Callable[[str, int, int], None]
"""Hears what is being done, how much of it is done, and how much there is."""


class NotReady(Exception):
    """Nodes did not become Ready in time; the message names how many, the first of them, and what it lacks."""


@dataclass(frozen=True, slots=True)
class Created:
    """How long it took, in seconds."""

    nodes: int
    slices: int
    create_s: float
    ready_s: float


def silent(what: str, done: int, count: int) -> None:
    """Tell nobody."""


async def create(
    api: client.Client, fleet: presets.Fleet, minor: int = nodes.NEWEST, told: Told = silent, ready_s: float = READY_S
) -> Created:
    """Create all nodes and slices of a fleet and wait until every node is Ready and without taint.

    Objects that exist already are left as they are, so that a second call goes on where one was broken off.

    Raises
    ------
    NotReady
        Not all became Ready within `ready_s` of their creation; is kwok running?
    ApiError
    TimeoutError
    """
    begin = time.monotonic()
    made = [body for bodies in nodes.bodies(fleet, minor) for body in bodies]
    async with asyncio.timeout(CREATE_S):
        await _each(made, lambda body: _create(api, body), "objects created", told)
    created = time.monotonic()
    await ready(api, fleet, told, ready_s)
    return Created(len(fleet), len(made) - len(fleet), created - begin, time.monotonic() - created)


async def delete(api: client.Client, fleet: presets.Fleet, told: Told = silent) -> int:
    """Delete the slices and nodes of a fleet and return how many objects there were."""
    paths = []
    for collection in (nodes.SLICES, nodes.NODES):
        items, _ = await api.list(collection, labelSelector=f"{nodes.FLEET_LABEL}={fleet.name}")
        paths += [f"{collection}/{item['metadata']['name']}" for item in items]
    async with asyncio.timeout(DELETE_S):
        await _each(paths, lambda path: _delete(api, path), "objects deleted", told)
    return len(paths)


async def ready(api: client.Client, fleet: presets.Fleet, told: Told = silent, deadline_s: float = READY_S) -> None:
    """Wait until every node of a fleet is Ready and has no taint."""
    waiting = {member.name: "it does not exist" for member in fleet.members()}
    meter = _Meter("nodes ready", len(waiting), told)
    try:
        async with asyncio.timeout(deadline_s):
            async for item in _seen(api, fleet):
                name = item["metadata"]["name"]
                if name in waiting and not (lack := lacking(item)):
                    del waiting[name]
                elif name in waiting:
                    waiting[name] = lack
                meter.show(len(fleet) - len(waiting))
                if not waiting:
                    return
    except TimeoutError as error:
        raise NotReady(_late(waiting, deadline_s)) from error


def lacking(item: Mapping[str, Any]) -> str:
    """Return why a node cannot take pods yet, "" when it can."""
    conditions = item.get("status", {}).get("conditions", ())
    if not any(each["type"] == "Ready" and each["status"] == "True" for each in conditions):
        return "its condition Ready is not True"
    taints = [str(taint["key"]) for taint in item["spec"].get("taints", ())]
    return f"it has the taint {', '.join(taints)}" if taints else ""


def _late(waiting: Mapping[str, str], deadline_s: float) -> str:
    name, lack = next(iter(waiting.items()))
    return f"{len(waiting)} nodes are not Ready after {deadline_s:g} s, the first {name}: {lack}; look at kwok's log"


async def _seen(api: client.Client, fleet: presets.Fleet) -> AsyncIterator[dict[str, Any]]:
    """Yield every node of a fleet as it is, and again at each change."""
    selector = {"labelSelector": f"{nodes.FLEET_LABEL}={fleet.name}"}
    async with contextlib.aclosing(watch.follow(api, nodes.NODES, **selector)) as events:
        async for event in events:
            if isinstance(event, watch.Listed):
                for item in event.items:
                    yield item
            elif isinstance(event, watch.Changed):
                yield event.item


async def _create(api: client.Client, body: nodes.Body) -> None:
    try:
        await api.request("POST", body.path, body.data)
    except errors.ApiError as error:
        if not error.exists:
            raise


async def _delete(api: client.Client, path: str) -> None:
    try:
        await api.request("DELETE", path, orjson.dumps({"gracePeriodSeconds": 0}))
    except errors.ApiError as error:
        if not error.missing:
            raise


async def _each(items: Iterable[T], act: Callable[[T], Awaitable[None]], what: str, told: Told) -> None:
    """Act on all items, `AT_ONCE` of them at a time; the first failure ends it."""
    left = list(items)
    meter, rest, done = _Meter(what, len(left), told), iter(left), 0

    async def work() -> None:
        nonlocal done
        for item in rest:
            await act(item)
            done += 1
            meter.show(done)

    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(min(AT_ONCE, len(left))):
                group.create_task(work())
    except ExceptionGroup as failed:
        raise failed.exceptions[0] from failed


class _Meter:
    """Calls `told` now and then, and always at the end."""

    def __init__(self, what: str, count: int, told: Told) -> None:
        self.what, self.count, self.told = what, count, told
        self.last = time.monotonic()

    def show(self, done: int) -> None:
        now = time.monotonic()
        if done == self.count or now - self.last > STEP_S:
            self.last = now
            self.told(self.what, done, self.count)
