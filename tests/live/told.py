"""When people were told: the moments at which a watcher sees pods come, and placements and Events say something."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from typing import Any, Self

from scheduler.apiserver import client, paths, watch
from scheduler.model import names

POD, PLACEMENT, EVENT = "pod", "placement", "event"


@dataclass(frozen=True, slots=True)
class Heard:
    """One object as it was seen at a moment of the monotonic clock."""

    at: float
    kind: str
    item: dict[str, Any]


@dataclass(slots=True)
class Told:
    """Everything that was seen of one namespace."""

    heard: list[Heard] = field(default_factory=list)

    @classmethod
    @contextlib.asynccontextmanager
    async def watching(cls, api: client.Client, namespace: str) -> AsyncIterator[Self]:
        """Watch until the end of the block."""
        told = cls()
        kinds = {
            POD: paths.of("v1", "pods", namespace),
            PLACEMENT: paths.of(names.API_VERSION, names.PLURAL, namespace),
            EVENT: paths.of("events.k8s.io/v1", "events", namespace),
        }
        listed = {kind: asyncio.Event() for kind in kinds}
        tasks = [asyncio.create_task(told._follow(api, kind, path, listed[kind])) for kind, path in kinds.items()]
        try:
            async with asyncio.timeout(20):
                await asyncio.gather(*(one.wait() for one in listed.values()))
            yield told
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _follow(self, api: client.Client, kind: str, path: str, listed: asyncio.Event) -> None:
        async with contextlib.aclosing(watch.follow(api, path)) as events:
            async for event in events:
                now = time.monotonic()
                if isinstance(event, watch.Listed):
                    self.heard += [Heard(now, kind, item) for item in event.items]
                    listed.set()
                elif isinstance(event, watch.Changed):
                    self.heard.append(Heard(now, kind, event.item))

    def _first(self, kind: str, key: str) -> Iterator[tuple[float, dict[str, Any]]]:
        """Yield the first sight of each object of a kind that `key` distinguishes."""
        known = set()
        for one in self.heard:
            if one.kind == kind and one.item["metadata"][key] not in known:
                known.add(one.item["metadata"][key])
                yield one.at, one.item

    def came(self, prefix: str) -> float:
        """Return when the last pod whose name begins so was first seen."""
        return max(at for at, item in self._first(POD, "uid") if item["metadata"]["name"].startswith(prefix))

    def status(self, placement: str, phase: str) -> tuple[float, str]:
        """Return when a placement was first seen in a phase, with its message; infinity for never."""
        for one in self.heard:
            status = one.item.get("status") or {}
            if one.kind == PLACEMENT and one.item["metadata"]["name"] == placement and status.get("phase") == phase:
                return one.at, str(status["message"])
        return float("inf"), ""

    def event(self, regarding: str, reason: str) -> tuple[float, str]:
        """Return when the first Event of an object (``Pod/w-0``) with a reason was seen, with its note."""
        for at, item in self._first(EVENT, "uid"):
            about = item["regarding"]
            if (f"{about['kind']}/{about['name']}", item["reason"]) == (regarding, reason):
                return at, str(item["note"])
        return float("inf"), ""
